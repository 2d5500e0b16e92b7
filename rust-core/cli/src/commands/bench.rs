//! `ringmill bench FILE`: measures, shows, writes, and says INVALID where it has to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringmill_connect::open_loop::{Driver, EventTimes};
use ringmill_engine::Plan;
use ringmill_engine::plan::NodeKind;

use super::run::on_screen;
use crate::arguments::{BenchArguments, GeneratorChoice};
use crate::bench::events::EventKind;
use crate::bench::machine::{Build, MachineReport};
use crate::bench::measurement::{Measured, merge};
use crate::bench::result::{BenchResult, Job, Method, Point, SCHEMA, Status, Sweep};
use crate::bench::run::{Condition, Outcome, Signals, run};
use crate::bench::sweep::sweep;
use crate::bench::tables::{self, Table};
use crate::bench::target::Target;
use crate::bench::{chart, files, html, plots};
use crate::config::duration::format_duration;
use crate::failure::{Failure, Hinted};
use crate::machine::Machine;
use crate::signals;
use crate::table::TextTable;
use crate::terminal::Screen;
use crate::units::{latency, rate};

/// A sweep's runs are at most this long.
const SWEEP_DURATION_NS: u64 = 3_000_000_000;
/// … and their warm-up this.
const SWEEP_WARMUP_NS: u64 = 1_000_000_000;
/// Part of the sustainable rate that is measured if no rate was asked for.
const PART_MEASURED: f64 = 0.5;

/// Measures the pipeline.
///
/// # Errors
/// See [`Failure`]; [`Failure::Invalid`] after everything was written.
pub fn execute(arguments: &BenchArguments) -> Result<(), Failure> {
    on_screen(&arguments.log, arguments.quiet, |screen| Bench::prepare(arguments, screen)?.measure())
}

struct Bench<'a> {
    arguments: &'a BenchArguments,
    screen: Screen,
    folder: PathBuf,
    target: Target,
    base: Condition,
    runs: usize,
    signals: Signals,
    created: String,
}

