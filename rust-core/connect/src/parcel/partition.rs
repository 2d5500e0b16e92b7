//! A stream of parcels as a partition.

use std::{io, mem, sync::Arc};

use ringmill_wire::BatchWriter;

use super::{HEAD_BYTES, Kind, open_rows};
use crate::{
    ConnectError, Fields, Format, Journal, Partition, Places, Poll, PollContext, Position, Resume, Waker,
    file::rows::{Medium, RowFile, guarded},
    formats::{Decoder, Records, Scratch, Stop},
    journal::Journaled,
    pace::{Pace, Paced},
    places::{Form, Original, Tagger},
    text::{Fed, ReaderThread, Stream, TextOptions},
};
#[cfg(feature = "mqtt")]
use crate::{
    formats::{BinaryDecoder, Taken},
    message::LATER,
};

/// A poll takes so much from the stream, so that a long parcel cannot hold up the shard,
const READ_BYTES_PER_POLL: usize = 1 << 20;
/// … and decodes rows of columns so often.
const LOADS_PER_POLL: usize = 4;
/// The memory of a parcel that was longer is not used again.
const PARCEL_KEPT_BYTES: usize = 1 << 20;

/// How parcels become rows.
pub(crate) struct ParcelOptions {
    /// the columns
    pub fields: Fields,
    /// rows per second
    pub rate: Option<f64>,
    /// longer lines and messages become dead letters
    pub record_bytes_max: usize,
    /// the longest parcel
    pub parcel_bytes_max: usize,
    /// what reads messages, if there are any
    #[cfg(feature = "mqtt")]
    pub messages: Option<BinaryDecoder>,
}

/// Parcels, one after the other.
pub(crate) struct ParcelPartition {
    name: String,
    fields: Fields,
    lines: Decoder,
    #[cfg(feature = "mqtt")]
    messages: Option<BinaryDecoder>,
    pace: Pace,
    scratch: Scratch,
    record_bytes_max: usize,
    waker: Waker,
    journal: Option<Journaled>,
    feed: Option<ReaderThread>,
    has_ended: bool,
    /// what has come of the parcel at `offset`, its head too
    parcel: Vec<u8>,
    /// of the parcel, once it is whole
    contents: Option<Contents>,
    /// of the parcel with its head, once it is whole
    length: usize,
    /// where the parcel begins
    offset: u64,
    /// of its content: bytes of lines, rows of columns
    taken: u64,
    /// records consumed
    rows: u64,
    /// for lines, which lie in the journal, and for other rows
    taggers: Option<[Tagger; 2]>,
}

/// What is being given out.
enum Contents {
    Lines,
    Rows(Box<dyn RowFile>),
    #[cfg(feature = "mqtt")]
    Message,
}

/// How far the parcel has come.
enum Gathered {
    Whole,
    /// there is more, at the next poll
    More,
    Pending,
    End,
}

/// What became of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    /// all of it was given out
    All,
    /// some of it, and there may be more
    Some,
    /// it does not fit into the batch
    Full,
    /// no more is wanted
    Enough,
    /// what is needed to read it is not known yet
    #[cfg(feature = "mqtt")]
    Later,
}

impl From<Stop> for Given {
    fn from(stop: Stop) -> Given {
        match stop {
            Stop::NeedMore => Given::All,
            Stop::Budget => Given::Enough,
            Stop::Full => Given::Full,
        }
    }
}

