//! A batch that failed is tried again, at last in parts, until the guilty rows stand alone.
//!
//! Only the batch that is first in order is tried, so results still leave in order, in several consecutive offers for one
//! batch. Its rows are kept aside in memory of our own and its slot is given up; each part is then published as a batch
//! of the same number, to whichever worker is there. The slot that was given up serves the parts: while there is a
//! retrial, and always where a step has several workers, one slot of each worker is not given to new rows.
//!
//! A function that fails for every row costs about one call for each row (see [`super::search`]); the log says so once.

use std::sync::Arc;

use ringmill_ring::{Submission, SubmissionKind, monotonic_ns};
use ringmill_wire::{BatchView, BatchWriter, HeapBatch, Template};

use super::search::Search;
use super::{Failure, Offering, Outcome, UdfOperator};
use crate::error::EngineError;
use crate::plan::{OnError, Supervision};
use crate::runtime::operator::{Mark, ShardContext};
use crate::runtime::worker_link::{Sentence, State, WorkerLink};

/// Longest beginning of a row that an error shows.
const RECORD_BYTES_MAX: usize = 300;
/// Deaths of a retrial that count for nothing, for each level that a search may need: one guilty row takes two a level
/// at most.
const FREE_DEATHS_PER_LEVEL: u32 = 3;
/// How long a retrial waits for a slot of a worker that is idle and keeps all its slots, before that worker is killed.
const KEPT_SLOTS_NS: u64 = 1_000_000_000;

/// See the module.
pub(super) struct Retrial {
    rows: HeapBatch,
    writer: BatchWriter,
    search: Search,
    trial: Option<Trial>,
    /// The last failure.
    failure: Option<Failure>,
    /// A row that was found guilty and has not been dealt with.
    condemned: Option<u32>,
    retries_left: u32,
    backoff_ns: u64,
    not_before_ns: u64,
    /// Deaths over the range that is tried now.
    deaths: u32,
    /// Failed tries of the whole batch that did not narrow the search.
    repeats_of_whole: u32,
    /// Failed tries of the present row alone that did not.
    repeats_of_row: u32,
    free_deaths: u32,
    /// Since when no worker has a slot for it; 0: not so.
    starved_since_ns: u64,
    /// Where workers keep something: the one that learns what passes.
    host: Option<usize>,
}

/// A part that was published.
struct Trial {
    worker: usize,
    slot: u32,
    outcome: TrialOutcome,
}

enum TrialOutcome {
    Pending,
    Result,
    Failed { byte_length: u32 },
}

impl Retrial {
    fn new(rows: HeapBatch, template: Arc<Template>, supervision: &Supervision, deaths: u32) -> Retrial {
        let count = rows.rows();
        let levels = count.next_power_of_two().ilog2() + 1;
        Retrial {
            rows,
            writer: BatchWriter::new(template),
            search: Search::new(count),
            trial: None,
            failure: None,
            condemned: None,
            retries_left: supervision.retries,
            backoff_ns: supervision.retry_backoff_ns,
            not_before_ns: 0,
            deaths,
            repeats_of_whole: deaths,
            repeats_of_row: 0,
            free_deaths: FREE_DEATHS_PER_LEVEL * levels,
            starved_since_ns: 0,
            host: None,
        }
    }

    /// The range failed: decides whether it is tried again as it is, narrowed, or guilty.
    fn note_failure(&mut self, failure: Failure, now_ns: u64) {
        let (is_whole, is_alone) = (self.search.is_whole(), self.search.range().len() == 1);
        // A death may be innocent: the whole batch and a row alone are given a second chance. Between them a wrong
        // suspicion costs only further tries.
        let is_repeated = if failure.is_death {
            self.deaths += 1;
            self.deaths < 2 && (is_whole || is_alone)
        } else if is_whole && self.retries_left > 0 {
            self.retries_left -= 1;
            self.not_before_ns = now_ns.saturating_add(self.backoff_ns);
            self.backoff_ns = self.backoff_ns.saturating_mul(2);
            true
        } else {
            false
        };
        self.failure = Some(failure);
        if is_repeated {
            let repeats = if is_whole { &mut self.repeats_of_whole } else { &mut self.repeats_of_row };
            *repeats += 1;
            return;
        }
        self.deaths = 0;
        self.condemned = self.search.failed();
    }

    /// Of the range that is tried now.
    pub(super) fn first_row(&self) -> usize {
        self.search.range().start as usize
    }

    fn attempts(&self, row: u32) -> u32 {
        self.search.failures_of(row) + self.repeats_of_whole + self.repeats_of_row
    }
}

