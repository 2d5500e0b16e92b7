//! Rows as `COPY … (FORMAT binary)` has them: a count of fields, and each field's length and bytes, big-endian.
//!
//! A uint64 is sent as its eight bytes, since what it becomes depends on the table; [`convert`](super::convert) knows.
//! Everything else is what [`sql_type`] says.

use std::ops::Range;

use ringmill_wire::{BatchView, ColumnView, DataType, ListItem, Schema, TimeUnit};

use super::types::sql_type;
use crate::{ConnectError, Encoder};

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_US: i64 = 946_684_800_000_000;
/// What a timestamp of PostgreSQL holds: from 4714 BC until 294276, in microseconds since 2000.
const TIMES_US: Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// Writes one tuple per row.
pub struct CopyEncoder {
    fields: u16,
}

impl CopyEncoder {
    pub fn new(schema: &Schema) -> CopyEncoder {
        CopyEncoder { fields: schema.len() as u16 }
    }
}

impl Encoder for CopyEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        for (field, column) in view.schema().fields.iter().zip(view.columns()) {
            let Some((row, reason)) = refusal(&column, rows.clone()) else { continue };
            let value = match column.data_type() {
                DataType::Utf8 => format!("{:?}", Excerpt(column.bytes(row))),
                _ => "a time".to_owned(),
            };
            return Err(ConnectError::Value { column: field.name.clone(), value, reason });
        }
        Ok(())
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            out.extend_from_slice(&self.fields.to_be_bytes());
            for column in view.columns() {
                if column.is_valid(row) { put_value(&column, row, out) } else { out.extend_from_slice(&NULL) }
            }
        }
    }
}

/// The first of these rows that no table can take, and why.
fn refusal(column: &ColumnView<'_>, rows: Range<usize>) -> Option<(usize, &'static str)> {
    let has_wrong_time = |row: &usize, unit: TimeUnit| match column.data_type() {
        DataType::List(_) => column.list::<i64>(*row).iter().any(|&time| micros(time, unit).is_none()),
        _ => column.is_valid(*row) && micros(column.values::<i64>()[*row], unit).is_none(),
    };
    match column.data_type() {
        DataType::Utf8 => {
            let offsets = column.offsets();
            let text = &column.value_bytes()[offsets[rows.start] as usize..offsets[rows.end] as usize];
            memchr::memchr(0, text)?;
            let row = rows.clone().find(|&row| memchr::memchr(0, column.bytes(row)).is_some())?;
            Some((row, "PostgreSQL's text cannot hold a NUL character"))
        }
        DataType::Timestamp(unit) | DataType::List(ListItem::Timestamp(unit)) if unit != TimeUnit::Nanosecond => {
            let row = rows.clone().find(|row| has_wrong_time(row, unit))?;
            Some((row, "PostgreSQL's time begins in 4714 BC and ends in 294276"))
        }
        _ => None,
    }
}

/// Microseconds since 2000, if PostgreSQL has that time.
fn micros(value: i64, unit: TimeUnit) -> Option<i64> {
    // Since 2000 first: in microseconds since 1970 the last years do not fit.
    let micros = match unit {
        TimeUnit::Second => value.checked_sub(EPOCH_US / 1_000_000)?.checked_mul(1_000_000)?,
        TimeUnit::Millisecond => value.checked_sub(EPOCH_US / 1_000)?.checked_mul(1_000)?,
        TimeUnit::Microsecond => value.checked_sub(EPOCH_US)?,
        TimeUnit::Nanosecond => value.div_euclid(1_000) - EPOCH_US,
    };
    TIMES_US.contains(&micros).then_some(micros)
}

#[inline(always)]
fn put<const N: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(&(N as i32).to_be_bytes());
    out.extend_from_slice(&bytes);
}

