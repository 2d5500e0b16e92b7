//! Room for what does not fit a table's fixed entries: long keys, texts, collected lists, histories.
//!
//! Blocks are powers of two of 8-byte words in one growing vector; freed blocks are kept by size and used again.
//! Addresses are word positions, so growing moves nothing that anybody points to.

use super::budget::Budget;

/// No block.
pub const NONE: u32 = u32::MAX;
/// Block sizes: 2^0 … 2^31 words.
const CLASSES: usize = 32;

/// Words in blocks.
#[derive(Debug)]
pub struct Arena {
    words: Vec<u64>,
    free: [u32; CLASSES],
    /// Most words; see [`Arena::limit_growth`].
    words_max: usize,
    /// Beyond that it grows by what is needed.
    is_soft: bool,
}

impl Arena {
    /// An empty arena that has allocated nothing.
    pub const fn new() -> Self {
        Self { words: Vec::new(), free: [NONE; CLASSES], words_max: NONE as usize, is_soft: false }
    }

    /// Gives all blocks back and keeps the memory.
    pub fn clear(&mut self) {
        self.words.clear();
        self.free = [NONE; CLASSES];
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        self.words.capacity() as u64 * 8
    }

    /// Bytes in use, counting freed blocks as used.
    pub fn used_bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// The class of the smallest block with at least that many bytes.
    pub const fn class_of(bytes: usize) -> u8 {
        let words = bytes.div_ceil(8);
        if words <= 1 { 0 } else { (usize::BITS - (words - 1).leading_zeros()) as u8 }
    }

    /// From now on the memory may grow as far as the budget allows.
    pub fn limit_growth(&mut self, budget: &Budget) {
        self.words_max = (self.words.capacity() + (budget.remaining() / 8) as usize).min(NONE as usize);
        self.is_soft = budget.is_soft();
    }

    /// Bytes by which a key of that length, of which so many words are kept elsewhere, makes the arena grow.
    pub fn growth_of_key(&self, length: usize, inline_words: usize) -> u64 {
        if length <= inline_words * 8 { 0 } else { 8 << Self::class_of(length) }
    }

    /// A block of `1 << class` words with whatever was in it. `None`: the limit is reached.
    pub fn allocate(&mut self, class: u8) -> Option<u32> {
        let head = self.free[class as usize];
        if head != NONE {
            self.free[class as usize] = self.words[head as usize] as u32;
            return Some(head);
        }
        let at = self.words.len();
        let end = at + (1usize << class);
        if end > self.words.capacity() {
            let words = if end < self.words_max {
                end.max(self.words.capacity() * 2).min(self.words_max)
            } else if self.is_soft && end < NONE as usize {
                (end + end / 8).min(NONE as usize)
            } else {
                return None;
            };
            self.words.reserve_exact(words - at);
        }
        self.words.resize(end, 0);
        Some(at as u32)
    }

    /// Takes a block back.
    pub fn free(&mut self, at: u32, class: u8) {
        self.words[at as usize] = u64::from(self.free[class as usize]);
        self.free[class as usize] = at;
    }

    /// The words from `at` on.
    #[inline]
    pub fn words(&self, at: u32, count: usize) -> &[u64] {
        &self.words[at as usize..at as usize + count]
    }

    /// The words from `at` on.
    #[inline]
    pub fn words_mut(&mut self, at: u32, count: usize) -> &mut [u64] {
        &mut self.words[at as usize..at as usize + count]
    }

    /// The first bytes of the block at `at`.
    #[inline]
    pub fn data(&self, at: u32, bytes: usize) -> &[u8] {
        &bytemuck::cast_slice(self.words(at, bytes.div_ceil(8)))[..bytes]
    }

    /// The first bytes of the block at `at`.
    #[inline]
    pub fn data_mut(&mut self, at: u32, bytes: usize) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(self.words_mut(at, bytes.div_ceil(8)))[..bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_block_is_used_again() {
        let mut arena = Arena::new();
        let class = Arena::class_of(17);
        assert_eq!(class, 2);
        let first = arena.allocate(class).unwrap();
        arena.data_mut(first, 17).fill(7);
        let second = arena.allocate(class).unwrap();
        assert_ne!(first, second);
        assert_eq!(arena.data(first, 17), [7; 17]);
        arena.free(first, class);
        assert_eq!(arena.allocate(class), Some(first));
        assert_eq!(arena.used_bytes(), 64);
    }

    #[test]
    fn classes_hold_what_they_are_for() {
        for bytes in 1..5000usize {
            let class = Arena::class_of(bytes);
            assert!(8usize << class >= bytes && (class == 0 || (8usize << (class - 1)) < bytes));
        }
    }
}
