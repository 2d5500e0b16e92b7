//! The core's half of the protocol, over any [`Memory`]: publish, poll, sleep flags.
//!
//! Everything read from the worker is checked here before anybody acts on it. Knows no files and no mappings.

use crate::descriptor::{
    Completion, CompletionKind, FLAG_LEASED, NO_SLOT, Resubmission, Submission, SubmissionKind, unpack_flags,
};
use crate::error::ProtocolViolation;
use crate::layout::{RequestState, ResponseState};
use crate::memory::{Memory, Word};
use crate::ring::{Consumer, Descriptor, Producer};
use crate::sleep::{Sleeper, Waker};
use crate::slot_table::{Answer, SlotTable};

/// Addresses of the four shared structures of a channel.
pub(crate) struct Parts<M: Memory> {
    pub request: *const RequestState<M>,
    pub response: *const ResponseState<M>,
    pub submissions: *const Descriptor<M>,
    pub completions: *const Descriptor<M>,
    pub submission_entries: u32,
    pub completion_entries: u32,
    pub slots: u32,
    pub request_slot_bytes: u64,
    pub response_slot_bytes: u64,
    pub start_position: u64,
}

/// See the module.
pub(crate) struct CoreLink<M: Memory> {
    request: *const RequestState<M>,
    response: *const ResponseState<M>,
    submissions: Producer<M>,
    completions: Consumer<M>,
    sleeper: Sleeper<M>,
    waker: Waker<M>,
    wake_count: u32,
    request_slot_bytes: u64,
    response_slot_bytes: u64,
    ready: bool,
    draining: bool,
    pub slots: SlotTable,
}

#[allow(unsafe_code)]
impl<M: Memory> CoreLink<M> {
    /// # Safety
    /// The parts are as large as they say and outlive the link; nobody else writes the request's.
    pub unsafe fn new(parts: &Parts<M>) -> Self {
        // SAFETY: passed on from the caller.
        let (submissions, completions) = unsafe {
            (
                Producer::new(parts.submissions, parts.submission_entries, parts.start_position),
                Consumer::new(parts.completions, parts.completion_entries, 0),
            )
        };
        let link = CoreLink {
            request: parts.request,
            response: parts.response,
            submissions,
            completions,
            sleeper: Sleeper::new(),
            waker: Waker::new(),
            wake_count: 0,
            request_slot_bytes: parts.request_slot_bytes,
            response_slot_bytes: parts.response_slot_bytes,
            ready: false,
            draining: false,
            slots: SlotTable::new(parts.slots),
        };
        link.note_slots();
        link
    }

    /// Position of the next submission.
    pub fn position(&self) -> u64 {
        self.submissions.position()
    }

    /// The worker is dead, and the response's parts are those of its successor: fresh memory that nobody has written.
    /// What goes to the worker stays (positions go on); all that came from it, or was remembered of it, is forgotten.
    ///
    /// # Safety
    /// As [`CoreLink::new`]; the request's parts are the same as ever.
    pub unsafe fn replace_worker(&mut self, parts: &Parts<M>) -> Vec<Resubmission> {
        self.response = parts.response;
        // SAFETY: passed on from the caller.
        self.completions = unsafe { Consumer::new(parts.completions, parts.completion_entries, 0) };
        // The successor counts its tickets from 1 again: one remembered from the dead could be taken for woken.
        self.waker = Waker::new();
        self.ready = false;
        self.draining = false;
        let unanswered = self.slots.take_back();
        self.request().figures.0.completions_read.store_relaxed(0);
        self.note_slots();
        unanswered
    }

    #[inline]
    fn request(&self) -> &RequestState<M> {
        // SAFETY: alive by the contract of `new`; all fields are atomic.
        unsafe { &*self.request }
    }

    #[inline]
    pub fn response(&self) -> &ResponseState<M> {
        // SAFETY: alive by the contract of `new`; all fields are atomic.
        unsafe { &*self.response }
    }

    /// Put the descriptor; the worker sees it now if it is awake.
    #[inline]
    pub fn place(&mut self, submission: &Submission) {
        assert!(!self.draining, "published after a drain");
        match submission.kind {
            SubmissionKind::Batch => {}
            SubmissionKind::Drain => self.draining = true,
            SubmissionKind::Snapshot => {
                let (bytes, rows) = (submission.byte_length, submission.row_count);
                assert!(
                    bytes == 0 && rows == 0,
                    "a snapshot has neither payload nor rows, not {bytes} bytes and {rows} rows"
                );
            }
            SubmissionKind::Fill => {
                assert!(submission.byte_length == 0, "a fill has no payload, not {} bytes", submission.byte_length);
            }
            SubmissionKind::Restore => {
                assert!(submission.row_count == 0, "a restore has no rows, not {}", submission.row_count);
            }
        }
        if submission.kind.has_slot() {
            let (bytes, slot_bytes) = (submission.byte_length, self.request_slot_bytes);
            assert!(u64::from(bytes) <= slot_bytes, "{bytes} bytes are longer than a slot of {slot_bytes}");
            self.slots.submit(self.submissions.position(), submission);
        }
        self.submissions.put(&submission.pack());
        self.request().figures.0.submissions_published.store_relaxed(self.submissions.position());
    }

