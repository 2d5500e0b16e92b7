//! Sixteen bytes, compared all at once.
//!
//! With SSE2, which every x86-64 has; elsewhere as the compiler sees fit.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as sse2;

#[cfg(target_arch = "x86_64")]
type Lanes = sse2::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Lanes = [u8; Block::BYTES];

/// Sixteen bytes, or what a comparison said of each of them: all ones for yes, zero for no.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block(Lanes);

impl Block {
    pub const BYTES: usize = 16;

    /// The block at `at`, filled up with zeros behind the end of `bytes`; `None` if nothing is left.
    #[inline(always)]
    pub fn at(bytes: &[u8], at: usize) -> Option<Block> {
        let rest = bytes.get(at..)?;
        match rest.first_chunk() {
            Some(block) => Some(Block::from(block)),
            None => Block::last(rest),
        }
    }

    #[cold]
    fn last(rest: &[u8]) -> Option<Block> {
        let mut block = [0; Block::BYTES];
        block[..rest.len()].copy_from_slice(rest);
        (!rest.is_empty()).then(|| Block::from(&block))
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
impl Block {
    #[inline(always)]
    fn from(bytes: &[u8; Block::BYTES]) -> Block {
        // SAFETY: there are sixteen bytes, and x86-64 has SSE2.
        Block(unsafe { sse2::_mm_loadu_si128(bytes.as_ptr().cast()) })
    }

    /// Which bytes are this one.
    #[inline(always)]
    pub fn equal(self, byte: u8) -> Block {
        // SAFETY: x86-64 has SSE2.
        Block(unsafe { sse2::_mm_cmpeq_epi8(self.0, sse2::_mm_set1_epi8(byte as i8)) })
    }

    /// Which bytes are not above this one.
    #[inline(always)]
    pub fn at_most(self, byte: u8) -> Block {
        // SAFETY: x86-64 has SSE2.
        Block(unsafe { sse2::_mm_cmpeq_epi8(self.0, sse2::_mm_min_epu8(self.0, sse2::_mm_set1_epi8(byte as i8))) })
    }

    /// Which bytes either comparison said yes to.
    #[inline(always)]
    pub fn or(self, other: Block) -> Block {
        // SAFETY: x86-64 has SSE2.
        Block(unsafe { sse2::_mm_or_si128(self.0, other.0) })
    }

    /// What a comparison said, the first byte's in the lowest bit.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        // SAFETY: x86-64 has SSE2.
        unsafe { sse2::_mm_movemask_epi8(self.0) as u32 }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Block {
    fn from(bytes: &[u8; Block::BYTES]) -> Block {
        Block(*bytes)
    }

    pub fn equal(self, byte: u8) -> Block {
        Block(self.0.map(|own| if own == byte { u8::MAX } else { 0 }))
    }

    pub fn at_most(self, byte: u8) -> Block {
        Block(self.0.map(|own| if own <= byte { u8::MAX } else { 0 }))
    }

    pub fn or(self, other: Block) -> Block {
        Block(std::array::from_fn(|index| self.0[index] | other.0[index]))
    }

    pub fn bits(self) -> u32 {
        self.0.iter().rev().fold(0, |bits, byte| bits << 1 | u32::from(byte >> 7))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_compared_as_the_unsigned_number_that_it_is() {
        let bytes: Vec<u8> = (0..=255).collect();
        let bits_of = |at: usize, yes: &dyn Fn(u8) -> bool| {
            (0..Block::BYTES)
                .map(|index| u32::from(bytes.get(at + index).is_some_and(|byte| yes(*byte))) << index)
                .sum::<u32>()
        };
        for at in 0..bytes.len() - Block::BYTES {
            let block = Block::at(&bytes, at).unwrap();
            for byte in [1, 0x1f, 0x22, 0x7f, 0x80, 0xff] {
                assert_eq!(block.equal(byte).bits(), bits_of(at, &|own| own == byte));
                assert_eq!(block.at_most(byte).bits(), bits_of(at, &|own| own <= byte));
                let either = block.equal(byte).or(block.equal(b'a'));
                assert_eq!(either.bits(), bits_of(at, &|own| own == byte || own == b'a'));
            }
        }
    }

    #[test]
    fn behind_the_end_there_are_zeros() {
        for length in 1..Block::BYTES {
            let block = Block::at(&[7; 40], 40 - length).unwrap();
            assert_eq!(block.equal(7).bits(), (1 << length) - 1);
            assert_eq!(block.equal(0).bits(), 0xffff & !((1 << length) - 1));
        }
        assert!(Block::at(&[7; 40], 40).is_none());
        assert!(Block::at(&[7; 40], 41).is_none());
    }
}
