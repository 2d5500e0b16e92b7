//! A block of whole records, and what it is decoded into.

use std::{io, sync::Arc};

use ringmill_wire::{BatchView, BatchWriter, HeapBatch, Template};

use super::letters::Letters;
use crate::{
    Fields, PollContext, Within,
    formats::{Decoder, Records, Scratch, Stop},
};

/// So many portions of a block are made ahead at most; what is left of it then is decoded when they are taken.
const PORTIONS_MAX: usize = if cfg!(test) { 2 } else { 8 };

/// How the records of a file become rows.
pub(in crate::text) struct Reading {
    pub fields: Fields,
    /// of the batches that the rows go into in the end
    pub template: Arc<Template>,
    pub event_time: Option<usize>,
    /// by which records are read, if the format has one
    pub header: Option<Arc<str>>,
    pub record_bytes_max: usize,
}

/// Whole records of a file; reused for one after the other.
pub(in crate::text) struct Block {
    /// counted from where reading began
    pub number: u64,
    /// of the first byte, in the content
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// the first bytes are the rest of a record that is too long
    pub begins_within: Option<Within>,
    /// … and the bytes that follow the block are
    pub ends_within: Option<Within>,
    /// nothing follows
    pub is_last: bool,
    /// where the file cannot be read on, and why
    pub fault: Option<(u64, io::Error)>,
    reading: Arc<Reading>,
    decoder: Decoder,
    scratch: Scratch,
    /// bytes that are decoded
    decoded: usize,
    /// what is not is a record that nothing follows
    at_end: bool,
    portions: Vec<Portion>,
    portions_used: usize,
    /// what was taken of it
    taken: Cursor,
}

/// As many of a block's rows as one batch holds, and the dead letters between them.
struct Portion {
    /// a row's tag says where its record begins in the block
    rows: HeapBatch,
    letters: Letters,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    portion: usize,
    row: usize,
    letter: usize,
}

impl Block {
    pub fn new(reading: Arc<Reading>, decoder: Decoder) -> Block {
        Block {
            number: 0,
            offset: 0,
            bytes: Vec::new(),
            begins_within: None,
            ends_within: None,
            is_last: false,
            fault: None,
            reading,
            decoder,
            scratch: Scratch::default(),
            decoded: 0,
            at_end: false,
            portions: Vec::new(),
            portions_used: 0,
            taken: Cursor::default(),
        }
    }

    /// Turns its bytes into rows and dead letters, or as many as are made ahead. Whether a row's time lies too far ahead is
    /// seen when it is taken.
    pub fn decode(&mut self) {
        (self.decoded, self.at_end) = (0, false);
        self.decoder.go_on_within(self.begins_within);
        self.decode_on();
    }

    /// Decodes what is not decoded yet, in place of what was taken.
    fn decode_on(&mut self) {
        (self.portions_used, self.taken) = (0, Cursor::default());
        while !self.is_decoded() && self.portions_used < PORTIONS_MAX {
            self.decode_portion();
        }
        self.ends_within = self.decoder.within();
    }

    fn is_decoded(&self) -> bool {
        self.decoded == self.bytes.len()
    }

    fn decode_portion(&mut self) {
        let Block { reading, portions, portions_used, .. } = self;
        if *portions_used == portions.len() {
            let rows = HeapBatch::new(Arc::clone(&reading.template)).tagged(true);
            portions.push(Portion { rows, letters: Letters::default() });
        }
        let portion = &mut portions[*portions_used];
        *portions_used += 1;
        portion.rows.clear();
        portion.letters.clear();
        loop {
            let mut context = PollContext {
                now_ns: 0,
                event_time: reading.event_time,
                event_time_max_ns: i64::MAX,
                dead: &mut portion.letters,
                rows_max: u32::MAX,
            };
            let (writer, scratch) = (portion.rows.writer(), &mut self.scratch);
            // Letters are told the partition when they are handed over.
            let mut records = Records::new(writer, &mut context, "", &reading.fields, scratch, u32::MAX);
            (records.offset, records.tag) = (self.offset + self.decoded as u64, self.decoded as u64);
            records.header = reading.header.as_deref();
            let progress = self.decoder.decode(&self.bytes[self.decoded..], self.at_end, &mut records);
            self.decoded += progress.consumed;
            if progress.stop != Stop::NeedMore || self.decoded == self.bytes.len() {
                return;
            }
            // What is left is the last record, and has no end of its own.
            if std::mem::replace(&mut self.at_end, true) {
                self.decoded = self.bytes.len();
            }
        }
    }

