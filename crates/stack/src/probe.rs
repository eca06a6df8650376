//! Asks servers whether they really answer, in the smallest words of their protocols.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const PATIENCE: Duration = Duration::from_secs(2);

/// Longer answers are not from the server that was asked for.
const LONGEST_ANSWER: usize = 1 << 20;

fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let addresses =
        (host, port).to_socket_addrs().with_context(|| format!("unknown host {host}"))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).context("no read timeout")?;
                stream.set_write_timeout(Some(PATIENCE)).context("no write timeout")?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("{host}:{port}")),
        None => bail!("{host} has no address"),
    }
}

/// True when something accepts connections there.
pub fn listens(host: &str, port: u16) -> bool {
    connect(host, port).is_ok()
}

/// Ids of the brokers that the broker at `port` knows as alive: registered and not fenced.
///
/// # Errors
/// It does not answer, or not as a broker does.
pub fn live_brokers(host: &str, port: u16) -> Result<Vec<u32>> {
    let mut stream = connect(host, port)?;
    // Metadata (key 3), version 1, correlation 7, client id, no topics.
    let client = b"caudal-stack";
    let mut request = Vec::new();
    request.extend([0, 3, 0, 1, 0, 0, 0, 7, 0, client.len() as u8]);
    request.extend(client);
    request.extend([0, 0, 0, 0]);
    let length = u32::try_from(request.len()).context("request too long")?;
    stream.write_all(&length.to_be_bytes()).context("the broker hung up")?;
    stream.write_all(&request).context("the broker hung up")?;

    let mut length = [0; 4];
    stream.read_exact(&mut length).context("the broker does not answer")?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST_ANSWER {
        bail!("port {port} does not speak Kafka's protocol");
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).context("the broker broke off its answer")?;
    parse_brokers(&answer).context("the answer is not a broker's")
}

/// Correlation id, then per broker: id, host, port, rack.
fn parse_brokers(answer: &[u8]) -> Option<Vec<u32>> {
    let mut rest = answer;
    let mut take = |count: usize| -> Option<&[u8]> {
        let (head, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(head)
    };
    if take(4)? != [0, 0, 0, 7] {
        return None;
    }
    let count = u32::from_be_bytes(take(4)?.try_into().ok()?);
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(u32::from_be_bytes(take(4)?.try_into().ok()?));
        let host = u16::from_be_bytes(take(2)?.try_into().ok()?);
        take(usize::from(host))?;
        take(4)?;
        let rack = i16::from_be_bytes(take(2)?.try_into().ok()?);
        take(usize::try_from(rack).unwrap_or(0))?;
    }
    Some(ids)
}

/// Succeeds when PostgreSQL would let a client log in now.
///
/// # Errors
/// Nothing answers, or the server is still starting or already stopping; its words are included.
pub fn postgres_accepts(port: u16, user: &str, database: &str) -> Result<()> {
    let mut stream = connect("localhost", port)?;
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for word in ["user", user, "database", database] {
        body.extend(word.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).context("request too long")?;
    stream.write_all(&length.to_be_bytes()).context("the server hung up")?;
    stream.write_all(&body).context("the server hung up")?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).context("the server does not answer")?;
    match head[0] {
        b'R' => Ok(()),
        b'E' => {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut words = vec![0; length.clamp(4, 4096) - 4];
            stream.read_exact(&mut words).context("the server broke off its answer")?;
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            bail!("PostgreSQL says: {}", words.trim())
        }
        _ => bail!("port {port} does not speak PostgreSQL's protocol"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_answers_are_read() {
        let mut answer = vec![0, 0, 0, 7, 0, 0, 0, 2];
        answer.extend([0, 0, 0, 1, 0, 1, b'h', 0, 0, 0x23, 0x84, 0xff, 0xff]);
        answer.extend([0, 0, 0, 3, 0, 1, b'h', 0, 0, 0x23, 0x84, 0, 2, b'r', b'1']);
        answer.extend([0, 0, 0, 1]);
        assert_eq!(parse_brokers(&answer), Some(vec![1, 3]));
        assert_eq!(parse_brokers(&answer[..20]), None);
        assert_eq!(parse_brokers(b"HTTP/1.1 400 Bad Request"), None);
    }
}
