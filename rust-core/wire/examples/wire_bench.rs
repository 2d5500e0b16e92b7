//! Nanoseconds a row for filling batches in place. Figures only: nothing is asserted.
//!
//! `cargo run --release -p ringmill-wire --example wire_bench`
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template, TimeUnit};

const ROWS: u32 = 1_024;
const BATCHES: u32 = 4_000;
const ROUNDS: usize = 7;

fn template(fields: Vec<Field>) -> Arc<Template> {
    let capacity = Capacity { rows_max: ROWS, variable_bytes_max: 64 * ROWS };
    Arc::new(Template::new(Arc::new(Schema::new(fields).unwrap()), capacity).unwrap())
}

/// Prints the median over rounds of what `fill` takes, open to close, divided by its rows.
fn measure(name: &str, fields: Vec<Field>, mut fill: impl FnMut(&mut HeapBatch)) {
    let mut batch = HeapBatch::new(template(fields));
    let mut round = || {
        let start = Instant::now();
        for _ in 0..BATCHES {
            batch.clear();
            fill(&mut batch);
            black_box(batch.writer().close());
        }
        start.elapsed().as_nanos() as f64 / f64::from(BATCHES * ROWS)
    };
    round();
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<58} {:6.2} ns/row  ({:.2} to {:.2})", rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]);
}

fn readings(nullable: bool) -> Vec<Field> {
    ["temperature", "mean", "std"]
        .map(|name| Field { name: name.into(), data_type: DataType::Float64, nullable })
        .into()
}

fn push_three(batch: &mut HeapBatch) {
    let writer = batch.writer();
    for row in 0..ROWS {
        let value = f64::from(row);
        writer.push(0, value);
        writer.push(1, value + 1.0);
        writer.push(2, value + 2.0);
        writer.finish_row();
    }
}

fn main() {
    println!("batches of {ROWS} rows, open to close; median of {ROUNDS} rounds (least to most)");
    measure("3 float64 columns, row by row", readings(false), push_three);
    measure("3 nullable float64 columns, row by row, no nulls", readings(true), push_three);
    measure("3 nullable float64 columns, row by row, 1 in 4 null", readings(true), |batch| {
        let writer = batch.writer();
        for row in 0..ROWS {
            for column in 0..3 {
                if row % 4 == column as u32 { writer.push_null(column) } else { writer.push(column, f64::from(row)) }
            }
            writer.finish_row();
        }
    });
    measure("3 float64 columns, fixed_tail", readings(false), |batch| {
        let writer = batch.writer();
        for column in 0..3 {
            for (row, value) in writer.fixed_tail::<f64>(column, ROWS as usize).iter_mut().enumerate() {
                *value = (row + column) as f64;
            }
        }
        writer.finish_rows(ROWS);
    });
    let keyed = vec![
        Field::new("device_id", DataType::Utf8),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond)),
        Field::new("temperature", DataType::Float64),
    ];
    let ids: Vec<String> = (0..ROWS).map(|row| format!("sensor-{row:06}")).collect();
    measure("utf8 (13 bytes), timestamp, float64, row by row", keyed.clone(), |batch| {
        let writer = batch.writer();
        for (row, id) in ids.iter().enumerate() {
            writer.push_str(0, id).unwrap();
            writer.push_timestamp(1, row as i64);
            writer.push(2, row as f64);
            writer.finish_row();
        }
    });
    let mut source = HeapBatch::new(template(keyed.clone()));
    for (row, id) in ids.iter().enumerate() {
        source.writer().push_str(0, id).unwrap();
        source.writer().push_timestamp(1, row as i64);
        source.writer().push(2, row as f64);
        source.writer().finish_row();
    }
    let view = source.view();
    measure("the same, copy_rows", keyed.clone(), |batch| {
        batch.writer().copy_rows(&view, 0..ROWS as usize);
    });
    let selection: Vec<u32> = (0..ROWS).rev().collect();
    measure("the same, copy_selected", keyed.clone(), |batch| {
        batch.writer().copy_selected(&view, &selection);
    });
    measure("the same, copy_row", keyed.clone(), |batch| {
        for row in 0..ROWS as usize {
            batch.writer().copy_row(&view, row).unwrap();
        }
    });
    let columns: Vec<_> = view.columns().collect();
    measure("the same, copy_value of columns at hand", keyed.clone(), |batch| {
        let writer = batch.writer();
        for row in 0..ROWS as usize {
            for (index, column) in columns.iter().enumerate() {
                writer.copy_value(index, column, row).unwrap();
            }
            writer.finish_row();
        }
    });
    let mut sealed = HeapBatch::new(template(keyed.clone()));
    sealed.writer().copy_rows(&view, 0..ROWS as usize);
    let region = sealed.flatbuffer().as_ptr();
    let template = template(keyed.clone());
    measure("the same, copy_untrusted (copied and verified)", keyed, |batch| {
        #[allow(unsafe_code)]
        // SAFETY: the region is a whole batch of an equal template, and is not written meanwhile.
        unsafe {
            template.copy_untrusted(region, ROWS, batch).unwrap();
        }
    });
}
