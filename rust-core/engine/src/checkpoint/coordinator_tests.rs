use super::*;
use crate::random::Random;

type Machine = Coordinator<(usize, u64), (usize, u64)>;
type Actions = Vec<Action<(usize, u64), (usize, u64)>>;

const INTERVAL_NS: u64 = 1_000;

fn machine(shards: usize, sinks: usize, recovered: u64) -> Machine {
    Coordinator::new(CoordinatorConfig { interval_ns: INTERVAL_NS, shards, sinks }, recovered, 0)
}

fn tell(machine: &mut Machine, event: Event<(usize, u64), (usize, u64)>, now_ns: u64) -> Actions {
    let mut actions = Vec::new();
    machine.handle(event, now_ns, &mut actions).expect("the event is in turn");
    actions
}

fn shard(shard: usize, epoch: u64) -> Event<(usize, u64), (usize, u64)> {
    Event::ShardDone { shard, epoch, content: (shard, epoch) }
}

fn sink(sink: usize, epoch: u64) -> Event<(usize, u64), (usize, u64)> {
    Event::SinkStaged { sink, epoch, staged: (sink, epoch) }
}

fn refused(machine: &mut Machine, event: Event<(usize, u64), (usize, u64)>) -> Refusal {
    let mut actions = Vec::new();
    let refusal = machine.handle(event, 0, &mut actions).expect_err("the event is out of turn");
    assert_eq!(actions, []);
    refusal
}

#[test]
fn an_epoch_goes_from_barrier_to_manifest_to_commit() {
    let mut machine = machine(2, 1, 0);
    assert_eq!(machine.next_wake_ns(), Some(1_000));
    assert_eq!(tell(&mut machine, Event::Tick, 999), []);
    assert_eq!(tell(&mut machine, Event::Tick, 1_000), [Action::BeginBarrier { epoch: 1, is_final: false }]);
    assert_eq!(machine.next_wake_ns(), None);
    assert_eq!(tell(&mut machine, sink(0, 1), 1_100), []);
    assert_eq!(tell(&mut machine, shard(1, 1), 1_200), []);
    assert_eq!(machine.state(), "checkpoint 1: waiting for 1 shard and 0 sinks");
    let written = tell(&mut machine, shard(0, 1), 1_300);
    let (shards, sinks) = (vec![(0, 1), (1, 1)], vec![(0, 1)]);
    assert_eq!(written, [Action::WriteManifest { epoch: 1, is_complete: false, shards, sinks }]);
    assert_eq!(tell(&mut machine, Event::ManifestWritten { epoch: 1 }, 1_400), [Action::CommitSinks { epoch: 1 }]);
    assert_eq!(machine.figures().epoch, 0);
    assert_eq!(tell(&mut machine, Event::SinkCommitted { sink: 0, epoch: 1 }, 1_500), [Action::Prune]);
    let figures = Figures { epoch: 1, committed_ns: Some(1_500), duration_ns: 500, count: 1, pauses: 0 };
    assert_eq!(machine.figures(), figures);
    assert_eq!(machine.next_wake_ns(), Some(2_000));
}

/// Ends epoch `epoch` at `now_ns`, the barrier being on its way.
fn end_epoch(machine: &mut Machine, epoch: u64, now_ns: u64) -> Actions {
    tell(machine, shard(0, epoch), now_ns);
    tell(machine, sink(0, epoch), now_ns);
    tell(machine, Event::ManifestWritten { epoch }, now_ns);
    tell(machine, Event::SinkCommitted { sink: 0, epoch }, now_ns)
}

#[test]
fn an_epoch_longer_than_the_interval_is_followed_at_once_and_never_overlapped() {
    let mut machine = machine(1, 1, 7);
    assert_eq!(tell(&mut machine, Event::Tick, 1_000), [Action::BeginBarrier { epoch: 8, is_final: false }]);
    assert_eq!(tell(&mut machine, Event::Tick, 2_500), []);
    let next = Action::BeginBarrier { epoch: 9, is_final: false };
    assert_eq!(end_epoch(&mut machine, 8, 4_200), [Action::Prune, next]);
    // Start to start: the third begins 1,000 after 4,200, not after 5,000.
    assert_eq!(end_epoch(&mut machine, 9, 4_300), [Action::Prune]);
    assert_eq!(machine.next_wake_ns(), Some(5_200));
}

