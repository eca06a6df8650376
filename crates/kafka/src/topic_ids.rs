//! Ids of topics (KIP-516): a topic that is deleted and created again has the same name, and
//! another id.
//!
//! The client's safe interface does not tell them. This is the one file that calls librdkafka
//! itself: DescribeTopics, whose answer is copied and freed before anything else happens.
#![allow(unsafe_code, reason = "rdkafka 0.39 does not wrap DescribeTopics")]

use crate::args::Kafka;
use crate::consumer::Quiet;
use crate::error::{Error, Result};
use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// How long the brokers may take to answer.
const CALL: Duration = Duration::from_secs(5);
/// How much longer the answer is waited for: the client reports the end of its own time-out.
const GRACE: Duration = Duration::from_secs(1);
const WHAT: &str = "cannot read the ids of topics";
/// What brokers before Kafka 2.8 answer: they have no ids.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Topic → id, in the base64 of `kafka-topics.sh --describe`. A topic that the broker that was
/// asked does not know is left out: it does not exist, or was made a moment ago.
///
/// # Errors
/// Transient when the cluster does not answer within seconds; permanent when it refuses, or has no
/// ids (before Kafka 2.8).
pub fn topic_ids(kafka: &Kafka, topics: &[impl AsRef<str>]) -> Result<BTreeMap<String, String>> {
    let client: BaseConsumer<Quiet> = kafka
        .config()
        .create_with_context(Quiet)
        .map_err(|e| Error::new("cannot create a client", &e))?;
    ask(client.client(), topics)
}

/// As [`topic_ids`], by a client that is there already.
pub(crate) fn ask<C: ClientContext>(
    client: &Client<C>,
    topics: &[impl AsRef<str>],
) -> Result<BTreeMap<String, String>> {
    // A name given twice would be refused.
    let names: BTreeSet<&str> = topics.iter().map(AsRef::as_ref).collect();
    let names: std::result::Result<Vec<CString>, _> = names.into_iter().map(CString::new).collect();
    let names = names.map_err(|e| Error::permanent(WHAT, e))?;
    let answer = describe(client, &names)?;
    let mut ids = BTreeMap::new();
    for &topic in descriptions(&answer) {
        match id_of(topic)? {
            Some((_, id)) if id == NO_ID => {
                return Err(Error::permanent(
                    WHAT,
                    "the brokers have none; Kafka 2.8 or later does",
                ));
            }
            Some((name, id)) => ids.insert(name, id),
            None => None,
        };
    }
    Ok(ids)
}

/// Something of librdkafka's that is freed at the end.
struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// `pointer` must be null, or owned by nobody else and freed by `free`.
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Owned<T>> {
        NonNull::new(pointer)
            .map(|pointer| Owned { pointer, free })
            .ok_or_else(|| Error::permanent(WHAT, "the client gave nothing"))
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is valid and owned, as `new` asks for, and freed only here.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}

type Event = Owned<native::rd_kafka_event_t>;

/// Asks, and waits for the answer, which is no error.
fn describe<C: ClientContext>(client: &Client<C>, names: &[CString]) -> Result<Event> {
    let rk = client.native_ptr();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the names are valid strings, and librdkafka copies them; the collection is ours.
    let topics = Owned::new(
        unsafe {
            native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len())
        },
        native::rd_kafka_TopicCollection_destroy,
    )?;
    let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the client outlives this function; the options are ours.
    let options = Owned::new(
        unsafe { native::rd_kafka_AdminOptions_new(rk, operation) },
        native::rd_kafka_AdminOptions_destroy,
    )?;
    // SAFETY: the client outlives this function; the queue is ours.
    let queue =
        Owned::new(unsafe { native::rd_kafka_queue_new(rk) }, native::rd_kafka_queue_destroy)?;
    // SAFETY: `options` is valid, and the buffer for the error's words is as long as is said.
    let set = unsafe {
        let mut words = [0 as c_char; 256];
        let (at, size) = (words.as_mut_ptr(), words.len());
        native::rd_kafka_AdminOptions_set_request_timeout(options.get(), millis(CALL), at, size)
    };
    refuse(set.into())?;
    // SAFETY: all four are valid; the request keeps copies and its own reference to the queue, so
    // that what arrives after the queue is given back is freed by the client.
    let event = unsafe {
        native::rd_kafka_DescribeTopics(rk, topics.get(), options.get(), queue.get());
        native::rd_kafka_queue_poll(queue.get(), millis(CALL + GRACE))
    };
    if event.is_null() {
        return Err(Error::of_code(WHAT, Code::OperationTimedOut));
    }
    let event = Owned::new(event, native::rd_kafka_event_destroy)?;
    // SAFETY: the event is valid.
    refuse(unsafe { native::rd_kafka_event_error(event.get()) }.into())?;
    Ok(event)
}

