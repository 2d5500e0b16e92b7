//! The checkpoint coordinator: decides when an epoch ends, and what may follow what.
//!
//! One epoch goes through four phases, and only one epoch at a time: its *barrier* travels (until every shard's state
//! and every sink's rows are durable), its *manifest* is written (the commit point), the sinks *commit*, and then the
//! next may begin. The final epoch ends the run.
//!
//! This is a pure state machine: no clock, no thread, no file. What the parts hand in for an epoch (`S` for a shard, `K`
//! for a sink) is kept with that epoch and never looked into, so nothing of one epoch can get into another's manifest.
//! Whoever drives it performs each [`Action`] in the order given and reports back with an [`Event`]. The same code runs
//! under the checkpoint thread and under a simulation.

use std::collections::BTreeMap;
use std::fmt;

/// How many parts there are, and how often they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoordinatorConfig {
    /// From the start of one epoch's barrier to the start of the next, in nanoseconds.
    pub interval_ns: u64,
    /// Shards, numbered from 0.
    pub shards: usize,
    /// Sinks that stage and commit, numbered from 0.
    pub sinks: usize,
}

/// Whoever takes part in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A shard and its store.
    Shard(usize),
    /// A sink and its writer.
    Sink(usize),
    /// The folder that the manifest is written to.
    Folder,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Shard(shard) => write!(f, "shard {shard}"),
            Part::Sink(sink) => write!(f, "sink {sink}"),
            Part::Folder => f.write_str("the checkpoint folder"),
        }
    }
}

/// What the coordinator is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<S, K> {
    /// Time has passed.
    Tick,
    /// All sources of a shard were read to their end.
    Exhausted {
        /// Which.
        shard: usize,
    },
    /// The run is to end with what was read so far.
    Drain,
    /// A shard's state at the end of `epoch` is durable, and every row before it went to the sinks.
    ShardDone {
        /// Which.
        shard: usize,
        /// The epoch that ended.
        epoch: u64,
        /// What goes into the manifest.
        content: S,
    },
    /// A sink has made all rows of `epoch` durable without showing them.
    SinkStaged {
        /// Which.
        sink: usize,
        /// The epoch that ended.
        epoch: u64,
        /// What goes into the manifest.
        staged: K,
    },
    /// The manifest of `epoch` is durable under its final name.
    ManifestWritten {
        /// The epoch.
        epoch: u64,
    },
    /// A sink shows the rows of `epoch`.
    SinkCommitted {
        /// Which.
        sink: usize,
        /// The epoch.
        epoch: u64,
    },
    /// A part cannot go on now, for example for lack of space, and keeps trying.
    Paused {
        /// Which.
        part: Part,
        /// Why, for people.
        reason: String,
    },
    /// A part that had paused goes on.
    Resumed {
        /// Which.
        part: Part,
    },
    /// A part has given up; nothing more is written or committed.
    Failed {
        /// Which.
        part: Part,
    },
}

/// What the coordinator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<S, K> {
    /// Sources are to put the barrier that ends `epoch` into their streams.
    BeginBarrier {
        /// The epoch to be ended.
        epoch: u64,
        /// Nothing follows it in this run.
        is_final: bool,
    },
    /// The manifest is to be written; [`Event::ManifestWritten`] when it is durable.
    WriteManifest {
        /// The epoch that ended.
        epoch: u64,
        /// All input was read and everything that follows from it is in this checkpoint.
        is_complete: bool,
        /// What each shard handed in.
        shards: Vec<S>,
        /// What each sink handed in.
        sinks: Vec<K>,
    },
    /// Every sink is to show the rows of `epoch`.
    CommitSinks {
        /// The epoch.
        epoch: u64,
    },
    /// Checkpoints that are no longer needed may go.
    Prune,
    /// The final epoch is committed: the run is over.
    Finish,
}

/// Why an event was not taken; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such part.
    #[error("{part} takes no part in checkpoints")]
    NoSuchPart {
        /// The part.
        part: Part,
    },
    /// It belongs to another epoch.
    #[error("{part} speaks of epoch {told} while epoch {current} is being ended")]
    WrongEpoch {
        /// The part.
        part: Part,
        /// The epoch it spoke of.
        told: u64,
        /// The epoch being ended, or the last that was.
        current: u64,
    },
    /// The part has said so already, or was not asked yet.
    #[error("{part} reports on epoch {epoch} out of turn")]
    OutOfTurn {
        /// The part.
        part: Part,
        /// The epoch.
        epoch: u64,
    },
}

/// How the checkpoints went so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The last epoch that was committed, also by an earlier run; 0: none.
    pub epoch: u64,
    /// When that was; `None`: not in this run.
    pub committed_ns: Option<u64>,
    /// From the start of its barrier until all sinks had committed it.
    pub duration_ns: u64,
    /// Checkpoints of this run.
    pub count: u64,
    /// How often a part could not go on.
    pub pauses: u64,
}

