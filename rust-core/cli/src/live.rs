//! What is shown while a run goes on: a block for terminals, a line for everything else. Pure text, made from two
//! snapshots and the latencies in between.

use std::time::Duration;

use hdrhistogram::Histogram;
use ringmill_engine::{NodeCounts, Snapshot, Stage, WorkerCondition, WorkerSnapshot};

use crate::latency::Latency;
use crate::table::TextTable;
use crate::units::{age, bytes, clock, grouped, latency, rate};

/// The figures that rates are made from.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    elapsed: Duration,
    rows_in: u64,
    rows_out: u64,
    busy_ns: u64,
}

impl Reading {
    /// What rates over the whole run are made from: nothing, unless the counts of an earlier run are in the snapshot,
    /// which nobody has seen at their beginning.
    pub fn before(snapshot: &Snapshot) -> Reading {
        let recovered = snapshot.checkpoint.as_ref().is_some_and(|figures| figures.recovered.is_some());
        if recovered { Reading::of(snapshot) } else { Reading::default() }
    }

    /// Reads a snapshot.
    pub fn of(snapshot: &Snapshot) -> Reading {
        Reading {
            elapsed: snapshot.elapsed,
            rows_in: snapshot.rows_in,
            rows_out: rows_out(snapshot),
            busy_ns: snapshot.workers.iter().map(|worker| worker.busy_ns).sum(),
        }
    }
}

/// One moment of a run.
pub struct Moment<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// Now.
    pub snapshot: &'a Snapshot,
    /// A while ago.
    pub before: &'a Reading,
    /// Latencies of the last interval, by stage.
    pub recent: &'a [(Stage, Histogram<u64>)],
}

