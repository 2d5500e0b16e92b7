//! Starts the threads that take checkpoints, once everything that they need is there.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use ringmill_state::{Delta, ShardStore};

use super::checkpoint_link::{CheckpointLink, ShardCheckpoints, connect};
use super::checkpoint_thread::{CheckpointThread, Message, OpenCheckpoint, SinkCommand};
use super::graph::Graph;
use super::recovery::Durable;
use super::signal::ShardSignal;
use super::store_thread::StoreThread;
use crate::error::EngineError;
use crate::metrics::Control;
use crate::plan::{CheckpointSpec, Plan};

/// Messages on their way to the checkpoint thread for each part: one about the epoch, and pauses around it.
const MESSAGES: usize = 8;

/// A run's checkpoints before they start.
pub struct Checkpoints<'a> {
    plan: &'a Plan,
    spec: &'a CheckpointSpec,
    /// What the run goes on from.
    pub durable: &'a Durable,
    /// What everybody reports to.
    pub reports: Sender<Message>,
    messages: Receiver<Message>,
}

/// Their threads: the stores', then the one that drives them.
pub struct CheckpointThreads(Vec<JoinHandle<()>>);

impl<'a> Checkpoints<'a> {
    /// Of a plan with checkpoints.
    pub fn new(plan: &'a Plan, spec: &'a CheckpointSpec, durable: &'a Durable) -> Self {
        let (reports, messages) = bounded(MESSAGES * (plan.shards + plan.nodes.len()));
        Self { plan, spec, durable, reports, messages }
    }

    /// Starts the threads, with each shard's store and what is to be deleted from it, and gives the nodes their way to it;
    /// `commands` are the ways to the sinks.
    pub fn start(
        self,
        graphs: &mut [Graph],
        stores: Vec<(ShardStore, Delta)>,
        commands: Vec<Sender<SinkCommand>>,
        signals: &[Arc<ShardSignal>],
        control: &Arc<Control>,
    ) -> Result<(Vec<ShardCheckpoints>, CheckpointThreads), EngineError> {
        let Self { plan, spec, durable, reports, messages } = self;
        let news = reports.clone();
        let wake: ringmill_connect::Waker = Arc::new(move || {
            // Where the queue is full, the thread will look anyway.
            let _ = news.try_send(Message::Look);
        });
        control.add_waker(wake.clone());
        let link = Arc::new(CheckpointLink::new(durable.epoch(), signals.to_vec(), wake));
        let open = Arc::new(OpenCheckpoint::default());
        let mut base = durable.base_counts();
        let (mut ends, mut threads) = (Vec::with_capacity(plan.shards), Vec::with_capacity(plan.shards + 1));
        for (shard, ((store, cleanup), graph)) in stores.into_iter().zip(graphs).enumerate() {
            let (shard_end, end) = connect(&link, shard, graph.node_count(), std::mem::take(&mut base));
            graph.set_store(|| shard_end.port());
            let (open, reports, control) = (open.clone(), reports.clone(), control.clone());
            let place = durable.folder.path().to_owned();
            threads.push(StoreThread { shard, place, store, cleanup, end, open, reports, control }.start()?);
            ends.push(shard_end);
        }
        let thread = CheckpointThread {
            folder: durable.folder.clone(),
            spec: spec.clone(),
            link,
            messages,
            sinks: commands,
            frame: durable.frame(plan),
            open,
            control: control.clone(),
            board: durable.board(plan),
        };
        threads.push(thread.start()?);
        Ok((ends, CheckpointThreads(threads)))
    }
}

impl CheckpointThreads {
    /// Waits until the final checkpoint is committed, or the run was aborted; the shards must have ended.
    pub fn join(self) {
        for thread in self.0 {
            // One that panicked has failed the run.
            let _ = thread.join();
        }
    }
}
