//! Core NATS as a source: messages that the servers keep for nobody.

use std::sync::Arc;

use ringmill_wire::Schema;

use super::{NatsFields, NatsServers};
use crate::{ConnectError, Fields, Journal, Partitions, Replay, Resume, Waker, schema_of};

/// JSON objects, one a message, of subjects of core NATS: one partition, on shard 0.
///
/// A message that comes while nobody is there, or faster than it is taken, is lost; of what has come to the journal nothing
/// is.
#[derive(Debug, Clone, PartialEq)]
pub struct NatsCoreSpec {
    /// where it is
    pub servers: NatsServers,
    /// such as `plant.*.temperature` or `plant.>`, no two of which meet
    pub subjects: Vec<String>,
    /// each message comes to one of those that name the same group; to all if absent
    pub queue_group: Option<String>,
    /// the fields that take what stands beside a message's payload; it has no number and no time
    pub message_fields: NatsFields,
    /// the columns
    pub fields: Fields,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer messages become dead letters
    pub record_bytes_max: usize,
}

impl NatsCoreSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Messages come only once; with checkpoints it is opened with a journal.
    pub fn replay(&self) -> Replay {
        Replay::Journaled
    }

    /// Connects and subscribes; fails if no server answers. What a journal holds behind the checkpoint's position comes first.
    #[cfg(feature = "nats")]
    pub fn open(
        &self,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let options = crate::text::TextOptions {
            format: crate::Format::Json,
            fields: self.fields.clone(),
            rate: self.rate,
            record_bytes_max: self.record_bytes_max,
        };
        // At once, for nothing waits until the journal's end is reached.
        let subscribed = super::subscription::Subscribed::open(self)?;
        let dropped = subscribed.dropped();
        let open = move || Ok(subscribed);
        let mut partition = crate::stdin::open_stream(PARTITION, &options, open, wakers, journal, resume)?;
        partition.count_dropped(dropped);
        Ok(vec![(0, Box::new(partition))])
    }

    /// This program was built without NATS.
    #[cfg(not(feature = "nats"))]
    pub fn open(
        &self,
        _wakers: &[Waker],
        _journal: Option<&Journal>,
        _resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        Err(ConnectError::Feature("nats"))
    }
}

/// The only partition; the servers may be others after a restart.
#[cfg(feature = "nats")]
const PARTITION: &str = "nats";
