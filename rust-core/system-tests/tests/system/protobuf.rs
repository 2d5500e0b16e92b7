//! Messages of Protocol Buffers, of types that Google's compiler has compiled and written by Google's Python package:
//! through the death of the core, with dead letters that are fed back, and the example of the documentation.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::chaos::{Chance, Progress, kill_after, rounds};
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::messages::{compile_types, numbers_of, shown_numbers, written_by_python};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::page::Page;
use ringmill_system_tests::registry::Registry;
use ringmill_system_tests::{CHECKPOINT, Job, free_address, read_until, ringmill, sinks_of, until};
use serde_json::{Value, json};

/// Writes each row of standard input (a JSON object a line) as a message, its length before it.
const WRITER: &str = r#"
import json, struct, sys
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
pool = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(open(sys.argv[1], "rb").read()).file:
    pool.AddSerializedFile(file.SerializeToString())
kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(sys.argv[2]))
for line in sys.stdin:
    message = json_format.ParseDict(json.loads(line), kind()).SerializeToString()
    message = bytes.fromhex(sys.argv[3]) + message
    sys.stdout.buffer.write(struct.pack("<I", len(message)) + message)
"#;

/// These rows as messages of a type that was compiled before.
fn written(job: &Job, name: &str, rows: &[Value]) -> Vec<Vec<u8>> {
    written_behind("", job, name, rows)
}

/// The same behind bytes in hexadecimal.
fn written_behind(prefix: &str, job: &Job, name: &str, rows: &[Value]) -> Vec<Vec<u8>> {
    let types = job.folder().join("types.pb");
    written_by_python(WRITER, &[types.to_str().expect("a path of text"), name, prefix], rows)
}

fn send(kafka: &Kafka, topic: &str, messages: &[Vec<u8>]) {
    messages.iter().for_each(|message| kafka.write(topic, 0, message));
    kafka.flush();
}

const NUMBER: &str = "syntax = \"proto3\"; package plant;
    message Number { optional string note = 1; int64 number = 2; }
    message Newer { string unit = 3; int32 number = 2; }";

const KEYS: &str = "protobuf = { descriptor_file = \"types.pb\", message = \"plant.Number\" }";

fn pipeline(kafka: &Kafka, keys: &str, fields: &str) -> String {
    numbers_of(kafka, "protobuf", keys, fields)
}

#[test]
fn what_the_official_package_writes_is_read() {
    let text = r#"syntax = "proto3"; package plant;
        import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto";
        import "google/protobuf/wrappers.proto";
        enum Suit { CLUBS = 0; HEARTS = 1; }
        message Meta { string site = 1; Meta up = 2; }
        message All {
            int64 number = 1; sint32 small = 2; float single = 3; double double = 4; bool is_on = 5;
            optional string text = 6; bytes raw = 7; Suit suit = 8; google.protobuf.Timestamp at = 9;
            google.protobuf.Duration took = 10; google.protobuf.UInt32Value boxed = 11; fixed64 big = 12;
            repeated double samples = 13; map<string, string> labels = 14; Meta meta = 15;
            oneof kind { sfixed32 code = 16; string name = 17; } }"#;
    let row = |number: u64| {
        json!({
            "number": number, "small": -7, "single": 0.5, "double": 0.1, "is_on": true, "text": "a\nä", "raw": "AP8=",
            "suit": "HEARTS", "at": "1970-01-01T00:00:01.5Z", "took": "-1.5s", "boxed": 0,
            "big": u64::MAX, "samples": [0.25, -1e300], "labels": { "a": "b", "c": "" },
            "meta": { "site": "north", "up": { "site": "top" } }, "code": -3,
        })
    };
    let kafka = Kafka::with_topic("numbers", 1);
    let fields = "number = \"int64\", small = \"float64\", single = \"float64\", double = \"float64\", is_on = \"bool\", \
                  text = { type = \"utf8\", nullable = true }, raw = \"binary\", suit = \"utf8\", \
                  at = { type = \"timestamp[ms]\", nullable = true }, took = { type = \"float64\", nullable = true }, \
                  boxed = { type = \"uint32\", nullable = true }, big = \"uint64\", \
                  site = { type = \"utf8\", path = \"/meta/site\", nullable = true }, \
                  above = { type = \"utf8\", path = \"/meta/up/site\", nullable = true }, \
                  code = { type = \"int32\", nullable = true }, name = { type = \"utf8\", nullable = true }";
    let keys = "protobuf = { descriptor_file = \"types.pb\", message = \"plant.All\" }\nstop_at_end = true";
    let job = Job::new(&pipeline(&kafka, keys, fields), "");
    compile_types(&job, text);
    send(&kafka, "numbers", &written(&job, "plant.All", &[row(1), json!({}), json!({ "name": "n" })]));
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (3, 0));
    let empty = json!({
        "number": 0, "small": 0.0, "single": 0.0, "double": 0.0, "is_on": false, "text": null, "raw": "",
        "suit": "CLUBS", "at": null, "took": null, "boxed": null, "big": 0, "site": null, "above": null,
        "code": null, "name": null,
    });
    let full = json!({
        "number": 1, "small": -7.0, "single": 0.5, "double": 0.1, "is_on": true, "text": "a\nä", "raw": "AP8=",
        "suit": "HEARTS", "at": "1970-01-01T00:00:01.500Z", "took": -1.5, "boxed": 0, "big": u64::MAX,
        "site": "north", "above": "top", "code": -3, "name": null,
    });
    let mut named = empty.clone();
    named["name"] = json!("n");
    assert_eq!(job.rows("out.ndjson"), [full, empty, named], "one without bytes is one of zeros");
}