#[inline(always)]
fn put_value(column: &ColumnView<'_>, row: usize, out: &mut Vec<u8>) {
    match column.data_type() {
        DataType::Bool => put([column.values::<u8>()[row]], out),
        DataType::Int8 => put(i16::from(column.values::<i8>()[row]).to_be_bytes(), out),
        DataType::UInt8 => put(i16::from(column.values::<u8>()[row]).to_be_bytes(), out),
        DataType::Int16 => put(column.values::<i16>()[row].to_be_bytes(), out),
        DataType::UInt16 => put(i32::from(column.values::<u16>()[row]).to_be_bytes(), out),
        DataType::Int32 => put(column.values::<i32>()[row].to_be_bytes(), out),
        DataType::UInt32 => put(i64::from(column.values::<u32>()[row]).to_be_bytes(), out),
        DataType::Int64 => put(column.values::<i64>()[row].to_be_bytes(), out),
        DataType::UInt64 => put(column.values::<u64>()[row].to_be_bytes(), out),
        DataType::Float32 => put(column.values::<f32>()[row].to_be_bytes(), out),
        DataType::Float64 => put(column.values::<f64>()[row].to_be_bytes(), out),
        DataType::Timestamp(unit) => put(time(column.values::<i64>()[row], unit), out),
        DataType::Utf8 | DataType::Binary => {
            let bytes = column.bytes(row);
            out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        DataType::List(item) => put_list(column, item, row, out),
    }
}

/// A time that was [checked](Encoder::check).
fn time(value: i64, unit: TimeUnit) -> [u8; 8] {
    micros(value, unit).unwrap_or_default().to_be_bytes()
}

/// An array of one dimension: length, dimensions, nulls, type; its extent and lower bound; the items.
fn put_list(column: &ColumnView<'_>, item: ListItem, row: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let count = column.bytes(row).len() / item.data_type().width().unwrap_or(1);
    let dimensions = u32::from(count > 0);
    for word in [dimensions, 0, sql_type(item.data_type()).oid] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    if count > 0 {
        out.extend_from_slice(&(count as u32).to_be_bytes());
        out.extend_from_slice(&1_u32.to_be_bytes());
    }
    match item {
        ListItem::Int8 => column.list::<i8>(row).iter().for_each(|&x| put(i16::from(x).to_be_bytes(), out)),
        ListItem::UInt8 => column.list::<u8>(row).iter().for_each(|&x| put(i16::from(x).to_be_bytes(), out)),
        ListItem::Int16 => column.list::<i16>(row).iter().for_each(|x| put(x.to_be_bytes(), out)),
        ListItem::UInt16 => column.list::<u16>(row).iter().for_each(|&x| put(i32::from(x).to_be_bytes(), out)),
        ListItem::Int32 => column.list::<i32>(row).iter().for_each(|x| put(x.to_be_bytes(), out)),
        ListItem::UInt32 => column.list::<u32>(row).iter().for_each(|&x| put(i64::from(x).to_be_bytes(), out)),
        ListItem::Int64 => column.list::<i64>(row).iter().for_each(|x| put(x.to_be_bytes(), out)),
        ListItem::UInt64 => column.list::<u64>(row).iter().for_each(|&x| put_numeric(x, false, out)),
        ListItem::Float32 => column.list::<f32>(row).iter().for_each(|x| put(x.to_be_bytes(), out)),
        ListItem::Float64 => column.list::<f64>(row).iter().for_each(|x| put(x.to_be_bytes(), out)),
        ListItem::Timestamp(unit) => column.list::<i64>(row).iter().for_each(|&x| put(time(x, unit), out)),
    }
    let length = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A numeric, with its length: count of digits, weight of the first, sign, digits behind the point; the digits, each of
/// them 0 to 9999.
pub fn put_numeric(magnitude: u64, is_negative: bool, out: &mut Vec<u8>) {
    let mut digits = [0_u16; 5];
    let (mut rest, mut first) = (magnitude, digits.len());
    while rest > 0 {
        first -= 1;
        digits[first] = (rest % 10_000) as u16;
        rest /= 10_000;
    }
    let digits = &digits[first..];
    out.extend_from_slice(&(8 + 2 * digits.len() as i32).to_be_bytes());
    let sign = if is_negative { 0x4000 } else { 0 };
    for word in [digits.len() as u16, (digits.len() as u16).saturating_sub(1), sign, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    digits.iter().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
}

/// The beginning of a text that is refused.
struct Excerpt<'a>(&'a [u8]);

impl std::fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.0[..self.0.len().min(64)]);
        write!(f, "{text:?}{}", if self.0.len() > 64 { "…" } else { "" })
    }
}
