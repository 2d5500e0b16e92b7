//! What the window operator promises, each promise by itself; `window_oracle.rs` tries them all together.

mod window_support;

use std::sync::Arc;

use ringmill_engine::window::{KeyHasher, RowTime, TimeColumn, WindowKind, WindowOperator, WindowSpec, output_schema};
use ringmill_wire::{DataType, Field, Schema, TimeUnit};
use window_support::{
    Driver, Random, Row, TIME, Value, batch, input_schema, push_row, random_row, read_rows, spec, statistics_of,
};

const MS: i64 = 1_000_000;
const TEN: WindowKind = WindowKind::Tumbling { size_ns: 10 * MS };

fn row(name: &str, time: i64, x: f64) -> Row {
    let mut row = random_row(&mut Random(1), time, 1);
    row[1] = Value::Bytes(name.as_bytes().to_vec());
    row[5] = Value::Float(x);
    row
}

fn text(name: &str) -> Value {
    Value::Bytes(name.as_bytes().to_vec())
}

fn int(value: i128) -> Value {
    Value::Int(value)
}

#[test]
fn results_have_keys_bounds_aggregates_and_statistics() {
    let mut spec = spec(
        &["name", "number"],
        TEN,
        &["count()", "mean(x)", "sum(i)", "sum(u)", "min(y)", "last(text)", "collect(u)"],
    );
    spec.statistics = Some(statistics_of("a1", None));
    let schema = output_schema(&spec, &input_schema(), Some(TimeUnit::Microsecond)).unwrap();
    let columns: Vec<String> = schema
        .fields
        .iter()
        .map(|field| format!("{} {}{}", field.name, field.data_type, if field.nullable { "?" } else { "" }))
        .collect();
    assert_eq!(
        columns,
        [
            "name utf8",
            "number int16?",
            "window_start timestamp[us]",
            "window_end timestamp[us]",
            "a0 uint64",
            "a1 float64",
            "a2 int64",
            "a3 uint64?",
            "a4 float32?",
            "a5 utf8?",
            "a6 list[uint32]",
            "s_mean float64",
            "s_std float64",
            "s_count uint64",
        ]
    );
}

#[test]
fn every_mistake_is_named_with_its_key() {
    let check = |change: &dyn Fn(&mut WindowSpec), key: &str, words: &str| {
        let mut spec = spec(&["name"], TEN, &["count()", "mean(x)"]);
        change(&mut spec);
        let errors = output_schema(&spec, &input_schema(), Some(TimeUnit::Millisecond)).unwrap_err();
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(errors.iter().any(|error| error.key == key), "{key}: {said:?}");
        assert!(said.iter().any(|said| said.contains(words)), "{words}: {said:?}");
        let time = TimeColumn::Event { index: TIME, unit: TimeUnit::Millisecond };
        assert_eq!(WindowOperator::new(&spec, input_schema(), time, 1 << 20).unwrap_err(), errors[0]);
    };
    let aggregate = |text: &'static str| move |spec: &mut WindowSpec| spec.aggregates[0].expression = text.to_owned();
    check(&|spec| spec.key = vec!["nam".into()], "key", "did you mean name?");
    check(&|spec| spec.key = vec!["x".into()], "key", "floats make no keys");
    check(&|spec| spec.key = vec!["name".into(), "name".into()], "key", "named twice");
    check(&|spec| spec.window = WindowKind::Tumbling { size_ns: 0 }, "window", "longer than nothing");
    check(&|spec| spec.window = WindowKind::Tumbling { size_ns: 1_500_000 }, "window", "no whole number");
    check(&|spec| spec.window = WindowKind::Session { gap_ns: -1 }, "window", "longer than nothing");
    check(&|spec| spec.window = WindowKind::Sliding { size_ns: 5 * MS, every_ns: 6 * MS }, "window", "leave rows out");
    check(&|spec| spec.window = WindowKind::Sliding { size_ns: 5000 * MS, every_ns: MS }, "window", "5000 windows");
    check(&|spec| spec.allowed_lateness_ns = -1, "allowed_lateness", "negative");
    check(&|spec| spec.aggregates.clear(), "aggregates", "at least one");
    check(&aggregate("mean x"), "aggregates.a0", "is no aggregate");
    check(&aggregate("avg(x)"), "aggregates.a0", "did you mean mean?");
    check(&aggregate("means(x)"), "aggregates.a0", "did you mean mean?");
    check(&aggregate("mean()"), "aggregates.a0", "needs a column");
    check(&aggregate("mean(xx)"), "aggregates.a0", "did you mean x?");
    check(&aggregate("mean(text)"), "aggregates.a0", "numbers are needed");
    check(&aggregate("sum(t)"), "aggregates.a0", "numbers are needed");
    check(&aggregate("sum(flag)"), "aggregates.a0", "numbers are needed");
    check(&aggregate("min(text)"), "aggregates.a0", "no fixed width");
    check(&aggregate("collect(text)"), "aggregates.a0", "numbers or timestamps");
    check(&|spec| spec.aggregates[1].name = "a0".into(), "aggregates.a0", "two output columns");
    check(&|spec| spec.aggregates[1].name = "window_end".into(), "aggregates.window_end", "two output columns");
    check(&|spec| spec.statistics = Some(statistics_of("a7", None)), "statistics.of", "no aggregate named");
    check(&|spec| spec.statistics = Some(statistics_of("a0", Some(0))), "statistics.horizon", "longer than nothing");
    let wrong_type = |spec: &mut WindowSpec| {
        spec.aggregates[0].expression = "last(text)".into();
        spec.statistics = Some(statistics_of("a0", None));
    };
    check(&wrong_type, "statistics.of", "need numbers");
}

