//! One run of a pipeline under a load: the engine on a thread of its own, and what measures it around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use ringmill_connect::open_loop::{Driver, EventTimes, LoadFigures, LoadSpec, OpenLoop};
use ringmill_engine::instruments::{Instruments, Reading};
use ringmill_engine::plan::NodeKind;
use ringmill_engine::{Control, EngineError, Plan, Stage, Summary, latency_histogram};
use ringmill_ring::monotonic_ns;

use super::events::{Disturbance, EventKind, phases};
use super::hiccup::{HiccupControl, Hiccups};
use super::percentiles::Percentiles;
use super::result::{Backlog, Event, Generator, Run, Slice, Status};
use super::target::Target;
use super::verdict::{Evidence, Verdict, judge};
use crate::failure::{Failure, Hinted};
use crate::reconcile;
use crate::report::Split;

/// The time is cut into about so many slices …
const SLICES_MAX: u64 = 400;
/// … of about this length at least.
const SLICE_NS_MIN: u64 = 10_000_000;
/// Latencies of the stages are fetched from the shards in the last part of the warm-up, again and again, and thrown away;
/// then no more before the end, because fetching disturbs.
const EMPTYING_NS: u64 = 500_000_000;
/// A pipeline may take this much longer than the load to take all rows …
const PATIENCE_NS: u64 = 2_000_000_000;
/// … and then this long to end.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// How a run is made.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Rows a second over all sources; `None`: as fast as they are taken.
    pub rate: Option<f64>,
    /// What is done to the pipeline.
    pub event: Option<EventKind>,
    /// Not measured.
    pub warmup_ns: u64,
    /// Measured.
    pub duration_ns: u64,
    /// Distance of events.
    pub period_ns: u64,
    /// Rows that are due together.
    pub group: u64,
    /// Who looks at the clock.
    pub driver: Driver,
    /// What becomes of event times.
    pub event_times: EventTimes,
    /// Share of the rate that may be missed.
    pub tolerance: f64,
}

/// What a run gave.
pub struct Outcome {
    /// For the file.
    pub run: Run,
    /// By stage, in reporting order, each with its number of observations.
    pub stages: Vec<(&'static str, Histogram<u64>, u64)>,
    /// The machine's stalls.
    pub hiccups: Hiccups,
    /// End to end, slice by slice since the start of the load.
    pub slices: Vec<Histogram<u32>>,
    /// Length of a slice.
    pub slice_ns: u64,
    /// Latencies of the other stages.
    pub intervals: Vec<Interval>,
}

/// What stages recorded between two looks.
pub struct Interval {
    /// Since the start of the load.
    pub start_ns: u64,
    /// Until the next look.
    pub length_ns: u64,
    /// Those that recorded anything.
    pub stages: Vec<(Stage, Histogram<u64>)>,
}

/// Signals that have come.
pub type Signals = Arc<AtomicU32>;

impl Condition {
    /// Warm-up and measured time.
    pub fn length_ns(&self) -> u64 {
        self.warmup_ns + self.duration_ns
    }

    /// Since the start of the load.
    pub fn measured_ns(&self) -> (u64, u64) {
        (self.warmup_ns, self.length_ns())
    }

    fn load(&self) -> LoadSpec {
        let phases = self.rate.map(|rate| phases(self.event, rate, self.warmup_ns, self.length_ns(), self.period_ns));
        LoadSpec {
            phases: phases.unwrap_or_default(),
            length_ns: self.length_ns(),
            measured_ns: self.measured_ns(),
            group: self.group,
            driver: self.driver,
            event_times: self.event_times,
        }
    }

    /// Rows that are due in the measured time.
    pub fn rows_measured(&self) -> u64 {
        let (mut at_ns, mut rows) = (0, 0.0);
        for phase in self.load().phases {
            let from_ns = at_ns.max(self.warmup_ns);
            at_ns += phase.length_ns;
            rows += at_ns.saturating_sub(from_ns) as f64 * 1e-9 * phase.rate;
        }
        rows.round() as u64
    }

    /// A part of the warm-up, so that no slice is measured in part.
    fn slice_ns(&self) -> u64 {
        let length_ns = self.length_ns().div_ceil(SLICES_MAX).max(SLICE_NS_MIN);
        let slices = self.warmup_ns.div_ceil(length_ns);
        self.warmup_ns.checked_div(slices).unwrap_or(length_ns)
    }
}

/// A run that is under way.
struct Watch<'a> {
    condition: &'a Condition,
    control: Arc<Control>,
    load: Arc<OpenLoop>,
    slice_ns: u64,
    backlog: Vec<u64>,
    /// Looked at while rows were measured.
    measured_backlog: Vec<u64>,
    intervals: Vec<Interval>,
    /// When stages were fetched last, since the start; `None`: the warm-up is not over.
    fetched_ns: Option<u64>,
    backlog_at_end: Option<u64>,
    gave_up: Option<Instant>,
}

