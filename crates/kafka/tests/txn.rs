//! How commits end, on the client's own mock cluster: its brokers answer what the test says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::outbox::{OutRecord, Outbox, Position};
use caudal_kafka::Kafka;
use caudal_kafka::args::RECORD_LIMIT;
use caudal_kafka::consumer::{GroupConsumer, GroupProtocol, Limits, Membership};
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::txn::{Flaw, GroupSnapshot, Guarantee, TxnError, TxnProducer, Written};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INPUT: &str = "input";
const LOG: &str = "log";
const OTHER: &str = "other";
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    fn new() -> Cluster {
        let cluster = MockCluster::new(1).unwrap();
        for topic in [INPUT, LOG, OTHER] {
            cluster.create_topic(topic, 2, 1).unwrap();
        }
        Cluster(cluster)
    }

    fn kafka(&self) -> Kafka {
        Kafka::plain(&self.0.bootstrap_servers())
    }

    fn producer(&self) -> TxnProducer {
        TxnProducer::connect(&self.kafka(), "test", Some(LOG), PATIENCE).unwrap()
    }

    /// A member of the group with its partitions.
    fn member(&self) -> GroupConsumer {
        let membership = Membership {
            group: "test".into(),
            instance: Some("one".into()),
            topics: vec![INPUT.into()],
            protocol: GroupProtocol::Classic,
        };
        let consumer = GroupConsumer::join(&self.kafka(), &membership).unwrap();
        let limits = Limits { records: 1, bytes: 1, idle: Duration::from_millis(100) };
        let until = Instant::now() + PATIENCE;
        while consumer.gather(&limits, Instant::now()).unwrap().changes.is_empty() {
            assert!(Instant::now() < until, "no assignment");
        }
        consumer
    }

    fn values(&self, topic: &str) -> Vec<Vec<u8>> {
        let mut reader = LogReader::connect(&self.kafka(), topic).unwrap();
        (0..2).for_each(|partition| reader.add(partition, None));
        let mut values = Vec::new();
        let sink = |record: caudal_core::decode::Record| -> caudal_kafka::Result<()> {
            values.push(record.value.unwrap().into_vec());
            Ok(())
        };
        reader.read_all(PATIENCE, sink).unwrap();
        assert_eq!(reader.records_read(), values.len() as u64);
        assert_eq!(reader.remaining(), 0);
        values
    }
}

fn record(topic: &str, partition: i32, value: Vec<u8>) -> OutRecord {
    let headers = vec![("h", b"1".to_vec())];
    OutRecord {
        topic: Arc::from(topic),
        partition,
        key: None,
        value: Some(value),
        origin: None,
        headers,
    }
}

fn outbox(values: &[&str]) -> Outbox {
    let records = values
        .iter()
        .flat_map(|value| [LOG, OTHER].map(|topic| record(topic, 1, value.as_bytes().to_vec())));
    let position = Position {
        topic: Arc::from(INPUT),
        partition: 0,
        next_offset: values.len() as i64,
        metadata: "1:7".to_owned(),
    };
    Outbox { records: records.collect(), positions: vec![position] }
}

#[test]
fn a_commit_tells_the_lowest_offset_of_each_watched_partition() {
    let cluster = Cluster::new();
    let mut producer = cluster.producer();
    let mut first = outbox(&["a", "b"]);
    first.records.push(record(LOG, 0, b"c".to_vec()));
    assert_eq!(producer.commit(&mut first, None).unwrap(), Written::from([(0, 0), (1, 0)]));
    let second = producer.commit(&mut outbox(&["d"]), None).unwrap();
    assert_eq!(second.keys().collect::<Vec<_>>(), [&1], "of this txn only");
    assert!(second[&1] >= 2, "{second:?}");
}

#[test]
fn a_stale_member_is_aborted_and_the_next_commit_works() {
    let cluster = Cluster::new();
    let (mut producer, member) = (cluster.producer(), cluster.member());
    for answer in [
        Answer::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
        Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        Answer::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
        Answer::RD_KAFKA_RESP_ERR_STALE_MEMBER_EPOCH,
    ] {
        cluster.0.request_errors(Api::TxnOffsetCommit, &[answer]);
        let group = GroupSnapshot::take(&member);
        let ended = producer.commit(&mut outbox(&["a"]), group.as_ref());
        assert!(matches!(ended, Err(TxnError::Aborted(_))), "{answer:?}: {ended:?}");
        producer.commit(&mut outbox(&["b"]), group.as_ref()).unwrap();
    }
}

