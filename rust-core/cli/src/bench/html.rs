//! The report: one HTML file with everything in it, which needs no network and no script.

use std::fmt::Write;

use super::chart::{Chart, escape};
use super::measurement::Measured;
use super::plots;
use super::result::{BenchResult, Method, Status};
use super::tables::{self, Table};
use crate::units::{bytes, latency, rate};

const STYLE: &str = include_str!("report.css");

/// The page.
pub fn page(result: &BenchResult, all: &[Measured]) -> String {
    let mut html = String::with_capacity(64 << 10);
    let title = format!("ringmill bench: {}", result.job.name);
    put(
        &mut html,
        &format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
             <title>{}</title><style>{STYLE}</style></head><body><main>",
            escape(&title)
        ),
    );
    header(&mut html, result);
    cards(&mut html, result);
    put(&mut html, "<h2>Latency</h2>");
    chart(&mut html, Some(&plots::percentiles(all)));
    table(&mut html, &tables::end_to_end(result));
    put(
        &mut html,
        "<p class=\"note\">Latency counts from when a row was <em>due</em>. A dash stands for a percentile with fewer than \
         ten observations above it; rows of one micro-batch are one observation.</p>",
    );
    if let Some(sweep) = &result.sweep {
        put(&mut html, "<h2>Throughput</h2>");
        chart(&mut html, Some(&plots::throughput(sweep)));
        list(&mut html, &tables::findings(sweep));
        table(&mut html, &tables::sweep(sweep));
    }
    for measured in all {
        put(&mut html, &format!("<h2>{}</h2>", escape(&plots::name(&measured.measurement))));
        chart(&mut html, plots::time_series(measured).as_ref());
        chart(&mut html, Some(&plots::stages(measured)));
        table(&mut html, &tables::stages(&measured.measurement));
        table(&mut html, &tables::spread(&measured.measurement));
    }
    put(&mut html, "<h2>Runs</h2>");
    table(&mut html, &tables::runs(result));
    surroundings(&mut html, result);
    put(&mut html, "</main></body></html>\n");
    html
}

fn header(html: &mut String, result: &BenchResult) {
    let (class, word) = match result.status {
        Status::Valid => ("valid", "VALID"),
        Status::Invalid => ("invalid", "INVALID"),
    };
    let variant = result.job.variant.as_ref().map_or_else(String::new, |words| format!(" · {}", escape(words)));
    put(
        html,
        &format!(
            "<header><h1>{} <span class=\"status {class}\">{word}</span></h1><p>{} · {}{variant}</p></header>",
            escape(&result.job.name),
            escape(&result.build.line()),
            escape(&result.created)
        ),
    );
    if !result.invalid_because.is_empty() {
        put(html, "<section class=\"reasons\"><strong>These figures do not count:</strong>");
        list(html, &result.invalid_because);
        put(html, "</section>");
    }
}

fn cards(html: &mut String, result: &BenchResult) {
    let mut cards: Vec<(String, String)> = Vec::new();
    if let Some(sustained) = result.sweep.as_ref().and_then(|sweep| sweep.sustainable_rate) {
        cards.push(("sustained".to_owned(), rate(sustained)));
    }
    if let Some(sweep) = &result.sweep
        && let (Some(limit), Some(found)) = (sweep.p99_limit_ns, sweep.rate_at_p99_limit)
    {
        cards.push((format!("at p99 ≤ {}", latency(limit)), rate(found)));
    }
    if let Some(first) = result.measurements.first() {
        let figures = tables::figures_of(first, "end_to_end");
        for (name, value) in [("p50", figures.p50), ("p99", figures.p99), ("p99.9", figures.p99_9)] {
            cards.extend(value.map(|value| (format!("{name} at {}", rate(first.rate)), latency(value))));
        }
        let stalls = first.hiccup_ns.p99;
        cards.extend(stalls.map(|value| ("the machine's own stalls, p99".to_owned(), latency(value))));
    }
    put(html, "<section class=\"cards\">");
    for (name, value) in cards {
        put(html, &format!("<div><b>{}</b><span>{}</span></div>", escape(&value), escape(&name)));
    }
    put(html, "</section>");
}

