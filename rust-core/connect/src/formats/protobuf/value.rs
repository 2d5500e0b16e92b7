//! One value: how it stands in a message, and how it comes into its column.
//!
//! Numbers may become wider, and nothing becomes something else, except what has no type of its own in a column: enums.

use std::sync::Arc;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};
use ringmill_wire::{DataType, ListItem, TimeUnit};

use super::wire::WireType;
use crate::formats::{
    binary::unzigzag,
    column::{Column, Refusal, Row},
    number::{Datum, Number},
};

/// How a value stands in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    /// a length and so many bytes
    Delimited,
}

/// What becomes of it.
#[derive(Debug, Clone)]
pub(super) enum To {
    Bool,
    Number(Number),
    Text,
    Binary,
    /// the name of its number; they are in order
    Symbol(Arc<[(i32, Box<str>)]>),
}

/// What stands for a value that is not there.
#[derive(Debug, Clone)]
pub(super) enum Constant {
    Boolean(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f32),
    Double(f64),
    Bytes(Box<[u8]>),
}

/// Seconds of 0001-01-01 and 9999-12-31, between which a `google.protobuf.Timestamp` lies.
pub(super) const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// 10,000 years, the longest `google.protobuf.Duration`.
const DURATION_SECONDS_MAX: u64 = 315_576_000_000;
pub(super) const SECOND_NS: i64 = 1_000_000_000;

impl Scalar {
    /// `None`: it is a message.
    pub fn of(kind: &Kind) -> Option<Scalar> {
        Some(match kind {
            Kind::Bool => Scalar::Bool,
            Kind::Int32 | Kind::Enum(_) => Scalar::Int32,
            Kind::Int64 => Scalar::Int64,
            Kind::Uint32 => Scalar::Uint32,
            Kind::Uint64 => Scalar::Uint64,
            Kind::Sint32 => Scalar::Sint32,
            Kind::Sint64 => Scalar::Sint64,
            Kind::Fixed32 => Scalar::Fixed32,
            Kind::Fixed64 => Scalar::Fixed64,
            Kind::Sfixed32 => Scalar::Sfixed32,
            Kind::Sfixed64 => Scalar::Sfixed64,
            Kind::Float => Scalar::Float,
            Kind::Double => Scalar::Double,
            Kind::String | Kind::Bytes => Scalar::Delimited,
            Kind::Message(_) => return None,
        })
    }

    pub fn wire_type(self) -> WireType {
        match self {
            Scalar::Fixed32 | Scalar::Sfixed32 | Scalar::Float => WireType::Fixed32,
            Scalar::Fixed64 | Scalar::Sfixed64 | Scalar::Double => WireType::Fixed64,
            Scalar::Delimited => WireType::Delimited,
            _ => WireType::Varint,
        }
    }

    /// The value of these bits. Those that its type does not have are dropped, as the specification says.
    #[inline]
    pub fn datum(self, bits: u64) -> Datum<'static> {
        match self {
            Scalar::Bool => Datum::Boolean(bits != 0),
            Scalar::Int32 | Scalar::Sfixed32 => Datum::Integer((bits as i32).into()),
            Scalar::Int64 | Scalar::Sfixed64 => Datum::Integer(bits as i64),
            Scalar::Uint32 | Scalar::Fixed32 => Datum::Unsigned((bits as u32).into()),
            Scalar::Uint64 | Scalar::Fixed64 => Datum::Unsigned(bits),
            Scalar::Sint32 => Datum::Integer(unzigzag((bits as u32).into())),
            Scalar::Sint64 => Datum::Integer(unzigzag(bits)),
            Scalar::Float => Datum::Float(f32::from_bits(bits as u32)),
            Scalar::Double => Datum::Double(f64::from_bits(bits)),
            Scalar::Delimited => Datum::Bytes(b""),
        }
    }
}

