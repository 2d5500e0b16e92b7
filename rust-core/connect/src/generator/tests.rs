//! The generator's promises: pure rows, whatever the shards; exact times; counted anomalies.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    Format, Poll,
    testing::{self, Letters},
};

fn rows(spec: &GeneratorSpec, shards: usize, rows_max: u32) -> Vec<String> {
    let schema = spec.schema().unwrap();
    let mut rows = Vec::new();
    for (_, mut partition) in spec.open(shards, &[], None).unwrap() {
        let (text, letters) = testing::read_all(&mut *partition, &schema, Format::Json, rows_max).unwrap();
        assert!(letters.is_empty());
        rows.extend(text.lines().map(str::to_owned));
    }
    rows.sort();
    rows
}

fn small(keys: u64) -> GeneratorSpec {
    GeneratorSpec { keys, rows: Some(5_000), anomaly_rate: 0.01, ..GeneratorSpec::default() }
}

#[test]
fn the_rows_do_not_depend_on_the_shards_and_are_all_distinct() {
    for shape in [Shape::Sensors, Shape::Ticks] {
        for keys in [1, 3, 64, 1_000, 7_001] {
            let spec = GeneratorSpec { shape, ..small(keys) };
            let expect = rows(&spec, 1, 512);
            assert_eq!(expect.len(), 5_000);
            assert_eq!(expect.iter().collect::<BTreeSet<_>>().len(), 5_000);
            for (shards, rows_max) in [(1, 2_000), (2, 300), (7, 64), (1_200, 50)] {
                assert_eq!(rows(&spec, shards, rows_max), expect, "{keys} {shards}");
            }
        }
    }
}

#[test]
fn another_seed_gives_other_values() {
    let other = GeneratorSpec { seed: 1, ..small(10) };
    assert_ne!(rows(&other, 1, 512), rows(&small(10), 1, 512));
}

#[test]
fn a_key_belongs_to_the_shard_of_its_remainder() {
    let spec = small(10);
    let schema = spec.schema().unwrap();
    let partitions = spec.open(3, &[], None).unwrap();
    assert_eq!(partitions.len(), 3);
    for (shard, mut partition) in partitions {
        let (text, _) = testing::read_all(&mut *partition, &schema, Format::Csv, 100).unwrap();
        for line in text.lines() {
            let digits = line.strip_prefix("sensor-").unwrap().split(',').next();
            let key: usize = digits.unwrap().parse().unwrap();
            assert_eq!(key % 3, shard);
        }
    }
    assert_eq!(small(2).open(8, &[], None).unwrap().len(), 2);
}

#[test]
fn every_key_reports_once_per_period_at_exact_times() {
    for (keys, period_ns, start_ns) in [
        (3, 1_000_000_000, 1_704_067_200_000_000_000),
        (500_000, 1_000_000_000, -1),
        (7, 3_600_000_000_001, -12_345_678_901),
    ] {
        let spec = GeneratorSpec {
            shape: Shape::Ticks,
            period_ns,
            start_ns,
            columns: Some(vec!["timestamp".to_owned()]),
            ..small(keys)
        };
        let expect: Vec<i64> = (0..5_000).map(|row| spec.timestamp_ns(row)).collect();
        assert_eq!(spec.timestamp_ns(keys) - start_ns, period_ns as i64);
        let mut found = Vec::new();
        for (_, mut partition) in spec.open(2, &[], None).unwrap() {
            let schema = spec.schema().unwrap();
            testing::drain(&mut *partition, &schema, 999, &mut Letters::default(), |batch| {
                found.extend_from_slice(batch.view().column(0).values::<i64>());
            })
            .unwrap();
        }
        found.sort();
        assert_eq!(found, expect);
        let sensors = GeneratorSpec { shape: Shape::Sensors, ..spec.clone() };
        let mut milliseconds = Vec::new();
        let mut partition = sensors.open(1, &[], None).unwrap().remove(0).1;
        let schema = sensors.schema().unwrap();
        testing::drain(&mut *partition, &schema, 999, &mut Letters::default(), |batch| {
            milliseconds.extend_from_slice(batch.view().column(0).values::<i64>());
        })
        .unwrap();
        let expect: Vec<i64> = expect.iter().map(|ns| ns.div_euclid(1_000_000)).collect();
        assert_eq!(milliseconds, expect);
    }
}

