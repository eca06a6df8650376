//! The producer: what it says it has sent, source by source, against what `transacciones` holds.

use super::differences::Differences;
use super::identity::parse_nano;
use caudal_core::decode::{Record, decode};
use caudal_core::headers;
use caudal_core::money::{Currency, SumOverflow, Sums};
use caudal_producer::progress::Progress;
use std::collections::BTreeMap;

/// Progress of every file by its key.
pub type Standing = BTreeMap<String, Progress>;

/// Takes a record of `caudal_progreso` into account. What is no progress is left out: its producer
/// says so itself.
pub fn observe_progress(standing: &mut Standing, record: &Record) {
    let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    let Some(key) = key else { return };
    match record.value.as_deref().map(serde_json::from_slice::<Progress>) {
        None => {
            standing.remove(key);
        }
        Some(Ok(progress)) => {
            standing.insert(key.to_owned(), progress);
        }
        Some(Err(_)) => {}
    }
}

/// The name that the records of a file carry as their source.
fn name_of(progress: &Progress) -> String {
    match progress.file.as_str() {
        "generator" => progress.source.clone(),
        file => format!("{}/{file}", progress.source),
    }
}

/// Records and their money.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// Their money, where it can be read.
    pub sums: Sums,
}

/// What `transacciones` holds, copies left out.
#[derive(Debug)]
pub struct Found {
    schema: u32,
    by_source: BTreeMap<String, Counted>,
    unmappable: BTreeMap<String, u64>,
    /// Records that name no source with a progress.
    rest: Counted,
    /// Dead letters that were sent again.
    redriven: u64,
    /// All of them.
    pub count: u64,
}

impl Found {
    /// Looks for the sources of `standing`; `schema` is `Transaction`'s.
    pub fn new(standing: &Standing, schema: u32) -> Found {
        let by_source = standing.values().map(|p| (name_of(p), Counted::default())).collect();
        let unmappable = standing.values().map(|p| (p.file.clone(), 0)).collect();
        Found { schema, by_source, unmappable, rest: Counted::default(), redriven: 0, count: 0 }
    }

    /// Takes a record of `transacciones`.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn observe(&mut self, record: &Record) -> Result<(), SumOverflow> {
        if record.header(headers::REROUTED).is_some() {
            return Ok(());
        }
        self.count += 1;
        if record.header(headers::REPLAYS).is_some() {
            self.redriven += 1;
            return Ok(());
        }
        let file = record.header(headers::LINE).and_then(|line| line.rsplit_once(':'));
        if let Some(count) = file.and_then(|(file, _)| self.unmappable.get_mut(file)) {
            *count += 1;
            return Ok(());
        }
        let decoded = decode(record, self.schema, ("", 0));
        let (counted, money) = match &decoded {
            Ok(t) => (self.by_source.get_mut(t.source.as_ref()), t.money()),
            Err(rejection) => (None, rejection.money),
        };
        let counted = counted.unwrap_or(&mut self.rest);
        counted.count += 1;
        money.map_or(Ok(()), |(currency, amount)| counted.sums.add(currency, amount))
    }
}

/// What the comparison gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Lines that the sources say they have sent.
    pub lines: u64,
    /// Of these, those that could not be mapped.
    pub unmappable: u64,
    /// Records found that are these lines.
    pub found: u64,
    /// Money of the records, as the sources say.
    pub sums: Sums,
    /// Money of the unmappable lines, as the sources say: nothing else can read it.
    pub unmappable_sums: Sums,
    /// Records that somebody else wrote, dead letters that were sent again among them.
    pub foreign: u64,
    /// Records that were sent while verify read.
    pub in_flight: u64,
}

fn sums_of(texts: &BTreeMap<String, String>) -> Option<Sums> {
    let mut sums = Sums::default();
    for (code, text) in texts {
        sums.add_nano(Currency::parse(code)?, parse_nano(text)?).ok()?;
    }
    Some(sums)
}

