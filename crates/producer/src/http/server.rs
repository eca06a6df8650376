//! Connections: accepted up to a bound, given up when they are slow, ended in good order.

use super::route::{Endpoint, SLOW_COMMIT};
use anyhow::{Context as _, Result};
use caudal_service::exit::Usage;
use caudal_service::http::Readiness;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Most connections served at once; more wait in the system's queue. A connection has one request
/// at a time, so this bounds the requests too.
pub const CONNECTIONS: usize = 512;
/// A head must be there within this time after the last answer or the connect.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// From a stop on, open requests have this time to be answered.
pub const DRAIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// Binds the address, so that connections wait from now on.
///
/// # Errors
/// [`Usage`] when it is taken or not this machine's.
pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)
        .map_err(|e| Usage(format!("--listen {address}: {e}; choose another address")))?;
    listener.set_nonblocking(true).context("set_nonblocking")?;
    Ok(listener)
}

/// The threads that serve.
pub struct Server {
    runtime: Runtime,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Waits so long for the last answers to be written, once a stop was asked for.
    pub fn finish(self, patience: Duration) {
        let ended = self.runtime.block_on(async { timeout(patience, self.accepting).await });
        if ended.is_err() {
            tracing::warn!("connections were cut that were still open");
        }
        self.runtime.shutdown_background();
    }
}

/// Serves on threads of its own until a stop is asked for; then `endpoint`, and with it the
/// sending end of the queue, is dropped with the last connection.
///
/// # Errors
/// When threads cannot be started.
pub fn start(
    listener: std::net::TcpListener,
    endpoint: Arc<Endpoint>,
    readiness: Readiness,
) -> Result<Server> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("http-in")
        .enable_all()
        .build()
        .context("cannot start the threads for HTTP")?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener).context("cannot serve HTTP")?
    };
    let accepting = runtime.spawn(accept(listener, endpoint, readiness));
    Ok(Server { runtime, accepting })
}

async fn accept(listener: TcpListener, endpoint: Arc<Endpoint>, readiness: Readiness) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let serving = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let watcher = graceful.watcher();
                    tokio::spawn(serve(stream, Arc::clone(&endpoint), watcher, slot));
                }
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    sleep(LOOK).await;
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = stop(&endpoint, &readiness) => {}
    }
    drop((listener, endpoint));
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests are still open {} s after the stop", DRAIN.as_secs());
    }
}

/// Returns when a stop is asked for; until then says whether Kafka takes transactions.
async fn stop(endpoint: &Endpoint, readiness: &Readiness) {
    while !endpoint.shutdown.is_asked() {
        endpoint.metrics.waiting_bytes.set(i64::try_from(endpoint.budget.taken()).unwrap_or(0));
        let waiting = endpoint.pulse.waiting();
        if waiting > SLOW_COMMIT {
            let seconds = waiting.as_secs();
            readiness.not_ready(format!("Kafka has not taken a transaction for {seconds} s"));
        } else {
            readiness.ready();
        }
        sleep(LOOK).await;
    }
    readiness.not_ready("stopping");
}

async fn serve(
    stream: TcpStream,
    endpoint: Arc<Endpoint>,
    watcher: Watcher,
    slot: OwnedSemaphorePermit,
) {
    // Answers are small and must not wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set_nodelay");
    }
    endpoint.metrics.connections.inc();
    let answer = service_fn(|request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection");
    }
    endpoint.metrics.connections.dec();
    drop(slot);
}
