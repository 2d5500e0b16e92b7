//! One value: how it stands in a message, and how it comes into its column.
//!
//! Numbers may become wider, as Avro's rules for schema resolution say; nothing else becomes something else, except what
//! has no type of its own in Avro or in a column (dates, decimals, UUIDs, enums).

use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, Schema, UuidSchema};
use ringmill_wire::{DataType, ListItem, TimeUnit};

use super::decimal;
use crate::formats::{
    binary::{Broken, Bytes},
    column::{Column, Refusal, Row},
    number::{Datum, Number},
};

/// Nanoseconds of a day.
const DAY_NS: i64 = 86_400_000_000_000;
const UUID_BYTES: usize = 16;

/// How a value stands in a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wire {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    /// a length and so many bytes
    Prefixed,
    /// so many bytes
    Fixed(usize),
    /// the index of a symbol
    Symbol(Box<[Box<str>]>),
    Array(Box<Wire>),
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum To {
    Bool,
    Number(Number),
    Text,
    Binary,
    /// 16 bytes as text
    Uuid,
    /// a decimal with so many digits behind the point, exactly
    DecimalText(u32),
    /// the nearest double
    DecimalFloat(u32),
    List(ListItem, Number),
}

/// How a value of this schema, which is no union and no reference, comes into a column; `None`: not at all. `resolve`
/// finds what a reference means.
pub(super) fn conversion<'s>(
    schema: &'s Schema,
    data_type: DataType,
    resolve: &impl Fn(&'s Schema) -> &'s Schema,
) -> Option<(Wire, To)> {
    use DataType as T;
    if let (T::List(item), Schema::Array(array)) = (data_type, schema) {
        let (wire, number) = number(resolve(&array.items), item.data_type())?;
        return Some((Wire::Array(Box::new(wire)), To::List(item, number)));
    }
    if let Some((wire, number)) = number(schema, data_type) {
        return Some((wire, To::Number(number)));
    }
    Some(match (schema, data_type) {
        (Schema::Boolean, T::Bool) => (Wire::Boolean, To::Bool),
        (Schema::String | Schema::Bytes | Schema::Uuid(UuidSchema::String), T::Utf8) => (Wire::Prefixed, To::Text),
        (Schema::String | Schema::Bytes | Schema::Uuid(UuidSchema::Bytes), T::Binary) => (Wire::Prefixed, To::Binary),
        (Schema::Uuid(UuidSchema::Bytes), T::Utf8) => (Wire::Prefixed, To::Uuid),
        (Schema::Uuid(UuidSchema::Fixed(fixed)), T::Utf8) => (Wire::Fixed(fixed.size), To::Uuid),
        (Schema::Uuid(UuidSchema::Fixed(fixed)) | Schema::Fixed(fixed) | Schema::Duration(fixed), T::Binary) => {
            (Wire::Fixed(fixed.size), To::Binary)
        }
        (Schema::Enum(symbols), T::Utf8) => {
            let symbols = symbols.symbols.iter().map(|symbol| symbol.as_str().into());
            (Wire::Symbol(symbols.collect()), To::Text)
        }
        (Schema::Decimal(decimal), T::Utf8) => (decimal_wire(decimal), To::DecimalText(scale(decimal)?)),
        (Schema::Decimal(decimal), T::Float64) => (decimal_wire(decimal), To::DecimalFloat(scale(decimal)?)),
        _ => return None,
    })
}

fn number(schema: &Schema, data_type: DataType) -> Option<(Wire, Number)> {
    use DataType as T;
    let wire = wire_of_number(schema)?;
    let is_plain = matches!(schema, Schema::Int | Schema::Long | Schema::Float | Schema::Double);
    let number = match (&wire, data_type) {
        (Wire::Int, T::Int32) => Number::Int32,
        (Wire::Int | Wire::Long, T::Int64) => Number::Int64,
        (Wire::Int | Wire::Long, T::Timestamp(unit)) => Number::Timestamp(factor(schema, unit)?),
        (Wire::Int | Wire::Long | Wire::Float, T::Float32) if is_plain => Number::Float32,
        (_, T::Float64) if is_plain => Number::Float64,
        _ => return None,
    };
    Some((wire, number))
}

fn wire_of_number(schema: &Schema) -> Option<Wire> {
    Some(match schema {
        Schema::Int | Schema::Date | Schema::TimeMillis => Wire::Int,
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Wire::Long,
        Schema::Float => Wire::Float,
        Schema::Double => Wire::Double,
        _ => return None,
    })
}

/// By what a value is multiplied to be in this unit; `None`: it is no point in time, or digits would be lost. A number
/// without a logical type is in the column's unit.
fn factor(schema: &Schema, unit: TimeUnit) -> Option<i64> {
    let own_ns = match schema {
        Schema::Int | Schema::Long => return Some(1),
        Schema::Date => DAY_NS,
        Schema::TimestampMillis | Schema::LocalTimestampMillis => 1_000_000,
        Schema::TimestampMicros | Schema::LocalTimestampMicros => 1_000,
        Schema::TimestampNanos | Schema::LocalTimestampNanos => 1,
        _ => return None,
    };
    (own_ns % unit.nanoseconds() == 0).then(|| own_ns / unit.nanoseconds())
}

fn decimal_wire(decimal: &DecimalSchema) -> Wire {
    match &decimal.inner {
        InnerDecimalSchema::Bytes => Wire::Prefixed,
        InnerDecimalSchema::Fixed(fixed) => Wire::Fixed(fixed.size),
    }
}

