//! Runs a UDF on a copy of a batch: what user code keeps of a copy keeps no slot.
//!
//! Used by a worker whose UDF keeps too many slots, and by `ringmill.testing`, where there are no slots.
#![allow(unsafe_code)]

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use ringmill_wire::{BatchView, BatchWriter, Capacity, HeapBatch, Template};

use crate::batch::Identity;
use crate::lease::{Lease, ResponseRoom};
use crate::output::Returned;
use crate::udf::{ResponseMemory, Udf};

/// When something is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// A batch of its own with the same rows.
pub(crate) fn copy(template: &Arc<Template>, view: &BatchView<'_>) -> PyResult<Box<HeapBatch>> {
    let mut batch = Box::new(HeapBatch::new(Arc::clone(template)));
    let copied = batch.writer().copy_rows(view, 0..view.rows());
    if copied != view.rows() {
        let message = format!("a batch of {} rows does not fit its own template", view.rows());
        return Err(PyRuntimeError::new_err(message));
    }
    Ok(batch)
}

/// What a batch with the same rows needs to hold.
pub(crate) fn capacity_for(view: &BatchView<'_>) -> Capacity {
    let variable = view.columns().filter(|column| column.data_type().is_variable());
    let bytes = variable.map(|column| column.value_bytes().len()).max().unwrap_or(0);
    Capacity { rows_max: (view.rows() as u32).max(1), variable_bytes_max: bytes as u32 }
}

/// Calls the function with a copy of `view` and writes what it returns into the open batch of `writer`. `around_call`
/// can take the time.
pub(crate) fn run(
    py: Python<'_>,
    udf: &Udf,
    template: &Arc<Template>,
    (view, identity): (&BatchView<'_>, Identity),
    writer: &mut BatchWriter,
    mut around_call: impl FnMut(Moment),
) -> PyResult<()> {
    let rows = view.rows();
    let batch = copy(template, view)?;
    let mut parts = Vec::new();
    batch.view().parts(&mut parts);
    let room = ResponseRoom::new(writer.template().bytes());
    let response = ResponseMemory(room.start());
    let lease = Py::new(py, Lease::over_heap(batch, Some(room)))?;
    let mut views = udf.views(lease);
    views.identity = identity;
    // SAFETY: the lease owns the copied batch, which nobody writes any more, and the room, which is as large as a
    // response and known to nobody else.
    let call = unsafe { udf.prepare(py, &mut views, &parts, rows, response)? };
    around_call(Moment::Before);
    let result = udf.call(call);
    around_call(Moment::After);
    let mut value = result?;
    if udf.writes_in_place() && value.is_none() {
        value = udf.out_values(py, &views)?.into_any();
    }
    udf.plan.write(&Returned::Value(&value), rows, writer)
}
