//! How a txn ended when it did not commit: what librdkafka said, sorted by what it proves.
//!
//! librdkafka knows three flags: fatal, requires-abort, retriable. They say what the *client* can
//! do next, not what is true on the brokers, and two of them mislead:
//! - a request that was never answered may still arrive. librdkafka gives up on offsets after the
//!   time-out with requires-abort; the abort may succeed, and the late request then puts old
//!   offsets into the *next* txn of the same epoch. So whatever speaks of an answer that did not
//!   come is a doubt first, flags or not: a new producer raises the epoch, and what is late is
//!   refused;
//! - `commit_transaction` reports requires-abort for answers to EndTxn that it does not know, when
//!   the coordinator may have committed. So after the commit was asked for, only failed deliveries
//!   (EndTxn is not sent then: `rd_kafka_txn_op_commit_transaction`) can be aborted.

use crate::error::is_transient;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::fmt;
use std::sync::Arc;

/// How a txn ended when it did not commit.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// Aborted: nothing of it exists. Forget the batch, rewind the input, go on.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// Aborted because of a record that can never be written as it is: the same outbox would be
    /// aborted again.
    #[error("the transaction was aborted: {0}")]
    Refused(Refusal),
    /// Nobody knows: a call timed out or the connection broke. Replace the producer (its epoch
    /// fences whatever is still on its way), then look at the committed offset.
    #[error("the transaction is in doubt: {0}")]
    Doubt(String),
    /// A newer producer with the same `transactional.id` has taken over, or the coordinator gave
    /// this one up (`transaction.timeout.ms`). Nothing can be done with this instance.
    #[error("fenced by a newer instance with the same transactional.id: {0}")]
    Fenced(String),
}

/// A record that can never be written as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its index in the outbox.
    pub record: usize,
    /// Where to it was to be written.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// What is wrong with it.
    pub flaw: Flaw,
    /// What the client or the broker said.
    pub cause: String,
}

/// What is wrong with a refused record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It is too large; in bytes of key, value and headers. The limit is the client's: a topic may
    /// have a lower one.
    Size {
        /// Of the record.
        bytes: usize,
        /// Of the client.
        limit: usize,
    },
    /// The broker refuses its content or its time.
    Content,
    /// Not the record but its topic: it or the partition does not exist, or may not be written to.
    Topic,
}

impl Refusal {
    /// Whether the fault is the record's own, so that it can become a dead letter. Otherwise it is
    /// its topic's, which an operator can put right.
    #[must_use]
    pub fn is_of_record(&self) -> bool {
        self.flaw != Flaw::Topic
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} cannot be written to {}-{}", self.record, self.topic, self.partition)?;
        if let Flaw::Size { bytes, limit } = self.flaw {
            write!(f, ": it has {bytes} bytes, the client takes {limit}")?;
        }
        write!(f, ": {}", self.cause)
    }
}

/// What a refusing code says of the record; `None` when the code does not refuse it for good.
pub(crate) fn flaw(code: Code, bytes: usize, limit: usize) -> Option<Flaw> {
    match code {
        Code::MessageSizeTooLarge => Some(Flaw::Size { bytes, limit }),
        Code::InvalidRecord | Code::InvalidTimestamp => Some(Flaw::Content),
        Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed => Some(Flaw::Topic),
        _ => None,
    }
}

/// Sorts an error of begin, produce, or send_offsets. `Aborted` and `Refused` mean: to be aborted.
pub(crate) fn classify(error: &KafkaError) -> TxnError {
    let (requires_abort, local) = match error {
        KafkaError::Transaction(e) => (e.txn_requires_abort(), false),
        KafkaError::MessageProduction(_) => (false, true),
        _ => (false, false),
    };
    sorted(error.rdkafka_error_code(), requires_abort || local, error.to_string())
}

/// Sorts an error of `commit_transaction`: `can_abort` when EndTxn was certainly not sent.
pub(crate) fn classify_commit(error: &KafkaError, can_abort: bool) -> TxnError {
    match classify(error) {
        TxnError::Aborted(cause) if !can_abort => TxnError::Doubt(cause),
        other => other,
    }
}

fn sorted(code: Option<Code>, abortable: bool, text: String) -> TxnError {
    match code {
        // librdkafka makes INVALID_PRODUCER_EPOCH and PRODUCER_FENCED into _FENCED for calls, and
        // leaves them as they are for deliveries.
        Some(Code::ProducerFenced | Code::InvalidProducerEpoch | Code::Fenced) => {
            TxnError::Fenced(text)
        }
        // No answer, or "not now" until the time was over: see above.
        Some(code) if is_transient(code) => TxnError::Doubt(text),
        // `send` refuses everything once the client has failed for good; what had failed first
        // decides, and the abort that is tried next tells it.
        _ if abortable => TxnError::Aborted(text),
        _ => TxnError::Doubt(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: &TxnError) -> &'static str {
        match error {
            TxnError::Aborted(_) => "aborted",
            TxnError::Refused(_) => "refused",
            TxnError::Doubt(_) => "doubt",
            TxnError::Fenced(_) => "fenced",
        }
    }

    #[test]
    fn no_answer_is_a_doubt_even_when_the_client_would_abort() {
        for code in [
            Code::OperationTimedOut,
            Code::TimedOutQueue,
            Code::MessageTimedOut,
            Code::RequestTimedOut,
            Code::BrokerTransportFailure,
            Code::NotCoordinator,
            Code::CoordinatorNotAvailable,
            Code::ConcurrentTransactions,
        ] {
            assert_eq!(kind(&sorted(Some(code), true, String::new())), "doubt", "{code}");
        }
    }

    #[test]
    fn a_stale_member_is_aborted_and_a_newer_producer_fences() {
        for code in [Code::IllegalGeneration, Code::UnknownMemberId, Code::FencedInstanceId] {
            assert_eq!(kind(&sorted(Some(code), true, String::new())), "aborted", "{code}");
        }
        for code in [Code::Fenced, Code::ProducerFenced, Code::InvalidProducerEpoch] {
            assert_eq!(kind(&sorted(Some(code), true, String::new())), "fenced", "{code}");
            assert_eq!(kind(&sorted(Some(code), false, String::new())), "fenced", "{code}");
        }
    }

    #[test]
    fn what_is_unknown_is_a_doubt() {
        for code in [Code::State, Code::Fatal, Code::InvalidTransactionalState, Code::Unknown] {
            assert_eq!(kind(&sorted(Some(code), false, String::new())), "doubt", "{code}");
        }
        assert_eq!(kind(&sorted(None, false, String::new())), "doubt");
        assert_eq!(kind(&classify(&KafkaError::Canceled)), "doubt");
    }

    #[test]
    fn records_that_can_never_be_written_are_told_apart() {
        assert_eq!(flaw(Code::MessageSizeTooLarge, 9, 8), Some(Flaw::Size { bytes: 9, limit: 8 }));
        assert_eq!(flaw(Code::UnknownPartition, 1, 8), Some(Flaw::Topic));
        assert_eq!(flaw(Code::QueueFull, 1, 8), None);
        assert_eq!(flaw(Code::NotEnoughReplicas, 1, 8), None);
    }
}
