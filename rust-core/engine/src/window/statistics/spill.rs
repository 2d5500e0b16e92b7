//! Histories that do not all fit into memory.
//!
//! When room is to be made, whatever has changed is written to the shard's store, as a snapshot would, and the table is
//! dropped. From then on a key that is not in the table may be in the store: it is asked for before its next result goes
//! out, together with the keys behind it. A key's own entry comes first and says which chunks of results there are, and
//! these come next. A key that the store does not know has no history yet.
//!
//! While something of the store is needed no result goes out, so nothing that was read can be out of date and nothing
//! that is being written can change.

use ringmill_state::{NodeCall, StoreCall, group_of};

use super::Statistics;
use crate::window::budget::Budget;
use crate::window::entry::{HISTORIES, RESULTS, Reader, Refused, load_entry};
use crate::window::key::{KeyColumns, KeyScratch, Keys};
use crate::window::key_table::KeyTable;
use crate::window::spill::{Dealings, SLICE_BYTES, SLICE_ENTRIES, SLICE_PART};

/// What histories need of the store before further results go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    #[default]
    Nothing,
    /// They are put away, from this word of the changes on.
    PutAway { next: usize },
    /// The histories of the keys that are asked for, but for their full chunks.
    Histories,
    /// Those chunks.
    Chunks,
}

/// What histories that may be put away have to remember.
#[derive(Debug, Default)]
pub struct Spilling {
    pub store: Dealings<Need>,
    /// Keys that are not in the table may be in the store.
    is_parted: bool,
    /// What a history took when they were put away last.
    history_bytes: u64,
    /// Room for the number of one history.
    pub found: Vec<u32>,
}

impl Spilling {
    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        self.store.asked.memory_bytes()
    }
}

impl Statistics {
    /// Keys that are not in the table may be in the store.
    pub fn is_parted(&self) -> bool {
        self.spilling.is_parted
    }

    /// From now on they are put away when they are told to. Changes must be noted.
    pub fn allow_spilling(&mut self) {
        self.spilling.store.is_on = true;
    }

    /// What they need of the store, and had.
    pub fn store(&self) -> &Dealings<Need> {
        &self.spilling.store
    }

    /// Bytes that they take.
    pub fn table_bytes(&self) -> u64 {
        self.table.bytes()
    }

    /// Whether putting them away would make room worth the trouble.
    pub fn can_make_room(&self, budget: &Budget) -> bool {
        self.spilling.store.is_on
            && !self.store().wants_any()
            && self.table.bytes() >= budget.comfortable() / SLICE_PART
    }

    /// Begins to put them away.
    pub fn put_away(&mut self) {
        self.spilling.store.need = Need::PutAway { next: 0 };
    }

    /// Whether a history that is given back after a start had better stay in the store.
    pub fn leaves_in_store(&self, budget: &Budget) -> bool {
        self.spilling.store.is_on && budget.used() > budget.comfortable() / 2
    }

    /// A history stays in the store.
    pub fn leave_in_store(&mut self) {
        self.spilling.is_parted = true;
    }

    /// How many of the first keys have their histories at hand.
    pub fn ready_keys(&self, keys: &Keys<'_>) -> usize {
        match self.spilling.is_parted {
            _ if self.spilling.store.wants_any() => 0,
            false => keys.hashes.len(),
            true => (0..keys.hashes.len()).take_while(|key| self.table.find(keys, *key).is_some()).count(),
        }
    }

    /// How many histories can be had back in one go.
    pub fn at_once(&self, budget: &Budget) -> usize {
        let history_bytes = self.spilling.history_bytes.max(self.history_bytes());
        (budget.comfortable() / SLICE_PART / history_bytes).clamp(1, SLICE_ENTRIES) as usize
    }

    /// What a history takes.
    fn history_bytes(&self) -> u64 {
        let least = self.table.layout().stride as u64 * 8;
        (self.table.bytes() / u64::from(self.table.entry_count().max(1))).max(least)
    }