#[test]
fn seeking_to_a_position_continues_behind_it() {
    let spec = small(13);
    let schema = spec.schema().unwrap();
    for before in [0, 1, 12, 13, 1_000, 2_307, 2_308] {
        let open = || spec.open(2, &[], None).unwrap().remove(1).1;
        let mut partition = open();
        let mut batch = testing::batch(&schema, 2_500, 1 << 16);
        if before > 0 {
            testing::poll(&mut *partition, &mut batch, &mut Letters::default(), before).unwrap();
        }
        let position = partition.position();
        assert_eq!(position.rows, u64::from(before));
        let rest = testing::read_all(&mut *partition, &schema, Format::Json, 100).unwrap();
        let mut again = open();
        again.seek(&position).unwrap();
        assert_eq!(again.position(), position);
        assert_eq!(testing::read_all(&mut *again, &schema, Format::Json, 77).unwrap(), rest);
    }
}

#[test]
fn anomalies_lie_where_the_spec_says_and_far_off() {
    let spec =
        GeneratorSpec { keys: 1, rows: Some(100_000), columns: Some(vec!["temperature".to_owned()]), ..small(1) };
    let schema = spec.schema().unwrap();
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let mut temperatures = Vec::new();
    testing::drain(&mut *partition, &schema, 4_096, &mut Letters::default(), |batch| {
        temperatures.extend_from_slice(batch.view().column(0).values::<f64>());
    })
    .unwrap();
    let normal: Vec<f64> =
        (0..100_000).filter(|row| !spec.is_anomaly(*row)).map(|row| temperatures[row as usize]).collect();
    let mean = normal.iter().sum::<f64>() / normal.len() as f64;
    let variance = normal.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / normal.len() as f64;
    let anomalies = 100_000 - normal.len();
    assert!((800..1_200).contains(&anomalies), "{anomalies}");
    for (row, temperature) in temperatures.iter().enumerate() {
        let sigmas = (temperature - mean) / variance.sqrt();
        assert_eq!(sigmas > 10.0, spec.is_anomaly(row as u64), "row {row}: {sigmas}");
    }
}

