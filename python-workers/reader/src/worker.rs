//! The worker's loop: takes batches from the ring, calls the UDF, answers.
//!
//! It stays in Rust between batches, so a batch costs one call into Python and no system call while the core is awake.
//! The GIL is let go while there is nothing to do. An exception of the UDF, or a result that does not fit, is an answer
//! (`failed`), never the end of the worker; a core that breaks the protocol is.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ringmill_ring::{Completion, CompletionKind, Submission, SubmissionKind, WorkerEnd, monotonic_ns};
use ringmill_wire::{BatchView, BatchWriter, ColumnParts, Lengths, Template};

use crate::attach::{attach, violated};
use crate::batch::Identity;
use crate::copied::{self, Moment};
use crate::keeper::Keeper;
use crate::lease::{Lease, Returned as ReturnedSlots};
use crate::output::Returned;
use crate::schema::{PyCapacity, PyFields, template, value_error};
use crate::udf::{Binding, ResponseMemory, SlotViews, Udf};

/// How long a worker without work sleeps before it looks whether a signal or an ended lease wants its attention.
const ATTENTION: Duration = Duration::from_millis(50);

/// One end of a channel, and the UDF that answers what comes through it.
#[pyclass(frozen, module = "ringmill._reader")]
pub(crate) struct Worker {
    /// The batch that the UDF is busy with, 0 for none. Written by the loop, read by whoever writes a log record.
    current_batch: AtomicU64,
    state: Mutex<State>,
}

struct State {
    end: WorkerEnd,
    request: Arc<Template>,
    response: Arc<Template>,
    bound: Option<Job>,
}

/// Everything that is needed once there is a UDF.
struct Job {
    udf: Udf,
    slots: Vec<Slot>,
    writer: BatchWriter,
    lengths: Lengths,
    parts: Vec<ColumnParts>,
    leases: Leases,
    /// Of a class whose instances can be stored.
    keeper: Option<Keeper>,
    /// `failure_payload(exception, bytes_max) -> bytes`
    failure_payload: Py<PyAny>,
    /// `log(level, message)`
    log: Py<PyAny>,
}

#[derive(Default)]
struct Slot {
    views: Option<SlotViews>,
    /// Whether the response slot holds a stamped region (a failure's text destroys it).
    is_stamped: bool,
}

/// The slots that user code keeps.
#[derive(Default)]
struct Leases {
    returned: Arc<ReturnedSlots>,
    count: u32,
    /// Whether the UDF is given copies now, because half of the slots are kept.
    copying: bool,
    /// How often it came to that.
    episodes: u32,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    Batch,
    Drain,
}

#[pymethods]
impl Worker {
    /// Attach to a channel. The three descriptors belong to the worker from now on.
    #[new]
    #[pyo3(signature = (*, request_fd, response_fd, doorbell_fd, wait, inputs, outputs, capacity, output_capacity))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments, as Python has them")]
    fn new(
        request_fd: RawFd,
        response_fd: RawFd,
        doorbell_fd: RawFd,
        wait: &str,
        inputs: PyFields,
        outputs: PyFields,
        capacity: PyCapacity,
        output_capacity: PyCapacity,
    ) -> PyResult<Worker> {
        let (request, response) = (template(inputs, capacity)?, template(outputs, output_capacity)?);
        let end = attach([request_fd, response_fd, doorbell_fd], wait, &request, &response)?;
        if end.request_slot_bytes() < request.bytes() || end.response_slot_bytes() < response.bytes() {
            return Err(PyRuntimeError::new_err("the channel's slots are smaller than its batches"));
        }
        let state = State { end, request, response, bound: None };
        Ok(Worker { current_batch: AtomicU64::new(0), state: Mutex::new(state) })
    }

