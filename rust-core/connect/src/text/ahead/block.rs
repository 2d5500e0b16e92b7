//! A block of whole records, and what it is decoded into.

use std::{io, sync::Arc};

use ringmill_wire::{BatchView, BatchWriter, HeapBatch, Template};

use super::letters::Letters;
use crate::{
    DeadLetters, FieldSpec, PollContext, Within,
    formats::{Decoder, Records, Scratch, Stop},
};

/// How the records of a file become rows.
pub(in crate::text) struct Reading {
    pub fields: Vec<FieldSpec>,
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
    /// why nothing follows, if the file cannot be read on
    pub error: Option<io::Error>,
    decoder: Decoder,
    scratch: Scratch,
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

/// How far [`Block::take`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::text) enum Taken {
    /// all of the block
    All,
    /// as many records as asked for, or no more dead letters can be taken
    Budget,
    /// the next row does not fit into the batch
    Full,
}

impl Block {
    pub fn new(decoder: Decoder) -> Block {
        Block {
            number: 0,
            offset: 0,
            bytes: Vec::new(),
            begins_within: None,
            ends_within: None,
            is_last: false,
            error: None,
            decoder,
            scratch: Scratch::default(),
            portions: Vec::new(),
            portions_used: 0,
            taken: Cursor::default(),
        }
    }

    /// Turns its bytes into rows and dead letters.
    pub fn decode(&mut self, reading: &Reading, event_time_max_ns: i64) {
        (self.portions_used, self.taken) = (0, Cursor::default());
        self.decoder.go_on_within(self.begins_within);
        let (mut at, mut at_end) = (0, false);
        self.begin_portion(reading);
        loop {
            let portion = &mut self.portions[self.portions_used - 1];
            let mut context = PollContext {
                now_ns: 0,
                event_time: reading.event_time,
                event_time_max_ns,
                dead: &mut portion.letters,
                rows_max: u32::MAX,
            };
            let (writer, fields) = (portion.rows.writer(), &reading.fields);
            let scratch = &mut self.scratch;
            // Letters are told the partition when they are handed over.
            let mut records = Records::new(writer, &mut context, "", fields, scratch, u32::MAX);
            (records.offset, records.tag) = (self.offset + at as u64, at as u64);
            records.header = reading.header.as_deref();
            let progress = self.decoder.decode(&self.bytes[at..], at_end, &mut records);
            at += progress.consumed;
            match progress.stop {
                Stop::Full => self.begin_portion(reading),
                // Only what is left then is a record that nothing follows.
                _ if self.is_last && !at_end => at_end = true,
                _ => break,
            }
        }
        self.ends_within = self.decoder.within();
    }

    fn begin_portion(&mut self, reading: &Reading) {
        if self.portions_used == self.portions.len() {
            let rows = HeapBatch::new(Arc::clone(&reading.template)).tagged(true);
            self.portions.push(Portion { rows, letters: Letters::default() });
        }
        let portion = &mut self.portions[self.portions_used];
        portion.rows.clear();
        portion.letters.clear();
        self.portions_used += 1;
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

    /// Moves at most `left` records on, rows with `tag` added to their own; how many, and why it stopped.
    pub fn take(
        &mut self,
        out: &mut BatchWriter,
        dead: &mut dyn DeadLetters,
        partition: &str,
        header: Option<&str>,
        tag: u64,
        left: u32,
    ) -> (u32, Taken) {
        let mut taken = 0;
        while self.taken.portion < self.portions_used {
            let portion = &self.portions[self.taken.portion];
            let view = portion.rows.view();
            let letter = portion.letters.offset(self.taken.letter);
            let rows = self.taken.row..letter.map_or(view.rows(), |at| row_at(&view, self.taken.row, at - self.offset));
            if !rows.is_empty() {
                let wanted = rows.len().min((left - taken) as usize);
                if wanted == 0 {
                    return (taken, Taken::Budget);
                }
                let copied = out.copy_rows_tagged(&view, rows.start..rows.start + wanted, tag);
                self.taken.row += copied;
                taken += copied as u32;
                if copied < wanted {
                    return (taken, Taken::Full);
                }
            } else if letter.is_some() {
                if taken == left || !dead.has_room() {
                    return (taken, Taken::Budget);
                }
                portion.letters.hand_over(self.taken.letter, partition, header, dead);
                self.taken.letter += 1;
                taken += 1;
            } else {
                self.taken = Cursor { portion: self.taken.portion + 1, ..Cursor::default() };
            }
        }
        (taken, Taken::All)
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