impl<'a> Bench<'a> {
    fn prepare(arguments: &'a BenchArguments, screen: Screen) -> Result<Bench<'a>, Failure> {
        let machine = Machine::detect();
        let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let folder = output_folder(arguments, &created)?;
        let target = Target::prepare(&arguments.config, &machine, arguments.keep_sinks, &folder)?;
        check_events(&arguments.event, &target.plan)?;
        let signals = Arc::new(AtomicU32::new(0));
        let told = signals.clone();
        let note = move || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        signals::watch(note)
            .map_err(|error| Failure::Run(Hinted::new(format!("signals cannot be watched: {error}"))))?;
        let pick = |given: Option<Duration>, usual, quick| match given {
            Some(duration) => u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            None if arguments.quick => quick,
            None => usual,
        };
        let base = Condition {
            rate: None,
            event: None,
            warmup_ns: pick(arguments.warmup, 2_000_000_000, 500_000_000),
            duration_ns: pick(arguments.duration, 10_000_000_000, 2_000_000_000),
            period_ns: pick(Some(arguments.every), 0, 0),
            group: u64::from(arguments.group),
            driver: driver(arguments.generator, &target.plan, machine.cores),
            event_times: if arguments.live_times { EventTimes::Live } else { EventTimes::Stream },
            tolerance: arguments.tolerance,
        };
        let runs = arguments.runs.map_or(if arguments.quick { 2 } else { 5 }, |runs| runs as usize);
        Ok(Bench { arguments, screen, folder, target, base, runs, signals, created })
    }

    fn measure(self) -> Result<(), Failure> {
        self.say(&format!("{}: results go to {}", self.target.plan.name, self.folder.display()));
        let is_swept = self.arguments.sweep || self.arguments.p99.is_some() || self.arguments.rate.is_empty();
        let sweep = is_swept.then(|| self.sweep()).transpose()?;
        let rates = self.rates(sweep.as_ref());
        let mut all = Vec::new();
        for rate in &rates {
            all.push(self.measure_at(*rate, None)?);
        }
        for event in &self.arguments.event {
            all.push(self.measure_at(rates[0], Some(*event))?);
        }
        self.screen.clear();
        let result = self.result(&all, sweep);
        self.write(&result, &all).map_err(|error| {
            Failure::Run(Hinted::new(format!("{} cannot be written: {error}", self.folder.display())))
        })?;
        self.screen.print(&closing(&result));
        self.screen.print(&format!("\n{}", self.folder.join("report.html").display()));
        match result.status {
            Status::Valid => Ok(()),
            Status::Invalid => {
                let message = "these figures do not count (the reasons stand above and in every file)";
                let hint = "a lower --rate, a quieter machine, or longer runs; --tolerance says what may be missed";
                Err(Failure::Invalid(Hinted::new(message).hint(hint)))
            }
        }
    }

    /// What was asked for, or half of what is sustained.
    fn rates(&self, sweep: Option<&Sweep>) -> Vec<f64> {
        if !self.arguments.rate.is_empty() {
            return self.arguments.rate.clone();
        }
        let highest = sweep.map_or(1.0, |sweep| sweep.sustainable_rate.unwrap_or(sweep.capacity));
        vec![(highest * PART_MEASURED).max(1.0)]
    }

    fn sweep(&self) -> Result<Sweep, Failure> {
        let duration_ns = self.base.duration_ns.min(SWEEP_DURATION_NS);
        let warmup_ns = self.base.warmup_ns.min(SWEEP_WARMUP_NS);
        let condition = Condition { duration_ns, warmup_ns, ..self.base.clone() };
        self.announce("as fast as rows are taken", &condition);
        let capacity = run(&self.target, &condition, &self.signals)?.run.achieved_rate;
        self.say(&format!("as fast as rows are taken: {}", rate(capacity)));
        if capacity < 1.0 {
            let message = "the pipeline took less than one row a second; there is nothing to measure";
            return Err(Failure::Run(Hinted::new(message)));
        }
        let limit_ns = self.arguments.p99.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        sweep(capacity, limit_ns, self.arguments.quick, |rows| {
            let condition = Condition { rate: Some(rows), ..condition.clone() };
            self.announce(&format!("sweep: {}", rate(rows)), &condition);
            let outcome = run(&self.target, &condition, &self.signals)?;
            let figures = end_to_end(&outcome);
            let point = Point::of(rows, &outcome.run, figures);
            let p99 = point.latency_ns.p99.map_or_else(|| "-".to_owned(), latency);
            self.say(&format!("sweep: {} due, p99 {p99}, {}", rate(rows), plots::verdict(&point)));
            Ok(point)
        })
    }

    fn measure_at(&self, rows: f64, event: Option<EventKind>) -> Result<Measured, Failure> {
        let condition = Condition { rate: Some(rows), event, ..self.base.clone() };
        let what = event.map_or_else(|| rate(rows), |event| format!("{}, {}", rate(rows), event.words()));
        let mut outcomes = Vec::with_capacity(self.runs);
        for number in 1..=self.runs {
            self.announce(&format!("{what}: run {number} of {}", self.runs), &condition);
            let outcome = run(&self.target, &condition, &self.signals)?;
            let figures = end_to_end(&outcome);
            let shown = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), latency);
            self.say(&format!(
                "{what}: run {number} of {}: p50 {}, p99 {}, max {}{}",
                self.runs,
                shown(figures.p50),
                shown(figures.p99),
                shown(figures.max),
                outcome.run.invalid_because.first().map_or_else(String::new, |why| format!("; INVALID: {why}"))
            ));
            outcomes.push(outcome);
        }
        Ok(merge(&condition, outcomes))
    }

    fn announce(&self, what: &str, condition: &Condition) {
        if self.screen.is_live() && !self.arguments.quiet {
            let seconds = Duration::from_nanos(condition.length_ns()).as_secs_f64();
            self.screen.draw(&[format!("measuring {what} … ({seconds:.1} s)")]);
        }
    }

    fn say(&self, text: &str) {
        if !self.arguments.quiet {
            self.screen.print(text);
        }
    }

    fn result(&self, all: &[Measured], sweep: Option<Sweep>) -> BenchResult {
        let measurements: Vec<_> = all.iter().map(|measured| measured.measurement.clone()).collect();
        let reasons: Vec<String> = measurements
            .iter()
            .flat_map(|measurement| {
                let name = plots::name(measurement);
                measurement.invalid_because.iter().map(move |why| format!("{name}, {why}"))
            })
            .collect();
        let plan = &self.target.plan;
        BenchResult {
            schema: SCHEMA,
            status: Status::of(&reasons),
            invalid_because: reasons,
            created: self.created.clone(),
            job: Job {
                name: plan.name.clone(),
                engine: "ringmill",
                engine_version: env!("CARGO_PKG_VERSION"),
                variant: self.arguments.variant.clone(),
                pipeline: self.arguments.config.file.display().to_string(),
                overrides: self.arguments.config.overrides.clone(),
            },
            build: Build::this(),
            machine: MachineReport::of(plan),
            method: self.method(),
            measurements,
            sweep,
        }
    }

    fn method(&self) -> Method {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let mut notes = self.target.notes.clone();
        if !self.arguments.event.is_empty() {
            let every = format_duration(i64::try_from(self.base.period_ns).unwrap_or(i64::MAX));
            notes.push(format!("events come every {every}"));
        }
        if self.arguments.event.contains(&EventKind::KillWorker) {
            notes.push("with worker kills, `restarts_max` is not applied".to_owned());
        }
        if self.runs < 5 || self.arguments.quick {
            notes.push("this is a quick look: fewer or shorter runs than a figure to be quoted needs".to_owned());
        }
        Method {
            load: "open",
            latency_from: "intended",
            generator: match self.base.driver {
                Driver::Thread => "thread",
                Driver::Shard => "shard",
            },
            group_rows: self.base.group,
            warmup_s: seconds(self.base.warmup_ns),
            duration_s: seconds(self.base.duration_ns),
            runs: self.runs,
            tolerance: self.base.tolerance,
            event_times: if self.arguments.live_times { "live" } else { "stream" },
            sinks: if self.target.keeps_sinks { "kept" } else { "discarded" },
            event_period_s: seconds(self.base.period_ns),
            quick: self.arguments.quick,
            notes,
        }
    }

    fn write(&self, result: &BenchResult, all: &[Measured]) -> io::Result<()> {
        let mut json = serde_json::to_string_pretty(result)?;
        json.push('\n');
        std::fs::write(self.folder.join("result.json"), json)?;
        std::fs::write(self.folder.join("report.html"), html::page(result, all))?;
        draw(&self.folder.join("percentiles.svg"), &plots::percentiles(all))?;
        if let Some(sweep) = &result.sweep {
            draw(&self.folder.join("throughput.svg"), &plots::throughput(sweep))?;
        }
        for measured in all {
            write_measured(&self.folder, result, measured)?;
        }
        Ok(())
    }
}

