//! The bound on a window step's memory, and the emptied tables that wait to be used again within it.

use super::error::StateFull;
use super::key_table::KeyTable;

/// What may be taken, what is taken, and what is spare.
#[derive(Debug)]
pub struct Budget {
    allowed: u64,
    used: u64,
    spare: Vec<KeyTable>,
}

impl Budget {
    pub fn new(allowed: u64) -> Self {
        Self { allowed, used: 0, spare: Vec::new() }
    }

    /// Bytes taken by everything, spare tables included.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes still to be had; spare tables count as taken.
    pub fn remaining(&self) -> u64 {
        self.allowed.saturating_sub(self.used)
    }

    /// Notes that `bytes` more are about to be taken; spare tables are given up for them.
    pub fn take(&mut self, bytes: u64) -> Result<(), StateFull> {
        while self.used + bytes > self.allowed {
            let Some(table) = self.spare.pop() else {
                return Err(StateFull { needed: self.used + bytes, allowed: self.allowed });
            };
            self.used -= table.bytes();
        }
        self.used += bytes;
        Ok(())
    }

    /// Notes what something takes now that took `before`.
    pub fn settle(&mut self, before: u64, now: u64) {
        self.used = (self.used + now).saturating_sub(before);
    }

    /// An emptied table, if there is one.
    pub fn reuse(&mut self) -> Option<KeyTable> {
        self.spare.pop()
    }

    /// Takes a table back. One that is much too large for what was in it goes back to the system.
    pub fn recycle(&mut self, mut table: KeyTable) {
        let (bytes, used) = (table.bytes(), table.used_bytes());
        if bytes > 1 << 20 && used < bytes / 16 {
            self.used = self.used.saturating_sub(bytes);
            return;
        }
        table.clear();
        self.spare.push(table);
    }
}
