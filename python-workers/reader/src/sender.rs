//! A producer's end of a channel: it has rows, and sends them as far as the core has asked for any.
//!
//! What the core asks for are slots that are free; here they are kept until there are rows for them, so a producer is held
//! back by nothing but slots. Which rows go where, and the socket, is the business of `ringmill.producer`.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use ringmill_ring::{ProtocolViolation, Submission, SubmissionKind, monotonic_ns};

use crate::answers::Answers;
use crate::attach::violated;
use crate::schema::{PyCapacity, PyFields, value_error};

/// See the module.
#[pyclass(frozen, module = "ringmill._reader")]
pub(crate) struct Sender {
    state: Mutex<State>,
}

struct State {
    answers: Answers,
    /// Requests for rows, oldest first: slots that can be written.
    free: VecDeque<Submission>,
    /// The core takes no more.
    is_drained: bool,
}

#[pymethods]
impl Sender {
    /// Attach to a channel. The three descriptors belong to the sender from now on.
    #[new]
    #[pyo3(signature = (*, request_fd, response_fd, doorbell_fd, wait, subject, outputs, capacity))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments, as Python has them")]
    fn new(
        py: Python<'_>,
        request_fd: RawFd,
        response_fd: RawFd,
        doorbell_fd: RawFd,
        wait: &str,
        subject: String,
        outputs: PyFields,
        capacity: PyCapacity,
    ) -> PyResult<Sender> {
        let descriptors = [request_fd, response_fd, doorbell_fd];
        let answers = Answers::attach(py, descriptors, wait, subject, (outputs, capacity))?;
        Ok(Sender { state: Mutex::new(State { answers, free: VecDeque::new(), is_drained: false }) })
    }

    /// Wait up to `timeout` seconds until `slots` slots are free; all, if there are not so many. False: they are not.
    fn wait_free(&self, py: Python<'_>, slots: usize, timeout: f64) -> PyResult<bool> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(value_error)?;
        let mut state = self.state()?;
        let wanted = slots.min(state.answers.end.slots() as usize);
        if state.hear().map_err(violated)? >= wanted {
            return Ok(true);
        }
        let state = &mut *state;
        py.detach(|| state.wait(wanted, timeout)).map_err(violated)
    }

    /// Write `rows` rows of `columns` (any value that a UDF may return; not looked at if there are none), and behind them
    /// `trailer`, into a free slot, and publish it. Raises :class:`OutputError` if they do not fit; nothing was sent then.
    fn send(&self, columns: &Bound<'_, PyAny>, rows: usize, trailer: &[u8]) -> PyResult<()> {
        let mut state = self.state()?;
        let State { answers, free, .. } = &mut *state;
        let submission = free.front().ok_or_else(|| PyRuntimeError::new_err("no slot is free"))?;
        answers.rows(submission, columns, rows, trailer, monotonic_ns())?;
        free.pop_front();
        Ok(())
    }

    /// Slots of the channel.
    #[getter]
    fn slots(&self) -> PyResult<usize> {
        Ok(self.state()?.answers.end.slots() as usize)
    }

    /// Whether the core has said that it takes no more.
    #[getter]
    fn is_drained(&self) -> PyResult<bool> {
        Ok(self.state()?.is_drained)
    }
}

impl Sender {
    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        self.state.try_lock().map_err(|_| PyRuntimeError::new_err("another thread is using this channel"))
    }
}

impl State {
    /// Takes what the core has said; how many slots are free.
    fn hear(&mut self) -> Result<usize, ProtocolViolation> {
        while let Some(submission) = self.answers.end.poll()? {
            self.note(submission);
        }
        Ok(self.free.len())
    }

    fn note(&mut self, submission: Submission) {
        match submission.kind {
            SubmissionKind::Fill => self.free.push_back(submission),
            SubmissionKind::Drain => self.is_drained = true,
            // Nothing that a producer could do.
            SubmissionKind::Batch | SubmissionKind::Snapshot | SubmissionKind::Restore => {}
        }
    }

    fn wait(&mut self, wanted: usize, timeout: Duration) -> Result<bool, ProtocolViolation> {
        let start = Instant::now();
        while self.hear()? < wanted {
            if self.is_drained {
                return Ok(false);
            }
            match self.answers.end.wait(timeout.saturating_sub(start.elapsed()))? {
                Some(submission) => self.note(submission),
                None => return Ok(self.free.len() >= wanted),
            }
        }
        Ok(true)
    }
}
