//! What is done to a pipeline while it is measured, and noting when it happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_connect::open_loop::{OpenLoop, Phase};
use ringmill_engine::Control;
use ringmill_ring::monotonic_ns;

use super::result::Event;

/// What can be done to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventKind {
    /// A checkpoint at the beginning of each period.
    Checkpoint,
    /// SIGKILL to a worker, in turn, once in each period.
    KillWorker,
    /// Ten times the rate for a twentieth of each period.
    Burst,
    /// Workers at half speed (stopped for every other millisecond) for a quarter of each period.
    SlowUdf,
}

/// A burst has this many times the rate.
const BURST_TIMES: f64 = 10.0;
/// … for this part of the period.
const BURST_PART: u64 = 20;
/// Workers are slow for this part of the period.
const SLOW_PART: u64 = 4;
/// Workers that are slow stand still for every other one of these.
const STANDSTILL: Duration = Duration::from_millis(1);
/// Checkpoints are looked for this often.
const LOOK: Duration = Duration::from_millis(5);

impl EventKind {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Checkpoint => "checkpoint",
            EventKind::KillWorker => "kill-worker",
            EventKind::Burst => "burst",
            EventKind::SlowUdf => "slow-udf",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            EventKind::Checkpoint => "checkpoints",
            EventKind::KillWorker => "worker kills",
            EventKind::Burst => "bursts of 10 × the rate",
            EventKind::SlowUdf => "slow functions (half speed)",
        }
    }
}

/// The phases of a load: even, or with bursts in the middle of each period once the warm-up is over.
pub fn phases(event: Option<EventKind>, rate: f64, warmup_ns: u64, length_ns: u64, period_ns: u64) -> Vec<Phase> {
    if event != Some(EventKind::Burst) {
        return vec![Phase { length_ns, rate }];
    }
    let burst_ns = (period_ns / BURST_PART).max(1);
    let (before_ns, after_ns) = (period_ns / 2 - burst_ns / 2, period_ns - period_ns / 2 - (burst_ns - burst_ns / 2));
    let mut phases = vec![Phase { length_ns: warmup_ns, rate }];
    let mut left_ns = length_ns - warmup_ns;
    while left_ns > 0 {
        for (wanted_ns, times) in [(before_ns, 1.0), (burst_ns, BURST_TIMES), (after_ns, 1.0)] {
            let phase_ns = wanted_ns.min(left_ns);
            left_ns -= phase_ns;
            phases.push(Phase { length_ns: phase_ns, rate: rate * times });
        }
    }
    phases.retain(|phase| phase.length_ns > 0);
    phases
}

/// A thread that does what is to be done, and notes checkpoints.
pub struct Disturbance {
    thread: JoinHandle<Vec<Event>>,
    is_over: Arc<AtomicBool>,
}

struct Doer {
    kind: Option<EventKind>,
    control: Arc<Control>,
    load: Arc<OpenLoop>,
    /// Since the start of the load: what is measured.
    measured_ns: (u64, u64),
    period_ns: u64,
    is_over: Arc<AtomicBool>,
    events: Vec<Event>,
    checkpoints: u64,
}

impl Disturbance {
    /// Starts it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        kind: Option<EventKind>,
        control: &Arc<Control>,
        load: &Arc<OpenLoop>,
        measured_ns: (u64, u64),
        period_ns: u64,
    ) -> std::io::Result<Disturbance> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (control, load) = (control.clone(), load.clone());
        let (events, checkpoints) = (Vec::new(), 0);
        let doer = Doer { kind, control, load, measured_ns, period_ns, is_over: is_over.clone(), events, checkpoints };
        let thread = std::thread::Builder::new().name("ringmill-events".to_owned()).spawn(move || doer.run())?;
        Ok(Disturbance { thread, is_over })
    }

    /// Ends it; what happened, in order.
    pub fn finish(self) -> Vec<Event> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

impl Doer {
    fn run(mut self) -> Vec<Event> {
        let (from_ns, to_ns) = self.measured_ns;
        let mut turn = 0;
        let mut next_ns = from_ns + self.period_ns / 2;
        while !self.is_over.load(Ordering::Relaxed) {
            self.note_checkpoint();
            let Some(now_ns) = self.now_ns() else {
                std::thread::sleep(LOOK);
                continue;
            };
            if next_ns < to_ns && now_ns >= next_ns {
                self.act(next_ns, turn);
                turn += 1;
                next_ns += self.period_ns;
            }
            let wait = Duration::from_nanos(next_ns.saturating_sub(self.now_ns().unwrap_or(0)));
            std::thread::sleep(wait.min(LOOK));
        }
        self.note_checkpoint();
        self.events.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
        self.events
    }

