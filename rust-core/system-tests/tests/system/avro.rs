//! Messages of Avro, as the official Python package writes them: through the death of the core, with dead letters that are
//! fed back, and the example of the documentation.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::chaos::{Chance, Progress, kill_after, rounds};
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::messages::{numbers_of, shown_numbers, written_by_python};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::page::Page;
use ringmill_system_tests::registry::Registry;
use ringmill_system_tests::{CHECKPOINT, Job, free_address, python, read_until, ringmill, sinks_of, until};
use serde_json::{Value, json};

/// Writes each row of standard input (a JSON object a line) by the schema, its length before it.
const WRITER: &str = r#"
import io, json, struct, sys, uuid, datetime, decimal
import avro.io, avro.schema
schema = avro.schema.parse(sys.argv[1])
prefix = b"\xc3\x01" + schema.fingerprint("CRC-64-AVRO") if sys.argv[2] == "single-object" else bytes.fromhex(sys.argv[2])
writer = avro.io.DatumWriter(schema)
kinds = {
    "at": lambda x: datetime.datetime.fromtimestamp(x / 1000, datetime.timezone.utc),
    "price": decimal.Decimal,
    "raw": bytes.fromhex,
}
for line in sys.stdin:
    row = {key: kinds.get(key, lambda x: x)(value) for key, value in json.loads(line).items()}
    out = io.BytesIO()
    writer.write(row, avro.io.BinaryEncoder(out))
    message = prefix + out.getvalue()
    sys.stdout.buffer.write(struct.pack("<I", len(message)) + message)
"#;

/// These rows as messages.
fn written(schema: &str, rows: &[Value]) -> Vec<Vec<u8>> {
    written_behind("", schema, rows)
}

/// The same behind bytes in hexadecimal, or `single-object`s.
fn written_behind(prefix: &str, schema: &str, rows: &[Value]) -> Vec<Vec<u8>> {
    written_by_python(WRITER, &[schema, prefix], rows)
}

const NUMBER: &str = r#"{"type": "record", "name": "Number", "fields": [
    {"name": "note", "type": ["null", "string"]}, {"name": "number", "type": "long"}]}"#;

fn pipeline(kafka: &Kafka, keys: &str, fields: &str) -> String {
    numbers_of(kafka, "avro", keys, fields)
}

#[test]
fn what_the_official_package_writes_is_read() {
    let schema = r#"{"type": "record", "name": "All", "namespace": "plant", "fields": [
        {"name": "number", "type": "long"},
        {"name": "small", "type": "int"},
        {"name": "single", "type": "float"},
        {"name": "double", "type": "double"},
        {"name": "is_on", "type": "boolean"},
        {"name": "text", "type": ["null", "string"], "default": null},
        {"name": "raw", "type": "bytes"},
        {"name": "suit", "type": {"type": "enum", "name": "Suit", "symbols": ["CLUBS", "HEARTS"]}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "samples", "type": {"type": "array", "items": "double"}},
        {"name": "labels", "type": {"type": "map", "values": "string"}},
        {"name": "meta", "type": {"type": "record", "name": "Meta", "fields": [
            {"name": "site", "type": "string"}, {"name": "up", "type": ["null", "Meta"]}]}}]}"#;
    let up = json!({ "site": "top", "up": null });
    let row = |number: u64, text: Value| {
        json!({
            "number": number, "small": -7, "single": 0.5, "double": 0.1, "is_on": true, "text": text, "raw": "00ff",
            "suit": "HEARTS", "at": 1_500, "price": "-12.34", "samples": [0.25, -1e300],
            "labels": { "a": "b", "c": "" }, "meta": { "site": "north", "up": up },
        })
    };
    let kafka = Kafka::with_topic("numbers", 1);
    for message in written(schema, &[row(1, json!(null)), row(2, json!("a\nä"))]) {
        kafka.write("numbers", 0, &message);
    }
    kafka.flush();
    let fields = "number = \"int64\", small = \"float64\", single = \"float64\", double = \"float64\", is_on = \"bool\", \
                  text = { type = \"utf8\", nullable = true }, raw = \"binary\", suit = \"utf8\", at = \"timestamp[us]\", \
                  price = \"utf8\", samples = \"list[float64]\", site = { type = \"utf8\", path = \"/meta/site\" }, \
                  above = { type = \"utf8\", path = \"/meta/up/site\", nullable = true }";
    let keys = "avro = { schema_file = \"all.avsc\" }\nstop_at_end = true";
    let job = Job::new(&pipeline(&kafka, keys, fields), "");
    job.write("all.avsc", schema);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (2, 0));
    let expected = |number: u64, text: Value| {
        json!({
            "number": number, "small": -7.0, "single": 0.5, "double": 0.1, "is_on": true, "text": text, "raw": "AP8=",
            "suit": "HEARTS", "at": "1970-01-01T00:00:01.500000Z", "price": "-12.34", "samples": [0.25, -1e300],
            "site": "north", "above": "top",
        })
    };
    assert_eq!(job.rows("out.ndjson"), [expected(1, json!(null)), expected(2, json!("a\nä"))]);
}

