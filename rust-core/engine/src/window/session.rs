//! Session windows: a key's rows with less than the gap between neighbours.
//!
//! A session is from its first row to its last row plus the gap. A row belongs to a session if it is less than the gap
//! away from one of its rows; a row that comes between two sessions merges them. A session fires when the watermark
//! reaches its end, in the order of ends, then of first arrival. While late rows are allowed it stays: a late row makes
//! it fire again, and one that moves its end beyond the watermark makes it fire anew when that is reached. A row is
//! late if its own session would be over and it belongs to none that is not.
//!
//! When sessions merge, the values that a list had collected stand in the order of the sessions; what an absorbed
//! session gave to the rolling statistics stays there.

mod spill;
mod state;

use std::collections::{BTreeMap, VecDeque};

use ringmill_wire::BatchWriter;

use super::accumulate::{Block, apply, merge, release};
use super::aligned::settle;
use super::arena::{Arena, NONE};
use super::budget::Budget;
use super::changed::Changed;
use super::error::StateFull;
use super::key::Keys;
use super::key_table::{BLOCK, EntryLayout, KeyTable, prefetch};
use super::operator::Emitted;
use super::step::{Rows, Step};
use spill::Spilling;

// Words of a session before its cell.
/// Time of the first row.
const START: usize = 0;
/// Time of the last row.
const LAST: usize = 1;
/// Number of the row that came first.
const SEQUENCE: usize = 2;
/// `next session of the key << 32 | entry of the key`
const LINK: usize = 3;
/// `references from timers and from the queue << 32 | flags`
const STATE: usize = 4;
/// When a timer is due; [`IDLE`]: none is set.
const TIMER: usize = 5;
/// Ingest of the rows that made it fire.
const INGEST: usize = 6;
const CELL: usize = 7;

const FIRED: u64 = 1;
const PENDING: u64 = 2;
/// Released; the slot is free when nothing refers to it any more.
const GONE: u64 = 4;
/// In the block that goes out.
const TAKEN: u64 = 8;
/// It was written out, by the number of the row that came first.
const STORED: u64 = 16;
const REFERENCE: u64 = 1 << 32;
const IDLE: u64 = i64::MAX as u64;

/// Sessions of all keys.
#[derive(Debug)]
pub struct SessionWindows {
    gap_ns: i64,
    /// Payload: the key's first session.
    keys: KeyTable,
    sessions: Vec<u64>,
    stride: usize,
    free: u32,
    arena: Arena,
    /// Sessions that may fire or be over in each span of `grain_ns`.
    timers: BTreeMap<i64, Vec<u32>>,
    grain_ns: i64,
    spare_lists: Vec<Vec<u32>>,
    /// Sessions that go out, in order.
    queue: VecDeque<u32>,
    pending: u64,
    /// A row took a session out of the queue again.
    withdrew: bool,
    due: Vec<u32>,
    found: Vec<u32>,
    rows: Vec<u32>,
    block_rows: Vec<u32>,
    block_cells: Vec<usize>,
    changed: Changed,
    /// What was written out and is no more.
    gone: state::Gone,
    word_bytes: usize,
    spilling: Spilling,
}

impl SessionWindows {
    pub fn new(gap_ns: i64, step: &Step) -> Self {
        Self {
            gap_ns,
            keys: KeyTable::new(EntryLayout::new(step.keys.are_words(), 1)),
            sessions: Vec::new(),
            stride: CELL + step.layout.initial.len(),
            free: NONE,
            arena: Arena::new(),
            timers: BTreeMap::new(),
            grain_ns: (gap_ns / 256).max(step.unit.nanoseconds()),
            spare_lists: Vec::new(),
            queue: VecDeque::new(),
            pending: 0,
            withdrew: false,
            due: Vec::new(),
            found: Vec::with_capacity(BLOCK),
            rows: Vec::with_capacity(BLOCK),
            block_rows: Vec::with_capacity(BLOCK),
            block_cells: Vec::with_capacity(BLOCK),
            changed: Changed::default(),
            gone: state::Gone::default(),
            word_bytes: step.keys.word_bytes(),
            spilling: Spilling::default(),
        }
    }

    /// Begins to note changes; there must be no session yet.
    pub fn track_changes(&mut self) {
        self.changed = Changed::new(true);
    }

