//! The core's side of one worker: its channel, whether it works, and how long it has been at its oldest batch.
//!
//! Decides nothing about batches; that is the business of those who have one ([`super::udf`], [`super::worker_feed`], [`super::worker_outlet`]).

use std::sync::Arc;

use ringmill_ring::{
    Completion, CompletionKind, CoreEnd, ProtocolViolation, ResponseMemory, Resubmission, RingError, Submission,
    SubmissionKind, monotonic_ns,
};

use super::restarts::{Restarts, Verdict};
use super::supervisor::{Death, Desk, WorkerPost};
use crate::error::EngineError;
use crate::metrics::{WorkerCondition, WorkerSnapshot};
use crate::plan::RestartSpec;
use crate::time::in_words;

/// How long to wait before something is tried again that the system had no memory or descriptors for.
pub(super) const SHORTAGE_NS: u64 = 100_000_000;
/// Further starts of a first process that was killed before it was ready.
const FIRST_STARTS_MAX: u64 = 2;

/// Whether a worker works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its process is on its way; batches may be published already.
    Starting,
    /// It is ready.
    Running,
    /// It is dead, its channel is ready for the next, and nothing is published before that moment.
    Restarting { at_ns: u64 },
    /// It is dead and stays so.
    Failed,
}

/// Why we had a worker killed.
#[derive(Debug)]
pub(super) struct Sentence {
    /// What follows its name: `gave no answer within 2s`.
    pub reason: String,
    /// It was killed over its oldest unanswered batch.
    pub has_suspect: bool,
    /// The death counts for nothing.
    pub is_expected: bool,
}

/// What follows a death.
pub(super) enum Burial {
    /// There is no memory for a successor yet.
    Later,
    /// What was asked is void; a successor is on its way, or will be.
    Done,
    /// There is no successor.
    Last { reason: String, detail: Option<String> },
}

/// The core's side of one worker.
pub struct WorkerLink {
    pub(super) name: String,
    /// Its channel, request slots stamped.
    pub(super) channel: CoreEnd,
    pub(super) state: State,
    /// When its process was ordered.
    since_ns: u64,
    start_ns_max: u64,
    pub(super) restarts: Restarts,
    pub(super) sentence: Option<Sentence>,
    /// Batches are held for it, and further ones have to line up behind them.
    pub(super) is_holding: bool,
    /// Batches that are its to answer, those held for it included.
    pub(super) in_flight: u32,
    /// What it was asked and has not answered: batches, pieces of snapshots, replays.
    pub(super) asked: u32,
    slots: u32,
    post: Arc<WorkerPost>,
    desk: Arc<Desk>,
    /// Its index at the supervisor.
    place: usize,
    batches: u64,
    busy_ns: u64,
    starts: u64,
    /// When its oldest unanswered batch became that.
    oldest_since_ns: u64,
    /// It broke the protocol: nothing of it is read any more.
    is_distrusted: bool,
    /// So many batches it is still given one at a time. A worker that breaks the protocol may have spoiled its answers to
    /// earlier batches, too: which one is guilty shows only where it is alone.
    alone: u32,
    /// Batches are held for it because of that.
    pub(super) is_paced: bool,
    /// A death whose consequences could not be drawn yet, and when to try again.
    unburied: Option<(Death, u64)>,
}

/// What a link is made of.
pub struct LinkParts {
    /// `step/shard/index`.
    pub name: String,
    /// Its channel, request slots stamped.
    pub channel: CoreEnd,
    /// Where its death is told.
    pub post: Arc<WorkerPost>,
    /// Where orders are left.
    pub desk: Arc<Desk>,
    /// Its index at the supervisor.
    pub place: usize,
    /// When it is started again.
    pub restart: RestartSpec,
}

