//! Rows as messages: the bytes that other writers make, read back as they were, and refused where they do not fit.

use std::collections::BTreeMap;

use super::{
    ProtobufOutput, ProtobufSchema, ProtobufSpec, ProtobufTarget,
    tests::{proto2, proto3, written as written_by_another},
};
use crate::{
    formats::{BinaryFormat, MessageOutput},
    schema_of,
    testing::{
        fields,
        messages::{columns, read_back, written, written_of},
        random_row,
    },
};
use proptest::prelude::*;

fn output(schema: &ProtobufSchema, paths: &[(&str, &str)]) -> MessageOutput {
    let paths: BTreeMap<_, _> = paths.iter().map(|(column, path)| ((*column).to_owned(), (*path).to_owned())).collect();
    MessageOutput::Protobuf(Box::new(ProtobufOutput::new(ProtobufTarget::Plain(schema.clone()), paths)))
}

/// Fields for all columns but the list, which cannot be null.
const EVERYTHING: &str = "optional uint64 uint64 = 1; optional bool bool = 2000; optional int32 int8 = 3;
    optional int32 int16 = 4; optional int32 int32 = 5; optional int64 int64 = 6; optional uint32 uint8 = 7;
    optional uint32 uint16 = 16; optional uint32 uint32 = 9; optional float float32 = 10; optional double float64 = 11;
    optional string textquoted = 12; optional bytes binary = 13; google.protobuf.Timestamp seconds = 14;
    google.protobuf.Timestamp nanoseconds = 15;";

proptest! {
    #[test]
    fn every_row_is_read_back_as_it_was(rows in proptest::collection::vec(random_row(), 1..20)) {
        let mut columns = columns();
        columns.pop();
        // Protobuf makes them wider.
        let mut read_as = columns.clone();
        for field in &mut read_as {
            let wider = match field.name.as_str() {
                "int8" | "int16" => "int32",
                "uint8" | "uint16" => "uint32",
                _ => continue,
            };
            field.data_type = wider.parse().unwrap();
        }
        let zigzag = EVERYTHING.replace("optional int", "optional sint");
        let fixed = EVERYTHING.replace("optional int", "optional sfixed").replace("optional uint", "optional fixed");
        for text in [EVERYTHING, &zigzag, &fixed] {
            let schema = proto3(text);
            let (expected, messages) = written(&output(&schema, &[]), &columns, &rows, "none");
            let format = BinaryFormat::Protobuf(Box::new(ProtobufSpec::Plain(schema)));
            prop_assert_eq!(read_back(&format, &read_as, &messages), expected);
        }
    }
}

