//! Answers: JSON for everything that went wrong, with what to do next.

use super::lines::Problem;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value as Json, json};

/// An answer.
pub type Answer = Response<Full<Bytes>>;
/// An answer to a request that is not taken.
pub type Refusal = Box<Answer>;

/// Every transaction of the request is committed.
#[must_use]
pub fn stored(count: usize) -> Answer {
    with(StatusCode::OK, &json!({ "stored": count }))
}

/// The request cannot be taken as it is.
#[must_use]
pub fn refused(status: StatusCode, why: &str) -> Answer {
    with(status, &json!({ "error": why }))
}

/// Some lines are no transactions.
#[must_use]
pub fn problem(problem: &Problem) -> Answer {
    let mut body = json!({ "error": problem.text() });
    let status = match problem {
        Problem::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Problem::Empty => StatusCode::BAD_REQUEST,
        Problem::Lines { told, count } => {
            let line = |l: &super::lines::Rejected| json!({ "line": l.line, "reason": l.reason.as_str(), "message": l.message });
            body["rejected"] = json!(count);
            body["lines"] = told.iter().map(line).collect();
            StatusCode::BAD_REQUEST
        }
    };
    with(status, &body)
}

/// Not now; the same request again in so many seconds.
#[must_use]
pub fn later(status: StatusCode, why: &str, seconds: u64) -> Answer {
    let mut answer = refused(status, why);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// The token is missing or wrong.
#[must_use]
pub fn unauthorised() -> Answer {
    let why = "send the token of this service: Authorization: Bearer …";
    header(refused(StatusCode::UNAUTHORIZED, why), WWW_AUTHENTICATE, "Bearer")
}

/// Another method.
#[must_use]
pub fn not_allowed(allowed: &'static str) -> Answer {
    let why = format!("only {allowed} is understood here");
    header(refused(StatusCode::METHOD_NOT_ALLOWED, &why), ALLOW, allowed)
}

/// A document that is JSON already.
#[must_use]
pub fn document(text: &'static str) -> Answer {
    json_of(Bytes::from_static(text.as_bytes()))
}

fn header(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

fn with(status: StatusCode, body: &Json) -> Answer {
    let mut answer = json_of(Bytes::from(format!("{body}\n")));
    *answer.status_mut() = status;
    answer
}

fn json_of(body: Bytes) -> Answer {
    header(Response::new(Full::new(body)), CONTENT_TYPE, "application/json")
}
