//! Histories as entries. Of the results within a horizon every full chunk of [`CHUNK`] is an entry of its own, and what
//! is behind the last one stands in the history's own entry, so that a new result costs that and not the whole ring.
//!
//! Results that were forgotten since their chunk was written come back with it and are left out.

use std::ops::Range;

use ringmill_state::{NodeDelta, group_of};

use super::{BASE, RING_WORDS, Ring, Statistics, WRITTEN};
use crate::window::budget::Budget;
use crate::window::changed::Changed;
use crate::window::entry::{HISTORIES, RESULTS, Reader, Refused, VERSION};
use crate::window::error::StateFull;
use crate::window::key::Keys;
use crate::window::key_table::{EntryLayout, KeyTable};
use crate::window::saved::GO_ENTRIES;

/// Results of one chunk.
const CHUNK: u64 = 16;
/// More results of one key than any memory has room for.
const RESULTS_MAX: u64 = 1 << 28;
/// Entries that are brought near ahead of their turn.
const AHEAD: usize = 8;

/// Takes an entry: section, window, key group, key, value.
type Put<'a> = dyn FnMut(u8, u64, u16, &[u8], &[u8]) + 'a;

/// Moves the number of the oldest result by what was forgotten, and notes the chunks that are gone, whether they were written out or not.
pub fn move_base(words: &mut [u64], by: u64, history: u32, forgotten: &mut Vec<(u64, u32)>) {
    let gone = words[0] / CHUNK..(words[0] + by) / CHUNK;
    words[0] += by;
    forgotten.extend(gone.map(|chunk| (chunk, history)));
}

impl Statistics {
    /// Begins to note changes; there must be no histories yet.
    pub fn track_changes(&mut self, words_as_keys: bool) {
        self.changed = Changed::new(true);
        self.table = KeyTable::new(EntryLayout::new(words_as_keys, self.initial().len()));
    }

    /// Bytes of memory that are no table's.
    pub fn scratch_bytes(&self) -> u64 {
        let kept = self.spilling.bytes() + self.saved.memory_bytes();
        self.changed.bytes() + self.forgotten.capacity() as u64 * 16 + kept
    }

    /// Owes a snapshot what has changed.
    pub fn begin_snapshot(&mut self, word_bytes: usize, out: &mut NodeDelta<'_>) {
        self.write_forgotten(word_bytes, out);
        self.changed.owe();
    }

    /// Some of what has changed before the barrier was not written yet.
    pub fn owes_snapshot(&self) -> bool {
        self.changed.is_owing() || !self.saved.is_empty()
    }

    /// Writes some of what is owed.
    pub fn write_owed(&mut self, word_bytes: usize, room: &mut (Vec<u32>, Vec<u8>), out: &mut NodeDelta<'_>) {
        self.saved.write(out);
        let (entries, value) = room;
        self.changed.take_owed(GO_ENTRIES, entries);
        self.write_all(entries, word_bytes, value, out);
    }

    /// These histories are about to change: those that are owed are written as they are.
    pub fn save(&mut self, histories: &[u32], word_bytes: usize) {
        if !self.changed.is_owing() {
            return;
        }
        let (mut saved, mut value) = (std::mem::take(&mut self.saved), std::mem::take(&mut self.value));
        for &history in histories {
            if self.changed.claim(history) {
                self.write(history, word_bytes, &mut value, &mut |section, window, group, key, value| {
                    saved.put(section, window, group, key, value);
                });
            }
        }
        (self.saved, self.value) = (saved, value);
    }

    /// Deletes the chunks that are gone.
    pub fn write_forgotten(&mut self, word_bytes: usize, out: &mut NodeDelta<'_>) {
        for (chunk, history) in self.forgotten.drain(..) {
            let key = self.table.key(history, word_bytes);
            out.delete(RESULTS, chunk, group_of(self.table.hash(history)), key);
        }
    }

    /// Writes some histories.
    pub fn write_all(&mut self, entries: &[u32], word_bytes: usize, value: &mut Vec<u8>, out: &mut NodeDelta<'_>) {
        for (at, &history) in entries.iter().enumerate() {
            if let Some(next) = entries.get(at + AHEAD) {
                self.table.prefetch(*next);
            }
            self.write(history, word_bytes, value, &mut |section, window, group, key, value| {
                out.put(section, window, group, key, value);
            });
        }
    }

    /// Writes a history, which then counts as written.
    fn write(&mut self, history: u32, word_bytes: usize, value: &mut Vec<u8>, put: &mut Put<'_>) {
        self.write_changed(history, word_bytes, value, put);
        if self.horizon_ns.is_some() {
            let at = self.table.payload(history);
            let (words, _) = self.table.parts_mut();
            words[at + WRITTEN] = words[at + BASE] + Ring::of(&words[at..]).count as u64;
        }
    }

