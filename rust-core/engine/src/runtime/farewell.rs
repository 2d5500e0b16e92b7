//! A partition that outlives its shard, because it is to be told what the run's last checkpoint covers.

use ringmill_connect::{Partition, Position};

/// The partition, and where the last barrier found it.
pub struct Farewell {
    /// It is polled no more.
    pub partition: Box<dyn Partition>,
    /// What the last checkpoint covers.
    pub position: Position,
}

impl Farewell {
    /// The last checkpoint is complete.
    pub fn tell(mut self) {
        self.partition.covered(&self.position);
    }
}