/// Compares. `before` is the progress before `transacciones` was read, `after` the one after; they
/// differ while a producer runs. `whole` says that retention has cut nothing of the topic.
///
/// # Errors
/// [`SumOverflow`].
pub fn compare(
    (before, after): (&Standing, &Standing),
    found: &Found,
    whole: bool,
    differences: &mut Differences,
) -> Result<Sent, SumOverflow> {
    let mut sent = Sent::default();
    let running = before != after;
    // Records that name no source, such as broken ones, may be a source's or anybody's.
    let mut unnamed_missing = 0_u64;
    let mut named = Sums::default();
    for (key, progress) in after {
        let first = before.get(key).map_or(0, |p| p.records);
        let name = name_of(progress);
        let counted = found.by_source.get(&name).cloned().unwrap_or_default();
        sent.lines += progress.lines;
        sent.unmappable += progress.unmappable;
        sent.in_flight +=
            progress.lines - before.get(key).map_or(0, |p| p.lines).min(progress.lines);
        let (Some(sums), Some(unmappable)) =
            (sums_of(&progress.sums), sums_of(&progress.unmappable_sums))
        else {
            differences
                .say(format!("caudal_progreso {key}: a sum is no amount of a known currency"));
            continue;
        };
        sent.sums.merge(&sums)?;
        sent.unmappable_sums.merge(&unmappable)?;
        named.merge(&counted.sums)?;
        if counted.count > progress.records {
            differences.say(format!(
                "transacciones has {} records of {name}, its producer has sent {}",
                counted.count, progress.records
            ));
        } else if counted.count == progress.records && counted.sums != sums && !running {
            differences.say(format!(
                "transacciones: the records of {name} add up to {:?}, its producer says {:?}",
                counted.sums.texts(),
                progress.sums
            ));
        }
        unnamed_missing += first.saturating_sub(counted.count);
        sent.found += counted.count;
    }
    compare_unmappable(after, running, found, whole, &mut sent, differences);
    if unnamed_missing > found.rest.count {
        if whole {
            differences.say(format!(
                "transacciones lacks {} records that producers have sent",
                unnamed_missing - found.rest.count
            ));
        }
        sent.foreign = found.redriven;
        return Ok(sent);
    }
    sent.found += unnamed_missing;
    sent.foreign = found.rest.count - unnamed_missing;
    named.merge(&found.rest.sums)?;
    // With foreign records among them nobody can say whose money the unnamed ones carry.
    if sent.foreign == 0 && !running && whole && named != sent.sums {
        differences.say(format!(
            "transacciones adds up to {:?}, its producers say {:?}",
            named.texts(),
            sent.sums.texts()
        ));
    }
    sent.foreign += found.redriven;
    Ok(sent)
}

