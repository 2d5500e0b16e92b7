//! Rows as messages of a real NATS stream: through the death of the core and the server's absence.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::chaos::{CoreKills, newest_checkpoint};
use ringmill_system_tests::nats::{Nats, Stored};
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, until};
use serde_json::Value;

const ROWS: u64 = 10_000;

/// Rows of a file to a stream.
fn job(server: &Nats, keys: &str) -> Job {
    let source = file_source(20_000, r#"number = "uint64", subject = { type = "utf8", nullable = true }"#);
    let pipeline = format!(
        r#"
{CHECKPOINT}
{source}
[sinks.out]
kind = "nats"
inputs = ["rows"]
url = "{}"
stream = "SCORES"
{keys}
"#,
        server.url()
    );
    let job = Job::new(&pipeline, "");
    job.write("in.ndjson", (0..ROWS).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    job
}

/// A server with a stream.
fn server() -> Option<Nats> {
    let server = Nats::start()?;
    server.create("SCORES", &["scores.>"], Config::default());
    Some(server)
}

fn numbers(messages: &[Stored]) -> Vec<u64> {
    let number = |message: &Stored| {
        let row: Value = serde_json::from_str(&message.payload).expect("a row");
        row["number"].as_u64().expect("a number")
    };
    messages.iter().map(number).collect()
}

#[test]
fn every_row_becomes_a_message_once_and_in_order_however_often_the_core_dies() {
    let mut kills = CoreKills::of("nats sink", "RINGMILL_NATS_SINK_KILLS", 20);
    while kills.are_wanted() {
        let Some(server) = server() else { return };
        kills.behind_checkpoints(&job(&server, "subject = \"scores.all\""), |_| {});
        let messages = server.read("SCORES");
        assert!(numbers(&messages).into_iter().eq(0..ROWS), "none is left out, and the stream drops what it has had");
        let ids: BTreeSet<&str> = messages.iter().map(|message| message.id().expect("an id")).collect();
        assert_eq!(ids.len(), messages.len());
    }
    println!("{} kills", kills.done);
}

#[test]
fn a_core_killed_at_every_place_of_the_protocol_sends_every_row_once() {
    let Some(server) = server() else { return };
    let rows = 2_000;
    let run = |failpoint: &str| {
        server.delete("SCORES");
        server.create("SCORES", &["scores.>"], Config::default());
        let job = job(&server, "subject = \"scores.all\"");
        job.write("in.ndjson", (0..rows).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
        let child = job.command(&[]).env("RINGMILL_FAILPOINT", failpoint).spawn().expect("it is built");
        let code = job.wait(child).code;
        (job, code)
    };
    let record = tempfile::NamedTempFile::new().expect("a file");
    assert_eq!(run(&format!("record:{}", record.path().display())).1, Some(0));
    let hits = std::fs::read_to_string(record.path()).expect("a line for each hit");
    let places: BTreeSet<&str> = hits.lines().filter_map(|line| line.split(' ').next()).collect();
    let places: Vec<&str> = places.into_iter().filter(|place| place.starts_with("sink.nats.")).collect();
    for place in ["sink.nats.send", "sink.nats.sent", "sink.nats.mark", "sink.nats.marked", "sink.nats.stage.synced"] {
        assert!(places.contains(&place), "{places:?}");
    }
    for place in &places {
        let (job, code) = run(&format!("kill:{place}:1"));
        assert_eq!(code, None, "{place} was not reached");
        assert_eq!(job.run(&[]).figure("/rows/in"), rows, "{place}");
        assert!(numbers(&server.read("SCORES")).into_iter().eq(0..rows), "{place}");
    }
    println!("{places:?}");
}

#[test]
fn a_stream_that_remembers_no_ids_has_every_row_though_some_come_again() {
    let mut kills = CoreKills::of("forgetful nats", "RINGMILL_NATS_SINK_KILLS", 20);
    let Some(server) = Nats::start() else { return };
    let config = Config { duplicate_window: Duration::from_millis(100), ..Config::default() };
    server.create("SCORES", &["scores.>"], config);
    kills.behind_checkpoints(&job(&server, "subject = \"scores.all\""), |_| {});
    let all = numbers(&server.read("SCORES"));
    let once: BTreeSet<u64> = all.iter().copied().collect();
    assert!(once.into_iter().eq(0..ROWS), "none is left out");
}

#[test]
fn a_server_that_dies_is_waited_for_and_has_every_row_once() {
    let Some(mut server) = server() else { return };
    let job = job(&server, "subject = \"scores.all\"");
    let mut child = job.start(&["sources.rows.rate=5000"]);
    until(&mut child, || newest_checkpoint(&job.path("state")) > 0);
    server.kill();
    read_until(&mut child, "cannot write to stream");
    server.go_on("");
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut numbers = numbers(&server.read("SCORES"));
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..ROWS), "none is left out or there twice");
}

#[test]
fn a_server_that_freezes_keeps_no_run_from_ending() {
    let Some(mut server) = server() else { return };
    let job = job(&server, "subject = \"scores.all\"");
    let mut child = job.start(&["sources.rows.rate=5000"]);
    until(&mut child, || newest_checkpoint(&job.path("state")) > 0);
    server.freeze();
    read_until(&mut child, "cannot write to stream");
    let ended = job.end(child);
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    server.kill();
    server.go_on("");
    assert_eq!(job.run(&[]).code, Some(0));
    let once: BTreeSet<u64> = numbers(&server.read("SCORES")).into_iter().collect();
    assert!(once.into_iter().eq(0..ROWS), "none is left out");
}

#[test]
fn a_column_says_each_row_s_subject() {
    let Some(server) = server() else { return };
    let job = job(&server, "subject = \"scores.others\"\nsubject_column = \"subject\"");
    let rows = [(1, "\"scores.a\""), (2, "null"), (3, "\"scores.a.b\"")];
    let line = |(number, subject)| format!("{{\"number\":{number},\"subject\":{subject}}}\n");
    job.write("in.ndjson", rows.map(line).concat());
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let messages = server.read("SCORES");
    let found: Vec<(&str, &str)> =
        messages.iter().map(|message| (message.subject.as_str(), message.payload.as_str())).collect();
    let expected = [
        ("scores.a", "{\"number\":1,\"subject\":\"scores.a\"}"),
        ("scores.others", "{\"number\":2,\"subject\":null}"),
        ("scores.a.b", "{\"number\":3,\"subject\":\"scores.a.b\"}"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn columns_are_headers_too() {
    let Some(server) = server() else { return };
    let job = job(&server, "subject = \"scores.all\"\nheaders = { Row = \"number\", \"trace-id\" = \"subject\" }");
    let rows = [(1, "\"a: ü\""), (2, "null"), (3, "\"\"")];
    let line = |(number, subject)| format!("{{\"number\":{number},\"subject\":{subject}}}\n");
    job.write("in.ndjson", rows.map(line).concat());
    assert_eq!(job.run(&[]).code, Some(0));
    let messages = server.read("SCORES");
    let headers = |name: &str| messages.iter().map(|one| one.headers.get(name).map(String::as_str)).collect::<Vec<_>>();
    assert_eq!(headers("Row"), [Some("1"), Some("2"), Some("3")]);
    assert_eq!(headers("trace-id"), [Some("a: ü"), None, Some("")]);
}

#[test]
fn rows_of_a_checkpoint_are_sent_with_the_headers_that_they_were_to_have() {
    let Some(server) = server() else { return };
    let headers = "headers = { row = \"number\" }";
    let job = job(&server, &format!("subject = \"scores.all\"\n{headers}"));
    job.write("in.ndjson", (0..10).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    let child = job.command(&[]).env("RINGMILL_FAILPOINT", "kill:sink.nats.send:1").spawn().expect("it is built");
    assert_eq!(job.wait(child).code, None);
    let as_it_was = job.read("pipeline.toml");
    for other in ["", "headers = { row = \"number\", more = \"subject\" }", "headers = { row = \"subject\" }"] {
        job.write("pipeline.toml", as_it_was.replace(headers, other));
        let ended = job.run(&[]);
        assert!(ended.stderr.contains("the checkpoint has rows for it with other `headers`"), "{}", ended.stderr);
        assert_eq!(server.read("SCORES"), []);
    }
    job.write("pipeline.toml", as_it_was.clone());
    assert_eq!(job.run(&[]).code, Some(0));
    let messages = server.read("SCORES");
    let rows: Vec<_> = messages.iter().map(|message| message.headers["row"].as_str()).collect();
    assert_eq!(rows, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    job.write("pipeline.toml", as_it_was.replace(headers, ""));
    assert_eq!(job.run(&[]).code, Some(0), "nothing is left to be sent");
}

#[test]
fn what_is_wrong_is_said() {
    let Some(server) = server() else { return };
    for (subject, reason) in [
        ("\"scores.*\"", "a row's subject is \"scores.*\", and no message can have it"),
        ("\"other\"", "the stream takes no messages of subject \"other\""),
        ("null", "a row has no subject; `subject` is for such rows"),
    ] {
        let job = job(&server, "subject_column = \"subject\"");
        job.write("in.ndjson", format!("{{\"number\":0,\"subject\":{subject}}}\n"));
        for checkpoint in [CHECKPOINT, ""] {
            job.write("pipeline.toml", job.read("pipeline.toml").replace(CHECKPOINT, checkpoint));
            let ended = job.run(&[]);
            assert_ne!(ended.code, Some(0));
            assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        }
    }
    let headed = self::job(&server, "subject = \"scores.all\"\nheaders = { trace-id = \"subject\" }");
    headed.write("in.ndjson", "{\"number\":0,\"subject\":\"a\\nb\"}\n");
    let ended = headed.run(&[]);
    assert!(
        ended.stderr.contains("a row's header trace-id is \"a\\nb\", and none can have a line end"),
        "{}",
        ended.stderr
    );
    assert_eq!(server.read("SCORES"), []);
    for (keys, reason) in [
        ("subject = \"a\"\nheaders = { a = \"nowhere\" }", "headers is nowhere, but the rows have no such column"),
        ("subject = \"other\"", "the stream takes no messages of subject \"other\", but of [\"scores.>\"]"),
        ("subject_column = \"number\"", "subject_column is number, but a subject is of type utf8"),
    ] {
        let ended = job(&server, keys).run(&[]);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
    let job = job(&server, "subject = \"others\"");
    job.write("pipeline.toml", job.read("pipeline.toml").replace("SCORES", "OTHERS"));
    let ended = job.run(&[]);
    assert!(ended.stderr.contains("there is no stream \"OTHERS\""), "{}", ended.stderr);
    server.create("OTHERS", &["others"], Config::default());
    assert_eq!(job.run(&[]).code, Some(0));
    assert!(numbers(&server.read("OTHERS")).into_iter().eq(0..ROWS));
    assert_eq!(server.read("SCORES"), []);
}

#[test]
fn a_row_that_no_server_takes_ends_the_run_before_it_is_in_a_checkpoint() {
    let Some(mut server) = server() else { return };
    server.stop();
    server.go_on("max_payload: 2000");
    let job = job(&server, "subject = \"scores.all\"");
    let long = format!("{{\"number\":1,\"subject\":\"{}\"}}\n", "x".repeat(1_500));
    job.write("in.ndjson", ["{\"number\":0}\n", &long].concat());
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("the server's max_payload allows"), "{}", ended.stderr);
    server.stop();
    server.go_on("");
    assert_eq!(job.run(&[]).code, Some(0));
    assert_eq!(numbers(&server.read("SCORES")), [0, 1]);
}
