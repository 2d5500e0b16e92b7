//! Messages of an MQTT broker, and rows as its messages ([`MqttSink`]).
//!
//! Each message that is read is one JSON object, one datum of Avro or one message of Protobuf. All topics together are one
//! stream, in the order in which the broker sends them. A message is acknowledged when it has been taken over: with a
//! journal when it is durable there. The broker sends what was not acknowledged again, also after a restart of either side,
//! so a message may come twice when the connection or the process breaks in between.

#[cfg(feature = "mqtt")]
mod connection;
#[cfg(feature = "mqtt")]
mod link;
#[cfg(feature = "mqtt")]
mod messages;
#[cfg(feature = "mqtt")]
mod options;
#[cfg(feature = "mqtt")]
mod outbox;
#[cfg(feature = "mqtt")]
mod session;
mod sink;
#[cfg(all(test, feature = "mqtt"))]
mod tests;
#[cfg(feature = "mqtt")]
mod writer;

use std::{path::PathBuf, sync::Arc};

use ringmill_wire::Schema;

pub use self::sink::MqttSink;
use crate::{
    ConnectError, Fields, HeaderField, Journal, MessageFormat, Partition, Partitions, Replay, Resume, Waker,
    host::host_and_port, schema_of,
};

/// Messages, a row each, from the topics of an MQTT broker: one partition, on shard 0.
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSpec {
    /// the broker
    pub broker: Broker,
    /// of the protocol
    pub version: MqttVersion,
    /// topic filters, such as `plant/+/temperature`
    pub topics: Vec<String>,
    /// name of the session that the broker keeps for us
    pub client_id: String,
    /// seconds for which it keeps it while nobody is connected, for ever if absent; only in MQTT 5
    pub session_expiry_s: Option<u32>,
    /// whether the broker sends again what was not acknowledged (quality of service 1), or each message once at most (0)
    pub is_acknowledged: bool,
    /// who we are
    pub user: Option<String>,
    /// a file with the user's password, read at the start
    pub password_file: Option<PathBuf>,
    /// certificates to trust instead of the system's
    pub root_certificates: Option<PathBuf>,
    /// the field that takes a message's topic
    pub topic_field: Option<String>,
    /// the fields that take a message's properties; only in MQTT 5
    pub header_fields: Vec<HeaderField>,
    /// what messages are
    pub format: MessageFormat,
    /// the columns
    pub fields: Fields,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer messages become dead letters
    pub record_bytes_max: usize,
}

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttVersion {
    /// 3.1.1
    #[default]
    V3,
    /// 5
    V5,
}

/// The protocol's quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttQuality {
    /// 0: sent, and nobody says whether it arrived
    AtMostOnce,
    /// 1: sent over each new connection until it is acknowledged
    #[default]
    AtLeastOnce,
    /// 2: the same, and taken once as long as the session lasts
    ExactlyOnce,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// name or address
    pub host: String,
    /// TCP port
    pub port: u16,
    /// whether the connection is encrypted and the broker's certificate checked
    pub is_encrypted: bool,
}

impl Broker {
    /// `mqtt://host:port` or `mqtts://host:port`, the ports 1883 and 8883 if absent. The reason why it is none repeats
    /// nothing of what may be a password.
    pub fn parse(url: &str) -> Result<Broker, &'static str> {
        let (is_encrypted, rest) = match url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err("it must begin with mqtt:// or mqtts://"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err("user and password do not stand in it, but in `user` and `password_file`");
        }
        let (host, port) = host_and_port(rest, if is_encrypted { 8883 } else { 1883 })?;
        Ok(Broker { host: host.to_owned(), port, is_encrypted })
    }
}

impl MqttSpec {
    /// The fields that take what stands beside a message.
    pub fn members(&self) -> Vec<&str> {
        let headers = self.header_fields.iter().map(|header| header.field.as_str());
        self.topic_field.as_deref().into_iter().chain(headers).collect()
    }

    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// What was acknowledged comes only once; with checkpoints it is opened with a journal.
    pub fn replay(&self) -> Replay {
        Replay::Journaled
    }

    /// Whether the protocol knows such a topic filter.
    #[cfg(feature = "mqtt")]
    pub fn is_topic(topic: &str) -> bool {
        rumqttc::valid_filter(topic)
    }

    /// Connects from the first poll on, and again whenever the connection breaks; a broker that refuses the user or a topic
    /// is found at a poll. What a journal holds behind the checkpoint's position comes first.
    #[cfg(feature = "mqtt")]
    pub fn open(
        &self,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        use crate::{formats::BinaryDecoder, parcel, stdin, text::TextOptions};
        let session = session::Session::new(self)?;
        let open = move || session.start();
        let MqttSpec { fields, rate, record_bytes_max, .. } = self.clone();
        let partition: Box<dyn Partition> = match &self.format {
            MessageFormat::Json => {
                let options = TextOptions { format: crate::Format::Json, fields, rate, record_bytes_max };
                Box::new(stdin::open_stream(PARTITION, &options, open, wakers, journal, resume)?)
            }
            MessageFormat::Binary(format) => {
                let messages = Some(BinaryDecoder::new(format, &fields, &self.members(), record_bytes_max)?);
                // Longer ones are dead letters, and come all the same.
                let parcel_bytes_max = options::PACKET_BYTES_MAX as usize;
                let options = parcel::ParcelOptions { fields, rate, record_bytes_max, parcel_bytes_max, messages };
                Box::new(parcel::ParcelPartition::open(PARTITION, options, open, wakers, journal, resume)?)
            }
        };
        Ok(vec![(0, partition)])
    }

    /// This program was built without MQTT.
    #[cfg(not(feature = "mqtt"))]
    pub fn is_topic(_topic: &str) -> bool {
        true
    }

    /// This program was built without MQTT.
    #[cfg(not(feature = "mqtt"))]
    pub fn open(
        &self,
        _wakers: &[Waker],
        _journal: Option<&Journal>,
        _resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        Err(ConnectError::Feature("mqtt"))
    }
}

/// The only partition; the broker may be another one after a restart.
#[cfg(feature = "mqtt")]
const PARTITION: &str = "mqtt";
