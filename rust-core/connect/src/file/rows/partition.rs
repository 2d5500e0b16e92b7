//! The partition of such files.

use std::sync::Arc;

use ringmill_wire::BatchWriter;

use super::{RowFile, Trouble, guarded, open};
use crate::{
    ConnectError, FieldSpec, FileFormat, FileIdentity, Partition, Places, Poll, PollContext, Position,
    formats::{Records, Scratch, Stop},
    pace::{Pace, Paced},
    places::{Original, Tagger},
    text::{Part, Source},
};

/// A poll decodes at most so often, so that files of dead letters cannot hold up the shard.
const LOADS_PER_POLL: usize = 4;

/// Rows from files one after the other.
pub struct RowsPartition {
    name: String,
    format: FileFormat,
    fields: Vec<FieldSpec>,
    pace: Pace,
    scratch: Scratch,
    /// whether positions name the file
    names_file: bool,
    parts: Vec<Part>,
    /// index of the file being read
    part: usize,
    file: Option<OpenFile>,
    has_ended: bool,
    /// number of the next row in the file
    row: u64,
    /// of the file that was read to its end
    identity: Option<FileIdentity>,
    /// records consumed
    rows: u64,
    tagger: Option<Tagger>,
}

struct OpenFile {
    rows: Box<dyn RowFile>,
    identity: Option<FileIdentity>,
}

impl RowsPartition {
    /// Reads these files one after the other.
    pub fn new(
        name: String,
        (format, fields): (&FileFormat, &[FieldSpec]),
        rate: Option<f64>,
        parts: Vec<Part>,
        names_file: bool,
    ) -> RowsPartition {
        RowsPartition {
            name,
            format: format.clone(),
            fields: fields.to_vec(),
            pace: Pace::new(rate),
            scratch: Scratch::default(),
            names_file,
            parts,
            part: 0,
            file: None,
            has_ended: false,
            row: 0,
            identity: None,
            rows: 0,
            tagger: None,
        }
    }

    /// Looks at the first file, and lets it go again.
    pub fn check(&mut self) -> Result<(), ConnectError> {
        let Some(part) = self.parts.first() else { return Ok(()) };
        self.check_regular(part)?;
        self.enter(0, 0)?;
        self.file = None;
        Ok(())
    }

    /// Nothing else may be opened: a FIFO would wait for who writes into it.
    fn check_regular(&self, part: &Part) -> Result<(), ConnectError> {
        if part.regular {
            return Ok(());
        }
        let reason = format!("{} is read in blocks, so it must be a regular file", self.format.name());
        Err(ConnectError::Damaged { name: part.name.to_string(), row: 0, reason })
    }

    /// Goes on behind `position`, where this is still the file of the checkpoint; the error says what differs.
    pub fn resume(&mut self, position: &Position) -> Result<(), ConnectError> {
        let refuse = |name: &str, reason| ConnectError::Resume { partition: name.to_owned(), reason };
        let file = position.file.as_deref();
        let part = file.map_or(Some(0), |file| self.parts.iter().position(|part| *part.name == *file));
        let part = part.ok_or_else(|| refuse(&self.name, format!("its file {file:?} is not among the files")))?;
        let Some(part) = self.parts.get(part) else { return self.seek(position) };
        self.check_regular(part)?;
        if let Some(identity) = &position.identity {
            let Part { path, name, .. } = part;
            let checked = Source::open(path).and_then(|source| source.check(identity, identity.head_bytes));
            let checked = checked.map_err(|error| error.to_string()).and_then(|checked| checked);
            checked.map_err(|reason| refuse(&self.name, format!("{name}: {reason}")))?;
        }
        self.seek(position)
    }

    /// Where the partition of a file stood that nobody can read any more, and that had been read to its end.
    pub fn rest_at(&mut self, position: &Position, part: usize) {
        (self.part, self.has_ended) = (part, true);
        (self.row, self.rows, self.identity) = (position.offset, position.rows, position.identity);
    }

