//! Brings rows into cells, part after part for a whole block of rows; merges cells and frees what they hold.
//!
//! Values that are missing are skipped by every part but the row count.

use ringmill_wire::{BatchView, DataType};

use super::arena::{Arena, NONE};
use super::cells::{Action, CellLayout, InputColumn, Kind, Part};
use super::lanes::Lane;

/// Blocks of collected lists: 4 words at first, 128 at most, the first word being their header.
const LIST_CLASS_MIN: u8 = 2;
const LIST_CLASS_MAX: u8 = 7;

/// The arena may not grow any further.
#[derive(Clone, Copy, Debug)]
pub struct ArenaFull;

/// Rows of a block and the cells that they go to.
pub struct Block<'a> {
    /// The batch that the block is of.
    pub view: &'a BatchView<'a>,
    /// Row of the batch with which the block begins.
    pub first: usize,
    /// The block's values, one lane for each input of the layout.
    pub lanes: &'a [Lane],
    /// Number of the block's first row among all rows of the step, plus one.
    pub sequence: u64,
    /// Rows of the block, in order.
    pub rows: &'a [u32],
    /// For each of them, where its cell begins among the words.
    pub cells: &'a [usize],
}

impl Block<'_> {
    /// Calls `f(cell, word)` for each value that is there.
    #[inline(always)]
    fn each(&self, input: usize, mut f: impl FnMut(usize, u64)) {
        let lane = &self.lanes[input];
        let pairs = self.rows.iter().zip(self.cells);
        if lane.valid.is_empty() {
            pairs.for_each(|(row, cell)| f(*cell, lane.words[*row as usize]));
        } else {
            let there = pairs.filter(|(row, _)| lane.valid[**row as usize]);
            there.for_each(|(row, cell)| f(*cell, lane.words[*row as usize]));
        }
    }

    /// Calls `f(cell, row)` for each value that is there.
    #[inline(always)]
    fn each_row(&self, input: usize, mut f: impl FnMut(usize, u32) -> Result<(), ArenaFull>) -> Result<(), ArenaFull> {
        let lane = &self.lanes[input];
        for (row, cell) in self.rows.iter().zip(self.cells) {
            if lane.valid.is_empty() || lane.valid[*row as usize] {
                f(*cell, *row)?;
            }
        }
        Ok(())
    }
}

/// Brings a block's rows into their cells.
pub fn apply(layout: &CellLayout, block: &Block<'_>, words: &mut [u64], arena: &mut Arena) -> Result<(), ArenaFull> {
    for part in &layout.parts {
        match part.action {
            Action::First | Action::Last | Action::Collect => apply_ordered(layout, part, block, words, arena)?,
            _ => apply_number(part, block, words),
        }
    }
    Ok(())
}

