//! Messages to rows.

#[cfg(feature = "http")]
use std::collections::HashMap;
use std::{fmt::Write, sync::Arc};

#[cfg(feature = "http")]
use super::registry::{Known, Registry};
use super::{
    AvroSchema, AvroSpec, FieldMisfit,
    program::{Program, Unread},
    wire::Bytes,
};
use crate::{
    ConnectError, FieldSpec,
    formats::{
        Records, TOO_LONG, Taken,
        column::{Column, Refusal, Row},
        json::JsonDecoder,
        paths::Paths,
    },
};

/// Of the single-object encoding.
const MARKER: [u8; 2] = [0xc3, 0x01];

/// Of the wire format of a registry; the schema's number follows.
#[cfg(feature = "http")]
const MAGIC: u8 = 0;

/// Decodes messages, and the JSON object with what the broker says of each.
#[derive(Debug, Clone)]
pub(crate) struct AvroDecoder {
    schemas: Schemas,
    /// for the fields that take what stands beside a message
    members: Option<JsonDecoder>,
    record_bytes_max: usize,
}

/// By what messages were written.
#[derive(Debug, Clone)]
enum Schemas {
    /// by one schema, and they begin with these bytes
    One { program: Arc<Program>, prefix: Box<[u8]> },
    /// each says by which one
    #[cfg(feature = "http")]
    Registry { registry: Arc<Registry>, programs: HashMap<u32, Arc<Program>> },
}

/// How a message is read.
enum Reading {
    /// by this program, behind so many bytes
    By(Arc<Program>, usize),
    /// that is not known yet
    #[cfg(feature = "http")]
    Later,
    /// not at all, for this reason
    Not(String),
}

impl Schemas {
    fn new(spec: &AvroSpec, fields: &[FieldSpec], members: &[&str]) -> Result<Schemas, ConnectError> {
        let (schema, prefix) = match spec {
            AvroSpec::Datum(schema) => (schema, Vec::new()),
            AvroSpec::SingleObject(schema) => (schema, [&MARKER[..], &schema.fingerprint()].concat()),
            #[cfg(feature = "http")]
            AvroSpec::Registry(spec, reader) => {
                let registry = Arc::new(Registry::open(spec, reader.as_ref(), fields, members)?);
                return Ok(Schemas::Registry { registry, programs: HashMap::new() });
            }
            #[cfg(not(feature = "http"))]
            AvroSpec::Registry(..) => return Err(ConnectError::Feature("http")),
        };
        let program = compile(schema, None, fields, members).map_err(|misfits| ConnectError::Misfit { misfits })?;
        Ok(Schemas::One { program: Arc::new(program), prefix: prefix.into() })
    }

    fn reading(&mut self, message: &[u8]) -> Result<Reading, ConnectError> {
        match self {
            Schemas::One { program, prefix } if message.starts_with(prefix) => {
                Ok(Reading::By(Arc::clone(program), prefix.len()))
            }
            Schemas::One { prefix, .. } => Ok(Reading::Not(foreign(message, prefix))),
            #[cfg(feature = "http")]
            Schemas::Registry { registry, programs } => {
                let Some((&[MAGIC, a, b, c, d], _)) = message.split_first_chunk() else {
                    let reason =
                        "it is not in the wire format of a schema registry, which begins with 00 and four bytes";
                    return Ok(Reading::Not(reason.to_owned()));
                };
                let id = u32::from_be_bytes([a, b, c, d]);
                if let Some(program) = programs.get(&id) {
                    return Ok(Reading::By(Arc::clone(program), REGISTRY_BYTES));
                }
                Ok(match registry.ask(id)? {
                    Known::Later => Reading::Later,
                    Known::Refused(reason) => Reading::Not(reason.to_string()),
                    Known::Program(program) => {
                        programs.insert(id, Arc::clone(&program));
                        Reading::By(program, REGISTRY_BYTES)
                    }
                })
            }
        }
    }
}