    /// Whether sessions have to go out, or have to come back to go out.
    pub fn has_output(&self, step: &Step) -> bool {
        self.pending > 0 || self.spilling.is_firing(step.watermark_ns)
    }

    #[inline]
    fn word(&mut self, session: u32, word: usize) -> &mut u64 {
        &mut self.sessions[session as usize * self.stride + word]
    }

    #[inline]
    fn get(&self, session: u32, word: usize) -> u64 {
        self.sessions[session as usize * self.stride + word]
    }

    fn end_ns(&self, session: u32) -> i64 {
        (self.get(session, LAST) as i64).saturating_add(self.gap_ns)
    }

    /// When the last session ends that is there, or that a row of this time makes (`i64::MIN`: none).
    pub fn last_end_ns(&self, newest_ns: i64) -> i64 {
        let made = (newest_ns > i64::MIN).then(|| newest_ns.saturating_add(self.gap_ns));
        let there = (0..(self.sessions.len() / self.stride) as u32).filter(|session| !self.has(*session, GONE));
        let there = there.map(|session| self.end_ns(session)).max();
        made.max(there).max(self.spilling.last_end_ns()).unwrap_or(i64::MIN)
    }

    fn has(&self, session: u32, flag: u64) -> bool {
        self.get(session, STATE) & flag != 0
    }

    fn next(&self, session: u32) -> u32 {
        (self.get(session, LINK) >> 32) as u32
    }

    fn head(&self, key: u32) -> u32 {
        self.keys.words()[self.keys.payload(key)] as u32
    }

    fn set_head(&mut self, key: u32, session: u32) {
        let at = self.keys.payload(key);
        self.keys.parts_mut().0[at] = u64::from(session);
    }

    /// Takes the rows of a block; gives how many, fewer if `late` is full.
    pub fn push(&mut self, step: &mut Step, block: &Rows<'_>, late: &mut BatchWriter) -> Result<usize, StateFull> {
        let (count, times) = (block.count(), block.times);
        self.block_rows.clear();
        self.block_cells.clear();
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let mut taken = count;
        if step.is_over(times.range().0.saturating_add(self.gap_ns)) {
            for row in 0..count {
                let time_ns = times.get(row);
                if step.is_over(time_ns.saturating_add(self.gap_ns)) && !self.belongs(step, &block.keys, row, time_ns) {
                    if late.rows_free() == 0 || late.copy_row(block.view, block.first + row).is_err() {
                        taken = row;
                        break;
                    }
                    step.late_rows += 1;
                    continue;
                }
                self.place_all(step, block, &[row as u32])?;
            }
        } else {
            rows.extend(0..count as u32);
            self.place_all(step, block, &rows)?;
        }
        self.rows = rows;
        self.flush(step, block)?;
        if std::mem::take(&mut self.withdrew) || self.spilling.is_firing(step.watermark_ns) {
            self.advance(step);
        }
        Ok(taken)
    }

    /// Whether a session that is not over is near enough.
    fn belongs(&self, step: &Step, keys: &Keys<'_>, row: usize, time_ns: i64) -> bool {
        let Some(key) = self.keys.find(keys, row) else { return false };
        let mut session = self.head(key);
        while session != NONE {
            if self.joins(step, session, time_ns) {
                return true;
            }
            session = self.next(session);
        }
        false
    }

    fn joins(&self, step: &Step, session: u32, time_ns: i64) -> bool {
        let start = self.get(session, START) as i64;
        let end = self.end_ns(session);
        time_ns < end && time_ns.saturating_add(self.gap_ns) > start && !step.is_over(end)
    }

    fn place_all(&mut self, step: &mut Step, block: &Rows<'_>, rows: &[u32]) -> Result<(), StateFull> {
        let mut found = std::mem::take(&mut self.found);
        self.keys.resolve(&block.keys, rows, &[u64::from(NONE)], &mut step.budget, &mut found)?;
        for key in &found {
            prefetch(&self.sessions, self.head(*key) as usize * self.stride);
            prefetch(&self.sessions, self.head(*key) as usize * self.stride + CELL);
        }
        for (row, key) in rows.iter().zip(&found) {
            self.place(step, block, *row, *key, block.times.get(*row as usize))?;
        }
        self.found = found;
        Ok(())
    }

