//! Tumbling and sliding windows as entries: one for each key of each window that is open.

use ringmill_state::{NodeDelta, group_of};

use super::{AlignedWindows, EARLY, Open};
use crate::window::arena::NONE;
use crate::window::entry::{Reader, Refused, VERSION, WINDOWS, number_of_window, read_cell, window_number, write_cell};
use crate::window::key::Keys;
use crate::window::saved::GO_ENTRIES;
use crate::window::step::Step;

/// Entries that are brought near ahead of their turn.
const AHEAD: usize = 8;

impl Open {
    /// Writes an entry's value; gives its key's group and its key.
    pub fn write(&self, step: &Step, entry: u32, value: &mut Vec<u8>) -> (u16, &[u8]) {
        let table = &self.table;
        value.clear();
        value.extend([VERSION, 0]);
        value.extend_from_slice(&entry.to_le_bytes());
        write_cell(&step.layout, step.shown(), &table.words()[table.payload(entry)..], &table.arena, 1, value);
        (group_of(table.hash(entry)), table.key(entry, step.keys.word_bytes()))
    }
}

impl AlignedWindows {
    /// Owes a snapshot what has changed.
    pub fn begin_snapshot(&mut self, out: &mut NodeDelta<'_>) {
        for number in self.closed.drain(..) {
            out.delete_window(WINDOWS, window_number(number));
        }
        for open in &mut self.open {
            let is_owing = open.changed.owe();
            open.is_stored |= is_owing;
            self.owing += usize::from(is_owing);
        }
    }

    /// Some of what has changed before the barrier was not written yet.
    pub fn owes_snapshot(&self) -> bool {
        self.owing > 0
    }

    /// Writes some of what is owed.
    pub fn write_owed(&mut self, step: &mut Step, room: &mut (Vec<u32>, Vec<u8>), out: &mut NodeDelta<'_>) {
        self.saved.write(out);
        let (entries, value) = room;
        let mut left = GO_ENTRIES;
        for open in self.open.iter_mut().filter(|open| open.changed.is_owing()) {
            open.changed.take_owed(left, entries);
            for (at, &entry) in entries.iter().enumerate() {
                if let Some(next) = entries.get(at + AHEAD) {
                    open.table.prefetch(*next);
                }
                let (group, key) = open.write(step, entry, value);
                out.put(WINDOWS, window_number(open.number), group, key, value);
            }
            self.owing -= usize::from(!open.changed.is_owing());
            left = left.saturating_sub(entries.len());
            if left == 0 {
                break;
            }
        }
        self.close(step);
    }

    /// The entries `found` of a window are about to change: those that are owed are written as they are.
    #[inline]
    pub fn save_found(&mut self, step: &Step, at: usize) {
        let open = &mut self.open[at];
        if !open.changed.is_owing() {
            return;
        }
        for &entry in &self.found {
            if open.changed.claim(entry) {
                let (group, key) = open.write(step, entry, &mut self.value);
                self.saved.put(WINDOWS, window_number(open.number), group, key, &self.value);
            }
        }
    }

    /// Takes the entry of the first of the keys back.
    pub fn restore(
        &mut self,
        step: &mut Step,
        window: u64,
        keys: &Keys<'_>,
        from: &mut Reader<'_>,
    ) -> Result<(), Refused> {
        let at = self.find_or_open(step, number_of_window(window))?;
        let (_, rank) = self.take_in(step, at, keys, from)?;
        let open = &mut self.open[at];
        open.is_stored = true;
        open.ranks.push(rank);
        Ok(())
    }

    /// Brings the entry of the first of the keys into a window's table; gives the position of its cell, and its rank.
    pub fn take_in(
        &mut self,
        step: &mut Step,
        at: usize,
        keys: &Keys<'_>,
        from: &mut Reader<'_>,
    ) -> Result<(usize, u32), Refused> {
        let (flags, rank) = (from.byte()?, from.half()?);
        let open = &mut self.open[at];
        let known = open.table.entry_count();
        open.table.resolve(keys, &[0], &step.layout.initial, &mut step.budget, &mut self.found)?;
        if open.table.entry_count() == known {
            return Err(Refused::Damaged("its key is there twice"));
        }
        let cell = open.table.payload(known);
        let shown = step.shown();
        let (words, arena) = open.table.parts_mut();
        read_cell(&step.layout, shown, flags, (&mut words[cell..], arena), &mut step.budget, from)?;
        Ok((cell, rank))
    }

    /// All entries were taken back: brings them into their order and notes what went out already.
    pub fn restored(&mut self, step: &mut Step) {
        let mut order: Vec<u32> = Vec::new();
        for at in 0..self.open.len() {
            let end_ns = self.end_ns(self.open[at].number);
            let open = &mut self.open[at];
            let count = open.table.entry_count();
            let ranks = std::mem::take(&mut open.ranks);
            if !order_by_rank(&ranks, &mut order) {
                // Keys of different shards may have the same rank.
                order.clear();
                order.extend(0..count);
                order.sort_by_key(|&entry| (ranks[entry as usize], open.table.hash(entry)));
            }
            open.table.reorder(&order);
            let moved = (0..count).filter(|&new| ranks[order[new as usize] as usize] != new);
            moved.for_each(|new| open.changed.mark(new));
            open.fired = end_ns <= step.watermark_ns;
            if open.fired {
                open.next = count;
                self.fired = at + 1;
            } else if let (Some(word), true) = (self.again_word, step.progress.has_floors()) {
                for entry in 0..count {
                    let group = group_of(open.table.hash(entry));
                    if step.progress.reached_ns(group, step.watermark_ns) >= end_ns {
                        let cell = open.table.payload(entry);
                        open.table.parts_mut().0[cell + word] = EARLY;
                        open.early += 1;
                    }
                }
            }
        }
        self.close(step);
    }
}

/// Puts entries into the order of their ranks, if each rank is there once and none is missing.
fn order_by_rank(ranks: &[u32], order: &mut Vec<u32>) -> bool {
    order.clear();
    order.resize(ranks.len(), NONE);
    ranks.iter().zip(0..).all(|(&rank, entry)| match order.get_mut(rank as usize) {
        Some(place) if *place == NONE => {
            *place = entry;
            true
        }
        _ => false,
    })
}
