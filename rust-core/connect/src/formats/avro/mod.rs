//! Avro: datums by a schema that is known before, one a message, or one after the other in the blocks of a file.
//!
//! A datum's values go straight into the batch: what the schema and the declared fields have in common is found out once
//! ([`program::Program`]). Fields that nobody declared are passed over; nullable ones that the schema lacks are null;
//! numbers may become wider. Anything else that does not fit is refused when the pipeline is checked; of a schema that only a
//! registry knows, when its first message comes.
//!
//! No message can make it allocate more than a few times its own size, recurse without bound, or panic.

mod decimal;
mod encoder;
mod output;
#[cfg(test)]
mod output_tests;
mod program;
mod reader;
#[cfg(all(test, feature = "http"))]
mod registry_tests;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod value;
mod wire;

pub(crate) use self::rows::AvroRows;
pub use self::{output::AvroOutput, schema::AvroSchema};
pub(super) use self::{
    program::Program,
    reader::{AvroReader, fill},
};
use super::{FieldMisfit, RegistrySpec};
use crate::FieldSpec;

/// What Avro messages are, and the schema by which they were written, or are.
#[derive(Debug, Clone, PartialEq)]
pub enum AvroSpec {
    /// a datum and nothing else
    Datum(AvroSchema),
    /// in Avro's single-object encoding: two bytes, C3 01, the fingerprint of the schema, a datum
    SingleObject(AvroSchema),
    /// in the wire format of Confluent's schema registry: 00, the schema's number there, a datum. A schema that the reader
    /// knows says what fields were called before, and what stands for those that a message's schema lacks.
    Registry(RegistrySpec, Option<AvroSchema>),
}

impl AvroSpec {
    /// What of the schema, if it is known already, does not fit these fields, of which `members` are not in messages but beside them.
    pub fn misfits(&self, fields: &[FieldSpec], members: &[&str]) -> Vec<FieldMisfit> {
        match self {
            AvroSpec::Datum(schema) | AvroSpec::SingleObject(schema) | AvroSpec::Registry(_, Some(schema)) => {
                let fields: Vec<_> = fields.iter().enumerate().collect();
                reader::compile(schema, None, &fields, members).err().unwrap_or_default()
            }
            AvroSpec::Registry(_, None) => Vec::new(),
        }
    }
}
