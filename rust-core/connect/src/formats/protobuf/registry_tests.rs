//! Real connections to a schema registry of the test's own.

use super::{ProtobufSpec, ProtobufTypes, tests};
use crate::{
    formats::{
        BinaryDecoder, BinaryFormat,
        registry::testing::{Server, decode, decode_fields, message, types},
    },
    testing::fields,
};

fn decoder(server: &Server, columns: &[&str], name: Option<&str>) -> BinaryDecoder {
    let spec = ProtobufSpec::Registry(server.spec.clone(), name.map(str::to_owned));
    BinaryDecoder::new(&BinaryFormat::Protobuf(Box::new(spec)), &fields(columns).into(), &[], 1 << 12).unwrap()
}

/// What the registry says of a schema.
fn found(schema: &str, references: &[(&str, &str, u32)]) -> String {
    let reference = |(name, subject, version): &(&str, &str, u32)| serde_json::json!({ "name": name, "subject": subject, "version": version });
    let references: Vec<_> = references.iter().map(reference).collect();
    serde_json::json!({ "schema": schema, "schemaType": "PROTOBUF", "references": references }).to_string()
}

const TEXT: &str = "syntax = \"proto3\"; package plant;
    message Reading { map<string, int32> labels = 1; int64 a = 2; message Other { bool x = 1; } message Inner { int64 a = 1; } }
    message Alarm { string a = 1; }";

#[test]
fn a_message_says_its_schema_and_which_of_its_types_it_is() {
    let server = Server::with(&[]);
    server.answer("/schemas/ids/1", "200 OK", &found(TEXT, &[]));
    let reading = ProtobufTypes::parse(&tests::compiled(TEXT)).unwrap().message("plant.Reading").unwrap();
    let datum = tests::written(reading.message(), "a: 7");
    let with = |indexes: &[u8], datum: &[u8]| message(1, &[indexes, datum].concat());
    let messages = [
        with(b"\x00", &datum),
        with(b"\x02\x00", &datum),
        // Of a map's entry there is nothing in the text.
        with(b"\x04\x00\x02", b"\x08\x05"),
        with(b"\x02\x02", b"\x0a\x01x"),
        with(b"\x02\x06", b""),
        with(b"\x04\x00\x08", b""),
        with(b"\x01", b""),
        with(b"\xfe\x01", b""),
        with(b"", b""),
        b"\x01\x00\x00\x00\x01\x00".to_vec(),
    ];
    let columns = ["a:int64"];
    let (rows, reasons) = decode(&mut decoder(&server, &columns, None), &columns, &messages, || {}).unwrap();
    assert_eq!(rows, "{\"a\":7}\n{\"a\":7}\n{\"a\":5}\n");
    let indexes = "behind the number of its schema there is no valid list of message indexes";
    let expected = [
        "schema 1 of the registry does not fit: field \"a\": it is int64, and the schema has string",
        "schema 1 of the registry has no message [3]",
        "schema 1 of the registry has no message [0, 4]",
        indexes,
        indexes,
        indexes,
        "it is not in the wire format of a schema registry, which begins with 00 and four bytes",
    ];
    assert_eq!(reasons, expected);
    let mut named = decoder(&server, &columns, Some("plant.Reading"));
    let (rows, reasons) = decode(&mut named, &columns, &messages[1..4], || {}).unwrap();
    assert_eq!(rows, "{\"a\":7}\n");
    let other = |name: &str| format!("it is plant.{name}, and only plant.Reading is read");
    assert_eq!(reasons, [other("Reading.Inner"), other("Alarm")]);
    assert_eq!(server.asked(), ["/schemas/ids/1"; 2], "each decoder asks once");
}

#[test]
fn what_a_schema_imports_is_asked_for_or_known() {
    let server = Server::with(&[]);
    let root = "syntax = \"proto3\"; import \"plant/site.proto\"; import \"google/protobuf/timestamp.proto\";
        import \"schema.proto\"; import \"_schema.proto\";
        message Reading { plant.Site site = 1; google.protobuf.Timestamp at = 2; }";
    let site = "syntax = \"proto3\"; package plant; import \"unit.proto\"; message Site { Unit unit = 1; }";
    let unit = "syntax = \"proto3\"; package plant; enum Unit { K = 0; C = 1; }";
    let references = [("plant/site.proto", "of site", 3), ("schema.proto", "unit", 2), ("_schema.proto", "unit", 3)];
    server.answer("/schemas/ids/1", "200 OK", &found(root, &references));
    server.answer("/subjects/unit/versions/2", "200 OK", &found("message X {}", &[]));
    server.answer("/subjects/unit/versions/3", "200 OK", &found("message Y {}", &[]));
    server.answer("/subjects/of%20site/versions/3", "200 OK", &found(site, &[("unit.proto", "unit", 1)]));
    server.answer("/subjects/unit/versions/1", "200 OK", &found(unit, &[]));
    let columns = ["unit:utf8@/site/unit", "at:timestamp[s]?"];
    let messages = [message(1, b"\x00\x0a\x02\x08\x01\x12\x02\x08\x05")];
    let (rows, reasons) = decode(&mut decoder(&server, &columns, None), &columns, &messages, || {}).unwrap();
    assert_eq!((rows.as_str(), reasons), ("{\"unit\":\"C\",\"at\":\"1970-01-01T00:00:05Z\"}\n", vec![]));
}

