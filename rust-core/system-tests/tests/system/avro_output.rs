//! Rows as messages of Avro: to Kafka by a registry, read by the official Python package and fastavro, and to brokers without
//! one, read by our own sources. A registry that refuses or is away is found at the start.

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::messages::read_by_python;
use ringmill_system_tests::mosquitto::Mosquitto;
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::registry::Registry;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, free_address, sinks_of, until};
use serde_json::{Value, json};

const ROWS: u64 = 500;

const FIELDS: &str =
    r#"number = "int64", name = { type = "utf8", nullable = true }, at = "timestamp[ms]", samples = "list[float64]""#;

const SCHEMA: &str = r#"{"type": "record", "name": "Row", "namespace": "plant", "fields": [
    {"name": "name", "type": ["null", "string"]}, {"name": "number", "type": "long"},
    {"name": "samples", "type": {"type": "array", "items": "double"}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"#;

fn row(number: u64) -> Value {
    let name = (!number.is_multiple_of(3)).then(|| format!("n{number}"));
    json!({ "number": number, "name": name, "at": format!("1970-01-01T00:00:00.{:03}Z", number), "samples": [number as f64, 0.5] })
}

/// A job that writes the rows of a file.
fn writing(sink: &str) -> Job {
    let source = file_source(1_000_000, FIELDS);
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n[sinks.out]\ninputs = [\"rows\"]\n{sink}"), "");
    job.write("in.ndjson", (0..ROWS).map(|number| format!("{}\n", row(number))).collect::<String>());
    job.write("row.avsc", SCHEMA);
    job
}

fn by_kafka(kafka: &Kafka, avro: &str) -> Job {
    let brokers = kafka.brokers();
    writing(&format!(
        "kind = \"kafka\"\nbrokers = {brokers}\ntopic = \"rows\"\nkey = \"number\"\nformat = \"avro\"\navro = {avro}\n"
    ))
}

/// Reads messages in hexadecimal, one a line, each by the schema that the registry has for its number, and shows their rows.
const READER: &str = r#"
import io, json, sys, urllib.request
import avro.schema, fastavro
from avro.io import BinaryDecoder, DatumReader

