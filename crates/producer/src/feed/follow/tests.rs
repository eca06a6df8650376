//! What a look at a file leads to, step by step: nothing here waits.

use super::*;
use crate::cards::Cards;
use crate::feed::Pace;
use crate::progress::Standing;
use crate::source::envelope::Envelope;
use anyhow::Result;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};

const MAPPING: &str = include_str!("../../../../../config/sources/transactions.toml");
const HEADER: &str =
    "transaction_id,account_id,merchant_id,amount,currency,kind,country,event_time,description";

fn line(id: &str) -> String {
    format!("{id},a,m,1.50,EUR,PURCHASE,ES,2026-01-05T08:00:00Z,")
}

/// A reader, one file, and what is told of it.
struct Desk {
    reader: Reader,
    mapping: Mapping,
    input: Input,
    path: PathBuf,
    file: Followed,
    messages: Receiver<Result<Message>>,
}

impl Desk {
    fn new(what: &str, text: &str) -> Desk {
        let name = format!("caudal-look-{what}-{}.csv", std::process::id());
        let path = std::env::temp_dir().join(&name);
        fs::write(&path, text).unwrap();
        let cards = Cards::under(b"a key of the tests", true).unwrap();
        let (sender, messages) = sync_channel(100);
        let reader = Reader {
            sender,
            envelope: Envelope { topic: "t".into(), partitions: 6, schema_id: 5, cards },
            source: "s".into(),
            standing: Standing::default(),
            chunk_records: 500,
            pace: Pace::new(0),
            waited: Duration::ZERO,
            stdin_read: false,
        };
        let file = Followed::new(Stamp::of(&path.metadata().unwrap()), None);
        let input = Input { name, path: Some(path.clone()) };
        let mapping = Mapping::parse(MAPPING).unwrap();
        Desk { reader, mapping, input, path, file, messages }
    }

    /// Looks at the file, and afterwards reads what is there.
    fn look(&mut self) {
        self.file.look(&self.path, Stamp::of(&self.path.metadata().unwrap()));
    }

    fn read(&mut self, settled: bool) {
        let fresh = match self.file.state {
            State::Waiting => {
                self.reader.begin(&self.mapping, &self.input, &mut self.file, settled)
            }
            _ => self.reader.go_on(&mut self.file, settled),
        };
        assert!(fresh.is_ok());
    }

    fn append(&self, text: &str) {
        let mut file = fs::File::options().append(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// The last position that was told.
    fn told(&self) -> Progress {
        let chunks = self.messages.try_iter().filter_map(|message| match message {
            Ok(Message::Chunk(chunk)) => Some(chunk.progress),
            _ => None,
        });
        chunks.last().unwrap()
    }

    /// Bytes that were read since it was opened.
    fn bytes(&self) -> u64 {
        match &self.file.state {
            State::Open(lines) | State::Rested(lines) => lines.meter().bytes(),
            _ => 0,
        }
    }

    fn size(&self) -> u64 {
        self.path.metadata().unwrap().len()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

#[test]
fn half_a_line_that_came_after_the_look_is_no_last_line() {
    let mut desk = Desk::new("half", &format!("{HEADER}\n{}\n", line("a1")));
    desk.look();
    let (half, rest) = (&line("a2")[..20], &line("a2")[20..]);
    desk.append(half);
    desk.read(true);
    let told = desk.told();
    assert_eq!((told.lines, told.done), (1, false));
    // Looked at and left alone, it is one.
    desk.look();
    desk.append(rest);
    desk.append("\n");
    desk.read(true);
    assert!(matches!(desk.file.state, State::Open(_)));
    desk.look();
    desk.read(true);
    let told = desk.told();
    assert_eq!((told.lines, told.records, told.done), (2, 2, true));
    assert!(matches!(desk.file.state, State::Rested(_)));
}

#[test]
fn a_slow_log_goes_on_where_it_rested() {
    for end in ["\n", "\r\n", "\n\n"] {
        let mut desk = Desk::new("slow", &format!("{HEADER}{end}{}{end}", line("a1")));
        for lines in 1..5 {
            desk.look();
            desk.read(true);
            assert!(matches!(desk.file.state, State::Rested(_)), "{end:?}");
            let told = desk.told();
            assert_eq!((told.lines, told.unmappable, told.done), (lines, 0, true));
            // Opened anew, the count would have begun again.
            assert_eq!(desk.bytes(), desk.size());
            desk.append(&format!("{}{end}", line("a2")));
            desk.look();
            assert!(matches!(desk.file.state, State::Open(_)), "{end:?}");
            assert!(desk.bytes() > 0 && desk.bytes() < desk.size());
        }
    }
}

#[test]
fn what_is_written_anew_in_its_place_is_opened_anew() {
    let text = |id: &str| format!("{HEADER}\n{}\n", line(id));
    for settled in [false, true] {
        let mut desk = Desk::new("anew", &text("a1"));
        desk.read(settled);
        fs::write(&desk.path, text("b1") + &line("b2") + "\n").unwrap();
        desk.look();
        assert!(matches!(desk.file.state, State::Waiting), "settled: {settled}");
        let Desk { reader, mapping, input, file, .. } = &mut desk;
        let Err(Stop::Failed(error)) = reader.begin(mapping, input, file, false) else {
            panic!("other contents were taken for the same");
        };
        assert!(error.is::<Halt>(), "{error:#}");
    }
}

#[test]
fn those_that_rest_make_room_and_those_that_are_open_do_not() {
    let mut files = Files::default();
    let mut open = Vec::new();
    for number in 0..OPEN {
        let mut desk = Desk::new(&format!("room-{number}"), &format!("{HEADER}\n"));
        desk.read(false);
        assert!(files.has_room(), "{number}");
        let taken = Followed::new(desk.file.stamp, None);
        files.0.insert(number.to_string(), std::mem::replace(&mut desk.file, taken));
        open.push(desk);
    }
    assert!(!files.has_room());
    let oldest = files.0.get_mut("7").unwrap();
    oldest.pause();
    oldest.since -= Duration::from_secs(9);
    files.0.get_mut("9").unwrap().pause();
    assert!(files.has_room());
    assert!(matches!(files.0["7"].state, State::Closed) && files.0["7"].end.is_some());
    assert!(matches!(files.0["9"].state, State::Rested(_)));
}
