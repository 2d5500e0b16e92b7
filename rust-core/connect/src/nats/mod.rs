//! Messages of a NATS JetStream stream, and rows as its messages ([`NatsSink`]).
//!
//! Each message that is read is one JSON object, one datum of Avro or one message of Protobuf. The stream is one partition, with the number of the
//! next message in the checkpoint, so every message is one row or one dead letter, once, also after a crash. The server keeps nothing of ours, unless it is to be told
//! what completed checkpoints cover: it forgets the consumers through which we read.
//!
//! Messages that are gone before they were read end the run, and so does a stream that was created anew. Those that the
//! stream itself lets others replace, or that somebody deleted one by one, are not missed as long as older ones are there.
//!
//! Of core NATS ([`NatsCoreSpec`], [`NatsCoreSink`]) messages are lost to those who are not there.

mod core;
mod core_sink;
#[cfg(feature = "nats")]
mod core_writer;
#[cfg(feature = "nats")]
mod delivery;
#[cfg(feature = "nats")]
mod driver;
#[cfg(feature = "nats")]
mod durable;
#[cfg(feature = "nats")]
mod envelope;
#[cfg(feature = "nats")]
mod extent;
#[cfg(feature = "nats")]
mod lines;
#[cfg(feature = "nats")]
mod options;
#[cfg(feature = "nats")]
mod partition;
#[cfg(feature = "nats")]
mod publisher;
#[cfg(feature = "nats")]
mod queue;
#[cfg(feature = "nats")]
mod reader;
mod servers;
#[cfg(feature = "nats")]
mod session;
mod sink;
#[cfg(feature = "nats")]
mod stored;
mod subject;
#[cfg(feature = "nats")]
mod subscription;
#[cfg(all(test, feature = "nats"))]
mod tests;

use std::sync::Arc;

use ringmill_wire::Schema;

pub use self::{
    core::NatsCoreSpec,
    core_sink::NatsCoreSink,
    servers::{NatsLogin, NatsServers},
    sink::NatsSink,
};
use crate::{ConnectError, Fields, HeaderField, MessageFormat, Partitions, Replay, Resume, Waker, schema_of};

/// Messages, a row each, from a stream of NATS JetStream: one partition, on shard 0.
#[derive(Debug, Clone, PartialEq)]
pub struct NatsSpec {
    /// where it is
    pub servers: NatsServers,
    /// its name
    pub stream: String,
    /// only messages of these subjects, such as `plant.*.temperature` or `plant.>`, no two of which meet; all if empty
    pub subjects: Vec<String>,
    /// name of a consumer on which is acknowledged what completed checkpoints cover, for tools that show lag
    pub durable: Option<String>,
    /// where reading begins if no checkpoint says where
    pub start: NatsStart,
    /// the source ends where no further message was in the stream for once
    pub stops_at_end: bool,
    /// the fields that take what stands beside a message's payload
    pub message_fields: NatsFields,
    /// what messages are
    pub format: MessageFormat,
    /// the columns
    pub fields: Fields,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer messages become dead letters
    pub record_bytes_max: usize,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatsStart {
    /// at the oldest message that there is
    Earliest,
    /// behind the newest
    Latest,
    /// at the first message that the server took at this time (nanoseconds since 1970) or later
    Time(i64),
}

/// Names of fields that take what stands beside a message's payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatsFields {
    /// `utf8`: the subject
    pub subject: Option<String>,
    /// an integer: its number in the stream
    pub sequence: Option<String>,
    /// `timestamp[ns]`: when the server took it
    pub timestamp: Option<String>,
    /// `utf8` or `binary`: a header's value
    pub headers: Vec<HeaderField>,
}

impl NatsFields {
    /// Those that are there.
    pub fn names(&self) -> Vec<&str> {
        let NatsFields { subject, sequence, timestamp, headers } = self;
        let named = [subject, sequence, timestamp].into_iter().filter_map(Option::as_deref);
        named.chain(headers.iter().map(|header| header.field.as_str())).collect()
    }
}

impl NatsSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// It goes on at its number.
    pub fn replay(&self) -> Replay {
        Replay::Seekable
    }

    /// Whether messages of this subject are wanted.
    #[cfg(feature = "nats")]
    fn takes(&self, subject: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|wanted| subject::meet(subject, wanted))
    }

    /// Whether a stream, or a consumer, can have this name.
    pub fn is_name(name: &str) -> bool {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b".*>/\\".contains(&byte))
    }

    /// Whether it is a subject, or one that stands for several: `*` for one part between dots, `>` for all at the end.
    pub fn is_subject(subject: &str) -> bool {
        subject::is_subject(subject)
    }

    /// Whether a message can be of both subjects: servers refuse to choose by two such.
    pub fn meet(subject: &str, other: &str) -> bool {
        subject::meet(subject, other)
    }

    /// Whether a message can have a header of this name.
    pub fn is_header(name: &str) -> bool {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
    }

    /// Asks the servers for the stream; fails if none answers. What follows a checkpoint's position must be there.
    #[cfg(feature = "nats")]
    pub fn open(&self, wakers: &[Waker], resume: Option<&[Resume<'_>]>) -> Result<Partitions, ConnectError> {
        partition::open(self, wakers, resume)
    }

    /// This program was built without NATS.
    #[cfg(not(feature = "nats"))]
    pub fn open(&self, _wakers: &[Waker], _resume: Option<&[Resume<'_>]>) -> Result<Partitions, ConnectError> {
        Err(ConnectError::Feature("nats"))
    }
}
