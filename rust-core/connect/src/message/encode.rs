//! Rows as messages, one after the other.
//!
//! A message is so many parts as the sink has headers and two more: the key, the value (the row in the sink's format),
//! the headers' values. A part is its length plus one (0: it is not there), four bytes, little-endian, and its bytes.

#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
use std::io::{self, BufRead};
use std::ops::Range;

use ringmill_wire::{BatchView, ColumnView, DataType, Schema};

use crate::{ConnectError, Encoder, MessageOutput};

const LENGTH_BYTES: usize = 4;

pub struct MessageEncoder {
    values: Box<dyn Encoder>,
    key: Key,
    headers: Vec<usize>,
}

/// What the keys are.
enum Key {
    /// the values of a column, or nothing
    Column(Option<usize>),
    /// what this makes of the row
    #[cfg(feature = "http")]
    Written(Box<dyn Encoder>),
}

impl MessageEncoder {
    /// With the values of a column, if it is given, as keys, and those of others as headers.
    pub fn new(
        key: Option<usize>,
        headers: Vec<usize>,
        format: &MessageOutput,
        schema: &Schema,
    ) -> Result<MessageEncoder, ConnectError> {
        MessageEncoder::beside(key, headers, None, format, schema)
    }

    /// The same of rows of which another column stands beside a message as well.
    pub fn beside(
        key: Option<usize>,
        headers: Vec<usize>,
        other: Option<usize>,
        format: &MessageOutput,
        schema: &Schema,
    ) -> Result<MessageEncoder, ConnectError> {
        let beside: Vec<usize> = key.into_iter().chain(other).chain(headers.iter().copied()).collect();
        Ok(MessageEncoder { values: format.encoder(schema, &beside)?, key: Key::Column(key), headers })
    }

    /// With what one encoder makes of a row as the value, and what another one does as the key.
    #[cfg(feature = "http")]
    pub fn written(values: Box<dyn Encoder>, key: Option<Box<dyn Encoder>>) -> MessageEncoder {
        MessageEncoder { values, key: key.map_or(Key::Column(None), Key::Written), headers: Vec::new() }
    }
}

/// The column that an option names; refused if there is none or its type is not right.
pub fn column_of(
    (option, name): (&'static str, &str),
    (is_right, rule): (fn(DataType) -> bool, &'static str),
    schema: &Schema,
) -> Result<usize, ConnectError> {
    let refuse = |rule| ConnectError::Spec { option, value: name.to_owned(), rule };
    let index = schema.index_of(name).ok_or_else(|| refuse("the rows have no such column"))?;
    if is_right(schema.field(index).data_type) { Ok(index) } else { Err(refuse(rule)) }
}

/// Whether values of this type can be keys, and those of headers.
#[cfg(any(test, feature = "kafka", feature = "mqtt", feature = "nats"))]
pub fn is_key(data_type: DataType) -> bool {
    use DataType as T;
    matches!(
        data_type,
        T::Utf8 | T::Binary | T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64
    )
}

impl Encoder for MessageEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        self.values.check(view, rows)
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            match &mut self.key {
                Key::Column(column) => put_column(view, *column, row, out),
                #[cfg(feature = "http")]
                Key::Written(encoder) => put(out, |out| encoder.encode(view, row..row + 1, out)),
            }
            put(out, |out| self.values.encode(view, row..row + 1, out));
            for header in &self.headers {
                put_column(view, Some(*header), row, out);
            }
        }
    }
}

/// Appends a part that `write` writes.
fn put(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out);
    let length = (out.len() - at - LENGTH_BYTES + 1) as u32;
    out[at..at + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

fn put_column(view: &BatchView<'_>, column: Option<usize>, row: usize, out: &mut Vec<u8>) {
    match column.map(|column| view.column(column)).filter(|column| column.is_valid(row)) {
        Some(column) => put(out, |out| write_value(&column, row, out)),
        None => out.extend_from_slice(&[0; LENGTH_BYTES]),
    }
}

/// Text and bytes as they are, integers in decimal, as their text in the value.
fn write_value(column: &ColumnView<'_>, row: usize, out: &mut Vec<u8>) {
    macro_rules! integer {
        ($type:ty) => {
            out.extend_from_slice(itoa::Buffer::new().format(column.values::<$type>()[row]).as_bytes())
        };
    }
    match column.data_type() {
        DataType::Int8 => integer!(i8),
        DataType::Int16 => integer!(i16),
        DataType::Int32 => integer!(i32),
        DataType::Int64 => integer!(i64),
        DataType::UInt8 => integer!(u8),
        DataType::UInt16 => integer!(u16),
        DataType::UInt32 => integer!(u32),
        DataType::UInt64 => integer!(u64),
        _ => out.extend_from_slice(column.bytes(row)),
    }
}

/// A message to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    /// the headers' values, in the sink's order
    pub headers: Vec<Option<&'a [u8]>>,
}

/// The same.
#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
pub struct OwnedMessage {
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<Option<Vec<u8>>>,
}

