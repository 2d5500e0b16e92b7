//! By which schema a message was written, and the message as a row.

#[cfg(feature = "http")]
use std::collections::HashMap;
use std::sync::Arc;

use super::{
    AvroSchema, AvroSpec,
    program::{Program, Unread},
};
#[cfg(feature = "http")]
use crate::formats::registry::{self, Known, Registry};
use crate::{
    ConnectError, FieldSpec, Fields,
    formats::{
        FieldMisfit,
        binary::Bytes,
        column::{Refusal, Row},
        message::{self, Reading, columns_within, refuse},
    },
};

/// Of the single-object encoding.
pub(super) const MARKER: [u8; 2] = [0xc3, 0x01];

/// By what messages were written.
#[derive(Debug, Clone)]
pub(in crate::formats) enum AvroReader {
    /// by one schema, and they begin with these bytes
    One { program: Arc<Program>, prefix: Box<[u8]> },
    /// each says by which one
    #[cfg(feature = "http")]
    Registry { registry: Arc<Registry<OfType>>, programs: HashMap<u32, Arc<OfType>> },
}

/// The program for a schema, and the number of the type of events that have it.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(in crate::formats) struct OfType {
    program: Arc<Program>,
    number: usize,
}

impl AvroReader {
    pub fn new(spec: &AvroSpec, fields: &Fields, members: &[&str]) -> Result<AvroReader, ConnectError> {
        let (schema, prefix) = match spec {
            AvroSpec::Datum(schema) => (schema, Vec::new()),
            AvroSpec::SingleObject(schema) => (schema, [&MARKER[..], &schema.fingerprint()].concat()),
            #[cfg(feature = "http")]
            AvroSpec::Registry(spec, reader) => {
                let registry = Arc::new(open(spec, reader.clone(), fields, members)?);
                return Ok(AvroReader::Registry { registry, programs: HashMap::new() });
            }
            #[cfg(not(feature = "http"))]
            AvroSpec::Registry(..) => return Err(ConnectError::Feature("http")),
        };
        if fields.types().is_some() {
            return Err(ConnectError::Spec {
                option: "type",
                value: "schema".to_owned(),
                rule: message::NEEDS_REGISTRY,
            });
        }
        let program =
            compile(schema, None, &fields.of_type(0), members).map_err(|misfits| ConnectError::Misfit { misfits })?;
        Ok(AvroReader::One { program: Arc::new(program), prefix: prefix.into() })
    }

    /// How this message is read.
    pub fn reading(&mut self, message: &[u8]) -> Result<Reading, ConnectError> {
        match self {
            AvroReader::One { program, prefix } if message.starts_with(prefix) => {
                Ok(Reading::By(message::Program::Avro(Arc::clone(program)), prefix.len(), 0))
            }
            AvroReader::One { prefix, .. } => Ok(Reading::Not(foreign(message, prefix))),
            #[cfg(feature = "http")]
            AvroReader::Registry { registry, programs } => {
                let Some(id) = registry::id(message) else {
                    return Ok(Reading::Not(registry::FOREIGN.to_owned()));
                };
                let by = |known: &OfType| {
                    let program = message::Program::Avro(Arc::clone(&known.program));
                    Reading::By(program, registry::HEAD_BYTES, known.number)
                };
                if let Some(known) = programs.get(&id) {
                    return Ok(by(known));
                }
                Ok(match registry.ask(id)? {
                    Known::Later => Reading::Later,
                    Known::Refused(reason) => Reading::Not(reason.to_string()),
                    Known::Found(found) => {
                        let reading = by(&found);
                        programs.insert(id, found);
                        reading
                    }
                })
            }
        }
    }
}

/// A registry whose schemas become programs.
#[cfg(feature = "http")]
fn open(
    spec: &super::RegistrySpec,
    reader: Option<AvroSchema>,
    fields: &Fields,
    members: &[&str],
) -> Result<Registry<OfType>, ConnectError> {
    let fields = fields.clone();
    let members: Vec<String> = members.iter().map(|member| (*member).to_owned()).collect();
    Registry::open(spec, "AVRO", move |found| {
        let others: Vec<String> = found.others.into_iter().map(|other| other.schema).collect();
        let schema = AvroSchema::parse_with(&found.schema, &others);
        let schema = schema.map_err(|reason| format!("cannot be read: {reason}"))?;
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let number = match fields.types() {
            None => 0,
            Some(types) => types.number_of_schema(&schema.full_name())?,
        };
        let program = compile(&schema, reader.as_ref(), &fields.of_type(number), &members);
        let program = program.map_err(FieldMisfit::of_many)?;
        Ok(OfType { program: Arc::new(program), number })
    })
}

/// Moves the datum behind the first bytes of a message into the row.
pub(in crate::formats) fn fill(
    program: &Program,
    message: &[u8],
    before: usize,
    row: &mut Row<'_>,
) -> Result<(), Refusal> {
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
    fields: &[(usize, &FieldSpec)],
    members: &[&str],
) -> Result<Program, Vec<FieldMisfit>> {
    let (columns, paths) = columns_within(fields, members)?;
    Program::new(schema, reader, &paths, &columns)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
