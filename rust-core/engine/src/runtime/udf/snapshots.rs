//! What a class UDF has learnt, exactly, whatever happens to the process that has learnt it.
//!
//! For each worker the core holds its last snapshot (the *base*) and, in a log, the batches that it was given since then.
//! Together they are what the worker has learnt. A process that takes its place is given the base, then the log, whose
//! results are thrown away, and only then what is in flight. The same becomes of a process in which a batch has failed:
//! nobody knows how much of that batch it has learnt, and what it was given after it does not count, so it is given
//! the base and the log again ([`UdfOperator::spoil`]), and batches are held for it until the failed one is settled.
//!
//! A new snapshot is asked for at a barrier, when the log is half full, and after a replay, which need not happen twice.
//! It is that of the moment at which it was asked for, since a worker does one thing after the other. It replaces the base
//! once the answers that it covers have been looked at. Before the first batch each worker is asked for the first base.
//!
//! At a barrier all earlier batches are answered and no later one was taken, so log and base are those of the barrier. The
//! barrier leaves through the last of the node's ports when they are one snapshot again, in the stores.
//! Pieces and replays are in [`super::keeping`].

use std::collections::VecDeque;

use ringmill_ring::{Completion, Submission};
use ringmill_state::{EntryKey, WHOLE_SHARD};
use ringmill_wire::{BatchWriter, ColumnParts};

use super::replay_log::ReplayLog;
use super::{Outcome, UdfOperator};
use crate::error::EngineError;
use crate::runtime::operator::ShardContext;
use crate::runtime::worker_link::{Sentence, State};

/// Its part of the node's state in the stores.
pub(super) const SECTION: u8 = 1;

/// How far the present process of a worker is.
pub(super) enum Phase {
    /// It is new and has learnt nothing.
    Fresh,
    /// It is given this piece of the base.
    Restoring { piece: u64, slot: Option<u32> },
    /// It is given the log's batches from `next` on.
    Replaying { next: usize },
    /// It has learnt what the base and the log hold.
    Current,
    /// A batch failed, so that it is unknown what it has learnt.
    Spoiled,
}

/// A snapshot that is on its way.
pub(super) struct Taking {
    /// It is asked for this piece.
    pub piece: u64,
    pub slot: Option<u32>,
    pub so_far: Vec<u8>,
    pub is_whole: bool,
    /// Batches of the log that it covers.
    covered: usize,
    /// It covers a batch that does not count.
    pub is_void: bool,
}

/// One worker.
pub(super) struct Kept {
    /// `shard/index`, as in the worker's name.
    key: String,
    pub base: Option<Vec<u8>>,
    /// The stores have the base.
    is_stored: bool,
    pub log: ReplayLog,
    pub phase: Phase,
    pub taking: Option<Taking>,
    /// Slots in which batches of the log are replayed, in order.
    pub replays: VecDeque<u32>,
    /// The log was replayed since the last snapshot.
    has_replayed: bool,
    /// A barrier waits for what it has learnt.
    is_owing: bool,
}

/// What a step's workers in one shard have learnt.
pub(super) struct Snapshots {
    /// By worker.
    pub workers: Vec<Kept>,
    /// Writes batches of the log into slots.
    pub writer: BatchWriter,
    pub parts: Vec<ColumnParts>,
    pub failed: Option<EngineError>,
}

impl Snapshots {
    /// For workers of these names; each has a log of so many bytes.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>, writer: BatchWriter, log_bytes: usize) -> Snapshots {
        let key = |name: &str| {
            let mut parts = name.rsplitn(3, '/');
            let (index, shard) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{shard}/{index}")
        };
        let kept = |name| Kept {
            key: key(name),
            base: None,
            is_stored: false,
            log: ReplayLog::new(log_bytes, writer.template().bytes()),
            phase: Phase::Fresh,
            taking: None,
            replays: VecDeque::new(),
            has_replayed: false,
            is_owing: false,
        };
        Snapshots { workers: names.map(kept).collect(), writer, parts: Vec::new(), failed: None }
    }

    /// A barrier waits for some worker.
    pub(super) fn are_pending(&self) -> bool {
        self.workers.iter().any(|kept| kept.is_owing)
    }

    /// All rows before a barrier have left: what was learnt from them has to get into the stores.
    pub(super) fn begin(&mut self) {
        self.workers.iter_mut().for_each(|kept| kept.is_owing = true);
    }

    /// Takes one entry back; or says what is wrong with it.
    pub(super) fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), String> {
        let kept = self.workers.iter_mut().find(|kept| kept.key.as_bytes() == entry.key);
        let kept = kept.ok_or_else(|| format!("there is no worker {}", String::from_utf8_lossy(entry.key)))?;
        (kept.base, kept.is_stored) = (Some(value.to_vec()), true);
        Ok(())
    }
}

