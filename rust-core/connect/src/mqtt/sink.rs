//! Rows as messages of a broker.

use std::path::PathBuf;

use ringmill_wire::Schema;

use super::Broker;
use crate::{ConnectError, Encoder, MessageOutput, Promise, Writer};

/// Topics of an MQTT 3.1.1 broker as a sink: each row is a message, its payload the row in a format (quality of service 1).
///
/// Messages keep their order as long as the broker's connection lasts, and those that were not acknowledged are sent again
/// over the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSink {
    /// the broker
    pub broker: Broker,
    /// the topic of rows for which no column says one
    pub topic: Option<String>,
    /// the column that says a row's topic
    pub topic_column: Option<String>,
    /// whether the broker keeps a topic's last message for those who subscribe later
    pub is_retained: bool,
    /// our name at the broker, where no other client may have it; made up for each run if absent
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
    /// The broker has acknowledged every row when the checkpoint of its epoch is complete; after a crash those of the
    /// interrupted epoch are there again.
    pub fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }

    /// Whether messages can have this topic.
    pub fn is_topic(topic: &str) -> bool {
        !topic.is_empty() && topic.len() <= usize::from(u16::MAX) && !topic.contains(['+', '#', '\0'])
    }

    /// What makes messages of rows of this schema; refused if it has no such column.
    #[cfg(feature = "mqtt")]
    pub fn encoder(&self, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        use crate::message::{MessageEncoder, column_of};
        let types: (fn(_) -> _, _) =
            (|data_type| data_type == ringmill_wire::DataType::Utf8, "a topic is of type utf8");
        let column = |name: &String| column_of(("topic_column", name), types, schema);
        Ok(Box::new(MessageEncoder::new(
            self.topic_column.as_ref().map(column).transpose()?,
            Vec::new(),
            &self.format,
            schema,
        )?))
    }

    /// Connects from now on, and again whenever the connection breaks; a broker that refuses the user is found at a write.
    #[cfg(feature = "mqtt")]
    pub fn open(&self, schema: &Schema) -> Result<Box<dyn Writer>, ConnectError> {
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
