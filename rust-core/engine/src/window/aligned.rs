//! Tumbling and sliding windows: a table of keys for each window that is open.
//!
//! A row goes into every window that covers it. A window *fires* when the watermark reaches its end: its entries go out
//! in the order in which their keys came. It stays open for late rows until the allowed lateness has passed too; a key
//! that such a row changes goes out again. The tables of closed windows are used for later ones.

mod spill;
mod state;

use std::collections::VecDeque;

use ringmill_wire::BatchWriter;

use super::accumulate::{Block, apply};
use super::budget::Budget;
use super::changed::Changed;
use super::error::StateFull;
use super::key_table::{BLOCK, EntryLayout, KeyTable};
use super::operator::Emitted;
use super::saved::Saved;
use super::step::{Rows, Step};
use spill::{Place, Spilling};

/// The entry waits in `again`.
const WAITING: u64 = 1;
/// The entry went out though its window has not fired: the shard that its key comes from had got further.
const EARLY: u64 = 2;

/// One window.
#[derive(Debug)]
struct Open {
    /// It starts at this many steps from 1970.
    number: i64,
    table: KeyTable,
    fired: bool,
    /// Entries before this one went out.
    next: u32,
    /// Entries that changed after they went out, in order, from `again_next` on.
    again: Vec<u32>,
    again_next: usize,
    ingest_ns: u64,
    again_ingest_ns: u64,
    /// Entries from `next` on that went out early, or are about to.
    early: u32,
    changed: Changed,
    /// Some of it was written out.
    is_stored: bool,
    place: Place,
    /// While entries are taken back: their places in the order of arrival.
    ranks: Vec<u32>,
}

impl Open {
    fn pending(&self) -> usize {
        self.first_time() as usize + self.again.len() - self.again_next
    }

    /// Entries that are to go out for the first time.
    fn first_time(&self) -> u32 {
        let is_ready = self.fired && self.place != Place::Leaving;
        if is_ready { self.table.entry_count() - self.next - self.early } else { 0 }
    }
}

/// Windows of one length at regular distances.
#[derive(Debug)]
pub struct AlignedWindows {
    size_ns: i64,
    every_ns: i64,
    layout: EntryLayout,
    /// Word of a cell that is 0, [`WAITING`] or [`EARLY`]; `None`: windows fire only once.
    again_word: Option<usize>,
    /// By number, hence by end.
    open: VecDeque<Open>,
    /// The first so many have fired.
    fired: usize,
    pending: u64,
    assigned: Vec<(i64, u32)>,
    rows: Vec<u32>,
    found: Vec<u32>,
    spare_lists: Vec<Vec<u32>>,
    is_tracked: bool,
    spare_changed: Vec<Changed>,
    /// Windows that were written out and are over.
    closed: Vec<i64>,
    spilling: Spilling,
    /// Windows that owe something to the snapshot that was begun last.
    owing: usize,
    /// What of it has changed since.
    saved: Saved,
    value: Vec<u8>,
}

impl AlignedWindows {
    pub fn new(size_ns: i64, every_ns: i64, step: &mut Step) -> Self {
        let again_word = (step.lateness_ns > 0).then(|| step.layout.add_words(&[0]));
        let layout = EntryLayout::new(step.keys.are_words(), step.layout.initial.len());
        Self {
            size_ns,
            every_ns,
            layout,
            again_word,
            open: VecDeque::new(),
            fired: 0,
            pending: 0,
            assigned: Vec::new(),
            rows: Vec::with_capacity(BLOCK),
            found: Vec::with_capacity(BLOCK),
            spare_lists: Vec::new(),
            is_tracked: false,
            spare_changed: Vec::new(),
            closed: Vec::new(),
            spilling: Spilling::default(),
            owing: 0,
            saved: Saved::default(),
            value: Vec::new(),
        }
    }

    /// Begins to note changes; no window must be open yet.
    pub fn track_changes(&mut self) {
        self.is_tracked = true;
    }

    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// The first and the last window that cover a time.
    #[inline]
    fn covering(&self, time_ns: i64) -> (i64, i64) {
        let last = time_ns.div_euclid(self.every_ns);
        if self.size_ns == self.every_ns {
            return (last, last);
        }
        (time_ns.saturating_sub(self.size_ns).div_euclid(self.every_ns) + 1, last)
    }

