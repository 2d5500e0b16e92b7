//! Rows per second through windows, without and with changes being noted, and results per second out of them; then what
//! it costs to write changes out and to take them back: `cargo run --release -p ringmill-engine --example window_bench`.
//! Batches are made beforehand; the figures are of one thread and its processor time.

use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use ringmill_engine::window::{
    NamedAggregate, RowTime, Statistic, StatisticsSpec, TimeColumn, WindowKind, WindowOperator, WindowSpec,
    output_schema,
};
use ringmill_state::{Delta, EntryKey};
use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template, TimeUnit};

const ROWS: u32 = 1024;
/// Rows of each window; with 500,000 keys each comes eight times.
const WINDOW_ROWS: u64 = 4_000_000;
const SIZE_MS: i64 = 10_000;
const MS: i64 = 1_000_000;

fn main() {
    let windows: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4);
    println!(
        "{:<44} {:>12} {:>12} {:>8} {:>12} {:>9}",
        "count() and mean(x), 10 s", "M rows/s in", "noted", "ratio", "M results/s", "MB state"
    );
    let tumbling = WindowKind::Tumbling { size_ns: SIZE_MS * MS };
    let sliding = WindowKind::Sliding { size_ns: SIZE_MS * MS, every_ns: SIZE_MS / 5 * MS };
    let session = WindowKind::Session { gap_ns: SIZE_MS / 2 * MS };
    for (name, text, keys, statistics, window) in [
        ("500,000 utf8 keys of 13 bytes", true, 500_000, false, tumbling),
        ("500,000 utf8 keys, rolling statistics", true, 500_000, true, tumbling),
        ("500,000 int64 keys", false, 500_000, false, tumbling),
        ("1,000 utf8 keys of 13 bytes", true, 1_000, false, tumbling),
        ("1,000 int64 keys", false, 1_000, false, tumbling),
        ("500,000 utf8 keys, sliding 10 s every 2 s", true, 500_000, false, sliding),
        ("500,000 utf8 keys, sessions of 5 s gap", true, 500_000, false, session),
    ] {
        let (plain, noted, results, bytes) = measure(text, keys, &spec(statistics, window), windows);
        println!(
            "{name:<44} {:>12.1} {:>12.1} {:>8.3} {:>12.1} {:>9.0}",
            plain / 1e6,
            noted / 1e6,
            noted / plain,
            results / 1e6,
            bytes as f64 / 1e6
        );
    }
    println!();
    println!(
        "{:<44} {:>12} {:>12} {:>12} {:>12}",
        "1,000,000 keys, 100,000 changed", "ms", "ns/key", "MB", "s to restore"
    );
    let within =
        StatisticsSpec { horizon_ns: Some(40 * SIZE_MS * MS), ..spec(true, tumbling).statistics.expect("some") };
    let within = WindowSpec { statistics: Some(within), ..spec(true, tumbling) };
    for (name, text, spec) in [
        ("utf8 keys of 13 bytes", true, spec(false, tumbling)),
        ("int64 keys", false, spec(false, tumbling)),
        ("utf8 keys, a window closed, statistics", true, self::spec(true, tumbling)),
        ("utf8 keys, a window closed, horizon of 40", true, within),
        ("utf8 keys, sessions", true, self::spec(false, session)),
    ] {
        measure_snapshot(name, text, &spec);
    }
}

/// Writes out 100,000 of 1,000,000 keys, and takes everything back.
fn measure_snapshot(name: &str, text: bool, spec: &WindowSpec) {
    const KEYS: u64 = 1_000_000;
    let schema = schema(text);
    let time = TimeColumn::Event { index: 1, unit: TimeUnit::Millisecond };
    let new = || {
        let mut operator = WindowOperator::new(spec, schema.clone(), time, 1 << 32).expect("a right spec");
        operator.track_changes();
        operator
    };
    let mut operator = new();
    let output = Arc::new(output_schema(spec, &schema, Some(TimeUnit::Millisecond)).expect("a right spec"));
    let (mut made, mut late, mut out) = (batch(&schema), batch(&schema), batch(&output));
    let mut push = |operator: &mut WindowOperator, start: i64, keys: &mut dyn Iterator<Item = u64>| {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            made.clear();
            keys.by_ref().take(ROWS as usize).for_each(|key| fill_row(&mut made, text, key, 0));
            let rows = made.rows() as usize;
            operator.push(&made.view(), 0..rows, RowTime::Fixed(start), 0, late.writer()).expect("room");
        }
    };
    let mut entries = std::collections::BTreeMap::new();
    let (mut delta, mut took) = (Delta::default(), 0.0);
    let mut snapshot = |operator: &mut WindowOperator| {
        delta.clear();
        let began = processor_time();
        operator.snapshot(&mut delta.node(0));
        took = processor_time() - began;
        for window in delta.windows() {
            let of = |key: &Vec<u8>| EntryKey::parse(key).map(|entry| (entry.node, entry.section, entry.window));
            entries.retain(|key, _| of(key) != Some(*window));
        }
        delta.deletes().for_each(|key| drop(entries.remove(key)));
        delta.puts().for_each(|(key, value)| drop(entries.insert(key.to_vec(), value.to_vec())));
        (took, delta.puts().len() as f64, delta.bytes() as f64)
    };
    push(&mut operator, 0, &mut (0..KEYS).map(|row| key(row, KEYS)));
    snapshot(&mut operator);
    if spec.statistics.is_some() {
        // A tenth of the keys has a window more.
        for window in 1..40 {
            push(&mut operator, window * SIZE_MS * MS, &mut (0..KEYS).step_by(10).map(|row| key(row, KEYS)));
            operator.advance((window + 1) * SIZE_MS * MS, 0);
            while operator.has_output() {
                out.clear();
                operator.emit(out.writer());
            }
            if window == 38 {
                snapshot(&mut operator);
            }
        }
    } else {
        push(&mut operator, 0, &mut (0..KEYS).step_by(10).map(|row| key(row, KEYS)));
    }
    let (seconds, puts, bytes) = snapshot(&mut operator);
    let mut restored = new();
    let began = processor_time();
    for (key, value) in &entries {
        restored.restore(&EntryKey::parse(key).expect("a key"), value).expect("what was written");
    }
    restored.restored().expect("room");
    println!(
        "{name:<44} {:>12.1} {:>12.0} {:>12.1} {:>12.2}",
        seconds * 1e3,
        seconds * 1e9 / puts,
        bytes / 1e6,
        processor_time() - began
    );
}

