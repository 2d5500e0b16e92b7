//! Rows as messages, one after the other.
//!
//! A message is its time stamp (milliseconds since 1970, eight bytes, little-endian; 0: it has none) and then the message of
//! any broker.

use std::{
    io::{self, BufRead},
    ops::Range,
};

use ringmill_wire::{BatchView, DataType, Schema};

use crate::{
    ConnectError, Encoder,
    message::{self, Message, MessageEncoder, OwnedMessage, split},
};

pub struct KafkaEncoder {
    messages: MessageEncoder,
    /// the column with the time stamps
    timestamp: Option<usize>,
    /// nanoseconds in a unit of it
    unit_ns: i64,
}

impl KafkaEncoder {
    pub fn new(messages: MessageEncoder, timestamp: Option<usize>, schema: &Schema) -> KafkaEncoder {
        let unit_ns = match timestamp.map(|column| schema.field(column).data_type) {
            Some(DataType::Timestamp(unit)) => unit.nanoseconds(),
            _ => 1,
        };
        KafkaEncoder { messages, timestamp, unit_ns }
    }

    fn timestamp(&self, view: &BatchView<'_>, row: usize) -> i64 {
        const MILLISECOND_NS: i64 = 1_000_000;
        let column = self.timestamp.map(|column| view.column(column)).filter(|column| column.is_valid(row));
        let Some(column) = column else { return 0 };
        let ns = i128::from(column.values::<i64>()[row]) * i128::from(self.unit_ns);
        // What is before 1970, or within its first millisecond, no message can say.
        i64::try_from(ns.div_euclid(i128::from(MILLISECOND_NS))).unwrap_or(0).max(0)
    }
}

impl Encoder for KafkaEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        self.messages.check(view, rows)
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            out.extend_from_slice(&self.timestamp(view, row).to_le_bytes());
            self.messages.encode(view, row..row + 1, out);
        }
    }
}

/// Takes the messages of a sink with so many headers apart, and their time stamps (milliseconds since 1970; `None`: when it
/// is sent). `None` stands for bytes that no encoder has written.
pub fn messages(bytes: &[u8], headers: usize) -> impl Iterator<Item = Option<(Option<i64>, Message<'_>)>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = rest.split_first_chunk().and_then(|(timestamp, after)| {
            let (message, after) = split(after, headers)?;
            let timestamp = Some(i64::from_le_bytes(*timestamp)).filter(|timestamp| *timestamp > 0);
            Some(((timestamp, message), after))
        });
        rest = message.as_ref().map_or(&[], |(_, rest)| rest);
        Some(message.map(|(message, _)| message))
    })
}

/// Reads one message of a sink with so many headers, and its time stamp; `None`: there are no more.
pub fn read_message(bytes: &mut impl BufRead, headers: usize) -> io::Result<Option<(Option<i64>, OwnedMessage)>> {
    if bytes.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut timestamp = [0; 8];
    bytes.read_exact(&mut timestamp)?;
    let timestamp = Some(i64::from_le_bytes(timestamp)).filter(|timestamp| *timestamp > 0);
    let message = message::read_message(bytes, headers)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Some((timestamp, message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        MessageOutput, schema_of,
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
        let messages_of = MessageEncoder::new(Some(2), vec![0, 2], &MessageOutput::Json, &schema).unwrap();
        KafkaEncoder::new(messages_of, Some(1), &schema).encode(&rows.view(), 0..4, &mut out);
        let expected: [(Option<i64>, &str, Option<&str>); 4] = [
            (Some(1_500), "7", Some("n")),
            (None, "-8", None),
            (None, "9", Some("")),
            (Some(i64::MAX / 1_000), "0", None),
        ];
        let (mut came, mut rest) = (messages(&out, 2), &out[..]);
        for (timestamp, count, name) in expected {
            let (came_timestamp, message) = came.next().unwrap().unwrap();
            assert_eq!((came_timestamp, message.key), (timestamp, Some(count.as_bytes())));
            let (read_timestamp, read) = read_message(&mut rest, 2).unwrap().unwrap();
            assert_eq!((read_timestamp, read.borrowed()), (timestamp, message));
            let message = read.borrowed();
            assert_eq!(message.headers, [name.map(str::as_bytes), Some(count.as_bytes())]);
            assert!(message.value.ends_with(format!("\"count\":{count}}}").as_bytes()));
        }
        assert_eq!(came.next(), None);
        assert!(read_message(&mut rest, 2).unwrap().is_none());
    }

    #[test]
    fn foreign_bytes_are_no_messages() {
        let mut long = vec![0; 8];
        long.extend_from_slice(&[0, 0, 0, 0, 9, 0, 0, 0, b'a']);
        let no_value = vec![0; 16];
        for bytes in [&b"\x01"[..], &[0; 12], &long, &no_value, &[0xff; 40]] {
            assert_eq!(messages(bytes, 0).collect::<Vec<_>>(), [None]);
        }
        for mut bytes in [&b"\x01"[..], &[0; 8], &[0; 12], &long] {
            assert!(read_message(&mut bytes, 0).is_err());
        }
    }
}
