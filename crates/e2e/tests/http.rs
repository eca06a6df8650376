//! The HTTP endpoint as its page says: examples, statuses, limits, token, stop.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::fault::{signal, wait_until};
use caudal_e2e::http::{get, is_ready, metric_sum};
use caudal_e2e::pipeline::{Pipeline, Service};
use caudal_e2e::query;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef-token";

struct Endpoint {
    pipeline: Pipeline,
    producer: Service,
    address: String,
    metrics: String,
}

impl Endpoint {
    fn start(test: &str, more: &[&str]) -> Result<Option<Endpoint>> {
        let Some(pipeline) = Pipeline::empty(test)? else { return Ok(None) };
        let (address, metrics) = (pipeline.metrics_address(20)?, pipeline.metrics_address(21)?);
        let args = [&["--listen", &address, "--metrics-listen", &metrics], more].concat();
        let producer = pipeline.start("caudal-producer", "producer", &args)?;
        wait_until("the producer is ready", PATIENCE, || Ok(is_ready(&metrics)))?;
        Ok(Some(Endpoint { pipeline, producer, address, metrics }))
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Status of the answer to a request with these headers, and the answer.
    fn send(&self, head: &str, body: &[u8]) -> Result<(u16, String)> {
        let mut stream = self.connect()?;
        let length = body.len();
        let head = format!(
            "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        // Who refuses a head may answer before it has come, and does not read the body.
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
        answer(&mut stream)
    }

    fn post(&self, headers: &str, body: &[u8]) -> Result<(u16, String)> {
        let mut stream = self.connect()?;
        let length = body.len();
        let head = format!(
            "POST /v1/transactions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
        answer(&mut stream)
    }
}

fn answer(stream: &mut TcpStream) -> Result<(u16, String)> {
    let mut bytes = Vec::new();
    // A connection that is closed with data unread may end in a reset after the answer.
    let read = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.with_context(|| format!("no answer: {read:?}, {text}"))?, text))
}

fn line(id: &str) -> String {
    format!(
        "{{\"transaction_id\":\"{id}\",\"account_id\":\"a\",\"merchant_id\":\"m\",\"amount\":\"1.00\",\"currency\":\"EUR\",\"kind\":\"PURCHASE\",\"event_time\":\"2026-11-05T08:00:00Z\"}}\n"
    )
}

/// Each block of commands with the block of its output, from the page.
fn examples() -> Result<Vec<(String, String)>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/http.md");
    let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once("```bash\n") {
        let (commands, after) = after.split_once("```").context("an open block")?;
        let (_, output) = after.split_once("```json\n").context("no output is shown")?;
        let (output, after) = output.split_once("```").context("an open block")?;
        found.push((commands.to_owned(), output.to_owned()));
        rest = after;
    }
    Ok(found)
}

#[test]
fn the_examples_of_the_page_do_what_it_says() -> Result<()> {
    let Some(mut endpoint) = Endpoint::start("http_examples", &[])? else { return Ok(()) };
    let examples = examples()?;
    ensure!(examples.len() >= 4, "{} examples", examples.len());
    for (commands, wanted) in examples {
        let output = Command::new("bash")
            .args(["-euc", &commands])
            .env("URL", format!("http://{}", endpoint.address))
            .current_dir(&endpoint.pipeline.logs)
            .stdin(Stdio::null())
            .output()?;
        let (found, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success() && found == wanted,
            "{commands}\n{found}{errors}\nnot\n{wanted}"
        );
    }
    ensure!(endpoint.producer.terminate()?.success(), "log {}", endpoint.producer.log.display());
    endpoint.pipeline.catch_up()?;
    let rows = query::texts(
        &endpoint.pipeline.database_url,
        "SELECT transaction_id || ' ' || amount || ' ' || source || ' ' || source_seq FROM transactions ORDER BY 1",
    )?;
    let wanted = [
        "web-1 12.50 http/requests 1",
        "web-2 2.00 http/requests 2",
        "web-3 3.00 http/requests 3",
        "web-4 4.00 http/requests 4",
    ];
    ensure!(rows == wanted, "{rows:#?}");
    endpoint.pipeline.assert_balanced()
}

