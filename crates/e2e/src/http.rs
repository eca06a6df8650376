//! What services say over HTTP.

use anyhow::Result;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// The whole answer to a GET, status line and headers included.
///
/// # Errors
/// When nobody answers there.
pub fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Whether a service says that it is ready.
#[must_use]
pub fn is_ready(address: &str) -> bool {
    get(address, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The values of a metric, by its labels as they are written (`query="dedup"`).
///
/// # Errors
/// When nobody answers there.
pub fn metric(address: &str, name: &str) -> Result<Vec<(String, f64)>> {
    let text = get(address, "/metrics")?;
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let labels = series.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        // Another metric may begin with this one's name.
        (labels.is_some() || series.is_empty())
            .then_some((labels.unwrap_or_default().to_owned(), value.parse().ok()?))
    });
    Ok(values.collect())
}

/// The sum of a metric's values.
///
/// # Errors
/// When nobody answers there.
pub fn metric_sum(address: &str, name: &str) -> Result<f64> {
    Ok(metric(address, name)?.iter().map(|(_, value)| value).sum())
}
