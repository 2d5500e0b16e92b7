//! Which types of Arrow come into which columns.

use arrow_schema::{DataType as ArrowType, TimeUnit as ArrowUnit};
use ringmill_wire::{DataType, ListItem, TimeUnit};

/// Nanoseconds of a day.
const DAY_NS: i64 = 86_400_000_000_000;
const MILLISECOND_NS: i64 = 1_000_000;

/// How a number lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// so many bytes
    Signed(usize),
    Unsigned(usize),
    Float(usize),
}

/// The lane of a type whose values are one number each.
pub(super) fn lane(data_type: &ArrowType) -> Option<Lane> {
    use ArrowType as A;
    Some(match data_type {
        A::Int8 => Lane::Signed(1),
        A::Int16 => Lane::Signed(2),
        A::Int32 | A::Date32 | A::Time32(_) => Lane::Signed(4),
        A::Int64 | A::Date64 | A::Time64(_) | A::Timestamp(..) | A::Duration(_) => Lane::Signed(8),
        A::UInt8 => Lane::Unsigned(1),
        A::UInt16 => Lane::Unsigned(2),
        A::UInt32 => Lane::Unsigned(4),
        A::UInt64 => Lane::Unsigned(8),
        A::Float16 => Lane::Float(2),
        A::Float32 => Lane::Float(4),
        A::Float64 => Lane::Float(8),
        _ => return None,
    })
}

/// The lane of a column's values.
pub(super) fn own_lane(data_type: DataType) -> Option<Lane> {
    use DataType as T;
    Some(match data_type {
        T::Int8 => Lane::Signed(1),
        T::Int16 => Lane::Signed(2),
        T::Int32 => Lane::Signed(4),
        T::Int64 | T::Timestamp(_) => Lane::Signed(8),
        T::UInt8 => Lane::Unsigned(1),
        T::UInt16 => Lane::Unsigned(2),
        T::UInt32 => Lane::Unsigned(4),
        T::UInt64 => Lane::Unsigned(8),
        T::Float32 => Lane::Float(4),
        T::Float64 => Lane::Float(8),
        T::Bool | T::Utf8 | T::Binary | T::List(_) => return None,
    })
}

/// Whether values of `from` come into a column of `to`.
pub(super) fn accepts(from: &ArrowType, to: DataType) -> bool {
    use {ArrowType as A, DataType as T};
    match (from, to) {
        (A::Null, _) | (A::Boolean, T::Bool) => true,
        (A::Dictionary(_, value), to) => is_simple(value) && accepts(value, to),
        (A::List(item) | A::LargeList(item) | A::FixedSizeList(item, _), T::List(own)) => {
            accepts_number(item.data_type(), own.data_type())
        }
        (A::Utf8 | A::LargeUtf8 | A::Utf8View, T::Utf8 | T::Binary) => true,
        (A::Binary | A::LargeBinary | A::BinaryView, T::Utf8 | T::Binary) => true,
        (A::FixedSizeBinary(_), T::Binary) => true,
        (A::Decimal128(_, scale) | A::Decimal32(_, scale) | A::Decimal64(_, scale), T::Utf8 | T::Float64) => {
            *scale >= 0
        }
        (from, to) => accepts_number(from, to),
    }
}

/// Whether a dictionary's values can be these.
fn is_simple(value: &ArrowType) -> bool {
    use ArrowType as A;
    let is_text = matches!(value, A::Utf8 | A::LargeUtf8 | A::Utf8View | A::Binary | A::LargeBinary | A::BinaryView);
    is_text || lane(value).is_some()
}

/// Numbers become wider. 64 bits without a sign become 64 with one where they fit.
fn accepts_number(from: &ArrowType, to: DataType) -> bool {
    use {ArrowType as A, DataType as T};
    let (Some(lane), Some(own)) = (lane(from), own_lane(to)) else { return false };
    if let T::Timestamp(unit) = to {
        return factor(from, unit).is_some();
    }
    let is_plain =
        !matches!(from, A::Date32 | A::Date64 | A::Time32(_) | A::Time64(_) | A::Timestamp(..) | A::Duration(_));
    match (lane, own) {
        (Lane::Signed(from), Lane::Signed(to)) | (Lane::Unsigned(from), Lane::Unsigned(to)) => from <= to,
        (Lane::Unsigned(from), Lane::Signed(to)) => from < to || from == 8,
        (Lane::Signed(_) | Lane::Unsigned(_), Lane::Float(_)) => is_plain,
        (Lane::Float(from), Lane::Float(to)) => from <= to,
        _ => false,
    }
}

/// By what a value is multiplied to be in this unit; `None`: it is no point in time, or digits would be lost. A number
/// without a meaning of its own is in the column's unit.
pub(super) fn factor(from: &ArrowType, unit: TimeUnit) -> Option<i64> {
    let own_ns = match from {
        ArrowType::Int32 | ArrowType::Int64 => return Some(1),
        ArrowType::Timestamp(own, _) => nanoseconds(*own),
        ArrowType::Date32 => DAY_NS,
        ArrowType::Date64 => MILLISECOND_NS,
        _ => return None,
    };
    (own_ns % unit.nanoseconds() == 0).then(|| own_ns / unit.nanoseconds())
}

fn nanoseconds(unit: ArrowUnit) -> i64 {
    own_unit(unit).nanoseconds()
}

fn own_unit(unit: ArrowUnit) -> TimeUnit {
    match unit {
        ArrowUnit::Second => TimeUnit::Second,
        ArrowUnit::Millisecond => TimeUnit::Millisecond,
        ArrowUnit::Microsecond => TimeUnit::Microsecond,
        ArrowUnit::Nanosecond => TimeUnit::Nanosecond,
    }
}

/// The column type that takes all values of this type as they are.
pub(super) fn natural(from: &ArrowType) -> Option<DataType> {
    use {ArrowType as A, DataType as T};
    Some(match from {
        A::Boolean => T::Bool,
        A::Int8 => T::Int8,
        A::Int16 => T::Int16,
        A::Int32 | A::Time32(_) => T::Int32,
        A::Int64 | A::Time64(_) | A::Duration(_) => T::Int64,
        A::UInt8 => T::UInt8,
        A::UInt16 => T::UInt16,
        A::UInt32 => T::UInt32,
        A::UInt64 => T::UInt64,
        A::Float16 | A::Float32 => T::Float32,
        A::Float64 => T::Float64,
        A::Utf8 | A::LargeUtf8 | A::Utf8View => T::Utf8,
        A::Decimal128(_, scale) | A::Decimal32(_, scale) | A::Decimal64(_, scale) if *scale >= 0 => T::Utf8,
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) => T::Binary,
        A::Timestamp(unit, _) => T::Timestamp(own_unit(*unit)),
        A::Date32 => T::Timestamp(TimeUnit::Second),
        A::Date64 => T::Timestamp(TimeUnit::Millisecond),
        A::Dictionary(_, value) if is_simple(value) => natural(value)?,
        A::List(item) | A::LargeList(item) | A::FixedSizeList(item, _) => {
            T::List(ListItem::of(natural(item.data_type())?)?)
        }
        _ => return None,
    })
}