impl UdfOperator {
    /// Takes the first batch in order out of its slot, to be tried again.
    #[allow(unsafe_code)]
    pub(super) fn begin_retrial(&mut self, context: &mut ShardContext<'_>) -> Result<(), EngineError> {
        let Some(head) = self.flight.front_mut() else { return Ok(()) };
        let Some(slot) = head.slot.take() else { return Ok(()) };
        let (index, rows, deaths) = (head.worker, head.rows, head.deaths);
        let failure = match std::mem::replace(&mut head.outcome, Outcome::Retrial) {
            Outcome::Failed { byte_length } => Some(self.read_failure(index, slot, byte_length)),
            Outcome::Died(failure) => Some(*failure),
            Outcome::Held => {
                self.workers[index].in_flight -= 1;
                None
            }
            Outcome::Pending | Outcome::Result | Outcome::Retrial => None,
        };
        self.request_parts(index, slot)?;
        let mut aside = HeapBatch::new(self.request.clone());
        // SAFETY: the parts were just made from the request slot, which holds `rows` rows of the input schema.
        let view = unsafe { BatchView::from_parts(&self.input, rows as usize, &self.parts) };
        if aside.writer().copy_rows(&view, 0..rows as usize) != rows as usize {
            return Err(EngineError::Internal("a batch does not fit a batch of its own layout".into()));
        }
        self.workers[index].channel.release(slot);
        let earlier_deaths = deaths - u32::from(failure.as_ref().is_some_and(|failure| failure.is_death)).min(deaths);
        let mut retrial = Box::new(Retrial::new(aside, self.request.clone(), &self.supervision, earlier_deaths));
        if let Some(failure) = failure {
            let (worker, batch) = (&self.workers[index].name, self.head);
            tracing::warn!(step = %self.name, %worker, batch, rows, "a batch failed: {}", failure.error);
            retrial.note_failure(failure, context.now_ns);
        }
        self.retrial = Some(retrial);
        Ok(())
    }

    /// Goes on with the retrial as far as is possible now; says whether anything happened.
    pub(super) fn go_on_trying(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let Some(mut retrial) = self.retrial.take() else { return Ok(false) };
        if let Some(row) = retrial.condemned {
            if !self.deal_with(&retrial, row)? {
                self.retrial = Some(retrial);
                return Ok(false);
            }
            (retrial.condemned, retrial.repeats_of_row) = (None, 0);
        }
        if retrial.search.is_done() {
            self.idle_mark = self.end_retrial(&retrial);
            return Ok(true);
        }
        let moved = self.try_range(&mut retrial, context);
        self.retrial = Some(retrial);
        moved
    }

    fn try_range(&mut self, retrial: &mut Retrial, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let Some(trial) = &retrial.trial else {
            if retrial.not_before_ns > context.now_ns {
                context.wake_at(retrial.not_before_ns);
                return Ok(false);
            }
            return Ok(self.publish_trial(retrial, context));
        };
        let (index, slot) = (trial.worker, trial.slot);
        match trial.outcome {
            TrialOutcome::Pending => return Ok(false),
            TrialOutcome::Result => {
                let rows = retrial.search.range().len() as u32;
                match self.compose(index, slot, rows)? {
                    Ok(()) => {
                        self.note_sound(index);
                        self.offering = Some(Offering::Part { rows });
                    }
                    Err(violation) => {
                        self.note_unsound(index);
                        let failure = self.blame(index, &violation, true);
                        self.workers[index].channel.release(slot);
                        retrial.trial = None;
                        retrial.free_deaths = retrial.free_deaths.saturating_sub(1);
                        retrial.note_failure(failure, context.now_ns);
                    }
                }
            }
            TrialOutcome::Failed { byte_length } => {
                let failure = self.read_failure(index, slot, byte_length);
                self.workers[index].channel.release(slot);
                retrial.trial = None;
                retrial.note_failure(failure, context.now_ns);
            }
        }
        Ok(true)
    }

