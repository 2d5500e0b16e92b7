//! The window node of one shard: feeds a [`WindowOperator`] and passes its results on.
//!
//! Closing many windows is a cursor: one batch of results for each round of the graph. Meanwhile no rows are taken in,
//! and the mark that closed the windows follows the last of their results. So at a barrier there is nothing pending, and
//! the windows' state is what goes into the snapshot: a part of it in each round, while rows of the next epoch come.

use ringmill_ring::monotonic_ns;
use ringmill_state::{EntryKey, NodeId};
use ringmill_wire::HeapBatch;

use super::operator::{Delivery, InputMarks, LATE, Mark, Offer, Operator, OutputMarks, ROWS, Rows, ShardContext};
use super::store_port::StorePort;
use crate::error::EngineError;
use crate::metrics::{NodeCounts, Stage};
use crate::time::wall_clock_ns;
use crate::window::{RowTime, SpillFigures, WindowOperator};

/// The window node of one shard.
pub struct WindowNode {
    name: String,
    /// Its number in the stores.
    id: NodeId,
    windows: WindowOperator,
    /// Event-time column of the input; `None`: arrival time.
    time_column: Option<usize>,
    out: HeapBatch,
    out_ingest_ns: u64,
    late: HeapBatch,
    late_ingest_ns: u64,
    inputs: InputMarks,
    /// What the inputs said last.
    mark: Mark,
    /// What was passed on last.
    outputs: OutputMarks,
    rows_in: u64,
    rows_out: u64,
    late_rows: u64,
    /// The way to the store, if there is one.
    store: Option<StorePort>,
}

impl WindowNode {
    /// Results go into batches like `out`, late rows into batches like `late`.
    pub fn new(
        name: String,
        id: NodeId,
        windows: WindowOperator,
        time_column: Option<usize>,
        out: HeapBatch,
        late: HeapBatch,
        inputs: usize,
    ) -> Self {
        Self {
            name,
            id,
            windows,
            time_column,
            out,
            out_ingest_ns: 0,
            late,
            late_ingest_ns: 0,
            inputs: InputMarks::new(inputs),
            mark: Mark::START,
            outputs: OutputMarks::new(),
            rows_in: 0,
            rows_out: 0,
            late_rows: 0,
            store: None,
        }
    }

    /// All results that the mark caused are in `out` or beyond.
    fn has_emitted(&self) -> bool {
        !self.windows.has_output()
    }

    /// What the inputs' mark means for the results.
    fn outgoing(&self, mark: Mark) -> Mark {
        let is_over = mark.watermark_ns == i64::MAX;
        Mark { watermark_ns: if is_over { i64::MAX } else { self.windows.watermark() }, ..mark }
    }

    /// The watermark of the windows where everything was read: just so far that all of them fire, for there may be more
    /// to read in the next run.
    fn final_watermark(&self, newest_ns: i64) -> i64 {
        let newest_ns = if self.time_column.is_none() { newest_ns.max(wall_clock_ns()) } else { newest_ns };
        self.windows.last_end_ns(newest_ns)
    }

    fn unfit(&self, error: &impl std::fmt::Display) -> EngineError {
        EngineError::Unfit { node: self.name.clone(), reason: error.to_string() }
    }

    /// Brings the windows what they wanted of the store, or asks for it; whether anything was done.
    fn serve_windows(&mut self, context: &ShardContext<'_>) -> Result<bool, EngineError> {
        let Some(store) = &mut self.store else { return Ok(false) };
        let mut moved = false;
        if let Some(call) = store.take_served() {
            let taken = self.windows.answer(call);
            taken.map_err(|error| EngineError::Unfit { node: self.name.clone(), reason: error.to_string() })?;
            moved = true;
        }
        let is_shipped = context.shipped_epoch >= self.outputs.results_epoch();
        if is_shipped
            && self.windows.wants_store()
            && let Some(call) = store.next()
        {
            let is_written = self.windows.call(&mut call.node(self.id));
            if is_written {
                store.send();
            }
            moved |= is_written || !self.windows.wants_store();
        }
        Ok(moved)
    }

    /// A barrier has left for the results and waits for the late rows before it.
    fn awaits_late(&self) -> bool {
        self.outputs.results_epoch() > self.outputs.epoch()
    }
}

impl Operator for WindowNode {
    fn advance(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut moved = self.serve_windows(context)?;
        if self.windows.owes_snapshot() {
            self.windows.write_owed(&mut context.snapshot.delta.node(self.id));
            moved = true;
        }
        if self.out.rows() > 0 || self.has_emitted() || self.awaits_late() {
            return Ok(moved);
        }
        let wanted_store = self.windows.wants_store();
        let emitted = self.windows.emit(self.out.writer());
        if emitted.rows == 0 && (self.windows.wants_store() || wanted_store || self.has_emitted()) {
            // A window that fires has to come back from the store first.
            return Ok(moved || self.windows.wants_store() != wanted_store);
        }
        if emitted.rows == 0 {
            self.windows.check().map_err(|error| EngineError::State { step: self.name.clone(), error })?;
            let room = self.out.template().capacity().variable_bytes_max;
            return Err(EngineError::RowTooLarge { node: self.name.clone(), room });
        }
        self.out_ingest_ns = emitted.ingest_ns;
        self.rows_out += u64::from(emitted.rows);
        Ok(true)
    }

