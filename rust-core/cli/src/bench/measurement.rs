//! Several runs under one condition become one measurement: histograms merged, and the spread between the runs.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use ringmill_engine::{Stage, latency_histogram};

use super::percentiles::{Percentiles, QUANTILES};
use super::result::{Measurement, Run, Spread, Status};
use super::run::{Condition, Outcome};
use crate::report::InOrder;

/// A measurement with the histograms that files and plots are made from.
pub struct Measured {
    /// For the file.
    pub measurement: Measurement,
    /// By stage, runs merged.
    pub stages: Vec<(&'static str, Histogram<u64>, u64)>,
    /// The machine's stalls, runs merged.
    pub hiccups: Histogram<u64>,
    /// What the runs gave.
    pub outcomes: Vec<Outcome>,
}

/// Merges the runs of one condition.
pub fn merge(condition: &Condition, outcomes: Vec<Outcome>) -> Measured {
    let stages = merged_stages(&outcomes);
    let mut hiccups = latency_histogram();
    for outcome in &outcomes {
        // The bounds are the same everywhere, so nothing can be out of them.
        let _ = hiccups.add(&outcome.hiccups.total);
    }
    let runs: Vec<Run> = outcomes.iter().map(|outcome| outcome.run.clone()).collect();
    let reasons = reasons(&runs);
    let rate = condition.rows_measured() as f64 / (condition.duration_ns as f64 / 1e9);
    let event = condition.event.map(|event| event.name());
    let none = Spread { min: 0.0, median: 0.0, max: 0.0 };
    let measurement = Measurement {
        id: format!("{}-{:.0}", event.unwrap_or("undisturbed"), condition.rate.unwrap_or(0.0)),
        event,
        rate,
        status: Status::of(&reasons),
        invalid_because: reasons,
        throughput: Spread::of(runs.iter().map(|run| run.achieved_rate)).unwrap_or(none),
        latency_ns: stages
            .iter()
            .map(|(name, histogram, observations)| {
                let figures = Percentiles::of(histogram, *observations);
                ((*name).to_owned(), Percentiles { histogram: encoded(histogram), ..figures })
            })
            .collect(),
        spread_ns: stages.iter().map(|(name, _, _)| ((*name).to_owned(), spread(&outcomes, name))).collect(),
        hiccup_ns: Percentiles { histogram: encoded(&hiccups), ..Percentiles::of(&hiccups, hiccups.len()) },
        runs,
    };
    Measured { measurement, stages, hiccups, outcomes }
}

fn reasons(runs: &[Run]) -> Vec<String> {
    let numbered = runs.iter().enumerate();
    numbered
        .flat_map(|(index, run)| run.invalid_because.iter().map(move |why| format!("run {}: {why}", index + 1)))
        .collect()
}

fn merged_stages(outcomes: &[Outcome]) -> Vec<(&'static str, Histogram<u64>, u64)> {
    let mut merged: Vec<(&'static str, Histogram<u64>, u64)> = Vec::new();
    for (name, histogram, observations) in outcomes.iter().flat_map(|outcome| &outcome.stages) {
        match merged.iter_mut().find(|(other, _, _)| other == name) {
            Some((_, total, count)) => {
                let _ = total.add(histogram);
                *count += observations;
            }
            None => merged.push((*name, histogram.clone(), *observations)),
        }
    }
    let order: Vec<&str> = order().collect();
    merged.sort_by_key(|(name, _, _)| order.iter().position(|other| other == name));
    merged
}

/// Stages in reporting order.
fn order() -> impl Iterator<Item = &'static str> {
    let (first, others) = (Stage::EndToEnd.name(), Stage::ALL.into_iter().skip(1).map(Stage::name));
    [first, "queue"].into_iter().chain(others)
}

/// Of each percentile that every run has.
fn spread(outcomes: &[Outcome], stage: &str) -> InOrder<Spread> {
    let mut by_name: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut runs = 0;
    for (_, histogram, observations) in
        outcomes.iter().flat_map(|outcome| &outcome.stages).filter(|(name, _, _)| *name == stage)
    {
        runs += 1;
        let figures = Percentiles::of(histogram, *observations);
        for (index, value) in figures.quantiles().into_iter().chain([figures.max]).enumerate() {
            by_name.entry(index).or_default().extend(value.map(|value| value as f64));
        }
    }
    let names: Vec<String> =
        QUANTILES.iter().map(|(name, _)| name.replace('.', "_")).chain(["max".to_owned()]).collect();
    let whole = by_name.into_iter().filter(|(_, values)| values.len() == runs);
    whole.filter_map(|(index, values)| Some((names[index].clone(), Spread::of(values)?))).collect()
}

/// HdrHistogram V2, compressed, in base64, as the logs have it.
fn encoded(histogram: &Histogram<u64>) -> Option<String> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}
