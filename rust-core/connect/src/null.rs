//! The null sink: counts rows and reads every value of them into a checksum.

use std::{fmt, ops::Range};

use ringmill_wire::{BatchView, ColumnView, DataType};

/// Rows, and a checksum over every value of every column.
///
/// Each row is hashed with all its columns (so a value beside the wrong row changes the sum), and the hashes of the rows
/// are added up: batch boundaries, the order of rows, and how they were spread over shards do not matter. It is the same
/// on every machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    rows: u64,
    sum: u64,
}

/// Rows hashed at a time: 4 KiB of hashes stay in the first-level cache.
const BLOCK: usize = 512;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Stands for a missing value.
const NULL: u64 = 0x6e75_6c6c_6e75_6c6c;

impl Checksum {
    /// Of nothing.
    pub fn new() -> Checksum {
        Checksum::default()
    }

    /// One that has seen so many rows and came to that value.
    pub fn resume(rows: u64, value: u64) -> Checksum {
        Checksum { rows, sum: value }
    }

    /// Rows seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The checksum.
    pub fn value(&self) -> u64 {
        self.sum
    }

    /// Adds these rows.
    pub fn update(&mut self, view: &BatchView<'_>, rows: Range<usize>) {
        let mut hashes = [0; BLOCK];
        let mut start = rows.start;
        while start < rows.end {
            let block = start..rows.end.min(start + BLOCK);
            let hashes = &mut hashes[..block.len()];
            hashes.fill(0);
            for column in view.columns() {
                add_column(&column, block.clone(), hashes);
            }
            for hash in hashes {
                self.sum = self.sum.wrapping_add(finish(*hash));
            }
            start = block.end;
        }
        self.rows += rows.len() as u64;
    }

    /// Adds what another shard has seen.
    pub fn merge(&mut self, other: &Checksum) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.sum)
    }
}

#[inline(always)]
fn step(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(29) ^ value).wrapping_mul(MULTIPLIER)
}

#[inline(always)]
fn finish(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

fn add_column(column: &ColumnView<'_>, rows: Range<usize>, hashes: &mut [u64]) {
    if column.null_count() > 0 {
        for (row, hash) in rows.zip(hashes) {
            let value = if column.is_valid(row) { value_bits(column, row) } else { NULL };
            *hash = step(*hash, value);
        }
        return;
    }
    macro_rules! fixed {
        ($type:ty, $bits:expr) => {
            for (hash, value) in hashes.iter_mut().zip(&column.values::<$type>()[rows]) {
                *hash = step(*hash, $bits(*value));
            }
        };
    }
    match column.data_type() {
        DataType::Float64 => fixed!(f64, f64::to_bits),
        DataType::Int64 | DataType::Timestamp(_) => fixed!(i64, |value| value as u64),
        DataType::UInt64 => fixed!(u64, |value| value),
        DataType::Float32 => fixed!(f32, |value: f32| u64::from(value.to_bits())),
        DataType::Int32 => fixed!(i32, |value| value as u64),
        DataType::UInt32 => fixed!(u32, u64::from),
        DataType::Int16 => fixed!(i16, |value| value as u64),
        DataType::UInt16 => fixed!(u16, u64::from),
        DataType::Int8 => fixed!(i8, |value| value as u64),
        DataType::UInt8 | DataType::Bool => fixed!(u8, u64::from),
        DataType::Utf8 | DataType::Binary | DataType::List(_) => {
            for (row, hash) in rows.zip(hashes) {
                *hash = step(*hash, hash_bytes(column.bytes(row)));
            }
        }
    }
}

fn value_bits(column: &ColumnView<'_>, row: usize) -> u64 {
    match column.data_type() {
        DataType::Float64 => column.values::<f64>()[row].to_bits(),
        DataType::Int64 | DataType::Timestamp(_) => column.values::<i64>()[row] as u64,
        DataType::UInt64 => column.values::<u64>()[row],
        DataType::Float32 => u64::from(column.values::<f32>()[row].to_bits()),
        DataType::Int32 => column.values::<i32>()[row] as u64,
        DataType::UInt32 => u64::from(column.values::<u32>()[row]),
        DataType::Int16 => column.values::<i16>()[row] as u64,
        DataType::UInt16 => u64::from(column.values::<u16>()[row]),
        DataType::Int8 => column.values::<i8>()[row] as u64,
        DataType::UInt8 | DataType::Bool => u64::from(column.values::<u8>()[row]),
        DataType::Utf8 | DataType::Binary | DataType::List(_) => hash_bytes(column.bytes(row)),
    }
}

/// Every byte and the length; eight bytes at a time, the last ones overlapping.
#[inline(always)]
fn hash_bytes(bytes: &[u8]) -> u64 {
    let word = |at: usize| {
        let word: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(word)
    };
    let half = |at: usize| {
        let half: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        u64::from(u32::from_le_bytes(half))
    };
    let length = bytes.len();
    let mut hash = length as u64;
    match length {
        0 => {}
        1..=3 => {
            let first = u64::from(bytes[0]) | u64::from(bytes[length / 2]) << 8;
            hash = step(hash, first | u64::from(bytes[length - 1]) << 16);
        }
        4..=8 => hash = step(hash, half(0) | half(length - 4) << 32),
        _ => {
            let mut at = 0;
            while at + 8 < length {
                hash = step(hash, word(at));
                at += 8;
            }
            hash = step(hash, word(length - 8));
        }
    }
    finish(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GeneratorSpec, testing};

    #[test]
    fn batch_boundaries_and_shards_do_not_matter() {
        let spec = GeneratorSpec { keys: 37, rows: Some(10_000), ..GeneratorSpec::default() };
        let whole = testing::checksum(&spec, 1, 4096);
        assert_eq!(whole.rows(), 10_000);
        for (shards, rows_max) in [(1, 7), (2, 512), (3, 1000), (64, 4096)] {
            assert_eq!(testing::checksum(&spec, shards, rows_max), whole, "{shards} {rows_max}");
        }
        let other = GeneratorSpec { seed: 1, ..spec };
        assert_ne!(testing::checksum(&other, 1, 4096).value(), whole.value());
    }

    #[test]
    fn every_byte_of_a_string_counts() {
        for length in 0..70 {
            let bytes = vec![7_u8; length];
            let hash = hash_bytes(&bytes);
            assert_ne!(hash, hash_bytes(&vec![7_u8; length + 1]));
            for at in 0..length {
                let mut other = bytes.clone();
                other[at] = 8;
                assert_ne!(hash, hash_bytes(&other), "byte {at} of {length}");
            }
        }
    }
}
