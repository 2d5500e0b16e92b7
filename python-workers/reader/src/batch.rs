//! A whole micro-batch as one Python object.
#![allow(unsafe_code)]

use std::sync::Arc;

use numpy::PyArray1;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use ringmill_wire::{BatchView, ColumnParts, Schema};

use crate::arrow::abi::into_capsule;
use crate::arrow::export;
use crate::column::Column;
use crate::lease::Lease;

/// A micro-batch: read-only columns by name, and an Arrow table to whoever speaks the Arrow PyCapsule interface
/// (`pa.record_batch(batch)`, `pl.DataFrame(batch)`), without a copy but for bool columns.
#[pyclass(frozen, mapping, module = "ringmill._reader")]
pub(crate) struct Batch {
    lease: Py<Lease>,
    schema: Arc<Schema>,
    rows: usize,
    columns: Box<[ColumnParts]>,
    identity: Identity,
}

/// What tells the rows of a sink's batch from all others, however often they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    /// Empty: they are a function's.
    pub id: String,
    /// The number of the first row; the others follow.
    pub first: u64,
}

// SAFETY: as for `Column`.
unsafe impl Send for Batch {}
// SAFETY: as for `Column`.
unsafe impl Sync for Batch {}

impl Batch {
    /// # Safety
    /// As for [`Column::new`], for each of `columns`, which have `rows` rows and the types of `schema`.
    pub(crate) unsafe fn new(lease: Py<Lease>, schema: Arc<Schema>, rows: usize, columns: Box<[ColumnParts]>) -> Batch {
        Batch { lease, schema, rows, columns, identity: Identity::default() }
    }

    /// The same batch, whose rows have an identity.
    pub(crate) fn identified(self, identity: Identity) -> Batch {
        Batch { identity, ..self }
    }

    /// The columns' names and types.
    pub(crate) fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The rows, as long as the batch is borrowed.
    pub(crate) fn view(&self) -> BatchView<'_> {
        // SAFETY: by the contract of `new`; the batch holds the lease.
        unsafe { BatchView::from_parts(&self.schema, self.rows, &self.columns) }
    }

    fn arrow_array(&self) -> crate::arrow::abi::ArrowArray {
        // SAFETY: the hold belongs to the lease that keeps these columns valid, by the contract of `new`.
        unsafe { export::batch_array(&self.columns, self.rows, &self.lease.get().hold()) }
    }
}

#[pymethods]
impl Batch {
    /// Name and type of each column.
    #[getter(schema)]
    fn python_schema<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let from_name = py.import("ringmill.types")?.getattr("from_name")?;
        let schema = PyDict::new(py);
        for field in &self.schema.fields {
            let keywords = PyDict::new(py);
            keywords.set_item("is_nullable", field.nullable)?;
            schema.set_item(&field.name, from_name.call((field.data_type.to_string(),), Some(&keywords))?)?;
        }
        Ok(schema)
    }

    /// Column names.
    #[getter]
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.schema.fields.iter().map(|field| &field.name))
    }

    /// In a sink, what the identities of its rows begin with; empty in a function.
    #[getter]
    fn id(&self) -> &str {
        &self.identity.id
    }

    /// In a sink, the number of each row, which with `id` is the same whenever the row comes again: uint64, shape (rows,).
    #[getter]
    fn row_numbers<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray1::from_iter(py, (self.identity.first..).take(self.rows))
    }

    /// As a `pyarrow.RecordBatch`.
    fn to_arrow<'py>(batch: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        batch.py().import("pyarrow")?.call_method1("record_batch", (batch,))
    }

    /// Rows.
    fn __len__(&self) -> usize {
        self.rows
    }

    fn __contains__(&self, name: &str) -> bool {
        self.schema.index_of(name).is_some()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let Some(index) = self.schema.index_of(name) else {
            let names: Vec<_> = self.schema.fields.iter().map(|field| field.name.as_str()).collect();
            return Err(PyKeyError::new_err(format!("no column {name:?}; there are {}", names.join(", "))));
        };
        let nullable = self.schema.field(index).nullable;
        // SAFETY: by the contract of `new`.
        let column = unsafe { Column::new(self.lease.clone_ref(py), self.columns[index], nullable) };
        column.into_object(py)
    }

    fn __repr__(&self) -> String {
        let columns: Vec<_> =
            self.schema.fields.iter().map(|field| format!("{}: {}", field.name, field.data_type)).collect();
        format!("<Batch of {} rows: {}>", self.rows, columns.join(", "))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        into_capsule(py, export::batch_schema(&self.schema))
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let _ = requested_schema; // the interface lets a producer disregard it
        Ok((self.__arrow_c_schema__(py)?, into_capsule(py, self.arrow_array())?))
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = requested_schema; // the interface lets a producer disregard it
        export::stream(py, export::batch_schema(&self.schema), self.arrow_array())
    }
}
