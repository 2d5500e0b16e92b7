//! A node's way to its shard's store between two barriers.
//!
//! A call goes to the store thread, in order with the shard's snapshots, and comes back served; one at a time, so that
//! neither side ever waits for room. What a node writes after a barrier must not get into that barrier's checkpoint, and
//! what it reads has to be at least as new: so it calls only after the snapshot of the last barrier that passed it was
//! handed over ([`ShardContext::shipped_epoch`](super::operator::ShardContext)).

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use ringmill_state::StoreCall;

use super::signal::ShardSignal;
use super::snapshot::ShardSnapshot;

/// What a shard's store thread is given.
pub enum StoreTask {
    /// The shard's changes up to a barrier.
    Snapshot(Box<ShardSnapshot>),
    /// What a node wants.
    Serve(StoreOrder),
}

/// A call and the way back.
pub struct StoreOrder {
    pub call: Box<StoreCall>,
    reply: Sender<Box<StoreCall>>,
    signal: Arc<ShardSignal>,
}

impl StoreOrder {
    /// Gives the served call back; a node that is gone does not need it.
    pub fn give_back(self) {
        let _ = self.reply.try_send(self.call);
        self.signal.notify();
    }
}

/// A node's end.
pub struct StorePort {
    to_store: Sender<StoreTask>,
    reply: Sender<Box<StoreCall>>,
    served: Receiver<Box<StoreCall>>,
    signal: Arc<ShardSignal>,
    /// `None`: it is on its way.
    call: Option<Box<StoreCall>>,
}

impl StorePort {
    /// To the store thread behind `to_store`, which has room for one call of each node of the shard.
    pub fn new(to_store: Sender<StoreTask>, signal: Arc<ShardSignal>) -> Self {
        let (reply, served) = bounded(1);
        Self { to_store, reply, served, signal, call: Some(Box::default()) }
    }

    /// The call that was served, if it has just come back.
    pub fn take_served(&mut self) -> Option<&StoreCall> {
        if self.call.is_some() {
            return None;
        }
        self.call = self.served.try_recv().ok();
        self.call.as_deref()
    }

    /// An empty call to be written, unless one is on its way.
    pub fn next(&mut self) -> Option<&mut StoreCall> {
        let call = self.call.as_deref_mut()?;
        call.clear();
        Some(call)
    }

    /// Sends what was written.
    pub fn send(&mut self) {
        if let Some(call) = self.call.take() {
            let order = StoreOrder { call, reply: self.reply.clone(), signal: self.signal.clone() };
            // There is a place, and a store thread that is gone has failed the run.
            let _ = self.to_store.try_send(StoreTask::Serve(order));
        }
    }
}
