//! Rows as messages of Protocol Buffers: to Kafka by a registry and without one, read by Google's Python package, which
//! would have written the same bytes, and to NATS, read by our own source. What does not fit is found at the start.

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::messages::{compile_types, read_by_python};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::registry::Registry;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, free_address, sinks_of};
use serde_json::{Value, json};

const ROWS: u64 = 500;

const FIELDS: &str = r#"number = "int64", name = { type = "utf8", nullable = true }, at = "timestamp[ms]", samples = "list[float64]", suit = "utf8", site = "utf8""#;

const TYPES: &str = "syntax = \"proto3\"; package plant; import \"google/protobuf/timestamp.proto\";
    message Other {} message Row {
        optional string name = 1; int64 number = 2; repeated double samples = 3; google.protobuf.Timestamp at = 4;
        enum Suit { CLUBS = 0; HEARTS = 1; } Suit suit = 5; message Meta { string site = 1; } Meta meta = 6; }";

const PATHS: &str = "paths = { site = \"/meta/site\" }";

fn row(number: u64) -> Value {
    let name = (!number.is_multiple_of(3)).then(|| format!("n{number}"));
    let suit = if number.is_multiple_of(2) { "CLUBS" } else { "HEARTS" };
    json!({ "number": number, "name": name, "at": format!("1970-01-01T00:00:00.{number:03}Z"), "samples": [number as f64, 0.5], "suit": suit, "site": "x".repeat(number as usize) })
}

/// A job that writes the rows of a file.
fn writing(sink: &str) -> Job {
    let source = file_source(1_000_000, FIELDS);
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n[sinks.out]\ninputs = [\"rows\"]\n{sink}"), "");
    job.write("in.ndjson", (0..ROWS).map(|number| format!("{}\n", row(number))).collect::<String>());
    compile_types(&job, TYPES);
    job
}

fn by_kafka(kafka: &Kafka, protobuf: &str) -> Job {
    let brokers = kafka.brokers();
    writing(&format!(
        "kind = \"kafka\"\nbrokers = {brokers}\ntopic = \"rows\"\nkey = \"number\"\nformat = \"protobuf\"\nprotobuf = {protobuf}\n"
    ))
}

/// Reads messages in hexadecimal, one a line, of a type in a descriptor set, or each by the text that the registry has for its
/// number and the type that it says, and shows their rows.
const READER: &str = r#"
import json, os, subprocess, sys, tempfile, urllib.request
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

def types(path):
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(open(path, "rb").read()).file
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return pool, files[-1]

def registered(number):
    with urllib.request.urlopen(f"{sys.argv[1]}/schemas/ids/{number}") as answer:
        told = json.load(answer)
    assert told["schemaType"] == "PROTOBUF"
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "schema.proto"), "w") as file:
        file.write(told["schema"])
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports", "--descriptor_set_out=out.pb", "schema.proto"]
    subprocess.run(command, cwd=folder, check=True)
    return types(os.path.join(folder, "out.pb"))

plain, known = None, {}
if len(sys.argv) > 2:
    plain = message_factory.GetMessageClass(types(sys.argv[1])[0].FindMessageTypeByName(sys.argv[2]))

def parted(message):
    """The type of a message, and the message."""
    if plain:
        return plain, message
    assert message[0] == 0
    number = int.from_bytes(message[1:5], "big")
    if number not in known:
        known[number] = registered(number)
    pool, file = known[number]
    # One index, or none for the first type.
    index, behind = (0, message[6:]) if message[5] == 0 else (message[6] // 2, message[7:])
    assert message[5] in (0, 2)
    name = ".".join(part for part in (file.package, file.message_type[index].name) if part)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name)), behind

for line in sys.stdin:
    kind, content = parted(bytes.fromhex(line))
    row = kind.FromString(content)
    assert row.SerializeToString(deterministic=True) == content, "it would have written the same"
    suit = row.DESCRIPTOR.fields_by_name["suit"].enum_type
    print(json.dumps({
        "number": row.number,
        "name": row.name if row.HasField("name") else None,
        "at": row.at.ToDatetime().isoformat(timespec="milliseconds") + "Z",
        "samples": list(row.samples),
        "suit": suit.values_by_number[row.suit].name if suit else row.suit,
        "site": row.meta.site if "meta" in row.DESCRIPTOR.fields_by_name else row.site,
    }))
"#;

