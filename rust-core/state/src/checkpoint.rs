//! Checkpoints on the disk: how one comes to be there as a whole, how it is looked through, and how it goes.
//!
//! The commit point is the rename of `checkpoints/EPOCH.partial` to `checkpoints/EPOCH`: before it everything in the
//! folder is durable, and after it the folder around is made so. Going is the same backwards: the first thing is a
//! rename to `EPOCH.removed`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::libc::{EMFILE, ENFILE, ENOMEM};
use ringmill_failpoint::hit;

use crate::disk;
use crate::error::StateError;
use crate::folder::StateFolder;
use crate::manifest::{FileRecord, MANIFEST, Manifest};
use crate::store;

const PARTIAL: &str = ".partial";
const REMOVED: &str = ".removed";

/// A checkpoint as a list shows it.
#[derive(Debug)]
pub struct CheckpointInfo {
    /// The epoch that ended with it.
    pub epoch: u64,
    /// Its manifest, or why that cannot be used; the other files were not looked into.
    pub manifest: Result<Manifest, StateError>,
    /// Bytes of all its files; checkpoints share most of them with each other.
    pub bytes: u64,
}

impl StateFolder {
    /// All checkpoints, newest first.
    ///
    /// # Errors
    /// What the file system says of the folder around them.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, StateError> {
        let mut found = Vec::new();
        for epoch in self.epochs()?.into_iter().rev() {
            let path = self.checkpoint_path(epoch);
            let manifest = self.read_manifest(epoch);
            // One that the owner removes while we look is not there.
            if matches!(manifest, Err(StateError::Missing { .. })) {
                continue;
            }
            let bytes = files(epoch, &path).map_or(0, |files| files.values().sum());
            found.push(CheckpointInfo { epoch, manifest, bytes });
        }
        Ok(found)
    }

    /// Reads every byte of a checkpoint and compares it with the manifest, and opens its stores.
    ///
    /// # Errors
    /// [`StateError::Damaged`] names the first file that is not as it was; [`StateError::Format`],
    /// [`StateError::Missing`]; anything else says nothing about the checkpoint.
    pub fn verify(&self, epoch: u64) -> Result<Manifest, StateError> {
        let verified = self.read_through(epoch);
        // Beside its owner a checkpoint may go while we read it.
        let is_gone = || fs::symlink_metadata(self.checkpoint_path(epoch)).is_err_and(is_not_found);
        if verified.is_err() && is_gone() { Err(StateError::Missing { epoch }) } else { verified }
    }

    fn read_through(&self, epoch: u64) -> Result<Manifest, StateError> {
        let path = self.checkpoint_path(epoch);
        let manifest = self.read_manifest(epoch)?;
        compare_lengths(&manifest, &path)?;
        for record in &manifest.files {
            let opened = disk::open_file(&path.join(&record.path)).and_then(|mut file| disk::checksum(&mut file));
            let found = opened.map_err(|error| unreadable(epoch, &record.path, error))?;
            compare_checksum(epoch, record, found)?;
        }
        for shard in 0..manifest.shards {
            store::open_in_checkpoint(self, &manifest, shard)?;
        }
        Ok(manifest)
    }

    /// The newest checkpoint that is whole, and what is wrong with the damaged ones that are newer.
    ///
    /// # Errors
    /// What says nothing about damage: a checkpoint of another format, say, is a reason to stop and not to go back.
    pub fn newest_sound(&self) -> Result<(Option<Manifest>, Vec<StateError>), StateError> {
        let mut damaged = Vec::new();
        for epoch in self.epochs()?.into_iter().rev() {
            match self.verify(epoch) {
                Ok(manifest) => return Ok((Some(manifest), damaged)),
                Err(error) if error.is_damage() => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// Removes every checkpoint newer than `epoch`. A run that goes on from an older one calls it before its first new
    /// checkpoint, so that no newer one of the past is ever taken for its own.
    ///
    /// # Errors
    /// What the file system says; newer ones go first, so none is left without those before it.
    pub fn forget_newer(&self, epoch: u64) -> Result<(), StateError> {
        self.check_writable()?;
        for newer in self.epochs()?.into_iter().rev().take_while(|newer| *newer > epoch) {
            self.remove_checkpoint(newer)?;
        }
        Ok(())
    }

    /// Starts checkpoint `epoch`; what a failed try left of it is removed.
    ///
    /// # Errors
    /// [`StateError::Exists`], and what the file system says.
    pub fn begin_checkpoint(&self, epoch: u64) -> Result<PartialCheckpoint, StateError> {
        self.check_writable()?;
        let target = self.checkpoint_path(epoch);
        if fs::symlink_metadata(&target).is_ok() {
            return Err(StateError::Exists { epoch });
        }
        let path = self.checkpoints_path().join(format!("{}{PARTIAL}", name_of(epoch)));
        disk::remove_folder(&path)?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(StateError::io("create", &path))?;
        hit("checkpoint.begun");
        Ok(PartialCheckpoint { epoch, path, target, is_over: false })
    }

    /// Removes all but the newest `keep` checkpoints (at least one stays), oldest first.
    ///
    /// # Errors
    /// What the file system says; those that are still there are whole.
    pub fn prune(&self, keep: usize) -> Result<(), StateError> {
        self.check_writable()?;
        let epochs = self.epochs()?;
        let surplus = epochs.len().saturating_sub(keep.max(1));
        for epoch in &epochs[..surplus] {
            self.remove_checkpoint(*epoch)?;
        }
        // What an earlier call could not remove, on a disk with errors, say.
        for name in disk::names(&self.checkpoints_path())?.iter().filter(|name| name.ends_with(REMOVED)) {
            disk::remove_folder(&self.checkpoints_path().join(name))?;
        }
        Ok(())
    }

    pub(crate) fn checkpoint_path(&self, epoch: u64) -> PathBuf {
        self.checkpoints_path().join(name_of(epoch))
    }

    fn remove_checkpoint(&self, epoch: u64) -> Result<(), StateError> {
        let path = self.checkpoint_path(epoch);
        let removed = self.checkpoints_path().join(format!("{}{REMOVED}", name_of(epoch)));
        disk::remove_folder(&removed)?;
        disk::rename(&path, &removed)?;
        disk::sync_folder(&self.checkpoints_path())?;
        hit("prune.renamed");
        disk::remove_folder(&removed)?;
        hit("prune.removed");
        Ok(())
    }

    /// Epochs of all checkpoints, oldest first.
    fn epochs(&self) -> Result<Vec<u64>, StateError> {
        let path = self.checkpoints_path();
        if self.check_writable().is_err() && fs::symlink_metadata(&path).is_err_and(is_not_found) {
            return Ok(Vec::new());
        }
        let mut epochs: Vec<u64> = disk::names(&path)?.iter().filter_map(|name| epoch_of(name)).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    fn read_manifest(&self, epoch: u64) -> Result<Manifest, StateError> {
        let path = self.checkpoint_path(epoch);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StateError::Missing { epoch }),
            Err(error) => return Err(unreadable(epoch, "its folder", error)),
            Ok(data) if !data.is_dir() => return Err(StateError::damaged(epoch, "its folder", "is not a folder")),
            Ok(_) => {}
        }
        let file = disk::open_file(&path.join(MANIFEST)).map_err(|error| {
            // Renamed away since we looked: removed by its owner.
            let is_gone = fs::symlink_metadata(&path).is_err_and(is_not_found);
            if is_gone { StateError::Missing { epoch } } else { unreadable(epoch, MANIFEST, error) }
        })?;
        Manifest::read(epoch, file)
    }
}

fn is_not_found(error: io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn name_of(epoch: u64) -> String {
    format!("{epoch:010}")
}

fn epoch_of(name: &str) -> Option<u64> {
    name.parse().ok().filter(|epoch| name_of(*epoch) == name)
}

/// Whether a name in `checkpoints/` is that of something half made or half removed.
pub(crate) fn is_leftover(name: &str) -> bool {
    name.strip_suffix(PARTIAL).or_else(|| name.strip_suffix(REMOVED)).is_some_and(|name| epoch_of(name).is_some())
}

/// A file of a checkpoint that cannot be read is damage, unless it is this process that lacks something.
pub(crate) fn unreadable(epoch: u64, file: &str, error: io::Error) -> StateError {
    let is_ours = error.kind() == io::ErrorKind::PermissionDenied
        || matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM));
    if is_ours {
        return StateError::Io { action: "read", path: PathBuf::from(file), source: error };
    }
    StateError::damaged(epoch, file, format!("cannot be read: {error}"))
}