/// How a value of this kind comes into a column; `None`: not at all.
pub(super) fn conversion(kind: &Kind, data_type: DataType) -> Option<(Scalar, To)> {
    use DataType as T;
    let is_signed =
        matches!(kind, Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Int64 | Kind::Sint64 | Kind::Sfixed64);
    let is_unsigned = matches!(kind, Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64);
    let is_short = matches!(kind, Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32);
    let to = match (kind, data_type) {
        (Kind::Bool, T::Bool) => To::Bool,
        (Kind::String | Kind::Bytes, T::Utf8) => To::Text,
        (Kind::String | Kind::Bytes, T::Binary) => To::Binary,
        (Kind::Enum(symbols), T::Utf8) => To::Symbol(names(symbols)),
        (Kind::Enum(_), T::Int32) => To::Number(Number::Int32),
        (Kind::Enum(_), T::Int64) => To::Number(Number::Int64),
        (_, T::Int32) if is_signed && is_short => To::Number(Number::Int32),
        (_, T::Int64) if is_signed || (is_unsigned && is_short) => To::Number(Number::Int64),
        (_, T::UInt32) if is_unsigned && is_short => To::Number(Number::Uint32),
        (_, T::UInt64) if is_unsigned => To::Number(Number::Uint64),
        // In the column's unit.
        (_, T::Timestamp(_)) if is_signed || is_unsigned => To::Number(Number::Timestamp(1)),
        (Kind::Float, T::Float32) => To::Number(Number::Float32),
        (_, T::Float32) if is_signed || is_unsigned => To::Number(Number::Float32),
        (Kind::Float | Kind::Double, T::Float64) => To::Number(Number::Float64),
        (_, T::Float64) if is_signed || is_unsigned => To::Number(Number::Float64),
        _ => return None,
    };
    Some((Scalar::of(kind)?, to))
}

/// The names of an enum by their numbers; of several the first.
fn names(symbols: &EnumDescriptor) -> Arc<[(i32, Box<str>)]> {
    let values = &symbols.enum_descriptor_proto().value;
    let mut names: Vec<(i32, Box<str>)> = values.iter().map(|value| (value.number(), value.name().into())).collect();
    names.sort_by_key(|(number, _)| *number);
    names.dedup_by_key(|(number, _)| *number);
    names.into()
}

/// The column type that takes all values of this field as they are.
pub(super) fn natural(field: &FieldDescriptor) -> Option<DataType> {
    if field.is_map() || field.is_group() || (field.is_list() && matches!(field.kind(), Kind::Message(_))) {
        return None;
    }
    let single = match field.kind() {
        Kind::Bool => DataType::Bool,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => DataType::Int32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => DataType::Int64,
        Kind::Uint32 | Kind::Fixed32 => DataType::UInt32,
        Kind::Uint64 | Kind::Fixed64 => DataType::UInt64,
        Kind::Float => DataType::Float32,
        Kind::Double => DataType::Float64,
        Kind::String | Kind::Enum(_) => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => DataType::Timestamp(TimeUnit::Nanosecond),
            "google.protobuf.Duration" => DataType::Int64,
            _ if is_wrapper(message.full_name()) => return natural(&message.get_field(1)?),
            _ => return None,
        },
    };
    if field.is_list() { ListItem::of(single).map(DataType::List) } else { Some(single) }
}

/// Whether it is a message around one value, by which one that is not there differs from zero.
pub(super) fn is_wrapper(name: &str) -> bool {
    let inner = name.strip_prefix("google.protobuf.").and_then(|name| name.strip_suffix("Value"));
    inner.is_some_and(|inner| {
        ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"].contains(&inner)
    })
}

/// Whether it is the message of Google's with this name, which is seconds and nanoseconds. Whoever calls their own message
/// so has other fields, perhaps.
pub(super) fn is_time(message: &MessageDescriptor, name: &str) -> bool {
    let is = |number, scalar| {
        let field = message.get_field(number).filter(|field| !field.is_list());
        field.is_some_and(|field| Scalar::of(&field.kind()) == Some(scalar))
    };
    message.full_name() == name && is(1, Scalar::Int64) && is(2, Scalar::Int32)
}

impl Constant {
    /// `None`: no scalar.
    pub fn of(value: Value) -> Option<Constant> {
        Some(match value {
            Value::Bool(value) => Constant::Boolean(value),
            Value::I32(value) | Value::EnumNumber(value) => Constant::Integer(value.into()),
            Value::I64(value) => Constant::Integer(value),
            Value::U32(value) => Constant::Unsigned(value.into()),
            Value::U64(value) => Constant::Unsigned(value),
            Value::F32(value) => Constant::Float(value),
            Value::F64(value) => Constant::Double(value),
            Value::String(text) => Constant::Bytes(text.into_bytes().into()),
            Value::Bytes(bytes) => Constant::Bytes(bytes.to_vec().into()),
            Value::Message(_) | Value::List(_) | Value::Map(_) => return None,
        })
    }

