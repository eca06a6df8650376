use super::*;
use crate::verify::eras::{Era, Eras};
use crate::verify::identity::half;
use crate::verify::identity::tests::purchase;
use crate::verify::place::{DEAD, Topics, VALID};
use crate::verify::refused::tests::dead_letter;
use crate::verify::refused::{self, DeadReader, Refused};
use crate::verify::valid::ValidReader;
use crate::verify::windows::Windows;
use caudal_core::avro::{Writer, write_strings, write_transaction};
use caudal_core::time::{HOUR, MINUTE, SECOND};
use caudal_core::transaction::Transaction;

/// Schema ids of these tests.
const TRANSACTION: u32 = 5;
const VALID_SCHEMA: u32 = 6;
/// Milliseconds since 1970 of every record: after every event.
const NOW_MS: i64 = 1_790_000_000_000;
/// Event time of the first record, in microseconds.
const BASE: i64 = 1_780_000_000 * SECOND;

/// Topics with one partition.
#[derive(Default)]
pub struct TestLog {
    pub input: Vec<Record>,
    pub valid: Vec<Record>,
    pub dead: Vec<Record>,
    /// Rows of dead_letters: topic, offset, row.
    pub dead_rows: Vec<(u8, i64, refused::Row)>,
    /// The sink's next offset of both topics; 0 is beyond everything.
    pub stored_until: i64,
}

fn header(name: &str, text: &str) -> (String, Box<[u8]>) {
    (name.to_owned(), text.as_bytes().into())
}

/// A record of `transacciones`.
fn raw_record(offset: i64, t: &Transaction<'_>) -> Record {
    let mut out = Writer::framed(TRANSACTION);
    write_transaction(&mut out, t);
    let value = Some(out.into_bytes().into());
    Record { offset, timestamp: NOW_MS, value, ..Record::default() }
}

/// A record of `transacciones_validas` with the number of its offset.
pub fn valid_record(offset: i64, source: i64, t: &Transaction<'_>) -> Record {
    let mut out = Writer::framed(VALID_SCHEMA);
    write_transaction(&mut out, t);
    write_strings(&mut out, std::iter::empty());
    Record {
        offset,
        value: Some(out.into_bytes().into()),
        headers: vec![
            header(headers::TASK, "1-0"),
            header(headers::SEQUENCE, &offset.to_string()),
            header(headers::SOURCE, &format!("0@{source}")),
        ],
        ..Record::default()
    }
}

impl TestLog {
    pub fn cut(&self) -> Cut {
        let until = if self.stored_until == 0 { 1_000 } else { self.stored_until };
        Cut {
            partitions: 1,
            eras: Eras::only(1),
            input: vec![100],
            stored: [((VALID, 0), until), ((DEAD, 0), until)].into(),
            horizon: HOUR,
            ..Cut::default()
        }
    }

    pub fn valid(&self, cut: &Cut, differences: &mut Differences) -> Valid {
        let mut refused = Refused::default();
        for (topic, offset, row) in &self.dead_rows {
            let name = differences.topics.name(*topic).to_owned();
            refused.add(&differences.topics.clone(), &name, 0, *offset, row.clone());
        }
        let mut windows = Windows::new(Vec::new(), cut);
        let mut reader = ValidReader::new(cut, VALID_SCHEMA, Vec::new());
        for record in &self.valid {
            reader.observe(record, &mut refused, &mut windows, differences).expect("sum");
        }
        reader.finish(differences)
    }

    fn judged(&self) -> (AccountLedger, Again, Vec<String>) {
        let cut = self.cut();
        let mut differences = Differences::new(Topics::of(&[]));
        let valid = self.valid(&cut, &mut differences);
        let mut reader = DeadReader::new(&cut, TRANSACTION);
        // Its table is another test's.
        let mut elsewhere = Differences::new(Topics::of(&[]));
        for record in &self.dead {
            reader.observe(record, &mut Refused::default(), &mut elsewhere);
        }
        let dead = reader.finish(&mut differences);
        let mut audit = Audit::new(&cut, &valid, &dead, &[], TRANSACTION);
        for record in &self.input {
            audit.observe(record, &mut differences).expect("sum");
        }
        audit.finish(&mut differences);
        let ledger = audit.ledger(0).cloned().expect("partition 0");
        (ledger, audit.again.clone(), differences.drafts())
    }

    fn said(&self) -> Vec<String> {
        self.judged().2
    }
}

/// A valid record, one that is refused for its amount, and a repeat of the first.
fn three() -> TestLog {
    let good = purchase("t-1", "a", 1050, BASE);
    let bad = purchase("t-2", "a", -5, BASE);
    let input = vec![raw_record(10, &good), raw_record(11, &bad), raw_record(12, &good)];
    let value = input[1].value.clone().expect("value");
    TestLog {
        input,
        valid: vec![valid_record(0, 10, &good)],
        dead: vec![dead_letter(0, 11, 0, &value)],
        ..TestLog::default()
    }
}

