//! Older rows become rows of coarser windows, so that a long time takes little room.
//!
//! A level has a size and an age. When a coarse window ended longer ago than that, counted from the newest window of a
//! complete epoch, the rows of a key in it become one row. It lies where the first of them may have lain, so that a key's
//! rows stand in the order of time, whatever their sizes; which size a row has, its window says.
//!
//! A thread of the store's does this in *steps*: it reads some keys or windows without holding anybody up, and then
//! changes them, the book and the place where it goes on in one batch. So a crash between two steps costs nothing, and one
//! within a step changes nothing. A level goes through all keys once for each of its windows (a *pass*), and looks only at
//! the time that is new to it. What it has looked at takes no further rows (see [`Book`](super::book)): those that come are
//! counted as refused, as they would double what is in the coarser row already.
//!
//! What cannot become one row stays as it is: windows of which retention has taken something, rows that lie across the
//! coarser window (after another size was configured), and rows that [`Merge`] does not understand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmill_failpoint::hit;
use rocksdb::{DB, DBRawIterator, WriteBatch};

use super::book::Task;
use super::key::{behind_key, row, stored_key, stored_value};
use super::{Ledger, RetainedRow, options};

/// Rows that a step reads, and those of the window that it stands in then. Few in tests, so that there are many steps.
const STEP_ROWS: usize = if cfg!(test) { 5 } else { 10_000 };
/// Keys that a step looks at, two seeks for each.
const STEP_SEEKS: usize = if cfg!(test) { 4 } else { 2_000 };

/// Memory of a step: the keys of rows that go, twice, and the rows that are made.
pub(super) const MEMORY_BYTES: u64 = 8 << 20;

/// A size of windows, and from which age on rows have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollUpLevel {
    /// A window becomes part of a coarser one when the newest window ended so long after the coarser one; more than rows
    /// may still come late.
    pub after_ns: i64,
    /// Length of the coarser windows, which are aligned to 1970; a multiple of that of the level before.
    pub size_ns: i64,
}

/// Makes one row of those of a coarser window.
pub trait Merge {
    /// Adds a row, in the order of time; `false`: it is no such row, and the window is left as it is.
    fn add(&mut self, row: &[u8]) -> bool;

    /// The row of all that were added; `None`: there is none, and the window is left as it is.
    fn finish(self: Box<Self>, start_ns: i64, end_ns: i64) -> Option<Vec<u8>>;
}

/// How older rows are rolled up.
pub struct RollUp {
    /// The finest first, which is also the youngest.
    pub levels: Vec<RollUpLevel>,
    /// Begins a row.
    pub merge: Box<dyn Fn() -> Box<dyn Merge> + Send + Sync>,
}

/// The last time up to which there are only whole windows.
pub(super) fn whole_windows(time_ns: i64, size_ns: i64) -> i64 {
    let size_ns = size_ns.max(1);
    time_ns.div_euclid(size_ns).saturating_mul(size_ns)
}

/// Goes to the first entry from `stored` on; key and end of the row before it.
fn seek(entries: &mut DBRawIterator<'_>, stored: &[u8]) -> Option<(Vec<u8>, i64)> {
    entries.seek_for_prev(stored);
    if entries.key() == Some(stored) {
        entries.prev();
    }
    let before = entries.item().and_then(|(key, value)| row(key, value)).map(|row| (row.key.to_vec(), row.end_ns));
    if entries.valid() {
        entries.next()
    } else {
        entries.seek(stored)
    }
    before
}

/// The thread's work.
pub(super) struct Roller {
    db: Arc<DB>,
    ledger: Arc<Mutex<Ledger>>,
    roll_up: Arc<RollUp>,
    stop: Arc<AtomicBool>,
}

/// What a step found.
struct Step {
    windows: Vec<Window>,
    /// The stored key from which on the next one looks; `None`: this was the last.
    cursor: Option<Vec<u8>>,
}

/// A coarser window with its row.
struct Window {
    start_ns: i64,
    end_ns: i64,
    key: Vec<u8>,
    value: Vec<u8>,
    parts: Vec<Part>,
}

/// A row that goes.
struct Part {
    key: Vec<u8>,
    end_ns: i64,
    bytes: u64,
}

impl Roller {
    pub fn new(db: Arc<DB>, ledger: Arc<Mutex<Ledger>>, roll_up: Arc<RollUp>, stop: Arc<AtomicBool>) -> Roller {
        Roller { db, ledger, roll_up, stop }
    }

    /// Until there is nothing to do, the store is closed, or it is broken; then the next epoch begins it anew.
    pub fn run(self) {
        while !self.stop.load(Ordering::Relaxed) && self.step() {}
    }

