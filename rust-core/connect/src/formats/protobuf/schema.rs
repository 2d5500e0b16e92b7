//! Types of messages.

use std::{borrow::Cow, fmt, panic, path::Path, sync::Arc};

use prost_reflect::{
    DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, prost::Message,
    prost_types::FileDescriptorSet,
};

#[cfg(not(feature = "http"))]
use crate::ConnectError;
#[cfg(feature = "http")]
use crate::formats::registry::Schema;

/// What a descriptor set or a `.proto` file says of types.
#[derive(Clone)]
pub struct ProtobufTypes {
    /// the set, or the file's text, as it was read
    bytes: Arc<[u8]>,
    pool: DescriptorPool,
    /// the only one whose types can be had
    file: Option<FileDescriptor>,
}

impl ProtobufTypes {
    /// Reads a set, as `protoc --include_imports --descriptor_set_out=FILE` writes it; the error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<ProtobufTypes, String> {
        const MADE_BY: &str = "it has to be what protoc --include_imports --descriptor_set_out writes";
        let set = FileDescriptorSet::decode(bytes).map_err(|error| format!("{error}: {MADE_BY}"))?;
        if let Some(file) = set.file.iter().find(|file| !["", "proto2", "proto3"].contains(&file.syntax())) {
            let (name, syntax) = (file.name(), file.syntax());
            return Err(format!("{name} has syntax {syntax:?}, and only files with proto2 or proto3 are read"));
        }
        // What builds the types is not ours, and not made for sets that no compiler wrote.
        let built = panic::catch_unwind(|| DescriptorPool::decode(bytes));
        let pool = match built {
            Ok(built) => built.map_err(|error| format!("{error}: {MADE_BY}"))?,
            Err(_) => return Err(format!("it makes its reader panic: {MADE_BY}")),
        };
        Ok(ProtobufTypes { bytes: bytes.into(), pool, file: None })
    }

    /// Reads the text of a `.proto` file, which imports nothing but files of Google's.
    #[cfg(feature = "http")]
    pub fn parse_text(text: &str) -> Result<ProtobufTypes, String> {
        let schema = Schema { schema: text.to_owned(), others: Vec::new() };
        // Neither is what reads text.
        let parsed = panic::catch_unwind(|| super::source::parse(&schema));
        let file = parsed.unwrap_or_else(|_| Err("it makes its reader panic".to_owned()))?;
        Ok(ProtobufTypes { bytes: text.as_bytes().into(), pool: file.parent_pool().clone(), file: Some(file) })
    }

    /// This program was built without registries, which alone need the text.
    #[cfg(not(feature = "http"))]
    pub fn parse_text(_: &str) -> Result<ProtobufTypes, String> {
        Err(ConnectError::Feature("http").to_string())
    }

    /// Reads such a set from a file.
    pub fn read(path: &Path) -> Result<ProtobufTypes, String> {
        ProtobufTypes::parse(&std::fs::read(path).map_err(|error| error.to_string())?)
    }

    /// Reads a `.proto` file.
    pub fn read_text(path: &Path) -> Result<ProtobufTypes, String> {
        ProtobufTypes::parse_text(&std::fs::read_to_string(path).map_err(|error| error.to_string())?)
    }

    /// The type with this full name, such as `plant.Reading`.
    pub fn message(&self, name: &str) -> Option<ProtobufSchema> {
        let message = self.pool.get_message_by_name(name).filter(|message| self.has(message))?;
        Some(ProtobufSchema { bytes: Arc::clone(&self.bytes), message })
    }

    /// The full names of all types.
    pub fn names(&self) -> Vec<String> {
        let messages = self.pool.all_messages().filter(|message| !message.is_map_entry() && self.has(message));
        messages.map(|message| message.full_name().to_owned()).collect()
    }

    fn has(&self, message: &MessageDescriptor) -> bool {
        self.file.as_ref().is_none_or(|file| message.parent_file() == *file)
    }
}

/// A type of messages.
#[derive(Clone)]
pub struct ProtobufSchema {
    /// the set, or the text, in which it stands
    bytes: Arc<[u8]>,
    message: MessageDescriptor,
}

impl ProtobufSchema {
    pub(super) fn message(&self) -> &MessageDescriptor {
        &self.message
    }

    /// The text of its file, if that is what was read.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

impl PartialEq for ProtobufSchema {
    fn eq(&self, other: &ProtobufSchema) -> bool {
        self.message.full_name() == other.message.full_name() && self.bytes == other.bytes
    }
}

impl fmt::Debug for ProtobufSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProtobufSchema").field(&self.message.full_name()).finish()
    }
}

/// So many fields of a message are named in a hint.
const NAMES_MAX: usize = 20;

/// The names of a message's fields, for people.
pub(super) fn field_names(message: &MessageDescriptor) -> String {
    let names: Vec<String> = message.fields().take(NAMES_MAX).map(|field| field.name().to_owned()).collect();
    let more = if message.fields().len() > NAMES_MAX { " and others" } else { "" };
    format!("{}{more}", names.join(", "))
}

/// What people call the type of a field.
pub(super) fn name_of(field: &FieldDescriptor) -> String {
    let kind = kind_name(&field.kind());
    match field {
        field if field.is_map() => "a map".to_owned(),
        field if field.is_list() => format!("repeated {kind}"),
        field if field.is_group() => "a group".to_owned(),
        _ => kind,
    }
}

fn kind_name(kind: &Kind) -> String {
    let name = match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(message) => return format!("the message {}", message.full_name()),
        Kind::Enum(symbols) => return format!("the enum {}", symbols.full_name()),
    };
    name.to_owned()
}
