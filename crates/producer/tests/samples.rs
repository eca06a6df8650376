//! Files of other shapes, mapped by the files of config/sources/: exact totals, and no card number
//! in anything that is sent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::money::Currency;
use caudal_producer::cards::Cards;
use caudal_producer::infer;
use caudal_producer::mapping::Mapping;
use caudal_producer::progress::Tally;
use caudal_producer::samples::{ALL, Sample, Totals};
use caudal_producer::source::Source as _;
use caudal_producer::source::envelope::Envelope;
use caudal_producer::source::inputs::{self, Opened};
use caudal_producer::source::lines::Lines;
use caudal_producer::trial::{self, Bounds};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const LINES: u64 = 4_000;

fn mapping(name: &str) -> Mapping {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/sources");
    Mapping::read(&root.join(format!("{name}.toml"))).unwrap()
}

struct Folder(PathBuf);

impl Folder {
    fn of(sample: &Sample, seed: u64, what: &str) -> (Folder, Totals) {
        let unique = format!("caudal-{what}-{}-{seed}-{}", sample.name, std::process::id());
        let folder = std::env::temp_dir().join(unique);
        let totals = sample.write(LINES, seed, &folder).unwrap();
        (Folder(folder), totals)
    }

    fn inputs(&self, mapping: &Mapping) -> Vec<inputs::Input> {
        inputs::expand(&[self.0.to_str().unwrap().to_owned()], mapping.format).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn every_sample_loads_with_its_exact_totals() {
    for sample in ALL {
        for seed in [1, 7] {
            let (folder, totals) = Folder::of(&sample, seed, "samples");
            let mapping = mapping(sample.name);
            let mut found = Totals { cards: totals.cards.clone(), ..Totals::default() };
            let (mut ids, mut tally) = (HashSet::new(), Tally::default());
            for input in folder.inputs(&mapping) {
                let cards = Cards::under(b"a key of the tests", true).unwrap();
                let envelope = Envelope { topic: "t".into(), partitions: 6, schema_id: 5, cards };
                let Opened { reader, meter, .. } = inputs::open(&input).unwrap();
                let names = (sample.name, input.name.as_str());
                let mut lines =
                    Lines::start(&mapping, envelope, names, reader, meter, false).unwrap();
                while let Some((id, record)) = lines
                    .next_line(|envelope, outcome| match &outcome.result {
                        Ok(t) => (Some(t.transaction_id.to_string()), envelope.transaction(t)),
                        Err(rejection) => {
                            let raw = &outcome.raw.raw;
                            (None, envelope.unmappable(raw, &outcome.place(), rejection))
                        }
                    })
                    .unwrap()
                {
                    ids.extend(id);
                    assert_no_card(&totals, &record);
                }
                let progress = lines.progress();
                found.mapped += progress.records;
                found.skipped += progress.skipped;
                found.rejected += progress.unmappable;
                tally.sums.merge(&Tally::of(&progress).unwrap().sums).unwrap();
            }
            found.ids = ids.len() as u64;
            let nano = |code: &str| tally.sums.nano(Currency::parse(code).unwrap());
            found.sums = totals.sums.keys().map(|code| (*code, nano(code) / 100_000)).collect();
            assert_eq!(found, totals, "{} {seed}", sample.name);
            assert!(totals.mapped > LINES / 2);
        }
    }
}

fn assert_no_card(totals: &Totals, record: &caudal_core::outbox::OutRecord) {
    let headers = record.headers.iter().map(|(_, value)| value);
    for bytes in headers.chain(&record.key).chain(&record.value) {
        let text = String::from_utf8_lossy(bytes);
        assert!(!totals.cards.iter().any(|card| text.contains(card.as_str())), "{text}");
    }
}

#[test]
fn a_trial_counts_the_same_and_shows_no_card() {
    let bounds = Bounds { lines: u64::MAX, samples: 20, examples: usize::MAX };
    for sample in ALL {
        let (folder, totals) = Folder::of(&sample, 3, "trial");
        let mapping = mapping(sample.name);
        let trials = trial::run(&mapping, &folder.inputs(&mapping), bounds).unwrap();
        let sum = |of: fn(&trial::FileTrial) -> u64| trials.iter().map(of).sum::<u64>();
        assert_eq!(sum(|t| t.mapped), totals.mapped, "{}", sample.name);
        assert_eq!(sum(|t| t.rejected), totals.rejected);
        assert_eq!(sum(|t| t.skipped), totals.skipped);
        let explained = trials.iter().flat_map(|t| &t.rejections).map(|g| g.examples.len() as u64);
        assert_eq!(explained.sum::<u64>(), totals.rejected);
        let all = serde_json::to_string(&trials).unwrap()
            + &trials.iter().map(trial::FileTrial::text).collect::<String>();
        assert!(!totals.cards.iter().any(|card| all.contains(card.as_str())));
        if !totals.cards.is_empty() {
            assert_eq!(sum(|t| t.cards), totals.mapped);
        }
    }
}

#[test]
fn a_draft_maps_most_of_every_sample() {
    for sample in ALL {
        let (folder, totals) = Folder::of(&sample, 5, "infer");
        let format = mapping(sample.name).format;
        for input in inputs::expand(&[folder.0.to_str().unwrap().into()], format).unwrap() {
            let draft = infer::draft(input.path.as_deref().unwrap()).unwrap();
            assert!(!totals.cards.iter().any(|card| draft.contains(card.as_str())), "{draft}");
            let drafted = Mapping::parse(&draft).unwrap();
            let bounds = Bounds { lines: 1_000, samples: 0, examples: 1 };
            let trial = &trial::run(&drafted, std::slice::from_ref(&input), bounds).unwrap()[0];
            // What is no payment cannot be mapped, and a draft does not know.
            assert!(
                trial.mapped * 10 >= (trial.mapped + trial.rejected) * 8,
                "{}\n{draft}",
                trial.text()
            );
        }
    }
}
