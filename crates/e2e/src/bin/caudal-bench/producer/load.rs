//! The clients of the HTTP part, a process of their own (`caudal-bench http-load ADDR SECONDS`).

use crate::results::quantile;
use anyhow::{Result, bail, ensure};
use caudal_e2e::http_client::Client;
use serde_json::json;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 200;
const BATCH: usize = 100;
/// Digits of a batch's number in its ids.
const DIGITS: usize = 7;

/// Sends, and prints its figures as JSON.
///
/// # Errors
/// When a request is refused for another reason than load.
pub fn run(args: &[String]) -> Result<()> {
    let [address, seconds] = args else { bail!("http-load ADDR SECONDS") };
    let lasts = Duration::from_secs(seconds.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut latencies, mut refused) = (Vec::new(), 0);
    let begun = Instant::now();
    runtime.block_on(async {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|number| tokio::spawn(send(number, address.clone(), begun + lasts)))
            .collect();
        for client in clients {
            let (of, busy) = client.await??;
            latencies.extend(of);
            refused += busy;
        }
        anyhow::Ok(())
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let acknowledged = latencies.len() * BATCH;
    #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
    let rate = acknowledged as f64 / elapsed;
    println!(
        "{}",
        json!({
            "acknowledged": acknowledged, "seconds": elapsed, "records_per_second": rate,
            "requests": latencies.len(), "refused": refused,
            "p50_ms": quantile(&latencies, 0.5), "p99_ms": quantile(&latencies, 0.99),
            "max_ms": latencies.last(),
        })
    );
    Ok(())
}

/// Milliseconds of each acknowledged request, and how many were told to come later.
async fn send(number: usize, address: String, until: Instant) -> Result<(Vec<f64>, u64)> {
    let (mut client, mut latencies, mut refused) = (Client::of(&address), Vec::new(), 0);
    let (mut body, places) = body(number);
    for batch in 0_u32.. {
        if Instant::now() >= until {
            break;
        }
        let digits = format!("{batch:0DIGITS$}");
        places.iter().for_each(|at| body[*at..at + DIGITS].copy_from_slice(digits.as_bytes()));
        let begun = Instant::now();
        let reply = client.post(&body).await?;
        match reply.status {
            200 => latencies.push(begun.elapsed().as_secs_f64() * 1000.0),
            429 | 503 => {
                refused += 1;
                tokio::time::sleep(Duration::from_secs(reply.retry_after.unwrap_or(1))).await;
            }
            _ => ensure!(false, "{reply:?}"),
        }
    }
    Ok((latencies, refused))
}

/// The body of a connection, and where the batch's number stands in each id.
fn body(number: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut body, mut places) = (Vec::new(), Vec::new());
    for n in 0..BATCH {
        let id = format!("{{\"transaction_id\":\"h{number}-{n}-");
        body.extend_from_slice(id.as_bytes());
        places.push(body.len());
        let rest = format!(
            "{:0DIGITS$}\",\"account_id\":\"acc-{:05}\",\"merchant_id\":\"mer-{:04}\",\"amount\":\"{}.{:02}\",\"currency\":\"EUR\",\"kind\":\"PURCHASE\",\"country\":\"ES\",\"event_time\":\"2026-11-05T08:{:02}:{:02}Z\",\"attributes\":{{\"channel\":\"web\"}}}}\n",
            0,
            (number * 37 + n * 101) % 10_000,
            (number * 13 + n * 7) % 1_000,
            n + 1,
            number % 100,
            n % 60,
            number % 60,
        );
        body.extend_from_slice(rest.as_bytes());
    }
    (body, places)
}
