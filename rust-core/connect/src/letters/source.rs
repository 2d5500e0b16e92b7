//! A store's letters as a source.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ringmill_wire::{BatchWriter, Schema};

use super::{
    Letter, LetterBook, LetterFilter, TakenLetters,
    part::{self, Pages, Place},
    sent::SentDecoder,
};
use crate::{
    AvroSchema, BinaryFormat, ConnectError, DeadLetter, DeadLetters, FieldSpec, Fields, Format, Partition, Partitions,
    Places, Poll, PollContext, Position,
    formats::{AvroRows, BROKEN_OFF, BinaryDecoder, Decoder, Records, Scratch, Stop, TOO_LONG, Taken},
    places::{Original, Tagger},
    schema_of,
};

/// Records at least this long may have been cut when they were stored.
const CUT_BYTES: usize = crate::RECORD_BYTES_MAX;
/// More ranges of letters are not taken at once, so that positions stay small.
const RANGES_MAX: usize = 100_000;

/// A letter that cannot be read yet is tried again so much later.
const LATER: Duration = Duration::from_millis(20);

/// Letters that a poll reads: few, so that those who are slow to take them do not hold a checkpoint up for long.
const POLLED_MAX: u32 = 64;

/// How letters are read back.
#[derive(Debug, Clone, PartialEq)]
pub enum LetterForm {
    /// A function's rows. What cannot be read back stays in the store as it is.
    Rows,
    /// The same of a sink's rows, each as it was sent; of those in JSON, a null float is NaN where there are no nulls.
    Sent,
    /// A source's records, read as the source reads them. One that does not fit becomes a dead letter again.
    Records(Format),
    /// Rows of a source's files in columns, as JSON in which a float may be text. One that does not fit becomes a dead
    /// letter again.
    Columns,
    /// Datums of Avro, each by the schema in its letter's header; a reader's schema says what that lacks.
    Datums(Option<AvroSchema>),
    /// What came in requests: where the letter has a header a datum of Avro, otherwise as [`Columns`](Self::Columns).
    Requests,
    /// Messages of a binary format, and the fields that take what stood beside them, which is in the letters' headers.
    Messages(BinaryFormat, Vec<String>),
}

impl LetterForm {
    fn is_of_rows(&self) -> bool {
        matches!(self, LetterForm::Rows | LetterForm::Sent)
    }
}

/// The letters of one source or step.
#[derive(Debug, Clone, PartialEq)]
pub struct LettersSpec {
    /// the store's folder
    pub folder: PathBuf,
    /// whose letters they are
    pub origin: String,
    /// how they are read back
    pub form: LetterForm,
    /// the columns
    pub fields: Fields,
    /// which letters
    pub filter: LetterFilter,
    /// longer records become dead letters
    pub record_bytes_max: usize,
}

impl LettersSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Chooses the letters, and gives them to the first shard.
    pub fn open(&self) -> Result<Partitions, ConnectError> {
        let partition = LettersPartition::open(self)?;
        Ok(vec![(0, Box::new(partition))])
    }

    fn choose(&self) -> Result<Vec<Place>, ConnectError> {
        let limit = self.filter.limit.unwrap_or(usize::MAX);
        let (mut chosen, mut all) = (Vec::new(), TakenLetters::default());
        for (epoch, path) in part::parts(&self.folder)? {
            part::for_each_line(&path, epoch, |id, offset, line| {
                let is_wanted = chosen.len() < limit && all.ranges() < RANGES_MAX;
                if is_wanted && self.filter.matches(id, &part::parse(&path, id, line)?) {
                    all.push(id);
                    chosen.push(Place { id, offset });
                }
                Ok::<(), ConnectError>(())
            })?;
        }
        if all.ranges() == RANGES_MAX {
            tracing::warn!("{}: only the first {} letters are replayed now", self.origin, chosen.len());
        }
        Ok(chosen)
    }
}

/// Reads the letters one after the other.
struct LettersPartition {
    spec: LettersSpec,
    decoder: LetterDecoder,
    scratch: Scratch,
    book: Arc<LetterBook>,
    pages: Pages,
    /// the number of the next one
    next: usize,
    taken: TakenLetters,
    /// those that stay because they cannot be read back
    unreadable: u64,
    tagger: Option<Tagger>,
}

#[expect(clippy::large_enum_variant, reason = "there is one, and it is not moved about")]
enum LetterDecoder {
    Text(Decoder),
    Binary(BinaryDecoder),
    Datums(DatumDecoder),
    /// lines and rows of columns, and datums
    Requests(Decoder, DatumDecoder),
    Sent(SentDecoder),
}

/// Reads datums of Avro by the schemas in their letters' headers.
struct DatumDecoder {
    fields: Vec<FieldSpec>,
    reader: Option<AvroSchema>,
    /// the schema of the last letter, and how its datums are read
    known: Option<(String, AvroRows)>,
}

impl DatumDecoder {
    fn new(fields: &Fields, reader: Option<AvroSchema>) -> DatumDecoder {
        DatumDecoder { fields: fields.to_vec(), reader, known: None }
    }

