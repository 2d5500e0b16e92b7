//! Which partition reads which files, and from where.

use std::{fs::File, os::unix::fs::MetadataExt, path::PathBuf};

use super::rows::RowsPartition;
use crate::{
    ConnectError, FieldSpec, FileFormat, Journal, Partition, Position, Resume, Waker,
    journal::Journaled,
    text::{Part, TextOptions, TextPartition, of_stream},
};

/// One partition, not yet opened.
pub(super) struct FileShare {
    name: String,
    parts: Vec<Part>,
    /// it runs through several files
    has_several: bool,
    from: From,
}

/// How files are read whose rows are counted.
pub(super) struct RowsForm<'a> {
    pub format: &'a FileFormat,
    pub fields: &'a [FieldSpec],
    /// rows per second of a partition
    pub rate: Option<f64>,
}

enum From {
    /// the beginning
    Start,
    /// what a checkpoint says, in a file that is there; `moved` says where else that file may be
    Position { position: Position, ended: bool, moved: Option<String> },
    /// the end of a file that is not there any more
    Gone { position: Position, part: usize },
}

impl FileShare {
    /// A partition of which nothing has been read.
    pub fn new(name: String, parts: Vec<Part>, has_several: bool) -> FileShare {
        FileShare { name, parts, has_several, from: From::Start }
    }

    /// Whether nothing is to be expected from it.
    pub fn is_ended(&self) -> bool {
        matches!(self.from, From::Position { ended: true, .. } | From::Gone { .. })
    }

    pub fn open(
        self,
        options: &TextOptions,
        waker: &Waker,
        journal: Option<&Journal>,
    ) -> Result<TextPartition, ConnectError> {
        if let (Some(journal), [Part { regular: false, .. }]) = (journal, &self.parts[..]) {
            return self.open_stream(options, waker, journal);
        }
        let first = match &self.from {
            From::Start => 0,
            From::Position { position, .. } => current(position, &self.parts),
            From::Gone { .. } => self.parts.len(),
        };
        // Those that are still to be read from their beginning.
        let unread = if matches!(self.from, From::Start) { first } else { first + 1 };
        for part in self.parts.iter().skip(unread) {
            let alone = vec![part.clone()];
            TextPartition::of_parts(self.name.clone(), options, alone, false, waker.clone())?.check()?;
        }
        let mut partition = TextPartition::of_parts(self.name, options, self.parts, self.has_several, waker.clone())?;
        match self.from {
            From::Start => {}
            From::Gone { position, part } => partition.rest_at(&position, part),
            From::Position { position, moved, .. } => {
                partition.resume(&position).map_err(|error| with_place(error, moved))?;
            }
        }
        Ok(partition)
    }
}

impl FileShare {
    /// The same of files whose rows are counted.
    pub fn open_rows(self, form: &RowsForm<'_>) -> Result<Box<dyn Partition>, ConnectError> {
        let first = match &self.from {
            From::Start => 0,
            From::Position { position, .. } => current(position, &self.parts),
            From::Gone { .. } => self.parts.len(),
        };
        let of = |parts, has_several| {
            RowsPartition::new(self.name.clone(), (form.format, form.fields), form.rate, parts, has_several)
        };
        // Those that are still to be read from their beginning.
        let unread = if matches!(self.from, From::Start) { first } else { first + 1 };
        for part in self.parts.iter().skip(unread) {
            of(vec![part.clone()], false).check()?;
        }
        let mut partition = of(self.parts.clone(), self.has_several);
        match self.from {
            From::Start => {}
            From::Gone { position, part } => partition.rest_at(&position, part),
            From::Position { position, moved, .. } => {
                partition.resume(&position).map_err(|error| with_place(error, moved))?;
            }
        }
        Ok(Box::new(partition))
    }

