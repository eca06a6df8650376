//! `caudal topics plan|apply|migrate`: topics as code.

pub mod migrate;

use anyhow::{Context as _, Result, bail};
use caudal_kafka::KafkaArgs;
use caudal_kafka::admin::{Admin, Topic};
use caudal_processor::shared::Shared;
use caudal_processor::topics_check::partitioned;
use caudal_query::plan::shipped;
use clap::Subcommand;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

const SHIPPED: &str = include_str!("../../../config/topics.toml");

/// Subcommands of `caudal topics`.
#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Show the difference between topics.toml and the cluster; exit 1 if there is any
    Plan(TopicsArgs),
    /// Make the difference: create topics and change settings; never delete, shrink, or grow a
    /// keyed topic
    Apply(TopicsArgs),
    /// More partitions for the topics whose keys have state: grow them together, and move the state
    /// after its keys. Stop producers, processor and sink first. Run it again if it was interrupted
    ///
    /// Each remembered transaction id is copied to N / gcd(N, now) partitions: twice the present
    /// number costs two copies, a number that shares no divisor with it N copies, until the dedup
    /// horizon has passed
    Migrate(migrate::MigrateArgs),
}

/// What both take.
#[derive(Debug, clap::Args)]
pub struct TopicsArgs {
    /// The wanted topics [default: the shipped config/topics.toml]
    #[arg(long, env = "CAUDAL_TOPICS", value_name = "FILE")]
    topics: Option<PathBuf>,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    defaults: Defaults,
    topics: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    replication: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    partitions: i32,
    replication: Option<i32>,
    #[serde(default)]
    keyed: bool,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

/// A wanted topic, and whether its partition count decides where keys live.
#[derive(Debug, Clone)]
struct Wanted {
    topic: Topic,
    keyed: bool,
}

/// One step from the cluster to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Create(Topic),
    Configure {
        topic: String,
        changed: Vec<(String, Option<String>, String)>,
        all: BTreeMap<String, String>,
    },
    /// The topic was grown: no difference, because partitions cannot be taken away.
    Grown {
        topic: String,
        has: i32,
        file: i32,
    },
    /// A difference that is not made: said, with what to do.
    Refuse {
        topic: String,
        why: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Create(t) => {
                write!(f, "+ {}  {} partitions, {} replicas", t.name, t.partitions, t.replication)?;
                t.config.iter().try_for_each(|(k, v)| write!(f, "  {k}={v}"))
            }
            Step::Configure { topic, changed, .. } => {
                write!(f, "~ {topic}")?;
                changed.iter().try_for_each(|(key, old, new)| {
                    write!(f, "  {key}: {} -> {new}", old.as_deref().unwrap_or("(inherited)"))
                })
            }
            Step::Grown { topic, has, file } => {
                write!(f, "= {topic}  has {has} partitions, the file says {file}")
            }
            Step::Refuse { topic, why } => write!(f, "! {topic}  {why}"),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the file cannot be used, the cluster does not answer, or a plan is not empty.
pub async fn run(command: &TopicsCommand) -> Result<()> {
    match command {
        // Both block on a runtime of their own (the Kafka admin client's).
        TopicsCommand::Plan(args) => block_in_place(|| compare(args, Purpose::Plan)),
        TopicsCommand::Apply(args) => block_in_place(|| compare(args, Purpose::Apply)),
        TopicsCommand::Migrate(args) => migrate::run(args).await,
    }
}

enum Purpose {
    Plan,
    Apply,
}

fn compare(args: &TopicsArgs, purpose: Purpose) -> Result<()> {
    let admin = Admin::connect(&args.kafka.connect("caudal-topics")?)?;
    let (grown, steps) = split(plan(&wanted(args.topics.as_ref())?, &admin.topics()?));
    grown.iter().for_each(|note| println!("{note}"));
    if steps.is_empty() {
        println!("topics: as wanted");
        return Ok(());
    }
    steps.iter().for_each(|step| println!("{step}"));
    match purpose {
        Purpose::Plan => {
            bail!("{} differences; make them with `caudal topics apply`", steps.len())
        }
        Purpose::Apply => make(&admin, &steps),
    }
}

/// What [`apply_shipped`] did.
pub struct Applied {
    /// Steps made.
    pub changes: usize,
    /// A word on topics that have more partitions than the file says.
    pub note: Option<String>,
}

/// Creates and configures what the shipped file wants, silently: what `stack up` and the demo do.
///
/// # Errors
/// When the cluster refuses.
pub fn apply_shipped(kafka: &caudal_kafka::Kafka) -> Result<Applied> {
    let admin = Admin::connect(kafka)?;
    let (note, steps) = split(plan(&wanted(None)?, &admin.topics()?));
    make(&admin, &steps)?;
    Ok(Applied { changes: steps.len(), note })
}

/// The steps without those topics that were grown, and one line on these.
fn split(steps: Vec<Step>) -> (Option<String>, Vec<Step>) {
    let (grown, steps): (Vec<Step>, Vec<Step>) =
        steps.into_iter().partition(|step| matches!(step, Step::Grown { .. }));
    let note = match &grown[..] {
        [] => None,
        [one] => Some(one.to_string()),
        [first, rest @ ..] => Some(format!("{first}; so do {} more: they were grown", rest.len())),
    };
    let note = note.map(|note| note + ". Correct the file, so that a new cluster gets as many");
    (note, steps)
}

/// Creates every topic of the shipped file without looking first: after a deletion a broker may
/// still list what the controller, which answers this, has forgotten.
///
/// # Errors
/// When the cluster refuses.
pub fn create_shipped(admin: &Admin) -> Result<()> {
    wanted(None)?.iter().try_for_each(|wanted| Ok(admin.create(&wanted.topic)?))
}

/// Names of the topics that the shipped file declares.
///
/// # Errors
/// When the shipped file cannot be read.
pub fn shipped_names() -> Result<Vec<String>> {
    Ok(wanted(None)?.into_iter().map(|w| w.topic.name).collect())
}

fn make(admin: &Admin, steps: &[Step]) -> Result<()> {
    let mut refused = 0;
    for step in steps {
        match step {
            Step::Create(topic) => admin.create(topic)?,
            Step::Configure { topic, all, .. } => admin.configure(topic, all)?,
            Step::Refuse { .. } => refused += 1,
            Step::Grown { .. } => {}
        }
    }
    let created: Vec<&str> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Create(topic) => Some(topic.name.as_str()),
            _ => None,
        })
        .collect();
    wait_until_seen(admin, &created)?;
    if refused > 0 {
        bail!("{refused} differences were not made (marked !); see the lines above");
    }
    Ok(())
}

