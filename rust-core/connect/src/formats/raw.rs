//! Lines and messages as they are: one column takes all of each, and nothing is parsed.
//!
//! A line is what stands between two line ends (LF, or CR and LF), an empty one too. What is not UTF-8 becomes a dead letter
//! where the column is text. Written, a value is a line with its end, or a message; one with line feeds takes several lines.

use std::ops::Range;

use memchr::memchr;
use ringmill_wire::{BatchView, DataType, Schema};

use super::{
    Encoder, FieldMisfit, Progress, Records, Stop, Within,
    column::{Column, Refusal, Row},
    lines::LongLine,
};
use crate::{ConnectError, FieldSpec, Fields};

/// What of these fields, of which `members` take what stands beside a line or message, cannot take it as a whole: one can,
/// of type utf8 or binary.
pub fn raw_misfits(fields: &[FieldSpec], members: &[&str]) -> Vec<FieldMisfit> {
    let mut within = fields.iter().filter(|field| !members.contains(&field.name.as_str()));
    let Some(field) = within.next() else {
        return vec![FieldMisfit::of_schema("none of the fields takes the line or message itself".to_owned())];
    };
    let mut misfits = Vec::new();
    if !matches!(field.data_type, DataType::Utf8 | DataType::Binary) {
        let reason = format!("it is {}, and a raw line or message is utf8 or binary", field.data_type);
        misfits.push(FieldMisfit::new(&field.name, reason));
    }
    if field.path.is_some() {
        let reason = "it has a path, and nothing is looked for in a raw line or message".to_owned();
        misfits.push(FieldMisfit::new(&field.name, reason));
    }
    let reason = || format!("a raw line or message is one value, which {} takes", field.name);
    misfits.extend(within.map(|other| FieldMisfit::new(&other.name, reason())));
    misfits
}

/// The field that takes lines or messages.
pub(super) fn column(fields: &Fields, members: &[&str]) -> Result<Column, ConnectError> {
    if fields.types().is_some() {
        let rule = "raw lines and messages do not say a type";
        return Err(ConnectError::Spec { option: "type", value: "raw".to_owned(), rule });
    }
    let misfits = raw_misfits(fields, members);
    let own = fields.iter().enumerate().find(|(_, field)| !members.contains(&field.name.as_str()));
    match own.filter(|_| misfits.is_empty()) {
        Some((index, field)) => Ok(Column::new(index, field)),
        None => Err(ConnectError::Misfit { misfits }),
    }
}

/// Moves a line or message into its column.
#[inline]
pub(super) fn fill(column: &Column, content: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
    match column.data_type {
        DataType::Utf8 => column.push_utf8(row, content),
        _ => column.push_bytes(row, content),
    }
}

/// Makes rows of lines.
#[derive(Debug, Clone)]
pub(crate) struct RawDecoder {
    column: Column,
    long: LongLine,
}

impl RawDecoder {
    pub fn new(fields: &Fields, record_bytes_max: usize) -> Result<RawDecoder, ConnectError> {
        Ok(RawDecoder { column: column(fields, &[])?, long: LongLine::new(record_bytes_max) })
    }

    pub fn restart(&mut self) {
        self.long.go_on_within(None);
    }

    pub fn within(&self) -> Option<Within> {
        self.long.within()
    }

    pub fn go_on_within(&mut self, within: Option<Within>) {
        self.long.go_on_within(within);
    }

    pub fn decode(&mut self, bytes: &[u8], at_end: bool, records: &mut Records<'_, '_>) -> Progress {
        let Some(mut at) = self.long.pass(bytes) else {
            return Progress { consumed: bytes.len(), stop: Stop::NeedMore };
        };
        while at < bytes.len() {
            let rest = &bytes[at..];
            let (line, length) = match memchr(b'\n', rest) {
                Some(end) => (rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]), end + 1),
                None if at_end => (rest, rest.len()),
                None => return self.long.unfinished(bytes, at, records),
            };
            if let Err(stop) = records.admit() {
                return Progress { consumed: at, stop };
            }
            if line.len() > self.long.record_bytes_max {
                records.too_long(at, line, self.long.record_bytes_max);
            } else {
                let outcome = fill(&self.column, line, &mut records.row);
                if let Err(stop) = records.end(outcome, at, line) {
                    return Progress { consumed: at, stop };
                }
            }
            at += length;
        }
        Progress { consumed: at, stop: Stop::NeedMore }
    }
}

