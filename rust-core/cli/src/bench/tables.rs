//! The tables of a result, for the terminal and the report alike.

use super::percentiles::{Percentiles, QUANTILES};
use super::plots;
use super::result::{BenchResult, Measurement, Spread, Status, Sweep};
use crate::units::{grouped, latency, rate};

/// A table: header, rows, and how many columns are words.
#[derive(Clone, Debug)]
pub struct Table {
    /// Above the columns.
    pub header: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
    /// Columns from the left that are words.
    pub words: usize,
}

impl Table {
    /// Leaves out the columns that no row has a figure in.
    fn without_empty(mut self) -> Table {
        let is_empty = |column: usize| self.rows.iter().all(|row| row[column] == ABSENT);
        let empty: Vec<usize> = (self.words..self.header.len()).filter(|column| is_empty(*column)).collect();
        for column in empty.into_iter().rev() {
            self.header.remove(column);
            self.rows.iter_mut().for_each(|row| drop(row.remove(column)));
        }
        self
    }

    fn new(header: &[&str], words: usize) -> Table {
        Table { header: header.iter().map(|text| (*text).to_owned()).collect(), rows: Vec::new(), words }
    }
}

/// What stands for a figure that there are too few samples for.
const ABSENT: &str = "-";

/// End to end: every measurement, and the machine's stalls meanwhile.
pub fn end_to_end(result: &BenchResult) -> Table {
    let mut table = with_percentiles(&["what", "", "rate"], 2);
    for measurement in &result.measurements {
        let figures = figures_of(measurement, "end_to_end");
        let taken = rate(measurement.throughput.median);
        table.rows.push(row([plots::name(measurement), status(measurement.status), taken], &figures));
        let hiccups = ["  the machine's stalls meanwhile".to_owned(), String::new(), String::new()];
        table.rows.push(row(hiccups, &measurement.hiccup_ns));
    }
    table.without_empty()
}

/// Every stage of one measurement.
pub fn stages(measurement: &Measurement) -> Table {
    let mut table = with_percentiles(&["stage"], 1);
    for (stage, figures) in measurement.latency_ns.iter() {
        table.rows.push(row([stage.replace('_', " ")], figures));
    }
    table.without_empty()
}

/// How the runs of one measurement differ, end to end.
pub fn spread(measurement: &Measurement) -> Table {
    let mut table = Table::new(&["end to end, each run's own", "least", "median", "largest"], 1);
    let of = |name: &str, spread: &Spread, text: &dyn Fn(f64) -> String| {
        let values = [spread.min, spread.median, spread.max].map(text);
        [name.to_owned()].into_iter().chain(values).collect::<Vec<_>>()
    };
    table.rows.push(of("rows per second", &measurement.throughput, &rate));
    let found = measurement.spread_ns.iter().find(|(stage, _)| stage == "end_to_end");
    for (name, spread) in found.iter().flat_map(|(_, spreads)| spreads.iter()) {
        table.rows.push(of(&name.replace('_', "."), spread, &|value| latency(value as u64)));
    }
    table
}

/// Every run.
pub fn runs(result: &BenchResult) -> Table {
    let header = [
        "measurement",
        "run",
        "",
        "rows in",
        "rows out",
        "lost",
        "taken",
        "released",
        "generator's lag p99, max",
        "backlog, most",
        "restarts",
    ];
    let mut table = Table::new(&header, 1);
    for measurement in &result.measurements {
        for (index, run) in measurement.runs.iter().enumerate() {
            let lag = &run.generator.lag_ns;
            let lag = match (lag.p99, lag.max) {
                (p99, Some(max)) => format!("{}, {}", p99.map_or(ABSENT.to_owned(), latency), latency(max)),
                _ => ABSENT.to_owned(),
            };
            table.rows.push(vec![
                plots::name(measurement),
                (index + 1).to_string(),
                status(run.status),
                grouped(run.rows_in),
                grouped(run.rows_out),
                grouped(run.lost),
                rate(run.achieved_rate),
                rate(run.generator.achieved_rate),
                lag,
                grouped(run.backlog.rows_max),
                grouped(run.workers_restarts),
            ]);
        }
    }
    table
}

/// Every rate that was tried.
pub fn sweep(sweep: &Sweep) -> Table {
    let mut table = with_percentiles(&["due", "taken", ""], 0);
    for point in &sweep.points {
        let first = [rate(point.rate), rate(point.achieved_rate), plots::verdict(point).to_owned()];
        table.rows.push(row(first, &point.latency_ns));
    }
    table.without_empty()
}

/// What a sweep found, in sentences.
pub fn findings(sweep: &Sweep) -> Vec<String> {
    let mut lines = vec![format!("as fast as rows are taken: {}", rate(sweep.capacity))];
    lines.push(match sweep.sustainable_rate {
        Some(found) => format!("sustained (schedule kept, no growing backlog): {}", rate(found)),
        None => "no rate that was tried was sustained".to_owned(),
    });
    if let Some(limit) = sweep.p99_limit_ns {
        lines.push(match sweep.rate_at_p99_limit {
            Some(found) => format!("highest rate with p99 ≤ {}: {}", latency(limit), rate(found)),
            None => format!("no rate that was tried had p99 ≤ {}", latency(limit)),
        });
    }
    lines
}

/// The figures of a stage.
pub fn figures_of(measurement: &Measurement, stage: &str) -> Percentiles {
    let found = measurement.latency_ns.iter().find(|(name, _)| name == stage);
    found.map_or_else(Percentiles::default, |(_, figures)| figures.clone())
}

fn status(status: Status) -> String {
    match status {
        Status::Valid => "valid".to_owned(),
        Status::Invalid => "INVALID".to_owned(),
    }
}

fn with_percentiles(first: &[&str], words: usize) -> Table {
    let names = QUANTILES.iter().map(|(name, _)| *name);
    let header: Vec<&str> = first.iter().copied().chain(["rows", "min"]).chain(names).chain(["max"]).collect();
    Table::new(&header, words)
}

fn row<const N: usize>(first: [String; N], figures: &Percentiles) -> Vec<String> {
    let shown = |value: Option<u64>| value.map_or_else(|| ABSENT.to_owned(), latency);
    let middle = [grouped(figures.count), shown(figures.min)];
    first.into_iter().chain(middle).chain(figures.quantiles().map(shown)).chain([shown(figures.max)]).collect()
}