#[test]
fn every_record_is_valid_dead_or_a_duplicate() {
    let (ledger, again, all) = three().judged();
    assert!(all.is_empty(), "{all:?}");
    let counts = (ledger.records_in, ledger.valid, ledger.duplicate, ledger.dead_count());
    assert_eq!((counts, again.count), ((3, 1, 1, 1), 0));
}

#[test]
fn names_a_record_that_was_lost() {
    let mut log = three();
    log.valid.clear();
    let all = log.said();
    assert_eq!(all[0], "transacciones_validas lacks t-1 (transacciones-0@10)");
    let mut log = three();
    log.dead.clear();
    assert_eq!(log.said(), ["transacciones_dlq lacks {} (transacciones-0@11, amount)"]);
}

#[test]
fn names_a_record_that_was_doubled() {
    let mut log = three();
    let mut copy = log.valid[0].clone();
    copy.offset = 9;
    log.valid.push(copy);
    assert_eq!(
        log.said(),
        ["transacciones_validas has {} twice: 0@0 and 0@9 (both caused by transacciones-0@10)"]
    );
    let mut foreign = log.valid[0].clone();
    (foreign.offset, foreign.headers) = (9, Vec::new());
    log.valid[1] = foreign;
    let all = log.said();
    assert!(
        all[0].starts_with("transacciones_validas-0@9 t-1 was not written by stage 1"),
        "{all:?}"
    );
}

#[test]
fn names_a_record_that_was_altered() {
    let mut log = three();
    log.valid[0] = valid_record(0, 10, &purchase("t-1", "a", 1051, BASE));
    let all = log.said();
    assert!(all[0].contains("t-1: differs from its cause transacciones-0@10"), "{all:?}");
    let mut log = three();
    log.dead[0].value = Some((*b"other").into());
    assert!(log.said()[0].contains("its bytes are not those of transacciones-0@11"));
    let mut log = three();
    log.dead[0].headers[3] = header(headers::REASON, "currency");
    assert!(log.said()[0].contains("says currency, but transacciones-0@11 is amount"));
}

#[test]
fn names_an_output_without_a_cause() {
    let mut log = three();
    log.valid.insert(0, valid_record(0, 3, &purchase("t-0", "a", 1, BASE)));
    log.valid[1].headers[1] = header(headers::SEQUENCE, "1");
    log.valid[1].offset = 1;
    assert_eq!(
        log.said(),
        ["transacciones_validas-0@0 {}: its cause transacciones-0@3 is not there"]
    );
}

#[test]
fn a_conflict_must_be_one() {
    let mut log = three();
    log.input.push(raw_record(13, &purchase("t-1", "a", 99, BASE)));
    let all = log.said();
    assert!(
        all[0].starts_with("transacciones_dlq lacks t-1 (transacciones-0@13, conflict"),
        "{all:?}"
    );
    let value = log.input[3].value.clone().expect("value");
    let mut letter = dead_letter(1, 13, 1, &value);
    letter.headers[3] = header(headers::REASON, "conflict");
    log.dead.push(letter);
    assert!(log.said().is_empty(), "{:?}", log.said());
}

#[test]
fn an_id_may_pass_again_only_beyond_the_horizon() {
    let first = purchase("t-1", "a", 1050, BASE);
    let log = |gap: i64| {
        let later = purchase("t-9", "a", 1, BASE + gap);
        TestLog {
            input: vec![raw_record(0, &first), raw_record(1, &later), raw_record(2, &first)],
            valid: vec![
                valid_record(0, 0, &first),
                valid_record(1, 1, &later),
                valid_record(2, 2, &first),
            ],
            ..TestLog::default()
        }
    };
    let (_, again, all) = log(HOUR + 2 * MINUTE).judged();
    assert!(all.is_empty(), "{all:?}");
    assert_eq!(again.count, 1);
    let all = log(HOUR / 2).said();
    assert!(all[0].contains("t-1 twice within the dedup horizon: 0@0 and 0@2"), "{all:?}");
}

