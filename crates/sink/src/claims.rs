//! Claims partitions, and judges where each is read on: what is stored, against what the topic is
//! and holds. A topic that is another one than before, or has lost what was not stored, halts;
//! `--accept-gap` goes on. docs/topics-that-change.md says the same to a user.

use crate::fault::{Action, Fault};
use crate::postgres::Position;
use crate::store::Database;
use anyhow::Result;
use caudal_kafka::TopicPartition;
use caudal_kafka::offsets::Offsets;
use caudal_service::exit::Halt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the ids of topics that are being read are looked at: the client reads on from its
/// offset in a topic that was created again and has grown beyond it.
const LOOK: Duration = Duration::from_secs(30);

/// A partition that was claimed.
#[derive(Debug)]
pub struct Claimed {
    /// Its position as it is stored now.
    pub position: Position,
    /// The offset to read on at. Beyond the stored one where offsets were deleted and only the next
    /// record's number tells whether records were among them.
    pub from: i64,
    /// Offsets that `--accept-gap` passed over.
    pub passed_over: u64,
}

/// Claims partitions.
pub struct Claims {
    offsets: Offsets,
    topics: Vec<Arc<str>>,
    accept_gap: bool,
    /// Topic → id, of the assignment at hand.
    ids: BTreeMap<String, String>,
    looked: Instant,
}

impl Claims {
    /// Of these topics. `offsets` sees the ends of partitions as high watermarks.
    #[must_use]
    pub fn new(offsets: Offsets, topics: &[Arc<str>], accept_gap: bool) -> Claims {
        let (ids, looked) = (BTreeMap::new(), Instant::now());
        Claims { offsets, topics: topics.to_vec(), accept_gap, ids, looked }
    }

    /// From here on the topics may be others: their ids are asked for again.
    pub fn forget_ids(&mut self) {
        self.ids.clear();
    }

    /// Claims a partition: from now on every writer with an older claim is fenced.
    ///
    /// # Errors
    /// A [`Halt`] where going on would lose something silently. A [`Fault`] of PostgreSQL and a
    /// [`caudal_kafka::Error`], which may pass.
    pub fn claim(&mut self, database: &mut Database, at: &TopicPartition) -> Result<Claimed> {
        let id = self.id_of(&at.0)?;
        let claimed = match database.claim(at, Some(&id), None)? {
            Some(position) => Some(position),
            None => {
                let (first, _) = self.offsets.watermarks(&at.0, at.1)?;
                database.claim(at, Some(&id), Some(first))?
            }
        };
        let position =
            claimed.ok_or_else(|| Fault::stop("sink_offsets did not give back the row it took"))?;
        // Asked after the claim: before it, another sink could have stored beyond this end.
        let (first, end) = self.offsets.watermarks(&at.0, at.1)?;
        let present = Present { id, first, end };
        let place = format!("{}-{}", at.0, at.1);
        match judge(&place, &position, &present, self.accept_gap)? {
            Verdict::ReadOn => Ok(Claimed { from: position.next_offset, position, passed_over: 0 }),
            Verdict::NumbersTell => {
                let next = position.next_offset;
                tracing::warn!(place, next, first, "offsets were deleted before they were read");
                Ok(Claimed { from: first, position, passed_over: 0 })
            }
            Verdict::PassOver { offsets, why } => {
                let moved = database.pass_over(at, position.epoch, &present.id, first)?;
                let position = moved.ok_or_else(claimed_meanwhile)?;
                tracing::warn!(place, "gap accepted (--accept-gap): {why}");
                Ok(Claimed { from: first, position, passed_over: offsets })
            }
        }
    }

    fn id_of(&mut self, topic: &str) -> caudal_kafka::Result<String> {
        if !self.ids.contains_key(topic) {
            self.ids = self.offsets.topic_ids(&self.topics)?;
            self.looked = Instant::now();
        }
        self.ids.get(topic).cloned().ok_or_else(|| caudal_kafka::Error {
            what: format!("cannot read the id of topic {topic}"),
            cause: "the broker that was asked knows no such topic".into(),
            transient: true,
        })
    }

    /// Whether a topic of these partitions is another one than when they were claimed, as far as
    /// the brokers say. They are asked twice a minute; one that is away is asked later.
    pub fn has_another_topic(&mut self, owned: &BTreeMap<TopicPartition, Position>) -> bool {
        if self.looked.elapsed() < LOOK || owned.is_empty() {
            return false;
        }
        self.looked = Instant::now();
        match self.offsets.topic_ids(&self.topics) {
            Ok(ids) => self.ids = ids,
            Err(error) => tracing::debug!(%error, "the ids of the topics are asked for later"),
        }
        owned.iter().any(|((topic, _), position)| {
            let present = self.ids.get(&**topic);
            present.is_some() && present != position.topic_id.as_ref()
        })
    }
}

fn claimed_meanwhile() -> Fault {
    let text = "another sink claimed the partition in between".to_owned();
    Fault { action: Action::RetryBatch, sqlstate: None, text, disconnected: false }
}

