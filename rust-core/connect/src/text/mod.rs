//! A partition of text: bytes in, rows and dead letters out. Serves files, FIFOs and standard input.
//!
//! Every record (line, in JSON) becomes one row or one dead letter; empty lines are nothing. A byte-order mark, CRLF and
//! a last line without its end are accepted. One reused buffer holds what was read and not yet consumed; it grows only
//! for a record that it cannot hold, and not beyond what `record_bytes_max` asks for.

mod ahead;
mod content;
mod feed;

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ringmill_wire::BatchWriter;

use crate::{
    ConnectError, Fields, FileIdentity, Format, Partition, Poll, PollContext, Position, TakenLetters, Waker,
    formats::{BROKEN_OFF, Decoder, Records, Scratch, Stop},
    journal::Journaled,
    pace::{Pace, Paced},
    places::{Form, Original, Places, Tagger},
};
use ahead::Ahead;
use feed::Feed;

pub(crate) use ahead::{Decoders, memory_bytes as ahead_memory_bytes};
pub(crate) use content::{Content, Source, of_stream};
pub(crate) use feed::{Fed, Outlet, Piece, ReaderThread, Stream};

/// Bytes read at a time from regular files: large enough to drown the system call, small enough for the second-level cache.
const READ_BYTES: usize = 256 << 10;
/// A poll reads at most so often, so that a stretch without records (a line of gigabytes) cannot hold up the shard.
const READS_PER_POLL: usize = 4;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One file of a partition.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub path: PathBuf,
    pub name: Arc<str>,
    /// can be read again from any place
    pub regular: bool,
}

/// What text partitions have in common with each other.
#[derive(Debug, Clone)]
pub(crate) struct TextOptions {
    pub format: Format,
    pub fields: Fields,
    /// rows per second of this partition
    pub rate: Option<f64>,
    pub record_bytes_max: usize,
}

impl TextOptions {
    /// Refuses what no stream could be read with.
    pub fn check(&self) -> Result<(), ConnectError> {
        if !(1..=1 << 30).contains(&self.record_bytes_max) {
            return Err(ConnectError::Spec {
                option: "record_bytes_max",
                value: self.record_bytes_max.to_string(),
                rule: "it must lie between 1 byte and 1 GiB",
            });
        }
        if let Some(rate) = self.rate
            && !(rate.is_finite() && rate > 0.0)
        {
            return Err(ConnectError::Spec {
                option: "rate",
                value: rate.to_string(),
                rule: "it must be more than 0 rows per second",
            });
        }
        Ok(())
    }
}

/// How one of a journal's streams came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Boundary {
    /// it was read to its end
    Ended,
    /// the process that read it died, or read it no more
    Cut,
}

/// Text from files one after the other, or from one stream.
pub(crate) struct TextPartition {
    name: String,
    fields: Fields,
    decoder: Decoder,
    pace: Pace,
    scratch: Scratch,
    record_bytes_max: usize,
    waker: Waker,
    /// whether positions name the file
    names_file: bool,
    parts: Vec<Part>,
    /// index of the file being read
    part: usize,
    feed: Option<Feed>,
    /// who may decode regular files ahead
    decoders: Option<Arc<Decoders>>,
    /// instead of `feed`, while they do
    ahead: Option<Ahead>,
    /// the regular file being read
    source: Option<Source>,
    /// of the file that was read to its end
    identity: Option<FileIdentity>,
    /// through which the stream is read
    journal: Option<Journaled>,
    /// makes the tags of its rows, if they carry any
    tagger: Option<Tagger>,
    /// of the file or stream being read, if its format has one
    header: Option<Arc<str>>,
    /// what is in the buffer is the rest of one of a journal's streams, and another one follows
    boundary: Option<Boundary>,
    /// why it cannot be read on, which the next poll tells
    fault: Option<ConnectError>,
    /// records that its stream lost, of a stream that may lose any
    dropped: Option<Arc<AtomicU64>>,
    /// `buffer[start..end]` is read and not consumed
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// the feed has nothing more
    ended: bool,
    /// a byte-order mark may come
    at_start: bool,
    /// offset of `buffer[start]` in the content
    offset: u64,
    /// records consumed
    rows: u64,
}

