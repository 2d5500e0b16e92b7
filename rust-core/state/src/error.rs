//! What can go wrong with durable state.

use std::io;
use std::path::{Path, PathBuf};

use crate::lock::Owner;

/// Why something about durable state failed. `Display` is a fragment that fits after "failed to …: ".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// what was being done
        action: &'static str,
        /// to what
        path: PathBuf,
        /// the system's reason
        source: io::Error,
    },
    /// RocksDB refused something.
    #[error("cannot {action} the store {}: {message}", path.display())]
    Store {
        /// what was being done
        action: &'static str,
        /// the store's folder
        path: PathBuf,
        /// RocksDB's reason
        message: String,
    },
    /// A folder or file is not what this user may safely keep state in.
    #[error("{} {rule}", path.display())]
    Refused {
        /// the folder or file
        path: PathBuf,
        /// what is wrong with it
        rule: String,
    },
    /// Another process works with the folder.
    #[error("the state folder {} is in use by {}", path.display(), owner.as_ref().map_or("another process".to_owned(), Owner::to_string))]
    InUse {
        /// the folder
        path: PathBuf,
        /// who, if it said so and still lives
        owner: Option<Owner>,
    },
    /// The folder was opened for reading.
    #[error("the state folder {} was opened for reading only", path.display())]
    ReadOnly {
        /// the folder
        path: PathBuf,
    },
    /// A checkpoint is not as it was written.
    #[error("checkpoint {epoch} is damaged: {file} {reason}")]
    Damaged {
        /// which one
        epoch: u64,
        /// the damaged file, relative to the checkpoint's folder
        file: String,
        /// how it shows
        reason: String,
    },
    /// A checkpoint was written by a program that knows another format.
    #[error("checkpoint {epoch} has format {found}; this program reads format {known}")]
    Format {
        /// which one
        epoch: u64,
        /// its format
        found: u64,
        /// ours
        known: u32,
    },
    /// There is no such checkpoint.
    #[error("there is no checkpoint {epoch}")]
    Missing {
        /// which one
        epoch: u64,
    },
    /// There is such a checkpoint already.
    #[error("there is a checkpoint {epoch} already")]
    Exists {
        /// which one
        epoch: u64,
    },
    /// What is asked for contradicts a checkpoint, or its manifest contradicts itself.
    #[error("checkpoint {epoch} does not allow that: {reason}")]
    Manifest {
        /// which one
        epoch: u64,
        /// the contradiction
        reason: String,
    },
    /// An entry has a group that no shard owns.
    #[error(
        "an entry of node {node} has group {group}; groups are 0 to 1023, or {} for a whole shard",
        crate::key::WHOLE_SHARD
    )]
    Group {
        /// the node
        node: crate::key::NodeId,
        /// the group
        group: u16,
    },
    /// A store failed before and was not opened again.
    #[error("the store {} failed before and has to be opened again", path.display())]
    Broken {
        /// the store's folder
        path: PathBuf,
    },
    /// More nodes than there are numbers.
    #[error("there is no number left for node {name:?}: this state folder has seen {count} nodes")]
    Nodes {
        /// the node that got none
        name: String,
        /// nodes that there ever were
        count: usize,
    },
}

/// What RocksDB's messages say of a full disk: the text of its own sub-codes and the system's.
const OUT_OF_SPACE: [&str; 3] = ["No space left on device", "Disk quota exceeded", "Space limit reached"];

impl StateError {
    /// Whether it is over once there is room on the disk again.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        match self {
            StateError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            StateError::Store { message, .. } => OUT_OF_SPACE.iter().any(|text| message.contains(text)),
            _ => false,
        }
    }

    /// Whether a checkpoint (and not the machine, the program or the user) is to blame.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, StateError::Damaged { .. })
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
        move |source| StateError::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn store(action: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> StateError {
        move |error| StateError::Store { action, path: path.to_owned(), message: error.into_string() }
    }

    pub(crate) fn refused(path: &Path, rule: impl Into<String>) -> StateError {
        StateError::Refused { path: path.to_owned(), rule: rule.into() }
    }

    pub(crate) fn damaged(epoch: u64, file: &str, reason: impl Into<String>) -> StateError {
        StateError::Damaged { epoch, file: file.to_owned(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_errors_whoever_met_it() {
        let io = |code| StateError::io("write", Path::new("x"))(io::Error::from_raw_os_error(code));
        let store = |message: &str| StateError::Store { action: "copy", path: "x".into(), message: message.to_owned() };
        for (error, expected) in [
            (io(nix::libc::ENOSPC), true),
            (io(nix::libc::EDQUOT), true),
            (io(nix::libc::EIO), false),
            (store("IO error: No space left on device: While appending to file: x: No space left on device"), true),
            (store("IO error: While open a file for appending: x: Disk quota exceeded"), true),
            (store("IO error: Space limit reached"), true),
            (store("IO error: While fsync: x: Input/output error"), false),
            (store("Corruption: block checksum mismatch"), false),
            (StateError::Missing { epoch: 1 }, false),
        ] {
            assert_eq!(error.is_out_of_space(), expected, "{error}");
        }
    }
}