    /// Asks for the histories of keys that are not in the table.
    pub fn ask(&mut self, keys: &Keys<'_>, word_bytes: usize) {
        self.spilling.store.asked.clear();
        for key in 0..keys.hashes.len() {
            if self.table.find(keys, key).is_none() {
                let group = group_of(keys.hashes[key]);
                keys.with_bytes(key, word_bytes, |key| self.spilling.store.asked.push(0, group, key));
            }
        }
        // Several sessions of a key may go out together.
        self.spilling.store.asked.sort();
        self.spilling.store.need = Need::Histories;
    }

    /// Writes down what is needed of the store; `false`: nothing.
    pub fn call(
        &mut self,
        word_bytes: usize,
        budget: &mut Budget,
        room: &mut (Vec<u32>, Vec<u8>),
        out: &mut NodeCall<'_>,
    ) -> bool {
        match self.spilling.store.need {
            Need::Nothing => return false,
            Need::PutAway { next } => {
                if !self.write_slice(next, word_bytes, room, out) {
                    self.drop_table(budget);
                    return false;
                }
            }
            Need::Histories => {
                self.spilling.store.asked.iter().for_each(|(_, group, key)| out.get(HISTORIES, 0, group, key))
            }
            Need::Chunks => {
                self.spilling.store.asked.iter().for_each(|(chunk, group, key)| out.get(RESULTS, chunk, group, key));
            }
        }
        self.spilling.store.is_asked = true;
        true
    }

    /// Writes a slice of the changes; `false`: there are no more.
    fn write_slice(
        &mut self,
        mut next: usize,
        word_bytes: usize,
        (entries, value): &mut (Vec<u32>, Vec<u8>),
        out: &mut NodeCall<'_>,
    ) -> bool {
        self.write_forgotten(word_bytes, &mut out.writes());
        while out.bytes() < SLICE_BYTES {
            self.changed.take_next(&mut next, entries);
            if entries.is_empty() {
                break;
            }
            self.write_all(entries, word_bytes, value, &mut out.writes());
        }
        self.spilling.store.need = Need::PutAway { next };
        self.spilling.store.note_put_away(out.entries() as u64, out.bytes());
        out.bytes() > 0
    }

    /// What is in the table is in the store, too.
    fn drop_table(&mut self, budget: &mut Budget) {
        self.spilling.history_bytes = self.history_bytes();
        (self.spilling.is_parted, self.spilling.store.need) = (true, Need::Nothing);
        budget.settle(self.table.bytes(), 0);
        self.table = KeyTable::new(self.table.layout());
        self.changed.clear();
    }

    /// Takes what the store answered.
    pub fn answer(
        &mut self,
        columns: &KeyColumns,
        scratch: &mut KeyScratch,
        budget: &mut Budget,
        call: &StoreCall,
    ) -> Result<(), Refused> {
        self.spilling.store.is_asked = false;
        let need = self.spilling.store.need;
        if let Need::PutAway { .. } | Need::Nothing = need {
            return Ok(());
        }
        self.spilling.store.need = Need::Nothing;
        self.spilling.store.figures.read_back += call.found.len() as u64;
        if need == Need::Chunks {
            if call.found.len() < call.keys.len() {
                return Err(Refused::Damaged("some of its results are missing"));
            }
            return call.found.iter().try_for_each(|(key, value)| {
                let entry = load_entry(columns, key, scratch)?;
                self.restore_chunk(&columns.of_scratch(scratch), entry.window, &mut Reader::new(value)?)
            });
        }
        for (key, _) in call.keys.iter() {
            load_entry(columns, key, scratch)?;
            self.restored(&columns.of_scratch(scratch), budget)?;
        }
        self.spilling.store.asked.clear();
        for (key, value) in call.found.iter() {
            let entry = load_entry(columns, key, scratch)?;
            let chunks = self.restore_history(&columns.of_scratch(scratch), &mut Reader::new(value)?, budget)?;
            for chunk in chunks {
                self.spilling.store.asked.push(chunk, entry.group, entry.key);
                self.spilling.store.need = Need::Chunks;
            }
        }
        Ok(())
    }
}
