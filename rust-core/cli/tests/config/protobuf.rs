//! Messages of Protobuf: their type is read with the configuration, and what does not fit it is shown at its field.

use ringmill::config::text::Text;
use ringmill::config::{Config, parse};
use ringmill_connect::{BinaryFormat, MessageFormat, MessageOutput, ProtobufOutput, ProtobufSpec, ProtobufTarget};
use ringmill_engine::plan::{NodeKind, SinkSpec, SourceConnector};

use crate::{around, machine, node};

const TYPES: &str = "syntax = \"proto3\"; package plant;
    message Reading { string sensor = 1; double celsius = 2; repeated int64 samples = 3; } message Alarm {}";

/// What a file with these types beside it says, or the mistakes.
fn loaded(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("it can be written");
    write("plant.proto", TYPES.as_bytes());
    let mut compiler = protox::Compiler::new([folder.path()]).expect("a folder");
    let compiled = compiler.open_file("plant.proto").expect("it is right").encode_file_descriptor_set();
    write("plant.pb", &compiled);
    write("torn.pb", &compiled[..40]);
    parse(Text::new("p.toml", text), &[], folder.path(), "p", &machine(2))
        .map_err(|mistakes| mistakes.to_string().replace(&folder.path().display().to_string(), "FOLDER"))
}

/// The format of a source's messages, or the mistakes.
fn format(keys: &str, fields: &str) -> Result<MessageFormat, String> {
    let kafka = format!("kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\nfields = {{ {fields} }}\n{keys}");
    let config = loaded(&around(&kafka, ""))?;
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Kafka(spec) = &source.connector else { panic!("brokers") };
    Ok(spec.format.clone())
}

/// The format of a sink's messages, or the mistakes.
fn output(keys: &str) -> Result<ProtobufOutput, String> {
    let config = loaded(&format!(
        "[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"kafka\"\ninputs = [\"s\"]\nbrokers = [\"b:9092\"]\ntopic = \"t\"\n\
         format = \"protobuf\"\nprotobuf = {{ {keys} }}\n"
    ))?;
    let NodeKind::Sink(SinkSpec::Kafka(sink)) = node(&config, "o") else { panic!("a sink") };
    let MessageOutput::Protobuf(output) = sink.format.clone() else { panic!("messages of Protobuf") };
    Ok(*output)
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

#[test]
fn a_sink_writes_a_type_of_a_set_or_one_that_a_registry_is_told() {
    let plain = output("descriptor_file = \"plant.pb\", message = \"plant.Reading\", paths = { s = \"/sensor\" }");
    let plain = plain.expect("it is right");
    assert!(matches!(plain.target, ProtobufTarget::Plain(_)) && plain.paths["s"] == "/sensor", "{plain:?}");
    let target = |keys: &str| output(&format!("registry = \"http://r\"{keys}")).expect(keys).target;
    let ProtobufTarget::Registry { subject, schema: None, .. } = target("") else { panic!("of columns") };
    assert_eq!(subject, "t-value");
    let own = ", schema_file = \"plant.proto\", message = \"plant.Alarm\", subject = \"alarms\"";
    let ProtobufTarget::Registry { subject, schema: Some(_), .. } = target(own) else { panic!("one of yours") };
    assert_eq!(subject, "alarms");
}

#[test]
fn what_a_sink_cannot_write_by_is_shown_at_its_key() {
    let cases = [
        (
            "",
            "p.toml:9:1: `protobuf` needs either `descriptor_file` or `registry` (add descriptor_file = \"plant.pb\", message = \"plant.Reading\")",
        ),
        (
            "schema_file = \"plant.proto\", descriptor_file = \"plant.pb\", message = \"plant.Alarm\"",
            "p.toml:9:14: `schema_file` has no effect without `registry`",
        ),
        (
            "registry = \"http://r\", descriptor_file = \"plant.pb\"",
            "p.toml:9:37: `descriptor_file` has no effect with `registry`",
        ),
        ("registry = \"http://r\", paths = { s = \"/a\" }", "p.toml:9:37: `paths` has no effect without `schema_file`"),
        ("registry = \"http://r\", message = \"a\"", "p.toml:9:37: `message` has no effect without `schema_file`"),
        (
            "registry = \"http://r\", schema_file = \"plant.proto\"",
            "p.toml:9:1: `protobuf` needs `message` with `schema_file` (add the full name of the type, such as message = \"plant.Reading\")",
        ),
        (
            "registry = \"http://r\", schema_file = \"plant.proto\", message = \"plant.Redding\"",
            "p.toml:9:76: `message`: FOLDER/plant.proto has no message plant.Redding (did you mean `plant.Reading`?)",
        ),
        (
            "descriptor_file = \"plant.pb\", message = \"plant.Alarm\", subject = \"x\"",
            "p.toml:9:69: `subject` has no effect without `registry`",
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(output(keys).expect_err(keys).trim_end(), expected);
    }
    let mistake = output("registry = \"http://r\", schema_file = \"plant.pb\", message = \"a\"").expect_err("no text");
    assert!(mistake.starts_with("p.toml:9:51: `schema_file`: FOLDER/plant.pb: "), "{mistake}");
}