    /// Gives the next range to a worker; `false`: none can take it now.
    #[allow(unsafe_code)]
    fn publish_trial(&mut self, retrial: &mut Retrial, context: &mut ShardContext<'_>) -> bool {
        let host = if self.snapshots.is_some() { Some(self.find_host(retrial, context.now_ns)) } else { None };
        if host.is_some_and(|host| !self.may_try(host)) {
            return false;
        }
        let able = self.workers.iter().enumerate().filter(|(index, worker)| {
            host.map_or(worker.takes_batches(), |host| host == *index) && worker.sentence.is_none()
        });
        let free = able.filter(|(_, worker)| worker.channel.free_slots() > 0);
        let chosen = free.min_by_key(|(_, worker)| (worker.state != State::Running, worker.in_flight));
        let Some(index) = chosen.map(|(index, _)| index) else {
            self.note_starving(retrial, context);
            return false;
        };
        retrial.starved_since_ns = 0;
        let epoch = self.epoch();
        let worker = &mut self.workers[index];
        let Some(slot) = worker.channel.acquire() else { return false };
        let range = retrial.search.range();
        // SAFETY: the slot was stamped with this template when the channel was made, and from `acquire` to `publish`
        // nobody else touches it.
        unsafe { retrial.writer.open(worker.channel.slot_memory(slot)) };
        retrial.writer.copy_rows(&retrial.rows.view(), range.start as usize..range.end as usize);
        let closed = retrial.writer.close();
        let submission = Submission {
            kind: SubmissionKind::Batch,
            slot,
            byte_length: closed.bytes,
            row_count: closed.rows,
            batch: self.head,
            epoch,
            ingest_ns: self.flight.front().map_or(0, |head| head.ingest_ns),
            publish_ns: monotonic_ns(),
        };
        if !self.log_batch(index, &submission) {
            self.workers[index].channel.release(slot);
            return false;
        }
        self.workers[index].publish(&submission);
        retrial.trial = Some(Trial { worker: index, slot, outcome: TrialOutcome::Pending });
        true
    }

    /// Where workers keep something, one of them learns the whole batch: the one it was given to, unless that is away for
    /// long. Nothing else is published to it meanwhile.
    fn find_host(&mut self, retrial: &mut Retrial, now_ns: u64) -> usize {
        let owner = self.flight.front().map_or(0, |head| head.worker);
        let mut host = retrial.host.unwrap_or(owner);
        if self.is_stranded(host, now_ns) {
            let running = self.workers.iter().enumerate().filter(|(_, worker)| worker.state == State::Running);
            host = running.min_by_key(|(_, worker)| worker.in_flight).map_or(host, |(index, _)| index);
        }
        retrial.host = Some(host);
        self.workers[host].is_holding = true;
        host
    }

    /// The worker has learnt all that it was given before, so that what it learns from a try can be taken back.
    fn may_try(&self, host: usize) -> bool {
        let log = self.snapshots.as_ref().map(|snapshots| &snapshots.workers[host].log);
        let is_settled = log.is_none_or(|log| log.is_answered() && log.has_room());
        self.workers[host].is_live() && is_settled && self.is_current(host)
    }

    /// The worker is reserved for the batch that is being tried.
    pub(super) fn hosts_retrial(&self, index: usize) -> bool {
        self.retrial.as_ref().is_some_and(|retrial| retrial.host == Some(index))
    }

    /// No worker has a slot. One that is idle and has none keeps them all as leases: after a while its death ends those.
    fn note_starving(&mut self, retrial: &mut Retrial, context: &mut ShardContext<'_>) {
        if !self.workers.iter().any(|worker| worker.state == State::Running) {
            // It is not slots that are missing: the death or the start that is awaited will wake the shard.
            retrial.starved_since_ns = 0;
            return;
        }
        if retrial.starved_since_ns == 0 {
            retrial.starved_since_ns = context.now_ns;
        }
        let at_ns = retrial.starved_since_ns + KEPT_SLOTS_NS;
        if context.now_ns < at_ns {
            return context.wake_at(at_ns);
        }
        retrial.starved_since_ns = context.now_ns;
        let idle = |worker: &&mut WorkerLink| worker.state == State::Running && worker.in_flight == 0;
        if let Some(worker) = self.workers.iter_mut().find(idle) {
            let reason =
                "kept arrays of all its slots and was killed, so that a failed batch can be tried again".into();
            worker.condemn(Sentence { reason, has_suspect: false, is_expected: true });
        }
    }

    /// Sends a guilty row where `on_error` says; `false`: no room there now.
    fn deal_with(&mut self, retrial: &Retrial, row: u32) -> Result<bool, EngineError> {
        let Some(failure) = &retrial.failure else { return Ok(true) };
        if self.on_error == OnError::Skip {
            self.skipped += 1;
            return Ok(true);
        }
        let view = retrial.rows.view();
        self.text.clear();
        self.row_encoder.encode(&view, row as usize..row as usize + 1, &mut self.text);
        if self.on_error == OnError::DeadLetter {
            let tag = self.flight.front().and_then(|head| head.tags.get(row as usize)).copied().unwrap_or(0);
            let (detail, attempts) = (failure.detail.as_deref(), Some(retrial.attempts(row)));
            return self.push_letter((&view, row as usize), tag, &failure.error, detail, attempts);
        }
        let record = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        let beginning = String::from_utf8_lossy(&record[..record.len().min(RECORD_BYTES_MAX)]).into_owned();
        let record = if record.len() > RECORD_BYTES_MAX { format!("{beginning}…") } else { beginning };
        Err(EngineError::Udf {
            step: self.name.clone(),
            batch: self.head,
            rows: retrial.rows.rows(),
            row: row + 1,
            record,
            error: failure.error.clone(),
            traceback: failure.detail.clone(),
        })
    }

