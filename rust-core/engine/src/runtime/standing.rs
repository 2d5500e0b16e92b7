//! A source that is not read in this run: its partitions stay where the checkpoint has them.
//!
//! It passes barriers like any source, with those positions, and ends with the last one. Its watermark stays unknown, so
//! that no window fires for it.

use ringmill_state::PartitionRecord;

use super::operator::{Delivery, Mark, Offer, Operator, OutputMarks, ShardContext};
use crate::error::EngineError;
use crate::metrics::NodeCounts;

/// The source node of one shard.
pub struct StandingSource {
    /// Its index in the plan.
    node: usize,
    records: Vec<PartitionRecord>,
    mark: Mark,
    outputs: OutputMarks,
}

impl StandingSource {
    /// With the partitions that this shard notes; all shards together note each once.
    pub fn new(node: usize, records: Vec<PartitionRecord>) -> Self {
        Self { node, records, mark: Mark::START, outputs: OutputMarks::new() }
    }
}

impl Operator for StandingSource {
    fn advance(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        if self.mark.end || context.barrier.epoch <= self.mark.barrier {
            return Ok(false);
        }
        let records = self.records.iter().map(|record| (self.node, record.clone()));
        context.snapshot.partitions.extend(records);
        self.mark = Mark { barrier: context.barrier.epoch, end: context.barrier.is_final, ..self.mark };
        Ok(true)
    }

    fn accept(&mut self, _: usize, _: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        Ok(0)
    }

    fn mark(&mut self, _: usize, _: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        self.outputs.due(port, self.mark).map(|mark| Offer { rows: None, mark: Some(mark) })
    }

    fn delivered(&mut self, port: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        self.outputs.note_sent(port, self.mark);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.outputs.are_ended()
    }

    fn epoch_passed(&self) -> u64 {
        self.outputs.epoch()
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        self.mark.barrier = epoch;
        self.outputs.restored(epoch);
        Ok(())
    }

    fn counts(&self, counts: &mut NodeCounts) {
        (counts.rows_in, counts.rows_out, counts.dead_letters) = (0, 0, 0);
    }
}
