//! The body of a request: received within its limits, and unpacked.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::intake::{Intake, Refusal, Room};
use crate::parcel::HEAD_BYTES;

/// Memory that is asked for at once, where a request says how long it is.
const CAPACITY_MAX: u64 = 1 << 20;
/// A line end may be added, and the head of a parcel is.
const ADDED_BYTES: usize = 1 + HEAD_BYTES;
/// Windows of zstd: what RFC 8878 asks of every decoder, as a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Plain,
    Gzip,
    Zstd,
}

/// Why there is no body.
#[derive(Debug)]
pub enum Failed {
    TooLong,
    TooSlow,
    /// it broke off, or is not packed as it says
    Broken(String),
    Refused(Refusal),
}

/// Waits for all of it. The room grows with what comes, so that nobody holds room for what is not there.
pub async fn receive(
    body: &mut Incoming,
    intake: &Intake,
    bytes_max: usize,
    deadline: Instant,
) -> Result<(Vec<u8>, Room), Failed> {
    let expected = hyper::body::Body::size_hint(body).lower();
    if expected > bytes_max as u64 {
        return Err(Failed::TooLong);
    }
    let mut bytes = Vec::with_capacity(expected.min(CAPACITY_MAX) as usize);
    let mut room = intake.room(ADDED_BYTES).await.map_err(Failed::Refused)?;
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(Failed::TooSlow),
            Ok(None) => return Ok((bytes, room)),
            Ok(Some(frame)) => frame.map_err(|error| Failed::Broken(format!("it broke off: {error}")))?,
        };
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > bytes_max - bytes.len() {
            return Err(Failed::TooLong);
        }
        room.add(intake.room(data.len()).await.map_err(Failed::Refused)?);
        bytes.extend_from_slice(&data);
    }
}

/// Unpacks a body. There is room for all that it may become before it is begun.
pub async fn unpack(
    (bytes, room): (Vec<u8>, Room),
    coding: Coding,
    intake: &Intake,
    bytes_max: usize,
) -> Result<(Vec<u8>, Room), Failed> {
    let decoder: Box<dyn Read + Send + '_> = match coding {
        Coding::Plain => return Ok((bytes, room)),
        Coding::Gzip => Box::new(MultiGzDecoder::new(&bytes[..])),
        Coding::Zstd => Box::new(zstd_decoder(&bytes).map_err(|error| Failed::Broken(error.to_string()))?),
    };
    let mut room_after = intake.room(bytes_max + ADDED_BYTES).await.map_err(Failed::Refused)?;
    let mut unpacked = Vec::new();
    match decoder.take(bytes_max as u64 + 1).read_to_end(&mut unpacked) {
        Ok(length) if length > bytes_max => Err(Failed::TooLong),
        Ok(length) => {
            room_after.shrink_to(length + ADDED_BYTES);
            Ok((unpacked, room_after))
        }
        Err(error) => Err(Failed::Broken(format!("it cannot be unpacked: {error}"))),
    }
}

fn zstd_decoder(bytes: &[u8]) -> io::Result<impl Read + Send + '_> {
    let mut decoder = zstd::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Reads what nobody wants, so that a client that sends all of a request before it looks for an answer finds one.
pub async fn discard(body: &mut Incoming, bytes_max: usize, deadline: Instant) {
    let mut left = bytes_max;
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        match left.checked_sub(frame.data_ref().map_or(0, |data| data.len())) {
            Some(less) => left = less,
            None => return,
        }
    }
}