#[test]
fn results_come_by_end_then_by_first_arrival() {
    let mut driver = Driver::new(&spec(&["name"], TEN, &["count()"]), 1 << 20);
    driver.push(&[row("c", 25, 0.0), row("b", 11, 0.0), row("a", 12, 0.0), row("b", 13, 0.0), row("z", 5, 0.0)], 1);
    driver.operator.advance(i64::MAX, 1);
    driver.drain(2);
    let result = |name, start, count| vec![text(name), int(start), int(start + 10), int(count)];
    assert_eq!(driver.results, [result("z", 0, 1), result("b", 10, 2), result("a", 10, 1), result("c", 20, 1)]);
}

#[test]
fn a_window_fires_when_the_watermark_reaches_its_end_and_then_its_rows_are_late() {
    let mut driver = Driver::new(&spec(&["name"], TEN, &["count()"]), 1 << 20);
    driver.push(&[row("a", 3, 0.0)], 1);
    driver.operator.advance(10 * MS - 1, 1);
    assert!(!driver.operator.has_output());
    driver.push(&[row("a", 9, 0.0)], 1);
    driver.operator.advance(10 * MS, 1);
    assert!(driver.operator.has_output());
    driver.push(&[row("a", 9, 0.5), row("a", 10, 0.0)], 1);
    driver.drain(1);
    assert_eq!(driver.results, [vec![text("a"), int(0), int(10), int(2)]]);
    assert_eq!(driver.late, [row("a", 9, 0.5)]);
    assert_eq!(driver.operator.late_rows(), 1);
    assert_eq!(driver.operator.watermark(), 10 * MS);
}

#[test]
fn a_row_that_is_late_for_some_sliding_windows_counts_in_the_others() {
    let window = WindowKind::Sliding { size_ns: 10 * MS, every_ns: 5 * MS };
    let mut driver = Driver::new(&spec(&["name"], window, &["count()"]), 1 << 20);
    driver.operator.advance(10 * MS, 1);
    driver.push(&[row("a", 7, 0.0)], 1);
    driver.operator.advance(i64::MAX, 1);
    driver.drain(4);
    assert_eq!(driver.results, [vec![text("a"), int(5), int(15), int(1)]]);
    assert!(driver.late.is_empty());
}