#[test]
fn the_final_epoch_waits_for_all_shards_and_for_the_barrier_on_its_way() {
    let mut machine = machine(2, 0, 0);
    assert_eq!(tell(&mut machine, Event::Exhausted { shard: 1 }, 10), []);
    assert_eq!(tell(&mut machine, Event::Tick, 1_000), [Action::BeginBarrier { epoch: 1, is_final: false }]);
    assert_eq!(tell(&mut machine, Event::Exhausted { shard: 0 }, 1_010), []);
    tell(&mut machine, shard(0, 1), 1_020);
    tell(&mut machine, shard(1, 1), 1_020);
    let next = tell(&mut machine, Event::ManifestWritten { epoch: 1 }, 1_030);
    assert_eq!(next, [Action::Prune, Action::BeginBarrier { epoch: 2, is_final: true }]);
    tell(&mut machine, shard(0, 2), 1_040);
    let written = tell(&mut machine, shard(1, 2), 1_040);
    assert!(matches!(written[..], [Action::WriteManifest { epoch: 2, is_complete: true, .. }]));
    let end = tell(&mut machine, Event::ManifestWritten { epoch: 2 }, 1_050);
    assert_eq!((end, machine.is_over()), (vec![Action::Prune, Action::Finish], true));
    assert_eq!(tell(&mut machine, Event::Tick, 9_999), []);
}

#[test]
fn a_drained_run_ends_with_a_final_epoch_that_is_not_complete() {
    let mut machine = machine(1, 0, 0);
    assert_eq!(tell(&mut machine, Event::Drain, 5), [Action::BeginBarrier { epoch: 1, is_final: true }]);
    let written = tell(&mut machine, shard(0, 1), 6);
    assert!(matches!(written[..], [Action::WriteManifest { epoch: 1, is_complete: false, .. }]));
    assert_eq!(tell(&mut machine, Event::ManifestWritten { epoch: 1 }, 7), [Action::Prune, Action::Finish]);
}

#[test]
fn what_belongs_to_another_epoch_or_comes_out_of_turn_is_refused() {
    let mut machine = machine(2, 1, 4);
    let wrong = |part, told, current| Refusal::WrongEpoch { part, told, current };
    // Late words of the epoch before, when none is being ended.
    let part = Part::Shard(0);
    assert_eq!(refused(&mut machine, shard(0, 4)), Refusal::OutOfTurn { part, epoch: 4 });
    tell(&mut machine, Event::Tick, 1_000);
    assert_eq!(refused(&mut machine, shard(0, 4)), wrong(part, 4, 5));
    assert_eq!(refused(&mut machine, sink(0, 6)), wrong(Part::Sink(0), 6, 5));
    assert_eq!(refused(&mut machine, shard(2, 5)), Refusal::NoSuchPart { part: Part::Shard(2) });
    assert_eq!(refused(&mut machine, Event::Exhausted { shard: 2 }), Refusal::NoSuchPart { part: Part::Shard(2) });
    tell(&mut machine, shard(0, 5), 1_001);
    assert_eq!(refused(&mut machine, shard(0, 5)), Refusal::OutOfTurn { part, epoch: 5 });
    let early = Event::ManifestWritten { epoch: 5 };
    assert_eq!(refused(&mut machine, early.clone()), Refusal::OutOfTurn { part: Part::Folder, epoch: 5 });
    let commit = Event::SinkCommitted { sink: 0, epoch: 5 };
    assert_eq!(refused(&mut machine, commit.clone()), Refusal::OutOfTurn { part: Part::Sink(0), epoch: 5 });
    tell(&mut machine, shard(1, 5), 1_002);
    tell(&mut machine, sink(0, 5), 1_002);
    assert_eq!(refused(&mut machine, sink(0, 5)), Refusal::OutOfTurn { part: Part::Sink(0), epoch: 5 });
    tell(&mut machine, early, 1_003);
    tell(&mut machine, commit.clone(), 1_004);
    assert_eq!(refused(&mut machine, commit), Refusal::OutOfTurn { part: Part::Sink(0), epoch: 5 });
}

#[test]
fn a_part_that_pauses_is_shown_and_holds_the_epoch_back_without_ending_it() {
    let mut machine = machine(1, 1, 0);
    tell(&mut machine, Event::Tick, 1_000);
    let reason = "waiting for space on /state".to_owned();
    tell(&mut machine, Event::Paused { part: Part::Shard(0), reason: reason.clone() }, 1_001);
    tell(&mut machine, Event::Paused { part: Part::Shard(0), reason: reason.clone() }, 1_002);
    assert_eq!((machine.state(), machine.figures().pauses), (reason, 1));
    assert_eq!(tell(&mut machine, Event::Tick, 99_000), []);
    tell(&mut machine, Event::Resumed { part: Part::Shard(0) }, 99_001);
    assert_eq!(machine.state(), "checkpoint 1: waiting for 1 shard and 1 sink");
    assert!(end_epoch(&mut machine, 1, 99_002).contains(&Action::Prune));
}

