//! One value of a column: how it stands in a message that is written.
//!
//! The counterpart of [`value`](super::value): what can be written is read back as it was. Numbers may become wider.

use std::sync::Arc;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind};
use ringmill_wire::{ColumnView, DataType, ListItem, TimeUnit};

use super::value::{SECOND_NS, Scalar, TIMESTAMP_SECONDS, is_time};
use crate::formats::{
    binary::{write_varint, zigzag},
    numeric::Numeric,
};

/// How the values of a column are written.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// a number or a bool
    Scalar(Scalar),
    /// text or bytes
    Bytes,
    /// the number of an enum's name; the names are in order
    Symbol(Arc<[(Box<str>, i32)]>),
    /// a `google.protobuf.Timestamp`
    Timestamp(TimeUnit),
    /// a `google.protobuf.Duration` of nanoseconds
    Duration,
    /// a repeated field, its items in one packed value or each with its key
    Items { item: ListItem, scalar: Scalar, is_packed: bool },
}

impl Form {
    /// How the values of such a column come into this field; `None`: not at all.
    pub fn of(column: DataType, field: &FieldDescriptor) -> Option<Form> {
        use DataType as T;
        let kind = field.kind();
        if field.is_map() || field.is_group() {
            return None;
        }
        if field.is_list() {
            let T::List(item) = column else { return None };
            let scalar = scalar(item.data_type(), &kind)?;
            return Some(Form::Items { item, scalar, is_packed: field.is_packed() });
        }
        Some(match (column, &kind) {
            (T::Utf8, Kind::String | Kind::Bytes) | (T::Binary, Kind::Bytes) => Form::Bytes,
            (T::Utf8, Kind::Enum(symbols)) => Form::Symbol(numbers(symbols)),
            (T::Timestamp(unit), Kind::Message(message)) if is_time(message, "google.protobuf.Timestamp") => {
                Form::Timestamp(unit)
            }
            (T::Int64, Kind::Message(message)) if is_time(message, "google.protobuf.Duration") => Form::Duration,
            _ => Form::Scalar(scalar(column, &kind)?),
        })
    }

    /// Whether a value may be one that cannot be written.
    pub fn may_refuse(&self) -> bool {
        match self {
            Form::Symbol(_) => true,
            Form::Timestamp(unit) => *unit != TimeUnit::Nanosecond,
            Form::Scalar(_) | Form::Bytes | Form::Duration | Form::Items { .. } => false,
        }
    }

    /// The value of a row that cannot be written, for people, and why.
    pub fn refusal(&self, column: &ColumnView<'_>, row: usize) -> Option<(String, &'static str)> {
        match self {
            Form::Symbol(names) => {
                let name = column.bytes(row);
                let is_unknown = number_of(names, name).is_none();
                is_unknown.then(|| (String::from_utf8_lossy(name).into_owned(), "the enum has no such name"))
            }
            Form::Timestamp(unit) => {
                let value = column.values::<i64>()[row];
                let is_beyond = !TIMESTAMP_SECONDS.contains(&parts(value, *unit).0);
                let reason = "a google.protobuf.Timestamp lies between the years 1 and 9999";
                is_beyond.then(|| (format!("{value} ({})", column.data_type()), reason))
            }
            _ => None,
        }
    }

    /// Appends the value of a row behind the key of its field. One that is zero is left out where `leaves_out_zero`.
    pub fn write(&self, key: u32, leaves_out_zero: bool, column: &ColumnView<'_>, row: usize, out: &mut Vec<u8>) {
        let key = u64::from(key);
        match self {
            Form::Scalar(scalar) => write_scalar(key, leaves_out_zero, scalar.bits(number(column, row)), *scalar, out),
            Form::Symbol(names) => {
                let number = number_of(names, column.bytes(row)).unwrap_or_default();
                write_scalar(key, leaves_out_zero, i64::from(number) as u64, Scalar::Int32, out);
            }
            Form::Bytes => {
                let bytes = column.bytes(row);
                if !(leaves_out_zero && bytes.is_empty()) {
                    write_varint(key, out);
                    write_varint(bytes.len() as u64, out);
                    out.extend_from_slice(bytes);
                }
            }
            Form::Timestamp(unit) => write_time(key, parts(column.values::<i64>()[row], *unit), out),
            // Both parts have its sign.
            Form::Duration => {
                let value = column.values::<i64>()[row];
                write_time(key, (value / SECOND_NS, value % SECOND_NS), out);
            }
            Form::Items { item, scalar, is_packed } => {
                let items = Numeric::items(*item, column.bytes(row)).map(|item| scalar.bits(item));
                if !is_packed {
                    items.for_each(|bits| write_scalar(key, false, bits, *scalar, out));
                } else if !column.bytes(row).is_empty() {
                    write_varint(key, out);
                    write_delimited(out, |out| items.for_each(|bits| scalar.write(bits, out)));
                }
            }
        }
    }
}

