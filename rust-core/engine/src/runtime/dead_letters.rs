//! A bounded batch of dead letters on its way to whoever takes them.

use std::sync::Arc;

use ringmill_connect::{DeadLetter, Origin, dead_letter_schema};
use ringmill_wire::{Capacity, HeapBatch, Template, WireError};

use super::operator::{Offer, Rows};

const ROWS_MAX: u32 = 1024;
const BYTES_MAX: u32 = 4 << 20;
/// Longest text kept of a reason or a traceback, and longest record; a batch with this much room free has room.
const TEXT_MAX: usize = 64 << 10;
const RECORD_MAX: usize = 1 << 20;

/// A row that no function took, or for which it failed.
#[derive(Clone, Copy)]
pub struct RowLetter<'a> {
    /// The exception, or how the worker died.
    pub reason: &'a str,
    /// A traceback.
    pub detail: Option<&'a str>,
    /// How often the function was given the row.
    pub attempts: Option<u32>,
    /// The row's columns as JSON.
    pub record: &'a [u8],
    /// Its key's columns as JSON.
    pub key: Option<&'a str>,
    /// The record that it was made of.
    pub origin: Option<&'a Origin>,
}

struct Place<'a> {
    source: &'a str,
    partition: &'a str,
    offset: u64,
}

/// What a letter says.
#[derive(Default)]
struct Letter<'a> {
    reason: &'a str,
    detail: Option<&'a str>,
    place: Option<Place<'a>>,
    attempts: Option<u32>,
    record: &'a [u8],
    key: Option<&'a str>,
    original: Option<&'a [u8]>,
    missing: Option<&'a str>,
    header: Option<&'a str>,
}

/// Dead letters of one node, in the schema of [`dead_letter_schema`].
pub struct DeadLetterBatch {
    origin: String,
    batch: HeapBatch,
    record_bytes: usize,
    text_bytes: usize,
    total: u64,
}

impl DeadLetterBatch {
    /// For the letters of the node `origin`.
    pub fn new(origin: &str) -> Result<Self, WireError> {
        let capacity = Capacity { rows_max: ROWS_MAX, variable_bytes_max: BYTES_MAX };
        let template = Template::new(dead_letter_schema(), capacity)?;
        let batch = HeapBatch::new(Arc::new(template));
        Ok(Self { origin: origin.to_owned(), batch, record_bytes: 0, text_bytes: 0, total: 0 })
    }

    /// Bytes of memory one such batch takes.
    pub fn bytes() -> u64 {
        12 * u64::from(BYTES_MAX)
    }

    /// Letters waiting.
    pub fn rows(&self) -> u32 {
        self.batch.rows()
    }

    /// Letters ever written.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether one more letter of any size fits.
    pub fn has_room(&self) -> bool {
        let bytes_max = BYTES_MAX as usize;
        self.batch.rows() < ROWS_MAX
            && self.record_bytes + RECORD_MAX <= bytes_max
            && self.text_bytes + TEXT_MAX <= bytes_max
    }

    /// A record that did not parse or fit.
    pub fn push_record(&mut self, letter: &DeadLetter<'_>) {
        let DeadLetter { partition, offset, reason, record, header, attempts } = *letter;
        let source = self.origin.clone();
        let place = Place { source: &source, partition, offset };
        self.push(&Letter { reason, record, place: Some(place), header, attempts, ..Letter::default() });
    }

    /// A row that no function took, or for which it failed.
    pub fn push_row(&mut self, letter: &RowLetter<'_>) {
        let RowLetter { reason, detail, attempts, record, key, origin } = *letter;
        let place = origin.map(|from| Place { source: &from.source, partition: &from.partition, offset: from.offset });
        let (original, missing) = match origin.map(|from| &from.record) {
            Some(Ok(original)) => (original.as_deref(), None),
            Some(Err(missing)) => (None, Some(missing.as_str())),
            None => (None, None),
        };
        self.push(&Letter { reason, detail, place, attempts, record, key, original, missing, header: None });
    }

    fn push(&mut self, letter: &Letter<'_>) {
        self.total += 1;
        fn text(text: &str) -> &[u8] {
            head(text, TEXT_MAX / 2).as_bytes()
        }
        let record = &letter.record[..letter.record.len().min(RECORD_MAX)];
        let original = letter.original.map(|original| &original[..original.len().min(RECORD_MAX)]);
        let place = letter.place.as_ref();
        // What stands in the columns of text, in their order, and then in those of records.
        let texts = [
            Some(text(&self.origin)),
            Some(text(letter.reason)),
            letter.detail.map(text),
            place.map(|place| text(place.partition)),
            letter.key.map(text),
            place.map(|place| text(place.source)),
            letter.missing.map(text),
            letter.header.map(text),
        ];
        self.text_bytes += texts.iter().flatten().map(|text| text.len()).max().unwrap_or(0);
        self.record_bytes += record.len().max(original.map_or(0, <[u8]>::len));
        let [origin, reason, detail, partition, key, source, missing, header] = texts;
        let (record, record_bytes) = text_or_bytes(Some(record));
        let (original, original_bytes) = text_or_bytes(original);
        let writer = self.batch.writer();
        // `has_room` is asked before every push, so these fit; a letter that did not would be counted and lost its text.
        let mut fits = true;
        for (column, value) in [(0, origin), (1, reason), (2, detail), (3, partition), (5, record), (6, record_bytes)] {
            fits &= push_optional(writer, column, value);
        }
        match place {
            Some(place) => writer.push(4, place.offset),
            None => writer.push_null(4),
        }
        match letter.attempts {
            Some(attempts) => writer.push(7, attempts),
            None => writer.push_null(7),
        }
        let others = [(8, key), (9, source), (10, original), (11, original_bytes), (12, missing), (13, header)];
        for (column, value) in others {
            fits &= push_optional(writer, column, value);
        }
        if fits { writer.finish_row() } else { writer.discard_row() }
    }

