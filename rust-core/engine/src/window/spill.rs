//! What a step that puts entries away has to remember: what it needs of its store next, and which keys are known not
//! to be there.
//!
//! A step needs one thing at a time. Until it has it no rows are taken in, so nothing that was read can be out of date
//! and nothing that is being written can change.

/// Bytes that are written or read in one go.
pub const SLICE_BYTES: usize = 1 << 20;
/// Entries that are read in one go.
pub const SLICE_ENTRIES: u64 = 8192;
/// One part in so many of the memory is for what is read in one go.
pub const SLICE_PART: u64 = 8;

/// What the step needs of its store before it can go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    #[default]
    Nothing,
    /// The table of a window is put away, from this word of its changes on.
    Evict { number: i64, next: usize },
    /// The next entries of a window that fires.
    Slice { number: i64 },
    /// The entries of the keys that are asked for.
    Keys,
}

/// What was put away and read back so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpillFigures {
    /// Entries that were written, each as often as it was.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Entries that were read back.
    pub read_back: u64,
}

impl std::ops::AddAssign for SpillFigures {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.read_back += other.read_back;
    }
}

/// Bytes before a key that is asked for: its window and its group.
const HEAD_BYTES: usize = 10;

/// Keys that the store is asked for, or was: those that did not come back are not there.
#[derive(Debug, Default)]
pub struct Asked {
    bytes: Vec<u8>,
    ranges: Vec<(usize, usize)>,
    is_sorted: bool,
}

impl Asked {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
        self.is_sorted = false;
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        (self.bytes.capacity() + self.ranges.capacity() * size_of::<(usize, usize)>()) as u64
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn push(&mut self, window: u64, group: u16, key: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&window.to_be_bytes());
        self.bytes.extend_from_slice(&group.to_be_bytes());
        self.bytes.extend_from_slice(key);
        self.ranges.push((start, self.bytes.len()));
    }

    /// Makes [`Asked::contains`] possible.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.ranges.sort_unstable_by(|a, b| bytes[a.0..a.1].cmp(&bytes[b.0..b.1]));
        self.ranges.dedup_by(|a, b| bytes[a.0..a.1] == bytes[b.0..b.1]);
        self.is_sorted = true;
    }

    pub fn contains(&self, window: u64, group: u16, key: &[u8]) -> bool {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&window.to_be_bytes());
        head[8..].copy_from_slice(&group.to_be_bytes());
        let order = |range: &(usize, usize)| {
            let asked = &self.bytes[range.0..range.1];
            asked[..HEAD_BYTES].cmp(&head).then_with(|| asked[HEAD_BYTES..].cmp(key))
        };
        self.is_sorted && self.ranges.binary_search_by(order).is_ok()
    }

    /// Window, group and key of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u16, &[u8])> {
        self.ranges.iter().filter_map(|range| {
            let (window, rest) = self.bytes[range.0..range.1].split_first_chunk::<8>()?;
            let (group, key) = rest.split_first_chunk::<2>()?;
            Some((u64::from_be_bytes(*window), u16::from_be_bytes(*group), key))
        })
    }
}