#[test]
fn a_moved_record_must_arrive_once() {
    let cut = Cut {
        partitions: 2,
        input: vec![100, 100],
        eras: Eras::only(2),
        horizon: HOUR,
        ..Cut::default()
    };
    let account = ["a", "b", "c", "d"].into_iter().find(|a| partition_of(a.as_bytes(), 2) == 1);
    let t = purchase("t-1", account.expect("an account of partition 1"), 1050, BASE);
    let said = |copies: &[i64]| {
        let mut differences = Differences::new(Topics::of(&[]));
        let mut arrived = valid_record(0, 20, &t);
        arrived.partition = 1;
        arrived.headers[2] = header(headers::SOURCE, "1@20");
        let mut reader = ValidReader::new(&cut, VALID_SCHEMA, Vec::new());
        let mut windows = Windows::new(Vec::new(), &cut);
        reader
            .observe(&arrived, &mut Refused::default(), &mut windows, &mut differences)
            .expect("sum");
        let valid = reader.finish(&mut differences);
        let mut audit = Audit::new(&cut, &valid, &[], &[], TRANSACTION);
        audit.observe(&raw_record(5, &t), &mut differences).expect("sum");
        for offset in copies {
            let mut copy = raw_record(*offset, &t);
            copy.partition = 1;
            copy.headers.push(header(headers::REROUTED, "0@5"));
            audit.observe(&copy, &mut differences).expect("sum");
        }
        audit.finish(&mut differences);
        differences.drafts()
    };
    assert!(said(&[20]).is_empty(), "{:?}", said(&[20]));
    let twice = said(&[20, 21]);
    assert!(twice.iter().any(|d| d.contains("t-1 was moved twice: 1@20 and 1@21")), "{twice:?}");
    let lost = said(&[]);
    assert!(
        lost.iter().any(|d| d.contains("was moved to partition 1, where it is not")),
        "{lost:?}"
    );
}

/// One partition becomes two: the account's second record is in another partition than its first,
/// which was read at the only one's offset 0.
#[test]
fn what_was_seen_before_the_topics_grew_is_known_after_it() {
    let over = Era { partitions: 1, input: vec![10, 0], partials: vec![10, 0] };
    let cut = Cut {
        partitions: 2,
        input: vec![100, 100],
        eras: Eras::only(2).after(over),
        horizon: HOUR,
        ..Cut::default()
    };
    let account = ["a", "b", "c", "d"].into_iter().find(|a| partition_of(a.as_bytes(), 2) == 1);
    let t = purchase("t-1", account.expect("an account of partition 1"), 1050, BASE);
    let said = |second: &Transaction<'_>, passed: bool| {
        let mut differences = Differences::new(Topics::of(&[]));
        let mut reader = ValidReader::new(&cut, VALID_SCHEMA, Vec::new());
        let mut again = valid_record(0, 0, second);
        again.partition = 1;
        again.headers = vec![
            header(headers::TASK, "1-1"),
            header(headers::SEQUENCE, "0"),
            header(headers::SOURCE, "1@0"),
        ];
        for record in [valid_record(0, 0, &t)].iter().chain(passed.then_some(&again)) {
            let mut windows = Windows::new(Vec::new(), &cut);
            let mut refused = Refused::default();
            reader.observe(record, &mut refused, &mut windows, &mut differences).expect("sum");
        }
        let valid = reader.finish(&mut differences);
        let mut audit = Audit::new(&cut, &valid, &[], &[], TRANSACTION);
        audit.observe(&raw_record(0, &t), &mut differences).expect("sum");
        audit.end_era(0);
        let mut later = raw_record(0, second);
        later.partition = 1;
        audit.observe(&later, &mut differences).expect("sum");
        audit.finish(&mut differences);
        differences.drafts()
    };
    assert!(said(&t, false).is_empty(), "a repeat: {:?}", said(&t, false));
    let twice = said(&t, true);
    assert!(twice[0].contains("t-1 twice within the dedup horizon: 0@0 and 1@0"), "{twice:?}");
    let mut other = t.clone();
    other.amount.units += 1;
    let conflict = said(&other, false);
    assert!(conflict[0].contains("transacciones_dlq lacks t-1"), "{conflict:?}");
    let fresh = purchase("t-2", &t.account_id, 1, BASE);
    assert!(said(&fresh, true).is_empty(), "{:?}", said(&fresh, true));
}

#[test]
fn retention_is_no_difference() {
    let mut log = three();
    log.input.remove(0);
    log.valid.clear();
    let mut cut = log.cut();
    cut.first.insert(INPUT, vec![11]);
    cut.first.insert(VALID, vec![1]);
    let mut differences = Differences::new(Topics::of(&[]));
    let valid = log.valid(&cut, &mut differences);
    let mut audit = Audit::new(&cut, &valid, &[], &[], TRANSACTION);
    log.input.iter().for_each(|r| audit.observe(r, &mut differences).expect("sum"));
    audit.finish(&mut differences);
    assert!(differences.drafts().is_empty(), "{:?}", differences.drafts());
    assert_eq!(audit.unproven, 2);
    assert_ne!(half(b"a"), half(b"b"));
}