/// Runs the target once.
///
/// # Errors
/// What the engine says, or that the user wanted an end. A run that does not count is no error.
pub fn run(target: &Target, condition: &Condition, signals: &Signals) -> Result<Outcome, Failure> {
    let slice_ns = condition.slice_ns();
    let slices = usize::try_from(condition.length_ns().div_ceil(slice_ns)).unwrap_or(0);
    let load = Arc::new(OpenLoop::new(condition.load(), target.shares()));
    let instruments = Arc::new(target.instruments(&load, slice_ns, slices));
    let plan = plan_for(target, condition, &instruments);
    let control = Arc::new(Control::default());
    let failed = |error| Failure::Run(Hinted::new(format!("a thread of the bench cannot be started: {error}")));
    let hiccups = HiccupControl::start(load.clone(), slice_ns, slices).map_err(failed)?;
    let disturbance =
        Disturbance::start(condition.event, &control, &load, condition.measured_ns(), condition.period_ns);
    let disturbance = disturbance.map_err(failed)?;
    let driver = load.clone();
    let driver = std::thread::Builder::new().name("ringmill-load".to_owned()).spawn(move || driver.drive());
    let driver = driver.map_err(failed)?;
    let (started_ns, cpu_before_s) = (monotonic_ns(), own_cpu_seconds());
    let ended = start_engine(&plan, &control).map_err(failed)?;
    let mut watch = Watch::new(condition, &control, &load, slice_ns, slices);
    let outcome = watch.until_end(&ended, signals);
    load.stop();
    let _ = driver.join();
    let (hiccups, events) = (hiccups.finish(), disturbance.finish());
    let mut summary = outcome?;
    // Runs before this one were in the same process.
    summary.core_cpu_seconds -= cpu_before_s;
    watch.fetch(condition.length_ns());
    let figures = load.figures();
    let startup_ns = load.start_ns().map_or(0, |start_ns| start_ns.saturating_sub(started_ns));
    let mut gathered =
        Gathered { watch, plan: &plan, summary: &summary, figures, hiccups, events, startup_ns, instruments };
    Ok(gathered.outcome())
}

