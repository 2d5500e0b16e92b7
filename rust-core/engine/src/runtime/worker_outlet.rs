//! A sink's process, given one batch after the other.
//!
//! The process is a worker whose function returns no columns: a batch is published, and its answer says that the rows were
//! taken. Behind the micro-batch stands what their identities begin with. The next batch is published when the last one was
//! answered, so there is never a doubt about order, nor about more than one batch.
//!
//! Whoever calls waits: this is driven by the sink's writer thread, never by a shard. When the process dies, takes too long
//! or breaks the protocol, its successor is given the batch again. What the class raised is told to the caller, as
//! something that passes if it is to be tried again, or as the rows that it rejects.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringmill_connect::{ConnectError, Fault, Outlet, Rejection};
use ringmill_ring::{CompletionKind, Submission, SubmissionKind, Wait, monotonic_ns};
use ringmill_wire::{BatchView, BatchWriter, Template};
use serde::Deserialize;

use super::shard::{SPIN_NS, YIELD_NS};
use super::signal::ShardSignal;
use super::supervisor::Death;
use super::worker_feed::FeedFigures;
use super::worker_link::{Burial, WorkerLink};
use crate::error::EngineError;
use crate::plan::Supervision;

/// What follows the micro-batch in a request slot: the number of the first row, and a name with time, process, epoch and
/// checksum, which is much shorter.
const IDENTITY_BYTES_MAX: usize = 512;
/// Longest sleep: deadlines and restarts have no doorbell.
const LOOK: Duration = Duration::from_millis(20);

/// See the module. Clones are of one process.
#[derive(Clone)]
pub struct WorkerOutlet(Arc<Mutex<Process>>);

/// What an outlet is made of.
pub struct OutletParts {
    /// Its process.
    pub link: WorkerLink,
    /// `module:Class`
    pub origin: String,
    /// Layout of its batches.
    pub template: Arc<Template>,
    /// How it is watched.
    pub supervision: Supervision,
    /// How to wait for it.
    pub wait: Wait,
    /// Rung by the process, and when it dies.
    pub signal: Arc<ShardSignal>,
}

struct Process {
    link: WorkerLink,
    origin: String,
    writer: BatchWriter,
    supervision: Supervision,
    wait: Wait,
    signal: Arc<ShardSignal>,
    /// Number of the last batch.
    number: u64,
    /// Times in a row that it raised.
    failures: u32,
    /// Told, and its consequences are drawn when all that the dead had published is heard.
    death: Option<Death>,
    bytes: Vec<u8>,
    figures: FeedFigures,
}

/// What is new of a process.
enum News {
    /// It has taken the batch.
    Taken,
    /// The class raised.
    Raised(Failure),
    /// It is dead, and what it was given is void.
    Died,
}

/// The payload of a failure.
#[derive(Deserialize)]
struct Failure {
    error: String,
    traceback: Option<String>,
    /// The target is away, as the class says: this is no mistake.
    #[serde(default)]
    is_retry: bool,
    /// Rows that the class refuses for good, all others being taken.
    #[serde(default)]
    rejected: Vec<u32>,
}

impl WorkerOutlet {
    /// An outlet whose process is on its way.
    pub fn new(parts: OutletParts) -> WorkerOutlet {
        let process = Process {
            link: parts.link,
            origin: parts.origin,
            writer: BatchWriter::new(parts.template),
            supervision: parts.supervision,
            wait: parts.wait,
            signal: parts.signal,
            number: 0,
            failures: 0,
            death: None,
            bytes: Vec::new(),
            figures: FeedFigures::default(),
        };
        process.note();
        WorkerOutlet(Arc::new(Mutex::new(process)))
    }

    /// Its process's figures; they follow it.
    pub fn figures(&self) -> FeedFigures {
        self.process().figures.clone()
    }

