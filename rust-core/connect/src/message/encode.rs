//! Rows as keys and values, one after the other.
//!
//! A message is the length of its key plus one (0: it has none) and of its value, four bytes each, little-endian; then the
//! key, and the value: the row as a JSON object.

#[cfg(feature = "nats")]
use std::io::{self, BufRead};
use std::ops::Range;

use ringmill_wire::{BatchView, ColumnView, DataType, Schema};

use crate::{ConnectError, Encoder, Format, encoder};

const LENGTH_BYTES: usize = 4;
const HEAD_BYTES: usize = 2 * LENGTH_BYTES;

pub struct MessageEncoder {
    json: Box<dyn Encoder>,
    key: Option<usize>,
}

impl MessageEncoder {
    /// With the values of a column, if it is given, as keys.
    pub fn new(key: Option<usize>, schema: &Schema) -> Result<MessageEncoder, ConnectError> {
        Ok(MessageEncoder { json: encoder(Format::Json, schema)?, key })
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
#[cfg(any(test, feature = "kafka"))]
pub fn is_key(data_type: DataType) -> bool {
    use DataType as T;
    matches!(
        data_type,
        T::Utf8 | T::Binary | T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64
    )
}

impl Encoder for MessageEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            let head = out.len();
            out.extend_from_slice(&[0; HEAD_BYTES]);
            let key = self.key.map(|key| view.column(key)).filter(|column| column.is_valid(row));
            if let Some(column) = &key {
                write_value(column, row, out);
            }
            let value = out.len();
            self.json.encode(view, row..row + 1, out);
            // Without the line's end.
            out.pop();
            let key_length = if key.is_some() { value - head - HEAD_BYTES + 1 } else { 0 };
            put_length(out, head, key_length);
            let value_length = out.len() - value;
            put_length(out, head + LENGTH_BYTES, value_length);
        }
    }
}

fn put_length(out: &mut [u8], at: usize, length: usize) {
    out[at..at + LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
}

/// Text and bytes as they are, integers in decimal, as their text in the value.
pub fn write_value(column: &ColumnView<'_>, row: usize, out: &mut Vec<u8>) {
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

/// A key, if there is one, and a value.
pub type Message<'a> = (Option<&'a [u8]>, &'a [u8]);

/// The same.
#[cfg(feature = "nats")]
pub type OwnedMessage = (Option<Vec<u8>>, Vec<u8>);

/// Takes the messages apart. `None` stands for bytes that no encoder has written.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Option<Message<'_>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split(rest);
        rest = message.map_or(&[], |(_, rest)| rest);
        Some(message.map(|(message, _)| message))
    })
}

/// Reads one message; `None`: there are no more.
#[cfg(feature = "nats")]
pub fn read_message(bytes: &mut impl BufRead) -> io::Result<Option<OwnedMessage>> {
    if bytes.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = || {
        let mut length = [0; LENGTH_BYTES];
        bytes.read_exact(&mut length).map(|()| u32::from_le_bytes(length) as usize)
    };
    let (key_length, value_length) = (length()?.checked_sub(1), length()?);
    let mut read = |length: usize| {
        let mut content = vec![0; length];
        bytes.read_exact(&mut content).map(|()| content)
    };
    let key = key_length.map(&mut read).transpose()?;
    Ok(Some((key, read(value_length)?)))
}

fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let (key_length, rest) = bytes.split_first_chunk()?;
    let (value_length, rest) = rest.split_first_chunk()?;
    let key_length = (u32::from_le_bytes(*key_length) as usize).checked_sub(1);
    let (key, rest) = rest.split_at_checked(key_length.unwrap_or(0))?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_length) as usize)?;
    Some(((key_length.map(|_| key), value), rest))
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
    fn keys_and_values_come_apart_as_they_were() {
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
        let written = |key: Option<&str>| {
            let mut out = Vec::new();
            let key = key.map(|key| column_of(("key", key), KEY, &schema).unwrap());
            MessageEncoder::new(key, &schema).unwrap().encode(&rows.view(), 0..3, &mut out);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let messages = messages(&out).map(|message| message.map(|(key, value)| (key.map(text), text(value))));
            messages.collect::<Option<Vec<_>>>().unwrap()
        };
        let values = [
            "{\"name\":\"n\\n\",\"count\":-7,\"share\":0.5}",
            "{\"name\":null,\"count\":8,\"share\":0.5}",
            "{\"name\":\"\",\"count\":9,\"share\":0.5}",
        ];
        for (key, expected) in [
            (None, [None, None, None]),
            (Some("name"), [Some("n\n"), None, Some("")]),
            (Some("count"), [Some("-7"), Some("8"), Some("9")]),
        ] {
            let expected = expected.map(|key| key.map(str::to_owned)).into_iter().zip(values.map(str::to_owned));
            assert_eq!(written(key), expected.collect::<Vec<_>>());
        }
        for (key, rule) in [("share", "it is no key"), ("nowhere", "the rows have no such column")] {
            let refusal = column_of(("key", key), KEY, &schema).unwrap_err();
            assert_eq!(refusal.to_string(), format!("key is {key}, but {rule}"));
        }
    }

    #[test]
    fn foreign_bytes_are_no_messages() {
        for bytes in [&b"\x01"[..], b"\x00\x00\x00\x00\x09\x00\x00\x00abc", b"\xff\xff\xff\xff\xff\xff\xff\xffabc"] {
            assert_eq!(messages(bytes).collect::<Vec<_>>(), [None]);
        }
    }
}