/// What a topic-partition is and holds at present.
struct Present {
    id: String,
    first: i64,
    end: i64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// At the stored position.
    ReadOn,
    /// At the first offset; the next record's number tells whether anything is missing.
    NumbersTell,
    /// At the first offset, and what was stored before is forgotten.
    PassOver { offsets: u64, why: String },
}

fn judge(
    place: &str,
    position: &Position,
    present: &Present,
    accept_gap: bool,
) -> Result<Verdict, Halt> {
    let (next, Present { id, first, end }) = (position.next_offset, present);
    let refused = |offsets: u64, why: String, accepted: &str| match accept_gap {
        true => Ok(Verdict::PassOver { offsets, why }),
        false => Err(Halt(format!("{place}: {why}; --accept-gap {accepted}"))),
    };
    if let Some(stored) = position.topic_id.as_ref().filter(|stored| *stored != id) {
        let why = format!(
            "stored up to offset {next} of the topic with id {stored}, but the topic now has id \
             {id}: it was deleted and created again, and what was not stored is gone"
        );
        let accepted =
            format!("keeps the rows and goes on at the new topic's first offset, {first}");
        return refused(0, why, &accepted);
    }
    if next > *end {
        return Err(Halt(format!(
            "{place}: stored up to offset {next}, but the topic ends at {end}: it was deleted and \
             created again, or lost records; docs/topics-that-change.md says how to go on"
        )));
    }
    if next >= *first {
        return Ok(Verdict::ReadOn);
    }
    // What retention deleted may have been commit markers only. Where records are numbered, the
    // next number tells; an end without records tells nothing, and loses nothing new.
    if !position.sequences.last.is_empty() && !accept_gap {
        return Ok(Verdict::NumbersTell);
    }
    refused(next.abs_diff(*first), gap(next, *first), "goes on without them")
}

/// Words for a gap: from the stored position to the first offset that is still there.
#[must_use]
pub fn gap(next: i64, first: i64) -> String {
    format!(
        "offsets {next} to {} were deleted from the topic before they were stored: {} offsets, \
         which were at most as many records (commit markers take offsets too)",
        first - 1,
        first - next
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(next_offset: i64, topic_id: Option<&str>, numbered: bool) -> Position {
        let mut position = Position { next_offset, ..Position::default() };
        position.topic_id = topic_id.map(str::to_owned);
        if numbered {
            position.sequences.last.insert("1-0".into(), 7);
        }
        position
    }

    fn judged(
        position: &Position,
        first: i64,
        end: i64,
        accept_gap: bool,
    ) -> Result<Verdict, String> {
        let present = Present { id: "new".into(), first, end };
        judge("t-3", position, &present, accept_gap).map_err(|halt| halt.0)
    }

    #[test]
    fn the_same_topic_is_read_on_where_it_holds_the_position() {
        for next in [10, 15, 20] {
            let known = position(next, Some("new"), false);
            assert_eq!(judged(&known, 10, 20, false), Ok(Verdict::ReadOn));
            // Of a row from before ids were stored.
            assert_eq!(judged(&position(next, None, true), 10, 20, true), Ok(Verdict::ReadOn));
        }
        let lost = judged(&position(21, Some("new"), true), 10, 20, true).unwrap_err();
        assert!(
            lost.starts_with("t-3: stored up to offset 21, but the topic ends at 20"),
            "{lost}"
        );
    }

    #[test]
    fn a_gap_is_quantified_and_halts_unless_it_is_accepted_or_numbers_tell() {
        let halt = judged(&position(4, Some("new"), false), 10, 20, false).unwrap_err();
        assert!(halt.starts_with("t-3: offsets 4 to 9 were deleted"), "{halt}");
        assert!(halt.contains("6 offsets") && halt.contains("--accept-gap"), "{halt}");
        assert_eq!(
            judged(&position(4, Some("new"), true), 10, 20, false),
            Ok(Verdict::NumbersTell)
        );
        for numbered in [false, true] {
            let accepted = judged(&position(4, Some("new"), numbered), 10, 20, true);
            assert_eq!(accepted, Ok(Verdict::PassOver { offsets: 6, why: gap(4, 10) }));
        }
    }

    #[test]
    fn another_topic_halts_wherever_its_offsets_lie() {
        for (next, numbered) in [(4, false), (15, true), (30, true)] {
            let old = position(next, Some("old"), numbered);
            let halt = judged(&old, 10, 20, false).unwrap_err();
            for word in ["t-3", "id old", "id new", "deleted and created again", "--accept-gap"] {
                assert!(halt.contains(word), "{word}: {halt}");
            }
            assert!(halt.contains(&format!("offset {next} ")), "{halt}");
            let accepted = judged(&old, 10, 20, true);
            assert!(matches!(accepted, Ok(Verdict::PassOver { offsets: 0, .. })), "{accepted:?}");
        }
    }
}
