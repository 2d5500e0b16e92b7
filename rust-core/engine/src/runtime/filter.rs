//! Passes on the rows for which an expression holds.

use ringmill_wire::HeapBatch;

use super::operator::{DEAD_LETTERS, Delivery, InputMarks, LATE, Mark, Offer, Operator, ROWS, Rows, ShardContext};
use crate::error::EngineError;
use crate::expression::Predicate;
use crate::metrics::NodeCounts;

/// Rows looked at in one go, so that the selection stays in the nearest cache.
const CHUNK: usize = 1024;

/// The filter node of one shard.
pub struct FilterOperator {
    name: String,
    predicate: Predicate,
    out: HeapBatch,
    ingest_ns: u64,
    selected: Vec<u32>,
    inputs: InputMarks,
    mark: Mark,
    sent: Mark,
    rows_in: u64,
    rows_out: u64,
    finished: [bool; 3],
}

impl FilterOperator {
    /// Collects passing rows in batches like `out`.
    pub fn new(name: String, predicate: Predicate, out: HeapBatch, inputs: usize) -> Self {
        Self {
            name,
            predicate,
            out,
            ingest_ns: 0,
            selected: Vec::with_capacity(CHUNK),
            inputs: InputMarks::new(inputs),
            mark: Mark::START,
            sent: Mark::START,
            rows_in: 0,
            rows_out: 0,
            finished: [false; 3],
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

    fn accept(&mut self, _: usize, delivery: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        if self.mark != self.sent {
            return Ok(0);
        }
        self.note_ingest(delivery.ingest_ns);
        let mut first = delivery.first;
        while first < delivery.view.rows() {
            let end = (first + CHUNK).min(delivery.view.rows());
            self.selected.clear();
            self.predicate.select(&delivery.view, first..end, &mut self.selected);
            let copied = self.out.writer().copy_selected(&delivery.view, &self.selected);
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
        self.mark = self.inputs.update(input, mark);
        Ok(())
    }

    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        let rows = (port == ROWS && self.out.rows() > 0).then(|| Rows {
            view: self.out.view(),
            first: 0,
            ingest_ns: self.ingest_ns,
        });
        let mark = match port {
            ROWS => (self.mark != self.sent).then_some(self.mark),
            _ => (self.mark.end && !self.finished[port]).then_some(self.mark),
        };
        (rows.is_some() || mark.is_some()).then_some(Offer { rows, mark })
    }

    fn delivered(&mut self, port: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        match port {
            ROWS => {
                self.out.clear();
                self.sent = self.mark;
                self.finished[ROWS] = self.mark.end;
            }
            LATE | DEAD_LETTERS => self.finished[port] = true,
            _ => {}
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.finished.iter().all(|finished| *finished)
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.rows_in = self.rows_in;
        counts.rows_out = self.rows_out;
        counts.absorbed = self.rows_in - self.rows_out;
    }
}
