//! Events of several types in one stream: each type's rows in its own stream, through files, standard input, sockets,
//! requests and brokers, and through the death of the core.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::chaos::{Chance, CoreKills, Progress, kill_after, rounds};
use ringmill_system_tests::http::{Client, await_answers};
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::mosquitto::Mosquitto;
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::registry::Registry;
use ringmill_system_tests::{CHECKPOINT, Job, free_address, until};
use serde_json::{Value, json};

const TYPES: &str = r#"
[sources.events.types.order]
event_time = "at"
fields = { id = "int64", at = "timestamp[ms]", customer = "utf8" }

[sources.events.types.trade]
values = ["trade.v1", "trade.v2"]
event_time = "time"
fields = { time = "timestamp[ms]", id = "int64", price = "float64", note = { type = "utf8", nullable = true } }
"#;

const SINKS: &str = r#"
[sinks.orders]
kind = "file"
path = "orders.ndjson"
inputs = ["events.order"]

[sinks.trades]
kind = "file"
path = "trades.ndjson"
inputs = ["events.trade"]

[sinks.dead]
kind = "file"
path = "dead.ndjson"
inputs = ["events.dead_letters"]
"#;

fn job(source: &str, rest: &str) -> Job {
    let place = if source.contains("type =") { "" } else { "type = { field = \"kind\" }" };
    Job::new(&format!("{CHECKPOINT}\n[sources.events]\n{source}\n{place}\n{TYPES}\n{SINKS}\n{rest}"), "")
}

/// What the n-th event is.
enum Event {
    Order,
    Trade,
    Neither,
}

fn event(number: u64) -> Event {
    match number % 7 {
        0 | 2 | 3 => Event::Order,
        6 => Event::Neither,
        _ => Event::Trade,
    }
}

/// What the n-th event says its type is.
fn kind(number: u64) -> &'static str {
    match event(number) {
        Event::Order => "order",
        Event::Trade if number.is_multiple_of(2) => "trade.v1",
        Event::Trade => "trade.v2",
        Event::Neither => "refund",
    }
}

/// The members of the n-th event, its type left out.
fn members(number: u64) -> String {
    match event(number) {
        Event::Order => format!("\"id\":{number},\"at\":{number},\"customer\":\"c{}\"", number % 50),
        Event::Trade => format!("\"time\":{number},\"price\":{}.5,\"id\":{number}", number % 9),
        Event::Neither => format!("\"id\":{number}"),
    }
}

fn line(number: u64) -> String {
    format!("{{\"kind\":\"{}\",{}}}\n", kind(number), members(number))
}

fn ids(job: &Job, file: &str) -> Vec<u64> {
    job.whole_rows(file).iter().map(|row| row["id"].as_u64().expect("a number")).collect()
}

fn rows(job: &Job) -> u64 {
    ["orders.ndjson", "trades.ndjson", "dead.ndjson"].iter().map(|file| job.whole_rows(file).len() as u64).sum()
}

/// Fails unless the sinks show these events, each once, in order and in the stream of its type.
fn check(job: &Job, events: u64) {
    let of = |wanted: fn(Event) -> bool| (0..events).filter(move |number| wanted(event(*number)));
    assert!(ids(job, "orders.ndjson").into_iter().eq(of(|event| matches!(event, Event::Order))));
    assert!(ids(job, "trades.ndjson").into_iter().eq(of(|event| matches!(event, Event::Trade))));
    let letters = job.whole_rows("dead.ndjson");
    assert_eq!(letters.len(), of(|event| matches!(event, Event::Neither)).count());
    for letter in &letters {
        let reason = letter["reason"].as_str().expect("a text");
        assert!(reason.starts_with("no type is declared for \"refund\""), "{reason}");
    }
}

const FILE: &str = "kind = \"file\"\npath = \"in.ndjson\"";