    fn begin(&mut self, header: &str) -> Result<(), ConnectError> {
        if self.known.as_ref().is_none_or(|(schema, _)| schema != header) {
            let schema = AvroSchema::parse(header);
            let schema = schema.map_err(|reason| {
                ConnectError::Schema(format!("the schema by which it was written, of which 32 KiB were kept: {reason}"))
            })?;
            let rows = AvroRows::new(&schema, self.reader.as_ref(), &self.fields);
            let rows = rows.map_err(|misfits| ConnectError::Misfit { misfits })?;
            self.known = Some((header.to_owned(), rows));
        }
        Ok(())
    }

    fn decode(&mut self, header: Option<&str>, record: &[u8], records: &mut Records<'_, '_>) -> Taken {
        let outcome = self.known.as_ref().map_or(Ok(()), |(_, rows)| rows.fill(record, &mut records.row));
        let taken = records.end_with(outcome, 0, record, header);
        if taken.is_ok() { Taken::Whole } else { Taken::Full }
    }
}

impl LetterDecoder {
    fn new(spec: &LettersSpec) -> Result<LetterDecoder, ConnectError> {
        let LettersSpec { form, fields, record_bytes_max, .. } = spec;
        let text = |format| Decoder::new(format, fields, *record_bytes_max);
        let json = || {
            let mut decoder = text(Format::Json)?;
            decoder.read_letters();
            Ok::<Decoder, ConnectError>(decoder)
        };
        Ok(match form {
            LetterForm::Sent => LetterDecoder::Sent(SentDecoder::new(fields)?),
            LetterForm::Rows | LetterForm::Columns => LetterDecoder::Text(json()?),
            LetterForm::Requests => LetterDecoder::Requests(json()?, DatumDecoder::new(fields, None)),
            LetterForm::Records(format) => LetterDecoder::Text(text(*format)?),
            LetterForm::Datums(reader) => LetterDecoder::Datums(DatumDecoder::new(fields, reader.clone())),
            LetterForm::Messages(format, members) => {
                let members: Vec<&str> = members.iter().map(String::as_str).collect();
                LetterDecoder::Binary(BinaryDecoder::new(format, fields, &members, *record_bytes_max)?)
            }
        })
    }

    /// Gets ready for a letter with this header, if it has one.
    fn begin(&mut self, header: Option<&str>, origin: &str) -> Result<(), ConnectError> {
        match self {
            LetterDecoder::Text(decoder) => {
                decoder.restart(true);
                decoder.set_type(header.unwrap_or_default().as_bytes());
                if decoder.needs_header() {
                    decoder.take_header(header.unwrap_or_default().as_bytes(), true, origin)?;
                }
            }
            LetterDecoder::Datums(datums) => datums.begin(header.unwrap_or_default())?,
            LetterDecoder::Requests(decoder, datums) => match header {
                Some(header) => datums.begin(header)?,
                None => decoder.restart(true),
            },
            LetterDecoder::Sent(sent) => sent.begin(header, origin)?,
            LetterDecoder::Binary(_) => {}
        }
        Ok(())
    }

    fn decode(
        &mut self,
        header: Option<&str>,
        record: &[u8],
        records: &mut Records<'_, '_>,
    ) -> Result<Taken, ConnectError> {
        match self {
            LetterDecoder::Datums(datums) => Ok(datums.decode(header, record, records)),
            LetterDecoder::Requests(_, datums) if header.is_some() => Ok(datums.decode(header, record, records)),
            LetterDecoder::Text(decoder) | LetterDecoder::Requests(decoder, _) => {
                Ok(decode_text(decoder, record, records))
            }
            LetterDecoder::Sent(sent) => sent.decode(header, record, records),
            LetterDecoder::Binary(decoder) => decoder.decode(header.unwrap_or("{}").as_bytes(), record, records),
        }
    }
}

/// Reads a record of text, which is all that a letter holds.
pub(super) fn decode_text(decoder: &mut Decoder, record: &[u8], records: &mut Records<'_, '_>) -> Taken {
    match decoder.decode(record, true, records).stop {
        Stop::Full if records.consumed == 0 => Taken::Full,
        _ => Taken::Whole,
    }
}

/// What became of a letter.
enum Read {
    /// It was read, or a dead letter was made of it, or it stays where it is.
    Done,
    Full,
    /// It cannot be read yet.
    Later,
}

impl LettersPartition {
    fn open(spec: &LettersSpec) -> Result<LettersPartition, ConnectError> {
        let are_records = !spec.form.is_of_rows();
        Ok(LettersPartition {
            decoder: LetterDecoder::new(spec)?,
            book: Arc::new(LetterBook::new(&spec.folder, &spec.origin, are_records, spec.choose()?)),
            spec: spec.clone(),
            scratch: Scratch::default(),
            pages: Pages::default(),
            next: 0,
            taken: TakenLetters::default(),
            unreadable: 0,
            tagger: None,
        })
    }