    /// Finds or makes the row's session, and notes the row for it.
    fn place(&mut self, step: &mut Step, block: &Rows<'_>, row: u32, key: u32, time_ns: i64) -> Result<(), StateFull> {
        let mut home = NONE;
        let mut session = self.head(key);
        while session != NONE {
            let next = self.next(session);
            if self.joins(step, session, time_ns) {
                home = if home == NONE { session } else { self.merge(step, block, home, session)? };
            }
            session = next;
        }
        if home == NONE {
            home = self.open(step, row, key, time_ns)?;
        }
        let start = self.word(home, START);
        *start = (*start as i64).min(time_ns) as u64;
        let last = self.word(home, LAST);
        *last = (*last as i64).max(time_ns) as u64;
        self.changed.mark(home);
        self.review(step, home, block.ingest_ns)?;
        self.block_rows.push(row);
        self.block_cells.push(home as usize * self.stride + CELL);
        Ok(())
    }

    /// After a change: whether the session has to fire, now or later.
    fn review(&mut self, step: &mut Step, session: u32, ingest_ns: u64) -> Result<(), StateFull> {
        let end = self.end_ns(session);
        if end > step.passed_ns {
            if self.has(session, PENDING) {
                self.pending -= 1;
                self.withdrew = true;
            }
            *self.word(session, STATE) &= !(FIRED | PENDING);
            return self.set_timer(step, session, end);
        }
        if !self.has(session, PENDING) {
            *self.word(session, INGEST) = ingest_ns;
            self.enqueue(session);
        }
        self.set_timer(step, session, end.saturating_add(step.lateness_ns))
    }

    fn enqueue(&mut self, session: u32) {
        let state = self.word(session, STATE);
        *state = (*state | FIRED | PENDING) + REFERENCE;
        self.pending += 1;
        self.queue.push_back(session);
    }

    /// Makes sure that a timer is due by then.
    fn set_timer(&mut self, step: &mut Step, session: u32, due_ns: i64) -> Result<(), StateFull> {
        let due_ns = due_ns.min(i64::MAX - 1);
        if self.get(session, TIMER) as i64 <= due_ns {
            return Ok(());
        }
        let spare = &mut self.spare_lists;
        let list =
            self.timers.entry(due_ns.div_euclid(self.grain_ns)).or_insert_with(|| spare.pop().unwrap_or_default());
        let before = list.capacity() as u64 * 4;
        list.push(session);
        let now = list.capacity() as u64 * 4;
        if now > before {
            step.budget.take(now - before)?;
        }
        *self.word(session, TIMER) = due_ns as u64;
        *self.word(session, STATE) += REFERENCE;
        Ok(())
    }

    fn open(&mut self, step: &mut Step, row: u32, key: u32, time_ns: i64) -> Result<u32, StateFull> {
        let session = self.new_slot(&mut step.budget)?;
        let at = session as usize * self.stride;
        let link = u64::from(self.head(key)) << 32 | u64::from(key);
        let words = &mut self.sessions[at..at + self.stride];
        words[..CELL].copy_from_slice(&[
            time_ns as u64,
            time_ns as u64,
            step.sequence + u64::from(row),
            link,
            0,
            IDLE,
            0,
        ]);
        words[CELL..].copy_from_slice(&step.layout.initial);
        self.set_head(key, session);
        Ok(session)
    }

    fn new_slot(&mut self, budget: &mut Budget) -> Result<u32, StateFull> {
        if self.free != NONE {
            let session = self.free;
            self.free = self.get(session, LINK) as u32;
            return Ok(session);
        }
        let words = self.sessions.len() + self.stride;
        if words > self.sessions.capacity() {
            let capacity = self.sessions.capacity();
            let mut growth = words.max(capacity * 2) - capacity;
            if growth as u64 * 8 > budget.remaining() {
                growth = words.max(capacity + capacity / 8) - capacity;
            }
            budget.take(growth as u64 * 8)?;
            self.sessions.reserve_exact(capacity + growth - self.sessions.len());
        }
        self.sessions.resize(words, 0);
        Ok((words / self.stride) as u32 - 1)
    }

