//! `--follow` without a broker: what the reader tells of files that come, grow, change and break.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::headers;
use caudal_producer::cards::Cards;
use caudal_producer::feed::follow::Follow;
use caudal_producer::feed::{self, Limits, Message, Origin};
use caudal_producer::mapping::Mapping;
use caudal_producer::progress::{Progress, Standing};
use caudal_producer::source::envelope::Envelope;
use caudal_service::exit::Halt;
use caudal_service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

const MAPPING: &str = include_str!("../../../config/sources/transactions.toml");
const HEADER: &str =
    "transaction_id,account_id,merchant_id,amount,currency,kind,country,event_time,description\n";
const PATIENCE: Duration = Duration::from_secs(20);

fn line(id: &str) -> String {
    format!("{id},a,m,1.50,EUR,PURCHASE,ES,2026-01-05T08:00:00Z,\n")
}

struct Watched {
    folder: PathBuf,
    shutdown: Shutdown,
    messages: Receiver<anyhow::Result<Message>>,
    files: BTreeMap<String, Progress>,
    broken: u64,
    set_aside: usize,
}

impl Watched {
    fn start(what: &str, standing: Standing, settle: u64) -> Watched {
        Watched::start_with(what, standing, settle, "")
    }

    /// Follows that file of the folder, or all of them.
    fn start_with(what: &str, standing: Standing, settle: u64, file: &str) -> Watched {
        let folder =
            std::env::temp_dir().join(format!("caudal-follow-{what}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let shutdown = Shutdown::default();
        let cards = Cards::under(b"a key of the tests", true).unwrap();
        let envelope = Envelope { topic: "t".into(), partitions: 6, schema_id: 5, cards };
        let follow = Follow {
            patterns: vec![folder.join(file).display().to_string()],
            settle: Duration::from_millis(settle),
            shutdown: shutdown.clone(),
        };
        let mapping = Box::new(Mapping::parse(MAPPING).unwrap());
        let origin = Origin::Followed { mapping, follow };
        let limits = Limits { records: 500, rate: 0 };
        let messages = feed::start(origin, envelope, "s".into(), standing, limits).unwrap();
        Watched { folder, shutdown, messages, files: BTreeMap::new(), broken: 0, set_aside: 0 }
    }

    fn write(&self, name: &str, text: &str) {
        let hidden = self.folder.join(format!(".{name}"));
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, self.folder.join(name)).unwrap();
    }

    fn append(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Takes what the reader tells until it is so; the error that ends it, if one does.
    fn until(&mut self, so: impl Fn(&Watched) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !so(self) {
            assert!(begun.elapsed() < PATIENCE, "{:#?}", self.files);
            match self.messages.recv_timeout(Duration::from_millis(100)) {
                Ok(Ok(Message::Chunk(chunk))) => {
                    let is_broken = |name: &str| name == headers::REASON;
                    let broken = chunk.records.iter().flat_map(|r| &r.headers);
                    self.broken += broken.filter(|(n, _)| is_broken(n)).count() as u64;
                    self.files.insert(chunk.progress.file.clone(), chunk.progress);
                }
                Ok(Ok(Message::SetAside(files))) => self.set_aside = files,
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what the reader tells until it says that nothing more comes.
    fn until_it_ends(&mut self) {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE);
            match self.messages.recv_timeout(Duration::from_millis(100)) {
                Ok(Ok(Message::Ended)) => return,
                Ok(Err(error)) => panic!("{error:#}"),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }

    fn lines(&self, name: &str) -> u64 {
        self.files.get(name).map_or(0, |progress| progress.lines)
    }

    fn is_done(&self, name: &str) -> bool {
        self.files.get(name).is_some_and(|progress| progress.done)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shutdown.ask();
        fs::remove_dir_all(&self.folder).ok();
    }
}

#[test]
fn files_come_and_grow_and_no_line_is_cut() {
    let mut watched = Watched::start("grow", Standing::default(), 600);
    watched.write("a.csv", &format!("{HEADER}{}", line("a1")));
    watched.until(|w| w.lines("a.csv") == 1).unwrap();
    // Half a line is no line, and half a header no header.
    let (half, rest) = (&line("b1")[..9], &line("b1")[9..]);
    watched.append("b.csv", &HEADER[..20]);
    watched.append("b.csv", &format!("{}{half}", &HEADER[20..]));
    watched.append("a.csv", &line("a2"));
    watched.until(|w| w.lines("a.csv") == 2).unwrap();
    watched.append("b.csv", rest);
    watched.until(|w| w.is_done("a.csv") && w.is_done("b.csv")).unwrap();
    assert_eq!((watched.lines("a.csv"), watched.lines("b.csv"), watched.broken), (2, 1, 0));
    // A last line without a line end counts once its file is left alone.
    watched.append("a.csv", line("a3").trim_end());
    watched.until(|w| w.lines("a.csv") == 3 && w.is_done("a.csv")).unwrap();
    // A line end and more may follow it.
    watched.append("a.csv", &format!("\n{}", line("a4")));
    watched.until(|w| w.lines("a.csv") == 4 && w.is_done("a.csv")).unwrap();
    assert_eq!(watched.broken, 0);
}

#[test]
fn a_line_that_goes_on_after_it_was_sent_halts() {
    let mut watched = Watched::start("halt", Standing::default(), 300);
    watched.write("a.csv", &format!("{HEADER}{}", &line("a1").trim_end()[..30]));
    watched.until(|w| w.is_done("a.csv")).unwrap();
    watched.append("a.csv", &line("a1")[30..]);
    let error = watched.until(|_| false).unwrap_err();
    assert!(error.is::<Halt>(), "{error:#}");
}

#[test]
fn a_file_that_changed_halts() {
    let mut watched = Watched::start("change", Standing::default(), 300);
    watched.write("a.csv", &format!("{HEADER}{}", line("a1")));
    watched.until(|w| w.is_done("a.csv")).unwrap();
    watched.write("a.csv", &format!("{HEADER}{}{}", line("a9"), line("a2")));
    let error = watched.until(|_| false).unwrap_err();
    assert!(error.is::<Halt>(), "{error:#}");
}

/// So long that no file is left alone for it while a test runs.
const NEVER: u64 = 3_600_000;

#[test]
fn a_file_that_is_replaced_while_it_is_open_halts() {
    let replacements: [fn(&Watched); 2] = [
        |w| w.write("a.csv", &format!("{HEADER}{}{}", line("b1"), line("b2"))),
        // In its place, as cp does.
        |w| fs::write(w.folder.join("a.csv"), format!("{HEADER}{}", line("b1").repeat(3))).unwrap(),
    ];
    for replace in replacements {
        let mut watched = Watched::start("replace", Standing::default(), NEVER);
        watched.write("a.csv", &format!("{HEADER}{}", line("a1")));
        watched.until(|w| w.lines("a.csv") == 1).unwrap();
        assert!(!watched.is_done("a.csv"));
        replace(&watched);
        let error = watched.until(|_| false).unwrap_err();
        assert!(error.is::<Halt>(), "{error:#}");
    }
}

#[test]
fn files_that_go_away_are_read_to_their_ends_and_make_room() {
    // As many as may be open at once; in each, the last line has no line end yet.
    let names: Vec<String> = (0..64).map(|n| format!("a{n}.csv")).collect();
    let mut watched = Watched::start("gone", Standing::default(), 3_000);
    for name in &names {
        watched.write(name, &format!("{HEADER}{}{}", line("a1"), line("a2").trim_end()));
    }
    watched.until(|w| names.iter().all(|name| w.lines(name) >= 1)).unwrap();
    for name in &names {
        fs::remove_file(watched.folder.join(name)).unwrap();
    }
    watched.write("b.csv", &format!("{HEADER}{}", line("b1")));
    watched.until(|w| w.lines("b.csv") == 1 && names.iter().all(|name| w.is_done(name))).unwrap();
    assert!(names.iter().all(|name| watched.lines(name) == 2));
    assert_eq!((watched.broken, watched.set_aside), (0, 0));
}

#[test]
fn a_path_may_come_go_and_come_back() {
    let mut watched = Watched::start_with("path", Standing::default(), 300, "a.csv");
    let text = format!("{HEADER}{}", line("a1"));
    watched.write("a.csv", &text);
    watched.until(|w| w.is_done("a.csv")).unwrap();
    // What is appended under another name is the same file's.
    let (here, there) = (watched.folder.join("a.csv"), watched.folder.join("moved.csv"));
    fs::rename(&here, &there).unwrap();
    watched.append("moved.csv", &line("a2"));
    fs::rename(&there, &here).unwrap();
    watched.until(|w| w.lines("a.csv") == 2 && w.is_done("a.csv")).unwrap();
    fs::remove_file(&here).unwrap();
    watched.write("a.csv", &format!("{text}{}{}", line("a2"), line("a3")));
    watched.until(|w| w.lines("a.csv") == 3 && w.is_done("a.csv")).unwrap();
    assert_eq!((watched.broken, watched.set_aside), (0, 0));
    // Gone for good, it is neither an error nor the end.
    fs::remove_file(&here).unwrap();
    watched.shutdown.ask();
    watched.until_it_ends();
}

#[test]
fn a_file_that_cannot_be_read_is_set_aside_until_it_can() {
    let mut watched = Watched::start("aside", Standing::default(), 300);
    watched.write("a.csv", "no,such,columns\n1,2,3\n");
    watched.write("b.csv", &format!("{HEADER}{}", line("b1")));
    watched.until(|w| w.is_done("b.csv") && w.set_aside == 1).unwrap();
    watched.write("a.csv", &format!("{HEADER}{}", line("a1")));
    watched.until(|w| w.is_done("a.csv") && w.set_aside == 0).unwrap();
    assert_eq!(watched.lines("a.csv"), 1);
}

#[test]
fn what_an_earlier_run_sent_is_not_sent_again() {
    let text = format!("{HEADER}{}{}", line("a1"), line("a2").trim_end());
    let mut first = Watched::start("first", Standing::default(), 300);
    first.write("a.csv", &text);
    first.until(|w| w.is_done("a.csv")).unwrap();
    let record = first.files["a.csv"].to_record().unwrap();
    let mut standing = Standing::default();
    standing.observe("s", record.key.as_deref(), record.value.as_deref()).unwrap();
    let mut second = Watched::start("second", standing, 300);
    second.write("a.csv", &format!("{text}\n{}", line("a3")));
    second.until(|w| w.is_done("a.csv") && w.lines("a.csv") == 3).unwrap();
    assert_eq!(second.files["a.csv"].sums["EUR"], "4.50");
}