    /// Give the worker its UDF.
    #[pyo3(signature = (*, udf, name, mode, arguments, out, failure_payload, log, snapshot=None, restore=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments, as Python has them")]
    fn bind(
        &self,
        py: Python<'_>,
        udf: Py<PyAny>,
        name: String,
        mode: String,
        arguments: Vec<String>,
        out: String,
        failure_payload: Py<PyAny>,
        log: Py<PyAny>,
        snapshot: Option<Py<PyAny>>,
        restore: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let mut state = self.state()?;
        let binding = Binding { udf, name, mode, arguments, out };
        let udf = Udf::new(py, binding, Arc::clone(state.request.schema()), Arc::clone(&state.response))?;
        let slots = std::iter::repeat_with(Slot::default).take(state.end.slots() as usize).collect();
        let (lengths, parts) = (Lengths::default(), Vec::with_capacity(state.request.schema().len()));
        let writer = BatchWriter::new(Arc::clone(&state.response));
        let leases = Leases::default();
        let keeper = snapshot.zip(restore).map(|(snapshot, restore)| Keeper::new(snapshot, restore));
        state.bound = Some(Job { udf, slots, writer, lengths, parts, leases, keeper, failure_payload, log });
        Ok(())
    }

    /// Tell the core that batches may come.
    fn ready(&self) -> PyResult<()> {
        self.state()?.end.complete(&Completion::ready());
        Ok(())
    }

    /// Answer batches until the core drains this worker.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state()?;
        while state.step(py, ATTENTION, &self.current_batch)? != Step::Drain {}
        Ok(())
    }

    /// Wait up to `timeout` seconds for one message and act on it: `"batch"`, `"drain"`, or None if there was none.
    #[pyo3(signature = (timeout=0.0))]
    fn step(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<&'static str>> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(value_error)?;
        Ok(match self.state()?.step(py, timeout, &self.current_batch)? {
            Step::Idle => None,
            Step::Batch => Some("batch"),
            Step::Drain => Some("drain"),
        })
    }

    /// The number of the batch that the UDF is busy with.
    #[getter]
    fn current_batch(&self) -> Option<u64> {
        match self.current_batch.load(Ordering::Relaxed) {
            0 => None,
            batch => Some(batch),
        }
    }
}

impl Worker {
    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        self.state.try_lock().map_err(|_| PyRuntimeError::new_err("this worker is running already"))
    }
}

impl State {
    fn step(&mut self, py: Python<'_>, timeout: Duration, current_batch: &AtomicU64) -> PyResult<Step> {
        let State { end, request, response, bound } = self;
        let Some(job) = bound else { return Err(PyRuntimeError::new_err("bind() a UDF first")) };
        job.report_returned(end);
        let submission = match end.poll().map_err(violated)? {
            Some(submission) => submission,
            None => {
                py.check_signals()?;
                match py.detach(|| end.wait(timeout)).map_err(violated)? {
                    Some(submission) => submission,
                    None => return Ok(Step::Idle),
                }
            }
        };
        let pickup_ns = monotonic_ns();
        current_batch.store(submission.batch, Ordering::Relaxed);
        end.heartbeat(submission.batch);
        let answered = match submission.kind {
            SubmissionKind::Batch => job.answer(py, end, request, response, &submission, pickup_ns),
            SubmissionKind::Snapshot | SubmissionKind::Restore => job.keep(py, end, &submission, pickup_ns),
            SubmissionKind::Fill => Err(PyRuntimeError::new_err("the core asked a UDF for rows")),
            SubmissionKind::Drain => return Ok(Step::Drain),
        };
        current_batch.store(0, Ordering::Relaxed);
        answered.map(|()| Step::Batch)
    }
}

impl Job {
    fn answer(
        &mut self,
        py: Python<'_>,
        end: &mut WorkerEnd,
        request: &Arc<Template>,
        response: &Template,
        submission: &Submission,
        pickup_ns: u64,
    ) -> PyResult<()> {
        let memory = end.request_memory(submission.slot);
        self.parts.clear();
        // SAFETY: the slot is as long as the template says (checked in `new`), and the core does not write it before
        // it is answered.
        let rows = unsafe { request.read_lengths(memory, &mut self.lengths) };
        let rows = rows.map_err(|error| PyRuntimeError::new_err(format!("the core sent an invalid batch: {error}")))?;
        // SAFETY: as above; the lengths are of this very region.
        unsafe { request.parts(memory, &self.lengths, &mut self.parts) };
        if rows != submission.row_count {
            let message = format!("the core sent a batch of {rows} rows as one of {}", submission.row_count);
            return Err(PyRuntimeError::new_err(message));
        }
        self.open_response(end, response, submission.slot);
        if 2 * self.leases.count >= end.slots() {
            self.start_copying(py, end)?;
        } else {
            self.leases.copying = false;
        }
        let mut completion = Completion { pickup_ns, ..Completion::result(submission, 0) };
        match self.call(py, end, request, submission, &mut completion) {
            Ok(()) => completion.byte_length = self.writer.close().bytes,
            Err(error) => {
                completion.kind = CompletionKind::Failed;
                completion.byte_length = self.write_failure(py, end, submission.slot, error)?;
            }
        }
        self.publish(py, end, completion);
        Ok(())
    }

