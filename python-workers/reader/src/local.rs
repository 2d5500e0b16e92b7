//! Batches and channels within one process, for tests: of UDFs (`ringmill.testing`) and of this crate.
//!
//! [`LocalChannel`] is the core's end of a real ring, so a [`crate::worker::Worker`] at its other end, in this process
//! or in a child, runs exactly as under the core.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use ringmill_ring::{ChannelConfig, CompletionKind, CoreEnd, Doorbell, Submission, SubmissionKind, monotonic_ns};
use ringmill_wire::{BatchWriter, HeapBatch, Template};

use crate::batch::{Batch, Identity};
use crate::copied;
use crate::lease::Lease;
use crate::output::{OutputPlan, Returned};
use crate::schema::{PyCapacity, PyFields, template, value_error};
use crate::udf::{Binding, Udf};

/// Room for a failure's text, however small the batches of a test are.
const FAILURE_BYTES: usize = 16 << 10;

/// A batch in memory of this process, with the given columns (a dict, or an Arrow table), of `rows` rows; of a sink if its
/// rows have an `identity`, what it begins with and the first number.
#[pyfunction]
#[pyo3(signature = (fields, columns, rows, capacity, subject="batch", identity=None))]
pub(crate) fn make_batch<'py>(
    py: Python<'py>,
    fields: PyFields,
    columns: &Bound<'py, PyAny>,
    rows: usize,
    capacity: PyCapacity,
    subject: &str,
    identity: Option<(String, u64)>,
) -> PyResult<Bound<'py, Batch>> {
    let template = template(fields, capacity)?;
    let plan = OutputPlan::new(py, subject.to_owned(), template.schema())?;
    let mut batch = Box::new(HeapBatch::new(Arc::clone(&template)));
    plan.write(&Returned::Value(columns), rows, batch.writer())?;
    let identity = identity.map(|(id, first)| Identity { id, first }).unwrap_or_default();
    into_batch(py, &template, batch, identity)
}

/// Runs a UDF on a copy of `batch`, checked and converted as in a worker; returns its columns.
#[pyfunction]
#[pyo3(signature = (batch, *, outputs, capacity, udf, name, mode, arguments, out))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments, as Python has them")]
pub(crate) fn run_udf<'py>(
    py: Python<'py>,
    batch: &Bound<'py, Batch>,
    outputs: PyFields,
    capacity: PyCapacity,
    udf: Py<PyAny>,
    name: String,
    mode: String,
    arguments: Vec<String>,
    out: String,
) -> PyResult<Bound<'py, Batch>> {
    let output = template(outputs, capacity)?;
    let view = batch.get().view();
    let input = Template::new(Arc::clone(batch.get().schema()), copied::capacity_for(&view)).map_err(value_error)?;
    let binding = Binding { udf, name, mode, arguments, out };
    let udf = Udf::new(py, binding, Arc::clone(input.schema()), Arc::clone(&output))?;
    let mut response = Box::new(HeapBatch::new(Arc::clone(&output)));
    copied::run(py, &udf, &Arc::new(input), (&view, Identity::default()), response.writer(), |_| ())?;
    into_batch(py, &output, response, Identity::default())
}

fn into_batch<'py>(
    py: Python<'py>,
    template: &Template,
    batch: Box<HeapBatch>,
    identity: Identity,
) -> PyResult<Bound<'py, Batch>> {
    let mut parts = Vec::new();
    batch.view().parts(&mut parts);
    let (rows, schema) = (batch.rows() as usize, Arc::clone(template.schema()));
    let lease = Py::new(py, Lease::over_heap(batch, None))?;
    // SAFETY: the lease owns the batch, and nobody writes it any more.
    let batch = unsafe { Batch::new(lease, schema, rows, parts.into()) };
    Bound::new(py, batch.identified(identity))
}