impl Moment<'_> {
    /// The block for a terminal.
    pub fn block(&self) -> Vec<String> {
        let snapshot = self.snapshot;
        let mut lines = vec![format!(
            "{}  {}  in {}  out {}",
            self.pipeline,
            clock(snapshot.elapsed),
            rate(self.rate(|reading| reading.rows_in)),
            rate(self.rate(|reading| reading.rows_out)),
        )];
        lines.push(format!(
            "  rows in {}  out {}  late {}  dead letters {}",
            grouped(snapshot.rows_in),
            grouped(rows_out(snapshot)),
            grouped(snapshot.rows_late),
            grouped(snapshot.rows_dead),
        ));
        lines.extend(self.lag().map(|text| format!("  {text}")));
        lines.extend(self.dropped().map(|text| format!("  {text}")));
        let mut table = TextTable::new(["latency", "p50", "p99", "p99.9"]);
        for (stage, histogram) in self.recent {
            let figures = Latency::of(Some(histogram));
            let shown = [figures.p50, figures.p99, figures.p99_9].map(|value| value.map_or_else(String::new, latency));
            table.push([stage.name().replace('_', " ")].into_iter().chain(shown));
        }
        if !table.is_empty() {
            lines.extend(table.lines());
        }
        lines.extend(self.workers());
        if snapshot.state_bytes > 0 {
            let spilled = match snapshot.spilled.bytes {
                0 => String::new(),
                written => format!(", spilled {}", bytes(written)),
            };
            lines.push(format!("  window state {}{spilled}", bytes(snapshot.state_bytes)));
        }
        if let Some(node) = &snapshot.bound {
            lines.push(format!("  {node} holds the others up"));
        }
        lines.extend(self.checkpoint().map(|text| format!("  {text}")));
        lines.extend(snapshot.paused.iter().map(|reason| format!("  {reason}")));
        lines
    }

    /// One plain line.
    pub fn line(&self) -> String {
        let snapshot = self.snapshot;
        let recent = self.recent.iter().find(|(stage, _)| *stage == Stage::EndToEnd);
        let end_to_end = Latency::of(recent.map(|(_, histogram)| histogram));
        let mut text = format!(
            "{} {}: in {}, out {}, {} rows in, {} out, {} late, {} dead letters",
            self.pipeline,
            clock(snapshot.elapsed),
            rate(self.rate(|reading| reading.rows_in)),
            rate(self.rate(|reading| reading.rows_out)),
            grouped(snapshot.rows_in),
            grouped(rows_out(snapshot)),
            grouped(snapshot.rows_late),
            grouped(snapshot.rows_dead),
        );
        if let (Some(p50), Some(p99), Some(p99_9)) = (end_to_end.p50, end_to_end.p99, end_to_end.p99_9) {
            let figures = format!("p50 {}, p99 {}, p99.9 {}", latency(p50), latency(p99), latency(p99_9));
            text.push_str(&format!(", end to end {figures}"));
        }
        text.extend(self.lag().map(|lag| format!(", {lag}")));
        text.extend(self.dropped().map(|dropped| format!(", {dropped}")));
        if let Some(node) = &snapshot.bound {
            text.push_str(&format!(", {node} holds the others up"));
        }
        text.extend(self.checkpoint().map(|checkpoint| format!(", {checkpoint}")));
        text.extend(snapshot.paused.iter().map(|reason| format!(", {reason}")));
        text
    }

    fn rate(&self, value: fn(&Reading) -> u64) -> f64 {
        let now = Reading::of(self.snapshot);
        let seconds = now.elapsed.saturating_sub(self.before.elapsed).as_secs_f64();
        if seconds <= 0.0 { 0.0 } else { value(&now).saturating_sub(value(self.before)) as f64 / seconds }
    }

    /// How many messages that are there were not read, if any source knows.
    fn lag(&self) -> Option<String> {
        let known: Vec<u64> = self.snapshot.nodes.iter().filter_map(NodeCounts::lag).collect();
        (!known.is_empty()).then(|| format!("{} messages behind", grouped(known.iter().sum())))
    }

    /// How many messages sources have lost, if any.
    fn dropped(&self) -> Option<String> {
        let dropped: u64 = self.snapshot.nodes.iter().filter_map(|node| node.dropped).sum();
        (dropped > 0).then(|| format!("{} messages dropped", grouped(dropped)))
    }

    /// The newest checkpoint of this run, or that there is none yet; nothing without checkpoints.
    fn checkpoint(&self) -> Option<String> {
        let figures = self.snapshot.checkpoint.as_ref()?;
        Some(match figures.age {
            Some(since) => {
                let took = latency(u64::try_from(figures.duration.as_nanos()).unwrap_or(u64::MAX));
                format!("checkpoint {} {} ago, took {took}", figures.epoch, age(since))
            }
            None => "no checkpoint yet".to_owned(),
        })
    }

    fn workers(&self) -> Vec<String> {
        let workers = &self.snapshot.workers;
        if workers.is_empty() {
            return Vec::new();
        }
        let sum = |value: fn(&WorkerSnapshot) -> u32| workers.iter().map(value).sum::<u32>();
        let (in_flight, slots, leased) = (sum(|w| w.in_flight), sum(|w| w.slots), sum(|w| w.leased));
        let alive = workers.iter().filter(|worker| worker.alive).count();
        let busy = self.rate(|reading| reading.busy_ns) / 1e9 / workers.len() as f64;
        let restarts: u64 = workers.iter().map(|worker| worker.restarts).sum();
        let failed = workers.iter().filter(|worker| worker.state == WorkerCondition::Failed).count();
        let mut deaths = if restarts > 0 { format!(", {} restarts", grouped(restarts)) } else { String::new() };
        if failed > 0 {
            deaths.push_str(&format!(", {failed} FAILED"));
        }
        let leases = if leased > 0 { format!(", {leased} leased") } else { String::new() };
        vec![format!(
            "  workers {alive} of {}, busy {:.0} %{deaths}  rings {} {in_flight} of {slots} slots{leases}",
            workers.len(),
            (busy * 100.0).clamp(0.0, 100.0),
            gauge(in_flight, slots),
        )]
    }
}

fn rows_out(snapshot: &Snapshot) -> u64 {
    snapshot.nodes.iter().filter(|node| node.kind == "sink").map(|node| node.rows_out).sum()
}

/// Eight cells, as full as the rings.
fn gauge(part: u32, whole: u32) -> String {
    const CELLS: u32 = 8;
    let full = if whole == 0 { 0 } else { (part * CELLS).div_ceil(whole).min(CELLS) };
    (0..CELLS).map(|cell| if cell < full { '█' } else { '░' }).collect()
}
