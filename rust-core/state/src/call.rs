//! What an operator wants of its shard's store between two barriers: entries that it has no memory for are put away,
//! and single ones or a window's are had back.
//!
//! A call travels to the store and back, and its memory is used again. Its parts are served in the order writes, reads,
//! scan, so it sees what it writes.

use crate::delta::{Delta, NodeDelta};
use crate::key::{EntryKey, NodeId};

/// Entries in the order of their keys.
#[derive(Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    /// Start of the key, start of the value, end of the value.
    ranges: Vec<(usize, usize, usize)>,
}

impl Entries {
    /// Appends an entry, its key as it is stored.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ranges.push((start, middle, self.bytes.len()));
    }

    /// Keys as they are stored, and values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.ranges.iter().map(|&(start, middle, end)| (&self.bytes[start..middle], &self.bytes[middle..end]))
    }

    /// The last key.
    #[must_use]
    pub fn last_key(&self) -> Option<&[u8]> {
        self.ranges.last().map(|&(start, middle, _)| &self.bytes[start..middle])
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
    }
}

/// Entries of one window that are wanted in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whose.
    pub node: NodeId,
    /// Which part of its state.
    pub section: u8,
    /// Which window.
    pub window: u64,
    /// The key behind which it goes on, as it is stored; empty: it begins with the window.
    pub after: Vec<u8>,
    /// Most entries.
    pub entries_max: usize,
    /// Bytes after which it ends, too.
    pub bytes_max: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct StoreCall {
    /// Entries that are put away. They survive an error of the store, after which it is opened again.
    pub writes: Delta,
    /// Entries that were found, of those asked for or of the window.
    pub found: Entries,
    /// The window has no entries behind those.
    pub is_end: bool,
    /// Keys that are asked for.
    pub keys: Entries,
    /// The window that is read on.
    pub scan: Option<Scan>,
}

impl StoreCall {
    /// One node's part of it.
    pub fn node(&mut self, node: NodeId) -> NodeCall<'_> {
        NodeCall { call: self, node }
    }

    /// Nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.keys.is_empty() && self.scan.is_none()
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.writes.clear();
        self.keys.clear();
        self.scan = None;
        self.found.clear();
        self.is_end = false;
    }
}

/// One node's way into a [`StoreCall`].
pub struct NodeCall<'a> {
    call: &'a mut StoreCall,
    node: NodeId,
}

impl NodeCall<'_> {
    /// Puts an entry away.
    pub fn put(&mut self, section: u8, window: u64, group: u16, key: &[u8], value: &[u8]) {
        self.call.writes.put(&EntryKey { node: self.node, section, window, group, key }, value);
    }

    /// What is put away and, before that, deleted.
    pub fn writes(&mut self) -> NodeDelta<'_> {
        self.call.writes.node(self.node)
    }

    /// Bytes that are put away so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.call.writes.bytes()
    }

    /// Entries that are put away so far.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.call.writes.puts().len()
    }

    /// Asks for an entry.
    pub fn get(&mut self, section: u8, window: u64, group: u16, key: &[u8]) {
        let keys = &mut self.call.keys;
        let start = keys.bytes.len();
        EntryKey { node: self.node, section, window, group, key }.write(&mut keys.bytes);
        keys.ranges.push((start, keys.bytes.len(), keys.bytes.len()));
    }

    /// Asks for the entries of a window that stand behind `after`, a key as it is stored (empty: from the window's
    /// beginning on), until there are so many or so many bytes of them.
    pub fn scan(&mut self, section: u8, window: u64, after: &[u8], entries_max: usize, bytes_max: usize) {
        let after = after.to_vec();
        self.call.scan = Some(Scan { node: self.node, section, window, after, entries_max, bytes_max });
    }
}
