//! One declared field: how a value comes into its column, and what is said when it does not fit.

use std::{fmt::Write, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ringmill_wire::{BatchWriter, DataType, TimeUnit};
use sonic_number::ParserNumber;

use super::timestamp;
use crate::FieldSpec;

/// Why a value did not come into its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// the batch has no room left for it
    Full,
    /// it does not fit; [`Row::reason`] says why
    Misfit,
}

/// The row being written.
pub(crate) struct Row<'a> {
    pub out: &'a mut BatchWriter,
    /// what is wrong with the record
    pub reason: &'a mut String,
    /// index of the event-time column, or `usize::MAX`
    pub event_column: usize,
    /// latest event time that is believed, in the column's unit
    pub event_max: i64,
    /// decoded base64
    pub binary: &'a mut Vec<u8>,
}

/// A declared field.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub index: usize,
    pub name: String,
    pub data_type: DataType,
    pub nullable: bool,
}

/// At most so many bytes of a value are repeated in a reason.
const GOT_BYTES_MAX: usize = 64;

impl Column {
    pub fn new(index: usize, field: &FieldSpec) -> Column {
        Column { index, name: field.name.clone(), data_type: field.data_type, nullable: field.nullable }
    }

    /// A null, if the column takes one; `state` is "missing" or "null".
    #[inline]
    pub fn push_null(&self, row: &mut Row<'_>, state: &str) -> Result<(), Refusal> {
        if self.nullable && self.index != row.event_column {
            row.out.push_null(self.index);
            return Ok(());
        }
        row.reason.clear();
        let _ = write!(row.reason, "field {:?} is {state}", self.name);
        if self.nullable {
            row.reason.push_str(", but it is the event time");
        }
        Err(Refusal::Misfit)
    }

    #[inline]
    pub fn push_bytes(&self, row: &mut Row<'_>, value: &[u8]) -> Result<(), Refusal> {
        row.out.push_bytes(self.index, value).map_err(|_| Refusal::Full)
    }

    /// Bytes that have to be text.
    #[inline]
    pub fn push_utf8(&self, row: &mut Row<'_>, text: &[u8]) -> Result<(), Refusal> {
        match std::str::from_utf8(text) {
            Ok(_) => self.push_bytes(row, text),
            Err(_) => Err(self.misfit(row, text, " (not valid UTF-8)")),
        }
    }

    /// Base64 (RFC 4648, with padding). `got` is the value as it was written.
    pub fn push_base64(&self, row: &mut Row<'_>, text: &[u8], got: &[u8]) -> Result<(), Refusal> {
        row.binary.clear();
        if STANDARD.decode_vec(text, row.binary).is_err() {
            return Err(self.misfit(row, got, " (binary is written in base64)"));
        }
        row.out.push_bytes(self.index, row.binary).map_err(|_| Refusal::Full)
    }

    #[inline]
    pub fn push_timestamp(&self, row: &mut Row<'_>, value: i64, got: &[u8]) -> Result<(), Refusal> {
        if self.index == row.event_column && value > row.event_max {
            return Err(self.misfit(row, got, ", which lies too far in the future"));
        }
        row.out.push_timestamp(self.index, value);
        Ok(())
    }

    /// RFC 3339. `got` is the value as it was written.
    #[inline]
    pub fn push_timestamp_text(
        &self,
        row: &mut Row<'_>,
        text: &[u8],
        got: &[u8],
        unit: TimeUnit,
    ) -> Result<(), Refusal> {
        match timestamp::parse(text, unit) {
            Ok(value) => self.push_timestamp(row, value, got),
            Err(timestamp::Refused::Syntax) => Err(self.misfit(row, got, " (neither RFC 3339 nor an integer)")),
            Err(timestamp::Refused::Range) => Err(self.out_of_range(row, got)),
        }
    }

    #[cold]
    pub fn out_of_range(&self, row: &mut Row<'_>, got: &[u8]) -> Refusal {
        self.misfit(row, got, " (out of range)")
    }

    /// Says what was expected and what was there.
    #[cold]
    pub fn misfit(&self, row: &mut Row<'_>, got: &[u8], note: &str) -> Refusal {
        row.reason.clear();
        let _ = write!(row.reason, "field {:?}: expected {}, got {}{note}", self.name, self.data_type, Excerpt(got));
        Refusal::Misfit
    }
}

/// The beginning of some bytes, as text.
pub(super) struct Excerpt<'a>(pub &'a [u8]);

impl std::fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut = &self.0[..self.0.len().min(GOT_BYTES_MAX)];
        for chunk in cut.utf8_chunks() {
            f.write_str(chunk.valid())?;
            // A character that the cut runs through is not an invalid one.
            let is_cut = cut.len() < self.0.len() && chunk.invalid().as_ptr_range().end == cut.as_ptr_range().end;
            if !chunk.invalid().is_empty() && !is_cut {
                f.write_char('\u{fffd}')?;
            }
        }
        if cut.len() < self.0.len() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

