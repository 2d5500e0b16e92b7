//! What a store knows about all of its rows: how many there are, how old, and which of them are to go.
//!
//! Rows are counted by the time at which their windows end, in slices of event time. When the rows together are too
//! large, the oldest slices go; the newest one stays, however large it is. The book is kept beside the rows and written
//! with them, in one batch.
//!
//! It also knows how far rows are [rolled up](super::roll_up): for each level the time before which that is done, and the
//! key at which it goes on. What is done is never begun anew, and windows that ended at the *horizon* or before take no
//! rows any more, since what would be replaced may be part of a coarser row.

use std::collections::{BTreeMap, BTreeSet};

use rocksdb::{DB, WriteBatch};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::{BOOK, ROW, number, ordered};
use super::roll_up::{RollUpLevel, whole_windows};
use super::{Committed, RetainedLimits};

const HEAD: [u8; 2] = [BOOK, b'h'];
const SLICE: [u8; 2] = [BOOK, b's'];
/// Slices in the time for which rows are retained: so exact is what goes when the rows are too large.
const SLICES: i64 = 4096;
const SLICE_NS_MIN: i64 = 1_000_000_000;

/// Rows and their bytes, keys included, before compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// how many
    pub rows: u64,
    /// how large
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, other: Amount) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Amount) {
        self.rows = self.rows.saturating_sub(other.rows);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    committed: Option<Committed>,
    /// An epoch of which only the beginning is there.
    #[serde(default)]
    begun: Option<Begun>,
    /// The latest end of a window.
    newest_end_ns: Option<i64>,
    /// The latest start of a window.
    newest_start_ns: Option<i64>,
    /// Rows whose windows ended at this time or before are gone. It never falls.
    floor_ns: i64,
    /// Length of a slice; the same for the store's whole life.
    slice_ns: i64,
    /// Bytes of rows that are gone and may still lie in files.
    dead_bytes: u64,
    /// How far rows are rolled up, the finest level first.
    #[serde(default)]
    levels: Vec<Level>,
    /// Windows that ended at this time or before may be rolled up, and take no rows any more. It never falls.
    #[serde(default = "never")]
    horizon_ns: i64,
    /// Rows that were not taken, since they came for such windows.
    #[serde(default)]
    refused_rows: u64,
    /// What its owner says about it.
    about: Value,
}

fn never() -> i64 {
    i64::MIN
}

/// How far rows of one size have been made.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Level {
    size_ns: i64,
    /// Windows that ended at this time or before are done.
    done_ns: i64,
    pass: Option<Pass>,
}

/// A way through all keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pass {
    /// Where `done_ns` is to come.
    to_ns: i64,
    /// The stored key from which on it goes on.
    cursor: Vec<u8>,
}