/// A folder of its own for each measurement.
fn write_measured(folder: &Path, result: &BenchResult, measured: &Measured) -> io::Result<()> {
    let folder = folder.join(&measured.measurement.id);
    std::fs::create_dir_all(&folder)?;
    let status = match measured.measurement.status {
        Status::Valid => "valid",
        Status::Invalid => "INVALID",
    };
    for (stage, histogram, _) in &measured.stages {
        files::write_hgrm(&folder.join(format!("{stage}.hgrm")), histogram)?;
    }
    files::write_hgrm(&folder.join("hiccup.hgrm"), &measured.hiccups)?;
    let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
    let from_ns = nanoseconds(result.method.warmup_s);
    let measured_ns = (from_ns, from_ns + nanoseconds(result.method.duration_s));
    for (index, outcome) in measured.outcomes.iter().enumerate() {
        let comment = format!("{}, {}, {status}, nanoseconds", result.build.line(), plots::name(&measured.measurement));
        files::write_hlog(&folder.join(format!("run-{}.hlog", index + 1)), &comment, outcome, measured_ns)?;
    }
    if let Some(series) = plots::time_series(measured) {
        draw(&folder.join("time.svg"), &series)?;
    }
    draw(&folder.join("stages.svg"), &plots::stages(measured))
}

