//! Of which type a message is, and the message as a row.

#[cfg(feature = "http")]
use std::collections::HashMap;
use std::sync::Arc;

#[cfg(feature = "http")]
use prost_reflect::FileDescriptor;
use prost_reflect::MessageDescriptor;

use super::{Findings, Program, ProtobufSpec, compiler};
#[cfg(feature = "http")]
use super::{
    RegistrySpec,
    source::{self, Indexes},
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

/// Of which type messages are.
#[derive(Debug, Clone)]
pub(in crate::formats) enum ProtobufReader {
    /// all of one
    One(Arc<Program>),
    /// each says of which one
    #[cfg(feature = "http")]
    Registry(Box<Registered>),
}

/// Types of a registry.
#[cfg(feature = "http")]
#[derive(Debug, Clone)]
pub(in crate::formats) struct Registered {
    registry: Arc<Registry<FileDescriptor>>,
    files: HashMap<u32, File>,
    /// the only one that is read
    name: Option<String>,
    fields: Fields,
    members: Arc<[String]>,
    /// of the message that is read
    indexes: Indexes,
}

/// A schema of the registry, and what was made of its types so far. There are no more of them than it has.
#[cfg(feature = "http")]
#[derive(Debug, Clone)]
struct File {
    descriptor: Arc<FileDescriptor>,
    programs: HashMap<Indexes, Result<OfType, Arc<str>>>,
}

/// The program for a type of messages, and the number of the type of events that it is.
#[cfg(feature = "http")]
type OfType = (Arc<Program>, usize);

impl ProtobufReader {
    pub fn new(spec: &ProtobufSpec, fields: &Fields, members: &[&str]) -> Result<ProtobufReader, ConnectError> {
        match spec {
            ProtobufSpec::Plain(_) if fields.types().is_some() => {
                Err(ConnectError::Spec { option: "type", value: "schema".to_owned(), rule: message::NEEDS_REGISTRY })
            }
            ProtobufSpec::Plain(schema) => {
                let program = compile(schema.message(), &fields.of_type(0), members);
                let program = program.map_err(|misfits| ConnectError::Misfit { misfits })?;
                Ok(ProtobufReader::One(Arc::new(program)))
            }
            #[cfg(feature = "http")]
            ProtobufSpec::Registry(spec, name) => {
                let registered = Registered::new(spec, name.clone(), fields, members)?;
                Ok(ProtobufReader::Registry(Box::new(registered)))
            }
            #[cfg(not(feature = "http"))]
            ProtobufSpec::Registry(..) => Err(ConnectError::Feature("http")),
        }
    }

    /// How this message is read.
    #[cfg_attr(not(feature = "http"), expect(unused_variables, clippy::unnecessary_wraps, reason = "no registry"))]
    pub fn reading(&mut self, message: &[u8]) -> Result<Reading, ConnectError> {
        match self {
            ProtobufReader::One(program) => Ok(Reading::By(message::Program::Protobuf(Arc::clone(program)), 0, 0)),
            #[cfg(feature = "http")]
            ProtobufReader::Registry(registered) => registered.reading(message),
        }
    }
}

#[cfg(feature = "http")]
impl Registered {
    fn new(
        spec: &RegistrySpec,
        name: Option<String>,
        fields: &Fields,
        members: &[&str],
    ) -> Result<Registered, ConnectError> {
        Ok(Registered {
            registry: Arc::new(Registry::open(spec, "PROTOBUF", |found| {
                source::parse(&found).map_err(|reason| format!("cannot be read: {reason}"))
            })?),
            files: HashMap::new(),
            name,
            fields: fields.clone(),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            indexes: Indexes::default(),
        })
    }

    fn reading(&mut self, message: &[u8]) -> Result<Reading, ConnectError> {
        let Some(id) = registry::id(message) else { return Ok(Reading::Not(registry::FOREIGN.to_owned())) };
        let mut rest = Bytes::new(message);
        let read = rest.take(registry::HEAD_BYTES).ok().and_then(|_| self.indexes.read(&mut rest));
        if read.is_none() {
            let reason = "behind the number of its schema there is no valid list of message indexes";
            return Ok(Reading::Not(reason.to_owned()));
        }
        if !self.files.contains_key(&id) {
            match self.registry.ask(id)? {
                Known::Later => return Ok(Reading::Later),
                Known::Refused(reason) => return Ok(Reading::Not(reason.to_string())),
                Known::Found(descriptor) => {
                    self.files.insert(id, File { descriptor, programs: HashMap::new() });
                }
            }
        }
        Ok(match self.program(id) {
            Ok((program, number)) => Reading::By(message::Program::Protobuf(program), rest.at(), number),
            Err(reason) => Reading::Not(reason.to_string()),
        })
    }

    /// For the type of the message that is read.
    fn program(&mut self, id: u32) -> Result<OfType, Arc<str>> {
        let Some(file) = self.files.get_mut(&id) else { return Err("its schema is not known".into()) };
        if let Some(known) = file.programs.get(&self.indexes) {
            return known.clone();
        }
        let Some(message) = self.indexes.find(&file.descriptor) else {
            return Err(format!("schema {id} of the registry has no message {}", self.indexes).into());
        };
        let program = match &self.name {
            Some(name) if name != message.full_name() => {
                Err(format!("it is {}, and only {name} is read", message.full_name()).into())
            }
            _ => {
                let members: Vec<&str> = self.members.iter().map(String::as_str).collect();
                let number = self.fields.types().map_or(Ok(0), |types| types.number_of_schema(message.full_name()));
                let compiled = number.and_then(|number| {
                    let program = compile(&message, &self.fields.of_type(number), &members);
                    Ok((Arc::new(program.map_err(FieldMisfit::of_many)?), number))
                });
                compiled.map_err(|reason| format!("schema {id} of the registry {reason}").into())
            }
        };
        file.programs.insert(self.indexes.clone(), program.clone());
        program
    }
}

/// The program of a type for these fields, of which `members` are not in messages.
pub(super) fn compile(
    message: &MessageDescriptor,
    fields: &[(usize, &FieldSpec)],
    members: &[&str],
) -> Result<Program, Vec<FieldMisfit>> {
    let (columns, paths) = columns_within(fields, members)?;
    compiler::compile(message, &paths, &columns)
}

/// Moves the message behind the first bytes into the row.
pub(in crate::formats) fn fill(
    program: &Program,
    message: &[u8],
    before: usize,
    found: &mut Findings,
    row: &mut Row<'_>,
) -> Result<(), Refusal> {
    let mut bytes = Bytes::new(message);
    // What stands before it was read from it.
    let _ = bytes.take(before);
    match program.find(bytes, found) {
        Ok(()) => program.put(message, found, row),
        Err(unread) => {
            let (at, what) = (unread.at, unread.what);
            Err(refuse(row, format_args!("not valid Protobuf of this schema at byte {at}: {what}")))
        }
    }
}