    fn accept(
        &mut self,
        input: usize,
        delivery: Delivery<'_>,
        context: &mut ShardContext<'_>,
    ) -> Result<usize, EngineError> {
        let is_marking = !self.outputs.has_sent(&self.mark) || self.awaits_late();
        let is_busy = is_marking || !self.has_emitted() || self.windows.wants_store();
        if is_busy || self.out.rows() > 0 || self.inputs.is_blocked(input) {
            return Ok(0);
        }
        if self.late.rows() == 0 {
            self.late_ingest_ns = delivery.ingest_ns;
        }
        let started_ns = monotonic_ns();
        let time = self.time_column.map_or_else(|| RowTime::Fixed(wall_clock_ns()), RowTime::Column);
        let rows = delivery.first..delivery.view.rows();
        let late_before = self.late.rows();
        let pushed = self.windows.push(&delivery.view, rows, time, delivery.ingest_ns, self.late.writer());
        let taken = pushed.map_err(|error| EngineError::State { step: self.name.clone(), error })?;
        self.rows_in += taken as u64;
        self.late_rows += u64::from(self.late.rows() - late_before);
        if taken > 0 {
            context.histograms.record(Stage::Window, monotonic_ns() - started_ns, taken as u64);
        } else if late_before == 0 && self.late.rows() == 0 && !self.windows.wants_store() {
            let room = self.late.template().capacity().variable_bytes_max;
            return Err(EngineError::RowTooLarge { node: self.name.clone(), room });
        }
        Ok(taken)
    }

    fn mark(&mut self, input: usize, mark: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        let joined = self.inputs.update(input, mark);
        if joined.watermark_ns > self.mark.watermark_ns {
            let watermark_ns = match joined.watermark_ns {
                i64::MAX => self.final_watermark(joined.newest_ns),
                watermark_ns => watermark_ns,
            };
            self.windows.advance(watermark_ns, joined.ingest_ns);
        }
        self.mark = self.outputs.replace(self.mark, joined);
        Ok(())
    }

    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        let rows = match port {
            ROWS if self.out.rows() > 0 => {
                Some(Rows { view: self.out.view(), first: 0, ingest_ns: self.out_ingest_ns })
            }
            LATE if self.late.rows() > 0 => {
                Some(Rows { view: self.late.view(), first: 0, ingest_ns: self.late_ingest_ns })
            }
            _ => None,
        };
        let mark = match port {
            ROWS if self.has_emitted() => self.outputs.due(ROWS, self.mark).map(|mark| self.outgoing(mark)),
            ROWS => None,
            _ => self.outputs.due(port, self.mark),
        };
        (rows.is_some() || mark.is_some()).then_some(Offer { rows, mark })
    }

    fn delivered(&mut self, port: usize, context: &mut ShardContext<'_>) -> Result<(), EngineError> {
        match port {
            ROWS => {
                self.out.clear();
                if self.has_emitted() {
                    if self.mark.end {
                        let full = |error| EngineError::State { step: self.name.clone(), error };
                        self.windows.check().map_err(full)?;
                    }
                    let is_barrier = self.mark.barrier > self.outputs.results_epoch();
                    self.outputs.note_sent(ROWS, self.mark);
                    if is_barrier {
                        self.windows.begin_snapshot(&mut context.snapshot.delta.node(self.id));
                    }
                }
            }
            _ => {
                if port == LATE {
                    self.late.clear();
                }
                self.outputs.note_sent(port, self.mark);
            }
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.outputs.are_ended()
    }

    fn epoch_passed(&self) -> u64 {
        self.outputs.epoch()
    }

    fn owes_snapshot(&self) -> bool {
        self.windows.owes_snapshot()
    }

    fn is_aligning(&self) -> bool {
        self.inputs.is_aligning()
    }

    fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), EngineError> {
        self.windows.restore(entry, value).map_err(|error| self.unfit(&error))
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        self.mark.barrier = epoch;
        self.inputs.restored(epoch);
        self.outputs.restored(epoch);
        self.windows.restored().map_err(|error| self.unfit(&error))
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.rows_in = self.rows_in;
        counts.rows_out = self.rows_out;
        counts.late = self.late_rows;
        counts.absorbed = self.rows_in - self.late_rows;
    }

    fn set_store(&mut self, port: StorePort) {
        self.store = Some(port);
    }

    fn spilled(&self) -> SpillFigures {
        self.windows.spilled()
    }

    fn state_bytes(&self) -> u64 {
        self.windows.state_bytes()
    }
}
