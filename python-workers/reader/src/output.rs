//! What a UDF returned, checked and written into a batch in place.
//!
//! Accepts one array, a dict of columns by name, a tuple in declared order, or anything that speaks the Arrow PyCapsule
//! interface. As many rows as were given; types as declared, or such as convert to them without loss. Whatever does
//! not fit is an [`OutputError`] that names the subject, the column, what was expected and what came.

mod distribute;
mod error;
mod write;

pub(crate) use distribute::Returned;
pub(crate) use error::{OutputError, describe};

use std::sync::Arc;

use numpy::PyArrayDescr;
use pyo3::prelude::*;
use pyo3::types::PyString;
use ringmill_wire::{BatchWriter, DataType, Field, Schema};

use crate::ndarray::descriptor;

/// One column that is to be written.
pub(crate) struct OutputColumn {
    pub name: Py<PyString>,
    pub field: Field,
    pub descriptor: &'static Py<PyArrayDescr>,
}

/// The columns that are to be written, and whom to name if they do not fit.
pub(crate) struct OutputPlan {
    /// For example `UDF anomaly_score`.
    subject: String,
    pub columns: Vec<OutputColumn>,
}

impl OutputPlan {
    pub(crate) fn new(py: Python<'_>, subject: String, schema: &Arc<Schema>) -> PyResult<OutputPlan> {
        let columns = schema.fields.iter().map(|field| {
            Ok(OutputColumn {
                name: PyString::intern(py, &field.name).unbind(),
                field: field.clone(),
                descriptor: descriptor(py, field.data_type)?,
            })
        });
        Ok(OutputPlan { subject, columns: columns.collect::<PyResult<_>>()? })
    }

    /// Whom errors name.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// Writes `rows` rows of what was returned into an open, empty batch, and finishes them.
    pub(crate) fn write(&self, returned: &Returned<'_, '_>, rows: usize, writer: &mut BatchWriter) -> PyResult<()> {
        if rows > writer.rows_free() as usize {
            return Err(self.wrong("", &format!("at most {} rows", writer.rows_free()), &rows.to_string()));
        }
        self.distribute(returned, rows, writer)?;
        writer.finish_rows(rows as u32);
        Ok(())
    }
}

/// The room for `rows` values of a fixed-width column, at the start of an empty batch.
pub(crate) fn fixed_room(writer: &mut BatchWriter, column: usize, data_type: DataType, rows: usize) -> *mut u8 {
    macro_rules! room {
        ($type:ty) => {
            writer.fixed_tail::<$type>(column, rows).as_mut_ptr().cast()
        };
    }
    match data_type {
        DataType::Bool | DataType::UInt8 => room!(u8),
        DataType::Int8 => room!(i8),
        DataType::Int16 => room!(i16),
        DataType::Int32 => room!(i32),
        DataType::Int64 | DataType::Timestamp(_) => room!(i64),
        DataType::UInt16 => room!(u16),
        DataType::UInt32 => room!(u32),
        DataType::UInt64 => room!(u64),
        DataType::Float32 => room!(f32),
        DataType::Float64 => room!(f64),
        DataType::Utf8 | DataType::Binary | DataType::List(_) => unreachable!("asked for fixed-width columns only"),
    }
}
