//! Coarser rows against what the finer ones say.

use ringmill_state::RollUpLevel;
use ringmill_wire::Field;

use super::*;

const SECOND: i64 = 1_000_000_000;

/// The columns of the tests; `count()` is column 3, `count(x)` of the nullable ones column 4.
fn shape() -> RollUp {
    let nullable = |name: &str, data_type| Field { name: name.into(), data_type, nullable: true };
    let time = DataType::Timestamp(TimeUnit::Millisecond);
    let schema = Schema::new(vec![
        Field::new("key \"1\"", DataType::Utf8),
        Field::new("window_start", time),
        Field::new("window_end", time),
        Field::new("rows", DataType::UInt64),
        Field::new("present", DataType::UInt64),
        nullable("sum_int", DataType::Int64),
        nullable("sum_float", DataType::Float64),
        Field::new("least", DataType::Float32),
        nullable("latest", time),
        Field::new("mean", DataType::Float64),
        Field::new("variance", DataType::Float64),
        Field::new("stddev", DataType::Float64),
    ]);
    let columns = vec![
        Merged::Key,
        Merged::Start,
        Merged::End,
        Merged::Integers { is_unsigned: true },
        Merged::Integers { is_unsigned: true },
        Merged::Integers { is_unsigned: false },
        Merged::Floats { count: Some(4) },
        Merged::Extreme { is_max: false, count: None, values: Values::Floats },
        Merged::Extreme { is_max: true, count: None, values: Values::Times },
        Merged::Mean { count: 3 },
        Merged::Spread { count: 3, mean: 9, is_root: false },
        Merged::Spread { count: 3, mean: 9, is_root: true },
    ];
    roll_up(&RollUpPlan { levels: vec![RollUpLevel { after_ns: 1, size_ns: 1 }], columns }, &schema.unwrap())
}

fn row(values: &str) -> String {
    let names = "rows present sum_int sum_float least latest mean variance stddev".split(' ');
    let members: Vec<String> =
        names.zip(values.split(' ')).map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let bounds = "\"window_start\":\"1970-01-01T00:00:10.000Z\",\"window_end\":\"1970-01-01T00:00:20.000Z\"";
    format!("{{\"key \\\"1\\\"\":\"a\",{bounds},{}}}", members.join(","))
}

fn merged(rows: &[&str]) -> Option<String> {
    let mut merge = (shape().merge)();
    if !rows.iter().all(|values| merge.add(row(values).as_bytes())) {
        return None;
    }
    let made = merge.finish(10 * SECOND, 20 * SECOND)?;
    Some(String::from_utf8(made).unwrap())
}

#[test]
fn every_column_is_what_a_longer_window_would_say() {
    // The values 1, 2, 3 | 7, 9 | 4.
    let rows = [
        "3 2 5 0.5 1.0 \"1970-01-01T00:00:11.500Z\" 2.0 1.0 1.0",
        "2 0 null null 7.0 null 8.0 2.0 1.4142135623730951",
        "1 1 -7 0.25 4.0 \"1970-01-01T00:00:11.250Z\" 4.0 null null",
    ];
    let values: [f64; 6] = [1.0, 2.0, 3.0, 7.0, 9.0, 4.0];
    let mean = values.iter().sum::<f64>() / 6.0;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 5.0;
    let made: serde_json::Value = serde_json::from_str(&merged(&rows).unwrap()).unwrap();
    for (name, wanted) in [("mean", mean), ("variance", variance), ("stddev", variance.sqrt())] {
        let found = made[name].as_f64().unwrap();
        assert!((found - wanted).abs() < 1e-12, "{name}: {found} instead of {wanted}");
    }
    let text = merged(&rows).unwrap();
    let exact = row("6 3 -2 0.75 1.0 \"1970-01-01T00:00:11.500Z\"");
    assert!(text.starts_with(exact.strip_suffix('}').unwrap()), "{text}");
    // One row alone is the same with other bounds.
    assert_eq!(merged(&rows[2..]), Some(row(rows[2])));
}

#[test]
fn what_is_not_finite_stays_so_and_what_is_absent_adds_nothing() {
    let absent = "2 0 null null 7.0 null 8.0 2.0 1.4142135623730951";
    assert_eq!(merged(&[absent, absent]).map(|row| row.contains("\"sum_float\":null")), Some(true));
    // A sum, a minimum, a mean and a variance of which JSON says nothing, although there were values.
    let not_finite = merged(&[absent, "2 1 1 null null null null null null", absent]).unwrap();
    assert_eq!(not_finite, row("6 1 1 null null null null null null"));
    let clamped = merged(&[
        "1 1 9223372036854775807 1e308 1.0 null 1.0 null null",
        "1 1 9223372036854775807 1e308 1.0 null 1.0 null null",
    ]);
    assert_eq!(clamped, Some(row("2 2 9223372036854775807 null 1.0 null 1.0 0.0 0.0")));
}

#[test]
fn nonsense_is_no_row() {
    for values in
        ["1 1 x 1.0 1.0 null 1.0 null null", "1 1 1 \"1\" 1.0 null 1.0 null null", "1 1 1 1.0 1.0 5 1.0 null null"]
    {
        assert_eq!(merged(&[values]), None, "{values}");
    }
    let mut merge = (shape().merge)();
    for row in [&b""[..], b"[]", b"{}", b"{\"rows\":1}", b"\xff"] {
        assert!(!merge.add(row));
    }
}
