//! Reads a service's `/metrics`.

use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Samples of one scrape: the series as written, and its value.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    samples: Vec<(String, f64)>,
}

impl Scrape {
    /// Asks a service.
    ///
    /// # Errors
    /// When it does not answer within two seconds.
    pub fn get(address: &str) -> Result<Scrape> {
        let limit = Some(Duration::from_secs(2));
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("no answer from {address}"))?;
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(Scrape::parse(text.split_once("\r\n\r\n").map_or("", |(_, body)| body)))
    }

    fn parse(body: &str) -> Scrape {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Scrape {
            samples: body.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect(),
        }
    }

    /// Sum of a metric over its labels.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        let of = |series: &str| series.split('{').next() == Some(name);
        self.samples.iter().filter(|(s, _)| of(s)).map(|(_, v)| v).sum()
    }

    /// Sum of the series of a metric that have a label of that value.
    #[must_use]
    pub fn samples_of(&self, name: &str, value: &str) -> f64 {
        let wanted = format!("=\"{value}\"");
        let of = |series: &str| series.split('{').next() == Some(name) && series.contains(&wanted);
        self.samples.iter().filter(|(s, _)| of(s)).map(|(_, v)| v).sum()
    }

    /// Upper edge of the bucket that holds the `q` quantile of a histogram, in its unit. `None`
    /// without observations; infinite above the last edge.
    #[must_use]
    pub fn quantile(&self, histogram: &str, q: f64) -> Option<f64> {
        let prefix = format!("{histogram}_bucket{{");
        let buckets: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|(series, _)| series.starts_with(&prefix))
            .filter_map(|(series, count)| {
                let edge = series.split("le=\"").nth(1)?.split('"').next()?;
                Some((if edge == "+Inf" { f64::INFINITY } else { edge.parse().ok()? }, *count))
            })
            .collect();
        let total = buckets.iter().map(|(_, count)| *count).fold(0.0, f64::max);
        let found = buckets.iter().find(|(_, count)| total > 0.0 && *count >= q * total);
        found.map(|(edge, _)| *edge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_quantiles() {
        let scrape = Scrape::parse(
            "# HELP a x\na{l=\"1\"} 2\na{l=\"2\"} 3\nab 7\nh_bucket{le=\"0.1\"} 5\nh_bucket{le=\"1\"} 9\nh_bucket{le=\"+Inf\"} 10\n",
        );
        assert!((scrape.sum("a") - 5.0).abs() < f64::EPSILON);
        assert_eq!(scrape.quantile("h", 0.5), Some(0.1));
        assert_eq!(scrape.quantile("h", 0.9), Some(1.0));
        assert_eq!(scrape.quantile("none", 0.5), None);
    }
}
