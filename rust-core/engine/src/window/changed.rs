//! Which entries of a table have changed since they were last written out: one bit for each.
//!
//! At a barrier all of them are *owed* to the snapshot, which takes them bit by bit; one that is to change before its turn
//! comes is [claimed](Changed::claim) and written first.
//!
//! Until it is switched on it notes nothing and takes no memory. The bits are in bytes and not in words: rows of other
//! entries of the same word would have to wait for each other.

/// A bit for each entry.
#[derive(Debug, Default)]
pub struct Changed {
    is_on: bool,
    bits: Vec<u8>,
    is_owing: bool,
    /// All 0 if nothing is owed.
    owed: Vec<u8>,
    /// The first word of `owed` that was not looked at.
    next_owed: usize,
}

impl Changed {
    pub fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        (self.bits.capacity() + self.owed.capacity()) as u64
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
        let mut next = 0;
        while take_word(&mut self.bits, &mut next, entries) {}
    }

    /// Replaces `entries` by those that were noted in the word at `next` or, if there are none, in the first one behind
    /// it that has some, and forgets them; `next` moves behind that word. Empty: there are no more.
    pub fn take_next(&mut self, next: &mut usize, entries: &mut Vec<u32>) {
        entries.clear();
        take_word(&mut self.bits, next, entries);
    }

    /// From now on all that was noted is owed; whether that is anything. Nothing must be owed.
    pub fn owe(&mut self) -> bool {
        debug_assert!(!self.is_owing, "one barrier at a time");
        std::mem::swap(&mut self.bits, &mut self.owed);
        self.next_owed = 0;
        self.is_owing = self.owed.iter().any(|byte| *byte != 0);
        self.is_owing
    }

    /// Something may be owed.
    #[inline]
    pub fn is_owing(&self) -> bool {
        self.is_owing
    }

    /// Whether this entry is owed; from now on it is not.
    #[inline]
    pub fn claim(&mut self, entry: u32) -> bool {
        let (at, bit) = (entry as usize / 8, 1 << (entry % 8));
        let is_owed = self.owed.get(at).is_some_and(|byte| byte & bit != 0);
        if is_owed {
            self.owed[at] &= !bit;
        }
        is_owed
    }

    /// Replaces `entries` by about so many that are owed, in order; from now on they are not.
    pub fn take_owed(&mut self, about: usize, entries: &mut Vec<u32>) {
        entries.clear();
        while self.is_owing && entries.len() < about {
            self.is_owing = take_word(&mut self.owed, &mut self.next_owed, entries);
        }
    }

    /// Forgets everything and keeps the memory. Nothing must be owed.
    pub fn clear(&mut self) {
        debug_assert!(!self.is_owing, "it has to be written first");
        self.bits.fill(0);
    }
}

/// Appends what is noted in the first word from `next` on that has anything, and forgets it; `next` moves behind it.
/// `false`: there is none.
fn take_word(bits: &mut [u8], next: &mut usize, entries: &mut Vec<u32>) -> bool {
    for bytes in bits.as_chunks_mut().0.get_mut(*next..).unwrap_or_default() {
        let mut left = u64::from_le_bytes(std::mem::take(bytes));
        let (first, is_any) = (*next as u32 * 64, left != 0);
        *next += 1;
        while left != 0 {
            entries.push(first + left.trailing_zeros());
            left &= left - 1;
        }
        if is_any {
            return true;
        }
    }
    false
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
    fn what_is_owed_is_claimed_or_taken_once_whatever_is_noted_meanwhile() {
        let mut changed = Changed::new(true);
        assert!(!changed.owe());
        changed.mark_all(&[3, 64, 65, 200, 900], 901);
        assert!(changed.owe() && changed.is_owing());
        changed.mark_all(&[64, 65, 1_000], 1_001);
        assert!(changed.claim(65) && !changed.claim(65) && !changed.claim(4) && !changed.claim(1_000));
        let mut entries = vec![9];
        changed.take_owed(2, &mut entries);
        assert_eq!(entries, [3, 64]);
        assert!(changed.claim(900) && changed.is_owing());
        changed.take_owed(10, &mut entries);
        assert_eq!(entries, [200]);
        assert!(!changed.is_owing());
        assert!(changed.owe());
        changed.take_owed(10, &mut entries);
        assert_eq!(entries, [64, 65, 1_000]);
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