/// Writes the values of one column.
pub(super) struct RawEncoder {
    column: usize,
    /// behind each value
    line_end: &'static [u8],
}

impl RawEncoder {
    /// Lines of the only column.
    pub fn lines(schema: &Schema) -> Result<RawEncoder, ConnectError> {
        Ok(RawEncoder { column: written_column(schema, &[])?, line_end: b"\n" })
    }

    /// Messages of the only column that is not one of `beside`, or of the only one.
    #[cfg(any(feature = "http", feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub fn messages(schema: &Schema, beside: &[usize]) -> Result<RawEncoder, ConnectError> {
        Ok(RawEncoder { column: written_column(schema, beside)?, line_end: b"" })
    }
}

fn written_column(schema: &Schema, beside: &[usize]) -> Result<usize, ConnectError> {
    let refuse = |rule| Err(ConnectError::Spec { option: "format", value: "raw".to_owned(), rule });
    let others: Vec<usize> = (0..schema.len()).filter(|column| !beside.contains(column)).collect();
    let column = match others[..] {
        [column] => column,
        [] if schema.len() == 1 => 0,
        [] => return refuse("the rows have no column besides those that stand beside a message"),
        _ => return refuse("the rows have more than one column, and a line or message is one value"),
    };
    let field = schema.field(column);
    if !matches!(field.data_type, DataType::Utf8 | DataType::Binary) {
        let (column, data_type) = (field.name.clone(), field.data_type);
        return Err(ConnectError::Unsupported { column, data_type, format: "raw" });
    }
    match field.nullable {
        true => refuse("its column may be null, and a line or message cannot"),
        false => Ok(column),
    }
}

