//! Keys of state entries: which node's, which part of its state, which window, which key group, which key.
//!
//! The head has a fixed length and sorts, so the entries of a window lie together and are deleted together, and any
//! entry's key group is known without asking the operator it belongs to.

/// Key groups: state is kept by group so that shards can be cut anew.
pub const KEY_GROUPS: u16 = 1024;
/// The group of entries that belong to a shard as a whole; every shard that takes over some of it gets them all.
pub const WHOLE_SHARD: u16 = u16::MAX;
/// Bytes before the key proper.
pub const HEAD_BYTES: usize = 13;

/// A node's number, kept for good for its name in one state folder.
pub type NodeId = u16;

/// The key group of a key's hash.
#[inline]
#[must_use]
pub fn group_of(hash: u64) -> u16 {
    (hash % u64::from(KEY_GROUPS)) as u16
}

/// The shard that owns a key group.
#[inline]
#[must_use]
pub fn shard_of(group: u16, shards: usize) -> usize {
    usize::from(group) * shards / usize::from(KEY_GROUPS)
}

/// The key of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryKey<'a> {
    /// Whose state.
    pub node: NodeId,
    /// Which part of it; each operator has its own numbering.
    pub section: u8,
    /// Which window (or 0): any number that the operator likes, kept in order.
    pub window: u64,
    /// The key's group, or [`WHOLE_SHARD`].
    pub group: u16,
    /// The rest, the operator's own.
    pub key: &'a [u8],
}

impl<'a> EntryKey<'a> {
    /// Appends the key's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node.to_be_bytes());
        out.push(self.section);
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&self.group.to_be_bytes());
        out.extend_from_slice(self.key);
    }

    /// Reads what [`EntryKey::write`] wrote; `None`: too short to be one.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, key) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [n0, n1, section, w0, w1, w2, w3, w4, w5, w6, w7, g0, g1] = *head;
        Some(Self {
            node: u16::from_be_bytes([n0, n1]),
            section,
            window: u64::from_be_bytes([w0, w1, w2, w3, w4, w5, w6, w7]),
            group: u16::from_be_bytes([g0, g1]),
            key,
        })
    }
}
