//! The sink node of one shard.
//!
//! Rows go to the sink's writer thread, as bytes or for it to encode, each chunk with the epoch of its rows and the barrier
//! behind them. The null sink needs no thread; its sum is state like that of any step.

use std::sync::PoisonError;

use ringmill_connect::{Checksum, Encoder};
use ringmill_ring::monotonic_ns;
use ringmill_state::{EntryKey, KEY_GROUPS, NodeId};
use ringmill_wire::BatchView;

use super::operator::{Delivery, InputMarks, Mark, Offer, Operator, ShardContext};
use super::worker_feed::FeedFigures;
use super::writer_thread::WriterLane;
use crate::error::EngineError;
use crate::instruments::{Instruments, ProbeLane};
use crate::metrics::{NodeCounts, Stage, StageHistograms, WorkerSnapshot};

/// Where a sink node's rows go.
pub enum SinkTarget {
    /// Counted and checksummed.
    Null(NullTarget),
    /// Encoded and written by a thread.
    Writer {
        /// Rows to bytes.
        encoder: Box<dyn Encoder>,
        /// The way to the thread.
        lane: WriterLane,
    },
}

/// Counts and checksums one shard's rows.
pub struct NullTarget {
    checksum: Checksum,
    /// Its number in the stores.
    id: NodeId,
    /// The key group under which the sum is kept. Sums add up, so each must come back in one shard only, and a key group
    /// does, whatever the number of shards then.
    group: u16,
    /// Groups from which sums came back; their entries are replaced by ours at the first barrier.
    taken_over: Vec<u16>,
    /// Rows are counted and not read.
    discards: bool,
    /// Where a bench measures.
    probe: Option<ProbeLane>,
}

/// The sink node of one shard.
pub struct SinkOperator {
    name: String,
    target: SinkTarget,
    inputs: InputMarks,
    mark: Mark,
    /// The last epoch that was ended here.
    epoch: u64,
    rows: u64,
    /// Of the process behind it, for one shard of the run.
    process: Option<FeedFigures>,
}

impl NullTarget {
    /// For the node `id` in `shard` of `shards`.
    pub fn new(id: NodeId, shard: usize, shards: usize) -> Self {
        // The first group of this shard: see `shard_of`.
        let group = (shard * usize::from(KEY_GROUPS)).div_ceil(shards);
        Self {
            checksum: Checksum::default(),
            id,
            group: group as u16,
            taken_over: Vec::new(),
            discards: false,
            probe: None,
        }
    }

    /// The same as the sink `name` of a run with these instruments.
    pub fn watched(self, instruments: Option<&Instruments>, name: &str) -> Self {
        let Some(instruments) = instruments else { return self };
        Self { discards: instruments.discards, probe: Some(instruments.probe.lane(name)), ..self }
    }

    /// Takes rows; `ingest_ns` is when the oldest was read or due, 0: unknown.
    fn take(&mut self, view: &BatchView<'_>, first: usize, ingest_ns: u64, histograms: &mut StageHistograms) {
        let (started_ns, rows) = (monotonic_ns(), (view.rows() - first) as u64);
        if !self.discards {
            self.checksum.update(view, first..view.rows());
        }
        let ended_ns = monotonic_ns();
        histograms.record(Stage::Sink, ended_ns.saturating_sub(started_ns), rows);
        if ingest_ns > 0 {
            histograms.record(Stage::EndToEnd, ended_ns.saturating_sub(ingest_ns), rows);
            if let Some(probe) = &mut self.probe {
                probe.record(ingest_ns, ended_ns, rows);
            }
        }
    }

    fn snapshot(&mut self, context: &mut ShardContext<'_>) {
        let mut delta = context.snapshot.delta.node(self.id);
        for group in self.taken_over.drain(..) {
            delta.delete(0, 0, group, &[]);
        }
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.checksum.rows().to_le_bytes());
        value[8..].copy_from_slice(&self.checksum.value().to_le_bytes());
        delta.put(0, 0, self.group, &[], &value);
    }

    /// `false`: that is no sum.
    fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> bool {
        let Some((rows, sum)) = value.split_first_chunk::<8>() else { return false };
        let Ok(sum) = <[u8; 8]>::try_from(sum) else { return false };
        self.checksum.merge(&Checksum::resume(u64::from_le_bytes(*rows), u64::from_le_bytes(sum)));
        self.taken_over.push(entry.group);
        true
    }
}