    /// Joins two sessions of a key; gives the one that remains.
    fn merge(&mut self, step: &mut Step, block: &Rows<'_>, one: u32, other: u32) -> Result<u32, StateFull> {
        // Rows noted so far must be in the cells.
        self.flush(step, block)?;
        let is_first = (self.get(one, START) as i64) < self.get(other, START) as i64;
        let (to, from) = if is_first { (one, other) } else { (other, one) };
        self.forget_stored(to);
        let last = (self.get(to, LAST) as i64).max(self.get(from, LAST) as i64);
        *self.word(to, LAST) = last as u64;
        *self.word(to, SEQUENCE) = self.get(to, SEQUENCE).min(self.get(from, SEQUENCE));
        let cells = (to as usize * self.stride + CELL, from as usize * self.stride + CELL);
        merge(&step.layout, &mut self.sessions, cells.0, cells.1, &mut self.arena);
        self.release(step, from);
        Ok(to)
    }

    /// Takes a session off its key and frees what it holds.
    fn release(&mut self, step: &Step, session: u32) {
        self.forget_stored(session);
        let key = self.get(session, LINK) as u32;
        let next = self.next(session);
        let head = self.head(key);
        if head == session {
            self.set_head(key, next);
            if next == NONE {
                self.keys.remove(key);
            }
        } else {
            let mut before = head;
            while self.next(before) != session {
                before = self.next(before);
            }
            *self.word(before, LINK) = u64::from(next) << 32 | u64::from(key);
        }
        if self.has(session, PENDING) {
            self.pending -= 1;
        }
        release(&step.layout, &self.sessions, session as usize * self.stride + CELL, &mut self.arena);
        let state = self.word(session, STATE);
        *state = (*state | GONE) & !PENDING;
        self.free_if_forgotten(session);
    }

    fn free_if_forgotten(&mut self, session: u32) {
        if self.get(session, STATE) < REFERENCE && self.has(session, GONE) {
            *self.word(session, LINK) = u64::from(self.free);
            self.free = session;
        }
    }

    fn forget_reference(&mut self, session: u32) {
        *self.word(session, STATE) -= REFERENCE;
        self.free_if_forgotten(session);
    }

    /// Brings the rows noted so far into their cells.
    fn flush(&mut self, step: &mut Step, block: &Rows<'_>) -> Result<(), StateFull> {
        if self.block_rows.is_empty() {
            return Ok(());
        }
        let before = self.arena.bytes();
        self.arena.limit_growth(&step.budget);
        let rows = Block {
            view: block.view,
            first: block.first,
            lanes: &step.lanes,
            sequence: step.sequence,
            rows: &self.block_rows,
            cells: &self.block_cells,
        };
        let applied = apply(&step.layout, &rows, &mut self.sessions, &mut self.arena);
        self.block_rows.clear();
        self.block_cells.clear();
        settle(&mut step.budget, before, self.arena.bytes(), applied.is_err())
    }

    /// Fires what the watermark has reached: one span of timers after the other, until something has to go out.
    pub fn advance(&mut self, step: &mut Step) {
        let last = step.watermark_ns.div_euclid(self.grain_ns);
        let mut is_done = false;
        while self.pending == 0 {
            // Whoever is still in the queue was withdrawn from it and would keep its place there.
            while let Some(session) = self.queue.pop_front() {
                self.forget_reference(session);
            }
            let first = self.timers.first_key_value().map(|(span, _)| *span);
            let span = first.filter(|span| *span <= last && !is_done);
            if self.awaits_span(step, span.map_or(i64::MAX, |span| span.saturating_mul(self.grain_ns))) {
                break;
            }
            let Some(span) = span else { break };
            is_done = span == last;
            self.run_timers(step, span);
        }
    }

    fn run_timers(&mut self, step: &mut Step, span: i64) {
        let Some(mut list) = self.timers.remove(&span) else { return };
        let mut due = std::mem::take(&mut self.due);
        due.clear();
        // Timers of this span that are not due yet stay; what others have to be set to is beyond this watermark.
        list.retain(|&session| {
            let timer = self.get(session, TIMER) as i64;
            let is_current = !self.has(session, GONE) && timer.div_euclid(self.grain_ns) == span && timer != i64::MAX;
            if is_current && timer > step.watermark_ns {
                return true;
            }
            *self.word(session, STATE) -= REFERENCE;
            if is_current {
                *self.word(session, TIMER) = IDLE;
                due.push(session);
            } else {
                self.free_if_forgotten(session);
            }
            false
        });
        if list.is_empty() {
            self.spare_lists.push(list);
        } else {
            self.timers.insert(span, list);
        }
        self.settle_due(step, span, &mut due);
        let order = |session: &u32| (self.end_ns(*session), self.get(*session, SEQUENCE));
        // Rows of different shards may have the same number.
        let hash = |session: &u32| self.keys.hash(self.get(*session, LINK) as u32);
        due.sort_unstable_by(|a, b| order(a).cmp(&order(b)).then_with(|| hash(a).cmp(&hash(b))));
        for &session in &due {
            *self.word(session, INGEST) = step.ingest_ns;
            self.enqueue(session);
        }
        self.due = due;
    }

