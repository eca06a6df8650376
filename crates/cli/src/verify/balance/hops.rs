//! The lines of the sheet: the producer, the processor, the sink, and the money between them.

use super::{Balance, RowsFound};
use crate::verify::input::Audit;
use crate::verify::ledgers::{Landed, compare_sink};
use crate::verify::place::{DEAD, VALID};
use crate::verify::sheet::{Hop, Money, grouped};
use crate::verify::sources::Sent;
use crate::verify::valid::Valid;
use anyhow::Result;
use caudal_core::money::Sums;
use caudal_core::topics;

impl Balance<'_> {
    /// What the producer sent, and what the processor must have made of it.
    pub(super) fn sheet_of_inputs(&mut self, sent: Sent, audit: &Audit<'_>) {
        let mut judged = caudal_core::ledger::AccountLedger::default();
        for partition in 0..self.cut.partitions {
            // An overflow of the whole where no part overflows: beyond any ledger.
            audit.ledger(partition).map(|ledger| judged.merge(ledger).ok());
        }
        let mut dead = Sums::default();
        judged.dead.values().for_each(|d| {
            dead.merge(&d.sums).ok();
        });
        let sheet = &mut self.sheet;
        sheet.hops.push(Hop {
            hop: "producer".into(),
            records_in: sent.lines,
            out: sent.found,
            dead: sent.unmappable,
            sums: sent.sums.texts(),
            ..Hop::default()
        });
        sheet.hops.push(Hop {
            hop: "processor".into(),
            records_in: judged.records_in,
            out: judged.valid,
            duplicates: judged.duplicate,
            dead: judged.dead_count(),
            late: audit.late,
            rerouted: judged.rerouted,
            retired: 0,
            sums: judged.valid_sums.texts(),
        });
        sheet.foreign = sent.foreign;
        sheet.unmappable_sums = sent.unmappable_sums.texts();
        sheet.in_flight.insert("records sent while this was read", sent.in_flight);
        sheet.in_flight.insert("records of transacciones before the processor", audit.in_flight);
        sheet.unproven += audit.unproven;
        sheet.without_amount = audit.without_amount;
        sheet.money = Money {
            records_in: audit.sums_in.clone(),
            dead,
            duplicates: judged.duplicate_sums,
            ..Money::default()
        };
        sheet.beyond_horizon = audit.again.count;
        if audit.again.count > 0 {
            let effects = self.names.iter().zip(&audit.again.by_query);
            let effects: Vec<String> = effects
                .map(|(name, count)| format!("{name} counts {} of them", grouped(*count)))
                .collect();
            sheet.notes.push(format!(
                "beyond the dedup horizon {} records came again ({:?}): stored once, but {}",
                grouped(audit.again.count),
                audit.again.sums.texts(),
                effects.join(", ")
            ));
        }
    }

    /// What the sink stored of the records and of the dead letters, and where the money is.
    pub(super) fn sheet_of_sink(
        &mut self,
        valid: &Valid,
        rows: &RowsFound,
        (dead_in_flight, dead_not_stored, dead_stored): (u64, u64, u64),
        audit: &Audit<'_>,
    ) -> Result<()> {
        let stored = |topic: u8, partition: i32| self.cut.stored.contains_key(&(topic, partition));
        let any = |topic| (0..self.cut.partitions).any(|p| stored(topic, p));
        let whole = !self.cut.any_cut(VALID) && audit.unproven == 0;
        let dead_rows = self.refused.by_topic.get(&DEAD).copied().unwrap_or(0);
        let duplicates = rows.duplicates.0 + rows.again - rows.made_again;
        let mut sums = rows.sums.clone();
        sums.merge(&rows.retired.sums)?;
        let landed = Landed {
            rows: Some(rows.count + rows.retired.rows),
            duplicates: whole.then_some(duplicates),
            deleted: Some(0),
            refused: whole.then_some(valid.refused_sums.0),
            sums: Some(sums),
            records: None,
        };
        if any(VALID) {
            let says = self.sink.get(&VALID).cloned().unwrap_or_default();
            compare_sink(topics::VALIDAS, &says, &landed, &mut self.differences);
        }
        if let Some(says) = self.sink.get(&DEAD) {
            let landed = Landed { rows: Some(dead_rows), ..Landed::default() };
            compare_sink(topics::DLQ, says, &landed, &mut self.differences);
        }
        let sheet = &mut self.sheet;
        let money = &mut sheet.money;
        money.rows = rows.sums.clone();
        money.dead.merge(&valid.refused_sums.1)?;
        money.retired = rows.retired.sums.clone();
        // Whether a further record of a row that is gone was its duplicate is not told by what is
        // left: their number is compared above, their money is the sink's word.
        let told = self.sink.get(&VALID).filter(|_| rows.again > 0);
        let told = told.map(|says| says.sums.get("duplicates").cloned().unwrap_or_default());
        money.duplicates.merge(told.as_ref().unwrap_or(&rows.duplicates.1))?;
        money.in_flight = valid.not_stored.1.clone();
        if sheet.unproven == 0 && rows.unproven == 0 && whole {
            for (currency, records_in, parts) in sheet.money.unbalanced() {
                let text = |nano| caudal_core::money::nano_text(nano, currency.exponent());
                self.differences.say(format!(
                    "money in {currency}: in {}, but rows, retired ones, dead letters, duplicates and \
                     what is in flight add up to {}",
                    text(records_in),
                    text(parts)
                ));
            }
        }
        sheet.unproven += rows.unproven;
        let of_dead = sheet.in_flight.entry("records before the sink").or_default();
        *of_dead += dead_not_stored + valid.not_stored.0;
        let newer =
            sheet.in_flight.entry("outputs newer than the processor's position").or_default();
        *newer += dead_in_flight + valid.in_flight;
        let dead = self.refused.count();
        let stored = valid.entries().iter().filter(|entry| self.cut.is_stored(entry.place)).count();
        sheet.hops.push(Hop {
            hop: "sink".into(),
            records_in: u64::try_from(stored).unwrap_or(u64::MAX) + dead_stored,
            out: rows.count,
            retired: rows.retired.rows,
            duplicates,
            dead,
            late: rows.late,
            sums: rows.sums.texts(),
            ..Hop::default()
        });
        Ok(())
    }
}
