//! Lines, streams of Arrow, or micro-batches, from whoever connects to a TCP port or a Unix socket.
//!
//! All connections together are one stream of whole lines, or of batches, in the order in which they ended; those of
//! one connection stay in their order. A connection's last line may lack its end. The protocol has no answers: when the process is killed,
//! what the system has received for it and it has not read is lost, and the connections break.

#[cfg(feature = "arrow")]
mod arrow;
#[cfg(all(test, feature = "arrow"))]
mod arrow_tests;
mod connections;
mod lines;
mod listener;
#[cfg(feature = "arrow")]
mod micro_batch;
#[cfg(all(test, feature = "arrow"))]
mod micro_batch_tests;
#[cfg(feature = "arrow")]
mod parcels;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use ringmill_wire::Schema;

#[cfg(feature = "arrow")]
use crate::parcel::{ParcelOptions, ParcelPartition};
use crate::{
    ConnectError, Fields, FileFormat, Format, Journal, Partitions, Replay, Resume, Waker, schema_of, stdin,
    text::{Content, TextOptions},
};
#[cfg(feature = "arrow")]
use arrow::ArrowStream;
use lines::Lines;
use listener::Listener;
#[cfg(feature = "arrow")]
use micro_batch::BatchStream;
#[cfg(feature = "arrow")]
use parcels::Parcels;

/// Where a socket source is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// host and port, such as `127.0.0.1:7000`
    Tcp(String),
    /// a path in the file system; only the same user may connect
    Unix(PathBuf),
}

/// Lines, streams of Arrow or micro-batches from any number of connections: one partition, on shard 0.
#[derive(Debug, Clone, PartialEq)]
pub struct SocketSpec {
    /// where it listens
    pub address: Address,
    /// text without a header (CSV has one), Arrow or micro-batches
    pub format: FileFormat,
    /// the columns
    pub fields: Fields,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer records become dead letters; a connection that sends a longer batch is ended
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
        match &self.format {
            FileFormat::Text(format @ (Format::Json | Format::Raw)) => {
                let lines = Lines::new(listener, self.record_bytes_max, self.connections_max);
                let options = TextOptions {
                    format: *format,
                    fields: self.fields.clone(),
                    rate: self.rate,
                    record_bytes_max: self.record_bytes_max,
                };
                let open = move || Ok(Box::new(lines) as Content);
                let partition = stdin::open_stream(PARTITION, &options, open, wakers, journal, resume)?;
                Ok(vec![(0, Box::new(partition))])
            }
            FileFormat::Arrow | FileFormat::MicroBatch => self.open_parcels(listener, wakers, journal, resume),
            FileFormat::Text(Format::Csv) | FileFormat::Parquet | FileFormat::Avro(_) => {
                let rule = "connections send lines of JSON, raw lines, streams of Arrow or micro-batches";
                Err(ConnectError::Spec { option: "format", value: self.format.name().to_owned(), rule })
            }
        }
    }

    #[cfg(feature = "arrow")]
    fn open_parcels(
        &self,
        listener: Listener,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let (fields, max) = (self.fields.clone(), self.record_bytes_max);
        let (parcels, parcel_bytes_max) = match self.format {
            FileFormat::MicroBatch => {
                let assembler = move || BatchStream::new(&fields, max);
                (Parcels::new(listener, self.connections_max, assembler), BatchStream::parcel_bytes_max(max))
            }
            _ => {
                let assembler = move || ArrowStream::new(&fields, max);
                (Parcels::new(listener, self.connections_max, assembler), ArrowStream::parcel_bytes_max(max))
            }
        };
        let options = ParcelOptions {
            fields: self.fields.clone(),
            rate: self.rate,
            record_bytes_max: self.record_bytes_max,
            parcel_bytes_max,
            #[cfg(feature = "mqtt")]
            messages: None,
        };
        let partition = ParcelPartition::open(PARTITION, options, move || Ok(parcels), wakers, journal, resume)?;
        Ok(vec![(0, Box::new(partition))])
    }

    /// This program was built without Arrow.
    #[cfg(not(feature = "arrow"))]
    fn open_parcels(
        &self,
        _listener: Listener,
        _wakers: &[Waker],
        _journal: Option<&Journal>,
        _resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        Err(ConnectError::Feature("arrow"))
    }
}

/// The only partition; an address may be another one after a restart.
const PARTITION: &str = "socket";
