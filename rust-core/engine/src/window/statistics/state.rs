//! Histories as entries. The results within a horizon are written in chunks of [`CHUNK`], so that a new result costs
//! the last chunk and not the whole ring.
//!
//! Results that were forgotten since their chunk was written come back with it; they lie beyond the horizon of every
//! window that may still fire, so nobody sees them.

use ringmill_state::{NodeDelta, group_of};

use super::{BASE, Ring, Statistics, WRITTEN};
use crate::window::budget::Budget;
use crate::window::changed::Changed;
use crate::window::entry::{HISTORIES, RESULTS, Reader, Refused, VERSION, check_count};
use crate::window::error::StateFull;
use crate::window::key::Keys;
use crate::window::key_table::{EntryLayout, KeyTable};

/// Results of one chunk.
const CHUNK: u64 = 16;
/// Entries that are brought near ahead of their turn.
const AHEAD: usize = 8;

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
        self.changed.bytes() + self.forgotten.capacity() as u64 * 16
    }

    /// Writes what has changed.
    pub fn snapshot(&mut self, word_bytes: usize, room: &mut (Vec<u32>, Vec<u8>), out: &mut NodeDelta<'_>) {
        for (chunk, history) in self.forgotten.drain(..) {
            let key = self.table.key(history, word_bytes);
            out.delete(RESULTS, chunk, group_of(self.table.hash(history)), key);
        }
        let (entries, value) = room;
        self.changed.take(entries);
        for (at, &history) in entries.iter().enumerate() {
            if let Some(next) = entries.get(at + AHEAD) {
                self.table.prefetch(*next);
            }
            self.write(history, word_bytes, value, out);
            if self.horizon_ns.is_some() {
                let at = self.table.payload(history);
                let (words, _) = self.table.parts_mut();
                words[at + WRITTEN] = words[at + BASE] + Ring::of(&words[at..]).count as u64;
            }
        }
    }

    fn write(&self, history: u32, word_bytes: usize, value: &mut Vec<u8>, out: &mut NodeDelta<'_>) {
        let key = self.table.key(history, word_bytes);
        let group = group_of(self.table.hash(history));
        let words = &self.table.words()[self.table.payload(history)..];
        if self.horizon_ns.is_none() {
            value.clear();
            value.push(VERSION);
            words[..3].iter().for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
            return out.put(HISTORIES, 0, group, key, value);
        }
        let ring = Ring::of(words);
        let (base, end) = (words[BASE], words[BASE] + ring.count as u64);
        let mut chunk = words[WRITTEN].max(base) / CHUNK;
        while chunk * CHUNK < end {
            let first = base.max(chunk * CHUNK);
            value.clear();
            value.extend([VERSION, (first - chunk * CHUNK) as u8]);
            for number in first..end.min((chunk + 1) * CHUNK) {
                let (end_ns, result) = ring.get((number - base) as usize, &self.table.arena);
                value.extend_from_slice(&end_ns.to_le_bytes());
                value.extend_from_slice(&result.to_bits().to_le_bytes());
            }
            out.put(RESULTS, chunk, group, key, value);
            chunk += 1;
        }
    }

    /// Takes a history back.
    pub fn restore_running(
        &mut self,
        keys: &Keys<'_>,
        from: &mut Reader<'_>,
        budget: &mut Budget,
    ) -> Result<(), Refused> {
        if self.horizon_ns.is_some() {
            return Err(Refused::Damaged("it has no horizon and the step has one"));
        }
        let words = [from.count()?, from.word()?, from.word()?];
        from.finish()?;
        let at = self.restored(keys, budget)?.1;
        self.table.parts_mut().0[at..at + 3].copy_from_slice(&words);
        Ok(())
    }

    /// Takes a chunk of results back; a key's chunks come in their order.
    pub fn restore_chunk(
        &mut self,
        keys: &Keys<'_>,
        chunk: u64,
        from: &mut Reader<'_>,
        budget: &mut Budget,
    ) -> Result<(), Refused> {
        if self.horizon_ns.is_none() {
            return Err(Refused::Damaged("it has a horizon and the step has none"));
        }
        let skipped = u64::from(from.byte()?);
        let mut number = check_count(chunk.saturating_mul(CHUNK))? + skipped;
        let at = self.restored(keys, budget)?.1;
        let before = self.table.arena.bytes();
        let (words, arena) = self.table.parts_mut();
        let mut ring = Ring::of(&words[at..]);
        if ring.count == 0 {
            words[at + BASE] = number;
        }
        arena.limit_growth(budget);
        while !from.is_empty() && skipped < CHUNK {
            if number != words[at + BASE] + ring.count as u64 || number >= (chunk + 1) * CHUNK {
                return Err(Refused::Damaged("its results do not follow those before"));
            }
            let (end_ns, value) = (from.word()? as i64, f64::from_bits(from.word()?));
            if !ring.push(end_ns, value, arena) {
                return Err(budget.full(64).into());
            }
            number += 1;
        }
        ring.store(&mut words[at..at + 2]);
        words[at + WRITTEN] = number;
        budget.settle(before, self.table.arena.bytes());
        from.finish()
    }

    /// The history of the first of the keys, and where its payload begins.
    pub fn restored(&mut self, keys: &Keys<'_>, budget: &mut Budget) -> Result<(u32, usize), StateFull> {
        let mut found = Vec::with_capacity(1);
        self.resolve(keys, &[0], budget, &mut found)?;
        Ok((found[0], self.table.payload(found[0])))
    }
}
