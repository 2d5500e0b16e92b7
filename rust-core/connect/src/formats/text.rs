//! Values in text, as every format writes them.

use base64::{Engine, engine::general_purpose::STANDARD};
use ringmill_wire::{ColumnView, DataType, ListItem};

use super::{numeric::Numeric, timestamp};

#[inline(always)]
pub(super) fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The shortest decimal that reads back as the same float. `value` is finite.
#[inline(always)]
pub(super) fn write_float(value: impl zmij::Float, out: &mut Vec<u8>) {
    out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
}

pub(super) fn write_base64(value: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + value.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(value, &mut out[from..]);
    out.truncate(from + written.unwrap_or(0));
}

/// What a float that no number stands for is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFinite {
    /// JSON: `null`
    Null,
    /// CSV: `NaN`, `inf`, `-inf`
    Text,
    /// dead letters, which are read back: the same in quotes
    Quoted,
}

impl NotFinite {
    #[cold]
    fn write(self, value: f64, out: &mut Vec<u8>) {
        let text: &[u8] = match value {
            _ if self == NotFinite::Null => b"null",
            _ if value.is_nan() => b"NaN",
            f64::INFINITY => b"inf",
            _ => b"-inf",
        };
        let quote: &[u8] = if self == NotFinite::Quoted { b"\"" } else { b"" };
        [quote, text, quote].into_iter().for_each(|piece| out.extend_from_slice(piece));
    }
}

/// Writes a valid value of a fixed-width type other than timestamps; `false` for the other types.
#[inline(always)]
pub(super) fn write_number(column: &ColumnView<'_>, row: usize, not_finite: NotFinite, out: &mut Vec<u8>) -> bool {
    match column.data_type() {
        DataType::Float64 => {
            let value = column.values::<f64>()[row];
            if value.is_finite() { write_float(value, out) } else { not_finite.write(value, out) }
        }
        DataType::Float32 => {
            let value = column.values::<f32>()[row];
            if value.is_finite() { write_float(value, out) } else { not_finite.write(value.into(), out) }
        }
        DataType::Int64 => write_integer(column.values::<i64>()[row], out),
        DataType::Int32 => write_integer(column.values::<i32>()[row], out),
        DataType::Int16 => write_integer(column.values::<i16>()[row], out),
        DataType::Int8 => write_integer(column.values::<i8>()[row], out),
        DataType::UInt64 => write_integer(column.values::<u64>()[row], out),
        DataType::UInt32 => write_integer(column.values::<u32>()[row], out),
        DataType::UInt16 => write_integer(column.values::<u16>()[row], out),
        DataType::UInt8 => write_integer(column.values::<u8>()[row], out),
        DataType::Bool => {
            let value = column.values::<u8>()[row] != 0;
            out.extend_from_slice(if value { b"true" } else { b"false" });
        }
        DataType::Utf8 | DataType::Binary | DataType::Timestamp(_) | DataType::List(_) => return false,
    }
    true
}

/// Writes the items of a list, separated by commas; timestamps in quotes.
pub(super) fn write_items(item: ListItem, bytes: &[u8], out: &mut Vec<u8>) {
    for number in Numeric::items(item, bytes) {
        match (number, item) {
            (Numeric::Signed(value), ListItem::Timestamp(unit)) => {
                out.push(b'"');
                timestamp::write(value, unit, out);
                out.push(b'"');
            }
            (Numeric::Signed(value), _) => write_integer(value, out),
            (Numeric::Unsigned(value), _) => write_integer(value, out),
            (Numeric::Single(value), _) if value.is_finite() => write_float(value, out),
            (Numeric::Single(value), _) => NotFinite::Null.write(value.into(), out),
            (Numeric::Double(value), _) if value.is_finite() => write_float(value, out),
            (Numeric::Double(value), _) => NotFinite::Null.write(value, out),
        }
        out.push(b',');
    }
    if !bytes.is_empty() {
        out.pop();
    }
}