impl Kept {
    /// Whether batches may be published to it.
    pub(super) fn is_current(&self) -> bool {
        matches!(self.phase, Phase::Current)
    }

    /// A whole snapshot becomes the base when the answers that it covers are sound; a void one is forgotten.
    fn adopt(&mut self) {
        self.taking.take_if(|taking| taking.is_void && taking.slot.is_none());
        let sound = self.log.sound();
        let Some(taken) = self.taking.take_if(|taking| taking.is_whole && sound >= taking.covered) else { return };
        self.log.forget(taken.covered);
        (self.base, self.is_stored, self.has_replayed) = (Some(taken.so_far), false, false);
        if matches!(self.phase, Phase::Fresh) {
            self.phase = Phase::Replaying { next: 0 };
        }
    }

    /// Begins what is due next; `is_idle`: the process has answered everything.
    fn go_on(&mut self, is_idle: bool) {
        if self.taking.is_some() {
            return;
        }
        let restoring = || Phase::Restoring { piece: 0, slot: None };
        match self.phase {
            Phase::Fresh if self.base.is_none() => self.take(0),
            Phase::Fresh => self.phase = restoring(),
            Phase::Spoiled if is_idle => self.phase = restoring(),
            Phase::Replaying { next } if next == self.log.len() && self.replays.is_empty() => {
                (self.has_replayed, self.phase) = (next > 0, Phase::Current);
                self.go_on(is_idle);
            }
            Phase::Current => {
                let is_due = self.is_owing || self.has_replayed || self.log.is_half_full();
                if is_due && !self.log.is_empty() {
                    self.take(self.log.len());
                }
            }
            Phase::Spoiled | Phase::Restoring { .. } | Phase::Replaying { .. } => {}
        }
    }

    fn take(&mut self, covered: usize) {
        let (slot, so_far) = (None, Vec::new());
        self.taking = Some(Taking { piece: 0, slot, so_far, is_whole: false, covered, is_void: false });
    }

    /// The log has become shorter at its end.
    fn void_snapshot(&mut self) {
        let batches = self.log.len();
        if let Some(taking) = self.taking.as_mut().filter(|taking| taking.covered > batches) {
            taking.is_void = true;
        }
    }
}

impl UdfOperator {
    /// Sees to it that every worker has learnt what it should, and the core knows it; says whether anything moved.
    pub(super) fn go_on_keeping(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut moved = false;
        for index in 0..self.workers.len() {
            let Some(snapshots) = &mut self.snapshots else { return Ok(false) };
            if let Some(error) = snapshots.failed.take() {
                return Err(error);
            }
            let (kept, worker) = (&mut snapshots.workers[index], &self.workers[index]);
            kept.adopt();
            let is_lost = worker.state == State::Failed;
            if kept.is_owing && (kept.log.is_empty() || is_lost) {
                if is_lost && !kept.log.is_empty() {
                    let batches = kept.log.len();
                    tracing::warn!(worker = %worker.name, "what it learnt from its last {batches} batches dies with it");
                }
                if let Some(base) = kept.base.as_ref().filter(|_| !kept.is_stored) {
                    let mut delta = context.snapshot.delta.node(self.id);
                    delta.put(SECTION, 0, WHOLE_SHARD, kept.key.as_bytes(), base);
                }
                (kept.is_stored, kept.is_owing) = (kept.base.is_some(), false);
                moved = true;
            }
            if worker.is_live() && worker.sentence.is_none() && !worker.is_drained() {
                kept.go_on(worker.asked == 0);
                moved |= self.publish_pieces(index);
                if self.workers[index].is_holding {
                    moved |= self.publish_held(index);
                }
            }
        }
        Ok(moved)
    }

