//! Transactions over HTTP: 200 only after their txn has been committed.
//!
//! A request is read, mapped and validated whole on the threads of [`server`]; the thread that
//! called [`run`] commits whatever waits, one txn at a time ([`queue`]). The client's retry with the
//! same ids is safe: the processor counts it as a duplicate. What was committed is counted in
//! `caudal_progreso` like a file, so that a txn in doubt can be settled and `verify` can compare.

pub mod answer;
pub mod args;
pub mod body;
pub mod budget;
pub mod lines;
pub mod metrics;
pub mod queue;
pub mod route;
pub mod server;
pub mod token;

use crate::args::ProducerArgs;
use crate::commit::Committer;
use crate::mapping::check_source;
use crate::metrics::Metrics;
use crate::progress::{Progress, Tally};
use crate::run::{BATCH_BYTES, Connected};
use anyhow::Result;
use budget::Budget;
use caudal_kafka::Kafka;
use caudal_service::http::Readiness;
use caudal_service::shutdown::Shutdown;
use lines::Mapper;
use metrics::HttpMetrics;
use queue::{FILE, Grouping, Limits, Pulse};
use route::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use token::Token;

/// Name of the source unless another is chosen.
const SOURCE: &str = "http";
/// Memory of all requests together, in bytes.
const BUDGET: usize = 64 << 20;
/// What the last answers may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves until a stop is asked for.
///
/// # Errors
/// `Usage` for wrong arguments; when a newer producer runs for this source; when Kafka refuses for
/// a quarter of an hour.
pub fn run(
    (args, address): (&ProducerArgs, SocketAddr),
    kafka: &Kafka,
    metrics: &Metrics,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Result<()> {
    let token = Token::read(&args.http, address)?;
    let source = args.source.clone().unwrap_or_else(|| SOURCE.into());
    check_source(&source)?;
    // First, so that clients of a predecessor wait instead of being refused.
    let listener = server::bind(address)?;
    let http_metrics = HttpMetrics::register(&metrics.registry)?;
    let Connected { producer, envelope, standing } = Connected::to(kafka, args, &source)?;
    let new = Progress { source: source.clone(), file: FILE.into(), ..Progress::default() };
    let progress = standing.of(FILE).cloned().unwrap_or(new);
    let max_records = usize::try_from(args.batch_records).unwrap_or(usize::MAX);
    let next = i64::try_from(progress.line).unwrap_or(i64::MAX).saturating_add(1);
    let (sender, requests) = sync_channel(server::CONNECTIONS);
    let pulse = Arc::new(Pulse::default());
    let endpoint = Arc::new(Endpoint {
        token,
        mapper: Mapper::new(envelope, format!("{source}/{FILE}"), next, max_records),
        budget: Budget::of(BUDGET),
        queue: sender,
        pulse: Arc::clone(&pulse),
        metrics: http_metrics,
        shutdown: shutdown.clone(),
    });
    let mut grouping = Grouping {
        requests,
        committer: Committer::new(kafka, &source, producer, metrics, shutdown),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
        pulse,
        limits: Limits {
            records: max_records,
            bytes: BATCH_BYTES,
            drain: server::DRAIN + LAST_WORDS,
        },
        tally: Tally::of(&progress)?,
        progress,
    };
    let before = grouping.progress.clone();
    tracing::info!(
        "taking transactions on http://{}{}",
        listener.local_addr()?,
        route::TRANSACTIONS
    );
    let server = server::start(listener, endpoint, readiness.clone())?;
    let ended = grouping.run();
    let after = grouping.progress.clone();
    // Whoever still waits is told that this producer stops.
    drop(grouping);
    shutdown.ask();
    server.finish(LAST_WORDS);
    ended?;
    tracing::info!(
        stored_now = after.records - before.records + after.elsewhere - before.elsewhere,
        stored = after.records + after.elsewhere,
        "stopped in good order"
    );
    Ok(())
}
