//! What expressions mean, and what is said of those that mean nothing.

use std::sync::Arc;

use proptest::prelude::*;
use ringmill_engine::expression::Expression;
use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template, TimeUnit};

fn schema() -> Arc<Schema> {
    let fields = vec![
        Field::nullable("count", DataType::Int64),
        Field::new("score", DataType::Float64),
        Field::new("name", DataType::Utf8),
        Field::new("time", DataType::Timestamp(TimeUnit::Millisecond)),
        Field::new("big", DataType::UInt64),
        Field::new("hot", DataType::Bool),
        Field::new("and", DataType::Int8),
        Field::nullable("raw", DataType::Binary),
    ];
    Arc::new(Schema::new(fields).unwrap())
}

/// Five rows: count 0, 1, 2, null, 4; score 0.0, 1.5, NaN, 4.5, -6.0; name a, b, ...; one second apart.
fn batch() -> HeapBatch {
    let capacity = Capacity { rows_max: 8, variable_bytes_max: 64 };
    let mut batch = HeapBatch::new(Arc::new(Template::new(schema(), capacity).unwrap()));
    let writer = batch.writer();
    for (row, score) in [0.0, 1.5, f64::NAN, 4.5, -6.0].into_iter().enumerate() {
        if row == 3 {
            writer.push_null(0)
        } else {
            writer.push(0, row as i64)
        }
        writer.push(1, score);
        writer.push_str(2, ["a", "b", "it's", "d", "é"][row]).unwrap();
        writer.push_timestamp(3, 1_767_225_600_000 + 1000 * row as i64);
        writer.push(4, u64::MAX - row as u64);
        writer.push(5, row % 2 == 1);
        writer.push(6, row as i8);
        if row == 0 {
            writer.push_bytes(7, b"x").unwrap()
        } else {
            writer.push_null(7)
        }
        writer.finish_row();
    }
    batch
}

