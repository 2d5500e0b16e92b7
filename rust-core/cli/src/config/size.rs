//! Sizes in bytes as people write them: `64KiB`, `1GiB`, `16MB`.

/// Units with their bytes, for reading; formatting uses the binary ones.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A bare number.
    #[error("sizes need a unit, for example \"{0}KiB\"")]
    UnitMissing(String),
    /// A unit that is not known.
    #[error("`{0}` is not a unit of size (B, KB, KiB, MB, MiB, GB, GiB, TB, TiB)")]
    UnitUnknown(String),
    /// No number where one should be.
    #[error("`{0}` is not a size")]
    NumberInvalid(String),
    /// More than 63 bits.
    #[error("the size is too large")]
    TooLarge,
}

/// Bytes of a size such as `64KiB`.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let unit = unit.trim();
    let digits = number.replace('_', "");
    if digits.is_empty() {
        return Err(SizeError::NumberInvalid(text.to_owned()));
    }
    if unit.is_empty() {
        return Err(SizeError::UnitMissing(number.to_owned()));
    }
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(|| SizeError::UnitUnknown(unit.to_owned()))?;
    let bytes = match digits.parse::<u64>() {
        Ok(whole) => whole.checked_mul(*scale).ok_or(SizeError::TooLarge)?,
        Err(_) if digits.contains('.') => {
            let value: f64 = digits.parse().map_err(|_| SizeError::NumberInvalid(number.to_owned()))?;
            let bytes = value * *scale as f64;
            if bytes >= 2f64.powi(63) {
                return Err(SizeError::TooLarge);
            }
            bytes.round() as u64
        }
        Err(_) => return Err(SizeError::TooLarge),
    };
    if bytes > i64::MAX as u64 { Err(SizeError::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_exactly() {
        let cases = [
            ("64KiB", 65_536),
            ("1GiB", 1 << 30),
            ("16MB", 16_000_000),
            ("0B", 0),
            ("1_000 B", 1_000),
            ("1.5MiB", 1_572_864),
            ("10kb", 10_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("64", "sizes need a unit, for example \"64KiB\""),
            ("64 apples", "`apples` is not a unit of size (B, KB, KiB, MB, MiB, GB, GiB, TB, TiB)"),
            ("big", "`big` is not a size"),
            ("1.2.3MB", "`1.2.3` is not a size"),
            ("99999999TiB", "the size is too large"),
            ("99999999999999999999B", "the size is too large"),
        ];
        for (text, message) in cases {
            assert_eq!(parse_size(text).expect_err(text).to_string(), message, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_scale_exactly(number in 0u64..4096, unit in 0usize..9) {
            let (name, scale) = UNITS[unit];
            prop_assert_eq!(parse_size(&format!("{number}{name}")), Ok(number * scale));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_size(&text);
        }
    }
}
