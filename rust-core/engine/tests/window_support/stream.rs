//! Made-up streams in steps, and what comes of them by key.

use std::collections::BTreeMap;

use ringmill_engine::window::{KeyHasher, WindowSpec};

use super::{Driver, Random, Row, batch, input_schema, push_row, random_row};

const MS: i64 = 1_000_000;

/// Rows of one batch and what follows them.
pub struct Step {
    pub rows: Vec<Row>,
    pub late_rows: u32,
    pub emit_rows: u32,
    pub drains: bool,
    pub watermark_ns: i64,
}

pub fn stream(random: &mut Random, spec: &WindowSpec) -> Vec<Step> {
    let keys = 1 + random.below(12);
    let disorder = 1 + random.below(40);
    let lazy = spec.allowed_lateness_ns == 0 && random.chance(2);
    let mut now = 1_000 + random.below(100) as i64;
    let mut steps: Vec<Step> = (0..1 + random.below(40))
        .map(|_| {
            let count = random.below(40);
            let row = |_| {
                now += random.below(4) as i64;
                let time = now - random.below(disorder) as i64;
                random_row(random, time, keys)
            };
            let rows: Vec<Row> = (0..count).map(row).collect();
            Step {
                rows,
                late_rows: 1 + random.below(5) as u32,
                emit_rows: 1 + random.below(20) as u32,
                drains: !lazy || random.chance(2),
                watermark_ns: (now - random.below(30) as i64) * MS,
            }
        })
        .collect();
    let last = Step { rows: Vec::new(), late_rows: 1, emit_rows: 30, drains: true, watermark_ns: i64::MAX };
    steps.push(last);
    steps
}

pub fn take_step(driver: &mut Driver, step: &Step) {
    driver.push(&step.rows, step.late_rows);
    if step.drains {
        driver.drain(step.emit_rows);
    }
    driver.operator.advance(step.watermark_ns, 1);
    if step.drains {
        driver.drain(step.emit_rows);
    }
}

/// Every bit of it, unlike `==`, which allows for rounding.
pub fn exactly<T: std::fmt::Debug>(what: &T) -> String {
    format!("{what:?}")
}

/// Hashes of the rows' keys, in their order.
pub fn hashes(spec: &WindowSpec, rows: &[Row]) -> Vec<u64> {
    let schema = input_schema();
    let mut input = batch(schema.clone(), rows.len().max(1) as u32);
    rows.iter().for_each(|row| assert!(push_row(input.writer(), row)));
    let columns = spec.key.iter().map(|key| schema.index_of(key).unwrap()).collect();
    let mut hashes = Vec::new();
    KeyHasher::new(columns).hash(&input.view(), 0..rows.len(), &mut hashes);
    hashes
}

pub fn key_of(spec: &WindowSpec, row: &Row) -> String {
    let schema = input_schema();
    let columns = spec.key.iter().map(|key| schema.index_of(key).unwrap());
    exactly(&columns.map(|column| row[column].clone()).collect::<Row>())
}

/// What goes out, by key and in order.
pub fn by_key(spec: &WindowSpec, results: &[Row], keys: &mut BTreeMap<String, Vec<Row>>) {
    for row in results {
        keys.entry(exactly(&row[..spec.key.len()].to_vec())).or_default().push(row.clone());
    }
}
