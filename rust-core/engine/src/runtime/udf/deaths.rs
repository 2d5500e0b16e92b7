//! What follows the death of a worker, and what leads to one.
//!
//! A worker answers in order, so of what a dead one left unanswered the oldest is the batch that it was working on: the
//! suspect. The others are innocent and are published again, unchanged and in order, to its successor. So is the suspect,
//! once, for a worker may die of something else; if it kills again it is set aside until it is the first in order, and
//! tried in parts ([`super::retrial`]). The shard never waits for any of it.
//!
//! A worker that scribbles over its ring may spoil answers that were not read yet, and then the oldest batch is the wrong
//! suspect. So after such a death the unanswered batches are published one by one.

use ringmill_ring::{Submission, SubmissionKind, monotonic_ns};

use super::{Failure, Outcome, UdfOperator};
use crate::error::EngineError;
use crate::runtime::operator::ShardContext;
use crate::runtime::restarts::Verdict;
use crate::runtime::supervisor::Death;
use crate::runtime::worker_link::{SHORTAGE_NS, Sentence, State};
use crate::time::in_words;

/// Deaths that a batch may be the suspect of before it is set aside.
const DEATHS_MAX: u32 = 2;
/// A batch of a worker that comes back later than this goes to another one.
const STRANDED_NS: u64 = 50_000_000;

impl UdfOperator {
    /// Has workers killed that take too long for a batch, or for getting ready for the first.
    pub(super) fn watch_deadlines(&mut self, context: &mut ShardContext<'_>) {
        for index in 0..self.workers.len() {
            let is_restoring = self.is_restoring(index);
            let worker = &mut self.workers[index];
            let deadline_ns = match (worker.start_deadline_ns(), self.timeout_ns) {
                (Some(deadline_ns), _) => Some(deadline_ns),
                (None, Some(timeout_ns)) => worker.deadline_ns(timeout_ns),
                (None, None) if is_restoring => worker.restore_deadline_ns(),
                (None, None) => None,
            };
            let Some(deadline_ns) = deadline_ns else { continue };
            if context.now_ns <= deadline_ns {
                context.wake_at(deadline_ns + 1);
                continue;
            }
            let reason = match self.timeout_ns {
                _ if worker.start_deadline_ns().is_some() => format!("was killed: {}", worker.late_start()),
                Some(timeout_ns) => format!("gave no answer within {} and was killed", in_words(timeout_ns)),
                None => format!("was killed: restore() was not done within {}", worker.start_allowed()),
            };
            worker.condemn(Sentence { reason, has_suspect: true, is_expected: false });
        }
    }

    /// Draws the consequences of a death; what the worker had published was polled before.
    pub(super) fn bury(
        &mut self,
        index: usize,
        death: Death,
        context: &mut ShardContext<'_>,
    ) -> Result<(), EngineError> {
        ringmill_failpoint::hit("supervisor.death.told");
        let worker = &mut self.workers[index];
        let was_running = worker.state == State::Running;
        let unanswered = match worker.replace() {
            Ok(unanswered) => unanswered,
            Err(error) => {
                tracing::warn!(worker = %worker.name, "cannot make room for its successor yet: {error}");
                worker.put_off(death, context.now_ns);
                context.wake_at(context.now_ns + SHORTAGE_NS);
                return Ok(());
            }
        };
        let sentence = worker.sentence.take();
        let reason = sentence.as_ref().map_or(death.how, |sentence| sentence.reason.clone());
        let mut is_expected = sentence.as_ref().is_some_and(|sentence| sentence.is_expected);
        let has_suspect = was_running && sentence.is_none_or(|sentence| sentence.has_suspect);
        let failure =
            Failure { error: format!("worker {} {reason}", worker.name), detail: death.detail, is_death: true };
        let batch = unanswered.first().map_or(0, |oldest| oldest.submission.batch);
        tracing::warn!(worker = %worker.name, pid = death.pid, batch, "a worker {reason}");
        for (order, resubmission) in unanswered.iter().enumerate() {
            let suspected = (order == 0 && has_suspect).then_some(&failure);
            is_expected |= self.take_back(index, &resubmission.submission, suspected, context.now_ns);
        }
        self.forget_process(index);
        let worker = &mut self.workers[index];
        worker.state = match worker.restarts.note_death(context.now_ns, &reason, is_expected) {
            Verdict::StartAt(at_ns) => State::Restarting { at_ns },
            Verdict::Failed => {
                tracing::error!(worker = %worker.name, "FAILED: {}; it is not started again", worker.restarts.story());
                State::Failed
            }
        };
        if self.workers.iter().all(|worker| worker.state == State::Failed) {
            let stories = self.workers.iter().map(|worker| format!("{} {}", worker.name, worker.restarts.story()));
            let (step, workers) = (self.name.clone(), stories.collect::<Vec<_>>().join("; "));
            return Err(EngineError::WorkersFailed { step, workers, traceback: failure.detail });
        }
        self.start_if_due(index, context);
        Ok(())
    }

