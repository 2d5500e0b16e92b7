//! Rolling statistics per key over the results of the windows that the key had before.
//!
//! A key's history is a running mean and sum of squares (Welford), or, with a horizon, a ring of the results within it.
//! A result enters the history when its window fires for the first time. If the window fires again, it shows the same
//! statistics as before, and its new result takes the old one's place in the history. Results that are missing, NaN or
//! infinite do not enter. Keys are never forgotten: their histories count as state.
//!
//! A history is looked up by its key when a result goes out, and nobody refers to it otherwise, so histories may be put
//! away and had back between two blocks of results ([`spill`]).

mod spill;
mod state;

use super::arena::{Arena, NONE};
use super::budget::Budget;
use super::changed::Changed;
use super::error::StateFull;
use super::key::Keys;
use super::key_table::{EntryLayout, KeyTable};
use super::saved::Saved;
use spill::Spilling;

/// Results that a ring holds at first, as a power of two.
const RING_CLASS_MIN: u8 = 2;

/// What is known of a key's earlier windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub count: u64,
    /// Mean of their results; NaN without any.
    pub mean: f64,
    /// Sample standard deviation; NaN for fewer than two.
    pub std: f64,
}

/// The histories of all keys.
#[derive(Debug)]
pub struct Statistics {
    table: KeyTable,
    horizon_ns: Option<i64>,
    /// Set when a ring could not grow: it then forgets its oldest result.
    full: Option<StateFull>,
    changed: Changed,
    /// Chunks whose results were all forgotten: number and history.
    forgotten: Vec<(u64, u32)>,
    spilling: Spilling,
    /// What is owed to the snapshot that was begun last and has changed since.
    saved: Saved,
    value: Vec<u8>,
}

/// Payload without a horizon: number, mean, sum of squared differences.
const RUNNING: [u64; 3] = [0; 3];
/// Payload with one: `[block << 32 | class, first << 32 | number]`; a result is its window's end and the value. If
/// changes are noted, then the number of the first result among all that the key ever had, and the number before which
/// everything was written out.
const RING: [u64; 4] = [(NONE as u64) << 32, 0, 0, 0];
const RING_WORDS: usize = 2;
const BASE: usize = 2;
const WRITTEN: usize = 3;

impl Statistics {
    /// Of keys of that form.
    pub fn new(words_as_keys: bool, horizon_ns: Option<i64>) -> Self {
        let words = if horizon_ns.is_some() { RING_WORDS } else { RUNNING.len() };
        Self {
            table: KeyTable::new(EntryLayout::new(words_as_keys, words)),
            horizon_ns,
            full: None,
            changed: Changed::default(),
            forgotten: Vec::new(),
            spilling: Spilling::default(),
            saved: Saved::default(),
            value: Vec::new(),
        }
    }

    /// The shortage that made a history lose results.
    pub fn full(&self) -> Option<StateFull> {
        self.full
    }

    /// The histories of the keys at `rows`, made where there are none.
    pub fn resolve(
        &mut self,
        keys: &Keys<'_>,
        rows: &[u32],
        budget: &mut Budget,
        found: &mut Vec<u32>,
    ) -> Result<(), StateFull> {
        let resolved = self.table.resolve(keys, rows, self.initial(), budget, found);
        resolved.inspect_err(|full| self.full = Some(*full))
    }

    fn initial(&self) -> &'static [u64] {
        match (self.horizon_ns, self.changed.is_on()) {
            (None, _) => &RUNNING,
            (Some(_), false) => &RING[..RING_WORDS],
            (Some(_), true) => &RING,
        }
    }

    /// What is known before a window with that end.
    pub fn summary(&self, history: u32, end_ns: i64) -> Summary {
        let at = self.table.payload(history);
        let words = &self.table.words()[at..];
        let Some(horizon_ns) = self.horizon_ns else {
            return summarize(words[0], f64::from_bits(words[1]), f64::from_bits(words[2]));
        };
        let oldest = end_ns.saturating_sub(horizon_ns);
        let mut running = [0, 0, 0];
        for (result_end, value) in Ring::of(words).results(&self.table.arena) {
            if (oldest..=end_ns).contains(&result_end) {
                add(&mut running, value);
            }
        }
        summarize(running[0], f64::from_bits(running[1]), f64::from_bits(running[2]))
    }

    /// Adds a window's result. No window that ends before `open_ns` fires any more.
    pub fn add(&mut self, history: u32, end_ns: i64, value: f64, open_ns: i64, budget: &mut Budget) {
        let at = self.table.payload(history);
        let before = self.table.arena.bytes();
        let (words, arena) = self.table.parts_mut();
        match self.horizon_ns {
            None => add(&mut words[at..at + 3], value),
            Some(horizon_ns) => {
                let mut ring = Ring::of(&words[at..]);
                let count = ring.count;
                ring.forget_before(end_ns.min(open_ns).saturating_sub(horizon_ns), arena);
                arena.limit_growth(budget);
                if !ring.push(end_ns, value, arena) {
                    self.full = Some(budget.full(64));
                }
                ring.store(&mut words[at..at + 2]);
                if self.changed.is_on() {
                    let base = &mut words[at + BASE..];
                    state::move_base(base, (count + 1 - ring.count) as u64, history, &mut self.forgotten);
                }
            }
        }
        budget.settle(before, self.table.arena.bytes());
        self.changed.mark(history);
    }

    /// Puts a window's new result in the place of its old one; `false`: that was forgotten.
    pub fn replace(&mut self, history: u32, old: (i64, f64), new: (i64, f64)) -> bool {
        let at = self.table.payload(history);
        let is_ring = self.horizon_ns.is_some();
        let (words, arena) = self.table.parts_mut();
        if is_ring {
            let Some(place) = Ring::of(&words[at..]).replace(old, new, arena) else { return false };
            if self.changed.is_on() {
                words[at + WRITTEN] = words[at + WRITTEN].min(words[at + BASE] + place as u64);
                self.changed.mark(history);
            }
            return true;
        }
        self.changed.mark(history);
        let words = &mut words[at..at + 3];
        let mean = f64::from_bits(words[1]);
        let difference = new.1 - old.1;
        let new_mean = mean + difference / words[0] as f64;
        let squares = f64::from_bits(words[2]) + difference * (new.1 - new_mean + old.1 - mean);
        words[1] = new_mean.to_bits();
        words[2] = squares.max(0.0).to_bits();
        true
    }
}

