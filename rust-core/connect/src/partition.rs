//! The reading side: what a shard thread polls.

use std::{ops::Range, sync::Arc};

use ringmill_wire::{BatchView, BatchWriter, DataType};
use serde::{Deserialize, Serialize};

use crate::{ConnectError, DeadLetters, Places, TakenLetters, Within};

/// Where a partition stands: what it has consumed so far. [`Partition::seek`] continues behind it; a source opened with
/// it as a [`Resume`] does, and checks before that it is still the same source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// bytes of the (decompressed) content; the index of the next row, the number of the next message
    pub offset: u64,
    /// records consumed so far: rows and dead letters
    pub rows: u64,
    /// of requests: how much of the one at `offset` was taken, bytes of its lines or rows of its columns
    #[serde(default, skip_serializing_if = "is_zero")]
    pub taken: u64,
    /// the file that `offset` belongs to, where one partition runs through several (`order = "sequential"`)
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared_text")]
    pub file: Option<Arc<str>>,
    /// all files of such a partition, in their order
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// by which the file is known again
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<FileIdentity>,
    /// of a generator: which of its rows the partition has; of Kafka: which of the partitions are read, if not all. Of one
    /// that a group deals, `offset` is what is before it has been read by us or others, and 0 where nobody knows
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// of a journaled stream whose format has one: the header by which what follows `offset` is read
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared_text")]
    pub header: Option<Arc<str>>,
    /// of a NATS stream: when it was created (nanoseconds since 1970), by which it is known again
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ns: Option<i64>,
    /// of a process of its own: what it said of where it stood. `offset` rows behind that were taken
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
    /// `offset` lies within a record that is too long and is a dead letter already
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
    /// of letters that are replayed: those that were taken
    #[serde(default, skip_serializing_if = "TakenLetters::is_empty")]
    pub letters: TakenLetters,
}

/// By what a file is known again whose path has stayed the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// its number in the file system
    pub inode: u64,
    /// so many of its first bytes, as they are on the disk, are summed up: at most 4,096
    pub head_bytes: u64,
    /// their checksum
    pub head_crc32c: u32,
}

/// A partition of a generator: every `of`-th key, and what the rows are made from. Of Kafka: every `of`-th partition, or
/// those that a group deals (`of` is 0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// the first key
    pub index: u64,
    /// partitions in all
    pub of: u64,
    /// everything that decides what row `i` is; of Kafka the group, or nothing
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stream: String,
}

/// Whether a source can read again what it has read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// It continues from any position of a checkpoint.
    Seekable,
    /// It comes only once, and is kept in a [`Journal`](crate::Journal) for as long as a checkpoint may need it.
    Journaled,
    /// What was read and is not in a checkpoint is lost with the process.
    Lost,
}

/// A partition of the checkpoint that a source continues from.
#[derive(Debug, Clone, Copy)]
pub struct Resume<'a> {
    /// what [`Partition::name`] said
    pub name: &'a str,
    /// what [`Partition::position`] said
    pub position: &'a serde_json::Value,
    /// it was read to its end
    pub ended: bool,
}

impl Resume<'_> {
    /// The position in it.
    pub(crate) fn position(&self) -> Result<Position, ConnectError> {
        Position::deserialize(self.position)
            .map_err(|error| self.refuse(format!("its position {} is not understood: {error}", self.position)))
    }

    pub(crate) fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Resume { partition: self.name.to_owned(), reason }
    }
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

impl PollContext<'_> {
    /// The first of these rows whose event time lies too far ahead.
    pub(crate) fn first_too_far(&self, view: &BatchView<'_>, mut rows: Range<usize>) -> Option<usize> {
        let column = view.column(self.event_time?);
        let DataType::Timestamp(unit) = column.data_type() else { return None };
        let max = self.event_time_max_ns.div_euclid(unit.nanoseconds());
        let times = column.values::<i64>();
        rows.find(|row| times[*row] > max)
    }
}

/// A slice of a source, polled by the one shard that owns it.
pub trait Partition: Send {
    /// What logs, metrics, dead letters and checkpoints call it; unique within its source.
    fn name(&self) -> &str;

    /// Appends rows to `out` (which is open, and has the same template in every poll) and returns without ever waiting
    /// for somebody else.
    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError>;

    /// When the oldest record of the last poll was due (CLOCK_MONOTONIC, nanoseconds), for an open-loop load: latencies
    /// count from then. `None`: from when it was read.
    fn due_ns(&self) -> Option<u64> {
        None
    }

    /// What has been consumed so far.
    fn position(&self) -> Position;

    /// How many messages that are there it has not read, as far as that is known without asking; `None`: it is not, or
    /// nothing like that can be known. Never waits.
    fn lag(&self) -> Option<u64> {
        None
    }

    /// How many messages came faster than they were taken since it was opened, and are lost; `None`: that cannot happen, or
    /// nobody can know. Never waits.
    fn dropped(&self) -> Option<u64> {
        None
    }

    /// Continues behind `position`; refused by sources that begin somewhere only when they are opened.
    fn seek(&mut self, position: &Position) -> Result<(), ConnectError> {
        Err(ConnectError::Seek {
            partition: self.name().to_owned(),
            offset: position.offset,
            reason: "a partition that is read already goes on only".to_owned(),
        })
    }

    /// Whether it can be polled; asked before the first poll until it says so. What is missing wakes the shard.
    fn is_ready(&mut self) -> Result<bool, ConnectError> {
        Ok(true)
    }

    /// The thread that polls is going to sleep; `false`: there is something to read already.
    fn arm_sleep(&mut self) -> bool {
        true
    }

    /// The thread that polls is awake again.
    fn disarm_sleep(&mut self) {}

    /// Rows that are written into batches whose rows carry tags are tagged with where they came from; `source` is the
    /// source's name. Before the first poll.
    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        let _ = (places, source);
    }

    /// No poll follows any more: the run is coming to its end. Never waits.
    fn drain(&mut self) {}

    /// A checkpoint is complete that covers what is before `position`. Never waits.
    fn covered(&mut self, position: &Position) {
        let _ = position;
    }

    /// Whether it is kept until the last checkpoint of the run is complete, to be told what that [covers](Self::covered).
    /// Others are told by the next run.
    fn awaits_last_checkpoint(&self) -> bool {
        false
    }

    /// No checkpoint that is kept needs anything before `position` any more: a journal may forget it. Never waits.
    fn acknowledge(&mut self, position: &Position) {
        let _ = position;
    }
}

/// Called from any thread when an idle partition has something to read.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Opened partitions, each with the index of the shard that polls it.
pub type Partitions = Vec<(usize, Box<dyn Partition>)>;

fn is_zero(number: &u64) -> bool {
    *number == 0
}

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