    fn write_changed(&self, history: u32, word_bytes: usize, value: &mut Vec<u8>, put: &mut Put<'_>) {
        let key = self.table.key(history, word_bytes);
        let group = group_of(self.table.hash(history));
        let words = &self.table.words()[self.table.payload(history)..];
        let put_word = |value: &mut Vec<u8>, word: u64| value.extend_from_slice(&word.to_le_bytes());
        if self.horizon_ns.is_none() {
            value.clear();
            value.push(VERSION);
            words[..3].iter().for_each(|word| put_word(value, *word));
            return put(HISTORIES, 0, group, key, value);
        }
        let ring = Ring::of(words);
        let (base, end) = (words[BASE], words[BASE] + ring.count as u64);
        let put_results = |value: &mut Vec<u8>, numbers: Range<u64>| {
            for number in numbers {
                let (end_ns, result) = ring.get((number - base) as usize, &self.table.arena);
                put_word(value, end_ns as u64);
                put_word(value, result.to_bits());
            }
        };
        for chunk in words[WRITTEN].max(base) / CHUNK..end / CHUNK {
            let first = base.max(chunk * CHUNK);
            value.clear();
            value.extend([VERSION, (first - chunk * CHUNK) as u8]);
            put_results(value, first..(chunk + 1) * CHUNK);
            put(RESULTS, chunk, group, key, value);
        }
        value.clear();
        value.push(VERSION);
        put_word(value, base);
        put_word(value, end);
        put_results(value, behind_chunks(base, end));
        put(HISTORIES, 0, group, key, value);
    }

    /// Takes a history back, but for its full chunks; gives their numbers.
    pub fn restore_history(
        &mut self,
        keys: &Keys<'_>,
        from: &mut Reader<'_>,
        budget: &mut Budget,
    ) -> Result<Range<u64>, Refused> {
        if self.horizon_ns.is_none() {
            let words = [from.count()?, from.word()?, from.word()?];
            from.finish()?;
            let at = self.restored(keys, budget)?;
            self.table.parts_mut().0[at..at + 3].copy_from_slice(&words);
            return Ok(0..0);
        }
        let (base, end) = (from.count()?, from.count()?);
        let count = end.checked_sub(base).filter(|count| *count <= RESULTS_MAX);
        let count = count.ok_or(Refused::Damaged("a count is out of range"))?;
        // What one key needs is had, unless no one can have meant that much.
        if count * 16 > budget.allowed().saturating_mul(16) {
            return Err(budget.full(count * 16).into());
        }
        let at = self.restored(keys, budget)?;
        let before = self.table.arena.bytes();
        let (words, arena) = self.table.parts_mut();
        if Ring::of(&words[at..]).count > 0 {
            return Err(Refused::Damaged("its key is there twice"));
        }
        arena.limit_growth(budget);
        let ring = Ring::with_room(count as usize, arena).ok_or_else(|| budget.full(count * 16))?;
        ring.store(&mut words[at..at + RING_WORDS]);
        let tail = behind_chunks(base, end);
        (words[at + BASE], words[at + WRITTEN]) = (base, tail.end - tail.start);
        for number in tail {
            ring.set((number - base) as usize, (from.word()? as i64, f64::from_bits(from.word()?)), arena);
        }
        note_if_whole(&mut words[at..]);
        budget.settle(before, self.table.arena.bytes());
        from.finish()?;
        Ok(base / CHUNK..end / CHUNK)
    }

    /// Takes a full chunk of results back, after its history.
    pub fn restore_chunk(&mut self, keys: &Keys<'_>, chunk: u64, from: &mut Reader<'_>) -> Result<(), Refused> {
        let Some(history) = self.horizon_ns.and_then(|_| self.table.find(keys, 0)) else {
            // It stays in the store, as its history did.
            return if self.is_parted() { Ok(()) } else { Err(Refused::Damaged("its history is missing")) };
        };
        let at = self.table.payload(history);
        let (words, arena) = self.table.parts_mut();
        let (ring, base) = (Ring::of(&words[at..]), words[at + BASE]);
        let numbers = chunk.saturating_mul(CHUNK)..chunk.saturating_add(1).saturating_mul(CHUNK);
        let first = numbers.start.saturating_add(u64::from(from.byte()?));
        if first > base.max(numbers.start) || numbers.end > base + ring.count as u64 {
            return Err(Refused::Damaged("its results are not those of its history"));
        }
        for number in first..numbers.end {
            let result = (from.word()? as i64, f64::from_bits(from.word()?));
            if number >= base {
                ring.set((number - base) as usize, result, arena);
                words[at + WRITTEN] += 1;
            }
        }
        note_if_whole(&mut words[at..]);
        from.finish()
    }

    /// All histories and chunks were taken back.
    pub fn all_restored(&self) -> Result<(), Refused> {
        if self.horizon_ns.is_none() || !self.changed.is_on() {
            return Ok(());
        }
        let is_whole = |history| {
            let words = &self.table.words()[self.table.payload(history)..];
            words[WRITTEN] == words[BASE] + Ring::of(words).count as u64
        };
        let are_whole = (0..self.table.entry_count()).all(is_whole);
        if are_whole { Ok(()) } else { Err(Refused::Damaged("some results of a history are missing")) }
    }

    /// Where the payload of the first key's history begins, which is made if there is none.
    pub fn restored(&mut self, keys: &Keys<'_>, budget: &mut Budget) -> Result<usize, StateFull> {
        let mut found = std::mem::take(&mut self.spilling.found);
        let resolved = self.resolve(keys, &[0], budget, &mut found);
        let history = found.first().copied().unwrap_or_default();
        self.spilling.found = found;
        resolved.map(|()| self.table.payload(history))
    }
}

/// While a history comes back, [`WRITTEN`] counts the results that are there.
fn note_if_whole(words: &mut [u64]) {
    let count = Ring::of(words).count as u64;
    if words[WRITTEN] == count {
        words[WRITTEN] = words[BASE] + count;
    }
}

/// The numbers of the results that are in no full chunk.
fn behind_chunks(base: u64, end: u64) -> Range<u64> {
    base.max(end / CHUNK * CHUNK)..end
}
