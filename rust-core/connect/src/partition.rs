//! The reading side: what a shard thread polls.

use std::sync::Arc;

use ringmill_wire::BatchWriter;
use serde::{Deserialize, Serialize};

use crate::{ConnectError, DeadLetters};

/// Where a partition stands: what it has consumed so far. [`Partition::seek`] continues behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// the file that `offset` belongs to, where one partition runs through several (`order = "sequential"`)
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared_text")]
    pub file: Option<Arc<str>>,
    /// bytes of the (decompressed) content; for the generator the index of the next row
    pub offset: u64,
    /// records consumed so far: rows and dead letters
    pub rows: u64,
}

/// What a poll came to. Whatever it is, rows may have been written, and dead letters pushed, before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// Records were consumed (into rows or dead letters), or may be at the next poll: poll again.
    Rows,
    /// The next record does not fit into what is left of the batch: poll again with a fresh one.
    Full,
    /// Nothing there now; the waker will be called.
    Idle,
    /// Nothing due before this time (rate limit), on the clock of [`PollContext::now_ns`].
    Until(u64),
    /// There will be no more.
    End,
}

/// What a partition may use during one poll.
pub struct PollContext<'a> {
    /// CLOCK_MONOTONIC, in nanoseconds
    pub now_ns: u64,
    /// the column that holds the event time, if there is one
    pub event_time: Option<usize>,
    /// rows stamped later than this (nanoseconds since 1970) are dead letters
    pub event_time_max_ns: i64,
    /// takes the records that do not become rows
    pub dead: &'a mut dyn DeadLetters,
    /// consume at most this many records
    pub rows_max: u32,
}

/// A slice of a source, polled by the one shard that owns it.
pub trait Partition: Send {
    /// What logs, metrics and dead letters call it.
    fn name(&self) -> &str;

    /// Appends rows to `out` (which is open) and returns without ever waiting.
    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError>;

    /// What has been consumed so far.
    fn position(&self) -> Position;

    /// Continues behind `position`; refused by sources that cannot go back.
    fn seek(&mut self, position: &Position) -> Result<(), ConnectError>;
}

/// Called from any thread when an idle partition has something to read.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Opened partitions, each with the index of the shard that polls it.
pub type Partitions = Vec<(usize, Box<dyn Partition>)>;

mod shared_text {
    use super::{Arc, Deserialize};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(text) => to.serialize_some(&**text),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Arc::from))
    }
}