#[test]
fn every_status_is_given_and_a_stop_answers_what_is_open() -> Result<()> {
    let token = std::env::temp_dir().join(format!("caudal-e2e-token-{}", std::process::id()));
    std::fs::write(&token, format!("{TOKEN}\n"))?;
    let path = token.display().to_string();
    let started =
        Endpoint::start("http_statuses", &["--http-token-file", &path, "--batch-records", "10000"]);
    std::fs::remove_file(&token)?;
    let Some(mut endpoint) = started? else { return Ok(()) };
    // Begun first: their time runs out while the others are answered.
    let mut slow = endpoint.connect()?;
    slow.write_all(b"POST /v1/transactions HTTP/1.1\r\nHost:")?;
    statuses(&endpoint)?;

    let mut open = endpoint.connect()?;
    let body = line("open");
    write!(
        open,
        "POST /v1/transactions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    let mut piece = [0; 100];
    let count = open.read(&mut piece)?;
    ensure!(piece[..count].starts_with(b"HTTP/1.1 100"), "the body was not asked for");
    let mut text = Vec::new();
    slow.read_to_end(&mut text).context("a slow head was kept open")?;
    ensure!(!text.starts_with(b"HTTP/1.1 200"), "a slow head was answered");
    signal(endpoint.producer.pid(), "TERM")?;
    wait_until("no connection is taken", PATIENCE, || {
        Ok(TcpStream::connect(&endpoint.address).is_err())
    })?;
    ensure!(get(&endpoint.metrics, "/readyz")?.contains("stopping"), "ready while it stops");
    open.write_all(body.as_bytes()).context("the open request was closed")?;
    let (status, text) = answer(&mut open)?;
    ensure!(status == 200 && text.contains("connection: close"), "{text}");
    let ended = endpoint.producer.wait(PATIENCE)?;
    ensure!(ended.code() == Some(0), "{ended}; log {}", endpoint.producer.log.display());
    let log = std::fs::read_to_string(&endpoint.producer.log)?;
    ensure!(!log.contains(TOKEN), "the log shows the token");
    Ok(())
}

fn statuses(endpoint: &Endpoint) -> Result<()> {
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let post = |more: &str, body: &[u8]| endpoint.post(&format!("{right}{more}"), body);
    let large = vec![b' '; (8 << 20) + 1];
    let ten_thousand: String = (0..=10_000).map(|n| line(&format!("n{n}"))).collect();
    for (wanted, (status, text)) in [
        (200, post("", line("one").as_bytes())?),
        (200, post("Content-Type: application/json; charset=utf-8\r\n", line("one").as_bytes())?),
        (400, post("", b"{}")?),
        (400, post("", b"")?),
        (400, post("Content-Encoding: gzip\r\n", line("one").as_bytes())?),
        (401, endpoint.post("", line("two").as_bytes())?),
        (401, endpoint.post("Authorization: Bearer 0123456789abcdef-tokeN\r\n", b"")?),
        (404, endpoint.send("GET /", b"")?),
        (405, endpoint.send("GET /v1/transactions", b"")?),
        (413, post("", &large)?),
        (413, post("", ten_thousand.as_bytes())?),
        (415, post("Content-Type: application/x-www-form-urlencoded\r\n", b"{}")?),
        (415, post("Content-Encoding: br\r\n", b"{}")?),
        (431, post(&format!("X: {}\r\n", "y".repeat(17 << 10)), b"{}")?),
        (200, endpoint.send("GET /openapi.json", b"")?),
    ] {
        ensure!(status == wanted, "{status}, not {wanted}: {text}");
    }
    let counted = metric_sum(&endpoint.metrics, "caudal_producer_http_requests_total")?;
    // A head that is too large is answered before anybody counts.
    ensure!((counted - 14.0).abs() < 0.1, "{counted} requests counted");
    let sent = metric_sum(&endpoint.metrics, "caudal_producer_records_total")?;
    ensure!((sent - 2.0).abs() < 0.1, "{sent} transactions sent");
    Ok(())
}