fn apply_number(part: &Part, block: &Block<'_>, words: &mut [u64]) {
    let (word, input) = (part.word, part.input);
    match (part.action, part.kind) {
        (Action::Rows, _) => block.cells.iter().for_each(|cell| words[cell + word] += 1),
        (Action::Present, _) if block.lanes[input].valid.is_empty() => {
            block.cells.iter().for_each(|cell| words[cell + word] += 1);
        }
        (Action::Present, _) => {
            let lane = &block.lanes[input];
            let pairs = block.rows.iter().zip(block.cells);
            pairs.for_each(|(row, cell)| words[cell + word] += u64::from(lane.valid[*row as usize]));
        }
        (Action::SumNarrow, _) => {
            block.each(input, |cell, value| words[cell + word] = words[cell + word].wrapping_add(value))
        }
        (Action::SumWide, kind) => block.each(input, |cell, value| {
            let value = if kind == Kind::Signed { i128::from(value as i64) } else { i128::from(value) };
            set_wide(words, cell + word, wide(words, cell + word).wrapping_add(value));
        }),
        (Action::SumFloat, _) => block.each(input, |cell, value| {
            let sum = &mut words[cell + word];
            *sum = (f64::from_bits(*sum) + f64::from_bits(value)).to_bits();
        }),
        (Action::Min | Action::Max, kind) => {
            let largest = part.action == Action::Max;
            match (kind, largest) {
                (Kind::Signed, false) => {
                    block.each(input, |cell, value| keep(&mut words[cell + word], value, smaller_signed))
                }
                (Kind::Signed, true) => {
                    block.each(input, |cell, value| keep(&mut words[cell + word], value, larger_signed))
                }
                (Kind::Unsigned, false) => {
                    block.each(input, |cell, value| keep(&mut words[cell + word], value, u64::min))
                }
                (Kind::Unsigned, true) => {
                    block.each(input, |cell, value| keep(&mut words[cell + word], value, u64::max))
                }
                (_, false) => block.each(input, |cell, value| keep(&mut words[cell + word], value, smaller_float)),
                (_, true) => block.each(input, |cell, value| keep(&mut words[cell + word], value, larger_float)),
            }
        }
        (Action::Spread, kind) => {
            block.each(input, |cell, value| spread(&mut words[cell + word..cell + word + 3], number(kind, value)))
        }
        (Action::First | Action::Last | Action::Collect, _) => {}
    }
}

fn apply_ordered(
    layout: &CellLayout,
    part: &Part,
    block: &Block<'_>,
    words: &mut [u64],
    arena: &mut Arena,
) -> Result<(), ArenaFull> {
    let (word, input) = (part.word, part.input);
    let column = block.view.column(layout.inputs[input].index);
    let lane = &block.lanes[input];
    let sequence = |row: u32| block.sequence + u64::from(row);
    match (part.action, part.kind) {
        (Action::Collect, _) => block.each_row(input, |cell, row| {
            let item = narrow(&layout.inputs[input], lane.words[row as usize]);
            append(&mut words[cell + word..cell + word + 2], &item.0[..item.1], arena)
        }),
        (action, Kind::Bytes) => block.each_row(input, |cell, row| {
            let words = &mut words[cell + word..cell + word + 2];
            if action == Action::Last || words[0] == 0 {
                words[0] = sequence(row);
                return set_bytes(&mut words[1], column.bytes(block.first + row as usize), arena);
            }
            Ok(())
        }),
        (action, _) => block.each_row(input, |cell, row| {
            let words = &mut words[cell + word..cell + word + 2];
            if action == Action::Last || words[0] == 0 {
                words[0] = sequence(row);
                words[1] = lane.words[row as usize];
            }
            Ok(())
        }),
    }
}

#[inline(always)]
fn keep(old: &mut u64, new: u64, better: impl Fn(u64, u64) -> u64) {
    *old = better(*old, new);
}

fn smaller_signed(a: u64, b: u64) -> u64 {
    (a as i64).min(b as i64) as u64
}

fn larger_signed(a: u64, b: u64) -> u64 {
    (a as i64).max(b as i64) as u64
}

// `f64::min` and `max` prefer a number to a NaN.
fn smaller_float(a: u64, b: u64) -> u64 {
    f64::from_bits(a).min(f64::from_bits(b)).to_bits()
}

fn larger_float(a: u64, b: u64) -> u64 {
    f64::from_bits(a).max(f64::from_bits(b)).to_bits()
}

/// A value as a float, whatever its kind.
#[inline]
pub fn number(kind: Kind, word: u64) -> f64 {
    match kind {
        Kind::Signed => word as i64 as f64,
        Kind::Unsigned => word as f64,
        Kind::Float | Kind::Bytes => f64::from_bits(word),
    }
}

/// The `i128` in two words.
#[inline]
pub fn wide(words: &[u64], at: usize) -> i128 {
    (i128::from(words[at + 1] as i64) << 64) | i128::from(words[at])
}

#[inline]
fn set_wide(words: &mut [u64], at: usize, value: i128) {
    words[at] = value as u64;
    words[at + 1] = (value >> 64) as u64;
}