/// Before a datum in the wire format of a registry.
#[cfg(feature = "http")]
const REGISTRY_BYTES: usize = 5;

impl AvroDecoder {
    /// `members`: the fields that take what stands beside a message.
    pub fn new(
        spec: &AvroSpec,
        fields: &[FieldSpec],
        members: &[&str],
        record_bytes_max: usize,
    ) -> Result<AvroDecoder, ConnectError> {
        let schemas = Schemas::new(spec, fields, members)?;
        let beside = fields.iter().enumerate().filter(|(_, field)| members.contains(&field.name.as_str()));
        let members = if members.is_empty() { None } else { Some(JsonDecoder::of(beside, record_bytes_max)?) };
        Ok(AvroDecoder { schemas, members, record_bytes_max })
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
        let (program, before) = match self.schemas.reading(message)? {
            Reading::By(program, before) => (program, before),
            Reading::Not(reason) => {
                records.refuse(&reason, message, shown().as_deref());
                return Ok(Taken::Whole);
            }
            #[cfg(feature = "http")]
            Reading::Later => return Ok(Taken::Later),
        };
        let beside = self.members.as_mut().map_or(Ok(()), |members| members.fill(header, &mut records.row));
        let outcome = beside.and_then(|()| fill(&program, message, before, &mut records.row));
        let ended = match outcome {
            Ok(()) => records.end(Ok(()), 0, message),
            Err(refusal) => records.end_with(Err(refusal), 0, message, shown().as_deref()),
        };
        Ok(if ended.is_ok() { Taken::Whole } else { Taken::Full })
    }
}

/// Moves the datum behind the first bytes of a message into the row.
fn fill(program: &Program, message: &[u8], before: usize, row: &mut Row<'_>) -> Result<(), Refusal> {
    let mut bytes = Bytes::new(&message[before..]);
    let read = program.run(&mut bytes, row);
    let (left, at) = (bytes.left(), before + bytes.at());
    match read {
        Ok(()) if left == 0 => Ok(()),
        Ok(()) => Err(refuse(row, format_args!("{left} bytes follow the datum at byte {at}"))),
        Err(Unread::Broken(broken)) => {
            Err(refuse(row, format_args!("not valid Avro of this schema at byte {at}: {}", broken.what())))
        }
        Err(Unread::Refused(refusal)) => Err(refusal),
    }
}

#[cold]
fn refuse(row: &mut Row<'_>, reason: std::fmt::Arguments<'_>) -> Refusal {
    row.reason.clear();
    let _ = row.reason.write_fmt(reason);
    Refusal::Misfit
}

/// Why a message does not begin as it should.
#[cold]
fn foreign(message: &[u8], prefix: &[u8]) -> String {
    match message.strip_prefix(&MARKER).and_then(|rest| rest.first_chunk::<8>()) {
        Some(other) => {
            let expected = hexadecimal(&prefix[MARKER.len()..]);
            format!("its schema has the fingerprint {}, and the one that is known {expected}", hexadecimal(other))
        }
        None => "it is not in Avro's single-object encoding, which begins with C3 01".to_owned(),
    }
}

/// The program of a schema for these fields, of which `members` are not in messages. `reader`: where defaults and former
/// names stand.
pub(super) fn compile(
    schema: &AvroSchema,
    reader: Option<&AvroSchema>,
    fields: &[FieldSpec],
    members: &[&str],
) -> Result<Program, Vec<FieldMisfit>> {
    let within: Vec<(usize, &FieldSpec)> =
        fields.iter().enumerate().filter(|(_, field)| !members.contains(&field.name.as_str())).collect();
    let columns: Vec<Column> = within.iter().map(|(index, field)| Column::new(*index, field)).collect();
    let places = within.iter().enumerate().map(|(place, (_, field))| (place, *field));
    let paths = Paths::new(places).map_err(|error| vec![FieldMisfit::of_schema(error.to_string())])?;
    Program::new(schema, reader, &paths, &columns)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
