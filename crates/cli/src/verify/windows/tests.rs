use super::*;
use crate::verify::eras::Eras;
use crate::verify::identity::tests::purchase;
use crate::verify::place::VALID;
use crate::verify::window_rows::WindowRows;
use caudal_core::headers;
use caudal_core::money::Currency;
use caudal_core::time::{MINUTE, SECOND};
use caudal_query::plan::shipped_one;

fn ventas_gold() -> Plan {
    shipped_one("ventas_gold")
}

fn alertas_fraude() -> Plan {
    shipped_one("alertas_fraude")
}

fn valid(account: &str, units: i64, event_time: i64) -> ValidTransaction<'static> {
    let transaction = purchase("t", account, units, event_time);
    ValidTransaction { currency: Currency::parse("EUR").expect("EUR"), transaction }
}

fn cut() -> Cut {
    Cut {
        partitions: 1,
        eras: Eras::only(1),
        input: vec![100],
        partials: vec![100],
        stored: [((Topics::rows_of(0), 0), 100)].into(),
        ..Cut::default()
    }
}

/// Two purchases of one minute, and one of the next.
fn windows(plan: Plan) -> Windows {
    let mut windows = Windows::new(vec![plan], &cut());
    for (offset, (units, time)) in (0..).zip([(1000, 0), (250, SECOND), (99, MINUTE)]) {
        let place = Place::new(VALID, 0, offset);
        windows.add(&valid("a", units, time), 0, place).expect("sum");
    }
    windows
}

const GROUP: &str = "[\"m\",\"EUR\"]";

fn nano(cents: i128) -> i128 {
    cents * 10_000_000
}

fn row(start: i64, values: &Accumulator) -> Row {
    let end = ventas_gold().window.end(start);
    Row { group: GROUP.into(), start, end, values: Values::Amount(*values) }
}

/// A record of `ventas_gold`, partition 0.
fn gold(offset: i64, number: u64, start: i64, values: &Accumulator) -> Record {
    let plan = ventas_gold();
    let query = Query::new(plan.clone(), 1);
    let columns = plan.row(&row(start, values), &mut Vec::new());
    let header = |name: &str, text: String| (name.to_owned(), text.into_bytes().into());
    Record {
        offset,
        key: Some(row_key(&ventas_gold(), GROUP, start).into()),
        value: Some(query.schema.encode(query.schema_id, &columns).into()),
        headers: vec![
            header(headers::TASK, "2-0".into()),
            header(headers::SEQUENCE, number.to_string()),
            header(headers::SOURCE, "0@5".into()),
        ],
        ..Record::default()
    }
}

fn first_minute() -> Accumulator {
    Accumulator { count: 2, sum: nano(1250), min: nano(250), max: nano(1000) }
}

fn second_minute() -> Accumulator {
    Accumulator::of(nano(99))
}

fn observe(windows: &mut Windows, late: bool, records: &[Record]) -> Differences {
    let cut = cut();
    let mut differences = Differences::new(Topics::of(&[ventas_gold()]));
    let mut refused = Refused::default();
    let mut reader = RowReader::new(&cut, 0, late, false);
    for record in records {
        reader.observe(record, windows, &mut refused, &mut differences).expect("sum");
    }
    reader.finish(&mut differences);
    differences
}

fn judged(windows: &mut Windows, records: &[Record]) -> Vec<String> {
    let mut differences = observe(windows, false, records);
    windows.queries[0].compare_topic(0, false, &mut differences);
    differences.drafts()
}

#[test]
fn the_last_value_of_each_key_counts() {
    let records = [
        gold(0, 0, 0, &Accumulator::of(nano(1000))),
        gold(1, 1, 0, &first_minute()),
        gold(2, 2, MINUTE, &second_minute()),
    ];
    let mut windows = windows(ventas_gold());
    assert!(judged(&mut windows, &records).is_empty());
    assert_eq!((windows.queries[0].taken, windows.queries[0].found.stored_records), (3, 3));
}

#[test]
fn names_a_total_that_is_wrong_missing_or_invented() {
    let wrong = Accumulator { sum: nano(1251), ..first_minute() };
    let records = [gold(0, 0, 0, &wrong), gold(1, 1, MINUTE, &second_minute())];
    let all = judged(&mut windows(ventas_gold()), &records);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("ventas_gold-0@0") && all[0].contains("total 12.51"), "{all:?}");
    assert!(all[0].contains("add up to ventas 2, total 12.50"), "{all:?}");

    let all = judged(&mut windows(ventas_gold()), &records[1..]);
    assert!(all[0].starts_with("ventas_gold lacks {} (ventas 2, total 12.50"), "{all:?}");

    let right = gold(0, 0, 0, &first_minute());
    let invented = gold(2, 2, 7 * MINUTE, &second_minute());
    let all = judged(&mut windows(ventas_gold()), &[right, records[1].clone(), invented]);
    assert!(all[0].contains("ventas_gold-0@2") && all[0].contains("no such row"), "{all:?}");
}