#[inline]
fn spread(words: &mut [u64], value: f64) {
    let count = words[0] + 1;
    let mean = f64::from_bits(words[1]);
    let delta = value - mean;
    let mean = mean + delta / count as f64;
    words[0] = count;
    words[1] = mean.to_bits();
    words[2] = (f64::from_bits(words[2]) + delta * (value - mean)).to_bits();
}

/// A value's bytes in its column's type.
fn narrow(input: &InputColumn, word: u64) -> ([u8; 8], usize) {
    let width = input.data_type.width().unwrap_or(8);
    let word = match input.data_type {
        DataType::Float32 => u64::from((f64::from_bits(word) as f32).to_bits()),
        _ => word,
    };
    (word.to_le_bytes(), width)
}

/// Puts bytes in the place of others: `[block << 32 | length]`.
pub fn set_bytes(word: &mut u64, bytes: &[u8], arena: &mut Arena) -> Result<(), ArenaFull> {
    let (block, length) = ((*word >> 32) as u32, *word as u32 as usize);
    let class = Arena::class_of(bytes.len());
    let block = if block != NONE && Arena::class_of(length) == class {
        block
    } else {
        let new = arena.allocate(class).ok_or(ArenaFull)?;
        if block != NONE {
            arena.free(block, Arena::class_of(length));
        }
        new
    };
    arena.data_mut(block, bytes.len()).copy_from_slice(bytes);
    *word = u64::from(block) << 32 | bytes.len() as u64;
    Ok(())
}

/// The bytes that a word stands for.
pub fn get_bytes(word: u64, arena: &Arena) -> &[u8] {
    match (word >> 32) as u32 {
        NONE => &[],
        block => arena.data(block, word as u32 as usize),
    }
}

/// Appends an item to a list: `[first << 32 | last, items << 32 | bytes used in the last block]`. A block's header is
/// `next << 32 | used << 8 | class`; `used` counts once a block is full.
pub fn append(list: &mut [u64], item: &[u8], arena: &mut Arena) -> Result<(), ArenaFull> {
    let (mut last, mut used) = (list[0] as u32, list[1] as u32 as usize);
    let class = if last == NONE { 0 } else { arena.words(last, 1)[0] as u8 };
    if last == NONE || used + item.len() > (8 << class) - 8 {
        let next = if last == NONE { LIST_CLASS_MIN } else { (class + 1).min(LIST_CLASS_MAX) };
        let block = arena.allocate(next).ok_or(ArenaFull)?;
        arena.words_mut(block, 1)[0] = u64::from(NONE) << 32 | u64::from(next);
        if last == NONE {
            list[0] = u64::from(block) << 32 | u64::from(block);
        } else {
            arena.words_mut(last, 1)[0] = u64::from(block) << 32 | (used as u64) << 8 | u64::from(class);
            list[0] = list[0] >> 32 << 32 | u64::from(block);
        }
        (last, used) = (block, 0);
    }
    arena.data_mut(last + 1, used + item.len())[used..].copy_from_slice(item);
    let items = (list[1] >> 32) + 1;
    list[1] = items << 32 | (used + item.len()) as u64;
    Ok(())
}

/// Appends a list's items to `items`.
pub fn get_list(list: &[u64], arena: &Arena, items: &mut Vec<u8>) {
    let last = list[0] as u32;
    let mut block = (list[0] >> 32) as u32;
    while block != NONE {
        let header = arena.words(block, 1)[0];
        let used = if block == last { list[1] as u32 as usize } else { (header as u32 >> 8) as usize };
        items.extend_from_slice(arena.data(block + 1, used));
        block = if block == last { NONE } else { (header >> 32) as u32 };
    }
}

