//! JSON: one object per line (NDJSON).
//!
//! Strict: whatever RFC 8259 does not allow is refused, in undeclared fields too. Of a repeated key the last counts.
//! Integers must be written as such (1.0 is none); floats take any number they can round to; binary is base64;
//! timestamps are RFC 3339 strings or integers in the column's unit.

mod cursor;
mod document;
mod encode;
mod list;
mod number;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use memchr::{memchr, memrchr};
use ringmill_wire::DataType;

use super::{
    Progress, Records, Stop, Within,
    column::{Column, Refusal, Row},
    paths::Paths,
};
use crate::{ConnectError, FieldSpec};
use cursor::{Cursor, ENDS, Syntax};
use document::{Cell, Document, Token};
use number::Wrong;

pub(super) use encode::JsonEncoder;
#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
pub(crate) use encode::write_string;

/// Lines are handed to the parser in blocks of about this size: it checks a block's UTF-8 at once and may read beyond a
/// line's end with its vector instructions, yet little is checked twice when a bad line makes it start anew.
const BLOCK_BYTES: usize = 16 << 10;

/// Decodes NDJSON.
#[derive(Debug, Clone)]
pub(crate) struct JsonDecoder {
    columns: Vec<Column>,
    document: Document,
    record_bytes_max: usize,
    /// within a line that is too long and already buried
    skipping: bool,
    /// floats that are no numbers may be written as text
    takes_not_finite: bool,
}

impl JsonDecoder {
    pub fn new(fields: &[FieldSpec], record_bytes_max: usize) -> Result<JsonDecoder, ConnectError> {
        JsonDecoder::of(fields.iter().enumerate(), record_bytes_max)
    }

    /// For some of the columns only.
    pub fn of<'f>(
        fields: impl Iterator<Item = (usize, &'f FieldSpec)> + Clone,
        record_bytes_max: usize,
    ) -> Result<JsonDecoder, ConnectError> {
        let columns: Vec<Column> = fields.clone().map(|(index, field)| Column::new(index, field)).collect();
        let types = columns.iter().map(|column| column.data_type);
        // A path leads to the place in `columns`.
        let paths = Paths::new(fields.enumerate().map(|(place, (_, field))| (place, field)))?;
        Ok(JsonDecoder {
            document: Document::new(paths, types),
            columns,
            record_bytes_max,
            skipping: false,
            takes_not_finite: false,
        })
    }

    pub fn read_letters(&mut self) {
        self.takes_not_finite = true;
    }

    pub fn restart(&mut self) {
        self.skipping = false;
    }

    pub fn within(&self) -> Option<Within> {
        self.skipping.then_some(Within::Line)
    }

    pub fn go_on_within(&mut self, within: Option<Within>) {
        self.skipping = within.is_some();
    }

    pub fn decode(&mut self, bytes: &[u8], at_end: bool, records: &mut Records<'_, '_>) -> Progress {
        let mut at = 0;
        if self.skipping {
            match Within::Line.pass(bytes) {
                Some(length) => at = length,
                None => {
                    return Progress { consumed: bytes.len(), stop: Stop::NeedMore };
                }
            }
            self.skipping = false;
        }
        loop {
            let Some(block_end) = block_end(bytes, at, at_end) else {
                return self.unfinished(bytes, at, records);
            };
            match self.decode_block(&bytes[..block_end], at, records) {
                Ok(()) => at = block_end,
                Err((consumed, stop)) => return Progress { consumed, stop },
            }
        }
    }

    /// What follows the last line end.
    fn unfinished(&mut self, bytes: &[u8], at: usize, records: &mut Records<'_, '_>) -> Progress {
        let mut progress = Progress { consumed: at, stop: Stop::NeedMore };
        if is_line_too_long(&bytes[at..], self.record_bytes_max) {
            if let Err(stop) = records.admit() {
                progress.stop = stop;
                return progress;
            }
            records.too_long(at, &bytes[at..], self.record_bytes_max);
            self.skipping = true;
            progress.consumed = bytes.len();
        }
        progress
    }

