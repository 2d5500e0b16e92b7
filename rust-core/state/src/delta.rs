//! What changed in a shard's state between two barriers, on its way from the operators to the store.

use crate::key::{EntryKey, NodeId};

/// Changes of one epoch. Windows are deleted first, then single entries, then entries are put, whatever the order of
/// the calls.
#[derive(Debug, Default)]
pub struct Delta {
    bytes: Vec<u8>,
    /// Start of the key, start of the value, end of the value.
    puts: Vec<(usize, usize, usize)>,
    deletes: Vec<(usize, usize)>,
    windows: Vec<(NodeId, u8, u64)>,
}

impl Delta {
    /// Sets an entry's value.
    pub fn put(&mut self, key: &EntryKey<'_>, value: &[u8]) {
        let start = self.bytes.len();
        key.write(&mut self.bytes);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.puts.push((start, middle, self.bytes.len()));
    }

    /// Deletes one entry.
    pub fn delete(&mut self, key: &EntryKey<'_>) {
        let start = self.bytes.len();
        key.write(&mut self.bytes);
        self.deletes.push((start, self.bytes.len()));
    }

    /// Deletes all entries of a window.
    pub fn delete_window(&mut self, node: NodeId, section: u8, window: u64) {
        self.windows.push((node, section, window));
    }

    /// The changes of one node.
    pub fn node(&mut self, node: NodeId) -> NodeDelta<'_> {
        NodeDelta { delta: self, node }
    }

    /// Keys and values to be put, in the order of the calls or, after [`Delta::sort`], of the keys.
    pub fn puts(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.puts.iter().map(|&(start, middle, end)| (&self.bytes[start..middle], &self.bytes[middle..end]))
    }

    /// Keys to be deleted.
    pub fn deletes(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.deletes.iter().map(|&(start, end)| &self.bytes[start..end])
    }

    /// Windows to be deleted.
    pub fn windows(&self) -> &[(NodeId, u8, u64)] {
        &self.windows
    }

    /// Sorts by key, which makes writing faster. Of several values for one key the one put last stays last.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.puts.sort_unstable_by(|a, b| bytes[a.0..a.1].cmp(&bytes[b.0..b.1]).then(a.0.cmp(&b.0)));
        self.deletes.sort_unstable_by(|a, b| bytes[a.0..a.1].cmp(&bytes[b.0..b.1]));
    }

    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.windows.is_empty()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.puts.clear();
        self.deletes.clear();
        self.windows.clear();
    }
}

/// One node's way into a [`Delta`].
pub struct NodeDelta<'a> {
    delta: &'a mut Delta,
    node: NodeId,
}

impl NodeDelta<'_> {
    /// Sets an entry's value.
    pub fn put(&mut self, section: u8, window: u64, group: u16, key: &[u8], value: &[u8]) {
        self.delta.put(&EntryKey { node: self.node, section, window, group, key }, value);
    }

    /// Deletes one entry.
    pub fn delete(&mut self, section: u8, window: u64, group: u16, key: &[u8]) {
        self.delta.delete(&EntryKey { node: self.node, section, window, group, key });
    }

    /// Deletes all entries of a window; entries put into it in the same epoch stay.
    pub fn delete_window(&mut self, section: u8, window: u64) {
        self.delta.delete_window(self.node, section, window);
    }
}
