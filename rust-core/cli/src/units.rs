//! Numbers as people read them: `8.21 M`, `1.42 ms`, `96.5 MiB`, `00:01:12`.

use std::time::Duration;

/// Three significant digits with a decimal prefix: `999`, `1.23 k`, `8.21 M`.
pub fn scaled(value: f64) -> String {
    with_prefix(value, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

/// Rows a second: `8.21 M rows/s`.
pub fn rate(per_second: f64) -> String {
    format!("{} rows/s", scaled(per_second))
}

/// Bytes with a binary prefix: `96.5 MiB`.
pub fn bytes(value: u64) -> String {
    with_prefix(value as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A latency: `344 ns`, `1.42 ms`, `2.00 s`.
pub fn latency(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", three_digits(ns as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", three_digits(ns as f64 / 1e6)),
        _ => format!("{} s", three_digits(ns as f64 / 1e9)),
    }
}

/// A whole number with thousands set apart: `1,234,567`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time span in its largest unit, cut off: `3 s`, `12 min`, `5 h`, `40 days`.
pub fn age(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Hours, minutes, seconds: `00:01:12`.
pub fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn with_prefix(value: f64, base: f64, prefixes: &[&str]) -> String {
    let mut value = value;
    let mut index = 0;
    // 999.5 would be shown as 1000.
    while value >= base - 0.5 && index + 1 < prefixes.len() {
        value /= base;
        index += 1;
    }
    let number = if index == 0 && value.fract() == 0.0 { format!("{value}") } else { three_digits(value) };
    if prefixes[index].is_empty() { number } else { format!("{number} {}", prefixes[index]) }
}

fn three_digits(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_carry_their_unit() {
        let cases = [
            (rate(0.0), "0 rows/s"),
            (rate(12.0), "12 rows/s"),
            (rate(1_234.0), "1.23 k rows/s"),
            (rate(8_214_000.0), "8.21 M rows/s"),
            (rate(999_900.0), "1.00 M rows/s"),
            (bytes(0), "0 B"),
            (bytes(65_536), "64.0 KiB"),
            (bytes(101_187_584), "96.5 MiB"),
            (latency(344), "344 ns"),
            (latency(1_420), "1.42 µs"),
            (latency(99_990_000), "100 ms"),
            (latency(2_000_000_000), "2.00 s"),
            (grouped(0), "0"),
            (grouped(999), "999"),
            (grouped(1_234_567), "1,234,567"),
            (clock(Duration::from_secs(3_672)), "01:01:12"),
            (age(Duration::from_millis(59_900)), "59 s"),
            (age(Duration::from_secs(3_599)), "59 min"),
            (age(Duration::from_secs(90_000)), "25 h"),
            (age(Duration::from_secs(200_000)), "2 days"),
        ];
        for (text, expected) in cases {
            assert_eq!(text, expected);
        }
    }
}
