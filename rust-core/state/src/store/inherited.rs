//! Entries of whole shards that were taken over when shards were cut anew.
//!
//! Several old shards may have one under the same key, so each is kept under a key of its own: a group that no operator
//! uses and a number before the operator's key. They stay until the operator writes or deletes that key itself, and
//! go in the same step.

use std::collections::BTreeMap;

use crate::delta::Delta;
use crate::key::{EntryKey, HEAD_BYTES, WHOLE_SHARD};

/// The group of entries that were taken over; next to [`WHOLE_SHARD`], so that windows hold them too.
const INHERITED: u16 = WHOLE_SHARD - 1;
const NUMBER_BYTES: usize = 4;
/// A key that is too short for an entry: a store that has it may have entries that were taken over.
pub(super) const MARKER: &[u8] = b"inherited";

/// Which keys have entries that were taken over.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// Keys as they are stored, by the operator's key.
    stored: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// The operator's keys that were written since the last checkpoint.
    replaced: Vec<Vec<u8>>,
}

impl Inherited {
    /// Notes a stored key, unless it is an ordinary one.
    pub(super) fn note(&mut self, stored: &[u8]) {
        if let Some(key) = EntryKey::parse(stored).filter(|key| key.group == INHERITED) {
            let own = EntryKey { group: WHOLE_SHARD, key: key.key.get(NUMBER_BYTES..).unwrap_or_default(), ..key };
            self.stored.entry(bytes(&own)).or_default().push(stored.to_vec());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Stored keys that an operator's key stands for as well.
    pub(super) fn of(&self, key: &[u8]) -> impl Iterator<Item = &Vec<u8>> {
        // Nearly always there are none at all.
        let found = if self.stored.is_empty() { None } else { self.stored.get(key) };
        found.into_iter().flatten()
    }

    /// The operators' keys in `delta` are their own from now on.
    pub(super) fn replace(&mut self, delta: &Delta) {
        if !self.stored.is_empty() {
            let keys = delta.puts().map(|(key, _)| key).chain(delta.deletes());
            self.replaced.extend(keys.filter(|key| self.stored.contains_key(*key)).map(<[u8]>::to_vec));
        }
    }

    /// That is durable.
    pub(super) fn forget_replaced(&mut self) {
        for key in self.replaced.drain(..) {
            self.stored.remove(&key);
        }
    }

    /// That is lost.
    pub(super) fn keep_all(&mut self) {
        self.replaced.clear();
    }
}

/// An entry's key as its operator knows it.
pub(super) fn entry(stored: &[u8]) -> Option<EntryKey<'_>> {
    let key = EntryKey::parse(stored)?;
    match key.group {
        INHERITED => Some(EntryKey { group: WHOLE_SHARD, key: key.key.get(NUMBER_BYTES..)?, ..key }),
        _ => Some(key),
    }
}

/// Under what key the `number`-th entry that is taken over is stored.
pub(super) fn stored(key: &EntryKey<'_>, number: u32) -> Vec<u8> {
    let mut rest = number.to_be_bytes().to_vec();
    rest.extend_from_slice(key.key);
    bytes(&EntryKey { group: INHERITED, key: &rest, ..*key })
}

fn bytes(key: &EntryKey<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + key.key.len());
    key.write(&mut bytes);
    bytes
}
