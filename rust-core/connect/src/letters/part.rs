//! The files of a store.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Letter, LetterId};
use crate::{
    ConnectError,
    file::part_epoch,
    places::{Origin, Trace, Tried},
};

/// The parts of a folder with their epochs, the oldest first.
pub(super) fn parts(folder: &Path) -> Result<Vec<(u64, PathBuf)>, ConnectError> {
    let failed = |source| ConnectError::Open { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let epoch = entry.file_name().to_str().and_then(part_epoch);
        parts.extend(epoch.map(|epoch| (epoch, entry.path())));
    }
    parts.sort();
    Ok(parts)
}

/// Hands over the lines of a part that are not empty, each with its place in the file; one that is gone has none.
pub(super) fn for_each_line<E: From<ConnectError>>(
    path: &Path,
    epoch: u64,
    mut visit: impl FnMut(LetterId, u64, &str) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |source| ConnectError::Open { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let (mut reader, mut text, mut at) = (BufReader::new(file), String::new(), 0);
    for line in 1.. {
        text.clear();
        let bytes = reader.read_line(&mut text).map_err(failed)?;
        if bytes == 0 {
            break;
        }
        let whole = text.trim_end_matches(['\n', '\r']);
        if !whole.is_empty() {
            visit(LetterId { epoch, line }, at, whole)?;
        }
        at += bytes as u64;
    }
    Ok(())
}

/// The letter on a line.
pub(super) fn parse(path: &Path, id: LetterId, line: &str) -> Result<Letter, ConnectError> {
    serde_json::from_str(line).map_err(|error| ConnectError::ForeignLetter {
        path: path.to_owned(),
        line: id.line,
        reason: error.to_string(),
    })
}

/// Where a letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub id: LetterId,
    /// of its line in the part
    pub offset: u64,
}

/// The letters that were chosen from a store, in their order.
#[derive(Debug)]
pub(crate) struct LetterBook {
    folder: PathBuf,
    /// the source or step that they are of
    origin: Arc<str>,
    /// they are records of a source
    are_records: bool,
    pub(super) places: Vec<Place>,
}

/// Reads the letters of a book; fastest in their order.
#[derive(Debug, Default)]
pub(super) struct Pages {
    open: Option<(u64, u64, BufReader<File>)>,
    line: String,
}

impl Pages {
    /// The letter at a place; `None`: its part was taken away.
    pub fn read(&mut self, folder: &Path, place: Place) -> Result<Option<Letter>, ConnectError> {
        let path = folder.join(format!("part-{:010}.json", place.id.epoch));
        let failed = |source: io::Error| ConnectError::Open { path: path.clone(), source };
        let (mut at, mut reader) = match self.open.take().filter(|(epoch, ..)| *epoch == place.id.epoch) {
            Some((_, at, reader)) => (at, reader),
            None => match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                opened => (0, BufReader::new(opened.map_err(failed)?)),
            },
        };
        if at != place.offset {
            reader.seek(SeekFrom::Start(place.offset)).map_err(failed)?;
            at = place.offset;
        }
        self.line.clear();
        at += reader.read_line(&mut self.line).map_err(failed)? as u64;
        self.open = Some((place.id.epoch, at, reader));
        parse(&path, place.id, self.line.trim_end_matches(['\n', '\r'])).map(Some)
    }
}

impl LetterBook {
    pub(super) fn new(folder: &Path, origin: &str, are_records: bool, places: Vec<Place>) -> LetterBook {
        LetterBook { folder: folder.to_owned(), origin: origin.into(), are_records, places }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is known of the row that was made of letter number `index`.
    pub fn trace(&self, index: u64) -> Trace {
        let place = usize::try_from(index).ok().and_then(|index| self.places.get(index));
        // Read for itself: this is for rows that fail again, and the file is most likely in memory.
        let read = place.map(|place| Pages::default().read(&self.folder, *place));
        let Some(Ok(Some(letter))) = read else { return Trace::default() };
        self.trace_of(letter)
    }

    fn trace_of(&self, letter: Letter) -> Trace {
        let tried = letter.attempts.filter(|_| !self.are_records);
        let tried = tried.map(|attempts| Tried { step: Arc::clone(&self.origin), attempts });
        let source = if self.are_records { Some(&*self.origin) } else { letter.source.as_deref() };
        let record =
            match (if self.are_records { letter.record() } else { letter.original() }, &letter.original_missing) {
                (Some(record), _) => Ok(Some(record)),
                (None, Some(reason)) => Err(reason.clone()),
                (None, None) => Ok(None),
            };
        let place = source.zip(letter.partition.as_deref()).zip(letter.offset);
        let origin = place.map(|((source, partition), offset)| Origin {
            source: source.into(),
            partition: partition.into(),
            offset,
            record,
        });
        Trace { origin, tried }
    }
}

/// The content of a part without the lines that were taken, and whether any letter is left.
pub(super) fn without(path: &Path, is_taken: impl Fn(u64) -> bool) -> io::Result<(Vec<u8>, bool)> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    let (mut left, mut is_any_left) = (Vec::with_capacity(content.len()), false);
    for (line, bytes) in (1..).zip(content.split_inclusive(|byte| *byte == b'\n')) {
        if is_taken(line) {
            left.push(b'\n');
        } else {
            is_any_left |= bytes.iter().any(|byte| !byte.is_ascii_whitespace());
            left.extend_from_slice(bytes);
        }
    }
    Ok((left, is_any_left))
}
