//! Which windows of retained results are meant: `from` and `to` as people write them.

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};
use ringmill_state::RetainedRange;

/// Windows that start at `from` or later and before `to`; everything that is left out is unbounded.
///
/// # Errors
/// Which of them is no time.
pub fn window_range(from: Option<&str>, to: Option<&str>) -> Result<RetainedRange, String> {
    let all = RetainedRange::default();
    let time = |name: &str, text: Option<&str>, default| text.map_or(Ok(default), |text| nanoseconds(name, text));
    Ok(RetainedRange { from_ns: time("from", from, all.from_ns)?, to_ns: time("to", to, all.to_ns)? })
}

/// A time, or a day's beginning; UTC unless it says otherwise.
fn nanoseconds(name: &str, text: &str) -> Result<i64, String> {
    let utc = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let time = text.parse::<Timestamp>().ok().or_else(utc);
    let time = time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
    time.ok_or_else(|| format!("{name}: {text:?} is no time; write 2026-01-31T10:00:00Z, or 2026-01-31"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        const DAY: i64 = 86_400_000_000_000;
        for (text, expected) in [
            ("1970-01-02T00:00:00Z", Some(DAY)),
            ("1970-01-02", Some(DAY)),
            ("1970-01-02T01:00:00+01:00", Some(DAY)),
            ("1969-12-31", Some(-DAY)),
            ("", None),
            ("yesterday", None),
            ("1970-01-01T12:00:00", Some(DAY / 2)),
            ("9999-01-01T00:00:00Z", None),
        ] {
            let range = window_range(Some(text), None);
            assert_eq!(range.ok().map(|range| range.from_ns), expected, "{text:?}");
        }
        assert_eq!(window_range(None, None), Ok(RetainedRange::default()));
        assert!(window_range(None, Some("x")).unwrap_err().starts_with("to: \"x\" is no time"));
    }
}
