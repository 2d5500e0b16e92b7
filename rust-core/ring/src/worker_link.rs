//! The worker's half of the protocol, over any [`Memory`]: poll, wait, complete.
//!
//! Knows no files, no mappings and no doorbell: [`WorkerLink::complete`] says whether the core has to be rung.

use crate::core_link::Parts;
use crate::descriptor::{Completion, CompletionKind, Submission, SubmissionKind, unpack_flags};
use crate::error::ProtocolViolation;
use crate::layout::{RequestState, ResponseState};
use crate::memory::{Memory, Word};
use crate::ring::{Consumer, Producer};
use crate::sleep::{Sleeper, Waker};
use std::time::Duration;

/// What the worker has in hand, per slot; private, so that a mistake of the caller never reaches the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    Empty,
    Batch,
    Leased,
}

/// See the module.
pub(crate) struct WorkerLink<M: Memory> {
    request: *const RequestState<M>,
    response: *const ResponseState<M>,
    submissions: Consumer<M>,
    completions: Producer<M>,
    sleeper: Sleeper<M>,
    waker: Waker<M>,
    request_slot_bytes: u64,
    response_slot_bytes: u64,
    drained: bool,
    hands: Box<[Hand]>,
}

#[allow(unsafe_code)]
impl<M: Memory> WorkerLink<M> {
    /// # Safety
    /// The parts are as large as they say and outlive the link; nobody else writes the response's.
    pub unsafe fn new(parts: &Parts<M>) -> Self {
        // SAFETY: passed on from the caller.
        let (submissions, completions) = unsafe {
            (
                Consumer::new(parts.submissions, parts.submission_entries, parts.start_position),
                Producer::new(parts.completions, parts.completion_entries, 0),
            )
        };
        WorkerLink {
            request: parts.request,
            response: parts.response,
            submissions,
            completions,
            sleeper: Sleeper::new(),
            waker: Waker::new(),
            request_slot_bytes: parts.request_slot_bytes,
            response_slot_bytes: parts.response_slot_bytes,
            drained: false,
            hands: vec![Hand::Empty; parts.slots as usize].into_boxed_slice(),
        }
    }

    #[inline]
    pub fn response(&self) -> &ResponseState<M> {
        // SAFETY: alive by the contract of `new`; all fields are atomic.
        unsafe { &*self.response }
    }

    #[inline]
    pub fn poll(&mut self) -> Result<Option<Submission>, ProtocolViolation> {
        let position = self.submissions.position();
        let words = match self.submissions.take() {
            Ok(None) => return Ok(None),
            Ok(Some(words)) => words,
            Err(found) => {
                return Err(ProtocolViolation::BadSequence { position, found, expected: position + 1 });
            }
        };
        let submission =
            Submission::unpack(&words).map_err(|kind| ProtocolViolation::UnknownKind { position, kind })?;
        let flags = unpack_flags(&words);
        if flags != 0 {
            return Err(ProtocolViolation::UnknownFlags { position, flags });
        }
        if self.drained {
            return Err(ProtocolViolation::AfterDrain { position });
        }
        match submission.kind {
            SubmissionKind::Batch | SubmissionKind::Snapshot | SubmissionKind::Restore | SubmissionKind::Fill => {
                self.take_in_hand(position, &submission)?;
            }
            SubmissionKind::Drain => self.drained = true,
        }
        self.response().figures.0.submissions_read.store_relaxed(position + 1);
        Ok(Some(submission))
    }

    #[inline]
    fn take_in_hand(&mut self, position: u64, submission: &Submission) -> Result<(), ProtocolViolation> {
        let (slot, byte_length) = (submission.slot, submission.byte_length);
        let slots = self.hands.len() as u32;
        let Some(hand) = self.hands.get_mut(slot as usize) else {
            return Err(ProtocolViolation::SlotOutOfRange { position, slot, slots });
        };
        if *hand != Hand::Empty {
            return Err(ProtocolViolation::NotInFlight { position, slot });
        }
        if u64::from(byte_length) > self.request_slot_bytes {
            let slot_bytes = self.request_slot_bytes;
            return Err(ProtocolViolation::TooLong { position, byte_length, slot_bytes });
        }
        *hand = Hand::Batch;
        Ok(())
    }

    /// Sleep until the core publishes or `timeout` is over; may return early. `Some` if there was something after all.
    pub fn sleep(&mut self, timeout: Duration) -> Result<Option<Submission>, ProtocolViolation> {
        // SAFETY: as in `response`; borrowed from the pointers so that `self` can be borrowed mutably.
        let (flag, word) = unsafe { (&(*self.response).sleeping.0, &(*self.request).wake.0) };
        // Read before arming: a bump for the ticket below comes after this read, so FUTEX_WAIT sees it as a change.
        let seen = word.load_relaxed();
        self.sleeper.arm(flag);
        let found = self.poll();
        if matches!(found, Ok(None)) {
            M::futex_wait(word, seen, timeout);
        }
        self.sleeper.disarm(flag);
        found
    }

    /// Put the descriptor; the core sees it now if it is awake.
    #[inline]
    pub fn place(&mut self, completion: &Completion) {
        assert!(u64::from(completion.byte_length) <= self.response_slot_bytes, "answer longer than its slot");
        match completion.kind {
            CompletionKind::Result | CompletionKind::Failed => {
                let hand = &mut self.hands[completion.slot as usize];
                assert!(*hand == Hand::Batch, "slot {} completed while {hand:?}", completion.slot);
                *hand = if completion.leased { Hand::Leased } else { Hand::Empty };
            }
            CompletionKind::LeaseReleased => {
                let hand = &mut self.hands[completion.slot as usize];
                assert!(*hand == Hand::Leased, "lease of slot {} ended while {hand:?}", completion.slot);
                *hand = Hand::Empty;
            }
            CompletionKind::Ready => {}
        }
        self.completions.put(&completion.pack());
        self.response().figures.0.completions_published.store_relaxed(self.completions.position());
    }

    /// Must the doorbell be rung? To be asked after every [`WorkerLink::place`], once for several.
    #[inline]
    pub fn must_ring(&mut self) -> bool {
        // SAFETY: alive by the contract of `new`; borrowed from the pointer so that `waker` can be borrowed mutably.
        let flag = unsafe { &(*self.request).sleeping.0 };
        self.waker.must_wake(flag)
    }
}
