//! What a shard's store does with the entries of a window step, in memory.

use std::collections::BTreeMap;

use ringmill_engine::window::{WindowError, WindowOperator};
use ringmill_state::{Delta, EntryKey, StoreCall, WHOLE_SHARD, shard_of};

/// The number of the step that all tests are of.
pub const NODE: u16 = 3;

/// Entries by their keys, and entries of whole shards that came from several, until the operator writes its own.
#[derive(Clone, Debug, Default)]
pub struct Store(pub BTreeMap<Vec<u8>, Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

impl Store {
    /// Takes what an operator has changed, all at once; gives the number of entries put.
    pub fn snapshot(&mut self, operator: &mut WindowOperator) -> usize {
        let mut delta = Delta::default();
        operator.snapshot(&mut delta.node(NODE));
        self.apply(&delta);
        delta.puts().len()
    }

    /// Windows go first, then single entries, then entries are put.
    pub fn apply(&mut self, delta: &Delta) {
        for &(node, section, window) in delta.windows() {
            self.0.retain(|key, _| {
                let entry = EntryKey::parse(key).unwrap();
                (entry.node, entry.section, entry.window) != (node, section, window)
            });
        }
        for key in delta.deletes() {
            self.0.remove(key);
        }
        self.1.retain(|(inherited, _)| delta.puts().all(|(key, _)| key != inherited));
        for (key, value) in delta.puts() {
            self.0.insert(key.to_vec(), value.to_vec());
        }
    }

    /// Puts away and finds what an operator wants.
    pub fn serve(&mut self, call: &mut StoreCall) {
        let StoreCall { writes, found, is_end, keys, scan } = call;
        writes.deletes().for_each(|key| drop(self.0.remove(key)));
        writes.puts().for_each(|(key, value)| drop(self.0.insert(key.to_vec(), value.to_vec())));
        for (key, _) in keys.iter() {
            self.0.get(key).into_iter().for_each(|value| found.push(key, value));
        }
        let Some(scan) = scan else { return };
        *is_end = true;
        for (key, value) in self.0.iter().filter(|(key, _)| **key > scan.after) {
            let entry = EntryKey::parse(key).unwrap();
            if (entry.node, entry.section, entry.window) != (scan.node, scan.section, scan.window) {
                continue;
            }
            if found.len() >= scan.entries_max || !found.is_empty() && found.bytes() >= scan.bytes_max {
                *is_end = false;
                break;
            }
            found.push(key, value);
        }
    }

    /// Gives all entries back.
    pub fn restore(&self, operator: &mut WindowOperator) -> Result<(), WindowError> {
        for (key, value) in self.1.iter().map(|(key, value)| (key, value)).chain(&self.0) {
            operator.restore(&EntryKey::parse(key).unwrap(), value)?;
        }
        operator.restored()
    }

    /// The stores of `shards` shards with what was in these. The entries of whole shards go to every one.
    pub fn cut(stores: &[Store], shards: usize) -> Vec<Store> {
        let mut cut = vec![Store::default(); shards];
        for store in stores {
            for (key, value) in store.1.iter().map(|(key, value)| (key, value)).chain(&store.0) {
                let group = EntryKey::parse(key).unwrap().group;
                if group == WHOLE_SHARD {
                    cut.iter_mut().for_each(|new| new.1.push((key.clone(), value.clone())));
                } else {
                    cut[shard_of(group, shards)].0.insert(key.clone(), value.clone());
                }
            }
        }
        cut
    }
}
