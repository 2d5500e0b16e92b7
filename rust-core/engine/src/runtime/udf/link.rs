//! The core's side of one worker: its channel, whether it works, and how long it has been at its oldest batch.
//!
//! Decides nothing about batches; see [`super::deaths`].

use std::sync::Arc;

use ringmill_ring::{
    Completion, CoreEnd, ProtocolViolation, Resubmission, RingError, Submission, SubmissionKind, monotonic_ns,
};

use super::restarts::Restarts;
use crate::metrics::{WorkerCondition, WorkerSnapshot};
use crate::plan::RestartSpec;
use crate::runtime::supervisor::{Death, Desk, WorkerPost};

/// How long to wait before something is tried again that the system had no memory or descriptors for.
pub(super) const SHORTAGE_NS: u64 = 100_000_000;

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

/// The core's side of one worker.
pub struct WorkerLink {
    pub(super) name: String,
    /// Its channel, request slots stamped.
    pub(super) channel: CoreEnd,
    pub(super) state: State,
    pub(super) restarts: Restarts,
    pub(super) sentence: Option<Sentence>,
    /// It is given what it is to have learnt; batches are held for it until then.
    pub(super) is_restoring: bool,
    /// Batches it was given and has not answered, those held for its successor included.
    pub(super) in_flight: u32,
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
    /// A worker that has said it is ready.
    pub fn new(parts: LinkParts) -> Self {
        Self {
            slots: parts.channel.slots(),
            name: parts.name,
            channel: parts.channel,
            state: State::Running,
            restarts: Restarts::new(parts.restart),
            sentence: None,
            is_restoring: false,
            in_flight: 0,
            post: parts.post,
            desk: parts.desk,
            place: parts.place,
            batches: 0,
            busy_ns: 0,
            starts: 0,
            oldest_since_ns: 0,
            is_distrusted: false,
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
        self.is_live() && !self.is_restoring
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
        self.unburied.take_if(|(_, at_ns)| *at_ns <= now_ns).map(|(death, _)| death)
    }

    /// The death will be told again in a moment.
    pub(super) fn put_off(&mut self, death: Death, now_ns: u64) {
        self.unburied = Some((death, now_ns + SHORTAGE_NS));
    }

    #[inline]
    pub(super) fn poll(&mut self) -> Result<Option<Completion>, ProtocolViolation> {
        if self.is_distrusted { Ok(None) } else { self.channel.poll() }
    }

    /// It said that it is ready.
    pub(super) fn note_ready(&mut self) {
        self.state = State::Running;
        self.oldest_since_ns = monotonic_ns();
    }

    /// Publishes a batch.
    #[inline]
    pub(super) fn publish(&mut self, submission: &Submission) {
        if self.in_flight == 0 {
            self.oldest_since_ns = submission.publish_ns;
        }
        self.in_flight += 1;
        self.channel.publish(submission);
    }

    /// Notes an answer.
    #[inline]
    pub(super) fn note_answer(&mut self, now_ns: u64, busy_ns: u64) {
        self.in_flight -= 1;
        self.batches += 1;
        self.busy_ns += busy_ns;
        self.oldest_since_ns = now_ns;
        self.restarts.note_answer();
    }

    /// Notes an answer that is no batch's.
    pub(super) fn note_kept(&mut self, now_ns: u64) {
        self.in_flight -= 1;
        self.oldest_since_ns = now_ns;
    }

    /// When its oldest batch will have taken `timeout_ns`; `None` if it is not at work.
    #[inline]
    pub(super) fn deadline_ns(&self, timeout_ns: u64) -> Option<u64> {
        let is_at_work = self.state == State::Running && self.in_flight > 0 && self.sentence.is_none();
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
        self.is_distrusted = true;
        let reason = format!("broke the ring protocol and was killed: {violation}");
        self.condemn(Sentence { reason, has_suspect, is_expected });
    }

    /// Makes the dead worker's channel ready for the next; returns what was not answered, in order.
    pub(super) fn replace(&mut self) -> Result<Vec<Resubmission>, RingError> {
        let unanswered = self.channel.replace_worker(self.channel.generation() + 1)?;
        self.is_distrusted = false;
        Ok(unanswered)
    }

    /// Orders the next process.
    pub(super) fn start(&mut self) -> Result<(), RingError> {
        let (request, response) = self.channel.worker_fds()?;
        self.desk.start(self.place, request, response);
        self.state = State::Starting;
        self.starts += 1;
        Ok(())
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
