//! What the naive rule would lose on the same input: one stream time for all merged partials, in
//! the order in which they lie in `caudal_parciales`, instead of the lowest of all sources.

use super::queries::Spec;
use super::schedule::Played;
use crate::partials::Message;
use caudal_core::topics;

/// Records of a query.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loss {
    /// That its windows would miss.
    pub lost: u64,
    /// That its windows hold.
    pub all: u64,
}

/// Of one query, whose windows must be tumbling.
pub fn loss(played: &Played, spec: &Spec) -> Loss {
    let cluster = played.world.cluster();
    let plan = spec.plan();
    let fingerprint = plan.fingerprint();
    let mut loss = Loss::default();
    for (_, log) in cluster.partitions(topics::PARCIALES) {
        let mut now = i64::MIN;
        for record in log.ever_committed().map(|visible| visible.record) {
            let value = record.value.as_deref().expect("a value");
            let message = Message::read(value).expect("partials");
            let ours = message.partials.iter().filter(|(query, _)| *query == fingerprint);
            for partial in ours.flat_map(|(_, partials)| partials) {
                let values = partial.clone().of(&plan).expect("of this query").values;
                let count = values.count().unsigned_abs();
                loss.all += count;
                loss.lost +=
                    if spec.is_closed((partial.pane, partial.pane), now) { count } else { 0 };
            }
            now = now.max(message.source.map_or(i64::MIN, |source| source.stream_time));
        }
    }
    loss
}
