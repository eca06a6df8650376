//! A task whose input has dried up while the other stage's task of that number stays busy: they
//! share a partition of the state log, which must stay short, and what the quiet one knows must
//! stay in it.

use super::HORIZON;
use super::cluster::{Cluster, Rates};
use super::input::{Fact, Input};
use super::queries;
use super::schedule::Played;
use super::world::World;
use crate::mutant::{self, Mutant};
use crate::shared::Shared;
use caudal_core::partitioner::partition_of;
use caudal_core::time::SECOND;
use caudal_core::topics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const PARTITIONS: i32 = 2;
const CUT_AFTER: u64 = 4000;
/// 2025-03-01T00:00:00Z in microseconds.
const BEGIN: i64 = 1_740_787_200 * SECOND;

/// Sends records of accounts that live in `partition`, ten a second of event time.
fn send(played: &Played, partition: i32, numbers: std::ops::Range<i64>) {
    let account = (0..)
        .map(|i| format!("cuenta-{i}"))
        .find(|account| partition_of(account.as_bytes(), PARTITIONS) == partition)
        .expect("every partition has accounts");
    let mut cluster = played.world.cluster();
    for number in numbers {
        let fact = Fact {
            id: format!("t-{number}"),
            account: account.clone(),
            merchant: format!("m-{}", number % 6),
            currency: "EUR",
            purchase: true,
            nano: 1_000_000_000,
            event_time: BEGIN + number * SECOND / 10,
        };
        let input = Input::at_home(fact, PARTITIONS);
        cluster.append(&(topics::TRANSACCIONES.into(), partition), input.record(), None);
    }
}

/// First offset of partition 0 of the state log before and after its stage 1 fell silent, its end
/// when that happened, and what is in it now in bytes and was ever written.
fn play() -> Result<(i64, i64, usize, usize), String> {
    let plans = queries::all().into_iter().filter(|q| q.name == "ventas_gold").map(|q| q.plan());
    let mut shared = Shared::new(plans.collect(), PARTITIONS, HORIZON);
    shared.sizes.block_part = 2000;
    shared.sizes.cut_after = CUT_AFTER;
    let inputs = [topics::TRANSACCIONES, topics::PARCIALES];
    let inputs = inputs.iter().flat_map(|t| (0..PARTITIONS).map(|p| ((*t).into(), p))).collect();
    let cluster = Cluster::new(1, inputs, Rates::default(), false);
    let world = World::new(cluster, Arc::new(shared), &["uno"]);
    let played = Played { world, inputs: Vec::new(), placed: BTreeMap::new() };
    send(&played, 0, 0..300);
    played.settle()?;
    let log = (topics::ESTADO.into(), 0);
    let silent_from = played.world.cluster().log(&log).high_watermark();
    for round in 0..200 {
        send(&played, 1, 300 + round * 20..320 + round * 20);
        played.world.cluster().pass(Duration::from_secs(2));
        played.settle()?;
    }
    played.restart()?;
    let mut cluster = played.world.cluster();
    let log = cluster.log(&log);
    let bytes = |record: &caudal_core::decode::Record| record.value.as_ref().map_or(0, |v| v.len());
    let kept = log.committed(0).map(|visible| bytes(visible.record)).sum();
    let ever = log.ever_committed().map(|visible| bytes(visible.record)).sum();
    Ok((log.start(), silent_from, kept, ever))
}

#[test]
fn the_log_of_a_quiet_task_stays_short() -> Result<(), String> {
    let (start, silent_from, kept, ever) = play()?;
    println!("kept {kept} of {ever} bytes, from offset {start}; silent from {silent_from}");
    assert!(start > silent_from, "the quiet task holds the cut back");
    assert!(kept * 2 < ever, "kept {kept} of {ever} bytes");

    let (start, silent_from, ..) = mutant::with(Some(Mutant::QuietTaskHoldsTheCut), play)?;
    assert!(start <= silent_from, "the test proves nothing: it is cut without the quiet task too");
    Ok(())
}
