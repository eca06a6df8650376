//! What the topic of a query says.

use super::place::Place;
use caudal_core::dedup::Hash16;
use caudal_query::aggregate::Accumulator;
use rustc_hash::{FxHashMap, FxHashSet};

/// What a group and window adds up to, and a record that shows its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// The aggregates; those that the query does not select are 0.
    pub values: Accumulator,
    /// The output record, or the first of the records behind it.
    pub place: Place,
    /// The era of the place.
    pub era: usize,
    /// Whether the row was taken back: a tombstone.
    pub gone: bool,
}

/// Values by the fingerprint of the row's key.
pub type ByKey = FxHashMap<Hash16, Figures>;

/// What the topic of a query says: the last value per key.
#[derive(Debug, Default)]
pub struct Found {
    /// Below both positions, the task's and the sink's.
    pub both: ByKey,
    /// Newer ones that the task had written by its position, and the sink has not stored.
    pub written: ByKey,
    /// Newer ones that the sink has stored, beyond the task's position.
    pub stored: ByKey,
    /// Partials that came after their window was dropped, added up.
    pub late: ByKey,
    /// Keys of windows so old that `caudal retention` may have deleted their rows.
    pub old: FxHashSet<Hash16>,
    /// Records of the topic of late partials.
    pub late_records: u64,
    /// Records beyond both positions.
    pub in_flight: u64,
    /// Records of the topic that the sink has stored.
    pub stored_records: u64,
    /// Tombstones among them that are no dead letters.
    pub stored_tombstones: u64,
}

impl Found {
    /// What the task had written of a key by its position, late partials included. `None` when
    /// nothing, or when the sum leaves the range (which its records say too).
    pub fn total(&self, key: &Hash16) -> Option<Figures> {
        let written = newer(self.written.get(key), self.both.get(key)).copied();
        let written = written.filter(|figures| !figures.gone);
        let Some(late) = self.late.get(key).copied() else { return written };
        let Some(mut total) = written else { return Some(late) };
        total.values.merge(&late.values).ok()?;
        Some(total)
    }

    /// What the sink has stored of a key.
    pub fn stored(&self, key: &Hash16) -> Option<&Figures> {
        newer(self.stored.get(key), self.both.get(key)).filter(|figures| !figures.gone)
    }

    /// The keys of which the sink has stored a value.
    pub fn stored_keys(&self) -> FxHashSet<Hash16> {
        let keys = self.stored.keys().chain(self.both.keys()).copied();
        keys.filter(|key| self.stored(key).is_some()).collect()
    }

    /// The keys of which the task had written a value.
    pub fn written_keys(&self) -> FxHashSet<Hash16> {
        self.late.keys().chain(self.written.keys()).chain(self.both.keys()).copied().collect()
    }
}

fn newer<'f>(a: Option<&'f Figures>, b: Option<&'f Figures>) -> Option<&'f Figures> {
    // All values of a key are in one partition, of each era: a higher place is a later one.
    [a, b].into_iter().flatten().max_by_key(|figures| (figures.era, figures.place))
}