fn selected(text: &str) -> Vec<u32> {
    let batch = batch();
    let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut predicate = expression.bind(&schema()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut whole = Vec::new();
    predicate.select(&batch.view(), 0..5, &mut whole);
    let mut in_pieces = Vec::new();
    predicate.select(&batch.view(), 0..2, &mut in_pieces);
    predicate.select(&batch.view(), 2..5, &mut in_pieces);
    assert_eq!(whole, in_pieces, "{text}");
    whole
}

#[test]
fn rows_pass_for_which_the_expression_is_true() {
    for (text, expected) in [
        ("score > 1", &[1, 3][..]),
        ("score >= 1.5 and count >= 1", &[1]),
        ("score > 1 or count == 0", &[0, 1, 3]),
        ("not (score > 1)", &[0, 2, 4]),
        ("score != score", &[2]),
        ("count is null", &[3]),
        ("count is not null and raw is null", &[1, 2, 4]),
        ("not count > 1", &[0, 1]),
        ("count > 1 or true", &[0, 1, 2, 3, 4]),
        ("count > 1 and false", &[]),
        ("null", &[]),
        ("count == null", &[]),
        ("hot", &[1, 3]),
        ("hot == false", &[0, 2, 4]),
        ("name == 'it''s'", &[2]),
        ("name in (\"a\", \"é\")", &[0, 4]),
        ("name not in ('a')", &[1, 2, 3, 4]),
        ("count not in (1, 2)", &[0, 4]),
        ("time >= '2026-01-01T00:00:03Z'", &[3, 4]),
        ("\"2026-01-01T00:00:01Z\" > time", &[0]),
        ("big == 18446744073709551615", &[0]),
        ("big > 18446744073709549568.0 and big < 18446744073709551616.0", &[0, 1, 2, 3, 4]),
        ("big + big > 36893488147419103229", &[0]),
        ("count / 2 == 0.5", &[1]),
        ("count % 2 == 0", &[0, 2, 4]),
        ("count % 0 == 0", &[]),
        ("score / 0 > 0", &[1, 3]),
        ("abs(score) > 5", &[4]),
        ("abs(-count) == 4", &[4]),
        ("-score > 5", &[4]),
        ("2 + 2 * 3 == 8 and 10 - 4 - 3 == 3", &[0, 1, 2, 3, 4]),
        ("`and` == 3", &[3]),
        ("NOT hot OR 1_000 < 1e2", &[0, 2, 4]),
    ] {
        assert_eq!(selected(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, offset, words) in [
        ("", 0, "no condition"),
        ("score >", 7, "ends where a value should follow"),
        ("score = 4", 6, "equality is written =="),
        ("score > 4 && hot", 10, "write `and`"),
        ("scor > 4", 0, "did you mean \"score\"?"),
        ("score", 0, "expected a condition, got a number"),
        ("score > 'x'", 6, "a number cannot be compared with text"),
        ("time > 5", 5, "2026-01-01T00:00:00Z"),
        ("time > 'yesterday'", 7, "not a timestamp"),
        ("1 < count < 3", 10, "a < b and b < c"),
        ("name + 1 > 2", 0, "expected a number, got text"),
        ("raw == 'x'", 0, "binary"),
        ("sqrt(score) > 1", 0, "no function"),
        ("(score > 1", 10, "expected \")\""),
        ("score > 1)", 9, "does not belong here"),
        ("name == 'open", 8, "never closed"),
        ("score > 1.2.3", 8, "not a number"),
        ("count is 5", 9, "expected null"),
        ("hot and score", 8, "expected a condition"),
    ] {
        let error = Expression::parse(text).and_then(|expression| expression.bind(&schema()).map(|_| ())).unwrap_err();
        let said = format!("{} {}", error.message, error.hint.clone().unwrap_or_default());
        assert!(said.contains(words), "{text}: {said}");
        assert_eq!(error.offset, offset, "{text}: {said}");
    }
}

#[test]
fn length_is_bounded_by_the_stack_but_lists_are_not() {
    let chain = vec!["hot"; 100_000].join(" or ");
    assert!(Expression::parse(&chain).unwrap_err().message.contains("operators in a row"));
    let nested = (0..60).fold("hot".to_owned(), |inner, _| format!("({inner} in (true, false))"));
    assert_eq!(selected(&nested), [0, 1, 2, 3, 4], "each side is bound and evaluated once");
    let numbers: Vec<String> = (1..5_000).map(|number| number.to_string()).collect();
    assert_eq!(selected(&format!("count in ({})", numbers.join(", "))), [1, 2, 4]);
    assert_eq!(selected("count not in (1, null)"), [] as [u32; 0]);
    assert_eq!(selected("time in ('2026-01-01T00:00:01Z', null)"), [1]);
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{}hot{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(Expression::parse(&deep).unwrap_err().message.contains("nested deeper"));
    assert!(Expression::parse(&"not ".repeat(100_000)).unwrap_err().message.contains("nested deeper"));
}

proptest! {
    #[test]
    fn garbage_is_refused_or_evaluated_but_never_a_panic(
        words in proptest::collection::vec(prop_oneof![
            Just("score"), Just("count"), Just("name"), Just("time"), Just("big"), Just("hot"), Just("raw"), Just("and"),
            Just("or"), Just("not"), Just("is"), Just("in"), Just("null"), Just("("), Just(")"), Just(","), Just("+"),
            Just("-"), Just("*"), Just("/"), Just("%"), Just("<"), Just(">="), Just("=="), Just("1"), Just("2.5"),
            Just("170141183460469231731687303715884105727"), Just("'a'"), Just("abs"), Just("true"), Just("é"), Just("'"),
        ], 0..12)
    ) {
        let text = words.join(" ");
        if let Ok(mut predicate) = Expression::parse(&text).and_then(|expression| expression.bind(&schema())) {
            let mut rows = Vec::new();
            predicate.select(&batch().view(), 0..5, &mut rows);
            prop_assert!(rows.iter().all(|row| *row < 5));
        }
    }

    #[test]
    fn integers_and_floats_compare_as_in_exact_arithmetic(integer in any::<i64>(), float in any::<f64>(), near in any::<bool>()) {
        let float = if near { integer as f64 } else { float };
        let schema = Arc::new(Schema::new(vec![Field::new("i", DataType::Int64), Field::new("f", DataType::Float64)]).unwrap());
        let capacity = Capacity { rows_max: 1, variable_bytes_max: 0 };
        let mut batch = HeapBatch::new(Arc::new(Template::new(schema.clone(), capacity).unwrap()));
        batch.writer().push(0, integer);
        batch.writer().push(1, float);
        batch.writer().finish_row();
        let holds = |text: &str| {
            let mut rows = Vec::new();
            Expression::parse(text).unwrap().bind(&schema).unwrap().select(&batch.view(), 0..1, &mut rows);
            rows.len() == 1
        };
        // Beyond 2^63 the comparison is decided by the sign; within, a double is an integer and a fraction.
        let less = if float.is_nan() { false } else if float >= 9.3e18 { true } else if float <= -9.3e18 { false } else {
            let whole = float.floor() as i128;
            i128::from(integer) < whole || (i128::from(integer) == whole && float > float.floor())
        };
        prop_assert_eq!(holds("i < f"), less);
        prop_assert_eq!(holds("f > i"), less);
        prop_assert_eq!(holds("i == f"), !float.is_nan() && !less && !holds("i > f"));
    }
}
