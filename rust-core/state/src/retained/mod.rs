//! Retained results: the rows of closed windows, kept for a while and read by key and time.
//!
//! One RocksDB for each step. The rows of an epoch are added in blocks. A block's rows, how far the epoch has come, and the
//! [book](book) are one batch, so nothing counts twice: an epoch that was broken off goes on where it stood, and one that
//! is there is not added again. An epoch is added only after it was committed, so what a reader sees of one that has not
//! come to its end is never taken back. A later row of the same key and window start takes the place of the earlier.
//!
//! Rows go by event time: when the newest window that was ever retained ended `retain` after theirs, or when the rows
//! together are larger than `bytes_max`, the oldest first. Either raises the *floor*: what ended at the floor or before
//! is not shown any more, and the next compaction leaves it out. When a fifth of what is there is dead, a compaction is
//! begun; nothing is ever searched for.
//!
//! Older rows can be [rolled up](roll_up) to coarser windows, by a thread beside the one that applies epochs.
//!
//! Nothing is known here about columns: a key is what [`KeyPart`]s make of it, a row is bytes.

mod book;
mod frame;
mod key;
mod options;
mod reader;
mod roll_up;
#[cfg(test)]
mod roll_up_tests;
#[cfg(test)]
mod tests;

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use ringmill_failpoint::hit;
use rocksdb::{DB, WriteBatch};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::disk;
use crate::error::StateError;
use book::Book;
use frame::Blocks;
use roll_up::Roller;

pub use book::Amount;
pub use key::KeyPart;
pub use reader::{RetainedRange, RetainedReader};
pub use roll_up::{Merge, RollUp, RollUpLevel};

/// Dead bytes that are worth a compaction, however little lives.
const DEAD_BYTES_MIN: u64 = 8 << 20;
/// So many times the dead bytes may live without a compaction.
const LIVE_PER_DEAD: u64 = 4;

/// Bytes of an epoch that are added at once: as fast as larger ones. Few in tests, so that epochs have several.
const BLOCK_BYTES: usize = if cfg!(test) { 256 } else { 4 << 20 };
/// Memory of a block on its way: as it was read, sorted, and as a batch.
const BLOCK_MEMORY_BYTES: u64 = 4 * BLOCK_BYTES as u64;

/// One row with where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedRow<'a> {
    /// Its key columns, as [`KeyPart::write`] makes them.
    pub key: &'a [u8],
    /// Start of its window.
    pub start_ns: i64,
    /// End of its window.
    pub end_ns: i64,
    /// The row itself.
    pub row: &'a [u8],
}

/// How long and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// A row goes when the newest window ended so long after its own.
    pub retain_ns: i64,
    /// Most bytes of rows and their keys, before compression; `None`: whatever comes in that time.
    pub bytes_max: Option<u64>,
}

/// The epoch that a store holds, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The output that wrote it; another one for an output that began anew.
    pub writer: String,
    /// The last epoch with rows.
    pub epoch: u64,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedFigures {
    /// Rows that are shown. Those of a slice of time that has partly gone count until all of it has.
    pub live: Amount,
    /// Windows that ended at this time or before are gone.
    pub floor_ns: i64,
    /// The latest end of a window; `None`: there was none.
    pub newest_end_ns: Option<i64>,
    /// Windows that ended at this time or before may be rolled up, and take no rows any more; `None`: nothing is.
    pub rolled_up_ns: Option<i64>,
    /// Rows that were left out, as they came for such windows; ever.
    pub refused_rows: u64,
}

/// The retained rows of one step, for the process that owns the state folder. One thread applies epochs; any may read.
pub struct RetainedStore {
    path: PathBuf,
    limits: RetainedLimits,
    about: Value,
    /// The book's, for compactions and readers.
    floor: Arc<AtomicI64>,
    /// `None` after an opening that failed.
    db: RwLock<Option<Arc<DB>>>,
    roll_up: Option<Arc<RollUp>>,
    /// Shared with the thread that rolls up.
    ledger: Arc<Mutex<Ledger>>,
}

