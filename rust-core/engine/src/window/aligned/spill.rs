//! Tumbling and sliding windows whose entries do not all fit into memory.
//!
//! When the bound is reached the whole table of one window is put away: what has changed is written to the shard's
//! store, as a snapshot would, and the table is dropped ([`Place::Parted`]). A key that is then not in the table is
//! asked for before its rows are taken, so each cell goes on from where it was and results are the same to the last
//! bit. A window that fires is put away wholly and comes back slice by slice, in the order of its stored keys.
//!
//! The store is asked for one thing at a time and no rows are taken meanwhile ([`Need`]).

use ringmill_state::{NodeCall, StoreCall, group_of};

use super::{AlignedWindows, EARLY, Open};
use crate::window::budget::Budget;
use crate::window::entry::{Refused, WINDOWS, number_of_window, window_number};
use crate::window::error::StateFull;
use crate::window::key_table::KeyTable;
use crate::window::spill::{Asked, Dealings, SLICE_BYTES, SLICE_ENTRIES, SLICE_PART};
use crate::window::step::{Rows, Step};

/// What is needed of the store before anything else goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    #[default]
    Nothing,
    /// The table of a window is put away, from this word of its changes on.
    Evict { number: i64, next: usize },
    /// The next entries of a window that fires.
    Slice { number: i64 },
    /// The entries of the keys that are asked for.
    Keys,
}

/// Where a window's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All in the table.
    Memory,
    /// Some in the store alone.
    Parted,
    /// It fires, and what is in the table has to be put away first.
    Leaving,
    /// It fires: the table has a slice of it.
    Returning,
}

impl Place {
    /// It waits for the store to go on firing.
    pub fn is_firing(self) -> bool {
        matches!(self, Self::Leaving | Self::Returning)
    }
}

/// What windows that may be put away have to remember.
#[derive(Debug, Default)]
pub struct Spilling {
    pub store: Dealings<Need>,
    /// Windows of which something is in the store alone.
    pub parted: usize,
    /// The last key of the slice, as it is stored.
    after: Vec<u8>,
    is_last_slice: bool,
}

impl Spilling {
    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        self.store.asked.memory_bytes() + self.after.capacity() as u64
    }
}

impl AlignedWindows {
    /// From now on tables are put away when the memory is used up. Changes must be noted.
    pub fn allow_spilling(&mut self, step: &mut Step) {
        self.spilling.store.is_on = true;
        step.budget.soften();
    }

    /// What they need of the store, and had.
    pub fn store(&self) -> &Dealings<Need> {
        &self.spilling.store
    }

    fn at(&self, number: i64) -> Option<usize> {
        self.open.binary_search_by_key(&number, |open| open.number).ok()
    }

    /// How many of the block's first rows can be taken now. The keys of others have to be asked for.
    pub fn ready_rows(&mut self, step: &Step, block: &Rows<'_>) -> usize {
        if self.spilling.parted == 0 {
            return block.count();
        }
        let entry_bytes = self.layout.stride as u64 * 8;
        let most = (step.budget.comfortable() / SLICE_PART / entry_bytes) as usize;
        let mut wanted = Asked::default();
        let mut ready = block.count();
        for row in 0..block.count() {
            let (low, high) = self.covering(block.times.get(row));
            for number in low..=high {
                let Some(open) = self.at(number).map(|at| &self.open[at]) else { continue };
                let is_known = open.place == Place::Memory || open.table.find(&block.keys, row).is_some();
                if is_known || step.is_over(self.end_ns(number)) {
                    continue;
                }
                let (window, group) = (window_number(number), group_of(block.keys.hashes[row]));
                block.keys.with_bytes(row, step.keys.word_bytes(), |key| {
                    if !self.spilling.store.asked.contains(window, group, key) {
                        wanted.push(window, group, key);
                        ready = ready.min(row);
                    }
                });
            }
            if wanted.len() > most {
                break;
            }
        }
        if ready == 0 {
            self.spilling.store.ask(wanted, Need::Keys);
        }
        ready
    }

