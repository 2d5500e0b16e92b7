//! Columns brought to one word a value, a block of rows at a time, so that aggregation knows three kinds of numbers
//! and not eleven.

use ringmill_wire::{BatchView, ColumnView, DataType, Plain};
use std::ops::Range;

use super::cells::{InputColumn, Kind};

/// The values of one column.
#[derive(Debug, Default)]
pub struct Lane {
    /// By row of the block; see [`Kind`]. Empty for bytes.
    pub words: Vec<u64>,
    /// By row of the block; empty if every value is there.
    pub valid: Vec<bool>,
}

impl Lane {
    /// Loads rows of a column.
    pub fn load(&mut self, input: &InputColumn, view: &BatchView<'_>, rows: Range<usize>) {
        let column = view.column(input.index);
        self.valid.clear();
        if column.validity().is_some() && column.null_count() > 0 {
            self.valid.extend(rows.clone().map(|row| column.is_valid(row)));
        }
        self.words.clear();
        let words = &mut self.words;
        match input.data_type {
            DataType::Int8 => fill(words, &column, rows, |value: i8| i64::from(value) as u64),
            DataType::Int16 => fill(words, &column, rows, |value: i16| i64::from(value) as u64),
            DataType::Int32 => fill(words, &column, rows, |value: i32| i64::from(value) as u64),
            DataType::Int64 | DataType::Timestamp(_) => fill(words, &column, rows, |value: i64| value as u64),
            DataType::Bool | DataType::UInt8 => fill(words, &column, rows, |value: u8| u64::from(value)),
            DataType::UInt16 => fill(words, &column, rows, |value: u16| u64::from(value)),
            DataType::UInt32 => fill(words, &column, rows, |value: u32| u64::from(value)),
            DataType::UInt64 => fill(words, &column, rows, |value: u64| value),
            DataType::Float32 => fill(words, &column, rows, |value: f32| f64::from(value).to_bits()),
            DataType::Float64 => fill(words, &column, rows, f64::to_bits),
            DataType::Utf8 | DataType::Binary | DataType::List(_) => debug_assert_eq!(input.kind, Kind::Bytes),
        }
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        (self.words.capacity() * 8 + self.valid.capacity()) as u64
    }
}

fn fill<T: Plain>(words: &mut Vec<u64>, column: &ColumnView<'_>, rows: Range<usize>, word: impl Fn(T) -> u64) {
    words.extend(column.values::<T>()[rows].iter().map(|value| word(*value)));
}