#[derive(Debug)]
enum Phase<S, K> {
    /// Waiting for the time to come.
    Idle,
    /// The barrier travels.
    Barrier { shards: Vec<Option<S>>, sinks: Vec<Option<K>> },
    /// The manifest is being written.
    Manifest,
    /// Sinks commit.
    Commit { committed: Vec<bool> },
    /// Nothing will ever follow.
    Over { failed: bool },
}

/// See the module's words.
#[derive(Debug)]
pub struct Coordinator<S, K> {
    config: CoordinatorConfig,
    phase: Phase<S, K>,
    /// The epoch being ended, or (idle) the last that was.
    epoch: u64,
    started_ns: u64,
    next_ns: u64,
    /// The epoch being ended is the last of the run.
    is_final: bool,
    /// All input had been read when the epoch's barrier began.
    is_complete: bool,
    exhausted: Vec<bool>,
    draining: bool,
    paused: BTreeMap<Part, String>,
    figures: Figures,
}

impl<S, K> Coordinator<S, K> {
    /// After the checkpoint of `recovered_epoch` (0: there is none), at the time `now_ns`.
    #[must_use]
    pub fn new(config: CoordinatorConfig, recovered_epoch: u64, now_ns: u64) -> Self {
        Self {
            config,
            phase: Phase::Idle,
            epoch: recovered_epoch,
            started_ns: now_ns,
            next_ns: now_ns.saturating_add(config.interval_ns),
            is_final: false,
            is_complete: false,
            exhausted: vec![false; config.shards],
            draining: false,
            paused: BTreeMap::new(),
            figures: Figures { epoch: recovered_epoch, ..Figures::default() },
        }
    }

    /// Takes an event at the time `now_ns` and appends what is to be done.
    ///
    /// # Errors
    /// An event that cannot be meant for the epoch being ended; it changes nothing.
    pub fn handle(&mut self, event: Event<S, K>, now_ns: u64, actions: &mut Vec<Action<S, K>>) -> Result<(), Refusal> {
        match event {
            Event::Tick => {}
            Event::Drain => self.draining = true,
            Event::Exhausted { shard } => {
                let exhausted = self.exhausted.get_mut(shard);
                *exhausted.ok_or(Refusal::NoSuchPart { part: Part::Shard(shard) })? = true;
            }
            Event::ShardDone { shard, epoch, content } => self.shard_done(shard, epoch, content)?,
            Event::SinkStaged { sink, epoch, staged } => self.sink_staged(sink, epoch, staged)?,
            Event::ManifestWritten { epoch } => {
                self.check_epoch(Part::Folder, epoch)?;
                let Phase::Manifest = self.phase else { return Err(Refusal::OutOfTurn { part: Part::Folder, epoch }) };
                self.phase = Phase::Commit { committed: vec![false; self.config.sinks] };
                if self.config.sinks > 0 {
                    actions.push(Action::CommitSinks { epoch });
                }
            }
            Event::SinkCommitted { sink, epoch } => self.sink_committed(sink, epoch)?,
            Event::Paused { part, reason } => {
                self.check_part(part)?;
                self.figures.pauses += u64::from(self.paused.insert(part, reason).is_none());
            }
            Event::Resumed { part } => {
                self.paused.remove(&part);
            }
            Event::Failed { part } => {
                self.check_part(part)?;
                if !self.is_over() {
                    self.phase = Phase::Over { failed: true };
                }
            }
        }
        self.go_on(now_ns, actions);
        Ok(())
    }

    /// When the next [`Event::Tick`] is due; `None`: nothing depends on time now.
    #[must_use]
    pub fn next_wake_ns(&self) -> Option<u64> {
        matches!(self.phase, Phase::Idle).then_some(self.next_ns)
    }

