//! Per-key state that does not all fit into memory.
//!
//! When room is to be made, whatever has changed is written to the shard's store, as a snapshot would, and all entries
//! leave the table but those of rows in flight and those that were used repeatedly. From then on a key that is not in the
//! table may be in the store: it is asked for before its row is taken, together with the keys of the rows behind it. A
//! key that the store does not know has the state of a new one.
//!
//! Meanwhile no rows are taken; those in flight are answered, and what they change is written, too.

use std::ops::Range;

use ringmill_state::{EntryKey, NodeCall, StoreCall, group_of};
use ringmill_wire::BatchView;

use super::{BLOCK, BUSY, KeyedState, SECTION, USED, USED_AGAIN};
use crate::error::EngineError;
use crate::runtime::operator::ShardContext;
use crate::runtime::udf::UdfOperator;
use crate::window::{Dealings, KeyTable, SLICE_BYTES, SLICE_ENTRIES, SLICE_PART, SpillFigures};

/// Entries that are written before their bytes are looked at.
const WRITTEN_AT_ONCE: usize = 64;

/// What is needed of the store before rows are taken again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    #[default]
    Nothing,
    /// Changes are written, then entries leave the table.
    PutAway,
    /// The state of the keys that are asked for.
    Keys,
}

/// What state that may be put away has to remember.
#[derive(Default)]
pub(super) struct Spilling {
    pub store: Dealings<Need>,
    /// Keys that are not in the table may be in the store.
    is_parted: bool,
}

impl Spilling {
    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        self.store.asked.memory_bytes()
    }
}

impl KeyedState {
    /// From now on state is put away when the memory is used up. After [`KeyedState::track_changes`].
    pub fn allow_spilling(&mut self) {
        self.spilling.store.is_on = true;
        self.budget.soften();
    }

    pub(in super::super) fn spilled(&self) -> SpillFigures {
        self.spilling.store.figures
    }

    fn wants_store(&self) -> bool {
        self.spilling.store.wants_any()
    }

    /// How many of the next rows, a block at most, can be looked up now. None: the store is needed first.
    pub(super) fn ready_rows(&mut self, view: &BatchView<'_>, rows: Range<usize>) -> usize {
        let block = rows.start..rows.end.min(rows.start + BLOCK);
        if self.wants_store() {
            return 0;
        }
        if !self.spilling.is_parted {
            return if self.put_away_if_full() { 0 } else { block.len() };
        }
        let keys = self.keys.read(view, block.clone(), &mut self.scratch);
        let ready = (0..block.len()).take_while(|row| self.table.find(&keys, *row).is_some()).count();
        // What came back a moment ago is used before room is made for more.
        if ready == 0 && !self.put_away_if_full() {
            self.ask(view, rows);
        }
        ready
    }

    /// Begins to put entries away if the memory is used up and most are not of rows in flight; whether it did.
    fn put_away_if_full(&mut self) -> bool {
        let is_due = self.budget.is_exceeded() && self.table.entry_count() as usize > 2 * self.busy.len();
        if is_due {
            self.put_away();
        }
        is_due
    }

    pub(super) fn put_away(&mut self) {
        self.spilling.store.need = Need::PutAway;
    }

    /// Asks for the keys of the rows that are not in the table.
    fn ask(&mut self, view: &BatchView<'_>, rows: Range<usize>) {
        let entry_bytes = self.table.layout().stride as u64 * 8;
        let most = (self.budget.comfortable() / SLICE_PART / entry_bytes).clamp(1, SLICE_ENTRIES) as usize;
        let rows = rows.start..rows.end.min(rows.start + most);
        let keys = self.keys.read(view, rows.clone(), &mut self.scratch);
        self.spilling.store.asked.clear();
        for row in 0..rows.len() {
            if self.table.find(&keys, row).is_none() {
                let group = group_of(keys.hashes[row]);
                keys.with_bytes(row, self.keys.word_bytes(), |key| self.spilling.store.asked.push(0, group, key));
            }
        }
        self.spilling.store.need = Need::Keys;
    }