schemas = {}
for line in sys.stdin:
    message = bytes.fromhex(line)
    assert message[0] == 0
    number = int.from_bytes(message[1:5], "big")
    if number not in schemas:
        with urllib.request.urlopen(f"{sys.argv[1]}/schemas/ids/{number}") as answer:
            text = json.load(answer)["schema"]
        schemas[number] = avro.schema.parse(text), fastavro.parse_schema(json.loads(text))
    official, fast = schemas[number]
    stream = io.BytesIO(message[5:])
    row = DatumReader(official).read(BinaryDecoder(stream))
    assert not stream.read(), "all of it is read"
    assert fastavro.schemaless_reader(io.BytesIO(message[5:]), fast) == row
    row["at"] = row["at"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(json.dumps(row))
"#;

/// What the official package and fastavro make of the topic's messages, in the order of their numbers.
fn read_by_others(kafka: &Kafka, registry: &str) -> Vec<Value> {
    let messages: Vec<Vec<u8>> = kafka.messages("rows").into_iter().map(|(.., value)| value).collect();
    let mut rows = read_by_python(READER, &[registry], &messages);
    rows.sort_by_key(|row| row["number"].as_u64());
    rows
}

#[test]
fn the_official_package_and_fastavro_read_what_was_written_by_a_registry() {
    for (keys, written) in [("", "Row"), (", schema_file = \"row.avsc\", subject = \"plant.rows\"", "plant.Row")] {
        let kafka = Kafka::with_topic("rows", 3);
        let address = free_address();
        let url = format!("http://{address}");
        let job = by_kafka(&kafka, &format!("{{ registry = \"{url}\"{keys} }}"));
        let _registry = Registry::start(&job, address.port());
        let ended = job.run(&[]);
        assert_eq!(ended.figure("/rows/in"), ROWS, "{}", ended.stderr);
        let rows = read_by_others(&kafka, &url);
        assert!(rows.into_iter().eq((0..ROWS).map(row)), "all of them, each once");
        let schema: Value = serde_json::from_str(&job.read("1")).expect("a schema");
        let namespace = schema["namespace"].as_str().map(|space| format!("{space}.")).unwrap_or_default();
        assert_eq!(format!("{namespace}{}", schema["name"].as_str().expect("a name")), written);
        let subject = if keys.is_empty() { "rows-value" } else { "plant.rows" };
        assert_eq!(job.read("told").lines().collect::<Vec<_>>(), [subject], "once");
    }
}

#[test]
fn a_registry_that_refuses_or_is_away_and_a_schema_that_does_not_fit_end_the_run_at_its_start() {
    let kafka = Kafka::with_topic("rows", 1);
    let address = free_address();
    let refused = |job: &Job, code: i32, expected: &[&str]| {
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
    };
    let job = by_kafka(&kafka, &format!("{{ registry = \"http://{address}\" }}"));
    refused(&job, 1, &["schema registry at http://", "the schema of rows-value: "]);
    let registry = Registry::start(&job, address.port());
    job.write("refuses", "");
    refused(&job, 1, &["409 Conflict", "an incompatible schema"]);
    drop(registry);
    let job = by_kafka(&kafka, "{ schema_file = \"row.avsc\" }");
    job.write("row.avsc", SCHEMA.replace("\"name\": \"number\"", "\"name\": \"count\""));
    refused(
        &job,
        2,
        &["field \"number\": the schema has no such field", "field \"count\": the rows have no such column"],
    );
    assert!(kafka.messages("rows").is_empty());
}

/// A job that reads with one of our sources.
fn reading(source: &str) -> Job {
    let job = Job::new(
        &format!(
            "{CHECKPOINT}\n[sources.messages]\n{source}\nformat = \"avro\"\nfields = {{ {FIELDS} }}\n{}",
            sinks_of("messages")
        ),
        "",
    );
    job.write("row.avsc", SCHEMA);
    job
}

fn are_all_there(job: &Job) -> bool {
    let mut rows = job.whole_rows("out.ndjson");
    rows.sort_by_key(|row| row["number"].as_u64());
    rows.into_iter().eq((0..ROWS).map(row))
}

#[test]
fn brokers_without_a_registry_carry_datums_from_our_sinks_to_our_sources() {
    let avro = "avro = { schema_file = \"row.avsc\", encoding = \"single-object\" }";
    if let Some(broker) = Mosquitto::start() {
        let url = format!("mqtt://127.0.0.1:{}", broker.port());
        let to =
            reading(&format!("kind = \"mqtt\"\nurl = \"{url}\"\ntopics = [\"rows\"]\nclient_id = \"mill\"\n{avro}"));
        let mut taker = to.start(&[]);
        until(&mut taker, || broker.log().contains("Sending SUBACK to mill"));
        let from = writing(&format!("kind = \"mqtt\"\nurl = \"{url}\"\ntopic = \"rows\"\nformat = \"avro\"\n{avro}"));
        assert_eq!(from.run(&[]).figure("/rows/in"), ROWS);
        until(&mut taker, || are_all_there(&to));
        assert_eq!(to.end(taker).figure("/rows/dead_letters"), 0);
    }
    if let Some(server) = Nats::start() {
        server.create("rows", &["rows"], Config::default());
        let url = format!("nats://127.0.0.1:{}", server.port());
        let from = writing(&format!(
            "kind = \"nats\"\nurl = \"{url}\"\nstream = \"rows\"\nsubject = \"rows\"\nformat = \"avro\"\n{avro}"
        ));
        assert_eq!(from.run(&[]).figure("/rows/in"), ROWS);
        let to = reading(&format!("kind = \"nats\"\nurl = \"{url}\"\nstream = \"rows\"\nstop_at_end = true\n{avro}"));
        assert_eq!(to.run(&[]).figure("/rows/dead_letters"), 0);
        assert!(are_all_there(&to));
    }
}
