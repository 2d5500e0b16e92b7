//! Avro: one datum a message, by a schema that is known before.
//!
//! A message's values go straight into the batch: what the schema and the declared fields have in common is found out once
//! ([`program::Program`]). Fields that nobody declared are passed over; nullable ones that the schema lacks are null;
//! numbers may become wider. Anything else that does not fit is refused when the pipeline is checked.
//!
//! No message can make it allocate more than its own size, recurse without bound, or panic.

mod decimal;
mod decoder;
mod program;
mod schema;
#[cfg(test)]
mod tests;
mod value;
mod wire;

pub(crate) use self::decoder::AvroDecoder;
pub use self::schema::{AvroSchema, FieldMisfit};
use crate::FieldSpec;

/// How Avro messages are read: what they are, and the schema by which they were written.
#[derive(Debug, Clone, PartialEq)]
pub enum AvroSpec {
    /// a datum and nothing else
    Datum(AvroSchema),
    /// in Avro's single-object encoding: two bytes, C3 01, the fingerprint of the schema, a datum
    SingleObject(AvroSchema),
}

impl AvroSpec {
    /// What of the schema does not fit these fields, of which `members` are not in messages but beside them.
    pub fn misfits(&self, fields: &[FieldSpec], members: &[&str]) -> Vec<FieldMisfit> {
        match decoder::compile(self.schema().parsed(), fields, members) {
            Ok(_) => Vec::new(),
            Err(misfits) => misfits,
        }
    }

    fn schema(&self) -> &AvroSchema {
        let (AvroSpec::Datum(schema) | AvroSpec::SingleObject(schema)) = self;
        schema
    }
}