    /// A FIFO: what the journal has behind the position comes first.
    fn open_stream(
        self,
        options: &TextOptions,
        waker: &Waker,
        journal: &Journal,
    ) -> Result<TextPartition, ConnectError> {
        let (name, path) = (self.name, self.parts[0].path.clone());
        let journal = journal.of_stream(&name)?;
        let journaled = Journaled::new(&journal, options.record_bytes_max, || of_stream(File::open(path)?));
        let mut partition = TextPartition::of_journal(&name, options, journaled, waker.clone())?;
        let position = match self.from {
            From::Position { position, .. } => position,
            From::Start | From::Gone { .. } => Position::default(),
        };
        if position.identity.is_some() {
            let reason = "it was a regular file, and is a pipe now".to_owned();
            return Err(ConnectError::Resume { partition: name, reason });
        }
        if !journal.is_emptied {
            partition.resume_journal(&position)?;
        }
        Ok(partition)
    }
}

/// Says where the file of a checkpoint is now that is not where it was.
fn with_place(error: ConnectError, moved: Option<String>) -> ConnectError {
    match (error, moved) {
        (ConnectError::Resume { partition, reason }, Some(moved)) => {
            ConnectError::Resume { partition, reason: format!("{reason}; the file of the checkpoint is {moved} now") }
        }
        (error, _) => error,
    }
}

/// The index of the file that the position is in.
fn current(position: &Position, parts: &[Part]) -> usize {
    let file = position.file.as_deref();
    parts.iter().position(|part| file == Some(&*part.name)).unwrap_or(0)
}

/// The partitions of a checkpoint among the files `found`, and the files that none of them has.
pub(super) fn plan(
    resume: &[Resume<'_>],
    found: &[Part],
    pattern: &str,
) -> Result<(Vec<FileShare>, Vec<Part>), ConnectError> {
    let mut shares: Vec<FileShare> = Vec::with_capacity(resume.len());
    for earlier in resume {
        if shares.iter().any(|share| share.name == earlier.name) {
            return Err(earlier.refuse("the checkpoint has it twice".to_owned()));
        }
        shares.push(share(earlier, found, pattern)?);
    }
    let is_known = |part: &Part| shares.iter().any(|share| share.parts.iter().any(|own| own.name == part.name));
    let new = found.iter().filter(|part| !is_known(part)).cloned().collect();
    Ok((shares, new))
}

fn share(earlier: &Resume<'_>, found: &[Part], pattern: &str) -> Result<FileShare, ConnectError> {
    let position = earlier.position()?;
    let has_several = !position.files.is_empty();
    let names = if has_several { position.files.clone() } else { vec![earlier.name.to_owned()] };
    let find = |name: &str| found.iter().find(|part| *part.name == *name).cloned();
    let missing = |name: &str| Part { path: PathBuf::from(name), name: name.into(), regular: true };
    let parts: Vec<Part> = names.iter().map(|name| find(name).unwrap_or_else(|| missing(name))).collect();
    let at = current(&position, &parts);
    let moved = moved(&position, &parts[at], found);
    let is_gone = |part: &Part| find(&part.name).is_none();
    // What lies before was read to its end, so nobody needs it.
    let gone = parts.iter().enumerate().skip(at).find(|(_, part)| is_gone(part));
    let from = match gone {
        None => From::Position { position, ended: earlier.ended, moved },
        Some((part, _)) if earlier.ended && part == at && at + 1 == parts.len() => From::Gone { position, part },
        Some((part, _)) => {
            let what = if part == at { "was not read to its end" } else { "was still to be read" };
            let hint = moved.filter(|_| part == at).map(|name| format!("; it is {name} now")).unwrap_or_default();
            let name = &parts[part].name;
            return Err(earlier.refuse(format!("{name} {what}, and no file of this name matches {pattern:?}{hint}")));
        }
    };
    Ok(FileShare { name: earlier.name.to_owned(), parts, has_several, from })
}

/// Under which other name the file of a position is found.
fn moved(position: &Position, part: &Part, found: &[Part]) -> Option<String> {
    let inode = position.identity?.inode;
    let is_it =
        |other: &&Part| other.name != part.name && other.path.metadata().is_ok_and(|metadata| metadata.ino() == inode);
    found.iter().find(is_it).map(|other| other.name.to_string())
}