#[test]
fn messages_have_the_bytes_that_other_writers_give_them() {
    let long = "x".repeat(300);
    let meta = "message Meta { string site = 1; int32 floor = 2; Meta up = 3; } Meta meta = 20; int32 a = 1;";
    let cases = [
        ("bool a = 1;", "a:bool", r#"{"a":true}"#, "a: true"),
        ("bool a = 1;", "a:bool", r#"{"a":false}"#, ""),
        ("optional bool a = 1;", "a:bool", r#"{"a":false}"#, "a: false"),
        ("optional bool a = 1;", "a:bool?", r#"{"a":null}"#, ""),
        ("int32 a = 1;", "a:int8", r#"{"a":-7}"#, "a: -7"),
        ("sint64 a = 99;", "a:int64", r#"{"a":-9223372036854775808}"#, "a: -9223372036854775808"),
        ("fixed64 a = 1;", "a:uint64", r#"{"a":18446744073709551615}"#, "a: 18446744073709551615"),
        ("int64 a = 1;", "a:timestamp[ms]", r#"{"a":1500}"#, "a: 1500"),
        ("double a = 1;", "a:float32", r#"{"a":0.5}"#, "a: 0.5"),
        ("string a = 1;", "a:utf8", r#"{"a":""}"#, ""),
        ("bytes a = 1;", "a:binary", r#"{"a":"AP8="}"#, "a: \"\\000\\377\""),
        (
            "enum E { Z = 0; LESS = -5; ONE = 1; UNO = 1; option allow_alias = true; } E a = 1;",
            "a:utf8",
            r#"{"a":"UNO"}"#,
            "a: ONE",
        ),
        ("enum E { Z = 0; LESS = -5; } E a = 1;", "a:utf8", r#"{"a":"LESS"}"#, "a: LESS"),
        ("enum E { Z = 0; } E a = 1;", "a:int32", r#"{"a":9}"#, "a: 9"),
        ("google.protobuf.Timestamp a = 1;", "a:timestamp[ms]", r#"{"a":-1}"#, "a { seconds: -1 nanos: 999000000 }"),
        ("google.protobuf.Timestamp a = 1;", "a:timestamp[ns]?", r#"{"a":0}"#, "a { }"),
        ("google.protobuf.Timestamp a = 1;", "a:timestamp[s]?", "{}", ""),
        ("google.protobuf.Duration a = 1;", "a:int64", r#"{"a":-1500000000}"#, "a { seconds: -1 nanos: -500000000 }"),
        ("google.protobuf.Int32Value a = 1;", "a:int32?", r#"{"a":0}"#, "a { }"),
        ("google.protobuf.StringValue a = 1;", "a:utf8?", r#"{"a":"x"}"#, "a { value: \"x\" }"),
        ("google.protobuf.BoolValue a = 1;", "a:bool?", "{}", ""),
        ("repeated sint32 a = 1;", "a:list[int32]", r#"{"a":[1,-2,70000]}"#, "a: [1, -2, 70000]"),
        ("repeated double a = 1;", "a:list[float64]", r#"{"a":[]}"#, ""),
        ("repeated float a = 1 [packed = false];", "a:list[float32]", r#"{"a":[0.5,0]}"#, "a: [0.5, 0]"),
        ("oneof b { int32 a = 1; string c = 2; }", "a:int32", r#"{"a":0}"#, "a: 0"),
        (
            meta,
            "a:int32 site:utf8 floor:int32 top:utf8",
            r#"{"a":1,"site":"n","floor":0,"top":"t"}"#,
            "a: 1 meta { site: \"n\" up { site: \"t\" } }",
        ),
        (
            meta,
            "a:int32 site:utf8 floor:int32 top:utf8",
            r#"{"a":0,"site":"","floor":0,"top":"LONG"}"#,
            "meta { up { site: \"LONG\" } }",
        ),
    ];
    let paths = [("site", "/meta/site"), ("floor", "/meta/floor"), ("top", "/meta/up/site")];
    for (field, columns, line, text) in cases {
        let schema = proto3(field);
        let columns = fields(&columns.split(' ').collect::<Vec<_>>());
        let own: Vec<_> =
            paths.into_iter().filter(|(name, _)| columns.iter().any(|column| column.name == *name)).collect();
        let [line, text] = [line, text].map(|part| part.replace("LONG", &long));
        let message = written_of(&output(&schema, &own), &columns, &line).remove(0).unwrap();
        assert_eq!(message, written_by_another(schema.message(), &text), "{field} {line}");
    }
}

#[test]
fn a_zero_with_a_sign_is_written_where_zero_is_not() {
    let columns = fields(&["a:float64", "b:float32"]);
    let messages = written_of(
        &output(&proto3("double a = 1; float b = 2;"), &[]),
        &columns,
        "{\"a\":-0.0,\"b\":0.0}\n{\"a\":0.0,\"b\":-0.0}\n",
    );
    let expected = [&b"\x09\0\0\0\0\0\0\0\x80"[..], b"\x15\0\0\0\x80"];
    assert!(messages.into_iter().eq(expected.map(|message| Ok(message.to_vec()))));
}

#[test]
fn a_list_of_any_length_is_one_packed_value() {
    let schema = proto3("repeated int64 a = 1; repeated fixed32 b = 2;");
    for length in [1, 42, 127, 128, 400] {
        let items: Vec<String> = (0..length).map(|item| (item * 3).to_string()).collect();
        let items = items.join(",");
        let line = format!("{{\"a\":[{items}],\"b\":[{items}]}}");
        let columns = fields(&["a:list[int64]", "b:list[uint32]"]);
        let message = written_of(&output(&schema, &[]), &columns, &line).remove(0);
        let text = format!("a: [{items}] b: [{items}]");
        assert_eq!(message.unwrap(), written_by_another(schema.message(), &text), "{length}");
    }
}

#[test]
fn a_message_around_nulls_alone_is_left_out() {
    let schema = proto3("message Meta { optional string site = 1; optional int32 floor = 2; } Meta meta = 1;");
    let output = output(&schema, &[("site", "/meta/site"), ("floor", "/meta/floor")]);
    let messages =
        written_of(&output, &fields(&["site:utf8?", "floor:int32?"]), "{}\n{\"floor\":0}\n{\"site\":\"\"}\n");
    for (message, text) in messages.into_iter().zip(["", "meta { floor: 0 }", "meta { site: \"\" }"]) {
        assert_eq!(message.unwrap(), written_by_another(schema.message(), text));
    }
}

#[test]
fn a_required_message_is_there_although_all_in_it_is_null() {
    let schema = proto2(
        "message Inner { optional int32 floor = 1; } message Meta { optional string site = 1; required Inner in = 2; }
         required Meta meta = 1; optional Meta other = 2;",
    );
    let columns = fields(&["site:utf8?", "floor:int32?", "other:utf8?", "below:int32?"]);
    let paths =
        [("site", "/meta/site"), ("floor", "/meta/in/floor"), ("other", "/other/site"), ("below", "/other/in/floor")];
    let messages = written_of(&output(&schema, &paths), &columns, "{}\n{\"floor\":0,\"other\":\"x\"}\n");
    let texts = ["meta { in { } }", "meta { in { floor: 0 } } other { site: \"x\" in { } }"];
    for (message, text) in messages.into_iter().zip(texts) {
        assert_eq!(message.unwrap(), written_by_another(schema.message(), text));
    }
}

#[test]
fn types_of_proto2_and_what_nobody_expects_in_them_have_the_bytes_that_other_writers_give_them() {
    let cases = [
        ("repeated int32 a = 1;", "a:list[int32]", r#"{"a":[1,-2]}"#, "a: [1, -2]"),
        ("repeated sint64 a = 1 [packed = true];", "a:list[int64]", r#"{"a":[1,-2]}"#, "a: [1, -2]"),
        ("optional int32 a = 1 [default = 7];", "a:int32?", r#"{"a":7}"#, "a: 7"),
        ("optional int32 a = 1 [default = 7];", "a:int32?", "{}", ""),
        ("required bytes a = 536870911;", "a:binary", r#"{"a":""}"#, "a: \"\""),
        ("required google.protobuf.Int32Value a = 1;", "a:int32", r#"{"a":0}"#, "a { }"),
        ("optional double a = 1;", "a:float64", r#"{"a":-0.0}"#, "a: -0.0"),
        ("optional group G = 2 { optional int32 b = 1; } optional int32 a = 1;", "a:int32", r#"{"a":1}"#, "a: 1"),
        ("enum E { ONE = 1; TWO = -2; } required E a = 1;", "a:utf8", r#"{"a":"TWO"}"#, "a: TWO"),
    ];
    for (field, column, line, text) in cases {
        let schema = proto2(field);
        let message = written_of(&output(&schema, &[]), &fields(&[column]), line).remove(0).unwrap();
        assert_eq!(message, written_by_another(schema.message(), text), "{field} {line}");
    }
}

#[test]
fn a_type_that_lacks_a_column_or_cannot_hold_it_is_refused_with_what_does_not_fit() {
    let inner = "message Meta { string site = 1; } Meta meta = 1; repeated Meta more = 2; map<string, int32> map = 3;";
    type Case<'a> = (ProtobufSchema, &'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 14] = [
        (
            proto3("int32 b = 1; int64 c = 2;"),
            &["a:int8"],
            &[],
            "field \"a\": the message plant.Reading has no field \"a\"",
        ),
        (proto3("int32 a = 1;"), &["a:int64"], &[], "field \"a\": int64 does not become int32"),
        (proto3("sint32 a = 1;"), &["a:uint32"], &[], "field \"a\": uint32 does not become sint32"),
        (proto3("string a = 1;"), &["a:binary"], &[], "field \"a\": binary does not become string"),
        (proto3("float a = 1;"), &["a:float64"], &[], "field \"a\": float64 does not become float"),
        (proto3("int32 a = 1;"), &["a:int32?"], &[], "field \"a\": the column may be null, and int32 reads as zero"),
        (
            proto3("repeated int32 a = 1;"),
            &["a:list[int32]?"],
            &[],
            "field \"a\": the column may be null, and a repeated field cannot",
        ),
        (
            proto2("required int32 a = 1;"),
            &["a:int32?"],
            &[],
            "field \"a\": the column may be null, and a required field cannot",
        ),
        (
            proto2("required google.protobuf.Int32Value a = 1;"),
            &["a:int32?"],
            &[],
            "field \"a\": the column may be null, and a required field cannot",
        ),
        (
            proto2("repeated group G = 1 { optional int32 b = 1; }"),
            &["b:int32"],
            &[("b", "/g/b")],
            "field \"b\": its path leads into repeated the message plant.Reading.G, which is not one message",
        ),
        (
            proto2("required int32 a = 1; required int32 b = 2;"),
            &["a:int32"],
            &[],
            "field \"plant.Reading.b\": it is required, and no column is written to it",
        ),
        (
            proto3(inner),
            &["meta:utf8", "map:int32"],
            &[],
            "field \"meta\": utf8 does not become the message plant.Reading.Meta; field \"map\": int32 does not become a map",
        ),
        (
            proto3(inner),
            &["a:utf8", "b:utf8"],
            &[("a", "/more/site"), ("b", "/meta/place")],
            "field \"a\": its path leads into repeated the message plant.Reading.Meta, which is not one message; \
             field \"b\": the message plant.Reading.Meta has no field \"place\"",
        ),
        (
            proto3("oneof k { int32 a = 1; int32 b = 2; }"),
            &["a:int32", "b:int32"],
            &[],
            "field \"b\": of a oneof there is one field, and another column has it",
        ),
    ];
    for (schema, columns, paths, reason) in cases {
        let error = output(&schema, paths).encoder(&schema_of(&fields(columns)).unwrap(), &[]).err().unwrap();
        assert_eq!(error.to_string(), format!("the schema does not fit the fields: {reason}"));
    }
    let of_paths = |paths: &[(&str, &str)]| {
        let rows = schema_of(&fields(&["site:utf8", "b:utf8"])).unwrap();
        output(&proto3(inner), paths).encoder(&rows, &[]).err().unwrap().to_string()
    };
    assert_eq!(of_paths(&[("c", "/meta/site")]), "paths is c, but the rows have no such column");
    assert_eq!(
        of_paths(&[("site", "meta")]),
        "field \"site\" has the path \"meta\", but a JSON pointer begins with `/`"
    );
    assert!(of_paths(&[("site", "/b"), ("b", "/b")]).contains("another field takes the same value"));
}

#[test]
fn a_value_that_the_type_does_not_have_is_refused_before_it_is_written() {
    let schema = proto3("enum E { Z = 0; } message M { E a = 1; google.protobuf.Timestamp at = 2; } M m = 1;");
    let output = output(&schema, &[("a", "/m/a"), ("at", "/m/at")]);
    let lines = "{\"a\":\"Z\",\"at\":253402300799}\n{\"a\":\"Y\",\"at\":0}\n{\"a\":\"Z\",\"at\":253402300800}\n";
    let results = written_of(&output, &fields(&["a:utf8", "at:timestamp[s]"]), lines);
    assert!(results[0].is_ok());
    let refused = |index: usize| results[index].clone().unwrap_err();
    assert!(
        refused(1).contains("column \"a\" has Y") && refused(1).contains("the enum has no such name"),
        "{}",
        refused(1)
    );
    assert!(refused(2).contains("column \"at\" has 253402300800 (timestamp[s])"), "{}", refused(2));
}

#[cfg(feature = "http")]
mod registry {
    use super::*;
    use crate::{ConnectError, FieldSpec, ProtobufTypes, formats::registry::testing::Server};

    const VERSIONS: &str = "/subjects/rows-value/versions";

    fn output(server: &Server, schema: Option<ProtobufSchema>) -> MessageOutput {
        let (registry, subject) = (server.spec.clone(), "rows-value".to_owned());
        let target = ProtobufTarget::Registry { registry, subject, schema };
        MessageOutput::Protobuf(Box::new(ProtobufOutput::new(target, BTreeMap::new())))
    }

    /// The message of a line, once the registry knows the schema.
    fn message(output: &MessageOutput, columns: &[FieldSpec], line: &str) -> Vec<u8> {
        output.prepare(&schema_of(columns).unwrap()).unwrap();
        written_of(output, columns, line).remove(0).unwrap()
    }

    #[test]
    fn a_type_is_made_of_the_columns_told_to_the_registry_and_named_by_its_number() {
        let server = Server::with(&[]);
        server.answer(VERSIONS, "200 OK", r#"{"id":515}"#);
        let columns = fields(&["n:int64", "t:utf8?", "at:timestamp[s]", "samples:list[float32]"]);
        let line = r#"{"n":5,"t":"a","at":1,"samples":[0.5]}"#;
        let written = message(&output(&server, None), &columns, line);
        assert_eq!(written, b"\x00\x00\x00\x02\x03\x00\x08\x05\x12\x01a\x1a\x02\x08\x01\x22\x04\x00\x00\x00\x3f");
        assert_eq!(server.asked(), [VERSIONS]);
        let text = super::super::output::text_of_rows(&schema_of(&columns).unwrap()).unwrap();
        let expected = "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\nmessage Row {\n  int64 n = 1;\n  \
                        optional string t = 2;\n  google.protobuf.Timestamp at = 3;\n  repeated float samples = 4;\n}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_column_has_a_type_that_is_made_for_it() {
        let server = Server::with(&[]);
        let mut columns = columns();
        columns.last_mut().unwrap().nullable = false;
        output(&server, None).encoder(&schema_of(&columns).unwrap(), &[]).unwrap();
        for (column, reason) in [
            ("a b:int64", "no field of Protobuf can have this name"),
            ("1:int64", "can have this name"),
            ("a:list[int8]?", "a repeated field cannot"),
        ] {
            let error = output(&server, None).encoder(&schema_of(&fields(&[column])).unwrap(), &[]).err().unwrap();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn columns_may_have_names_that_mean_something_in_a_file_of_types_but_no_two_that_are_one_in_json() {
        let server = Server::with(&[]);
        let encoder = |columns: &[&str]| output(&server, None).encoder(&schema_of(&fields(columns)).unwrap(), &[]);
        let names = ["google:timestamp[s]", "message:int64", "optional:utf8?", "Row:int64", "reserved:list[int64]"];
        let others = ["int64:int64", "oneof:bool", "map:int64", "syntax:binary", "group:timestamp[ms]?", "_:int8"];
        encoder(&[&names[..], &others].concat()).unwrap();
        let error = encoder(&["aB:int64", "a_b:int64"]).err().unwrap().to_string();
        assert!(error.contains("conflict") && error.contains("a_b"), "{error}");
    }

    #[test]
    fn a_type_of_yours_is_named_by_where_it_stands_in_its_file() {
        let server = Server::with(&[]);
        server.answer(VERSIONS, "200 OK", r#"{"id":1}"#);
        let text = "syntax = \"proto3\"; package plant; import \"google/protobuf/timestamp.proto\";
            message A { map<string, int32> labels = 1; message B { int64 n = 1; } message C { int64 n = 1; } }
            message D { int64 n = 1; }";
        let types = ProtobufTypes::parse_text(text).unwrap();
        assert_eq!(types.names(), ["plant.A", "plant.A.B", "plant.A.C", "plant.D"]);
        assert!(types.message("google.protobuf.Timestamp").is_none());
        for (name, indexes) in
            [("plant.D", &b"\x02\x02"[..]), ("plant.A.B", b"\x04\x00\x00"), ("plant.A.C", b"\x04\x00\x02")]
        {
            let output = output(&server, types.message(name));
            let written = message(&output, &fields(&["n:int64"]), r#"{"n":7}"#);
            assert_eq!(written, [b"\x00\x00\x00\x00\x01", indexes, b"\x08\x07"].concat(), "{name}");
        }
    }

    #[test]
    fn a_registry_that_refuses_a_schema_is_named_with_its_words() {
        let server = Server::with(&[]);
        server.answer(VERSIONS, "409 Conflict", r#"{"error_code":409,"message":"it is incompatible"}"#);
        let error = output(&server, None).prepare(&schema_of(&fields(&["n:int64"])).unwrap()).unwrap_err();
        assert!(matches!(error, ConnectError::Registry { .. }), "{error:?}");
        assert!(error.to_string().contains("the schema of rows-value: it answers 409 Conflict"), "{error}");
    }
}