#[test]
fn every_message_is_shown_once_and_in_order_however_often_the_core_dies() {
    let kafka = Kafka::with_topic("numbers", 1);
    let fields = "number = \"int64\", at = \"timestamp[ms]\"";
    let job = Job::new(&pipeline(&kafka, &format!("{KEYS}\ntimestamp_field = \"at\""), fields), "");
    compile_types(&job, NUMBER);
    let mut chance = Chance::from_environment("protobuf");
    let wanted = rounds("RINGMILL_KAFKA_KILLS", 10);
    let all = 0..1_500 * wanted as usize + 10;
    let all: Vec<Value> = all.map(|number| json!({ "note": "x".repeat(number % 50), "number": number })).collect();
    let messages = written(&job, "plant.Number", &all);
    let mut sent = 0;
    let mut send_more = |count: u64| {
        let until = (sent + count as usize).min(messages.len());
        send(&kafka, "numbers", &messages[sent..until]);
        sent = until;
        sent as u64
    };
    for _ in Progress::over("kills", wanted) {
        let before = shown_numbers(&job).len();
        let mut child = job.start(&[]);
        send_more(1 + chance.below(1_500));
        let mut has_begun = || shown_numbers(&job).len() > before;
        kill_after(&mut child, &mut has_begun, chance.between(Duration::ZERO, Duration::from_millis(60)));
        assert!(
            shown_numbers(&job).into_iter().eq(0..shown_numbers(&job).len() as u64),
            "none is left out or comes again"
        );
    }
    let mut child = job.start(&[]);
    let sent = send_more(10);
    until(&mut child, || shown_numbers(&job).len() as u64 == sent);
    assert_eq!(job.end(child).code, Some(0));
    assert!(shown_numbers(&job).into_iter().eq(0..sent));
}

#[test]
fn what_is_not_of_the_type_is_kept_and_can_be_fed_back() {
    let kafka = Kafka::with_topic("numbers", 1);
    // One without a note does not fit yet.
    let strict = "number = \"int64\", note = \"utf8\", offset = \"int64\"";
    let text = pipeline(&kafka, &format!("{KEYS}\nstop_at_end = true\noffset_field = \"offset\""), strict);
    let text = text.split("\n[sinks.dead]").next().expect("a sink of dead letters").to_owned();
    let job = Job::new(&text, "");
    compile_types(&job, NUMBER);
    let rows = [json!({ "note": "a", "number": 1 }), json!({ "number": 2 })];
    let mut messages = written(&job, "plant.Number", &rows);
    messages.insert(1, b"\x0d1234".to_vec());
    messages.push(messages[0][..2].to_vec());
    messages.push(b"\x0a\x01\xff".to_vec());
    send(&kafka, "numbers", &messages);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 4));
    let letters = job.letters(&[]);
    let reasons: BTreeMap<u64, &str> = letters
        .iter()
        .map(|letter| (letter["offset"].as_u64().expect("an offset"), letter["reason"].as_str().expect("a reason")))
        .collect();
    let invalid = "not valid Protobuf of this schema at byte";
    let other_type = "field plant.Number.note has 32 bits, and in the schema a length and bytes";
    assert_eq!(reasons[&1], format!("{invalid} 0: {other_type}"));
    assert_eq!(reasons[&2], "field \"note\" is missing");
    assert_eq!(reasons[&3], format!("{invalid} 2: it ends within a value"));
    assert_eq!(reasons[&4], "field \"note\": expected utf8, got \u{fffd} (not valid UTF-8)");
    job.write("pipeline.toml", text.replace("note = \"utf8\"", "note = { type = \"utf8\", nullable = true }"));
    job.dlq(&["replay", "pipeline.toml"]);
    let expected =
        [json!({ "number": 1, "note": "a", "offset": 0 }), json!({ "number": 2, "note": null, "offset": 2 })];
    assert_eq!(job.rows("out.ndjson"), expected, "with what stood beside it");
}

