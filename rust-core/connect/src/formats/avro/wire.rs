//! Avro's binary encoding.

use crate::formats::binary::{Broken, Bytes};

impl<'a> Bytes<'a> {
    /// `long`: zigzag, 7 bits a byte, the lowest first.
    #[inline]
    pub fn long(&mut self) -> Result<i64, Broken> {
        self.zigzag()
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