    /// Leaves those in `due` that have to fire; gives the others new timers or releases them. A session that has grown
    /// since its timer was set waits for the span of its end, so that all fire in order.
    fn settle_due(&mut self, step: &mut Step, span: i64, due: &mut Vec<u32>) {
        due.retain(|&session| {
            let end = self.end_ns(session);
            let over = end.saturating_add(step.lateness_ns);
            let fired = self.has(session, FIRED);
            let fires = !fired && end.min(i64::MAX - 1).div_euclid(self.grain_ns) <= span && end <= step.watermark_ns;
            if !fired && !fires {
                self.set_timer_anyway(step, session, end);
            } else if over > step.watermark_ns {
                self.set_timer_anyway(step, session, over);
            } else if !fires && !self.has(session, PENDING) {
                self.release(step, session);
            }
            fires
        });
    }

    /// A timer's list may outgrow the bound by a few bytes when the watermark moves; the next push tells.
    fn set_timer_anyway(&mut self, step: &mut Step, session: u32, due_ns: i64) {
        let _ = self.set_timer(step, session, due_ns);
    }

    /// Writes results until `out` is full or there are none.
    pub fn emit(&mut self, step: &mut Step, out: &mut BatchWriter) -> Emitted {
        let mut emitted = Emitted { rows: 0, ingest_ns: u64::MAX };
        while self.pending > 0 && out.rows_free() > 0 {
            self.take_block(BLOCK.min(out.rows_free() as usize));
            step.cells.clear();
            step.cells.extend(self.found.iter().map(|session| *session as usize * self.stride + CELL));
            step.bounds.clear();
            step.bounds
                .extend(self.found.iter().map(|session| (self.get(*session, START) as i64, self.end_ns(*session))));
            let keys = self.found.iter().map(|session| self.get(*session, LINK) as u32);
            self.keys.gather(keys, &mut step.writer.scratch);
            let rows = step.write_block(&mut self.sessions, &self.arena, out);
            for at in (rows..self.found.len()).rev() {
                let session = self.found[at];
                *self.word(session, STATE) &= !TAKEN;
                self.queue.push_front(session);
            }
            for at in 0..rows {
                let session = self.found[at];
                emitted.ingest_ns = emitted.ingest_ns.min(self.get(session, INGEST));
                *self.word(session, STATE) &= !(PENDING | TAKEN);
                if step.shown().is_some() {
                    self.changed.mark(session);
                }
                self.pending -= 1;
                if step.is_over(self.end_ns(session)) {
                    self.release(step, session);
                }
                self.forget_reference(session);
            }
            emitted.rows += rows as u32;
            if rows == 0 {
                self.await_histories(step);
                break;
            }
            self.advance(step);
        }
        emitted
    }

    /// Has the histories of the next results brought back, if that is what they wait for.
    fn await_histories(&mut self, step: &mut Step) {
        let Some(count) = step.histories_to_ask_for() else { return };
        let pending = self.queue.iter().filter(|session| self.has(**session, PENDING)).take(count);
        self.keys.gather(pending.map(|session| self.get(*session, LINK) as u32), &mut step.writer.scratch);
        step.ask_for_histories();
    }

    /// Takes sessions off the queue, at most `limit`.
    fn take_block(&mut self, limit: usize) {
        self.found.clear();
        while self.found.len() < limit {
            let Some(session) = self.queue.pop_front() else { break };
            if self.has(session, PENDING) && !self.has(session, TAKEN) {
                *self.word(session, STATE) |= TAKEN;
                self.found.push(session);
            } else {
                self.forget_reference(session);
            }
        }
    }

    /// Bytes of memory that are no table's.
    pub fn scratch_bytes(&self) -> u64 {
        ((self.queue.capacity() + self.due.capacity()) * 4) as u64
            + self.changed.bytes()
            + self.gone.bytes()
            + self.spilling.bytes()
    }
}
