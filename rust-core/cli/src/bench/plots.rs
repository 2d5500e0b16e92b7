//! What is drawn of a result: percentiles, latency over throughput, latency over time.

use hdrhistogram::Histogram;

use super::chart::{Axis, Band, Chart, Series, Stroke};
use super::measurement::Measured;
use super::percentiles::{Percentiles, is_given};
use super::result::{Measurement, Point, Sweep};
use crate::units::{rate, scaled};

/// Colour of the machine's stalls, in every drawing.
const HICCUP: usize = 5;
/// Colours of what happened.
const EVENTS: [(&str, usize); 4] = [("checkpoint", 2), ("kill-worker", 1), ("burst", 4), ("slow-udf", 3)];
/// Points of a percentile line for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 8;

/// Latency by percentile: each measurement, and the machine's stalls beside the first.
pub fn percentiles(all: &[Measured]) -> Chart {
    let mut series = Vec::new();
    let mut most = 100.0_f64;
    for (index, measured) in all.iter().enumerate() {
        let Some((_, histogram, observations)) = measured.stages.first() else { continue };
        let points = distribution(histogram, *observations);
        most = most.max(points.last().map_or(1.0, |point| point.0));
        let colour = if index >= HICCUP { index + 1 } else { index };
        series.push(Series { name: name(&measured.measurement), colour, stroke: Stroke::Line, points });
    }
    if let Some(first) = all.first() {
        let points = distribution(&first.hiccups, first.hiccups.len());
        let name = "the machine's stalls meanwhile".to_owned();
        series.push(Series { name, colour: HICCUP, stroke: Stroke::Pale, points });
    }
    // A machine without stalls must not stretch the axis down to nothing.
    let lines = series.iter().filter(|line| line.stroke == Stroke::Line);
    let values: Vec<f64> = lines.flat_map(|line| line.points.iter().map(|point| point.1)).collect();
    Chart {
        title: "End-to-end latency by percentile".to_owned(),
        x: Axis::percentiles(most),
        y: Axis::of_latencies(values.iter().copied()),
        series,
        bands: Vec::new(),
    }
}

/// Where time goes: each stage of one measurement by percentile.
pub fn stages(measured: &Measured) -> Chart {
    let lines = measured.stages.iter().enumerate().map(|(index, (stage, histogram, observations))| Series {
        name: stage.replace('_', " "),
        colour: index,
        stroke: if index == 0 { Stroke::Line } else { Stroke::Pale },
        points: distribution(histogram, *observations),
    });
    let series: Vec<Series> = lines.collect();
    let places = series.iter().flat_map(|line| line.points.iter());
    let values: Vec<f64> = places.clone().map(|point| point.1).collect();
    let most = places.map(|point| point.0).fold(100.0, f64::max);
    Chart {
        title: format!("Latency of each stage: {}", name(&measured.measurement)),
        x: Axis::percentiles(most),
        y: Axis::of_latencies(values.iter().copied()),
        series,
        bands: Vec::new(),
    }
}

/// Latency over throughput, up to saturation.
pub fn throughput(sweep: &Sweep) -> Chart {
    let line = |name: &str, colour, figure: fn(&Percentiles) -> Option<u64>| Series {
        name: name.to_owned(),
        colour,
        stroke: Stroke::Dotted,
        points: sweep.points.iter().filter_map(|point| Some((point.rate, figure(&point.latency_ns)? as f64))).collect(),
    };
    let series = vec![
        line("p50", 0, |figures| figures.p50),
        line("p99", 1, |figures| figures.p99),
        line("p99.9", 3, |figures| figures.p99_9),
        line("max", HICCUP, |figures| figures.max),
    ];
    let values: Vec<f64> = series.iter().flat_map(|line| line.points.iter().map(|point| point.1)).collect();
    let most = sweep.points.iter().map(|point| point.rate).fold(0.0, f64::max);
    let x = Axis::linear("rows due per second", most, scaled);
    let end = x.range.1;
    let beyond = sweep.points.iter().filter(|point| !point.sustained).map(|point| point.rate);
    let limit = beyond.filter(|rate| sweep.sustainable_rate.is_none_or(|good| *rate > good)).fold(end, f64::min);
    let bands = (limit < end).then(|| Band {
        range: (limit, end),
        label: "not sustained: the pipeline does not keep up, or a run was INVALID".to_owned(),
        colour: 1,
    });
    Chart {
        title: "Latency over throughput (shaded: not sustained)".to_owned(),
        x,
        y: Axis::of_latencies(values.iter().copied()),
        series,
        bands: bands.into_iter().collect(),
    }
}

/// Latency over the time of the first run, with what happened.
pub fn time_series(measured: &Measured) -> Option<Chart> {
    let run = measured.measurement.runs.first()?;
    let line = |name: &str, colour, stroke, figure: &dyn Fn(&super::result::Slice) -> Option<u64>| {
        let points = run.series.iter().filter_map(|slice| Some((slice.at_s, figure(slice)? as f64)));
        Series { name: name.to_owned(), colour, stroke, points: points.collect() }
    };
    let series = vec![
        line("the machine's longest stall", HICCUP, Stroke::Pale, &|slice| Some(slice.hiccup_max.max(1))),
        line("p50", 0, Stroke::Line, &|slice| slice.p50),
        line("p99", 3, Stroke::Line, &|slice| slice.p99),
        line("max", 1, Stroke::Line, &|slice| slice.max),
    ];
    let values: Vec<f64> = series.iter().skip(1).flat_map(|line| line.points.iter().map(|point| point.1)).collect();
    let end = run.series.last().map_or(1.0, |slice| slice.at_s + slice.length_s);
    let colour = |kind: &str| EVENTS.iter().find(|(other, _)| *other == kind).map_or(HICCUP, |(_, colour)| *colour);
    let mut bands: Vec<Band> = run
        .events
        .iter()
        .map(|event| Band {
            range: (event.at_s, event.at_s + event.length_s),
            label: format!("{} at {:.3} s", event.label, event.at_s),
            colour: colour(event.kind),
        })
        .collect();
    bands.push(Band { range: (0.0, (end - run.seconds).max(0.0)), label: "warm-up, not measured".into(), colour: 5 });
    let mut title = format!("Latency by when rows were due, run 1: {}", name(&measured.measurement));
    if !run.events.is_empty() {
        title.push_str(&format!("; {} events shaded", run.events.len()));
    }
    let x = Axis::linear("seconds since the start of the load", end, scaled);
    Some(Chart { title, x, y: Axis::of_latencies(values.iter().copied()), series, bands })
}

/// What a measurement is called.
pub fn name(measurement: &Measurement) -> String {
    let what = measurement.event.map_or("undisturbed", |event| event);
    format!("{what}, {}", rate(measurement.rate))
}

/// Points (1/(1-quantile), latency), as far as there are enough observations.
fn distribution(histogram: &Histogram<u64>, observations: u64) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let given = histogram
        .iter_quantiles(TICKS_PER_HALF)
        .map(|value| (value.quantile_iterated_to(), value.value_iterated_to()))
        .take_while(|(quantile, _)| is_given(observations.min(histogram.len()), *quantile));
    given.map(|(quantile, value)| (1.0 / (1.0 - quantile), value as f64)).collect()
}

/// Whether a point counts.
pub fn verdict(point: &Point) -> &'static str {
    match (point.sustained, point.backlog_growing) {
        (true, _) => "sustained",
        (false, true) => "backlog grows",
        (false, false) => "INVALID",
    }
}
