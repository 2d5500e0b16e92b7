//! Protocol Buffers: one message of them a message, of a type that is known before; read from sources and written by sinks.
//!
//! A message's values go straight into the batch, without a message object in between: what the type and the declared fields
//! have in common is found out once ([`Program`]). Fields that nobody declared are passed over. What does not fit is refused
//! when the pipeline is checked; of a type that only a registry knows, when its first message comes.
//!
//! What a field means that comes twice, in pieces or not at all follows the specification
//! (<https://protobuf.dev/programming-guides/encoding/>), except that a field of another wire type than its own is refused, which
//! others pass over: it was written by another schema.
//!
//! No message can make it allocate more than a few times its own size, recurse without bound, or panic.

mod compiler;
mod encoder;
mod form;
mod output;
#[cfg(test)]
mod output_tests;
mod program;
mod reader;
#[cfg(all(test, feature = "http"))]
mod registry_tests;
mod schema;
#[cfg(feature = "http")]
mod source;
#[cfg(test)]
mod tests;
#[cfg(feature = "http")]
mod text;
mod value;
mod wire;

pub use self::{
    output::{ProtobufOutput, ProtobufTarget},
    schema::{ProtobufSchema, ProtobufTypes},
};
pub(super) use self::{
    program::{Findings, Program},
    reader::{ProtobufReader, fill},
};
use super::{FieldMisfit, RegistrySpec};
use crate::FieldSpec;

/// How messages of Protocol Buffers are read: what stands before them, and their type.
#[derive(Debug, Clone, PartialEq)]
pub enum ProtobufSpec {
    /// nothing else is there
    Plain(ProtobufSchema),
    /// in the wire format of Confluent's schema registry: 00, the schema's number there, which of its types it is, a
    /// message. If a type is named, by its full name, those of other types become dead letters.
    Registry(RegistrySpec, Option<String>),
}

impl ProtobufSpec {
    /// What of the type, if it is known already, does not fit these fields, of which `members` are not in messages but beside
    /// them.
    pub fn misfits(&self, fields: &[FieldSpec], members: &[&str]) -> Vec<FieldMisfit> {
        match self {
            ProtobufSpec::Plain(schema) => {
                let fields: Vec<_> = fields.iter().enumerate().collect();
                reader::compile(schema.message(), &fields, members).err().unwrap_or_default()
            }
            ProtobufSpec::Registry(..) => Vec::new(),
        }
    }
}
