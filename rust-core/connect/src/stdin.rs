//! Standard input as a source.

use std::{io, sync::Arc};

use ringmill_wire::Schema;

use crate::{
    ConnectError, FieldSpec, Format, Partitions, Waker, schema_of,
    text::{TextOptions, TextPartition},
};

/// Standard input as a source: one partition, on shard 0. Plain, gzip or zstd is told by its first bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct StdinSpec {
    /// what comes in
    pub format: Format,
    /// the columns
    pub fields: Vec<FieldSpec>,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer records become dead letters
    pub record_bytes_max: usize,
}

impl StdinSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Starts to read standard input. A CSV header that lacks a field is found when it has come, at a poll.
    pub fn open(&self, _shards: usize, wakers: &[Waker]) -> Result<Partitions, ConnectError> {
        self.read_from(io::stdin(), wakers)
    }

    fn read_from(&self, read: impl io::Read + Send + 'static, wakers: &[Waker]) -> Result<Partitions, ConnectError> {
        let options = TextOptions {
            format: self.format,
            fields: self.fields.clone(),
            rate: self.rate,
            record_bytes_max: self.record_bytes_max,
        };
        let waker = wakers.first().cloned().unwrap_or_else(|| Arc::new(|| {}));
        let partition = TextPartition::of_stream("stdin", &options, read, waker)?;
        Ok(vec![(0, Box::new(partition))])
    }
}
