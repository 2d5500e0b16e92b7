//! Rows as CSV.

use std::ops::Range;

use memchr::memchr3;
use ringmill_wire::{BatchView, DataType, Schema};

use crate::{
    ConnectError,
    formats::{
        Encoder,
        text::{NotFinite, write_base64, write_number},
        timestamp,
    },
};

/// Writes a header and one record per row. Null is an empty value, empty text is `""`.
pub(crate) struct CsvEncoder {
    columns: usize,
}

impl CsvEncoder {
    pub fn new(schema: &Schema) -> Result<CsvEncoder, ConnectError> {
        for field in &schema.fields {
            if matches!(field.data_type, DataType::List(_)) {
                return Err(ConnectError::Unsupported {
                    column: field.name.clone(),
                    data_type: field.data_type,
                    format: "csv",
                });
            }
        }
        Ok(CsvEncoder { columns: schema.fields.len() })
    }
}

impl Encoder for CsvEncoder {
    fn begin(&mut self, schema: &Schema, out: &mut Vec<u8>) {
        for (index, field) in schema.fields.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_text(field.name.as_bytes(), out);
        }
        out.push(b'\n');
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            for index in 0..self.columns {
                if index > 0 {
                    out.push(b',');
                }
                write_value(view, index, row, out);
            }
            out.push(b'\n');
        }
    }
}

#[inline(always)]
fn write_value(view: &BatchView<'_>, index: usize, row: usize, out: &mut Vec<u8>) {
    let column = view.column(index);
    if !column.is_valid(row) {
        // A line without anything is no record, so a lone null needs its quotes.
        if view.schema().len() == 1 {
            out.extend_from_slice(b"\"\"");
        }
        return;
    }
    if write_number(&column, row, NotFinite::Text, out) {
        return;
    }
    match column.data_type() {
        DataType::Timestamp(unit) => timestamp::write(column.values::<i64>()[row], unit, out),
        DataType::Binary if !column.bytes(row).is_empty() => write_base64(column.bytes(row), out),
        _ => write_text(column.bytes(row), out),
    }
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    let needs_quotes = text.is_empty() || memchr3(b',', b'"', b'\n', text).is_some() || text.contains(&b'\r');
    if !needs_quotes {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for part in text.split_inclusive(|&byte| byte == b'"') {
        out.extend_from_slice(part);
        if part.ends_with(b"\"") {
            out.push(b'"');
        }
    }
    out.push(b'"');
}
