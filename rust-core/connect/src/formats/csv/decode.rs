//! CSV to rows.

use std::{fmt::Write, ops::Range};

use csv_core::{ReadRecordResult, Reader};
use memchr::memchr_iter;
use ringmill_wire::DataType;

use crate::{
    ConnectError, FieldSpec,
    formats::{
        Format, Progress, Records, Stop, Within,
        block::Block,
        column::{Column, Refusal, Row},
    },
};

/// Decodes CSV.
#[derive(Debug, Clone)]
pub(crate) struct CsvDecoder {
    columns: Vec<Column>,
    /// header names that the columns are read from
    headers: Vec<String>,
    /// where each column stands in a record, once the header is known
    places: Vec<usize>,
    header_fields: Option<usize>,
    header_due: bool,
    record_bytes_max: usize,
    fields: Fields,
    /// within a record that is too long and already buried
    skipping: Option<Within>,
}

/// Splits records into fields.
#[derive(Debug)]
struct Fields {
    reader: Reader,
    /// the unquoted values of a record with quotes
    text: Vec<u8>,
    ends: Vec<usize>,
    ranges: Vec<Range<usize>>,
}

/// What was found at the start of some bytes.
enum Split {
    /// a record of so many bytes, with its line end; whether its values are in `Fields::text`
    Record { length: usize, unquoted: bool },
    /// the beginning of one
    Partial,
}

impl CsvDecoder {
    pub fn new(fields: &[FieldSpec], record_bytes_max: usize) -> Result<CsvDecoder, ConnectError> {
        for field in fields {
            if matches!(field.data_type, DataType::List(_)) {
                return Err(ConnectError::Unsupported {
                    column: field.name.clone(),
                    data_type: field.data_type,
                    format: "csv",
                });
            }
        }
        let columns = fields.iter().enumerate();
        let header_of = |field: &FieldSpec| field.path.clone().unwrap_or_else(|| field.name.clone());
        Ok(CsvDecoder {
            columns: columns.map(|(index, field)| Column::new(index, field)).collect(),
            headers: fields.iter().map(header_of).collect(),
            places: Vec::new(),
            header_fields: None,
            header_due: true,
            record_bytes_max,
            fields: Fields::new(),
            skipping: None,
        })
    }

    pub fn needs_header(&self) -> bool {
        self.header_due
    }

    pub fn restart(&mut self, header: bool) {
        self.skipping = None;
        self.header_due = header || self.header_fields.is_none();
    }

    /// Reads the header; `None` if it is not complete. An empty stream has none and needs none.
    pub fn take_header(&mut self, bytes: &[u8], at_end: bool, name: &str) -> Result<Option<usize>, ConnectError> {
        let start = bytes.iter().position(|&byte| !is_line_end(byte));
        let Some(start) = start else {
            return Ok(at_end.then_some(bytes.len()));
        };
        let Split::Record { length, unquoted } = self.fields.split(&bytes[start..], at_end) else {
            if bytes.len() - start <= self.record_bytes_max && !at_end {
                return Ok(None);
            }
            return Err(ConnectError::Header {
                name: name.to_owned(),
                column: self.headers.first().cloned().unwrap_or_default(),
                found: vec![format!("a line of more than {} bytes", self.record_bytes_max)],
            });
        };
        let source = if unquoted { &self.fields.text } else { &bytes[start..] };
        let text = |range: &Range<usize>| String::from_utf8_lossy(&source[range.clone()]).into_owned();
        let found: Vec<String> = self.fields.ranges.iter().map(text).collect();
        self.places.clear();
        for header in &self.headers {
            match found.iter().position(|name| name == header) {
                Some(place) => self.places.push(place),
                None => {
                    return Err(ConnectError::Header { name: name.to_owned(), column: header.clone(), found });
                }
            }
        }
        self.header_fields = Some(found.len());
        self.header_due = false;
        Ok(Some(start + length))
    }