/// What is to be rolled up next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    /// Which level.
    pub level: usize,
    /// Length of its windows.
    pub size_ns: i64,
    /// Windows that start at this time or later.
    pub from_ns: i64,
    /// Windows that start before this time.
    pub to_ns: i64,
    /// The stored key from which on.
    pub cursor: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Begun {
    epoch: Committed,
    /// So many bytes of its frames.
    bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Book {
    head: Head,
    slices: BTreeMap<i64, Amount>,
    /// Slices that differ from what is stored.
    changed: BTreeSet<i64>,
    live: Amount,
}

impl Book {
    pub fn new(limits: &RetainedLimits, about: &Value) -> Book {
        let slice_ns = (limits.retain_ns / SLICES).max(SLICE_NS_MIN);
        let about = about.clone();
        let head = Head {
            committed: None,
            begun: None,
            newest_end_ns: None,
            newest_start_ns: None,
            floor_ns: i64::MIN,
            slice_ns,
            dead_bytes: 0,
            levels: Vec::new(),
            horizon_ns: never(),
            refused_rows: 0,
            about,
        };
        Book { head, slices: BTreeMap::new(), changed: BTreeSet::new(), live: Amount::default() }
    }

    /// The stored book; `None`: there is none.
    pub fn read(db: &DB) -> Result<Option<Book>, rocksdb::Error> {
        let Some(head) = db.get(HEAD)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()) else { return Ok(None) };
        let (mut slices, mut live) = (BTreeMap::new(), Amount::default());
        let mut entries = db.raw_iterator();
        entries.seek(SLICE);
        while let Some((key, value)) = entries.item() {
            let Some(index) = key.strip_prefix(&SLICE).and_then(|key| key.try_into().ok()) else { break };
            let amount: Amount = serde_json::from_slice(value).unwrap_or_default();
            live.add(amount);
            slices.insert(number(index), amount);
            entries.next();
        }
        entries.status()?;
        Ok(Some(Book { head, slices, changed: BTreeSet::new(), live }))
    }

    /// Only the floor of the stored book, and what the owner says.
    pub fn read_head(db: &DB) -> Result<Option<(i64, Value)>, rocksdb::Error> {
        let head = db.get(HEAD)?.and_then(|bytes| serde_json::from_slice::<Head>(&bytes).ok());
        Ok(head.map(|head| (head.floor_ns, head.about)))
    }

    /// Adds what changed to a batch.
    pub fn write(&mut self, batch: &mut WriteBatch) -> Result<(), serde_json::Error> {
        batch.put(HEAD, serde_json::to_vec(&self.head)?);
        for index in std::mem::take(&mut self.changed) {
            let key = [&SLICE[..], &ordered(index)].concat();
            match self.slices.get(&index) {
                Some(amount) => batch.put(key, serde_json::to_vec(amount)?),
                None => batch.delete(key),
            }
        }
        Ok(())
    }

    pub fn committed(&self) -> Option<&Committed> {
        self.head.committed.as_ref()
    }

    /// Bytes of this epoch's frames that are there already.
    pub fn begun(&self, epoch: &Committed) -> u64 {
        self.head.begun.as_ref().filter(|begun| begun.epoch == *epoch).map_or(0, |begun| begun.bytes)
    }

    /// So many bytes of this epoch's frames are there; `None`: all of them.
    pub fn note(&mut self, epoch: &Committed, bytes: Option<u64>) {
        self.head.begun = bytes.map(|bytes| Begun { epoch: epoch.clone(), bytes });
        if bytes.is_none() {
            self.head.committed = Some(epoch.clone());
        }
    }

    pub fn set_about(&mut self, about: &Value) {
        self.head.about = about.clone();
    }

    pub fn live(&self) -> Amount {
        self.live
    }

    pub fn floor_ns(&self) -> i64 {
        self.head.floor_ns
    }

    pub fn newest_end_ns(&self) -> Option<i64> {
        self.head.newest_end_ns
    }

    pub fn dead_bytes(&self) -> u64 {
        self.head.dead_bytes
    }

    /// So many dead bytes are in no file any more.
    pub fn buried(&mut self, bytes: u64) {
        self.head.dead_bytes = self.head.dead_bytes.saturating_sub(bytes);
    }

    /// A row of this age is there, or may come.
    pub fn is_live(&self, end_ns: i64) -> bool {
        end_ns > self.head.floor_ns
    }

    /// The latest start of a window; there is no row of a later one.
    pub fn newest_start_ns(&self) -> Option<i64> {
        self.head.newest_start_ns
    }

    /// Windows up to this one have come: what is too old by then goes.
    pub fn advance(&mut self, start_ns: i64, end_ns: i64, retain_ns: i64) {
        let newest = self.head.newest_end_ns.map_or(end_ns, |newest| newest.max(end_ns));
        self.head.newest_end_ns = Some(newest);
        self.head.newest_start_ns = self.head.newest_start_ns.max(Some(start_ns));
        self.raise(newest.saturating_sub(retain_ns));
    }

    /// The row that takes the place of `old`, if there was one.
    pub fn put(&mut self, end_ns: i64, bytes: u64, old: Option<(i64, u64)>) {
        if let Some((old_end_ns, old_bytes)) = old {
            let index = self.slice(old_end_ns);
            let amount = Amount { rows: 1, bytes: old_bytes };
            if let Some(slice) = self.slices.get_mut(&index) {
                slice.subtract(amount);
                self.live.subtract(amount);
                self.changed.insert(index);
            }
        }
        let amount = Amount { rows: 1, bytes };
        let index = self.slice(end_ns);
        self.slices.entry(index).or_default().add(amount);
        self.live.add(amount);
        self.changed.insert(index);
    }

    /// A row that is there no more, as it is part of a coarser one.
    pub fn take(&mut self, end_ns: i64, bytes: u64) {
        let index = self.slice(end_ns);
        let amount = Amount { rows: 1, bytes };
        if let Some(slice) = self.slices.get_mut(&index) {
            slice.subtract(amount);
            self.live.subtract(amount);
            self.changed.insert(index);
            self.head.dead_bytes += bytes;
        }
    }

    /// Windows that ended at this time or before may be rolled up; `None`: nothing is.
    pub fn horizon_ns(&self) -> Option<i64> {
        Some(self.head.horizon_ns).filter(|horizon_ns| *horizon_ns > never())
    }

    /// A row of this age may be part of a coarser one.
    pub fn is_rolled_up(&self, end_ns: i64) -> bool {
        end_ns <= self.head.horizon_ns
    }

    /// A row that came for a window that is rolled up.
    pub fn refuse(&mut self) {
        self.head.refused_rows += 1;
    }

    pub fn refused_rows(&self) -> u64 {
        self.head.refused_rows
    }

    /// From now on rows are rolled up to `levels`, those of a known size from where they are.
    pub fn set_levels(&mut self, levels: &[RollUpLevel]) {
        let known = std::mem::take(&mut self.head.levels);
        let level = |level: &RollUpLevel| {
            let same = known.iter().find(|known| known.size_ns == level.size_ns).cloned();
            same.unwrap_or(Level { size_ns: level.size_ns, done_ns: never(), pass: None })
        };
        self.head.levels = levels.iter().map(level).collect();
    }

    /// What is to be rolled up next, the finest first; `None`: nothing for now.
    ///
    /// What later epochs can change ended later than the newest window of a complete epoch minus the lateness that
    /// windows allow, which is less than `after_ns`.
    pub fn next_task(&mut self, levels: &[RollUpLevel]) -> Option<Task> {
        let newest_end_ns = self.head.newest_end_ns.filter(|_| self.head.begun.is_none())?;
        // A level takes what the finer one has made.
        let mut limit_ns = i64::MAX;
        for (index, (level, wanted)) in self.head.levels.iter_mut().zip(levels).enumerate() {
            let to_ns = whole_windows(newest_end_ns.saturating_sub(wanted.after_ns).min(limit_ns), level.size_ns);
            if level.pass.is_none() && to_ns > level.done_ns {
                level.pass = Some(Pass { to_ns, cursor: vec![ROW] });
                self.head.horizon_ns = self.head.horizon_ns.max(to_ns);
            }
            if let Some(Pass { to_ns, cursor }) = level.pass.clone() {
                return Some(Task { level: index, size_ns: level.size_ns, from_ns: level.done_ns, to_ns, cursor });
            }
            limit_ns = level.done_ns;
        }
        None
    }

    /// A task has come to `cursor`; `None`: to its end.
    pub fn go_on(&mut self, task: &Task, cursor: Option<Vec<u8>>) {
        let Some(level) = self.head.levels.get_mut(task.level) else { return };
        match cursor {
            Some(cursor) => level.pass = Some(Pass { to_ns: task.to_ns, cursor }),
            None => (level.done_ns, level.pass) = (task.to_ns, None),
        }
    }

    /// Lets the oldest rows go until no more than `bytes_max` are left, or only those of the newest slice.
    pub fn fit(&mut self, bytes_max: u64) {
        while self.live.bytes > bytes_max && self.slices.len() > 1 {
            let Some((&oldest, _)) = self.slices.first_key_value() else { break };
            self.raise(self.last_of(oldest));
        }
    }

    fn raise(&mut self, floor_ns: i64) {
        self.head.floor_ns = self.head.floor_ns.max(floor_ns);
        while let Some((&oldest, &amount)) = self.slices.first_key_value() {
            // Of a slice that is cut by the floor all rows count until the last is gone.
            if self.last_of(oldest) > self.head.floor_ns {
                break;
            }
            self.slices.remove(&oldest);
            self.changed.insert(oldest);
            self.live.subtract(amount);
            self.head.dead_bytes += amount.bytes;
        }
    }

    /// Slices include their end, so that those as long as a window go with it.
    fn slice(&self, end_ns: i64) -> i64 {
        end_ns.saturating_sub(1).div_euclid(self.head.slice_ns.max(1))
    }

    /// The last nanosecond of a slice.
    fn last_of(&self, slice: i64) -> i64 {
        slice.saturating_add(1).saturating_mul(self.head.slice_ns.max(1))
    }
}