struct Ledger {
    book: Book,
    /// A write failed: the store has to be opened again.
    is_broken: bool,
    compaction: Option<Compaction>,
    rolling: Option<Rolling>,
}

struct Rolling {
    thread: JoinHandle<()>,
    /// Asks it to end before its work does.
    stop: Arc<AtomicBool>,
    /// It has seen that there is nothing to do, and ends.
    is_idle: bool,
}

struct Compaction {
    thread: JoinHandle<()>,
    /// Dead bytes when it began.
    dead_bytes: u64,
}

impl RetainedStore {
    /// Opens the store in `path` as it is, or makes an empty one. `about` is for those who read it.
    ///
    /// # Errors
    /// What RocksDB or the file system says.
    pub fn open(path: &Path, limits: RetainedLimits, about: &Value) -> Result<RetainedStore, StateError> {
        // One after the other, so that the name of each is durable.
        path.parent().map_or(Ok(()), disk::private_folder)?;
        disk::private_folder(path)?;
        let floor = Arc::new(AtomicI64::new(i64::MIN));
        let (db, mut book) = open(path, &limits, about, &floor)?;
        book.set_about(about);
        let ledger = Ledger { book, is_broken: false, compaction: None, rolling: None };
        let (ledger, about) = (Arc::new(Mutex::new(ledger)), about.clone());
        let db = RwLock::new(Some(Arc::new(db)));
        Ok(RetainedStore { path: path.to_owned(), limits, about, floor, db, roll_up: None, ledger })
    }

    /// From the next epoch on, rolls older rows up.
    #[must_use]
    pub fn rolling_up(mut self, roll_up: RollUp) -> RetainedStore {
        self.ledger().book.set_levels(&roll_up.levels);
        self.roll_up = Some(Arc::new(roll_up));
        self
    }

    /// Removes what is in `path`, and opens an empty store there.
    ///
    /// # Errors
    /// What RocksDB or the file system says.
    pub fn begin(path: &Path, limits: RetainedLimits, about: &Value) -> Result<RetainedStore, StateError> {
        hit("sink.retained.begin");
        disk::remove_folder(path)?;
        hit("sink.retained.removed");
        RetainedStore::open(path, limits, about)
    }

    /// The last epoch with rows; `None`: there was none.
    #[must_use]
    pub fn committed(&self) -> Option<Committed> {
        self.ledger().book.committed().cloned()
    }

    /// What is there.
    #[must_use]
    pub fn figures(&self) -> RetainedFigures {
        let book = &self.ledger().book;
        RetainedFigures {
            live: book.live(),
            floor_ns: book.floor_ns(),
            newest_end_ns: book.newest_end_ns(),
            rolled_up_ns: book.horizon_ns(),
            refused_rows: book.refused_rows(),
        }
    }

    /// Looks at the rows as they are now.
    ///
    /// # Errors
    /// The store is just being opened again after an error.
    pub fn reader(&self) -> Result<RetainedReader, StateError> {
        let db = self.db()?;
        Ok(RetainedReader::within(db, self.floor.load(Ordering::Relaxed), self.about.clone(), self.path.clone()))
    }

    /// Memory that a store takes, at most, unless rows are longer than a block; `rolls_up`: one that rolls rows up.
    #[must_use]
    pub const fn memory_bytes(rolls_up: bool) -> u64 {
        options::MEMORY_BYTES + BLOCK_MEMORY_BYTES + if rolls_up { roll_up::MEMORY_BYTES } else { 0 }
    }

