//! The thread that takes checkpoints: drives the [`Coordinator`] with what shards, stores and sinks report, and does
//! what it says.
//!
//! It is the only one that writes manifests and the only one that tells sinks to commit. When the run is aborted it ends
//! at once, and nothing more is committed.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use ringmill_failpoint::hit;
use ringmill_ring::monotonic_ns;
use ringmill_state::{Manifest, PartialCheckpoint, StateError, StateFolder};
use serde_json::Value;

use super::checkpoint_link::CheckpointLink;
use super::patience::{LEFT_TO_NEXT_RUN, Patience, Spent};
use super::snapshot::BarrierRequest;
use crate::checkpoint::{Action, Coordinator, CoordinatorConfig, Event, ManifestFrame, Part, ShardContent};
use crate::error::EngineError;
use crate::metrics::{CheckpointBoard, Control};
use crate::plan::CheckpointSpec;

/// Who pauses when the checkpoint folder cannot be written.
const FOLDER: &str = "checkpoints";

/// What the coordinator is told here.
pub type CheckpointEvent = Event<ShardContent, Value>;

/// News for the checkpoint thread.
pub enum Message {
    /// Look at the shards and at what is wanted of the run.
    Look,
    /// Something has come about.
    Event(CheckpointEvent),
}

/// What the checkpoint thread wants of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkCommand {
    /// Show the rows of this epoch.
    Commit(u64),
    /// Everything is committed: end the output.
    Finish,
}

/// The checkpoint being written; its stores' folders are in it.
#[derive(Default)]
pub struct OpenCheckpoint(Mutex<Option<PartialCheckpoint>>);

impl OpenCheckpoint {
    /// Where a shard's store goes; `None`: no checkpoint of that epoch is being written.
    pub fn shard_folder(&self, epoch: u64, shard: usize) -> Option<PathBuf> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().filter(|partial| partial.epoch() == epoch).map(|partial| partial.shard_folder(shard))
    }

    fn set(&self, partial: Option<PartialCheckpoint>) -> Option<PartialCheckpoint> {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), partial)
    }
}

/// Everything the thread works with.
pub struct CheckpointThread {
    /// The pipeline's state.
    pub folder: Arc<StateFolder>,
    /// How often, how many.
    pub spec: CheckpointSpec,
    /// The way to the shards.
    pub link: Arc<CheckpointLink>,
    /// What everybody reports.
    pub messages: Receiver<Message>,
    /// The ways to the sinks, in the coordinator's order.
    pub sinks: Vec<Sender<SinkCommand>>,
    /// What all manifests have in common.
    pub frame: ManifestFrame,
    /// Shared with the stores.
    pub open: Arc<OpenCheckpoint>,
    /// Steers the run.
    pub control: Arc<Control>,
    /// What is shown, with what is known at the start.
    pub board: CheckpointBoard,
}

/// The thread at work.
struct Driver {
    parts: CheckpointThread,
    coordinator: Coordinator<ShardContent, Value>,
    is_draining: bool,
    exhausted: Vec<bool>,
}

/// Why the thread ends early.
enum Stop {
    Aborted,
    Failed(EngineError),
}

impl CheckpointThread {
    /// Starts it; the first interval begins now.
    pub fn start(self) -> Result<JoinHandle<()>, EngineError> {
        let recovered_epoch = self.board.figures.epoch;
        let (shards, sinks) = (self.frame.shards, self.sinks.len());
        let config = CoordinatorConfig { interval_ns: self.spec.interval_ns, shards, sinks };
        let coordinator = Coordinator::new(config, recovered_epoch, monotonic_ns());
        let mut driver = Driver { parts: self, coordinator, is_draining: false, exhausted: vec![false; shards] };
        let spawned = std::thread::Builder::new().name("checkpoints".into()).spawn(move || {
            let control = driver.parts.control.clone();
            let _guard = control.guard();
            if let Err(Stop::Failed(error)) = driver.serve() {
                control.fail(error);
            }
        });
        spawned.map_err(|error| EngineError::system("start the checkpoint thread", error))
    }
}

impl Driver {
    /// Until the final checkpoint is committed.
    fn serve(&mut self) -> Result<(), Stop> {
        self.publish();
        while !self.coordinator.is_over() {
            self.look()?;
            if self.coordinator.is_over() {
                break;
            }
            let event = match self.next_message()? {
                Some(Message::Event(event)) => event,
                Some(Message::Look) | None => Event::Tick,
            };
            self.tell(event)?;
        }
        Ok(())
    }