    /// Opens file `part` at this row.
    fn enter(&mut self, part: usize, row: u64) -> Result<(), ConnectError> {
        (self.part, self.row, self.has_ended, self.identity) = (part, row, false, None);
        if let Some(tagger) = &mut self.tagger {
            tagger.leave();
        }
        let Part { path, name, .. } = &self.parts[part];
        let opened = open(path, &self.format, &self.fields).and_then(|mut rows| {
            if row > 0 {
                guarded(|| rows.seek(row))?;
            }
            Ok(rows)
        });
        let rows = opened.map_err(|trouble| match trouble {
            Trouble::Io(source) => ConnectError::Open { path: path.clone(), source },
            other => other.of(name, row),
        })?;
        // All of its head is known from the beginning.
        let identity = Source::open(path).and_then(|source| source.identity(u64::MAX)).ok();
        self.file = Some(OpenFile { rows, identity });
        Ok(())
    }
}

impl Paced for RowsPartition {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn read(
        &mut self,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        wanted: u32,
    ) -> Result<Poll, ConnectError> {
        let (mut left, mut loads) = (wanted, 0);
        loop {
            let Some(OpenFile { rows, identity }) = &mut self.file else { return Ok(Poll::End) };
            let name = &self.parts[self.part].name;
            if rows.row() == rows.loaded().end {
                if loads == LOADS_PER_POLL {
                    return Ok(Poll::Rows);
                }
                loads += 1;
                if !guarded(|| rows.load()).map_err(|trouble| trouble.of(name, self.row))? {
                    if self.part + 1 < self.parts.len() {
                        self.enter(self.part + 1, 0)?;
                        continue;
                    }
                    (self.identity, self.has_ended, self.file) = (*identity, true, None);
                    return Ok(Poll::End);
                }
            }
            let loaded = rows.loaded();
            let tag = self
                .tagger
                .as_mut()
                .map_or(0, |tagger| tagger.tag(loaded.start, loaded.end, || (Arc::clone(name), Original::None)));
            let mut records = Records::new(out, context, name, &self.fields, &mut self.scratch, left);
            (records.offset, records.tag) = (loaded.start, tag);
            let given = rows.give(&mut records);
            let consumed = records.consumed;
            left -= consumed;
            self.rows += u64::from(consumed);
            self.row = rows.row();
            match given {
                Ok(()) => {}
                Err(Stop::Full) => return Ok(Poll::Full),
                Err(Stop::Budget | Stop::NeedMore) => return Ok(Poll::Rows),
            }
        }
    }
}

impl Partition for RowsPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if self.has_ended || self.parts.is_empty() {
            return Ok(Poll::End);
        }
        if self.file.is_none() {
            self.enter(self.part, self.row)?;
        }
        self.read_at_pace(out, context)
    }

    fn position(&self) -> Position {
        let name = || self.parts.get(self.part).map(|part| Arc::clone(&part.name));
        let files = if self.names_file { &self.parts[..] } else { &[] };
        let open = self.file.as_ref().filter(|_| self.row > 0);
        Position {
            offset: self.row,
            rows: self.rows,
            file: self.names_file.then(name).flatten(),
            files: files.iter().map(|part| part.name.to_string()).collect(),
            identity: self.identity.or(open.and_then(|open| open.identity)),
            ..Position::default()
        }
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.tagger = Some(Tagger::new(places, source));
    }

    fn seek(&mut self, position: &Position) -> Result<(), ConnectError> {
        let file = position.file.as_deref();
        let part = file.map_or(Some(0), |file| self.parts.iter().position(|part| *part.name == *file));
        let refuse =
            |reason: String| ConnectError::Seek { partition: self.name.clone(), offset: position.offset, reason };
        let part = part.ok_or_else(|| refuse(format!("its file {file:?} is not among the files")))?;
        self.enter(part, position.offset)?;
        self.rows = position.rows;
        self.pace.restart();
        Ok(())
    }
}
