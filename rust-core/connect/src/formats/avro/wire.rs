//! Avro's binary encoding, read from untrusted bytes: nothing is allocated, and nothing is believed that is not there.

/// What is wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
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
    /// records, arrays and maps lie too deep in each other
    Depth,
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
        }
    }
}

/// Longest variable-length number: 64 bits, 7 a byte.
const NUMBER_BYTES_MAX: usize = 10;

/// A message that is being read.
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes { rest: bytes, length: bytes.len() }
    }

    /// How many bytes were read.
    pub fn at(&self) -> usize {
        self.length - self.rest.len()
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

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Broken::Ends)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// `long`: zigzag, 7 bits a byte, the lowest first.
    #[inline]
    pub fn long(&mut self) -> Result<i64, Broken> {
        let mut value = 0_u64;
        for (index, byte) in self.rest.iter().take(NUMBER_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if index + 1 == NUMBER_BYTES_MAX && *byte > 1 {
                    return Err(Broken::Number);
                }
                self.rest = &self.rest[index + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(if self.rest.len() < NUMBER_BYTES_MAX { Broken::Ends } else { Broken::Number })
    }

    /// `int`
    #[inline]
    pub fn int(&mut self) -> Result<i32, Broken> {
        i32::try_from(self.long()?).map_err(|_| Broken::Number)
    }

    pub fn float(&mut self) -> Result<f32, Broken> {
        self.array().map(f32::from_le_bytes)
    }

    pub fn double(&mut self) -> Result<f64, Broken> {
        self.array().map(f64::from_le_bytes)
    }

    pub fn boolean(&mut self) -> Result<bool, Broken> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Broken::Bool),
        }
    }

    /// What a length stands before: `bytes` and `string`.
    #[inline]
    pub fn prefixed(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.long()?;
        // What 32 bits cannot count is not there either.
        let length = u64::try_from(length).map_err(|_| Broken::Length)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The branch of a union or the symbol of an enum, of so many.
    pub fn index(&mut self, of: usize) -> Result<usize, Broken> {
        usize::try_from(self.long()?).ok().filter(|index| *index < of).ok_or(Broken::Index)
    }

    /// The head of a block of an array or map: how many items it has, and how many bytes if it says so. No items: the end.
    pub fn block(&mut self) -> Result<(u64, Option<usize>), Broken> {
        let count = self.long()?;
        if count >= 0 {
            return Ok((count.unsigned_abs(), None));
        }
        let bytes = usize::try_from(self.long()?).map_err(|_| Broken::Length)?;
        Ok((count.unsigned_abs(), Some(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_bytes_of_the_specification() {
        let cases: [(&[u8], i64); 8] = [
            (b"\x00", 0),
            (b"\x01", -1),
            (b"\x02", 1),
            (b"\x7f", -64),
            (b"\x80\x01", 64),
            (b"\xfe\xff\xff\xff\x0f", i32::MAX as i64),
            (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", i64::MAX),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", i64::MIN),
        ];
        for (bytes, expected) in cases {
            let mut read = Bytes::new(bytes);
            assert_eq!((read.long(), read.left()), (Ok(expected), 0));
        }
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        assert_eq!(Bytes::new(b"\x80").long(), Err(Broken::Ends));
        assert_eq!(Bytes::new(&[0xff; 20]).long(), Err(Broken::Number));
        assert_eq!(Bytes::new(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02").long(), Err(Broken::Number));
        assert_eq!(Bytes::new(b"\x80\x80\x80\x80\x10").int(), Err(Broken::Number));
        assert_eq!(Bytes::new(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01abc").prefixed(), Err(Broken::Ends));
        assert_eq!(Bytes::new(b"\x01abc").prefixed(), Err(Broken::Length));
        assert_eq!(Bytes::new(b"\x02").boolean(), Err(Broken::Bool));
        assert_eq!(Bytes::new(b"\x04").index(2), Err(Broken::Index));
        assert_eq!(Bytes::new(b"\x01\x01").block(), Err(Broken::Length));
        let min = [b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".as_slice(), b"\x00"].concat();
        assert_eq!(Bytes::new(&min).block(), Ok((1 << 63, Some(0))));
    }
}