    /// Where it ends, in the content.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Where the next record begins that [`take`](Block::take) did not move on.
    pub fn next_offset(&self) -> u64 {
        let Some(portion) = self.portions[..self.portions_used].get(self.taken.portion) else { return self.end() };
        let view = portion.rows.view();
        let row = (self.taken.row < view.rows()).then(|| self.offset + view.tag(self.taken.row));
        row.into_iter().chain(portion.letters.offset(self.taken.letter)).min().unwrap_or(self.end())
    }

    /// Moves at most `left` records on, rows with `tag` added to their own; how many, and why it stopped:
    /// [`Stop::NeedMore`] behind the last.
    pub fn take(
        &mut self,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        partition: &str,
        tag: u64,
        left: u32,
    ) -> (u32, Stop) {
        let mut taken = 0;
        loop {
            if self.taken.portion == self.portions_used {
                if self.is_decoded() {
                    return (taken, Stop::NeedMore);
                }
                self.decode_on();
                continue;
            }
            let portion = &self.portions[self.taken.portion];
            let view = portion.rows.view();
            let letter = portion.letters.offset(self.taken.letter);
            let first = self.taken.row;
            let rows = letter.map_or(view.rows(), |at| row_at(&view, first, at - self.offset)) - first;
            if rows == 0 && letter.is_none() {
                self.taken = Cursor { portion: self.taken.portion + 1, ..Cursor::default() };
                continue;
            }
            if taken == left {
                return (taken, Stop::Budget);
            }
            let wanted = first..first + rows.min((left - taken) as usize);
            let far = context.first_too_far(&view, wanted.clone());
            let good = wanted.start..far.unwrap_or(wanted.end);
            if !good.is_empty() {
                let copied = out.copy_rows_tagged(&view, good.clone(), tag);
                self.taken.row += copied;
                taken += copied as u32;
                if copied < good.len() {
                    return (taken, Stop::Full);
                }
                continue;
            }
            if !context.dead.has_room() {
                return (taken, Stop::Budget);
            }
            if far.is_some() {
                let at = view.tag(first) as usize;
                if !self.decode_again(at, out, context, partition, tag) {
                    return (taken, Stop::Full);
                }
                self.taken.row += 1;
            } else {
                let header = self.reading.header.as_deref();
                portion.letters.hand_over(self.taken.letter, partition, header, context.dead);
                self.taken.letter += 1;
            }
            taken += 1;
        }
    }

    /// Makes a dead letter of the record at `at`, which lies too far ahead, as the shard alone would; `false`: there is no
    /// room.
    #[cold]
    fn decode_again(
        &mut self,
        at: usize,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        partition: &str,
        tag: u64,
    ) -> bool {
        let mut decoder = self.decoder.clone();
        decoder.go_on_within(None);
        for at_end in [false, true] {
            let mut records = Records::new(out, context, partition, &self.reading.fields, &mut self.scratch, 1);
            (records.offset, records.tag) = (self.offset + at as u64, tag.wrapping_add(at as u64));
            records.header = self.reading.header.as_deref();
            decoder.decode(&self.bytes[at..], at_end, &mut records);
            if records.consumed > 0 {
                return true;
            }
        }
        false
    }

    /// Frees what records of unusual length made it hold.
    pub fn shrink(&mut self, bytes_max: usize) {
        if self.bytes.capacity() > bytes_max {
            self.bytes = Vec::new();
            self.portions.clear();
            self.portions_used = 0;
        }
    }
}

/// The first of the view's rows, from row `from` on, whose record begins at `at` or later.
fn row_at(view: &BatchView<'_>, from: usize, at: u64) -> usize {
    let (mut low, mut high) = (from, view.rows());
    while low < high {
        let middle = low.midpoint(high);
        if view.tag(middle) < at { low = middle + 1 } else { high = middle }
    }
    low
}