fn compare_unmappable(
    after: &Standing,
    running: bool,
    found: &Found,
    whole: bool,
    sent: &mut Sent,
    differences: &mut Differences,
) {
    for (file, count) in &found.unmappable {
        let said: u64 = after.values().filter(|p| p.file == *file).map(|p| p.unmappable).sum();
        sent.found += count;
        let explained = running || !whole;
        if *count > said || (*count < said && !explained) {
            differences.say(format!(
                "transacciones has {count} unmappable lines of {file}, its producer has sent {said}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::identity::tests::purchase;
    use crate::verify::place::Topics;
    use caudal_core::avro::{Writer, write_transaction};

    fn progress(records: u64, unmappable: u64, sum: &str) -> Progress {
        Progress {
            source: "s".into(),
            file: "f.csv".into(),
            lines: records + unmappable,
            records,
            unmappable,
            sums: [("EUR".to_owned(), sum.to_owned())].into(),
            ..Progress::default()
        }
    }

    fn sent(source: &str, units: i64) -> Record {
        let mut t = purchase("t", "a", units, 0);
        t.source = source.to_owned().into();
        let mut out = Writer::framed(5);
        write_transaction(&mut out, &t);
        Record { value: Some(out.into_bytes().into()), ..Record::default() }
    }

    fn line() -> Record {
        let headers = vec![
            (headers::LINE.to_owned(), (*b"f.csv:7").into()),
            (headers::REASON.to_owned(), (*b"mapping").into()),
        ];
        Record { value: Some((*b"x").into()), headers, ..Record::default() }
    }

    fn compared(progress: &Progress, records: &[Record]) -> (Sent, Vec<String>) {
        let standing: Standing = [("s/f.csv".to_owned(), progress.clone())].into();
        let mut found = Found::new(&standing, 5);
        records.iter().for_each(|record| found.observe(record).expect("sum"));
        let mut differences = Differences::new(Topics::of(&[]));
        let sent = compare((&standing, &standing), &found, true, &mut differences);
        (sent.expect("sum"), differences.drafts())
    }

    #[test]
    fn balances_and_tells_foreign_records() {
        let records = [sent("s/f.csv", 100), sent("s/f.csv", 50), line(), sent("me", 7)];
        let (sent, all) = compared(&progress(2, 1, "1.50"), &records);
        assert!(all.is_empty(), "{all:?}");
        assert_eq!((sent.lines, sent.found, sent.unmappable, sent.foreign), (3, 3, 1, 1));
    }

    #[test]
    fn names_lost_invented_and_altered_records() {
        let (_, lost) = compared(&progress(2, 0, "1.50"), &[sent("s/f.csv", 100)]);
        assert!(lost[0].contains("lacks 1 records"), "{lost:?}");
        let both = [sent("s/f.csv", 100), sent("s/f.csv", 50)];
        let (_, invented) = compared(&progress(1, 0, "1.00"), &both);
        assert!(invented[0].contains("has 2 records of s/f.csv"), "{invented:?}");
        let (_, altered) = compared(&progress(2, 0, "1.60"), &both);
        assert!(altered[0].contains("1.50") && altered[0].contains("1.60"), "{altered:?}");
        let (_, lines) = compared(&progress(1, 2, "1.00"), &[sent("s/f.csv", 100), line()]);
        assert!(lines[0].contains("1 unmappable lines"), "{lines:?}");
    }

    #[test]
    fn a_dead_letter_that_was_sent_again_is_not_its_sources() {
        let mut again = sent("s/f.csv", 100);
        again.headers.push((headers::REPLAYS.to_owned(), (*b"1").into()));
        let (sent, all) = compared(&progress(1, 0, "1.00"), &[sent("s/f.csv", 100), again]);
        assert!(all.is_empty(), "{all:?}");
        assert_eq!((sent.found, sent.foreign), (1, 1));
    }

    #[test]
    fn records_without_a_source_may_be_a_sources() {
        let broken = Record { value: Some((*b"hola").into()), ..Record::default() };
        let (sent, all) = compared(&progress(2, 0, "1.00"), &[sent("s/f.csv", 100), broken]);
        assert!(all.is_empty(), "{all:?}");
        assert_eq!((sent.found, sent.foreign), (2, 0));
    }

    #[test]
    fn a_producer_that_runs_is_no_difference() {
        let (early, later) = (progress(1, 0, "1.00"), progress(3, 0, "2.00"));
        let standing = |p: Progress| -> Standing { [("s/f.csv".to_owned(), p)].into() };
        let (early, later) = (standing(early), standing(later));
        let mut found = Found::new(&later, 5);
        let records = [sent("s/f.csv", 100), sent("s/f.csv", 50)];
        records.iter().for_each(|r| found.observe(r).expect("sum"));
        let mut differences = Differences::new(Topics::of(&[]));
        let sent = compare((&early, &later), &found, true, &mut differences).expect("sum");
        assert!(differences.drafts().is_empty(), "{:?}", differences.drafts());
        assert_eq!(sent.in_flight, 2);
    }
}
