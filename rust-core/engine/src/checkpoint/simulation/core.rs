//! A simulated core: shards, stores and sinks around the real [`Coordinator`] and the real [`Alignment`].
//!
//! Every method named `*_step` does one thing that a crash may come before or after.

use std::collections::VecDeque;

use super::disk::{Disk, Name};
use crate::checkpoint::{Action, Alignment, Coordinator, CoordinatorConfig, Event, Part};
use crate::random::{Random, mix};

/// A fault put into the simulated parts on purpose; each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// None: nothing may ever be found.
    None,
    /// A store says that its state is durable before it is synced.
    StateNotSynced,
    /// A sink says that its rows are durable before they are synced.
    RowsNotSynced,
    /// The checkpoint gets its final name before its manifest is synced.
    ManifestNotSynced,
    /// A sink shows rows as soon as they are staged.
    ShownBeforeCommit,
    /// A sink takes the first shard's barrier for everybody's.
    NotAligned,
    /// A shard's snapshot is taken a row late.
    SnapshotLate,
}

/// Sizes of one simulated pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Shards.
    pub shards: usize,
    /// Sinks.
    pub sinks: usize,
    /// Rows of each shard's source.
    pub rows: u64,
    /// Between two checkpoints.
    pub interval_ns: u64,
}

/// What a shard puts into a checkpoint: the next row to read and the state then.
pub type ShardPart = (u64, u64);
/// What a sink puts into a checkpoint: words shown before, words staged, their sum.
pub type SinkPart = (u64, u64, u64);

/// A checkpoint as the simulated disk holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub epoch: u64,
    pub sinks: Vec<SinkPart>,
    pub positions: Vec<u64>,
}

impl Checkpoint {
    fn words(&self) -> Vec<u64> {
        let mut words = vec![self.epoch, self.sinks.len() as u64, self.positions.len() as u64];
        self.sinks.iter().for_each(|sink| words.extend([sink.0, sink.1, sink.2]));
        words.extend(&self.positions);
        words.push(sum(&words));
        words
    }

    /// From a manifest's words, if they are whole.
    pub fn read(words: &[u64]) -> Option<Self> {
        let (&check, words) = words.split_last()?;
        let (&[epoch, sinks, shards], rest) = words.split_first_chunk::<3>()?;
        if sum(words) != check || rest.len() as u64 != sinks * 3 + shards {
            return None;
        }
        let (sinks, positions) = rest.split_at(sinks as usize * 3);
        let sinks = sinks.as_chunks::<3>().0.iter().map(|&[before, count, sum]| (before, count, sum)).collect();
        Some(Self { epoch, sinks, positions: positions.to_vec() })
    }
}

/// A checksum over words.
pub fn sum(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |sum, word| mix(sum ^ *word))
}

/// A shard's state after a row.
pub fn next_state(state: u64, row: u64) -> u64 {
    mix(state ^ row)
}

/// What goes out for a row: it tells its shard, and depends on all rows before it.
pub fn output(shard: usize, state: u64) -> u64 {
    (shard as u64) << 56 | state >> 8
}

/// The sink that a row's output goes to.
pub fn sink_of(row: u64, sinks: usize) -> usize {
    (mix(row) % sinks as u64) as usize
}

#[derive(Clone, Copy)]
enum Item {
    Row(u64),
    Barrier { epoch: u64, position: u64 },
}

struct Shard {
    next_row: u64,
    state: u64,
    barrier: u64,
    ended: bool,
    told_end: bool,
    queue: VecDeque<Item>,
    store: Option<Store>,
    late: Option<(u64, u64)>,
}

/// A store at work on one epoch.
struct Store {
    epoch: u64,
    part: ShardPart,
    step: u32,
}

struct Sink {
    lanes: Vec<VecDeque<Item>>,
    lane_epochs: Vec<u64>,
    alignment: Alignment,
    staging: Option<(u64, u32)>,
    committing: Option<(u64, SinkPart, u64)>,
    staged: SinkPart,
}