    /// Waits for news until the next tick is due.
    fn next_message(&self) -> Result<Option<Message>, Stop> {
        let messages = &self.parts.messages;
        let received = match self.coordinator.next_wake_ns() {
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at_ns) => messages.recv_timeout(Duration::from_nanos(at_ns.saturating_sub(monotonic_ns()))),
        };
        match received {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Stop::Failed(EngineError::Internal("shards and sinks have left their checkpoint thread".into())))
            }
        }
    }

    /// What nobody sends: the wish to end, and shards whose sources are exhausted.
    fn look(&mut self) -> Result<(), Stop> {
        if self.parts.control.is_aborted() {
            return Err(Stop::Aborted);
        }
        if self.parts.control.is_draining() && !self.is_draining {
            self.is_draining = true;
            self.tell(Event::Drain)?;
        }
        for shard in 0..self.exhausted.len() {
            if !self.exhausted[shard] && self.parts.link.is_exhausted(shard) {
                self.exhausted[shard] = true;
                self.tell(Event::Exhausted { shard })?;
            }
        }
        Ok(())
    }

    /// Tells the coordinator, and does what follows from it.
    fn tell(&mut self, event: CheckpointEvent) -> Result<(), Stop> {
        let mut events = VecDeque::from([event]);
        let mut actions = Vec::new();
        while let Some(event) = events.pop_front() {
            // A refusal means that someone speaks out of turn: a bug, and nothing may be built on it.
            let taken = self.coordinator.handle(event, monotonic_ns(), &mut actions);
            taken.map_err(|refusal| Stop::Failed(EngineError::Internal(format!("checkpoint refused: {refusal}"))))?;
            for action in std::mem::take(&mut actions) {
                events.extend(self.perform(action)?);
            }
            self.publish();
        }
        Ok(())
    }

    fn perform(&mut self, action: Action<ShardContent, Value>) -> Result<Option<CheckpointEvent>, Stop> {
        match action {
            Action::BeginBarrier { epoch, is_final } => {
                hit("coordinator.barrier.begin");
                let folder = self.parts.folder.clone();
                let partial = self.persist("begin a checkpoint", || folder.begin_checkpoint(epoch))?;
                self.parts.open.set(Some(partial));
                hit("coordinator.barrier.open");
                self.parts.link.request(BarrierRequest { epoch, is_final });
                hit("coordinator.barrier.requested");
                Ok(None)
            }
            Action::WriteManifest { epoch, is_complete, shards, sinks } => {
                let created_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let created_ms = u64::try_from(created_ms.as_millis()).unwrap_or(u64::MAX);
                let manifest = self.parts.frame.fill(epoch, is_complete, created_ms, shards, sinks);
                self.write(&manifest)?;
                Ok(Some(Event::ManifestWritten { epoch }))
            }
            Action::CommitSinks { epoch } => {
                hit("coordinator.commit.begin");
                self.command(SinkCommand::Commit(epoch));
                Ok(None)
            }
            Action::Prune => {
                hit("coordinator.prune.begin");
                if let Err(error) = self.parts.folder.prune(self.parts.spec.keep) {
                    // They only take room, and the next checkpoint tries again.
                    tracing::warn!("old checkpoints stay: {error}");
                }
                hit("coordinator.prune.done");
                Ok(None)
            }
            Action::Finish => {
                hit("coordinator.finish");
                self.command(SinkCommand::Finish);
                Ok(None)
            }
        }
    }

    fn write(&mut self, manifest: &Manifest) -> Result<(), Stop> {
        hit("coordinator.manifest.begin");
        let Some(mut partial) = self.parts.open.set(None) else {
            return Err(Stop::Failed(EngineError::Internal(format!("checkpoint {} was not begun", manifest.epoch))));
        };
        self.persist("write a checkpoint", || partial.try_commit(manifest))?;
        self.parts.board.figures.bytes = manifest.files.iter().map(|file| file.bytes).sum();
        hit("coordinator.manifest.written");
        Ok(())
    }

    fn command(&self, command: SinkCommand) {
        for sink in &self.parts.sinks {
            // A sink that is gone has failed the run.
            let _ = sink.send(command);
        }
    }

    /// Tries until there is space; any other error ends the run, and so does a drain that would have to wait.
    fn persist<T>(&mut self, action: &str, mut attempt: impl FnMut() -> Result<T, StateError>) -> Result<T, Stop> {
        let (mut patience, mut is_paused) = (Patience::default(), false);
        loop {
            match attempt() {
                Ok(value) => {
                    if is_paused {
                        self.parts.control.resume(FOLDER);
                        self.note(Event::Resumed { part: Part::Folder });
                        tracing::info!("checkpoints go on");
                    }
                    return Ok(value);
                }
                Err(error) if error.is_out_of_space() => {
                    if !is_paused {
                        is_paused = true;
                        let reason = format!("waiting for space on {}", self.parts.folder.path().display());
                        tracing::error!("{reason} to {action} ({error}); trying again every second");
                        self.parts.control.pause(FOLDER, &reason);
                        self.note(Event::Paused { part: Part::Folder, reason });
                    }
                    patience.wait(&self.parts.control).map_err(|spent| match spent {
                        Spent::Aborted => Stop::Aborted,
                        Spent::Draining => Stop::Failed(EngineError::Unfinished {
                            reason: format!("{action}: {error}"),
                            left: LEFT_TO_NEXT_RUN.into(),
                        }),
                    })?;
                }
                Err(error) => return Err(Stop::Failed(EngineError::Durable { action: action.to_owned(), error })),
            }
        }
    }

    /// Tells the coordinator something from which nothing follows at once.
    fn note(&mut self, event: CheckpointEvent) {
        let mut actions = Vec::new();
        let noted = self.coordinator.handle(event, monotonic_ns(), &mut actions);
        debug_assert!(noted.is_ok() && actions.is_empty());
        self.publish();
    }

    fn publish(&mut self) {
        let figures = self.coordinator.figures();
        let board = &mut self.parts.board;
        board.committed_ns = figures.committed_ns;
        board.figures.epoch = figures.epoch;
        board.figures.duration = Duration::from_nanos(figures.duration_ns);
        board.figures.count = figures.count;
        board.figures.failures = figures.pauses;
        board.figures.state = self.coordinator.state();
        self.parts.control.set_checkpoint(board.clone());
    }
}
