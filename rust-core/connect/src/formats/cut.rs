//! Where bytes may be cut so that each piece has whole records.

use memchr::{memchr, memrchr, memrchr2};

use super::{Format, Within, lines::is_line_too_long};

/// The end of the last whole record of `bytes`, the first of which begins at `from`.
pub(crate) fn last_record_end(format: Format, bytes: &[u8], from: usize) -> Option<usize> {
    let records = &bytes[from..];
    let length = match format {
        Format::Json | Format::Raw => memrchr(b'\n', records).map(|last| last + 1),
        Format::Csv if memchr(b'"', records).is_none() => memrchr2(b'\n', b'\r', records).map(|last| last + 1),
        Format::Csv => last_quoted_end(records),
    };
    length.map(|length| from + length)
}

/// The same where line ends may stand in quotes: record by record.
fn last_quoted_end(records: &[u8]) -> Option<usize> {
    let mut end = 0;
    while let Some(length) = Within::start(Format::Csv).pass(&records[end..]) {
        end += length;
    }
    (end > 0).then_some(end)
}

/// Whether a record that begins with these bytes, and does not end in them, is given up.
pub(crate) fn is_given_up(format: Format, record: &[u8], record_bytes_max: usize) -> bool {
    match format {
        Format::Json | Format::Raw => is_line_too_long(record, record_bytes_max),
        Format::Csv => record.len() > record_bytes_max,
    }
}
