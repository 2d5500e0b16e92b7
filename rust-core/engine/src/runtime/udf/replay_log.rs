//! The batches that a worker was given since its last snapshot, in the order in which it was given them.
//!
//! They lie packed in a ring of fixed size. The log grows at one end with every batch that is published. It shrinks there
//! when a batch fails, or its worker dies before it is answered, for then neither that batch nor what was given after it
//! has been learnt; it shrinks at the other end when a snapshot covers the oldest. Two counts divide it: a batch is first
//! *answered*, then, when its turn in the order has come and its answer was looked at, *sound*.

use std::collections::VecDeque;
use std::mem::size_of;

use ringmill_wire::{ColumnParts, Schema, pack, packed_words, unpack};

/// See the module.
pub(super) struct ReplayLog {
    memory: Box<[u64]>,
    batches: VecDeque<Logged>,
    words: usize,
    /// Words that any batch needs at most.
    batch_words_max: usize,
    answered: usize,
    sound: usize,
}

/// One batch of the log.
#[derive(Clone, Copy)]
pub(super) struct Logged {
    start: usize,
    words: usize,
    /// Its number.
    pub batch: u64,
    pub rows: u32,
}

impl ReplayLog {
    /// An empty log of at most `bytes`, for batches of at most `batch_bytes_max`. Memory is taken as it is needed.
    pub(super) fn new(bytes: usize, batch_bytes_max: usize) -> ReplayLog {
        let words = bytes.max(batch_bytes_max).div_ceil(size_of::<u64>());
        ReplayLog {
            memory: vec![0; words].into_boxed_slice(),
            batches: VecDeque::new(),
            words: 0,
            batch_words_max: batch_bytes_max.div_ceil(size_of::<u64>()),
            answered: 0,
            sound: 0,
        }
    }

    /// Batches in it.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Every batch in it was answered.
    #[inline]
    pub(super) fn is_answered(&self) -> bool {
        self.answered == self.batches.len()
    }

    /// The oldest batches that were answered, and whose answers were looked at.
    #[inline]
    pub(super) fn sound(&self) -> usize {
        self.sound
    }

    /// A snapshot should make room soon.
    #[inline]
    pub(super) fn is_half_full(&self) -> bool {
        2 * self.words >= self.memory.len()
    }

