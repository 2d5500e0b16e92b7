//! Messages of Apache Kafka topics.
//!
//! Each message is one JSON object, one datum of Avro or one message of Protobuf. Each of Kafka's partitions is one of
//! ours, with its position in the checkpoint, so every message is one row or one dead letter, once, also after a crash.
//! The partitions are assigned when the source is opened, and whoever runs several pipelines on the same topics divides them
//! by hand; or the brokers deal them to the members of a group, and they come and go while the pipeline runs
//! ([`KafkaMembership`]). Then every partition of the topics is one of ours all the same, and one that is somebody else's
//! has nothing.
//!
//! A sink writes each row as a message, at least once; or once, in transactions of the brokers.

#[cfg(feature = "kafka")]
mod assignment;
#[cfg(feature = "kafka")]
mod client;
#[cfg(feature = "kafka")]
mod encode;
#[cfg(feature = "kafka")]
mod group;
#[cfg(all(test, feature = "kafka"))]
mod group_tests;
#[cfg(feature = "kafka")]
mod mark;
#[cfg(feature = "kafka")]
mod native;
#[cfg(feature = "kafka")]
mod partition;
#[cfg(feature = "kafka")]
mod producer;
#[cfg(feature = "kafka")]
mod seat;
#[cfg(feature = "kafka")]
mod session;
mod sink;
#[cfg(all(test, feature = "kafka"))]
mod tests;
#[cfg(feature = "kafka")]
mod transactor;
#[cfg(feature = "kafka")]
mod writer;

pub use sink::KafkaSink;

use std::{path::PathBuf, sync::Arc};

use ringmill_wire::Schema;

#[cfg(feature = "kafka")]
use crate::Share;
use crate::{
    ConnectError, Fields, HeaderField, MessageFormat, Partitions, Promise, Replay, Resume, Secret, Waker, schema_of,
};

/// Messages, a row each, from topics of Apache Kafka; the partitions are dealt to the shards.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaSpec {
    /// where brokers are asked for all the others: `host:port`
    pub brokers: Vec<String>,
    /// names or patterns (`*`, `?`, `[a-z]`), looked for when the source is opened
    pub topics: Vec<String>,
    /// only these partitions of each topic; all if empty
    pub partitions: Vec<i32>,
    /// of them only a share
    pub share: Option<KafkaShare>,
    /// where a partition begins of which no checkpoint says where
    pub start: KafkaStart,
    /// each partition ends where no further message was in it for once
    pub stops_at_end: bool,
    /// to whom completed checkpoints are told
    pub group: Option<KafkaGroup>,
    /// properties of librdkafka
    pub options: Vec<(String, Secret)>,
    /// a file with further ones, `name=value` a line, read when the source is opened
    pub options_file: Option<PathBuf>,
    /// the fields that take what stands beside a message's value
    pub message_fields: MessageFields,
    /// what messages are
    pub format: MessageFormat,
    /// the columns
    pub fields: Fields,
    /// rows per second of all partitions together; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer messages become dead letters
    pub record_bytes_max: usize,
}

/// The partitions whose number leaves `index` when it is divided by `count`, which is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KafkaShare {
    /// which of the shares, from 0
    pub index: u32,
    /// how many there are
    pub count: u32,
}

impl KafkaShare {
    /// Whether a partition is in it.
    pub fn has(self, partition: i32) -> bool {
        u32::try_from(partition).is_ok_and(|partition| partition.checked_rem(self.count) == Some(self.index))
    }

    /// As it stands in a position.
    #[cfg(feature = "kafka")]
    fn noted(self) -> Share {
        Share { index: self.index.into(), of: self.count.into(), stream: String::new() }
    }
}

/// A group of consumers, under whose name the brokers are told what completed checkpoints cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaGroup {
    /// its name
    pub name: String,
    /// the brokers deal the partitions to its members, of which this source is one; `None`: they are only told
    pub membership: Option<KafkaMembership>,
}

/// What a member of a group is.
///
/// Its partitions come and go, so `partitions`, `share` and `stops_at_end` do not go with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaMembership {
    /// a name of its own that outlives its runs: one that is back within the session's time-out has its partitions again
    pub instance: Option<String>,
}

