//! Keys of retained rows: key columns and the window's start as bytes that sort as the values do.
//!
//! Each column says by itself where it ends, so no key of a step is the beginning of another one, whatever is in it.

use super::RetainedRow;

/// Before everything that is not a row.
pub(super) const BOOK: u8 = 0;
/// Before the rows.
pub(super) const ROW: u8 = 1;
/// The window's start, at the end of a row's key.
pub(super) const START_BYTES: usize = 8;

const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
/// A zero byte of a text is followed by this, its end by another zero.
const ESCAPED: u8 = u8::MAX;

/// One key column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPart<'a> {
    /// No value; before all others.
    Null,
    /// False before true.
    Bool(bool),
    /// Signed integers, and timestamps in their column's unit.
    Signed(i64),
    /// Unsigned integers.
    Unsigned(u64),
    /// Text and binary, byte by byte.
    Bytes(&'a [u8]),
}

impl KeyPart<'_> {
    /// Appends the column to a key.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(if matches!(self, KeyPart::Null) { ABSENT } else { PRESENT });
        match *self {
            KeyPart::Null => {}
            KeyPart::Bool(value) => out.push(u8::from(value)),
            KeyPart::Signed(value) => out.extend_from_slice(&ordered(value)),
            KeyPart::Unsigned(value) => out.extend_from_slice(&value.to_be_bytes()),
            KeyPart::Bytes(bytes) => {
                for (number, piece) in bytes.split(|byte| *byte == 0).enumerate() {
                    if number > 0 {
                        out.extend_from_slice(&[0, ESCAPED]);
                    }
                    out.extend_from_slice(piece);
                }
                out.extend_from_slice(&[0, 0]);
            }
        }
    }
}

/// Eight bytes that sort as the numbers do.
pub(super) fn ordered(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

/// The number of [`ordered`] bytes.
pub(super) fn number(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

/// Where a row lies in the store.
pub(super) fn stored_key(key: &[u8], start_ns: i64) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len() + START_BYTES);
    stored.push(ROW);
    stored.extend_from_slice(key);
    stored.extend_from_slice(&ordered(start_ns));
    stored
}

/// Behind all rows of a key and before those of the next, as no key is the beginning of another.
pub(super) fn behind_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len() + START_BYTES + 1);
    stored.push(ROW);
    stored.extend_from_slice(key);
    stored.extend_from_slice(&[u8::MAX; START_BYTES + 1]);
    stored
}

/// What is stored under a row's key.
pub(super) fn stored_value(row: &RetainedRow<'_>) -> Vec<u8> {
    let mut stored = Vec::with_capacity(8 + row.row.len());
    stored.extend_from_slice(&row.end_ns.to_be_bytes());
    stored.extend_from_slice(row.row);
    stored
}

/// A stored entry as the row it is; `None`: it is none.
pub(super) fn row<'a>(key: &'a [u8], value: &'a [u8]) -> Option<RetainedRow<'a>> {
    let key = key.strip_prefix(&[ROW])?;
    let (key, start) = key.split_last_chunk::<START_BYTES>()?;
    let (end, row) = value.split_first_chunk::<8>()?;
    Some(RetainedRow { key, start_ns: number(*start), end_ns: i64::from_be_bytes(*end), row })
}
