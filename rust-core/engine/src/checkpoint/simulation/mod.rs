//! Simulated machines: the real coordinator among simulated shards, sinks, clocks and disks that crash at any step.
//!
//! A seed decides everything, so a failure is replayed from its seed. Checked at every crash and at the end: whatever
//! carries its final name is whole, an acknowledged checkpoint is never lost, and what sinks show is always a prefix of
//! what an undisturbed run shows, and all of it in the end.
//!
//! `RINGMILL_SIMULATION_SEEDS` says how many seeds are tried (10,000), `RINGMILL_SIMULATION_FIRST` which is the first.

mod core;
mod disk;

use crate::random::{Random, mix};
use core::{Checkpoint, Core, Flaw, Sizes, next_state, output, sink_of, sum};
use disk::{Disk, Name};

/// How a run went.
#[derive(Debug, Default)]
struct Figures {
    crashes: u64,
    steps: u64,
}

struct Machine {
    sizes: Sizes,
    flaw: Flaw,
    chance: Random,
    disk: Disk,
    now_ns: u64,
    /// For each sink and shard, what is to be shown.
    expected: Vec<Vec<Vec<u64>>>,
    figures: Figures,
}

impl Machine {
    fn new(seed: u64, flaw: Flaw) -> Self {
        let mut chance = Random(seed);
        let sizes = Sizes {
            shards: 1 + chance.below(3) as usize,
            sinks: 1 + chance.below(3) as usize,
            rows: chance.below(60),
            interval_ns: 1 + chance.below(200),
        };
        let mut expected = vec![vec![Vec::new(); sizes.shards]; sizes.sinks];
        let mut states: Vec<u64> = (0..sizes.shards as u64).collect();
        for row in 0..sizes.rows {
            let of_sink = &mut expected[sink_of(row, sizes.sinks)];
            for (shard, (state, of_shard)) in states.iter_mut().zip(of_sink).enumerate() {
                *state = next_state(*state, row);
                of_shard.push(output(shard, *state));
            }
        }
        Self { sizes, flaw, chance, disk: Disk::default(), now_ns: 0, expected, figures: Figures::default() }
    }

    fn run(&mut self) -> Result<(), String> {
        let crash_in = [40, 150, 600, 5_000][self.chance.below(4) as usize];
        let mut core = self.recover(0)?;
        let mut drains = 0;
        loop {
            self.figures.steps += 1;
            if self.figures.steps > 1_000_000 {
                return Err("it never ends".into());
            }
            self.now_ns += self.chance.below(3);
            // Crashes become rarer, so that every seed comes to an end.
            if self.chance.one_in(crash_in + self.figures.crashes * 40) {
                self.figures.crashes += 1;
                if self.chance.one_in(2) {
                    self.disk.lose_power(&mut self.chance);
                }
                core = self.recover(core.acknowledged)?;
            } else if self.chance.one_in(2_000) {
                core.pause(&mut self.chance);
            } else if drains < 2 && self.chance.one_in(1_000) {
                drains += 1;
                core.drain();
            } else {
                core.step(&mut self.disk, &mut self.chance, self.now_ns)?;
            }
            if core.finished {
                self.check_shown()?;
                if self.shows_all() {
                    return Ok(());
                }
                if drains == 0 {
                    return Err("it says that it has finished and shows too little".into());
                }
                core = self.recover(core.acknowledged)?;
            }
        }
    }

    /// What a core does when it starts.
    fn recover(&mut self, acknowledged: u64) -> Result<Core, String> {
        self.check_shown()?;
        let newest = self.disk.names().filter_map(|name| match name {
            Name::Checkpoint(epoch) => Some(epoch),
            _ => None,
        });
        let newest = newest.max();
        if newest.unwrap_or(0) < acknowledged {
            return Err(format!("checkpoint {acknowledged} was acknowledged and is gone"));
        }
        let Some(epoch) = newest else {
            self.forget_staged();
            (0..self.sizes.sinks).for_each(|sink| self.disk.truncate(Name::Target(sink), 0));
            return Ok(Core::new(self.sizes, self.flaw, None, self.now_ns));
        };
        let checkpoint = Checkpoint::read(self.disk.read(Name::Manifest(epoch)))
            .ok_or_else(|| format!("checkpoint {epoch} has its name and no sound manifest"))?;
        let mut states = Vec::new();
        for shard in 0..self.sizes.shards {
            match *self.disk.read(Name::Store(epoch, shard)) {
                [position, state, check]
                    if sum(&[position, state]) == check && position == checkpoint.positions[shard] =>
                {
                    states.push(state);
                }
                _ => return Err(format!("checkpoint {epoch} has no sound state of shard {shard}")),
            }
        }
        for (sink, &(before, count, check)) in checkpoint.sinks.iter().enumerate() {
            self.complete(sink, epoch, before, count, check)?;
        }
        self.forget_staged();
        Ok(Core::new(self.sizes, self.flaw, Some((&checkpoint, states)), self.now_ns))
    }