/// As what a number or bool stands in a field of this kind, if it can.
fn scalar(column: DataType, kind: &Kind) -> Option<Scalar> {
    use DataType as T;
    let is_small = matches!(column, T::Int8 | T::Int16 | T::UInt8 | T::UInt16);
    let is_unsigned = matches!(column, T::UInt8 | T::UInt16 | T::UInt32);
    let is_held = match kind {
        Kind::Bool => column == T::Bool,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Enum(_) => is_small || column == T::Int32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            // Instants in the column's unit.
            is_small || matches!(column, T::Int32 | T::Int64 | T::UInt32 | T::Timestamp(_))
        }
        Kind::Uint32 | Kind::Fixed32 => is_unsigned,
        Kind::Uint64 | Kind::Fixed64 => is_unsigned || column == T::UInt64,
        Kind::Float => column == T::Float32,
        Kind::Double => matches!(column, T::Float32 | T::Float64),
        Kind::String | Kind::Bytes | Kind::Message(_) => false,
    };
    if is_held { Scalar::of(kind) } else { None }
}

/// The numbers of an enum by their names.
fn numbers(symbols: &EnumDescriptor) -> Arc<[(Box<str>, i32)]> {
    let mut numbers: Vec<(Box<str>, i32)> =
        symbols.values().map(|value| (value.name().into(), value.number())).collect();
    numbers.sort();
    numbers.into()
}

fn number_of(names: &[(Box<str>, i32)], name: &[u8]) -> Option<i32> {
    let place = names.binary_search_by(|(own, _)| own.as_bytes().cmp(name));
    place.ok().map(|place| names[place].1)
}

/// Seconds, and nanoseconds that are not negative.
fn parts(value: i64, unit: TimeUnit) -> (i64, i64) {
    let per_second = SECOND_NS / unit.nanoseconds();
    (value.div_euclid(per_second), value.rem_euclid(per_second) * unit.nanoseconds())
}

fn number(column: &ColumnView<'_>, row: usize) -> Numeric {
    match column.data_type() {
        DataType::Bool => Numeric::Signed((column.values::<u8>()[row] != 0).into()),
        // No form was made for what is no number.
        _ => Numeric::of(column, row).unwrap_or(Numeric::Signed(0)),
    }
}

impl Scalar {
    /// What [`datum`](Scalar::datum) makes the same value of.
    #[inline]
    fn bits(self, number: Numeric) -> u64 {
        match (self, number) {
            (Scalar::Sint32 | Scalar::Sint64, Numeric::Signed(value)) => zigzag(value),
            (_, Numeric::Signed(value)) => value as u64,
            (_, Numeric::Unsigned(value)) => value,
            (Scalar::Double, Numeric::Single(value)) => f64::from(value).to_bits(),
            (_, Numeric::Single(value)) => value.to_bits().into(),
            (_, Numeric::Double(value)) => value.to_bits(),
        }
    }

    /// Appends such a value.
    #[inline]
    fn write(self, bits: u64, out: &mut Vec<u8>) {
        use super::wire::WireType;
        match self.wire_type() {
            WireType::Fixed32 => out.extend_from_slice(&(bits as u32).to_le_bytes()),
            WireType::Fixed64 => out.extend_from_slice(&bits.to_le_bytes()),
            _ => write_varint(bits, out),
        }
    }
}

#[inline]
fn write_scalar(key: u64, leaves_out_zero: bool, bits: u64, scalar: Scalar, out: &mut Vec<u8>) {
    if !(leaves_out_zero && bits == 0) {
        write_varint(key, out);
        scalar.write(bits, out);
    }
}

/// A message of seconds and nanoseconds.
fn write_time(key: u64, (seconds, nanoseconds): (i64, i64), out: &mut Vec<u8>) {
    const SECONDS: u64 = 1 << 3;
    const NANOSECONDS: u64 = 2 << 3;
    write_varint(key, out);
    write_delimited(out, |out| {
        write_scalar(SECONDS, true, seconds as u64, Scalar::Int64, out);
        write_scalar(NANOSECONDS, true, nanoseconds as u64, Scalar::Int32, out);
    });
}

/// Appends a length and what `write` appends, which most often is so short that its length is one byte.
pub(super) fn write_delimited(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    match u8::try_from(length) {
        Ok(length @ ..=0x7f) => out[at] = length,
        _ => {
            let mut bytes = Vec::new();
            write_varint(length as u64, &mut bytes);
            out.splice(at..=at, bytes);
        }
    }
}