/// The manifest being written.
struct Writing {
    checkpoint: Checkpoint,
    step: u32,
}

/// Everything that a crash ends.
pub struct Core {
    sizes: Sizes,
    flaw: Flaw,
    coordinator: Coordinator<ShardPart, SinkPart>,
    requested: (u64, bool),
    inbox: VecDeque<Event<ShardPart, SinkPart>>,
    writing: Option<Writing>,
    shards: Vec<Shard>,
    sinks: Vec<Sink>,
    /// The last epoch whose manifest was said to be durable.
    pub acknowledged: u64,
    /// The final epoch is committed.
    pub finished: bool,
}

impl Core {
    /// Goes on after a checkpoint.
    pub fn new(sizes: Sizes, flaw: Flaw, from: Option<(&Checkpoint, Vec<u64>)>, now_ns: u64) -> Self {
        let Sizes { shards, sinks, interval_ns, .. } = sizes;
        let epoch = from.as_ref().map_or(0, |(checkpoint, _)| checkpoint.epoch);
        let shard = |shard: usize| Shard {
            next_row: from.as_ref().map_or(0, |(checkpoint, _)| checkpoint.positions[shard]),
            state: from.as_ref().map_or(shard as u64, |(_, states)| states[shard]),
            barrier: epoch,
            ended: false,
            told_end: false,
            queue: VecDeque::new(),
            store: None,
            late: None,
        };
        let sink = |_| Sink {
            lanes: vec![VecDeque::new(); shards],
            lane_epochs: vec![epoch + 1; shards],
            alignment: Alignment::new(shards, epoch),
            staging: None,
            committing: None,
            staged: (0, 0, 0),
        };
        Self {
            sizes,
            flaw,
            coordinator: Coordinator::new(CoordinatorConfig { interval_ns, shards, sinks }, epoch, now_ns),
            requested: (epoch, false),
            inbox: VecDeque::new(),
            writing: None,
            shards: (0..shards).map(shard).collect(),
            sinks: (0..sinks).map(sink).collect(),
            acknowledged: epoch,
            finished: false,
        }
    }

    /// Somebody wants the run to end with what was read.
    pub fn drain(&mut self) {
        self.inbox.push_back(Event::Drain);
    }

    /// A part waits for space, and goes on.
    pub fn pause(&mut self, chance: &mut Random) {
        let part = Part::Sink(chance.below(self.sizes.sinks as u64) as usize);
        self.inbox.push_back(Event::Paused { part, reason: "no space".into() });
        self.inbox.push_back(Event::Resumed { part });
    }

    /// One thing happens somewhere.
    pub fn step(&mut self, disk: &mut Disk, chance: &mut Random, now_ns: u64) -> Result<(), String> {
        let actors = 1 + 3 * self.sizes.shards + 2 * self.sizes.sinks;
        let actor = chance.below(actors as u64) as usize;
        if actor == 0 {
            return self.coordinator_step(disk, now_ns);
        }
        let actor = actor - 1;
        let Sizes { shards, sinks, .. } = self.sizes;
        match actor {
            actor if actor < shards => self.source_step(actor),
            actor if actor < 2 * shards => self.operator_step(actor - shards),
            actor if actor < 3 * shards => self.store_step(actor - 2 * shards, disk),
            actor if actor < 3 * shards + sinks => self.sink_step(actor - 3 * shards, disk, chance)?,
            actor => self.commit_step(actor - 3 * shards - sinks, disk, chance),
        }
        Ok(())
    }

    fn source_step(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        let (epoch, is_final) = self.requested;
        if shard.barrier < epoch {
            shard.barrier = epoch;
            shard.ended = is_final;
            shard.queue.push_back(Item::Barrier { epoch, position: shard.next_row });
        } else if shard.next_row < self.sizes.rows && !shard.ended && shard.queue.len() < 8 {
            shard.queue.push_back(Item::Row(shard.next_row));
            shard.next_row += 1;
        } else if shard.next_row == self.sizes.rows && !shard.told_end {
            shard.told_end = true;
            self.inbox.push_back(Event::Exhausted { shard: index });
        }
    }

