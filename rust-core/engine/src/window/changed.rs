//! Which entries of a table have changed since they were last written out: one bit for each.
//!
//! Until it is switched on it notes nothing and takes no memory. The bits are in bytes and not in words: rows of other
//! entries of the same word would have to wait for each other.

/// A bit for each entry.
#[derive(Debug, Default)]
pub struct Changed {
    is_on: bool,
    bits: Vec<u8>,
}

impl Changed {
    pub fn new(is_on: bool) -> Self {
        Self { is_on, bits: Vec::new() }
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        self.bits.capacity() as u64
    }

    /// Notes entries, all below `count`.
    #[inline]
    pub fn mark_all(&mut self, entries: &[u32], count: u32) {
        if !self.is_on {
            return;
        }
        self.reserve(count);
        let bits = self.bits.as_mut_slice();
        for entry in entries {
            bits[*entry as usize / 8] |= 1 << (entry % 8);
        }
    }

    /// Notes one entry.
    #[inline]
    pub fn mark(&mut self, entry: u32) {
        if self.is_on {
            self.reserve(entry + 1);
            self.bits[entry as usize / 8] |= 1 << (entry % 8);
        }
    }

    #[inline]
    fn reserve(&mut self, count: u32) {
        let bytes = count as usize / 8 + 1;
        if bytes > self.bits.len() {
            self.bits.resize(bytes.next_multiple_of(8), 0);
        }
    }

    /// Replaces `entries` by those that were noted, in order, and forgets them.
    pub fn take(&mut self, entries: &mut Vec<u32>) {
        entries.clear();
        for (at, bytes) in self.bits.as_chunks_mut().0.iter_mut().enumerate() {
            let mut left = u64::from_le_bytes(std::mem::take(bytes));
            while left != 0 {
                entries.push(at as u32 * 64 + left.trailing_zeros());
                left &= left - 1;
            }
        }
    }

    /// Replaces `entries` by those that were noted in the word at `next` or, if there are none, in the first one behind
    /// it that has some, and forgets them; `next` moves behind that word. Empty: there are no more.
    pub fn take_next(&mut self, next: &mut usize, entries: &mut Vec<u32>) {
        entries.clear();
        let words = self.bits.as_chunks_mut().0.get_mut(*next..).unwrap_or_default();
        for bytes in words {
            let mut left = u64::from_le_bytes(std::mem::take(bytes));
            let first = *next as u32 * 64;
            *next += 1;
            while left != 0 {
                entries.push(first + left.trailing_zeros());
                left &= left - 1;
            }
            if !entries.is_empty() {
                return;
            }
        }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.bits.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_given_out_once_and_in_order() {
        let mut changed = Changed::new(true);
        changed.mark_all(&[200, 3, 64, 3], 201);
        changed.mark(63);
        let mut entries = vec![9];
        changed.take(&mut entries);
        assert_eq!(entries, [3, 63, 64, 200]);
        changed.take(&mut entries);
        assert!(entries.is_empty());
    }

    #[test]
    fn what_was_noted_can_be_had_word_by_word() {
        let mut changed = Changed::new(true);
        changed.mark_all(&[200, 3, 63], 201);
        let (mut next, mut entries) = (0, Vec::new());
        changed.take_next(&mut next, &mut entries);
        assert_eq!((&entries[..], next), (&[3, 63][..], 1));
        changed.take_next(&mut next, &mut entries);
        assert_eq!((&entries[..], next), (&[200][..], 4));
        changed.take_next(&mut next, &mut entries);
        assert!(entries.is_empty());
    }

    #[test]
    fn nothing_is_noted_until_it_is_switched_on() {
        let mut changed = Changed::default();
        changed.mark_all(&[1], 2);
        changed.mark(7);
        let mut entries = Vec::new();
        changed.take(&mut entries);
        assert!(entries.is_empty() && changed.bytes() == 0);
    }
}
