//! What one shard hands over at a barrier, and what a run gets back of it.

use std::collections::HashMap;

use ringmill_connect::Journal;
use ringmill_state::{Delta, NodeId, PartitionRecord};

use crate::metrics::NodeCounts;

/// What the coordinator asks the sources of all shards for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BarrierRequest {
    /// The epoch to be ended; 0: none was asked for yet. At most one barrier is on its way at any time.
    pub epoch: u64,
    /// Nothing follows it: sources end with this barrier.
    pub is_final: bool,
}

/// A shard's state at the end of an epoch, as a change against the end of the one before.
#[derive(Debug, Default)]
pub struct ShardSnapshot {
    /// The epoch that ended.
    pub epoch: u64,
    /// Which shard.
    pub shard: usize,
    /// Changed state.
    pub delta: Delta,
    /// Where each partition of this shard goes on, with its source's index in the plan.
    pub partitions: Vec<(usize, PartitionRecord)>,
    /// Each node's figures when the barrier passed it, by index in the plan.
    pub counts: Vec<(usize, NodeCounts)>,
}

impl ShardSnapshot {
    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.epoch = 0;
        self.delta.clear();
        self.partitions.clear();
        self.counts.clear();
    }
}

/// Where a run goes on; the default is the beginning.
#[derive(Default)]
pub struct StartingPoint {
    /// Each node's number in the stores, by index in the plan; without an entry it is the index.
    pub node_ids: Vec<NodeId>,
    /// Where the partitions of each source stand, by the source's index in the plan.
    pub partitions: HashMap<usize, Vec<PartitionRecord>>,
    /// Where sources that come only once keep what they have read, by the source's index in the plan.
    pub journals: HashMap<usize, Journal>,
}

impl StartingPoint {
    /// The number in the stores of the plan's node `index`.
    pub fn node_id(&self, index: usize) -> NodeId {
        let own = || NodeId::try_from(index).unwrap_or(NodeId::MAX);
        self.node_ids.get(index).copied().unwrap_or_else(own)
    }
}