    fn start_ns(&self, number: i64) -> i64 {
        clamp(i128::from(number) * i128::from(self.every_ns))
    }

    fn end_ns(&self, number: i64) -> i64 {
        clamp(i128::from(number) * i128::from(self.every_ns) + i128::from(self.size_ns))
    }

    /// When the last window ends that is open, or that covers this time (`i64::MIN`: none).
    pub fn last_end_ns(&self, newest_ns: i64) -> i64 {
        let covering = (newest_ns > i64::MIN).then(|| self.end_ns(self.covering(newest_ns).1));
        let open = self.open.back().map(|open| self.end_ns(open.number));
        covering.max(open).unwrap_or(i64::MIN)
    }

    /// Takes the rows of a block (`first..first + count` of the batch); gives how many, fewer if `late` is full.
    pub fn push(&mut self, step: &mut Step, block: &Rows<'_>, late: &mut BatchWriter) -> Result<usize, StateFull> {
        let (count, times) = (block.count(), block.times);
        let (earliest, latest) = times.range();
        let mut taken = count;
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let mut covers = (self.covering(earliest), self.covering(latest));
        if step.is_over(self.end_ns(covers.0.1)) {
            taken = self.sort_out_late(step, block, &mut rows, late);
            let alive = rows.iter().map(|row| times.get(*row as usize));
            let range = alive.fold((i64::MAX, i64::MIN), |range, time| (range.0.min(time), range.1.max(time)));
            covers = (self.covering(range.0), self.covering(range.1));
        } else {
            rows.extend(0..count as u32);
        }
        if rows.is_empty() {
        } else if covers.0 == covers.1 {
            for number in covers.0.0..=covers.0.1 {
                self.update(step, block, number, &rows)?;
            }
        } else {
            self.update_many(step, block, &mut rows)?;
        }
        self.rows = rows;
        Ok(taken)
    }

    /// Writes the rows that no open window covers to `late`, and notes the others; gives how many rows were seen.
    fn sort_out_late(&self, step: &mut Step, block: &Rows<'_>, rows: &mut Vec<u32>, late: &mut BatchWriter) -> usize {
        for row in 0..block.count() {
            if !step.is_over(self.end_ns(self.covering(block.times.get(row)).1)) {
                rows.push(row as u32);
                continue;
            }
            if late.rows_free() == 0 || late.copy_row(block.view, block.first + row).is_err() {
                return row;
            }
            step.late_rows += 1;
        }
        block.count()
    }

    /// For rows of different windows: window after window.
    fn update_many(&mut self, step: &mut Step, block: &Rows<'_>, rows: &mut Vec<u32>) -> Result<(), StateFull> {
        let mut assigned = std::mem::take(&mut self.assigned);
        assigned.clear();
        for row in rows.iter() {
            let (low, high) = self.covering(block.times.get(*row as usize));
            assigned.extend((low..=high).map(|number| (number, *row)));
        }
        assigned.sort_unstable();
        for group in assigned.chunk_by(|a, b| a.0 == b.0) {
            rows.clear();
            rows.extend(group.iter().map(|(_, row)| *row));
            self.update(step, block, group[0].0, rows)?;
        }
        self.assigned = assigned;
        Ok(())
    }

    /// Brings rows into one window, unless it is over.
    fn update(&mut self, step: &mut Step, block: &Rows<'_>, number: i64, rows: &[u32]) -> Result<(), StateFull> {
        if step.is_over(self.end_ns(number)) {
            return Ok(());
        }
        let at = self.find_or_open(step, number)?;
        let open = &mut self.open[at];
        let (known, pending) = (open.table.entry_count(), open.pending());
        open.table.resolve(&block.keys, rows, &step.layout.initial, &mut step.budget, &mut self.found)?;
        self.save_found(step, at);
        let is_early = step.progress.has_floors() && self.end_ns(number) <= step.passed_ns;
        let open = &mut self.open[at];
        open.changed.mark_all(&self.found, open.table.entry_count());
        step.cells.clear();
        step.cells.extend(self.found.iter().map(|entry| open.table.payload(*entry)));
        if open.fired || is_early {
            if known == open.next {
                open.ingest_ns = block.ingest_ns;
            }
            note_changes(open, known, &self.found, &step.cells, self.again_word, block.ingest_ns);
            self.pending += (open.pending() - pending) as u64;
        }
        let before = open.table.arena.bytes();
        open.table.arena.limit_growth(&step.budget);
        let (words, arena) = open.table.parts_mut();
        let rows = Block {
            view: block.view,
            first: block.first,
            lanes: &step.lanes,
            sequence: step.sequence,
            rows,
            cells: &step.cells,
        };
        let applied = apply(&step.layout, &rows, words, arena);
        settle(&mut step.budget, before, open.table.arena.bytes(), applied.is_err())
    }

