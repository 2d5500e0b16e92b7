//! A source's end of a channel: requests for rows come in, batches go out.
//!
//! Which class is asked, and what it raises, is the business of `ringmill.source_worker`; here its rows are checked and
//! written into the response slot ([`crate::answers`]), and what it says of where it stands is put behind them.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ringmill_ring::{Completion, CompletionKind, Submission, SubmissionKind, monotonic_ns};

use crate::answers::Answers;
use crate::attach::violated;
use crate::schema::{PyCapacity, PyFields, value_error};

/// See the module.
#[pyclass(frozen, module = "ringmill._reader")]
pub(crate) struct Feed {
    /// The request that is being answered, 0 for none. Written by the loop, read by whoever writes a log record.
    current: AtomicU64,
    state: Mutex<State>,
}

struct State {
    answers: Answers,
    /// What is being answered, and since when.
    asked: Option<(Submission, u64)>,
}

/// What is asked, in which attempt, and what belongs to it.
type Request<'py> = (&'static str, u64, Option<Bound<'py, PyAny>>);

#[pymethods]
impl Feed {
    /// Attach to a channel. The three descriptors belong to the feed from now on.
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
    ) -> PyResult<Feed> {
        let descriptors = [request_fd, response_fd, doorbell_fd];
        let answers = Answers::attach(py, descriptors, wait, subject, (outputs, capacity))?;
        let state = Mutex::new(State { answers, asked: None });
        Ok(Feed { current: AtomicU64::new(0), state })
    }

    /// Tell the core that rows may be asked for.
    fn ready(&self) -> PyResult<()> {
        self.state()?.answers.end.complete(&Completion::ready());
        Ok(())
    }

    /// The next request, waited for up to `timeout` seconds; None: there was none. `("fill", attempt, rows_max)`,
    /// `("seek", attempt, position)` or `("drain", 0, None)`. Each but the last is to be answered before the next.
    fn next<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Option<Request<'py>>> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(value_error)?;
        let mut state = self.state()?;
        if state.asked.is_some() {
            return Err(PyRuntimeError::new_err("the last request is not answered yet"));
        }
        let end = &mut state.answers.end;
        let submission = match end.poll().map_err(violated)? {
            Some(submission) => submission,
            None => match py.detach(|| end.wait(timeout)).map_err(violated)? {
                Some(submission) => submission,
                None => {
                    py.check_signals()?;
                    return Ok(None);
                }
            },
        };
        end.heartbeat(submission.batch);
        let request = match submission.kind {
            SubmissionKind::Fill => ("fill", Some(submission.row_count.into_pyobject(py)?.into_any())),
            SubmissionKind::Restore => {
                let (memory, length) = (end.request_memory(submission.slot), submission.byte_length as usize);
                // SAFETY: the core wrote so many bytes, within the slot (checked by `poll`), and leaves them alone until
                // it is answered.
                let position = unsafe { std::slice::from_raw_parts(memory, length) };
                ("seek", Some(PyBytes::new(py, position).into_any()))
            }
            SubmissionKind::Drain => return Ok(Some(("drain", 0, None))),
            SubmissionKind::Batch | SubmissionKind::Snapshot => {
                return Err(PyRuntimeError::new_err("the core gave a source what belongs to a UDF"));
            }
        };
        self.current.store(submission.batch, Ordering::Relaxed);
        state.asked = Some((submission, monotonic_ns()));
        Ok(Some((request.0, submission.epoch, request.1)))
    }

    /// Answer a request for rows: `rows` rows of `columns` (any value that a UDF may return; not looked at if there are
    /// none), and behind them `trailer`. Raises :class:`OutputError` if they do not fit; the request is then to be
    /// answered in another way.
    fn answer(&self, columns: &Bound<'_, PyAny>, rows: usize, trailer: &[u8]) -> PyResult<()> {
        let mut state = self.state()?;
        let (submission, since_ns) = state.asked()?;
        state.answers.rows(&submission, columns, rows, trailer, since_ns)?;
        self.note_answered(&mut state);
        Ok(())
    }

    /// Say that the source goes on where it was told to.
    fn sought(&self) -> PyResult<()> {
        let mut state = self.state()?;
        let (submission, since_ns) = state.asked()?;
        state.answers.payload(Completion::result(&submission, 0), &[], since_ns);
        self.note_answered(&mut state);
        Ok(())
    }

    /// Say that the request failed; `payload` is cut to [`Feed::failure_bytes_max`].
    fn fail(&self, payload: &[u8]) -> PyResult<()> {
        let mut state = self.state()?;
        let (submission, since_ns) = state.asked()?;
        let length = payload.len().min(state.answers.end.response_slot_bytes());
        let failed = Completion { kind: CompletionKind::Failed, ..Completion::result(&submission, length as u32) };
        state.answers.payload(failed, payload, since_ns);
        self.note_answered(&mut state);
        Ok(())
    }

    /// Room for the payload of a failure.
    #[getter]
    fn failure_bytes_max(&self) -> PyResult<usize> {
        Ok(self.state()?.answers.end.response_slot_bytes())
    }

    /// The number of the request that is being answered.
    #[getter]
    fn current_batch(&self) -> Option<u64> {
        match self.current.load(Ordering::Relaxed) {
            0 => None,
            request => Some(request),
        }
    }
}

impl Feed {
    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        self.state.try_lock().map_err(|_| PyRuntimeError::new_err("another thread is using this channel"))
    }

    fn note_answered(&self, state: &mut State) {
        state.asked = None;
        self.current.store(0, Ordering::Relaxed);
    }
}

impl State {
    fn asked(&self) -> PyResult<(Submission, u64)> {
        self.asked.ok_or_else(|| PyRuntimeError::new_err("there is no request to answer"))
    }
}
