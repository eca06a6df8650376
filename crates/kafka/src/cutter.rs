//! Cuts a log from its beginning, beside the work and never in its way.

use crate::admin::Admin;
use crate::args::Kafka;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Deletes the beginnings of a topic's partitions on a thread of its own. What fails is logged and
/// tried again with the next cut: a log that is too long costs time at a restore, and nothing else.
#[derive(Debug)]
pub struct Cutter {
    desk: Arc<Desk>,
}

#[derive(Debug, Default)]
struct Desk {
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    /// Partition → first offset to keep.
    below: BTreeMap<i32, i64>,
    stopped: bool,
}

impl Cutter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the client cannot be made, or the thread not started.
    pub fn start(kafka: &Kafka, topic: &str) -> Result<Cutter> {
        let (admin, topic) = (Admin::connect(kafka)?, topic.to_owned());
        Cutter::start_with(move |below| {
            let below: Vec<(i32, i64)> = below.iter().map(|(p, offset)| (*p, *offset)).collect();
            admin.delete_records(&topic, &below)
        })
    }

    fn start_with(
        cut: impl FnMut(&BTreeMap<i32, i64>) -> Result<()> + Send + 'static,
    ) -> Result<Cutter> {
        let desk = Arc::new(Desk::default());
        let theirs = Arc::clone(&desk);
        thread::Builder::new()
            .name("cutter".into())
            .spawn(move || work(&theirs, cut))
            .map_err(|e| Error::permanent("cannot start a thread", e))?;
        Ok(Cutter { desk })
    }

    /// Asks to delete the records of a partition below an offset. Returns at once; of several
    /// orders for a partition the furthest is carried out.
    pub fn cut(&self, partition: i32, below: i64) {
        let mut orders = self.desk.lock();
        let order = orders.below.entry(partition).or_insert(below);
        *order = below.max(*order);
        drop(orders);
        self.desk.changed.notify_one();
    }
}

/// What was ordered and not begun stays undone; nobody waits for a call that is under way.
impl Drop for Cutter {
    fn drop(&mut self) {
        self.desk.lock().stopped = true;
        self.desk.changed.notify_one();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next orders; `None` when it is over.
    fn take(&self) -> Option<BTreeMap<i32, i64>> {
        let idle = |orders: &mut Orders| orders.below.is_empty() && !orders.stopped;
        let mut orders =
            self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        (!orders.stopped).then(|| std::mem::take(&mut orders.below))
    }
}

fn work(desk: &Desk, mut cut: impl FnMut(&BTreeMap<i32, i64>) -> Result<()>) {
    let mut failed: BTreeMap<i32, i64> = BTreeMap::new();
    while let Some(mut below) = desk.take() {
        for (partition, offset) in std::mem::take(&mut failed) {
            let order = below.entry(partition).or_insert(offset);
            *order = offset.max(*order);
        }
        if let Err(error) = cut(&below) {
            tracing::warn!(%error, "the log is not cut; trying again with the next cut");
            failed = below;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    type Cut = BTreeMap<i32, i64>;

    /// A cutter whose calls are announced and end when and as the test says.
    fn staged() -> (Cutter, Receiver<Cut>, Sender<bool>) {
        let (announce, calls) = channel();
        let (verdicts, verdict) = channel();
        let cutter = Cutter::start_with(move |below| {
            announce.send(below.clone()).unwrap();
            match verdict.recv().unwrap() {
                true => Ok(()),
                false => Err(Error::permanent("cannot cut", "said so")),
            }
        });
        (cutter.unwrap(), calls, verdicts)
    }

    #[test]
    fn orders_are_joined_while_a_call_is_under_way() {
        let (cutter, calls, verdicts) = staged();
        cutter.cut(0, 10);
        assert_eq!(calls.recv().unwrap(), Cut::from([(0, 10)]));
        for (partition, below) in [(0, 30), (1, 7), (0, 20)] {
            cutter.cut(partition, below);
        }
        verdicts.send(true).unwrap();
        assert_eq!(calls.recv().unwrap(), Cut::from([(0, 30), (1, 7)]));
        verdicts.send(true).unwrap();
    }

    #[test]
    fn a_failure_is_tried_again_with_the_next_order_only() {
        let (cutter, calls, verdicts) = staged();
        cutter.cut(0, 10);
        calls.recv().unwrap();
        cutter.cut(1, 5);
        verdicts.send(false).unwrap();
        assert_eq!(calls.recv().unwrap(), Cut::from([(0, 10), (1, 5)]));
        verdicts.send(true).unwrap();
        cutter.cut(1, 6);
        assert_eq!(calls.recv().unwrap(), Cut::from([(1, 6)]));
        verdicts.send(true).unwrap();
    }

    #[test]
    fn it_ends_with_its_owner() {
        let (cutter, calls, _verdicts) = staged();
        drop(cutter);
        // The channel is closed when the thread has ended.
        assert!(calls.recv().is_err());
    }
}
