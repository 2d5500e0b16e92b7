//! Per-key state: the shard's table of it, what each row takes along from it, and what comes back.
//!
//! A row's state columns stand behind its own in the request slot, so a replay computes the same, and the new ones
//! behind the function's in the response. They are stored when the result leaves in order; rows that failed leave the
//! state as it was. Until then the key is *busy*: a further row of it has to wait, so a key is in one batch only, once,
//! and its rows are computed in their order. Few hot keys therefore make small batches.
//!
//! What of it has no place in memory is in the shard's store alone ([`spill`]).

mod spill;

use std::collections::VecDeque;
use std::ops::Range;

use ringmill_state::{EntryKey, NodeDelta, group_of};
use ringmill_wire::{BatchView, BatchWriter, DataType, Schema};

use super::UdfOperator;
use crate::error::EngineError;
use crate::plan::StateField;
use crate::runtime::operator::Delivery;
use crate::window::{Budget, EntryLayout, KeyColumns, KeyScratch, KeyTable, StateFull, push_fixed};
use spill::Spilling;

/// Its part of the node's state in the stores.
pub(super) const SECTION: u8 = 0;
/// Rows that are looked up in one go. Few, because whatever stands behind a row that has to wait is looked up again.
const BLOCK: usize = 64;
/// Flags of an entry, in the first word of its payload.
const BUSY: u64 = 1;
const CHANGED: u64 = 2;
/// A row of it was taken since memory was last short.
const USED: u64 = 4;
/// And another one: it stays in memory when others go.
const USED_AGAIN: u64 = 8;

struct StateColumn {
    data_type: DataType,
    width: usize,
}

/// See the module.
pub struct KeyedState {
    keys: KeyColumns,
    scratch: KeyScratch,
    /// By key: flags, then a word for each state column.
    table: KeyTable,
    budget: Budget,
    columns: Vec<StateColumn>,
    /// The payload of a new key.
    initial: Vec<u64>,
    /// Columns of the step's input and of the function's outputs, which stand before the state's.
    inputs: usize,
    outputs: usize,
    /// Entries of the block that was looked up last.
    found: Vec<u32>,
    /// 0, 1, 2, …
    block: Vec<u32>,
    /// Entries of the rows in flight and in the open batch, in order.
    busy: VecDeque<u32>,
    /// Entries with [`CHANGED`]; `None`: there are no checkpoints.
    changed: Option<Vec<u32>>,
    value: Vec<u8>,
    spilling: Spilling,
}

impl KeyedState {
    /// An empty table for the key columns with these indices in `input`.
    pub fn new(key: &[usize], input: &Schema, state: &[StateField], outputs: usize, bytes_max: u64) -> KeyedState {
        let keys = KeyColumns::new(key, input);
        let column = |field: &StateField| StateColumn {
            data_type: field.data_type,
            width: field.data_type.width().unwrap_or(8),
        };
        let initial = std::iter::once(0).chain(state.iter().map(|field| field.initial_word().unwrap_or(0)));
        KeyedState {
            table: KeyTable::new(EntryLayout::new(keys.are_words(), 1 + state.len())),
            keys,
            scratch: KeyScratch::default(),
            budget: Budget::new(bytes_max),
            columns: state.iter().map(column).collect(),
            initial: initial.collect(),
            inputs: input.len(),
            outputs,
            found: Vec::with_capacity(BLOCK),
            block: (0..BLOCK as u32).collect(),
            busy: VecDeque::new(),
            changed: None,
            value: Vec::new(),
            spilling: Spilling::default(),
        }
    }

    /// Remembers from now on which keys have changed.
    pub fn track_changes(&mut self) {
        self.changed = Some(Vec::new());
    }

