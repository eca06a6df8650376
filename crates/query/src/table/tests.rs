use super::*;
use crate::partials::RawPartial;
use crate::sample::{one, ventas_gold};
use proptest::prelude::*;

const WINDOW: Window = Window::hopping(30, 10, 5);

/// Values of one batch (group, panes ahead of the oldest open one, windows missed, amount), how
/// far the time moves before it, and whether it commits.
type Batch = (Vec<(u8, i64, i64, i64)>, i64, bool);

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let value = (0_u8..12, 0_i64..6, 0_i64..3, -50_i64..50);
    let values = prop::collection::vec(value, 0..20);
    prop::collection::vec((values, 0_i64..40, any::<bool>()), 1..20)
}

fn apply(table: &mut Table, batch: &Batch, time: i64) {
    let (open, plan) = (WINDOW.first_open(time), ventas_gold());
    for (group, ahead, missed, amount) in &batch.0 {
        let pane = open + ahead * WINDOW.advance;
        let from = (WINDOW.first_start(pane) + missed * WINDOW.advance).max(open);
        let group = table.intern(&format!("[\"{group}\"]"));
        table.add(&plan, group, (pane, from), one(i128::from(*amount))).expect("sum");
    }
}

fn listed(table: &Table) -> Vec<Partial> {
    let mut cursor = None;
    let next = || {
        let (next, entry) = table.next_after(cursor)?;
        cursor = Some(next);
        Some(entry)
    };
    std::iter::from_fn(next).collect()
}

fn key(entry: &Partial) -> (crate::group::GroupKey, i64, i64) {
    (entry.group.clone(), entry.pane, entry.from)
}

fn written(entries: impl Iterator<Item = Partial>) -> Vec<u8> {
    let mut out = caudal_core::avro::Writer::new();
    entries.for_each(|entry| entry.write(&mut out));
    out.into_bytes()
}

proptest! {
    /// After a rollback everything, the order of the sweep included, is as if the batch had never
    /// been: compared with one that never saw it, there and in all that follows.
    #[test]
    fn a_batch_that_rolls_back_leaves_nothing(batches in batches()) {
        let (mut tried, mut plain, mut time) = (Table::default(), Table::default(), 0);
        for batch in &batches {
            time += batch.1;
            apply(&mut tried, batch, time);
            if batch.2 {
                apply(&mut plain, batch, time);
                let changed = |table: &Table| written(table.touched().map(|c| table.entry(c)));
                prop_assert_eq!(changed(&tried), changed(&plain));
                tried.commit(&WINDOW, time);
                plain.commit(&WINDOW, time);
            } else {
                tried.rollback();
            }
            prop_assert_eq!(tried.touched().count(), 0);
            prop_assert_eq!(listed(&tried), listed(&plain));
            let mut groups: Vec<_> = listed(&tried).into_iter().map(|e| e.group).collect();
            groups.sort();
            groups.dedup();
            prop_assert_eq!(tried.names.len(), groups.len(), "a key without cells is freed");
            prop_assert_eq!(listed(&tried).len(), tried.len());
        }
    }

    /// A sweep of a few entries a batch meets every entry that stays from its beginning to its
    /// end. What it meets in a batch that rolls back does not count.
    #[test]
    fn a_sweep_misses_nothing_that_stays(batches in batches(), before in 0_usize..10, step in 1_usize..8) {
        let (mut table, mut time) = (Table::default(), 0);
        let (mut due, mut met, mut cursor, mut is_done) = (Vec::new(), Vec::new(), None, false);
        for (i, batch) in batches.iter().cycle().take(80).enumerate() {
            if i == before {
                due = listed(&table).iter().map(key).collect();
            }
            time += batch.1;
            apply(&mut table, batch, time);
            let begin = (cursor, met.len());
            for _ in 0..if i < before { 0 } else { step } {
                let Some((next, entry)) = table.next_after(cursor) else {
                    is_done = batch.2;
                    break;
                };
                cursor = Some(next);
                met.push(key(&entry));
            }
            if batch.2 {
                table.commit(&WINDOW, time);
            } else {
                table.rollback();
                cursor = begin.0;
                met.truncate(begin.1);
            }
            if is_done {
                break;
            }
        }
        let lives: Vec<_> = listed(&table).iter().map(key).collect();
        for key in due.iter().filter(|key| is_done && lives.contains(key)) {
            prop_assert!(met.contains(key), "{key:?}");
        }
    }

    /// What was written, with sweeps of the unchanged in between, reads back to the same entries.
    #[test]
    fn what_is_read_back_is_the_same(batches in batches(), step in 0_usize..8) {
        let (mut table, mut time, mut cursor) = (Table::default(), 0, None);
        let mut log = Vec::new();
        for batch in &batches {
            time += batch.1;
            apply(&mut table, batch, time);
            log.extend(written(table.touched().map(|cell| table.entry(cell))));
            for _ in 0..step {
                let next = table.next_after(cursor);
                cursor = next.as_ref().map(|(cursor, _)| *cursor);
                log.extend(written(next.into_iter().map(|(_, entry)| entry)));
            }
            table.commit(&WINDOW, time);
        }
        let (mut restored, mut input) =
            (Table::default(), caudal_core::avro::Reader::new(&log));
        while !input.is_at_end() {
            let raw = RawPartial::read(&mut input).expect("written");
            restored.restore(raw.of(&ventas_gold()).expect("written"));
        }
        restored.commit(&WINDOW, time);
        let sorted = |table: &Table| {
            let mut all = listed(table);
            all.sort_by_key(key);
            all
        };
        prop_assert_eq!(sorted(&restored), sorted(&table));
    }
}

#[test]
fn a_damaged_partial_is_an_error() {
    let mut out = caudal_core::avro::Writer::new();
    out.string("[\"m\"]");
    out.long(60);
    out.long(-60);
    out.bytes(&[0]);
    assert!(RawPartial::read(&mut caudal_core::avro::Reader::new(&out.into_bytes())).is_err());
}
