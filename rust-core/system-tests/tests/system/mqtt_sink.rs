//! Rows as messages of a real MQTT broker: through the death of the core and the broker's absence.

use std::collections::BTreeSet;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, CoreKills, newest_checkpoint, rounds};
use ringmill_system_tests::mosquitto::{ANYBODY, Mosquitto, Receiver};
use ringmill_system_tests::relay::Relay;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, until};
use serde_json::Value;

const ROWS: u64 = 10_000;

/// Rows of a file to the broker.
fn job(broker: &Mosquitto, keys: &str) -> Job {
    job_over(broker.port(), keys)
}

fn job_over(port: u16, keys: &str) -> Job {
    let source = file_source(20_000, r#"number = "uint64", topic = { type = "utf8", nullable = true }"#);
    let pipeline = format!(
        r#"
{CHECKPOINT}
{source}
[sinks.out]
kind = "mqtt"
inputs = ["rows"]
url = "mqtt://127.0.0.1:{port}"
{keys}
"#
    );
    let job = Job::new(&pipeline, "");
    job.write("in.ndjson", (0..ROWS).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    job
}

fn number(payload: &str) -> u64 {
    let row: Value = serde_json::from_str(payload).expect("a row");
    row["number"].as_u64().expect("a number")
}

/// The numbers of all rows, as they came.
fn numbers(receiver: &Receiver) -> Vec<u64> {
    let received = receiver.received();
    received.iter().filter(|(_, payload)| payload != Receiver::END).map(|(_, payload)| number(payload)).collect()
}

/// The numbers without those that came before, and how many came before.
fn once(receiver: &Receiver) -> (Vec<u64>, usize) {
    let mut seen = BTreeSet::new();
    let numbers = numbers(receiver);
    let all = numbers.len();
    let first: Vec<u64> = numbers.into_iter().filter(|number| seen.insert(*number)).collect();
    let repeated = all - first.len();
    (first, repeated)
}

/// A session that the broker keeps.
const EXACT: &str = "client_id = \"mill\"\nqos = 2";
const EXACT_5: &str = "client_id = \"mill\"\nqos = 2\nprotocol = \"5\"";

#[test]
fn every_row_becomes_a_message_in_order_however_often_the_core_dies() {
    let mut kills = CoreKills::of("mqtt sink", "RINGMILL_MQTT_SINK_KILLS", 10);
    let mut repeated = 0;
    let ways = ["protocol = \"3.1.1\"", EXACT, "protocol = \"5\"", EXACT_5];
    for (run, way) in ways.into_iter().cycle().enumerate() {
        if run >= ways.len() && !kills.are_wanted() {
            break;
        }
        let Some(broker) = Mosquitto::start() else { return };
        let receiver = broker.receiver("scores");
        let keys = format!("topic = \"scores\"\n{way}");
        kills.behind_checkpoints(&job(&broker, &keys), |_| {});
        receiver.catch_up(&broker, "scores");
        let (first, more) = once(&receiver);
        assert!(first.into_iter().eq(0..ROWS), "none is left out");
        repeated += more;
    }
    println!("{} kills, {repeated} messages came twice", kills.done);
}

#[test]
fn a_broker_that_goes_away_is_waited_for_and_has_every_row_in_order() {
    let Some(mut broker) = Mosquitto::start() else { return };
    let receiver = broker.receiver("scores");
    let job = job(&broker, "topic = \"scores\"");
    let mut child = job.start(&["sources.rows.rate=5000"]);
    for _ in 0..2 {
        let before = newest_checkpoint(&job.path("state"));
        until(&mut child, || newest_checkpoint(&job.path("state")) > before);
        broker.stop();
        read_until(&mut child, "messages wait to be taken");
        broker.go_on();
        read_until(&mut child, "goes on");
    }
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    receiver.catch_up(&broker, "scores");
    let (first, _) = once(&receiver);
    assert!(first.into_iter().eq(0..ROWS), "none is left out");
}

#[test]
fn messages_have_the_quality_of_service_that_is_asked_for() {
    for (quality, protocol) in [(0, "3.1.1"), (1, "3.1.1"), (2, "3.1.1"), (0, "5"), (1, "5"), (2, "5")] {
        let Some(broker) = Mosquitto::start() else { return };
        let receiver = broker.receiver("scores");
        let keys = format!("topic = \"scores\"\nclient_id = \"mill\"\nqos = {quality}\nprotocol = \"{protocol}\"");
        let ended = job(&broker, &keys).run(&[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        // What nobody waits for it reads when it has time.
        while !broker.log().contains("Received DISCONNECT from mill") {
            std::thread::sleep(Duration::from_millis(10));
        }
        receiver.catch_up(&broker, "scores");
        let (first, repeated) = once(&receiver);
        assert!(first.into_iter().eq(0..ROWS) && repeated == 0, "{quality} {protocol}: each is there once");
        let (sent, version) = (format!("Received PUBLISH from mill (d0, q{quality}"), &protocol[..1]);
        let version = if version == "3" { "2" } else { version };
        let log = broker.log();
        assert!(log.contains(&sent), "{sent}");
        assert!(log.contains(&format!("as mill (p{version}")), "protocol {protocol}");
    }
}

#[test]
fn with_quality_2_a_message_is_taken_once_wherever_the_connection_breaks() {
    let cuts = rounds("RINGMILL_MQTT_CUTS", 40);
    for keys in [EXACT, EXACT_5] {
        let Some(broker) = Mosquitto::start() else { return };
        let receiver = broker.receiver_of_quality("scores", 2);
        let chance = Chance::from_environment("mqtt cuts");
        let relay = Relay::to(broker.port(), chance, cuts, (3_000, 30_000));
        let ended = job_over(relay.port(), &format!("topic = \"scores\"\n{keys}")).run(&[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        receiver.catch_up(&broker, "scores");
        assert!(numbers(&receiver).into_iter().eq(0..ROWS), "each is there once, in order");
        let log = broker.log();
        let (sessions, again) = (log.matches("New client connected").count(), log.matches("from mill (d1, q2").count());
        println!("{} cuts, {sessions} connections, {again} messages were sent again", cuts - relay.left());
        assert!(relay.left() < cuts / 2);
    }
}

#[test]
fn with_quality_2_a_broker_that_does_not_know_the_session_has_every_row_that_the_other_one_has_not() {
    for keys in [EXACT, EXACT_5] {
        let (Some(mut first), Some(second)) = (Mosquitto::start(), Mosquitto::start()) else { return };
        let receivers = [first.receiver_of_quality("scores", 2), second.receiver_of_quality("scores", 2)];
        let relay = Relay::to(first.port(), Chance::of(0), 0, (1, 2));
        let job = job_over(relay.port(), &format!("topic = \"scores\"\n{keys}"));
        let mut child = job.start(&["sources.rows.rate=10000"]);
        until(&mut child, || !receivers[0].received().is_empty());
        relay.lead_to(second.port());
        first.stop();
        let ended = job.wait(child);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        first.go_on();
        let mut found = BTreeSet::new();
        for (broker, receiver) in [&first, &second].into_iter().zip(&receivers) {
            receiver.catch_up(broker, "scores");
            let (numbers, repeated) = once(receiver);
            assert!(!numbers.is_empty() && repeated == 0);
            found.extend(numbers);
        }
        assert!(found.into_iter().eq(0..ROWS), "none is left out");
    }
}

#[test]
fn a_column_says_each_rows_topic_and_the_broker_keeps_the_last_message_if_it_is_to() {
    let Some(broker) = Mosquitto::start() else { return };
    let job = job(&broker, "topic = \"others\"\ntopic_column = \"topic\"\nretain = true");
    let rows = [(1, "\"a/1\""), (2, "null"), (3, "\"a/1\""), (4, "\"ü\"")];
    let line = |(number, topic)| format!("{{\"number\":{number},\"topic\":{topic}}}\n");
    job.write("in.ndjson", rows.map(line).concat());
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // Whoever subscribes now gets the last one of each topic.
    let receiver = broker.receiver("#");
    receiver.catch_up(&broker, "z");
    let mut messages = receiver.received();
    messages.sort();
    assert_eq!(messages.pop(), Some(("ü".to_owned(), "{\"number\":4,\"topic\":\"ü\"}".to_owned())));
    assert_eq!(messages.pop(), Some(("z".to_owned(), Receiver::END.to_owned())));
    let numbers = messages.iter().map(|(topic, payload)| (topic.as_str(), payload.as_str()));
    let expected = [("a/1", "{\"number\":3,\"topic\":\"a/1\"}"), ("others", "{\"number\":2,\"topic\":null}")];
    assert_eq!(numbers.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_wrong_is_said_and_ends_the_run() {
    let Some(broker) = Mosquitto::start() else { return };
    for (topic, reason) in [
        ("\"a/+\"", "a row's topic is \"a/+\", and no message can have it"),
        ("\"\"", "a row's topic is \"\""),
        ("null", "a row has no topic; `topic` is for such rows"),
    ] {
        let job = job(&broker, "topic_column = \"topic\"");
        job.write("in.ndjson", format!("{{\"number\":0,\"topic\":{topic}}}\n"));
        let ended = job.run(&[]);
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
    let ended = job(&broker, "topic_column = \"number\"").run(&[]);
    assert!(ended.stderr.contains("topic_column is number, but a topic is of type utf8"), "{}", ended.stderr);
    let Some(mut strict) = Mosquitto::stopped() else { return };
    strict.configure(&ANYBODY.replace("true", "false"));
    strict.go_on();
    let ended = job(&strict, "topic = \"scores\"").run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("refuses the connection: it does not know the `user`"), "{}", ended.stderr);
}
