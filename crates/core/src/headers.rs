//! Names of record headers. Dead-letter headers follow Kafka Streams' dead letter queue (KIP-1034);
//! values are UTF-8 text, numbers too.

/// Which task wrote the record: `<stage>-<partition>`.
pub const TASK: &str = "caudal.task";
/// Contiguous number per task and output topic-partition, from 0.
pub const SEQUENCE: &str = "caudal.sequence";
/// The input record that caused this one: `<partition>@<offset>`.
pub const SOURCE: &str = "caudal.source";
/// On rows of a query that was changed and begun again (`--reset-query`): 2, 3, …; absent is 1.
pub const VERSION: &str = "caudal.version";
/// Event time of a record of a query's stream, in microseconds since 1970: its own timestamp is the
/// time at which it was written.
pub const ROWTIME: &str = "caudal.rowtime";
/// Why a record is a dead letter: a [`crate::reject::Reason`]. On an *input* record it says that
/// the producer could not map the line; it is looked at before the first byte of the value.
pub const REASON: &str = "caudal.reason";
/// On a record that was moved to its key's partition: the original `<partition>@<offset>`.
pub const REROUTED: &str = "caudal.rerouted";
/// The record's timestamp before it was moved or dead-lettered, in ms since 1970.
pub const ORIGINAL_TIMESTAMP: &str = "caudal.timestamp";
/// On an unmappable line: `<file>:<line>`.
pub const LINE: &str = "caudal.line";
/// On a dead letter too large to carry whole: SHA-256 of the original value, in hex.
pub const SHA256: &str = "caudal.sha256";
/// On a line whose card numbers were masked: HMAC-SHA-256 of the whole line as it was, in hex, under
/// the producer's card key. Whoever has line and key can tell that they belong together; from a
/// plain hash, the few digits that are masked could be found by trying.
pub const KEYED_SHA256: &str = "caudal.keyed_sha256";
/// On a dead letter too large to carry whole: size of the original value in bytes.
pub const SIZE: &str = "caudal.size";
/// On a dead letter that was sent again: the how-manieth time this is.
pub const REPLAYS: &str = "caudal.replays";
/// Class of the failure.
pub const ERROR_EXCEPTION: &str = "__streams.errors.exception";
/// What happened, in words.
pub const ERROR_MESSAGE: &str = "__streams.errors.message";
/// Topic that the rejected record came from.
pub const ERROR_TOPIC: &str = "__streams.errors.topic";
/// Partition that the rejected record came from.
pub const ERROR_PARTITION: &str = "__streams.errors.partition";
/// Offset of the rejected record.
pub const ERROR_OFFSET: &str = "__streams.errors.offset";