fn surroundings(html: &mut String, result: &BenchResult) {
    let machine = &result.machine;
    let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let topology: Vec<String> = machine
        .topology
        .iter()
        .map(|pair| format!("{} and {}: {}", pair.cpus[0], pair.cpus[1], pair.relation.words()))
        .collect();
    let pinning: Vec<String> = machine.pinning.iter().map(usize::to_string).collect();
    let rows = [
        ("CPU", or_unknown(&machine.cpu)),
        ("CPUs that may be used", machine.cpus.to_string()),
        ("topology", if topology.is_empty() { "one CPU".to_owned() } else { topology.join("; ") }),
        ("pinning", if pinning.is_empty() { "none".to_owned() } else { pinning.join(", ") }),
        ("memory", machine.memory_bytes.map_or_else(|| "unknown".to_owned(), bytes)),
        ("hypervisor", machine.hypervisor.clone().unwrap_or_else(|| "none seen".to_owned())),
        ("kernel", or_unknown(&machine.kernel)),
        ("system", or_unknown(&machine.os)),
        ("governor", machine.governor.clone().unwrap_or_else(|| "not told by the kernel".to_owned())),
        ("clock source", or_unknown(&machine.clock_source)),
        ("profile", machine.profile.clone()),
        ("Python", machine.python.clone().unwrap_or_else(|| "no function".to_owned())),
        ("build", result.build.line()),
        ("pipeline", [vec![result.job.pipeline.clone()], result.job.overrides.clone()].concat().join(" --set ")),
    ];
    put(html, "<h2>Machine and build</h2><table class=\"facts\">");
    for (name, value) in rows {
        put(html, &format!("<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(&value)));
    }
    put(html, "</table><h2>Method</h2>");
    list(html, &method(&result.method));
}

/// How it was measured, in sentences.
pub fn method(method: &Method) -> Vec<String> {
    let mut lines = vec![
        format!(
            "Open loop: every row has a time at which it is due, {}; what the pipeline does moves no row. Latency counts \
             from that time until the row, or what became of it, reached a sink. Rows of one micro-batch all count with \
             the latency of the oldest; a window's result with that of the row that closed the window.",
            if method.group_rows == 1 {
                "at even distances".to_owned()
            } else {
                format!("{} rows at a time, the groups at even distances", method.group_rows)
            }
        ),
        match method.generator {
            "thread" => "The clock is watched by a thread of its own that spins; its own lag is reported.".to_owned(),
            _ => "The clock is watched by the shard's thread whenever it polls: there was no CPU to spare for a thread \
                  that spins. How late it looked is part of the latency."
                .to_owned(),
        },
        format!(
            "{} runs of {} s each, after {} s of warm-up that are not counted; histograms are merged, and the spread of \
             the runs' own percentiles is given.",
            method.runs, method.duration_s, method.warmup_s
        ),
        format!(
            "A run is INVALID if less than {} % of the rate was released or taken, if the backlog grew throughout, if a row \
             was lost, or if no result came.",
            (1.0 - method.tolerance) * 100.0
        ),
        "The machine's stalls are those of a thread beside each run that sleeps 1 ms again and again.".to_owned(),
        "Stages other than end to end and queue come from the shards ten times a second, so their time begins up to a tenth \
         of a second too early."
            .to_owned(),
        match method.event_times {
            "live" => "Event times are the times at which rows are due.".to_owned(),
            _ => "Event times are the input's own; each lap is moved behind the one before.".to_owned(),
        },
    ];
    lines.extend(method.notes.iter().map(|note| format!("{note}.")));
    lines
}

fn chart(html: &mut String, chart: Option<&Chart>) {
    if let Some(chart) = chart {
        put(html, &format!("<figure>{}</figure>", chart.svg()));
    }
}

fn table(html: &mut String, table: &Table) {
    put(html, "<div class=\"wide\"><table><thead><tr>");
    for (index, text) in table.header.iter().enumerate() {
        let class = if index < table.words { " class=\"words\"" } else { "" };
        put(html, &format!("<th{class}>{}</th>", escape(text)));
    }
    put(html, "</tr></thead><tbody>");
    for row in &table.rows {
        put(html, "<tr>");
        for (index, text) in row.iter().enumerate() {
            let class = match (text.as_str(), index < table.words) {
                ("INVALID", _) => " class=\"bad\"",
                (_, true) => " class=\"words\"",
                _ => "",
            };
            put(html, &format!("<td{class}>{}</td>", escape(text)));
        }
        put(html, "</tr>");
    }
    put(html, "</tbody></table></div>");
}

fn list(html: &mut String, lines: &[String]) {
    put(html, "<ul>");
    lines.iter().for_each(|line| put(html, &format!("<li>{}</li>", escape(line))));
    put(html, "</ul>");
}

/// Writing into a string cannot fail.
fn put(html: &mut String, text: &str) {
    let _ = html.write_str(text);
}
