//! Messages of Protobuf: their type is read with the configuration, and what does not fit it is shown at its field.

use ringmill::config::parse;
use ringmill::config::text::Text;
use ringmill_connect::{BinaryFormat, MessageFormat, ProtobufSpec};
use ringmill_engine::plan::{NodeKind, SourceConnector};

use crate::{around, machine, node};

const TYPES: &str = "syntax = \"proto3\"; package plant;
    message Reading { string sensor = 1; double celsius = 2; repeated int64 samples = 3; } message Alarm {}";

/// The format of the messages, or the mistakes.
fn format(keys: &str, fields: &str) -> Result<MessageFormat, String> {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("it can be written");
    write("plant.proto", TYPES.as_bytes());
    let mut compiler = protox::Compiler::new([folder.path()]).expect("a folder");
    let compiled = compiler.open_file("plant.proto").expect("it is right").encode_file_descriptor_set();
    write("plant.pb", &compiled);
    write("torn.pb", &compiled[..40]);
    let kafka = format!("kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\nfields = {{ {fields} }}\n{keys}");
    let text = Text::new("p.toml", &around(&kafka, ""));
    let config = parse(text, &[], folder.path(), "p", &machine(2))
        .map_err(|mistakes| mistakes.to_string().replace(&folder.path().display().to_string(), "FOLDER"))?;
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Kafka(spec) = &source.connector else { panic!("brokers") };
    Ok(spec.format.clone())
}

#[test]
fn a_type_is_read_and_fits_the_fields() {
    let read = |keys: &str, fields: &str| match format(&format!("format = \"protobuf\"\n{keys}"), fields) {
        Ok(MessageFormat::Binary(BinaryFormat::Protobuf(protobuf))) => *protobuf,
        other => panic!("{other:?}"),
    };
    let keys = "topic_field = \"topic\"\nprotobuf = { descriptor_file = \"plant.pb\", message = \"plant.Reading\" }";
    let fields = "sensor = \"utf8\", celsius = \"float64\", topic = \"utf8\"";
    assert!(matches!(read(keys, fields), ProtobufSpec::Plain(_)));
    let keys = "protobuf = { registry = \"http://r:8081\", message = \"plant.Reading\" }";
    let ProtobufSpec::Registry(registry, name) = read(keys, "a = \"int64\"") else { panic!("a registry") };
    assert_eq!((registry.url.reveal(), name.as_deref()), ("http://r:8081", Some("plant.Reading")));
    assert!(matches!(read("protobuf = { registry = \"http://r\" }", "a = \"utf8\""), ProtobufSpec::Registry(_, None)));
}

#[test]
fn what_does_not_fit_the_type_is_shown_at_its_field() {
    let plain = "format = \"protobuf\"\nprotobuf = { descriptor_file = \"plant.pb\", message = \"plant.Reading\" }";
    let cases = [
        (
            plain,
            "sensor = \"int64\"",
            "p.toml:5:21: `sensor` does not fit the schema: it is int64, and the schema has string (declare sensor = \"utf8\")",
        ),
        (
            plain,
            "a = \"utf8\"",
            "p.toml:5:16: `a` does not fit the schema: the message plant.Reading has no field \"a\" (it has sensor, celsius, samples; a nullable field may be missing)",
        ),
        (
            plain,
            "samples = \"int64\"",
            "p.toml:5:22: `samples` does not fit the schema: it is int64, and the schema has repeated int64 (declare samples = \"list[int64]\")",
        ),
        (
            "format = \"protobuf\"",
            "a = \"utf8\"",
            "p.toml:6:10: `format` is protobuf, but there is no table `protobuf` (add protobuf = { descriptor_file = \"plant.pb\", message = \"plant.Reading\" })",
        ),
        (
            "protobuf = { descriptor_file = \"plant.pb\", message = \"plant.Reading\" }",
            "a = \"utf8\"",
            "p.toml:6:1: `protobuf` has no effect without format = \"protobuf\"",
        ),
        (
            "format = \"protobuf\"\nprotobuf = {}",
            "a = \"utf8\"",
            "p.toml:7:1: `protobuf` needs either `descriptor_file` or `registry` (add descriptor_file = \"plant.pb\", message = \"plant.Reading\")",
        ),
        (
            "format = \"protobuf\"\nprotobuf = { descriptor_file = \"plant.pb\" }",
            "a = \"utf8\"",
            "p.toml:7:1: `protobuf` needs `message` with `descriptor_file` (add the full name of the type, such as message = \"plant.Reading\")",
        ),
        (
            "format = \"protobuf\"\nprotobuf = { descriptor_file = \"plant.pb\", message = \"plant.Redding\" }",
            "a = \"utf8\"",
            "p.toml:7:54: `message`: FOLDER/plant.pb has no message plant.Redding (did you mean `plant.Reading`?)",
        ),
        (
            "format = \"protobuf\"\nprotobuf = { descriptor_file = \"plant.pb\", message = \"Sensor\" }",
            "a = \"utf8\"",
            "p.toml:7:54: `message`: FOLDER/plant.pb has no message Sensor (it has plant.Reading, plant.Alarm)",
        ),
        (
            "format = \"protobuf\"\nprotobuf = { descriptor_file = \"gone.pb\", message = \"plant.Reading\" }",
            "a = \"utf8\"",
            "p.toml:7:32: `descriptor_file`: FOLDER/gone.pb: No such file or directory (os error 2)",
        ),
        (
            "format = \"protobuf\"\nprotobuf = { descriptor_file = \"plant.pb\", registry = \"http://r\" }",
            "a = \"utf8\"",
            "p.toml:7:14: `descriptor_file` has no effect with `registry`",
        ),
        (
            "format = \"protobuf\"\nprotobuf = { descriptor_file = \"plant.pb\", message = \"plant.Reading\", user = \"u\" }",
            "sensor = \"utf8\"",
            "p.toml:7:71: `user` has no effect without `registry`",
        ),
    ];
    for (keys, fields, expected) in cases {
        assert_eq!(format(keys, fields).expect_err(fields).trim_end(), expected);
    }
    for file in ["torn.pb", "plant.proto"] {
        let keys = format!("format = \"protobuf\"\nprotobuf = {{ descriptor_file = \"{file}\", message = \"a\" }}");
        let mistake = format(&keys, "a = \"utf8\"").expect_err("it is none");
        assert!(mistake.starts_with(&format!("p.toml:7:32: `descriptor_file`: FOLDER/{file}: ")), "{mistake}");
        assert!(mistake.contains("protoc --include_imports --descriptor_set_out"), "{mistake}");
    }
}
