//! The thread that writes one shard's state: takes the shard's changes at each barrier, applies them to the shard's
//! store, and copies the store into the checkpoint that is being written.
//!
//! Between two barriers it serves what the shard's nodes want of the store: they put away what they have no memory for.
//!
//! The shard meanwhile goes on with the next epoch. Lack of space is waited out: the next barrier does not come before
//! this one is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::Sender;
use ringmill_failpoint::hit;
use ringmill_state::{Delta, FileRecord, ShardStore, StateError};

use super::checkpoint_link::StoreEnd;
use super::checkpoint_thread::{CheckpointEvent, Message, OpenCheckpoint};
use super::patience::{LEFT_TO_NEXT_RUN, Patience, Spent};
use super::snapshot::ShardSnapshot;
use super::store_port::{StoreOrder, StoreTask};
use crate::checkpoint::{Event, Part, ShardContent};
use crate::error::EngineError;
use crate::metrics::Control;

/// Everything the thread works with.
pub struct StoreThread {
    /// Which shard's.
    pub shard: usize,
    /// The pipeline's state folder, for people.
    pub place: PathBuf,
    /// The shard's state at the last barrier.
    pub store: ShardStore,
    /// What is to be deleted with the first epoch: state of nodes that are gone.
    pub cleanup: Delta,
    /// Where the shard's changes come from.
    pub end: StoreEnd,
    /// The checkpoint being written.
    pub open: Arc<OpenCheckpoint>,
    /// What it reports.
    pub reports: Sender<Message>,
    /// Steers the run.
    pub control: Arc<Control>,
}

impl StoreThread {
    /// Starts it; it ends with its shard.
    pub fn start(mut self) -> Result<JoinHandle<()>, EngineError> {
        let spawned = std::thread::Builder::new().name(self.name()).spawn(move || {
            let control = self.control.clone();
            let _guard = control.guard();
            while let Some(task) = self.end.next() {
                let done = match task {
                    StoreTask::Snapshot(snapshot) => self.store(snapshot),
                    StoreTask::Serve(order) => self.serve(order),
                };
                match done {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        self.report(Event::Failed { part: Part::Shard(self.shard) });
                        control.fail(error);
                        return;
                    }
                }
            }
        });
        spawned.map_err(|error| EngineError::system("start a store thread", error))
    }

    /// Makes one snapshot durable; `false`: the run was aborted.
    fn store(&mut self, mut snapshot: Box<ShardSnapshot>) -> Result<bool, EngineError> {
        let (shard, epoch) = (self.shard, snapshot.epoch);
        hit("coordinator.shard.snapshot");
        let Some(folder) = self.open.shard_folder(epoch, shard) else {
            let wrong = format!("shard {shard} ended epoch {epoch}, of which no checkpoint is being written");
            // An aborted run takes its open checkpoint away.
            return if self.control.is_aborted() { Ok(false) } else { Err(EngineError::Internal(wrong)) };
        };
        let files =
            self.persist("write a shard's state", |thread, again| thread.attempt(&mut snapshot, &folder, again));
        let Some(files) = files? else { return Ok(false) };
        let content = ShardContent {
            partitions: std::mem::take(&mut snapshot.partitions),
            counts: std::mem::take(&mut snapshot.counts),
            files,
        };
        self.end.give_back(snapshot);
        hit("coordinator.shard.done");
        self.report(Event::ShardDone { shard, epoch, content });
        Ok(true)
    }

    /// Puts away and finds what a node wants; `false`: the run was aborted.
    fn serve(&mut self, mut order: StoreOrder) -> Result<bool, EngineError> {
        let served = self.persist("put state away", |thread, again| {
            if again {
                thread.store.reopen()?;
            }
            thread.store.serve(&mut order.call)
        })?;
        order.give_back();
        Ok(served.is_some())
    }

    /// Tries until there is space, or the run is to end; `attempt` is told the second time that it is one again. `None`: the
    /// run was aborted meanwhile.
    fn persist<T>(
        &mut self,
        action: &str,
        mut attempt: impl FnMut(&mut Self, bool) -> Result<T, StateError>,
    ) -> Result<Option<T>, EngineError> {
        let (mut patience, mut is_paused) = (Patience::default(), false);
        loop {
            match attempt(self, is_paused) {
                Ok(value) => {
                    if is_paused {
                        tracing::info!("the state of shard {} can be written again", self.shard);
                        self.control.resume(&self.name());
                        self.report(Event::Resumed { part: Part::Shard(self.shard) });
                    }
                    return Ok(Some(value));
                }
                Err(error) if error.is_out_of_space() => {
                    if !is_paused {
                        is_paused = true;
                        let reason = format!("waiting for space on {}", self.place.display());
                        tracing::error!(
                            "{reason} for the state of shard {} ({error}); trying again every second",
                            self.shard
                        );
                        self.control.pause(&self.name(), &reason);
                        self.report(Event::Paused { part: Part::Shard(self.shard), reason });
                    }
                    match patience.wait(&self.control) {
                        Ok(()) => {}
                        Err(Spent::Aborted) => return Ok(None),
                        Err(Spent::Draining) => {
                            let reason = format!("{action} (shard {}): {error}", self.shard);
                            return Err(EngineError::Unfinished { reason, left: LEFT_TO_NEXT_RUN.into() });
                        }
                    }
                }
                Err(error) => return Err(EngineError::Durable { action: action.to_owned(), error }),
            }
        }
    }

    /// A store that failed is opened anew and takes the whole epoch again, which changes nothing that it has already.
    fn attempt(&mut self, snapshot: &mut ShardSnapshot, to: &Path, again: bool) -> Result<Vec<FileRecord>, StateError> {
        if again {
            self.store.reopen()?;
        }
        self.store.apply(&mut self.cleanup)?;
        self.store.apply(&mut snapshot.delta)?;
        hit("coordinator.shard.applied");
        let files = self.store.checkpoint(to)?;
        self.cleanup.clear();
        Ok(files)
    }

    fn name(&self) -> String {
        format!("store-{}", self.shard)
    }

    fn report(&self, event: CheckpointEvent) {
        // A checkpoint thread that is gone has ended the run.
        let _ = self.reports.send(Message::Event(event));
    }
}
