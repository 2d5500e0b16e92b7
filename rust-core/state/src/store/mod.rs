//! One shard's live store: a RocksDB that takes each epoch's changes and is copied, by hard links, into checkpoints.
//!
//! It is scratch: the next start makes it anew from a checkpoint, so it keeps no log of an epoch's changes, and what was
//! applied since the last checkpoint may be lost with it (what was put away between barriers is not, see `serve`). After an error nothing but [`ShardStore::reopen`] does anything; then
//! everything since the last checkpoint is applied again, which is right whether or not it was in the store before.

mod inherited;
mod options;
mod recover;
mod serve;

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ringmill_failpoint::hit;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, ErrorKind, WriteBatch};

use crate::delta::Delta;
use crate::disk;
use crate::error::StateError;
use crate::folder::StateFolder;
use crate::key::{EntryKey, HEAD_BYTES, KEY_GROUPS, NodeId, WHOLE_SHARD};
use crate::manifest::{FileRecord, Manifest};
use inherited::Inherited;

/// Changes go to RocksDB in batches of this size. That need not be at once: a store that failed half-way is opened anew
/// and takes all of them again.
const BATCH_BYTES: usize = 4 << 20;
/// Files of this kind never change once they are written.
const TABLE_ENDING: &str = ".sst";

/// The folder of a shard's store, within a checkpoint and among the live ones.
pub(crate) fn folder_name(shard: usize) -> String {
    format!("shard-{shard}")
}

/// Opens a shard's store as it is in a checkpoint, for reading; nothing is written.
pub(crate) fn open_in_checkpoint(folder: &StateFolder, manifest: &Manifest, shard: usize) -> Result<DB, StateError> {
    let name = folder_name(shard);
    let path = folder.checkpoint_path(manifest.epoch).join(&name);
    if fs::symlink_metadata(&path).is_err() {
        return Err(StateError::damaged(manifest.epoch, &name, "is missing"));
    }
    DB::open_for_read_only(&options::in_checkpoint(), &path, false).map_err(|error| match error.kind() {
        ErrorKind::Corruption => StateError::damaged(manifest.epoch, &name, format!("cannot be opened: {error}")),
        _ => StateError::store("open", &path)(error),
    })
}

/// One shard's live store; its folder goes with it.
pub struct ShardStore {
    path: PathBuf,
    /// `None` only after a reopening that failed.
    db: Option<DB>,
    is_broken: bool,
    tables: Tables,
    inherited: Inherited,
}

/// Checksums of tables by name, with length and inode: a table never changes, so it is read once in its life.
type Tables = HashMap<String, (u64, u64, u32)>;

impl ShardStore {
    /// An empty store.
    ///
    /// # Errors
    /// What the file system or RocksDB says.
    pub fn create(folder: &StateFolder, shard: usize) -> Result<ShardStore, StateError> {
        let path = fresh_folder(folder, shard)?;
        ShardStore::open(path, Tables::new(), Inherited::default())
    }

    fn open(path: PathBuf, tables: Tables, inherited: Inherited) -> Result<ShardStore, StateError> {
        let db = DB::open(&options::live(), &path).map_err(StateError::store("open", &path))?;
        Ok(ShardStore { path, db: Some(db), is_broken: false, tables, inherited })
    }

    /// Opens the store again after an error. What was applied since the last checkpoint may be gone: apply it again.
    ///
    /// # Errors
    /// What RocksDB says; it may be tried again.
    pub fn reopen(&mut self) -> Result<(), StateError> {
        self.is_broken = true;
        // Closed first: two handles would fight over the folder.
        self.db = None;
        self.db = Some(DB::open(&options::live(), &self.path).map_err(StateError::store("open", &self.path))?);
        self.inherited.keep_all();
        self.is_broken = false;
        hit("store.reopened");
        Ok(())
    }

