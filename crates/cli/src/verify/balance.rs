//! Taking the balance: what is read in which order, and what is compared with what.

mod hops;

use super::cut::{Cut, source_of};
use super::differences::Differences;
use super::eras::{Eras, Turn};
use super::input::Audit;
use super::ledgers::{Landed, Ledgers, compare_sink};
use super::names::Names;
use super::others::{self, Work};
use super::place::{INPUT, Topics, VALID};
use super::reading::Reading;
use super::recomputed::{begun_later, is_recomputed, not_recomputed, split};
use super::refused::{DeadReader, Refused};
use super::retired::{Retired, Spare};
use super::sheet::{Hop, Sheet};
use super::sources::{Found, Standing, compare, observe_progress};
use super::stored::Rows;
use super::tables::{SinkLedger, Snapshot, table_of};
use super::valid::{Valid, ValidReader};
use super::window_rows::WindowRows;
use super::windows::{Query, RowReader, Windows, era_of};
use anyhow::{Context as _, Result, anyhow};
use caudal_core::decode::Record;
use caudal_core::ledger::GroupLedger;
use caudal_core::money::Sums;
use caudal_core::schema::Schemas;
use caudal_core::topics;
use caudal_kafka::Kafka;
use caudal_processor::block::{Heads, check_compatible};
use caudal_processor::partials::Message;
use caudal_processor::shared::Shared;
use caudal_query::group::row_key;
use caudal_query::plan::Plan;
use caudal_sink::learn::Routes;
use std::collections::BTreeMap;

/// Everything that taking the balance holds on to.
pub struct Balance<'k> {
    reading: Reading<'k>,
    snapshot: Snapshot,
    cut: Cut,
    plans: Vec<Plan>,
    names: Vec<String>,
    schemas: Schemas,
    differences: Differences,
    refused: Refused,
    sink: BTreeMap<u8, SinkLedger>,
    sheet: Sheet,
}