/// Brings what the cell at `from` knows into the cell at `to`. The list at `from` is put behind the one at `to`.
pub fn merge(layout: &CellLayout, words: &mut [u64], to: usize, from: usize, arena: &mut Arena) {
    for part in &layout.parts {
        let (to, from) = (to + part.word, from + part.word);
        match (part.action, part.kind) {
            (Action::Rows | Action::Present | Action::SumNarrow, _) => words[to] = words[to].wrapping_add(words[from]),
            (Action::SumWide, _) => set_wide(words, to, wide(words, to).wrapping_add(wide(words, from))),
            (Action::SumFloat, _) => {
                words[to] = (f64::from_bits(words[to]) + f64::from_bits(words[from])).to_bits();
            }
            (Action::Min, Kind::Signed) => words[to] = smaller_signed(words[to], words[from]),
            (Action::Max, Kind::Signed) => words[to] = larger_signed(words[to], words[from]),
            (Action::Min, Kind::Unsigned) => words[to] = words[to].min(words[from]),
            (Action::Max, Kind::Unsigned) => words[to] = words[to].max(words[from]),
            (Action::Min, _) => words[to] = smaller_float(words[to], words[from]),
            (Action::Max, _) => words[to] = larger_float(words[to], words[from]),
            (Action::Spread, _) => merge_spread(words, to, from),
            (Action::First | Action::Last, _) => {
                let first = part.action == Action::First;
                let wins = words[from] != 0 && (words[to] == 0 || (words[from] < words[to]) == first);
                if wins {
                    words.swap(to, from);
                    words.swap(to + 1, from + 1);
                }
            }
            (Action::Collect, _) => merge_lists(words, to, from, arena),
        }
    }
}

/// Chan, Golub and LeVeque 1979.
fn merge_spread(words: &mut [u64], to: usize, from: usize) {
    let (a, b) = (words[to] as f64, words[from] as f64);
    if words[from] == 0 {
        return;
    }
    let (mean_a, mean_b) = (f64::from_bits(words[to + 1]), f64::from_bits(words[from + 1]));
    let (sum_a, sum_b) = (f64::from_bits(words[to + 2]), f64::from_bits(words[from + 2]));
    let delta = mean_b - mean_a;
    words[to] += words[from];
    words[to + 1] = (mean_a + delta * b / (a + b)).to_bits();
    words[to + 2] = (sum_a + sum_b + delta * delta * a * b / (a + b)).to_bits();
}

fn merge_lists(words: &mut [u64], to: usize, from: usize, arena: &mut Arena) {
    let none = u64::from(NONE) << 32 | u64::from(NONE);
    if words[from] == none {
        return;
    }
    if words[to] == none {
        words.swap(to, from);
        words.swap(to + 1, from + 1);
        return;
    }
    let last = words[to] as u32;
    let class = arena.words(last, 1)[0] & 0xff;
    let used = words[to + 1] & u64::from(u32::MAX);
    arena.words_mut(last, 1)[0] = words[from] >> 32 << 32 | used << 8 | class;
    words[to] = words[to] >> 32 << 32 | u64::from(words[from] as u32);
    let items = (words[to + 1] >> 32) + (words[from + 1] >> 32);
    words[to + 1] = items << 32 | u64::from(words[from + 1] as u32);
    words[from] = none;
    words[from + 1] = 0;
}

/// Frees what a cell holds in the arena.
pub fn release(layout: &CellLayout, words: &[u64], cell: usize, arena: &mut Arena) {
    for part in &layout.parts {
        let at = cell + part.word;
        match (part.action, part.kind) {
            (Action::First | Action::Last, Kind::Bytes) if (words[at + 1] >> 32) as u32 != NONE => {
                arena.free((words[at + 1] >> 32) as u32, Arena::class_of(words[at + 1] as u32 as usize));
            }
            (Action::Collect, _) => {
                let last = words[at] as u32;
                let mut block = (words[at] >> 32) as u32;
                while block != NONE {
                    let header = arena.words(block, 1)[0];
                    arena.free(block, header as u8);
                    block = if block == last { NONE } else { (header >> 32) as u32 };
                }
            }
            _ => {}
        }
    }
}
