//! Rows as messages of a real server of core NATS: who is there has them, and nobody keeps them.

use std::collections::BTreeSet;
use std::process::Child;

use ringmill_system_tests::chaos::{CoreKills, newest_checkpoint};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, sinks_of, until};
use serde_json::json;

const ROWS: u64 = 10_000;

/// Rows of a file to the server.
fn job(server: &Nats, keys: &str) -> Job {
    let fields = r#"number = "uint64", subject = { type = "utf8", nullable = true }, trace = { type = "utf8", nullable = true }"#;
    let (source, url) = (file_source(20_000, fields), server.url());
    let sink = format!("[sinks.out]\nkind = \"nats_core\"\ninputs = [\"rows\"]\nurl = \"{url}\"\n{keys}\n");
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n{sink}"), "");
    job.write("in.ndjson", (0..ROWS).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    job
}

/// Somebody who is there all the time.
fn receiver(server: &Nats) -> (Job, Child) {
    let (url, sinks) = (server.url(), sinks_of("messages"));
    let source = format!(
        "{CHECKPOINT}\n[sources.messages]\nkind = \"nats_core\"\nurl = \"{url}\"\nsubjects = [\"scores.>\"]\n\
         subject_field = \"at\"\nheader_fields = {{ trace = \"trace-id\", text = \"number\" }}\n\
         fields = {{ number = \"uint64\", at = \"utf8\", trace = {{ type = \"utf8\", nullable = true }}, \
         text = {{ type = \"utf8\", nullable = true }} }}\n{sinks}"
    );
    let job = Job::new(&source, "");
    let mut child = job.start(&[]);
    read_until(&mut child, "subscribed to scores.>");
    (job, child)
}

fn server() -> Option<Nats> {
    let mut server = Nats::stopped()?;
    server.go_on_without_streams("");
    Some(server)
}

fn numbers(job: &Job) -> Vec<u64> {
    job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_u64().expect("a number")).collect()
}

#[test]
fn a_column_says_each_row_s_subject_and_others_its_headers() {
    let Some(server) = server() else { return };
    let (received, mut child) = receiver(&server);
    let keys = "subject = \"scores.others\"\nsubject_column = \"subject\"\nheaders = { trace-id = \"trace\", number = \"number\" }";
    let job = job(&server, keys);
    let rows =
        [(1, "\"scores.a\"", "\"x\""), (2, "null", "\"ü\""), (3, "\"elsewhere\"", "null"), (4, "\"scores.b\"", "null")];
    let line = |(number, subject, trace)| format!("{{\"number\":{number},\"subject\":{subject},\"trace\":{trace}}}\n");
    job.write("in.ndjson", rows.map(line).concat());
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    until(&mut child, || received.whole_rows("out.ndjson").len() == 3);
    assert_eq!(received.end(child).code, Some(0));
    let expected = [
        json!({ "number": 1, "at": "scores.a", "trace": "x", "text": "1" }),
        json!({ "number": 2, "at": "scores.others", "trace": "ü", "text": "2" }),
        json!({ "number": 4, "at": "scores.b", "trace": null, "text": "4" }),
    ];
    assert_eq!(received.rows("out.ndjson"), expected);
}

#[test]
fn who_is_there_has_every_row_however_often_the_core_dies() {
    let mut kills = CoreKills::of("nats core sink", "RINGMILL_NATS_SINK_KILLS", 10);
    while kills.are_wanted() {
        let Some(server) = server() else { return };
        let (received, mut child) = receiver(&server);
        kills.behind_checkpoints(&job(&server, "subject = \"scores.all\""), |_| {});
        let found = || numbers(&received).into_iter().collect::<BTreeSet<u64>>();
        until(&mut child, || found().len() as u64 == ROWS);
        assert_eq!(received.end(child).code, Some(0));
        let numbers = numbers(&received);
        let mut seen = BTreeSet::new();
        let first = numbers.iter().filter(|number| seen.insert(**number)).copied();
        assert!(first.eq(0..ROWS), "they come in order");
    }
}

#[test]
fn a_server_that_dies_is_waited_for_and_what_it_had_is_lost() {
    let Some(mut server) = server() else { return };
    let job = job(&server, "subject = \"scores.all\"");
    let mut child = job.start(&["sources.rows.rate=5000"]);
    until(&mut child, || newest_checkpoint(&job.path("state")) > 0);
    server.kill();
    read_until(&mut child, "the connection broke");
    server.go_on_without_streams("");
    let (received, mut receiving) = receiver(&server);
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    until(&mut receiving, || numbers(&received).last() == Some(&(ROWS - 1)));
    assert_eq!(received.end(receiving).code, Some(0));
    let numbers = numbers(&received);
    assert!(numbers.is_sorted() && (numbers.len() as u64) < ROWS, "nobody had the first ones");
}

#[test]
fn what_is_wrong_is_said_and_ends_the_run() {
    let Some(mut server) = Nats::stopped() else { return };
    server.go_on_without_streams("max_payload: 2048\n");
    for (keys, row, reason) in [
        (
            "subject_column = \"subject\"",
            "\"subject\":\"a.*\"",
            "a row's subject is \"a.*\", and no message can have it",
        ),
        ("subject_column = \"subject\"", "\"subject\":null", "a row has no subject; `subject` is for such rows"),
        ("subject = \"a\"", &format!("\"trace\":\"{}\"", "x".repeat(3_000)), "the server's max_payload allows"),
        ("subject = \"a\"\nheaders = { t = \"trace\" }", "\"trace\":\"a\\nb\"", "and none can have a line end"),
    ] {
        let job = job(&server, keys);
        job.write("in.ndjson", format!("{{\"number\":0,{row}}}\n"));
        let ended = job.run(&[]);
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
    let ended = job(&server, "subject_column = \"number\"").run(&[]);
    assert!(ended.stderr.contains("subject_column is number, but a subject is of type utf8"), "{}", ended.stderr);
    server.kill();
    assert!(job(&server, "subject = \"a\"").run(&[]).stderr.contains("Connection refused"));
}