#[test]
fn a_schema_that_is_none_makes_its_messages_dead_letters() {
    let server = Server::with(&["\"int\""]);
    server.answer("/schemas/ids/2", "200 OK", &found("syntax = \"proto3\"; message", &[]));
    server.answer("/schemas/ids/3", "200 OK", &found("syntax = \"proto3\"; import \"gone.proto\";", &[]));
    let deep = format!("syntax = \"proto2\"; {}{}", "message A {".repeat(100_000), "}".repeat(100_000));
    server.answer("/schemas/ids/4", "200 OK", &found(&deep, &[]));
    let columns = ["a:int64"];
    let messages = [1, 2, 3, 4].map(|id| message(id, b"\x00"));
    let (rows, reasons) = decode(&mut decoder(&server, &columns, None), &columns, &messages, || {}).unwrap();
    assert_eq!(rows, "");
    assert_eq!(reasons[0], "schema 1 of the registry is of AVRO, not of PROTOBUF");
    assert!(reasons[1].starts_with("schema 2 of the registry cannot be read: "), "{}", reasons[1]);
    assert!(reasons[2].contains("gone.proto"), "{}", reasons[2]);
    let expected = "schema 4 of the registry cannot be read: its parts lie more than 200 deep in each other";
    assert_eq!(reasons[3], expected);
}

#[test]
fn a_schema_that_would_take_stack_memory_or_time_makes_its_messages_dead_letters() {
    let server = Server::with(&[]);
    let hidden = format!("syntax = \"proto2\"; {}", "message A {/*}*/".repeat(100_000));
    server.answer("/schemas/ids/1", "200 OK", &found(&hidden, &[]));
    let long = format!("message {} {{ {} }}", "a".repeat(500_000), "int32 a = 1; ".repeat(50_000));
    server.answer("/schemas/ids/2", "200 OK", &found(&long, &[]));
    server.answer("/schemas/ids/3", "200 OK", &found(&" ".repeat((2 << 20) + 1), &[]));
    let columns = ["a:int64"];
    let messages = [1, 2, 3].map(|id| message(id, b"\x00"));
    let (rows, reasons) = decode(&mut decoder(&server, &columns, None), &columns, &messages, || {}).unwrap();
    let expected = [
        "schema 1 of the registry cannot be read: its parts lie more than 200 deep in each other",
        "schema 2 of the registry cannot be read: the full names in it have more than 64 MiB together",
        "schema 3 of the registry cannot be read: with what it imports it is longer than 2 MiB",
    ];
    assert_eq!((rows.as_str(), reasons), ("", expected.map(str::to_owned).to_vec()));
}

#[test]
fn a_oneof_may_have_very_many_members() {
    let server = Server::with(&[]);
    let members: String = (20_001..70_000).map(|number| format!("int32 b{number} = {number}; ")).collect();
    let text = format!("syntax = \"proto3\"; message A {{ oneof o {{ int64 a = 1; {members} }} }}");
    server.answer("/schemas/ids/1", "200 OK", &found(&text, &[]));
    let columns = ["a:int64?"];
    // One that takes its place, and one of another wire type, which does not.
    let messages = [&b"\x00\x08\x05"[..], b"\x00\x08\x05\xa8\xc3\x13\x01", b"\x00\x08\x05\xad\xc3\x13\x01\x02\x03\x04"];
    let messages = messages.map(|datum| message(1, datum));
    let (rows, reasons) = decode(&mut decoder(&server, &columns, None), &columns, &messages, || {}).unwrap();
    assert_eq!((rows.as_str(), reasons), ("{\"a\":5}\n{\"a\":null}\n{\"a\":5}\n", vec![]));
}

#[test]
fn the_full_name_of_a_message_tells_its_type() {
    let server = Server::with(&[]);
    server.answer("/schemas/ids/1", "200 OK", &found(TEXT, &[]));
    let fields = types(&[("plant.Reading", &["a:int64"]), ("plant.Alarm", &["a:utf8"])]);
    let spec = ProtobufSpec::Registry(server.spec.clone(), None);
    let mut decoder = BinaryDecoder::new(&BinaryFormat::Protobuf(Box::new(spec)), &fields, &[], 1 << 12).unwrap();
    let with = |indexes: &[u8], datum: &[u8]| message(1, &[indexes, datum].concat());
    let messages = [with(b"\x02\x02", b"\x0a\x01x"), with(b"\x00", b"\x10\x07"), with(b"\x04\x00\x00", b"")];
    let (rows, reasons) = decode_fields(&mut decoder, &fields, &messages, || {}).unwrap();
    let expected = [r#"{"type":1,"int64 1":0,"utf8 2":"x"}"#, r#"{"type":0,"int64 1":7,"utf8 2":""}"#];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
    let other =
        "schema 1 of the registry is plant.Reading.Other, and no type is declared for it; there are Reading, Alarm";
    assert_eq!(reasons, [other]);
}
