//! The result of a bench as it is written to `result.json`: schema `ringmill-bench/1`, described in
//! `docs/benchmarking.md`. Other engines' results are written in the same form.

use serde::Serialize;

use super::machine::{Build, MachineReport};
use super::percentiles::Percentiles;
use crate::report::{InOrder, Split};

/// Name and version of the form.
pub const SCHEMA: &str = "ringmill-bench/1";

/// Whether figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// They do.
    Valid,
    /// They do not: the schedule was missed, or something was lost.
    Invalid,
}

impl Status {
    /// Valid, if there is no reason against it.
    pub fn of(reasons: &[String]) -> Status {
        if reasons.is_empty() { Status::Valid } else { Status::Invalid }
    }
}

/// The whole file.
#[derive(Clone, Debug, Serialize)]
pub struct BenchResult {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Invalid if any measurement is.
    pub status: Status,
    /// Why.
    pub invalid_because: Vec<String>,
    /// When it began, UTC.
    pub created: String,
    /// What ran.
    pub job: Job,
    /// What it was built from.
    pub build: Build,
    /// What it ran on.
    pub machine: MachineReport,
    /// How it was measured.
    pub method: Method,
    /// Runs under one condition each.
    pub measurements: Vec<Measurement>,
    /// Rates up to saturation.
    pub sweep: Option<Sweep>,
}

/// What ran.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// The pipeline's name.
    pub name: String,
    /// `ringmill`.
    pub engine: &'static str,
    /// Its version.
    pub engine_version: &'static str,
    /// Words for the configuration.
    pub variant: Option<String>,
    /// The configuration file.
    pub pipeline: String,
    /// What was laid over it.
    pub overrides: Vec<String>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Method {
    /// `open`: rows have intended times, whatever the pipeline does.
    #[serde(rename = "loop")]
    pub load: &'static str,
    /// `intended`: latency counts from when a row was due.
    pub latency_from: &'static str,
    /// `thread` or `shard`: who looks at the clock.
    pub generator: &'static str,
    /// Rows that are due together.
    pub group_rows: u64,
    /// Not measured, at the beginning of each run.
    pub warmup_s: f64,
    /// Measured, in each run.
    pub duration_s: f64,
    /// Runs of each measurement.
    pub runs: usize,
    /// Share of the rate that may be missed.
    pub tolerance: f64,
    /// `stream` or `live`.
    pub event_times: &'static str,
    /// `discarded` or `kept`.
    pub sinks: &'static str,
    /// Distance of events, where there are any.
    pub event_period_s: f64,
    /// A small run, for a first look.
    pub quick: bool,
    /// What was changed of the pipeline, and anything else to know; sentences.
    pub notes: Vec<String>,
}

/// Several runs under one condition.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Unique, fit for a file name.
    pub id: String,
    /// What was done to the pipeline; null: nothing.
    pub event: Option<&'static str>,
    /// Rows a second that were due, on average.
    pub rate: f64,
    /// Invalid if any run is.
    pub status: Status,
    /// Why, run by run.
    pub invalid_because: Vec<String>,
    /// Rows a second that were taken, over the runs.
    pub throughput: Spread,
    /// By stage, runs merged.
    pub latency_ns: InOrder<Percentiles>,
    /// By stage and percentile, of the runs' own figures.
    pub spread_ns: InOrder<InOrder<Spread>>,
    /// The machine's stalls.
    pub hiccup_ns: Percentiles,
    /// The runs.
    pub runs: Vec<Run>,
}

/// Least, middle and largest of the runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; `None`: there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { min, median, max })
    }
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Whether it counts.
    pub status: Status,
    /// Why not.
    pub invalid_because: Vec<String>,
    /// Records taken, warm-up included.
    pub rows_in: u64,
    /// Rows that reached sinks, warm-up included.
    pub rows_out: u64,
    /// Rows too late for their window.
    pub late: u64,
    /// Rows that could not be parsed or processed.
    pub dead_letters: u64,
    /// Rows that were due and never taken.
    pub lost: u64,
    /// Rows a second that were taken in the measured time.
    pub achieved_rate: f64,
    /// The measured time.
    pub seconds: f64,
    /// From the start of the engine until rows could enter.
    pub startup_s: f64,
    /// How the load itself did.
    pub generator: Generator,
    /// What was due and not taken.
    pub backlog: Backlog,
    /// By stage.
    pub latency_ns: InOrder<Percentiles>,
    /// The machine's stalls meanwhile.
    pub hiccup_ns: Percentiles,
    /// What was done to the pipeline, and checkpoints.
    pub events: Vec<Event>,
    /// End to end, by when rows were due.
    pub series: Vec<Slice>,
    /// Workers started again.
    pub workers_restarts: u64,
    /// User and system time.
    pub cpu_seconds: Split<f64>,
    /// Peak resident memory.
    pub memory_bytes: Split<u64>,
}

/// How the load did.
#[derive(Clone, Debug, Serialize)]
pub struct Generator {
    /// Rows released in all.
    pub released: u64,
    /// Rows a second in the measured time.
    pub achieved_rate: f64,
    /// How late it was itself; empty where the shard looks at the clock.
    pub lag_ns: Percentiles,
}

/// What was due and not taken.
#[derive(Clone, Debug, Serialize)]
pub struct Backlog {
    /// All the time.
    pub growing: bool,
    /// The most that was seen.
    pub rows_max: u64,
    /// When the measured time was over.
    pub rows_at_end: u64,
    /// How much longer it took until all was taken; null: it was not.
    pub drain_s: Option<f64>,
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Since the start of the load.
    pub at_s: f64,
    /// How long it lasted.
    pub length_s: f64,
    /// `checkpoint`, `kill-worker`, `burst`, `slow-udf`.
    pub kind: &'static str,
    /// For people.
    pub label: String,
}

/// A slice of the time, by when rows were due.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slice {
    /// Its beginning, since the start of the load.
    pub at_s: f64,
    /// Its length.
    pub length_s: f64,
    /// Rows that reached a sink.
    pub rows: u64,
    /// Half of them took at most this.
    pub p50: Option<u64>,
    /// 99 % took at most this.
    pub p99: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
    /// Rows due and not taken.
    pub backlog: u64,
    /// The machine's longest stall.
    pub hiccup_max: u64,
}

/// Rates up to saturation.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// Rows a second when they come as fast as they are taken.
    pub capacity: f64,
    /// The highest rate tried that was valid and whose backlog did not grow; null: none was.
    pub sustainable_rate: Option<f64>,
    /// The limit that was asked for.
    pub p99_limit_ns: Option<u64>,
    /// The highest rate tried that was sustained with its p99 within the limit.
    pub rate_at_p99_limit: Option<f64>,
    /// By rate.
    pub points: Vec<Point>,
}

/// One rate of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Rows a second that were due.
    pub rate: f64,
    /// Rows a second that were taken.
    pub achieved_rate: f64,
    /// Whether the run counts.
    pub status: Status,
    /// Valid, and no backlog grew.
    pub sustained: bool,
    /// The backlog grew all the time.
    pub backlog_growing: bool,
    /// End to end.
    #[serde(flatten)]
    pub latency_ns: Percentiles,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_least_middle_and_largest() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied()).map(|of| (of.min, of.median, of.max));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(spread(&[]), None);
    }
}