impl SinkOperator {
    /// Writes to `target`.
    pub fn new(name: String, target: SinkTarget, inputs: usize) -> Self {
        Self { name, target, inputs: InputMarks::new(inputs), mark: Mark::START, epoch: 0, rows: 0, process: None }
    }

    /// The sink has a process with these figures.
    pub fn set_process(&mut self, figures: FeedFigures) {
        self.process = Some(figures);
    }

    /// The checksum of a null sink.
    pub fn checksum(&self) -> Option<u64> {
        match &self.target {
            SinkTarget::Null(null) => Some(null.checksum.value()),
            SinkTarget::Writer { .. } => None,
        }
    }

    /// Ends the epoch behind its rows, if there is room for the barrier.
    fn pass_barrier(&mut self, context: &mut ShardContext<'_>) -> bool {
        match &mut self.target {
            SinkTarget::Null(null) => null.snapshot(context),
            SinkTarget::Writer { lane, .. } => {
                if !lane.barrier(self.mark.barrier, self.mark.is_over()) {
                    return false;
                }
            }
        }
        self.epoch = self.mark.barrier;
        true
    }
}

impl Operator for SinkOperator {
    fn advance(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        if self.mark.barrier > self.epoch {
            return Ok(self.pass_barrier(context));
        }
        let SinkTarget::Writer { lane, .. } = &mut self.target else { return Ok(false) };
        Ok((lane.is_full() || lane.is_writer_idle()) && lane.send())
    }

    fn accept(
        &mut self,
        input: usize,
        delivery: Delivery<'_>,
        context: &mut ShardContext<'_>,
    ) -> Result<usize, EngineError> {
        if self.mark.barrier > self.epoch || self.inputs.is_blocked(input) {
            return Ok(0);
        }
        let end = delivery.view.rows();
        let taken = match &mut self.target {
            SinkTarget::Null(null) => {
                null.take(&delivery.view, delivery.first, delivery.ingest_ns, context.histograms);
                delivery.remaining()
            }
            SinkTarget::Writer { encoder, lane } => {
                let started_ns = monotonic_ns();
                let mut row = delivery.first;
                while row < end {
                    let handed_over = lane.hand_over(self.epoch + 1, started_ns, &Delivery { first: row, ..delivery });
                    if handed_over > 0 {
                        row += handed_over;
                        continue;
                    }
                    let Some(chunk) = lane.chunk() else { break };
                    let next = (row + encoder.rows_at_once()).min(end);
                    let refused = |error| EngineError::Connect { node: self.name.clone(), error };
                    encoder.check(&delivery.view, row..next).map_err(refused)?;
                    encoder.encode(&delivery.view, row..next, &mut chunk.bytes);
                    chunk.note(self.epoch + 1, delivery.ingest_ns, started_ns, next - row);
                    row = next;
                    if lane.is_full() {
                        lane.send();
                    }
                }
                row - delivery.first
            }
        };
        self.rows += taken as u64;
        Ok(taken)
    }

    fn mark(&mut self, input: usize, mark: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        self.mark = self.inputs.update(input, mark);
        Ok(())
    }

    fn offer(&self, _: usize) -> Option<Offer<'_>> {
        None
    }

    fn delivered(&mut self, _: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let is_sent = match &self.target {
            SinkTarget::Null(_) => true,
            SinkTarget::Writer { lane, .. } => !lane.has_rows(),
        };
        self.mark.end && self.mark.barrier == self.epoch && is_sent
    }

    fn workers(&self, workers: &mut Vec<WorkerSnapshot>, next: usize) -> usize {
        let Some(figures) = &self.process else { return next };
        workers.resize_with(workers.len().max(next + 1), WorkerSnapshot::default);
        workers[next].clone_from(&figures.lock().unwrap_or_else(PoisonError::into_inner));
        next + 1
    }

    fn epoch_passed(&self) -> u64 {
        self.epoch
    }

    fn is_aligning(&self) -> bool {
        self.inputs.is_aligning()
    }

    fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), EngineError> {
        let is_taken = match &mut self.target {
            SinkTarget::Null(null) => null.restore(entry, value),
            SinkTarget::Writer { .. } => false,
        };
        let unfit = || EngineError::Unfit { node: self.name.clone(), reason: "it is not a checksum".into() };
        is_taken.then_some(()).ok_or_else(unfit)
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        (self.mark.barrier, self.epoch) = (epoch, epoch);
        self.inputs.restored(epoch);
        Ok(())
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.rows_in = self.rows;
        counts.rows_out = self.rows;
        counts.checksum = self.checksum();
    }
}