    /// Applies an epoch's changes: windows are deleted, then entries, then entries are put.
    ///
    /// # Errors
    /// What RocksDB says; the store is then to be [opened again](ShardStore::reopen). An entry whose group no shard owns
    /// is refused before anything is written.
    pub fn apply(&mut self, delta: &mut Delta) -> Result<(), StateError> {
        let db = self.db()?;
        delta.puts().map(|(key, _)| key).chain(delta.deletes()).try_for_each(check_group)?;
        delta.sort();
        let result = apply(db, &self.path, delta, &self.inherited);
        self.is_broken = result.is_err();
        self.inherited.replace(delta);
        hit("store.applied");
        result
    }

    /// Puts a copy of the store into a folder that is not there yet, makes it durable and tells what is in it, relative
    /// to the folder around. Tables are shared by hard links, and only new ones are read for their checksums.
    ///
    /// # Errors
    /// What RocksDB or the file system says; the store is then to be [opened again](ShardStore::reopen).
    pub fn checkpoint(&mut self, to: &Path) -> Result<Vec<FileRecord>, StateError> {
        let db = self.db()?;
        let result = disk::remove_folder(to).and_then(|()| copy(db, to)).and_then(|()| {
            hit("store.checkpointed");
            seal(to, &self.tables)
        });
        match result {
            Ok((records, tables)) => {
                hit("store.synced");
                self.tables = tables;
                self.inherited.forget_replaced();
                Ok(records)
            }
            Err(error) => {
                self.is_broken = true;
                Err(error)
            }
        }
    }

    /// Shows every entry, in the order of keys. Entries of whole shards that were taken over from several shards come
    /// one after the other with the same key.
    ///
    /// # Errors
    /// The visitor's, and what RocksDB says.
    pub fn for_each<E: From<StateError>>(
        &self,
        mut visit: impl FnMut(&EntryKey<'_>, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        scan(self.db()?, &self.path, |stored, value| {
            if stored == inherited::MARKER {
                return Ok(());
            }
            let key = inherited::entry(stored).ok_or_else(|| StateError::Store {
                action: "read",
                path: self.path.clone(),
                message: format!("an entry's key has {} bytes only", stored.len()),
            })?;
            visit(&key, value)
        })
    }

    fn db(&self) -> Result<&DB, StateError> {
        match &self.db {
            Some(db) if !self.is_broken => Ok(db),
            _ => Err(StateError::Broken { path: self.path.clone() }),
        }
    }
}

impl Drop for ShardStore {
    fn drop(&mut self) {
        self.db = None;
        // Nobody needs it any more; what stays is removed by the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A new folder among the live ones: `shard-N`, or `shard-N-2` as long as a store that is to be replaced has that.
fn fresh_folder(folder: &StateFolder, shard: usize) -> Result<PathBuf, StateError> {
    folder.check_writable()?;
    let mut path = folder.live_path().join(folder_name(shard));
    for number in 2.. {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StateError::io("create", &path)(error)),
            Ok(()) => break,
        }
        path.set_file_name(format!("{}-{number}", folder_name(shard)));
    }
    Ok(path)
}

fn check_group(key: &[u8]) -> Result<(), StateError> {
    match EntryKey::parse(key) {
        Some(key) if key.group >= KEY_GROUPS && key.group != WHOLE_SHARD => {
            Err(StateError::Group { node: key.node, group: key.group })
        }
        _ => Ok(()),
    }
}

fn apply(db: &DB, path: &Path, delta: &Delta, inherited: &Inherited) -> Result<(), StateError> {
    let mut batches = Batches::new(db, path);
    for &(node, section, window) in delta.windows() {
        let from = window_prefix(node, section, window);
        match successor(from) {
            Some(to) => batches.add(from.len() + to.len(), |batch| batch.delete_range(from, to))?,
            None => delete_to_the_end(db, path, &from, &mut batches)?,
        }
    }
    for key in delta.deletes() {
        batches.add(key.len(), |batch| batch.delete(key))?;
        inherited.of(key).try_for_each(|key| batches.add(key.len(), |batch| batch.delete(key)))?;
    }
    for (key, value) in delta.puts() {
        batches.add(key.len() + value.len(), |batch| batch.put(key, value))?;
        inherited.of(key).try_for_each(|key| batches.add(key.len(), |batch| batch.delete(key)))?;
    }
    batches.write()
}

