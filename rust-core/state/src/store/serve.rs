//! Serves what an operator wants between two barriers.
//!
//! The store is scratch until the next checkpoint copies it, so what is put away between two barriers needs no undoing:
//! a run that dies goes on from a checkpoint that has never seen it. Unlike an epoch's changes, of which the store
//! thread keeps a copy until they are in a checkpoint, nobody has these entries any more once they are written. So they
//! go through RocksDB's log, from which a store that is opened again after an error has them back. The log is not
//! synced: it has to survive a full disk, not the process.

use ringmill_failpoint::hit;

use super::{Batches, ShardStore, check_group, options, successor, window_prefix};
use crate::call::{Entries, Scan, StoreCall};
use crate::error::StateError;

impl ShardStore {
    /// Puts entries away and finds others.
    ///
    /// # Errors
    /// What RocksDB says. After [`ShardStore::reopen`] the call may be served again, which changes nothing that was
    /// written already.
    pub fn serve(&mut self, call: &mut StoreCall) -> Result<(), StateError> {
        let served = self.try_serve(call);
        self.is_broken |= matches!(&served, Err(error) if !matches!(error, StateError::Group { .. }));
        served
    }

    fn try_serve(&self, call: &mut StoreCall) -> Result<(), StateError> {
        let db = self.db()?;
        let StoreCall { writes, keys, scan, found, is_end } = call;
        found.clear();
        *is_end = false;
        if !writes.is_empty() {
            writes.puts().try_for_each(|(key, _)| check_group(key))?;
            writes.sort();
            hit("store.spill");
            let mut batches = Batches::new(db, &self.path);
            batches.is_logged = true;
            for key in writes.deletes() {
                batches.add(key.len(), |batch| batch.delete(key))?;
            }
            for (key, value) in writes.puts() {
                batches.add(key.len() + value.len(), |batch| batch.put(key, value))?;
            }
            batches.write()?;
            hit("store.spilled");
        }
        if !keys.is_empty() {
            let mut wanted: Vec<&[u8]> = keys.iter().map(|(key, _)| key).collect();
            wanted.sort_unstable();
            wanted.dedup();
            let values = db.multi_get_opt(&wanted, &options::read());
            for (key, value) in wanted.into_iter().zip(values) {
                if let Some(value) = value.map_err(StateError::store("read", &self.path))? {
                    found.push(key, &value);
                }
            }
            hit("store.read_back");
        }
        if let Some(scan) = scan {
            *is_end = self.scan_window(scan, found)?;
            hit("store.scanned");
        }
        Ok(())
    }

    /// Appends a window's entries; whether there are no more of them.
    fn scan_window(&self, scan: &Scan, found: &mut Entries) -> Result<bool, StateError> {
        let prefix = window_prefix(scan.node, scan.section, scan.window);
        let mut read = options::slice();
        if let Some(end) = successor(prefix) {
            read.set_iterate_upper_bound(end);
        }
        let mut entries = self.db()?.raw_iterator_opt(read);
        if scan.after.is_empty() {
            entries.seek(prefix);
        } else {
            entries.seek(&scan.after);
            if entries.key() == Some(&scan.after) {
                entries.next();
            }
        }
        let before = found.bytes();
        while let Some((key, value)) = entries.item() {
            if !key.starts_with(&prefix) {
                return Ok(true);
            }
            if found.len() >= scan.entries_max || !found.is_empty() && found.bytes() - before >= scan.bytes_max {
                return Ok(false);
            }
            found.push(key, value);
            entries.next();
        }
        entries.status().map_err(StateError::store("read", &self.path))?;
        Ok(true)
    }
}