    /// Since the start of the load.
    fn now_ns(&self) -> Option<u64> {
        monotonic_ns().checked_sub(self.load.start_ns()?)
    }

    fn act(&mut self, due_ns: u64, turn: usize) {
        match self.kind {
            Some(EventKind::KillWorker) => self.kill_worker(turn),
            Some(EventKind::SlowUdf) => self.slow_workers(self.period_ns / SLOW_PART),
            Some(EventKind::Burst) => {
                let length_ns = self.period_ns / BURST_PART;
                self.note(due_ns - length_ns / 2, length_ns, "burst", format!("{BURST_TIMES} × the rate"));
            }
            Some(EventKind::Checkpoint) | None => {}
        }
    }

    fn workers(&self) -> Vec<(String, Pid)> {
        let snapshot = self.control.snapshot();
        let live = snapshot.workers.into_iter().filter(|worker| worker.alive && worker.pid > 0);
        live.map(|worker| (worker.name, Pid::from_raw(worker.pid))).collect()
    }

    fn kill_worker(&mut self, turn: usize) {
        let workers = self.workers();
        let Some((name, pid)) = workers.get(turn % workers.len().max(1)) else { return };
        let at_ns = self.now_ns().unwrap_or(0);
        if kill(*pid, Signal::SIGKILL).is_ok() {
            self.note(at_ns, 0, "kill-worker", format!("worker {name} killed"));
        }
    }

    /// Stops the workers for every other moment. Whatever happens, they go on in the end.
    fn slow_workers(&mut self, length_ns: u64) {
        let workers = self.workers();
        let begun_ns = self.now_ns().unwrap_or(0);
        let signal = |which| {
            for (_, pid) in &workers {
                // One that is dead needs neither.
                let _ = kill(*pid, which);
            }
        };
        while self.now_ns().unwrap_or(u64::MAX) < begun_ns + length_ns && !self.is_over.load(Ordering::Relaxed) {
            signal(Signal::SIGSTOP);
            std::thread::sleep(STANDSTILL);
            signal(Signal::SIGCONT);
            std::thread::sleep(STANDSTILL);
            self.note_checkpoint();
        }
        let lasted_ns = self.now_ns().unwrap_or(begun_ns) - begun_ns;
        self.note(begun_ns, lasted_ns, "slow-udf", "workers at half speed".to_owned());
    }

    fn note_checkpoint(&mut self) {
        let (Some(figures), Some(now_ns)) = (self.control.checkpoint(), self.now_ns()) else { return };
        let (Some(age), true) = (figures.age, figures.count > self.checkpoints) else { return };
        self.checkpoints = figures.count;
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let begun_ns = now_ns.saturating_sub(nanoseconds(age)).saturating_sub(nanoseconds(figures.duration));
        self.note(begun_ns, nanoseconds(figures.duration), "checkpoint", format!("checkpoint {}", figures.epoch));
    }

    fn note(&mut self, at_ns: u64, length_ns: u64, kind: &'static str, label: String) {
        self.events.push(Event { at_s: at_ns as f64 / 1e9, length_s: length_ns as f64 / 1e9, kind, label });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_a_twentieth_of_each_period_at_ten_times_the_rate() {
        let second = 1_000_000_000;
        let phases = phases(Some(EventKind::Burst), 100.0, second, 4 * second, second);
        assert_eq!(phases.iter().map(|phase| phase.length_ns).sum::<u64>(), 4 * second);
        let bursts: Vec<&Phase> = phases.iter().filter(|phase| phase.rate > 100.0).collect();
        assert_eq!(bursts.len(), 3);
        assert!(bursts.iter().all(|phase| phase.length_ns == second / 20 && phase.rate == 1000.0), "{phases:?}");
    }

    #[test]
    fn a_load_without_bursts_is_one_phase() {
        assert_eq!(phases(None, 7.0, 1, 10, 3), [Phase { length_ns: 10, rate: 7.0 }]);
    }
}