    fn operator_step(&mut self, index: usize) {
        let sinks = self.sizes.sinks;
        if self.sinks.iter().any(|sink| sink.lanes[index].len() >= 8) {
            return;
        }
        let shard = &mut self.shards[index];
        match shard.queue.pop_front() {
            Some(Item::Row(row)) => {
                shard.state = next_state(shard.state, row);
                if let Some((epoch, position)) = shard.late.take() {
                    shard.store = Some(Store { epoch, part: (position, shard.state), step: 0 });
                }
                let word = output(index, shard.state);
                self.sinks[sink_of(row, sinks)].lanes[index].push_back(Item::Row(word));
            }
            Some(barrier @ Item::Barrier { epoch, position }) => {
                if self.flaw == Flaw::SnapshotLate && !shard.queue.is_empty() {
                    shard.late = Some((epoch, position));
                } else {
                    shard.store = Some(Store { epoch, part: (position, shard.state), step: 0 });
                }
                self.sinks.iter_mut().for_each(|sink| sink.lanes[index].push_back(barrier));
            }
            None => {}
        }
    }

    fn store_step(&mut self, index: usize, disk: &mut Disk) {
        let Some(store) = &mut self.shards[index].store else { return };
        let name = Name::Store(store.epoch, index);
        match store.step {
            0 => {
                disk.create(name);
                let words = [store.part.0, store.part.1];
                disk.append(name, &[words[0], words[1], sum(&words)]);
            }
            1 if self.flaw != Flaw::StateNotSynced => disk.sync(name),
            _ => {
                let (epoch, content) = (store.epoch, store.part);
                self.shards[index].store = None;
                self.inbox.push_back(Event::ShardDone { shard: index, epoch, content });
                return;
            }
        }
        store.step += 1;
    }

    fn sink_step(&mut self, index: usize, disk: &mut Disk, chance: &mut Random) -> Result<(), String> {
        let sink = &mut self.sinks[index];
        if let Some((epoch, step)) = sink.staging {
            let name = Name::Staged(index, epoch);
            match step {
                0 if self.flaw != Flaw::RowsNotSynced => disk.sync(name),
                1 => disk.sync_names(),
                _ if step < 2 => {}
                _ => {
                    let words = disk.read(name);
                    let shown = disk.read(Name::Target(index)).len() as u64;
                    sink.staged = (shown, words.len() as u64, sum(words));
                    sink.staging = None;
                    self.inbox.push_back(Event::SinkStaged { sink: index, epoch, staged: sink.staged });
                    if self.flaw == Flaw::ShownBeforeCommit {
                        let words = words.to_vec();
                        disk.append(Name::Target(index), &words);
                        disk.sync(Name::Target(index));
                    }
                    return Ok(());
                }
            }
            sink.staging = Some((epoch, step + 1));
            return Ok(());
        }
        let lane = chance.below(self.sizes.shards as u64) as usize;
        match sink.lanes[lane].pop_front() {
            Some(Item::Row(word)) => disk.append(Name::Staged(index, sink.lane_epochs[lane]), &[word]),
            Some(Item::Barrier { epoch, .. }) => {
                sink.lane_epochs[lane] = epoch + 1;
                let ended = sink.alignment.arrive(lane, epoch).map_err(|refusal| refusal.to_string())?;
                let is_first = sink.lane_epochs.iter().filter(|of_lane| **of_lane > epoch).count() == 1;
                let takes = if self.flaw == Flaw::NotAligned { is_first } else { ended.is_some() };
                if takes {
                    let name = Name::Staged(index, epoch);
                    if !disk.exists(name) {
                        disk.create(name);
                    }
                    sink.staging = Some((epoch, 0));
                }
            }
            None => {}
        }
        Ok(())
    }

