//! The bound on a window step's memory, and the emptied tables that wait to be used again within it.
//!
//! A step that can put entries away is bounded *softly*: what a few rows need is always to be had, growing ahead of the
//! need ends below the bound, and whoever took the rows makes room as soon as [`Budget::is_exceeded`].

use super::error::StateFull;
use super::key_table::KeyTable;

/// What may be taken, what is taken, and what is spare.
#[derive(Debug)]
pub struct Budget {
    allowed: u64,
    used: u64,
    spare: Vec<KeyTable>,
    is_soft: bool,
}

impl Budget {
    pub fn new(allowed: u64) -> Self {
        Self { allowed, used: 0, spare: Vec::new(), is_soft: false }
    }

    /// From now on its owner makes room when the bound is exceeded.
    pub fn soften(&mut self) {
        self.is_soft = true;
    }

    /// More may be taken than is allowed.
    pub fn is_soft(&self) -> bool {
        self.is_soft
    }

    /// What is allowed.
    pub fn allowed(&self) -> u64 {
        self.allowed
    }

    /// What is allowed and may be taken ahead of the need: of a soft bound an eighth is left for the rows that come
    /// before room is made.
    pub fn comfortable(&self) -> u64 {
        if self.is_soft { self.allowed - self.allowed / 8 } else { self.allowed }
    }

    /// Room is to be made.
    pub fn is_exceeded(&self) -> bool {
        self.is_soft && self.used > self.comfortable()
    }

    /// Gives spare tables up as long as room is to be made.
    pub fn give_up_spare(&mut self) {
        while self.is_exceeded() {
            let Some(table) = self.spare.pop() else { return };
            self.used -= table.bytes();
        }
    }

    /// That many bytes more cannot be had.
    pub fn full(&self, more: u64) -> StateFull {
        StateFull { needed: self.used.max(self.allowed).saturating_add(more), allowed: self.allowed }
    }

    /// Bytes taken by everything, spare tables included.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes still to be had ahead of the need; spare tables count as taken.
    pub fn remaining(&self) -> u64 {
        self.comfortable().saturating_sub(self.used)
    }

    /// Notes that `bytes` more are about to be taken; spare tables are given up for them.
    pub fn take(&mut self, bytes: u64) -> Result<(), StateFull> {
        let taken = self.take_within(bytes, self.allowed);
        if taken.is_err() && self.is_soft {
            self.used += bytes;
            return Ok(());
        }
        taken
    }

    /// The same for what is not needed yet.
    pub fn take_ahead(&mut self, bytes: u64) -> Result<(), StateFull> {
        self.take_within(bytes, self.comfortable())
    }

    fn take_within(&mut self, bytes: u64, bound: u64) -> Result<(), StateFull> {
        while self.used + bytes > bound {
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
