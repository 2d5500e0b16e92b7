//! The batch that is being filled: whose slot it takes, and when it goes.

use ringmill_ring::{Submission, SubmissionKind, monotonic_ns};

use super::{InFlight, Outcome, Traces, UdfOperator};
use crate::runtime::operator::Mark;
use crate::runtime::worker_link::{State, WorkerLink};

/// See the module.
pub(super) struct OpenBatch {
    pub worker: usize,
    pub slot: u32,
    pub ingest_ns: u64,
    pub mark: Option<Mark>,
}

impl UdfOperator {
    /// Room to write into: the open batch, or a new one if a slot is free. Workers that are not ready are given rows only
    /// if no other is. One slot is left for retrials and snapshots where one may be needed that has none.
    #[allow(unsafe_code)]
    pub(super) fn open(&mut self, ingest_ns: u64) -> bool {
        if self.open.is_some() {
            return true;
        }
        let kept_back = usize::from(self.workers.len() > 1 || self.retrial.is_some() || self.snapshots.is_some());
        let is_any_ready = self.workers.iter().any(|worker| worker.state == State::Running);
        let able = |worker: &WorkerLink| match worker.state {
            State::Running => true,
            State::Starting | State::Restarting { .. } => !is_any_ready,
            State::Failed => false,
        };
        let able = self.workers.iter().enumerate().filter(|(_, worker)| able(worker));
        let free = able.filter(|(_, worker)| worker.channel.free_slots() > kept_back);
        let Some((worker, _)) = free.min_by_key(|(_, worker)| worker.in_flight) else { return false };
        let channel = &mut self.workers[worker].channel;
        let Some(slot) = channel.acquire() else { return false };
        // SAFETY: the slot was stamped with this template when the channel was made, and from `acquire` to `publish`
        // nobody else touches it.
        unsafe { self.writer.open(channel.slot_memory(slot)) };
        self.open = Some(OpenBatch { worker, slot, ingest_ns, mark: None });
        true
    }

    /// Hands the open batch to its worker, or keeps it until the worker may have it.
    pub(super) fn publish(&mut self) {
        let Some(open) = self.open.take() else { return };
        let closed = self.writer.close();
        let mut tags = self.traces.as_mut().map(Traces::take_room).unwrap_or_default();
        self.writer.swap_tags(&mut tags);
        let publish_ns = monotonic_ns();
        let epoch = self.epoch();
        let submission = Submission {
            kind: SubmissionKind::Batch,
            slot: open.slot,
            byte_length: closed.bytes,
            row_count: closed.rows,
            batch: self.head + self.flight.len() as u64,
            epoch,
            ingest_ns: open.ingest_ns,
            publish_ns,
        };
        let outcome = if self.workers[open.worker].takes_batches() && self.log_batch(open.worker, &submission) {
            self.workers[open.worker].publish(&submission);
            Outcome::Pending
        } else {
            self.workers[open.worker].hold();
            Outcome::Held
        };
        self.flight.push_back(InFlight {
            worker: open.worker,
            slot: Some(open.slot),
            rows: closed.rows,
            tags,
            deaths: 0,
            ingest_ns: open.ingest_ns,
            publish_ns,
            mark: open.mark,
            outcome,
            is_void: false,
        });
    }

    /// Full batches go at once; a started one goes when its worker would otherwise have nothing to do.
    pub(super) fn publish_if_due(&mut self) -> bool {
        let Some(open) = &self.open else { return false };
        let rows = self.writer.rows();
        let idle = self.workers[open.worker].is_idle();
        let due =
            rows > 0 && (idle || self.ended || self.writer.rows_free() == 0 || open.mark.is_some_and(|mark| mark.cut));
        if due {
            self.publish();
        }
        due
    }

    /// Rows of the open batch.
    pub(super) fn writer_rows(&self) -> u32 {
        if self.open.is_some() { self.writer.rows() } else { 0 }
    }
}
