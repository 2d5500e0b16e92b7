//! A number of a column, of whatever type.

use std::fmt;

use ringmill_wire::{ColumnView, DataType, ListItem};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Signed(i64),
    /// of 64 bits; smaller ones are signed
    Unsigned(u64),
    Single(f32),
    Double(f64),
}

impl Number {
    /// The value of a row, if it is one.
    #[inline]
    pub fn of(column: &ColumnView<'_>, row: usize) -> Option<Number> {
        use DataType as T;
        Some(match column.data_type() {
            T::Int8 => Number::Signed(column.values::<i8>()[row].into()),
            T::Int16 => Number::Signed(column.values::<i16>()[row].into()),
            T::Int32 => Number::Signed(column.values::<i32>()[row].into()),
            T::Int64 | T::Timestamp(_) => Number::Signed(column.values::<i64>()[row]),
            T::UInt8 => Number::Signed(column.values::<u8>()[row].into()),
            T::UInt16 => Number::Signed(column.values::<u16>()[row].into()),
            T::UInt32 => Number::Signed(column.values::<u32>()[row].into()),
            T::UInt64 => Number::Unsigned(column.values::<u64>()[row]),
            T::Float32 => Number::Single(column.values::<f32>()[row]),
            T::Float64 => Number::Double(column.values::<f64>()[row]),
            T::Bool | T::Utf8 | T::Binary | T::List(_) => return None,
        })
    }

    /// The items of a list.
    pub fn items(item: ListItem, bytes: &[u8]) -> impl Iterator<Item = Number> {
        let width = item.data_type().width().unwrap_or(1);
        bytes.chunks_exact(width).map(move |bytes| {
            macro_rules! read {
                ($type:ty) => {
                    <$type>::from_le_bytes(bytes.try_into().expect("chunks of the type's size"))
                };
            }
            match item {
                ListItem::Int8 => Number::Signed(read!(i8).into()),
                ListItem::Int16 => Number::Signed(read!(i16).into()),
                ListItem::Int32 => Number::Signed(read!(i32).into()),
                ListItem::Int64 | ListItem::Timestamp(_) => Number::Signed(read!(i64)),
                ListItem::UInt8 => Number::Signed(read!(u8).into()),
                ListItem::UInt16 => Number::Signed(read!(u16).into()),
                ListItem::UInt32 => Number::Signed(read!(u32).into()),
                ListItem::UInt64 => Number::Unsigned(read!(u64)),
                ListItem::Float32 => Number::Single(read!(f32)),
                ListItem::Float64 => Number::Double(read!(f64)),
            }
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Signed(value) => value.fmt(f),
            Number::Unsigned(value) => value.fmt(f),
            Number::Single(value) => value.fmt(f),
            Number::Double(value) => value.fmt(f),
        }
    }
}
