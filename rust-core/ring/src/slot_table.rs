//! The core's private book of slots: who has each, and what was asked in it.
//!
//! No other process sees or influences this table but through completions that were checked against it.

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
    row_count: u32,
    batch: u64,
    epoch: u64,
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
    /// `None` for a failure, which need not tell rows.
    pub row_count: Option<u32>,
}

impl SlotTable {
    pub fn new(count: u32) -> SlotTable {
        let slot = Slot { phase: Phase::Free, leased: false, row_count: 0, batch: 0, epoch: 0 };
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
    pub fn submit(&mut self, slot: u32, batch: u64, epoch: u64, row_count: u32) {
        let entry = &mut self.slots[slot as usize];
        assert!(
            matches!(entry.phase, Phase::Filling | Phase::Answered) && !entry.leased,
            "slot {slot} published while {:?}, leased: {}",
            entry.phase,
            entry.leased
        );
        *entry = Slot { phase: Phase::InFlight, leased: false, row_count, batch, epoch };
    }

    #[inline]
    pub fn answer(&mut self, answer: &Answer) -> Result<(), ProtocolViolation> {
        let entry = Self::entry(&mut self.slots, answer.position, answer.slot)?;
        let (position, slot) = (answer.position, answer.slot);
        if entry.phase != Phase::InFlight {
            return Err(ProtocolViolation::NotInFlight { position, slot });
        }
        if entry.batch != answer.batch {
            let (found, expected) = (answer.batch, entry.batch);
            return Err(ProtocolViolation::WrongBatch { position, slot, found, expected });
        }
        if entry.epoch != answer.epoch {
            let (found, expected) = (answer.epoch, entry.epoch);
            return Err(ProtocolViolation::WrongEpoch { position, slot, found, expected });
        }
        if let Some(found) = answer.row_count.filter(|rows| *rows != entry.row_count) {
            let expected = entry.row_count;
            return Err(ProtocolViolation::WrongRowCount { position, slot, found, expected });
        }
        entry.phase = Phase::Answered;
        entry.leased = answer.leased;
        self.leased += u32::from(answer.leased);
        Ok(())
    }

    pub fn end_lease(&mut self, position: u64, slot: u32, batch: u64) -> Result<(), ProtocolViolation> {
        let entry = Self::entry(&mut self.slots, position, slot)?;
        if !entry.leased {
            return Err(ProtocolViolation::NotLeased { position, slot });
        }
        if entry.batch != batch {
            let expected = entry.batch;
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

    #[inline]
    fn entry(slots: &mut [Slot], position: u64, slot: u32) -> Result<&mut Slot, ProtocolViolation> {
        let count = slots.len() as u32;
        slots.get_mut(slot as usize).ok_or(ProtocolViolation::SlotOutOfRange { position, slot, slots: count })
    }
}