fn draw(path: &Path, chart: &chart::Chart) -> io::Result<()> {
    std::fs::write(path, chart.svg())
}

fn end_to_end(outcome: &Outcome) -> crate::bench::percentiles::Percentiles {
    let found = outcome.run.latency_ns.iter().find(|(stage, _)| stage == "end_to_end");
    found.map(|(_, figures)| figures.clone()).unwrap_or_default()
}

/// The tables that end a bench on the terminal.
fn closing(result: &BenchResult) -> String {
    let mut lines = vec![String::new()];
    if let Some(sweep) = &result.sweep {
        lines.extend(plain(&tables::sweep(sweep)));
        lines.push(String::new());
        lines.extend(tables::findings(sweep).into_iter().map(|line| format!("  {line}")));
        lines.push(String::new());
    }
    for measurement in &result.measurements {
        lines.push(format!("{}: {} runs, merged", plots::name(measurement), measurement.runs.len()));
        lines.extend(plain(&tables::stages(measurement)));
        lines.push(String::new());
    }
    lines.extend(plain(&tables::end_to_end(result)));
    for why in &result.invalid_because {
        lines.push(format!("  INVALID: {why}"));
    }
    lines.join("\n")
}

fn plain(table: &Table) -> Vec<String> {
    let mut text = TextTable::new(table.header.clone()).left(table.words);
    table.rows.iter().for_each(|row| text.push(row.clone()));
    text.lines()
}

/// A thread that spins needs a CPU of its own, or it measures itself.
fn driver(choice: Option<GeneratorChoice>, plan: &Plan, cores: usize) -> Driver {
    let workers: usize = plan
        .nodes
        .iter()
        .map(|node| match &node.kind {
            NodeKind::Udf(udf) => udf.workers * plan.shards,
            _ => 0,
        })
        .sum();
    match choice {
        Some(GeneratorChoice::Thread) => Driver::Thread,
        Some(GeneratorChoice::Shard) => Driver::Shard,
        None if cores > plan.shards + workers => Driver::Thread,
        None => Driver::Shard,
    }
}

fn check_events(events: &[EventKind], plan: &Plan) -> Result<(), Failure> {
    let has_function = plan.nodes.iter().any(|node| matches!(node.kind, NodeKind::Udf(_)));
    let needing = events.iter().find(|event| matches!(event, EventKind::KillWorker | EventKind::SlowUdf));
    match needing.filter(|_| !has_function) {
        Some(event) => {
            let message = format!("--event {}: the pipeline has no workers", event.name());
            Err(Failure::Usage(Hinted::new(message).hint("checkpoint and burst work on every pipeline")))
        }
        None => Ok(()),
    }
}

/// The folder that results go to, made and empty.
fn output_folder(arguments: &BenchArguments, created: &str) -> Result<PathBuf, Failure> {
    let stem = arguments.config.file.file_stem().map_or("pipeline".into(), |stem| stem.to_string_lossy());
    let time: String = created.chars().filter(char::is_ascii_alphanumeric).collect();
    let folder = arguments.output.clone().unwrap_or_else(|| PathBuf::from(format!("bench-{stem}-{time}")));
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let failed = |error| Failure::Run(Hinted::new(format!("{} cannot be made: {error}", folder.display())));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    if std::fs::read_dir(&folder).map_err(failed)?.next().is_some() {
        let message = format!("--output: {} is not empty", folder.display());
        return Err(Failure::Usage(Hinted::new(message).hint("name a folder that is empty or not there yet")));
    }
    Ok(folder)
}
