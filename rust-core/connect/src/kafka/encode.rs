//! Rows as messages, one after the other.
//!
//! A message is its time stamp (milliseconds since 1970, eight bytes; 0: it has none) and then so many parts as the sink has
//! headers and two more: the key, the value, the headers' values. A part is its length plus one (0: it is not there), four
//! bytes, and its bytes. All numbers are little-endian.

use std::ops::Range;

use ringmill_wire::{BatchView, DataType, Schema};

use crate::{ConnectError, Encoder, Format, encoder, message::write_value};

/// Where a row's message gets what it has besides its value, by the columns' indices.
pub struct Columns {
    pub key: Option<usize>,
    pub timestamp: Option<usize>,
    pub headers: Vec<usize>,
}

pub struct KafkaEncoder {
    json: Box<dyn Encoder>,
    columns: Columns,
    /// nanoseconds in a unit of the time stamp's column
    unit_ns: i64,
}

impl KafkaEncoder {
    pub fn new(columns: Columns, schema: &Schema) -> Result<KafkaEncoder, ConnectError> {
        let unit_ns = match columns.timestamp.map(|column| schema.field(column).data_type) {
            Some(DataType::Timestamp(unit)) => unit.nanoseconds(),
            _ => 1,
        };
        Ok(KafkaEncoder { json: encoder(Format::Json, schema)?, columns, unit_ns })
    }

    fn timestamp(&self, view: &BatchView<'_>, row: usize) -> i64 {
        const MILLISECOND_NS: i64 = 1_000_000;
        let column = self.columns.timestamp.map(|column| view.column(column)).filter(|column| column.is_valid(row));
        let Some(column) = column else { return 0 };
        let ns = i128::from(column.values::<i64>()[row]) * i128::from(self.unit_ns);
        // What is before 1970, or within its first millisecond, no message can say.
        i64::try_from(ns.div_euclid(i128::from(MILLISECOND_NS))).unwrap_or(0).max(0)
    }
}

/// Appends a part that `write` writes.
fn put(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - at - 4 + 1) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_column(view: &BatchView<'_>, column: Option<usize>, row: usize, out: &mut Vec<u8>) {
    match column.map(|column| view.column(column)).filter(|column| column.is_valid(row)) {
        Some(column) => put(out, |out| write_value(&column, row, out)),
        None => out.extend_from_slice(&[0; 4]),
    }
}

impl Encoder for KafkaEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            out.extend_from_slice(&self.timestamp(view, row).to_le_bytes());
            put_column(view, self.columns.key, row, out);
            put(out, |out| {
                self.json.encode(view, row..row + 1, out);
                // Without the line's end.
                out.pop();
            });
            for header in &self.columns.headers {
                put_column(view, Some(*header), row, out);
            }
        }
    }
}

/// A message to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// milliseconds since 1970; `None`: when it is sent
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    /// the headers' values, in the sink's order
    pub headers: Vec<Option<&'a [u8]>>,
}

/// Takes the messages of a sink with so many headers apart. `None` stands for bytes that no encoder has written.
pub fn messages(bytes: &[u8], headers: usize) -> impl Iterator<Item = Option<Message<'_>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split(rest, headers);
        rest = message.as_ref().map_or(&[], |(_, rest)| rest);
        Some(message.map(|(message, _)| message))
    })
}

fn split(bytes: &[u8], headers: usize) -> Option<(Message<'_>, &[u8])> {
    let (timestamp, mut rest) = bytes.split_first_chunk()?;
    let timestamp = i64::from_le_bytes(*timestamp);
    let mut part = || {
        let (length, after) = rest.split_first_chunk()?;
        let length = (u32::from_le_bytes(*length) as usize).checked_sub(1);
        let (part, after) = after.split_at_checked(length.unwrap_or(0))?;
        rest = after;
        Some(length.map(|_| part))
    };
    let (key, value) = (part()?, part()??);
    let headers = (0..headers).map(|_| part()).collect::<Option<Vec<_>>>()?;
    Some((Message { timestamp: (timestamp > 0).then_some(timestamp), key, value, headers }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        schema_of,
        testing::{batch, fields},
    };

    #[test]
    fn what_stands_beside_a_row_comes_apart_as_it_was() {
        let schema = schema_of(&fields(&["name:utf8?", "at:timestamp[us]?", "count:int16"])).unwrap();
        let mut rows = batch(&schema, 4, 100);
        for (name, at, count) in
            [(Some("n"), Some(1_500_999), 7), (None, None, -8), (Some(""), Some(-1), 9), (None, Some(i64::MAX), 0)]
        {
            let out = rows.writer();
            match name {
                Some(name) => out.push_bytes(0, name.as_bytes()).unwrap(),
                None => out.push_null(0),
            }
            match at {
                Some(at) => out.push::<i64>(1, at),
                None => out.push_null(1),
            }
            out.push(2, count as i16);
            out.finish_row();
        }
        let mut out = Vec::new();
        let columns = Columns { key: Some(2), timestamp: Some(1), headers: vec![0, 2] };
        KafkaEncoder::new(columns, &schema).unwrap().encode(&rows.view(), 0..4, &mut out);
        let expected: [(Option<i64>, &str, Option<&str>); 4] = [
            (Some(1_500), "7", Some("n")),
            (None, "-8", None),
            (None, "9", Some("")),
            (Some(i64::MAX / 1_000), "0", None),
        ];
        let mut came = messages(&out, 2);
        for (timestamp, count, name) in expected {
            let message = came.next().unwrap().unwrap();
            assert_eq!((message.timestamp, message.key), (timestamp, Some(count.as_bytes())));
            assert_eq!(message.headers, [name.map(str::as_bytes), Some(count.as_bytes())]);
            assert!(message.value.ends_with(format!("\"count\":{count}}}").as_bytes()));
        }
        assert_eq!(came.next(), None);
    }

    #[test]
    fn foreign_bytes_are_no_messages() {
        let mut long = vec![0; 8];
        long.extend_from_slice(&[0, 0, 0, 0, 9, 0, 0, 0, b'a']);
        let no_value = vec![0; 16];
        for bytes in [&b"\x01"[..], &[0; 12], &long, &no_value, &[0xff; 40]] {
            assert_eq!(messages(bytes, 0).collect::<Vec<_>>(), [None]);
        }
    }
}
