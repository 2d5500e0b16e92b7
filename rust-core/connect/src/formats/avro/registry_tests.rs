//! Real connections to a schema registry of the test's own.

use apache_avro::types::Value;

use super::{AvroSchema, AvroSpec, tests};
use crate::{
    Secret,
    formats::{
        BinaryDecoder, BinaryFormat,
        registry::testing::{Server, decode, decode_fields, message, types},
    },
    testing::fields,
};

fn decoder(server: &Server, columns: &[&str]) -> BinaryDecoder {
    decoder_of(server, columns, None)
}

/// Of somebody with this schema.
fn decoder_of(server: &Server, columns: &[&str], reader: Option<&str>) -> BinaryDecoder {
    let reader = reader.map(|schema| AvroSchema::parse(schema).unwrap());
    let format = BinaryFormat::Avro(Box::new(AvroSpec::Registry(server.spec.clone(), reader)));
    BinaryDecoder::new(&format, &fields(columns).into(), &[], 1 << 12).unwrap()
}

#[test]
fn a_schema_may_change_as_long_as_the_columns_can_hold_its_values() {
    let schemas = [
        tests::record(r#"{"name": "a", "type": "int"}, {"name": "b", "type": ["null", "string"]}"#),
        // Wider, in another order, with a new field.
        tests::record(
            r#"{"name": "new", "type": "string", "default": ""}, {"name": "b", "type": "string"}, {"name": "a", "type": "long"}"#,
        ),
        // Without the nullable one.
        tests::record(r#"{"name": "a", "type": "long"}"#),
        tests::record(r#"{"name": "b", "type": "string"}"#),
        tests::record(r#"{"name": "a", "type": "string"}"#),
    ];
    let server = Server::with(&schemas.each_ref().map(String::as_str));
    let columns = ["a:int64", "b:utf8?"];
    let text = |text: &str| Value::String(text.to_owned());
    let values = [
        tests::object(vec![("a", Value::Int(1)), ("b", Value::Union(1, Box::new(text("x"))))]),
        tests::object(vec![("new", text("n")), ("b", text("y")), ("a", Value::Long(1 << 40))]),
        tests::object(vec![("a", Value::Long(3))]),
        tests::object(vec![("b", text("z"))]),
        tests::object(vec![("a", text("7"))]),
    ];
    let written =
        schemas.iter().zip(values).zip(1..).map(|((schema, value), id)| message(id, &tests::written(schema, value)));
    let mut messages: Vec<Vec<u8>> = written.collect();
    messages.extend_from_within(..);
    let mut decoder = decoder(&server, &columns);
    let (rows, reasons) = decode(&mut decoder, &columns, &messages, || {}).unwrap();
    let expected = ["{\"a\":1,\"b\":\"x\"}", "{\"a\":1099511627776,\"b\":\"y\"}", "{\"a\":3,\"b\":null}"];
    assert_eq!(rows.lines().collect::<Vec<_>>(), [expected, expected].concat());
    let misfits = [
        "schema 4 of the registry does not fit: field \"a\": the schema has no field \"a\"",
        "schema 5 of the registry does not fit: field \"a\": it is int64, and the schema has string",
    ];
    assert_eq!(reasons, [misfits, misfits].concat());
    let each_once: Vec<String> = (1..=5).map(|id| format!("/schemas/ids/{id}")).collect();
    assert_eq!(server.asked(), each_once, "each schema is asked for once");
}

#[test]
fn what_an_older_schema_lacks_has_the_default_or_the_former_name_that_the_reader_knows() {
    let server =
        Server::with(&[&tests::record(r#"{"name": "old", "type": "int"}, {"name": "same", "type": "Reading_"}"#)
            .replace(
                "\"Reading_\"",
                r#"{"type": "record", "name": "Same", "fields": [{"name": "x", "type": "int"}]}"#,
            )]);
    let reader = tests::record(
        r#"{"name": "a", "type": "long", "aliases": ["old"]},
           {"name": "text", "type": ["string", "null"], "default": "none"},
           {"name": "bytes", "type": "bytes", "default": "\u00ff\u0001"},
           {"name": "list", "type": {"type": "array", "items": "double"}, "default": [0.5, 1]},
           {"name": "suit", "type": {"type": "enum", "name": "Suit", "symbols": ["A", "B"]}, "default": "B"},
           {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 7},
           {"name": "nothing", "type": ["null", "int"], "default": null},
           {"name": "same", "type": {"type": "record", "name": "Same", "fields": [
               {"name": "x", "type": "int"}, {"name": "y", "type": "int", "default": 3}]}},
           {"name": "meta", "type": {"type": "record", "name": "Meta", "fields": [
               {"name": "skipped", "type": "Same"}, {"name": "site", "type": "string"}]},
            "default": {"skipped": {"x": 1, "y": 2}, "site": "north"}},
           {"name": "needed", "type": "int"}"#,
    );
    let columns = [
        "a:int64",
        "text:utf8",
        "bytes:binary",
        "list:list[float64]",
        "suit:utf8",
        "at:timestamp[us]",
        "nothing:int32?",
        "x:int32@/same/x",
        "y:int64@/same/y",
        "site:utf8@/meta/site",
    ];
    let mut decoder = decoder_of(&server, &columns, Some(&reader));
    let (rows, reasons) = decode(&mut decoder, &columns, &[message(1, b"\x02\x04")], || {}).unwrap();
    let expected = r#"{"a":1,"text":"none","bytes":"/wE=","list":[0.5,1.0],"suit":"B","at":"1970-01-01T00:00:00.007000Z","nothing":null,"x":2,"y":3,"site":"north"}"#;
    assert_eq!((rows.trim_end(), reasons), (expected, vec![]));
    let columns = ["needed:int32"];
    let mut decoder = decoder_of(&server, &columns, Some(&reader));
    let (_, reasons) = decode(&mut decoder, &columns, &[message(1, b"\x02\x04")], || {}).unwrap();
    let expected = "schema 1 of the registry does not fit: field \"needed\": the schema has no field \"needed\"";
    assert_eq!(reasons, [expected], "there is no default");
}

#[test]
fn a_message_without_a_schema_is_a_dead_letter() {
    let server = Server::with(&["{", "\"int\""]);
    server.answer("/schemas/ids/9", "200 OK", r#"{"schema":"syntax = \"proto3\";","schemaType":"PROTOBUF"}"#);
    let messages = [message(1, b"\x02"), message(2, b"\x02"), message(8, b"\x02"), message(9, b"\x02")];
    let garbage = [b"\x01\x00\x00\x00\x01\x02".to_vec(), b"\x00\x00\x00".to_vec(), b"{}".to_vec()];
    let columns = ["a:int64"];
    let (rows, reasons) =
        decode(&mut decoder(&server, &columns), &columns, &[&messages[..], &garbage].concat(), || {}).unwrap();
    assert_eq!(rows, "");
    assert!(reasons[0].starts_with("schema 1 of the registry cannot be read: "), "{}", reasons[0]);
    let foreign = "it is not in the wire format of a schema registry, which begins with 00 and four bytes";
    let expected = [
        "schema 2 of the registry does not fit: field \"a\": the schema is int, not a record",
        "the registry has nothing at /schemas/ids/8",
        "schema 9 of the registry is of PROTOBUF, not of AVRO",
        foreign,
        foreign,
        foreign,
    ];
    assert_eq!(reasons[1..], expected);
}

#[test]
fn names_of_other_schemas_are_asked_for() {
    let server = Server::with(&[]);
    let found = |schema: &str, references: &[(&str, &str, u32)]| {
        let reference = |(name, subject, version): &(&str, &str, u32)| serde_json::json!({ "name": name, "subject": subject, "version": version });
        let references: Vec<_> = references.iter().map(reference).collect();
        serde_json::json!({ "schema": schema, "references": references }).to_string()
    };
    let site = r#"{"type": "record", "name": "Site", "namespace": "plant", "fields": [{"name": "id", "type": "int"}]}"#;
    let meta = r#"{"type": "record", "name": "Meta", "namespace": "plant", "fields": [{"name": "site", "type": "plant.Site"}]}"#;
    let root = tests::record(r#"{"name": "home", "type": "plant.Site"}, {"name": "meta", "type": "plant.Meta"}"#);
    let meta_reference = ("plant.Meta", "of meta/value", 3);
    let site_reference = ("plant.Site", "site", 1);
    server.answer("/schemas/ids/1", "200 OK", &found(&root, &[meta_reference, site_reference]));
    server.answer("/subjects/of%20meta%2Fvalue/versions/3", "200 OK", &found(meta, &[site_reference]));
    server.answer("/subjects/site/versions/1", "200 OK", &found(site, &[]));
    let columns = ["home:int64@/home/id", "other:int64@/meta/site/id"];
    let (rows, reasons) = decode(&mut decoder(&server, &columns), &columns, &[message(1, b"\x02\x04")], || {}).unwrap();
    assert_eq!((rows.as_str(), reasons), ("{\"home\":1,\"other\":2}\n", vec![]));
}

#[test]
fn a_registry_that_does_not_answer_is_waited_for_and_one_that_refuses_is_not() {
    let schema = tests::record(r#"{"name": "a", "type": "int"}"#);
    let mut server = Server::with(&[&schema]);
    (server.spec.user, server.spec.password) = (Some("mill".to_owned()), Some(Secret::new("pass")));
    let good = server.answers.lock().unwrap()["/schemas/ids/1"].clone();
    let columns = ["a:int64"];
    server.answer("/schemas/ids/1", "503 Service Unavailable", "busy");
    let back = || {
        if server.asked().len() == 2 {
            server.answer("/schemas/ids/1", good.0, &good.1);
        }
    };
    let (rows, reasons) = decode(&mut decoder(&server, &columns), &columns, &[message(1, b"\x0e")], back).unwrap();
    assert_eq!((rows.as_str(), reasons), ("{\"a\":7}\n", vec![]));
    assert!(server.asked().len() >= 3);
    assert!(server.asked().iter().all(|asked| asked == "/schemas/ids/1 Basic bWlsbDpwYXNz"), "{:?}", server.asked());
    for (status, body, told) in [
        ("401 Unauthorized", "who are you?", "it answers 401 Unauthorized to /schemas/ids/1: who are you?"),
        ("404 Not Found", "no such page", "it answers 404 Not Found to /schemas/ids/1: no such page"),
        ("200 OK", "<html>", "its answer to /schemas/ids/1 is no schema: expected value at line 1 column 1"),
    ] {
        server.answer("/schemas/ids/1", status, body);
        let refused = decode(&mut decoder(&server, &columns), &columns, &[message(1, b"\x0e")], || {}).unwrap_err();
        let name = server.spec.url.reveal().trim_end_matches('/');
        assert_eq!(refused.to_string(), format!("schema registry at {name}: {told}"));
        assert!(!refused.is_configuration());
    }
}

#[test]
fn a_schema_s_full_name_tells_the_type_of_its_messages() {
    let record = |name: &str, fields: &str| {
        format!(r#"{{"type": "record", "namespace": "shop", "name": "{name}", "fields": [{fields}]}}"#)
    };
    let (a, b) = (r#"{"name": "a", "type": "long"}"#, r#"{"name": "b", "type": "string"}"#);
    let schemas = [record("Order", a), record("Trade", &[b, a].join(",")), record("Refund", a), record("Order", b)];
    let server = Server::with(&schemas.each_ref().map(String::as_str));
    let fields = types(&[("shop.Order", &["a:int64"]), ("shop.Trade", &["b:utf8", "a:int64"])]);
    let format = BinaryFormat::Avro(Box::new(AvroSpec::Registry(server.spec.clone(), None)));
    let mut decoder = BinaryDecoder::new(&format, &fields, &[], 1 << 12).unwrap();
    let messages = [
        message(2, b"\x02x\x04"),
        message(1, b"\x0e"),
        message(3, b"\x02"),
        message(4, b"\x02x"),
        message(2, b"\x02y\x06"),
    ];
    let (rows, reasons) = decode_fields(&mut decoder, &fields, &messages, || {}).unwrap();
    let expected = [
        r#"{"type":1,"int64 1":2,"utf8 2":"x"}"#,
        r#"{"type":0,"int64 1":7,"utf8 2":""}"#,
        r#"{"type":1,"int64 1":3,"utf8 2":"y"}"#,
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
    let expected = [
        "schema 3 of the registry is shop.Refund, and no type is declared for it; there are Order, Trade",
        "schema 4 of the registry does not fit: field \"a\": the schema has no field \"a\"",
    ];
    assert_eq!(reasons, expected);
    let plain = BinaryFormat::Avro(Box::new(AvroSpec::Datum(AvroSchema::parse(&schemas[0]).unwrap())));
    let refused = BinaryDecoder::new(&plain, &fields, &[], 1 << 12).unwrap_err().to_string();
    assert_eq!(
        refused,
        "type is schema, but messages say their schema, which tells their type, by a registry's number"
    );
}
