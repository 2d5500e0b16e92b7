//! The one clock of the channel: `CLOCK_MONOTONIC`, comparable between processes of one machine.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: the same in every process, never stepped by a wall-clock change.
#[inline]
#[must_use]
pub fn monotonic_ns() -> u64 {
    // The clock id is a constant the kernel always knows, so the call cannot fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
