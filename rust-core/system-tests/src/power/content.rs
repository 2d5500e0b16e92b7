//! The bytes of one file: those that are durable, and what was done since.

use std::collections::HashMap;

use crate::chaos::Chance;

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// The content of a file.
#[derive(Debug, Default, Clone)]
pub(super) struct Content {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// One change of a file.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Resize(u64),
    /// At least so long.
    Grow(u64),
}

impl Content {
    /// All of this is durable.
    pub(super) fn durable(bytes: Vec<u8>) -> Content {
        Content { durable: bytes, pending: Vec::new() }
    }

    pub(super) fn push(&mut self, change: Change) {
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// As the process sees it.
    pub(super) fn now(&self) -> Vec<u8> {
        self.first(self.pending.len())
    }

    /// Without all changes but the first `count` that are not durable.
    fn first(&self, count: usize) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.pending[..count].iter().for_each(|change| change.apply(&mut bytes));
        bytes
    }

    /// As it may be found after the power failed.
    pub(super) fn after_power_loss(&self, chance: &mut Chance) -> Vec<u8> {
        if self.pending.is_empty() {
            return self.durable.clone();
        }
        match chance.below(4) {
            0 => self.durable.clone(),
            1 => self.now(),
            2 => self.torn(chance),
            _ => self.scattered(chance),
        }
    }

    /// Up to some point, which may lie in the middle of a write.
    fn torn(&self, chance: &mut Chance) -> Vec<u8> {
        let count = chance.below(self.pending.len() as u64 + 1) as usize;
        let mut bytes = self.first(count);
        if let Some(Change::Write { offset, bytes: written }) = self.pending.get(count) {
            let sectors = sectors(*offset, written.len());
            let kept = chance.below(sectors.count() as u64 + 1);
            let end = (offset / SECTOR_BYTES + kept) * SECTOR_BYTES;
            let kept = end.saturating_sub(*offset).min(written.len() as u64) as usize;
            put(&mut bytes, *offset, &written[..kept]);
        }
        if chance.below(2) == 0 {
            let length = self.now().len();
            bytes.resize(bytes.len().max(length), 0);
        }
        bytes
    }

    /// The length as it was at one moment, every sector as it was at a moment of its own.
    fn scattered(&self, chance: &mut Chance) -> Vec<u8> {
        let count = self.pending.len();
        let length_of = chance.below(count as u64 + 1) as usize;
        let length = self.first(length_of).len();
        let mut bytes = self.durable.clone();
        let mut moments: HashMap<u64, usize> = HashMap::new();
        for (index, change) in self.pending.iter().enumerate() {
            match change {
                Change::Write { offset, bytes: written } => {
                    for sector in sectors(*offset, written.len()) {
                        let moment = *moments.entry(sector).or_insert_with(|| match chance.below(3) {
                            0 => 0,
                            1 => count,
                            _ => chance.below(count as u64 + 1) as usize,
                        });
                        if index < moment {
                            let start = (sector * SECTOR_BYTES).max(*offset);
                            let end = ((sector + 1) * SECTOR_BYTES).min(offset + written.len() as u64);
                            put(&mut bytes, start, &written[(start - offset) as usize..(end - offset) as usize]);
                        }
                    }
                }
                // Blocks that were given back in the meantime hold nothing of this file any more.
                Change::Resize(to) if index >= length_of && *to < bytes.len() as u64 => break,
                Change::Resize(_) | Change::Grow(_) if index < length_of => change.apply(&mut bytes),
                Change::Resize(_) | Change::Grow(_) => {}
            }
        }
        bytes.resize(length, 0);
        bytes
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => put(file, *offset, bytes),
            Change::Resize(length) => file.resize(*length as usize, 0),
            Change::Grow(length) => file.resize(file.len().max(*length as usize), 0),
        }
    }
}

/// The numbers of the sectors that these bytes lie in.
fn sectors(offset: u64, length: usize) -> std::ops::Range<u64> {
    offset / SECTOR_BYTES..(offset + length as u64).div_ceil(SECTOR_BYTES)
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    file.resize(file.len().max(end), 0);
    file[start..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Content {
        let mut file = Content::durable(vec![b'a'; 1500]);
        file.push(Change::Write { offset: 1000, bytes: vec![b'b'; 2000] });
        file.push(Change::Write { offset: 3000, bytes: vec![b'c'; 100] });
        file
    }

    #[test]
    fn what_was_synced_stays_whatever_happens() {
        let mut file = file();
        file.sync();
        file.push(Change::Write { offset: 3100, bytes: vec![b'd'; 5000] });
        for seed in 0..1000 {
            let found = file.after_power_loss(&mut Chance::of(seed));
            assert!(found.len() >= 3100 && found[..1000] == [b'a'; 1000] && found[3000..3100] == [b'c'; 100]);
        }
    }

    #[test]
    fn what_was_not_synced_is_found_lost_whole_torn_scattered_and_as_zeros() {
        let file = file();
        let found: Vec<Vec<u8>> = (0..1000).map(|seed| file.after_power_loss(&mut Chance::of(seed))).collect();
        let is_found = |what: &dyn Fn(&[u8]) -> bool| assert!(found.iter().any(|bytes| what(bytes)));
        is_found(&|bytes| bytes == [b'a'; 1500]);
        is_found(&|bytes| bytes == file.now());
        is_found(&|bytes| bytes.len() == 1536);
        is_found(&|bytes| bytes.len() == 3100 && bytes[1000] == b'a' && bytes[3099] == b'c');
        is_found(&|bytes| bytes.len() == 3100 && bytes[1000] == b'b' && bytes[2000] == 0);
        assert!(found.iter().all(|bytes| bytes.len() >= 1500 && bytes[..1000] == [b'a'; 1000]));
    }

    #[test]
    fn a_file_that_was_emptied_and_written_again_shows_nothing_older_behind_the_new_end() {
        let mut file = Content::durable(vec![b'a'; 4000]);
        file.push(Change::Resize(0));
        file.push(Change::Write { offset: 0, bytes: vec![b'b'; 4000] });
        for seed in 0..1000 {
            let found = file.after_power_loss(&mut Chance::of(seed));
            let is_old = found.iter().all(|byte| *byte == b'a') && found.len() == 4000;
            assert!(is_old || !found.contains(&b'a'), "old and new bytes are mixed");
        }
    }
}
