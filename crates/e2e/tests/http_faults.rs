//! Two hundred clients over HTTP while brokers stop and start and the producer is killed: every
//! batch is sent again, with the same ids, until it gets a 200. Then each row is there exactly once,
//! and nothing else is.

use anyhow::{Context as _, Result, ensure};
use caudal_core::topics;
use caudal_e2e::fault::{Moments, Work, kill_in_flight, wait_until};
use caudal_e2e::flight::OpenTxns;
use caudal_e2e::http::is_ready;
use caudal_e2e::http_client::Client;
use caudal_e2e::pipeline::{Pipeline, Service};
use caudal_e2e::query;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const CLIENTS: u64 = 200;
const BATCH: u64 = 5;
/// Between a client's batches: so many are in flight at any time, and few enough to be processed
/// afterwards in seconds.
const PAUSE: Duration = Duration::from_secs(1);
/// One in so many acknowledged batches is sent once more, as by a client that lost the answer.
const REPEAT: u64 = 10;
const LIMIT: Duration = Duration::from_secs(180);

#[derive(Default)]
struct Sent {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

#[test]
fn what_got_a_200_is_stored_exactly_once() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("http_faults")? else { return Ok(()) };
    let mut moments = Moments::seeded();
    let faults: usize = std::env::var("CAUDAL_FAULTS").map_or(Ok(1), |text| text.parse())?;
    let (address, metrics) = (pipeline.metrics_address(20)?, pipeline.metrics_address(21)?);
    let args = ["--listen", address.as_str(), "--metrics-listen", &metrics];
    let mut producer = pipeline.start("caudal-producer", "producer", &args)?;
    wait_until("the producer is ready", Duration::from_secs(60), || Ok(is_ready(&metrics)))?;

    let sent = Arc::new(Sent::default());
    let clients = {
        let (address, sent) = (address.clone(), Arc::clone(&sent));
        std::thread::spawn(move || run_clients(&address, &sent))
    };
    for fault in 1..=faults {
        // Anew each time: a client may take half a minute to hear of leaders that moved.
        let into_input = OpenTxns::of(&pipeline.kafka, topics::TRANSACCIONES)?;
        kill_in_flight(&mut producer, &Work::Txn(&into_input, vec![0; 6]), &mut moments)?;
        producer = pipeline.start("caudal-producer", "producer", &args)?;
        goes_on(&pipeline, (&mut producer, &args), &sent, "after a kill of the producer")?;
        let brokers = [fault % 3 + 1, (fault + 1) % 3 + 1].map(|n| format!("broker-{n}"));
        // At times two of three: nothing can be stored until one is back.
        let down = &brokers[..if fault % 3 == 0 { 2 } else { 1 }];
        kill_brokers(&pipeline, down, &into_input, &mut moments)?;
        if down.len() == 1 {
            goes_on(&pipeline, (&mut producer, &args), &sent, "without a broker")?;
        }
        down.iter().try_for_each(|broker| pipeline.stack.start(broker))?;
        goes_on(&pipeline, (&mut producer, &args), &sent, "with all brokers")?;
    }
    sent.stop.store(true, Ordering::Relaxed);
    let ids = clients.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    ensure!(producer.terminate()?.success(), "log {}", producer.log.display());
    let failed = sent.failed.load(Ordering::Relaxed);
    println!("{} transactions acknowledged, {failed} requests failed and were repeated", ids.len());
    ensure!(failed > 0, "no request was hit by a fault");

    pipeline.catch_up()?;
    let rows = query::texts(&pipeline.database_url, "SELECT transaction_id FROM transactions")?;
    let stored: BTreeSet<String> = rows.iter().cloned().collect();
    ensure!(rows.len() == stored.len(), "{} rows of {} ids", rows.len(), stored.len());
    let lost: Vec<_> = ids.difference(&stored).take(5).collect();
    let invented: Vec<_> = stored.difference(&ids).take(5).collect();
    ensure!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?}");
    let sum = query::text(&pipeline.database_url, "SELECT sum(amount)::text FROM transactions")?;
    // Every transaction is of 1.25.
    let cents = ids.len() * 125;
    ensure!(sum == format!("{}.{:02}", cents / 100, cents % 100), "sum {sum}");
    let dead = query::text(&pipeline.database_url, "SELECT count(*)::text FROM dead_letters")?;
    ensure!(dead == "0", "{dead} dead letters");
    pipeline.assert_balanced()
}

