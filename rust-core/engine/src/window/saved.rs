//! Entries as they were at a barrier, written out because they change before the snapshot has come to them.

use ringmill_state::NodeDelta;

/// Entries of a snapshot that are written in one go, about: rows wait no longer than that takes.
pub const GO_ENTRIES: usize = 256;

/// Entries on their way into the snapshot.
#[derive(Debug, Default)]
pub struct Saved {
    /// Section, window, key group, end of the key, end of the value.
    entries: Vec<(u8, u64, u16, usize, usize)>,
    bytes: Vec<u8>,
}

impl Saved {
    /// Adds an entry.
    pub fn put(&mut self, section: u8, window: u64, group: u16, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.entries.push((section, window, group, key_end, self.bytes.len()));
    }

    /// Moves them into the snapshot and keeps the memory.
    pub fn write(&mut self, out: &mut NodeDelta<'_>) {
        let mut start = 0;
        for (section, window, group, key_end, end) in self.entries.drain(..) {
            out.put(section, window, group, &self.bytes[start..key_end], &self.bytes[key_end..end]);
            start = end;
        }
        self.bytes.clear();
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        (self.entries.capacity() * size_of::<(u8, u64, u16, usize, usize)>() + self.bytes.capacity()) as u64
    }
}