    /// The waiting letters.
    pub fn offer(&self) -> Option<Offer<'_>> {
        let rows = Rows { view: self.batch.view(), first: 0, ingest_ns: 0 };
        Some(Offer { rows: Some(rows), mark: None })
    }

    /// The waiting letters were taken.
    pub fn clear(&mut self) {
        self.batch.clear();
        (self.record_bytes, self.text_bytes) = (0, 0);
    }
}

/// Bytes as text, if they are, and otherwise as bytes.
fn text_or_bytes(bytes: Option<&[u8]>) -> (Option<&[u8]>, Option<&[u8]>) {
    match bytes {
        Some(bytes) if std::str::from_utf8(bytes).is_ok() => (Some(bytes), None),
        bytes => (None, bytes),
    }
}

fn push_optional(writer: &mut ringmill_wire::BatchWriter, column: usize, value: Option<&[u8]>) -> bool {
    match value {
        Some(bytes) => writer.push_bytes(column, bytes).is_ok(),
        None => {
            writer.push_null(column);
            true
        }
    }
}

/// The longest prefix of at most `bytes` bytes that ends between characters.
fn head(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter<'a>(reason: &'a str, offset: u64, record: &'a [u8]) -> DeadLetter<'a> {
        DeadLetter { partition: "a.ndjson", offset, reason, record, header: None, attempts: None }
    }

    #[test]
    fn a_letter_keeps_text_as_text_and_other_bytes_as_bytes() {
        let mut letters = DeadLetterBatch::new("sensors").unwrap();
        letters.push_record(&letter("field x is missing", 42, b"{}"));
        letters.push_record(&letter("not UTF-8", 45, &[0xff, 0xfe]));
        let view = letters.batch.view();
        assert_eq!((view.rows(), letters.total()), (2, 2));
        assert_eq!((view.column(5).bytes(0), view.column(5).is_valid(1)), (&b"{}"[..], false));
        assert_eq!((view.column(6).bytes(1), view.column(6).is_valid(0)), (&[0xff, 0xfe][..], false));
        assert_eq!(view.column(4).values::<u64>(), [42, 45]);
        assert!(!view.column(7).is_valid(0));
    }

    #[test]
    fn a_letter_of_a_row_says_its_key_its_place_and_how_often_it_was_tried() {
        let mut letters = DeadLetterBatch::new("scores").unwrap();
        let mut push = |record| {
            let (source, partition) = ("sensors".into(), "a.csv".into());
            let origin = Origin { source, partition, offset: 42, record };
            letters.push_row(&RowLetter {
                reason: "ValueError: no",
                detail: Some("Traceback"),
                attempts: Some(14),
                record: b"{}",
                key: Some("{\"id\":1}"),
                origin: Some(&origin),
            });
        };
        push(Ok(Some(b"1,2".to_vec())));
        push(Ok(Some(vec![0xff])));
        push(Err("a.csv is another file now".to_owned()));
        let view = letters.batch.view();
        let text = |column: usize, row: usize| {
            let column = view.column(column);
            column.is_valid(row).then(|| column.bytes(row).escape_ascii().to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!((text(2, 0), view.column(7).values::<u32>()), (some("Traceback"), &[14; 3][..]));
        assert_eq!((text(8, 0), text(9, 0)), (some("{\\\"id\\\":1}"), some("sensors")));
        assert_eq!((text(3, 0), view.column(4).values::<u64>()), (some("a.csv"), &[42; 3][..]));
        assert_eq!([text(10, 0), text(11, 0), text(12, 0)], [some("1,2"), None, None]);
        assert_eq!([text(10, 1), text(11, 1), text(12, 1)], [None, some("\\xff"), None]);
        assert_eq!([text(10, 2), text(11, 2), text(12, 2)], [None, None, some("a.csv is another file now")]);
    }

    #[test]
    fn a_full_batch_says_so_before_a_letter_is_lost() {
        let mut letters = DeadLetterBatch::new("sensors").unwrap();
        let record = vec![b'x'; 2 * RECORD_MAX];
        let mut pushed = 0;
        while letters.has_room() {
            letters.push_record(&letter("too long", pushed, &record));
            pushed += 1;
        }
        assert_eq!((u64::from(letters.rows()), pushed), (4, 4));
    }
}