impl TextPartition {
    /// Reads these files one after the other.
    pub fn of_parts(
        name: String,
        options: &TextOptions,
        parts: Vec<Part>,
        names_file: bool,
        waker: Waker,
    ) -> Result<TextPartition, ConnectError> {
        options.check()?;
        Ok(TextPartition {
            name,
            decoder: Decoder::new(options.format, &options.fields, options.record_bytes_max)?,
            fields: options.fields.clone(),
            pace: Pace::new(options.rate),
            scratch: Scratch::default(),
            record_bytes_max: options.record_bytes_max,
            waker,
            names_file,
            parts,
            part: 0,
            feed: None,
            decoders: None,
            ahead: None,
            source: None,
            identity: None,
            journal: None,
            tagger: None,
            header: None,
            boundary: None,
            fault: None,
            dropped: None,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            ended: false,
            at_start: true,
            offset: 0,
            rows: 0,
        })
    }

    /// Reads a stream that comes only once.
    pub fn of_stream<S: Stream>(
        name: &str,
        options: &TextOptions,
        open: impl FnOnce() -> io::Result<S> + Send + 'static,
        waker: Waker,
    ) -> Result<TextPartition, ConnectError> {
        let part = Part { path: PathBuf::new(), name: Arc::from(name), regular: false };
        let mut partition = TextPartition::of_parts(name.to_owned(), options, vec![part], false, waker.clone())?;
        let thread = ReaderThread::start(open, waker).map_err(|source| partition.read_error(source))?;
        partition.feed = Some(Feed::Thread(thread));
        Ok(partition)
    }

    /// Reads a stream through its journal: it can be read again from any offset that was not acknowledged.
    pub fn of_journal(
        name: &str,
        options: &TextOptions,
        journal: Journaled,
        waker: Waker,
    ) -> Result<TextPartition, ConnectError> {
        let part = Part { path: PathBuf::new(), name: Arc::from(name), regular: false };
        let mut partition = TextPartition::of_parts(name.to_owned(), options, vec![part], false, waker)?;
        partition.journal = Some(journal);
        Ok(partition)
    }

    /// Its stream counts there what it loses.
    pub fn count_dropped(&mut self, dropped: Arc<AtomicU64>) {
        self.dropped = Some(dropped);
    }

    /// Long regular files are decoded with the help of these threads.
    pub fn decode_with(&mut self, decoders: &Arc<Decoders>) {
        self.decoders = Some(Arc::clone(decoders));
    }

    /// Goes on behind `position`, which the journal must have.
    pub fn resume_journal(&mut self, position: &Position) -> Result<(), ConnectError> {
        if let Some(journal) = &self.journal {
            journal.check_resume(&self.name, position.offset)?;
        }
        self.seek(position)
    }

    /// Reads the header of the first file, if it is a regular one, so that what is wrong with it is found before the
    /// run starts.
    pub fn check(&mut self) -> Result<(), ConnectError> {
        let Some(part) = self.parts.first() else {
            return Ok(());
        };
        if !part.regular {
            return Ok(());
        }
        let opened = File::open(&part.path).map(drop);
        opened.map_err(|source| ConnectError::Open { path: part.path.clone(), source })?;
        if self.decoder.needs_header() {
            self.enter(0, 0)?;
            while !self.begin()? && !self.ended {
                self.fill()?;
            }
            self.close();
        }
        Ok(())
    }

    fn current(&self) -> &str {
        self.parts.get(self.part).map_or(&self.name, |part| &part.name)
    }

    fn read_error(&self, source: io::Error) -> ConnectError {
        ConnectError::Read {
            name: self.current().to_owned(),
            offset: self.offset + (self.end - self.start) as u64,
            source,
        }
    }

    /// Opens file `part` at `offset`.
    fn enter(&mut self, part: usize, offset: u64) -> Result<(), ConnectError> {
        self.part = part;
        (self.start, self.end) = (0, 0);
        self.ended = false;
        self.at_start = offset == 0;
        self.offset = offset;
        self.decoder.restart(offset == 0);
        self.identity = None;
        self.ahead = None;
        self.leave_place();
        let Part { path, regular, .. } = &self.parts[part];
        let feed = if *regular {
            let content = Source::open(path).and_then(|source| {
                let content = source.content(offset);
                self.source = Some(source);
                content
            });
            content.map(Feed::Inline)
        } else {
            let path = path.clone();
            let open = move || of_stream(File::open(path)?);
            ReaderThread::start(open, self.waker.clone()).map(Feed::Thread)
        };
        self.feed = Some(feed.map_err(|source| self.read_error(source))?);
        Ok(())
    }

