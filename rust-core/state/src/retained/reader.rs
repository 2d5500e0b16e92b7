//! Looking at retained rows, in the process that writes them or beside it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::DB;
use serde_json::Value;

use super::book::{Amount, Book};
use super::key::{ROW, START_BYTES, row, stored_key};
use super::{RetainedRow, options};
use crate::disk;
use crate::error::StateError;

/// How often the owner may change its files while they are being opened; one opening takes some milliseconds.
const TRIES: u32 = 100;
/// There is one in every RocksDB folder once it has been made.
const CURRENT: &str = "CURRENT";
/// The list of files begins with this.
const FILE_LOG: &str = "MANIFEST-";
/// A log of what is in no table yet ends with this.
const WRITE_LOG: &str = ".log";

/// Which windows: those that start at `from_ns` or later and before `to_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedRange {
    /// the first start
    pub from_ns: i64,
    /// the first start that is not meant any more
    pub to_ns: i64,
}

impl Default for RetainedRange {
    /// All there are.
    fn default() -> Self {
        RetainedRange { from_ns: i64::MIN, to_ns: i64::MAX }
    }
}

impl RetainedRange {
    fn contains(&self, start_ns: i64) -> bool {
        start_ns >= self.from_ns && start_ns < self.to_ns
    }
}

/// The rows of a store as they were when the reader was made, or newer.
pub struct RetainedReader {
    db: Arc<DB>,
    floor_ns: i64,
    about: Value,
    path: PathBuf,
    /// A folder that RocksDB wants for itself; ours to remove.
    scratch: Option<PathBuf>,
}

impl RetainedReader {
    pub(super) fn within(db: Arc<DB>, floor_ns: i64, about: Value, path: PathBuf) -> RetainedReader {
        RetainedReader { db, floor_ns, about, path, scratch: None }
    }

    /// What the owner says about the store.
    #[must_use]
    pub fn about(&self) -> &Value {
        &self.about
    }

    /// Opens a store beside its owner, or when it has none; nothing in its folder is changed. `scratch` is a folder that
    /// is not there yet and goes with the reader. `None`: no epoch has been committed.
    ///
    /// # Errors
    /// What RocksDB or the file system says.
    pub fn open(path: &Path, scratch: &Path) -> Result<Option<RetainedReader>, StateError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("look at", path)(error)),
            Ok(_) => disk::check_folder(path)?,
        }
        let mut outcome = Ok(None);
        for _ in 0..TRIES {
            if !path.join(CURRENT).exists() {
                return Ok(None);
            }
            let before = logs(path)?;
            outcome = RetainedReader::try_open(path, scratch);
            if outcome.is_ok() && logs(path)? == before {
                return outcome;
            }
        }
        // Errors come from files that vanish, or from damage.
        outcome?;
        let message = "its owner changes it faster than it can be opened".to_owned();
        Err(StateError::Store { action: "read", path: path.to_owned(), message })
    }

    fn try_open(path: &Path, scratch: &Path) -> Result<Option<RetainedReader>, StateError> {
        disk::remove_folder(scratch)?;
        fs::DirBuilder::new().mode(0o700).create(scratch).map_err(StateError::io("create", scratch))?;
        let clean = |error| {
            // The error that comes first says more.
            let _ = fs::remove_dir_all(scratch);
            StateError::store("open", path)(error)
        };
        let db = DB::open_as_secondary(&options::onlooker(), path, scratch).map_err(clean)?;
        let Some((floor_ns, about)) = Book::read_head(&db).map_err(clean)? else {
            drop(db);
            disk::remove_folder(scratch)?;
            return Ok(None);
        };
        let (path, scratch) = (path.to_owned(), Some(scratch.to_owned()));
        Ok(Some(RetainedReader { db: Arc::new(db), floor_ns, about, path, scratch }))
    }

    /// The newest rows of a key, at most `max` of them, in the order of their windows, and whether there are older ones.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn get(&self, key: &[u8], range: RetainedRange, max: Amount) -> Result<(Vec<Vec<u8>>, bool), StateError> {
        let Some(last_ns) = range.to_ns.checked_sub(1) else { return Ok((Vec::new(), false)) };
        // The end of time is among all there are.
        let last_ns = if range.to_ns == i64::MAX { i64::MAX } else { last_ns };
        let last = stored_key(key, last_ns);
        let prefix = &last[..last.len() - START_BYTES];
        let (mut rows, mut is_more, mut bytes) = (Vec::new(), false, 0);
        let mut entries = self.db.raw_iterator();
        entries.seek_for_prev(&last);
        while let Some((stored, value)) = entries.item() {
            if !stored.starts_with(prefix) || stored.len() != last.len() {
                break;
            }
            let Some(row) = row(stored, value).filter(|row| row.start_ns >= range.from_ns) else { break };
            if row.end_ns > self.floor_ns {
                bytes += row.row.len() as u64;
                // One row is answered, however large it is.
                if rows.len() as u64 == max.rows || bytes > max.bytes && !rows.is_empty() {
                    is_more = true;
                    break;
                }
                rows.push(row.row.to_vec());
            }
            entries.prev();
        }
        entries.status().map_err(StateError::store("read", &self.path))?;
        rows.reverse();
        Ok((rows, is_more))
    }

    /// Shows the rows of all keys, key by key, until `visit` says that it has enough by answering `false`.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn scan(
        &self,
        range: RetainedRange,
        mut visit: impl FnMut(&RetainedRow<'_>) -> bool,
    ) -> Result<(), StateError> {
        let mut entries = self.db.raw_iterator();
        entries.seek([ROW]);
        while let Some((key, value)) = entries.item() {
            let shown = row(key, value).filter(|row| row.end_ns > self.floor_ns && range.contains(row.start_ns));
            if let Some(row) = shown
                && !visit(&row)
            {
                return Ok(());
            }
            entries.next();
        }
        entries.status().map_err(StateError::store("read", &self.path))
    }
}

/// The list of files with its length, and the logs of what is in no table yet.
///
/// RocksDB reads one after the other when it opens a store beside its owner. If the owner makes a table of a log in
/// between, the rows in it are in neither; then the list of files has grown.
fn logs(path: &Path) -> Result<Vec<(String, u64)>, StateError> {
    let mut logs = Vec::new();
    for name in disk::names(path)? {
        if name.starts_with(FILE_LOG) {
            match fs::metadata(path.join(&name)) {
                Ok(data) => logs.push((name, data.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StateError::io("look at", path)(error)),
            }
        } else if name.ends_with(WRITE_LOG) {
            logs.push((name, 0));
        }
    }
    Ok(logs)
}

impl Drop for RetainedReader {
    fn drop(&mut self) {
        if let Some(scratch) = &self.scratch {
            // It lies among temporary files; nobody misses it, and nobody minds it.
            let _ = fs::remove_dir_all(scratch);
        }
    }
}