    /// Gives out, or takes back, one piece of what the UDF has learnt.
    fn keep(&mut self, py: Python<'_>, end: &mut WorkerEnd, submission: &Submission, pickup_ns: u64) -> PyResult<()> {
        let slot = submission.slot;
        let udf_start_ns = monotonic_ns();
        let done = match (&mut self.keeper, submission.kind) {
            (None, _) => Err(PyRuntimeError::new_err("this UDF has no snapshot() and restore()")),
            (Some(keeper), SubmissionKind::Snapshot) => {
                self.slots[slot as usize].is_stamped = false;
                let (memory, room) = (end.response_slot(slot), end.response_slot_bytes());
                // SAFETY: the response slot is `room` bytes long, and this process's to write until it is answered.
                unsafe { keeper.give(py, submission.batch, memory, room) }
            }
            (Some(keeper), _) => {
                let (memory, length) = (end.request_memory(slot), submission.byte_length as usize);
                // SAFETY: the core wrote so many bytes and leaves them alone until it is answered; `poll` has checked
                // that they lie within the slot.
                let piece = unsafe { std::slice::from_raw_parts(memory, length) };
                keeper.take(py, submission.batch, piece, end.request_slot_bytes()).map(|()| 0)
            }
        };
        let udf_end_ns = monotonic_ns();
        let times = Completion { pickup_ns, udf_start_ns, udf_end_ns, ..Completion::result(submission, 0) };
        let completion = match done {
            Ok(byte_length) => Completion { byte_length, ..times },
            Err(error) => {
                let byte_length = self.write_failure(py, end, slot, error)?;
                Completion { kind: CompletionKind::Failed, byte_length, ..times }
            }
        };
        end.complete(&completion);
        Ok(())
    }

    fn open_response(&mut self, end: &WorkerEnd, template: &Template, slot: u32) {
        let memory = end.response_slot(slot);
        let slot = &mut self.slots[slot as usize];
        // SAFETY: the response slot is as long as the template says (checked in `Worker::new`), is this process's to
        // write, and belongs to this batch until it is answered; it is stamped before it is opened.
        unsafe {
            if !slot.is_stamped {
                template.stamp(memory.as_ptr());
                slot.is_stamped = true;
            }
            self.writer.open(memory);
        }
    }

    /// Calls the UDF and writes its result, so far without lengths, into the response slot. Notes in `times` when the
    /// function began and returned.
    fn call(
        &mut self,
        py: Python<'_>,
        end: &WorkerEnd,
        request: &Arc<Template>,
        submission: &Submission,
        times: &mut Completion,
    ) -> PyResult<()> {
        let Job { udf, slots, writer, parts, leases, .. } = self;
        let rows = submission.row_count as usize;
        let identity = identity(end, request, submission);
        if leases.copying {
            // SAFETY: `parts` came out of this request slot just now, and are valid as long as it is not answered.
            let view = unsafe { BatchView::from_parts(request.schema(), rows, parts) };
            return copied::run(py, udf, request, (&view, identity), writer, |moment| match moment {
                Moment::Before => times.udf_start_ns = monotonic_ns(),
                Moment::After => times.udf_end_ns = monotonic_ns(),
            });
        }
        let slot = &mut slots[submission.slot as usize];
        let views = match &mut slot.views {
            Some(views) => views,
            none => {
                let lease = Lease::over_slot(end.mapping_guard(), submission.slot, Arc::clone(&leases.returned));
                none.insert(udf.views(Py::new(py, lease)?))
            }
        };
        views.identity = identity;
        let response = ResponseMemory(end.response_slot(submission.slot));
        // SAFETY: the lease keeps the mapping, and `publish` keeps the slot from being used again while anything made
        // from the lease is alive. The core never writes a request slot that is in flight or leased.
        let call = unsafe { udf.prepare(py, views, parts, rows, response)? };
        times.udf_start_ns = monotonic_ns();
        let value = udf.call(call);
        times.udf_end_ns = monotonic_ns();
        let value = value?;
        let returned = if udf.writes_in_place() { Returned::InPlace(&value) } else { Returned::Value(&value) };
        udf.plan.write(&returned, rows, writer)
    }