/// Lengths of all files in a checkpoint's folder, by path relative to it.
fn files(epoch: u64, root: &Path) -> Result<BTreeMap<String, u64>, StateError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let names = disk::names(&root.join(&folder)).map_err(|error| match error {
            StateError::Io { source, .. } => unreadable(epoch, &folder, source),
            other => StateError::damaged(epoch, &folder, other.to_string()),
        })?;
        for name in names {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let data = fs::symlink_metadata(root.join(&path)).map_err(|error| unreadable(epoch, &path, error))?;
            if data.is_dir() {
                folders.push(path);
            } else if data.is_file() {
                found.insert(path, data.len());
            } else {
                return Err(StateError::damaged(epoch, &path, "is neither a file nor a folder"));
            }
        }
    }
    Ok(found)
}

/// The folder has the files that the manifest names, of the same lengths, and no others.
fn compare_lengths(manifest: &Manifest, root: &Path) -> Result<(), StateError> {
    let damaged = |file: &str, reason: String| Err(StateError::damaged(manifest.epoch, file, reason));
    let mut found = files(manifest.epoch, root)?;
    found.remove(MANIFEST);
    for record in &manifest.files {
        match found.remove(&record.path) {
            None => return damaged(&record.path, "is missing".to_owned()),
            Some(bytes) if bytes != record.bytes => {
                return damaged(&record.path, format!("has {bytes} bytes instead of {}", record.bytes));
            }
            Some(_) => {}
        }
    }
    match found.first_key_value() {
        Some((path, _)) => damaged(path, "is not in the manifest".to_owned()),
        None => Ok(()),
    }
}