#[test]
fn a_row_within_the_allowed_lateness_gives_the_result_again_with_the_same_statistics() {
    let mut spec = spec(&["name"], TEN, &["sum(x)"]);
    spec.allowed_lateness_ns = 5 * MS;
    spec.statistics = Some(statistics_of("a0", None));
    let mut driver = Driver::new(&spec, 1 << 20);
    let result = |start, sum, mean: f64, std: f64, count| {
        vec![
            text("a"),
            int(start),
            int(start + 10),
            Value::Float(sum),
            Value::Float(mean),
            Value::Float(std),
            int(count),
        ]
    };
    driver.push(&[row("a", 3, 1.0), row("a", 13, 3.0)], 1);
    driver.operator.advance(10 * MS, 1);
    driver.drain(8);
    driver.push(&[row("a", 4, 1.0), row("a", 5, 4.0)], 1);
    assert!(driver.operator.has_output());
    driver.drain(8);
    driver.operator.advance(15 * MS, 1);
    driver.push(&[row("a", 4, 9.0)], 1);
    driver.operator.advance(30 * MS, 1);
    driver.drain(8);
    driver.push(&[row("a", 33, 0.0)], 1);
    driver.operator.advance(i64::MAX, 1);
    driver.drain(8);
    let nan = f64::NAN;
    let expected = [
        result(0, 1.0, nan, nan, 0),
        result(0, 6.0, nan, nan, 0),
        result(10, 3.0, 6.0, nan, 1),
        result(30, 0.0, 4.5, 2.121_320_343_559_642_6, 2),
    ];
    assert_eq!(driver.results, expected);
    assert_eq!(driver.late, [row("a", 4, 9.0)]);
}

#[test]
fn missing_values_are_skipped_and_nan_gives_way_to_numbers() {
    let aggregates = ["count(y)", "sum(y)", "min(y)", "max(x)", "mean(x)", "first(y)", "collect(y)", "stddev(x)"];
    let mut spec = spec(&["name"], TEN, &aggregates);
    spec.statistics = Some(statistics_of("a4", None));
    let mut driver = Driver::new(&spec, 1 << 20);
    let with = |name: &str, time, x: f64, y: Value| {
        let mut row = row(name, time, x);
        row[6] = y;
        row
    };
    let nan = f64::NAN;
    driver.push(
        &[with("a", 1, nan, Value::Null), with("a", 2, 2.0, Value::Null), with("b", 3, nan, Value::Float(1.5))],
        1,
    );
    driver.push(&[with("b", 4, nan, Value::Null), with("a", 11, 4.0, Value::Null)], 1);
    driver.operator.advance(i64::MAX, 1);
    driver.drain(8);
    let float = Value::Float;
    let null = || Value::Null;
    let list = |values: &[f64]| Value::List(values.iter().map(|value| Value::Float(*value)).collect());
    let a = [int(0), null(), null(), float(2.0), float(nan), null(), list(&[]), float(nan)];
    let b = [int(1), float(1.5), float(1.5), float(nan), float(nan), float(1.5), list(&[1.5]), float(nan)];
    let later = [int(0), null(), null(), float(4.0), float(4.0), null(), list(&[]), float(nan)];
    let unknown = [float(nan), float(nan), int(0)];
    let result =
        |name, start, values: &[Value]| [&[text(name), int(start), int(start + 10)], values, &unknown].concat();
    // The mean of `a`'s first window is NaN and does not enter its history.
    assert_eq!(driver.results, [result("a", 0, &a), result("b", 0, &b), result("a", 10, &later)]);
}

#[test]
fn a_session_ends_with_the_gap_and_rows_between_two_join_them() {
    let window = WindowKind::Session { gap_ns: 10 * MS };
    let mut driver = Driver::new(&spec(&["name"], window, &["count()", "first(x)", "last(x)", "collect(x)"]), 1 << 20);
    let rows = [row("a", 0, 1.0), row("a", 10, 2.0), row("a", 28, 3.0), row("a", 19, 4.0)];
    driver.push(&rows, 1);
    driver.operator.advance(i64::MAX, 1);
    driver.drain(8);
    let floats = |values: &[f64]| Value::List(values.iter().map(|value| Value::Float(*value)).collect());
    let first = vec![text("a"), int(0), int(10), int(1), Value::Float(1.0), Value::Float(1.0), floats(&[1.0])];
    let second =
        vec![text("a"), int(10), int(38), int(3), Value::Float(2.0), Value::Float(4.0), floats(&[2.0, 3.0, 4.0])];
    assert_eq!(driver.results, [first, second]);
}

