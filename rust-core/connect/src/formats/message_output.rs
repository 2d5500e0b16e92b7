//! What the messages of a sink are.

use std::ops::Range;

use ringmill_wire::{BatchView, Schema};

use super::{AvroOutput, Encoder, json::JsonEncoder};
use crate::ConnectError;

/// How a broker's messages are written.
#[derive(Debug, Clone, PartialEq)]
pub enum MessageOutput {
    /// each row one JSON object
    Json,
    /// each row one datum of Avro
    Avro(Box<AvroOutput>),
}

impl MessageOutput {
    /// What makes a message of each row, and nothing between them; refused if the format cannot carry a column. It is used
    /// behind [`prepare`](Self::prepare).
    #[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub(crate) fn encoder(&self, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        match self {
            MessageOutput::Json => Ok(Box::new(Objects(JsonEncoder::new(schema)))),
            MessageOutput::Avro(avro) => avro.encoder(schema),
        }
    }

    /// Finds out what messages of these rows need: waits for a registry, if there is one, and fails if it refuses or does
    /// not answer.
    #[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub(crate) fn prepare(&self, schema: &Schema) -> Result<(), ConnectError> {
        match self {
            MessageOutput::Json => Ok(()),
            MessageOutput::Avro(avro) => avro.register(schema),
        }
    }
}

/// Lines of JSON without their ends.
struct Objects(JsonEncoder);

impl Encoder for Objects {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            self.0.encode(view, row..row + 1, out);
            out.pop();
        }
    }
}