    pub fn datum(&self) -> Datum<'_> {
        match self {
            Constant::Boolean(value) => Datum::Boolean(*value),
            Constant::Integer(value) => Datum::Integer(*value),
            Constant::Unsigned(value) => Datum::Unsigned(*value),
            Constant::Float(value) => Datum::Float(*value),
            Constant::Double(value) => Datum::Double(*value),
            Constant::Bytes(bytes) => Datum::Bytes(bytes),
        }
    }
}

/// Moves the items of a list into its column.
pub(super) fn put_list(
    items: &[u64],
    scalar: Scalar,
    number: Number,
    column: &Column,
    row: &mut Row<'_>,
) -> Result<(), Refusal> {
    row.binary.clear();
    for bits in items {
        let datum = scalar.datum(*bits);
        if number.append(datum, row.binary).is_none() {
            return Err(datum.beyond(column, row));
        }
    }
    row.out.push_list(column.index, row.binary).map_err(|_| Refusal::Full)
}

/// Moves a value into its column.
#[inline]
pub(super) fn put(to: &To, datum: Datum<'_>, column: &Column, row: &mut Row<'_>) -> Result<(), Refusal> {
    match (to, datum) {
        (To::Number(number), _) => number.put(datum, column, row),
        (To::Bool, Datum::Boolean(value)) => {
            row.out.push(column.index, value);
            Ok(())
        }
        (To::Text, Datum::Bytes(text)) => column.push_utf8(row, text),
        (To::Binary, Datum::Bytes(value)) => column.push_bytes(row, value),
        (To::Symbol(names), Datum::Integer(value)) => {
            let place = names.binary_search_by_key(&value, |(number, _)| i64::from(*number));
            match place {
                Ok(place) => column.push_bytes(row, names[place].1.as_bytes()),
                Err(_) => Err(column.misfit(row, value.to_string().as_bytes(), ", for which the enum has no name")),
            }
        }
        _ => Err(column.misfit(row, b"a value of another type", "")),
    }
}

/// Moves a point in time into its column; digits finer than the column's unit are dropped (rounded down).
pub(super) fn put_timestamp(
    (seconds, nanoseconds): (i64, i32),
    unit: TimeUnit,
    column: &Column,
    row: &mut Row<'_>,
) -> Result<(), Refusal> {
    let got = || format!("{seconds} s and {nanoseconds} ns");
    if !TIMESTAMP_SECONDS.contains(&seconds) || !(0..SECOND_NS).contains(&nanoseconds.into()) {
        return Err(column.misfit(row, got().as_bytes(), ", which is no google.protobuf.Timestamp"));
    }
    let value = i128::from(seconds) * i128::from(SECOND_NS / unit.nanoseconds())
        + i128::from(i64::from(nanoseconds) / unit.nanoseconds());
    match i64::try_from(value) {
        Ok(value) => column.push_timestamp(row, value, itoa::Buffer::new().format(value).as_bytes()),
        Err(_) => Err(column.out_of_range(row, got().as_bytes())),
    }
}

/// Moves a span of time into its column: nanoseconds, or as a float seconds.
pub(super) fn put_duration(
    (seconds, nanoseconds): (i64, i32),
    is_float: bool,
    column: &Column,
    row: &mut Row<'_>,
) -> Result<(), Refusal> {
    let got = || format!("{seconds} s and {nanoseconds} ns");
    let nanoseconds_i64 = i64::from(nanoseconds);
    let has_one_sign = seconds == 0 || nanoseconds == 0 || (seconds < 0) == (nanoseconds < 0);
    if seconds.unsigned_abs() > DURATION_SECONDS_MAX || nanoseconds_i64.abs() >= SECOND_NS || !has_one_sign {
        return Err(column.misfit(row, got().as_bytes(), ", which is no google.protobuf.Duration"));
    }
    if is_float {
        row.out.push(column.index, seconds as f64 + nanoseconds_i64 as f64 / SECOND_NS as f64);
        return Ok(());
    }
    match seconds.checked_mul(SECOND_NS).and_then(|value| value.checked_add(nanoseconds_i64)) {
        Some(value) => row.out.push(column.index, value),
        None => return Err(column.out_of_range(row, got().as_bytes())),
    }
    Ok(())
}