#[test]
fn an_unknown_answer_to_the_commit_is_a_doubt_until_the_producer_is_replaced() {
    let cluster = Cluster::new();
    let mut producer = cluster.producer();
    cluster.0.request_errors(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_UNKNOWN]);
    let ended = producer.commit(&mut outbox(&["a"]), None);
    assert!(matches!(ended, Err(TxnError::Doubt(_))), "{ended:?}");
    producer.replace(PATIENCE).unwrap();
    producer.commit(&mut outbox(&["b"]), None).unwrap();
}

#[test]
fn a_newer_producer_fences_at_every_step() {
    let answer = Answer::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;
    for step in [Api::AddPartitionsToTxn, Api::Produce, Api::TxnOffsetCommit, Api::EndTxn] {
        let cluster = Cluster::new();
        let (mut producer, member) = (cluster.producer(), cluster.member());
        cluster.0.request_errors(step, &[answer]);
        let group = GroupSnapshot::take(&member);
        let ended = producer.commit(&mut outbox(&["a"]), group.as_ref());
        assert!(matches!(ended, Err(TxnError::Fenced(_))), "{step:?}: {ended:?}");
    }
}

#[test]
fn a_record_that_is_too_large_is_named_and_the_rest_can_be_committed() {
    let cluster = Cluster::new();
    let mut producer = cluster.producer();
    let mut all = outbox(&["a"]);
    all.records.push(record(OTHER, 1, vec![0; RECORD_LIMIT]));
    let Err(TxnError::Refused(refusal)) = producer.commit(&mut all, None) else {
        panic!("accepted")
    };
    assert_eq!((refusal.record, &*refusal.topic, refusal.partition), (2, OTHER, 1));
    let flaw = Flaw::Size { bytes: RECORD_LIMIT + 2, limit: RECORD_LIMIT };
    assert_eq!(refusal.flaw, flaw);
    assert!(refusal.is_of_record());
    all.records.pop();
    producer.commit(&mut all, None).unwrap();
}

#[test]
fn a_record_that_the_broker_refuses_is_named() {
    let cluster = Cluster::new();
    let mut producer = cluster.producer();
    let answer = Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.0.request_errors(Api::Produce, &[answer]);
    let mut one = Outbox { records: vec![record(LOG, 0, b"a".to_vec())], positions: Vec::new() };
    let Err(TxnError::Refused(refusal)) = producer.commit(&mut one, None) else {
        panic!("accepted")
    };
    assert_eq!((refusal.record, &*refusal.topic), (0, LOG));
    assert!(refusal.is_of_record());
    producer.commit(&mut one, None).unwrap();
}

#[test]
fn a_partition_that_does_not_exist_is_no_fault_of_the_record() {
    let cluster = Cluster::new();
    let mut producer = cluster.producer();
    producer.commit(&mut outbox(&["a"]), None).unwrap();
    let mut one = Outbox { records: vec![record(LOG, 9, b"a".to_vec())], positions: Vec::new() };
    let Err(TxnError::Refused(refusal)) = producer.commit(&mut one, None) else {
        panic!("accepted")
    };
    assert_eq!(refusal.flaw, Flaw::Topic);
    assert!(!refusal.is_of_record());
}

#[test]
fn at_least_once_commits_positions_after_the_records() {
    let cluster = Cluster::new();
    let member = cluster.member();
    let mut producer = TxnProducer::connect_with(
        &cluster.kafka(),
        "test",
        Guarantee::AtLeastOnce,
        Some(LOG),
        PATIENCE,
    )
    .unwrap();
    let group = GroupSnapshot::take(&member);
    let written = producer.commit(&mut outbox(&["a", "b"]), group.as_ref()).unwrap();
    assert_eq!(written, Written::from([(1, 0)]));
    let at = (Arc::from(INPUT), 0);
    let committed = member.committed(std::slice::from_ref(&at)).unwrap();
    let committed = committed[&at].as_ref().unwrap();
    assert_eq!((committed.next_offset, committed.metadata.as_str()), (2, "1:7"));

    // The records stay although the positions were refused: the work is done again.
    cluster.0.request_errors(Api::OffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID; 1]);
    let ended = producer.commit(&mut outbox(&["c", "d", "e"]), group.as_ref());
    assert!(matches!(ended, Err(TxnError::Doubt(_))), "{ended:?}");
    let committed = member.committed(std::slice::from_ref(&at)).unwrap();
    assert_eq!(committed[&at].as_ref().unwrap().next_offset, 2);
    assert_eq!(cluster.values(LOG), ["a", "b", "c", "d", "e"].map(|v| v.as_bytes().to_vec()));
}