fn millis(time: Duration) -> c_int {
    c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
}

fn refuse(code: Code) -> Result<()> {
    match code {
        Code::NoError => Ok(()),
        code => Err(Error::of_code(WHAT, code)),
    }
}

/// The answer, topic by topic; borrowed from the event.
fn descriptions(event: &Event) -> &[*const native::rd_kafka_TopicDescription_t] {
    let mut count = 0;
    // SAFETY: the event is valid; the result, null for an event of another kind, and the array of
    // `count` pointers live as long as it does.
    unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.get());
        if result.is_null() {
            return &[];
        }
        let first =
            native::rd_kafka_DescribeTopics_result_topics(result, ptr::from_mut(&mut count));
        if first.is_null() {
            return &[];
        }
        std::slice::from_raw_parts(first, count)
    }
}

/// Name and id of a topic in an answer; `None` when there is no such topic.
fn id_of(topic: *const native::rd_kafka_TopicDescription_t) -> Result<Option<(String, String)>> {
    if topic.is_null() {
        return Ok(None);
    }
    // SAFETY: the topic is one of a valid event's, and so are its error, which may be null (no
    // error, by librdkafka's own rule), its name and its id.
    let (code, name, id) = unsafe {
        let error = native::rd_kafka_TopicDescription_error(topic);
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        (
            Code::from(native::rd_kafka_error_code(error)),
            native::rd_kafka_TopicDescription_name(topic),
            if id.is_null() { ptr::null() } else { native::rd_kafka_Uuid_base64str(id) },
        )
    };
    if matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic) {
        return Ok(None);
    }
    refuse(code)?;
    let text = |text: *const c_char| match text.is_null() {
        true => Err(Error::permanent(WHAT, "the client gave no text")),
        // SAFETY: a string of librdkafka's that lives as long as the event.
        false => Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()),
    };
    Ok(Some((text(name)?, printed(&text(id)?))))
}

/// Kafka prints ids in the base64 of URLs, librdkafka in that of mails.
fn printed(base64: &str) -> String {
    base64.replace('+', "-").replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn ids_are_as_kafka_prints_them() {
        assert_eq!(printed("a+b/cAAAAAAAAAAAAAAAAA"), "a-b_cAAAAAAAAAAAAAAAAA");
    }

    #[test]
    fn a_cluster_that_is_away_is_a_transient_error_within_seconds() {
        // Port 1 of this machine: nobody listens there.
        let kafka = Kafka::plain("127.0.0.1:1");
        let begun = Instant::now();
        let error = topic_ids(&kafka, &["a", "b", "a"]).unwrap_err();
        assert!(error.transient, "{error}");
        assert!(begun.elapsed() < CALL + GRACE + Duration::from_secs(2));
    }

    #[test]
    fn no_topics_and_no_names_need_no_cluster() {
        let kafka = Kafka::plain("127.0.0.1:1");
        assert!(topic_ids(&kafka, &[""; 0]).unwrap().is_empty());
        assert!(!topic_ids(&kafka, &["a\0b"]).unwrap_err().transient);
        assert!(!topic_ids(&kafka, &[""]).unwrap_err().transient);
    }
}
