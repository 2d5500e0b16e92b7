//! Timestamps in text: RFC 3339.
//!
//! The common fixed form (`2026-01-31T12:34:56.789Z`, any number of fraction digits up to nine, `Z` or an offset) is
//! read and written by hand; every other spelling goes to `jiff`. Digits finer than the unit are dropped (rounded
//! down). Years outside 0000–9999, which RFC 3339 cannot write, get ISO 8601's sign and at least six digits.

use ringmill_wire::TimeUnit;

/// Why a text is not a timestamp of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// it is not RFC 3339
    Syntax,
    /// the unit cannot count that far
    Range,
}

/// Units per second.
fn per_second(unit: TimeUnit) -> i64 {
    1_000_000_000 / unit.nanoseconds()
}

/// Reads RFC 3339 text as `unit`s since 1970.
pub(super) fn parse(text: &[u8], unit: TimeUnit) -> Result<i64, Refused> {
    let (seconds, nanoseconds) = match parse_fixed(text) {
        Some(parts) => parts,
        None => parse_any(text).ok_or(Refused::Syntax)?,
    };
    let scale = per_second(unit);
    let fraction = i64::from(nanoseconds) / unit.nanoseconds();
    // Near i64::MIN nanoseconds the whole seconds alone would overflow although the sum fits.
    let value = i128::from(seconds) * i128::from(scale) + i128::from(fraction);
    i64::try_from(value).map_err(|_| Refused::Range)
}

/// The common form, or `None` for anything else, also if it is wrong.
#[inline]
fn parse_fixed(text: &[u8]) -> Option<(i64, u32)> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let shape_holds = date_time[4] == b'-'
        && date_time[7] == b'-'
        && date_time[10] == b'T'
        && date_time[13] == b':'
        && date_time[16] == b':';
    if !shape_holds {
        return None;
    }
    let year = pair(date_time, 0)? * 100 + pair(date_time, 2)?;
    let (month, day) = (pair(date_time, 5)?, pair(date_time, 8)?);
    let (hour, minute, second) = (pair(date_time, 11)?, pair(date_time, 14)?, pair(date_time, 17)?);
    let month_holds = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !month_holds || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanoseconds, zone) = parse_fraction(rest)?;
    let offset_s = match zone {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), b0, b1, b':', b3, b4] => {
            let (hours, minutes) = (pair(&[*b0, *b1], 0)?, pair(&[*b3, *b4], 0)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset_s = i64::from(hours * 3600 + minutes * 60);
            if *sign == b'+' { offset_s } else { -offset_s }
        }
        _ => return None,
    };
    let of_day = i64::from(hour * 3600 + minute * 60 + second);
    let days = days_from_civil(i64::from(year), month, day);
    Some((days * 86_400 + of_day - offset_s, nanoseconds))
}

/// `.123` and so on: nanoseconds, and what follows.
#[inline]
fn parse_fraction(rest: &[u8]) -> Option<(u32, &[u8])> {
    const SCALE: [u32; 10] = [1_000_000_000, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    let Some((b'.', digits)) = rest.split_first() else {
        return Some((0, rest));
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return None;
    }
    let (digits, zone) = digits.split_at(count);
    let value = digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some((value * SCALE[count], zone))
}

#[cold]
fn parse_any(text: &[u8]) -> Option<(i64, u32)> {
    let timestamp: jiff::Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    let (mut seconds, mut nanoseconds) = (timestamp.as_second(), timestamp.subsec_nanosecond());
    if nanoseconds < 0 {
        seconds -= 1;
        nanoseconds += 1_000_000_000;
    }
    Some((seconds, nanoseconds as u32))
}

#[inline(always)]
fn pair(text: &[u8], at: usize) -> Option<u32> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| u32::from(tens) * 10 + u32::from(ones))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a date (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a day since 1970 (Hinnant).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097) as u32;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = i64::from(year_of_era) + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Appends a timestamp in UTC, with exactly the unit's digits.
pub fn write(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    // Divisors that are known when this is compiled are multiplied by.
    match unit {
        TimeUnit::Second => write_with_digits::<0>(value, out),
        TimeUnit::Millisecond => write_with_digits::<3>(value, out),
        TimeUnit::Microsecond => write_with_digits::<6>(value, out),
        TimeUnit::Nanosecond => write_with_digits::<9>(value, out),
    }
}