    /// Adds the rows of a committed epoch, made by [`RetainedRow::write_frame`], unless they are there. Durable when it
    /// returns.
    ///
    /// # Errors
    /// What RocksDB says, and what reading the frames says. The same call may be made again, also by another process, and
    /// goes on with what is not there yet.
    pub fn apply(&self, epoch: &Committed, mut frames: impl Read + Seek) -> Result<(), StateError> {
        let mut ledger = self.ledger();
        if ledger.is_broken {
            self.reopen(&mut ledger)?;
        }
        if ledger.book.committed() == Some(epoch) {
            return Ok(());
        }
        let db = self.db()?;
        let unreadable = |error| StateError::io("read the staged rows for", &self.path)(error);
        let mut done_bytes = ledger.book.begun(epoch);
        frames.seek(SeekFrom::Start(done_bytes)).map_err(unreadable)?;
        let mut blocks = Blocks::new(frames, BLOCK_BYTES);
        loop {
            blocks.advance().map_err(unreadable)?;
            let (block, is_last) = (blocks.block(), blocks.is_last());
            if block.is_empty() && !is_last {
                return Err(self.error("write to", "a staged row is damaged".to_owned()));
            }
            let mut book = ledger.book.clone();
            let mut batch = self.batch(&db, &mut book, block)?;
            done_bytes += block.len() as u64;
            book.note(epoch, if is_last { None } else { Some(done_bytes) });
            book.write(&mut batch).map_err(|error| self.error("write to", error.to_string()))?;
            hit("sink.retained.apply");
            if let Err(error) = db.write_opt(batch, &options::write()) {
                ledger.is_broken = true;
                return Err(StateError::store("write to", &self.path)(error));
            }
            hit("sink.retained.applied");
            self.floor.store(book.floor_ns(), Ordering::Relaxed);
            ledger.book = book;
            if is_last {
                break;
            }
        }
        self.tend(&mut ledger, &db);
        self.roll_up(&mut ledger, &db);
        Ok(())
    }

    /// The rows as changes, each key once; they are entered in the book.
    fn batch(&self, db: &DB, book: &mut Book, frames: &[u8]) -> Result<WriteBatch, StateError> {
        let mut rows = Vec::new();
        for row in frame::rows(frames) {
            rows.push(row.ok_or_else(|| self.error("write to", "a staged row is damaged".to_owned()))?);
        }
        // A stable order: of rows with the same key and window the last one counts.
        rows.sort_by_key(|row| (row.key, row.start_ns));
        let newest_before = book.newest_start_ns();
        let (starts, ends) = (rows.iter().map(|row| row.start_ns), rows.iter().map(|row| row.end_ns));
        if let (Some(start_ns), Some(end_ns)) = (starts.max(), ends.max()) {
            book.advance(start_ns, end_ns, self.limits.retain_ns);
        }
        let mut batch = WriteBatch::default();
        for (index, row) in rows.iter().enumerate() {
            let is_last = rows.get(index + 1).is_none_or(|next| (next.key, next.start_ns) != (row.key, row.start_ns));
            if !is_last || !book.is_live(row.end_ns) {
                continue;
            }
            if book.is_rolled_up(row.end_ns) {
                book.refuse();
                continue;
            }
            let (key, value) = (key::stored_key(row.key, row.start_ns), key::stored_value(row));
            let old = match Some(row.start_ns) <= newest_before {
                true => db.get_pinned(&key).map_err(StateError::store("read", &self.path))?,
                false => None,
            };
            let old = old.and_then(|old| Some((key::row(&key, &old)?.end_ns, (key.len() + old.len()) as u64)));
            book.put(row.end_ns, (key.len() + value.len()) as u64, old);
            batch.put(key, value);
        }
        if let Some(bytes_max) = self.limits.bytes_max {
            book.fit(bytes_max);
        }
        Ok(batch)
    }

    /// Begins a compaction if enough is dead and none is under way.
    fn tend(&self, ledger: &mut Ledger, db: &Arc<DB>) {
        if let Some(compaction) = ledger.compaction.take_if(|compaction| compaction.thread.is_finished()) {
            ledger.book.buried(compaction.dead_bytes);
        }
        let dead_bytes = ledger.book.dead_bytes();
        if ledger.compaction.is_some() || dead_bytes < DEAD_BYTES_MIN.max(ledger.book.live().bytes / LIVE_PER_DEAD) {
            return;
        }
        let db = Arc::clone(db);
        let spawned = std::thread::Builder::new().name("retained".to_owned()).spawn(move || compact(&db));
        // Without a thread it waits for the next epoch.
        ledger.compaction = spawned.ok().map(|thread| Compaction { thread, dead_bytes });
    }

