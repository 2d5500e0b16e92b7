//! Letters that were taken out of a store, or are to be.

use std::{collections::BTreeMap, io, os::unix::fs::PermissionsExt, path::Path};

use ringmill_failpoint::hit;
use serde::{Deserialize, Serialize};

use super::{LetterId, part};
use crate::{ConnectError, disk};

/// A set of letters: for each part the lines, as ranges (first and last) in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TakenLetters(BTreeMap<u64, Vec<(u64, u64)>>);

impl TakenLetters {
    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is one of them.
    pub fn contains(&self, id: LetterId) -> bool {
        self.0.get(&id.epoch).is_some_and(|lines| has(lines, id.line))
    }

    /// Adds a letter that stands behind all others.
    pub(super) fn push(&mut self, id: LetterId) {
        let lines = self.0.entry(id.epoch).or_default();
        match lines.last_mut() {
            Some((_, last)) if *last + 1 == id.line => *last = id.line,
            _ => lines.push((id.line, id.line)),
        }
    }

    /// How many ranges it has.
    pub(super) fn ranges(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

fn has(lines: &[(u64, u64)], line: u64) -> bool {
    let behind = lines.partition_point(|(first, _)| *first <= line);
    lines[..behind].last().is_some_and(|(_, last)| line <= *last)
}

/// Ends the name of a part that is to replace another. It begins with a dot, so that nobody takes it for a part.
const AGAIN: &str = ".taken";

/// Takes letters out of the store in `folder`, durably: those that are there. It may be done again and again, also after
/// having been killed in the middle.
///
/// # Errors
/// What the file system says; each part is as it was or as it is to be.
pub fn take_out(folder: &Path, taken: &TakenLetters) -> Result<(), ConnectError> {
    for (epoch, path) in part::parts(folder)? {
        let Some(lines) = taken.0.get(&epoch) else { continue };
        let written = || -> io::Result<()> {
            let (content, is_any_left) = part::without(&path, |line| has(lines, line))?;
            hit("letters.take_out");
            if !is_any_left {
                disk::remove(&path)?;
                hit("letters.part_removed");
                return disk::sync_folder(folder);
            }
            if content.len() as u64 == path.metadata()?.len() {
                return Ok(());
            }
            let again = folder.join(format!(".part-{epoch:010}{AGAIN}"));
            let file = disk::create(&again, path.metadata()?.permissions().mode() & 0o777)?;
            disk::write_at(&file, &content, 0)?;
            hit("letters.written");
            disk::sync(&file)?;
            disk::rename(&again, &path)?;
            hit("letters.renamed");
            disk::sync_folder(folder)
        };
        match written() {
            // Its reader has taken it away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.map_err(|source| ConnectError::Write { name: path.display().to_string(), source })?,
        }
    }
    Ok(())
}