#[test]
fn each_type_has_its_stream_and_its_columns_however_many_threads_decode() {
    for threads in [0, 3] {
        let job = job(&format!("{FILE}\ndecode_threads = {threads}"), "");
        job.write("in.ndjson", (0..100_000).map(line).collect::<String>());
        let ended = job.run(&[]);
        assert_eq!(ended.figure("/rows/in"), 100_000);
        assert_eq!(ended.report()["reconciled"], true);
        check(&job, 100_000);
        let trade = json!({ "time": "1970-01-01T00:00:00.001Z", "id": 1, "price": 1.5, "note": null });
        assert_eq!(job.rows("trades.ndjson")[0], trade);
        assert_eq!(
            job.rows("orders.ndjson")[2],
            json!({ "id": 3, "at": "1970-01-01T00:00:00.003Z", "customer": "c3" })
        );
    }
}

#[test]
fn no_event_is_lost_or_repeated_however_often_the_core_dies() {
    let windows = r#"
[steps.counts]
kind = "window"
inputs = ["events.order"]
window = { tumbling = "1s" }
key = ["customer"]
aggregates = { orders = "count()" }

[sinks.windows]
kind = "file"
path = "windows.ndjson"
inputs = ["counts"]
"#;
    const EVENTS: u64 = 60_000;
    let mut kills = CoreKills::of("typed events", "RINGMILL_TYPED_KILLS", 10);
    let mut runs = 0;
    while kills.are_wanted() {
        let job = job(&format!("{FILE}\nrate = 100_000\ndecode_threads = {}", runs % 2 * 2), windows);
        runs += 1;
        job.write("in.ndjson", (0..EVENTS).map(line).collect::<String>());
        kills.behind_checkpoints(&job, |_| {});
        check(&job, EVENTS);
        let counted: u64 = job.rows("windows.ndjson").iter().map(|row| row["orders"].as_u64().expect("a count")).sum();
        assert_eq!(counted, (0..EVENTS).filter(|number| matches!(event(*number), Event::Order)).count() as u64);
    }
    println!("{} kills", kills.done);
}

#[test]
fn the_time_of_all_types_is_one() {
    let windows = r#"
[steps.counts]
kind = "window"
inputs = ["events.order"]
window = { tumbling = "1s" }
key = []
aggregates = { orders = "count()" }

[sinks.windows]
kind = "file"
path = "windows.ndjson"
inputs = ["counts"]

[sinks.late]
kind = "file"
path = "late.ndjson"
inputs = ["counts.late"]
"#;
    let job = job(FILE, windows);
    let order = |id: u64, at: u64| format!("{{\"kind\":\"order\",\"id\":{id},\"at\":{at},\"customer\":\"a\"}}\n");
    let trade = |time: u64| format!("{{\"kind\":\"trade.v1\",\"id\":0,\"time\":{time},\"price\":1}}\n");
    // Trades alone close the window of the first order, and the next order in it is late.
    job.write("in.ndjson", order(1, 500) + &trade(5_000) + &order(2, 600) + &order(3, 5_100));
    let ended = job.run(&[]);
    assert_eq!(ended.figure("/rows/late"), 1);
    assert_eq!(ids(&job, "late.ndjson"), [2]);
    let counts: Vec<Value> = job.rows("windows.ndjson").iter().map(|row| row["orders"].clone()).collect();
    assert_eq!(counts, [1, 1]);
}

#[test]
fn an_event_whose_type_is_declared_later_comes_back_by_a_replay() {
    let source = format!("[sources.events]\n{FILE}\ntype = {{ field = \"kind\" }}");
    let letters = "[sinks.dead]\nkind = \"file\"\npath = \"dead.ndjson\"\ninputs = [\"events.dead_letters\"]\n";
    let sinks = SINKS.replace(letters, "");
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n{TYPES}\n{sinks}"), "");
    job.write("in.ndjson", (0..70).map(line).collect::<String>() + "{\"id\":7}\n");
    assert_eq!(job.run(&[]).figure("/rows/dead_letters"), 11);
    let refunds = r#"
[sources.events.types.refund]
fields = { id = "int64" }

[sinks.refunds]
kind = "file"
path = "refunds.ndjson"
inputs = ["events.refund"]
"#;
    job.write("pipeline.toml", format!("{CHECKPOINT}\n{source}\n{TYPES}\n{sinks}\n{refunds}"));
    job.dlq(&["replay", "pipeline.toml"]);
    assert!(
        ids(&job, "refunds.ndjson").into_iter().eq((0..70).filter(|number| matches!(event(*number), Event::Neither)))
    );
    assert_eq!(ids(&job, "orders.ndjson").len() + ids(&job, "trades.ndjson").len(), 60, "no other came again");
    let left = job.letters(&[]);
    assert_eq!(left.len(), 1, "what has no type stays a letter");
    assert_eq!((&left[0]["reason"], &left[0]["attempts"]), (&json!("field \"kind\" does not say its type"), &json!(2)));
}

