//! Rows that a process of its own makes and hands over in batches.
//!
//! How the process is asked, watched and started again is the business of whoever implements [`Feed`]; here its batches
//! become a partition: its rows go into the open batch as there is room, those of a time too far ahead become dead
//! letters, and a position is where the process stood before the batch, and how many of its rows were taken since.
//!
//! A position means what the process makes it mean. That the rows behind it are the same again, in the same order, is
//! the process's promise, and each row comes once if it is kept.

mod partition;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ringmill_wire::{Capacity, HeapBatch, Schema};

use self::partition::FedPartition;
use crate::{ConnectError, FieldSpec, Partitions, Replay, Resume, schema_of};

/// A position is shorter than so many bytes.
pub const POSITION_BYTES_MAX: usize = 16 << 10;

/// Rows of a process of its own; a partition for each [`Feed`].
#[derive(Debug, Clone, PartialEq)]
pub struct FedSpec {
    /// what makes them, for errors: `module:Class`
    pub origin: String,
    /// the columns
    pub fields: Vec<FieldSpec>,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// it goes on from its positions
    pub is_seekable: bool,
    /// room in one batch for the bytes of each variable-length column
    pub variable_bytes_max: u32,
    /// rows of a batch, at the most
    pub rows_max: u32,
}

/// What a [`Feed`] had.
#[derive(Debug, Clone, PartialEq)]
pub enum Fed {
    /// A batch, perhaps of no rows.
    Batch {
        /// where the process stood before its first batch, if it can say and has not said it yet
        before: Option<String>,
        /// where it stands behind the batch, if it can say
        after: Option<String>,
        /// there will be no more
        is_last: bool,
    },
    /// Nothing now, and this is where the process stands before its first batch; told once, as soon as it is known.
    Stands(String),
    /// Nothing now; the shard is woken.
    Idle,
    /// Nothing before this time (CLOCK_MONOTONIC, nanoseconds).
    Until(u64),
}

/// The process behind a partition. No call waits.
pub trait Feed: Send {
    /// Whether rows can be asked for; asked before the run begins, until it says so.
    fn is_ready(&mut self) -> Result<bool, ConnectError>;

    /// The next rows are those behind `position`. Before the first [`take`](Feed::take).
    fn seek(&mut self, position: String);

    /// At the checkpoint that is gone on from it had had its last batch, and others of the source had not. Before the
    /// first [`take`](Feed::take).
    fn resume_ended(&mut self) {}

    /// The next batch, copied into `into`, whose rows before are gone.
    fn take(&mut self, into: &mut HeapBatch, now_ns: u64) -> Result<Fed, ConnectError>;

    /// The thread that takes is going to sleep; `false`: there is something to take.
    fn arm_sleep(&mut self) -> bool;

    /// It is awake again.
    fn disarm_sleep(&mut self);

    /// Nothing is taken any more.
    fn drain(&mut self);

    /// A checkpoint is complete that covers what is before this position of the process. Never waits.
    fn covered(&mut self, position: &str) {
        let _ = position;
    }
}

/// A partition to be opened.
pub struct FeedPlace {
    /// its name, unique within the source
    pub name: String,
    /// the shard that polls it
    pub shard: usize,
    /// where its rows come from
    pub feed: Box<dyn Feed>,
}

impl FedSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// How large its batches are.
    pub fn capacity(&self) -> Capacity {
        Capacity { rows_max: self.rows_max, variable_bytes_max: self.variable_bytes_max }
    }

    /// Whether it goes on from a checkpoint.
    pub fn replay(&self) -> Replay {
        if self.is_seekable { Replay::Seekable } else { Replay::Lost }
    }

    /// Makes the partitions; those of a checkpoint must be among them.
    pub fn open(&self, places: Vec<FeedPlace>, resume: Option<&[Resume<'_>]>) -> Result<Partitions, ConnectError> {
        let resume = resume.unwrap_or_default();
        if let Some(gone) = resume.iter().find(|earlier| places.iter().all(|place| place.name != earlier.name)) {
            let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
            let reason = format!("{} has the partitions {}; --fresh begins anew", self.origin, names.join(", "));
            return Err(gone.refuse(reason));
        }
        let is_over = resume.iter().all(|earlier| earlier.ended);
        let open = |mut place: FeedPlace| {
            let earlier = resume.iter().find(|earlier| earlier.name == place.name);
            let position = earlier.map(Resume::position).transpose()?;
            let length = position.as_ref().and_then(|position| position.opaque.as_ref()).map_or(0, |text| text.len());
            if let Some(earlier) = earlier.filter(|_| length >= POSITION_BYTES_MAX) {
                let reason = format!("its position has {length} bytes, and less than {POSITION_BYTES_MAX} can be");
                return Err(earlier.refuse(reason));
            }
            // All of them ended: that run is over, and this one begins behind it.
            if earlier.is_some_and(|earlier| earlier.ended) && !is_over {
                place.feed.resume_ended();
            }
            let shard = place.shard;
            let partition = FedPartition::new(self, place, position.unwrap_or_default())?;
            Ok((shard, Box::new(partition) as Box<_>))
        };
        places.into_iter().map(open).collect()
    }
}