impl<'k> Balance<'k> {
    /// Takes it. `routes` are those of the sink's file, where that is at hand.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn take(
        kafka: &'k Kafka,
        database_url: &str,
        horizon: i64,
        plans: Vec<Plan>,
        routes: Routes,
    ) -> Result<Sheet> {
        let own = Topics::of(&plans);
        let mut balance = Balance::begin(kafka, database_url, horizon, plans).await?;
        balance.read_and_judge().await?;
        let ledgers = balance.snapshot.others(&own).await?;
        let Balance { reading, snapshot, differences, sheet, .. } = &mut balance;
        let work = Work { kafka, reading, snapshot, differences, sheet };
        others::compare(work, ledgers, routes).await?;
        balance.finish().await
    }

    async fn begin(
        kafka: &'k Kafka,
        database_url: &str,
        horizon: i64,
        plans: Vec<Plan>,
    ) -> Result<Balance<'k>> {
        let (plans, others) = split(plans);
        let topics = Topics::of(&plans);
        let mut cut = Cut { horizon, ..Cut::default() };
        let mut snapshot = Snapshot::take(database_url).await?;
        let sink = snapshot.positions(&topics, &mut cut).await?;
        let refused = snapshot.dead_letters(&topics).await?;
        cut.retired = snapshot.retired(&topics).await?;
        let mut reading = Reading::connect(kafka)?;
        let is_up = || format!("is Kafka up at {}?", kafka.bootstrap_servers());
        cut.partitions = reading.partitions(topics::TRANSACCIONES).with_context(is_up)?;
        let shared = Shared::new(plans.clone(), cut.partitions, cut.horizon);
        let heads = heads(&mut reading, &shared)?;
        cut.eras = Eras::of(heads.last(), cut.partitions)?;
        cut.take_positions(kafka, heads.last())?;
        cut.begun_later = begun_later(&heads, &plans);
        let notes = not_recomputed(&plans, &others, &cut);
        let notes = cut.eras.note().into_iter().chain(notes).collect();
        Ok(Balance {
            reading,
            snapshot,
            cut,
            names: plans.iter().map(|plan| plan.name.clone()).collect(),
            schemas: Schemas::shipped(),
            differences: Differences::new(topics),
            refused,
            sink,
            plans: plans.clone(),
            sheet: Sheet { notes, ..Sheet::default() },
        })
    }

    async fn read_and_judge(&mut self) -> Result<()> {
        self.first_offsets()?;
        let mut windows = Windows::new(self.plans.clone(), &self.cut);
        let valid = self.read_valid(&mut windows)?;
        let mut dead_reader = DeadReader::new(&self.cut, self.schemas.transaction.id);
        let (refused, differences) = (&mut self.refused, &mut self.differences);
        self.reading.all(topics::DLQ, self.cut.partitions, None, |record| {
            dead_reader.observe(record, refused, differences);
            Ok(())
        })?;
        let dead_in_flight = (dead_reader.in_flight, dead_reader.not_stored, dead_reader.stored);
        let dead = dead_reader.finish(differences);
        let before = self.standing()?;
        let mut found = Found::new(&before, self.schemas.transaction.id);
        let plans = self.plans.clone();
        let cut = self.cut.clone();
        let mut audit = Audit::new(&cut, &valid, &dead, &plans, self.schemas.transaction.id);
        let differences = &mut self.differences;
        let eras = (cut.partitions, cut.eras.count());
        let era_of = |record: &Record| cut.eras.of_input(record.partition, record.offset);
        self.reading.in_eras(topics::TRANSACCIONES, eras, era_of, |turn| match turn {
            Turn::Record(record) => {
                found.observe(record)?;
                Ok(audit.observe(record, differences)?)
            }
            Turn::Over(era) => {
                audit.end_era(era);
                Ok(())
            }
        })?;
        audit.finish(differences);
        let after = self.standing()?;
        let whole = !cut.any_cut(INPUT);
        let sent = compare((&before, &after), &found, whole, &mut self.differences)?;
        self.read_windows(&mut windows)?;
        let ledgers = self.read_ledgers(&audit)?;
        self.compare_group(&ledgers, &windows);
        let rows = self.compare_rows(&valid).await?;
        self.sheet_of_inputs(sent, &audit);
        self.sheet_of_sink(&valid, &rows, dead_in_flight, &audit)?;
        self.compare_windows(&windows).await
    }

    fn first_offsets(&mut self) -> Result<()> {
        let count = u8::try_from(3 + 2 * self.plans.len()).unwrap_or(u8::MAX);
        for topic in 0..count {
            let name = self.differences.topics.name(topic).to_owned();
            // Queries of groups with the account have no partials, so none that come too late.
            let query = usize::from(topic.saturating_sub(3)) / 2;
            let is_late_topic = topic >= 3 && !(topic - 3).is_multiple_of(2);
            if is_late_topic && self.plans.get(query).is_none_or(Plan::is_local) {
                continue;
            }
            let first = self.reading.first_offsets(&name, self.cut.partitions)?;
            self.sheet.retained.insert(name, first.clone());
            self.cut.first.insert(topic, first);
        }
        Ok(())
    }

    fn read_valid(&mut self, windows: &mut Windows) -> Result<Valid> {
        let mut reader = ValidReader::new(&self.cut, self.schemas.valid.id, self.names.clone());
        let (refused, differences) = (&mut self.refused, &mut self.differences);
        let eras = &self.cut.eras;
        // A record that stage 1 did not write has no era: it is read where it lies.
        let era_of = |record: &Record| source_of(record).map_or(0, |at| eras.of_input(at.0, at.1));
        let size = (self.cut.partitions, eras.count());
        self.reading.in_eras(topics::VALIDAS, size, era_of, |turn| match turn {
            Turn::Record(record) => Ok(reader.observe(record, refused, windows, differences)?),
            Turn::Over(era) => {
                windows.end_era(eras.widening(era));
                Ok(())
            }
        })?;
        Ok(reader.finish(differences))
    }

    fn standing(&mut self) -> Result<Standing> {
        let mut standing = Standing::new();
        self.reading.all(topics::PROGRESO, 1, None, |record| {
            observe_progress(&mut standing, record);
            Ok(())
        })?;
        Ok(standing)
    }

    /// Reads what the queries have written, and which windows stage 2 has yet to merge.
    fn read_windows(&mut self, windows: &mut Windows) -> Result<()> {
        let (cut, differences) = (&self.cut, &mut self.differences);
        self.reading.all(topics::PARCIALES, cut.partitions, Some(&cut.partials), |record| {
            // What is no record of partials halts stage 2, which says so.
            let Ok(message) = Message::read(record.value.as_deref().unwrap_or_default()) else {
                return Ok(());
            };
            for (fingerprint, partials) in &message.partials {
                let is_ours = |q: &&mut Query| q.plan.fingerprint() == *fingerprint;
                let Some(query) = windows.queries.iter_mut().find(is_ours) else { continue };
                for row in partials.iter().flat_map(|p| p.starts(&query.plan.window)) {
                    let key = row_key(&query.plan, row.0, row.1);
                    query.in_flight.insert(super::identity::half(&key));
                }
            }
            Ok(())
        })?;
        for (at, plan) in self.plans.iter().enumerate().filter(|(_, plan)| is_recomputed(plan, cut))
        {
            for late in [false, true] {
                if late && plan.is_local() {
                    continue;
                }
                let topic = if late { Topics::late_of(at) } else { Topics::rows_of(at) };
                let name = differences.topics.name(topic).to_owned();
                let mut reader = RowReader::new(cut, at, late, plan.is_local());
                let refused = &mut self.refused;
                let era = |record: &Record| {
                    source_of(record).map_or(0, |at| era_of(plan, at.0, at.1, cut))
                };
                let size = (cut.partitions, cut.eras.count());
                self.reading.in_eras(&name, size, era, |turn| match turn {
                    Turn::Record(record) => {
                        Ok(reader.observe(record, windows, refused, differences)?)
                    }
                    Turn::Over(_) => Ok(()),
                })?;
                reader.finish(differences);
            }
        }
        self.sheet.unproven += self.refused.finish(cut, differences);
        for (at, query) in windows.queries.iter().enumerate() {
            query.compare_topic(at, cut.any_cut(VALID), differences);
        }
        Ok(())
    }

    fn read_ledgers(&mut self, audit: &Audit<'_>) -> Result<GroupLedger> {
        let shared = Shared::new(self.plans.clone(), self.cut.partitions, self.cut.horizon);
        let mut ledgers = Ledgers::new(shared);
        let cut = &self.cut;
        self.reading
            .all(topics::ESTADO, cut.partitions, None, |record| ledgers.observe(record, cut))?;
        ledgers.check_ends(cut, &mut self.differences);
        ledgers.compare_account(cut, audit, &mut self.differences);
        Ok(ledgers.group())
    }

    /// Stage 2's counters: what it has merged of a query is what the query has taken.
    fn compare_group(&mut self, ledger: &GroupLedger, windows: &Windows) {
        // A state that an older version began does not tell its first queries apart.
        let told: u64 = ledger.by_query.values().map(|query| query.records).sum();
        if self.cut.any_cut(VALID) || told != ledger.records {
            return;
        }
        for (at, query) in windows.queries.iter().enumerate() {
            let plan = &query.plan;
            let is_judged = !plan.is_local() && is_recomputed(plan, &self.cut);
            let Some(says) = ledger.by_query.get(&plan.name).filter(|_| is_judged) else {
                continue;
            };
            if !query.in_flight.is_empty() {
                continue;
            }
            let counts = query.expected.values().map(|figures| figures.values.count);
            let taken: u64 = counts.map(i64::unsigned_abs).sum();
            if says.records != taken {
                let text = format!("records of {} is {}, found {taken}", plan.name, says.records);
                self.differences.say(format!("ledger of stage 2: {text}"));
            }
            let late = query.found.late_records;
            if says.too_late != late && !self.cut.any_cut(Topics::late_of(at)) {
                let text = format!("too_late of {} is {}, found {late}", plan.name, says.too_late);
                self.differences.say(format!("ledger of stage 2: {text}"));
            }
        }
    }

    /// Reads the table `transactions`.
    async fn compare_rows(&mut self, valid: &Valid) -> Result<RowsFound> {
        let mut rows = Rows::new(&self.cut, valid, self.names.clone());
        let (meter, differences) = (&mut self.reading.meter, &mut self.differences);
        self.snapshot
            .transactions(|row| {
                meter.add("transactions");
                Ok(rows.observe(row, differences)?)
            })
            .await?;
        rows.finish(differences);
        let is_cut = self.cut.any_cut(VALID);
        let spare = if is_cut { Spare::Unknown } else { Spare::Most(rows.again) };
        let retired = self.cut.retired.get(&VALID);
        let made_again = rows.missing.judge("transactions", retired, spare, differences);
        self.sheet.retire("transactions", retired, rows.missing.count());
        Ok(RowsFound {
            count: rows.count,
            sums: rows.sums,
            late: rows.late,
            duplicates: rows.duplicates,
            unproven: rows.unproven,
            retired: retired.cloned().unwrap_or_default(),
            again: rows.again,
            made_again: if is_cut { 0 } else { made_again },
        })
    }

    /// Reads the tables of the queries.
    async fn compare_windows(&mut self, windows: &Windows) -> Result<()> {
        // The sink comes last on the sheet.
        let sink = self.sheet.hops.pop();
        let cut = self.cut.clone();
        let recomputed = |(_, query): &(usize, &Query)| is_recomputed(&query.plan, &cut);
        for (at, query) in windows.queries.iter().enumerate().filter(recomputed) {
            let mut rows = WindowRows::new(&self.cut, at, query);
            let (meter, differences) = (&mut self.reading.meter, &mut self.differences);
            self.snapshot
                .windows(&query.plan, |row| {
                    meter.add(&query.plan.name);
                    Ok(rows.observe(row, differences)?)
                })
                .await?;
            let (count, table_sums) = (rows.count, rows.sums.clone());
            self.sheet.unproven += rows.unproven;
            let retired = rows.finish(differences);
            let topic = Topics::rows_of(at);
            let (table, _) = table_of(&query.plan);
            self.sheet.retire(table, self.cut.retired.get(&topic), retired);
            if let (Some(says), true) = (self.sink.get(&topic), query.plan.is_local()) {
                let of_whole = |count| (!self.cut.any_cut(topic)).then_some(count);
                let found = &query.found;
                let (records, deleted) = (found.stored_records, found.stored_tombstones);
                let landed = Landed {
                    records: of_whole(records),
                    deleted: of_whole(deleted),
                    ..Landed::default()
                };
                compare_sink(&query.plan.name, says, &landed, &mut self.differences);
            }
            let sums = if query.plan.is_local() { table_sums } else { query.sums.clone() };
            self.sheet.hops.push(Hop {
                hop: query.plan.name.clone(),
                records_in: query.taken,
                out: count,
                late: query.late,
                sums: sums.texts(),
                ..Hop::default()
            });
            let in_flight =
                u64::try_from(query.in_flight.len()).unwrap_or(0) + query.found.in_flight;
            *self.sheet.in_flight.entry("windows of queries").or_default() += in_flight;
        }
        self.sheet.hops.extend(sink);
        Ok(())
    }

    /// Completes the texts of the differences.
    async fn finish(mut self) -> Result<Sheet> {
        self.snapshot.close().await;
        let wanted = self.differences.wanted();
        let records = self.reading.again(&self.differences.topics, &wanted)?;
        let names = Names {
            topics: &self.differences.topics,
            plans: &self.plans,
            transaction_schema: self.schemas.transaction.id,
            valid_schema: self.schemas.valid.id,
            records,
        };
        self.sheet.differences = self.differences.texts(|difference| names.complete(difference));
        self.sheet.difference_count = self.differences.count();
        Ok(self.sheet)
    }
}

/// What the table `transactions` holds.
struct RowsFound {
    count: u64,
    sums: Sums,
    late: u64,
    duplicates: (u64, Sums),
    unproven: u64,
    /// What was deleted on purpose.
    retired: Retired,
    /// Further records of such rows, duplicates or rows that were made again.
    again: u64,
    /// How many of them made a row again.
    made_again: u64,
}

/// Where the tasks stand by the state log, which must be of as many partitions as the topics.
fn heads(reading: &mut Reading<'_>, shared: &Shared) -> Result<Heads> {
    let mut heads = Heads::default();
    reading.all(topics::ESTADO, shared.partitions, None, |record| {
        let at = || format!("caudal_estado-{}@{}", record.partition, record.offset);
        heads.observe(record.value.as_deref().unwrap_or_default()).with_context(at)
    })?;
    for (id, head) in heads.last().iter().filter(|(_, h)| h.partitions != shared.partitions) {
        check_compatible(head, shared).map_err(|e| anyhow!("task {id}: {e}"))?;
    }
    Ok(heads)
}
