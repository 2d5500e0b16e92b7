//! Going to sleep without losing a wake-up, and waking without a system call while the peer is awake.
//!
//! The proof is in SPEC.md, "Sleep and wake". In short: the sleeper stores its ticket, fences, looks at the ring; the waker stores the
//! descriptor, fences, looks at the ticket. At least one of the two sees the other's store.
//! How the sleeper sleeps (futex or eventfd) is not decided here.

use crate::memory::{Memory, Word};
use std::marker::PhantomData;

/// The end that may sleep; owns the flag.
pub(crate) struct Sleeper<M: Memory> {
    ticket: u32,
    memory: PhantomData<fn() -> M>,
}

impl<M: Memory> Sleeper<M> {
    pub fn new() -> Self {
        Sleeper { ticket: 0, memory: PhantomData }
    }

    /// Announce a sleep under a fresh ticket. The caller looks at its ring once more, and sleeps only if that is empty.
    #[inline]
    pub fn arm(&mut self, flag: &M::U32) {
        self.ticket = self.ticket.wrapping_add(1).max(1);
        flag.store_relaxed(self.ticket);
        // Full fence, paired with the one in `Waker::must_wake`: the caller's look at the ring may not be done before
        // the ticket is visible (store-load reordering, which even x86 does).
        M::full_fence();
    }

    /// Awake again: the peer stops paying for system calls.
    #[inline]
    pub fn disarm(&self, flag: &M::U32) {
        // Relaxed: seen late, it costs one needless wake-up.
        flag.store_relaxed(0);
    }
}

/// The end that wakes.
pub(crate) struct Waker<M: Memory> {
    woken: u32,
    memory: PhantomData<fn() -> M>,
}

impl<M: Memory> Waker<M> {
    pub fn new() -> Self {
        Waker { woken: 0, memory: PhantomData }
    }

    /// To be called after a descriptor was put: must the peer be woken? True once per ticket.
    #[inline]
    pub fn must_wake(&mut self, flag: &M::U32) -> bool {
        // Full fence, paired with the one in `Sleeper::arm`: the look at the ticket may not be done before the
        // descriptor's sequence number is visible.
        M::full_fence();
        let ticket = flag.load_relaxed();
        if ticket == 0 || ticket == self.woken {
            return false;
        }
        self.woken = ticket;
        true
    }
}
