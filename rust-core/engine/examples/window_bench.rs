//! Rows per second through a tumbling window, and results per second out of it: `cargo run --release -p
//! ringmill-engine --example window_bench`. Batches are made beforehand; the figures are of one thread.

use std::sync::Arc;
use std::time::Instant;

use ringmill_engine::window::{
    NamedAggregate, RowTime, Statistic, StatisticsSpec, TimeColumn, WindowKind, WindowOperator, WindowSpec,
    output_schema,
};
use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template, TimeUnit};

const ROWS: u32 = 1024;
/// Rows of each window; with 500,000 keys each comes eight times.
const WINDOW_ROWS: u64 = 4_000_000;
const SIZE_MS: i64 = 10_000;
const MS: i64 = 1_000_000;

fn main() {
    let windows: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4);
    println!("{:<44} {:>12} {:>14} {:>10}", "count() and mean(x), 10 s", "M rows/s in", "M results/s", "MB state");
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
        let (rows, results, bytes) = measure(text, keys, spec(statistics, window), windows);
        println!("{name:<44} {:>12.1} {:>14.1} {:>10.0}", rows / 1e6, results / 1e6, bytes as f64 / 1e6);
    }
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
    let writer = batch.writer();
    for row in first..first + u64::from(ROWS) {
        let key = key(row, keys);
        if text {
            writer.push_bytes(0, format!("sensor-{key:06}").as_bytes()).expect("13 bytes a row");
        } else {
            writer.push(0, key as i64);
        }
        writer.push(1, (row % WINDOW_ROWS) as i64 * SIZE_MS / WINDOW_ROWS as i64);
        writer.push(2, row as f64);
        writer.finish_row();
    }
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

/// Rows per second in, results per second out, and bytes of state, after one window to warm up.
fn measure(text: bool, keys: u64, spec: WindowSpec, windows: u64) -> (f64, f64, u64) {
    let schema = schema(text);
    let time = TimeColumn::Event { index: 1, unit: TimeUnit::Millisecond };
    let mut operator = WindowOperator::new(&spec, schema.clone(), time, 1 << 32).expect("a right spec");
    let output = Arc::new(output_schema(&spec, &schema, Some(TimeUnit::Millisecond)).expect("a right spec"));
    let (mut late, mut out) = (batch(&schema), batch(&output));
    // As many batches as take all keys, each with times within one window; the clock moves by RowTime::Fixed.
    let batches: Vec<HeapBatch> = (0..WINDOW_ROWS / u64::from(ROWS))
        .map(|at| {
            let mut made = batch(&schema);
            fill(&mut made, text, keys, at * u64::from(ROWS));
            made
        })
        .collect();
    let (mut pushing, mut emitting, mut rows, mut results) = (0.0, 0.0, 0u64, 0u64);
    for window in 0..=windows {
        let start = window as i64 * SIZE_MS * MS;
        let began = Instant::now();
        for made in &batches {
            let taken = operator.push(&made.view(), 0..ROWS as usize, RowTime::Fixed(start), 0, late.writer());
            assert_eq!(taken.expect("room"), ROWS as usize);
        }
        let pushed = began.elapsed().as_secs_f64();
        operator.advance(start + SIZE_MS * MS, 0);
        let began = Instant::now();
        let mut emitted = 0;
        while operator.has_output() {
            out.clear();
            emitted += u64::from(operator.emit(out.writer()).rows);
        }
        if window > 0 {
            pushing += pushed;
            emitting += began.elapsed().as_secs_f64();
            rows += batches.len() as u64 * u64::from(ROWS);
            results += emitted;
        }
    }
    (rows as f64 / pushing, results as f64 / emitting, operator.state_bytes())
}