/// What was read of a file, length and CRC-32C, is what the manifest says.
pub(crate) fn compare_checksum(epoch: u64, record: &FileRecord, found: (u64, u32)) -> Result<(), StateError> {
    if found == (record.bytes, record.crc32c) {
        return Ok(());
    }
    Err(StateError::damaged(epoch, &record.path, "does not match its checksum"))
}

/// A checkpoint that is being written. Dropped before it is committed, it is removed.
#[derive(Debug)]
pub struct PartialCheckpoint {
    epoch: u64,
    path: PathBuf,
    target: PathBuf,
    is_over: bool,
}

impl PartialCheckpoint {
    /// The epoch that ends with it.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where a shard's store goes ([`ShardStore::checkpoint`](crate::ShardStore::checkpoint) makes it).
    #[must_use]
    pub fn shard_folder(&self, shard: usize) -> PathBuf {
        self.path.join(store::folder_name(shard))
    }

    /// Writes the manifest and makes the checkpoint one, at once and for good. The files that it names are durable
    /// already.
    ///
    /// # Errors
    /// What the file system says; then there is no such checkpoint and it may be begun again.
    pub fn commit(mut self, manifest: &Manifest) -> Result<(), StateError> {
        self.try_commit(manifest)
    }

    /// The same for whoever tries again after an error, when there is space again, say: what the shards wrote stays.
    ///
    /// # Errors
    /// As [`PartialCheckpoint::commit`].
    pub fn try_commit(&mut self, manifest: &Manifest) -> Result<(), StateError> {
        if manifest.epoch != self.epoch {
            let reason = format!("it was begun for epoch {}", self.epoch);
            return Err(StateError::Manifest { epoch: manifest.epoch, reason });
        }
        let bytes = manifest.encode()?;
        compare_lengths(manifest, &self.path)?;
        let path = self.path.join(MANIFEST);
        // Left by a try that failed.
        let _ = fs::remove_file(&path);
        let file = disk::write_new_file(&path, &bytes)?;
        hit("manifest.written");
        disk::sync_file(&file, &path)?;
        hit("manifest.synced");
        disk::sync_folder(&self.path)?;
        hit("manifest.folder_synced");
        let around = self.target.parent().unwrap_or(Path::new("."));
        disk::rename(&self.path, &self.target)?;
        hit("manifest.renamed");
        if let Err(error) = disk::sync_folder(around) {
            // Whether the rename would survive a power loss is not known, so it is taken back; should that fail too,
            // the checkpoint is there and whole.
            let _ = fs::rename(&self.target, &self.path);
            return Err(error);
        }
        self.is_over = true;
        hit("manifest.committed");
        Ok(())
    }

    /// Removes it.
    pub fn abandon(self) {}
}

impl Drop for PartialCheckpoint {
    fn drop(&mut self) {
        if !self.is_over {
            // What stays is removed by the next try or the next owner.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