/// The controller has made them; brokers hear of it a moment later, and a service that starts at
/// once may ask one that has not. Each look may be answered by another broker.
fn wait_until_seen(admin: &Admin, created: &[&str]) -> Result<()> {
    const LOOKS: u32 = 5;
    let (mut seen, until) = (0, Instant::now() + Duration::from_secs(30));
    while !created.is_empty() && seen < LOOKS {
        let topics = admin.topics()?;
        let all = created.iter().all(|name| topics.contains_key(*name));
        seen = if all { seen + 1 } else { 0 };
        if Instant::now() > until {
            bail!("the topics were created, but the brokers do not list them after 30 s");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn wanted(path: Option<&PathBuf>) -> Result<Vec<Wanted>> {
    let (name, text) = match path {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {} (--topics)", path.display()))?;
            (path.display().to_string(), text)
        }
        None => ("config/topics.toml".to_owned(), SHIPPED.to_owned()),
    };
    let file: File = toml::from_str(&text).with_context(|| format!("{name} cannot be used"))?;
    let entry = |(name, entry): (String, Entry)| Wanted {
        topic: Topic {
            name,
            partitions: entry.partitions,
            replication: entry.replication.unwrap_or(file.defaults.replication),
            config: entry.config,
        },
        keyed: entry.keyed,
    };
    Ok(file.topics.into_iter().map(entry).collect())
}

fn plan(wanted: &[Wanted], found: &BTreeMap<String, Topic>) -> Vec<Step> {
    wanted.iter().flat_map(|w| plan_topic(w, found.get(&w.topic.name))).collect()
}

/// Whether the processor needs as many partitions of it as of its input.
fn has_state(topic: &str) -> bool {
    let shared = Shared::new(shipped(), 1, 0);
    partitioned(&shared).iter().any(|name| ***name == *topic)
}

fn plan_topic(wanted: &Wanted, found: Option<&Topic>) -> Vec<Step> {
    let Some(found) = found else { return vec![Step::Create(wanted.topic.clone())] };
    let mut steps = Vec::new();
    let refuse = |why: String| Step::Refuse { topic: found.name.clone(), why };
    let (has, file) = (found.partitions, wanted.topic.partitions);
    if has > file {
        steps.push(Step::Grown { topic: found.name.clone(), has, file });
    } else if has < file {
        let difference = format!("has {has} partitions, not {file}");
        steps.push(refuse(if wanted.keyed || has_state(&found.name) {
            format!("{difference}; its keys would move away from their state: `caudal topics migrate --partitions {file}` grows all such topics and moves it")
        } else {
            format!("{difference}; grow it by hand with kafka-topics.sh --alter --partitions")
        }));
    }
    if found.replication != wanted.topic.replication {
        steps.push(refuse(format!(
            "has {} replicas, not {}; move them with kafka-reassign-partitions.sh",
            found.replication, wanted.topic.replication
        )));
    }
    let changed: Vec<_> = wanted
        .topic
        .config
        .iter()
        .filter(|(key, value)| found.config.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), found.config.get(key).cloned(), value.clone()))
        .collect();
    if !changed.is_empty() {
        // Settings that somebody else made stay: the request replaces all of a topic's own.
        let mut all = found.config.clone();
        all.extend(wanted.topic.config.clone());
        steps.push(Step::Configure { topic: found.name.clone(), changed, all });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(partitions: i32, config: &[(&str, &str)]) -> Topic {
        let config = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Topic { name: "t".into(), partitions, replication: 3, config }
    }

    fn steps(wanted: Topic, keyed: bool, found: Topic) -> Vec<Step> {
        plan(&[Wanted { topic: wanted, keyed }], &[("t".to_owned(), found)].into())
    }

    #[test]
    fn the_shipped_file_reads() {
        let names = shipped_names().expect("shipped file");
        assert!(names.iter().any(|n| n == "transacciones"));
        let all = wanted(None).expect("shipped file");
        let transacciones = all.iter().find(|w| w.topic.name == "transacciones").expect("topic");
        assert!(!transacciones.topic.config.contains_key("retention.ms"), "it inherits retention");
    }

    #[test]
    fn never_shrinks_or_grows_a_keyed_topic() {
        assert!(matches!(&steps(topic(6, &[]), true, topic(3, &[]))[..], [Step::Refuse { .. }]));
        let planned = steps(topic(6, &[]), true, topic(12, &[]));
        assert!(matches!(&planned[..], [Step::Grown { .. }]));
        let (note, left) = split([planned.clone(), planned].concat());
        let note = note.expect("a note");
        assert!(
            left.is_empty() && note.contains("has 12 partitions, the file says 6; so do 1 more")
        );
    }

    #[test]
    fn keeps_settings_of_others() {
        let planned = steps(topic(6, &[("a", "1")]), true, topic(6, &[("a", "0"), ("b", "2")]));
        let [Step::Configure { all, changed, .. }] = &planned[..] else { panic!("{planned:?}") };
        assert_eq!(all.len(), 2);
        assert_eq!(changed, &[("a".to_owned(), Some("0".to_owned()), "1".to_owned())]);
        assert!(
            steps(topic(6, &[("a", "1")]), true, topic(6, &[("a", "1"), ("b", "2")])).is_empty()
        );
    }
}
