//! Bytes to rows: what the text formats share.

use std::fmt::Write;

use ringmill_wire::{BatchWriter, DataType};

use super::{
    Format, Within,
    column::{Refusal, Row},
    csv::CsvDecoder,
    json::JsonDecoder,
    raw::RawDecoder,
};
use crate::{ConnectError, DeadLetter, FieldSpec, Fields, PollContext};

/// How the reason begins for which a record is refused that is too long.
pub(crate) const TOO_LONG: &str = "the record is longer than record_bytes_max";
/// Why the last record of a stream is refused that ended within it.
pub(crate) const BROKEN_OFF: &str = "the stream broke off within this record";

/// Why [`Decoder::decode`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// the rest of the bytes is the beginning of a record (or nothing)
    NeedMore,
    /// as many records as asked for, or no more dead letters can be taken
    Budget,
    /// the next record does not fit into the batch
    Full,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// it is a row or a dead letter
    Whole,
    /// it does not fit into what is left of the batch
    Full,
    /// what is needed to read it is not known yet: ask again in a while
    Later,
}

/// How far [`Decoder::decode`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub consumed: usize,
    pub stop: Stop,
}

/// The state of one text stream's decoding: of one file, from its header to its end.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one per open partition, and none is moved about")]
pub(crate) enum Decoder {
    Json(JsonDecoder),
    Csv(CsvDecoder),
    Raw(RawDecoder),
}

impl Decoder {
    pub fn new(format: Format, fields: &Fields, record_bytes_max: usize) -> Result<Decoder, ConnectError> {
        match format {
            Format::Csv if fields.types().is_some() => {
                let rule = "the rows of a CSV file have the same columns, and so one type";
                Err(ConnectError::Spec { option: "type", value: format.name().to_owned(), rule })
            }
            Format::Json => Ok(Decoder::Json(JsonDecoder::new(fields, record_bytes_max)?)),
            Format::Csv => Ok(Decoder::Csv(CsvDecoder::new(fields, record_bytes_max)?)),
            Format::Raw => Ok(Decoder::Raw(RawDecoder::new(fields, record_bytes_max)?)),
        }
    }

    pub fn format(&self) -> Format {
        match self {
            Decoder::Json(_) => Format::Json,
            Decoder::Csv(_) => Format::Csv,
            Decoder::Raw(_) => Format::Raw,
        }
    }

    /// Whether the stream's header is still to come.
    pub fn needs_header(&self) -> bool {
        matches!(self, Decoder::Csv(csv) if csv.needs_header())
    }

    /// Takes the header that `bytes` begins with; `None` if it is not complete. `name` is that of the stream.
    pub fn take_header(&mut self, bytes: &[u8], at_end: bool, name: &str) -> Result<Option<usize>, ConnectError> {
        match self {
            Decoder::Json(_) | Decoder::Raw(_) => Ok(Some(0)),
            Decoder::Csv(csv) => csv.take_header(bytes, at_end, name),
        }
    }

    /// The rows are those of dead letters, in which a float may be the text `NaN`, `inf` or `-inf`.
    pub fn read_letters(&mut self) {
        if let Decoder::Json(json) = self {
            json.read_letters();
        }
    }

    /// The same, of rows that were written as JSON in which a float that is no number is null: where a column has no nulls it
    /// becomes a NaN, which is null again to whoever is sent it.
    pub fn read_sent_letters(&mut self) {
        if let Decoder::Json(json) = self {
            json.read_sent_letters();
        }
    }

    /// The next records are of the type that a header with this value stands for; empty: there was none.
    pub fn set_type(&mut self, value: &[u8]) {
        if let Decoder::Json(json) = self {
            json.set_type(value);
        }
    }

    /// Forgets the previous stream: the next bytes are the beginning of one (`header`), or continue one whose header is
    /// known.
    pub fn restart(&mut self, header: bool) {
        match self {
            Decoder::Json(json) => json.restart(),
            Decoder::Csv(csv) => csv.restart(header),
            Decoder::Raw(raw) => raw.restart(),
        }
    }

    /// Inside a record that is too long and already buried: where.
    pub fn within(&self) -> Option<Within> {
        match self {
            Decoder::Json(json) => json.within(),
            Decoder::Csv(csv) => csv.within(),
            Decoder::Raw(raw) => raw.within(),
        }
    }

    /// The next bytes are the rest of such a record.
    pub fn go_on_within(&mut self, within: Option<Within>) {
        match self {
            Decoder::Json(json) => json.go_on_within(within),
            Decoder::Csv(csv) => csv.go_on_within(within),
            Decoder::Raw(raw) => raw.go_on_within(within),
        }
    }