    /// Chooses a window to be put away, if the memory is used up.
    pub fn make_room(&mut self, step: &mut Step) -> Result<(), StateFull> {
        if !step.budget.is_exceeded() || self.spilling.store.wants_any() || step.wants_histories() {
            return Ok(());
        }
        step.budget.give_up_spare();
        if !step.budget.is_exceeded() {
            return Ok(());
        }
        let total: u64 = self.open.iter().map(|open| open.table.bytes()).sum();
        if step.put_histories_away(total) {
            return Ok(());
        }
        let others = step.budget.used().saturating_sub(total);
        let can_go = |open: &&Open| open.table.entry_count() > 0 && open.pending() == 0 && !open.place.is_firing();
        // A small window is not worth the trouble, only late rows look for one that has fired, and of the others the
        // one that fires last goes again and again while the rest stay.
        let merit = |at: usize, open: &Open| (open.table.bytes() * SLICE_PART >= total, open.fired, at);
        let candidates = self.open.iter().enumerate().filter(|(_, open)| can_go(open));
        let best = candidates.map(|(at, open)| merit(at, open)).max();
        let Some((.., at)) = best.filter(|_| others <= step.budget.comfortable()) else {
            // What goes out first makes room.
            let makes_room = self.pending > 0 || step.put_histories_away(0);
            return if makes_room { Ok(()) } else { Err(step.budget.full(1)) };
        };
        let open = &mut self.open[at];
        if open.place == Place::Memory {
            open.place = Place::Parted;
            self.spilling.parted += 1;
        }
        open.is_stored = true;
        self.spilling.store.asked.clear();
        self.spilling.store.need = Need::Evict { number: open.number, next: 0 };
        Ok(())
    }

    /// A window that fires has given out what is in its table: that is put away, and the next slice comes.
    pub fn turn_over(&mut self, at: usize) {
        let is_free = !self.spilling.store.is_asked && matches!(self.spilling.store.need, Need::Nothing | Need::Keys);
        if is_free {
            self.spilling.store.asked.clear();
            self.spilling.store.need = Need::Evict { number: self.open[at].number, next: 0 };
        }
    }

    /// Writes down what is needed of the store; `false`: nothing, or it was asked for already.
    pub fn call(&mut self, step: &mut Step, room: &mut (Vec<u32>, Vec<u8>), out: &mut NodeCall<'_>) -> bool {
        if self.spilling.store.is_asked {
            return false;
        }
        loop {
            match self.spilling.store.need {
                Need::Nothing => return false,
                // Keys come back into windows that have nothing to give out.
                Need::Keys if self.pending > 0 => return false,
                Need::Keys => {
                    let asked = &self.spilling.store.asked;
                    asked.iter().for_each(|(window, group, key)| out.get(WINDOWS, window, group, key));
                    break;
                }
                Need::Evict { number, next } => {
                    if self.put_away(step, number, next, room, out) {
                        break;
                    }
                    self.drop_table(step, number);
                }
                Need::Slice { number } => {
                    let bytes = step.budget.comfortable() / SLICE_PART;
                    let entries = (bytes / (self.layout.stride as u64 * 8)).clamp(1, SLICE_ENTRIES) as usize;
                    let bytes = SLICE_BYTES.min(bytes as usize);
                    out.scan(WINDOWS, window_number(number), &self.spilling.after, entries, bytes);
                    break;
                }
            }
        }
        self.spilling.store.is_asked = true;
        true
    }

    /// Writes a slice of a window's changes; `false`: there are no more.
    fn put_away(
        &mut self,
        step: &Step,
        number: i64,
        mut next: usize,
        (entries, value): &mut (Vec<u32>, Vec<u8>),
        out: &mut NodeCall<'_>,
    ) -> bool {
        let Some(at) = self.at(number) else { return false };
        let open = &mut self.open[at];
        while out.bytes() < SLICE_BYTES {
            open.changed.take_next(&mut next, entries);
            if entries.is_empty() {
                break;
            }
            for &entry in entries.iter() {
                let (group, key) = open.write(step, entry, value);
                out.put(WINDOWS, window_number(number), group, key, value);
            }
        }
        self.spilling.store.need = Need::Evict { number, next };
        self.spilling.store.note_put_away(out.entries() as u64, out.bytes());
        out.entries() > 0
    }