    /// Whether there may be more to do.
    fn step(&self) -> bool {
        let (task, floor_ns) = {
            let mut ledger = self.ledger();
            let task = if ledger.is_broken { None } else { ledger.book.next_task(&self.roll_up.levels) };
            let Some(task) = task else {
                ledger.rolling.iter_mut().for_each(|rolling| rolling.is_idle = true);
                return false;
            };
            (task, ledger.book.floor_ns())
        };
        let found = self.read(&task, floor_ns);
        let mut ledger = self.ledger();
        match found {
            // Meanwhile nothing that it read can have changed, but that retention may have taken.
            Ok(step) if !ledger.is_broken => self.write(&mut ledger, &task, step),
            Ok(_) => {}
            Err(_) => ledger.is_broken = true,
        }
        true
    }

    fn read(&self, task: &Task, floor_ns: i64) -> Result<Step, rocksdb::Error> {
        let (mut windows, mut rows, mut seeks) = (Vec::new(), 0, 0);
        let mut entries = self.db.raw_iterator();
        let mut before = seek(&mut entries, &task.cursor);
        let cursor = loop {
            let Some((stored, value)) = entries.item() else { break None };
            if rows >= STEP_ROWS || seeks >= STEP_SEEKS {
                break Some(stored.to_vec());
            }
            let Some(found) = row(stored, value) else { break None };
            let next = match found.start_ns {
                start_ns if start_ns < task.from_ns => Some(stored_key(found.key, task.from_ns)),
                start_ns if start_ns >= task.to_ns => Some(behind_key(found.key)),
                _ => None,
            };
            if let Some(next) = next {
                before = seek(&mut entries, &next);
                seeks += 1;
                continue;
            }
            let (key, start_ns) = (found.key.to_vec(), whole_windows(found.start_ns, task.size_ns));
            let bounds = (start_ns, start_ns.saturating_add(task.size_ns));
            // What ended at the floor or before is gone, and what reaches into the window does not fit.
            let reached_ns = before.filter(|before| before.0 == key).map_or(i64::MIN, |before| before.1);
            let is_whole = start_ns >= floor_ns.max(reached_ns);
            let (count, end_ns, window) = self.window(&mut entries, &key, bounds, is_whole);
            before = Some((key, end_ns));
            rows += count;
            windows.extend(window);
        };
        entries.status()?;
        Ok(Step { windows, cursor })
    }

    /// Reads the rows of a coarser window, from the first one on, at which `entries` stands: how many there are, when the
    /// last one ends, and what becomes of them; nothing unless the window `is_whole`.
    fn window(
        &self,
        entries: &mut DBRawIterator<'_>,
        key: &[u8],
        (start_ns, end_ns): (i64, i64),
        mut is_whole: bool,
    ) -> (usize, i64, Option<Window>) {
        let mut merge = (self.roll_up.merge)();
        let (mut parts, mut count, mut last_ns, mut is_done) = (Vec::new(), 0, start_ns, false);
        while let Some((stored, value)) = entries.item() {
            let Some(found) = row(stored, value).filter(|found| found.key == key && found.start_ns < end_ns) else {
                break;
            };
            is_done |= (found.start_ns, found.end_ns) == (start_ns, end_ns);
            is_whole = is_whole && found.end_ns <= end_ns && merge.add(found.row);
            if is_whole {
                let bytes = (stored.len() + value.len()) as u64;
                parts.push(Part { key: stored.to_vec(), end_ns: found.end_ns, bytes });
            }
            (count, last_ns) = (count + 1, found.end_ns);
            entries.next();
        }
        if !is_whole || is_done {
            return (count, last_ns, None);
        }
        let window = merge.finish(start_ns, end_ns).map(|made| {
            let made = RetainedRow { key, start_ns, end_ns, row: &made };
            Window { start_ns, end_ns, key: stored_key(key, start_ns), value: stored_value(&made), parts }
        });
        (count, last_ns, window)
    }

    /// Makes what a step found durable.
    fn write(&self, ledger: &mut Ledger, task: &Task, step: Step) {
        let mut book = ledger.book.clone();
        let mut batch = WriteBatch::default();
        let floor_ns = book.floor_ns();
        for window in step.windows.into_iter().filter(|window| window.start_ns >= floor_ns) {
            for part in window.parts {
                book.take(part.end_ns, part.bytes);
                batch.delete(part.key);
            }
            book.put(window.end_ns, (window.key.len() + window.value.len()) as u64, None);
            batch.put(window.key, window.value);
        }
        book.go_on(task, step.cursor);
        // Where it goes on is no change that has to be durable by itself: looking twice at a key changes nothing.
        if !batch.is_empty() {
            let written = book.write(&mut batch).is_ok();
            hit("sink.retained.roll_up");
            if !written || self.db.write_opt(batch, &options::write()).is_err() {
                ledger.is_broken = true;
                return;
            }
            hit("sink.retained.rolled_up");
        }
        ledger.book = book;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