#[test]
fn after_a_failure_nothing_is_written_or_committed_any_more() {
    let mut machine = machine(1, 1, 0);
    tell(&mut machine, Event::Tick, 1_000);
    tell(&mut machine, sink(0, 1), 1_001);
    assert_eq!(tell(&mut machine, Event::Failed { part: Part::Sink(0) }, 1_002), []);
    assert_eq!((machine.is_over(), machine.state()), (true, "failed".into()));
    assert_eq!(refused(&mut machine, shard(0, 1)), Refusal::OutOfTurn { part: Part::Shard(0), epoch: 1 });
    assert_eq!(tell(&mut machine, Event::Tick, 5_000), []);
}

/// A driver that answers in any order, repeats itself and speaks of wrong epochs.
struct World {
    random: Random,
    machine: Machine,
    pending: Vec<Event<(usize, u64), (usize, u64)>>,
    said: Vec<Event<(usize, u64), (usize, u64)>>,
    config: CoordinatorConfig,
    /// The epoch of each kind of action done last.
    barrier: u64,
    manifest: u64,
    commit: u64,
    finished: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let config = CoordinatorConfig { interval_ns: 50, shards: 1 + seed as usize % 3, sinks: seed as usize / 3 % 3 };
        let machine = Coordinator::new(config, 0, 0);
        let (pending, said) = (Vec::new(), Vec::new());
        Self {
            random: Random(seed),
            machine,
            pending,
            said,
            config,
            barrier: 0,
            manifest: 0,
            commit: 0,
            finished: false,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random.below(below as u64) as usize
    }

    fn perform(&mut self, action: Action<(usize, u64), (usize, u64)>) {
        assert!(!self.finished, "nothing follows the end");
        match action {
            Action::BeginBarrier { epoch, .. } => {
                assert_eq!((epoch, self.manifest), (self.barrier + 1, self.barrier), "one epoch after the other");
                assert!(self.config.sinks == 0 || self.commit == self.barrier, "the last epoch is committed");
                self.barrier = epoch;
                self.pending.extend((0..self.config.shards).map(|index| shard(index, epoch)));
                self.pending.extend((0..self.config.sinks).map(|index| sink(index, epoch)));
            }
            Action::WriteManifest { epoch, shards, sinks, .. } => {
                assert_eq!((epoch, self.manifest), (self.barrier, self.barrier - 1));
                assert_eq!(shards, (0..self.config.shards).map(|shard| (shard, epoch)).collect::<Vec<_>>());
                assert_eq!(sinks, (0..self.config.sinks).map(|sink| (sink, epoch)).collect::<Vec<_>>());
                self.pending.push(Event::ManifestWritten { epoch });
            }
            Action::CommitSinks { epoch } => {
                assert_eq!(epoch, self.manifest, "only what a manifest names is committed");
                self.commit = epoch;
                let sinks = 0..self.config.sinks;
                self.pending.extend(sinks.map(|sink| Event::SinkCommitted { sink, epoch }));
            }
            Action::Prune => {}
            Action::Finish => self.finished = true,
        }
    }

    fn step(&mut self, now_ns: u64) {
        let choice = self.random(8);
        let (event, is_due) = match choice {
            0 => (Event::Tick, true),
            1 if !self.said.is_empty() => {
                let index = self.random(self.said.len());
                (self.said[index].clone(), false)
            }
            2 if now_ns > 4_000 => (Event::Exhausted { shard: self.random(self.config.shards) }, true),
            _ if !self.pending.is_empty() => {
                let index = self.random(self.pending.len());
                (self.pending.swap_remove(index), true)
            }
            _ => (Event::Tick, true),
        };
        if let Event::ManifestWritten { epoch } = event
            && is_due
        {
            self.manifest = epoch;
        }
        let mut actions = Vec::new();
        let outcome = self.machine.handle(event.clone(), now_ns, &mut actions);
        assert_eq!(outcome.is_ok(), is_due, "{event:?}");
        if !matches!(event, Event::Tick | Event::Exhausted { .. }) {
            self.said.push(event);
        }
        actions.into_iter().for_each(|action| self.perform(action));
    }
}

#[test]
fn whatever_the_order_of_answers_epochs_follow_each_other_whole() {
    for seed in 0..2_000 {
        let mut world = World::new(seed);
        let mut now_ns = 0;
        while !world.finished {
            now_ns += world.random(20) as u64;
            world.step(now_ns);
            assert!(now_ns < 1_000_000, "seed {seed} does not end: {}", world.machine.state());
        }
        assert!(world.barrier > 3 && world.manifest == world.barrier, "seed {seed}");
    }
}
