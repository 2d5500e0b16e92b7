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

/// What a part of a step remembers of its dealings with the store; `N` is what it may need of it, by default nothing.
#[derive(Debug, Default)]
pub struct Dealings<N> {
    /// It may put away what has no place in memory.
    pub is_on: bool,
    /// What it needs before it can go on.
    pub need: N,
    /// The store was asked for it: the next answer is for this part.
    pub is_asked: bool,
    pub asked: Asked,
    pub figures: SpillFigures,
}

impl<N: Default + PartialEq> Dealings<N> {
    /// Something of the store is needed before the part goes on.
    pub fn wants_any(&self) -> bool {
        self.need != N::default()
    }

    /// These keys are needed.
    pub fn ask(&mut self, mut wanted: Asked, need: N) {
        wanted.sort();
        (self.asked, self.need) = (wanted, need);
    }

    /// So much is on its way to the store.
    pub fn note_put_away(&mut self, entries: u64, bytes: usize) {
        self.figures.entries += entries;
        self.figures.bytes += bytes as u64;
    }
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
