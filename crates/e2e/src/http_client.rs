//! A client that sends NDJSON over one connection at a time, and keeps it.

use anyhow::{Context as _, Result, ensure};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than the producer lets a request wait.
const PATIENCE: Duration = Duration::from_secs(90);

/// One client.
#[derive(Debug)]
pub struct Client {
    address: String,
    stream: Option<TcpStream>,
    answer: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
    /// The rest.
    pub body: String,
}

impl Client {
    /// A client of `host:port`; connects when it sends.
    #[must_use]
    pub fn of(address: &str) -> Client {
        Client { address: address.to_owned(), stream: None, answer: Vec::new() }
    }

    /// Sends transactions, one JSON object a line.
    ///
    /// # Errors
    /// When the connection breaks, or nothing is answered; the next call connects again.
    pub async fn post(&mut self, lines: &[u8]) -> Result<Reply> {
        let length = lines.len();
        let mut request = format!(
            "POST /v1/transactions HTTP/1.1\r\nHost: caudal\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n",
        )
        .into_bytes();
        request.extend_from_slice(lines);
        // Taken out, so that a connection with half an answer is never used again.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let (reply, keeps) = timeout(PATIENCE, async {
            stream.write_all(&request).await?;
            read(&mut stream, &mut self.answer).await
        })
        .await
        .context("no answer")??;
        self.stream = keeps.then_some(stream);
        Ok(reply)
    }
}

/// An answer, and whether the connection goes on.
async fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<(Reply, bool)> {
    answer.clear();
    let mut piece = [0; 4096];
    let (mut head, mut wanted) = (None, usize::MAX);
    while answer.len() < wanted {
        let count = stream.read(&mut piece).await?;
        ensure!(count > 0, "the connection was closed");
        answer.extend_from_slice(&piece[..count]);
        if head.is_none()
            && let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let text = std::str::from_utf8(&answer[..at])?.to_ascii_lowercase();
            let length = header(&text, "content-length").context("no Content-Length")?;
            wanted = at + 4 + length.parse::<usize>()?;
            head = Some((text, at + 4));
        }
    }
    let (head, at) = head.context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let retry_after = header(&head, "retry-after").map(str::parse).transpose()?;
    let body = String::from_utf8_lossy(&answer[at..wanted]).into_owned();
    Ok((Reply { status, retry_after, body }, header(&head, "connection") != Some("close")))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':').map(str::trim);
    head.lines().find_map(of)
}