#[test]
fn a_doubled_output_is_named_and_not_counted() {
    let records = [
        gold(0, 0, 0, &first_minute()),
        gold(1, 1, MINUTE, &second_minute()),
        gold(2, 1, MINUTE, &second_minute()),
    ];
    let all = judged(&mut windows(ventas_gold()), &records);
    assert_eq!(all, ["ventas_gold-0@2 {} repeats number 1 of task 2-0"]);
    let mut foreign = records[1].clone();
    (foreign.offset, foreign.headers) = (3, Vec::new());
    let all =
        judged(&mut windows(ventas_gold()), &[records[0].clone(), records[1].clone(), foreign]);
    assert!(all[0].contains("was not written by the processor"), "{all:?}");
}

#[test]
fn late_partials_add_to_the_total() {
    let mut windows = windows(ventas_gold());
    let late = [gold(0, 0, 0, &Accumulator::of(nano(250)))];
    assert!(observe(&mut windows, true, &late).drafts().is_empty());
    let records =
        [gold(0, 0, 0, &Accumulator::of(nano(1000))), gold(1, 1, MINUTE, &second_minute())];
    assert!(judged(&mut windows, &records).is_empty());
    assert_eq!(windows.queries[0].found.late_records, 1);
}

#[test]
fn windows_that_stage_2_has_yet_to_merge_are_not_judged() {
    let mut windows = windows(ventas_gold());
    windows.queries[0].in_flight.insert(half(&row_key(&ventas_gold(), GROUP, MINUTE)));
    assert!(judged(&mut windows, &[gold(0, 0, 0, &first_minute())]).is_empty());
}

#[test]
fn a_table_is_compared_with_what_the_sink_has_stored() {
    let mut windows = windows(ventas_gold());
    let records = [gold(0, 0, 0, &first_minute()), gold(1, 1, MINUTE, &second_minute())];
    let mut differences = observe(&mut windows, false, &records);
    let query = &windows.queries[0];
    let cells = |start: i64, values: &Accumulator| -> Vec<Option<Value>> {
        let cells = query.plan.row(&row(start, values), &mut Vec::new());
        cells.into_iter().map(Some).collect()
    };
    let cut = cut();
    let mut rows = WindowRows::new(&cut, 0, query);
    rows.observe(cells(0, &first_minute()), &mut differences).expect("sum");
    rows.observe(cells(MINUTE, &second_minute()), &mut differences).expect("sum");
    rows.finish(&mut differences);
    assert!(differences.drafts().is_empty(), "{:?}", differences.drafts());

    let mut rows = WindowRows::new(&cut, 0, query);
    rows.observe(cells(0, &second_minute()), &mut differences).expect("sum");
    rows.observe(cells(9 * MINUTE, &second_minute()), &mut differences).expect("sum");
    rows.finish(&mut differences);
    let all = differences.drafts();
    assert!(
        all[0]
            .starts_with("ventas_gold [\"m\",\"EUR\"] 1970-01-01T00:00:00Z: the row says ventas 1"),
        "{all:?}"
    );
    assert!(
        all[1].contains("ventas_gold has [\"m\",\"EUR\"] 1970-01-01T00:09:00Z, but topic"),
        "{all:?}"
    );
    assert_eq!(all[2], "ventas_gold lacks {} (ventas_gold-0@1)");
}

#[test]
fn the_velocity_rule_is_run_again() {
    let mut windows = Windows::new(vec![alertas_fraude()], &cut());
    for at in 0..12 {
        let place = Place::new(VALID, 0, at);
        windows.add(&valid("a", 100, at * SECOND), 0, place).expect("sum");
    }
    let query = &windows.queries[0];
    // The windows that start at -40 s to 0 s hold eleven records or more; that at -50 s holds ten.
    assert_eq!(query.expected.len(), 5);
    assert!(query.expected.values().all(|figures| figures.values.count > 10));
}

/// An alert is withdrawn when a refund takes the sum back below its limit.
#[test]
fn a_row_that_was_taken_back_is_not_expected_in_topic_or_table() {
    let mut windows = Windows::new(vec![alertas_fraude()], &cut());
    for (at, cents) in [(0, 2_000_000), (1, -1_500_000)] {
        let place = Place::new(VALID, 0, at);
        windows.add(&valid("a", cents, at * SECOND), 0, place).expect("sum");
    }
    let query = &mut windows.queries[0];
    assert!(query.expected.is_empty());
    let plan = alertas_fraude();
    let key = half(&row_key(&plan, "[\"a\",\"EUR\"]", 0));
    let figures = |offset, gone| Figures {
        values: Accumulator { count: 1, sum: 1, min: 1, max: 1 },
        place: Place::new(Topics::rows_of(0), 0, offset),
        era: 0,
        gone,
    };
    query.found.both.insert(key, figures(0, false));
    assert!(query.found.total(&key).is_some() && query.found.stored(&key).is_some());
    query.found.both.insert(key, figures(1, true));
    assert!(query.found.total(&key).is_none() && query.found.stored_keys().is_empty());
}
