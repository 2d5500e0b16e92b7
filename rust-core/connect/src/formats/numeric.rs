//! A number of a column that is written, of whatever type.

use std::fmt;

use ringmill_wire::{ColumnView, DataType, ListItem};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Numeric {
    Signed(i64),
    /// of 64 bits; smaller ones are signed
    Unsigned(u64),
    Single(f32),
    Double(f64),
}

impl Numeric {
    /// The value of a row, if it is one.
    #[inline]
    pub fn of(column: &ColumnView<'_>, row: usize) -> Option<Numeric> {
        use DataType as T;
        Some(match column.data_type() {
            T::Int8 => Numeric::Signed(column.values::<i8>()[row].into()),
            T::Int16 => Numeric::Signed(column.values::<i16>()[row].into()),
            T::Int32 => Numeric::Signed(column.values::<i32>()[row].into()),
            T::Int64 | T::Timestamp(_) => Numeric::Signed(column.values::<i64>()[row]),
            T::UInt8 => Numeric::Signed(column.values::<u8>()[row].into()),
            T::UInt16 => Numeric::Signed(column.values::<u16>()[row].into()),
            T::UInt32 => Numeric::Signed(column.values::<u32>()[row].into()),
            T::UInt64 => Numeric::Unsigned(column.values::<u64>()[row]),
            T::Float32 => Numeric::Single(column.values::<f32>()[row]),
            T::Float64 => Numeric::Double(column.values::<f64>()[row]),
            T::Bool | T::Utf8 | T::Binary | T::List(_) => return None,
        })
    }

    /// The items of a list.
    pub fn items(item: ListItem, bytes: &[u8]) -> impl Iterator<Item = Numeric> {
        let width = item.data_type().width().unwrap_or(1);
        bytes.chunks_exact(width).filter_map(move |bytes| {
            // Each is of its type's size.
            macro_rules! read {
                ($type:ty) => {
                    <$type>::from_le_bytes(*bytes.first_chunk()?)
                };
            }
            Some(match item {
                ListItem::Int8 => Numeric::Signed(read!(i8).into()),
                ListItem::Int16 => Numeric::Signed(read!(i16).into()),
                ListItem::Int32 => Numeric::Signed(read!(i32).into()),
                ListItem::Int64 | ListItem::Timestamp(_) => Numeric::Signed(read!(i64)),
                ListItem::UInt8 => Numeric::Signed(read!(u8).into()),
                ListItem::UInt16 => Numeric::Signed(read!(u16).into()),
                ListItem::UInt32 => Numeric::Signed(read!(u32).into()),
                ListItem::UInt64 => Numeric::Unsigned(read!(u64)),
                ListItem::Float32 => Numeric::Single(read!(f32)),
                ListItem::Float64 => Numeric::Double(read!(f64)),
            })
        })
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numeric::Signed(value) => value.fmt(f),
            Numeric::Unsigned(value) => value.fmt(f),
            Numeric::Single(value) => value.fmt(f),
            Numeric::Double(value) => value.fmt(f),
        }
    }
}
