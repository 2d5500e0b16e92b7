//! What sinks write.

use std::fmt;

use ringmill_wire::Schema;

#[cfg(feature = "arrow")]
use super::arrow::ArrowEncoder;
use super::{Encoder, Format, csv::CsvEncoder, json::JsonEncoder, raw::RawEncoder};
use crate::ConnectError;

/// A format of a sink: text, or columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// one JSON object per line (NDJSON), RFC 8259
    Json,
    /// comma-separated values with a header line, RFC 4180
    Csv,
    /// the only column, a value a line as it is
    Raw,
    /// Apache Arrow: files that can be mapped (Feather) where each file is complete, otherwise an IPC stream
    Arrow,
    /// Apache Parquet; complete files only
    Parquet(Compression),
}

/// How the pages of a Parquet file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Compression {
    None,
    Snappy,
    Zstd,
}

impl OutputFormat {
    /// The name used in configurations, and the extension of the files.
    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Json => "json",
            OutputFormat::Csv => "csv",
            OutputFormat::Raw => "raw",
            OutputFormat::Arrow => "arrow",
            OutputFormat::Parquet(_) => "parquet",
        }
    }

    /// Whether `extension` is that of a file of one of the formats.
    pub(crate) fn is_extension(extension: &str) -> bool {
        use OutputFormat as O;
        let all = [O::Json, O::Csv, O::Raw, O::Arrow, O::Parquet(Compression::None)];
        all.iter().any(|format| format.name() == extension)
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Format> for OutputFormat {
    fn from(format: Format) -> OutputFormat {
        match format {
            Format::Json => OutputFormat::Json,
            Format::Csv => OutputFormat::Csv,
            Format::Raw => OutputFormat::Raw,
        }
    }
}

/// Whether an output that begins with `found` has the columns of one that begins with `header`.
pub(crate) fn has_same_columns(found: &[u8], header: &[u8]) -> bool {
    #[cfg(feature = "arrow")]
    if let (Some(found), Some(expected)) = (super::arrow::columns_of(found), super::arrow::columns_of(header)) {
        // Another version of the library may write the same in other bytes.
        return found == expected;
    }
    found == header
}

/// An encoder for rows of this schema; refused if the format cannot carry one of its columns. Rows in columns are an Arrow
/// IPC stream; whoever writes files of another form makes them of it.
pub fn encoder(format: impl Into<OutputFormat>, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
    match format.into() {
        OutputFormat::Json => Ok(Box::new(JsonEncoder::new(schema))),
        OutputFormat::Csv => Ok(Box::new(CsvEncoder::new(schema)?)),
        OutputFormat::Raw => Ok(Box::new(RawEncoder::lines(schema)?)),
        #[cfg(feature = "arrow")]
        OutputFormat::Arrow => Ok(Box::new(ArrowEncoder::new(schema)?)),
        #[cfg(feature = "arrow")]
        OutputFormat::Parquet(_) => Ok(Box::new(ArrowEncoder::for_parquet(schema)?)),
        #[cfg(not(feature = "arrow"))]
        OutputFormat::Arrow | OutputFormat::Parquet(_) => Err(ConnectError::Feature("arrow")),
    }
}
