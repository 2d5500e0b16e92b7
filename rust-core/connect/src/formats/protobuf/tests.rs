//! Messages that `prost-reflect` has written, and messages that nobody should write.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value, prost::Message};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::{ProtobufSchema, ProtobufSpec, ProtobufTypes};
use crate::{
    ConnectError,
    formats::{BinaryDecoder, BinaryFormat},
    testing::{Letter, fields, messages},
};

/// The descriptor set of a `.proto` file with this text.
pub(super) fn compiled(text: &str) -> Vec<u8> {
    struct One(File);
    impl FileResolver for One {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name == self.0.name() {
                true => Ok(File::from_file_descriptor_proto(self.0.file_descriptor_proto().clone())),
                false => Err(protox::Error::file_not_found(name)),
            }
        }
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(One(File::from_source("test.proto", text).unwrap()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("test.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn schema(text: &str) -> ProtobufSchema {
    ProtobufTypes::parse(&compiled(text)).unwrap().message("plant.Reading").unwrap()
}

/// A message `Reading` with these fields.
pub(super) fn proto3(fields: &str) -> ProtobufSchema {
    let imports = ["timestamp", "duration", "wrappers"].map(|name| format!("import \"google/protobuf/{name}.proto\";"));
    schema(&format!("syntax = \"proto3\"; package plant; {} message Reading {{ {fields} }}", imports.concat()))
}

pub(super) fn proto2(fields: &str) -> ProtobufSchema {
    let import = "import \"google/protobuf/wrappers.proto\";";
    schema(&format!("syntax = \"proto2\"; package plant; {import} message Reading {{ {fields} }}"))
}

pub(super) fn written(message: &MessageDescriptor, text: &str) -> Vec<u8> {
    DynamicMessage::parse_text_format(message.clone(), text).unwrap().encode_to_vec()
}

fn decode_with(
    schema: &ProtobufSchema,
    columns: &[&str],
    messages: &[&[u8]],
) -> Result<(String, Vec<Letter>), ConnectError> {
    let fields = fields(columns);
    let format = BinaryFormat::Protobuf(Box::new(ProtobufSpec::Plain(schema.clone())));
    let messages: Vec<messages::Message<'_>> = messages.iter().map(|message| (&b""[..], *message)).collect();
    messages::decode(BinaryDecoder::new(&format, &fields.clone().into(), &[], 1 << 12)?, &fields, &messages)
}

/// The row of a message, or why there is none.
fn row(schema: &ProtobufSchema, columns: &[&str], message: &[u8]) -> String {
    let (rows, letters) = decode_with(schema, columns, &[message]).unwrap_or_else(|error| panic!("{error}"));
    match letters.first() {
        None => rows.trim_end().to_owned(),
        Some(letter) => {
            assert_eq!((rows.as_str(), &letter.record[..]), ("", message), "its bytes are kept");
            letter.reason.clone()
        }
    }
}

#[test]
fn a_value_comes_into_every_column_that_can_hold_it() {
    let cases = [
        ("bool a = 1;", "a: true", "bool", "true"),
        ("int32 a = 1;", "a: -7", "int32", "-7"),
        ("int32 a = 1;", "a: -2147483648", "int64", "-2147483648"),
        ("int32 a = 1;", "a: 7", "float32", "7.0"),
        ("sint32 a = 1;", "a: -7", "int32", "-7"),
        ("sint32 a = 1;", "a: -2147483648", "int32", "-2147483648"),
        ("sfixed32 a = 1;", "a: -7", "int64", "-7"),
        ("int64 a = 1;", "a: -9223372036854775808", "int64", "-9223372036854775808"),
        ("sint64 a = 1;", "a: -9223372036854775808", "int64", "-9223372036854775808"),
        ("sfixed64 a = 1;", "a: -1", "float64", "-1.0"),
        ("uint32 a = 1;", "a: 4294967295", "uint32", "4294967295"),
        ("fixed32 a = 1;", "a: 4294967295", "int64", "4294967295"),
        ("uint64 a = 1;", "a: 18446744073709551615", "uint64", "18446744073709551615"),
        ("fixed64 a = 1;", "a: 5", "float64", "5.0"),
        ("float a = 1;", "a: 0.5", "float32", "0.5"),
        ("float a = 1;", "a: 0.5", "float64", "0.5"),
        ("double a = 1;", "a: 0.1", "float64", "0.1"),
        ("string a = 1;", "a: \"ä\"", "utf8", "\"ä\""),
        ("string a = 1;", "a: \"ab\"", "binary", "\"YWI=\""),
        ("bytes a = 1;", "a: \"ab\"", "binary", "\"YWI=\""),
        ("bytes a = 1;", "a: \"ab\"", "utf8", "\"ab\""),
        ("int64 a = 1;", "a: 1500", "timestamp[ms]", "\"1970-01-01T00:00:01.500Z\""),
        ("uint64 a = 1;", "a: 5", "timestamp[s]", "\"1970-01-01T00:00:05Z\""),
        ("enum E { Z = 0; ONE = 1; } E a = 1;", "a: ONE", "utf8", "\"ONE\""),
        ("enum E { Z = 0; LESS = -5; } E a = 1;", "a: LESS", "utf8", "\"LESS\""),
        ("enum E { Z = 0; ONE = 1; } E a = 1;", "a: 9", "int32", "9"),
        ("enum E { option allow_alias = true; Z = 0; ONE = 1; UNO = 1; } E a = 1;", "a: UNO", "utf8", "\"ONE\""),
        (
            "google.protobuf.Timestamp a = 1;",
            "a { seconds: -1 nanos: 999999999 }",
            "timestamp[ns]",
            "\"1969-12-31T23:59:59.999999999Z\"",
        ),
        (
            "google.protobuf.Timestamp a = 1;",
            "a { seconds: 1 nanos: 2999999 }",
            "timestamp[ms]",
            "\"1970-01-01T00:00:01.002Z\"",
        ),
        ("google.protobuf.Timestamp a = 1;", "a { }", "timestamp[s]", "\"1970-01-01T00:00:00Z\""),
        ("google.protobuf.Duration a = 1;", "a { seconds: -1 nanos: -500000000 }", "int64", "-1500000000"),
        ("google.protobuf.Duration a = 1;", "a { seconds: 1 nanos: 500000000 }", "float64", "1.5"),
        ("repeated int32 a = 1;", "a: [1, -2]", "list[int32]", "[1,-2]"),
        ("repeated int32 a = 1;", "", "list[int32]", "[]"),
        ("repeated float a = 1 [packed = false];", "a: [0.5, 1]", "list[float64]", "[0.5,1.0]"),
        ("repeated fixed64 a = 1;", "a: [18446744073709551615]", "list[uint64]", "[18446744073709551615]"),
        ("repeated int64 a = 1;", "a: [1500]", "list[timestamp[ms]]", "[\"1970-01-01T00:00:01.500Z\"]"),
        ("enum E { Z = 0; ONE = 1; } repeated E a = 1;", "a: [ONE, Z]", "list[int32]", "[1,0]"),
        ("google.protobuf.Int64Value a = 1;", "a { value: -3 }", "int64", "-3"),
        ("google.protobuf.DoubleValue a = 1;", "a { }", "float64", "0.0"),
        ("google.protobuf.StringValue a = 1;", "a { value: \"x\" }", "utf8", "\"x\""),
        ("google.protobuf.BoolValue a = 1;", "", "bool?", "null"),
    ];
    for (field, text, column, expected) in cases {
        let schema = proto3(field);
        let message = written(schema.message(), text);
        let got = row(&schema, &[&format!("a:{column}")], &message);
        assert_eq!(got, format!("{{\"a\":{expected}}}"), "{field} {text} as {column}");
    }
}

#[test]
fn what_is_not_in_a_message_is_zero_null_a_default_or_missing() {
    let three = proto3("int64 plain = 1; optional int64 set = 2; Meta meta = 3; message Meta { string site = 1; }");
    let columns = ["plain:int64", "set:int64?", "site:utf8?@/meta/site"];
    assert_eq!(row(&three, &columns, b""), r#"{"plain":0,"set":null,"site":null}"#);
    let zero = written(three.message(), "set: 0 meta {}");
    assert_eq!(row(&three, &columns, &zero), r#"{"plain":0,"set":0,"site":""}"#);
    assert_eq!(row(&three, &["set:int64"], b""), "field \"set\" is missing");
    assert_eq!(row(&three, &["site:utf8@/meta/site"], b""), "field \"site\" is missing");
    assert_eq!(row(&three, &["other:utf8?", "deep:utf8?@/x/y"], b""), r#"{"other":null,"deep":null}"#);

    let two = proto2(
        "required int32 id = 1; optional int32 a = 2 [default = 5]; optional int32 b = 3; optional Inner inner = 4;
         message Inner { required string name = 1; optional string note = 2; }
         optional string text = 5 [default = \"none\"]; optional bytes raw = 6 [default = \"\\377\"];
         optional E e = 7 [default = TWO]; enum E { ONE = 1; TWO = 2; }",
    );
    let written = |text| written(two.message(), text);
    assert_eq!(
        row(&two, &["a:int32", "text:utf8", "raw:binary", "e:utf8"], &written("id: 1")),
        r#"{"a":5,"text":"none","raw":"/w==","e":"TWO"}"#
    );
    assert_eq!(row(&two, &["a:int32?"], &written("id: 1")), r#"{"a":null}"#, "a null says more");
    assert_eq!(row(&two, &["b:int32"], &written("id: 1")), "field \"b\" is missing");
    assert_eq!(row(&two, &["a:int32"], b""), "the required field plant.Reading.id is missing");
    let note = ["note:utf8?@/inner/note"];
    assert_eq!(row(&two, &note, &written("id: 1")), r#"{"note":null}"#, "the message around it is not there either");
    assert_eq!(
        row(&two, &note, &written("id: 1 inner { note: \"n\" }")),
        "the required field plant.Reading.Inner.name is missing"
    );
    assert_eq!(row(&two, &note, &written("id: 1 inner { note: \"n\" name: \"\" }")), r#"{"note":"n"}"#);
}

#[test]
fn the_last_one_wins_and_messages_in_pieces_are_one() {
    let schema = proto3(
        "int64 a = 1; Meta meta = 2; message Meta { string site = 1; Meta up = 2; int64 level = 3; }
         google.protobuf.Timestamp at = 3;",
    );
    let columns = [
        "a:int64",
        "site:utf8?@/meta/site",
        "level:int64?@/meta/level",
        "above:utf8?@/meta/up/site",
        "at:timestamp[ns]?",
    ];
    let pieces = [
        "a: 1 meta { site: \"old\" up { site: \"top\" } } at { seconds: 1 }",
        "a: 2 meta { level: 3 }",
        "meta { site: \"new\" } at { nanos: 7 }",
    ];
    let message: Vec<u8> = pieces.iter().flat_map(|text| written(schema.message(), text)).collect();
    let expected = r#"{"a":2,"site":"new","level":3,"above":"top","at":"1970-01-01T00:00:01.000000007Z"}"#;
    assert_eq!(row(&schema, &columns, &message), expected);
}

#[test]
fn of_a_oneof_only_the_member_that_came_last_is_there() {
    let schema = proto3(
        "oneof kind { int64 number = 1; string text = 2; Inner inner = 3; bool other = 4; }
         message Inner { int64 x = 1; int64 y = 2; }",
    );
    let columns = ["number:int64?", "text:utf8?", "x:int64?@/inner/x", "y:int64?@/inner/y"];
    let of = |texts: &[&str]| {
        let message: Vec<u8> = texts.iter().flat_map(|text| written(schema.message(), text)).collect();
        row(&schema, &columns, &message)
    };
    assert_eq!(of(&["number: 1"]), r#"{"number":1,"text":null,"x":null,"y":null}"#);
    assert_eq!(of(&["number: 1", "text: \"t\""]), r#"{"number":null,"text":"t","x":null,"y":null}"#);
    assert_eq!(of(&["text: \"t\"", "inner { x: 1 }", "inner { y: 2 }"]), r#"{"number":null,"text":null,"x":1,"y":2}"#);
    assert_eq!(of(&["inner { x: 1 }", "number: 0", "inner { y: 2 }"]), r#"{"number":null,"text":null,"x":0,"y":2}"#);
    let nothing = r#"{"number":null,"text":null,"x":null,"y":null}"#;
    assert_eq!(of(&["inner { x: 1 }", "other: false"]), nothing, "also of one that nobody declared");
    let other = |other: &[u8]| row(&schema, &columns, &[&b"\x08\x01"[..], other].concat());
    assert_eq!(other(b"\x20\x00"), nothing);
    let number = r#"{"number":1,"text":null,"x":null,"y":null}"#;
    assert_eq!(other(b"\x25abcd"), number, "of another wire type it is an unknown field");
    assert_eq!(other(b"\x23\x24"), number);
}

#[test]
fn what_does_not_fit_is_said_before_a_message_is_read() {
    let schema = proto3(
        "int64 long = 1; repeated int32 many = 2; map<string, int32> named = 3; Inner inner = 4; string text = 5;
         uint64 big = 6; message Inner { int64 x = 1; } google.protobuf.Timestamp at = 7; repeated Inner inners = 8;
         double real = 9; google.protobuf.Int32Value boxed = 10;
         repeated string texts = 11;",
    );
    let misfit = |column: &str| {
        let misfits = ProtobufSpec::Plain(schema.clone()).misfits(&fields(&[column]), &[]);
        let told = |misfit: &super::FieldMisfit| format!("{misfit} ({})", misfit.hint.as_deref().unwrap_or("-"));
        misfits.iter().map(told).collect::<Vec<_>>().join("; ")
    };
    let cases = [
        ("long:int32", "it is int32, and the schema has int64 (declare long = \"int64\")"),
        ("big:int64", "it is int64, and the schema has uint64 (declare big = \"uint64\")"),
        ("real:float32", "it is float32, and the schema has double (declare real = \"float64\")"),
        ("text:int64", "it is int64, and the schema has string (declare text = \"utf8\")"),
        (
            "at:int64",
            "it is int64, and the schema has the message google.protobuf.Timestamp (declare at = \"timestamp[ns]\")",
        ),
        (
            "boxed:utf8",
            "it is utf8, and the schema has the message google.protobuf.Int32Value (declare boxed = \"int32\")",
        ),
        ("many:int64", "it is int64, and the schema has repeated int32 (declare many = \"list[int32]\")"),
        ("many:list[uint8]", "it is list[uint8], and the schema has repeated int32 (declare many = \"list[int32]\")"),
        ("texts:utf8", "the schema has repeated string, which cannot be a column (-)"),
        ("long:list[int64]", "it is list[int64], and the schema has int64 (declare long = \"int64\")"),
        ("named:utf8", "the schema has a map, which cannot be a column (-)"),
        (
            "inner:utf8",
            "it is utf8, and the schema has the message plant.Reading.Inner (inner = { type = …, path = \"/…/x\" } is a field of it)",
        ),
        (
            "x:int64@/inners/x",
            "its path leads into repeated the message plant.Reading.Inner, which is not one message (-)",
        ),
        ("x:int64@/long/x", "its path leads into int64, which has no fields (-)"),
        (
            "x:int64@/inner/y",
            "the message plant.Reading.Inner has no field \"y\" (it has x; a nullable field may be missing)",
        ),
    ];
    for (column, expected) in cases {
        let name = column.split(':').next().unwrap();
        assert_eq!(misfit(column), format!("field {name:?}: {expected}"), "{column}");
    }
    assert_eq!(misfit("gone:utf8?"), "");
    assert!(decode_with(&schema, &["long:int32"], &[]).is_err());
    let group = proto2("optional group Inner = 1 { optional int32 x = 1; }");
    let misfits = ProtobufSpec::Plain(group).misfits(&fields(&["x:int32@/inner/x"]), &[]);
    assert_eq!(misfits[0].reason, "its path leads into a group, which is not one message");
}

#[test]
fn sets_that_are_none_are_refused() {
    let whole =
        compiled("syntax = \"proto3\"; package plant; message Reading {} message Other { map<int32, int32> m = 1; }");
    assert_eq!(ProtobufTypes::parse(&whole).unwrap().names(), ["plant.Reading", "plant.Other"]);
    assert!(ProtobufTypes::parse(&whole).unwrap().message("Reading").is_none());
    for bytes in [&b"syntax = \"proto3\";"[..], &whole[..whole.len() - 1]] {
        let reason = ProtobufTypes::parse(bytes).err().unwrap();
        assert!(reason.contains("protoc --include_imports --descriptor_set_out"), "{reason}");
    }
    let edition = b"\x0a\x15\x0a\x06a.prot\x62\x08editions\x70\xe8\x07";
    let reason = ProtobufTypes::parse(edition).err().unwrap();
    assert_eq!(reason, "a.prot has syntax \"editions\", and only files with proto2 or proto3 are read");
}

#[test]
fn bytes_that_are_no_message_are_a_dead_letter() {
    let schema =
        proto3("int64 a = 1; string text = 2; Inner inner = 3; message Inner { fixed32 x = 1; } fixed64 b = 4;");
    let columns = ["a:int64", "text:utf8", "x:uint32?@/inner/x", "b:uint64"];
    let whole = written(schema.message(), "a: 300 text: \"abc\" inner { x: 1 } b: 2");
    let ends = (1..whole.len()).filter(|length| row(&schema, &columns, &whole[..*length]).starts_with('{'));
    assert_eq!(ends.collect::<Vec<_>>(), [3, 8, 15], "only where a field ends a message may");
    let cases: [(&[u8], &str); 12] = [
        (b"\x08", "at byte 1: it ends within a value"),
        (b"\x08\x80", "at byte 1: it ends within a value"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "at byte 1: a number has more bits than its type"),
        (b"\x00\x01", "at byte 1: no field can have this number or type"),
        (b"\x0f\x01", "at byte 1: no field can have this number or type"),
        (b"\x12\x05abc", "at byte 2: it ends within a value"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a", "at byte 11: it ends within a value"),
        (b"\x1a\x03\x0d\x01\x02", "at byte 3: it ends within a value"),
        (b"\x1a\x02\x0d\x01", "at byte 3: it ends within a value"),
        (b"\x08\x01\x0c", "at byte 2: field plant.Reading.a has a group, and in the schema a varint"),
        (b"\x3c", "at byte 1: a group ends that did not begin"),
        (b"\x0d\x01\x02\x03\x04", "at byte 0: field plant.Reading.a has 32 bits, and in the schema a varint"),
    ];
    for (message, expected) in cases {
        assert_eq!(row(&schema, &columns, message), format!("not valid Protobuf of this schema {expected}"));
    }
    let text = row(&schema, &columns, b"\x12\x01\xff");
    assert_eq!(text, "field \"text\": expected utf8, got \u{fffd} (not valid UTF-8)");
    let deep = [[0x3b; 200], [0x3c; 200]].concat();
    assert!(row(&schema, &columns, &deep).ends_with("values lie too deep in each other"));
    let long = vec![0; (1 << 12) + 1];
    let (_, letters) = decode_with(&schema, &columns, &[&long]).unwrap();
    assert_eq!(letters[0].reason, "the record is longer than record_bytes_max (4096 bytes)");
}

#[test]
fn values_that_no_column_can_hold_are_a_dead_letter() {
    let cases = [
        ("enum E { Z = 0; } E a = 1;", "a: 9", "utf8", "expected utf8, got 9, for which the enum has no name"),
        (
            "google.protobuf.Timestamp a = 1;",
            "a { nanos: -1 }",
            "timestamp[ms]",
            "expected timestamp[ms], got 0 s and -1 ns, which is no google.protobuf.Timestamp",
        ),
        (
            "google.protobuf.Timestamp a = 1;",
            "a { seconds: 253402300799 }",
            "timestamp[ns]",
            "expected timestamp[ns], got 253402300799 s and 0 ns (out of range)",
        ),
        (
            "google.protobuf.Timestamp a = 1;",
            "a { seconds: 9223372036854775807 }",
            "timestamp[s]",
            "expected timestamp[s], got 9223372036854775807 s and 0 ns, which is no google.protobuf.Timestamp",
        ),
        (
            "google.protobuf.Duration a = 1;",
            "a { seconds: 1 nanos: -1 }",
            "float64",
            "expected float64, got 1 s and -1 ns, which is no google.protobuf.Duration",
        ),
        (
            "google.protobuf.Duration a = 1;",
            "a { seconds: 315576000000 }",
            "int64",
            "expected int64, got 315576000000 s and 0 ns (out of range)",
        ),
        (
            "uint64 a = 1;",
            "a: 18446744073709551615",
            "timestamp[s]",
            "expected timestamp[s], got 18446744073709551615 (out of range)",
        ),
    ];
    for (field, text, column, expected) in cases {
        let schema = proto3(field);
        let message = written(schema.message(), text);
        assert_eq!(row(&schema, &[&format!("a:{column}")], &message), format!("field \"a\": {expected}"));
    }
}

#[test]
fn the_items_of_a_list_may_come_in_pieces() {
    let schema = proto3(
        "repeated int32 a = 1; oneof one { Inner left = 2; Inner right = 3; } message Inner { repeated uint64 b = 1; }",
    );
    let columns = ["a:list[int64]", "b:list[uint64]?@/left/b"];
    let packed_and_not = b"\x08\x01\x0a\x02\x02\x03\x12\x03\x0a\x01\x07\x08\x04\x12\x02\x08\x09\x0a\x00";
    assert_eq!(row(&schema, &columns, packed_and_not), r#"{"a":[1,2,3,4],"b":[7,9]}"#);
    // The other member takes its place, with all that was in it.
    let gone = [&packed_and_not[..], b"\x1a\x00"].concat();
    assert_eq!(row(&schema, &columns, &gone), r#"{"a":[1,2,3,4],"b":null}"#);
    let anew = [&gone[..], b"\x12\x02\x08\x05"].concat();
    assert_eq!(row(&schema, &columns, &anew), r#"{"a":[1,2,3,4],"b":[5]}"#);
    let ends = "not valid Protobuf of this schema at byte 2: it ends within a value";
    assert_eq!(row(&schema, &columns, b"\x0a\x02\x80\x80"), ends);
    let foreign =
        "not valid Protobuf of this schema at byte 0: field plant.Reading.a has 32 bits, and in the schema a varint";
    assert_eq!(row(&schema, &columns, b"\x0dabcd"), foreign);
    let beyond = row(&schema, &["b:list[timestamp[s]]?@/left/b"], &[b"\x12\x0b\x08", &[0xff; 9][..], b"\x01"].concat());
    assert!(beyond.contains("18446744073709551615"), "{beyond}");
}

#[test]
fn groups_and_unknown_fields_are_passed_over() {
    let schema = proto2(
        "optional int64 a = 1; optional group Old = 2 { optional int64 a = 1; } repeated int32 many = 3 [packed = true];",
    );
    let message = written(schema.message(), "a: 1 Old { a: 9 } many: [1, 2, 3]");
    let unknown = b"\xf8\xff\xff\xff\x0f\x01\x6a\x03abc\x75abcd\x71abcdefgh\x7b\x08\x05\x7c";
    assert_eq!(row(&schema, &["a:int64"], &[&message[..], unknown].concat()), r#"{"a":1}"#);
}

const ALL: &str = "int32 a = 1; sint64 b = 2; fixed32 c = 3; double d = 4; string e = 5; bytes f = 6; bool g = 7;
    optional uint32 h = 8; Inner inner = 9; message Inner { sfixed64 x = 1; optional string y = 2; Inner up = 3; repeated uint32 z = 4; }
    oneof kind { int64 i = 10; Inner j = 11; float k = 12; } google.protobuf.Timestamp at = 13; repeated sint32 l = 16;";

const COLUMNS: [&str; 19] = [
    "a:int32",
    "b:int64",
    "c:uint32",
    "d:float64",
    "e:utf8",
    "f:binary",
    "g:bool",
    "h:uint32?",
    "x:int64?@/inner/x",
    "y:utf8?@/inner/y",
    "ux:int64?@/inner/up/x",
    "i:int64?",
    "jx:int64?@/j/x",
    "k:float64?",
    "at:int64?@/at/seconds",
    "nanos:int32?@/at/nanos",
    "l:list[int32]",
    "z:list[uint32]?@/inner/z",
    "jz:list[int64]?@/j/z",
];

/// What another implementation reads, as our row would show it.
fn expected(message: &DynamicMessage) -> serde_json::Value {
    fn shown(value: &Value) -> serde_json::Value {
        match value {
            Value::List(items) => items.iter().map(shown).collect(),
            Value::I32(value) => (*value).into(),
            Value::I64(value) => (*value).into(),
            Value::U32(value) => (*value).into(),
            Value::F32(value) => f64::from(*value).into(),
            Value::F64(value) => (*value).into(),
            Value::Bool(value) => (*value).into(),
            Value::String(text) => text.as_str().into(),
            Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
            other => panic!("{other:?}"),
        }
    }
    let mut row = serde_json::Map::new();
    for field in fields(&COLUMNS) {
        let path = field.path.clone().unwrap_or_else(|| format!("/{}", field.name));
        let mut at = Some(message.clone());
        let (parents, last) =
            path[1..].rsplit_once('/').map_or((None, &path[1..]), |(parents, last)| (Some(parents), last));
        for parent in parents.into_iter().flat_map(|parents| parents.split('/')) {
            at = at
                .filter(|at| at.has_field_by_name(parent))
                .and_then(|at| at.get_field_by_name(parent).and_then(|value| value.as_message().cloned()));
        }
        let value = at.and_then(|at| {
            let descriptor = at.descriptor().get_field_by_name(last).unwrap();
            let is_there = !descriptor.supports_presence() || at.has_field(&descriptor);
            is_there.then(|| shown(&at.get_field(&descriptor)))
        });
        row.insert(field.name, value.unwrap_or(serde_json::Value::Null));
    }
    row.into()
}

/// Keys and values that mostly exist, in any order.
fn parts() -> impl Strategy<Value = Vec<u8>> {
    let inner = prop_oneof![
        any::<[u8; 8]>().prop_map(|x| [&[0x09][..], &x].concat()),
        "[a-z]{0,3}".prop_map(|y| [&[0x12, y.len() as u8][..], y.as_bytes()].concat()),
        any::<[u8; 8]>().prop_map(|x| [&[0x1a, 9, 0x09][..], &x].concat()),
        (0_u8..0x80).prop_map(|z| vec![0x20, z]),
        proptest::collection::vec(0_u8..0x80, 0..4).prop_map(|z| [&[0x22, z.len() as u8][..], &z].concat()),
    ];
    let inner = proptest::collection::vec(inner, 0..4).prop_map(|parts| parts.concat());
    let varint = proptest::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| {
        let mut bytes: Vec<u8> = bytes.iter().map(|byte| byte | 0x80).collect();
        bytes.push(1);
        bytes
    });
    let keyed = |key: u8| move |value: Vec<u8>| [&[key][..], &value].concat();
    let one = prop_oneof![
        varint.clone().prop_map(keyed(0x08)),
        varint.clone().prop_map(keyed(0x10)),
        any::<[u8; 4]>().prop_map(|c| [&[0x1d][..], &c].concat()),
        any::<i32>().prop_map(|d| [&[0x21][..], &(f64::from(d) / 8.0).to_le_bytes()].concat()),
        "[a-zä]{0,4}".prop_map(|e| [&[0x2a, e.len() as u8][..], e.as_bytes()].concat()),
        any::<[u8; 3]>().prop_map(|f| [&[0x32, 3][..], &f].concat()),
        varint.clone().prop_map(keyed(0x38)),
        varint.clone().prop_map(keyed(0x40)),
        inner.clone().prop_map(|inner| [&[0x4a, inner.len() as u8][..], &inner].concat()),
        varint.clone().prop_map(keyed(0x50)),
        inner.prop_map(|inner| [&[0x5a, inner.len() as u8][..], &inner].concat()),
        any::<i16>().prop_map(|k| [&[0x65][..], &(f32::from(k) / 8.0).to_le_bytes()].concat()),
        varint.clone().prop_map(|seconds| [&[0x6a, seconds.len() as u8 + 1, 0x08][..], &seconds].concat()),
        Just(vec![0x73, 0x08, 0x01, 0x74]),
        varint.clone().prop_map(|l| [&[0x80, 0x01][..], &l].concat()),
        proptest::collection::vec(varint, 0..3).prop_map(|l| {
            let l = l.concat();
            [&[0x82, 0x01, l.len() as u8][..], &l].concat()
        }),
    ];
    proptest::collection::vec(one, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_row_has_what_another_implementation_reads(
        message in parts(),
        change in proptest::option::weighted(0.5, (any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        let mut message = message;
        if let Some((at, byte)) = change.filter(|_| !message.is_empty()) {
            let at = at.index(message.len());
            message[at] = byte;
        }
        thread_local!(static SCHEMA: ProtobufSchema = proto3(ALL));
        SCHEMA.with(|schema| {
            let got = row(schema, &COLUMNS, &message);
            match DynamicMessage::decode(schema.message().clone(), &message[..]) {
                Ok(other) => {
                    let got: serde_json::Value = serde_json::from_str(&got).unwrap_or_else(|_| panic!("{got} of {message:02x?}"));
                    // Floats take the same way through text.
                    let expected: serde_json::Value = serde_json::from_str(&expected(&other).to_string()).unwrap();
                    prop_assert_eq!(got, expected);
                }
                Err(error) => {
                    // It looks into what nobody declared, and at text that other text takes the place of, too.
                    let is_elsewhere = message.contains(&0x5a) || message.contains(&0x1a);
                    let is_other_text = error.to_string().contains("UTF-8");
                    prop_assert!(
                        !got.starts_with('{') || is_elsewhere || is_other_text,
                        "{}: {} of {:02x?}", error, got, message
                    );
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_set_in_which_a_byte_is_another_is_read_or_refused(at: proptest::sample::Index, byte: u8) {
        thread_local!(static WHOLE: Vec<u8> = compiled(&format!("syntax = \"proto3\"; package plant;
            import \"google/protobuf/timestamp.proto\"; enum E {{ option allow_alias = true; Z = 0; Y = 0; }}
            message Reading {{ {ALL} map<string, E> m = 14 [deprecated = true]; repeated E e2 = 15; reserved 20 to 30; }}")));
        WHOLE.with(|whole| {
            let mut set = whole.clone();
            let at = at.index(set.len());
            set[at] = byte;
            if let Ok(types) = ProtobufTypes::parse(&set) && let Some(schema) = types.message("plant.Reading") {
                let _ = decode_with(&schema, &COLUMNS, &[b"\x08\x05"]);
            }
        });
    }

    #[test]
    fn whatever_bytes_come_a_message_is_a_row_or_a_dead_letter(
        message in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            proptest::collection::vec(prop_oneof![8 => 0_u8..0x70, 1 => any::<u8>()], 0..200),
        ],
    ) {
        thread_local!(static SCHEMA: ProtobufSchema = proto3(ALL));
        SCHEMA.with(|schema| {
            let (rows, letters) = decode_with(schema, &COLUMNS, &[&message]).unwrap();
            prop_assert_eq!(rows.lines().count() + letters.len(), 1);
            Ok(())
        })?;
    }
}
