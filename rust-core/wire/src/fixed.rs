//! Rust types that stand for fixed-width column types.

use bytemuck::Pod;

use crate::data_type::DataType;

/// How a column's values lie in memory, whatever they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Physical {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Bytes,
}

impl Physical {
    pub(crate) const fn of(data_type: DataType) -> Physical {
        match data_type {
            DataType::Bool => Physical::Bool,
            DataType::Int8 => Physical::Int8,
            DataType::Int16 => Physical::Int16,
            DataType::Int32 => Physical::Int32,
            DataType::Int64 | DataType::Timestamp(_) => Physical::Int64,
            DataType::UInt8 => Physical::UInt8,
            DataType::UInt16 => Physical::UInt16,
            DataType::UInt32 => Physical::UInt32,
            DataType::UInt64 => Physical::UInt64,
            DataType::Float32 => Physical::Float32,
            DataType::Float64 => Physical::Float64,
            DataType::Utf8 | DataType::Binary | DataType::List(_) => Physical::Bytes,
        }
    }
}

mod sealed {
    pub trait Sealed {
        const PHYSICAL: super::Physical;
    }
}
pub(crate) use sealed::Sealed;

/// A value that can be pushed into a fixed-width column: the integers, the floats, and `bool`.
/// `i64` also stands for every timestamp.
pub trait Fixed: Sealed + Copy + Send + Sync + 'static {}

/// A [`Fixed`] type of which every bit pattern is a value, so that a column can be seen as a slice of it: all but
/// `bool`. Bool columns are seen as `u8` (0 or 1).
pub trait Plain: Fixed + Pod {}

macro_rules! fixed {
    ($($rust:ty => $physical:ident),+ $(,)?) => {$(
        impl Sealed for $rust {
            const PHYSICAL: Physical = Physical::$physical;
        }
        impl Fixed for $rust {}
    )+};
}
fixed!(
    bool => Bool, i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    u8 => UInt8, u16 => UInt16, u32 => UInt32, u64 => UInt64, f32 => Float32, f64 => Float64,
);

macro_rules! plain {
    ($($rust:ty),+) => {$( impl Plain for $rust {} )+};
}
plain!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);

/// Whether a column of this physical type can be seen as a slice of `T`.
#[inline]
pub(crate) fn is_seen_as<T: Plain>(physical: Physical) -> bool {
    physical as u8 == T::PHYSICAL as u8
        || (physical as u8 == Physical::Bool as u8 && T::PHYSICAL as u8 == Physical::UInt8 as u8)
}