/// The core's end of a channel.
#[pyclass(frozen, module = "ringmill._reader")]
pub(crate) struct LocalChannel {
    request: Arc<Template>,
    response: Arc<Template>,
    doorbell: Doorbell,
    state: Mutex<State>,
}

struct State {
    core: CoreEnd,
    writer: BatchWriter,
    input: OutputPlan,
    batch: u64,
    /// Slots that hold no batch, and what they were published as.
    kept: HashMap<u32, SubmissionKind>,
}

#[pymethods]
impl LocalChannel {
    /// Make a channel with `slots` slot pairs.
    #[new]
    #[pyo3(signature = (*, inputs, outputs, capacity, output_capacity=None, slots=4))]
    fn new(
        py: Python<'_>,
        inputs: PyFields,
        outputs: PyFields,
        capacity: PyCapacity,
        output_capacity: Option<PyCapacity>,
        slots: u32,
    ) -> PyResult<LocalChannel> {
        let request = template(inputs, capacity)?;
        let response = template(outputs, output_capacity.unwrap_or(capacity))?;
        let core = CoreEnd::create(&ChannelConfig {
            slots,
            request_slot_bytes: request.bytes(),
            response_slot_bytes: response.bytes().max(FAILURE_BYTES),
            schema_hash: request.hash(),
            response_schema_hash: response.hash(),
            generation: 1,
        })
        .map_err(value_error)?;
        for slot in 0..slots {
            // SAFETY: the slot is as long as the template says, and no worker was given it yet.
            unsafe { request.stamp(core.slot_memory(slot).as_ptr()) };
        }
        let input = OutputPlan::new(py, "batch".to_owned(), request.schema())?;
        let writer = BatchWriter::new(Arc::clone(&request));
        let state = Mutex::new(State { core, writer, input, batch: 0, kept: HashMap::new() });
        Ok(LocalChannel { request, response, doorbell: Doorbell::new().map_err(value_error)?, state })
    }

    /// New descriptors for a worker: request, response, doorbell. The caller owns them; a child process inherits them.
    fn worker_fds(&self) -> PyResult<(RawFd, RawFd, RawFd)> {
        let (request, response) = self.state()?.core.worker_fds().map_err(value_error)?;
        let doorbell = duplicate(&self.doorbell)?;
        for fd in [request.as_raw_fd(), response.as_raw_fd(), doorbell.as_raw_fd()] {
            // SAFETY: the descriptor is open; clearing its flags harms nobody.
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        }
        Ok((request.into_raw_fd(), response.into_raw_fd(), doorbell.into_raw_fd()))
    }

    /// Hand a batch of `rows` rows to the worker; returns its slot, or None if all slots are taken.
    fn publish(&self, columns: &Bound<'_, PyAny>, rows: usize) -> PyResult<Option<u32>> {
        let mut state = self.state()?;
        let State { core, writer, input, batch, .. } = &mut *state;
        let Some(slot) = core.acquire() else { return Ok(None) };
        // SAFETY: the slot is stamped and, until it is published, ours alone.
        unsafe { writer.open(core.slot_memory(slot)) };
        if let Err(error) = input.write(&Returned::Value(columns), rows, writer) {
            core.release(slot);
            return Err(error);
        }
        let closed = writer.close();
        *batch += 1;
        core.publish(&Submission {
            slot,
            byte_length: closed.bytes,
            row_count: closed.rows,
            batch: *batch,
            epoch: 1,
            ingest_ns: monotonic_ns(),
            publish_ns: monotonic_ns(),
            ..Submission::new(SubmissionKind::Batch)
        });
        Ok(Some(slot))
    }

    /// Ask for a piece of the worker's snapshot; returns its slot, or None if all slots are taken. The answer has it under
    /// `payload`.
    fn snapshot(&self, piece: u64) -> PyResult<Option<u32>> {
        let mut state = self.state()?;
        let Some(slot) = state.core.acquire() else { return Ok(None) };
        let snapshot = Submission { slot, epoch: 1, batch: piece, ..Submission::new(SubmissionKind::Snapshot) };
        state.core.publish(&snapshot);
        state.kept.insert(slot, SubmissionKind::Snapshot);
        Ok(Some(slot))
    }

