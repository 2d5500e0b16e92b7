//! Passes on some of its rows: those for which an expression holds, or those of one type of events.

use std::ops::Range;

use ringmill_connect::EventTypes;
use ringmill_wire::{BatchView, BatchWriter, HeapBatch};

use super::operator::{Delivery, InputMarks, Mark, Offer, Operator, OutputMarks, ROWS, Rows, ShardContext};
use crate::error::EngineError;
use crate::expression::Predicate;
use crate::metrics::NodeCounts;

/// Rows looked at in one go, so that the selection stays in the nearest cache.
const CHUNK: usize = 1024;

/// Which rows are passed on, and which columns of them.
pub enum Selection {
    /// Those for which an expression holds, as they are.
    Where(Predicate),
    /// Those of the type with this number, and for each column of the results the one that it is in.
    EventType {
        /// The number.
        number: u16,
        /// The columns.
        columns: Vec<usize>,
    },
}

impl Selection {
    fn select(&mut self, view: &BatchView<'_>, rows: Range<usize>, selected: &mut Vec<u32>) {
        match self {
            Selection::Where(predicate) => predicate.select(view, rows, selected),
            Selection::EventType { number, .. } => {
                let numbers = &view.column(EventTypes::NUMBER).values::<u16>()[rows.clone()];
                let own = rows.zip(numbers).filter(|(_, other)| *other == number);
                selected.extend(own.map(|(row, _)| row as u32));
            }
        }
    }

    fn copy(&self, out: &mut BatchWriter, view: &BatchView<'_>, selected: &[u32]) -> usize {
        match self {
            Selection::Where(_) => out.copy_selected(view, selected),
            Selection::EventType { columns, .. } => out.copy_selected_columns(view, columns, selected),
        }
    }
}

/// The filter node of one shard, or that of a type of events.
pub struct FilterOperator {
    name: String,
    selection: Selection,
    out: HeapBatch,
    ingest_ns: u64,
    selected: Vec<u32>,
    inputs: InputMarks,
    mark: Mark,
    outputs: OutputMarks,
    rows_in: u64,
    rows_out: u64,
}

impl FilterOperator {
    /// Collects passing rows in batches like `out`.
    pub fn new(name: String, selection: Selection, out: HeapBatch, inputs: usize) -> Self {
        Self {
            name,
            selection,
            out,
            ingest_ns: 0,
            selected: Vec::with_capacity(CHUNK),
            inputs: InputMarks::new(inputs),
            mark: Mark::START,
            outputs: OutputMarks::new(),
            rows_in: 0,
            rows_out: 0,
        }
    }

    fn note_ingest(&mut self, ingest_ns: u64) {
        if self.out.rows() == 0 || ingest_ns < self.ingest_ns {
            self.ingest_ns = ingest_ns;
        }
    }
}

impl Operator for FilterOperator {
    fn advance(&mut self, _: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        Ok(false)
    }

    fn accept(&mut self, input: usize, delivery: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        if self.inputs.is_blocked(input) || !self.outputs.has_sent(&self.mark) {
            return Ok(0);
        }
        self.note_ingest(delivery.ingest_ns);
        let mut first = delivery.first;
        while first < delivery.view.rows() {
            let end = (first + CHUNK).min(delivery.view.rows());
            self.selected.clear();
            self.selection.select(&delivery.view, first..end, &mut self.selected);
            let copied = self.selection.copy(self.out.writer(), &delivery.view, &self.selected);
            self.rows_out += copied as u64;
            if let Some(&row) = self.selected.get(copied) {
                if self.out.rows() == 0 {
                    let room = self.out.template().capacity().variable_bytes_max;
                    return Err(EngineError::RowTooLarge { node: self.name.clone(), room });
                }
                let taken = row as usize - delivery.first;
                self.rows_in += taken as u64;
                return Ok(taken);
            }
            first = end;
        }
        self.rows_in += delivery.remaining() as u64;
        Ok(delivery.remaining())
    }

    fn mark(&mut self, input: usize, mark: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        self.mark = self.outputs.replace(self.mark, self.inputs.update(input, mark));
        Ok(())
    }

    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        let rows = (port == ROWS && self.out.rows() > 0).then(|| Rows {
            view: self.out.view(),
            first: 0,
            ingest_ns: self.ingest_ns,
        });
        let mark = self.outputs.due(port, self.mark);
        (rows.is_some() || mark.is_some()).then_some(Offer { rows, mark })
    }

    fn delivered(&mut self, port: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        if port == ROWS {
            self.out.clear();
        }
        self.outputs.note_sent(port, self.mark);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.outputs.are_ended()
    }

    fn epoch_passed(&self) -> u64 {
        self.outputs.epoch()
    }

    fn is_aligning(&self) -> bool {
        self.inputs.is_aligning()
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        self.mark.barrier = epoch;
        self.inputs.restored(epoch);
        self.outputs.restored(epoch);
        Ok(())
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.rows_in = self.rows_in;
        counts.rows_out = self.rows_out;
        counts.absorbed = self.rows_in - self.rows_out;
    }
}
