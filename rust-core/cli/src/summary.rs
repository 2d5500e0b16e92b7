//! What ends a run on the terminal: rows by node, latencies by stage, and whether the rows reconcile.

use ringmill_engine::{CheckpointFigures, Plan, Summary, WorkerCondition};

use crate::latency::Latency;
use crate::reconcile;
use crate::report::rows_per_second;
use crate::table::TextTable;
use crate::units::{bytes, grouped, latency, rate};

/// The whole closing text.
pub fn text(plan: &Plan, summary: &Summary) -> String {
    let snapshot = &summary.snapshot;
    let seconds = snapshot.elapsed.as_secs_f64();
    let recovered = snapshot.checkpoint.as_ref().and_then(|figures| figures.recovered.as_ref());
    let rows = snapshot.rows_in.saturating_sub(recovered.map_or(0, |from| from.rows_in));
    let per_second = rows_per_second(snapshot);
    let mut lines = vec![format!("{}: {} rows in {seconds:.2} s, {}", plan.name, grouped(rows), rate(per_second))];
    if let Some(from) = recovered {
        let before = grouped(from.rows_in);
        lines.push(format!("went on from checkpoint {}; {before} rows before it are counted below, too", from.epoch));
    }
    lines.push(String::new());
    lines.extend(nodes(summary).lines());
    let stages = stages(summary);
    if !stages.is_empty() {
        lines.push(String::new());
        lines.extend(stages.lines());
    }
    lines.push(String::new());
    lines.extend(processes(summary).lines());
    lines.extend(deaths(summary).map(|line| format!("  {line}")));
    if let Some(node) = &snapshot.bound {
        lines.push(format!("  {node} held the others up longest"));
    }
    let spilled = &snapshot.spilled;
    if spilled.entries > 0 {
        let (entries, read_back) = (grouped(spilled.entries), grouped(spilled.read_back));
        lines.push(format!("  spilled {entries} entries, {}; {read_back} read back", bytes(spilled.bytes)));
    }
    lines.push(format!("  {}", checkpoints(snapshot.checkpoint.as_ref())));
    lines.push(String::new());
    lines.extend(verdict(plan, summary));
    lines.join("\n")
}

/// Workers that died, each with what became of it.
fn deaths(summary: &Summary) -> impl Iterator<Item = String> {
    summary.snapshot.workers.iter().filter(|worker| worker.restarts > 0 || worker.state == WorkerCondition::Failed).map(
        |worker| {
            let times = if worker.restarts == 1 { "once".to_owned() } else { format!("{} times", worker.restarts) };
            let failed = if worker.state == WorkerCondition::Failed { ", then given up" } else { "" };
            format!("worker {} started again {times}{failed}", worker.name)
        },
    )
}

fn checkpoints(figures: Option<&CheckpointFigures>) -> String {
    let Some(figures) = figures else { return "no checkpoints configured".to_owned() };
    if figures.count == 0 {
        return "no checkpoint was taken".to_owned();
    }
    let noun = if figures.count == 1 { "checkpoint" } else { "checkpoints" };
    let took = latency(u64::try_from(figures.duration.as_nanos()).unwrap_or(u64::MAX));
    let again = match figures.failures {
        0 => String::new(),
        failures => format!(", {} failed tries", grouped(failures)),
    };
    format!(
        "{} {noun}, the last ({}) of {} in {took}{again}",
        grouped(figures.count),
        figures.epoch,
        bytes(figures.bytes)
    )
}

fn processes(summary: &Summary) -> TextTable {
    let mut table = TextTable::new(["processes", "count", "CPU", "peak memory"]);
    let seconds = |seconds: f64| format!("{seconds:.2} s");
    let core = ["core", "1", &seconds(summary.core_cpu_seconds), &bytes(summary.core_memory_bytes)];
    table.push(core);
    if summary.workers_started > 0 {
        let count = grouped(summary.workers_started);
        let cpu = seconds(summary.workers_cpu_seconds);
        table.push(["workers", &count, &cpu, &bytes(summary.workers_memory_bytes)]);
    }
    table
}

fn nodes(summary: &Summary) -> TextTable {
    let mut table = TextTable::new(["node", "rows in", "rows out", "late", "dead letters", "absorbed"]);
    for node in &summary.snapshot.nodes {
        table.push([
            format!("{} ({})", node.name, node.kind),
            grouped(node.rows_in),
            grouped(node.rows_out),
            grouped(node.late),
            grouped(node.dead_letters),
            grouped(node.absorbed),
        ]);
    }
    table
}

fn stages(summary: &Summary) -> TextTable {
    let header = ["latency", "rows", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut table = TextTable::new(header);
    for (stage, histogram) in &summary.snapshot.stages {
        let figures = Latency::of(Some(histogram));
        let values = [figures.min, figures.p50, figures.p90, figures.p99, figures.p99_9, figures.p99_99, figures.max];
        let shown = values.map(|value| value.map_or_else(|| "-".to_owned(), latency));
        table.push([stage.name().replace('_', " "), grouped(figures.count)].into_iter().chain(shown));
    }
    table
}

fn verdict(plan: &Plan, summary: &Summary) -> Vec<String> {
    let snapshot = &summary.snapshot;
    let differences = reconcile::differences(plan, &snapshot.nodes);
    if !differences.is_empty() {
        let mut lines = vec!["the rows do not reconcile:".to_owned()];
        lines.extend(differences.into_iter().map(|difference| format!("  {difference}")));
        return lines;
    }
    let out: u64 = snapshot.nodes.iter().filter(|node| node.kind == "sink").map(|node| node.rows_out).sum();
    vec![format!(
        "reconciled: {} rows in, {} out, {} late, {} dead letters",
        grouped(snapshot.rows_in),
        grouped(out),
        grouped(snapshot.rows_late),
        grouped(snapshot.rows_dead)
    )]
}
