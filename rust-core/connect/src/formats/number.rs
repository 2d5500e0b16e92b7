//! A number of a binary encoding, and how it comes into its column.

use super::column::{Column, Refusal, Row};

/// A value that was read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Datum<'a> {
    Boolean(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f32),
    Double(f64),
    Bytes(&'a [u8]),
}

/// What becomes of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Float32,
    Float64,
    /// times so many
    Timestamp(i64),
}

/// A number as a column holds it.
enum Held {
    Int32(i32),
    Int64(i64),
    Uint32(u32),
    Uint64(u64),
    Float32(f32),
    Float64(f64),
    /// it does not fit
    Beyond,
}

impl Number {
    #[inline]
    fn held(self, datum: Datum<'_>) -> Held {
        match (self, datum) {
            (Number::Int32, Datum::Integer(value)) => i32::try_from(value).map_or(Held::Beyond, Held::Int32),
            (Number::Int64, Datum::Integer(value)) => Held::Int64(value),
            (Number::Int64, Datum::Unsigned(value)) => i64::try_from(value).map_or(Held::Beyond, Held::Int64),
            (Number::Uint32, Datum::Unsigned(value)) => u32::try_from(value).map_or(Held::Beyond, Held::Uint32),
            (Number::Uint64, Datum::Unsigned(value)) => Held::Uint64(value),
            (Number::Timestamp(factor), Datum::Integer(value)) => {
                value.checked_mul(factor).map_or(Held::Beyond, Held::Int64)
            }
            (Number::Timestamp(factor), Datum::Unsigned(value)) => {
                i64::try_from(value).ok().and_then(|value| value.checked_mul(factor)).map_or(Held::Beyond, Held::Int64)
            }
            (Number::Float32, Datum::Integer(value)) => Held::Float32(value as f32),
            (Number::Float32, Datum::Unsigned(value)) => Held::Float32(value as f32),
            (Number::Float32, Datum::Float(value)) => Held::Float32(value),
            (Number::Float64, Datum::Integer(value)) => Held::Float64(value as f64),
            (Number::Float64, Datum::Unsigned(value)) => Held::Float64(value as f64),
            (Number::Float64, Datum::Float(value)) => Held::Float64(value.into()),
            (Number::Float64, Datum::Double(value)) => Held::Float64(value),
            _ => Held::Beyond,
        }
    }

    /// Appends an item of a list, little-endian; `None`: it does not fit.
    #[inline]
    pub fn append(self, datum: Datum<'_>, list: &mut Vec<u8>) -> Option<()> {
        match self.held(datum) {
            Held::Int32(value) => list.extend_from_slice(&value.to_le_bytes()),
            Held::Int64(value) => list.extend_from_slice(&value.to_le_bytes()),
            Held::Uint32(value) => list.extend_from_slice(&value.to_le_bytes()),
            Held::Uint64(value) => list.extend_from_slice(&value.to_le_bytes()),
            Held::Float32(value) => list.extend_from_slice(&value.to_le_bytes()),
            Held::Float64(value) => list.extend_from_slice(&value.to_le_bytes()),
            Held::Beyond => return None,
        }
        Some(())
    }

    /// Moves a value into its column.
    #[inline]
    pub fn put(self, datum: Datum<'_>, column: &Column, row: &mut Row<'_>) -> Result<(), Refusal> {
        match self.held(datum) {
            Held::Int64(value) if matches!(self, Number::Timestamp(_)) => {
                return column.push_timestamp(row, value, itoa::Buffer::new().format(value).as_bytes());
            }
            Held::Int32(value) => row.out.push(column.index, value),
            Held::Int64(value) => row.out.push(column.index, value),
            Held::Uint32(value) => row.out.push(column.index, value),
            Held::Uint64(value) => row.out.push(column.index, value),
            Held::Float32(value) => row.out.push(column.index, value),
            Held::Float64(value) => row.out.push(column.index, value),
            Held::Beyond => return Err(datum.beyond(column, row)),
        }
        Ok(())
    }
}

impl Datum<'_> {
    /// It does not fit into the column.
    #[cold]
    pub fn beyond(self, column: &Column, row: &mut Row<'_>) -> Refusal {
        let got = match self {
            Datum::Integer(value) => value.to_string(),
            Datum::Unsigned(value) => value.to_string(),
            _ => "a value of another type".to_owned(),
        };
        column.out_of_range(row, got.as_bytes())
    }
}
