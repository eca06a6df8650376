//! Where a record is, in eight bytes, and the names of the topics that verify reads.

use caudal_core::topics;
use caudal_query::plan::Plan;

/// A topic by its number in [`Topics`], a partition and an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

const OFFSET_BITS: u32 = 44;
const PARTITION_BITS: u32 = 12;

impl Place {
    /// Topic number below 256, partition below 4,096, offset below 2⁴⁴.
    pub fn new(topic: u8, partition: i32, offset: i64) -> Place {
        let partition = u64::try_from(partition).unwrap_or(0) & ((1 << PARTITION_BITS) - 1);
        let offset = u64::try_from(offset).unwrap_or(0) & ((1 << OFFSET_BITS) - 1);
        Place(
            (u64::from(topic) << (OFFSET_BITS + PARTITION_BITS))
                | partition << OFFSET_BITS
                | offset,
        )
    }

    pub fn topic(self) -> u8 {
        u8::try_from(self.0 >> (OFFSET_BITS + PARTITION_BITS)).unwrap_or(u8::MAX)
    }

    pub fn partition(self) -> i32 {
        i32::try_from((self.0 >> OFFSET_BITS) & ((1 << PARTITION_BITS) - 1)).unwrap_or(0)
    }

    pub fn offset(self) -> i64 {
        i64::try_from(self.0 & ((1 << OFFSET_BITS) - 1)).unwrap_or(0)
    }

    /// `2@1841`.
    pub fn short(self) -> String {
        format!("{}@{}", self.partition(), self.offset())
    }
}

/// `transacciones`.
pub const INPUT: u8 = 0;
/// `transacciones_validas`.
pub const VALID: u8 = 1;
/// `transacciones_dlq`.
pub const DEAD: u8 = 2;

/// The topics by number: the three above, then two of each query: its rows and its late partials.
#[derive(Debug, Clone)]
pub struct Topics(Vec<String>);

impl Topics {
    pub fn of(plans: &[Plan]) -> Topics {
        let fixed = [topics::TRANSACCIONES, topics::VALIDAS, topics::DLQ].map(str::to_owned);
        let of_queries = plans.iter().flat_map(|plan| [plan.name.clone(), plan.late_topic()]);
        Topics(fixed.into_iter().chain(of_queries).collect())
    }

    /// Number of the topic that holds the rows of a query.
    pub fn rows_of(query: usize) -> u8 {
        u8::try_from(3 + 2 * query).unwrap_or(u8::MAX)
    }

    /// Number of the topic that holds its partials that came too late.
    pub fn late_of(query: usize) -> u8 {
        Topics::rows_of(query) + 1
    }

    pub fn name(&self, topic: u8) -> &str {
        self.0.get(usize::from(topic)).map_or("?", String::as_str)
    }

    pub fn number(&self, name: &str) -> Option<u8> {
        self.0.iter().position(|n| n == name).and_then(|at| u8::try_from(at).ok())
    }

    /// `transacciones_validas-2@1841`.
    pub fn at(&self, place: Place) -> String {
        format!("{}-{}", self.name(place.topic()), place.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_keeps_its_parts() {
        let place = Place::new(7, 4095, (1 << 44) - 1);
        assert_eq!((place.topic(), place.partition(), place.offset()), (7, 4095, (1 << 44) - 1));
        let topics = Topics::of(&caudal_query::plan::shipped());
        assert_eq!(topics.at(Place::new(VALID, 2, 1841)), "transacciones_validas-2@1841");
        assert_eq!(topics.number("ventas_gold"), Some(Topics::rows_of(0)));
        assert_eq!(topics.name(Topics::late_of(1)), "alertas_fraude_tardias");
    }
}
