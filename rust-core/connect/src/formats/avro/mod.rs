//! Avro: one datum a message, by a schema that is known before.
//!
//! A message's values go straight into the batch: what the schema and the declared fields have in common is found out once
//! ([`program::Program`]). Fields that nobody declared are passed over; nullable ones that the schema lacks are null;
//! numbers may become wider. Anything else that does not fit is refused when the pipeline is checked; of a schema that only a
//! registry knows, when its first message comes.
//!
//! No message can make it allocate more than a few times its own size, recurse without bound, or panic.

#[cfg(feature = "http")]
mod client;
mod decimal;
mod decoder;
mod program;
#[cfg(feature = "http")]
mod registry;
#[cfg(all(test, feature = "http"))]
mod registry_tests;
mod schema;
#[cfg(test)]
mod tests;
mod value;
mod wire;

use std::{path::PathBuf, time::Duration};

pub(crate) use self::decoder::AvroDecoder;
pub use self::schema::{AvroSchema, FieldMisfit};
use crate::{FieldSpec, Secret};

/// How Avro messages are read: what they are, and the schema by which they were written.
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

/// Where a schema registry is that has Confluent's interface.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistrySpec {
    /// where requests go: `http://host:port`, or with `https`
    pub url: Secret,
    /// who asks (RFC 7617)
    pub user: Option<String>,
    /// the user's password
    pub password: Option<Secret>,
    /// a PEM file with the certificates to trust instead of the system's
    pub root_certificates: Option<PathBuf>,
    /// for one request
    pub timeout: Duration,
}

impl AvroSpec {
    /// What of the schema, if it is known already, does not fit these fields, of which `members` are not in messages but beside them.
    pub fn misfits(&self, fields: &[FieldSpec], members: &[&str]) -> Vec<FieldMisfit> {
        match self {
            AvroSpec::Datum(schema) | AvroSpec::SingleObject(schema) | AvroSpec::Registry(_, Some(schema)) => {
                decoder::compile(schema, None, fields, members).err().unwrap_or_default()
            }
            AvroSpec::Registry(_, None) => Vec::new(),
        }
    }
}
