//! The body of a request, plain or gzip, never larger than allowed.

use super::budget::Lease;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes};
use std::fmt::Display;
use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

/// Most bytes of a body, after decompression.
pub const MAX_BODY: usize = 8 << 20;
/// A body must be there within this time after its head.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a body is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It has more than [`MAX_BODY`] bytes.
    TooLarge,
    /// The memory for requests is used up.
    Busy,
    /// It did not come in time.
    Slow,
    /// It ended early, or is no gzip.
    Broken(String),
}

/// Reads a body to its end. `lease` grows with what is kept.
///
/// # Errors
/// [`Refused`]; nothing of it is kept then.
pub async fn read<B>(body: B, gzip: bool, lease: Lease) -> Result<(Vec<u8>, Lease), Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(Refused::TooLarge);
    }
    let reading = async {
        let mut sink = Sink { bytes: Vec::new(), lease, refused: None };
        if gzip {
            let mut decoder = MultiGzDecoder::new(sink);
            let fed = feed(body, &mut decoder).await.map(|()| decoder.try_finish());
            let refused = decoder.get_mut().refused.take();
            match (refused, fed) {
                (Some(refused), _) | (None, Err(refused)) => return Err(refused),
                (None, Ok(Err(error))) => return Err(broken_gzip(&error)),
                (None, Ok(Ok(()))) => {}
            }
            sink = decoder.finish().map_err(|error| broken_gzip(&error))?;
        } else {
            let fed = feed(body, &mut sink).await;
            if let Some(refused) = sink.refused {
                return Err(refused);
            }
            fed?;
        }
        Ok((sink.bytes, sink.lease))
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or(Err(Refused::Slow))
}

async fn feed<B>(body: B, into: &mut impl Write) -> Result<(), Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refused::Broken(format!("the body ended early: {e}")))?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else { continue };
        into.write_all(&data).map_err(|error| broken_gzip(&error))?;
    }
    Ok(())
}

fn broken_gzip(error: &io::Error) -> Refused {
    Refused::Broken(format!("the body is no whole gzip: {error}"))
}

/// What was read so far.
struct Sink {
    bytes: Vec<u8>,
    lease: Lease,
    refused: Option<Refused>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let refused = if self.bytes.len() + data.len() > MAX_BODY {
            Some(Refused::TooLarge)
        } else {
            self.bytes.reserve(data.len());
            (!self.lease.cover(self.bytes.capacity())).then_some(Refused::Busy)
        };
        if refused.is_some() {
            self.refused = refused;
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
