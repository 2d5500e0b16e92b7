//! The core's private book of slots: who has each, and what was asked in it.
//!
//! No other process sees or influences this table but through completions that were checked against it.

use crate::descriptor::{Resubmission, Submission, SubmissionKind};
use crate::error::ProtocolViolation;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// On the free list.
    Free,
    /// The core fills the request slot.
    Filling,
    /// Published, not answered.
    InFlight,
    /// Answered; the core reads request and response slot.
    Answered,
    /// The core is done, user code of the worker is not.
    AwaitingLease,
}

#[derive(Clone, Copy)]
struct Slot {
    phase: Phase,
    leased: bool,
    /// Payload bytes of the answer, while answered.
    answer_bytes: u32,
    /// What was asked last, and at which position of the submission ring.
    position: u64,
    submission: Submission,
}

/// See the module.
pub(crate) struct SlotTable {
    slots: Box<[Slot]>,
    /// Last in, first out: the slot used last is the one still in the caches.
    free: Vec<u32>,
    leased: u32,
}

/// The part of a completion that has to fit what was asked.
pub(crate) struct Answer {
    pub position: u64,
    pub slot: u32,
    pub batch: u64,
    pub epoch: u64,
    pub leased: bool,
    pub byte_length: u32,
    /// `None` for a failure, which need not tell rows.
    pub row_count: Option<u32>,
}

impl SlotTable {
    pub fn new(count: u32) -> SlotTable {
        let submission = Submission::new(SubmissionKind::Batch);
        let slot = Slot { phase: Phase::Free, leased: false, answer_bytes: 0, position: 0, submission };
        SlotTable { slots: vec![slot; count as usize].into_boxed_slice(), free: (0..count).rev().collect(), leased: 0 }
    }

    #[inline]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    #[inline]
    pub fn leased_count(&self) -> u32 {
        self.leased
    }

    #[inline]
    pub fn is_leased(&self, slot: u32) -> bool {
        self.slots[slot as usize].leased
    }

    #[inline]
    pub fn acquire(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        self.slots[slot as usize].phase = Phase::Filling;
        Some(slot)
    }

    /// Panics if the slot is not the caller's.
    #[inline]
    pub fn release(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        assert!(
            matches!(entry.phase, Phase::Filling | Phase::Answered),
            "slot {slot} released while {:?}",
            entry.phase
        );
        if entry.leased {
            entry.phase = Phase::AwaitingLease;
        } else {
            entry.phase = Phase::Free;
            self.free.push(slot);
        }
    }

    /// Panics if the slot is not the caller's, or user code still looks into it.
    #[inline]
    pub fn submit(&mut self, position: u64, submission: &Submission) {
        let slot = submission.slot;
        let entry = &mut self.slots[slot as usize];
        assert!(
            matches!(entry.phase, Phase::Filling | Phase::Answered) && !entry.leased,
            "slot {slot} published while {:?}, leased: {}",
            entry.phase,
            entry.leased
        );
        *entry = Slot { phase: Phase::InFlight, leased: false, answer_bytes: 0, position, submission: *submission };
    }

    #[inline]
    pub fn answer(&mut self, answer: &Answer) -> Result<(), ProtocolViolation> {
        let entry = Self::entry(&mut self.slots, answer.position, answer.slot)?;
        let (position, slot, asked) = (answer.position, answer.slot, &entry.submission);
        if entry.phase != Phase::InFlight {
            return Err(ProtocolViolation::NotInFlight { position, slot });
        }
        if asked.batch != answer.batch {
            let (found, expected) = (answer.batch, asked.batch);
            return Err(ProtocolViolation::WrongBatch { position, slot, found, expected });
        }
        if asked.epoch != answer.epoch {
            let (found, expected) = (answer.epoch, asked.epoch);
            return Err(ProtocolViolation::WrongEpoch { position, slot, found, expected });
        }
        let fits = |rows: u32| match asked.kind {
            SubmissionKind::Fill => rows <= asked.row_count,
            _ => rows == asked.row_count,
        };
        if let Some(found) = answer.row_count.filter(|rows| !fits(*rows)) {
            let expected = asked.row_count;
            return Err(ProtocolViolation::WrongRowCount { position, slot, found, expected });
        }
        entry.phase = Phase::Answered;
        entry.leased = answer.leased;
        entry.answer_bytes = answer.byte_length;
        self.leased += u32::from(answer.leased);
        Ok(())
    }

    pub fn end_lease(&mut self, position: u64, slot: u32, batch: u64) -> Result<(), ProtocolViolation> {
        let entry = Self::entry(&mut self.slots, position, slot)?;
        if !entry.leased {
            return Err(ProtocolViolation::NotLeased { position, slot });
        }
        if entry.submission.batch != batch {
            let expected = entry.submission.batch;
            return Err(ProtocolViolation::WrongBatch { position, slot, found: batch, expected });
        }
        entry.leased = false;
        self.leased -= 1;
        if entry.phase == Phase::AwaitingLease {
            entry.phase = Phase::Free;
            self.free.push(slot);
        }
        Ok(())
    }

    /// Slots whose answer was polled and not released yet, with the answer's length.
    pub fn answered(&self) -> impl Iterator<Item = (u32, u32)> {
        let slots = (0..).zip(&self.slots);
        slots.filter(|(_, entry)| entry.phase == Phase::Answered).map(|(slot, entry)| (slot, entry.answer_bytes))
    }

    /// The worker is dead: its leases are over, and what it did not answer is the caller's again, in the order in which
    /// it was published.
    pub fn take_back(&mut self) -> Vec<Resubmission> {
        let mut unanswered = Vec::new();
        for (slot, entry) in (0..).zip(&mut self.slots) {
            entry.leased = false;
            match entry.phase {
                Phase::InFlight => {
                    entry.phase = Phase::Filling;
                    unanswered.push(Resubmission { submission: entry.submission, position: entry.position });
                }
                Phase::AwaitingLease => {
                    entry.phase = Phase::Free;
                    self.free.push(slot);
                }
                Phase::Free | Phase::Filling | Phase::Answered => {}
            }
        }
        self.leased = 0;
        unanswered.sort_unstable_by_key(|resubmission| resubmission.position);
        unanswered
    }

    #[inline]
    fn entry(slots: &mut [Slot], position: u64, slot: u32) -> Result<&mut Slot, ProtocolViolation> {
        let count = slots.len() as u32;
        slots.get_mut(slot as usize).ok_or(ProtocolViolation::SlotOutOfRange { position, slot, slots: count })
    }
}