    /// Writes down what is needed of the store; `false`: nothing.
    pub(super) fn call(&mut self, out: &mut NodeCall<'_>) -> bool {
        match self.spilling.store.need {
            _ if self.spilling.store.is_asked => return false,
            Need::Nothing => return false,
            Need::Keys => self.spilling.store.asked.iter().for_each(|(_, group, key)| out.get(SECTION, 0, group, key)),
            Need::PutAway => {
                while out.bytes() < SLICE_BYTES && self.changed.as_ref().is_some_and(|changed| !changed.is_empty()) {
                    self.write_changes(WRITTEN_AT_ONCE, &mut out.writes());
                }
                if out.entries() == 0 {
                    self.drop_entries();
                    return false;
                }
                self.spilling.store.note_put_away(out.entries() as u64, out.bytes());
            }
        }
        self.spilling.store.is_asked = true;
        true
    }

    /// What is in the table is in the store, too: only what is in flight stays, and what was used repeatedly, up to half
    /// of all.
    fn drop_entries(&mut self) {
        (self.spilling.is_parted, self.spilling.store.need) = (true, Need::Nothing);
        let Self { table, busy, initial, budget, .. } = self;
        let flags = |entry: u32| table.words()[table.payload(entry)];
        let hot = (0..table.entry_count()).filter(|&entry| flags(entry) & (BUSY | USED_AGAIN) == USED_AGAIN);
        let kept: Vec<u32> = busy.iter().copied().chain(hot.take(table.entry_count() as usize / 2)).collect();
        table.gather(kept.iter().copied(), &mut self.scratch);
        let mut smaller = KeyTable::new(table.layout());
        let keys = self.keys.of_scratch(&mut self.scratch);
        let rows: Vec<u32> = (0..kept.len() as u32).collect();
        // A soft bound is never in the way.
        let _ = smaller.resolve(&keys, &rows, initial, budget, &mut self.found);
        for (old, new) in kept.iter().zip(&self.found) {
            let (from, to) = (table.payload(*old), smaller.payload(*new));
            let words = &mut smaller.parts_mut().0[to..to + initial.len()];
            words.copy_from_slice(&table.words()[from..from + initial.len()]);
            words[0] &= !(USED | USED_AGAIN);
        }
        let in_flight = busy.len();
        busy.clear();
        busy.extend(&self.found[..in_flight]);
        budget.settle(table.bytes(), 0);
        *table = smaller;
    }

    /// Takes what the store answered; or says what is wrong with it.
    pub(super) fn answer(&mut self, call: &StoreCall) -> Result<(), String> {
        self.spilling.store.is_asked = false;
        if self.spilling.store.need != Need::Keys {
            return Ok(());
        }
        self.spilling.store.need = Need::Nothing;
        self.spilling.store.figures.read_back += call.found.len() as u64;
        let parse = |key| EntryKey::parse(key).ok_or_else(|| "a stored key is too short".to_owned());
        for (key, _) in call.keys.iter() {
            self.find_or_make(parse(key)?.key)?;
        }
        call.found.iter().try_for_each(|(key, value)| self.take_in(&parse(key)?, value))
    }

    /// Whether an entry that is given back after a start stays in the store: a quarter of the memory, at least, is left
    /// for new rows.
    pub(super) fn leaves_in_store(&mut self) -> bool {
        let leaves = self.spilling.store.is_on && self.budget.used() > self.budget.comfortable() / 2;
        self.spilling.is_parted |= leaves;
        leaves
    }
}

impl UdfOperator {
    /// Brings per-key state what it wanted of the store, or asks for it; whether anything was done.
    pub(in super::super) fn serve_keyed(&mut self, context: &ShardContext<'_>) -> Result<bool, EngineError> {
        let (Some(store), Some(keyed)) = (&mut self.store, &mut self.keyed) else { return Ok(false) };
        let mut moved = false;
        if let Some(call) = store.take_served() {
            let taken = keyed.answer(call);
            taken.map_err(|reason| EngineError::Unfit { node: self.name.clone(), reason })?;
            moved = true;
        }
        let is_shipped = context.shipped_epoch >= self.outputs.results_epoch();
        if is_shipped
            && keyed.wants_store()
            && let Some(call) = store.next()
        {
            let is_written = keyed.call(&mut call.node(self.id));
            if is_written {
                store.send();
            }
            moved |= is_written || !keyed.wants_store();
        }
        Ok(moved)
    }
}