/// Where a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaStart {
    /// at the oldest message that there is
    Earliest,
    /// behind the newest
    Latest,
    /// at the first message with this time stamp (milliseconds since 1970) or a later one
    Timestamp(i64),
}

/// Names of fields that take what stands beside a message's value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageFields {
    /// `utf8`: the topic
    pub topic: Option<String>,
    /// `utf8` or `binary`: the key
    pub key: Option<String>,
    /// an integer: the partition
    pub partition: Option<String>,
    /// an integer: the offset
    pub offset: Option<String>,
    /// `timestamp[ms]`: the time stamp
    pub timestamp: Option<String>,
    /// `utf8` or `binary`: a header's value
    pub headers: Vec<HeaderField>,
}

impl MessageFields {
    /// Those that are there.
    pub fn names(&self) -> Vec<&str> {
        let MessageFields { topic, key, partition, offset, timestamp, headers } = self;
        let named = [topic, key, partition, offset, timestamp].into_iter().filter_map(Option::as_deref);
        named.chain(headers.iter().map(|header| header.field.as_str())).collect()
    }
}

/// Refuses what librdkafka, to which names end at a zero byte, would take for another name.
#[cfg(feature = "kafka")]
fn check_header(option: &'static str, name: &str) -> Result<std::ffi::CString, ConnectError> {
    let refuse =
        |_| ConnectError::Spec { option, value: format!("{name:?}"), rule: "a header's name has no zero byte" };
    std::ffi::CString::new(name).map_err(refuse)
}

impl KafkaSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Each partition goes on at its offset.
    pub fn replay(&self) -> Replay {
        Replay::Seekable
    }

    /// What it promises for a run with checkpoints: a member of a group that dies leaves to others what it has not told
    /// the brokers yet.
    pub fn promise(&self) -> Promise {
        if self.membership().is_some() { Promise::AtLeastOnce } else { Promise::ExactlyOnce }
    }

    /// If the brokers deal the partitions.
    pub fn membership(&self) -> Option<&KafkaMembership> {
        self.group.as_ref()?.membership.as_ref()
    }

    /// Which partitions are read, if not all, as it stands in a position.
    #[cfg(feature = "kafka")]
    fn noted_share(&self) -> Option<Share> {
        match &self.group {
            Some(KafkaGroup { name, membership: Some(_) }) => Some(Share { index: 0, of: 0, stream: name.clone() }),
            _ => self.share.map(KafkaShare::noted),
        }
    }

    /// Refuses a property that librdkafka does not know, a value that it does not take, and what other keys decide. The
    /// reason does not repeat the value.
    #[cfg(feature = "kafka")]
    pub fn check_option(name: &str, value: &Secret) -> Result<(), String> {
        client::check_option(name, value, session::RESERVED)
    }

    /// Asks the brokers for the partitions and for where they begin and end; fails if none answers. A checkpoint's
    /// partitions must all be there and have what follows their positions; those of a known topic that it does not know
    /// begin at their oldest message.
    ///
    /// A member of a group has all partitions; where one begins is asked when it is assigned.
    #[cfg(feature = "kafka")]
    pub fn open(
        &self,
        shards: usize,
        wakers: &[Waker],
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let session = session::Session::new(self)?;
        let found = assignment::find(self, &session, resume)?;
        match self.membership() {
            Some(_) => partition::open_seats(self, session, found, shards.max(1), wakers),
            None => {
                let assigned = assignment::settle(self, &session, found)?;
                partition::open(self, session, assigned, shards.max(1), wakers)
            }
        }
    }

    /// This program was built without Kafka.
    #[cfg(not(feature = "kafka"))]
    pub fn check_option(_name: &str, _value: &Secret) -> Result<(), String> {
        Ok(())
    }

    /// This program was built without Kafka.
    #[cfg(not(feature = "kafka"))]
    pub fn open(
        &self,
        _shards: usize,
        _wakers: &[Waker],
        _resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        Err(ConnectError::Feature("kafka"))
    }
}
