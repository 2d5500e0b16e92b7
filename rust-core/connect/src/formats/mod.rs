//! Text formats: how records become rows and rows become records.

mod block;
mod column;
mod csv;
mod decoder;
mod json;
mod skip;
mod text;
mod timestamp;

use std::ops::Range;

use ringmill_wire::{BatchView, Schema};
use serde::{Deserialize, Serialize};

use crate::ConnectError;

pub(crate) use decoder::{BROKEN_OFF, Decoder, Progress, Records, Scratch, Stop, TOO_LONG};
#[cfg(any(feature = "kafka", feature = "mqtt"))]
pub(crate) use json::write_string;
pub use skip::Within;
pub use timestamp::write as write_timestamp;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// one JSON object per line (NDJSON), RFC 8259
    Json,
    /// comma-separated values with a header line, RFC 4180
    Csv,
}

impl Format {
    /// The name used in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Csv => "csv",
        }
    }
}

/// Turns rows into bytes. Runs on the shard thread; appends to `out` and allocates nothing else.
pub trait Encoder: Send {
    /// What an output begins with: the CSV header, nothing in JSON.
    fn begin(&mut self, schema: &Schema, out: &mut Vec<u8>);

    /// Whether the target can take these rows of `view`; asked before they are encoded. Most formats take anything.
    fn check(&self, _view: &BatchView<'_>, _rows: Range<usize>) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Appends these rows of `view`, each a complete record.
    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>);
}

/// An encoder for the rows in dead letters: JSON that [`LettersSpec`](crate::LettersSpec) reads back as it was, NaN and
/// infinities included.
pub fn letter_encoder(schema: &Schema) -> Box<dyn Encoder> {
    Box::new(json::JsonEncoder::of_letters(schema))
}

/// An encoder for rows of this schema; refused if the format cannot carry one of its columns.
pub fn encoder(format: Format, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
    match format {
        Format::Json => Ok(Box::new(json::JsonEncoder::new(schema))),
        Format::Csv => Ok(Box::new(csv::CsvEncoder::new(schema)?)),
    }
}
