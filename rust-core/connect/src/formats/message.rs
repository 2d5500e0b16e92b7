//! Messages of the binary formats, and raw ones, to rows.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use super::{
    AvroSpec, FieldMisfit, ProtobufSpec, Records, TOO_LONG, Taken,
    avro::{self, AvroReader},
    column::{Column, Refusal, Row},
    json::JsonDecoder,
    paths::Paths,
    protobuf::{self, Findings, ProtobufReader},
    raw,
};
use crate::{ConnectError, EventTypes, FieldSpec, Fields};

/// Why types are refused that no registry tells apart.
pub(super) const NEEDS_REGISTRY: &str = "messages say their schema, which tells their type, by a registry's number";

/// A binary format of messages.
#[derive(Debug, Clone, PartialEq)]
pub enum BinaryFormat {
    /// one datum of Avro a message
    Avro(Box<AvroSpec>),
    /// one message of Protocol Buffers
    Protobuf(Box<ProtobufSpec>),
    /// whatever it is, the value of one column
    Raw,
}

impl BinaryFormat {
    /// The name used in configurations.
    pub fn name(&self) -> &'static str {
        match self {
            BinaryFormat::Avro(_) => "avro",
            BinaryFormat::Protobuf(_) => "protobuf",
            BinaryFormat::Raw => "raw",
        }
    }

    /// What of the schema, if it is known already, does not fit these fields, of which `members` are not in messages but
    /// beside them.
    pub fn misfits(&self, fields: &[FieldSpec], members: &[&str]) -> Vec<FieldMisfit> {
        match self {
            BinaryFormat::Avro(spec) => spec.misfits(fields, members),
            BinaryFormat::Protobuf(spec) => spec.misfits(fields, members),
            BinaryFormat::Raw => raw::raw_misfits(fields, members),
        }
    }

    /// Whether a message may have no bytes.
    #[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub(crate) fn may_be_empty(&self) -> bool {
        match self {
            BinaryFormat::Avro(_) => false,
            BinaryFormat::Protobuf(spec) => matches!(**spec, ProtobufSpec::Plain(_)),
            BinaryFormat::Raw => true,
        }
    }
}

/// Decodes messages, and the JSON object with what the broker says of each.
#[derive(Debug, Clone)]
pub(crate) struct BinaryDecoder {
    reader: Reader,
    /// what was found in a message of Protobuf
    found: Findings,
    /// for the fields of each type that take what stands beside a message; empty: nothing is taken
    members: Vec<JsonDecoder>,
    types: Option<Arc<EventTypes>>,
    record_bytes_max: usize,
}

#[derive(Debug, Clone)]
enum Reader {
    Avro(AvroReader),
    Protobuf(ProtobufReader),
    Raw(Arc<Column>),
}

/// How a message is read.
pub(super) enum Reading {
    /// by this program, behind so many bytes, as one of the type with this number
    By(Program, usize, usize),
    /// that is not known yet
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "there is no registry"))]
    Later,
    /// not at all, for this reason
    Not(String),
}

/// Moves a message's values into a row.
pub(super) enum Program {
    Avro(Arc<avro::Program>),
    Protobuf(Arc<protobuf::Program>),
    Raw(Arc<Column>),
}

impl BinaryDecoder {
    /// `members`: the fields that take what stands beside a message.
    pub fn new(
        format: &BinaryFormat,
        fields: &Fields,
        members: &[&str],
        record_bytes_max: usize,
    ) -> Result<BinaryDecoder, ConnectError> {
        let reader = match format {
            BinaryFormat::Avro(spec) => Reader::Avro(AvroReader::new(spec, fields, members)?),
            BinaryFormat::Protobuf(spec) => Reader::Protobuf(ProtobufReader::new(spec, fields, members)?),
            BinaryFormat::Raw => Reader::Raw(Arc::new(raw::column(fields, members)?)),
        };
        let types = fields.types().cloned();
        let count = if members.is_empty() { 0 } else { types.as_ref().map_or(1, |types| types.types().len()) };
        let beside = |number: usize| {
            let fields = fields.of_type(number).into_iter();
            JsonDecoder::of(fields.filter(|(_, field)| members.contains(&field.name.as_str())), record_bytes_max)
        };
        let members = (0..count).map(beside).collect::<Result<Vec<_>, _>>()?;
        Ok(BinaryDecoder { reader, found: Findings::default(), members, types, record_bytes_max })
    }

    /// What stands beside messages was written for dead letters, in which a float may be text.
    pub fn read_letters(&mut self) {
        self.members.iter_mut().for_each(JsonDecoder::read_letters);
    }

    /// Makes a row or a dead letter of a message; `header` is the JSON object with what the broker says of it, or empty.
    /// There is room for one of either.
    pub fn decode(
        &mut self,
        header: &[u8],
        message: &[u8],
        records: &mut Records<'_, '_>,
    ) -> Result<Taken, ConnectError> {
        let shown = || Some(String::from_utf8_lossy(header)).filter(|header| !header.is_empty());
        if message.len() > self.record_bytes_max {
            let max = self.record_bytes_max;
            records.refuse(&format!("{TOO_LONG} ({max} bytes)"), &message[..max], shown().as_deref());
            return Ok(Taken::Whole);
        }
        let reading = match &mut self.reader {
            Reader::Avro(reader) => reader.reading(message)?,
            Reader::Protobuf(reader) => reader.reading(message)?,
            Reader::Raw(column) => Reading::By(Program::Raw(Arc::clone(column)), 0, 0),
        };
        let (program, before, number) = match reading {
            Reading::By(program, before, number) => (program, before, number),
            Reading::Later => return Ok(Taken::Later),
            Reading::Not(reason) => {
                records.refuse(&reason, message, shown().as_deref());
                return Ok(Taken::Whole);
            }
        };
        let beside = self.members.get_mut(number).map_or(Ok(()), |members| members.fill(header, &mut records.row));
        let outcome = beside.and_then(|()| match &program {
            Program::Avro(program) => avro::fill(program, message, before, &mut records.row),
            Program::Protobuf(program) => protobuf::fill(program, message, before, &mut self.found, &mut records.row),
            Program::Raw(column) => raw::fill(column, message, &mut records.row),
        });
        let ended = match outcome {
            Ok(()) => {
                if let Some(types) = &self.types {
                    types.complete(number, records.row.out);
                }
                records.end(Ok(()), 0, message)
            }
            Err(refusal) => records.end_with(Err(refusal), 0, message, shown().as_deref()),
        };
        Ok(if ended.is_ok() { Taken::Whole } else { Taken::Full })
    }
}

/// The columns of those of these fields that are in messages, and where they stand there.
pub(super) fn columns_within(
    fields: &[(usize, &FieldSpec)],
    members: &[&str],
) -> Result<(Vec<Column>, Paths), Vec<FieldMisfit>> {
    let is_within = |(_, field): &&(usize, &FieldSpec)| !members.contains(&field.name.as_str());
    let within: Vec<(usize, &FieldSpec)> = fields.iter().filter(is_within).copied().collect();
    let columns = within.iter().map(|(index, field)| Column::new(*index, field)).collect();
    let places = within.iter().enumerate().map(|(place, (_, field))| (place, *field));
    let paths = Paths::new(places).map_err(|error| vec![FieldMisfit::of_schema(error.to_string())])?;
    Ok((columns, paths))
}

/// A message is refused for this reason.
#[cold]
pub(super) fn refuse(row: &mut Row<'_>, reason: fmt::Arguments<'_>) -> Refusal {
    row.reason.clear();
    let _ = row.reason.write_fmt(reason);
    Refusal::Misfit
}
