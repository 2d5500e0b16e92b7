//! Rows from whoever sends requests, and rows to a server as requests ([`HttpSink`]).
//!
//! The source takes `POST` with lines of JSON, one JSON array, a stream of Arrow, a container of Avro or micro-batches, which
//! lie in the journal as they came (lines for an array). A request is taken as a whole or not at all. With a journal it is
//! answered with 202 when all of its rows are durable, in one record of the journal; requests that wait at the same
//! time share a record and its fsync. Without a journal it is answered when the pipeline has taken the rows, and a
//! crash loses them.
//!
//! After 202 every row is taken once. After 4xx none is. After 503, or without an answer, nobody knows: a client that
//! sends the request again may send its rows twice. There is no memory of what was sent before.
//!
//! What strangers can take is bounded: connections, the time for a request, its size, the memory of all requests. A
//! request for which there is no room within a second is answered with 429. There is no encryption.

#[cfg(feature = "http")]
mod answer;
#[cfg(feature = "http")]
mod body;
#[cfg(feature = "http")]
pub(crate) mod client;
mod form;
#[cfg(feature = "http")]
mod intake;
#[cfg(feature = "http")]
mod partition;
mod proxy;
#[cfg(feature = "http")]
mod records;
#[cfg(feature = "http")]
mod refused;
#[cfg(feature = "http")]
mod requests;
#[cfg(feature = "http")]
mod server;
mod sink;
#[cfg(feature = "http")]
mod terms;
#[cfg(all(test, feature = "http"))]
mod tests;
#[cfg(feature = "http")]
mod token;
#[cfg(feature = "http")]
mod writer;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ringmill_wire::Schema;

pub(crate) use self::form::Form;
pub use self::proxy::HttpProxy;
pub use self::sink::{HttpBody, HttpMethod, HttpSink, OnRefused};
use crate::{ConnectError, Fields, Journal, Partitions, Replay, Resume, Secret, Waker, schema_of};

/// Rows from requests: one partition, on shard 0.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSpec {
    /// where it listens
    pub listen: SocketAddr,
    /// the path of the only resource, such as `/ingest`
    pub path: String,
    /// what requests must carry; anybody may send them if absent
    pub token: Option<TokenPlace>,
    /// the columns
    pub fields: Fields,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer records become dead letters
    pub record_bytes_max: usize,
    /// longer requests are refused, also ones that are longer when they are unpacked
    pub request_bytes_max: usize,
    /// for the head of a request, and for all of its body
    pub request_timeout: Duration,
    /// further ones wait until another one ends
    pub connections_max: usize,
}

/// Where the token stands that requests must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// in this file, read when the source is opened; white space around it does not count
    File(PathBuf),
    /// here
    Value(Secret),
}

impl HttpSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Requests come only once; with checkpoints it is opened with a journal.
    pub fn replay(&self) -> Replay {
        Replay::Journaled
    }

    /// Listens from now on; answers from the first poll on. As for [`StdinSpec::open`](crate::StdinSpec::open), what a
    /// journal holds behind the checkpoint's position comes first.
    #[cfg(feature = "http")]
    pub fn open(
        &self,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let partition = partition::HttpPartition::open(self, wakers, journal, resume)?;
        Ok(vec![(0, Box::new(partition))])
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn open(
        &self,
        _wakers: &[Waker],
        _journal: Option<&Journal>,
        _resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        Err(ConnectError::Feature("http"))
    }
}
