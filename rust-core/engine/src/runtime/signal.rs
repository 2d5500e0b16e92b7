//! Wakes a shard thread that sleeps.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use ringmill_ring::{Doorbell, RingError};

/// One shard's doorbell and whether anybody need ring it.
pub struct ShardSignal {
    /// Written by the shard thread, read by its peers in this process.
    sleeping: AtomicBool,
    doorbell: Doorbell,
}

impl ShardSignal {
    /// A shard that is awake.
    pub fn new() -> Result<Self, RingError> {
        Ok(Self { sleeping: AtomicBool::new(false), doorbell: Doorbell::new()? })
    }

    /// The doorbell, to be given to the shard's workers.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// Tells the shard that something changed; a system call only if it sleeps.
    pub fn notify(&self) {
        // Partner: the fence in `arm`. Forbids reading `sleeping` before the news just published is visible.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            self.doorbell.ring();
        }
    }

    /// Rings whether it sleeps or not.
    pub fn ring(&self) {
        self.doorbell.ring();
    }

    /// Announces sleep; the shard must look for news once more before [`ShardSignal::sleep`].
    pub fn arm(&self) {
        self.doorbell.clear();
        self.sleeping.store(true, Ordering::Relaxed);
        // Partner: the fence in `notify`. Forbids looking for news before `sleeping` is visible.
        fence(Ordering::SeqCst);
    }

    /// The shard is awake.
    pub fn disarm(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Sleeps until rung or timed out.
    pub fn sleep(&self, timeout: Duration) {
        // An interrupted or failed wait only means another round of the graph.
        let _ = self.doorbell.wait(Some(timeout));
    }
}
