//! What the messages of a sink are.

use ringmill_wire::Schema;

use super::{AvroOutput, Encoder, ProtobufOutput, json::JsonEncoder, raw::RawEncoder, unended::Unended};
use crate::ConnectError;

/// How a broker's messages are written.
#[derive(Debug, Clone, PartialEq)]
pub enum MessageOutput {
    /// each row one JSON object
    Json,
    /// each row one datum of Avro
    Avro(Box<AvroOutput>),
    /// each row one message of Protobuf
    Protobuf(Box<ProtobufOutput>),
    /// the value of the only column as it is
    Raw,
}

impl MessageOutput {
    /// What makes a message of each row, and nothing between them; refused if the format cannot carry a column. It is used
    /// behind [`prepare`](Self::prepare). `beside`: columns whose values stand beside a message.
    #[cfg(any(feature = "http", feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub(crate) fn encoder(&self, schema: &Schema, beside: &[usize]) -> Result<Box<dyn Encoder>, ConnectError> {
        match self {
            MessageOutput::Json => Ok(Box::new(Unended(JsonEncoder::new(schema)))),
            MessageOutput::Avro(avro) => avro.encoder(schema),
            MessageOutput::Protobuf(protobuf) => protobuf.encoder(schema),
            MessageOutput::Raw => Ok(Box::new(RawEncoder::messages(schema, beside)?)),
        }
    }

    /// Finds out what messages of these rows need: waits for a registry, if there is one, and fails if it refuses or does
    /// not answer.
    #[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub(crate) fn prepare(&self, schema: &Schema) -> Result<(), ConnectError> {
        match self {
            MessageOutput::Json | MessageOutput::Raw => Ok(()),
            MessageOutput::Avro(avro) => avro.register(schema),
            MessageOutput::Protobuf(protobuf) => protobuf.register(schema),
        }
    }
}
