//! The fields that a text source declares.

use std::sync::Arc;

use ringmill_wire::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use crate::ConnectError;

/// A declared field of a text source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldSpec {
    /// column name; also the key (JSON) or header (CSV) that it is read from, unless `path` says otherwise
    pub name: String,
    /// type of the column
    pub data_type: DataType,
    /// whether a missing or null value is a null rather than a dead letter
    pub nullable: bool,
    /// where the value stands: a JSON pointer (RFC 6901) such as `/meta/site`; in CSV the name of the header column
    pub path: Option<String>,
}

/// The schema that these fields make, in their order.
pub fn schema_of(fields: &[FieldSpec]) -> Result<Arc<Schema>, ConnectError> {
    let fields = fields.iter().map(|field| Field {
        name: field.name.clone(),
        data_type: field.data_type,
        nullable: field.nullable,
    });
    let schema = Schema::new(fields.collect()).map_err(|error| ConnectError::Schema(error.to_string()))?;
    Ok(Arc::new(schema))
}