    /// Has a thread roll up what is old enough by now, unless one is at it.
    fn roll_up(&self, ledger: &mut Ledger, db: &Arc<DB>) {
        let Some(roll_up) = &self.roll_up else { return };
        let is_at_it = |rolling: &Rolling| !rolling.is_idle && !rolling.thread.is_finished();
        if ledger.rolling.as_ref().is_some_and(is_at_it) || ledger.book.next_task(&roll_up.levels).is_none() {
            return;
        }
        // One that is idle ends without the ledger.
        ledger.rolling.take().map(|rolling| rolling.thread.join());
        let stop = Arc::new(AtomicBool::new(false));
        let roller = Roller::new(Arc::clone(db), Arc::clone(&self.ledger), Arc::clone(roll_up), Arc::clone(&stop));
        let spawned = std::thread::Builder::new().name("roll-up".to_owned()).spawn(move || roller.run());
        // Without a thread it waits for the next epoch.
        ledger.rolling = spawned.ok().map(|thread| Rolling { thread, stop, is_idle: false });
    }

    /// Writes all files anew without what is dead, and waits for it.
    ///
    /// # Errors
    /// The store is just being opened again after an error.
    pub fn compact(&self) -> Result<(), StateError> {
        compact(&*self.db()?);
        Ok(())
    }

    /// Closes the store and opens it again, after an error.
    fn reopen(&self, ledger: &mut Ledger) -> Result<(), StateError> {
        let mut slot = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = slot.take() {
            db.cancel_all_background_work(true);
            ledger.compaction.take().map(|compaction| compaction.thread.join());
            if let Err(db) = Arc::try_unwrap(db) {
                *slot = Some(db);
                // Somebody still reads; neither a read nor a step of rolling up takes a long time.
                return Err(StateError::Broken { path: self.path.clone() });
            }
        }
        let (db, mut book) = open(&self.path, &self.limits, &self.about, &self.floor)?;
        book.set_about(&self.about);
        if let Some(roll_up) = &self.roll_up {
            book.set_levels(&roll_up.levels);
        }
        *slot = Some(Arc::new(db));
        (ledger.book, ledger.is_broken) = (book, false);
        hit("sink.retained.reopened");
        Ok(())
    }

    fn db(&self) -> Result<Arc<DB>, StateError> {
        let slot = self.db.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone().ok_or_else(|| StateError::Broken { path: self.path.clone() })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, action: &'static str, message: String) -> StateError {
        StateError::Store { action, path: self.path.clone(), message }
    }
}

impl Drop for RetainedStore {
    fn drop(&mut self) {
        let (compaction, rolling) = {
            let mut ledger = self.ledger();
            (ledger.compaction.take(), ledger.rolling.take())
        };
        if let Some(rolling) = rolling {
            // Relaxed: nothing is handed over with it.
            rolling.stop.store(true, Ordering::Relaxed);
            let _ = rolling.thread.join();
        }
        if let (Some(compaction), Ok(db)) = (compaction, self.db()) {
            db.cancel_all_background_work(false);
            // One that panicked has changed nothing.
            let _ = compaction.thread.join();
        }
    }
}

fn compact(db: &DB) {
    db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options::compaction());
}

fn open(path: &Path, limits: &RetainedLimits, about: &Value, floor: &Arc<AtomicI64>) -> Result<(DB, Book), StateError> {
    let db = DB::open(&options::owner(floor), path).map_err(StateError::store("open", path))?;
    let book = Book::read(&db).map_err(StateError::store("read", path))?;
    let book = book.unwrap_or_else(|| Book::new(limits, about));
    floor.store(book.floor_ns(), Ordering::Relaxed);
    Ok((db, book))
}