#[test]
fn any_timestamp_is_taken_without_a_panic() {
    for unit in TimeUnit::ALL {
        let second = 1000 * MS;
        for window in [
            WindowKind::Tumbling { size_ns: second },
            WindowKind::Tumbling { size_ns: i64::MAX / second * second },
            WindowKind::Sliding { size_ns: 3 * second, every_ns: 3 * second },
            WindowKind::Session { gap_ns: second },
        ] {
            let schema = Arc::new(Schema::new(vec![Field::new("t", DataType::Timestamp(unit))]).unwrap());
            let spec = spec(&[], window, &["count()"]);
            let mut operator =
                WindowOperator::new(&spec, schema.clone(), TimeColumn::Event { index: 0, unit }, 1 << 20).unwrap();
            let mut input = batch(schema.clone(), 8);
            let times = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX / 1_000_000_000, i64::MAX - 1, i64::MAX];
            for time in times {
                input.writer().push_timestamp(0, time);
                input.writer().finish_row();
            }
            let mut late = batch(schema, 8);
            assert_eq!(operator.push(&input.view(), 0..8, RowTime::Column(0), 0, late.writer()).unwrap(), 8);
            operator.advance(i64::MAX, 0);
            let mut out = batch(Arc::new(output_schema(&spec, &input_schema_of(&input), Some(unit)).unwrap()), 16);
            operator.emit(out.writer());
            assert!(!operator.has_output());
            let rows = read_rows(&out.view());
            let counted: i128 = rows.iter().map(|row| if let Value::Int(count) = row[2] { count } else { 0 }).sum();
            assert_eq!(counted, 8, "{unit:?} {window:?}");
        }
    }
}

fn input_schema_of(batch: &ringmill_wire::HeapBatch) -> Schema {
    (**batch.template().schema()).clone()
}

#[test]
fn state_is_bounded_and_the_error_says_by_how_much() {
    for window in [TEN, WindowKind::Session { gap_ns: 10 * MS }] {
        let bound = 300_000;
        let mut spec = spec(&["name"], window, &["count()", "collect(x)", "last(text)"]);
        spec.statistics = Some(statistics_of("a0", Some(1000 * MS)));
        let schema = input_schema();
        let time = TimeColumn::Event { index: TIME, unit: TimeUnit::Millisecond };
        let mut operator = WindowOperator::new(&spec, schema.clone(), time, bound).unwrap();
        let (mut input, mut late) = (batch(schema.clone(), 100), batch(schema, 1));
        let mut keys = 0;
        let full = loop {
            input.clear();
            for _ in 0..100 {
                push_row(
                    input.writer(),
                    &row(&format!("key {keys} of many, longer than its place in an entry"), 5, 1.0),
                );
                keys += 1;
            }
            match operator.push(&input.view(), 0..100, RowTime::Column(TIME), 0, late.writer()) {
                Ok(taken) => assert_eq!(taken, 100),
                Err(full) => break full,
            }
            assert!(keys < 1_000_000, "the bound was never reached");
        };
        assert!(keys > 500, "{keys} keys are few for {bound} bytes");
        assert!(full.needed > bound && full.allowed == bound, "{full:?}");
        assert!(full.to_string().contains("300000") && full.to_string().contains("state_memory"), "{full}");
        let scratch = 100_000;
        assert!(operator.state_bytes() <= bound + scratch, "{} bytes", operator.state_bytes());
        assert_eq!(operator.check(), Err(full));
    }
}

#[test]
fn a_window_of_many_keys_closes_in_small_batches_while_rows_come_in() {
    let keys = 100_000;
    let mut driver = Driver::new(&spec(&["name"], TEN, &["count()", "mean(x)"]), 1 << 30);
    let name = |key: i64| format!("sensor-{key:06}");
    for first in (0..keys).step_by(1_000) {
        let rows: Vec<Row> = (first..first + 1_000).map(|key| row(&name(key), 5, key as f64)).collect();
        driver.push(&rows, 1);
    }
    driver.operator.advance(10 * MS, 1);
    let mut calls = 0;
    while driver.operator.has_output() {
        driver.emit(100);
        driver.push(&[row(&name(calls), 15, 0.0)], 1);
        calls += 1;
    }
    assert_eq!(calls, 1000);
    driver.operator.advance(i64::MAX, 1);
    driver.drain(1000);
    assert_eq!(driver.results.len(), 101_000);
    for (key, result) in driver.results[..100_000].iter().enumerate() {
        assert_eq!(*result, [text(&name(key as i64)), int(0), int(10), int(1), Value::Float(key as f64)]);
    }
    for (key, result) in driver.results[100_000..].iter().enumerate() {
        assert_eq!(*result, [text(&name(key as i64)), int(10), int(20), int(1), Value::Float(0.0)]);
    }
}