    /// Reads one letter, whose place is known.
    fn read(
        &mut self,
        place: Place,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
    ) -> Result<Read, ConnectError> {
        let Some(letter) = self.pages.read(self.book.folder(), place)? else { return Ok(Read::Done) };
        let record = match self.record_of(&letter) {
            Ok(record) => record,
            Err(reason) => return Ok(self.leave(place, &reason)),
        };
        let header = letter.header.as_deref();
        if let Err(error) = self.decoder.begin(header, &self.spec.origin) {
            return Ok(self.leave(place, &error.to_string()));
        }
        let mut caught = Caught(None);
        // A row was taken once, whatever its time.
        let event_time = context.event_time.filter(|_| !self.spec.form.is_of_rows());
        let mut own = PollContext { dead: &mut caught, event_time, ..*context };
        let tag = self.tag();
        let mut records = Records::new(out, &mut own, &self.spec.origin, &self.spec.fields, &mut self.scratch, 1);
        records.tag = tag;
        let taken = self.decoder.decode(header, &record, &mut records)?;
        let consumed = records.consumed;
        match (taken, caught.0) {
            (Taken::Full, _) => return Ok(Read::Full),
            (Taken::Later, _) => return Ok(Read::Later),
            (_, None) if consumed == 0 => return Ok(self.leave(place, "it holds no record")),
            (_, Some(reason)) if self.spec.form.is_of_rows() => return Ok(self.leave(place, &reason)),
            (_, Some(reason)) => context.dead.push(&DeadLetter {
                partition: letter.partition.as_deref().unwrap_or_default(),
                offset: letter.offset.unwrap_or(0),
                reason: &reason,
                record: &record,
                header: letter.header.as_deref(),
                attempts: Some(letter.attempts.unwrap_or(1).saturating_add(1)),
            }),
            (_, None) => {}
        }
        self.taken.push(place.id);
        Ok(Read::Done)
    }

    /// The record as it was, or why nobody knows that any more.
    fn record_of(&self, letter: &Letter) -> Result<Vec<u8>, String> {
        let record = letter.record().ok_or("it holds no record")?;
        let is_partial = letter.reason.starts_with(TOO_LONG) || letter.reason == BROKEN_OFF;
        // A sink's are stored whole.
        let is_cut = self.spec.form != LetterForm::Sent && record.len() >= CUT_BYTES;
        if is_partial || is_cut {
            return Err("only the beginning of its record was kept".to_owned());
        }
        let needs_header = matches!(self.spec.form, LetterForm::Records(Format::Csv) | LetterForm::Datums(_));
        if needs_header && letter.header.is_none() {
            return Err("it does not say its file's header".to_owned());
        }
        Ok(record)
    }

    /// The letter stays in the store as it is.
    fn leave(&mut self, place: Place, reason: &str) -> Read {
        self.unreadable += 1;
        let LettersSpec { origin, .. } = &self.spec;
        if self.unreadable == 1 {
            tracing::warn!("letter {origin}/{} cannot be read back and stays in the store: {reason}", place.id);
        }
        Read::Done
    }

    /// The tag of a row made of the next letter; 0 if rows carry none.
    fn tag(&mut self) -> u64 {
        let (Some(tagger), book) = (&mut self.tagger, &self.book) else { return 0 };
        let index = self.next as u64;
        tagger.tag(index, index + 1, || (self.spec.origin.as_str().into(), Original::Letters(Arc::clone(book))))
    }
}

impl Partition for LettersPartition {
    fn name(&self) -> &str {
        "letters"
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        for _ in 0..context.rows_max.clamp(1, POLLED_MAX) {
            let Some(place) = self.book.places.get(self.next).copied() else {
                if self.unreadable > 1 {
                    tracing::warn!("{}: {} letters cannot be read back and stay", self.spec.origin, self.unreadable);
                    self.unreadable = 0;
                }
                return Ok(Poll::End);
            };
            if !context.dead.has_room() {
                return Ok(Poll::Rows);
            }
            match self.read(place, out, context)? {
                Read::Done => self.next += 1,
                Read::Full => return Ok(Poll::Full),
                Read::Later => return Ok(Poll::Until(context.now_ns + LATER.as_nanos() as u64)),
            }
        }
        Ok(Poll::Rows)
    }

    fn position(&self) -> Position {
        Position { rows: self.next as u64, letters: self.taken.clone(), ..Position::default() }
    }

    fn note_places(&mut self, places: &Arc<Places>, _: &str) {
        self.tagger = Some(Tagger::new(places, &self.spec.origin));
    }

    /// Letters are chosen anew by each run.
    fn seek(&mut self, position: &Position) -> Result<(), ConnectError> {
        Err(ConnectError::Seek {
            partition: self.name().to_owned(),
            offset: position.offset,
            reason: "letters that were taken are gone from the store".to_owned(),
        })
    }
}

/// Keeps the reason for which a record did not become a row.
struct Caught(Option<String>);

impl DeadLetters for Caught {
    fn has_room(&self) -> bool {
        true
    }

    fn push(&mut self, letter: &DeadLetter<'_>) {
        self.0 = Some(letter.reason.to_owned());
    }
}