    /// What is in a window's table is in the store, too.
    fn drop_table(&mut self, step: &mut Step, number: i64) {
        self.spilling.store.need = Need::Nothing;
        let Some(at) = self.at(number) else { return };
        let is_behind_another = self.open.iter().take(at).any(|open| open.place.is_firing());
        let open = &mut self.open[at];
        let table = std::mem::replace(&mut open.table, KeyTable::new(self.layout));
        step.budget.settle(table.bytes(), 0);
        open.changed.clear();
        (open.next, open.early) = (0, 0);
        match open.place {
            // One comes back at a time. This one's turn comes when it is the first.
            Place::Leaving if is_behind_another => {}
            Place::Leaving => {
                open.place = Place::Returning;
                self.spilling.after.clear();
                self.spilling.store.need = Need::Slice { number };
            }
            Place::Returning if self.spilling.is_last_slice => {
                open.place = Place::Parted;
                self.pending -= 1;
                self.close(step);
            }
            Place::Returning => self.spilling.store.need = Need::Slice { number },
            Place::Memory | Place::Parted => {}
        }
    }

    /// Takes what the store answered.
    pub fn answer(&mut self, step: &mut Step, call: &StoreCall) -> Result<(), Refused> {
        self.spilling.store.is_asked = false;
        match self.spilling.store.need {
            Need::Evict { .. } => return Ok(()),
            Need::Slice { .. } => {
                self.spilling.is_last_slice = call.is_end;
                self.spilling.after.clear();
                self.spilling.after.extend_from_slice(call.found.last_key().unwrap_or_default());
            }
            Need::Keys | Need::Nothing => {}
        }
        self.spilling.store.figures.read_back += call.found.len() as u64;
        step.each_found(call, |step, entry, keys, from| {
            // The watermark may have closed the window meanwhile.
            let Some(at) = self.at(number_of_window(entry.window)) else { return Ok(()) };
            if self.open[at].table.find(keys, 0).is_none() {
                let (cell, _) = self.take_in(step, at, keys, from)?;
                self.note_taken_in(step, at, cell, entry.group);
            }
            Ok(())
        })?;
        if let Need::Slice { number } = self.spilling.store.need
            && let Some(at) = self.at(number)
        {
            self.pending += u64::from(self.open[at].first_time());
        }
        self.spilling.store.need = Need::Nothing;
        Ok(())
    }

    /// Notes of an entry that came back whether it went out already.
    fn note_taken_in(&mut self, step: &Step, at: usize, cell: usize, group: u16) {
        let end_ns = self.end_ns(self.open[at].number);
        let open = &mut self.open[at];
        if open.fired && open.place == Place::Parted {
            open.next = open.table.entry_count();
        } else if let Some(word) = self.again_word
            && step.progress.went_out(group, end_ns)
        {
            open.table.parts_mut().0[cell + word] = EARLY;
            open.early += 1;
        }
    }

    /// Whether an entry that is given back after a start had better stay in the store. Half of the memory is left for
    /// what comes behind it and for new rows.
    pub fn leaves_in_store(&self, budget: &Budget) -> bool {
        self.spilling.store.is_on && budget.used() > budget.comfortable() / 2
    }

    /// An entry of that window stays in the store.
    pub fn leave_in_store(&mut self, step: &mut Step, window: u64) -> Result<(), StateFull> {
        let at = self.find_or_open(step, number_of_window(window))?;
        let open = &mut self.open[at];
        if open.place == Place::Memory {
            open.place = Place::Parted;
            self.spilling.parted += 1;
        }
        open.is_stored = true;
        Ok(())
    }
}