impl Column {
    /// A value of a text format without types: CSV. Empty is null, or empty text.
    #[inline]
    pub fn push_text(&self, row: &mut Row<'_>, text: &[u8]) -> Result<(), Refusal> {
        macro_rules! parse {
            ($type:ty) => {
                match integer::<$type>(text) {
                    Some(value) => {
                        row.out.push(self.index, value);
                        Ok(())
                    }
                    None => Err(self.refuse_number(row, text)),
                }
            };
        }
        if text.is_empty() && (self.nullable || !self.data_type.is_variable()) {
            return self.push_null(row, "empty");
        }
        match self.data_type {
            DataType::Utf8 if text.is_ascii() || std::str::from_utf8(text).is_ok() => self.push_bytes(row, text),
            DataType::Utf8 => Err(self.misfit(row, text, " (not valid UTF-8)")),
            DataType::Float64 => match double(text) {
                Some(value) if value.is_finite() || !has_digit(text) => {
                    row.out.push(self.index, value);
                    Ok(())
                }
                _ => Err(self.refuse_number(row, text)),
            },
            DataType::Float32 => match trimmed(text).and_then(|text| text.parse::<f32>().ok()) {
                Some(value) if value.is_finite() || !has_digit(text) => {
                    row.out.push(self.index, value);
                    Ok(())
                }
                _ => Err(self.refuse_number(row, text)),
            },
            DataType::Int64 => parse!(i64),
            DataType::Int32 => parse!(i32),
            DataType::Int16 => parse!(i16),
            DataType::Int8 => parse!(i8),
            DataType::UInt64 => parse!(u64),
            DataType::UInt32 => parse!(u32),
            DataType::UInt16 => parse!(u16),
            DataType::UInt8 => parse!(u8),
            DataType::Bool => match trimmed(text) {
                Some(text) if text.eq_ignore_ascii_case("true") || text == "1" => {
                    row.out.push(self.index, true);
                    Ok(())
                }
                Some(text) if text.eq_ignore_ascii_case("false") || text == "0" => {
                    row.out.push(self.index, false);
                    Ok(())
                }
                _ => Err(self.misfit(row, text, "")),
            },
            DataType::Timestamp(unit) => match integer(text) {
                Some(value) => self.push_timestamp(row, value, text),
                None => match trimmed(text) {
                    Some(whole) => self.push_timestamp_text(row, whole.as_bytes(), text, unit),
                    None => Err(self.misfit(row, text, "")),
                },
            },
            DataType::Binary => self.push_base64(row, text, text),
            DataType::List(_) => Err(self.misfit(row, text, " (csv carries no lists)")),
        }
    }

    #[cold]
    fn refuse_number(&self, row: &mut Row<'_>, text: &[u8]) -> Refusal {
        let is_float = matches!(self.data_type, DataType::Float32 | DataType::Float64);
        let beyond = match trimmed(text) {
            Some(text) if is_float => text.parse::<f64>().is_ok(),
            Some(text) => {
                let digits = text.trim_start_matches(['-', '+']);
                !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
            }
            None => false,
        };
        if beyond { self.out_of_range(row, text) } else { self.misfit(row, text, "") }
    }
}

/// An integer, spaces around it.
#[inline(always)]
fn integer<T: TryFrom<i64> + TryFrom<u64> + FromStr>(text: &[u8]) -> Option<T> {
    match plain_number(text) {
        Some(ParserNumber::Unsigned(value)) => T::try_from(value).ok(),
        Some(ParserNumber::Signed(value)) => T::try_from(value).ok(),
        _ => trimmed(text)?.parse().ok(),
    }
}

/// A double, spaces around it; infinite where it is beyond the largest.
#[inline(always)]
fn double(text: &[u8]) -> Option<f64> {
    match plain_number(text) {
        Some(ParserNumber::Unsigned(value)) => Some(value as f64),
        Some(ParserNumber::Signed(value)) => Some(value as f64),
        Some(ParserNumber::Float(value)) => Some(signed_zero(value, text[0] == b'-')),
        None => trimmed(text)?.parse().ok(),
    }
}

/// A number as JSON writes them, and most are written, which sonic-number reads in less time than [`str::parse`].
fn plain_number(text: &[u8]) -> Option<ParserNumber> {
    let negative = text.first() == Some(&b'-');
    let mut end = usize::from(negative);
    let number = sonic_number::parse_number(text, &mut end, negative).ok()?;
    (end == text.len()).then_some(number)
}

/// sonic-number drops the sign of zero.
#[inline(always)]
pub(super) fn signed_zero(value: f64, negative: bool) -> f64 {
    if value == 0.0 && negative { -0.0 } else { value }
}

/// Spaces around a number, a bool or a timestamp say nothing.
#[inline]
fn trimmed(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text.trim_ascii()).ok()
}

fn has_digit(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|value| value.to_string()),
            any::<u64>().prop_map(|value| value.to_string()),
            any::<i16>().prop_map(|value| value.to_string()),
            any::<u64>().prop_map(|bits| f64::from_bits(bits).to_string()),
            any::<u64>().prop_map(|bits| format!("{:e}", f64::from_bits(bits))),
            "-?[0-9]{1,5}\\.[0-9]{1,6}",
            "-?[0-9]{1,25}(\\.[0-9]{0,30})?([eE][-+]?[0-9]{1,3})?",
            "-?0{0,20}[0-9]{0,3}(\\.0{0,20}[0-9]{0,3})?",
            "(-?92233720368547758|1844674407370955161)[0-9]{1,3}",
            "[-+0-9.eE ]{0,24}",
            " ?[-+]?(inf|NaN|nan|infinity|[0-9]{1,4}) ?",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn numbers_are_those_that_the_standard_library_reads(text in number()) {
            macro_rules! check {
                ($($type:ty),*) => {
                    $(prop_assert_eq!(integer(text.as_bytes()), text.trim_ascii().parse::<$type>().ok(), "{}", text);)*
                };
            }
            check!(i8, i16, i32, i64, u8, u16, u32, u64);
            let expected = text.trim_ascii().parse::<f64>().ok();
            prop_assert_eq!(double(text.as_bytes()).map(f64::to_bits), expected.map(f64::to_bits), "{}", text);
        }
    }
}