fn add(words: &mut [u64], value: f64) {
    let count = words[0] + 1;
    let mean = f64::from_bits(words[1]);
    let delta = value - mean;
    let new_mean = mean + delta / count as f64;
    words[0] = count;
    words[1] = new_mean.to_bits();
    words[2] = (f64::from_bits(words[2]) + delta * (value - new_mean)).to_bits();
}

fn summarize(count: u64, mean: f64, squares: f64) -> Summary {
    Summary {
        count,
        mean: if count == 0 { f64::NAN } else { mean },
        std: if count < 2 { f64::NAN } else { (squares / (count - 1) as f64).sqrt() },
    }
}

/// The results of one key within the horizon, oldest first.
struct Ring {
    block: u32,
    class: u8,
    first: usize,
    count: usize,
}

impl Ring {
    fn of(words: &[u64]) -> Self {
        let [place, range] = [words[0], words[1]];
        Self {
            block: (place >> 32) as u32,
            class: place as u8,
            first: (range >> 32) as usize,
            count: range as u32 as usize,
        }
    }

    fn store(&self, words: &mut [u64]) {
        words[0] = u64::from(self.block) << 32 | u64::from(self.class);
        words[1] = (self.first as u64) << 32 | self.count as u64;
    }

    /// Results that the block has room for; it is of twice as many words.
    fn capacity(&self) -> usize {
        if self.block == NONE { 0 } else { 1 << self.class }
    }

    /// Room for that many results, which are to be [put in their places](Ring::set). `None`: there is no memory.
    fn with_room(count: usize, arena: &mut Arena) -> Option<Self> {
        if count == 0 {
            return Some(Self { block: NONE, class: 0, first: 0, count });
        }
        let class = RING_CLASS_MIN.max(count.next_power_of_two().ilog2() as u8);
        Some(Self { block: arena.allocate(class + 1)?, class, first: 0, count })
    }

    fn set(&self, at: usize, (end_ns, value): (i64, f64), arena: &mut Arena) {
        arena.words_mut(self.place(at), 2).copy_from_slice(&[end_ns as u64, value.to_bits()]);
    }

    fn place(&self, at: usize) -> u32 {
        self.block + 2 * ((self.first + at) % self.capacity()) as u32
    }

    fn get(&self, at: usize, arena: &Arena) -> (i64, f64) {
        let words = arena.words(self.place(at), 2);
        (words[0] as i64, f64::from_bits(words[1]))
    }

    fn results<'a>(&'a self, arena: &'a Arena) -> impl Iterator<Item = (i64, f64)> + 'a {
        (0..self.count).map(|at| self.get(at, arena))
    }

    fn forget_before(&mut self, oldest_ns: i64, arena: &Arena) {
        while self.count > 0 && self.get(0, arena).0 < oldest_ns {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        self.first = (self.first + 1) % self.capacity();
        self.count -= 1;
    }

    /// `false`: there was no memory to keep all results.
    fn push(&mut self, end_ns: i64, value: f64, arena: &mut Arena) -> bool {
        let mut kept = true;
        if self.count == self.capacity() && !self.grow(arena) {
            kept = false;
            if self.count == 0 {
                return false;
            }
            self.forget_oldest();
        }
        self.count += 1;
        self.set(self.count - 1, (end_ns, value), arena);
        kept
    }

    fn grow(&mut self, arena: &mut Arena) -> bool {
        let class = if self.block == NONE { RING_CLASS_MIN } else { self.class + 1 };
        let Some(block) = arena.allocate(class + 1) else { return false };
        for at in 0..self.count {
            let (end, value) = self.get(at, arena);
            arena.words_mut(block + 2 * at as u32, 2).copy_from_slice(&[end as u64, value.to_bits()]);
        }
        if self.block != NONE {
            arena.free(self.block, self.class + 1);
        }
        (self.block, self.class, self.first) = (block, class, 0);
        true
    }

    /// Which result was replaced, counted from the oldest.
    fn replace(&self, old: (i64, f64), new: (i64, f64), arena: &mut Arena) -> Option<usize> {
        let at = (0..self.count).rev().find(|at| self.get(*at, arena) == old)?;
        self.set(at, new, arena);
        Some(at)
    }
}

#[cfg(test)]
mod tests;
