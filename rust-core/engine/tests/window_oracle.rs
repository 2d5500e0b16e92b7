//! The window operator against an implementation without any cleverness, on made-up streams: out of order, late, with
//! missing values, split into batches and emitted into batches of any size.
//!
//! `RINGMILL_ORACLE_SEEDS=20000` tries more streams; `RINGMILL_ORACLE_FIRST=17 RINGMILL_ORACLE_SEEDS=1` one again.

mod window_support;

use ringmill_engine::window::WindowKind;
use window_support::oracle::Oracle;
use window_support::{Driver, Random, Row, number, random_row, random_spec};

const MS: i64 = 1_000_000;
/// Runs one stream through both; `None` if they agree.
fn disagreement(seed: u64, broken: bool) -> Option<String> {
    let mut random = Random(seed);
    let spec = random_spec(&mut random);
    let keys = 1 + random.below(12);
    let disorder = 1 + random.below(40);
    let mut driver = Driver::new(&spec, 1 << 30);
    let mut oracle = Oracle::new(&spec);
    oracle.broken = broken;
    // Results that wait while rows come in are computed from all of these, so then there must be no late ones.
    let lazy = spec.allowed_lateness_ns == 0 && random.chance(2);
    let mut now = 1_000 + random.below(100) as i64;
    for _ in 0..random.below(30) {
        let rows: Vec<Row> = (0..random.below(40))
            .map(|_| {
                now += random.below(4) as i64;
                let time = now - random.below(disorder) as i64;
                random_row(&mut random, time, keys)
            })
            .collect();
        driver.push(&rows, 1 + random.below(5) as u32);
        rows.iter().for_each(|row| oracle.push(row));
        oracle.drain();
        if !lazy {
            driver.drain(1 + random.below(20) as u32);
        }
        let watermark = (now - random.below(30) as i64) * MS;
        driver.operator.advance(watermark, 1);
        oracle.advance(watermark);
        oracle.drain();
        if !lazy {
            driver.drain(1 + random.below(20) as u32);
        } else if driver.operator.has_output() && random.chance(2) {
            driver.emit(1 + random.below(20) as u32);
        }
    }
    driver.operator.advance(i64::MAX, 1);
    driver.drain(1 + random.below(50) as u32);
    oracle.advance(i64::MAX);
    oracle.drain();
    if driver.late != oracle.late {
        return Some(format!(
            "seed {seed}: late rows differ: {} and {}\n{spec:?}",
            driver.late.len(),
            oracle.late.len()
        ));
    }
    assert_eq!(driver.operator.late_rows(), driver.late.len() as u64);
    let pairs = driver.results.iter().zip(&oracle.results);
    if let Some((at, (one, other))) = pairs.enumerate().find(|(_, (one, other))| one != other) {
        return Some(format!("seed {seed}: result {at} differs:\n{one:?}\n{other:?}\n{spec:?}"));
    }
    if driver.results.len() != oracle.results.len() {
        return Some(format!("seed {seed}: {} results, not {}\n{spec:?}", driver.results.len(), oracle.results.len()));
    }
    None
}

/// Results that wait while late rows come in may go out changed, and fewer times; what is known in the end is the same.
fn last_results_disagree(seed: u64) -> Option<String> {
    let mut random = Random(seed);
    let mut spec = random_spec(&mut random);
    spec.statistics = None;
    if matches!(spec.window, WindowKind::Session { .. }) {
        spec.window = WindowKind::Sliding { size_ns: 12 * MS, every_ns: 5 * MS };
    }
    spec.allowed_lateness_ns = random.below(30) as i64 * MS;
    let mut driver = Driver::new(&spec, 1 << 30);
    let mut oracle = Oracle::new(&spec);
    let mut now = 1_000;
    for _ in 0..random.below(40) {
        let rows: Vec<Row> = (0..random.below(20))
            .map(|_| {
                now += random.below(4) as i64;
                let time = now - random.below(30) as i64;
                random_row(&mut random, time, 6)
            })
            .collect();
        driver.push(&rows, 3);
        rows.iter().for_each(|row| oracle.push(row));
        if driver.operator.has_output() && random.chance(2) {
            driver.emit(1 + random.below(4) as u32);
        }
        let watermark = (now - random.below(20) as i64) * MS;
        driver.operator.advance(watermark, 1);
        oracle.advance(watermark);
        oracle.drain();
    }
    driver.operator.advance(i64::MAX, 1);
    driver.drain(5);
    oracle.advance(i64::MAX);
    oracle.drain();
    let bounds = spec.key.len() + 2;
    let last = |results: &[Row]| -> Vec<Row> {
        let mut last: Vec<Row> = Vec::new();
        for row in results {
            match last.iter_mut().find(|other| other[..bounds] == row[..bounds]) {
                Some(other) => other.clone_from(row),
                None => last.push(row.clone()),
            }
        }
        last.sort_by_key(|row| format!("{:?}", &row[..bounds]));
        last
    };
    if driver.late != oracle.late || last(&driver.results) != last(&oracle.results) {
        return Some(format!("seed {seed}: {spec:?}"));
    }
    None
}

#[test]
fn rows_may_come_in_while_results_wait() {
    for seed in 0..number("RINGMILL_ORACLE_SEEDS", 200) {
        if let Some(difference) = last_results_disagree(seed) {
            panic!("{difference}");
        }
    }
}

#[test]
fn windows_agree_with_the_naive_implementation() {
    let first = number("RINGMILL_ORACLE_FIRST", 0);
    for seed in first..first + number("RINGMILL_ORACLE_SEEDS", 300) {
        if let Some(difference) = disagreement(seed, false) {
            panic!("{difference}");
        }
    }
}

#[test]
fn a_broken_oracle_is_found_out() {
    let found = (0..100).filter(|seed| disagreement(*seed, true).is_some()).count();
    assert!(found > 10, "only {found} of 100 streams saw that rows were counted to the wrong window");
}