    /// The lines from `at` to the end of `block`.
    fn decode_block(
        &mut self,
        block: &[u8],
        mut at: usize,
        records: &mut Records<'_, '_>,
    ) -> Result<(), (usize, Stop)> {
        let mut cursor = None;
        let mut base = at;
        while at < block.len() {
            let length = memchr(b'\n', &block[at..]);
            let end = length.map_or(block.len(), |length| at + length);
            let next = (end + 1).min(block.len());
            let line = trim(&block[at..end]);
            let is_too_long = is_line_too_long(&block[at..end], self.record_bytes_max);
            if line.is_empty() && !is_too_long {
                at = next;
                continue;
            }
            records.admit().map_err(|stop| (at, stop))?;
            if is_too_long {
                records.too_long(at, &block[at..end], self.record_bytes_max);
                (at, base, cursor) = (next, next, None);
                continue;
            }
            let cursor_now = cursor.get_or_insert_with(|| Cursor::new(&block[base..]));
            cursor_now.at = at - base;
            let read = self.document.read(cursor_now);
            match read.and_then(|()| ends_here(cursor_now, end - base)) {
                Ok(()) => {
                    let outcome = self.push(&block[base..], &mut records.row);
                    records.end(outcome, at, line).map_err(|stop| (at, stop))?;
                }
                Err(error) => {
                    let Syntax { what, at: column } = self.explain(line, error);
                    records.row.reason.clear();
                    let _ = write!(records.row.reason, "not valid JSON at byte {column}: {what}");
                    records.bury(at, line);
                    // The next lines are another document, and bytes that are not UTF-8 lie behind us.
                    (base, cursor) = (next, None);
                }
            }
            at = next;
        }
        Ok(())
    }

    /// Writes the values of one object into the row, which it does not end.
    pub fn fill(&mut self, object: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        let mut cursor = Cursor::new(object);
        let read = self.document.read(&mut cursor).and_then(|()| ends_here(&cursor, object.len()));
        if let Err(Syntax { what, at }) = read {
            row.reason.clear();
            let _ = write!(row.reason, "not valid JSON at byte {at}: {what}");
            return Err(Refusal::Misfit);
        }
        self.push(object, row)
    }

    /// What is wrong with a line that was refused, seen by itself: its neighbours have no part in it.
    #[cold]
    fn explain(&mut self, line: &[u8], refused: Syntax) -> Syntax {
        let mut cursor = Cursor::new(line);
        let read = self.document.read(&mut cursor);
        match read.and_then(|()| ends_here(&cursor, line.len())) {
            Err(error) => error,
            Ok(()) => refused,
        }
    }