impl ParcelPartition {
    /// Reads a stream that comes only once, as the only partition, on shard 0. With a journal, what it holds behind the
    /// checkpoint's position comes first; a journal that does not hold it is refused here.
    pub fn open<S: Stream + 'static>(
        name: &str,
        options: ParcelOptions,
        open: impl FnOnce() -> io::Result<S> + Send + 'static,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<ParcelPartition, ConnectError> {
        let ParcelOptions { fields, rate, record_bytes_max, parcel_bytes_max, .. } = options;
        let text = TextOptions { format: Format::Json, fields, rate, record_bytes_max };
        text.check()?;
        let mut partition = ParcelPartition {
            name: name.to_owned(),
            lines: Decoder::new(Format::Json, &text.fields, record_bytes_max)?,
            fields: text.fields,
            #[cfg(feature = "mqtt")]
            messages: options.messages,
            pace: Pace::new(rate),
            scratch: Scratch::default(),
            record_bytes_max,
            waker: wakers.first().cloned().unwrap_or_else(|| Arc::new(|| {})),
            journal: None,
            feed: None,
            has_ended: false,
            parcel: Vec::new(),
            contents: None,
            length: 0,
            offset: 0,
            taken: 0,
            rows: 0,
            taggers: None,
        };
        let Some(journal) = journal else {
            let thread = ReaderThread::start(open, Arc::clone(&partition.waker));
            partition.feed = Some(thread.map_err(|source| partition.read_error(source))?);
            return Ok(partition);
        };
        let journaled = Journaled::new(journal, parcel_bytes_max, open);
        if !journal.is_emptied {
            let earlier = resume.and_then(|resume| resume.iter().find(|earlier| earlier.name == name));
            let position = earlier.map(Resume::position).transpose()?.unwrap_or_default();
            journaled.check_resume(name, position.offset)?;
            partition.go_on(&position);
        }
        partition.journal = Some(journaled);
        Ok(partition)
    }

    /// Everything before it is consumed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn read_error(&self, source: io::Error) -> ConnectError {
        ConnectError::Read { name: self.name.clone(), offset: self.offset + self.parcel.len() as u64, source }
    }

    /// What is in the stream is not what was put into it.
    fn damaged(&self, reason: &str) -> ConnectError {
        self.read_error(io::Error::other(format!("{reason}; --fresh begins anew")))
    }

    /// The kind of the parcel, and its length with its head, if that has come.
    fn head(&self) -> Result<Option<(Kind, usize)>, ConnectError> {
        let Some([kind, length @ ..]) = self.parcel.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let kind = Kind::of(*kind)
            .ok_or_else(|| self.damaged("its journal is that of another version, or of another format"))?;
        Ok(Some((kind, HEAD_BYTES + u32::from_le_bytes(*length) as usize)))
    }

    /// Takes more of the parcel from the stream, no more than `budget`.
    fn gather(&mut self, budget: &mut usize) -> Result<Gathered, ConnectError> {
        if self.feed.is_none() {
            let Some(journal) = self.journal.as_mut().filter(|_| !self.has_ended) else { return Ok(Gathered::End) };
            let thread = journal.start(self.offset, Arc::clone(&self.waker));
            self.feed = Some(thread.map_err(|source| self.read_error(source))?);
        }
        loop {
            let come = self.parcel.len();
            let wanted = match self.head()? {
                Some((_, length)) if come == length => return Ok(Gathered::Whole),
                Some((_, length)) => length,
                None => HEAD_BYTES,
            };
            if *budget == 0 {
                return Ok(Gathered::More);
            }
            let Some(feed) = &mut self.feed else { return Ok(Gathered::End) };
            self.parcel.resize(come + (wanted - come).min(*budget), 0);
            let fed = feed.read(&mut self.parcel[come..]);
            let count = if let Ok(Fed::Bytes(count)) = fed { count } else { 0 };
            self.parcel.truncate(come + count);
            *budget -= count;
            match fed.map_err(|source| self.read_error(source))? {
                Fed::Bytes(_) => {}
                Fed::Pending => return Ok(Gathered::Pending),
                // Parcels are durable as a whole.
                Fed::Boundary { .. } | Fed::End if come > 0 => return Err(self.damaged("its last parcel breaks off")),
                Fed::Boundary { .. } => {}
                Fed::End => {
                    (self.feed, self.has_ended) = (None, true);
                    return Ok(Gathered::End);
                }
            }
        }
    }

    /// Begins to give out what is whole.
    fn begin(&mut self) -> Result<Contents, ConnectError> {
        let kind = self.head()?.map_or(Kind::Lines, |(kind, _)| kind);
        self.length = self.parcel.len();
        match kind {
            Kind::Lines if self.taken > (self.length - HEAD_BYTES) as u64 => {
                Err(self.damaged("a parcel is shorter than what was taken of it"))
            }
            Kind::Lines => Ok(Contents::Lines),
            Kind::Arrow | Kind::Avro | Kind::MicroBatch => {
                let medium = Medium::memory(Arc::new(mem::take(&mut self.parcel)), HEAD_BYTES, u64::MAX);
                let taken = self.taken;
                let rows = open_rows(kind, medium, &self.fields).and_then(|mut rows| {
                    if taken > 0 {
                        guarded(|| rows.seek(taken))?;
                    }
                    Ok(rows)
                });
                rows.map(Contents::Rows).map_err(|trouble| trouble.of(&self.named(), taken))
            }
            #[cfg(feature = "mqtt")]
            Kind::Message => Ok(Contents::Message),
        }
    }

    /// The parcel, for people.
    fn named(&self) -> String {
        format!("{} (the rows at byte {} of its journal)", self.name, self.offset)
    }

    /// Goes behind the parcel.
    fn leave(&mut self) {
        self.offset += self.length as u64;
        self.taken = 0;
        self.parcel.clear();
        if self.parcel.capacity() > PARCEL_KEPT_BYTES {
            self.parcel = Vec::new();
        }
        self.lines.restart(true);
    }

    /// The tag of a row whose record begins at `offset`; 0 if rows carry none. Lines can be read again.
    fn tag(&mut self, offset: u64, end: u64, are_lines: bool) -> u64 {
        let Some(taggers) = &mut self.taggers else { return 0 };
        taggers[usize::from(are_lines)].tag(offset, end, || {
            let form = Form { format: Format::Json, record_bytes_max: self.record_bytes_max };
            let original = match &self.journal {
                _ if !are_lines => Original::None,
                Some(journal) => Original::Journal { folder: journal.folder().to_owned(), form },
                None => Original::Stream,
            };
            (self.name.as_str().into(), original)
        })
    }

    /// Gives out some of the parcel; also how many records that consumed.
    fn give(
        &mut self,
        contents: &mut Contents,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        left: u32,
    ) -> Result<(u32, Given), ConnectError> {
        match contents {
            Contents::Lines => Ok(self.give_lines(out, context, left)),
            Contents::Rows(rows) => self.give_rows(&mut **rows, out, context, left),
            #[cfg(feature = "mqtt")]
            Contents::Message => self.give_message(out, context, left),
        }
    }

    fn give_lines(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>, left: u32) -> (u32, Given) {
        let at = HEAD_BYTES + self.taken as usize;
        let offset = self.offset + at as u64;
        let tag = self.tag(offset, self.offset + self.length as u64, true);
        let mut records = Records::new(out, context, &self.name, &self.fields, &mut self.scratch, left);
        (records.offset, records.tag) = (offset, tag);
        let progress = self.lines.decode(&self.parcel[at..], true, &mut records);
        self.taken += progress.consumed as u64;
        (records.consumed, progress.stop.into())
    }

    fn give_rows(
        &mut self,
        rows: &mut dyn RowFile,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        left: u32,
    ) -> Result<(u32, Given), ConnectError> {
        let is_given_out = rows.row() == rows.loaded().end;
        if is_given_out && !guarded(|| rows.load()).map_err(|trouble| trouble.of(&self.named(), self.taken))? {
            return Ok((0, Given::All));
        }
        let (start, end) = (self.offset + rows.loaded().start, self.offset + rows.loaded().end);
        let tag = self.tag(start, end, false);
        let mut records = Records::new(out, context, &self.name, &self.fields, &mut self.scratch, left);
        (records.offset, records.tag) = (start, tag);
        let given = rows.give(&mut records).map_or_else(Given::from, |()| Given::Some);
        self.taken = rows.row();
        Ok((records.consumed, given))
    }

    #[cfg(feature = "mqtt")]
    fn give_message(
        &mut self,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        left: u32,
    ) -> Result<(u32, Given), ConnectError> {
        let tag = self.tag(self.offset, self.offset + 1, false);
        let mut records = Records::new(out, context, &self.name, &self.fields, &mut self.scratch, left);
        (records.offset, records.tag) = (self.offset, tag);
        if let Err(stop) = records.admit() {
            return Ok((0, stop.into()));
        }
        let parts = self.parcel[HEAD_BYTES..].split_first_chunk();
        let parts = parts.and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
        let (Some((header, message)), Some(decoder)) = (parts, &mut self.messages) else {
            return Err(self.damaged("its journal is that of another format"));
        };
        let given = match decoder.decode(header, message, &mut records)? {
            Taken::Whole => Given::All,
            Taken::Full => Given::Full,
            Taken::Later => Given::Later,
        };
        Ok((records.consumed, given))
    }

    fn go_on(&mut self, position: &Position) {
        (self.offset, self.taken, self.rows) = (position.offset, position.taken, position.rows);
        self.lines.go_on_within(position.within);
    }
}