    fn find_or_open(&mut self, step: &mut Step, number: i64) -> Result<usize, StateFull> {
        let at = match self.open.back() {
            Some(last) if last.number == number => return Ok(self.open.len() - 1),
            Some(last) if last.number > number => match self.open.binary_search_by_key(&number, |open| open.number) {
                Ok(at) => return Ok(at),
                Err(at) => at,
            },
            _ => self.open.len(),
        };
        step.budget.take(size_of::<Open>() as u64)?;
        let table = step.budget.reuse().unwrap_or_else(|| KeyTable::new(self.layout));
        let fired = self.end_ns(number) <= step.watermark_ns;
        self.fired += usize::from(fired);
        let again = self.spare_lists.pop().unwrap_or_default();
        let open = Open {
            number,
            table,
            fired,
            next: 0,
            again,
            again_next: 0,
            ingest_ns: step.ingest_ns,
            again_ingest_ns: 0,
            early: 0,
            changed: self.spare_changed.pop().unwrap_or_else(|| Changed::new(self.is_tracked)),
            is_stored: false,
            place: Place::Memory,
            ranks: Vec::new(),
        };
        self.open.insert(at, open);
        Ok(at)
    }

    /// Fires the windows that the watermark has reached.
    pub fn advance(&mut self, step: &mut Step) {
        while let Some(number) = self.open.get(self.fired).map(|open| open.number) {
            if self.end_ns(number) > step.watermark_ns {
                break;
            }
            let open = &mut self.open[self.fired];
            open.fired = true;
            open.ingest_ns = step.ingest_ns;
            if open.place == Place::Parted {
                // Counts as one that is pending until all of it came back.
                open.place = Place::Leaving;
                self.pending += 1;
            }
            self.pending += u64::from(open.first_time());
            self.fired += 1;
        }
        self.close(step);
    }

    /// Gives up the windows at the front that are over, went out and owe nothing.
    fn close(&mut self, step: &mut Step) {
        while let Some(open) = self.open.front() {
            let is_pending = open.pending() > 0 || open.place.is_firing() || open.changed.is_owing();
            if is_pending || !open.fired || !step.is_over(self.end_ns(open.number)) {
                break;
            }
            let Some(Open { number, table, mut again, mut changed, is_stored, place, .. }) = self.open.pop_front()
            else {
                break;
            };
            self.fired -= 1;
            self.spilling.parted -= usize::from(place != Place::Memory);
            if is_stored {
                self.closed.push(number);
            }
            changed.clear();
            self.spare_changed.push(changed);
            step.budget.settle(size_of::<Open>() as u64, 0);
            step.budget.recycle(table);
            again.clear();
            self.spare_lists.push(again);
        }
    }

    /// Writes results until `out` is full or there are none.
    pub fn emit(&mut self, step: &mut Step, out: &mut BatchWriter) -> Emitted {
        let mut emitted = Emitted { rows: 0, ingest_ns: u64::MAX };
        let mut at = 0;
        // Entries may go out early in any window.
        let windows = if step.progress.has_floors() { self.open.len() } else { self.fired };
        while at < windows && self.pending > 0 && out.rows_free() > 0 {
            if self.open[at].pending() == 0 {
                if self.open[at].place.is_firing() {
                    self.turn_over(at);
                    break;
                }
                at += 1;
                continue;
            }
            let (rows, ingest_ns) = self.emit_block(step, at, out);
            if rows == 0 {
                break;
            }
            emitted.rows += rows as u32;
            emitted.ingest_ns = emitted.ingest_ns.min(ingest_ns);
            self.pending -= rows as u64;
        }
        self.close(step);
        emitted
    }