#[test]
fn a_header_tells_the_types_of_kafka_s_messages_however_often_the_core_dies() {
    let kafka = Kafka::with_topic("events", 1);
    let keys = "topics = [\"events\"]\ntype = { header = \"event-type\" }";
    let job = job(&format!("kind = \"kafka\"\nbrokers = {}\n{keys}", kafka.brokers()), "");
    let mut chance = Chance::from_environment("typed kafka");
    let wanted = rounds("RINGMILL_TYPED_KILLS", 5);
    let (mut next, mut running) = (0, 0);
    let send = |next: &mut u64, events: u64| {
        for number in *next..*next + events {
            let header = Some(("event-type", kind(number).as_bytes()));
            kafka.write_with("events", 0, header, format!("{{{}}}", members(number)).as_bytes());
        }
        kafka.flush();
        *next += events;
    };
    for _ in Progress::over("kills", wanted) {
        let before = rows(&job);
        let mut child = job.start(&[]);
        send(&mut next, 1 + chance.below(3_000));
        let time = chance.between(Duration::ZERO, Duration::from_millis(60));
        running += u64::from(kill_after(&mut child, || rows(&job) > before, time));
    }
    assert_eq!(running, wanted, "each kill hits a run");
    let mut child = job.start(&[]);
    send(&mut next, 70);
    kafka.write("events", 0, b"{\"kind\":\"order\",\"id\":1}");
    kafka.flush();
    until(&mut child, || rows(&job) == next + 1);
    assert_eq!(job.end(child).code, Some(0));
    let letters = job.rows("dead.ndjson");
    let last = &letters[letters.len() - 1];
    assert_eq!(last["reason"], "header \"event-type\" does not say its type");
    assert_eq!((&last["header"], &letters[0]["header"]), (&Value::Null, &json!("refund")));
    assert!(
        ids(&job, "orders.ndjson").into_iter().eq((0..next).filter(|number| matches!(event(*number), Event::Order)))
    );
    assert!(
        ids(&job, "trades.ndjson").into_iter().eq((0..next).filter(|number| matches!(event(*number), Event::Trade)))
    );
}

