//! Schemas and capacities as Python hands them over.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use ringmill_wire::{Capacity, Field, Schema, Template};

/// Columns: name, type name, nullable.
pub(crate) type PyFields = Vec<(String, String, bool)>;

/// Rows, and bytes of each variable column.
pub(crate) type PyCapacity = (u32, u32);

/// The schema of these columns.
pub(crate) fn schema(fields: PyFields) -> PyResult<Arc<Schema>> {
    let fields = fields.into_iter().map(|(name, data_type, nullable)| {
        let data_type =
            data_type.parse().map_err(|error| PyValueError::new_err(format!("column {name:?}: {error}")))?;
        Ok(Field { name, data_type, nullable })
    });
    let schema = Schema::new(fields.collect::<PyResult<_>>()?).map_err(value_error)?;
    Ok(Arc::new(schema))
}

/// The layout of batches of these columns.
pub(crate) fn template(fields: PyFields, (rows_max, variable_bytes_max): PyCapacity) -> PyResult<Arc<Template>> {
    let capacity = Capacity { rows_max, variable_bytes_max };
    Ok(Arc::new(Template::new(schema(fields)?, capacity).map_err(value_error)?))
}

/// An error of the layers below, with its text.
pub(crate) fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}
