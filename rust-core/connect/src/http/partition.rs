//! All requests as a partition.

use std::{net::TcpListener, sync::Arc};

use ringmill_wire::BatchWriter;

use super::{
    HttpSpec,
    answer::Served,
    intake::{Intake, Requests},
    server::Server,
    token::Token,
};
use crate::{
    ConnectError, Journal, Partition, Places, Poll, PollContext, Position, Resume, Waker,
    parcel::{HEAD_BYTES, ParcelOptions, ParcelPartition},
};

/// The only partition; an address may be another one after a restart.
const PARTITION: &str = "http";
/// Requests may take so much memory together,
const ROOM_BYTES: usize = 32 << 20;
/// … or as much as so many of the longest, one of them packed and unpacked.
const ROOM_REQUESTS: usize = 4;

/// Requests, and the server that they come from. In this order its parts are dropped.
pub struct HttpPartition {
    /// after it nothing is written to the journal any more
    parcels: ParcelPartition,
    /// after it all requests have their answers
    intake: Closing,
    is_journaled: bool,
    /// until the first poll
    waiting: Option<(TcpListener, Served)>,
    connections_max: usize,
    /// from the first poll on
    server: Option<Server>,
}

/// Refuses what was not answered when it is dropped.
struct Closing(Arc<Intake>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl HttpPartition {
    pub fn open(
        spec: &HttpSpec,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<HttpPartition, ConnectError> {
        let token = spec.token.as_ref().map(Token::read).transpose()?;
        let listener = bind(spec)?;
        if token.is_none() && !spec.listen.ip().is_loopback() {
            tracing::warn!("whoever can reach {} can send rows", spec.listen);
        }
        let intake = Arc::new(Intake::new(ROOM_BYTES.max(ROOM_REQUESTS * spec.request_bytes_max)));
        let requests = Requests::new(Arc::clone(&intake), journal.is_some());
        let options = ParcelOptions {
            fields: spec.fields.clone(),
            rate: spec.rate,
            record_bytes_max: spec.record_bytes_max,
            // A line end may have been added.
            parcel_bytes_max: spec.request_bytes_max + 1 + HEAD_BYTES,
            #[cfg(feature = "mqtt")]
            messages: None,
        };
        let parcels = ParcelPartition::open(PARTITION, options, move || Ok(requests), wakers, journal, resume)?;
        let served = Served {
            path: spec.path.clone(),
            token,
            fields: spec.fields.clone(),
            request_bytes_max: spec.request_bytes_max,
            request_timeout: spec.request_timeout,
            intake: Arc::clone(&intake),
        };
        Ok(HttpPartition {
            parcels,
            intake: Closing(intake),
            is_journaled: journal.is_some(),
            waiting: Some((listener, served)),
            connections_max: spec.connections_max,
            server: None,
        })
    }

    /// Where it listens; `None` once it is polled.
    #[cfg(test)]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.waiting.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }
}

fn bind(spec: &HttpSpec) -> Result<TcpListener, ConnectError> {
    let failed = |source| ConnectError::Listen { address: spec.listen.to_string(), source };
    let listener = TcpListener::bind(spec.listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

impl Partition for HttpPartition {
    fn name(&self) -> &str {
        self.parcels.name()
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if let Some((listener, served)) = self.waiting.take() {
            let started = Server::start(listener, served, self.connections_max);
            let name = PARTITION.to_owned();
            self.server = Some(started.map_err(|source| ConnectError::Read { name, offset: 0, source })?);
        }
        let poll = self.parcels.poll(out, context)?;
        if !self.is_journaled {
            self.intake.0.settle(self.parcels.offset());
        }
        Ok(poll)
    }

    fn position(&self) -> Position {
        self.parcels.position()
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.parcels.note_places(places, source);
    }

    fn drain(&mut self) {
        if self.is_journaled {
            // What was put may still become durable; the next run takes it.
            self.intake.0.refuse();
        } else {
            self.intake.0.close();
        }
    }

    fn acknowledge(&mut self, position: &Position) {
        self.parcels.acknowledge(position);
    }
}
