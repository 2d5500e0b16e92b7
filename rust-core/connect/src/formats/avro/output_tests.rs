//! Rows as datums: read back as they were, and refused where they do not fit.

use proptest::prelude::*;
use serde_json::Value;

use super::{AvroOutput, AvroSchema, AvroSpec};
use crate::{
    formats::{BinaryFormat, MessageOutput},
    schema_of,
    testing::{
        self, fields,
        messages::{columns, read_back, written},
        random_row,
    },
};

/// Fields for all of [`columns`]; Avro has no numbers without a sign, and no seconds.
const EVERYTHING: &str = r#"{"type":"record","name":"Row","fields":[
    {"name":"list","type":["null",{"type":"array","items":"float"}]},
    {"name":"bool","type":["null","boolean"]},{"name":"int8","type":["null","int"]},
    {"name":"int16","type":["null","int"]},{"name":"int32","type":["null","int"]},
    {"name":"int64","type":["null","long"]},{"name":"uint8","type":["int","null"]},
    {"name":"uint16","type":["int","null"]},{"name":"uint32","type":["long","null"]},
    {"name":"uint64","type":["long","null"]},{"name":"float32","type":["null","float"]},
    {"name":"float64","type":["null","double"]},{"name":"textquoted","type":["null","string"]},
    {"name":"binary","type":["null","bytes"]},{"name":"nothing","type":["string","null"]},
    {"name":"seconds","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},
    {"name":"nanoseconds","type":["null",{"type":"long","logicalType":"timestamp-nanos"}]}]}"#;

fn spec(schema: &str) -> AvroSpec {
    AvroSpec::Datum(AvroSchema::parse(schema).unwrap())
}

fn output(spec: AvroSpec) -> MessageOutput {
    MessageOutput::Avro(Box::new(AvroOutput::new(spec, "rows-value".to_owned())))
}

proptest! {
    #[test]
    fn every_row_is_read_back_as_it_was(rows in proptest::collection::vec(random_row(), 1..20)) {
        let columns = columns();
        let (mut expected, datums) = written(&output(spec(EVERYTHING)), &columns, &rows, "uint64");
        // Avro has made them wider, and instants finer.
        let mut read_as = columns.clone();
        for field in &mut read_as {
            let wider = match field.name.as_str() {
                "int8" | "int16" | "uint8" | "uint16" => "int32",
                "uint32" | "uint64" => "int64",
                "seconds" => "timestamp[us]",
                _ => continue,
            };
            field.data_type = wider.parse().unwrap();
        }
        for row in &mut expected {
            if let Some(text) = row["seconds"].as_str() {
                row["seconds"] = Value::from(text.replace('Z', ".000000Z"));
            }
        }
        let format = BinaryFormat::Avro(Box::new(spec(EVERYTHING)));
        prop_assert_eq!(read_back(&format, &read_as, &datums), expected);
    }
}

