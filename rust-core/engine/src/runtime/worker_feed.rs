//! A source's process, asked for batches.
//!
//! The process is a worker that is asked instead of fed: empty requests to *fill* a slot lie in its ring, as many as the
//! ring has slots, and it answers each with a micro-batch in the paired response slot and, behind it, where it then stands.
//! So it works ahead while the shard takes what is there. An answer is copied out and verified as any worker's is.
//!
//! Where the process stood behind the last batch that was taken is kept here. When it dies, takes too long, breaks the
//! protocol or raises, what it has not answered is forgotten, and it, or its successor, is told to go on from there:
//! nothing is lost or repeated. A class without `seek()` goes on where it likes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ringmill_connect::{ConnectError, Fed, Feed, POSITION_BYTES_MAX};
use ringmill_ring::{Completion, CompletionKind, CoreEnd, Submission, SubmissionKind, monotonic_ns};
use ringmill_wire::{HeapBatch, Template, WireError};
use serde::Deserialize;

use super::supervisor::Death;
use super::worker_link::{Burial, State, WorkerLink};
use crate::error::EngineError;
use crate::metrics::WorkerSnapshot;
use crate::plan::Supervision;
use crate::time::in_words;

/// What follows the micro-batch in a response slot: at most two positions, each twice as long with every quote escaped, and
/// the words around them.
const TRAILER_BYTES_MAX: usize = 4 * POSITION_BYTES_MAX + 1024;
/// How long a process that had nothing is left alone, at first and at most; doubled each time.
const PAUSE_NS: u64 = 1_000_000;
const PAUSE_NS_MAX: u64 = 32_000_000;
/// Longest wait before a process that raised is asked again.
const RETRY_NS_MAX: u64 = 60_000_000_000;

/// Figures of a source's process, for its shard.
pub type FeedFigures = Arc<Mutex<WorkerSnapshot>>;

/// See the module.
pub struct WorkerFeed {
    link: WorkerLink,
    /// `module:Class`
    origin: String,
    template: Arc<Template>,
    supervision: Supervision,
    is_seekable: bool,
    /// What it was asked and has not answered, oldest first.
    asked: VecDeque<Asked>,
    /// Where it stood behind the last batch that was taken; `None`: it has not said.
    at: Option<String>,
    /// It has to be told so before it is asked further.
    is_astray: bool,
    /// Number of the last request.
    number: u64,
    /// Requests of an attempt that failed are void.
    attempt: u64,
    /// Times in a row that it raised.
    failures: u32,
    /// It is asked nothing before this moment.
    not_before_ns: u64,
    /// How long it was left alone last, having nothing; 0: it had something.
    pause_ns: u64,
    has_ended: bool,
    /// Told, and its consequences are drawn when all that the dead had published is heard.
    death: Option<Death>,
    bytes: Vec<u8>,
    figures: FeedFigures,
}

/// A request that was not answered yet.
struct Asked {
    slot: u32,
    /// To go on from a position, where the others are for rows.
    is_seek: bool,
}

/// What stands behind the micro-batch of an answer.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
enum Trailer {
    /// Rows, perhaps none.
    Rows { before: Option<String>, after: Option<String> },
    /// The last of them.
    End { before: Option<String>, after: Option<String> },
    /// Nothing now.
    Idle { before: Option<String> },
    /// The request is of an attempt that failed.
    Void,
}

/// The payload of a failure.
#[derive(Deserialize)]
struct Failure {
    error: String,
    traceback: Option<String>,
    /// The same would happen again, or rows would be left out.
    #[serde(default)]
    is_final: bool,
    before: Option<String>,
}

/// What a feed is made of.
pub struct FeedParts {
    /// Its process.
    pub link: WorkerLink,
    /// `module:Class`
    pub origin: String,
    /// Layout of its batches.
    pub template: Arc<Template>,
    /// How it is watched.
    pub supervision: Supervision,
    /// Whether it can be told to go on from a position.
    pub is_seekable: bool,
}

impl WorkerFeed {
    /// A feed whose process is on its way.
    pub fn new(parts: FeedParts) -> WorkerFeed {
        let feed = WorkerFeed {
            link: parts.link,
            origin: parts.origin,
            template: parts.template,
            supervision: parts.supervision,
            is_seekable: parts.is_seekable,
            asked: VecDeque::new(),
            at: None,
            is_astray: false,
            number: 0,
            attempt: 0,
            failures: 0,
            not_before_ns: 0,
            pause_ns: 0,
            has_ended: false,
            death: None,
            bytes: Vec::new(),
            figures: FeedFigures::default(),
        };
        feed.note();
        feed
    }

    /// Its process's figures; they follow it.
    pub fn figures(&self) -> FeedFigures {
        self.figures.clone()
    }