/// The very last window of all has no key after it that could end a range.
fn delete_to_the_end(db: &DB, path: &Path, from: &[u8], batches: &mut Batches<'_>) -> Result<(), StateError> {
    let mut entries = db.raw_iterator_opt(options::scan());
    entries.seek(from);
    while let Some(key) = entries.key() {
        batches.add(key.len(), |batch| batch.delete(key))?;
        entries.next();
    }
    entries.status().map_err(StateError::store("read", path))
}

const PREFIX_BYTES: usize = HEAD_BYTES - 2;

fn window_prefix(node: NodeId, section: u8, window: u64) -> [u8; PREFIX_BYTES] {
    let mut key = Vec::with_capacity(HEAD_BYTES);
    EntryKey { node, section, window, group: 0, key: &[] }.write(&mut key);
    key.first_chunk().copied().unwrap_or_default()
}

/// The first prefix after this one; `None`: it is the last.
fn successor(mut prefix: [u8; PREFIX_BYTES]) -> Option<[u8; PREFIX_BYTES]> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    prefix[last] += 1;
    prefix[last + 1..].fill(0);
    Some(prefix)
}

/// Changes on their way to RocksDB.
struct Batches<'a> {
    db: &'a DB,
    path: &'a Path,
    batch: WriteBatch,
    bytes: usize,
    /// They are to survive a reopening without being applied again.
    is_logged: bool,
}

impl<'a> Batches<'a> {
    fn new(db: &'a DB, path: &'a Path) -> Self {
        Batches { db, path, batch: WriteBatch::default(), bytes: 0, is_logged: false }
    }

    fn add(&mut self, bytes: usize, change: impl FnOnce(&mut WriteBatch)) -> Result<(), StateError> {
        change(&mut self.batch);
        self.bytes += bytes;
        if self.bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StateError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let options = if self.is_logged { options::logged_write() } else { options::write() };
        self.db.write_opt(batch, &options).map_err(StateError::store("write to", self.path))?;
        hit("store.written");
        Ok(())
    }
}

/// Shows every entry as it is stored.
fn scan<E: From<StateError>>(
    db: &DB,
    path: &Path,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut entries = db.raw_iterator_opt(options::scan());
    entries.seek_to_first();
    while let Some((key, value)) = entries.item() {
        visit(key, value)?;
        entries.next();
    }
    Ok(entries.status().map_err(StateError::store("read", path))?)
}

fn copy(db: &DB, to: &Path) -> Result<(), StateError> {
    let checkpoint = Checkpoint::new(db).map_err(StateError::store("copy", to))?;
    checkpoint.create_checkpoint(to).map_err(StateError::store("copy", to))
}

/// Makes a copied store private and durable, and records its files.
fn seal(folder: &Path, known: &Tables) -> Result<(Vec<FileRecord>, Tables), StateError> {
    let around = folder.file_name().unwrap_or_default().to_string_lossy();
    let (mut records, mut tables) = (Vec::new(), Tables::new());
    for name in disk::names(folder)? {
        let path = folder.join(&name);
        let mut file = disk::open_file(&path).map_err(StateError::io("open", &path))?;
        let data = file.metadata().map_err(StateError::io("look at", &path))?;
        let (bytes, crc32c) = match known.get(&name) {
            Some(&(bytes, inode, crc32c)) if (bytes, inode) == (data.len(), data.ino()) => (bytes, crc32c),
            _ => {
                file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(StateError::io("chmod", &path))?;
                disk::sync_file(&file, &path)?;
                disk::checksum(&mut file).map_err(StateError::io("read", &path))?
            }
        };
        if name.ends_with(TABLE_ENDING) {
            tables.insert(name.clone(), (bytes, data.ino(), crc32c));
        }
        records.push(FileRecord { path: format!("{around}/{name}"), bytes, crc32c });
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(StateError::io("chmod", folder))?;
    disk::sync_folder(folder)?;
    Ok((records, tables))
}