    /// Begins to read what is behind `offset`.
    fn open_feed(&mut self) -> Result<(), ConnectError> {
        let Some(journal) = &mut self.journal else { return self.enter(self.part, self.offset) };
        let thread = journal.start(self.offset, self.waker.clone());
        self.feed = Some(Feed::Thread(thread.map_err(|source| self.read_error(source))?));
        Ok(())
    }

    /// Frees what an open file holds; it is as if nothing had been read.
    fn close(&mut self) {
        (self.feed, self.ahead, self.source) = (None, None, None);
        self.buffer = Vec::new();
        (self.start, self.end) = (0, 0);
        self.offset = 0;
        self.decoder.restart(true);
    }

    /// Takes byte-order mark and header; `false` if more bytes are needed.
    fn begin(&mut self) -> Result<bool, ConnectError> {
        if self.at_start {
            if self.end - self.start < BYTE_ORDER_MARK.len() && !self.ended {
                return Ok(false);
            }
            self.at_start = false;
            if self.buffer[self.start..self.end].starts_with(BYTE_ORDER_MARK) {
                self.consume(BYTE_ORDER_MARK.len());
            }
        }
        if self.decoder.needs_header() {
            let name = self.parts.get(self.part).map_or(&*self.name, |part| &part.name);
            let bytes = &self.buffer[self.start..self.end];
            let at_end = self.ended && !self.is_cut();
            match self.decoder.take_header(bytes, at_end, name)? {
                Some(length) => {
                    if !self.decoder.needs_header() {
                        self.header = Some(String::from_utf8_lossy(&bytes[..length]).into());
                    }
                    self.consume(length);
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }

    /// Reads more behind what is there.
    fn fill(&mut self) -> Result<Fed, ConnectError> {
        let Some(feed) = &mut self.feed else {
            return Ok(Fed::End);
        };
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.is_empty() {
            self.buffer.resize(READ_BYTES, 0);
        } else if self.buffer.len() - self.end < READ_BYTES / 4 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match feed.read(&mut self.buffer[self.end..]) {
            Ok(fed) => {
                match fed {
                    Fed::Bytes(count) => self.end += count,
                    Fed::End => self.ended = true,
                    Fed::Boundary { is_cut } => {
                        self.ended = true;
                        self.boundary = Some(if is_cut { Boundary::Cut } else { Boundary::Ended });
                    }
                    Fed::Pending => {}
                }
                Ok(fed)
            }
            Err(source) => Err(self.read_error(source)),
        }
    }

    fn is_cut(&self) -> bool {
        self.boundary == Some(Boundary::Cut)
    }

    /// Makes the beginning of a record at which a stream broke off a dead letter; `false`: there is no room for it now.
    fn bury_rest(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> bool {
        let rest = &self.buffer[self.start..self.end];
        if !rest.iter().all(u8::is_ascii_whitespace) {
            if !context.dead.has_room() {
                return false;
            }
            let mut records = Records::new(out, context, &self.name, &self.fields, &mut self.scratch, 1);
            (records.offset, records.header) = (self.offset, self.header.as_deref());
            records.row.reason.clear();
            records.row.reason.push_str(BROKEN_OFF);
            records.bury(0, &rest[..rest.len().min(self.record_bytes_max)]);
            self.rows += 1;
        }
        self.consume(self.end - self.start);
        true
    }

    /// Goes on to the next file or stream; `false` if there is none.
    fn next_part(&mut self) -> Result<bool, ConnectError> {
        if self.boundary.take().is_some() {
            self.consume(self.end - self.start);
            (self.ended, self.at_start, self.header) = (false, true, None);
            self.leave_place();
            self.decoder.restart(true);
            return Ok(true);
        }
        if self.part + 1 < self.parts.len() {
            self.enter(self.part + 1, 0)?;
            return Ok(true);
        }
        self.identity = self.identity();
        (self.feed, self.source) = (None, None);
        self.buffer = Vec::new();
        (self.start, self.end) = (0, 0);
        Ok(false)
    }

    /// Decodes what is in the buffer; how many records that consumed, and why it stopped.
    fn decode(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>, records_max: u32) -> (u32, Stop) {
        let tag = self.tag(self.offset + (self.end - self.start) as u64);
        let partition = self.parts.get(self.part).map_or(&*self.name, |part| &part.name);
        let mut records = Records::new(out, context, partition, &self.fields, &mut self.scratch, records_max);
        (records.offset, records.tag, records.header) = (self.offset, tag, self.header.as_deref());
        let bytes = &self.buffer[self.start..self.end];
        let at_end = self.ended && self.boundary != Some(Boundary::Cut);
        let progress = self.decoder.decode(bytes, at_end, &mut records);
        let consumed = records.consumed;
        self.consume(progress.consumed);
        self.rows += u64::from(consumed);
        (consumed, progress.stop)
    }

    /// The tag of a row whose record begins at `offset`, from which those up to `end` are counted; 0 if rows carry none.
    fn tag(&mut self, end: u64) -> u64 {
        let Some(tagger) = &mut self.tagger else { return 0 };
        tagger.tag(self.offset, end, || {
            let form = Form { format: self.decoder.format(), record_bytes_max: self.record_bytes_max };
            let part = self.parts.get(self.part);
            let original = match (&self.journal, &self.source, part) {
                (Some(journal), ..) => Original::Journal { folder: journal.folder().to_owned(), form },
                (None, Some(source), Some(Part { path, .. })) => {
                    // A file of which nothing can be found out has no inode of this number.
                    let inode = source.file().metadata().map_or(0, |metadata| metadata.ino());
                    Original::File { path: path.clone(), inode, form }
                }
                _ => Original::Stream,
            };
            (part.map_or_else(|| self.name.as_str().into(), |part| Arc::clone(&part.name)), original)
        })
    }

    fn leave_place(&mut self) {
        if let Some(tagger) = &mut self.tagger {
            tagger.leave();
        }
    }

    fn read_records(
        &mut self,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        mut left: u32,
    ) -> Result<Poll, ConnectError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let wanted = left;
        let mut reads = 0;
        loop {
            if self.begin()? {
                let (consumed, stop) = self.decode(out, context, left);
                left -= consumed;
                match stop {
                    Stop::Budget => return Ok(Poll::Rows),
                    Stop::Full => return Ok(Poll::Full),
                    Stop::NeedMore => {}
                }
            }
            if self.ended {
                if self.is_cut() && (left == 0 || !self.bury_rest(out, context)) {
                    return Ok(Poll::Rows);
                }
                if !self.next_part()? {
                    return Ok(Poll::End);
                }
            }
            if reads == READS_PER_POLL {
                return Ok(Poll::Rows);
            }
            reads += 1;
            let fed = match self.fill() {
                // What was taken before it is given out first.
                Err(fault) if left < wanted => {
                    self.fault = Some(fault);
                    return Ok(Poll::Rows);
                }
                fed => fed?,
            };
            if fed == Fed::Pending {
                return Ok(if left < wanted { Poll::Rows } else { Poll::Idle });
            }
        }
    }

    /// By what the file is known again of which something was consumed.
    fn identity(&self) -> Option<FileIdentity> {
        let source = self.source.as_ref().filter(|_| self.offset > 0)?;
        source.identity(self.offset).ok()
    }

    /// Goes on behind `position`, where this is still the file of the checkpoint; the error says what differs.
    pub fn resume(&mut self, position: &Position) -> Result<(), ConnectError> {
        let refuse =
            |partition: &TextPartition, reason| ConnectError::Resume { partition: partition.name.clone(), reason };
        let part = self.part_of(position).map_err(|error| refuse(self, error.to_string()))?;
        let Some(Part { path, name, .. }) = self.parts.get(part).filter(|part| part.regular) else { return Ok(()) };
        if position.identity.is_none() && position.offset > 0 {
            return Err(refuse(self, format!("{name}: it was a pipe, and is a regular file now")));
        }
        if let Some(identity) = &position.identity {
            let source = Source::open(path).map_err(|error| refuse(self, format!("{name}: {error}")))?;
            let checked = source.check(identity, position.offset).map_err(|error| error.to_string());
            checked.and_then(|checked| checked).map_err(|reason| refuse(self, format!("{name}: {reason}")))?;
            let is_between = position.rows > 0 && position.within.is_none();
            if is_between && source.continues_a_line(position.offset).unwrap_or(true) {
                let reason = format!(
                    "{name}: it ended with a line without its end, at byte {}, and goes on there now",
                    position.offset
                );
                return Err(refuse(self, reason));
            }
        }
        self.seek(position)
    }

    /// Where the partition of a file stood that nobody can read any more, and that had been read to its end.
    pub fn rest_at(&mut self, position: &Position, part: usize) {
        (self.part, self.ended) = (part, true);
        (self.offset, self.rows, self.identity) = (position.offset, position.rows, position.identity);
    }

    fn refuse_seek(&self, position: &Position, reason: String) -> ConnectError {
        ConnectError::Seek { partition: self.name.clone(), offset: position.offset, reason }
    }

    fn part_of(&self, position: &Position) -> Result<usize, ConnectError> {
        let Some(file) = &position.file else {
            return Ok(0);
        };
        let found = self.parts.iter().position(|part| part.name == *file);
        found.ok_or_else(|| self.refuse_seek(position, format!("its file {file} is not among the files")))
    }
}

impl Paced for TextPartition {
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
        self.look_ahead(out, context);
        let Some(mut ahead) = self.ahead.take() else { return self.read_records(out, context, wanted) };
        let poll = self.take_ahead(&mut ahead, out, context, wanted)?;
        let is_left = self.ended || self.feed.is_some();
        self.ahead = (!is_left).then_some(ahead);
        Ok(poll)
    }
}

impl Partition for TextPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if self.feed.is_none() && self.ahead.is_none() {
            if self.ended || self.parts.is_empty() {
                return Ok(Poll::End);
            }
            self.open_feed()?;
        }
        self.read_at_pace(out, context)
    }