/// User and system time of this process so far.
fn own_cpu_seconds() -> f64 {
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// The target's plan with instruments, and what the event needs.
fn plan_for(target: &Target, condition: &Condition, instruments: &Arc<Instruments>) -> Plan {
    let mut plan = target.plan.clone();
    plan.instruments = Some(instruments.clone());
    match condition.event {
        Some(EventKind::Checkpoint) => {
            let every = target.checkpoint_every(condition.period_ns);
            plan.checkpoint = Some(every);
        }
        Some(EventKind::KillWorker) => {
            for node in &mut plan.nodes {
                if let NodeKind::Udf(udf) = &mut node.kind {
                    udf.supervision.restart.deaths_max = u32::MAX;
                }
            }
        }
        Some(EventKind::Burst | EventKind::SlowUdf) | None => {}
    }
    plan
}

type Ended = Receiver<Result<Summary, EngineError>>;

fn start_engine(plan: &Plan, control: &Arc<Control>) -> std::io::Result<Ended> {
    let (sender, receiver) = channel();
    let (plan, control) = (plan.clone(), control.clone());
    let run = move || {
        // Nobody waits any more after a second signal.
        let _ = sender.send(ringmill_engine::run(plan, control));
    };
    std::thread::Builder::new().name("ringmill-run".to_owned()).spawn(run)?;
    Ok(receiver)
}

impl<'a> Watch<'a> {
    fn new(
        condition: &'a Condition,
        control: &Arc<Control>,
        load: &Arc<OpenLoop>,
        slice_ns: u64,
        slices: usize,
    ) -> Watch<'a> {
        Watch {
            condition,
            control: control.clone(),
            load: load.clone(),
            slice_ns,
            backlog: vec![0; slices],
            measured_backlog: Vec::with_capacity(slices),
            intervals: Vec::new(),
            fetched_ns: None,
            backlog_at_end: None,
            gave_up: None,
        }
    }

    fn until_end(&mut self, ended: &Ended, signals: &Signals) -> Result<Summary, Failure> {
        loop {
            match ended.recv_timeout(Duration::from_nanos(self.slice_ns)) {
                Ok(outcome) if signals.load(Ordering::Relaxed) == 0 => return outcome.map_err(Failure::from),
                Ok(_) => return Err(Failure::Interrupted),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(EngineError::Internal("the engine's thread ended".into()).into());
                }
            }
            if signals.load(Ordering::Relaxed) > 0 {
                self.control.request_abort();
            }
            self.look();
            if self.gave_up.is_some_and(|since| since.elapsed() > END_PATIENCE) {
                self.control.request_abort();
            }
        }
    }

    fn look(&mut self) {
        let Some(now_ns) = self.load.start_ns().and_then(|start_ns| monotonic_ns().checked_sub(start_ns)) else {
            return;
        };
        let (from_ns, to_ns) = self.condition.measured_ns();
        let (backlog, _) = self.load.backlog();
        if let Some(most) = usize::try_from(now_ns / self.slice_ns).ok().and_then(|slice| self.backlog.get_mut(slice)) {
            *most = backlog.max(*most);
        }
        if (from_ns..to_ns).contains(&now_ns) {
            self.measured_backlog.push(backlog);
        }
        if now_ns >= to_ns {
            self.backlog_at_end.get_or_insert(backlog);
        }
        match self.fetched_ns {
            None if now_ns + EMPTYING_NS >= from_ns => {
                // What was recorded until now is the warm-up's.
                let _ = self.control.take_intervals();
                self.fetched_ns = (now_ns >= from_ns).then_some(now_ns);
            }
            _ => {}
        }
        let patience_ns = PATIENCE_NS.max(self.condition.duration_ns / 2);
        if now_ns > to_ns + patience_ns && self.gave_up.is_none() {
            self.gave_up = Some(Instant::now());
            self.control.request_drain();
        }
    }

    /// Takes what the stages have recorded since the last time.
    fn fetch(&mut self, now_ns: u64) {
        let Some(before_ns) = self.fetched_ns else { return };
        let stages = self.control.take_intervals();
        if !stages.is_empty() {
            let length_ns = now_ns.saturating_sub(before_ns);
            self.intervals.push(Interval { start_ns: before_ns, length_ns, stages });
        }
        self.fetched_ns = Some(now_ns);
    }
}

/// Everything that is known when a run is over.
struct Gathered<'a> {
    watch: Watch<'a>,
    plan: &'a Plan,
    summary: &'a Summary,
    figures: LoadFigures,
    hiccups: Hiccups,
    events: Vec<Event>,
    startup_ns: u64,
    instruments: Arc<Instruments>,
}

