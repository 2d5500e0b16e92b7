//! How snapshots and logged batches travel between the core and a worker.
//!
//! A snapshot goes through the ring in pieces of a slot, one at a time; one that does not fill its slot is the last. Logged
//! batches are published like others and answered like others; nothing but their slots tells that their answers are
//! thrown away.

use ringmill_ring::{Completion, CompletionKind, Submission, SubmissionKind, monotonic_ns};
use ringmill_wire::BatchView;

use super::snapshots::{Phase, Snapshots};
use super::{Failure, UdfOperator};
use crate::error::EngineError;
use crate::runtime::worker_link::{Sentence, WorkerLink};

/// Largest snapshot of one worker. It lies in the core's memory and goes whole into every checkpoint.
const BYTES_MAX: usize = 64 << 20;

impl UdfOperator {
    /// Publishes what is due and finds slots; says whether there was anything.
    pub(super) fn publish_pieces(&mut self, index: usize) -> bool {
        let epoch = self.epoch();
        let (Some(snapshots), worker) = (&mut self.snapshots, &mut self.workers[index]) else { return false };
        let kept = &mut snapshots.workers[index];
        let (kind, piece, slot) = match (&mut kept.taking, &mut kept.phase) {
            (Some(taking), _) if taking.slot.is_none() && !taking.is_whole && !taking.is_void => {
                (SubmissionKind::Snapshot, taking.piece, &mut taking.slot)
            }
            (None, Phase::Restoring { piece, slot }) if slot.is_none() => (SubmissionKind::Restore, *piece, slot),
            (None, Phase::Replaying { .. }) => return self.replay(index, epoch),
            _ => return false,
        };
        let Some(free) = worker.channel.acquire() else { return false };
        *slot = Some(free);
        let byte_length = match (kind, &kept.base) {
            (SubmissionKind::Restore, Some(whole)) => write_piece(worker, free, whole, piece),
            _ => 0,
        };
        worker.ask(&Submission {
            slot: free,
            byte_length,
            batch: piece,
            epoch,
            publish_ns: monotonic_ns(),
            ..Submission::new(kind)
        });
        true
    }

    /// Publishes logged batches while there are slots.
    #[allow(unsafe_code)]
    fn replay(&mut self, index: usize, epoch: u64) -> bool {
        let (Some(snapshots), worker) = (&mut self.snapshots, &mut self.workers[index]) else { return false };
        let Snapshots { workers, writer, parts, .. } = snapshots;
        let kept = &mut workers[index];
        let Phase::Replaying { next } = &mut kept.phase else { return false };
        let mut moved = false;
        while let Some(logged) = kept.log.read(*next, &self.input, parts) {
            let Some(slot) = worker.channel.acquire() else { break };
            // SAFETY: the parts lie in the log, which is not changed here.
            let view = unsafe { BatchView::from_parts(&self.input, logged.rows as usize, parts) };
            // SAFETY: the slot was stamped with this template when the channel was made, and from `acquire` to `ask`
            // nobody else touches it.
            unsafe { writer.open(worker.channel.slot_memory(slot)) };
            writer.copy_rows(&view, 0..view.rows());
            let closed = writer.close();
            let publish_ns = monotonic_ns();
            worker.ask(&Submission {
                kind: SubmissionKind::Batch,
                slot,
                byte_length: closed.bytes,
                row_count: closed.rows,
                batch: logged.batch,
                epoch,
                ingest_ns: publish_ns,
                publish_ns,
            });
            kept.replays.push_back(slot);
            *next += 1;
            moved = true;
        }
        moved
    }

    /// An answer to a piece or a replay; `false`: it answers something else.
    pub(super) fn note_kept(&mut self, index: usize, completion: &Completion) -> bool {
        let Some(snapshots) = &mut self.snapshots else { return false };
        let (kept, slot) = (&mut snapshots.workers[index], completion.slot);
        if kept.replays.front() == Some(&slot) {
            kept.replays.pop_front();
            self.note_replayed(index, completion);
        } else if kept.taking.as_ref().is_some_and(|taking| taking.slot == Some(slot)) {
            self.note_piece_taken(index, completion);
        } else if matches!(kept.phase, Phase::Restoring { slot: Some(asked), .. } if asked == slot) {
            self.note_piece_given(index, completion);
        } else {
            return false;
        }
        let worker = &mut self.workers[index];
        worker.note_kept(monotonic_ns());
        worker.channel.release(slot);
        true
    }

