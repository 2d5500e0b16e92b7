//! A bounded batch of dead letters on its way to whoever takes them.

use std::sync::Arc;

use ringmill_connect::dead_letter_schema;
use ringmill_wire::{Capacity, HeapBatch, Template, WireError};

use super::operator::{Offer, Rows};

const ROWS_MAX: u32 = 1024;
const BYTES_MAX: u32 = 4 << 20;
/// Longest text kept of a reason or a traceback, and longest record; a batch with this much room free has room.
const TEXT_MAX: usize = 64 << 10;
const RECORD_MAX: usize = 1 << 20;

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
        8 * u64::from(BYTES_MAX)
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
    pub fn push_record(&mut self, reason: &str, partition: &str, offset: u64, record: &[u8]) {
        self.push(reason, None, Some((partition, offset)), None, record);
    }

    /// A row that no function took, or for which it failed in so many attempts; `record` is the row as JSON, `detail` a
    /// traceback.
    pub fn push_row(&mut self, reason: &str, detail: Option<&str>, attempts: Option<u32>, record: &[u8]) {
        self.push(reason, detail, None, attempts, record);
    }

    fn push(
        &mut self,
        reason: &str,
        detail: Option<&str>,
        place: Option<(&str, u64)>,
        attempts: Option<u32>,
        record: &[u8],
    ) {
        self.total += 1;
        let record = &record[..record.len().min(RECORD_MAX)];
        let (reason, detail) = (head(reason, TEXT_MAX / 2), detail.map(|text| head(text, TEXT_MAX / 2)));
        let partition = place.map(|(partition, _)| head(partition, TEXT_MAX / 2));
        self.record_bytes += record.len();
        self.text_bytes +=
            (self.origin.len() + reason.len()).max(detail.map_or(0, str::len)).max(partition.map_or(0, str::len));
        let writer = self.batch.writer();
        // `has_room` is asked before every push, so these fit; a letter that did not would be counted and lost its text.
        let mut fits = writer.push_str(0, &self.origin).is_ok();
        fits &= writer.push_str(1, reason).is_ok();
        fits &= push_optional(writer, 2, detail.map(str::as_bytes));
        fits &= push_optional(writer, 3, partition.map(str::as_bytes));
        match place {
            Some((_, offset)) => writer.push(4, offset),
            None => writer.push_null(4),
        }
        let text = std::str::from_utf8(record).is_ok();
        fits &= push_optional(writer, 5, text.then_some(record));
        fits &= push_optional(writer, 6, (!text).then_some(record));
        match attempts {
            Some(attempts) => writer.push(7, attempts),
            None => writer.push_null(7),
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

    #[test]
    fn a_letter_keeps_text_as_text_and_other_bytes_as_bytes() {
        let mut letters = DeadLetterBatch::new("sensors").unwrap();
        letters.push_record("field x is missing", "a.ndjson", 42, b"{}");
        letters.push_record("not UTF-8", "a.ndjson", 45, &[0xff, 0xfe]);
        let view = letters.batch.view();
        assert_eq!((view.rows(), letters.total()), (2, 2));
        assert_eq!((view.column(5).bytes(0), view.column(5).is_valid(1)), (&b"{}"[..], false));
        assert_eq!((view.column(6).bytes(1), view.column(6).is_valid(0)), (&[0xff, 0xfe][..], false));
        assert_eq!(view.column(4).values::<u64>(), [42, 45]);
        assert!(!view.column(7).is_valid(0));
    }

    #[test]
    fn a_letter_of_a_row_says_how_often_it_was_tried() {
        let mut letters = DeadLetterBatch::new("scores").unwrap();
        letters.push_row("ValueError: no", Some("Traceback"), Some(14), b"{}");
        let view = letters.batch.view();
        assert_eq!((view.column(2).bytes(0), view.column(7).values::<u32>()), (&b"Traceback"[..], &[14][..]));
        assert!(!view.column(4).is_valid(0));
    }

    #[test]
    fn a_full_batch_says_so_before_a_letter_is_lost() {
        let mut letters = DeadLetterBatch::new("sensors").unwrap();
        let record = vec![b'x'; 2 * RECORD_MAX];
        let mut pushed = 0;
        while letters.has_room() {
            letters.push_record("too long", "p", pushed, &record);
            pushed += 1;
        }
        assert_eq!((u64::from(letters.rows()), pushed), (4, 4));
    }
}