    fn emit_block(&mut self, step: &mut Step, at: usize, out: &mut BatchWriter) -> (usize, u64) {
        let number = self.open[at].number;
        let bounds = (self.start_ns(number), self.end_ns(number));
        let first_time = self.open[at].first_time() > 0;
        self.choose(at, BLOCK.min(out.rows_free() as usize));
        if step.shown().is_some() {
            self.save_found(step, at);
        }
        let open = &mut self.open[at];
        open.table.gather(self.found.iter().copied(), &mut step.writer.scratch);
        step.cells.clear();
        step.cells.extend(self.found.iter().map(|entry| open.table.payload(*entry)));
        step.bounds.clear();
        step.bounds.resize(self.found.len(), bounds);
        let (words, arena) = open.table.parts_mut();
        let rows = step.write_block(words, arena, out);
        if rows == 0 {
            self.await_histories(step, at);
            return (0, u64::MAX);
        }
        if step.shown().is_some() {
            open.changed.mark_all(&self.found[..rows], open.table.entry_count());
        }
        if first_time {
            if let Some(last) = self.found[..rows].last() {
                open.early -= last + 1 - open.next - rows as u32;
                open.next = last + 1;
            }
            return (rows, open.ingest_ns);
        }
        if let Some(word) = self.again_word {
            let (words, _) = open.table.parts_mut();
            for (entry, cell) in self.found.iter().zip(&step.cells).take(rows) {
                words[cell + word] = if *entry < open.next { 0 } else { EARLY };
            }
        }
        open.again_next += rows;
        if open.again_next == open.again.len() {
            open.again.clear();
            open.again_next = 0;
        }
        (rows, open.again_ingest_ns)
    }

    /// Puts the next entries of a window that go out into `found`.
    fn choose(&mut self, at: usize, limit: usize) {
        let open = &self.open[at];
        self.found.clear();
        if open.first_time() == 0 {
            self.found.extend(open.again[open.again_next..].iter().take(limit));
        } else if open.early > 0 {
            let words = open.table.words();
            let waits = |entry: &u32| self.again_word.is_none_or(|word| words[open.table.payload(*entry) + word] == 0);
            self.found.extend((open.next..open.table.entry_count()).filter(waits).take(limit));
        } else {
            let end = open.table.entry_count().min(open.next.saturating_add(limit as u32));
            self.found.extend(open.next..end);
        }
    }

    /// Has the histories of the next results brought back, if that is what they wait for.
    fn await_histories(&mut self, step: &mut Step, at: usize) {
        let Some(count) = step.histories_to_ask_for() else { return };
        self.choose(at, count);
        self.open[at].table.gather(self.found.iter().copied(), &mut step.writer.scratch);
        step.ask_for_histories();
    }

    /// Bytes of memory that are no table's.
    pub fn scratch_bytes(&self) -> u64 {
        let lists = self.spare_lists.iter().chain(self.open.iter().map(|open| &open.again));
        let lists: usize = lists.map(|list| list.capacity() * 4).sum();
        let changed = self.spare_changed.iter().chain(self.open.iter().map(|open| &open.changed));
        let changed: u64 = changed.map(Changed::bytes).sum();
        let own = self.assigned.capacity() * 16 + self.open.capacity() * size_of::<Open>();
        let kept = self.spilling.bytes() + self.saved.memory_bytes();
        changed + kept + (lists + own + self.closed.capacity() * 8) as u64
    }
}

/// Notes entries that went out already and change now. In a window that has not fired all rows are of keys whose
/// entries go out early.
fn note_changes(
    open: &mut Open,
    known: u32,
    found: &[u32],
    cells: &[usize],
    again_word: Option<usize>,
    ingest_ns: u64,
) {
    let Some(word) = again_word else { return };
    let gone = open.next.min(known);
    let (words, _) = open.table.parts_mut();
    for (entry, cell) in found.iter().zip(cells) {
        let state = words[cell + word];
        let begins = !open.fired && state == 0;
        if state != WAITING && (*entry < gone || state == EARLY || begins) {
            words[cell + word] = WAITING;
            open.early += u32::from(begins);
            if open.again.is_empty() {
                open.again_ingest_ns = ingest_ns;
            }
            open.again.push(*entry);
        }
    }
}

/// Settles what an arena has grown.
pub fn settle(budget: &mut Budget, before: u64, now: u64, full: bool) -> Result<(), StateFull> {
    budget.settle(before, now);
    if full { Err(budget.full(1)) } else { Ok(()) }
}

fn clamp(time_ns: i128) -> i64 {
    time_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
