//! Event time as nanoseconds since 1970, and the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use ringmill_wire::TimeUnit;

/// A timestamp column's value in nanoseconds; beyond the years 1677 to 2262 it is the nearest that fits.
#[inline]
pub fn nanoseconds(value: i64, unit: TimeUnit) -> i64 {
    let factor = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => return value,
    };
    value.saturating_mul(factor)
}

/// Nanoseconds since 1970 by the wall clock.
pub fn wall_clock_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
