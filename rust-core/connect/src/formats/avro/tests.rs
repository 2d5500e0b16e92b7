//! Messages that `apache-avro` has written, and messages that nobody should write.

use apache_avro::{Decimal, schema::Schema, types::Value, writer::datum::GenericDatumWriter};
use proptest::prelude::*;

use super::{AvroSchema, AvroSpec};
use crate::{
    ConnectError,
    formats::{BinaryDecoder, BinaryFormat},
    testing::{Letter, fields, messages},
};

fn spec(schema: &str) -> AvroSpec {
    AvroSpec::Datum(AvroSchema::parse(schema).unwrap())
}

pub(super) fn record(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "Reading", "namespace": "plant", "fields": [{fields}]}}"#)
}

fn one(r#type: &str) -> String {
    record(&format!(r#"{{"name": "a", "type": {type}}}"#))
}

pub(super) fn written(schema: &str, value: Value) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap()
}

pub(super) fn object(fields: Vec<(&str, Value)>) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The rows of these messages, each with what the broker says of it, as NDJSON, and the dead letters.
fn decode_with(
    spec: &AvroSpec,
    columns: &[&str],
    members: &[&str],
    messages: &[messages::Message<'_>],
) -> Result<(String, Vec<Letter>), ConnectError> {
    let fields = fields(columns);
    let format = BinaryFormat::Avro(Box::new(spec.clone()));
    messages::decode(BinaryDecoder::new(&format, &fields.clone().into(), members, 1 << 12)?, &fields, messages)
}

fn decode(spec: &AvroSpec, columns: &[&str], messages: &[Vec<u8>]) -> (String, Vec<Letter>) {
    let messages: Vec<(&[u8], &[u8])> = messages.iter().map(|message| (&b""[..], &message[..])).collect();
    decode_with(spec, columns, &[], &messages).unwrap_or_else(|error| panic!("{error}"))
}

fn reason(schema: &str, columns: &[&str], message: &[u8]) -> String {
    let (rows, letters) = decode(&spec(schema), columns, &[message.to_vec()]);
    assert_eq!(rows, "");
    assert_eq!(letters[0].record, message, "its bytes are kept");
    letters[0].reason.clone()
}

#[test]
fn a_value_comes_into_every_column_that_can_hold_it() {
    let fixed = |name: &str, size: usize, logical: &str| {
        format!(r#"{{"type": "fixed", "name": "{name}", "size": {size}, "logicalType": "{logical}"}}"#)
    };
    let logical = |r#type: &str, name: &str| format!(r#"{{"type": "{type}", "logicalType": "{name}"}}"#);
    let plain = |name: &str| format!("{name:?}");
    let uuid: apache_avro::Uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
    let decimal = r#"{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}"#.to_owned();
    let fixed_decimal =
        r#"{"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 2}"#.to_owned();
    let suit = r#"{"type": "enum", "name": "Suit", "symbols": ["CLUBS", "HEARTS"]}"#.to_owned();
    let numbers = r#"{"type": "array", "items": "int"}"#.to_owned();
    let times = r#"{"type": "array", "items": {"type": "long", "logicalType": "timestamp-millis"}}"#.to_owned();
    let list = || Value::Array(vec![Value::Int(1), Value::Int(-2)]);
    let cases: Vec<(String, Value, &str, &str)> = vec![
        (plain("boolean"), Value::Boolean(true), "bool", "true"),
        (plain("int"), Value::Int(-7), "int32", "-7"),
        (plain("int"), Value::Int(i32::MIN), "int64", "-2147483648"),
        (plain("int"), Value::Int(7), "float32", "7.0"),
        (plain("int"), Value::Int(7), "float64", "7.0"),
        (plain("long"), Value::Long(i64::MIN), "int64", "-9223372036854775808"),
        (plain("long"), Value::Long(5), "float32", "5.0"),
        (plain("long"), Value::Long(5), "float64", "5.0"),
        (plain("float"), Value::Float(0.5), "float32", "0.5"),
        (plain("float"), Value::Float(0.5), "float64", "0.5"),
        (plain("double"), Value::Double(0.1), "float64", "0.1"),
        (plain("string"), Value::String("ä\n".into()), "utf8", r#""ä\n""#),
        (plain("string"), Value::String("ab".into()), "binary", r#""YWI=""#),
        (plain("bytes"), Value::Bytes(b"ab".to_vec()), "binary", r#""YWI=""#),
        (plain("bytes"), Value::Bytes(b"ab".to_vec()), "utf8", r#""ab""#),
        (fixed("F", 3, ""), Value::Fixed(3, b"abc".to_vec()), "binary", r#""YWJj""#),
        (suit, Value::Enum(1, "HEARTS".into()), "utf8", r#""HEARTS""#),
        (logical("string", "uuid"), Value::Uuid(uuid), "utf8", r#""67e55044-10b1-426f-9247-bb680e5fe0c8""#),
        (fixed("U", 16, "uuid"), Value::Uuid(uuid), "utf8", r#""67e55044-10b1-426f-9247-bb680e5fe0c8""#),
        (logical("int", "date"), Value::Date(1), "int32", "1"),
        (logical("int", "date"), Value::Date(1), "timestamp[s]", r#""1970-01-02T00:00:00Z""#),
        (logical("int", "time-millis"), Value::TimeMillis(5), "int32", "5"),
        (logical("long", "time-micros"), Value::TimeMicros(5), "int64", "5"),
        (plain("long"), Value::Long(5), "timestamp[s]", r#""1970-01-01T00:00:05Z""#),
        (
            logical("long", "timestamp-millis"),
            Value::TimestampMillis(1_500),
            "timestamp[ms]",
            r#""1970-01-01T00:00:01.500Z""#,
        ),
        (
            logical("long", "timestamp-millis"),
            Value::TimestampMillis(-1),
            "timestamp[us]",
            r#""1969-12-31T23:59:59.999000Z""#,
        ),
        (logical("long", "timestamp-millis"), Value::TimestampMillis(7), "int64", "7"),
        (
            logical("long", "timestamp-micros"),
            Value::TimestampMicros(1),
            "timestamp[us]",
            r#""1970-01-01T00:00:00.000001Z""#,
        ),
        (
            logical("long", "timestamp-nanos"),
            Value::TimestampNanos(1),
            "timestamp[ns]",
            r#""1970-01-01T00:00:00.000000001Z""#,
        ),
        (
            logical("long", "local-timestamp-micros"),
            Value::LocalTimestampMicros(1),
            "timestamp[ns]",
            r#""1970-01-01T00:00:00.000001000Z""#,
        ),
        (decimal.clone(), Value::Decimal(Decimal::from([0xfb, 0x2e])), "utf8", r#""-12.34""#),
        (decimal, Value::Decimal(Decimal::from([0xfb, 0x2e])), "float64", "-12.34"),
        (fixed_decimal, Value::Decimal(Decimal::from([0x04, 0xd2])), "utf8", r#""12.34""#),
        (numbers.clone(), list(), "list[int32]", "[1,-2]"),
        (numbers.clone(), list(), "list[int64]", "[1,-2]"),
        (numbers.clone(), list(), "list[float32]", "[1.0,-2.0]"),
        (numbers.clone(), list(), "list[float64]", "[1.0,-2.0]"),
        (numbers, Value::Array(Vec::new()), "list[float64]", "[]"),
        (
            times,
            Value::Array(vec![Value::TimestampMillis(7)]),
            "list[timestamp[us]]",
            "[\"1970-01-01T00:00:00.007000Z\"]",
        ),
    ];
    for (r#type, value, column, expected) in cases {
        let schema = one(&r#type);
        let message = written(&schema, object(vec![("a", value)]));
        let (rows, letters) = decode(&spec(&schema), &[&format!("a:{column}")], &[message]);
        assert_eq!((rows, letters), (format!("{{\"a\":{expected}}}\n"), vec![]), "{type} as {column}");
    }
}

const NESTED: &str = r#"
    {"name": "before", "type": {"type": "map", "values": {"type": "array", "items": "string"}}},
    {"name": "meta", "type": ["null", {"type": "record", "name": "Meta", "fields": [
        {"name": "weight", "type": "double"},
        {"name": "site", "type": ["string", "null"]},
        {"name": "inner", "type": {"type": "record", "name": "Inner", "fields": [
            {"name": "level", "type": ["null", "int", "long"]}]}},
        {"name": "again", "type": ["null", "Inner"]}]}]},
    {"name": "tree", "type": ["null", {"type": "record", "name": "Tree", "fields": [
        {"name": "left", "type": ["null", "Tree"]}, {"name": "right", "type": ["null", "plant.Tree"]}]}]},
    {"name": "last", "type": "long"}"#;

fn union(index: u32, value: Value) -> Value {
    Value::Union(index, Box::new(value))
}

fn inner(level: Value) -> Value {
    object(vec![("level", level)])
}

fn nested(meta: Value) -> Vec<u8> {
    let leaf = || union(1, object(vec![("left", union(0, Value::Null)), ("right", union(0, Value::Null))]));
    let tree = union(1, object(vec![("left", leaf()), ("right", union(0, Value::Null))]));
    let before = [("k".to_owned(), Value::Array(vec![Value::String("x".into()), Value::String(String::new())]))];
    let before = Value::Map(before.into_iter().collect());
    let fields = vec![("before", before), ("meta", meta), ("tree", tree), ("last", Value::Long(9))];
    written(&record(NESTED), object(fields))
}

#[test]
fn fields_are_found_in_records_within_records_and_the_rest_is_passed_over() {
    let meta = |site: Value, level: Value, again: Value| {
        union(
            1,
            object(vec![("weight", Value::Double(0.5)), ("site", site), ("inner", inner(level)), ("again", again)]),
        )
    };
    let messages = [
        nested(union(0, Value::Null)),
        nested(meta(union(0, Value::String("north".into())), union(1, Value::Int(3)), union(0, Value::Null))),
        nested(meta(union(1, Value::Null), union(2, Value::Long(1 << 40)), union(1, inner(union(0, Value::Null))))),
    ];
    let columns = [
        "last:int64",
        "site:utf8?@/meta/site",
        "level:int64?@/meta/inner/level",
        "again:float64?@/meta/again/level",
        "gone:utf8?@/meta/gone/deeper",
        "other:list[int8]?",
    ];
    let (rows, letters) = decode(&spec(&record(NESTED)), &columns, &messages);
    assert_eq!(letters, []);
    let expected = [
        r#"{"last":9,"site":null,"level":null,"again":null,"gone":null,"other":null}"#,
        r#"{"last":9,"site":"north","level":3,"again":null,"gone":null,"other":null}"#,
        r#"{"last":9,"site":null,"level":1099511627776,"again":null,"gone":null,"other":null}"#,
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_null_without_a_nullable_column_is_a_dead_letter() {
    let schema = one(r#"["null", "int"]"#);
    let message = written(&schema, object(vec![("a", union(0, Value::Null))]));
    assert_eq!(reason(&schema, &["a:int64"], &message), "field \"a\" is null");
}

#[test]
fn what_does_not_fit_is_said_before_a_message_is_read() {
    let misfits = |schema: &str, columns: &[&str]| {
        let told = spec(schema).misfits(&fields(columns), &[]);
        told.iter()
            .map(|misfit| format!("{misfit} ({})", misfit.hint.as_deref().unwrap_or("-")))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let cases: Vec<(String, &str, &str)> = vec![
        (one("\"long\""), "a:int32", "it is int32, and the schema has long (declare a = \"int64\")"),
        (one("\"int\""), "a:int8", "it is int8, and the schema has int (declare a = \"int32\")"),
        (one("\"int\""), "a:uint64", "it is uint64, and the schema has int (declare a = \"int32\")"),
        (one("\"double\""), "a:float32", "it is float32, and the schema has double (declare a = \"float64\")"),
        (one("\"double\""), "a:int64", "it is int64, and the schema has double (declare a = \"float64\")"),
        (one("\"string\""), "a:int64", "it is int64, and the schema has string (declare a = \"utf8\")"),
        (
            one("[\"null\", \"int\", \"string\"]"),
            "a:int64?",
            "it is int64, and the schema has string (declare a = \"utf8\")",
        ),
        (
            one(r#"{"type": "long", "logicalType": "timestamp-micros"}"#),
            "a:timestamp[ms]",
            "it is timestamp[ms], and the schema has timestamp-micros (declare a = \"timestamp[us]\")",
        ),
        (one(r#"{"type": "map", "values": "int"}"#), "a:utf8", "it is utf8, and the schema has a map of int (-)"),
        (
            one(r#"{"type": "array", "items": "double"}"#),
            "a:list[int64]",
            "it is list[int64], and the schema has an array of double (declare a = \"list[float64]\")",
        ),
        (
            one(r#"{"type": "array", "items": ["null", "int"]}"#),
            "a:list[int64]",
            "it is list[int64], and the schema has an array of a union (-)",
        ),
        (
            one(r#"{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}"#),
            "a:int64",
            "it is int64, and the schema has the record R (a = { type = …, path = \"/…/x\" } is a field of the record)",
        ),
        (one("\"int\""), "a:int64@/a/b", "its path leads into int, which has no fields (-)"),
        (one("\"int\""), "a:int64@/b", "the schema has no field \"b\" (it has a; a nullable field may be missing)"),
        ("\"int\"".to_owned(), "a:int64", "the schema is int, not a record (-)"),
        ("[]".to_owned(), "a:int64", "the schema is a union, not a record (-)"),
    ];
    for (schema, column, expected) in cases {
        assert_eq!(misfits(&schema, &[column]), format!("field \"a\": {expected}"), "{column}");
    }
    assert_eq!(misfits(&one("\"int\""), &["a:int32", "b:utf8?"]), "");
    let refused = decode_with(&spec(&one("\"long\"")), &["a:int32"], &[], &[]).unwrap_err().to_string();
    assert_eq!(refused, "the schema does not fit the fields: field \"a\": it is int32, and the schema has long");
    for text in ["", "{", r#"{"type": "recrd"}"#, r#"{"type": "record", "name": "R", "fields": 3}"#] {
        assert!(AvroSchema::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_message_that_is_cut_or_goes_on_is_a_dead_letter() {
    let whole = nested(union(0, Value::Null));
    let columns = ["last:int64", "site:utf8?@/meta/site"];
    for length in 1..whole.len() {
        let reason = reason(&record(NESTED), &columns, &whole[..length]);
        assert!(reason.starts_with("not valid Avro of this schema at byte "), "{reason}");
    }
    let longer = [&whole[..], b"xy"].concat();
    let expected = format!("2 bytes follow the datum at byte {}", whole.len());
    assert_eq!(reason(&record(NESTED), &columns, &longer), expected);
    assert_eq!(
        reason(&one("\"string\""), &["a:utf8"], b"\x02\xff"),
        "field \"a\": expected utf8, got \u{fffd} (not valid UTF-8)"
    );
    let long = vec![b'x'; (1 << 12) + 1];
    let (_, letters) = decode(&spec(&one("\"string\"")), &["a:utf8"], &[long]);
    assert_eq!(letters[0].reason, "the record is longer than record_bytes_max (4096 bytes)");
    assert_eq!(letters[0].record.len(), 1 << 12);
}

#[test]
fn lengths_that_nobody_can_have_cost_nothing() {
    let huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let least = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let ends = "it ends within a value";
    assert!(reason(&one("\"string\""), &["a:utf8"], huge).ends_with(ends));
    assert!(reason(&one("\"bytes\""), &["b:utf8?"], huge).ends_with(ends));
    let array = |items: &str| one(&format!(r#"{{"type": "array", "items": {items}}}"#));
    for columns in [["a:list[int64]"], ["b:utf8?"]] {
        assert!(reason(&array("\"long\""), &columns, huge).ends_with(ends));
        assert!(reason(&array("\"long\""), &columns, &[&least[..], b"\x02"].concat()).ends_with(ends));
    }
    // 2^63 nulls have no bytes.
    let (rows, letters) = decode(&spec(&array("\"null\"")), &["b:utf8?"], &[[&huge[..], b"\x00"].concat()]);
    assert_eq!((rows.as_str(), letters), ("{\"b\":null}\n", vec![]));
    let list = record(r#"{"name": "next", "type": ["null", "Reading"]}"#);
    assert!(reason(&list, &["b:utf8?"], &[2; 4_000]).ends_with("values lie too deep in each other"));
    let (_, letters) = decode(&spec(&list), &["b:utf8?"], &[[&[2; 100][..], b"\x00"].concat()]);
    assert_eq!(letters, [], "a list of some length is one");
}

#[test]
fn types_without_bytes_cost_nothing_however_many_there_are() {
    let mut inner = r#"{"type": "record", "name": "R0", "fields": [{"name": "a", "type": "null"}]}"#.to_owned();
    for level in 1..35 {
        let before = level - 1;
        inner = format!(
            r#"{{"type": "record", "name": "R{level}", "fields": [{{"name": "a", "type": {inner}}}, {{"name": "b", "type": "R{before}"}}]}}"#
        );
    }
    let schema = record(&format!(r#"{{"name": "rest", "type": {inner}}}, {{"name": "a", "type": "long"}}"#));
    let (rows, letters) = decode(&spec(&schema), &["a:int64"], &[vec![14]]);
    assert_eq!((&rows[..], letters.len()), ("{\"a\":7}\n", 0));
}

#[test]
fn fields_without_bytes_cost_no_row_anything() {
    let nothing = r#"{"type": "fixed", "name": "F", "size": 0}"#;
    let mut named = format!(
        r#"{{"name": "f0", "type": {{"type": "record", "name": "R0", "fields": [{{"name": "a", "type": {nothing}}}]}}}}"#
    );
    for level in 1..80 {
        let before = level - 1;
        named += &format!(
            r#", {{"name": "f{level}", "type": {{"type": "record", "name": "R{level}", "fields": [
                {{"name": "a", "type": "R{before}"}}, {{"name": "b", "type": "R{before}"}}]}}}}"#
        );
    }
    let nulls: String = (0..20_000).map(|field| format!(r#", {{"name": "n{field}", "type": "null"}}"#)).collect();
    let schema = AvroSchema::parse(&record(&(named + &nulls))).unwrap();
    let mut rows = super::AvroRows::new(&schema, None, &fields(&["a:int64?"])).unwrap();
    // With a step for each of them the rows would take minutes, and the records more than a life.
    (0..5_000_000).for_each(|_| rows.pass(&mut crate::formats::Bytes::new(b"")).unwrap());
}

#[test]
fn a_short_schema_that_stands_for_a_long_one_is_refused() {
    let misfits = |records: usize, column: &str| {
        let inner: String = (0..70).map(|field| format!(r#", {{"name": "n{field}", "type": "int"}}"#)).collect();
        let first = format!(r#"{{"type": "record", "name": "X", "fields": [{{"name": "b", "type": "long"}}{inner}]}}"#);
        let outer = |index: usize| {
            let inner = if index == 0 { first.as_str() } else { "\"X\"" };
            format!(r#"{{"type": "record", "name": "A{index}", "fields": [{{"name": "a", "type": {inner}}}]}}"#)
        };
        let schema = format!("[{}]", (0..records).map(outer).collect::<Vec<_>>().join(", "));
        AvroSpec::Datum(AvroSchema::parse(&schema).unwrap()).misfits(&fields(&[column]), &[])
    };
    assert_eq!(misfits(10, "b:int64@/a/b"), []);
    let refused = misfits(70, "b:int64@/a/b");
    assert!(refused.iter().all(|misfit| misfit.to_string().contains("too many fields")), "{refused:?}");
    assert!(!refused.is_empty() && misfits(300, "c:int64").len() == 100);
}

#[test]
fn types_too_deep_in_each_other_are_refused() {
    let mut others = vec![r#"{"type": "record", "name": "D0", "fields": [{"name": "a", "type": "long"}]}"#.to_owned()];
    for level in 1..300 {
        let before = level - 1;
        others.push(format!(
            r#"{{"type": "record", "name": "D{level}", "fields": [{{"name": "a", "type": "D{before}"}}]}}"#
        ));
    }
    let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "deep", "type": "D299"}]}"#;
    let schema = AvroSchema::parse_with(schema, &others).unwrap();
    let misfits = AvroSpec::Datum(schema).misfits(&fields(&["a:int64?"]), &[]);
    assert!(misfits.iter().any(|misfit| misfit.to_string().contains("more than 256 deep")), "{misfits:?}");
}

#[test]
fn single_objects_are_known_by_the_fingerprint_of_their_schema() {
    // Schema and fingerprint are those of the specification's test suite.
    let schema = AvroSchema::parse(r#""int""#).unwrap();
    assert_eq!(u64::from_le_bytes(schema.fingerprint()), 0x7275_d51a_3f39_5c8f);
    let schema = AvroSchema::parse(&one("\"int\"")).unwrap();
    let fingerprint = schema.fingerprint();
    let spec = AvroSpec::SingleObject(schema);
    let message = [&b"\xc3\x01"[..], &fingerprint, b"\x0e"].concat();
    let other = [&b"\xc3\x01"[..], &[1, 2, 3, 4, 5, 6, 7, 8], b"\x0e"].concat();
    let cut = message[..5].to_vec();
    let ended = message[..10].to_vec();
    let (rows, letters) = decode(&spec, &["a:int32"], &[message, other, b"\x0e".to_vec(), cut, ended]);
    assert_eq!(rows, "{\"a\":7}\n");
    let known: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    let foreign = "it is not in Avro's single-object encoding, which begins with C3 01";
    let expected = [
        &format!("its schema has the fingerprint 0102030405060708, and the one that is known {known}"),
        foreign,
        foreign,
        "not valid Avro of this schema at byte 10: it ends within a value",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn what_stands_beside_a_message_comes_into_its_fields() {
    let spec = spec(&one("\"int\""));
    let columns = ["key:binary?", "a:int32", "at:timestamp[ms]?", "topic:utf8"];
    let members = ["key", "at", "topic"];
    let messages: [(&[u8], &[u8]); 3] = [
        (br#"{"topic":"t","key":"/wA=","at":7}"#, b"\x0e"),
        (br#"{"topic":"t","key":null,"at":null}"#, b"\x10"),
        (br#"{"topic":null}"#, b"\x10"),
    ];
    let (rows, letters) = decode_with(&spec, &columns, &members, &messages).unwrap();
    let expected = [
        r#"{"key":"/wA=","a":7,"at":"1970-01-01T00:00:00.007Z","topic":"t"}"#,
        r#"{"key":null,"a":8,"at":null,"topic":"t"}"#,
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
    assert_eq!(letters[0].reason, "field \"topic\" is null");
    assert_eq!(letters[0].record, b"\x10");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_bytes_come_a_message_is_a_row_or_a_dead_letter(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..200),
            // Mostly small numbers: branches and lengths that exist.
            proptest::collection::vec(prop_oneof![8 => 0_u8..6, 1 => any::<u8>()], 1..200),
        ],
        cut in any::<proptest::sample::Index>(),
        change in any::<u8>(),
    ) {
        let columns = ["last:int64", "site:utf8?@/meta/site", "level:float64?@/meta/inner/level"];
        let spec = spec(&record(NESTED));
        let (rows, letters) = decode(&spec, &columns, std::slice::from_ref(&bytes));
        prop_assert_eq!(rows.lines().count() + letters.len(), 1);
        let mut changed = nested(union(1, object(vec![
            ("weight", Value::Double(0.5)),
            ("site", union(0, Value::String("north".into()))),
            ("inner", inner(union(1, Value::Int(3)))),
            ("again", union(0, Value::Null)),
        ])));
        let at = cut.index(changed.len());
        changed[at] = change;
        let (rows, letters) = decode(&spec, &columns, &[changed]);
        prop_assert_eq!(rows.lines().count() + letters.len(), 1);
    }

    #[test]
    fn numbers_and_texts_are_those_that_were_written(
        numbers in proptest::collection::vec(any::<i64>(), 0..50),
        text in any::<String>(),
        eighths in any::<i32>(),
    ) {
        let schema = record(r#"
            {"name": "numbers", "type": {"type": "array", "items": "long"}},
            {"name": "text", "type": "string"}, {"name": "double", "type": "double"}"#);
        let double = f64::from(eighths) / 8.0;
        let items = numbers.iter().map(|number| Value::Long(*number)).collect();
        let value = object(vec![
            ("numbers", Value::Array(items)), ("text", Value::String(text.clone())), ("double", Value::Double(double)),
        ]);
        let message = written(&schema, value);
        let columns = ["numbers:list[int64]", "text:utf8", "double:float64"];
        let (rows, letters) = decode(&spec(&schema), &columns, &[message]);
        prop_assert_eq!(letters, vec![]);
        let row: serde_json::Value = serde_json::from_str(&rows).unwrap();
        prop_assert_eq!(row, serde_json::json!({ "numbers": numbers, "text": text, "double": double }));
    }
}
