//! Binary encodings, read from untrusted bytes: nothing is allocated, and nothing is believed that is not there; and how
//! their numbers are written.
//!
//! What one encoding alone has stands in its own `wire.rs`.

/// What is wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// they end within a value
    Ends,
    /// a number has more bits than its type
    Number,
    /// a length or a count is negative
    Length,
    /// a bool is neither 0 nor 1
    Bool,
    /// a union has no such branch, or an enum no such symbol
    Index,
    /// values lie too deep in each other
    Depth,
    /// there is no field with this number, or no such type
    Key,
    /// a group ends that did not begin
    Group,
}

impl Broken {
    pub fn what(self) -> &'static str {
        match self {
            Broken::Ends => "it ends within a value",
            Broken::Number => "a number has more bits than its type",
            Broken::Length => "a length is negative",
            Broken::Bool => "a boolean is neither 0 nor 1",
            Broken::Index => "the union or enum has no such entry",
            Broken::Depth => "values lie too deep in each other",
            Broken::Key => "no field can have this number or type",
            Broken::Group => "a group ends that did not begin",
        }
    }
}

/// Longest variable-length number: 64 bits, 7 a byte.
const NUMBER_BYTES_MAX: usize = 10;

/// A message, or a part of one, that is being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a> {
    rest: &'a [u8],
    /// where the part ends in the message
    end: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes { rest: bytes, end: bytes.len() }
    }

    /// At which byte of the message.
    pub fn at(&self) -> usize {
        self.end - self.rest.len()
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Broken::Ends)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next ones as a part of their own.
    #[inline]
    pub fn part(&mut self, count: usize) -> Result<Bytes<'a>, Broken> {
        let rest = self.take(count)?;
        Ok(Bytes { rest, end: self.at() })
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Broken::Ends)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// 64 bits, 7 a byte, the lowest first.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0_u64;
        for (index, byte) in self.rest.iter().take(NUMBER_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if index + 1 == NUMBER_BYTES_MAX && *byte > 1 {
                    return Err(Broken::Number);
                }
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < NUMBER_BYTES_MAX { Broken::Ends } else { Broken::Number })
    }

    /// The same of a signed number, whose lowest bit is the sign.
    #[inline]
    pub fn zigzag(&mut self) -> Result<i64, Broken> {
        self.varint().map(unzigzag)
    }
}

/// 0, -1, 1, -2 and so on.
#[inline]
pub(in crate::formats) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The number that [`unzigzag`] makes this one of.
#[inline]
pub(in crate::formats) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Appends a number as [`Bytes::varint`] reads it.
#[inline]
pub(in crate::formats) fn write_varint(mut rest: u64, out: &mut Vec<u8>) {
    while rest > 0x7f {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