#[test]
fn every_message_is_shown_once_and_in_order_however_often_the_core_dies() {
    let kafka = Kafka::with_topic("numbers", 1);
    let fields = "number = \"int64\", at = \"timestamp[ms]\"";
    let keys = "avro = { schema_file = \"number.avsc\" }\ntimestamp_field = \"at\"";
    let job = Job::new(&pipeline(&kafka, keys, fields), "");
    job.write("number.avsc", NUMBER);
    let mut chance = Chance::from_environment("avro");
    let wanted = rounds("RINGMILL_KAFKA_KILLS", 10);
    let all = 0..1_500 * wanted as usize + 10;
    let all: Vec<Value> = all.map(|number| json!({ "note": "x".repeat(number % 50), "number": number })).collect();
    let mut messages = written(NUMBER, &all).into_iter();
    let mut sent = 0;
    let mut send = |count: u64| {
        for message in messages.by_ref().take(count as usize) {
            kafka.write("numbers", 0, &message);
            sent += 1;
        }
        kafka.flush();
        sent
    };
    for _ in Progress::over("kills", wanted) {
        let before = shown_numbers(&job).len();
        let mut child = job.start(&[]);
        send(1 + chance.below(1_500));
        let mut has_begun = || shown_numbers(&job).len() > before;
        kill_after(&mut child, &mut has_begun, chance.between(Duration::ZERO, Duration::from_millis(60)));
        assert!(
            shown_numbers(&job).into_iter().eq(0..shown_numbers(&job).len() as u64),
            "none is left out or comes again"
        );
    }
    let mut child = job.start(&[]);
    let sent = send(10);
    until(&mut child, || shown_numbers(&job).len() as u64 == sent);
    assert_eq!(job.end(child).code, Some(0));
    assert!(shown_numbers(&job).into_iter().eq(0..sent));
}

#[test]
fn what_is_not_of_the_schema_is_kept_and_can_be_fed_back() {
    let kafka = Kafka::with_topic("numbers", 1);
    let mut messages = written(NUMBER, &[json!({ "note": "a", "number": 1 }), json!({ "note": null, "number": 2 })]);
    messages.insert(1, b"\x07\xff\x00".to_vec());
    messages.push(messages[0][..2].to_vec());
    messages.push([&messages[0][..], b"x"].concat());
    for message in &messages {
        kafka.write("numbers", 0, message);
    }
    kafka.flush();
    let keys = "avro = { schema_file = \"number.avsc\" }\nstop_at_end = true\noffset_field = \"offset\"";
    // A note that is null does not fit yet.
    let strict = "number = \"int64\", note = \"utf8\", offset = \"int64\"";
    let text = pipeline(&kafka, keys, strict);
    let text = text.split("\n[sinks.dead]").next().expect("a sink of dead letters").to_owned();
    let job = Job::new(&text, "");
    job.write("number.avsc", NUMBER);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 4));
    let letters = job.letters(&[]);
    let reasons: BTreeMap<u64, &str> = letters
        .iter()
        .map(|letter| (letter["offset"].as_u64().expect("an offset"), letter["reason"].as_str().expect("a reason")))
        .collect();
    assert_eq!(reasons[&1], "not valid Avro of this schema at byte 1: the union or enum has no such entry");
    assert_eq!(reasons[&2], "field \"note\" is null");
    assert_eq!(reasons[&3], "not valid Avro of this schema at byte 2: it ends within a value");
    assert_eq!(reasons[&4], "1 bytes follow the datum at byte 4");
    job.write("pipeline.toml", text.replace("note = \"utf8\"", "note = { type = \"utf8\", nullable = true }"));
    job.dlq(&["replay", "pipeline.toml"]);
    let rows = job.rows("out.ndjson");
    let expected =
        [json!({ "number": 1, "note": "a", "offset": 0 }), json!({ "number": 2, "note": null, "offset": 2 })];
    assert_eq!(rows, expected, "with what stood beside it");
}

