//! `--report FILE.json`: the figures of a run for programs.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ringmill_connect::create_output;
use ringmill_engine::{CheckpointFigures, NodeCounts, Plan, Snapshot, Stage, Summary, WorkerSnapshot};
use serde::{Serialize, Serializer};

use crate::latency::Latency;
use crate::reconcile;

/// The report as it is written; the names of the fields are the keys.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The pipeline's name.
    pub pipeline: String,
    /// From the first row that could enter to the last that was written.
    pub seconds: f64,
    /// Rows in and out.
    pub rows: Rows,
    /// `rows.in` without what an earlier run had read, by `seconds`.
    pub rows_per_second: f64,
    /// By stage, in nanoseconds.
    pub latency_ns: InOrder<Latency>,
    /// Worker processes.
    pub workers: Workers,
    /// How the checkpoints went; null without a `[checkpoint]` table.
    pub checkpoints: Option<Checkpoints>,
    /// State that had no place in `state_memory`.
    pub spilled: Spilled,
    /// Peak resident memory.
    pub memory_bytes: Split<u64>,
    /// User and system time.
    pub cpu_seconds: Split<f64>,
    /// Every source, step and sink.
    pub nodes: InOrder<NodeReport>,
    /// Whether every row is accounted for.
    pub reconciled: bool,
    /// The node that held the others up longest, if any did.
    pub held_up_by: Option<String>,
}

/// A JSON object whose keys keep the order of the pipeline.
#[derive(Clone, Debug)]
pub struct InOrder<T>(Vec<(String, T)>);

impl<T> InOrder<T> {
    /// The entries in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, (String, T)> {
        self.0.iter()
    }
}

impl<T> FromIterator<(String, T)> for InOrder<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> InOrder<T> {
        InOrder(entries.into_iter().collect())
    }
}

impl<T: Serialize> Serialize for InOrder<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Rows in and out of the pipeline.
#[derive(Clone, Debug, Serialize)]
pub struct Rows {
    /// Records that the sources read; those before the checkpoint that the run went on from are counted, too.
    #[serde(rename = "in")]
    pub rows_in: u64,
    /// Rows that came too late for their window.
    pub late: u64,
    /// Rows that could not be parsed or processed.
    pub dead_letters: u64,
    /// Rows written, by sink.
    pub out: InOrder<u64>,
}

/// Worker processes.
#[derive(Clone, Debug, Serialize)]
pub struct Workers {
    /// Started at all.
    pub started: u64,
    /// Started again after a death.
    pub restarts: u64,
    /// Seconds inside the functions, over all workers.
    pub busy_seconds: f64,
    /// Each of them, by `step/shard/index`.
    pub each: InOrder<WorkerReport>,
}

/// One worker, whatever processes it had.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerReport {
    /// `starting`, `running`, `restarting` or `failed`: how it was seen last.
    pub state: &'static str,
    /// Started again after a death.
    pub restarts: u64,
    /// Batches answered.
    pub batches: u64,
    /// Seconds inside the function.
    pub busy_seconds: f64,
}

/// How the checkpoints went.
#[derive(Clone, Debug, Serialize)]
pub struct Checkpoints {
    /// The newest one there is; null: none yet.
    pub last: Option<u64>,
    /// How many were taken in this run.
    pub count: u64,
    /// How often something had to be tried again.
    pub failures: u64,
    /// Since the last one was committed; null: none in this run.
    pub age_seconds: Option<f64>,
    /// What the last one took, from its barrier to its commit; null: none in this run.
    pub duration_seconds: Option<f64>,
    /// Bytes of the last one's files, many of them shared with the one before; null: none in this run.
    pub bytes: Option<u64>,
    /// The one that the run went on from; null: it began at the beginning.
    pub recovered: Option<Recovered>,
}

/// The checkpoint that a run went on from.
#[derive(Clone, Debug, Serialize)]
pub struct Recovered {
    /// Its number.
    pub id: u64,
    /// When it was written, milliseconds since 1970.
    pub created_ms: u64,
    /// Whether all input there was at that time was in it.
    pub is_final: bool,
    /// Records that the sources had read before.
    pub rows_in: u64,
}

/// State that had no place in memory and was put away in the state folder.
#[derive(Clone, Debug, Serialize)]
pub struct Spilled {
    /// Entries written, each as often as it was.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Entries read back.
    pub read_back: u64,
}

/// A figure of the core and of all workers together.
#[derive(Clone, Debug, Serialize)]
pub struct Split<T> {
    /// The core process.
    pub core: T,
    /// All worker processes.
    pub workers: T,
}

/// Rows that passed one node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// `source`, `window`, `udf`, `filter` or `sink`.
    pub kind: &'static str,
    /// Rows taken in.
    #[serde(rename = "in")]
    pub rows_in: u64,
    /// Rows given out.
    pub out: u64,
    /// Rows given to `.late`.
    pub late: u64,
    /// Rows given to `.dead_letters`.
    pub dead_letters: u64,
    /// Rows filtered out, skipped, or aggregated by a window.
    pub absorbed: u64,
    /// Over every value of every column, whatever their order; null sinks have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Seconds during which it made its producers wait.
    pub held_up_seconds: f64,
    /// Messages that came faster than a source took them in this run, and are lost; sources whose messages nobody keeps have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    /// How far a source is behind, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagReport>,
}