fn scale(decimal: &DecimalSchema) -> Option<u32> {
    u32::try_from(decimal.scale).ok().filter(|scale| *scale <= decimal::DIGITS_MAX)
}

/// The column type that takes all values of this schema as they are.
pub(super) fn natural(schema: &Schema) -> Option<DataType> {
    Some(match schema {
        Schema::Boolean => DataType::Bool,
        Schema::Int | Schema::Date | Schema::TimeMillis => DataType::Int32,
        Schema::Long | Schema::TimeMicros => DataType::Int64,
        Schema::Float => DataType::Float32,
        Schema::Double => DataType::Float64,
        Schema::String | Schema::Enum(_) | Schema::Uuid(_) => DataType::Utf8,
        Schema::Decimal(decimal) if scale(decimal).is_some() => DataType::Utf8,
        Schema::Bytes | Schema::Fixed(_) | Schema::Duration(_) => DataType::Binary,
        Schema::TimestampMillis | Schema::LocalTimestampMillis => DataType::Timestamp(TimeUnit::Millisecond),
        Schema::TimestampMicros | Schema::LocalTimestampMicros => DataType::Timestamp(TimeUnit::Microsecond),
        Schema::TimestampNanos | Schema::LocalTimestampNanos => DataType::Timestamp(TimeUnit::Nanosecond),
        Schema::Array(array) => DataType::List(ListItem::of(natural(&array.items)?)?),
        _ => return None,
    })
}

/// Reads a value and moves it into its column.
pub(super) fn read(
    (wire, to): &(Wire, To),
    column: &Column,
    bytes: &mut Bytes<'_>,
    row: &mut Row<'_>,
) -> Result<Result<(), Refusal>, Broken> {
    if let (Wire::Array(item), To::List(_, number)) = (wire, to) {
        return list(item, *number, column, bytes, row);
    }
    let datum = match wire {
        Wire::Symbol(symbols) => Datum::Bytes(symbols[bytes.index(symbols.len())?].as_bytes()),
        wire => datum(wire, bytes)?,
    };
    Ok(put(*to, datum, column, row))
}

fn datum<'a>(wire: &Wire, bytes: &mut Bytes<'a>) -> Result<Datum<'a>, Broken> {
    Ok(match wire {
        Wire::Boolean => Datum::Boolean(bytes.boolean()?),
        Wire::Int => Datum::Integer(bytes.int()?.into()),
        Wire::Long => Datum::Integer(bytes.long()?),
        Wire::Float => Datum::Float(bytes.float()?),
        Wire::Double => Datum::Double(bytes.double()?),
        Wire::Prefixed => Datum::Bytes(bytes.prefixed()?),
        Wire::Fixed(size) => Datum::Bytes(bytes.take(*size)?),
        // They are read before.
        Wire::Symbol(_) | Wire::Array(_) => return Err(Broken::Index),
    })
}

/// Items are at least a byte long, so that a list has no more of them than the message has bytes.
fn list(
    item: &Wire,
    number: Number,
    column: &Column,
    bytes: &mut Bytes<'_>,
    row: &mut Row<'_>,
) -> Result<Result<(), Refusal>, Broken> {
    row.binary.clear();
    loop {
        let (count, _) = bytes.block()?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            let read = datum(item, bytes)?;
            if number.append(read, row.binary).is_none() {
                return Ok(Err(read.beyond(column, row)));
            }
        }
    }
    Ok(row.out.push_list(column.index, row.binary).map_err(|_| Refusal::Full))
}

fn put(to: To, datum: Datum<'_>, column: &Column, row: &mut Row<'_>) -> Result<(), Refusal> {
    let number = match (to, datum) {
        (To::Bool, Datum::Boolean(value)) => {
            row.out.push(column.index, value);
            return Ok(());
        }
        (To::Text, Datum::Bytes(text)) => return column.push_utf8(row, text),
        (To::Binary, Datum::Bytes(value)) => return column.push_bytes(row, value),
        (To::Uuid, Datum::Bytes(value)) => return put_uuid(value, column, row),
        (To::DecimalText(scale) | To::DecimalFloat(scale), Datum::Bytes(value)) => {
            return put_decimal(value, scale, to, column, row);
        }
        (To::Number(number), _) => number,
        _ => return Err(column.misfit(row, b"a value of another type", "")),
    };
    number.put(datum, column, row)
}

fn put_uuid(value: &[u8], column: &Column, row: &mut Row<'_>) -> Result<(), Refusal> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if value.len() != UUID_BYTES {
        return Err(column.misfit(row, value, " (a UUID has 16 bytes)"));
    }
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in value.iter().enumerate() {
        at += usize::from(matches!(index, 4 | 6 | 8 | 10));
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    column.push_bytes(row, &text)
}

fn put_decimal(value: &[u8], scale: u32, to: To, column: &Column, row: &mut Row<'_>) -> Result<(), Refusal> {
    let Some(text) = decimal::text(value, scale) else {
        return Err(column.misfit(row, b"a decimal", " (with more than 38 digits)"));
    };
    match to {
        To::DecimalFloat(_) => match text.parse::<f64>() {
            Ok(value) => row.out.push(column.index, value),
            Err(_) => return Err(column.misfit(row, text.as_bytes(), "")),
        },
        _ => return column.push_bytes(row, text.as_bytes()),
    }
    Ok(())
}