#[test]
fn a_result_larger_than_a_batch_is_not_lost_in_silence() {
    let mut driver = Driver::new(&spec(&["name"], TEN, &["collect(x)"]), 1 << 30);
    let rows: Vec<Row> = (0..9000).map(|at| row("a", 5, f64::from(at))).collect();
    driver.push(&rows, 1);
    driver.operator.advance(i64::MAX, 1);
    let output =
        output_schema(&spec(&["name"], TEN, &["collect(x)"]), &input_schema(), Some(TimeUnit::Millisecond)).unwrap();
    let mut out = batch(Arc::new(output), 4);
    assert_eq!(driver.operator.emit(out.writer()).rows, 0, "72,000 bytes do not fit 65,536");
    assert!(driver.operator.has_output());
}

#[test]
fn hashes_never_change_since_they_send_stored_keys_to_their_shards() {
    let schema = input_schema();
    let mut input = batch(schema, 4);
    for name in ["", "sensor-000001", "sensor-000002", "a key of more than sixteen bytes"] {
        push_row(input.writer(), &row(name, 0, 0.0));
    }
    let hashes = |columns: &[usize]| {
        let mut hashes = Vec::new();
        KeyHasher::new(columns.to_vec()).hash(&input.view(), 0..4, &mut hashes);
        let mut last = Vec::new();
        KeyHasher::new(columns.to_vec()).hash(&input.view(), 2..4, &mut last);
        assert_eq!(hashes[2..], last);
        hashes
    };
    assert_eq!(hashes(&[1]), GOLDEN_TEXT);
    assert_eq!(hashes(&[3])[0], GOLDEN_WORD);
    assert_eq!(hashes(&[1, 3])[1], GOLDEN_PAIR);
    assert_eq!(hashes(&[])[0], GOLDEN_NONE);
}

const GOLDEN_TEXT: [u64; 4] =
    [0x7b77_781a_6ef7_6389, 0xb0d3_2845_4240_7518, 0x31d5_0879_4d16_57bd, 0x8cab_4404_a52f_889b];
const GOLDEN_WORD: u64 = 0x6326_fc5f_8633_9bcc;
const GOLDEN_PAIR: u64 = 0xb8a8_79de_687a_25a3;
const GOLDEN_NONE: u64 = 0x189e_9182_124b_c8c0;

#[test]
fn keys_spread_evenly_over_groups() {
    let schema = Arc::new(Schema::new(vec![Field::new("key", DataType::UInt32)]).unwrap());
    let mut input = batch(schema, 102_400);
    for key in 0..102_400u32 {
        input.writer().push(0, key);
        input.writer().finish_row();
    }
    let mut hashes = Vec::new();
    KeyHasher::new(vec![0]).hash(&input.view(), 0..102_400, &mut hashes);
    let mut groups = [0u32; 1024];
    hashes.iter().for_each(|hash| groups[(hash % 1024) as usize] += 1);
    // 100 are expected in each, with a standard deviation of 10.
    assert!(groups.iter().all(|count| (40..170).contains(count)), "{:?}", groups.iter().max());
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 102_400);
}

#[test]
fn arrival_time_is_the_time_of_a_push() {
    let schema = input_schema();
    let spec = spec(&["name"], TEN, &["count()"]);
    let mut operator = WindowOperator::new(&spec, schema.clone(), TimeColumn::Arrival, 1 << 20).unwrap();
    let (mut input, mut late) = (batch(schema.clone(), 1), batch(schema.clone(), 1));
    push_row(input.writer(), &row("a", 0, 0.0));
    for now in [1_000, 1_009, 1_010] {
        operator.push(&input.view(), 0..1, RowTime::Fixed(now * MS + 1), 0, late.writer()).unwrap();
    }
    operator.advance(1_015 * MS, 3);
    let mut out = batch(Arc::new(output_schema(&spec, &schema, None).unwrap()), 4);
    let emitted = operator.emit(out.writer());
    assert_eq!((emitted.rows, emitted.ingest_ns), (1, 3));
    assert_eq!(read_rows(&out.view()), [vec![text("a"), int(1_000), int(1_010), int(2)]]);
}
