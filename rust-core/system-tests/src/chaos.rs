//! What the killing tests share: seeded chance, sizes by environment variable, and where a kill fell.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Job;

/// A small reproducible generator (SplitMix64); its seed is printed by every test that uses it.
pub struct Chance(u64);

impl Chance {
    /// From the environment variable `RINGMILL_KILL_SEED`, else from the clock; says which.
    pub fn from_environment(test: &str) -> Chance {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = number("RINGMILL_KILL_SEED").unwrap_or_else(|| clock.map_or(1, |time| time.as_nanos() as u64));
        println!("{test}: RINGMILL_KILL_SEED={seed}");
        Chance(seed)
    }

    /// From this seed.
    #[must_use]
    pub fn of(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// Between the two.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + Duration::from_micros(self.below((most - least).as_micros() as u64))
    }
}

/// How many rounds a test makes: `variable` (set by `scripts/soak`), else `default`.
pub fn rounds(variable: &str, default: u64) -> u64 {
    number(variable).unwrap_or(default)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Says on standard error how far a long test is, every half minute.
pub struct Progress {
    what: &'static str,
    wanted: u64,
    said: Instant,
}

impl Progress {
    /// Of a test that does `wanted` times `what`.
    #[must_use]
    pub fn of(what: &'static str, wanted: u64) -> Progress {
        Progress { what, wanted, said: Instant::now() }
    }

    /// That it has done so many.
    pub fn at(&mut self, done: u64) {
        if self.said.elapsed() >= PROGRESS_EVERY {
            self.said = Instant::now();
            eprintln!("  {done} of {} {}", self.wanted, self.what);
        }
    }

    /// Counts the rounds of a loop.
    pub fn over(what: &'static str, wanted: u64) -> impl Iterator<Item = u64> {
        let mut progress = Progress::of(what, wanted);
        (0..wanted).inspect(move |done| progress.at(*done))
    }
}

const PROGRESS_EVERY: Duration = Duration::from_secs(30);

/// Does `work` with each of `items`, `at_once` of them at a time: for runs that wait more than they work.
pub fn side_by_side<I>(at_once: usize, items: impl Iterator<Item = I> + Send, work: impl Fn(I) + Sync) {
    let left = Mutex::new(items);
    let next = || left.lock().expect("no other thread has failed").next();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}

/// Kills a process at once, as a machine's out-of-memory killer or an impatient person would.
pub fn kill_now(pid: i32) {
    // It may have ended by itself just now.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Lets a run go on until `is_time`, and then for `time`, unless it ends before; then kills it. Whether it was still
/// running.
pub fn kill_after(child: &mut Child, mut is_time: impl FnMut() -> bool, time: Duration) -> bool {
    let mut until = None;
    while until.is_none_or(|until| Instant::now() < until) {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return false;
        }
        if until.is_none() && is_time() {
            until = Some(Instant::now() + time);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    kill_now(child.id() as i32);
    let status = child.wait().expect("a child can be waited for");
    status.code().is_none()
}

/// Kills of jobs, each within a moment of a checkpoint.
pub struct CoreKills {
    /// When they come, and whatever else the test leaves to chance.
    pub chance: Chance,
    /// How many there were.
    pub done: u64,
    progress: Progress,
}

impl CoreKills {
    /// As many as [`rounds`] says.
    pub fn of(test: &str, variable: &str, default: u64) -> CoreKills {
        let progress = Progress::of("kills", rounds(variable, default));
        CoreKills { chance: Chance::from_environment(test), done: 0, progress }
    }

    /// Whether there are to be more.
    pub fn are_wanted(&self) -> bool {
        self.done < self.progress.wanted
    }

    /// Runs a job until it ends by itself. Each run is killed behind its first checkpoint, and `killed` is called then.
    pub fn behind_checkpoints(&mut self, job: &Job, mut killed: impl FnMut(&mut Chance)) {
        let state = job.path("state");
        loop {
            let mut child = job.start(&[]);
            let before = newest_checkpoint(&state);
            let time = self.chance.between(Duration::ZERO, Duration::from_millis(60));
            if !kill_after(&mut child, || newest_checkpoint(&state) > before, time) {
                return;
            }
            self.done += 1;
            self.progress.at(self.done);
            killed(&mut self.chance);
        }
    }
}

/// The newest checkpoint in a state folder; 0: none.
pub fn newest_checkpoint(state: &Path) -> u64 {
    names(&state.join("checkpoints")).iter().filter_map(|name| name.parse().ok()).max().unwrap_or(0)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Where in the checkpoint protocol kills fell.
#[derive(Default)]
pub struct Fallen(BTreeMap<&'static str, u64>);

impl Fallen {
    /// Looks at what a killed core left in its state folder.
    pub fn note(&mut self, state: &Path) {
        let checkpoints = names(&state.join("checkpoints"));
        let partial = checkpoints.iter().any(|name| name.ends_with(".partial"));
        let newest = checkpoints.iter().filter_map(|name| name.parse::<u64>().ok()).max();
        let mut staged = Vec::new();
        for sink in names(&state.join("staging")) {
            let epochs = names(&state.join("staging").join(sink));
            staged.extend(epochs.iter().filter_map(|name| name.strip_suffix(".staged")?.parse::<u64>().ok()));
        }
        let stage = match (newest, partial) {
            (None, false) => "before the first checkpoint",
            (_, true) => "while a checkpoint was written",
            (Some(newest), false) if staged.contains(&newest) => {
                "after the commit point, before the sinks had shown it"
            }
            (Some(_), false) => "between checkpoints",
        };
        *self.0.entry(stage).or_default() += 1;
    }

    /// Kills in all.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Fallen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stage, count) in &self.0 {
            writeln!(f, "  {count:6} {stage}")?;
        }
        Ok(())
    }
}
