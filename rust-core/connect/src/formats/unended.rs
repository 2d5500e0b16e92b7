//! Rows of text without the line ends behind them, for those who put them together otherwise.

use std::ops::Range;

use ringmill_wire::{BatchView, Schema};

use super::{Encoder, csv::CsvEncoder, json::JsonEncoder};
use crate::ConnectError;

/// Leaves out the line feed that a text format ends each row with, and what the output begins with.
pub(super) struct Unended<E>(pub E);

impl<E: Encoder> Encoder for Unended<E> {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            self.0.encode(view, row..row + 1, out);
            out.pop();
        }
    }
}

/// Records of CSV, each alone, and the header that belongs above them, with its line end.
#[cfg(feature = "http")]
pub(crate) fn csv_records(schema: &Schema) -> Result<(Box<dyn Encoder>, String), ConnectError> {
    let (mut encoder, mut header) = (CsvEncoder::new(schema)?, Vec::new());
    encoder.begin(schema, &mut header);
    Ok((Box::new(Unended(encoder)), String::from_utf8_lossy(&header).into_owned()))
}

/// These columns as JSON that can be read back, an object for each row.
#[cfg(feature = "http")]
pub(crate) fn objects_of(schema: &Schema, columns: &[usize]) -> Box<dyn Encoder> {
    Box::new(Unended(JsonEncoder::of_columns(schema, columns.iter().copied()).readable()))
}
