//! The words that two processes share, and the three primitives that the algorithm needs beside them.
//!
//! The algorithm is generic over [`Memory`], so that loom runs exactly the code that production runs.
//! Only the orderings that the protocol uses can be spelled here; there is no read-modify-write at all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

/// A shared word of one writing process.
pub(crate) trait Word<T> {
    /// Plain read: may be stale, orders nothing.
    fn load_relaxed(&self) -> T;
    /// Plain write: orders nothing.
    fn store_relaxed(&self, value: T);
    /// Read that sees everything its writer did before the matching [`Word::store_release`].
    fn load_acquire(&self) -> T;
    /// Write that publishes everything done before it.
    fn store_release(&self, value: T);
}

/// The kind of memory a channel lies in: a mapping in production, loom's model in tests.
pub(crate) trait Memory {
    /// A 32-bit word, usable as futex.
    type U32: Word<u32>;
    /// A 64-bit word.
    type U64: Word<u64>;
    /// Sequentially consistent fence: no later load passes an earlier store.
    fn full_fence();
    /// Sleep unless `word` differs from `expected`, at most for `timeout`. May return early for no reason.
    fn futex_wait(word: &Self::U32, expected: u32, timeout: Duration);
    /// Wake whoever sleeps on `word`.
    fn futex_wake(word: &Self::U32);
}

/// Memory shared between processes through a mapping.
pub(crate) struct Shared;

impl Memory for Shared {
    type U32 = AtomicU32;
    type U64 = AtomicU64;

    #[inline]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }

    #[allow(unsafe_code)]
    fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
        };
        // SAFETY: the kernel reads four bytes at `word`, which is alive and aligned, and `timeout`, which outlives the
        // call. Not FUTEX_PRIVATE: the waker is another process. Every outcome (woken, changed, timed out,
        // interrupted) means "look again" to the caller, so the result is not needed.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                &raw const timeout,
                std::ptr::null::<u32>(),
                0,
            );
        }
    }

    #[allow(unsafe_code)]
    fn futex_wake(word: &AtomicU32) {
        // SAFETY: FUTEX_WAKE does not touch the word, it only names the queue by its address.
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
        }
    }
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word<$value> for $atomic {
            #[inline]
            fn load_relaxed(&self) -> $value {
                self.load(Ordering::Relaxed)
            }
            #[inline]
            fn store_relaxed(&self, value: $value) {
                self.store(value, Ordering::Relaxed);
            }
            #[inline]
            fn load_acquire(&self) -> $value {
                // Not `load(Acquire)`: the word may lie in a read-only mapping, where Rust promises plain loads only
                // (std::sync::atomic, "Atomic accesses to read-only memory"). The same instruction on x86-64.
                let value = self.load(Ordering::Relaxed);
                fence(Ordering::Acquire);
                value
            }
            #[inline]
            fn store_release(&self, value: $value) {
                self.store(value, Ordering::Release);
            }
        }
    };
}

word!(AtomicU32, u32);
word!(AtomicU64, u64);