#[test]
fn a_schema_that_lacks_a_column_or_wants_more_is_refused_with_what_does_not_fit() {
    let record = |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
    let cases = [
        ("\"string\"".to_owned(), "a:int8", "it is string, and rows are records"),
        (record(""), "a:int8", "field \"a\": the schema has no such field"),
        (
            record(r#"{"name":"a","type":"int"},{"name":"b","type":"string","default":""}"#),
            "a:int8",
            "field \"b\": the rows have no such column, and it cannot be null",
        ),
        (record(r#"{"name":"a","type":"int"}"#), "a:int64", "field \"a\": int64 does not become int"),
        (record(r#"{"name":"a","type":["null","float"]}"#), "a:float64", "field \"a\": float64 does not become float"),
        (record(r#"{"name":"a","type":"int"}"#), "a:int8?", "field \"a\": the column may be null, and int cannot"),
        (
            record(r#"{"name":"a","type":{"type":"long","logicalType":"timestamp-millis"}}"#),
            "a:timestamp[us]",
            "field \"a\": timestamp[us] does not become timestamp-millis",
        ),
        (
            record(r#"{"name":"a","type":{"type":"array","items":["null","int"]}}"#),
            "a:list[int32]",
            "field \"a\": list[int32] does not become an array of a union",
        ),
    ];
    for (schema, column, reason) in cases {
        let error = output(spec(&schema)).encoder(&schema_of(&fields(&[column])).unwrap(), &[]).err().unwrap();
        assert_eq!(error.to_string(), format!("the schema does not fit the fields: {reason}"));
    }
}

#[test]
fn an_instant_that_is_too_far_away_is_refused_before_it_is_written() {
    let schema = r#"{"type":"record","name":"R","fields":[
        {"name":"at","type":{"type":"long","logicalType":"timestamp-nanos"}}]}"#;
    let rows = schema_of(&fields(&["at:timestamp[s]"])).unwrap();
    let mut batch = testing::batch(&rows, 2, 1);
    for at in [i64::MAX / 1_000_000_000, i64::MAX / 1_000_000_000 + 1] {
        batch.writer().push_timestamp(0, at);
        batch.writer().finish_row();
    }
    let encoder = output(spec(schema)).encoder(&rows, &[]).unwrap();
    encoder.check(&batch.view(), 0..1).unwrap();
    let error = encoder.check(&batch.view(), 0..2).unwrap_err().to_string();
    assert!(error.contains("column \"at\" has 9223372037"), "{error}");
}

#[cfg(feature = "http")]
mod registry {
    use super::*;
    use crate::{ConnectError, formats::registry::testing::Server};

    const VERSIONS: &str = "/subjects/rows-value/versions";

    #[test]
    fn a_schema_is_made_of_the_columns_told_to_the_registry_and_named_by_its_number() {
        let server = Server::with(&[]);
        server.answer(VERSIONS, "200 OK", r#"{"id":515}"#);
        let output = output(AvroSpec::Registry(server.spec.clone(), None));
        let rows = schema_of(&fields(&["n:int64", "t:utf8?", "at:timestamp[s]"])).unwrap();
        output.prepare(&rows).unwrap();
        let mut batch = testing::batch(&rows, 1, 10);
        let out = batch.writer();
        out.push(0, -1_i64);
        out.push_bytes(1, b"a").unwrap();
        out.push_timestamp(2, 1);
        out.finish_row();
        let mut message = Vec::new();
        output.encoder(&rows, &[]).unwrap().encode(&batch.view(), 0..1, &mut message);
        assert_eq!(message, b"\x00\x00\x00\x02\x03\x01\x02\x02a\xd0\x0f");
        assert_eq!(server.asked(), [VERSIONS]);
        let schema = super::super::output::schema_of_rows(&rows).unwrap();
        let expected = r#"{"type":"record","name":"Row","fields":[{"name":"n","type":"long"},{"name":"t","type":["null","string"],"default":null},{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;
        assert_eq!(schema, expected);
    }

    #[test]
    fn a_registry_that_refuses_a_schema_or_is_none_is_named_with_its_words() {
        let rows = schema_of(&fields(&["n:int64"])).unwrap();
        let prepare =
            |server: &Server| output(AvroSpec::Registry(server.spec.clone(), None)).prepare(&rows).unwrap_err();
        let server = Server::with(&[]);
        server.answer(VERSIONS, "409 Conflict", r#"{"error_code":409,"message":"it is incompatible"}"#);
        let error = prepare(&server);
        assert!(matches!(error, ConnectError::Registry { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("the schema of rows-value: it answers 409 Conflict") && said.contains("incompatible"));
        server.answer(VERSIONS, "200 OK", "[]");
        assert!(prepare(&server).to_string().contains("is no schema"));
        let columns = schema_of(&fields(&["a b:int64"])).unwrap();
        let error = output(AvroSpec::Registry(server.spec.clone(), None)).encoder(&columns, &[]).err().unwrap();
        assert!(error.to_string().contains("field \"a b\": no field of Avro can have this name"), "{error}");
    }
}
