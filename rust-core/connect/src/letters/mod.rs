//! Dead letters in the built-in store: what is in it, what is taken out of it, and how its letters become rows again.
//!
//! The store of a source, step or sink is a folder of parts, one for each epoch that had any letters, one letter a line. A
//! letter is known by its part's epoch and its line ([`LetterId`]), and that stays so: a letter that is taken out leaves
//! an empty line behind, and a part goes when all of its lines are empty.
//!
//! Letters of sources and steps are committed with their epoch, as rows of a file sink; those of a sink are gathered while
//! its rows are sent ([`LetterStore`]).
//!
//! A [`LettersSpec`] is a source that reads letters: rows of a function or sink as they were when it refused them, records
//! of a source through the source's own decoder. Its [`Position`](crate::Position) says which letters it has taken
//! ([`TakenLetters`]). They are taken out of the store ([`take_out`]) when the checkpoint that says so is there, and until
//! then whoever reads the store with that position does not see them.

mod log;
mod part;
mod sent;
mod source;
mod taken;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

use crate::{ConnectError, staging::Staged};
pub use log::LetterStore;
pub(crate) use log::{Counted, LetterLog, Refusal};
pub(crate) use part::LetterBook;
pub(crate) use sent::Sent;
pub use source::{LetterForm, LettersSpec};
pub use taken::{TakenLetters, take_out};

/// Which letter of a source or step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// the epoch of its part
    pub epoch: u64,
    /// its line there, counted from 1
    pub line: u64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.line)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<LetterId, String> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
        let parts = text.split_once('-').and_then(|(epoch, line)| Some((number(epoch)?, number(line)?)));
        let (epoch, line) = parts.ok_or_else(|| format!("{text:?} is not EPOCH-LINE, for example 12-3"))?;
        Ok(LetterId { epoch, line })
    }
}

/// The columns of a letter, as [`dead_letter_schema`](crate::dead_letter_schema) has them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Letter {
    /// what is wrong with it
    pub reason: String,
    /// a traceback, for example
    #[serde(default)]
    pub detail: Option<String>,
    /// the partition it came from
    #[serde(default)]
    pub partition: Option<String>,
    /// where it stands in the partition
    #[serde(default)]
    pub offset: Option<u64>,
    /// the record, or the row as JSON, or as it was sent
    #[serde(default)]
    pub record: Option<String>,
    /// the record in base64, if it is not UTF-8
    #[serde(default)]
    pub record_bytes: Option<String>,
    /// how often the function was given the row, or the record was read
    #[serde(default)]
    pub attempts: Option<u32>,
    /// the row's key as JSON
    #[serde(default)]
    pub key: Option<String>,
    /// the source that it came from
    #[serde(default)]
    pub source: Option<String>,
    /// the record that a function's row was made of
    #[serde(default)]
    pub original: Option<String>,
    /// the same in base64, if it is not UTF-8
    #[serde(default)]
    pub original_bytes: Option<String>,
    /// why it is not there
    #[serde(default)]
    pub original_missing: Option<String>,
    /// the header by which the record is read, if its format has one
    #[serde(default)]
    pub header: Option<String>,
}

impl Letter {
    /// The bytes of the record, or of the row as JSON.
    fn record(&self) -> Option<Vec<u8>> {
        bytes_of(self.record.as_deref(), self.record_bytes.as_deref())
    }

    /// The bytes of the record that a function's row was made of.
    fn original(&self) -> Option<Vec<u8>> {
        bytes_of(self.original.as_deref(), self.original_bytes.as_deref())
    }
}

fn bytes_of(text: Option<&str>, base64: Option<&str>) -> Option<Vec<u8>> {
    text.map(|text| text.as_bytes().to_vec()).or_else(|| STANDARD.decode(base64?).ok())
}

/// The same the other way round: bytes as text, or in base64 if they are not UTF-8.
pub(crate) fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// Which letters of a source or step are meant; the default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// only these; empty: any
    pub ids: Vec<LetterId>,
    /// only those whose reason contains this
    pub reason: Option<String>,
    /// at most so many, the oldest ones
    pub limit: Option<usize>,
}

impl LetterFilter {
    /// Whether the letter is meant, whatever the limit.
    pub fn matches(&self, id: LetterId, letter: &Letter) -> bool {
        let is_named = self.ids.is_empty() || self.ids.contains(&id);
        is_named && self.reason.as_ref().is_none_or(|reason| letter.reason.contains(reason))
    }
}

/// Hands over the letters in a store's folder that were not taken, each with its line, in the order in which they were
/// committed. A part that is taken away meanwhile is passed over, and a folder that is not there is empty.
///
/// # Errors
/// What the file system says, [`ConnectError::ForeignLetter`], and what `visit` says.
pub fn for_each_letter<E: From<ConnectError>>(
    folder: &Path,
    taken: &TakenLetters,
    mut visit: impl FnMut(LetterId, Letter, &str) -> Result<(), E>,
) -> Result<(), E> {
    for (epoch, path) in part::parts(folder)? {
        part::for_each_line(&path, epoch, |id, _, line| {
            if taken.contains(id) { Ok(()) } else { visit(id, part::parse(&path, id, line)?, line) }
        })?;
    }
    Ok(())
}

/// For a store in `folder` that the checkpoint of `epoch` does not know, because another sink took the letters for a while:
/// what its sink would have staged for an epoch without letters. A sink that is opened with it keeps what is stored.
/// `None`: what is there is of a later epoch, and so of a pipeline that has begun anew since.
///
/// # Errors
/// What the file system says.
pub fn staged_without_letters(folder: &Path, epoch: u64) -> Result<Option<Value>, ConnectError> {
    if part::parts(folder)?.last().is_some_and(|(newest, _)| *newest > epoch) {
        return Ok(None);
    }
    Staged::Parts { epoch, files: Vec::new(), open: None }.to_value().map(Some)
}