    pub fn within(&self) -> Option<Within> {
        self.skipping
    }

    pub fn go_on_within(&mut self, within: Option<Within>) {
        // Of a source whose format was another one nothing is known but that it is within a record.
        self.skipping = within.map(|within| if within == Within::Line { Within::Value } else { within });
    }

    pub fn decode(&mut self, bytes: &[u8], at_end: bool, records: &mut Records<'_, '_>) -> Progress {
        let mut at = 0;
        if let Some(within) = &mut self.skipping {
            match within.pass(bytes) {
                Some(length) => at = length,
                None => {
                    return Progress { consumed: bytes.len(), stop: Stop::NeedMore };
                }
            }
            self.skipping = None;
        }
        loop {
            let blank = bytes[at..].iter().position(|&byte| !is_line_end(byte));
            let Some(blank) = blank else {
                return Progress { consumed: bytes.len(), stop: Stop::NeedMore };
            };
            at += blank;
            let step = records.admit().and_then(|()| self.step(bytes, at, at_end, records));
            match step {
                Ok(length) => at += length,
                Err(stop) => return Progress { consumed: at, stop },
            }
            if self.skipping.is_some() {
                return Progress { consumed: bytes.len(), stop: Stop::NeedMore };
            }
        }
    }

    /// Consumes the record at `at`; its length.
    fn step(&mut self, bytes: &[u8], at: usize, at_end: bool, records: &mut Records<'_, '_>) -> Result<usize, Stop> {
        let rest = &bytes[at..];
        let Split::Record { length, unquoted } = self.fields.split(rest, at_end) else {
            if rest.len() <= self.record_bytes_max {
                return Err(Stop::NeedMore);
            }
            records.too_long(at, rest, self.record_bytes_max);
            let mut within = Within::start(Format::Csv);
            let length = within.pass(rest);
            self.skipping = length.is_none().then_some(within);
            return Ok(length.unwrap_or(rest.len()));
        };
        let record = trim_line_end(&rest[..length]);
        if record.len() > self.record_bytes_max {
            records.too_long(at, record, self.record_bytes_max);
            return Ok(length);
        }
        let outcome = if unquoted && at_end && rest.len() == length && !quotes_close(record) {
            records.row.reason.clear();
            records.row.reason.push_str("a quoted value is not closed");
            Err(Refusal::Misfit)
        } else {
            let source = if unquoted { &self.fields.text[..] } else { rest };
            self.push(source, &mut records.row)
        };
        records.end(outcome, at, record)?;
        Ok(length)
    }

    #[inline]
    fn push(&self, source: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        let ranges = &self.fields.ranges;
        let expected = self.header_fields.unwrap_or(0);
        if ranges.len() != expected {
            row.reason.clear();
            let _ = write!(row.reason, "the record has {} values, the header has {expected}", ranges.len());
            return Err(Refusal::Misfit);
        }
        for (column, &place) in self.columns.iter().zip(&self.places) {
            column.push_text(row, &source[ranges[place].clone()])?;
        }
        Ok(())
    }
}

/// Nothing is kept from record to record. (A clone of csv-core 0.1's reader ends records anywhere: it lacks part of its
/// table.)
impl Clone for Fields {
    fn clone(&self) -> Fields {
        Fields::new()
    }
}

impl Fields {
    fn new() -> Fields {
        Fields { reader: Reader::new(), text: vec![0; 4096], ends: vec![0; 64], ranges: Vec::new() }
    }

    /// Splits the record that `bytes` begins with (not with a line end) into `ranges`.
    #[inline]
    fn split(&mut self, bytes: &[u8], at_end: bool) -> Split {
        match self.split_plain(bytes) {
            Some(length) => Split::Record { length, unquoted: false },
            None => self.split_quoted(bytes, at_end),
        }
    }