    /// Give the worker a piece of a snapshot; returns its slot, or None if all slots are taken.
    fn restore(&self, piece: u64, payload: &[u8]) -> PyResult<Option<u32>> {
        let mut state = self.state()?;
        if payload.len() > state.core.request_slot_bytes() {
            return Err(PyRuntimeError::new_err("the piece is longer than a slot"));
        }
        let Some(slot) = state.core.acquire() else { return Ok(None) };
        // SAFETY: the slot is as long as was checked and, until it is published, ours alone.
        unsafe { state.core.slot_memory(slot).as_ptr().copy_from_nonoverlapping(payload.as_ptr(), payload.len()) };
        let byte_length = payload.len() as u32;
        let restore = Submission::new(SubmissionKind::Restore);
        state.core.publish(&Submission { slot, byte_length, epoch: 1, batch: piece, ..restore });
        state.kept.insert(slot, SubmissionKind::Restore);
        Ok(Some(slot))
    }

    /// The next completion as a dict, waited for up to `timeout` seconds; None if there is none. A result's columns are
    /// under `columns` (a copy), a failure's JSON under `failure`, a snapshot's piece under `payload`.
    #[pyo3(signature = (timeout=0.0))]
    fn poll<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Option<Bound<'py, PyDict>>> {
        let deadline = Instant::now() + Duration::try_from_secs_f64(timeout).map_err(value_error)?;
        let mut state = self.state()?;
        let completion = loop {
            let polled = state.core.poll();
            if let Some(completion) = polled.map_err(|error| PyRuntimeError::new_err(error.to_string()))? {
                break completion;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            py.check_signals()?;
            if state.core.arm_sleep() {
                py.detach(|| self.doorbell.wait(Some(left.min(Duration::from_millis(50)))));
            }
            state.core.disarm_sleep();
            self.doorbell.clear();
        };
        let mut payload = None;
        let kept = state.kept.remove(&completion.slot);
        if kept == Some(SubmissionKind::Restore) {
            // The bytes lie over what was stamped.
            // SAFETY: the slot is as long as the template says, and the worker has answered.
            unsafe { self.request.stamp(state.core.slot_memory(completion.slot).as_ptr()) };
        }
        let (kind, columns, failure) = match completion.kind {
            CompletionKind::Result if kept.is_some() => {
                let mut bytes = Vec::new();
                state.core.copy_response(completion.slot, completion.byte_length, &mut bytes);
                payload = Some(PyBytes::new(py, &bytes));
                ("result", None, None)
            }
            CompletionKind::Result => ("result", Some(self.result(py, &state.core, &completion)?), None),
            CompletionKind::Failed => {
                let mut bytes = Vec::new();
                state.core.copy_response(completion.slot, completion.byte_length, &mut bytes);
                ("failed", None, Some(PyBytes::new(py, &bytes)))
            }
            CompletionKind::LeaseReleased => ("lease_released", None, None),
            CompletionKind::Ready => ("ready", None, None),
        };
        let fields = PyDict::new(py);
        fields.set_item("kind", kind)?;
        fields.set_item("slot", completion.slot)?;
        fields.set_item("batch", completion.batch)?;
        fields.set_item("rows", completion.row_count)?;
        fields.set_item("leased", completion.leased)?;
        fields.set_item("udf_ns", completion.udf_end_ns.saturating_sub(completion.udf_start_ns))?;
        fields.set_item("columns", columns)?;
        fields.set_item("failure", failure)?;
        fields.set_item("payload", payload)?;
        Ok(Some(fields))
    }