    /// Whether the process is ready; waits a moment for it if it is not.
    pub fn await_ready(&self) -> Result<bool, EngineError> {
        let mut process = self.process();
        let is_ready = process.link.is_ready(monotonic_ns())?;
        if !is_ready {
            process.signal.sleep(LOOK);
            process.signal.doorbell().clear();
        }
        process.note();
        Ok(is_ready)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for WorkerOutlet {
    fn deliver(&mut self, id: &str, first: u64, rows: &BatchView<'_>) -> Result<Option<Rejection>, ConnectError> {
        self.process().deliver(id, first, rows)
    }
}

impl Drop for Process {
    /// Nothing follows, also where the sink gave up: the class is to close what it has open.
    fn drop(&mut self) {
        self.link.drain(0);
    }
}

impl Process {
    fn deliver(&mut self, id: &str, first: u64, rows: &BatchView<'_>) -> Result<Option<Rejection>, ConnectError> {
        loop {
            self.publish(id, first, rows)?;
            match self.await_news()? {
                News::Taken => {
                    self.failures = 0;
                    return Ok(None);
                }
                News::Raised(Failure { error, rejected, .. }) if !rejected.is_empty() => {
                    self.failures = 0;
                    let is_sound = rejected.is_sorted_by(|one, other| one < other)
                        && rejected.last().is_some_and(|last| (*last as usize) < rows.rows());
                    if !is_sound {
                        let reason = format!("it rejects rows that it was not given ({error})");
                        return Err(ConnectError::Process { origin: self.origin.clone(), reason, detail: None });
                    }
                    return Ok(Some(Rejection { rows: rejected, reason: error }));
                }
                News::Raised(failure) => return Err(self.judge(failure)),
                News::Died => {}
            }
        }
    }

    /// Publishes the batch, as soon as there is a process for it.
    #[allow(unsafe_code)]
    fn publish(&mut self, id: &str, first: u64, rows: &BatchView<'_>) -> Result<(), ConnectError> {
        let slot = loop {
            let is_able = self.link.is_live() && self.link.sentence.is_none() && self.death.is_none();
            if is_able && let Some(slot) = self.link.channel.acquire() {
                break slot;
            }
            if self.turn(monotonic_ns())?.is_none() {
                self.rest(0);
            }
        };
        let memory = self.link.channel.slot_memory(slot);
        let template_bytes = self.writer.template().bytes();
        // SAFETY: the slot is longer than the template says, was stamped when it was made, and is nobody else's until it
        // is published.
        unsafe { self.writer.open(memory) };
        let copied = self.writer.copy_rows(rows, 0..rows.rows());
        assert_eq!(copied, rows.rows(), "what is handed over fits into a batch");
        let row_count = self.writer.close().rows;
        let id = &id.as_bytes()[..id.len().min(IDENTITY_BYTES_MAX - size_of::<u64>())];
        let identity = [&first.to_le_bytes(), id].concat();
        // SAFETY: as above; the slot has room for an identity behind the region.
        unsafe {
            let behind = memory.as_ptr().add(template_bytes);
            behind.copy_from_nonoverlapping(identity.as_ptr(), identity.len());
        }
        self.number += 1;
        let (byte_length, now_ns) = ((template_bytes + identity.len()) as u32, monotonic_ns());
        let batch = Submission { slot, byte_length, row_count, ..Submission::new(SubmissionKind::Batch) };
        self.link.publish(&Submission { batch: self.number, ingest_ns: now_ns, publish_ns: now_ns, ..batch });
        Ok(())
    }

    fn await_news(&mut self) -> Result<News, ConnectError> {
        let since_ns = monotonic_ns();
        loop {
            if let Some(news) = self.turn(monotonic_ns())? {
                return Ok(news);
            }
            self.rest(since_ns);
        }
    }

    /// Hears the process, and does what is due.
    fn turn(&mut self, now_ns: u64) -> Result<Option<News>, ConnectError> {
        if self.death.is_none() {
            self.death = self.link.take_death(now_ns);
        }
        if let Some(news) = self.hear() {
            self.note();
            return Ok(Some(news));
        }
        if let Some(death) = self.death.take() {
            let is_buried = self.bury(death, now_ns);
            self.note();
            return Ok(is_buried?.then_some(News::Died));
        }
        if self.link.start_if_due(now_ns) {
            self.note();
        }
        self.link.watch_deadlines(self.supervision.timeout_ns, now_ns);
        Ok(None)
    }

    fn hear(&mut self) -> Option<News> {
        loop {
            let completion = match self.link.poll() {
                Ok(completion) => completion?,
                Err(violation) => {
                    self.link.distrust(&violation.to_string(), false, false);
                    return None;
                }
            };
            let news = match completion.kind {
                CompletionKind::Ready => {
                    self.link.note_ready();
                    continue;
                }
                CompletionKind::LeaseReleased => continue,
                CompletionKind::Result => News::Taken,
                CompletionKind::Failed => {
                    self.link.channel.copy_response(completion.slot, completion.byte_length, &mut self.bytes);
                    News::Raised(serde_json::from_slice(&self.bytes).unwrap_or_else(|_| Failure {
                        error: "it raised, and could not say what".to_owned(),
                        traceback: None,
                        is_retry: false,
                        rejected: Vec::new(),
                    }))
                }
            };
            let busy_ns = completion.udf_end_ns.saturating_sub(completion.udf_start_ns);
            self.link.note_answer(monotonic_ns(), busy_ns);
            self.link.channel.release(completion.slot);
            return Some(news);
        }
    }

    /// The error that the class's exception is.
    fn judge(&mut self, failure: Failure) -> ConnectError {
        let (worker, traceback) = (&self.link.name, failure.traceback.as_deref());
        let passing = |reason| ConnectError::Database { name: self.origin.clone(), reason, fault: Fault::Transient };
        if failure.is_retry {
            return passing(failure.error);
        }
        self.failures += 1;
        let retries = self.supervision.retries;
        if self.failures <= retries {
            let error = &failure.error;
            tracing::warn!(worker, traceback, "{error}; it is tried again (retry {} of {retries})", self.failures);
            return passing(failure.error);
        }
        ConnectError::Process { origin: self.origin.clone(), reason: failure.error, detail: failure.traceback }
    }

    /// Draws the consequences of a death; `false`: there is no memory for a successor yet.
    fn bury(&mut self, death: Death, now_ns: u64) -> Result<bool, ConnectError> {
        match self.link.bury(death, "sink's", now_ns) {
            Burial::Later => Ok(false),
            Burial::Done => Ok(true),
            Burial::Last { reason, detail } => {
                Err(ConnectError::Process { origin: self.origin.clone(), reason, detail })
            }
        }
    }

    /// Waits for news, having done so since a moment, as the run is to wait.
    fn rest(&mut self, since_ns: u64) {
        let waited_ns = monotonic_ns().saturating_sub(since_ns);
        match self.wait {
            Wait::Spin if since_ns > 0 => std::hint::spin_loop(),
            Wait::Adaptive if waited_ns < SPIN_NS => std::hint::spin_loop(),
            Wait::Adaptive if waited_ns < SPIN_NS + YIELD_NS => std::thread::yield_now(),
            Wait::Spin | Wait::Adaptive | Wait::Block => self.sleep(),
        }
    }

    /// Announces sleep, looks once more, and sleeps.
    fn sleep(&mut self) {
        self.signal.arm();
        if self.link.arm_sleep() {
            self.death = self.death.take().or_else(|| self.link.take_death(monotonic_ns()));
            if self.death.is_none() {
                self.signal.sleep(LOOK);
            }
        }
        self.link.channel.disarm_sleep();
        self.signal.disarm();
    }

    fn note(&self) {
        self.link.snapshot(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Bytes of a sink's request slots.
pub fn request_bytes(template: &Template) -> usize {
    template.bytes() + IDENTITY_BYTES_MAX
}
