//! Micro-batches written straight into the response slots of a channel whose core asks for rows.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use ringmill_ring::{Completion, Submission, WorkerEnd, monotonic_ns};
use ringmill_wire::{BatchWriter, Template};

use crate::attach::attach;
use crate::output::{OutputPlan, Returned};
use crate::schema::{PyCapacity, PyFields, template};

/// A channel's end, and what it takes to answer its requests with rows.
pub(crate) struct Answers {
    pub end: WorkerEnd,
    template: Arc<Template>,
    plan: OutputPlan,
    writer: BatchWriter,
    /// Response slots that hold a stamped region (another payload destroys it).
    stamped: Vec<bool>,
}

impl Answers {
    /// Attaches to a channel whose batches have these columns, and so much room; errors name `subject`. The descriptors
    /// belong to it from now on.
    pub(crate) fn attach(
        py: Python<'_>,
        descriptors: [RawFd; 3],
        wait: &str,
        subject: String,
        (outputs, capacity): (PyFields, PyCapacity),
    ) -> PyResult<Answers> {
        let template = template(outputs, capacity)?;
        let end = attach(descriptors, wait, &template, &template)?;
        if end.response_slot_bytes() < template.bytes() {
            return Err(PyRuntimeError::new_err("the channel's slots are smaller than its batches"));
        }
        let plan = OutputPlan::new(py, subject, template.schema())?;
        let (writer, stamped) = (BatchWriter::new(Arc::clone(&template)), vec![false; end.slots() as usize]);
        Ok(Answers { end, template, plan, writer, stamped })
    }

    /// Answers a request for rows: `rows` rows of `columns` (not looked at if there are none), and behind them `trailer`.
    /// Nothing is answered if they do not fit. `since_ns` is when the work on it began.
    pub(crate) fn rows(
        &mut self,
        submission: &Submission,
        columns: &Bound<'_, PyAny>,
        rows: usize,
        trailer: &[u8],
        since_ns: u64,
    ) -> PyResult<()> {
        let memory = self.end.response_slot(submission.slot);
        let room = self.end.response_slot_bytes() - self.template.bytes();
        if trailer.len() > room || rows > submission.row_count as usize {
            let message = format!("{rows} rows of {}, {} bytes of {room}", submission.row_count, trailer.len());
            return Err(PyValueError::new_err(message));
        }
        let Answers { template, plan, writer, stamped, .. } = self;
        // SAFETY: the response slot is as long as the template says (checked in `new`), is this process's to write, and
        // belongs to this request until it is answered; it is stamped before it is opened.
        unsafe {
            if !std::mem::replace(&mut stamped[submission.slot as usize], true) {
                template.stamp(memory.as_ptr());
            }
            writer.open(memory);
        }
        if rows > 0 {
            plan.write(&Returned::Value(columns), rows, writer)?;
        }
        let closed = writer.close();
        // SAFETY: the slot has room for the trailer behind the region (checked above).
        unsafe {
            let behind = memory.as_ptr().add(template.bytes());
            behind.copy_from_nonoverlapping(trailer.as_ptr(), trailer.len());
        }
        let byte_length = (template.bytes() + trailer.len()) as u32;
        let answer = Completion { row_count: closed.rows, ..Completion::result(submission, byte_length) };
        self.complete(answer, since_ns);
        Ok(())
    }

    /// Publishes an answer whose payload is no batch, if it has any, over what was in the slot.
    pub(crate) fn payload(&mut self, answer: Completion, payload: &[u8], since_ns: u64) {
        let length = payload.len().min(answer.byte_length as usize).min(self.end.response_slot_bytes());
        if length > 0 {
            self.stamped[answer.slot as usize] = false;
            let memory = self.end.response_slot(answer.slot).as_ptr();
            // SAFETY: the response slot is at least `length` long, and this process's to write until it is answered.
            unsafe { memory.copy_from_nonoverlapping(payload.as_ptr(), length) };
        }
        self.complete(answer, since_ns);
    }

    fn complete(&mut self, answer: Completion, since_ns: u64) {
        let times = Completion { pickup_ns: since_ns, udf_start_ns: since_ns, udf_end_ns: monotonic_ns(), ..answer };
        self.end.complete(&times);
    }
}
