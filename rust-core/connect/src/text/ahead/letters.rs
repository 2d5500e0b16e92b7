//! Dead letters of a block, until it is their turn.

use std::ops::Range;

use crate::{DeadLetter, DeadLetters};

/// As many as a portion has at most.
const LETTERS_MAX: usize = if cfg!(test) { 3 } else { 1024 };

/// Letters, in the order of their records. Kept without an allocation for each.
#[derive(Debug, Default)]
pub(super) struct Letters {
    letters: Vec<Letter>,
    reasons: String,
    records: Vec<u8>,
}

#[derive(Debug)]
struct Letter {
    offset: u64,
    reason: Range<usize>,
    record: Range<usize>,
}

impl Letters {
    pub fn clear(&mut self) {
        self.letters.clear();
        self.reasons.clear();
        self.records.clear();
    }

    /// Where, in the content, the record of letter `index` begins.
    pub fn offset(&self, index: usize) -> Option<u64> {
        self.letters.get(index).map(|letter| letter.offset)
    }

    /// Gives letter `index` to `dead`, which has room for it, with the partition's name and its header.
    pub fn hand_over(&self, index: usize, partition: &str, header: Option<&str>, dead: &mut dyn DeadLetters) {
        let Some(letter) = self.letters.get(index) else { return };
        dead.push(&DeadLetter {
            partition,
            offset: letter.offset,
            reason: &self.reasons[letter.reason.clone()],
            record: &self.records[letter.record.clone()],
            header,
            attempts: None,
        });
    }
}

impl DeadLetters for Letters {
    fn has_room(&self) -> bool {
        self.letters.len() < LETTERS_MAX
    }

    fn push(&mut self, letter: &DeadLetter<'_>) {
        let (reason, record) = (self.reasons.len(), self.records.len());
        self.reasons.push_str(letter.reason);
        self.records.extend_from_slice(letter.record);
        self.letters.push(Letter {
            offset: letter.offset,
            reason: reason..self.reasons.len(),
            record: record..self.records.len(),
        });
    }
}