#[test]
fn columns_that_are_left_out_change_nothing_else() {
    let all = rows(&small(10), 1, 512);
    let some = GeneratorSpec { columns: Some(vec!["humidity".to_owned(), "device_id".to_owned()]), ..small(10) };
    let count = |rows: &[String]| {
        let mut count = BTreeMap::new();
        for row in rows {
            let value: serde_json::Value = serde_json::from_str(row).unwrap();
            let pair = (value["device_id"].to_string(), value["humidity"].to_string());
            *count.entry(pair).or_insert(0) += 1;
        }
        count
    };
    assert_eq!(count(&rows(&some, 2, 100)), count(&all));
    assert!(rows(&some, 1, 512)[0].starts_with(r#"{"humidity":"#));
}

#[test]
fn names_are_of_one_width_and_those_of_the_rows() {
    let check = |shape, keys, row, expect: &str| {
        let spec = GeneratorSpec { shape, keys, ..GeneratorSpec::default() };
        assert_eq!(spec.key_name(row), expect);
    };
    check(Shape::Sensors, 500_000, 123, "sensor-000123");
    check(Shape::Sensors, 500_000, 1_000_002, "sensor-000002");
    check(Shape::Sensors, 10_000_001, 10_000_000, "sensor-10000000");
    check(Shape::Ticks, 100, 27, "AABB");
    check(Shape::Ticks, 26 * 26 * 26 * 26 + 1, 26 * 26 * 26 * 26, "BAAAA");
    // More keys than the table takes: formatted on the fly.
    let spec = GeneratorSpec {
        keys: 100_000_000,
        rows: Some(3_000),
        columns: Some(vec!["device_id".to_owned()]),
        ..GeneratorSpec::default()
    };
    let expect: Vec<String> = (0..3_000).map(|row| format!("{{\"device_id\":\"{}\"}}", spec.key_name(row))).collect();
    assert_eq!(rows(&spec, 3, 512), expect);
}

#[test]
fn a_rate_is_kept_and_shared_by_the_shards() {
    let spec = GeneratorSpec { rate: Some(2_000.0), ..small(10) };
    let schema = spec.schema().unwrap();
    let mut batch = testing::batch(&schema, 5_000, 1 << 18);
    let mut partition = spec.open(2, &[], None).unwrap().remove(0).1;
    let mut letters = Letters::default();
    let mut at = |now_ns: u64| {
        let mut context = crate::PollContext {
            now_ns,
            event_time: None,
            event_time_max_ns: i64::MAX,
            dead: &mut letters,
            rows_max: 10_000,
        };
        let poll = partition.poll(batch.writer(), &mut context).unwrap();
        (poll, batch.rows())
    };
    assert_eq!(at(0), (Poll::Rows, 1));
    assert_eq!(at(0), (Poll::Until(1_000_000), 1));
    assert_eq!(at(1_000_000), (Poll::Rows, 2));
    assert_eq!(at(1_000_000_000), (Poll::Rows, 1_001));
}

#[test]
fn a_full_batch_says_so_and_the_end_stays_the_end() {
    let spec = small(10);
    let schema = spec.schema().unwrap();
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let mut letters = Letters::default();
    // Room for 2 names of 13 bytes.
    let mut batch = testing::batch(&schema, 100, 30);
    let mut poll = |batch: &mut _| testing::poll(&mut *partition, batch, &mut letters, 100).unwrap();
    assert_eq!(poll(&mut batch), Poll::Rows);
    let room = batch.rows();
    assert!(room >= 2, "{room}");
    while batch.writer().bytes_free(0) >= 13 {
        poll(&mut batch);
    }
    assert_eq!(poll(&mut batch), Poll::Full);
    let mut large = testing::batch(&schema, 5_000, 1 << 18);
    for _ in 0..100 {
        poll(&mut large);
    }
    assert_eq!(poll(&mut large), Poll::End);
    assert_eq!(poll(&mut large), Poll::End);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let check = |spec: GeneratorSpec, option: &str| {
        let error = spec.open(1, &[], None).err().expect(option).to_string();
        assert!(error.starts_with(option), "{error}");
    };
    let base = GeneratorSpec::default;
    check(GeneratorSpec { keys: 0, ..base() }, "keys");
    check(GeneratorSpec { period_ns: 0, ..base() }, "period");
    check(GeneratorSpec { anomaly_rate: 1.5, ..base() }, "anomaly_rate");
    check(GeneratorSpec { anomaly_sigmas: f64::NAN, ..base() }, "anomaly_sigmas");
    check(GeneratorSpec { rate: Some(0.0), ..base() }, "rate");
    let columns = Some(vec!["pressure".to_owned()]);
    check(GeneratorSpec { columns, ..base() }, "columns is pressure");
}

#[test]
fn event_time_beyond_2262_is_an_error_and_not_a_wrong_time() {
    let spec = GeneratorSpec { keys: 1, period_ns: PERIOD_NS_MAX, ..GeneratorSpec::default() };
    let schema = spec.schema().unwrap();
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let result = testing::drain(&mut *partition, &schema, 64, &mut Letters::default(), |_| {});
    assert!(matches!(result, Err(ConnectError::EventTime { .. })));
}