    /// Whether the worker has learnt what it should, so that batches may be published to it.
    pub(super) fn is_current(&self, index: usize) -> bool {
        self.snapshots.as_ref().is_none_or(|snapshots| snapshots.workers[index].is_current())
    }

    /// Whether its process is being given what it is to have learnt.
    pub(super) fn is_restoring(&self, index: usize) -> bool {
        let phase = self.snapshots.as_ref().map(|snapshots| &snapshots.workers[index].phase);
        matches!(phase, Some(Phase::Restoring { .. }))
    }

    /// Logs a batch that is about to be published; `false`: there is no room for it before the next snapshot. Functions
    /// without snapshots have no log.
    #[allow(unsafe_code)]
    pub(super) fn log_batch(&mut self, index: usize, submission: &Submission) -> bool {
        let Some(snapshots) = &mut self.snapshots else { return true };
        let memory = self.workers[index].channel.slot_memory(submission.slot).as_ptr().cast_const();
        let Snapshots { workers, parts, failed, .. } = snapshots;
        // SAFETY: the slot was stamped with this template and closed by a writer of ours, and is not published yet.
        if let Err(error) = unsafe { self.request.read_lengths(memory, &mut self.lengths) } {
            *failed = Some(EngineError::Layout { node: self.name.clone(), error });
            return false;
        }
        // SAFETY: the lengths were just read from this very slot, which only we can write.
        unsafe {
            self.request.parts(memory, &self.lengths, parts);
            workers[index].log.push(submission.batch, submission.row_count, parts)
        }
    }

    /// A batch was answered; `false`: it was not its turn. What the function does to batches that do not count is nothing
    /// to be noted here.
    pub(super) fn note_learnt(&mut self, index: usize, completion: &Completion, failed: bool) -> bool {
        let Some(snapshots) = &mut self.snapshots else { return true };
        let log = &mut snapshots.workers[index].log;
        if !failed {
            return log.note_answer(completion.batch);
        }
        let unlearnt = log.take_unanswered();
        self.spoil(index, &unlearnt);
        unlearnt.first() == Some(&completion.batch)
    }

    /// An answer was looked at and is sound.
    pub(super) fn note_sound(&mut self, index: usize) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.workers[index].log.note_sound();
        }
    }

    /// The answer that was to be looked at next is nonsense, and its worker is being killed.
    pub(super) fn note_unsound(&mut self, index: usize) {
        if let Some(snapshots) = &mut self.snapshots {
            let unlearnt = snapshots.workers[index].log.take_unsound();
            self.spoil(index, &unlearnt);
        }
    }

    /// The first of these batches failed, the others were given to the same process after it: they will be given to it
    /// again when it has learnt what it should, and nothing else is until then.
    fn spoil(&mut self, index: usize, unlearnt: &[u64]) {
        let Some(snapshots) = &mut self.snapshots else { return };
        let kept = &mut snapshots.workers[index];
        kept.void_snapshot();
        if kept.is_current() {
            kept.phase = Phase::Spoiled;
        }
        self.workers[index].is_holding = true;
        for batch in unlearnt.iter().skip(1) {
            let place = batch.checked_sub(self.head).and_then(|place| usize::try_from(place).ok());
            let Some(entry) = place.and_then(|place| self.flight.get_mut(place)) else { continue };
            match entry.outcome {
                Outcome::Pending => entry.is_void = true,
                Outcome::Result | Outcome::Failed { .. } => {
                    entry.outcome = Outcome::Held;
                    self.workers[index].in_flight += 1;
                }
                Outcome::Held | Outcome::Died(_) | Outcome::Retrial => {}
            }
        }
    }

    /// A slot that the function keeps an array of cannot be published again: the death of its worker ends that.
    pub(super) fn end_leases(&mut self, index: usize) {
        let reason = "kept arrays of rows that have to be given to it again and was killed".into();
        self.workers[index].condemn(Sentence { reason, has_suspect: false, is_expected: true });
    }
}
