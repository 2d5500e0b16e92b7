//! Per-key state: the shard's table of it, what each row takes along from it, and what comes back.
//!
//! A row's state columns stand behind its own in the request slot, so a replay computes the same, and the new ones
//! behind the function's in the response. They are stored when the result leaves in order; rows that failed leave the
//! state as it was. Until then the key is *busy*: a further row of it has to wait, so a key is in one batch only, once,
//! and its rows are computed in their order. Few hot keys therefore make small batches.

use std::collections::VecDeque;
use std::ops::Range;

use ringmill_state::{EntryKey, NodeDelta, group_of};
use ringmill_wire::{BatchView, BatchWriter, DataType, Schema};

use super::UdfOperator;
use crate::error::EngineError;
use crate::plan::StateField;
use crate::runtime::operator::Delivery;
use crate::window::{Budget, EntryLayout, KeyColumns, KeyScratch, KeyTable, StateFull, push_fixed};

/// Its part of the node's state in the stores.
pub(super) const SECTION: u8 = 0;
/// Rows that are looked up in one go. Few, because whatever stands behind a row that has to wait is looked up again.
const BLOCK: usize = 64;
/// Flags of an entry, in the first word of its payload.
const BUSY: u64 = 1;
const CHANGED: u64 = 2;

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
        self.budget.used()
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
            words[payload] |= BUSY;
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
        let KeyedState { keys, table, columns, changed, value, .. } = self;
        for entry in changed.iter_mut().flat_map(|changed| changed.drain(..)) {
            let payload = table.payload(entry);
            table.parts_mut().0[payload] &= !CHANGED;
            value.clear();
            for (column, word) in columns.iter().zip(&table.words()[payload + 1..]) {
                value.extend_from_slice(&word.to_le_bytes()[..column.width]);
            }
            out.put(SECTION, 0, group_of(table.hash(entry)), table.key(entry, keys.word_bytes()), value);
        }
    }

    /// Takes one entry back; or says what is wrong with it.
    pub(super) fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), String> {
        if value.len() != self.columns.iter().map(|column| column.width).sum::<usize>() {
            return Err("a key's state has the wrong length".into());
        }
        self.keys.load(entry.key, &mut self.scratch)?;
        let keys = self.keys.of_scratch(&mut self.scratch);
        self.table
            .resolve(&keys, &self.block[..1], &self.initial, &mut self.budget, &mut self.found)
            .map_err(|error| format!("it needs {} bytes and may take {}", error.needed, error.allowed))?;
        let payload = self.table.payload(self.found[0]);
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
}

