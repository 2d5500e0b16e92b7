//! Types of messages.

use std::{fmt, panic, path::Path, sync::Arc};

use prost_reflect::{
    DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, prost::Message, prost_types::FileDescriptorSet,
};

/// What a descriptor set says of types.
#[derive(Clone)]
pub struct ProtobufTypes {
    /// the set as it was read
    bytes: Arc<[u8]>,
    pool: DescriptorPool,
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
        Ok(ProtobufTypes { bytes: bytes.into(), pool })
    }

    /// Reads such a file.
    pub fn read(path: &Path) -> Result<ProtobufTypes, String> {
        ProtobufTypes::parse(&std::fs::read(path).map_err(|error| error.to_string())?)
    }

    /// The type with this full name, such as `plant.Reading`.
    pub fn message(&self, name: &str) -> Option<ProtobufSchema> {
        let message = self.pool.get_message_by_name(name)?;
        Some(ProtobufSchema { bytes: Arc::clone(&self.bytes), message })
    }

    /// The full names of all types.
    pub fn names(&self) -> Vec<String> {
        let messages = self.pool.all_messages().filter(|message| !message.is_map_entry());
        messages.map(|message| message.full_name().to_owned()).collect()
    }
}

/// A type of messages.
#[derive(Clone)]
pub struct ProtobufSchema {
    /// the set in which it stands
    bytes: Arc<[u8]>,
    message: MessageDescriptor,
}

impl ProtobufSchema {
    pub(super) fn message(&self) -> &MessageDescriptor {
        &self.message
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