impl Paced for ParcelPartition {
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
        let (mut left, mut budget, mut loads) = (wanted, READ_BYTES_PER_POLL, 0);
        loop {
            let mut contents = match self.contents.take() {
                Some(contents) => contents,
                None => match self.gather(&mut budget)? {
                    Gathered::Whole => self.begin()?,
                    Gathered::More => return Ok(Poll::Rows),
                    Gathered::Pending => return Ok(if left < wanted { Poll::Rows } else { Poll::Idle }),
                    Gathered::End => return Ok(Poll::End),
                },
            };
            if matches!(contents, Contents::Rows(_)) {
                loads += 1;
            }
            let (consumed, given) = self.give(&mut contents, out, context, left)?;
            left -= consumed;
            self.rows += u64::from(consumed);
            if given == Given::All {
                self.leave();
                continue;
            }
            self.contents = Some(contents);
            match given {
                Given::Full => return Ok(Poll::Full),
                Given::Enough => return Ok(Poll::Rows),
                Given::All | Given::Some if loads == LOADS_PER_POLL => return Ok(Poll::Rows),
                Given::All | Given::Some => {}
                #[cfg(feature = "mqtt")]
                Given::Later if left < wanted => return Ok(Poll::Rows),
                #[cfg(feature = "mqtt")]
                Given::Later => return Ok(Poll::Until(context.now_ns + LATER.as_nanos() as u64)),
            }
        }
    }
}

impl Partition for ParcelPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        self.read_at_pace(out, context)
    }

    fn position(&self) -> Position {
        let Self { offset, taken, rows, .. } = *self;
        Position { offset, taken, rows, within: self.lines.within(), ..Position::default() }
    }

    fn acknowledge(&mut self, position: &Position) {
        if let Some(journal) = &self.journal {
            journal.acknowledge(position.offset);
        }
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.taggers = Some([Tagger::new(places, source), Tagger::new(places, source)]);
    }
}
