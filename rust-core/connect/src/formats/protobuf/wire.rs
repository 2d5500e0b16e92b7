//! The wire format of Protocol Buffers.

use crate::formats::binary::{Broken, Bytes};

/// How long a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Delimited,
    GroupStart,
    GroupEnd,
    Fixed32,
}

impl WireType {
    /// What stands for it in a key.
    pub fn code(self) -> u32 {
        match self {
            WireType::Varint => 0,
            WireType::Fixed64 => 1,
            WireType::Delimited => 2,
            WireType::GroupStart => 3,
            WireType::GroupEnd => 4,
            WireType::Fixed32 => 5,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            WireType::Varint => "a varint",
            WireType::Fixed64 => "64 bits",
            WireType::Delimited => "a length and bytes",
            WireType::GroupStart | WireType::GroupEnd => "a group",
            WireType::Fixed32 => "32 bits",
        }
    }
}

/// Groups lie at most so deep in each other, as in the official implementations.
const DEPTH_MAX: u32 = 100;

impl<'a> Bytes<'a> {
    /// What stands before a value: the number of its field, and how long it is.
    #[inline]
    pub(super) fn key(&mut self) -> Result<(u32, WireType), Broken> {
        let key = u32::try_from(self.varint()?).map_err(|_| Broken::Key)?;
        let wire_type = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Delimited,
            3 => WireType::GroupStart,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => return Err(Broken::Key),
        };
        match key >> 3 {
            0 => Err(Broken::Key),
            number => Ok((number, wire_type)),
        }
    }

    /// What a length stands before: text, bytes, a message.
    #[inline]
    pub(super) fn delimited(&mut self) -> Result<Bytes<'a>, Broken> {
        let length = self.varint()?;
        // What the machine cannot count is not there either.
        self.part(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Passes over the value of a field.
    pub(super) fn pass_over(&mut self, number: u32, wire_type: WireType) -> Result<(), Broken> {
        self.pass_over_within(number, wire_type, DEPTH_MAX)
    }

    fn pass_over_within(&mut self, number: u32, wire_type: WireType, depth: u32) -> Result<(), Broken> {
        match wire_type {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.take(8).map(drop),
            WireType::Fixed32 => self.take(4).map(drop),
            WireType::Delimited => self.delimited().map(drop),
            WireType::GroupEnd => Err(Broken::Group),
            WireType::GroupStart => {
                let depth = depth.checked_sub(1).ok_or(Broken::Depth)?;
                loop {
                    match self.key()? {
                        (end, WireType::GroupEnd) if end == number => return Ok(()),
                        (inner, wire_type) => self.pass_over_within(inner, wire_type, depth)?,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_lengths_that_nobody_can_have_are_refused() {
        let key = |bytes: &[u8]| Bytes::new(bytes).key();
        assert_eq!(key(b"\x08"), Ok((1, WireType::Varint)));
        assert_eq!(key(b"\xfd\xff\xff\xff\x0f"), Ok(((1 << 29) - 1, WireType::Fixed32)));
        for bytes in [&b"\x00"[..], b"\x05", b"\x0e", b"\x0f", b"\x80\x80\x80\x80\x10"] {
            assert_eq!(key(bytes), Err(Broken::Key), "{bytes:?}");
        }
        assert_eq!(
            Bytes::new(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01abc").delimited().map(|_| ()),
            Err(Broken::Ends)
        );
    }

    #[test]
    fn groups_end_where_they_began() {
        let pass = |bytes: &[u8]| {
            let mut bytes = Bytes::new(bytes);
            let (number, wire_type) = bytes.key().unwrap();
            bytes.pass_over(number, wire_type).map(|()| bytes.left())
        };
        assert_eq!(pass(b"\x0b\x10\x07\x13\x14\x1a\x01\x0c\x0cx"), Ok(1));
        assert_eq!(pass(b"\x0b\x14"), Err(Broken::Group));
        assert_eq!(pass(b"\x0c"), Err(Broken::Group));
        assert_eq!(pass(b"\x0b\x10"), Err(Broken::Ends));
        assert_eq!(pass(&[0x0b; 1_000]), Err(Broken::Depth));
        let whole = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        assert_eq!((pass(&whole(100)), pass(&whole(101))), (Ok(0), Err(Broken::Depth)));
    }
}
