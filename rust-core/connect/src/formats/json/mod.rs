//! JSON: one object per line (NDJSON).
//!
//! Strict: whatever RFC 8259 does not allow is refused, in undeclared fields too. Of a repeated key the last counts. With
//! [`Fields::stop_early`] both hold for what is read only, and nothing is read behind the last value that is declared.
//! Integers must be written as such (1.0 is none); floats take any number they can round to; binary is base64;
//! timestamps are RFC 3339 strings or integers in the column's unit.

mod cursor;
mod document;
mod encode;
mod list;
mod number;
mod object;
#[cfg(test)]
mod tests;
mod typed;
#[cfg(test)]
mod typed_tests;

use memchr::{memchr, memrchr};

use super::{
    Progress, Records, Stop, Within,
    column::{Refusal, Row},
    lines::{LongLine, is_line_too_long},
};
use crate::{ConnectError, FieldSpec, Fields};
use cursor::{Cursor, ENDS, Syntax};
use object::Object;
use typed::TypedObject;

pub(super) use encode::JsonEncoder;
#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
pub(crate) use encode::write_string;

/// Lines are handed to the parser in blocks of about this size: it checks a block's UTF-8 at once and may read beyond a
/// line's end with its vector instructions, yet little is checked twice when a bad line makes it start anew.
const BLOCK_BYTES: usize = 16 << 10;

/// Decodes NDJSON.
#[derive(Debug, Clone)]
pub(crate) struct JsonDecoder {
    objects: Objects,
    long: LongLine,
}

/// What the objects are.
#[derive(Debug, Clone)]
enum Objects {
    /// rows of the same columns
    One(Object),
    /// events, each of its own type
    Typed(TypedObject),
}

impl Objects {
    /// Reads the object that begins where the cursor stands, on this line.
    #[inline]
    fn read(&mut self, cursor: &mut Cursor<'_>, line: &[u8]) -> Result<(), Syntax> {
        match self {
            Objects::One(object) => object.read(cursor),
            Objects::Typed(object) => object.read(cursor, line),
        }
    }

    /// Moves the values of the object that was read last from `bytes` into the row.
    #[inline]
    fn push(&self, bytes: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        match self {
            Objects::One(object) => object.push(bytes, row),
            Objects::Typed(object) => object.push(bytes, row),
        }
    }

    /// The object that was read last must end before `line_end`, with nothing behind it; of one that was left in its middle
    /// that is not known.
    #[inline]
    fn end(&self, cursor: &Cursor<'_>, line_end: usize) -> Result<(), Syntax> {
        let has_stopped = match self {
            Objects::One(object) => object.has_stopped(),
            Objects::Typed(object) => object.has_stopped(),
        };
        if has_stopped && cursor.at <= line_end { Ok(()) } else { ends_here(cursor, line_end) }
    }

    /// What has to be known besides the line to read it again.
    #[inline]
    fn header(&self) -> Option<&str> {
        match self {
            Objects::One(_) => None,
            Objects::Typed(object) => object.header(),
        }
    }
}

impl JsonDecoder {
    pub fn new(fields: &Fields, record_bytes_max: usize) -> Result<JsonDecoder, ConnectError> {
        let objects = match fields.types() {
            None => Objects::One(Object::of(fields.iter().enumerate(), fields.stops_early())?),
            Some(types) => Objects::Typed(TypedObject::new(types, fields.stops_early())?),
        };
        Ok(JsonDecoder { objects, long: LongLine::new(record_bytes_max) })
    }

    /// For some of the columns only.
    pub fn of<'f>(
        fields: impl Iterator<Item = (usize, &'f FieldSpec)> + Clone,
        record_bytes_max: usize,
    ) -> Result<JsonDecoder, ConnectError> {
        Ok(JsonDecoder { objects: Objects::One(Object::of(fields, false)?), long: LongLine::new(record_bytes_max) })
    }

    pub fn read_letters(&mut self) {
        if let Objects::One(object) = &mut self.objects {
            object.read_letters();
        }
    }

    pub fn read_sent_letters(&mut self) {
        if let Objects::One(object) = &mut self.objects {
            object.read_sent_letters();
        }
    }

    /// The next objects are of the type that a header with this value stands for; empty: there was none.
    pub fn set_type(&mut self, value: &[u8]) {
        if let Objects::Typed(object) = &mut self.objects {
            object.set_type(value);
        }
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
        loop {
            let Some(block_end) = block_end(bytes, at, at_end) else {
                return self.long.unfinished(bytes, at, records);
            };
            match self.decode_block(&bytes[..block_end], at, records) {
                Ok(()) => at = block_end,
                Err((consumed, stop)) => return Progress { consumed, stop },
            }
        }
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
            let is_too_long = is_line_too_long(&block[at..end], self.long.record_bytes_max);
            if line.is_empty() && !is_too_long {
                at = next;
                continue;
            }
            records.admit().map_err(|stop| (at, stop))?;
            if is_too_long {
                records.too_long(at, &block[at..end], self.long.record_bytes_max);
                (at, base, cursor) = (next, next, None);
                continue;
            }
            let cursor_now = cursor.get_or_insert_with(|| Cursor::new(&block[base..]));
            cursor_now.at = at - base;
            let read = self.objects.read(cursor_now, line);
            match read.and_then(|()| self.objects.end(cursor_now, end - base)) {
                Ok(()) => {
                    let is_text = cursor_now.is_text_until(end - base);
                    let outcome = self.objects.push(&block[base..], &mut records.row);
                    let ended = records.end_with(outcome, at, line, self.objects.header());
                    ended.map_err(|stop| (at, stop))?;
                    if !is_text {
                        // The object was left before that, and the next ones shall be read by what they are.
                        (base, cursor) = (next, None);
                    }
                }
                Err(error) => {
                    let error = self.explain(line, error);
                    self.bury(&error, at, line, records);
                    // The next lines are another document, and bytes that are not UTF-8 lie behind us.
                    (base, cursor) = (next, None);
                }
            }
            at = next;
        }
        Ok(())
    }

    /// Turns one object, without a line end in it, into a row or a dead letter, for which there is room.
    #[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub fn decode_one(&mut self, object: &[u8], records: &mut Records<'_, '_>) -> Result<(), Stop> {
        match self.read_one(object) {
            Ok(()) => {
                let outcome = self.objects.push(object, &mut records.row);
                records.end_with(outcome, 0, object, self.objects.header())
            }
            Err(error) => {
                self.bury(&error, 0, object, records);
                Ok(())
            }
        }
    }

    /// Writes the values of one object into the row, which it does not end.
    pub fn fill(&mut self, object: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        if let Err(error) = self.read_one(object) {
            error.tell(row.reason);
            return Err(Refusal::Misfit);
        }
        self.objects.push(object, row)
    }

    /// Reads what is one object and nothing else.
    fn read_one(&mut self, object: &[u8]) -> Result<(), Syntax> {
        let mut cursor = Cursor::new(object);
        self.objects.read(&mut cursor, object)?;
        self.objects.end(&cursor, object.len())
    }

    /// What is wrong with a line that was refused, seen by itself: its neighbours have no part in it.
    #[cold]
    fn explain(&mut self, line: &[u8], refused: Syntax) -> Syntax {
        self.read_one(line).err().unwrap_or(refused)
    }

    /// Makes a dead letter of the record at `at`.
    #[cold]
    fn bury(&self, error: &Syntax, at: usize, record: &[u8], records: &mut Records<'_, '_>) {
        error.tell(records.row.reason);
        records.bury_with(at, record, self.objects.header().or(records.header));
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
