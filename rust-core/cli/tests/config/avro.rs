//! Messages of Avro: the schema is read with the configuration, and what does not fit it is shown at its field.

use ringmill::config::parse;
use ringmill::config::text::Text;
use ringmill_connect::{AvroSpec, BinaryFormat, MessageFormat};
use ringmill_engine::plan::{NodeKind, SourceConnector};

use crate::{around, machine, node};

const SCHEMA: &str = r#"{"type": "record", "name": "Reading", "fields": [
    {"name": "sensor", "type": "string"}, {"name": "celsius", "type": "double"},
    {"name": "samples", "type": {"type": "array", "items": "long"}}]}"#;

const KAFKA: &str = "kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]";
const MQTT: &str = "kind = \"mqtt\"\nurl = \"mqtt://b\"\ntopics = [\"t\"]\nclient_id = \"c\"";

/// The format of the messages, or the mistakes.
fn format(keys: &str, fields: &str) -> Result<MessageFormat, String> {
    format_of(KAFKA, keys, fields)
}

/// The same of another source.
fn format_of(source: &str, keys: &str, fields: &str) -> Result<MessageFormat, String> {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    std::fs::write(folder.path().join("reading.avsc"), SCHEMA).expect("it can be written");
    std::fs::write(folder.path().join("torn.avsc"), &SCHEMA[..40]).expect("it can be written");
    let text = Text::new("p.toml", &around(&format!("{source}\nfields = {{ {fields} }}\n{keys}"), ""));
    let config = parse(text, &[], folder.path(), "p", &machine(2))
        .map_err(|mistakes| mistakes.to_string().replace(&folder.path().display().to_string(), "FOLDER"))?;
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    match &source.connector {
        SourceConnector::Kafka(spec) => Ok(spec.format.clone()),
        SourceConnector::Mqtt(spec) => Ok(spec.format.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_schema_is_read_and_fits_the_fields() {
    let fields = "sensor = \"utf8\", celsius = \"float64\", topic = \"utf8\", samples = \"list[float64]\"";
    let keys = "topic_field = \"topic\"\nformat = \"avro\"\navro = { schema_file = \"reading.avsc\"";
    let read = |rest: &str| match format(&format!("{keys}{rest} }}"), fields) {
        Ok(MessageFormat::Binary(BinaryFormat::Avro(avro))) => *avro,
        other => panic!("{other:?}"),
    };
    assert!(matches!(read(""), AvroSpec::Datum(_)));
    assert!(matches!(read(", encoding = \"single-object\""), AvroSpec::SingleObject(_)));
    assert_eq!(format("", "a = \"int64\""), Ok(MessageFormat::Json));
    let keys = "format = \"avro\"\navro = { registry = \"http://r:8081\", user = \"mill\", password = \"$CARGO_PKG_NAME\", timeout = \"3s\" }";
    let Ok(MessageFormat::Binary(BinaryFormat::Avro(avro))) = format(keys, "a = \"int64\"") else {
        panic!("it is right")
    };
    let AvroSpec::Registry(registry, None) = *avro else { panic!("a registry") };
    assert_eq!((registry.url.reveal(), registry.user.as_deref()), ("http://r:8081", Some("mill")));
    assert_eq!((registry.password.expect("one").reveal(), registry.timeout.as_secs()), ("ringmill", 3));
}

#[test]
fn what_does_not_fit_the_schema_is_shown_at_its_field() {
    let avro = "format = \"avro\"\navro = { schema_file = \"reading.avsc\" }";
    let cases = [
        (
            avro,
            "sensor = \"int64\"",
            "p.toml:5:21: `sensor` does not fit the schema: it is int64, and the schema has string (declare sensor = \"utf8\")",
        ),
        (
            avro,
            "a = \"utf8\"",
            "p.toml:5:16: `a` does not fit the schema: the schema has no field \"a\" (it has sensor, celsius, samples; a nullable field may be missing)",
        ),
        (
            "format = \"avro\"",
            "a = \"utf8\"",
            "p.toml:6:10: `format` is avro, but there is no table `avro` (add avro = { schema_file = \"reading.avsc\" })",
        ),
        (
            "avro = { schema_file = \"reading.avsc\" }",
            "a = \"utf8\"",
            "p.toml:6:1: `avro` has no effect without format = \"avro\"",
        ),
        (
            "format = \"avro\"\navro = {}",
            "a = \"utf8\"",
            "p.toml:7:1: `avro` needs either `schema_file` or `registry` (add schema_file = \"reading.avsc\")",
        ),
        (
            "format = \"avro\"\navro = { schema_file = \"reading.avsc\", registry = \"http://r\" }",
            "sensor = \"binary\", celsius = \"float32\"",
            "p.toml:5:41: `celsius` does not fit the schema: it is float32, and the schema has double (declare celsius = \"float64\")",
        ),
        (
            "format = \"avro\"\navro = { encoding = \"datum\", registry = \"http://r\" }",
            "a = \"utf8\"",
            "p.toml:7:10: `encoding` has no effect with `registry`",
        ),
        (
            "format = \"avro\"\navro = { registry = \"r:8081\" }",
            "a = \"utf8\"",
            "p.toml:7:1: `registry`: this is no address that begins with http:// or https://",
        ),
        (
            "format = \"avro\"\navro = { registry = \"http://r\", user = \"u\", password = \"hush\" }",
            "a = \"utf8\"",
            "p.toml:7:1: `password` is no password itself but names the variable in which it stands",
        ),
        (
            "format = \"avro\"\navro = { schema_file = \"reading.avsc\", user = \"u\" }",
            "sensor = \"utf8\"",
            "p.toml:7:40: `user` has no effect without `registry`",
        ),
        (
            "format = \"avro\"\navro = { schema_file = \"gone.avsc\" }",
            "a = \"utf8\"",
            "p.toml:7:24: `schema_file`: FOLDER/gone.avsc: No such file or directory (os error 2)",
        ),
    ];
    for (keys, fields, expected) in cases {
        assert_eq!(format(keys, fields).expect_err(fields).trim_end(), expected);
    }
    let torn = format("format = \"avro\"\navro = { schema_file = \"torn.avsc\" }", "a = \"utf8\"");
    let torn = torn.expect_err("it is torn");
    assert!(torn.starts_with("p.toml:7:24: `schema_file`: FOLDER/torn.avsc: "), "{torn}");
}

#[test]
fn messages_of_mqtt_have_a_format_too_and_no_headers() {
    let keys = "topic_field = \"topic\"\nformat = \"avro\"\navro = { schema_file = \"reading.avsc\" }";
    let read = format_of(MQTT, keys, "sensor = \"utf8\", topic = \"utf8\"");
    assert!(matches!(read, Ok(MessageFormat::Binary(BinaryFormat::Avro(_)))), "{read:?}");
    assert_eq!(format_of(MQTT, "", "a = \"int64\""), Ok(MessageFormat::Json));
    let wrong = format_of(MQTT, keys, "celsius = \"utf8\", topic = \"utf8\"").expect_err("it is a double");
    assert!(wrong.starts_with("p.toml:6:22: `celsius` does not fit the schema"), "{wrong}");
    let by_header = "type = { header = \"kind\" }\ntypes.a.fields = { a = \"int64\" }";
    let wrong = format_of(MQTT, by_header, "a = \"int64\"").expect_err("there are none");
    assert!(wrong.contains("`header`"), "{wrong}");
}
