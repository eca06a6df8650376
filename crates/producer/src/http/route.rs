//! What a request is answered.

use super::answer::{self, Answer, Refusal};
use super::body::{self, MAX_BODY, Refused};
use super::budget::Budget;
use super::lines::{Form, Mapper};
use super::metrics::HttpMetrics;
use super::queue::{Pulse, Waiting};
use super::token::Token;
use caudal_service::shutdown::Shutdown;
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use hyper::{HeaderMap, Method, Request, StatusCode};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Where transactions are sent to.
pub const TRANSACTIONS: &str = "/v1/transactions";
const OPENAPI: &str = include_str!("openapi.json");
/// A commit that takes longer than this is no load but a fault: 503 and not 429.
pub const SLOW_COMMIT: Duration = Duration::from_secs(5);
/// A request waits so long for its commit: longer than the loss of a broker lasts.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a record takes in memory beside key, value and headers, about.
const RECORD_OVERHEAD: usize = 250;
/// Seconds after which to try again: under load, and in an outage.
const SOON: u64 = 1;
const LATER: u64 = 5;

/// What every request needs.
pub struct Endpoint {
    /// Whom to serve; everybody, where only this machine can come.
    pub token: Option<Token>,
    /// Makes records of lines.
    pub mapper: Mapper,
    /// The memory for requests.
    pub budget: Budget,
    /// To whoever commits.
    pub queue: SyncSender<Waiting>,
    /// Whether Kafka takes what it is given.
    pub pulse: Arc<Pulse>,
    /// What is counted.
    pub metrics: HttpMetrics,
    /// Whether this is about to stop.
    pub shutdown: Shutdown,
}

impl Endpoint {
    /// Answers a request.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Display,
    {
        let begun = Instant::now();
        let answer = match (request.method(), request.uri().path()) {
            (&Method::POST, TRANSACTIONS) => {
                self.take(request).await.unwrap_or_else(|refusal| *refusal)
            }
            (_, TRANSACTIONS) => answer::not_allowed("POST"),
            (&Method::GET, "/openapi.json") => answer::document(OPENAPI),
            (_, "/openapi.json") => answer::not_allowed("GET"),
            _ => answer::refused(
                StatusCode::NOT_FOUND,
                "try POST /v1/transactions, or GET /openapi.json",
            ),
        };
        self.metrics.answered(answer.status());
        self.metrics.request_seconds.observe(begun.elapsed().as_secs_f64());
        answer
    }

    async fn take<B>(&self, request: Request<B>) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Display,
    {
        let headers = request.headers();
        if self.token.as_ref().is_some_and(|token| !token.admits(headers)) {
            return Err(answer::unauthorised().into());
        }
        let form = form_of(headers)?;
        let gzip = is_gzip(headers)?;
        if self.shutdown.is_asked() {
            return Err(self.stopping().into());
        }
        let (bytes, mut lease) = body::read(request.into_body(), gzip, self.budget.lease())
            .await
            .map_err(|refused| Box::new(self.refuse(refused)))?;
        let mapped = self.mapper.map(&bytes, form, now()).map_err(|problem| {
            self.metrics.refused(&problem);
            Box::new(answer::problem(&problem))
        })?;
        let (count, body) = (mapped.records.len(), bytes.len() as u64);
        drop(bytes);
        if !lease.cover(mapped.bytes + count * RECORD_OVERHEAD) {
            return Err(self.busy().into());
        }
        let (stored, told) = oneshot::channel();
        match self.queue.try_send(Waiting { mapped, body, stored, lease }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(self.busy().into()),
            Err(TrySendError::Disconnected(_)) => return Err(self.stopping().into()),
        }
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(())) => Ok(answer::stored(count)),
            Ok(Err(_)) => Err(self.stopping().into()),
            Err(_) => Err(answer::later(
                StatusCode::SERVICE_UNAVAILABLE,
                "Kafka has not confirmed these transactions in time; send the same again: what is \
                 stored already counts once",
                LATER,
            )
            .into()),
        }
    }

    fn refuse(&self, refused: Refused) -> Answer {
        match refused {
            Refused::TooLarge => answer::refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("the body has more than {MAX_BODY} bytes: send less at a time"),
            ),
            Refused::Slow => answer::refused(
                StatusCode::REQUEST_TIMEOUT,
                &format!("the body did not come within {} s", body::PATIENCE.as_secs()),
            ),
            Refused::Broken(why) => answer::refused(StatusCode::BAD_REQUEST, &why),
            Refused::Busy => self.busy(),
        }
    }

    fn busy(&self) -> Answer {
        if self.pulse.waiting() > SLOW_COMMIT {
            let why = "Kafka does not take transactions at the moment; nothing was stored";
            return answer::later(StatusCode::SERVICE_UNAVAILABLE, why, LATER);
        }
        let why = "more is waiting than can be stored at once; nothing was stored";
        answer::later(StatusCode::TOO_MANY_REQUESTS, why, SOON)
    }

    fn stopping(&self) -> Answer {
        let why =
            "this producer is stopping; send the same again: what is stored already counts once";
        answer::later(StatusCode::SERVICE_UNAVAILABLE, why, LATER)
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn form_of(headers: &HeaderMap) -> Result<Form, Refusal> {
    let kind = text(headers, &CONTENT_TYPE).unwrap_or("application/x-ndjson");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(Form::Object),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Form::Lines),
        _ => Err(answer::refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send Content-Type: application/json (one object) or application/x-ndjson (one object \
             a line)",
        )
        .into()),
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Refusal> {
    match text(headers, &CONTENT_ENCODING).map(|encoding| encoding.trim().to_ascii_lowercase()) {
        None => Ok(false),
        Some(encoding) if encoding == "identity" => Ok(false),
        Some(encoding) if encoding == "gzip" || encoding == "x-gzip" => Ok(true),
        Some(_) => Err(answer::refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the body plain, or with Content-Encoding: gzip",
        )
        .into()),
    }
}