/// What the official package makes of the topic's messages, in the order of their numbers.
fn read_by_google(kafka: &Kafka, arguments: &[&str]) -> Vec<Value> {
    let messages: Vec<Vec<u8>> = kafka.messages("rows").into_iter().map(|(.., value)| value).collect();
    let mut rows = read_by_python(READER, arguments, &messages);
    rows.sort_by_key(|row| row["number"].as_u64());
    rows
}

#[test]
fn the_official_package_reads_what_was_written_and_would_have_written_the_same() {
    let kafka = Kafka::with_topic("rows", 3);
    let job = by_kafka(&kafka, &format!("{{ descriptor_file = \"types.pb\", message = \"plant.Row\", {PATHS} }}"));
    let ended = job.run(&[]);
    assert_eq!(ended.figure("/rows/in"), ROWS, "{}", ended.stderr);
    let types = job.folder().join("types.pb");
    let rows = read_by_google(&kafka, &[types.to_str().expect("a path of text"), "plant.Row"]);
    assert!(rows.into_iter().eq((0..ROWS).map(row)), "all of them, each once");
}

#[test]
fn it_reads_by_a_registry_what_was_made_of_the_columns_or_of_a_type_of_yours() {
    let own = format!(", schema_file = \"types.proto\", message = \"plant.Row\", subject = \"plant.rows\", {PATHS}");
    for keys in ["", &own] {
        let kafka = Kafka::with_topic("rows", 3);
        let address = free_address();
        let url = format!("http://{address}");
        let job = by_kafka(&kafka, &format!("{{ registry = \"{url}\"{keys} }}"));
        let _registry = Registry::start(&job, address.port());
        let ended = job.run(&[]);
        assert_eq!(ended.figure("/rows/in"), ROWS, "{}", ended.stderr);
        let rows = read_by_google(&kafka, &[&url]);
        assert!(rows.into_iter().eq((0..ROWS).map(row)), "all of them, each once");
        let subject = if keys.is_empty() { "rows-value" } else { "plant.rows" };
        assert_eq!(job.read("told").lines().collect::<Vec<_>>(), [subject], "once");
    }
}

#[test]
fn a_type_that_does_not_fit_and_a_value_that_it_does_not_have_end_the_run_with_what_is_wrong() {
    let kafka = Kafka::with_topic("rows", 1);
    let refused = |job: &Job, code: i32, expected: &[&str]| {
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
    };
    let plain = "{ descriptor_file = \"types.pb\", message = \"plant.Row\"";
    let job = by_kafka(&kafka, &format!("{plain} }}"));
    refused(&job, 2, &["field \"site\": the message plant.Row has no field \"site\""]);
    let job = by_kafka(&kafka, &format!("{plain}, {PATHS} }}"));
    compile_types(&job, &TYPES.replace("HEARTS", "SPADES"));
    refused(&job, 1, &["column \"suit\" has HEARTS", "the enum has no such name"]);
    let address = free_address();
    let job = by_kafka(&kafka, &format!("{{ registry = \"http://{address}\" }}"));
    refused(&job, 1, &["schema registry at http://", "the schema of rows-value: "]);
    let _registry = Registry::start(&job, address.port());
    job.write("refuses", "");
    refused(&job, 1, &["409 Conflict", "an incompatible schema"]);
}

#[test]
fn nats_carries_messages_from_our_sink_to_our_source() {
    let Some(server) = Nats::start() else { return };
    server.create("rows", &["rows"], Config::default());
    let url = server.url();
    let plain = "format = \"protobuf\"\nprotobuf = { descriptor_file = \"types.pb\", message = \"plant.Row\"";
    let from = writing(&format!(
        "kind = \"nats\"\nurl = \"{url}\"\nstream = \"rows\"\nsubject = \"rows\"\n{plain}, {PATHS} }}\n"
    ));
    assert_eq!(from.run(&[]).figure("/rows/in"), ROWS);
    let fields = FIELDS.replace("site = \"utf8\"", "site = { type = \"utf8\", path = \"/meta/site\" }");
    let source = format!(
        "[sources.messages]\nkind = \"nats\"\nurl = \"{url}\"\nstream = \"rows\"\nstop_at_end = true\n{plain} }}\nfields = {{ {fields} }}"
    );
    let to = Job::new(&format!("{CHECKPOINT}\n{source}\n{}", sinks_of("messages")), "");
    compile_types(&to, TYPES);
    assert_eq!(to.run(&[]).figure("/rows/dead_letters"), 0);
    assert!(to.whole_rows("out.ndjson").into_iter().eq((0..ROWS).map(row)));
}
