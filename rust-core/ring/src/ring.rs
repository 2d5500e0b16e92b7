//! The ring of descriptors: one [`Producer`], one [`Consumer`], no shared position.
//!
//! Guarantees: the consumer sees each descriptor once, in order and whole. Does *not* check for room: the paired
//! slots bound what can be unread (SPEC.md, invariants 4 and 5), so a full ring cannot come about and neither side ever reads the other's
//! position. Does not judge what a descriptor says.

use crate::descriptor::Words;
use crate::memory::{Memory, Word};

/// One cache line of the ring. The producer's process writes it, the consumer's reads it.
#[repr(C, align(64))]
pub(crate) struct Descriptor<M: Memory> {
    /// Position + 1 of what the other words hold; 0 before the first lap. Stored last.
    pub sequence: M::U64,
    /// Kind, slot, lengths, batch, epoch, times; see `descriptor.rs`.
    pub words: [M::U64; 7],
}

/// The writing end.
pub(crate) struct Producer<M: Memory> {
    entries: *const Descriptor<M>,
    mask: u64,
    position: u64,
}

/// The reading end.
pub(crate) struct Consumer<M: Memory> {
    entries: *const Descriptor<M>,
    mask: u64,
    position: u64,
}

impl<M: Memory> Producer<M> {
    /// # Safety
    /// `entries` points to `count` (a power of two) descriptors that outlive `self` and that nobody else writes.
    #[allow(unsafe_code)]
    pub unsafe fn new(entries: *const Descriptor<M>, count: u32, position: u64) -> Self {
        debug_assert!(count.is_power_of_two());
        Producer { entries, mask: u64::from(count) - 1, position }
    }

    /// Position of the next descriptor.
    #[inline]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Write the next descriptor. The caller has made sure that the one a lap ago was read.
    #[inline]
    #[allow(unsafe_code)]
    pub fn put(&mut self, words: &Words) {
        // SAFETY: the index is below the count given to `new`, whose contract keeps the entries alive.
        let entry = unsafe { &*self.entries.add((self.position & self.mask) as usize) };
        for (shared, word) in entry.words.iter().zip(words) {
            shared.store_relaxed(*word);
        }
        self.position += 1;
        // Release, paired with the Acquire in `Consumer::take`: neither the words above nor the payload written
        // before this call may become visible after the sequence number.
        entry.sequence.store_release(self.position);
    }
}

impl<M: Memory> Consumer<M> {
    /// # Safety
    /// `entries` points to `count` (a power of two) descriptors that outlive `self`.
    #[allow(unsafe_code)]
    pub unsafe fn new(entries: *const Descriptor<M>, count: u32, position: u64) -> Self {
        debug_assert!(count.is_power_of_two());
        Consumer { entries, mask: u64::from(count) - 1, position }
    }

    /// Position of the next descriptor.
    #[inline]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether nothing (not even nonsense) waits to be read.
    #[inline]
    #[allow(unsafe_code)]
    pub fn is_empty(&self) -> bool {
        // SAFETY: as in `Producer::put`.
        let entry = unsafe { &*self.entries.add((self.position & self.mask) as usize) };
        let sequence = entry.sequence.load_relaxed();
        sequence != self.position + 1 && self.is_older_lap(sequence)
    }

    /// Read the next descriptor, if it is there. `Err` is a sequence number that no producer may have left.
    #[inline]
    #[allow(unsafe_code)]
    pub fn take(&mut self) -> Result<Option<Words>, u64> {
        // SAFETY: as in `Producer::put`.
        let entry = unsafe { &*self.entries.add((self.position & self.mask) as usize) };
        // Acquire, paired with the Release in `Producer::put`: no read of the words below or of the payload may be done
        // before this one, or it could see the lap before.
        let sequence = entry.sequence.load_acquire();
        if sequence != self.position + 1 {
            return if self.is_older_lap(sequence) { Ok(None) } else { Err(sequence) };
        }
        self.position += 1;
        // Each word is read once; what a hostile producer changes afterwards is not looked at.
        Ok(Some(std::array::from_fn(|index| entry.words[index].load_relaxed())))
    }

    /// Whether `sequence` may still stand where this consumer reads next.
    #[inline]
    fn is_older_lap(&self, sequence: u64) -> bool {
        sequence == 0 || (sequence <= self.position && (self.position + 1 - sequence) & self.mask == 0)
    }
}