#[test]
fn messages_wait_for_a_registry_that_is_away_and_say_of_which_type_they_are() {
    let kafka = Kafka::with_topic("numbers", 1);
    let port = free_address().port();
    let keys = format!("protobuf = {{ registry = \"http://127.0.0.1:{port}\" }}\nstop_at_end = true");
    let fields = "number = \"int64\", note = { type = \"utf8\", nullable = true }";
    let text = pipeline(&kafka, &keys, fields);
    let text = text.split("\n[sinks.dead]").next().expect("a sink of dead letters");
    let job = Job::new(text, "");
    compile_types(&job, NUMBER);
    let older = |number: u64| json!({ "note": "n", "number": number });
    let mut messages = written_behind("000000000100", &job, "plant.Number", &[older(0), older(1)]);
    messages.extend(written_behind("00000000010202", &job, "plant.Newer", &[json!({ "number": 2, "unit": "K" })]));
    messages.extend(written_behind("000000000700", &job, "plant.Number", &[older(3)]));
    messages.extend(written_behind("000000000100", &job, "plant.Number", &[older(4)]));
    send(&kafka, "numbers", &messages);
    let mut child = job.start(&[]);
    read_until(&mut child, "messages of schema 1 wait until it answers");
    child.kill().expect("it is a child");
    child.wait().expect("it is a child");
    let mut child = job.start(&[]);
    read_until(&mut child, "messages of schema 1 wait until it answers");
    job.write("1", NUMBER);
    let _registry = Registry::start(&job, port);
    let ended = job.wait(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 1));
    assert_eq!(shown_numbers(&job), [0, 1, 2, 4]);
    job.write("7", NUMBER);
    let mut replay = Command::new(ringmill());
    replay.args(["dlq", "replay", "pipeline.toml"]).current_dir(job.folder());
    assert!(replay.status().expect("it runs").success());
    assert_eq!(shown_numbers(&job), [0, 1, 2, 4, 3], "once the registry knows it");
}

#[test]
fn messages_are_read_from_a_stream_of_nats() {
    let Some(server) = Nats::start() else { return };
    server.create("EVENTS", &["plant.>"], Config::default());
    let job = Job::new(
        &format!(
            r#"
{CHECKPOINT}
[sources.messages]
kind = "nats"
url = "{}"
stream = "EVENTS"
stop_at_end = true
format = "protobuf"
{KEYS}
subject_field = "subject"
fields = {{ subject = "utf8", number = "int64" }}
{}"#,
            server.url(),
            sinks_of("messages")
        ),
        "",
    );
    compile_types(&job, NUMBER);
    for message in written(&job, "plant.Number", &[json!({ "number": 7 }), json!({})]) {
        server.send("plant.a", &message);
    }
    server.send("plant.b", b"\x07");
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (3, 1));
    let row = |number: u64| json!({ "subject": "plant.a", "number": number });
    assert_eq!(job.rows("out.ndjson"), [row(7), row(0)], "one without bytes is one of zeros");
    assert_eq!(job.rows("dead.ndjson")[0]["header"], json!("{\"subject\":\"plant.b\"}"));
}

#[test]
fn the_example_of_the_documentation_runs() {
    let kafka = Kafka::with_topic("readings", 1);
    let page = Page::read("formats/protobuf");
    let job = page.job(&[("[\"localhost:9092\"]", &kafka.brokers())]);
    compile_types(&job, page.file("plant.proto"));
    let types = std::fs::read(job.folder().join("types.pb")).expect("it was compiled");
    std::fs::write(job.folder().join("plant.pb"), types).expect("it can be written");
    let row = |sensor: &str, celsius: Value, meta: Value| json!({ "sensor": sensor, "at": "2026-01-01T00:00:00.25Z", "celsius": celsius, "meta": meta });
    let rows = [row("a", json!(20.75), json!({ "site": "north" })), row("b", Value::Null, Value::Null)];
    send(&kafka, "readings", &written(&job, "plant.Reading", &rows));
    let ended = job.run(&["sources.readings.stop_at_end=true"]);
    assert_eq!(ended.figure("/rows/in"), 2);
    let rows = job.rows("readings.ndjson");
    assert_eq!((rows[0]["site"].as_str(), rows[1]["site"].as_str()), (Some("north"), None));
    assert_eq!((rows[0]["celsius"].as_f64(), rows[1]["celsius"].as_f64()), (Some(20.75), None));
    assert_eq!((rows[0]["state"].as_str(), rows[0]["at"].as_str()), (Some("OK"), Some("2026-01-01T00:00:00.250Z")));
}