    /// Whether there is room for any batch.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.place(self.batch_words_max).is_some()
    }

    /// Adds a batch at the end; `false`: there is no room for it.
    ///
    /// # Safety
    /// The parts are those of a live view.
    #[allow(unsafe_code)]
    pub(super) unsafe fn push(&mut self, batch: u64, rows: u32, parts: &[ColumnParts]) -> bool {
        let words = packed_words(parts);
        let Some(start) = self.place(words) else { return false };
        // SAFETY: passed on from the caller.
        unsafe { pack(parts, &mut self.memory[start..start + words]) };
        self.batches.push_back(Logged { start, words, batch, rows });
        self.words += words;
        true
    }

    /// The oldest batch that is not answered is; `false`: it is another one.
    #[inline]
    pub(super) fn note_answer(&mut self, batch: u64) -> bool {
        let is_next = self.batches.get(self.answered).is_some_and(|logged| logged.batch == batch);
        self.answered += usize::from(is_next);
        is_next
    }

    /// The oldest answer that was not looked at is sound.
    #[inline]
    pub(super) fn note_sound(&mut self) {
        self.sound += usize::from(self.sound < self.answered);
    }

    /// Takes out the batches that are not answered; returns their numbers, in order.
    pub(super) fn take_unanswered(&mut self) -> Vec<u64> {
        self.take_from(self.answered)
    }

    /// Takes out the batches that are not sound; returns their numbers, in order.
    pub(super) fn take_unsound(&mut self) -> Vec<u64> {
        self.take_from(self.sound)
    }

    fn take_from(&mut self, first: usize) -> Vec<u64> {
        let taken: Vec<Logged> = self.batches.drain(first..).collect();
        self.words -= taken.iter().map(|logged| logged.words).sum::<usize>();
        self.answered = self.answered.min(first);
        taken.iter().map(|logged| logged.batch).collect()
    }

    /// Forgets the oldest batches, which are sound: a snapshot covers them.
    pub(super) fn forget(&mut self, count: usize) {
        self.words -= self.batches.drain(..count).map(|logged| logged.words).sum::<usize>();
        self.answered -= count;
        self.sound -= count;
    }

    /// One batch; `parts` become those of its rows, good until the log is changed.
    pub(super) fn read(&self, index: usize, schema: &Schema, parts: &mut Vec<ColumnParts>) -> Option<Logged> {
        let logged = *self.batches.get(index)?;
        unpack(schema, logged.rows, &self.memory[logged.start..logged.start + logged.words], parts);
        Some(logged)
    }

    /// Where so many words in a row are free.
    fn place(&self, words: usize) -> Option<usize> {
        let (Some(first), Some(last)) = (self.batches.front(), self.batches.back()) else {
            return (words <= self.memory.len()).then_some(0);
        };
        let end = last.start + last.words;
        if last.start < first.start {
            return (first.start - end >= words).then_some(end);
        }
        if self.memory.len() - end >= words {
            return Some(end);
        }
        (first.start >= words).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ringmill_wire::{BatchView, Capacity, DataType, Field, HeapBatch, Template};

    use super::*;

    fn batch(template: &Arc<Template>, first: i64, rows: u32) -> HeapBatch {
        let mut batch = HeapBatch::new(template.clone());
        for row in 0..rows {
            batch.writer().push(0, first + i64::from(row));
            batch.writer().finish_row();
        }
        batch
    }

    /// Holds 64 rows, and a word more for each batch.
    fn log() -> (ReplayLog, Arc<Template>) {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64)]).unwrap());
        let capacity = Capacity { rows_max: 30, variable_bytes_max: 0 };
        (ReplayLog::new(66 * 8, 31 * 8), Arc::new(Template::new(schema, capacity).unwrap()))
    }

    #[allow(unsafe_code)]
    fn push(log: &mut ReplayLog, template: &Arc<Template>, batch_number: u64, rows: u32) -> bool {
        let (batch, mut parts) = (batch(template, 100 * batch_number as i64, rows), Vec::new());
        batch.view().parts(&mut parts);
        // SAFETY: the view lives.
        unsafe { log.push(batch_number, rows, &parts) }
    }

    /// The numbers of the batches, each of whose rows is as it was.
    #[allow(unsafe_code)]
    fn contents(log: &ReplayLog, template: &Arc<Template>) -> Vec<u64> {
        let mut parts = Vec::new();
        let check = |index| {
            let logged = log.read(index, template.schema(), &mut parts).unwrap();
            // SAFETY: the log is not changed while the view lives.
            let view = unsafe { BatchView::from_parts(template.schema(), logged.rows as usize, &parts) };
            let expected = batch(template, 100 * logged.batch as i64, logged.rows);
            assert_eq!(view.column(0).values::<i64>(), expected.view().column(0).values::<i64>());
            logged.batch
        };
        (0..log.len()).map(check).collect()
    }

    #[test]
    fn batches_come_back_as_they_were_however_often_the_ring_has_gone_round() {
        let (mut log, template) = log();
        let (mut next, mut oldest) = (1, 1);
        for round in 0..500_u64 {
            while push(&mut log, &template, next, (next * 7 % 30) as u32) {
                assert!(log.note_answer(next));
                log.note_sound();
                next += 1;
            }
            assert_eq!(contents(&log, &template), (oldest..next).collect::<Vec<_>>());
            let covered = 1 + round as usize % log.len();
            log.forget(covered);
            oldest += covered as u64;
        }
        assert!(next > 1_000, "{next}");
    }

    #[test]
    fn any_batch_finds_room_in_an_empty_log() {
        let (mut log, template) = log();
        for number in 1..100 {
            assert!(log.has_room() && push(&mut log, &template, number, 30));
            log.note_answer(number);
            log.note_sound();
            log.forget(1);
        }
    }

    #[test]
    fn what_was_not_learnt_is_taken_out_at_the_end() {
        let (mut log, template) = log();
        for number in 1..=6 {
            assert!(push(&mut log, &template, number, 5));
        }
        for number in 1..=4 {
            assert!(log.note_answer(number));
        }
        assert!(!log.note_answer(6), "batches are answered in order");
        log.note_sound();
        assert_eq!((log.take_unanswered(), log.is_answered()), (vec![5, 6], true));
        assert_eq!((log.take_unsound(), log.sound()), (vec![2, 3, 4], 1));
        assert!(push(&mut log, &template, 2, 30));
        assert_eq!(contents(&log, &template), [1, 2]);
    }
}