    /// Takes an unanswered batch back from a dead worker; says whether the death was brought about on purpose.
    fn take_back(&mut self, index: usize, submission: &Submission, suspected: Option<&Failure>, now_ns: u64) -> bool {
        if self.take_back_kept(index, submission) {
            return false;
        }
        if let Some(is_expected) = self.take_back_trial(index, submission.slot, suspected, now_ns) {
            return is_expected;
        }
        let place = submission.batch.checked_sub(self.head).and_then(|place| usize::try_from(place).ok());
        let Some(entry) = place.and_then(|place| self.flight.get_mut(place)) else { return false };
        entry.outcome = Outcome::Held;
        if std::mem::take(&mut entry.is_void) {
            // What it died of may be what an earlier batch left behind.
            return false;
        }
        let Some(failure) = suspected else { return false };
        entry.deaths += 1;
        if entry.deaths < DEATHS_MAX {
            return false;
        }
        entry.outcome = Outcome::Died(Box::new(failure.clone()));
        self.workers[index].in_flight -= 1;
        true
    }

    /// Starts a dead worker again if it is time, and gives it what its predecessor left.
    pub(super) fn start_if_due(&mut self, index: usize, context: &mut ShardContext<'_>) {
        let State::Restarting { at_ns } = self.workers[index].state else { return };
        if at_ns > context.now_ns {
            return context.wake_at(at_ns);
        }
        if let Err(error) = self.workers[index].start() {
            tracing::warn!(worker = %self.workers[index].name, "cannot be started yet: {error}");
            let at_ns = context.now_ns + SHORTAGE_NS;
            self.workers[index].state = State::Restarting { at_ns };
            return context.wake_at(at_ns);
        }
        ringmill_failpoint::hit("supervisor.restart.ordered");
        self.publish_held(index);
    }

    /// Gives a worker the batches that are held for it, as far as it may have them now; says whether there were any.
    pub(super) fn publish_held(&mut self, index: usize) -> bool {
        if !self.is_current(index) || self.hosts_retrial(index) {
            return false;
        }
        let (epoch, byte_length, publish_ns) = (self.epoch(), self.request.bytes() as u32, monotonic_ns());
        let mut moved = false;
        for place in 0..self.flight.len() {
            let entry = &self.flight[place];
            let slot = match (&entry.outcome, entry.slot) {
                _ if entry.worker != index => continue,
                (Outcome::Held, Some(slot)) => slot,
                // What it will have learnt from this one is not settled.
                (Outcome::Failed { .. } | Outcome::Died(_) | Outcome::Retrial, _) if self.snapshots.is_some() => {
                    return moved;
                }
                _ => continue,
            };
            if self.workers[index].is_to_wait() {
                let worker = &mut self.workers[index];
                (worker.is_paced, worker.is_holding) = (true, true);
                return moved;
            }
            if self.workers[index].channel.is_leased(slot) {
                self.end_leases(index);
                return moved;
            }
            let submission = Submission {
                kind: SubmissionKind::Batch,
                slot,
                byte_length,
                row_count: entry.rows,
                batch: self.head + place as u64,
                epoch,
                ingest_ns: entry.ingest_ns,
                publish_ns,
            };
            if !self.log_batch(index, &submission) {
                return moved;
            }
            self.workers[index].ask(&submission);
            let entry = &mut self.flight[place];
            (entry.outcome, entry.publish_ns) = (Outcome::Pending, publish_ns);
            moved = true;
        }
        let worker = &mut self.workers[index];
        (worker.is_paced, worker.is_holding) = (false, false);
        moved
    }

    /// Gives workers their next batch that get one at a time; says whether there was any.
    pub(super) fn publish_paced(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if worker.is_paced && !worker.is_to_wait() && worker.is_live() && worker.sentence.is_none() {
                moved |= self.publish_held(index);
            }
        }
        moved
    }

    /// The worker will not answer what is held for it for a while, and another one could.
    pub(super) fn is_stranded(&self, index: usize, now_ns: u64) -> bool {
        let is_away = match self.workers[index].state {
            State::Failed => true,
            State::Restarting { at_ns } => at_ns > now_ns + STRANDED_NS,
            State::Starting | State::Running => false,
        };
        is_away && self.workers.iter().any(|worker| worker.state == State::Running)
    }
}