    /// Turns the records that `bytes` begins with into rows. `at_end`: nothing follows `bytes`.
    pub fn decode(&mut self, bytes: &[u8], at_end: bool, records: &mut Records<'_, '_>) -> Progress {
        match self {
            Decoder::Json(json) => json.decode(bytes, at_end, records),
            Decoder::Csv(csv) => csv.decode(bytes, at_end, records),
            Decoder::Raw(raw) => raw.decode(bytes, at_end, records),
        }
    }
}

/// Buffers that rows and reasons are made in, reused from poll to poll.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    reason: String,
    binary: Vec<u8>,
}

/// Where decoded records go.
pub(crate) struct Records<'a, 'c> {
    pub row: Row<'a>,
    context: &'a mut PollContext<'c>,
    partition: &'a str,
    /// offset, in the stream, of the first of the bytes being decoded
    pub offset: u64,
    /// tag of a row whose record begins there; those of later ones are counted from it
    pub tag: u64,
    /// the stream's header, if its format has one
    pub header: Option<&'a str>,
    /// records consumed
    pub consumed: u32,
    consumed_max: u32,
}

impl<'a, 'c> Records<'a, 'c> {
    pub fn new(
        out: &'a mut BatchWriter,
        context: &'a mut PollContext<'c>,
        partition: &'a str,
        fields: &[FieldSpec],
        scratch: &'a mut Scratch,
        consumed_max: u32,
    ) -> Records<'a, 'c> {
        let mut event_column = usize::MAX;
        let mut event_max = i64::MAX;
        if let Some(column) = context.event_time
            && let Some(DataType::Timestamp(unit)) = fields.get(column).map(|field| field.data_type)
        {
            event_column = column;
            event_max = context.event_time_max_ns.div_euclid(unit.nanoseconds());
        }
        Records {
            row: Row { out, reason: &mut scratch.reason, event_column, event_max, binary: &mut scratch.binary },
            context,
            partition,
            offset: 0,
            tag: 0,
            header: None,
            consumed: 0,
            consumed_max,
        }
    }

    /// Whether one more record may be consumed; otherwise why not.
    #[inline]
    pub fn admit(&self) -> Result<(), Stop> {
        if self.consumed >= self.consumed_max || !self.context.dead.has_room() {
            return Err(Stop::Budget);
        }
        if self.row.out.rows_free() == 0 {
            return Err(Stop::Full);
        }
        Ok(())
    }

    /// How many records may still be consumed, and rows be written.
    #[cfg(feature = "arrow")]
    pub fn left(&self) -> usize {
        self.consumed_max.saturating_sub(self.consumed).min(self.row.out.rows_free()) as usize
    }

    /// Ends the row whose values were pushed with this outcome. `at` is where its record starts.
    #[inline]
    pub fn end(&mut self, outcome: Result<(), Refusal>, at: usize, record: &[u8]) -> Result<(), Stop> {
        self.end_with(outcome, at, record, self.header)
    }

    /// The same of a record with a header of its own.
    #[inline]
    pub fn end_with(
        &mut self,
        outcome: Result<(), Refusal>,
        at: usize,
        record: &[u8],
        header: Option<&str>,
    ) -> Result<(), Stop> {
        match outcome {
            Ok(()) => {
                self.row.out.finish_tagged_row(self.tag + at as u64);
                self.consumed += 1;
                return Ok(());
            }
            Err(Refusal::Misfit) => {}
            Err(Refusal::Full) if self.row.out.rows() > 0 => {
                self.row.out.discard_row();
                return Err(Stop::Full);
            }
            Err(Refusal::Full) => {
                self.row.reason.clear();
                self.row.reason.push_str("its text, binary and list values exceed the room of a whole batch");
            }
        }
        self.row.out.discard_row();
        self.bury_with(at, record, header);
        Ok(())
    }

    /// A dead letter for a record longer than `max`, of which `first` are the first bytes.
    #[cold]
    pub fn too_long(&mut self, at: usize, first: &[u8], max: usize) {
        self.row.reason.clear();
        let _ = write!(self.row.reason, "{TOO_LONG} ({max} bytes)");
        self.bury(at, &first[..first.len().min(max)]);
    }

    /// A dead letter for this reason.
    #[cold]
    pub fn refuse(&mut self, reason: &str, record: &[u8], header: Option<&str>) {
        self.row.reason.clear();
        self.row.reason.push_str(reason);
        self.bury_with(0, record, header);
    }

    /// A dead letter with the reason that stands in `row.reason`.
    #[cold]
    pub fn bury(&mut self, at: usize, record: &[u8]) {
        self.bury_with(at, record, self.header);
    }

    /// The same of a record with a header of its own.
    #[cold]
    pub fn bury_with(&mut self, at: usize, record: &[u8], header: Option<&str>) {
        self.consumed += 1;
        self.context.dead.push(&DeadLetter {
            partition: self.partition,
            offset: self.offset + at as u64,
            reason: self.row.reason,
            record,
            header,
            attempts: None,
        });
    }
}