impl UdfOperator {
    /// [`Operator::accept`](crate::runtime::operator::Operator::accept) for a step with per-key state.
    pub(super) fn accept_keyed(&mut self, delivery: &Delivery<'_>) -> Result<usize, EngineError> {
        let (mut first, end) = (delivery.first, delivery.view.rows());
        while first < end && self.idle_mark.is_none() {
            let rows = first..end.min(first + BLOCK);
            let Some(keyed) = &mut self.keyed else { break };
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
mod tests {
    use std::sync::Arc;

    use ringmill_state::Delta;
    use ringmill_wire::{Capacity, Field, HeapBatch, Template};

    use super::*;

    fn template(fields: &[(&str, DataType)]) -> Arc<Template> {
        let fields = fields.iter().map(|(name, data_type)| Field::new(*name, *data_type)).collect();
        let capacity = Capacity { rows_max: 16, variable_bytes_max: 256 };
        Arc::new(Template::new(Arc::new(Schema::new(fields).unwrap()), capacity).unwrap())
    }

    /// Keeps `n`, beginning with 7, and `is_odd` for each `name`; the function has one output.
    fn keyed(input: &Template) -> KeyedState {
        let state = [("n", DataType::Int32, "07000000"), ("is_odd", DataType::Bool, "01")];
        let state = state.map(|(name, data_type, initial)| StateField {
            name: name.into(),
            data_type,
            initial: initial.into(),
        });
        let mut keyed = KeyedState::new(&[0], input.schema(), &state, 1, 1 << 20);
        keyed.track_changes();
        keyed
    }

    fn input() -> Arc<Template> {
        template(&[("name", DataType::Utf8), ("x", DataType::Int64)])
    }

    fn rows(names: &[&str]) -> HeapBatch {
        let mut batch = HeapBatch::new(input());
        for (x, name) in names.iter().enumerate() {
            batch.writer().push_str(0, name).unwrap();
            batch.writer().push(1, x as i64);
            batch.writer().finish_row();
        }
        batch
    }

    fn request() -> HeapBatch {
        let kept = [("n", DataType::Int32), ("is_odd", DataType::Bool)];
        HeapBatch::new(template(&[&[("name", DataType::Utf8), ("x", DataType::Int64)][..], &kept].concat()))
    }

    /// What a function answers that counts: an output, the new `n`, and whether it is odd.
    fn answer(counts: &[i32]) -> HeapBatch {
        let mut batch =
            HeapBatch::new(template(&[("y", DataType::Float64), ("n", DataType::Int32), ("is_odd", DataType::Bool)]));
        for n in counts {
            batch.writer().push(0, 0.5);
            batch.writer().push(1, *n);
            batch.writer().push(2, n % 2 == 1);
            batch.writer().finish_row();
        }
        batch
    }

    /// How many of the rows from `first` on go along now.
    fn take(keyed: &mut KeyedState, batch: &HeapBatch, first: usize, out: &mut HeapBatch) -> usize {
        let rows = first..batch.rows() as usize;
        if keyed.look_up(&batch.view(), rows.clone()).unwrap() {
            return 0;
        }
        keyed.copy_rows(&batch.view(), rows, out.writer())
    }

    #[test]
    fn a_row_waits_until_the_earlier_one_of_its_key_is_answered_and_then_has_its_state() {
        let (batch, mut out) = (rows(&["a", "b", "a", "c"]), request());
        let mut keyed = keyed(&input());
        assert_eq!(take(&mut keyed, &batch, 0, &mut out), 2);
        assert_eq!(take(&mut keyed, &batch, 2, &mut out), 0);
        assert_eq!(out.view().column(2).values::<i32>(), [7, 7]);
        keyed.store(0, &answer(&[8, 9]).view());
        assert_eq!(take(&mut keyed, &batch, 2, &mut out), 0, "the batch is not done yet");
        keyed.release(2);
        assert_eq!(take(&mut keyed, &batch, 2, &mut out), 2);
        assert_eq!(out.view().column(2).values::<i32>(), [7, 7, 8, 7]);
    }

    #[test]
    fn rows_that_failed_leave_the_state_as_it_was() {
        let (batch, mut out) = (rows(&["a", "b", "c"]), request());
        let mut keyed = keyed(&input());
        take(&mut keyed, &batch, 0, &mut out);
        // The second of the three failed.
        keyed.store(0, &answer(&[8]).view());
        keyed.store(2, &answer(&[9]).view());
        keyed.release(3);
        out.clear();
        take(&mut keyed, &batch, 0, &mut out);
        assert_eq!(out.view().column(2).values::<i32>(), [8, 7, 9]);
    }

    #[test]
    fn what_has_changed_is_given_out_once_and_comes_back_elsewhere() {
        let (batch, mut out) = (rows(&["a", "", "a longer name that is kept outside"]), request());
        let mut first = keyed(&input());
        take(&mut first, &batch, 0, &mut out);
        first.store(0, &answer(&[1, 2, 3]).view());
        first.release(3);
        let (mut delta, mut again) = (Delta::default(), Delta::default());
        first.snapshot(&mut delta.node(4));
        first.snapshot(&mut again.node(4));
        assert_eq!((delta.puts().len(), again.puts().len()), (3, 0));
        let mut second = keyed(&input());
        for (key, value) in delta.puts() {
            second.restore(&EntryKey::parse(key).unwrap(), value).unwrap();
        }
        out.clear();
        assert_eq!(take(&mut second, &batch, 0, &mut out), 3);
        assert_eq!(out.view().column(2).values::<i32>(), [1, 2, 3]);
        let entry = EntryKey { node: 4, section: SECTION, window: 0, group: 0, key: b"a" };
        assert!(second.restore(&entry, b"1234").unwrap_err().contains("wrong length"));
    }
}
