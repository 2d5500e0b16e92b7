//! Datums of Avro and messages of Protobuf from a real MQTT broker: through the death of the core, garbage among them.

use std::process::Child;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, rounds};
use ringmill_system_tests::mosquitto::Mosquitto;
use ringmill_system_tests::{CHECKPOINT, Job, sinks_of, until};
use serde_json::json;

const SCHEMA: &str = r#"{"type": "record", "name": "Count", "fields": [
    {"name": "number", "type": "long"}, {"name": "word", "type": "string"}]}"#;

/// Compiled from `message Count { int64 number = 1; string word = 2; }`.
const DESCRIPTOR: &str = r#"
from google.protobuf import descriptor_pb2
files = descriptor_pb2.FileDescriptorSet()
file = files.file.add(name="count.proto", package="plant", syntax="proto3")
message = file.message_type.add(name="Count")
message.field.add(name="number", number=1, type=3, label=1)
message.field.add(name="word", number=2, type=9, label=1)
open("count.pb", "wb").write(files.SerializeToString())
"#;

fn job(broker: &Mosquitto, format: &str) -> Job {
    let text = format!(
        r#"
{CHECKPOINT}
[sources.messages]
kind = "mqtt"
url = "mqtt://127.0.0.1:{}"
topics = ["plant/+/count"]
client_id = "mill"
topic_field = "topic"
{format}
fields = {{ number = "int64", word = "utf8", topic = "utf8" }}
{}"#,
        broker.port(),
        sinks_of("messages")
    );
    let job = Job::new(&text, "");
    job.write("count.avsc", SCHEMA);
    job
}

const AVRO: &str = "format = \"avro\"\navro = { schema_file = \"count.avsc\" }";
const PROTOBUF: &str =
    "format = \"protobuf\"\nprotobuf = { descriptor_file = \"count.pb\", message = \"plant.Count\" }";

/// Seven bits a byte, the lowest first.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Line ends are in them, and other bytes that no text has.
fn avro(number: u64) -> Vec<u8> {
    [&varint(number << 1)[..], b"\x04\n\x00"].concat()
}

fn protobuf(number: u64) -> Vec<u8> {
    [b"\x08", &varint(number)[..], b"\x12\x02\n\x00"].concat()
}

/// Starts it, and waits until the broker sends it what comes.
fn start(job: &Job, broker: &Mosquitto) -> Child {
    let subscriptions = || broker.log().matches("Sending SUBACK to mill").count();
    let before = subscriptions();
    let mut child = job.start(&[]);
    until(&mut child, || subscriptions() > before);
    child
}

/// The numbers without those that came before.
fn once(job: &Job) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    let rows = job.whole_rows("out.ndjson");
    assert!(rows.iter().all(|row| row["word"] == "\n\0" && row["topic"] == "plant/7/count"), "{rows:?}");
    let numbers = rows.iter().map(|row| row["number"].as_u64().expect("a number"));
    numbers.filter(|number| seen.insert(*number)).collect()
}

#[test]
fn no_datum_is_lost_however_often_the_core_dies() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut chance = Chance::from_environment("mqtt_binary");
    let job = job(&broker, AVRO);
    let wanted = rounds("RINGMILL_MQTT_KILLS", 6);
    let mut next = 0;
    for _ in Progress::over("kills", wanted) {
        let mut child = start(&job, &broker);
        for _ in 0..5 + chance.below(20) {
            broker.send("plant/7/count", &avro(next));
            next += 1;
        }
        kill_after(&mut child, || true, chance.between(Duration::ZERO, Duration::from_millis(250)));
        let shown = once(&job);
        assert!(shown.iter().copied().eq(0..shown.len() as u64), "none is left out, and they are in order");
    }
    let mut child = start(&job, &broker);
    until(&mut child, || once(&job).len() as u64 == next);
    assert_eq!(job.end(child).code, Some(0));
    assert!(once(&job).into_iter().eq(0..next));
}

#[test]
fn garbage_is_a_dead_letter_with_its_bytes_and_its_topic() {
    for (format, message) in [(AVRO, avro(5)), (PROTOBUF, protobuf(5))] {
        let Some(broker) = Mosquitto::start() else { return };
        let job = job(&broker, format);
        job.script(DESCRIPTOR, &[]);
        let mut child = start(&job, &broker);
        broker.send("plant/8/count", b"\n\xff\xff");
        broker.send("plant/7/count", &message);
        until(&mut child, || once(&job) == [5]);
        let ended = job.end(child);
        assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (2, 1), "{}", ended.stderr);
        let letters = job.rows("dead.ndjson");
        assert_eq!(letters[0]["record_bytes"], json!("Cv//"), "{letters:?}");
        assert_eq!(letters[0]["header"], json!("{\"topic\":\"plant/8/count\"}"), "{letters:?}");
    }
}