impl Gathered<'_> {
    fn outcome(&mut self) -> Outcome {
        let readings = self.instruments.probe.take_readings();
        let (end_to_end, batches, slices) = merge(&readings, self.watch.backlog.len());
        let stages = self.stages(end_to_end, batches);
        let verdict = self.verdict(&stages);
        let run = self.run(&verdict, &stages, &slices);
        let intervals = std::mem::take(&mut self.watch.intervals);
        Outcome { run, stages, hiccups: self.hiccups.clone(), slices, slice_ns: self.watch.slice_ns, intervals }
    }

    fn stages(&self, end_to_end: Histogram<u64>, batches: u64) -> Vec<(&'static str, Histogram<u64>, u64)> {
        let rows = end_to_end.len().max(1) as f64;
        let mut stages =
            vec![(Stage::EndToEnd.name(), end_to_end, batches), ("queue", self.figures.waits.clone(), batches)];
        for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::EndToEnd) {
            let mut total = latency_histogram();
            let found = self.watch.intervals.iter().flat_map(|interval| &interval.stages);
            for (_, histogram) in found.filter(|(other, _)| *other == stage) {
                // The bounds are the same, so nothing can be out of them.
                let _ = total.add(histogram);
            }
            let observations = (total.len() as f64 * batches as f64 / rows) as u64;
            stages.push((stage.name(), total, observations));
        }
        stages.retain(|(_, histogram, _)| !histogram.is_empty());
        stages
    }

    fn verdict(&self, stages: &[(&'static str, Histogram<u64>, u64)]) -> Verdict {
        let condition = self.watch.condition;
        if condition.rate.is_none() {
            let seconds = condition.length_ns() as f64 / 1e9;
            let rate = self.figures.taken as f64 / seconds;
            return Verdict {
                achieved_rate: rate,
                released_rate: rate,
                lost: 0,
                is_growing: false,
                reasons: Vec::new(),
            };
        }
        let end_to_end = stages.iter().find(|(name, _, _)| *name == Stage::EndToEnd.name());
        judge(&Evidence {
            load: &self.figures,
            measured_ns: condition.measured_ns(),
            rows_measured: condition.rows_measured(),
            tolerance: condition.tolerance,
            differences: reconcile::differences(self.plan, &self.summary.snapshot.nodes),
            results: end_to_end.map_or(0, |(_, histogram, _)| histogram.len()),
            was_given_up: self.watch.gave_up.is_some(),
            backlog: &self.watch.measured_backlog,
        })
    }

    fn run(&self, verdict: &Verdict, stages: &[(&'static str, Histogram<u64>, u64)], slices: &[Histogram<u32>]) -> Run {
        let (summary, watch, snapshot) = (self.summary, &self.watch, &self.summary.snapshot);
        let sinks = snapshot.nodes.iter().filter(|node| node.kind == "sink");
        let length_ns = watch.condition.length_ns();
        let lag = &self.figures.lag;
        Run {
            status: Status::of(&verdict.reasons),
            invalid_because: verdict.reasons.clone(),
            rows_in: snapshot.rows_in,
            rows_out: sinks.map(|node| node.rows_out).sum(),
            late: snapshot.rows_late,
            dead_letters: snapshot.rows_dead,
            lost: verdict.lost,
            achieved_rate: verdict.achieved_rate,
            seconds: watch.condition.duration_ns as f64 / 1e9,
            startup_s: self.startup_ns as f64 / 1e9,
            generator: Generator {
                released: self.figures.released,
                achieved_rate: verdict.released_rate,
                lag_ns: Percentiles::of(lag, lag.len() / watch.condition.group.max(1)),
            },
            backlog: Backlog {
                growing: verdict.is_growing,
                rows_max: watch.measured_backlog.iter().copied().max().unwrap_or(0),
                rows_at_end: watch.backlog_at_end.unwrap_or(0),
                drain_s: self.figures.finished_ns.map(|at_ns| at_ns.saturating_sub(length_ns) as f64 / 1e9),
            },
            latency_ns: stages
                .iter()
                .map(|(name, histogram, observations)| ((*name).to_owned(), Percentiles::of(histogram, *observations)))
                .collect(),
            hiccup_ns: Percentiles::of(&self.hiccups.total, self.hiccups.total.len()),
            events: self.events.clone(),
            series: self.series(slices),
            workers_restarts: summary.workers_restarts,
            cpu_seconds: Split { core: summary.core_cpu_seconds, workers: summary.workers_cpu_seconds },
            memory_bytes: Split { core: summary.core_memory_bytes, workers: summary.workers_memory_bytes },
        }
    }

    fn series(&self, slices: &[Histogram<u32>]) -> Vec<Slice> {
        let length_s = self.watch.slice_ns as f64 / 1e9;
        let slice = |(index, histogram): (usize, &Histogram<u32>)| {
            let figure = |value: fn(&Histogram<u32>) -> u64| (!histogram.is_empty()).then(|| value(histogram));
            Slice {
                at_s: index as f64 * length_s,
                length_s,
                rows: histogram.len(),
                p50: figure(|histogram| histogram.value_at_quantile(0.5)),
                p99: figure(|histogram| histogram.value_at_quantile(0.99)),
                max: figure(Histogram::max),
                backlog: self.watch.backlog.get(index).copied().unwrap_or(0),
                hiccup_max: self.hiccups.slices.get(index).copied().unwrap_or(0),
            }
        };
        slices.iter().enumerate().map(slice).collect()
    }
}

/// What all sinks and threads have seen: all of it, from how many batches, and slice by slice.
fn merge(readings: &[Reading], slices: usize) -> (Histogram<u64>, u64, Vec<Histogram<u32>>) {
    let mut total = latency_histogram();
    let mut merged: Vec<Histogram<u32>> = Vec::with_capacity(slices);
    let mut batches = 0;
    for reading in readings {
        // The bounds are the same everywhere, so nothing can be out of them.
        let _ = total.add(&reading.total);
        batches += reading.batches;
        for (index, slice) in reading.slices.iter().enumerate() {
            match merged.get_mut(index) {
                Some(other) => {
                    let _ = other.add(slice);
                }
                None => merged.push(slice.clone()),
            }
        }
    }
    (total, batches, merged)
}