/// Requests are acknowledged again, a whole round of the clients. The watchdog may end a producer
/// that hangs in a call; whoever started it starts it again.
fn goes_on(
    pipeline: &Pipeline,
    (producer, args): (&mut Service, &[&str]),
    sent: &Sent,
    when: &str,
) -> Result<()> {
    let before = sent.acknowledged.load(Ordering::Relaxed);
    wait_until(&format!("requests are acknowledged {when}"), LIMIT, || {
        if let Some(status) = producer.ended()? {
            println!("the producer ended ({status}) and is started again");
            *producer = pipeline.start("caudal-producer", "producer", args)?;
        }
        Ok(sent.acknowledged.load(Ordering::Relaxed) > before + CLIENTS)
    })
}

fn kill_brokers(
    pipeline: &Pipeline,
    names: &[String],
    open: &OpenTxns,
    moments: &mut Moments,
) -> Result<()> {
    moments.wait(Duration::from_secs(1));
    let mut found = None;
    wait_until("a transaction is open", Duration::from_secs(30), || {
        found = open.find()?;
        Ok(found.is_some())
    })?;
    names.iter().try_for_each(|name| pipeline.stack.kill(name))?;
    println!("{names:?} killed with {:?}", found.context("an open transaction")?);
    Ok(())
}

/// Runs all clients until they are to stop; the ids that were acknowledged.
fn run_clients(address: &str, sent: &Arc<Sent>) -> Result<BTreeSet<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut running = Vec::new();
        for client in 0..CLIENTS {
            let (address, sent) = (address.to_owned(), Arc::clone(sent));
            running.push(tokio::spawn(async move { send(client, &address, &sent).await }));
        }
        let mut ids = BTreeSet::new();
        for client in running {
            ids.extend(client.await??);
        }
        Ok(ids)
    })
}

async fn send(number: u64, address: &str, sent: &Sent) -> Result<Vec<String>> {
    let (mut client, mut ids) = (Client::of(address), Vec::new());
    let mut batch = 0;
    while !sent.stop.load(Ordering::Relaxed) {
        let (names, body) = batch_of(number, batch);
        until_acknowledged(&mut client, &body, sent).await?;
        if (number + batch).is_multiple_of(REPEAT) {
            until_acknowledged(&mut client, &body, sent).await?;
        }
        ids.extend(names);
        batch += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(ids)
}

/// Sends the same body until it gets a 200: nobody knows what became of the others.
async fn until_acknowledged(client: &mut Client, body: &str, sent: &Sent) -> Result<()> {
    let begun = std::time::Instant::now();
    loop {
        let seconds = match client.post(body.as_bytes()).await {
            Ok(reply) if reply.status == 200 => {
                ensure!(reply.body.contains(&format!("\"stored\":{BATCH}")), "{reply:?}");
                sent.acknowledged.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Ok(reply) => {
                ensure!(matches!(reply.status, 429 | 503), "{reply:?}");
                reply.retry_after.context("no Retry-After")?.min(1)
            }
            Err(_) => 0,
        };
        sent.failed.fetch_add(1, Ordering::Relaxed);
        ensure!(begun.elapsed() < LIMIT, "not acknowledged within {} s", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_secs(seconds).max(Duration::from_millis(100))).await;
    }
}

fn batch_of(client: u64, batch: u64) -> (Vec<String>, String) {
    let mut names = Vec::new();
    let mut body = String::new();
    for n in 0..BATCH {
        let id = format!("c{client}-{batch}-{n}");
        body += &format!(
            "{{\"transaction_id\":\"{id}\",\"account_id\":\"a-{client}\",\"merchant_id\":\"m-{n}\",\"amount\":\"1.25\",\"currency\":\"EUR\",\"kind\":\"PURCHASE\",\"event_time\":\"2026-11-05T08:00:{:02}Z\"}}\n",
            batch % 60
        );
        names.push(id);
    }
    (names, body)
}
