//! Rows as messages of a broker.

use std::path::PathBuf;

use ringmill_wire::Schema;

use super::{Broker, MqttQuality, MqttVersion};
use crate::{ConnectError, Encoder, HeaderColumn, MessageOutput, Promise, Writer};

/// Topics of an MQTT broker as a sink: each row is a message, its payload the row in a format.
///
/// Messages keep their order as long as the broker's connection lasts, and those that were not acknowledged are sent again
/// over the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSink {
    /// the broker
    pub broker: Broker,
    /// of the protocol
    pub version: MqttVersion,
    /// how hard it is tried to bring a message to the broker, and by it to those who subscribe
    pub quality: MqttQuality,
    /// the topic of rows for which no column says one
    pub topic: Option<String>,
    /// the column that says a row's topic
    pub topic_column: Option<String>,
    /// whether the broker keeps a topic's last message for those who subscribe later
    pub is_retained: bool,
    /// columns that are also properties of messages; only in MQTT 5, as what follows
    pub headers: Vec<HeaderColumn>,
    /// what a payload is, for those who read it
    pub content_type: Option<String>,
    /// seconds after which the broker does not hand a message out any more
    pub message_expiry_s: Option<u32>,
    /// our name at the broker, where no other client may have it; made up for each run if absent, which is not possible
    /// with quality of service 2
    pub client_id: Option<String>,
    /// who we are
    pub user: Option<String>,
    /// a file with the user's password, read at the start
    pub password_file: Option<PathBuf>,
    /// certificates to trust instead of the system's
    pub root_certificates: Option<PathBuf>,
    /// what a message is
    pub format: MessageOutput,
}

impl MqttSink {
    /// The broker has acknowledged every row when the checkpoint of its epoch is complete, but with quality of service 0,
    /// where nobody knows; after a crash those of the interrupted epoch are there again.
    pub fn promise(&self) -> Promise {
        match self.quality {
            MqttQuality::AtMostOnce => Promise::AtMostOnce,
            MqttQuality::AtLeastOnce | MqttQuality::ExactlyOnce => Promise::AtLeastOnce,
        }
    }

    /// Whether the protocol can carry this as a name or a value.
    pub fn is_text(text: &str) -> bool {
        text.len() <= usize::from(u16::MAX) && !text.contains('\0')
    }

    /// Whether messages can have this topic.
    pub fn is_topic(topic: &str) -> bool {
        !topic.is_empty() && MqttSink::is_text(topic) && !topic.contains(['+', '#'])
    }

    /// What makes messages of rows of this schema; refused if it has no such column.
    #[cfg(feature = "mqtt")]
    pub fn encoder(&self, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        use ringmill_wire::DataType;

        use crate::message::{MessageEncoder, column_of, is_key};
        let types: (fn(_) -> _, _) = (|column| column == DataType::Utf8, "a topic is of type utf8");
        let topic = self.topic_column.as_ref().map(|name| column_of(("topic_column", name), types, schema));
        let types: (fn(_) -> _, _) =
            (|column| column != DataType::Binary && is_key(column), "a header is of type utf8 or an integer");
        let header = |header: &HeaderColumn| column_of(("headers", &header.column), types, schema);
        let headers = self.headers.iter().map(header).collect::<Result<_, _>>()?;
        Ok(Box::new(MessageEncoder::new(topic.transpose()?, headers, &self.format, schema)?))
    }

    /// Connects from now on, and again whenever the connection breaks; a broker that refuses the user is found at a write.
    #[cfg(feature = "mqtt")]
    pub fn open(&self, schema: &Schema) -> Result<Box<dyn Writer>, ConnectError> {
        if self.quality == MqttQuality::ExactlyOnce && self.client_id.is_none() {
            let rule = "the broker keeps a session under it with qos = 2";
            return Err(ConnectError::Spec { option: "client_id", value: "absent".to_owned(), rule });
        }
        self.format.prepare(schema)?;
        Ok(Box::new(super::writer::MqttWriter::open(self)?))
    }

    /// This program was built without MQTT.
    #[cfg(not(feature = "mqtt"))]
    pub fn encoder(&self, _schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        Err(ConnectError::Feature("mqtt"))
    }

    /// This program was built without MQTT.
    #[cfg(not(feature = "mqtt"))]
    pub fn open(&self, _schema: &Schema) -> Result<Box<dyn Writer>, ConnectError> {
        Err(ConnectError::Feature("mqtt"))
    }
}
