//! A process under the library that watches its files, and the log of it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::record::{Kind, Record};

/// The folder to be watched and where the log is to be.
pub struct Watched<'a> {
    /// The folder; it is there.
    pub root: &'a Path,
    /// The log, outside of it; one that is there is removed.
    pub log: &'a Path,
}

impl Watched<'_> {
    /// Lets `command` run under the library, in this mode (`record`, `lie`, `fail:…`).
    pub fn watch(&self, command: &mut Command, mode: &str) {
        let _ = std::fs::remove_file(self.log);
        command.env("LD_PRELOAD", library());
        command.env("RINGMILL_DISK_ROOT", self.root);
        command.env("RINGMILL_DISK_LOG", self.log);
        command.env("RINGMILL_DISK_MODE", mode);
    }
}

/// The library: `RINGMILL_DISK_SHIM`, else the one that was built with this test.
fn library() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGMILL_DISK_SHIM") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let deps = test.parent().expect("tests lie in target/release/deps");
    let places = [deps.join("..").join(NAME), deps.join(NAME)];
    let found = places.iter().filter_map(|path| Some((std::fs::metadata(path).ok()?.modified().ok()?, path)));
    let newest = found.max().map(|(_, path)| path.canonicalize().expect("it is there"));
    newest.expect("the library is built (cargo build --release -p ringmill-disk-shim)")
}

const NAME: &str = "libringmill_disk_shim.so";

/// A log in memory.
pub struct Recording(Vec<u8>);

impl Recording {
    /// Reads it.
    ///
    /// # Panics
    /// If there is none: the process was not watched.
    #[must_use]
    pub fn read(log: &Path) -> Recording {
        Recording(std::fs::read(log).expect("a watched process makes a log"))
    }

    /// Its records.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        records(&self.0)
    }

    /// How many there are of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.records().filter(|record| record.kind == kind).count()
    }
}

/// The records of a log.
pub fn records(mut log: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || Record::decode(&mut log))
}

/// Which checkpoints were acknowledged at some point of a log: renamed into place with an fsync of the folder around
/// after that, and not pruned yet.
#[derive(Debug, Default)]
pub struct Acknowledged {
    handles: HashMap<u32, PathBuf>,
    renamed: BTreeSet<u64>,
    durable: BTreeSet<u64>,
}

impl Acknowledged {
    /// These were durable before the log began.
    #[must_use]
    pub fn of(epochs: BTreeSet<u64>) -> Acknowledged {
        Acknowledged { durable: epochs, ..Acknowledged::default() }
    }

    /// Takes note of a record. A sync that was a lie counts: the process was told that it succeeded.
    pub fn note(&mut self, record: &Record<'_>) {
        let path = |bytes: &[u8]| PathBuf::from(String::from_utf8_lossy(bytes).into_owned());
        match record.kind {
            Kind::Open => {
                self.handles.insert(record.handle, path(record.path));
            }
            Kind::Rename => {
                let (from, to) = (path(record.path), path(record.other));
                if let Some(epoch) = epoch(&from) {
                    self.renamed.remove(&epoch);
                    self.durable.remove(&epoch);
                }
                self.renamed.extend(epoch(&to));
            }
            Kind::Sync | Kind::SyncLied => {
                let is_theirs = self.handles.get(&record.handle).is_some_and(|path| path.ends_with("checkpoints"));
                if is_theirs {
                    self.durable.extend(&self.renamed);
                }
            }
            _ => {}
        }
    }

    /// Their epochs.
    #[must_use]
    pub fn epochs(&self) -> &BTreeSet<u64> {
        &self.durable
    }
}

/// The epoch of a checkpoint's folder.
fn epoch(path: &Path) -> Option<u64> {
    let is_theirs = path.parent()?.ends_with("checkpoints");
    path.file_name()?.to_str()?.parse().ok().filter(|_| is_theirs)
}