    fn commit_step(&mut self, index: usize, disk: &mut Disk, chance: &mut Random) {
        let Some((epoch, (before, count, _), done)) = self.sinks[index].committing else { return };
        let (name, target) = (Name::Staged(index, epoch), Name::Target(index));
        if self.flaw == Flaw::ShownBeforeCommit || done > count {
            disk.sync(target);
            disk.remove(name);
            self.sinks[index].committing = None;
            self.inbox.push_back(Event::SinkCommitted { sink: index, epoch });
            return;
        }
        if done == 0 {
            disk.truncate(target, before as usize);
        }
        let next = (done + 1 + chance.below(4)).min(count);
        let words = disk.read(name).get(done as usize..next as usize).unwrap_or_default().to_vec();
        disk.append(target, &words);
        if next == count {
            disk.sync(target);
            disk.sync_names();
        }
        let done = if next == count { count + 1 } else { next };
        self.sinks[index].committing = Some((epoch, (before, count, 0), done));
    }

    fn coordinator_step(&mut self, disk: &mut Disk, now_ns: u64) -> Result<(), String> {
        let event = if let Some(writing) = &mut self.writing {
            let epoch = writing.checkpoint.epoch;
            match writing.step {
                0 => {
                    disk.create(Name::Manifest(epoch));
                    disk.append(Name::Manifest(epoch), &writing.checkpoint.words());
                }
                1 if self.flaw != Flaw::ManifestNotSynced => disk.sync(Name::Manifest(epoch)),
                2 => disk.sync_names(),
                3 => disk.create(Name::Checkpoint(epoch)),
                4 => disk.sync_names(),
                _ => {}
            }
            writing.step += 1;
            if writing.step < 6 {
                return Ok(());
            }
            self.writing = None;
            self.acknowledged = epoch;
            Event::ManifestWritten { epoch }
        } else {
            match self.inbox.pop_front() {
                Some(event) => event,
                None if self.coordinator.next_wake_ns().is_some_and(|at_ns| at_ns <= now_ns) => Event::Tick,
                None => return Ok(()),
            }
        };
        let mut actions = Vec::new();
        self.coordinator.handle(event, now_ns, &mut actions).map_err(|refusal| refusal.to_string())?;
        actions.into_iter().for_each(|action| self.perform(action, disk));
        Ok(())
    }

    fn perform(&mut self, action: Action<ShardPart, SinkPart>, disk: &mut Disk) {
        match action {
            Action::BeginBarrier { epoch, is_final } => self.requested = (epoch, is_final),
            Action::WriteManifest { epoch, shards, sinks, .. } => {
                let positions = shards.into_iter().map(|(position, _)| position).collect();
                self.writing = Some(Writing { checkpoint: Checkpoint { epoch, sinks, positions }, step: 0 });
            }
            Action::CommitSinks { epoch } => {
                self.sinks.iter_mut().for_each(|sink| sink.committing = Some((epoch, sink.staged, 0)));
            }
            Action::Prune => {
                let epoch = self.coordinator.figures().epoch;
                let old = |name: &Name| match *name {
                    Name::Store(of, _) | Name::Manifest(of) | Name::Checkpoint(of) => of + 1 < epoch,
                    Name::Staged(..) | Name::Target(_) => false,
                };
                // The name goes first, so that no checkpoint is there in part.
                let mut names: Vec<Name> = disk.names().filter(old).collect();
                names.sort_by_key(|name| !matches!(name, Name::Checkpoint(_)));
                let ends = names.iter().position(|name| !matches!(name, Name::Checkpoint(_))).unwrap_or(0);
                names[..ends].iter().for_each(|name| disk.remove(*name));
                disk.sync_names();
                names[ends..].iter().for_each(|name| disk.remove(*name));
            }
            Action::Finish => self.finished = true,
        }
    }
}