    fn note(&self) {
        self.link.snapshot(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn refuse(&self, reason: String, detail: Option<String>) -> ConnectError {
        ConnectError::Process { origin: self.origin.clone(), reason, detail }
    }

    fn break_with(&mut self, violation: &str) {
        self.link.distrust(violation, false, false);
    }

    /// Hears what the process says, up to a batch or where it stands.
    fn hear(&mut self, into: &mut HeapBatch, now_ns: u64) -> Result<Option<Fed>, ConnectError> {
        loop {
            let completion = match self.link.poll() {
                Ok(Some(completion)) => completion,
                Ok(None) => return Ok(None),
                Err(violation) => {
                    self.break_with(&violation.to_string());
                    return Ok(None);
                }
            };
            match completion.kind {
                CompletionKind::Ready => self.link.note_ready(),
                CompletionKind::LeaseReleased => {}
                CompletionKind::Result | CompletionKind::Failed => {
                    let Some(asked) = self.asked.pop_front().filter(|asked| asked.slot == completion.slot) else {
                        self.break_with("a request was answered out of turn");
                        return Ok(None);
                    };
                    let busy_ns = completion.udf_end_ns.saturating_sub(completion.udf_start_ns);
                    self.link.note_answer(monotonic_ns(), busy_ns);
                    let fed = self.read(&asked, &completion, into, now_ns);
                    self.link.channel.release(completion.slot);
                    if let Some(fed) = fed? {
                        return Ok(Some(fed));
                    }
                }
            }
            self.note();
        }
    }

    /// Reads an answer; `None`: it brings neither a batch nor where the process stands.
    fn read(
        &mut self,
        asked: &Asked,
        completion: &Completion,
        into: &mut HeapBatch,
        now_ns: u64,
    ) -> Result<Option<Fed>, ConnectError> {
        if completion.kind == CompletionKind::Failed {
            self.link.channel.copy_response(completion.slot, completion.byte_length, &mut self.bytes);
            return self.fail(now_ns);
        }
        if asked.is_seek && completion.byte_length == 0 {
            return Ok(None);
        }
        let batch_bytes = self.template.bytes() as u32;
        let Some(trailer_bytes) = completion.byte_length.checked_sub(batch_bytes) else {
            self.break_with(&format!("an answer of {} bytes, less than a batch has", completion.byte_length));
            return Ok(None);
        };
        self.link.channel.copy_response_from(completion.slot, batch_bytes, trailer_bytes, &mut self.bytes);
        let (before, after, is_last) = match serde_json::from_slice(&self.bytes) {
            Ok(Trailer::Rows { before, after }) => (before, after, false),
            Ok(Trailer::End { before, after }) => (before, after, true),
            Ok(Trailer::Void) => return Ok(None),
            Ok(Trailer::Idle { before }) => {
                self.failures = 0;
                self.pause_ns = (2 * self.pause_ns).clamp(PAUSE_NS, PAUSE_NS_MAX);
                self.not_before_ns = now_ns + self.pause_ns;
                return Ok(self.stand(before));
            }
            Err(error) => {
                self.break_with(&format!("its position is not understood: {error}"));
                return Ok(None);
            }
        };
        if [&before, &after].into_iter().flatten().any(|position| position.len() >= POSITION_BYTES_MAX) {
            self.break_with(&format!("a position is longer than {POSITION_BYTES_MAX} bytes"));
            return Ok(None);
        }
        if let Err(error) = copy_answer(&self.link.channel, &self.template, completion, into) {
            self.break_with(&format!("a batch that is not valid: {error}"));
            return Ok(None);
        }
        (self.failures, self.pause_ns, self.has_ended) = (0, 0, is_last);
        self.at.clone_from(&after);
        Ok(Some(Fed::Batch { before, after, is_last }))
    }

    /// The process has said where it stood before its first batch.
    fn stand(&mut self, before: Option<String>) -> Option<Fed> {
        let before = before.filter(|before| before.len() < POSITION_BYTES_MAX && self.at.is_none())?;
        self.at = Some(before.clone());
        Some(Fed::Stands(before))
    }

    /// The class raised; what it said is in `bytes`.
    fn fail(&mut self, now_ns: u64) -> Result<Option<Fed>, ConnectError> {
        let failure = serde_json::from_slice(&self.bytes);
        let failure: Failure = failure.unwrap_or_else(|_| Failure {
            error: "it raised, and could not say what".to_owned(),
            traceback: None,
            is_final: false,
            before: None,
        });
        self.failures += 1;
        self.attempt += 1;
        let stands = self.stand(failure.before);
        let Supervision { retries, retry_backoff_ns, .. } = self.supervision;
        if failure.is_final || self.failures > retries {
            return Err(self.refuse(failure.error, failure.traceback));
        }
        let wait_ns = retry_backoff_ns.saturating_mul(1 << (self.failures - 1).min(32)).min(RETRY_NS_MAX);
        let (worker, traceback) = (&self.link.name, failure.traceback.as_deref());
        let (error, wait) = (&failure.error, in_words(wait_ns));
        tracing::warn!(
            worker,
            traceback,
            "{error}; it is asked again in {wait} (retry {} of {retries})",
            self.failures
        );
        self.not_before_ns = now_ns + wait_ns;
        self.go_astray();
        Ok(stands)
    }

    /// What the process does next is not what follows the last batch, unless it is told to.
    fn go_astray(&mut self) {
        self.is_astray = self.is_seekable && self.at.is_some();
    }

    /// Draws the consequences of a death.
    fn bury(&mut self, death: Death, now_ns: u64) -> Result<(), ConnectError> {
        match self.link.bury(death, "source's", now_ns) {
            Burial::Later => return Ok(()),
            Burial::Done => {}
            Burial::Last { reason, detail } => return Err(self.refuse(reason, detail)),
        }
        self.asked.clear();
        self.attempt += 1;
        (self.not_before_ns, self.pause_ns) = (0, 0);
        self.go_astray();
        self.note();
        Ok(())
    }

    /// Asks for as much as there is room for.
    fn ask(&mut self, now_ns: u64) {
        let is_able = self.link.is_live() && self.link.sentence.is_none() && self.death.is_none();
        if !is_able || self.has_ended || self.link.is_drained() || now_ns < self.not_before_ns {
            return;
        }
        if self.is_astray
            && let Some(slot) = self.link.channel.acquire()
        {
            let byte_length = self.write_position(slot);
            self.publish(Submission { slot, byte_length, ..Submission::new(SubmissionKind::Restore) });
            self.is_astray = false;
        }
        // One that has nothing is not asked several times over.
        let depth = if self.pause_ns > 0 { 1 } else { self.link.slots() };
        let row_count = self.template.capacity().rows_max;
        while !self.is_astray
            && self.asked.len() < depth
            && let Some(slot) = self.link.channel.acquire()
        {
            self.publish(Submission { slot, row_count, ..Submission::new(SubmissionKind::Fill) });
        }
    }

    fn publish(&mut self, submission: Submission) {
        self.number += 1;
        self.asked.push_back(Asked { slot: submission.slot, is_seek: submission.kind == SubmissionKind::Restore });
        let (batch, epoch, now_ns) = (self.number, self.attempt, monotonic_ns());
        self.link.publish(&Submission { batch, epoch, ingest_ns: now_ns, publish_ns: now_ns, ..submission });
    }

    /// Puts the position into a request slot; returns its length.
    #[allow(unsafe_code)]
    fn write_position(&self, slot: u32) -> u32 {
        let position = self.at.as_deref().unwrap_or_default().as_bytes();
        assert!(position.len() < self.link.channel.request_slot_bytes(), "checked when it came, and in a checkpoint");
        let memory = self.link.channel.slot_memory(slot);
        // SAFETY: the slot was acquired and not published, and has room for so many bytes.
        unsafe { memory.as_ptr().copy_from_nonoverlapping(position.as_ptr(), position.len()) };
        position.len() as u32
    }
}

impl Feed for WorkerFeed {
    fn is_ready(&mut self) -> Result<bool, ConnectError> {
        let ready = self.link.is_ready(monotonic_ns());
        self.note();
        ready.map_err(|error| {
            let detail = error.traceback().map(str::to_owned);
            match error {
                EngineError::WorkerStart { message, .. } => self.refuse(message, detail),
                error => self.refuse(error.to_string(), detail),
            }
        })
    }

    fn seek(&mut self, position: String) {
        self.at = Some(position);
        self.go_astray();
    }

    fn take(&mut self, into: &mut HeapBatch, now_ns: u64) -> Result<Fed, ConnectError> {
        if self.death.is_none() {
            self.death = self.link.take_death(now_ns);
        }
        let fed = self.hear(into, now_ns)?;
        if let Some(fed) = fed {
            self.ask(now_ns);
            return Ok(fed);
        }
        if let Some(death) = self.death.take() {
            self.bury(death, now_ns)?;
        }
        if self.link.start_if_due(now_ns) {
            self.note();
        }
        self.link.watch_deadlines(self.supervision.timeout_ns, now_ns);
        self.ask(now_ns);
        Ok(match self.link.state {
            State::Restarting { at_ns } if at_ns > now_ns => Fed::Until(at_ns),
            _ if self.asked.is_empty() && self.not_before_ns > now_ns => Fed::Until(self.not_before_ns),
            _ => Fed::Idle,
        })
    }

    fn arm_sleep(&mut self) -> bool {
        self.death.is_none() && self.link.arm_sleep()
    }

    fn disarm_sleep(&mut self) {
        self.link.channel.disarm_sleep();
    }

    fn drain(&mut self) {
        self.link.drain(0);
    }
}

/// Copies the micro-batch of an answer, whose channel has slots of [`slot_bytes`], and verifies it.
#[allow(unsafe_code)]
pub fn copy_answer(
    channel: &CoreEnd,
    template: &Template,
    completion: &Completion,
    into: &mut HeapBatch,
) -> Result<(), WireError> {
    let memory = channel.response_memory(completion.slot);
    // SAFETY: the response slot is longer than the template says (it was made so), and `copy_untrusted` is made for
    // memory that another process may write.
    unsafe { template.copy_untrusted(memory, completion.row_count, into) }
}

/// Bytes of a source's request and response slots.
pub fn slot_bytes(template: &Template) -> (usize, usize) {
    (POSITION_BYTES_MAX, template.bytes() + TRAILER_BYTES_MAX)
}