    /// A function that fails for rows it has passed before may do so again or not: its worker is started anew, and given up
    /// if that does not help.
    fn note_replayed(&mut self, index: usize, completion: &Completion) {
        if completion.kind == CompletionKind::Failed {
            let error = self.read_failure(index, completion.slot, completion.byte_length).error;
            let reason = format!("failed for rows that it had passed before, and was killed: {error}");
            self.workers[index].condemn(Sentence { reason, has_suspect: false, is_expected: false });
        }
    }

    fn note_piece_taken(&mut self, index: usize, completion: &Completion) {
        let worker = &self.workers[index];
        worker.channel.copy_response(completion.slot, completion.byte_length, &mut self.text);
        let Some(snapshots) = &mut self.snapshots else { return };
        let Some(taking) = &mut snapshots.workers[index].taking else { return };
        taking.slot = None;
        if taking.is_void {
            return;
        }
        if completion.kind == CompletionKind::Failed {
            let failure = Failure::read(&self.text);
            return self.note_keep_failure("snapshot()", failure.error, failure.detail);
        }
        taking.piece += 1;
        taking.so_far.extend_from_slice(&self.text);
        taking.is_whole = (completion.byte_length as usize) < worker.channel.response_slot_bytes();
        if taking.so_far.len() > BYTES_MAX {
            let error = format!("it gives more than {} MiB", BYTES_MAX >> 20);
            self.note_keep_failure("snapshot()", error, None);
        }
    }

    fn note_piece_given(&mut self, index: usize, completion: &Completion) {
        let worker = &self.workers[index];
        stamp(worker, &self.request, completion.slot);
        if completion.kind == CompletionKind::Failed {
            let failure = self.read_failure(index, completion.slot, completion.byte_length);
            return self.note_keep_failure("restore()", failure.error, failure.detail);
        }
        let Some(snapshots) = &mut self.snapshots else { return };
        let kept = &mut snapshots.workers[index];
        let Phase::Restoring { piece, slot } = &mut kept.phase else { return };
        (*piece, *slot) = (*piece + 1, None);
        let length = kept.base.as_ref().map_or(0, Vec::len) as u64;
        if *piece > length / worker.channel.request_slot_bytes() as u64 {
            kept.phase = Phase::Replaying { next: 0 };
        }
    }

    /// Ends the run.
    fn note_keep_failure(&mut self, method: &'static str, error: String, traceback: Option<String>) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.failed = Some(EngineError::Keep { step: self.name.clone(), method, error, traceback });
        }
    }

    /// Takes a piece or a replay back from a dead worker, if it is one.
    pub(super) fn take_back_kept(&mut self, index: usize, submission: &Submission) -> bool {
        let Some(snapshots) = &self.snapshots else { return false };
        let worker = &mut self.workers[index];
        match submission.kind {
            SubmissionKind::Snapshot | SubmissionKind::Restore => stamp(worker, &self.request, submission.slot),
            _ if snapshots.workers[index].replays.contains(&submission.slot) => {}
            _ => return false,
        }
        worker.channel.release(submission.slot);
        true
    }

    /// A worker is dead: its successor begins with nothing.
    pub(super) fn forget_process(&mut self, index: usize) {
        let Some(snapshots) = &mut self.snapshots else { return };
        let kept = &mut snapshots.workers[index];
        kept.log.take_unanswered();
        kept.replays.clear();
        (kept.taking, kept.phase) = (None, Phase::Fresh);
        self.workers[index].is_holding = true;
    }
}

/// Writes one piece of a snapshot into a request slot; returns its length.
#[allow(unsafe_code)]
fn write_piece(worker: &WorkerLink, slot: u32, whole: &[u8], piece: u64) -> u32 {
    let room = worker.channel.request_slot_bytes();
    let start = usize::try_from(piece).unwrap_or(usize::MAX).saturating_mul(room).min(whole.len());
    let part = &whole[start..whole.len().min(start + room)];
    let memory = worker.channel.slot_memory(slot).as_ptr();
    // SAFETY: the slot is `room` bytes long, and from `acquire` to `ask` nobody else touches it.
    unsafe { memory.copy_from_nonoverlapping(part.as_ptr(), part.len()) };
    part.len() as u32
}

/// Makes a request slot one for batches again, over whose stamp raw bytes may lie.
#[allow(unsafe_code)]
fn stamp(worker: &WorkerLink, request: &ringmill_wire::Template, slot: u32) {
    // SAFETY: the slot was made for this template, and its submission is answered or taken back.
    unsafe { request.stamp(worker.channel.slot_memory(slot).as_ptr()) };
}