#[inline(always)]
fn write_with_digits<const DIGITS: usize>(value: i64, out: &mut Vec<u8>) {
    let scale = const { 10_i64.pow(DIGITS as u32) };
    let (seconds, fraction) = (value.div_euclid(scale), value.rem_euclid(scale) as u32);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut length = 19;
    put_pair(&mut text, 5, month);
    put_pair(&mut text, 8, day);
    put_pair(&mut text, 11, of_day / 3600);
    put_pair(&mut text, 14, of_day / 60 % 60);
    put_pair(&mut text, 17, of_day % 60);
    if DIGITS > 0 {
        let mut rest = fraction;
        for digit in text[20..20 + DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        length = 20 + DIGITS;
    }
    text[length] = b'Z';
    if (0..=9_999).contains(&year) {
        put_pair(&mut text, 0, year as u32 / 100);
        put_pair(&mut text, 2, year as u32 % 100);
        out.extend_from_slice(&text[..=length]);
    } else {
        write_far_year(year, out);
        out.extend_from_slice(&text[4..=length]);
    }
}

#[cold]
fn write_far_year(year: i64, out: &mut Vec<u8>) {
    use std::io::Write;
    let sign = if year < 0 { '-' } else { '+' };
    write!(out, "{sign}{:06}", year.unsigned_abs()).expect("a vector takes everything");
}

#[inline(always)]
fn put_pair(text: &mut [u8], at: usize, value: u32) {
    text[at] = b'0' + (value / 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_3339_is_read_as_jiff_reads_it() {
        let check = |text: &str, expect: Result<i64, Refused>| {
            assert_eq!(parse(text.as_bytes(), TimeUnit::Millisecond), expect, "{text}");
        };
        check("1970-01-01T00:00:00Z", Ok(0));
        check("2024-02-29T23:59:59.999Z", Ok(1_709_251_199_999));
        check("2024-02-29T23:59:59.9999999Z", Ok(1_709_251_199_999));
        check("1969-12-31T23:59:59.9999Z", Ok(-1));
        check("2024-03-01T01:00:00+01:00", Ok(1_709_251_200_000));
        check("2024-03-01T01:00:00.5-00:30", Ok(1_709_256_600_500));
        check("2024-03-01t01:00:00z", Ok(1_709_254_800_000));
        check("2024-03-01 01:00:00Z", Ok(1_709_254_800_000));
        check("0000-01-01T00:00:00Z", Ok(-62_167_219_200_000));
        check("9999-12-31T22:00:00Z", Ok(253_402_293_600_000));
        check("2023-02-29T00:00:00Z", Err(Refused::Syntax));
        check("2024-13-01T00:00:00Z", Err(Refused::Syntax));
        check("2024-01-01T24:00:00Z", Err(Refused::Syntax));
        check("2024-01-01T00:60:00Z", Err(Refused::Syntax));
        check("2024-01-01T00:00:00", Err(Refused::Syntax));
        check("2024-01-01T00:00:00.Z", Err(Refused::Syntax));
        check("2024-01-01", Err(Refused::Syntax));
        check("", Err(Refused::Syntax));
        check("yesterday", Err(Refused::Syntax));
        check("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", Err(Refused::Syntax));
        assert_eq!(parse(b"2300-01-01T00:00:00Z", TimeUnit::Nanosecond), Err(Refused::Range));
        assert_eq!(parse(b"1677-09-21T00:12:43.145224192Z", TimeUnit::Nanosecond), Ok(i64::MIN));
    }

    #[test]
    fn years_that_rfc_3339_cannot_write_have_a_sign() {
        let check = |value, expect: &str| {
            let mut out = Vec::new();
            write(value, TimeUnit::Second, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        };
        check(253_402_300_800, "+010000-01-01T00:00:00Z");
        check(-62_167_219_201, "-000001-12-31T23:59:59Z");
        check(i64::MAX, "+292277026596-12-04T15:30:07Z");
        check(i64::MIN, "-292277022657-01-27T08:29:52Z");
    }

    proptest! {
        #[test]
        fn writing_agrees_with_jiff(seconds in -62_135_596_800i64..253_402_200_000, ns in 0i32..1_000_000_000) {
            for unit in TimeUnit::ALL {
                let scale = per_second(unit);
                let Ok(value) = i64::try_from(i128::from(seconds) * i128::from(scale)
                    + i128::from(ns) / i128::from(1_000_000_000 / scale)) else { continue };
                let mut out = Vec::new();
                write(value, unit, &mut out);
                prop_assert_eq!(parse(&out, unit), Ok(value));
                let text = String::from_utf8(out).unwrap();
                let theirs: jiff::Timestamp = text.parse().unwrap();
                let fraction = i64::from(ns) / (1_000_000_000 / scale) * (1_000_000_000 / scale);
                let ours = i128::from(seconds) * 1_000_000_000 + i128::from(fraction);
                prop_assert_eq!(theirs.as_nanosecond(), ours, "{}", text);
            }
        }

        #[test]
        fn both_readers_agree(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[012][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][01][0-9]:[0-5][0-9])") {
            if let Some(ours) = parse_fixed(text.as_bytes()) {
                // jiff stops a day short of the year 10000 and of the year -9999.
                if let Some(theirs) = parse_any(text.as_bytes()) {
                    prop_assert_eq!(ours, theirs);
                } else {
                    prop_assert!(text.starts_with("9999-12-3"));
                }
            } else {
                prop_assert_eq!(parse_any(text.as_bytes()), None);
            }
        }

        #[test]
        fn garbage_is_refused_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&text, TimeUnit::Millisecond);
        }
    }
}
