//! Rows as messages of a real MQTT broker: through the death of the core and the broker's absence.

use std::collections::BTreeSet;
use std::time::Duration;

use ringmill_system_tests::chaos::{CoreKills, newest_checkpoint};
use ringmill_system_tests::mosquitto::{ANYBODY, Mosquitto, Receiver};
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, until};
use serde_json::Value;

const ROWS: u64 = 10_000;

/// Rows of a file to the broker.
fn job(broker: &Mosquitto, keys: &str) -> Job {
    let source = file_source(20_000, r#"number = "uint64", topic = { type = "utf8", nullable = true }"#);
    let pipeline = format!(
        r#"
{CHECKPOINT}
{source}
[sinks.out]
kind = "mqtt"
inputs = ["rows"]
url = "mqtt://127.0.0.1:{}"
{keys}
"#,
        broker.port()
    );
    let job = Job::new(&pipeline, "");
    job.write("in.ndjson", (0..ROWS).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    job
}

fn number(payload: &str) -> u64 {
    let row: Value = serde_json::from_str(payload).expect("a row");
    row["number"].as_u64().expect("a number")
}

/// The numbers without those that came before, and how many came before.
fn once(receiver: &Receiver) -> (Vec<u64>, usize) {
    let mut seen = BTreeSet::new();
    let received = receiver.received();
    let rows = received.iter().filter(|(_, payload)| payload != END);
    let numbers: Vec<u64> = rows.map(|(_, payload)| number(payload)).collect();
    let all = numbers.len();
    let first: Vec<u64> = numbers.into_iter().filter(|number| seen.insert(*number)).collect();
    let repeated = all - first.len();
    (first, repeated)
}

/// Waits until everything that the broker had by now has come.
fn catch_up(broker: &Mosquitto, receiver: &Receiver, topic: &str) {
    broker.send(topic, END.as_bytes());
    while receiver.received().last().is_none_or(|(_, payload)| payload != END) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

const END: &str = "end";

#[test]
fn every_row_becomes_a_message_in_order_however_often_the_core_dies() {
    let mut kills = CoreKills::of("mqtt sink", "RINGMILL_MQTT_SINK_KILLS", 10);
    let mut repeated = 0;
    while kills.are_wanted() {
        let Some(broker) = Mosquitto::start() else { return };
        let receiver = broker.receiver("scores");
        kills.behind_checkpoints(&job(&broker, "topic = \"scores\""), |_| {});
        catch_up(&broker, &receiver, "scores");
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
    catch_up(&broker, &receiver, "scores");
    let (first, _) = once(&receiver);
    assert!(first.into_iter().eq(0..ROWS), "none is left out");
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
    catch_up(&broker, &receiver, "z");
    let mut messages = receiver.received();
    messages.sort();
    assert_eq!(messages.pop(), Some(("ü".to_owned(), "{\"number\":4,\"topic\":\"ü\"}".to_owned())));
    assert_eq!(messages.pop(), Some(("z".to_owned(), END.to_owned())));
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
