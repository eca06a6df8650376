//! Errors of the Kafka client, sorted by what to do about them.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, and whether trying again can help.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct Error {
    /// The operation, for a person.
    pub what: String,
    /// What the client said.
    pub cause: String,
    /// Whether the cause passes by itself (a broker that is away, a leader being elected).
    pub transient: bool,
}

/// What failed when a consumer asked for an offset that its partition does not hold.
pub(crate) const OUT_OF_RANGE: &str = "an input offset is no longer in its partition";

impl Error {
    /// Whether a consumer asked for an offset that its partition does not hold, or no longer.
    #[must_use]
    pub fn is_out_of_range(&self) -> bool {
        self.what == OUT_OF_RANGE
    }

    pub(crate) fn new(what: impl Into<String>, cause: &KafkaError) -> Self {
        let transient = cause.rdkafka_error_code().is_some_and(is_transient);
        Error { what: what.into(), cause: cause.to_string(), transient }
    }

    pub(crate) fn of_code(what: impl Into<String>, code: Code) -> Self {
        Error { what: what.into(), cause: code.to_string(), transient: is_transient(code) }
    }

    pub(crate) fn permanent(what: impl Into<String>, cause: impl ToString) -> Self {
        Error { what: what.into(), cause: cause.to_string(), transient: false }
    }
}

/// Whether the error passes by itself.
pub(crate) fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::DestroyBroker
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::UnstableOffsetCommit
            // KIP-848: the group moved on, and the next heartbeat tells the member.
            | Code::StaleMemberEpoch
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::WaitingForCoordinator
            | Code::Resolve
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::ConcurrentTransactions
            | Code::OffsetNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::KafkaStorageError
    )
}