/// Messages that are there and that a source has not read.
#[derive(Clone, Debug, Serialize)]
pub struct LagReport {
    /// Of all partitions together.
    pub total: u64,
    /// Of each.
    pub partitions: InOrder<u64>,
}

impl Report {
    /// The report of a finished run.
    pub fn new(plan: &Plan, summary: &Summary) -> Report {
        let snapshot = &summary.snapshot;
        let seconds = snapshot.elapsed.as_secs_f64();
        let sinks = snapshot.nodes.iter().filter(|node| node.kind == "sink");
        Report {
            pipeline: plan.name.clone(),
            seconds,
            rows: Rows {
                rows_in: snapshot.rows_in,
                late: snapshot.rows_late,
                dead_letters: snapshot.rows_dead,
                out: sinks.map(|node| (node.name.clone(), node.rows_out)).collect(),
            },
            rows_per_second: rows_per_second(snapshot),
            latency_ns: Stage::ALL
                .into_iter()
                .map(|stage| {
                    let found = snapshot.stages.iter().find(|(other, _)| *other == stage);
                    (stage.name().to_owned(), Latency::of(found.map(|(_, histogram)| histogram)))
                })
                .collect(),
            workers: Workers {
                started: summary.workers_started,
                restarts: summary.workers_restarts,
                busy_seconds: snapshot.workers.iter().map(|worker| worker.busy_ns).sum::<u64>() as f64 / 1e9,
                each: snapshot.workers.iter().map(worker_report).collect(),
            },
            checkpoints: snapshot.checkpoint.as_ref().map(checkpoints),
            spilled: Spilled {
                entries: snapshot.spilled.entries,
                bytes: snapshot.spilled.bytes,
                read_back: snapshot.spilled.read_back,
            },
            memory_bytes: Split { core: summary.core_memory_bytes, workers: summary.workers_memory_bytes },
            cpu_seconds: Split { core: summary.core_cpu_seconds, workers: summary.workers_cpu_seconds },
            nodes: snapshot.nodes.iter().map(|node| (node.name.clone(), node_report(node))).collect(),
            reconciled: reconcile::differences(plan, &snapshot.nodes).is_empty(),
            held_up_by: snapshot.bound.clone(),
        }
    }

    /// The report as JSON in one line.
    pub fn line(&self) -> String {
        // Strings and numbers alone: nothing in it can fail to become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Writes the report as indented JSON.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        create_output(File::options().write(true).truncate(true), path)?.write_all(text.as_bytes())
    }
}

/// Records that this run read, by the second.
pub fn rows_per_second(snapshot: &Snapshot) -> f64 {
    let recovered = snapshot.checkpoint.as_ref().and_then(|figures| figures.recovered.as_ref());
    let before = recovered.map_or(0, |recovered| recovered.rows_in);
    let seconds = snapshot.elapsed.as_secs_f64();
    if seconds > 0.0 { snapshot.rows_in.saturating_sub(before) as f64 / seconds } else { 0.0 }
}

fn checkpoints(figures: &CheckpointFigures) -> Checkpoints {
    let measured = figures.count > 0;
    Checkpoints {
        last: (figures.epoch > 0).then_some(figures.epoch),
        count: figures.count,
        failures: figures.failures,
        age_seconds: figures.age.map(|age| age.as_secs_f64()),
        duration_seconds: measured.then_some(figures.duration.as_secs_f64()),
        bytes: measured.then_some(figures.bytes),
        recovered: figures.recovered.as_ref().map(|from| Recovered {
            id: from.epoch,
            created_ms: from.created_ms,
            is_final: from.is_final,
            rows_in: from.rows_in,
        }),
    }
}

fn worker_report(worker: &WorkerSnapshot) -> (String, WorkerReport) {
    let report = WorkerReport {
        state: worker.state.name(),
        restarts: worker.restarts,
        batches: worker.batches,
        busy_seconds: worker.busy_ns as f64 / 1e9,
    };
    (worker.name.clone(), report)
}

fn node_report(node: &NodeCounts) -> NodeReport {
    NodeReport {
        kind: node.kind,
        rows_in: node.rows_in,
        out: node.rows_out,
        late: node.late,
        dead_letters: node.dead_letters,
        absorbed: node.absorbed,
        checksum: node.checksum.map(|checksum| format!("{checksum:016x}")),
        held_up_seconds: node.held_up_ns as f64 / 1e9,
        dropped: node.dropped,
        lag: node.lag().map(|total| LagReport {
            total,
            partitions: node.lags.iter().map(|lag| (lag.name.clone(), lag.messages)).collect(),
        }),
    }
}
