//! Decimals: an unscaled integer, big-endian in two's complement, and how many of its digits stand behind the point.

/// Decimals with more digits are refused.
pub(super) const DIGITS_MAX: u32 = 38;

/// In digits, with `scale` of them behind the point; `None`: there are too many.
pub(super) fn text(unscaled: &[u8], scale: u32) -> Option<String> {
    let sign = if unscaled.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let significant = unscaled.iter().position(|byte| *byte != sign).map_or(&[][..], |first| &unscaled[first..]);
    let mut bytes = [sign; size_of::<i128>()];
    let from = bytes.len().checked_sub(significant.len())?;
    bytes[from..].copy_from_slice(significant);
    let value = i128::from_be_bytes(bytes);
    // With all bits in use the sign is not to be seen any more.
    if (value < 0) != (sign != 0) {
        return None;
    }
    let mut digits = value.unsigned_abs().to_string();
    if digits.len() > DIGITS_MAX as usize {
        return None;
    }
    let scale = scale as usize;
    if scale > 0 {
        if digits.len() <= scale {
            digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
        }
        digits.insert(digits.len() - scale, '.');
    }
    if value < 0 {
        digits.insert(0, '-');
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn decimals_are_written_exactly() {
        let max = 10_i128.pow(38) - 1;
        let cases: [(&[u8], u32, Option<&str>); 12] = [
            (b"", 0, Some("0")),
            (b"", 2, Some("0.00")),
            (b"\x00", 3, Some("0.000")),
            (b"\x01", 3, Some("0.001")),
            (b"\xff", 3, Some("-0.001")),
            (b"\x04\xd2", 2, Some("12.34")),
            (b"\xfb\x2e", 2, Some("-12.34")),
            (b"\x00\x00\x80", 0, Some("128")),
            (b"\x80", 0, Some("-128")),
            (&max.to_be_bytes(), 38, Some("0.99999999999999999999999999999999999999")),
            (&(max + 1).to_be_bytes(), 0, None),
            (&[0x7f; 17], 0, None),
        ];
        for (unscaled, scale, expected) in cases {
            assert_eq!(text(unscaled, scale).as_deref(), expected, "{unscaled:?}");
        }
        let wide = [vec![0; 100], vec![1]].concat();
        assert_eq!(text(&wide, 0).as_deref(), Some("1"), "bytes that only repeat the sign say nothing");
        assert_eq!(text(&[[0].as_slice(), &[0xff; 16]].concat(), 0), None);
    }
}
