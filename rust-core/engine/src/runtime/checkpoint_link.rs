//! What lies between the shards and the threads that write checkpoints.
//!
//! Three things pass here: the request for a barrier, from the checkpoint thread to all shards ([`BarrierCell`]); the
//! news that a shard's sources have nothing more, the other way; and each shard's state at a barrier, to that shard's
//! store thread ([`StoreEnd`]), whose emptied boxes come back to be filled again. No shard ever waits for any of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};
use ringmill_connect::Waker;

use super::signal::ShardSignal;
use super::snapshot::{BarrierRequest, ShardSnapshot};
use super::store_port::{StorePort, StoreTask};
use crate::metrics::NodeCounts;

/// Snapshots on their way to a store thread: one, as at most one barrier is on its way; a place to spare for the
/// moment between a box's return and the next barrier.
const SNAPSHOTS: usize = 2;

/// The barrier that all sources are asked for.
///
/// Written by the checkpoint thread, read by every shard in every round, so at most one round old there.
#[derive(Debug, Default)]
pub struct BarrierCell {
    /// The epoch to be ended times two, plus one if it is the last; one word, so that both are read together.
    request: AtomicU64,
}

impl BarrierCell {
    /// Asks for a barrier.
    pub fn set(&self, request: BarrierRequest) {
        // Partner: the load in `get`. What the checkpoint thread did before it asked is visible to whoever sees it.
        self.request.store(request.epoch << 1 | u64::from(request.is_final), Ordering::Release);
    }

    /// What was asked for last.
    #[inline]
    pub fn get(&self) -> BarrierRequest {
        let request = self.request.load(Ordering::Acquire);
        BarrierRequest { epoch: request >> 1, is_final: request & 1 == 1 }
    }
}

/// One run's link between its shards and its checkpoint thread.
pub struct CheckpointLink {
    barrier: BarrierCell,
    /// Each written once by its shard, read by the checkpoint thread.
    exhausted: Vec<AtomicBool>,
    signals: Vec<Arc<ShardSignal>>,
    /// Wakes the checkpoint thread.
    wake: Waker,
}

impl CheckpointLink {
    /// For shards that go on after `epoch` (0: at the beginning); `wake` is called when a shard has news.
    pub fn new(epoch: u64, signals: Vec<Arc<ShardSignal>>, wake: Waker) -> Self {
        let link = Self {
            barrier: BarrierCell::default(),
            exhausted: signals.iter().map(|_| AtomicBool::new(false)).collect(),
            signals,
            wake,
        };
        link.barrier.set(BarrierRequest { epoch, is_final: false });
        link
    }

    /// Asks all shards' sources for a barrier; the one before has passed everywhere.
    pub fn request(&self, request: BarrierRequest) {
        self.barrier.set(request);
        self.signals.iter().for_each(|signal| signal.notify());
    }

    /// Whether the sources of a shard have nothing more to read.
    pub fn is_exhausted(&self, shard: usize) -> bool {
        self.exhausted[shard].load(Ordering::Acquire)
    }
}

/// A shard's end of the link.
pub struct ShardCheckpoints {
    link: Arc<CheckpointLink>,
    shard: usize,
    /// Figures of the runs before, by index in the plan.
    base: Vec<NodeCounts>,
    to_store: Sender<StoreTask>,
    spare: Receiver<Box<ShardSnapshot>>,
    /// The last epoch whose snapshot was handed over.
    shipped: u64,
    is_exhausted: bool,
}

/// A store thread's end: the snapshots of one shard and what its nodes want, in order. It ends when the shard has ended.
pub struct StoreEnd {
    tasks: Receiver<StoreTask>,
    spare: Sender<Box<ShardSnapshot>>,
}

/// The ends of one shard's link. `base` holds the figures of the runs before by index in the plan; it is given to one
/// shard, and the others get an empty one.
/// There is room for a call of each of the shard's `nodes`, too.
pub fn connect(
    link: &Arc<CheckpointLink>,
    shard: usize,
    nodes: usize,
    base: Vec<NodeCounts>,
) -> (ShardCheckpoints, StoreEnd) {
    let (to_store, tasks) = bounded(SNAPSHOTS + nodes);
    let (give_back, spare) = bounded(SNAPSHOTS);
    let _ = give_back.try_send(Box::default());
    let shipped = link.barrier.get().epoch;
    let checkpoints =
        ShardCheckpoints { link: link.clone(), shard, base, to_store, spare, shipped, is_exhausted: false };
    (checkpoints, StoreEnd { tasks, spare: give_back })
}

impl ShardCheckpoints {
    /// The barrier that sources are asked for.
    #[inline]
    pub fn request(&self) -> BarrierRequest {
        self.link.barrier.get()
    }

    /// Whether `epoch`, which all nodes have passed, has not been handed over yet.
    #[inline]
    pub fn is_due(&self, epoch: u64) -> bool {
        epoch > self.shipped
    }

    /// Hands the snapshot of `epoch` to the store thread and leaves an empty one; `false`: not now, ask again.
    pub fn ship(&mut self, epoch: u64, snapshot: &mut Box<ShardSnapshot>) -> bool {
        if self.to_store.is_full() {
            return false;
        }
        // The store thread may still have the other box; then a new one is made, which is the only case that allocates.
        let mut full = std::mem::replace(snapshot, self.spare.try_recv().unwrap_or_default());
        (full.epoch, full.shard) = (epoch, self.shard);
        self.add_base(full.counts.iter_mut().map(|(node, counts)| (*node, counts)));
        // There is a place, and a store thread that is gone has failed the run.
        let _ = self.to_store.try_send(StoreTask::Snapshot(full));
        self.shipped = epoch;
        true
    }

    /// The last epoch whose snapshot was handed over.
    pub fn shipped(&self) -> u64 {
        self.shipped
    }

    /// A node's way to the store.
    pub fn port(&self) -> StorePort {
        StorePort::new(self.to_store.clone(), self.link.signals[self.shard].clone())
    }

    /// Adds the figures of the runs before.
    pub fn add_base<'a>(&self, counts: impl Iterator<Item = (usize, &'a mut NodeCounts)>) {
        for (node, counts) in counts {
            let Some(base) = self.base.get(node) else { continue };
            counts.rows_in += base.rows_in;
            counts.rows_out += base.rows_out;
            counts.late += base.late;
            counts.dead_letters += base.dead_letters;
            counts.absorbed += base.absorbed;
            counts.replayed = base.replayed;
            counts.missed = base.missed;
        }
    }

    /// Whether the checkpoint thread does not know yet that this shard's sources have nothing more to read.
    #[inline]
    pub fn awaits_exhaustion(&self) -> bool {
        !self.is_exhausted
    }

    /// Tells it so.
    pub fn note_exhausted(&mut self) {
        self.is_exhausted = true;
        // Partner: the load in `CheckpointLink::is_exhausted`, which a thread woken by what follows must see.
        self.link.exhausted[self.shard].store(true, Ordering::Release);
        (self.link.wake)();
    }
}

impl StoreEnd {
    /// What is to be done next; waits for it. `None`: the shard has ended.
    pub fn next(&self) -> Option<StoreTask> {
        self.tasks.recv().ok()
    }

    /// Empties a snapshot and gives its memory back to the shard; to be called before the checkpoint is reported done.
    pub fn give_back(&self, mut snapshot: Box<ShardSnapshot>) {
        snapshot.clear();
        let _ = self.spare.try_send(snapshot);
    }
}
