//! The course's commands, as the course writes them, on a stack that is already up.
//!
//! The caller evaluates `caudal stack env` first; without its `BOOTSTRAP_SERVERS` there is nothing
//! to test against, and the test says so. With a port offset the literal `localhost:9092` is
//! replaced by this stack's first broker.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use caudal_stack::Stack;

/// Long enough for a broker to start and for its replicas to catch up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct Course {
    stack: Stack,
    env: String,
    broker: String,
}

impl Course {
    fn open() -> Option<Course> {
        let servers = std::env::var("BOOTSTRAP_SERVERS").ok().filter(|text| !text.is_empty())?;
        let stack = Stack::open().unwrap();
        assert_eq!(
            servers,
            stack.bootstrap_servers(),
            "BOOTSTRAP_SERVERS is not of the stack that CAUDAL_HOME and CAUDAL_PORT_OFFSET name"
        );
        let env = stack.env_script().unwrap();
        let broker = servers.split(',').next().unwrap().to_owned();
        Some(Course { stack, env, broker })
    }

    /// Runs a line of the course in bash, after the environment script.
    fn run(&self, line: &str) -> Output {
        let line = line.replace("localhost:9092", &self.broker);
        println!("$ {line}");
        // A terminal's own settings must not decide what a test sees.
        let script = format!("set -o pipefail\n{}\n{line}\n", self.env);
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        print!("{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Standard output of a line that must succeed.
    fn stdout(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Repeats a line until its output is as wished.
    fn until(&self, line: &str, what: &str, wished: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.run(line);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() && wished(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "not in time: {what}\n{text}");
        }
    }
}

const TOPIC: &str = "transacciones";
const ISR: &str =
    "kafka-topics.sh --describe --topic transacciones --bootstrap-server localhost:9092 | grep ISR";

/// True when every one of the six partitions has `live` of three replicas in sync.
fn all_in_sync(text: &str, live: u32) -> bool {
    let words = format!("({live} of 3 in sync)");
    text.lines().count() == 6
        && text.lines().all(|line| line.starts_with("ISR transacciones-") && line.ends_with(&words))
}

/// One test, because the parts follow each other on one cluster.
#[test]
fn the_course_runs_as_written() {
    let Some(course) = Course::open() else {
        println!("skipped: no test stack (BOOTSTRAP_SERVERS is not set)");
        return;
    };
    make_topic(&course);
    a_broker_stops_and_returns(&course);
    leaders_return(&course);
    retention_changes_live(&course);
    rights_are_given(&course);
    lag_is_shown(&course);
    exit_codes_are_kafkas(&course);
}

fn make_topic(course: &Course) {
    // No retention of its own: the brokers' setting must act on it.
    course.stdout(
        "kafka-topics.sh --create --if-not-exists --topic transacciones --partitions 6 \
         --bootstrap-server localhost:9092",
    );
    course.until(ISR, "all replicas in sync at the start", |text| all_in_sync(text, 3));
}

fn a_broker_stops_and_returns(course: &Course) {
    let stopped = course.stdout("docker stop broker-2");
    assert_eq!(stopped.trim(), "broker-2");
    assert_eq!(course.stack.pid("broker-2"), None);
    assert!(!course.stdout("docker ps").contains("broker-2"));
    let text = course.until(ISR, "broker-2 left the ISR", |text| all_in_sync(text, 2));
    for line in text.lines() {
        let isr = line.split_whitespace().nth(2).unwrap();
        assert!(!isr.split(',').any(|id| id == "2"), "{line}");
    }
    let started = course.stdout("docker start broker-2");
    assert_eq!(started.trim(), "broker-2");
    assert!(course.stdout("docker ps").contains("broker-2"));
    course.until(ISR, "broker-2 is in sync again", |text| all_in_sync(text, 3));
}

/// Partition, leader and first replica of each line of a description.
fn leaders(text: &str) -> Vec<(String, String, String)> {
    let after = |line: &str, key: &str| -> Option<String> {
        let (_, rest) = line.split_once(key)?;
        Some(rest.split_whitespace().next()?.to_owned())
    };
    text.lines()
        .filter_map(|line| {
            let replicas = after(line, "Replicas: ")?;
            let preferred = replicas.split(',').next()?.to_owned();
            Some((after(line, "Partition: ")?, after(line, "Leader: ")?, preferred))
        })
        .collect()
}

fn leaders_return(course: &Course) {
    let describe = format!("kafka-topics.sh --describe --topic {TOPIC}");
    let away = |text: &str| leaders(text).iter().filter(|(_, now, first)| now != first).count();
    let before = course.stdout(&describe);
    assert_eq!(leaders(&before).len(), 6);
    assert!(away(&before) > 0, "broker-2 was away, so its partitions must have other leaders");
    let output =
        course.run("kafka-preferred-replica-election.sh --bootstrap-server localhost:9092");
    assert!(output.status.success());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("kafka-leader-election.sh --election-type preferred"), "{words}");
    course.until(&describe, "leaders are the preferred ones", |text| away(text) == 0);
}

fn retention_changes_live(course: &Course) {
    let before = course.stack.pid("broker-1");
    course.stdout(
        "kafka-configs.sh --alter --entity-type brokers --entity-name 1 --add-config \
         log.retention.ms=604800000",
    );
    course.until(
        "kafka-configs.sh --describe --entity-type brokers --entity-name 1",
        "the broker has a dynamic retention",
        |text| {
            text.lines().any(|line| {
                line.contains("log.retention.ms=604800000") && line.contains("DYNAMIC_BROKER")
            })
        },
    );
    // A broker shows what a topic inherits from its own settings, and a tool asks any of them:
    // repeated until it was broker 1. The value equals the static 168 hours, hence the source.
    course.until(
        &format!(
            "kafka-configs.sh --describe --all --entity-type topics --entity-name {TOPIC} \
             --bootstrap-server localhost:9092"
        ),
        "the topic inherits it",
        |text| {
            text.lines().any(|line| {
                line.trim().starts_with("retention.ms=604800000")
                    && line.contains("DYNAMIC_BROKER_CONFIG:log.retention.ms=604800000")
                    && !line.contains("DYNAMIC_TOPIC_CONFIG")
            })
        },
    );
    assert_eq!(course.stack.pid("broker-1"), before, "no restart was needed");
    course.stdout(
        "kafka-configs.sh --alter --entity-type brokers --entity-name 1 --delete-config \
         log.retention.ms",
    );
}

fn rights_are_given(course: &Course) {
    course.stdout(
        "kafka-acls.sh --add --allow-principal User:analitica --operation Read --topic \
         ventas_gold --bootstrap-server localhost:9092",
    );
    course.until(
        "kafka-acls.sh --list --topic ventas_gold --bootstrap-server localhost:9092",
        "the right is listed",
        |text| text.contains("User:analitica") && text.contains("operation=READ"),
    );
    course.stdout(
        "kafka-acls.sh --remove --force --allow-principal User:analitica --operation Read \
         --topic ventas_gold --bootstrap-server localhost:9092",
    );
}

/// On a topic of its own: what lies in `transacciones` is accounted for, line by line.
fn lag_is_shown(course: &Course) {
    course.stdout("kafka-topics.sh --create --if-not-exists --topic curso --partitions 1");
    course.stdout("echo '{}' | kafka-console-producer.sh --topic curso");
    course.stdout(
        "kafka-console-consumer.sh --topic curso --group curso-semana-4 --from-beginning \
         --max-messages 1 --timeout-ms 60000",
    );
    course.until(
        "kafka-consumer-groups.sh --bootstrap-server localhost:9092 --group curso-semana-4 \
         --describe",
        "the group has a lag column and this topic",
        |text| text.contains("LAG") && text.contains("curso "),
    );
    course.stdout("kafka-consumer-groups.sh --delete --group curso-semana-4");
    course.stdout("kafka-topics.sh --delete --topic curso");
}

fn exit_codes_are_kafkas(course: &Course) {
    let output = course.run("kafka-topics.sh --describe --topic no-such-topic");
    assert_eq!(output.status.code(), Some(1));
    let output = course.run("kafka-storage.sh random-uuid");
    assert_eq!(output.status.code(), Some(0));
}