#[test]
fn schemas_of_a_registry_tell_the_types_of_avro_s_messages() {
    let kafka = Kafka::with_topic("events", 1);
    let (brokers, port) = (kafka.brokers(), free_address().port());
    let pipeline = format!(
        r#"
{CHECKPOINT}
[sources.events]
kind = "kafka"
brokers = {brokers}
topics = ["events"]
stop_at_end = true
offset_field = "offset"
format = "avro"
avro = {{ registry = "http://127.0.0.1:{port}" }}
type = {{ schema = true }}

[sources.events.types.order]
values = ["shop.Order"]
fields = {{ id = "int64", offset = "int64" }}

[sources.events.types.trade]
values = ["shop.Trade"]
fields = {{ note = "utf8", id = "int64" }}
{SINKS}"#
    );
    let job = Job::new(&pipeline, "");
    let (id, note) = (r#"{"name": "id", "type": "long"}"#, r#"{"name": "note", "type": "string"}"#);
    for (number, (name, fields)) in
        (1..).zip([("Order", id.to_owned()), ("Trade", format!("{id}, {note}")), ("Refund", id.to_owned())])
    {
        let schema = format!(r#"{{"type": "record", "namespace": "shop", "name": "{name}", "fields": [{fields}]}}"#);
        job.write(&format!("{number}"), schema);
    }
    // The wire format: 0, the schema's number, and the datum, whose first byte is twice the id.
    for message in [&b"\0\0\0\0\x02\x02\x02x"[..], b"\0\0\0\0\x01\x04", b"\0\0\0\0\x03\x06", b"\0\0\0\0\x01\x08"] {
        kafka.write("events", 0, message);
    }
    kafka.flush();
    let _registry = Registry::start(&job, port);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (4, 1));
    assert_eq!(job.rows("orders.ndjson"), [json!({ "id": 2, "offset": 1 }), json!({ "id": 4, "offset": 3 })]);
    assert_eq!(job.rows("trades.ndjson"), [json!({ "note": "x", "id": 1 })]);
    let reason = "schema 3 of the registry is shop.Refund, and no type is declared for it; there are order, trade";
    assert_eq!(job.rows("dead.ndjson")[0]["reason"], reason);
}

#[test]
fn a_header_or_a_field_tells_the_types_of_nats_messages() {
    let Some(server) = Nats::start() else { return };
    server.create("EVENTS", &["events"], Config::default());
    let source = format!("kind = \"nats\"\nurl = \"{}\"\nstream = \"EVENTS\"\nstop_at_end = true", server.url());
    for number in 0..70 {
        server.send_with("events", &[("event-type", kind(number))], line(number).as_bytes());
    }
    for place in ["type = { header = \"event-type\" }", "type = { field = \"kind\" }"] {
        let job = job(&format!("{source}\n{place}"), "");
        assert_eq!(job.run(&[]).figure("/rows/in"), 70);
        check(&job, 70);
    }
}

#[test]
fn a_field_tells_the_types_of_mqtt_messages() {
    let Some(broker) = Mosquitto::start() else { return };
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let job = job(&format!("kind = \"mqtt\"\nurl = \"{url}\"\ntopics = [\"events\"]\nclient_id = \"mill\""), "");
    let mut child = job.start(&[]);
    until(&mut child, || broker.log().contains("Sending SUBACK to mill"));
    let mut sender = broker.sender("events");
    sender.send(&(0..70).map(line).collect::<String>());
    until(&mut child, || rows(&job) == 70);
    sender.end();
    assert_eq!(job.end(child).code, Some(0));
    check(&job, 70);
}

/// Waits until everything is shown, and checks it.
fn finish(job: &Job, mut child: Child, events: u64) {
    until(&mut child, || rows(job) == events);
    assert_eq!(job.end(child).code, Some(0));
    check(job, events);
}

#[test]
fn standard_input_sockets_and_requests_have_types_too() {
    let text: String = (0..700).map(line).collect();
    let stdin = job("kind = \"stdin\"", "");
    let mut child = stdin.command(&[]).stdin(Stdio::piped()).spawn().expect("the ringmill command is built");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("the run reads");
    assert_eq!(stdin.wait(child).figure("/rows/in"), 700);
    check(&stdin, 700);

    let socket = job("kind = \"socket\"\npath = \"in.sock\"", "");
    let mut child = socket.start(&[]);
    until(&mut child, || UnixStream::connect(socket.path("in.sock")).is_ok());
    let mut client = UnixStream::connect(socket.path("in.sock")).expect("it listens");
    client.write_all(text.as_bytes()).expect("the run reads");
    drop(client);
    finish(&socket, child, 700);

    let address = free_address();
    let requests = job(&format!("kind = \"http\"\nlisten = \"{address}\""), "");
    let mut child = requests.start(&[]);
    await_answers(&mut child, address);
    assert!(TcpStream::connect(address).is_ok());
    let answer = Client::new(address).post("content-type: application/x-ndjson\r\n", text.as_bytes());
    assert_eq!(answer.expect("it answers").status, 202);
    finish(&requests, child, 700);
}