    /// How the checkpoints went so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Whether nothing will ever follow.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over { .. })
    }

    /// Parts that cannot go on now, with their reasons.
    pub fn paused(&self) -> impl Iterator<Item = (Part, &str)> {
        self.paused.iter().map(|(part, reason)| (*part, reason.as_str()))
    }

    /// What it waits for, for people.
    #[must_use]
    pub fn state(&self) -> String {
        if let Some((_, reason)) = self.paused().next() {
            return reason.to_owned();
        }
        let missing = |what: &str, count: usize| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        let epoch = self.epoch;
        match &self.phase {
            Phase::Idle => "waiting for the next interval".into(),
            Phase::Barrier { shards, sinks } => {
                let shards = shards.iter().filter(|shard| shard.is_none()).count();
                let sinks = sinks.iter().filter(|sink| sink.is_none()).count();
                let (shards, sinks) = (missing("shard", shards), missing("sink", sinks));
                format!("checkpoint {epoch}: waiting for {shards} and {sinks}")
            }
            Phase::Manifest => format!("checkpoint {epoch}: writing"),
            Phase::Commit { committed } => {
                let sinks = committed.iter().filter(|committed| !**committed).count();
                format!("checkpoint {epoch}: waiting for {} to commit", missing("sink", sinks))
            }
            Phase::Over { failed: false } => "finished".into(),
            Phase::Over { failed: true } => "failed".into(),
        }
    }

    fn check_part(&self, part: Part) -> Result<(), Refusal> {
        let is_there = match part {
            Part::Shard(shard) => shard < self.config.shards,
            Part::Sink(sink) => sink < self.config.sinks,
            Part::Folder => true,
        };
        if is_there { Ok(()) } else { Err(Refusal::NoSuchPart { part }) }
    }

    fn check_epoch(&self, part: Part, told: u64) -> Result<(), Refusal> {
        self.check_part(part)?;
        if told == self.epoch { Ok(()) } else { Err(Refusal::WrongEpoch { part, told, current: self.epoch }) }
    }

    fn shard_done(&mut self, shard: usize, epoch: u64, content: S) -> Result<(), Refusal> {
        let part = Part::Shard(shard);
        self.check_epoch(part, epoch)?;
        let Phase::Barrier { shards, .. } = &mut self.phase else { return Err(Refusal::OutOfTurn { part, epoch }) };
        if shards[shard].is_some() {
            return Err(Refusal::OutOfTurn { part, epoch });
        }
        shards[shard] = Some(content);
        Ok(())
    }

    fn sink_staged(&mut self, sink: usize, epoch: u64, staged: K) -> Result<(), Refusal> {
        let part = Part::Sink(sink);
        self.check_epoch(part, epoch)?;
        let Phase::Barrier { sinks, .. } = &mut self.phase else { return Err(Refusal::OutOfTurn { part, epoch }) };
        if sinks[sink].is_some() {
            return Err(Refusal::OutOfTurn { part, epoch });
        }
        sinks[sink] = Some(staged);
        Ok(())
    }

    fn sink_committed(&mut self, sink: usize, epoch: u64) -> Result<(), Refusal> {
        let part = Part::Sink(sink);
        self.check_epoch(part, epoch)?;
        let Phase::Commit { committed } = &mut self.phase else { return Err(Refusal::OutOfTurn { part, epoch }) };
        if std::mem::replace(&mut committed[sink], true) {
            return Err(Refusal::OutOfTurn { part, epoch });
        }
        Ok(())
    }

    /// Moves to the next phase where everything for it is there.
    fn go_on(&mut self, now_ns: u64, actions: &mut Vec<Action<S, K>>) {
        match &self.phase {
            Phase::Commit { committed } if committed.iter().all(|committed| *committed) => {
                self.committed(now_ns, actions);
            }
            Phase::Barrier { shards, sinks }
                if shards.iter().all(Option::is_some) && sinks.iter().all(Option::is_some) =>
            {
                let Phase::Barrier { shards, sinks } = std::mem::replace(&mut self.phase, Phase::Manifest) else {
                    return;
                };
                actions.push(Action::WriteManifest {
                    epoch: self.epoch,
                    is_complete: self.is_complete,
                    shards: shards.into_iter().flatten().collect(),
                    sinks: sinks.into_iter().flatten().collect(),
                });
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Idle) {
            let is_complete = self.exhausted.iter().all(|exhausted| *exhausted);
            let is_final = self.draining || is_complete;
            if is_final || now_ns >= self.next_ns {
                self.begin(is_final, is_complete, now_ns, actions);
            }
        }
    }

    fn begin(&mut self, is_final: bool, is_complete: bool, now_ns: u64, actions: &mut Vec<Action<S, K>>) {
        self.epoch += 1;
        (self.is_final, self.is_complete) = (is_final, is_complete);
        self.started_ns = now_ns;
        self.next_ns = now_ns.saturating_add(self.config.interval_ns);
        self.phase = Phase::Barrier {
            shards: (0..self.config.shards).map(|_| None).collect(),
            sinks: (0..self.config.sinks).map(|_| None).collect(),
        };
        actions.push(Action::BeginBarrier { epoch: self.epoch, is_final });
    }

    fn committed(&mut self, now_ns: u64, actions: &mut Vec<Action<S, K>>) {
        self.figures.epoch = self.epoch;
        self.figures.committed_ns = Some(now_ns);
        self.figures.duration_ns = now_ns.saturating_sub(self.started_ns);
        self.figures.count += 1;
        self.phase = if self.is_final { Phase::Over { failed: false } } else { Phase::Idle };
        actions.push(Action::Prune);
        if self.is_final {
            actions.push(Action::Finish);
        }
    }
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;