    /// Send the bytes that lie in the slots `batches` times, `depth` at a time, spinning, for benchmarks: nothing is
    /// written or copied. Fill all slots with `publish` first. Returns nanoseconds: all of it, inside the UDF, and the
    /// median and the 99th percentile of round trips.
    fn pump(&self, py: Python<'_>, batches: usize, rows: u32, depth: usize) -> PyResult<(u64, u64, u64, u64)> {
        let mut state = self.state()?;
        let State { core, batch, .. } = &mut *state;
        let (byte_length, kind) = (self.request.bytes() as u32, SubmissionKind::Batch);
        let (mut udf_ns, mut trips) = (0, Vec::with_capacity(batches));
        let start_ns = monotonic_ns();
        let (mut published, mut in_flight) = (0, 0);
        while trips.len() < batches {
            while in_flight < depth && published < batches {
                let Some(slot) = core.acquire() else { break };
                *batch += 1;
                let now = monotonic_ns();
                let times = Submission { ingest_ns: now, publish_ns: now, ..Submission::new(kind) };
                core.publish(&Submission { slot, byte_length, row_count: rows, batch: *batch, epoch: now, ..times });
                (published, in_flight) = (published + 1, in_flight + 1);
            }
            match core.poll().map_err(|error| PyRuntimeError::new_err(error.to_string()))? {
                Some(completion) if completion.kind == CompletionKind::Result => {
                    trips.push(monotonic_ns() - completion.epoch);
                    udf_ns += completion.udf_end_ns - completion.udf_start_ns;
                    core.release(completion.slot);
                    in_flight -= 1;
                }
                Some(completion) if completion.kind == CompletionKind::Failed => {
                    return Err(PyRuntimeError::new_err("the UDF failed"));
                }
                Some(_) => {}
                None if published % 4096 == 0 => py.check_signals()?,
                None => std::hint::spin_loop(),
            }
        }
        let elapsed_ns = monotonic_ns() - start_ns;
        trips.sort_unstable();
        let quantile = |q: usize| trips.get(trips.len() * q / 100).copied().unwrap_or(0);
        Ok((elapsed_ns, udf_ns, quantile(50), quantile(99)))
    }

    /// Bytes of a request and of a response slot.
    #[getter]
    fn slot_bytes(&self) -> PyResult<(usize, usize)> {
        let core = &self.state()?.core;
        Ok((core.request_slot_bytes(), core.response_slot_bytes()))
    }

    /// Give an answered slot back.
    fn release(&self, slot: u32) -> PyResult<()> {
        self.state()?.core.release(slot);
        Ok(())
    }

    /// Ask the worker to end.
    fn drain(&self) -> PyResult<()> {
        self.state()?.core.publish(&Submission::new(SubmissionKind::Drain));
        Ok(())
    }

    /// Slots that can be published into.
    #[getter]
    fn free_slots(&self) -> PyResult<usize> {
        Ok(self.state()?.core.free_slots())
    }
}

impl LocalChannel {
    /// Not a blocking lock: `poll` waits with the lock held and the GIL released.
    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        self.state.try_lock().map_err(|_| PyRuntimeError::new_err("another thread is using this channel"))
    }

    fn result<'py>(
        &self,
        py: Python<'py>,
        core: &CoreEnd,
        completion: &ringmill_ring::Completion,
    ) -> PyResult<Bound<'py, Batch>> {
        let mut batch = Box::new(HeapBatch::new(Arc::clone(&self.response)));
        // SAFETY: the response slot is as long as the template says; `copy_untrusted` is made for foreign memory.
        let copied = unsafe {
            self.response.copy_untrusted(core.response_memory(completion.slot), completion.row_count, &mut batch)
        };
        copied.map_err(|error| PyRuntimeError::new_err(format!("a result that is not valid: {error}")))?;
        into_batch(py, &self.response, batch, Identity::default())
    }
}

fn duplicate(doorbell: &Doorbell) -> PyResult<OwnedFd> {
    use std::os::fd::AsFd;
    Ok(doorbell.as_fd().try_clone_to_owned()?)
}
