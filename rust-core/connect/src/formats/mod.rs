//! Formats: how records become rows and rows become records.

#[cfg(feature = "arrow")]
pub(crate) mod arrow;
mod avro;
mod binary;
mod block;
mod column;
#[cfg(feature = "arrow")]
pub(crate) mod columns;
mod csv;
mod cut;
mod decoder;
mod json;
mod lines;
mod message;
mod message_output;
mod misfit;
mod number;
mod numeric;
mod output;
mod paths;
mod protobuf;
mod raw;
#[cfg(feature = "http")]
mod registry;
mod registry_spec;
mod schema_number;
mod skip;
mod text;
mod timestamp;
mod unended;

use std::ops::Range;

use ringmill_wire::{BatchView, Schema};
use serde::{Deserialize, Serialize};

use crate::{ConnectError, LetterForm};

pub(crate) use avro::AvroRows;
pub use avro::{AvroOutput, AvroSchema, AvroSpec};
pub(crate) use binary::{Broken, Bytes};
pub(crate) use cut::{is_given_up, last_record_end};
pub(crate) use decoder::{BROKEN_OFF, Decoder, Progress, Records, Scratch, Stop, TOO_LONG, Taken};
#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
pub(crate) use json::{JsonDecoder, write_string};
pub(crate) use message::BinaryDecoder;
pub use message::BinaryFormat;
pub use message_output::MessageOutput;
pub use misfit::FieldMisfit;
pub(crate) use output::has_same_columns;
pub use output::{Compression, OutputFormat, encoder};
pub use protobuf::{ProtobufOutput, ProtobufSchema, ProtobufSpec, ProtobufTarget, ProtobufTypes};
pub use raw::raw_misfits;
pub use registry_spec::RegistrySpec;
pub use skip::Within;
pub use timestamp::write as write_timestamp;
#[cfg(feature = "http")]
pub(crate) use unended::{csv_records, objects_of};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// one JSON object per line (NDJSON), RFC 8259
    Json,
    /// comma-separated values with a header line, RFC 4180
    Csv,
    /// lines as they are, each the value of the only column
    Raw,
}

impl Format {
    /// The name used in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Raw => "raw",
        }
    }
}

/// What is in the files of a source, or comes through its connections.
#[derive(Debug, Clone, PartialEq)]
pub enum FileFormat {
    /// text, one record after the other
    Text(Format),
    /// Apache Arrow: IPC files (Feather) and IPC streams, told apart by their first bytes
    Arrow,
    /// Apache Parquet
    Parquet,
    /// Ringmill's own micro-batches as FlatBuffers, each behind its length; only from those who connect
    MicroBatch,
    /// Avro's object container files; a reader's schema says the former names of fields and the defaults of those that a
    /// file's schema lacks
    Avro(Option<AvroSchema>),
}

impl FileFormat {
    /// The name used in configurations.
    pub fn name(&self) -> &'static str {
        match self {
            FileFormat::Text(format) => format.name(),
            FileFormat::Arrow => "arrow",
            FileFormat::Parquet => "parquet",
            FileFormat::MicroBatch => "micro_batch",
            FileFormat::Avro(_) => "avro",
        }
    }

    /// How the records in dead letters are read: rows of columns became JSON objects.
    pub fn of_letters(&self) -> LetterForm {
        match self {
            FileFormat::Text(format) => LetterForm::Records(*format),
            FileFormat::Arrow | FileFormat::Parquet | FileFormat::MicroBatch => LetterForm::Columns,
            FileFormat::Avro(reader) => LetterForm::Datums(reader.clone()),
        }
    }
}

impl From<Format> for FileFormat {
    fn from(format: Format) -> FileFormat {
        FileFormat::Text(format)
    }
}

/// How the messages of a broker are read.
#[derive(Debug, Clone, PartialEq)]
pub enum MessageFormat {
    /// one JSON object a message
    Json,
    /// something that is no text, or is not looked at
    Binary(BinaryFormat),
}

impl MessageFormat {
    /// The name used in configurations.
    pub fn name(&self) -> &'static str {
        match self {
            MessageFormat::Json => "json",
            MessageFormat::Binary(format) => format.name(),
        }
    }
}

/// Turns rows into bytes. Runs on the shard's thread or on the sink's, appends to `out`; text formats allocate nothing else.
///
/// A sink has several, whose bytes come between one another: nothing may be kept from one call to the next.
pub trait Encoder: Send {
    /// What an output begins with: the CSV header, the schema of an Arrow stream, nothing in JSON.
    fn begin(&mut self, schema: &Schema, out: &mut Vec<u8>);

    /// How many rows a call of [`encode`](Encoder::encode) takes at most.
    fn rows_at_once(&self) -> usize {
        256
    }

    /// Whether the target can take these rows of `view`; asked before they are encoded. Most formats take anything.
    fn check(&self, _view: &BatchView<'_>, _rows: Range<usize>) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Appends these rows of `view`: whole records, or one record batch.
    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>);
}

/// An encoder for the rows in dead letters: JSON that [`LettersSpec`](crate::LettersSpec) reads back as it was, NaN and
/// infinities included.
pub fn letter_encoder(schema: &Schema) -> Box<dyn Encoder> {
    Box::new(json::JsonEncoder::of_letters(schema))
}

#[cfg(all(test, feature = "arrow"))]
mod output_tests;