    /// The part that was offered is taken; returns the batch's mark if it was the last.
    pub(super) fn settle_part(&mut self) -> Option<Mark> {
        let mut retrial = self.retrial.take()?;
        if let Some(trial) = retrial.trial.take() {
            self.workers[trial.worker].channel.release(trial.slot);
        }
        retrial.search.passed();
        (retrial.deaths, retrial.repeats_of_row) = (0, 0);
        if retrial.search.is_done() {
            return self.end_retrial(&retrial);
        }
        self.retrial = Some(retrial);
        None
    }

    /// The row of its batch with which the part that is offered begins.
    pub(super) fn first_row_of_part(&self) -> usize {
        self.retrial.as_ref().map_or(0, |retrial| retrial.first_row())
    }

    /// Whether the part that is offered ends its batch.
    pub(super) fn is_last_part(&self) -> bool {
        self.retrial.as_ref().is_none_or(|retrial| retrial.search.range().end == retrial.rows.rows())
    }

    /// Every row is settled: returns the batch's mark.
    fn end_retrial(&mut self, retrial: &Retrial) -> Option<Mark> {
        let (step, batch, search) = (&self.name, self.head, &retrial.search);
        let (rows, guilty, tries) = (retrial.rows.rows(), search.guilty(), search.tries());
        if guilty > 0 {
            let levels = search.levels();
            tracing::warn!(%step, batch, rows, guilty, levels, tries, "{guilty} of {rows} rows failed alone");
            if guilty > rows / 2 && rows > 1 && !self.has_complained {
                self.has_complained = true;
                tracing::warn!(
                    %step,
                    "the function fails for most rows; as each is tried alone, such a batch costs a call for every row"
                );
            }
            if let Some(head) = self.flight.front().filter(|head| head.deaths > 0 && retrial.free_deaths > 0) {
                // The cause of the first death was found; the others were expected.
                self.workers[head.worker].restarts.forgive(1);
            }
        } else if retrial.failure.is_some() {
            tracing::info!(%step, batch, rows, tries, "all rows passed when they were tried again");
        }
        self.release_head()
    }

    /// An answer to the part that was published; `false`: it answers something else.
    pub(super) fn note_trial_answer(&mut self, index: usize, slot: u32, failed: Option<u32>) -> bool {
        let trial = self.retrial.as_mut().and_then(|retrial| retrial.trial.as_mut());
        let Some(trial) = trial.filter(|trial| trial.worker == index && trial.slot == slot) else { return false };
        trial.outcome = match failed {
            Some(byte_length) => TrialOutcome::Failed { byte_length },
            None => TrialOutcome::Result,
        };
        true
    }

    /// Takes a part back from a dead worker, if the slot is the part's; says whether the death was expected.
    pub(super) fn take_back_trial(
        &mut self,
        index: usize,
        slot: u32,
        suspected: Option<&Failure>,
        now_ns: u64,
    ) -> Option<bool> {
        let retrial = self.retrial.as_mut()?;
        retrial.trial.take_if(|trial| trial.worker == index && trial.slot == slot)?;
        self.workers[index].channel.release(slot);
        self.workers[index].in_flight -= 1;
        let Some(failure) = suspected else { return Some(false) };
        let is_expected = retrial.free_deaths > 0;
        retrial.free_deaths = retrial.free_deaths.saturating_sub(1);
        retrial.note_failure(failure.clone(), now_ns);
        Some(is_expected)
    }

    /// A worker gave an answer that is none: has it killed; returns what its batch failed of.
    pub(super) fn blame(&mut self, index: usize, violation: &str, is_expected: bool) -> Failure {
        let worker = &mut self.workers[index];
        worker.distrust(violation, false, is_expected);
        let error = format!("worker {} broke the ring protocol and was killed: {violation}", worker.name);
        Failure { error, detail: None, is_death: true }
    }

    pub(super) fn read_failure(&mut self, index: usize, slot: u32, byte_length: u32) -> Failure {
        self.text.clear();
        self.workers[index].channel.copy_response(slot, byte_length, &mut self.text);
        Failure::read(&self.text)
    }
}