    /// Puts the failure into the response slot; returns its length.
    fn write_failure(&mut self, py: Python<'_>, end: &WorkerEnd, slot: u32, error: PyErr) -> PyResult<u32> {
        let room = end.response_slot_bytes();
        // Unlike `value`, this leaves the traceback with the exception. Both are gone after this statement, and with
        // them the frames that hold the arguments.
        let payload = self.failure_payload.bind(py).call1((error.into_value(py), room))?;
        let payload = payload.cast_into::<PyBytes>()?;
        let payload = payload.as_bytes();
        let length = payload.len().min(room);
        self.slots[slot as usize].is_stamped = false;
        // SAFETY: the response slot is at least `length` long, and this process's to write until it is answered.
        unsafe { end.response_slot(slot).as_ptr().copy_from_nonoverlapping(payload.as_ptr(), length) };
        Ok(length as u32)
    }

    /// Answers, keeping the slot if user code looks into it.
    fn publish(&mut self, py: Python<'_>, end: &mut WorkerEnd, mut completion: Completion) {
        let Job { udf, slots, leases, .. } = self;
        let views = &mut slots[completion.slot as usize].views;
        if let Some(kept) = views.take_if(|views| udf.is_kept(py, views)) {
            kept.lease.get().lend(completion.batch);
            completion.leased = true;
            leases.count += 1;
            end.complete(&completion);
            // Only now: if these were the last references after all, the lease ends here, after its answer.
            drop(kept);
        } else {
            end.complete(&completion);
        }
    }

    /// Tells the core which slots are no longer looked into.
    fn report_returned(&mut self, end: &mut WorkerEnd) {
        for (slot, batch) in self.leases.returned.take() {
            self.leases.count -= 1;
            end.lease_released(slot, batch);
        }
    }

    /// Half of the slots are kept: unless the garbage collector finds that they are not, the UDF gets copies.
    fn start_copying(&mut self, py: Python<'_>, end: &mut WorkerEnd) -> PyResult<()> {
        if self.leases.copying {
            return Ok(());
        }
        py.import("gc")?.call_method0("collect")?;
        self.report_returned(end);
        if 2 * self.leases.count < end.slots() {
            return Ok(());
        }
        self.leases.copying = true;
        self.leases.episodes += 1;
        // A UDF that keeps every array now and then would otherwise fill the log: say it ever more rarely.
        if self.leases.episodes.is_power_of_two() {
            let message = format!(
                "{} keeps arrays of {} of {} slots and is given copies until it lets go; keep array.copy() instead",
                self.udf.plan.subject(),
                self.leases.count,
                end.slots()
            );
            self.log.call1(py, ("warning", message))?;
        }
        Ok(())
    }
}

/// What a sink's rows are told by: it stands behind the micro-batch. Empty in a function's batch.
fn identity(end: &WorkerEnd, request: &Template, submission: &Submission) -> Identity {
    let length = (submission.byte_length as usize).saturating_sub(request.bytes());
    if length < size_of::<u64>() {
        return Identity::default();
    }
    // SAFETY: the core wrote so many bytes, within the slot (checked by `poll`), and leaves them alone until the batch is
    // answered.
    let bytes = unsafe { std::slice::from_raw_parts(end.request_memory(submission.slot).add(request.bytes()), length) };
    let (first, id) = bytes.split_at(size_of::<u64>());
    let first = first.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Identity { id: String::from_utf8_lossy(id).into_owned(), first }
}
