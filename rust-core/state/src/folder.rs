//! The pipeline's state folder: who owns it, what lies where in it, and what a dead owner left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::StateError;
use crate::lock::OwnerLock;

const LOCK: &str = "lock";
const CHECKPOINTS: &str = "checkpoints";
const CHECKPOINTS_REMOVED: &str = "checkpoints.removed";
const LIVE: &str = "live";
const STAGING: &str = "staging";
const JOURNALS: &str = "journal";
const DEAD_LETTERS: &str = "dead_letters";
const RETAINED: &str = "retained";

/// The pipeline's state folder, owned by this process for as long as the value lives, unless opened for reading only.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    lock: Option<OwnerLock>,
}

impl StateFolder {
    /// Opens the folder, makes it unless it is there, and removes what a dead owner left half done.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another process owns it, [`StateError::Refused`] if it is a symbolic link or another
    /// user's, and what the file system says.
    pub fn open(path: &Path) -> Result<StateFolder, StateError> {
        let path = disk::plain_path(path);
        if path.to_str().is_none() {
            return Err(StateError::refused(&path, "has a name that is not text"));
        }
        disk::private_folder(&path)?;
        let lock = OwnerLock::acquire(&path.join(LOCK), &path)?;
        let folder = StateFolder { path, lock: Some(lock) };
        disk::private_folder(&folder.checkpoints_path())?;
        folder.clear_leftovers()?;
        disk::private_folder(&folder.live_path())?;
        Ok(folder)
    }

    /// Opens it beside its owner, for looking only: nothing is made, locked or cleared.
    ///
    /// # Errors
    /// As [`StateFolder::open`], and if there is no such folder.
    pub fn open_read_only(path: &Path) -> Result<StateFolder, StateError> {
        let path = disk::plain_path(path);
        disk::check_folder(&path)?;
        Ok(StateFolder { path, lock: None })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes all state, as for a pipeline that was never run: checkpoints, live stores, journals and what sinks staged.
    /// The checkpoints go all at once. Dead letters stay; their sink starts them anew.
    ///
    /// # Errors
    /// What the file system says; whatever it is, no old checkpoint is there any more or all of them are.
    pub fn delete_all(&mut self) -> Result<(), StateError> {
        self.check_writable()?;
        let removed = self.path.join(CHECKPOINTS_REMOVED);
        disk::remove_folder(&removed)?;
        // Were the checkpoints gone first, what the journals hold would be read as if nobody had ever read it.
        disk::remove_folder(&self.path.join(JOURNALS))?;
        disk::sync_folder(&self.path)?;
        disk::rename(&self.checkpoints_path(), &removed)?;
        disk::private_folder(&self.checkpoints_path())?;
        disk::sync_folder(&self.path)?;
        ringmill_failpoint::hit("fresh.renamed");
        disk::remove_folder(&removed)?;
        disk::remove_folder(&self.path.join(STAGING))?;
        ringmill_failpoint::hit("fresh.removed");
        self.clear_live()
    }

    /// `staging/SINK/`, where a sink keeps what is not shown yet; made unless it is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn staging(&self, sink: &str) -> Result<PathBuf, StateError> {
        self.check_writable()?;
        let staging = self.path.join(STAGING);
        disk::private_folder(&staging)?;
        let path = staging.join(file_name(sink));
        disk::private_folder(&path)?;
        Ok(path)
    }

    /// `journal/SOURCE`, where a source that comes only once keeps what it has read; nothing is made.
    #[must_use]
    pub fn journal(&self, source: &str) -> PathBuf {
        self.path.join(JOURNALS).join(file_name(source))
    }

    /// Makes a folder within that of the dead letters.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make_dead_letters(&self, folder: &Path) -> Result<(), StateError> {
        self.check_writable()?;
        disk::private_folder(&self.dead_letters())?;
        disk::private_folder(&disk::plain_path(folder))
    }

    /// Where dead letters go that no sink takes; nothing is made.
    #[must_use]
    pub fn dead_letters(&self) -> PathBuf {
        self.path.join(DEAD_LETTERS)
    }

    /// Where the retained results of a step are; nothing is made.
    #[must_use]
    pub fn retained(&self, step: &str) -> PathBuf {
        self.path.join(RETAINED).join(file_name(step))
    }

    pub(crate) fn checkpoints_path(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    pub(crate) fn live_path(&self) -> PathBuf {
        self.path.join(LIVE)
    }

    pub(crate) fn check_writable(&self) -> Result<(), StateError> {
        if self.lock.is_some() { Ok(()) } else { Err(StateError::ReadOnly { path: self.path.clone() }) }
    }

    /// Only the owner of the lock gets here, so whoever made these things is dead.
    fn clear_leftovers(&self) -> Result<(), StateError> {
        disk::remove_folder(&self.path.join(CHECKPOINTS_REMOVED))?;
        let checkpoints = self.checkpoints_path();
        for name in disk::names(&checkpoints)? {
            if crate::checkpoint::is_leftover(&name) {
                disk::remove_folder(&checkpoints.join(name))?;
            }
        }
        self.clear_live()?;
        ringmill_failpoint::hit("folder.cleared");
        Ok(())
    }

    fn clear_live(&self) -> Result<(), StateError> {
        let live = self.live_path();
        match fs::symlink_metadata(&live) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StateError::io("look at", &live)(error)),
            Ok(_) => disk::check_folder(&live)?,
        }
        for name in disk::names(&live)? {
            disk::remove_folder(&live.join(name))?;
        }
        Ok(())
    }
}

/// A file name for any text, another one for every other text.
fn file_name(text: &str) -> String {
    let mut name = String::new();
    for (index, byte) in text.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && index > 0) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    if name.is_empty() { "%".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_sink_is_one_file_name_of_its_own() {
        let names = ["", ".", "..", "a/b", "a%2fb", "out", "späť", "%", "a.b"];
        let mut files: Vec<String> = names.iter().map(|name| file_name(name)).collect();
        assert!(files.iter().all(|name| !name.contains('/') && !name.starts_with('.')));
        files.sort();
        files.dedup();
        assert_eq!(files.len(), names.len());
    }
}