    /// Shows what the checkpoint promised and a sink does not show yet.
    fn complete(&mut self, sink: usize, epoch: u64, before: u64, count: u64, check: u64) -> Result<(), String> {
        let (target, name) = (Name::Target(sink), Name::Staged(sink, epoch));
        let shown = self.disk.read(target).len() as u64;
        if shown > before + count {
            return Err(format!("sink {sink} shows {shown} words and checkpoint {epoch} knows of {}", before + count));
        }
        let staged = self.disk.read(name).to_vec();
        if staged.len() as u64 == count && sum(&staged) == check {
            self.disk.truncate(target, before as usize);
            self.disk.append(target, &staged);
        } else if shown < before + count {
            return Err(format!("sink {sink} lacks rows of checkpoint {epoch} that are staged nowhere"));
        }
        self.disk.sync(target);
        self.disk.sync_names();
        Ok(())
    }

    fn forget_staged(&mut self) {
        let staged: Vec<Name> = self.disk.names().filter(|name| matches!(name, Name::Staged(..))).collect();
        staged.into_iter().for_each(|name| self.disk.remove(name));
    }

    /// What is shown is a prefix of what is to be shown, by shard; a torn last word is no row.
    fn check_shown(&self) -> Result<(), String> {
        for sink in 0..self.sizes.sinks {
            let shown = self.disk.read(Name::Target(sink));
            for (shard, expected) in self.expected[sink].iter().enumerate() {
                let of_shard = shown.iter().filter(|word| (**word >> 56) as usize == shard);
                let differing = of_shard.zip(expected.iter().map(Some).chain(std::iter::repeat(None)));
                let wrong = differing.filter(|(shown, expected)| Some(*shown) != *expected).count();
                // The last word may have been torn by a loss of power; recovery writes it again.
                if wrong > 1 {
                    return Err(format!("sink {sink} shows rows of shard {shard} that it should not"));
                }
            }
        }
        Ok(())
    }

    fn shows_all(&self) -> bool {
        (0..self.sizes.sinks).all(|sink| {
            let shown = self.disk.read(Name::Target(sink));
            self.expected[sink]
                .iter()
                .enumerate()
                .all(|(shard, expected)| shown.iter().filter(|word| (**word >> 56) as usize == shard).eq(expected))
                && shown.len() == self.expected[sink].iter().map(Vec::len).sum::<usize>()
        })
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_crash_at_any_step_loses_or_repeats_a_row() {
    let first = number("RINGMILL_SIMULATION_FIRST", 0);
    let seeds = number("RINGMILL_SIMULATION_SEEDS", 10_000);
    let mut all = Figures::default();
    for seed in first..first + seeds {
        let mut machine = Machine::new(mix(seed), Flaw::None);
        if let Err(found) = machine.run() {
            panic!("RINGMILL_SIMULATION_FIRST={seed} RINGMILL_SIMULATION_SEEDS=1: {found} ({:?})", machine.sizes);
        }
        all.crashes += machine.figures.crashes;
        all.steps += machine.figures.steps;
    }
    println!("{seeds} seeds from {first} on: {} crashes in {} steps", all.crashes, all.steps);
    assert!(all.crashes > seeds, "crashes happened");
}

#[test]
fn every_flaw_put_in_on_purpose_is_found() {
    let flaws = [
        Flaw::StateNotSynced,
        Flaw::RowsNotSynced,
        Flaw::ManifestNotSynced,
        Flaw::ShownBeforeCommit,
        Flaw::NotAligned,
        Flaw::SnapshotLate,
    ];
    for flaw in flaws {
        let found = (0..5_000).find_map(|seed| Machine::new(mix(seed), flaw).run().err().map(|found| (seed, found)));
        let (seed, found) = found.unwrap_or_else(|| panic!("{flaw:?} was not found"));
        println!("{flaw:?}: found by seed {seed}: {found}");
    }
}
