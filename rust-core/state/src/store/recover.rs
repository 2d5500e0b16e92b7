//! A live store made from a checkpoint: by hard links for the same number of shards, entry by entry for another.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ringmill_failpoint::hit;

use super::inherited::{self, Inherited};
use super::{Batches, ShardStore, TABLE_ENDING, Tables, folder_name, fresh_folder, open_in_checkpoint, scan};
use crate::checkpoint::{compare_checksum, unreadable};
use crate::disk;
use crate::error::StateError;
use crate::folder::StateFolder;
use crate::key::{WHOLE_SHARD, shard_of};
use crate::manifest::{FileRecord, Manifest};

impl ShardStore {
    /// The store of shard `shard` of `shards` as checkpoint `manifest`, which was verified, has it. With another number of
    /// shards than then, every key group goes to the shard that owns it now, and entries of whole shards go to all.
    ///
    /// # Errors
    /// What the file system or RocksDB says, and damage that shows.
    pub fn recover(
        folder: &StateFolder,
        manifest: &Manifest,
        shard: usize,
        shards: usize,
    ) -> Result<ShardStore, StateError> {
        if shard >= shards {
            let reason = format!("there is no shard {shard} of {shards}");
            return Err(StateError::Manifest { epoch: manifest.epoch, reason });
        }
        let path = fresh_folder(folder, shard)?;
        if shards == manifest.shards {
            let tables = link(folder, manifest, shard, &path)?;
            hit("recovery.linked");
            let mut store = ShardStore::open(path, tables, Inherited::default())?;
            store.find_inherited()?;
            hit("recovery.opened");
            return Ok(store);
        }
        let mut store = ShardStore::open(path, Tables::new(), Inherited::default())?;
        store.take_over(folder, manifest, shard, shards)?;
        hit("recovery.cut");
        Ok(store)
    }

    /// Takes this shard's part of every old one, in batches.
    fn take_over(
        &mut self,
        folder: &StateFolder,
        manifest: &Manifest,
        shard: usize,
        shards: usize,
    ) -> Result<(), StateError> {
        let mut inherited = Inherited::default();
        let mut batches = Batches::new(self.db()?, &self.path);
        // There are few of these. What two old shards agree upon is taken over once.
        let mut seen = BTreeSet::new();
        for old in 0..manifest.shards {
            let path = folder.checkpoint_path(manifest.epoch).join(folder_name(old));
            small_files(folder, manifest, old).try_for_each(|file| file.map(drop))?;
            let source = open_in_checkpoint(folder, manifest, old)?;
            scan(&source, &path, |stored, value| {
                if stored == inherited::MARKER {
                    return Ok(());
                }
                let reason = "has an entry whose key is too short";
                let key = inherited::entry(stored)
                    .ok_or_else(|| StateError::damaged(manifest.epoch, &folder_name(old), reason))?;
                if key.group != WHOLE_SHARD {
                    if shard_of(key.group, shards) != shard {
                        return Ok(());
                    }
                    return batches.add(stored.len() + value.len(), |batch| batch.put(stored, value));
                }
                let taken = inherited::stored(&key, 0);
                if !seen.insert((taken, value.to_vec())) {
                    return Ok(());
                }
                let stored = inherited::stored(&key, seen.len() as u32);
                inherited.note(&stored);
                batches.add(stored.len() + value.len(), |batch| batch.put(&stored, value))
            })?;
        }
        if !inherited.is_empty() {
            batches.add(inherited::MARKER.len(), |batch| batch.put(inherited::MARKER, []))?;
        }
        batches.write()?;
        self.inherited = inherited;
        Ok(())
    }

    /// Finds the entries that were taken over before, if any were.
    fn find_inherited(&mut self) -> Result<(), StateError> {
        let db = self.db()?;
        let read = StateError::store("read", &self.path);
        if db.get_pinned(inherited::MARKER).map_err(read)?.is_none() {
            return Ok(());
        }
        let mut inherited = Inherited::default();
        scan(db, &self.path, |stored, _| -> Result<(), StateError> {
            inherited.note(stored);
            Ok(())
        })?;
        if inherited.is_empty() {
            let mut batches = Batches::new(db, &self.path);
            batches.add(inherited::MARKER.len(), |batch| batch.delete(inherited::MARKER))?;
            batches.write()?;
        }
        self.inherited = inherited;
        Ok(())
    }
}

/// The files of a shard other than its tables. RocksDB takes some of them as they are, or for shorter than they were,
/// so they are compared with the manifest again, at the moment they are used.
fn small_files<'a>(
    folder: &StateFolder,
    manifest: &'a Manifest,
    shard: usize,
) -> impl Iterator<Item = Result<(&'a str, Vec<u8>), StateError>> {
    let from = folder.checkpoint_path(manifest.epoch);
    files_of(manifest, shard).filter(|(name, _)| !name.ends_with(TABLE_ENDING)).map(move |(name, record)| {
        let mut bytes = Vec::new();
        let read = disk::open_file(&from.join(&record.path))
            .and_then(|file| file.take(record.bytes + 1).read_to_end(&mut bytes));
        read.map_err(|error| unreadable(manifest.epoch, &record.path, error))?;
        compare_checksum(manifest.epoch, record, (bytes.len() as u64, crc32c::crc32c(&bytes)))?;
        Ok((name, bytes))
    })
}

/// A shard's files by name within its folder.
fn files_of(manifest: &Manifest, shard: usize) -> impl Iterator<Item = (&str, &FileRecord)> {
    let prefix = format!("{}/", folder_name(shard));
    manifest.files.iter().filter_map(move |record| Some((record.path.strip_prefix(&prefix)?, record)))
}

/// Hard-links the tables and copies the rest; returns the tables' checksums as the manifest has them.
fn link(folder: &StateFolder, manifest: &Manifest, shard: usize, to: &Path) -> Result<Tables, StateError> {
    let from = folder.checkpoint_path(manifest.epoch);
    let mut tables = Tables::new();
    for (name, record) in files_of(manifest, shard).filter(|(name, _)| name.ends_with(TABLE_ENDING)) {
        let (source, target) = (from.join(&record.path), to.join(name));
        link_or_copy(&source, &target).map_err(StateError::io("link", &source))?;
        let data = fs::symlink_metadata(&target).map_err(StateError::io("look at", &target))?;
        tables.insert(name.to_owned(), (record.bytes, data.ino(), record.crc32c));
    }
    for file in small_files(folder, manifest, shard) {
        let (name, bytes) = file?;
        disk::write_new_file(&to.join(name), &bytes)?;
    }
    Ok(tables)
}

/// Some file systems have no hard links, or too few.
fn link_or_copy(source: &Path, target: &Path) -> io::Result<()> {
    fs::hard_link(source, target).or_else(|_| fs::copy(source, target).map(drop))
}
