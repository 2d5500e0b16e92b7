//! Dead letters in the built-in store: a folder for each source and step in the state folder, and in it a file for each
//! epoch that had any, one letter a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use ringmill_engine::plan::dead_letter_store::{folder, root};
use serde::Deserialize;

/// The columns of a letter, as the engine's dead letter schema has them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Letter {
    /// What is wrong with it.
    pub reason: String,
    /// A traceback, for example.
    #[serde(default)]
    pub detail: Option<String>,
    /// The partition it came from.
    #[serde(default)]
    pub partition: Option<String>,
    /// Where it stands in the partition.
    #[serde(default)]
    pub offset: Option<u64>,
    /// The record, or the row as JSON.
    #[serde(default)]
    pub record: Option<String>,
    /// The record in base64, if it is not UTF-8.
    #[serde(default)]
    pub record_bytes: Option<String>,
    /// How often the function was given the row.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// The row's key as JSON.
    #[serde(default)]
    pub key: Option<String>,
    /// The source that it came from.
    #[serde(default)]
    pub source: Option<String>,
    /// The record that a function's row was made of.
    #[serde(default)]
    pub original: Option<String>,
    /// The same in base64, if it is not UTF-8.
    #[serde(default)]
    pub original_bytes: Option<String>,
    /// Why it is not there.
    #[serde(default)]
    pub original_missing: Option<String>,
}

/// Why letters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// The file system says no.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}, line {line}: this is no dead letter: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Sources and steps that have a folder in the store, sorted by name.
///
/// # Errors
/// What the file system says; a store that is not there is empty.
pub fn origins(state: &Path) -> Result<Vec<String>, LettersError> {
    Ok(names(&root(state))?.into_iter().filter(|name| !name.starts_with('.')).collect())
}

/// Hands over the letters of a source or step, each with its line, in the order in which they were committed.
/// A part that is taken away meanwhile is passed over.
///
/// # Errors
/// What the file system says, and what `visit` says.
pub fn for_each<E: From<LettersError>>(
    state: &Path,
    origin: &str,
    mut visit: impl FnMut(Letter, &str) -> Result<(), E>,
) -> Result<(), E> {
    let folder = folder(state, origin);
    // Names carry the epoch with leading zeros, so this is the order of the epochs.
    for name in names(&folder)?.into_iter().filter(|name| name.starts_with("part-")) {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.map_err(|source| LettersError::Unreadable { path: path.clone(), source })?,
        };
        for (index, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|source| LettersError::Unreadable { path: path.clone(), source })?;
            let letter = serde_json::from_str(&line).map_err(|error| LettersError::Foreign {
                path: path.clone(),
                line: index + 1,
                reason: error.to_string(),
            })?;
            visit(letter, &line)?;
        }
    }
    Ok(())
}

fn names(path: &Path) -> Result<Vec<String>, LettersError> {
    let unreadable = |source| LettersError::Unreadable { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