#[cfg(feature = "kafka")]
impl OwnedMessage {
    pub fn borrowed(&self) -> Message<'_> {
        let OwnedMessage { key, value, headers } = self;
        Message { key: key.as_deref(), value, headers: headers.iter().map(Option::as_deref).collect() }
    }
}

/// Takes the messages of a sink with so many headers apart. `None` stands for bytes that no encoder has written.
#[cfg(any(test, feature = "mqtt", feature = "nats"))]
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

/// The first message of a sink with so many headers, and what is behind it.
pub fn split(bytes: &[u8], headers: usize) -> Option<(Message<'_>, &[u8])> {
    let mut rest = bytes;
    let mut part = || {
        let (length, after) = rest.split_first_chunk()?;
        let length = (u32::from_le_bytes(*length) as usize).checked_sub(1);
        let (part, after) = after.split_at_checked(length.unwrap_or(0))?;
        rest = after;
        Some(length.map(|_| part))
    };
    let (key, value) = (part()?, part()??);
    let headers = (0..headers).map(|_| part()).collect::<Option<Vec<_>>>()?;
    Some((Message { key, value, headers }, rest))
}

/// Reads one message of a sink with so many headers; `None`: there are no more.
#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
pub fn read_message(bytes: &mut impl BufRead, headers: usize) -> io::Result<Option<OwnedMessage>> {
    if bytes.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut part = || {
        let mut length = [0; LENGTH_BYTES];
        bytes.read_exact(&mut length)?;
        let Some(length) = (u32::from_le_bytes(length) as usize).checked_sub(1) else { return Ok(None) };
        let mut content = vec![0; length];
        bytes.read_exact(&mut content).map(|()| Some(content))
    };
    let (key, value) = (part()?, part()?.unwrap_or_default());
    let headers = (0..headers).map(|_| part()).collect::<io::Result<_>>()?;
    Ok(Some(OwnedMessage { key, value, headers }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        schema_of,
        testing::{batch, fields},
    };

    const KEY: (fn(DataType) -> bool, &str) = (is_key, "it is no key");

    #[test]
    fn keys_values_and_headers_come_apart_as_they_were() {
        let schema = schema_of(&fields(&["name:utf8?", "count:int16", "share:float64"])).unwrap();
        let mut rows = batch(&schema, 3, 100);
        for (name, count) in [(Some("n\n"), -7), (None, 8), (Some(""), 9)] {
            let out = rows.writer();
            match name {
                Some(name) => out.push_bytes(0, name.as_bytes()).unwrap(),
                None => out.push_null(0),
            }
            out.push(1, count as i16);
            out.push(2, 0.5);
            out.finish_row();
        }
        let values = [
            "{\"name\":\"n\\n\",\"count\":-7,\"share\":0.5}",
            "{\"name\":null,\"count\":8,\"share\":0.5}",
            "{\"name\":\"\",\"count\":9,\"share\":0.5}",
        ];
        let (names, counts) = ([Some("n\n"), None, Some("")], [Some("-7"), Some("8"), Some("9")]);
        for (key, headers, keys) in [
            (None, &[][..], [None, None, None]),
            (Some("name"), &["count", "name"], names),
            (Some("count"), &["name"], counts),
        ] {
            let column = |name: &str| column_of(("key", name), KEY, &schema).unwrap();
            let mut out = Vec::new();
            let columns = headers.iter().map(|name| column(name)).collect();
            MessageEncoder::new(key.map(column), columns, &MessageOutput::Json, &schema).unwrap().encode(
                &rows.view(),
                0..3,
                &mut out,
            );
            let came: Vec<_> = messages(&out, headers.len()).map(Option::unwrap).collect();
            assert_eq!(came.len(), 3);
            for (row, message) in came.iter().enumerate() {
                assert_eq!((message.key, message.value), (keys[row].map(str::as_bytes), values[row].as_bytes()));
                let of = |name: &&str| if *name == "name" { names[row] } else { counts[row] };
                let expected: Vec<_> = headers.iter().map(|name| of(name).map(str::as_bytes)).collect();
                assert_eq!(message.headers, expected);
            }
            #[cfg(any(feature = "kafka", feature = "nats"))]
            for (mut stream, expected) in [(&out[..], came)] {
                for message in expected {
                    let read = read_message(&mut stream, headers.len()).unwrap().unwrap();
                    let headers: Vec<_> = read.headers.iter().map(Option::as_deref).collect();
                    assert_eq!(
                        (read.key.as_deref(), &*read.value, headers),
                        (message.key, message.value, message.headers)
                    );
                }
                assert!(read_message(&mut stream, headers.len()).unwrap().is_none());
            }
        }
        for (key, rule) in [("share", "it is no key"), ("nowhere", "the rows have no such column")] {
            let refusal = column_of(("key", key), KEY, &schema).unwrap_err();
            assert_eq!(refusal.to_string(), format!("key is {key}, but {rule}"));
        }
    }

    #[test]
    fn foreign_bytes_are_no_messages() {
        for bytes in [&b"\x01"[..], &[0; 8], b"\x00\x00\x00\x00\x09\x00\x00\x00abc", &[0xff; 40]] {
            assert_eq!(messages(bytes, 0).collect::<Vec<_>>(), [None]);
        }
    }
}
