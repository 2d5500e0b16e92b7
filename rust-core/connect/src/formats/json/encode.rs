//! Rows as NDJSON.

use std::ops::Range;

use ringmill_wire::{BatchView, DataType, Schema};

use crate::formats::{
    Encoder,
    text::{NotFinite, write_base64, write_items, write_number},
    timestamp,
};

/// Writes one object per row, in the order of the columns, nulls included. NaN and infinities are null, or text.
pub(crate) struct JsonEncoder {
    /// the columns, and `{"name":` of the first one, `,"name":` of the others
    keys: Vec<(usize, Box<[u8]>)>,
    not_finite: NotFinite,
}

impl JsonEncoder {
    pub fn new(schema: &Schema) -> JsonEncoder {
        JsonEncoder::of_columns(schema, 0..schema.len())
    }

    /// One that writes these columns only.
    pub fn of_columns(schema: &Schema, columns: impl IntoIterator<Item = usize>) -> JsonEncoder {
        let keys = columns.into_iter().enumerate().map(|(place, column)| {
            let mut key = vec![if place == 0 { b'{' } else { b',' }];
            write_string(schema.field(column).name.as_bytes(), &mut key);
            key.push(b':');
            (column, key.into_boxed_slice())
        });
        JsonEncoder { keys: keys.collect(), not_finite: NotFinite::Null }
    }

    /// One whose rows can be read back as they were.
    pub fn of_letters(schema: &Schema) -> JsonEncoder {
        JsonEncoder::new(schema).readable()
    }

    /// The same encoder, whose rows can be read back as they were.
    pub fn readable(self) -> JsonEncoder {
        JsonEncoder { not_finite: NotFinite::Quoted, ..self }
    }
}

impl Encoder for JsonEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            for (column, key) in &self.keys {
                out.extend_from_slice(key);
                write_value(view, *column, row, self.not_finite, out);
            }
            out.extend_from_slice(if self.keys.is_empty() { b"{}\n" } else { b"}\n" });
        }
    }
}

#[inline(always)]
fn write_value(view: &BatchView<'_>, index: usize, row: usize, not_finite: NotFinite, out: &mut Vec<u8>) {
    let column = view.column(index);
    if !column.is_valid(row) {
        out.extend_from_slice(b"null");
        return;
    }
    if write_number(&column, row, not_finite, out) {
        return;
    }
    match column.data_type() {
        DataType::Timestamp(unit) => {
            out.push(b'"');
            timestamp::write(column.values::<i64>()[row], unit, out);
            out.push(b'"');
        }
        DataType::Binary => {
            out.push(b'"');
            write_base64(column.bytes(row), out);
            out.push(b'"');
        }
        DataType::List(item) => {
            out.push(b'[');
            write_items(item, column.bytes(row), out);
            out.push(b']');
        }
        _ => write_string(column.bytes(row), out),
    }
}

/// A JSON string. `text` is UTF-8; only quotes, backslashes and control characters need an escape.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    while let Some(plain) = rest.iter().position(|&byte| needs_escape(byte)) {
        out.extend_from_slice(&rest[..plain]);
        write_escape(rest[plain], out);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[inline(always)]
fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cold]
fn write_escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