    /// Moves the document's values into the row.
    #[inline]
    fn push(&self, bytes: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        for (column, cell) in self.columns.iter().zip(&self.document.cells) {
            self.push_cell(column, cell, bytes, row)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn push_cell(&self, column: &Column, cell: &Cell, bytes: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        let raw = &bytes[cell.start as usize..cell.end as usize];
        let text = match cell.token {
            Token::Missing => return column.push_null(row, "missing"),
            Token::Null => return column.push_null(row, "null"),
            Token::Text => Some(raw),
            Token::Unescaped(from, to) => Some(&self.document.text[from as usize..to as usize]),
            _ => None,
        };
        macro_rules! put {
            ($value:expr) => {
                match $value {
                    Ok(value) => {
                        row.out.push(column.index, value);
                        Ok(())
                    }
                    Err(wrong) => Err(self.refuse(column, cell, bytes, row, wrong)),
                }
            };
        }
        match column.data_type {
            DataType::Float64 => put!(number::double(cell.token).or_else(|wrong| self.not_finite(text, wrong))),
            DataType::Float32 => {
                let not_finite = |wrong| self.not_finite(text, wrong).map(|value| value as f32);
                put!(number::single(cell.token).or_else(not_finite))
            }
            DataType::Int64 => put!(number::integer::<i64>(cell.token, raw)),
            DataType::Int32 => put!(number::integer::<i32>(cell.token, raw)),
            DataType::Int16 => put!(number::integer::<i16>(cell.token, raw)),
            DataType::Int8 => put!(number::integer::<i8>(cell.token, raw)),
            DataType::UInt64 => put!(number::integer::<u64>(cell.token, raw)),
            DataType::UInt32 => put!(number::integer::<u32>(cell.token, raw)),
            DataType::UInt16 => put!(number::integer::<u16>(cell.token, raw)),
            DataType::UInt8 => put!(number::integer::<u8>(cell.token, raw)),
            DataType::Bool => match cell.token {
                Token::Bool(value) => put!(Ok(value)),
                _ => put!(Err::<bool, _>(Wrong::Kind)),
            },
            DataType::Utf8 => match text {
                Some(text) => column.push_bytes(row, text),
                None => Err(self.refuse(column, cell, bytes, row, Wrong::Kind)),
            },
            DataType::Binary => match text {
                Some(text) => column.push_base64(row, text, written(cell, bytes)),
                None => Err(self.refuse(column, cell, bytes, row, Wrong::Kind)),
            },
            DataType::Timestamp(unit) => match text {
                Some(text) => column.push_timestamp_text(row, text, written(cell, bytes), unit),
                None => match number::integer(cell.token, raw) {
                    Ok(value) => column.push_timestamp(row, value, raw),
                    Err(wrong) => Err(self.refuse(column, cell, bytes, row, wrong)),
                },
            },
            DataType::List(_) => match cell.token {
                Token::List(from, to) => {
                    let items = &self.document.lists.bytes[from as usize..to as usize];
                    row.out.push_list(column.index, items).map_err(|_| Refusal::Full)
                }
                _ => Err(self.refuse(column, cell, bytes, row, Wrong::Kind)),
            },
        }
    }

    /// A float that no number stands for, where it may be written as text.
    #[cold]
    fn not_finite(&self, text: Option<&[u8]>, wrong: Wrong) -> Result<f64, Wrong> {
        match text.filter(|_| self.takes_not_finite) {
            Some(b"NaN") => Ok(f64::NAN),
            Some(b"inf") => Ok(f64::INFINITY),
            Some(b"-inf") => Ok(f64::NEG_INFINITY),
            _ => Err(wrong),
        }
    }

    #[cold]
    fn refuse(&self, column: &Column, cell: &Cell, bytes: &[u8], row: &mut Row<'_>, wrong: Wrong) -> Refusal {
        let got = written(cell, bytes);
        match (wrong, cell.token) {
            (_, Token::WrongItem) => column.misfit(row, got, " in its array"),
            (Wrong::Range, _) => column.out_of_range(row, got),
            (Wrong::Kind, _) => column.misfit(row, got, ""),
        }
    }
}

/// A value as it was written, strings with their quotes.
#[inline(always)]
fn written<'a>(cell: &Cell, bytes: &'a [u8]) -> &'a [u8] {
    let (start, end) = (cell.start as usize, cell.end as usize);
    match cell.token {
        Token::Text | Token::Unescaped(..) => &bytes[start - 1..end + 1],
        _ => &bytes[start..end],
    }
}

/// The end of the block of whole lines at `at`; `None` if no line ends there.
fn block_end(bytes: &[u8], at: usize, at_end: bool) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.is_empty() {
        return None;
    }
    let window = &rest[..rest.len().min(BLOCK_BYTES)];
    let length = match memrchr(b'\n', window) {
        Some(last) => Some(last + 1),
        None => memchr(b'\n', rest).map(|first| first + 1),
    };
    match length {
        Some(length) => Some(at + length),
        None => at_end.then_some(bytes.len()),
    }
}

/// Whether a line that begins with these bytes (or is them, without its line feed) is given up. White space counts, so
/// that this is known before the line's end is; but a carriage return at the end may belong to that.
pub(super) fn is_line_too_long(line: &[u8], max: usize) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line).len() > max
}

/// White space around a record says nothing; a carriage return belongs to the line end.
fn trim(line: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let Some(start) = line.iter().position(|byte| !is_space(byte)) else {
        return &[];
    };
    let end = line.iter().rposition(|byte| !is_space(byte)).unwrap_or(start);
    &line[start..=end]
}

/// A document must end on its line, with nothing behind it.
#[inline]
fn ends_here(cursor: &Cursor<'_>, line_end: usize) -> Result<(), Syntax> {
    let what = if cursor.at > line_end {
        ENDS
    } else if trim(&cursor.bytes[cursor.at..line_end]).is_empty() {
        return Ok(());
    } else {
        "something follows the object"
    };
    Err(Syntax { what: what.into(), at: cursor.at.min(line_end) })
}
