//! What the HTTP endpoint measures.

use super::lines::Problem;
use caudal_core::reject::Reason;
use caudal_service::metrics::{counter_vec, gauge, seconds};
use hyper::StatusCode;
use prometheus::{Histogram, IntCounterVec, IntGauge, Registry};

/// The endpoint's metrics.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    rejected: IntCounterVec,
    /// From a request's head to its answer.
    pub request_seconds: Histogram,
    /// Open connections.
    pub connections: IntGauge,
    /// Bytes of the requests that are read or wait for their commit.
    pub waiting_bytes: IntGauge,
}

impl HttpMetrics {
    /// Registers them all, at zero.
    ///
    /// # Errors
    /// When a name is taken twice.
    pub fn register(registry: &Registry) -> prometheus::Result<HttpMetrics> {
        let metrics = HttpMetrics {
            requests: counter_vec(
                registry,
                "caudal_producer_http_requests_total",
                "Answered requests by status; 200 is given after the commit",
                &["status"],
            )?,
            rejected: counter_vec(
                registry,
                "caudal_producer_http_rejected_total",
                "Transactions of refused requests (status 400) by reason, the first 100 of each",
                &["reason"],
            )?,
            request_seconds: seconds(
                registry,
                "caudal_producer_http_request_duration_seconds",
                "From a request's head to its answer, the commit included",
            )?,
            connections: gauge(
                registry,
                "caudal_producer_http_connections",
                "Open connections of clients",
            )?,
            waiting_bytes: gauge(
                registry,
                "caudal_producer_http_waiting_bytes",
                "Memory of requests that are read or wait for their commit; at its limit clients \
                 get 429 or 503",
            )?,
        };
        for status in [200, 400, 401, 413, 429, 503] {
            metrics.requests.with_label_values(&[&status.to_string()]).inc_by(0);
        }
        for reason in Reason::ALL {
            metrics.rejected.with_label_values(&[reason.as_str()]).inc_by(0);
        }
        Ok(metrics)
    }

    /// A request was answered.
    pub fn answered(&self, status: StatusCode) {
        self.requests.with_label_values(&[status.as_str()]).inc();
    }

    /// A request was refused for what is in it.
    pub fn refused(&self, problem: &Problem) {
        if let Problem::Lines { told, .. } = problem {
            for line in told {
                self.rejected.with_label_values(&[line.reason.as_str()]).inc();
            }
        }
    }
}