/// Seconds that this thread has run.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has it");
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}

fn schema(text: bool) -> Arc<Schema> {
    let key = if text { DataType::Utf8 } else { DataType::Int64 };
    let fields = vec![
        Field::new("key", key),
        Field::new("t", DataType::Timestamp(TimeUnit::Millisecond)),
        Field::new("x", DataType::Float64),
    ];
    Arc::new(Schema::new(fields).expect("three names"))
}

fn batch(schema: &Arc<Schema>) -> HeapBatch {
    let capacity = Capacity { rows_max: ROWS, variable_bytes_max: 1 << 16 };
    HeapBatch::new(Arc::new(Template::new(schema.clone(), capacity).expect("a small batch")))
}

/// A stride through the keys that visits all of them, in no order that a cache would like.
fn key(row: u64, keys: u64) -> u64 {
    (row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % keys
}

fn fill(batch: &mut HeapBatch, text: bool, keys: u64, first: u64) {
    batch.clear();
    for row in first..first + u64::from(ROWS) {
        fill_row(batch, text, key(row, keys), row);
    }
}

fn fill_row(batch: &mut HeapBatch, text: bool, key: u64, row: u64) {
    let writer = batch.writer();
    if text {
        writer.push_bytes(0, format!("sensor-{key:06}").as_bytes()).expect("13 bytes a row");
    } else {
        writer.push(0, key as i64);
    }
    writer.push(1, (row % WINDOW_ROWS) as i64 * SIZE_MS / WINDOW_ROWS as i64);
    writer.push(2, row as f64);
    writer.finish_row();
}

fn spec(statistics: bool, window: WindowKind) -> WindowSpec {
    let aggregate = |name: &str, expression: &str| NamedAggregate { name: name.into(), expression: expression.into() };
    let columns =
        vec![(Statistic::Mean, "mean".into()), (Statistic::Std, "std".into()), (Statistic::Count, "count".into())];
    WindowSpec {
        key: vec!["key".into()],
        window,
        allowed_lateness_ns: 0,
        aggregates: vec![aggregate("readings", "count()"), aggregate("mean_x", "mean(x)")],
        statistics: statistics.then(|| StatisticsSpec { of: "mean_x".into(), columns, horizon_ns: None }),
    }
}

/// Rows per second in without and with changes being noted, results per second out, and bytes of state, after one window
/// to warm up. Both take turns window by window.
fn measure(text: bool, keys: u64, spec: &WindowSpec, windows: u64) -> (f64, f64, f64, u64) {
    let schema = schema(text);
    let time = TimeColumn::Event { index: 1, unit: TimeUnit::Millisecond };
    let new = || WindowOperator::new(spec, schema.clone(), time, 1 << 32).expect("a right spec");
    let mut operators = [new(), new()];
    operators[1].track_changes();
    let output = Arc::new(output_schema(spec, &schema, Some(TimeUnit::Millisecond)).expect("a right spec"));
    let (mut late, mut out) = (batch(&schema), batch(&output));
    // As many batches as take all keys, each with times within one window; the clock moves by RowTime::Fixed.
    let batches: Vec<HeapBatch> = (0..WINDOW_ROWS / u64::from(ROWS))
        .map(|at| {
            let mut made = batch(&schema);
            fill(&mut made, text, keys, at * u64::from(ROWS));
            made
        })
        .collect();
    let (mut pushing, mut emitting, mut rows, mut results) = ([0.0; 2], 0.0, 0u64, 0u64);
    for window in 0..=windows {
        let start = window as i64 * SIZE_MS * MS;
        for (operator, pushing) in operators.iter_mut().zip(&mut pushing) {
            let began = processor_time();
            for made in &batches {
                let taken = operator.push(&made.view(), 0..ROWS as usize, RowTime::Fixed(start), 0, late.writer());
                assert_eq!(taken.expect("room"), ROWS as usize);
            }
            let pushed = processor_time() - began;
            operator.advance(start + SIZE_MS * MS, 0);
            let began = processor_time();
            let mut emitted = 0;
            while operator.has_output() {
                out.clear();
                emitted += u64::from(operator.emit(out.writer()).rows);
            }
            if window > 0 {
                *pushing += pushed;
                emitting += processor_time() - began;
                results += emitted;
            }
        }
        rows += if window > 0 { batches.len() as u64 * u64::from(ROWS) } else { 0 };
    }
    let [plain, noted] = pushing.map(|pushing| rows as f64 / pushing);
    (plain, noted, results as f64 / emitting, operators[1].state_bytes())
}