    /// The same, if the record has a line end, no quotes and no lone carriage return; its length.
    #[inline]
    fn split_plain(&mut self, bytes: &[u8]) -> Option<usize> {
        self.ranges.clear();
        let (mut at, mut start) = (0, 0);
        loop {
            let block = Block::at(bytes, at)?;
            let stops = block.equal(b'\n').or(block.equal(b'\r')).or(block.equal(b'"')).bits();
            let before_stop = stops.wrapping_sub(1) & !stops;
            let mut commas = block.equal(b',').bits() & before_stop;
            while commas != 0 {
                let comma = at + commas.trailing_zeros() as usize;
                self.ranges.push(start..comma);
                start = comma + 1;
                commas &= commas - 1;
            }
            if stops != 0 {
                let end = at + stops.trailing_zeros() as usize;
                self.ranges.push(start..end);
                return match bytes[end..] {
                    [b'\n', ..] => Some(end + 1),
                    [b'\r', b'\n', ..] => Some(end + 2),
                    _ => None,
                };
            }
            at += Block::BYTES;
        }
    }

    /// The same for any record.
    fn split_quoted(&mut self, bytes: &[u8], at_end: bool) -> Split {
        self.ranges.clear();
        self.reader.reset();
        let (mut read, mut written, mut ended) = (0, 0, 0);
        loop {
            let (result, nin, nout, nend) =
                self.reader.read_record(&bytes[read..], &mut self.text[written..], &mut self.ends[ended..]);
            read += nin;
            written += nout;
            ended += nend;
            match result {
                // Empty input tells the reader that there is no more.
                ReadRecordResult::InputEmpty if at_end => {}
                ReadRecordResult::InputEmpty | ReadRecordResult::End => return Split::Partial,
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => break,
            }
        }
        let mut start = 0;
        for &end in &self.ends[..ended] {
            self.ranges.push(start..end);
            start = end;
        }
        Split::Record { length: read, unquoted: true }
    }
}

fn is_line_end(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

fn trim_line_end(mut line: &[u8]) -> &[u8] {
    while let Some((&last, rest)) = line.split_last()
        && is_line_end(last)
    {
        line = rest;
    }
    line
}

/// Whether a record that the input ends with has all its quotes: an odd number means that one is open.
fn quotes_close(record: &[u8]) -> bool {
    memchr_iter(b'"', record).count().is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Without a quote or a lone carriage return the reader is not asked; it would have said the same.
        #[test]
        fn a_plain_record_is_split_as_the_reader_splits_it(
            bytes in prop::collection::vec(prop::sample::select(b"aaaaaaaaaaaaab,,,,,\n\r\"".to_vec()), 1..80),
            line_end in prop::sample::select(vec!["", "\n", "\r\n", "\r\r\n", "\r"]),
            behind in "[a,\n\"]{0,20}",
        ) {
            prop_assume!(!is_line_end(bytes[0]));
            let bytes = [&bytes, line_end.as_bytes(), behind.as_bytes()].concat();
            let mut fields = CsvDecoder::new(&testing::fields(&["a:utf8"]), 100).unwrap().fields;
            let Some(length) = fields.split_plain(&bytes) else {
                let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let content = line.strip_suffix(b"\r").unwrap_or(line);
                let is_odd = line.len() == bytes.len() || memchr::memchr2(b'"', b'\r', content).is_some();
                prop_assert!(is_odd, "{:?}", String::from_utf8_lossy(&bytes));
                return Ok(());
            };
            let values: Vec<&[u8]> = fields.ranges.iter().map(|range| &bytes[range.clone()]).collect();
            let Split::Record { length: read, .. } = fields.split_quoted(&bytes, true) else {
                panic!("the reader sees no record");
            };
            prop_assert_eq!(trim_line_end(&bytes[..length]), trim_line_end(&bytes[..read]));
            let expected: Vec<&[u8]> = fields.ranges.iter().map(|range| &fields.text[range.clone()]).collect();
            prop_assert_eq!(values, expected);
        }
    }
}