    /// Wake the worker if it sleeps; needed after every [`CoreLink::place`], once for several.
    #[inline]
    pub fn notify(&mut self) {
        // SAFETY: as in `response`; borrowed from the pointer so that `waker` can be borrowed mutably.
        let flag = unsafe { &(*self.response).sleeping.0 };
        if self.waker.must_wake(flag) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&mut self) {
        self.wake_count = self.wake_count.wrapping_add(1);
        let word = &self.request().wake.0;
        // The system call orders this store before the kernel looks for sleepers; a worker on its way
        // to sleep has read the old value and is refused by FUTEX_WAIT.
        word.store_relaxed(self.wake_count);
        M::futex_wake(word);
    }

    #[inline]
    pub fn poll(&mut self) -> Result<Option<Completion>, ProtocolViolation> {
        let position = self.completions.position();
        let words = match self.completions.take() {
            Ok(None) => return Ok(None),
            Ok(Some(words)) => words,
            Err(found) => {
                return Err(ProtocolViolation::BadSequence { position, found, expected: position + 1 });
            }
        };
        let completion =
            Completion::unpack(&words).map_err(|kind| ProtocolViolation::UnknownKind { position, kind })?;
        let flags = unpack_flags(&words);
        self.check(position, &completion, flags)?;
        self.request().figures.0.completions_read.store_relaxed(position + 1);
        Ok(Some(completion))
    }

    #[inline]
    fn check(&mut self, position: u64, completion: &Completion, flags: u16) -> Result<(), ProtocolViolation> {
        let known_flags = match completion.kind {
            CompletionKind::Result | CompletionKind::Failed => FLAG_LEASED,
            CompletionKind::LeaseReleased | CompletionKind::Ready => 0,
        };
        if flags & !known_flags != 0 {
            return Err(ProtocolViolation::UnknownFlags { position, flags });
        }
        let byte_length = completion.byte_length;
        if u64::from(byte_length) > self.response_slot_bytes {
            let slot_bytes = self.response_slot_bytes;
            return Err(ProtocolViolation::TooLong { position, byte_length, slot_bytes });
        }
        match completion.kind {
            CompletionKind::Result | CompletionKind::Failed => {
                let answer = Answer {
                    position,
                    slot: completion.slot,
                    batch: completion.batch,
                    epoch: completion.epoch,
                    leased: completion.leased,
                    byte_length,
                    row_count: (completion.kind == CompletionKind::Result).then_some(completion.row_count),
                };
                self.slots.answer(&answer)?;
                if completion.leased {
                    self.note_slots();
                }
            }
            CompletionKind::LeaseReleased => {
                self.slots.end_lease(position, completion.slot, completion.batch)?;
                self.note_slots();
            }
            CompletionKind::Ready if completion.slot != NO_SLOT => {
                return Err(ProtocolViolation::NotInFlight { position, slot: completion.slot });
            }
            CompletionKind::Ready if self.ready => {
                return Err(ProtocolViolation::ReadyTwice { position });
            }
            CompletionKind::Ready => self.ready = true,
        }
        Ok(())
    }

    #[inline]
    pub fn acquire(&mut self) -> Option<u32> {
        let slot = self.slots.acquire()?;
        self.note_slots();
        Some(slot)
    }

    #[inline]
    pub fn release(&mut self, slot: u32) {
        self.slots.release(slot);
        self.note_slots();
    }

    #[inline]
    fn note_slots(&self) {
        let figures = &self.request().figures.0;
        figures.slots_free.store_relaxed(self.slots.free_count() as u32);
        figures.slots_leased.store_relaxed(self.slots.leased_count());
    }

    /// True: armed and nothing there, the caller may sleep. False: not armed, look at the ring.
    #[inline]
    pub fn arm_sleep(&mut self) -> bool {
        // SAFETY: as in `request`; borrowed from the pointer so that `sleeper` can be borrowed mutably.
        let flag = unsafe { &(*self.request).sleeping.0 };
        self.sleeper.arm(flag);
        if self.completions.is_empty() {
            return true;
        }
        self.sleeper.disarm(flag);
        false
    }

    #[inline]
    pub fn disarm_sleep(&mut self) {
        self.sleeper.disarm(&self.request().sleeping.0);
    }
}