    /// Columns of the step's input.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Columns of the function's outputs.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> u64 {
        self.budget.used() + self.spilling.bytes()
    }

    /// Looks some rows up; whether the first has to wait for an earlier one of its key.
    fn look_up(&mut self, view: &BatchView<'_>, rows: Range<usize>) -> Result<bool, StateFull> {
        let block = &self.block[..rows.len()];
        let keys = self.keys.read(view, rows, &mut self.scratch);
        self.table.resolve(&keys, block, &self.initial, &mut self.budget, &mut self.found)?;
        Ok(self.found.first().is_some_and(|entry| self.table.words()[self.table.payload(*entry)] & BUSY != 0))
    }

    /// Appends the rows that were looked up, each with its state, until one has to wait or does not fit.
    fn copy_rows(&mut self, view: &BatchView<'_>, rows: Range<usize>, writer: &mut BatchWriter) -> usize {
        for (at, row) in rows.clone().enumerate() {
            let entry = self.found[at];
            let payload = self.table.payload(entry);
            if self.table.words()[payload] & BUSY != 0 || writer.rows_free() == 0 {
                return at;
            }
            if (0..self.inputs).any(|column| writer.copy_value(column, &view.column(column), row).is_err()) {
                writer.discard_row();
                return at;
            }
            let words = self.table.parts_mut().0;
            for (at, (column, word)) in self.columns.iter().zip(&words[payload + 1..]).enumerate() {
                push_fixed(self.inputs + at, column.data_type, &word.to_le_bytes()[..column.width], writer);
            }
            writer.finish_tagged_row(view.tag(row));
            words[payload] |= if words[payload] & USED == 0 { BUSY | USED } else { BUSY | USED_AGAIN };
            self.busy.push_back(entry);
        }
        rows.len()
    }

    /// Stores the state that came back for rows of the first batch in order, the first of which is its row `first`.
    pub(super) fn store(&mut self, first: usize, response: &BatchView<'_>) {
        let KeyedState { table, columns, outputs, busy, changed, .. } = self;
        for (at, column) in columns.iter().enumerate() {
            let values = response.column(*outputs + at).value_bytes().chunks_exact(column.width);
            for (value, entry) in values.take(response.rows()).zip(busy.range(first..)) {
                let place = table.payload(*entry) + 1 + at;
                let mut padded = [0; 8];
                padded[..column.width].copy_from_slice(value);
                table.parts_mut().0[place] = u64::from_le_bytes(padded);
            }
        }
        let Some(changed) = changed else { return };
        for entry in busy.range(first..first + response.rows()) {
            let payload = table.payload(*entry);
            let flags = &mut table.parts_mut().0[payload];
            if *flags & CHANGED == 0 {
                *flags |= CHANGED;
                changed.push(*entry);
            }
        }
    }

    /// The first batch in order is done: its keys are free for further rows.
    pub(super) fn release(&mut self, rows: usize) {
        for entry in self.busy.drain(..rows) {
            let payload = self.table.payload(entry);
            self.table.parts_mut().0[payload] &= !BUSY;
        }
    }

    /// Gives out what has changed since the last time.
    pub(super) fn snapshot(&mut self, out: &mut NodeDelta<'_>) {
        self.write_changes(usize::MAX, out);
    }

    /// Writes entries that have changed, that many at most.
    fn write_changes(&mut self, count: usize, out: &mut NodeDelta<'_>) {
        let KeyedState { keys, table, columns, changed, value, .. } = self;
        let Some(changed) = changed else { return };
        for entry in changed.drain(changed.len().saturating_sub(count)..) {
            let payload = table.payload(entry);
            table.parts_mut().0[payload] &= !CHANGED;
            value.clear();
            for (column, word) in columns.iter().zip(&table.words()[payload + 1..]) {
                value.extend_from_slice(&word.to_le_bytes()[..column.width]);
            }
            out.put(SECTION, 0, group_of(table.hash(entry)), table.key(entry, keys.word_bytes()), value);
        }
    }

    /// Takes one entry back, unless it had better stay in the store; or says what is wrong with it.
    pub(super) fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), String> {
        if self.leaves_in_store() { Ok(()) } else { self.take_in(entry, value) }
    }

    fn take_in(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), String> {
        if value.len() != self.columns.iter().map(|column| column.width).sum::<usize>() {
            return Err("a key's state has the wrong length".into());
        }
        let made = self.find_or_make(entry.key)?;
        let payload = self.table.payload(made);
        let mut rest = value;
        for (at, column) in self.columns.iter().enumerate() {
            let (bytes, others) = rest.split_at(column.width);
            let mut padded = [0; 8];
            padded[..column.width].copy_from_slice(bytes);
            self.table.parts_mut().0[payload + 1 + at] = u64::from_le_bytes(padded);
            rest = others;
        }
        Ok(())
    }

    /// The entry of a stored key, with the state of a new one if there is none.
    fn find_or_make(&mut self, key: &[u8]) -> Result<u32, String> {
        self.keys.load(key, &mut self.scratch)?;
        let keys = self.keys.of_scratch(&mut self.scratch);
        self.table
            .resolve(&keys, &self.block[..1], &self.initial, &mut self.budget, &mut self.found)
            .map_err(|error| format!("it needs {} bytes and may take {}", error.needed, error.allowed))?;
        Ok(self.found[0])
    }
}

impl UdfOperator {
    /// [`Operator::accept`](crate::runtime::operator::Operator::accept) for a step with per-key state.
    pub(super) fn accept_keyed(&mut self, delivery: &Delivery<'_>) -> Result<usize, EngineError> {
        let (mut first, end) = (delivery.first, delivery.view.rows());
        while first < end && self.idle_mark.is_none() {
            let Some(keyed) = &mut self.keyed else { break };
            let rows = first..first + keyed.ready_rows(&delivery.view, first..end);
            if rows.is_empty() {
                break;
            }
            let must_wait = keyed.look_up(&delivery.view, rows.clone());
            let must_wait = must_wait.map_err(|StateFull { needed, allowed }| EngineError::KeyedState {
                step: self.name.clone(),
                needed,
                allowed,
            })?;
            if must_wait {
                // No other row can join the open batch before the one that is waited for is answered.
                if self.writer_rows() > 0 {
                    self.publish();
                }
                break;
            }
            if !self.open(delivery.ingest_ns) {
                break;
            }
            if let Some(open) = self.open.as_mut().filter(|_| self.writer.rows() == 0) {
                open.ingest_ns = delivery.ingest_ns;
            }
            let Some(keyed) = &mut self.keyed else { break };
            let taken = keyed.copy_rows(&delivery.view, rows, &mut self.writer);
            first += taken;
            if taken == 0 && self.writer.rows() == 0 {
                if !self.refuse_row(&delivery.view, first)? {
                    break;
                }
                first += 1;
            } else if taken == 0 || self.writer.rows_free() == 0 {
                self.publish();
            }
        }
        self.rows_in += (first - delivery.first) as u64;
        Ok(first - delivery.first)
    }
}

#[cfg(test)]
mod tests;
