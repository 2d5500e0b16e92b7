//! Lines from whoever connects to a TCP port or a Unix socket.
//!
//! All connections together are one stream of whole lines, in the order in which they ended; lines of one connection stay
//! in their order. A connection's last line may lack its end. The protocol has no answers: when the process is killed,
//! what the system has received for it and it has not read is lost, and the connections break.

mod lines;
mod listener;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use ringmill_wire::Schema;

use crate::{
    ConnectError, Fields, Format, Journal, Partitions, Replay, Resume, Waker, schema_of, stdin,
    text::{Content, TextOptions},
};
use lines::Lines;
use listener::Listener;

/// Where a socket source is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// host and port, such as `127.0.0.1:7000`
    Tcp(String),
    /// a path in the file system; only the same user may connect
    Unix(PathBuf),
}

/// JSON objects, one a line, from any number of connections: one partition, on shard 0.
#[derive(Debug, Clone, PartialEq)]
pub struct SocketSpec {
    /// where it listens
    pub address: Address,
    /// the columns
    pub fields: Fields,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer records become dead letters
    pub record_bytes_max: usize,
    /// further ones wait until another one ends
    pub connections_max: usize,
}

impl SocketSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Lines come only once; with checkpoints it is opened with a journal.
    pub fn replay(&self) -> Replay {
        Replay::Journaled
    }

    /// Listens from now on; reads from the first poll on. As for [`StdinSpec::open`](crate::StdinSpec::open), what a
    /// journal holds behind the checkpoint's position comes first.
    pub fn open(
        &self,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let listener = Listener::bind(&self.address)?;
        let lines = Lines::new(listener, self.record_bytes_max, self.connections_max);
        let options = TextOptions {
            format: Format::Json,
            fields: self.fields.clone(),
            rate: self.rate,
            record_bytes_max: self.record_bytes_max,
        };
        let open = move || Ok(Box::new(lines) as Content);
        let partition = stdin::open_stream(PARTITION, &options, open, wakers, journal, resume)?;
        Ok(vec![(0, Box::new(partition))])
    }
}

/// The only partition; an address may be another one after a restart.
const PARTITION: &str = "socket";