impl Encoder for RawEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        let column = view.column(self.column);
        for row in rows {
            out.extend_from_slice(column.bytes(row));
            out.extend_from_slice(self.line_end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Format,
        formats::{BinaryDecoder, BinaryFormat, MessageOutput, encoder},
        schema_of,
        testing::{Letter, batch, decode, fields, messages},
    };

    /// Rows and letters, whatever the pieces are in which the bytes come.
    fn decoded(column: &str, bytes: &[u8], record_bytes_max: usize) -> (String, Vec<Letter>) {
        let fields = fields(&[column]);
        let whole = decode(Format::Raw, &fields, bytes, usize::MAX, 64, record_bytes_max);
        for chunk in [1, 2, 3, 7] {
            assert_eq!(decode(Format::Raw, &fields, bytes, chunk, 3, record_bytes_max), whole, "{chunk}");
        }
        whole
    }

    #[test]
    fn each_line_is_a_row_as_it_is() {
        let (rows, letters) = decoded("line:utf8", b"{\"a\": 1}\n\n  x,\"\t\r\n\ra\r\r\nlast\r", 100);
        let expected = "{\"line\":\"{\\\"a\\\": 1}\"}\n{\"line\":\"\"}\n{\"line\":\"  x,\\\"\\t\"}\n{\"line\":\"\\ra\\r\"}\n{\"line\":\"last\\r\"}\n";
        assert_eq!((rows.as_str(), letters.len()), (expected, 0));
        let (rows, letters) = decoded("line:binary", b"\x00\xff\n", 100);
        assert_eq!((rows.as_str(), letters.len()), ("{\"line\":\"AP8=\"}\n", 0));
    }

    #[test]
    fn what_is_no_text_or_too_long_is_a_dead_letter_and_hurts_no_other_line() {
        let (rows, letters) = decoded("line:utf8", b"ab\n\xffc\nabcdefgh\n12345\r\nend", 5);
        assert_eq!(rows, "{\"line\":\"ab\"}\n{\"line\":\"12345\"}\n{\"line\":\"end\"}\n");
        let found: Vec<_> = letters.iter().map(|letter| (letter.offset, &*letter.reason)).collect();
        let invalid = "field \"line\": expected utf8, got \u{fffd}c (not valid UTF-8)";
        assert_eq!(found, [(3, invalid), (6, "the record is longer than record_bytes_max (5 bytes)")]);
        assert_eq!(letters[0].record, b"\xffc");
    }

    #[test]
    fn a_message_is_a_row_with_what_stands_beside_it() {
        let columns = fields(&["topic:utf8", "line:utf8"]);
        let decoder = BinaryDecoder::new(&BinaryFormat::Raw, &columns.clone().into(), &["topic"], 8).unwrap();
        let header = b"{\"topic\":\"a/b\"}";
        let sent: [messages::Message<'_>; 4] =
            [(header, b"x\ny"), (header, b""), (header, b"\xff"), (header, b"123456789")];
        let (rows, letters) = messages::decode(decoder, &columns, &sent).unwrap();
        assert_eq!(rows, "{\"topic\":\"a/b\",\"line\":\"x\\ny\"}\n{\"topic\":\"a/b\",\"line\":\"\"}\n");
        let letters: Vec<_> = letters.iter().map(|letter| (&letter.record[..], letter.header.as_deref())).collect();
        let header = std::str::from_utf8(header).unwrap();
        assert_eq!(letters, [(&b"\xff"[..], Some(header)), (b"12345678", Some(header))]);
    }

    #[test]
    fn values_are_written_as_they_are() {
        let schema = schema_of(&fields(&["key:int64", "line:binary"])).unwrap();
        let mut rows = batch(&schema, 2, 100);
        for line in [&b"\xff\x00"[..], b"a\nb"] {
            rows.writer().push(0, 7_i64);
            rows.writer().push_bytes(1, line).unwrap();
            rows.writer().finish_row();
        }
        let mut out = Vec::new();
        MessageOutput::Raw.encoder(&schema, &[0]).unwrap().encode(&rows.view(), 0..2, &mut out);
        assert_eq!(out, b"\xff\x00a\nb");
        let schema = schema_of(&fields(&["line:utf8"])).unwrap();
        let mut rows = batch(&schema, 2, 100);
        for line in ["ä", ""] {
            rows.writer().push_bytes(0, line.as_bytes()).unwrap();
            rows.writer().finish_row();
        }
        let mut out = Vec::new();
        encoder(Format::Raw, &schema).unwrap().encode(&rows.view(), 0..2, &mut out);
        assert_eq!(out, "ä\n\n".as_bytes());
        // A key may be the message, too.
        MessageOutput::Raw.encoder(&schema, &[0]).unwrap();
    }

    #[test]
    fn columns_that_no_line_or_message_can_be_are_refused() {
        let read = |columns: &[&str]| {
            let misfits = raw_misfits(&fields(columns), &["topic"]);
            misfits.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(read(&["topic:utf8", "line:utf8?"]).is_empty());
        assert_eq!(read(&["topic:utf8"]), ["none of the fields takes the line or message itself"]);
        assert_eq!(read(&["a:int64"]), ["field \"a\": it is int64, and a raw line or message is utf8 or binary"]);
        assert_eq!(read(&["a:utf8", "b:utf8"]), ["field \"b\": a raw line or message is one value, which a takes"]);
        assert!(read(&["a:utf8@/x"])[0].starts_with("field \"a\": it has a path"));
        let written = |columns: &[&str], beside: &[usize]| {
            let schema = schema_of(&fields(columns)).unwrap();
            MessageOutput::Raw.encoder(&schema, beside).err().unwrap().to_string()
        };
        assert_eq!(written(&["a:int64"], &[]), "column \"a\" is int64, which raw cannot carry");
        assert!(written(&["a:utf8", "b:utf8"], &[]).contains("more than one column"));
        assert!(written(&["a:utf8", "b:utf8"], &[0, 1]).contains("no column besides"));
        assert!(written(&["a:utf8?"], &[]).contains("may be null"));
    }
}