impl WorkerLink {
    /// A worker whose process is on its way.
    pub fn new(parts: LinkParts) -> Self {
        Self {
            slots: parts.channel.slots(),
            name: parts.name,
            channel: parts.channel,
            state: State::Starting,
            since_ns: monotonic_ns(),
            start_ns_max: parts.restart.start_ns_max,
            restarts: Restarts::new(parts.restart),
            sentence: None,
            is_holding: false,
            in_flight: 0,
            asked: 0,
            post: parts.post,
            desk: parts.desk,
            place: parts.place,
            batches: 0,
            busy_ns: 0,
            starts: 0,
            oldest_since_ns: 0,
            is_distrusted: false,
            alone: 0,
            is_paced: false,
            unburied: None,
        }
    }

    /// Slots of its ring.
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Its present process.
    pub(super) fn pid(&self) -> i32 {
        self.post.pid()
    }

    /// Whether batches may be published to it.
    pub(super) fn takes_batches(&self) -> bool {
        self.is_live() && !self.is_holding
    }

    /// Whether anything may be published to it.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Starting | State::Running)
    }

    /// Its death, told once. To be asked before the last completions are polled: whoever is dead publishes nothing more.
    #[inline]
    pub(super) fn take_death(&mut self, now_ns: u64) -> Option<Death> {
        let told = self.post.take_death();
        if told.is_some() || self.unburied.is_none() {
            return told;
        }
        self.unburied.take_if(|(_, at_ns)| *at_ns <= now_ns && self.post.has_memory()).map(|(death, _)| death)
    }

    /// The death will be told again in a moment, when there may be memory for the successor.
    pub(super) fn put_off(&mut self, death: Death, now_ns: u64) {
        self.desk.make_memory(self.place);
        self.unburied = Some((death, now_ns + SHORTAGE_NS));
    }

    #[inline]
    pub(super) fn poll(&mut self) -> Result<Option<Completion>, ProtocolViolation> {
        if self.is_distrusted { Ok(None) } else { self.channel.poll() }
    }

    /// Whether the first process is ready; asked before the run begins, until it is. One that says why it cannot start
    /// ends the run: it will not next time either. One that was killed is started again, and ends it at the third death.
    /// Its answer rings the doorbell.
    pub(super) fn is_ready(&mut self, now_ns: u64) -> Result<bool, EngineError> {
        if self.state == State::Running {
            return Ok(true);
        }
        self.channel.disarm_sleep();
        loop {
            let (death, worker) = (self.post.take_death(), &self.name);
            match (self.channel.poll(), death) {
                (Ok(Some(completion)), _) if completion.kind == CompletionKind::Ready => {
                    self.note_ready();
                    return Ok(true);
                }
                (Ok(Some(_)), _) => {}
                (Ok(None), Some(death)) if death.fatal.is_none() && self.starts < FIRST_STARTS_MAX => {
                    self.start_again(&death)?;
                }
                (Ok(None), Some(death)) => return Err(stillborn(worker, death)),
                (Ok(None), None) if self.start_deadline_ns().is_some_and(|deadline_ns| now_ns > deadline_ns) => {
                    let (worker, message, traceback) = (worker.clone(), self.late_start(), None);
                    return Err(EngineError::WorkerStart { worker, message, traceback });
                }
                (Ok(None), None) if self.channel.arm_sleep() => return Ok(false),
                (Ok(None), None) => {}
                (Err(violation), _) => {
                    let (worker, violation) = (worker.clone(), violation.to_string());
                    return Err(EngineError::Protocol { worker, violation });
                }
            }
        }
    }

    fn start_again(&mut self, death: &Death) -> Result<(), EngineError> {
        tracing::warn!(worker = %self.name, pid = death.pid, "a worker {} while it started", death.how);
        let outcome = self.replace().and_then(|_| self.start());
        outcome.map_err(|error| EngineError::Channel { worker: self.name.clone(), error })
    }

    /// When it should have been ready; `None` if it is, or is dead.
    #[inline]
    pub(super) fn start_deadline_ns(&self) -> Option<u64> {
        (self.state == State::Starting).then(|| self.since_ns.saturating_add(self.start_ns_max))
    }

    /// What to say of one that is not.
    pub(super) fn late_start(&self) -> String {
        format!("its imports and setup() were not done within {}", self.start_allowed())
    }

    /// How long it may take to get ready for the first batch.
    pub(super) fn start_allowed(&self) -> String {
        format!("{} (start_timeout)", in_words(self.start_ns_max))
    }

    /// When restoring it to what it is to have learnt will have taken too long; `None` if it is not at that.
    pub(super) fn restore_deadline_ns(&self) -> Option<u64> {
        self.deadline_ns(self.start_ns_max)
    }

    /// It said that it is ready.
    pub(super) fn note_ready(&mut self) {
        self.state = State::Running;
        self.oldest_since_ns = monotonic_ns();
    }

    /// Publishes a new batch.
    #[inline]
    pub(super) fn publish(&mut self, submission: &Submission) {
        self.in_flight += 1;
        self.ask(submission);
    }

    /// Publishes anything else: a batch that was held, a piece of a snapshot.
    #[inline]
    pub(super) fn ask(&mut self, submission: &Submission) {
        if self.asked == 0 {
            self.oldest_since_ns = submission.publish_ns;
        }
        self.asked += 1;
        self.channel.publish(submission);
    }

    /// Keeps a new batch for it.
    #[inline]
    pub(super) fn hold(&mut self) {
        self.in_flight += 1;
        self.is_holding = true;
    }

    /// It has nothing to do, and nothing is held for it.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.asked == 0
    }

    /// Notes a batch's answer.
    #[inline]
    pub(super) fn note_answer(&mut self, now_ns: u64, busy_ns: u64) {
        self.in_flight -= 1;
        self.asked -= 1;
        self.batches += 1;
        self.busy_ns += busy_ns;
        self.oldest_since_ns = now_ns;
        self.alone = self.alone.saturating_sub(1);
        self.restarts.note_answer();
    }

    /// Whether the next batch has to wait until it has answered.
    pub(super) fn is_to_wait(&self) -> bool {
        self.alone > 0 && self.asked > 0
    }

    /// Notes an answer that is no new batch's.
    pub(super) fn note_kept(&mut self, now_ns: u64) {
        self.asked -= 1;
        self.oldest_since_ns = now_ns;
    }

    /// When what it is at will have taken `timeout_ns`; `None` if it is not at work.
    #[inline]
    pub(super) fn deadline_ns(&self, timeout_ns: u64) -> Option<u64> {
        let is_at_work = self.state == State::Running && self.asked > 0 && self.sentence.is_none();
        is_at_work.then(|| self.oldest_since_ns.saturating_add(timeout_ns))
    }

    /// Has it killed. What follows, follows from its death.
    pub(super) fn condemn(&mut self, sentence: Sentence) {
        if self.sentence.is_none() && self.is_live() {
            self.sentence = Some(sentence);
            self.desk.kill(self.place);
        }
    }

    /// Has it killed for breaking the protocol; nothing it says from now on is heard.
    pub(super) fn distrust(&mut self, violation: &str, has_suspect: bool, is_expected: bool) {
        if !self.is_live() {
            // It is dead; its successor is not to suffer for it.
            return;
        }
        self.is_distrusted = true;
        let reason = format!("broke the ring protocol and was killed: {violation}");
        self.condemn(Sentence { reason, has_suspect, is_expected });
    }

    /// Makes the dead worker's channel ready for the next; returns what was not answered, in order.
    pub(super) fn replace(&mut self) -> Result<Vec<Resubmission>, RingError> {
        let memory = self.post.take_memory();
        let memory = memory.unwrap_or_else(|| ResponseMemory::make(self.channel.response_layout()))?;
        let unanswered = self.channel.replace_worker_with(self.channel.generation() + 1, memory)?;
        if self.is_distrusted {
            self.alone = self.alone.max(unanswered.len() as u32);
        }
        (self.is_distrusted, self.asked) = (false, 0);
        Ok(unanswered)
    }

    /// Orders the next process.
    pub(super) fn start(&mut self) -> Result<(), RingError> {
        let (request, response) = self.channel.worker_fds()?;
        self.desk.start(self.place, request, response);
        (self.state, self.since_ns) = (State::Starting, monotonic_ns());
        self.starts += 1;
        Ok(())
    }

    /// Orders the next process, if it is time for one; says whether it was.
    pub(super) fn start_if_due(&mut self, now_ns: u64) -> bool {
        let State::Restarting { at_ns } = self.state else { return false };
        if at_ns > now_ns {
            return false;
        }
        if let Err(error) = self.start() {
            tracing::warn!(worker = %self.name, "cannot be started yet: {error}");
            self.state = State::Restarting { at_ns: now_ns + SHORTAGE_NS };
        }
        true
    }

    /// Has it killed if it takes too long, for an answer (where that has a limit) or for getting ready.
    pub(super) fn watch_deadlines(&mut self, timeout_ns: Option<u64>, now_ns: u64) {
        let starting = self.start_deadline_ns();
        let deadline_ns = starting.or(timeout_ns.and_then(|timeout_ns| self.deadline_ns(timeout_ns)));
        if deadline_ns.is_none_or(|deadline_ns| now_ns <= deadline_ns) {
            return;
        }
        let reason = match timeout_ns {
            Some(timeout_ns) if starting.is_none() => {
                format!("gave no answer within {} and was killed", in_words(timeout_ns))
            }
            _ => format!("was killed: {}", self.late_start()),
        };
        self.condemn(Sentence { reason, has_suspect: false, is_expected: false });
    }

    /// Draws the consequences of the death of a process whose unanswered requests are void, `whose` it was.
    pub(super) fn bury(&mut self, death: Death, whose: &str, now_ns: u64) -> Burial {
        let unanswered = match self.replace() {
            Ok(unanswered) => unanswered,
            Err(error) => {
                tracing::warn!(worker = %self.name, "cannot make room for its successor yet: {error}");
                self.put_off(death, now_ns);
                return Burial::Later;
            }
        };
        for resubmission in &unanswered {
            self.channel.release(resubmission.submission.slot);
        }
        self.in_flight = 0;
        let reason = self.sentence.take().map_or(death.how, |sentence| sentence.reason);
        tracing::warn!(worker = %self.name, pid = death.pid, "a {whose} process {reason}");
        match self.restarts.note_death(now_ns, &reason, false) {
            Verdict::StartAt(at_ns) => {
                self.state = State::Restarting { at_ns };
                Burial::Done
            }
            Verdict::Failed => {
                self.state = State::Failed;
                let reason = format!("its process {} is not started again: {}", self.name, self.restarts.story());
                Burial::Last { reason, detail: death.detail }
            }
        }
    }

    /// Tells it that nothing follows, once.
    pub(super) fn drain(&mut self, epoch: u64) {
        if !self.post.set_drained() && self.is_live() {
            let drain = Submission::new(SubmissionKind::Drain);
            self.channel.publish(&Submission { publish_ns: monotonic_ns(), epoch, ..drain });
        }
    }

    /// Whether it was told so.
    pub(super) fn is_drained(&self) -> bool {
        self.post.is_drained()
    }

    pub(super) fn arm_sleep(&mut self) -> bool {
        self.is_distrusted || self.channel.arm_sleep()
    }

    /// Writes its figures.
    pub(super) fn snapshot(&self, snapshot: &mut WorkerSnapshot) {
        snapshot.name.clone_from(&self.name);
        snapshot.pid = self.pid();
        snapshot.in_flight = self.in_flight;
        snapshot.slots = self.slots;
        snapshot.leased = u32::try_from(self.channel.leased_slots()).unwrap_or(u32::MAX);
        snapshot.batches = self.batches;
        snapshot.busy_ns = self.busy_ns;
        snapshot.alive = self.is_live();
        snapshot.state = match self.state {
            State::Starting => WorkerCondition::Starting,
            State::Running => WorkerCondition::Running,
            State::Restarting { .. } => WorkerCondition::Restarting,
            State::Failed => WorkerCondition::Failed,
        };
        snapshot.restarts = self.starts;
    }
}

fn stillborn(worker: &str, death: Death) -> EngineError {
    let worker = worker.to_owned();
    match death.fatal {
        Some(message) => EngineError::WorkerStart { worker, message, traceback: death.detail },
        None => EngineError::WorkerDied { worker, pid: death.pid, how: death.how, batch: death.batch },
    }
}