    fn dropped(&self) -> Option<u64> {
        self.dropped.as_ref().map(|dropped| dropped.load(Ordering::Relaxed))
    }

    fn position(&self) -> Position {
        let name = || self.parts.get(self.part).map(|part| Arc::clone(&part.name));
        let files = if self.names_file { &self.parts[..] } else { &[] };
        Position {
            offset: self.offset,
            rows: self.rows,
            taken: 0,
            file: self.names_file.then(name).flatten(),
            files: files.iter().map(|part| part.name.to_string()).collect(),
            identity: self.identity.or_else(|| self.identity()),
            share: None,
            header: self.header.clone().filter(|_| self.journal.is_some()),
            created_ns: None,
            opaque: None,
            within: self.decoder.within(),
            letters: TakenLetters::default(),
        }
    }

    fn acknowledge(&mut self, position: &Position) {
        if let Some(journal) = &self.journal {
            journal.acknowledge(position.offset);
        }
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.tagger = Some(Tagger::new(places, source));
    }

    fn seek(&mut self, position: &Position) -> Result<(), ConnectError> {
        if let Some(journal) = &self.journal {
            if !journal.is_waiting() {
                return Err(self.refuse_seek(position, "it is being read already".to_owned()));
            }
            self.decoder.restart(true);
            if let Some(header) = position.header.as_deref().filter(|_| self.decoder.needs_header()) {
                self.decoder.take_header(header.as_bytes(), true, &self.name)?;
            }
            (self.offset, self.rows, self.at_start) = (position.offset, position.rows, position.offset == 0);
            self.header.clone_from(&position.header);
            self.decoder.go_on_within(position.within);
            return Ok(());
        }
        let part = self.part_of(position)?;
        if !self.parts.get(part).is_some_and(|part| part.regular) {
            if position.offset == self.offset && part == self.part {
                return Ok(());
            }
            return Err(self.refuse_seek(position, "a stream cannot be read again".to_owned()));
        }
        self.enter(part, 0)?;
        while !self.begin()? && !self.ended {
            self.fill()?;
        }
        if position.offset > self.offset {
            self.enter(part, position.offset).map_err(|error| self.refuse_seek(position, error.to_string()))?;
        }
        self.decoder.go_on_within(position.within);
        self.rows = position.rows;
        self.pace.restart();
        Ok(())
    }
}

/// Whether a path names a regular file, which can be read in place and again; `None` for a directory.
pub(crate) fn is_regular(path: &Path) -> io::Result<Option<bool>> {
    let kind = path.metadata()?.file_type();
    Ok((!kind.is_dir()).then(|| kind.is_file()))
}

#[cfg(test)]
mod tests;