#[test]
fn messages_wait_for_a_registry_that_is_away_and_those_that_it_does_not_know_are_kept() {
    let kafka = Kafka::with_topic("numbers", 1);
    let port = free_address().port();
    let keys = format!(
        "avro = {{ registry = \"http://127.0.0.1:{port}\", user = \"mill\", password = \"$REGISTRY_PASSWORD\" }}\n\
         stop_at_end = true"
    );
    let fields = "number = \"int64\", note = { type = \"utf8\", nullable = true }";
    let text = pipeline(&kafka, &keys, fields);
    let text = text.split("\n[sinks.dead]").next().expect("a sink of dead letters");
    let job = Job::new(text, "");
    let newer = r#"{"type": "record", "name": "Number", "fields": [{"name": "number", "type": "int"},
        {"name": "unit", "type": {"type": "enum", "name": "Unit", "symbols": ["K"]}, "default": "K"}]}"#;
    let older = |number: u64| json!({ "note": "n", "number": number });
    let mut messages = written_behind("0000000001", NUMBER, &[older(0), older(1)]);
    messages.extend(written_behind("0000000102", newer, &[json!({ "number": 2, "unit": "K" })]));
    messages.extend(written_behind("0000000007", NUMBER, &[older(3)]));
    messages.extend(written_behind("0000000001", NUMBER, &[older(4)]));
    for message in &messages {
        kafka.write("numbers", 0, message);
    }
    kafka.flush();
    let start = || job.command(&[]).env("REGISTRY_PASSWORD", "pass").spawn().expect("the command is built");
    let mut child = start();
    read_until(&mut child, "messages of schema 1 wait until it answers");
    child.kill().expect("it is a child");
    child.wait().expect("it is a child");
    let mut child = start();
    read_until(&mut child, "messages of schema 1 wait until it answers");
    job.write("1", NUMBER);
    job.write("258", newer);
    let _registry = Registry::start(&job, port);
    let ended = job.wait(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 1));
    assert_eq!(shown_numbers(&job), [0, 1, 2, 4]);
    assert_eq!(job.read("asked"), ["1", "258", "7"].map(|id| format!("{id} Basic bWlsbDpwYXNz\n")).concat());
    job.write("7", NUMBER);
    let mut replay = Command::new(ringmill());
    replay.args(["dlq", "replay", "pipeline.toml"]).current_dir(job.folder()).env("REGISTRY_PASSWORD", "pass");
    assert!(replay.status().expect("it runs").success());
    assert_eq!(shown_numbers(&job), [0, 1, 2, 4, 3], "once the registry knows it");
}

#[test]
fn a_server_that_is_no_registry_ends_the_run() {
    let kafka = Kafka::with_topic("numbers", 1);
    kafka.write("numbers", 0, b"\0\0\0\0\x01\0\0");
    kafka.flush();
    let mut folder = Command::new(python());
    folder.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = folder.spawn().expect("there is a Python");
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    let address = line.split(['(', ')']).nth(1).expect("an address").trim_end_matches('/').to_owned();
    let keys = format!("avro = {{ registry = \"{address}\" }}");
    let job = Job::new(&pipeline(&kafka, &keys, "number = \"int64\""), "");
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    let reason = format!("schema registry at {address}: it answers 404 Not Found to /schemas/ids/1");
    assert!(ended.stderr.contains(&reason), "{}", ended.stderr);
    server.kill().and_then(|()| server.wait()).expect("it is a child");
}

#[test]
fn single_objects_are_read_from_a_stream_of_nats() {
    let Some(server) = Nats::start() else { return };
    server.create("EVENTS", &["plant.>"], Config::default());
    for message in written_behind("single-object", NUMBER, &[json!({ "note": null, "number": 7 })]) {
        server.send("plant.a", &message);
    }
    server.send("plant.b", &[&b"\xc3\x01"[..], &[0; 9]].concat());
    let job = Job::new(
        &format!(
            r#"
{CHECKPOINT}
[sources.messages]
kind = "nats"
url = "{}"
stream = "EVENTS"
stop_at_end = true
format = "avro"
avro = {{ schema_file = "number.avsc", encoding = "single-object" }}
subject_field = "subject"
fields = {{ subject = "utf8", number = "int64" }}
{}"#,
            server.url(),
            sinks_of("messages")
        ),
        "",
    );
    job.write("number.avsc", NUMBER);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (2, 1));
    assert_eq!(job.rows("out.ndjson"), [json!({ "subject": "plant.a", "number": 7 })]);
    let letter = &job.rows("dead.ndjson")[0];
    assert!(
        letter["reason"].as_str().expect("a reason").starts_with("its schema has the fingerprint 0000000000000000")
    );
    assert_eq!(letter["header"], json!("{\"subject\":\"plant.b\"}"));
}

#[test]
fn the_example_of_the_documentation_runs() {
    let kafka = Kafka::with_topic("readings", 1);
    let page = Page::read("formats/avro");
    let job = page.job(&[("[\"localhost:9092\"]", &kafka.brokers())]);
    let schema = page.file("reading.avsc");
    let row = |sensor: &str, site: Value| {
        let samples = [20.5, 21.0];
        json!({ "sensor": sensor, "at": 1_500, "celsius": 20.75, "samples": samples, "meta": site })
    };
    for message in written(schema, &[row("a", json!({ "site": "north" })), row("b", json!(null))]) {
        kafka.write("readings", 0, &message);
    }
    kafka.flush();
    let ended = job.run(&["sources.readings.stop_at_end=true"]);
    assert_eq!(ended.figure("/rows/in"), 2);
    let rows = job.rows("readings.ndjson");
    assert_eq!((rows[0]["site"].as_str(), rows[1]["site"].as_str()), (Some("north"), None));
    assert_eq!(rows[0]["samples"], json!([20.5, 21.0]));
}
