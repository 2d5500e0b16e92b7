//! Event time as nanoseconds since 1970, the wall clock, and durations in words.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use ringmill_ring::monotonic_ns;
use ringmill_wire::TimeUnit;

/// A timestamp column's value in nanoseconds; beyond the years 1677 to 2262 it is the nearest that fits.
#[inline]
pub fn nanoseconds(value: i64, unit: TimeUnit) -> i64 {
    value.saturating_mul(unit.nanoseconds())
}

/// Nanoseconds since 1970. The wall clock is read once; from then on the monotonic clock counts, so that stepping the
/// wall clock moves no window.
pub fn wall_clock_ns() -> i64 {
    static START: OnceLock<(i64, u64)> = OnceLock::new();
    let (wall_ns, monotonic_start_ns) = *START.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (i64::try_from(since.as_nanos()).unwrap_or(i64::MAX), monotonic_ns())
    });
    wall_ns.saturating_add_unsigned(monotonic_ns() - monotonic_start_ns)
}

/// A duration in the largest unit that leaves nothing over.
pub fn in_words(duration_ns: u64) -> String {
    match duration_ns {
        ns if ns.is_multiple_of(1_000_000_000) => format!("{}s", ns / 1_000_000_000),
        ns if ns.is_multiple_of(1_000_000) => format!("{}ms", ns / 1_000_000),
        ns if ns.is_multiple_of(1_000) => format!("{}us", ns / 1_000),
        ns => format!("{ns}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_the_unit_that_fits() {
        for (ns, words) in [(2_000_000_000, "2s"), (1_500_000_000, "1500ms"), (250_000, "250us"), (7, "7ns")] {
            assert_eq!(in_words(ns), words);
        }
    }
}
