//! `/metrics`, `/livez` and `/readyz` on a management address.

use crate::exit::Usage;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Most connections served at once; more wait.
const CONNECTIONS: usize = 32;

/// Whether the service could do its job now, and if not, why. It is ready when all its parts are.
#[derive(Debug, Clone)]
pub struct Readiness {
    part: usize,
    obstacles: Arc<Mutex<BTreeMap<usize, String>>>,
}

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn starting() -> Readiness {
        let obstacles = Arc::new(Mutex::new(BTreeMap::from([(0, "starting".into())])));
        Readiness { part: 0, obstacles }
    }

    /// Of another part of the same service, which is not ready yet; number 0 is the first.
    #[must_use]
    pub fn part(&self, number: usize) -> Readiness {
        let part = Readiness { part: number, obstacles: Arc::clone(&self.obstacles) };
        part.not_ready("starting");
        part
    }

    /// Ready from now on.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Not ready, for this reason.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.set(Some(why.into()));
    }

    fn set(&self, obstacle: Option<String>) {
        if let Ok(mut obstacles) = self.obstacles.lock() {
            match obstacle {
                Some(why) => obstacles.insert(self.part, why),
                None => obstacles.remove(&self.part),
            };
        }
    }

    fn obstacle(&self) -> Option<String> {
        let first = self.obstacles.lock().map(|o| o.values().next().cloned());
        first.unwrap_or(Some("internal error".into()))
    }
}

/// Serves until the process ends, on a thread of its own.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(address: SocketAddr, registry: Registry, readiness: Readiness) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(|e| {
        Usage(format!("cannot serve metrics on {address}: {e}; choose another --metrics-listen"))
    })?;
    tracing::info!("metrics on http://{address}/metrics");
    std::thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(accept(listener, registry, readiness));
    })?;
    Ok(())
}

async fn accept(listener: TcpListener, registry: Registry, readiness: Readiness) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (registry, readiness) = (registry.clone(), readiness.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                let response = route(request.uri().path(), &registry, &readiness);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(slot);
        });
    }
}

fn route(path: &str, registry: &Registry, readiness: &Readiness) -> Response<Full<Bytes>> {
    match path {
        "/metrics" => metrics(registry),
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match readiness.obstacle() {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "try /metrics, /livez or /readyz\n"),
    }
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut body) {
        Ok(()) => {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            let kind = hyper::header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_told_with_its_reason() {
        let registry = Registry::new();
        let readiness = Readiness::starting();
        assert_eq!(
            route("/readyz", &registry, &readiness).status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        readiness.ready();
        assert_eq!(route("/readyz", &registry, &readiness).status(), StatusCode::OK);
        assert_eq!(route("/livez", &registry, &readiness).status(), StatusCode::OK);
        assert_eq!(route("/x", &registry, &readiness).status(), StatusCode::NOT_FOUND);
    }
}
