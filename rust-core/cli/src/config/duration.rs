//! Durations as people write them: `100ms`, `2s`, `5m`, `1h`, `30d`, `1h30m`.

/// Units, shortest first, with their length in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing there.
    #[error("a duration is empty")]
    Empty,
    /// A bare number.
    #[error("durations need a unit, for example \"{0}s\"")]
    UnitMissing(String),
    /// A unit that is not known.
    #[error("`{0}` is not a unit of time (ns, us, ms, s, m, h, d)")]
    UnitUnknown(String),
    /// No number where one should be.
    #[error("`{0}` is not a number")]
    NumberInvalid(String),
    /// More than 64 bits of nanoseconds (292 years).
    #[error("the duration is too long")]
    TooLong,
}

/// Nanoseconds of a duration such as `1.5s` or `1h30m`.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        if number.is_empty() {
            return Err(DurationError::NumberInvalid(rest.to_owned()));
        }
        let unit_end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        if unit.is_empty() {
            return Err(match next.trim() {
                "" => DurationError::UnitMissing(number.to_owned()),
                other => DurationError::UnitUnknown(other.to_owned()),
            });
        }
        let (_, length) =
            UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| DurationError::UnitUnknown(unit.to_owned()))?;
        let part = scale(number, *length)?;
        total = total.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = next.trim_start();
    }
    i64::try_from(total).map_err(|_| DurationError::TooLong)
}

/// `number` (with an optional fraction) times `length`, exactly for whole numbers.
fn scale(number: &str, length: u64) -> Result<u64, DurationError> {
    let digits = number.replace('_', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    if whole.is_empty() || fraction.contains('.') || (digits.contains('.') && fraction.is_empty()) {
        return Err(DurationError::NumberInvalid(number.to_owned()));
    }
    let whole: u64 = whole.parse().map_err(|_| DurationError::TooLong)?;
    let mut total = whole.checked_mul(length).ok_or(DurationError::TooLong)?;
    // Digits beyond the nanosecond fall away.
    let mut unit = length;
    for digit in fraction.bytes() {
        let value = u64::from(digit - b'0') * unit;
        total = total.checked_add(value / 10).ok_or(DurationError::TooLong)?;
        unit /= 10;
    }
    Ok(total)
}

/// The shortest exact text of a duration: `90_000_000_000` is `90s`, `3_600_000_000_000` is `1h`.
pub fn format_duration(ns: i64) -> String {
    let magnitude = ns.unsigned_abs();
    let sign = if ns < 0 { "-" } else { "" };
    let (name, length) = UNITS
        .iter()
        .rev()
        .find(|(name, length)| *name != "µs" && magnitude >= *length && magnitude.is_multiple_of(*length))
        .unwrap_or(&("s", 1_000_000_000));
    format!("{sign}{}{name}", magnitude / length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        let cases = [
            ("100ms", 100_000_000),
            ("2s", 2_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0.25us", 250),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h 30m", 5_400_000_000_000),
            ("30d", 2_592_000_000_000_000),
            ("0s", 0),
            ("1_000ns", 1_000),
            ("3µs", 3_000),
        ];
        for (text, ns) in cases {
            assert_eq!(parse_duration(text), Ok(ns), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("", "a duration is empty"),
            ("10", "durations need a unit, for example \"10s\""),
            ("10 sec", "`sec` is not a unit of time (ns, us, ms, s, m, h, d)"),
            ("10s5", "durations need a unit, for example \"5s\""),
            ("ten s", "`ten s` is not a number"),
            ("-5s", "`-5s` is not a number"),
            ("1.2.3s", "`1.2.3` is not a number"),
            ("1.s", "`1.` is not a number"),
            ("400000d", "the duration is too long"),
        ];
        for (text, message) in cases {
            let error = parse_duration(text).expect_err(text);
            // "10 sec" has its unit behind a blank; the message must still name it.
            assert_eq!(error.to_string(), message, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_read_back(ns in 0i64..) {
            prop_assert_eq!(parse_duration(&format_duration(ns)), Ok(ns));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn near_misses_never_panic(text in "[0-9._]{0,24}(ns|us|ms|s|m|h|d| )?[0-9._]{0,24}(ns|s|d)?") {
            let _ = parse_duration(&text);
        }
    }
}
