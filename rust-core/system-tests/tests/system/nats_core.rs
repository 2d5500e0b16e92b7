//! Messages of a real server of core NATS: at most once to the pipeline, exactly from there on.

use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_system_tests::chaos::{Progress, kill_now, rounds};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Job, read_until, sinks_of, until};
use serde_json::json;

fn job(server: &Nats, keys: &str) -> Job {
    let url = server.url();
    let pipeline = format!(
        r#"
{CHECKPOINT}
[sources.messages]
kind = "nats_core"
url = "{url}"
subjects = ["plant.*.count", "spare.>"]
subject_field = "subject"
header_fields = {{ trace = "trace-id" }}
record_size_max = "1KiB"
fields = {{ number = "uint64", subject = "utf8", trace = {{ type = "utf8", nullable = true }} }}
{keys}
{}"#,
        sinks_of("messages")
    );
    Job::new(&pipeline, "")
}

/// A server that keeps no messages.
fn server() -> Option<Nats> {
    let mut server = Nats::stopped()?;
    server.go_on_without_streams("");
    Some(server)
}

/// Starts it, and waits until the server knows what it wants.
fn start(job: &Job) -> Child {
    let mut child = job.start(&[]);
    read_until(&mut child, "subscribed to plant.*.count, spare.>");
    child
}

/// The numbers in the order in which they are shown.
fn shown(job: &Job) -> Vec<u64> {
    job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_u64().expect("a number")).collect()
}

#[test]
fn messages_become_rows_with_what_stands_beside_them() {
    let Some(server) = server() else { return };
    let job = job(&server, "");
    let mut child = start(&job);
    server.tell("plant.7.count", &[("trace-id", "a"), ("trace-id", "ü")], b"{\"number\": 1}\n");
    server.tell("plant.7.other", &[], b"{\"number\":2}");
    server.tell("spare.a.b", &[], b"{\n\"number\": 3}");
    server.tell("spare.a", &[], b"");
    server.tell("spare.a", &[], b"{\"number\":-1}");
    server.tell("spare.a", &[], b"[4]");
    server.tell("spare.a", &[], b"{\"number\":5}");
    until(&mut child, || shown(&job).len() == 3);
    let ended = job.end(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 2), "{}", ended.stderr);
    let expected = [
        json!({ "number": 1, "subject": "plant.7.count", "trace": "ü" }),
        json!({ "number": 3, "subject": "spare.a.b", "trace": null }),
        json!({ "number": 5, "subject": "spare.a", "trace": null }),
    ];
    assert_eq!(job.rows("out.ndjson"), expected);
}

#[test]
fn what_was_on_the_disk_counts_once_however_often_the_core_dies() {
    let Some(server) = server() else { return };
    let job = job(&server, "");
    let mut next = 0;
    let wanted = rounds("RINGMILL_NATS_CORE_KILLS", 5);
    let intervals = ["1h", "20ms", "1h", "1h", "20ms"].into_iter().cycle();
    for (_, interval) in Progress::over("kills", wanted).zip(intervals) {
        let mut child = job.start(&[&format!("checkpoint.interval={interval}")]);
        read_until(&mut child, "subscribed to plant.*.count, spare.>");
        server.tell_numbers("spare.count", next..next + 2_000);
        next += 2_000;
        until(&mut child, || is_journaled(&job, next - 1));
        kill_now(child.id() as i32);
        child.wait().expect("a child");
        // Nobody is there, and nobody keeps it.
        server.tell_numbers("spare.count", 1_000_000..1_000_010);
    }
    let mut child = start(&job);
    until(&mut child, || shown(&job).len() as u64 == next);
    assert_eq!(job.end(child).code, Some(0));
    assert!(shown(&job).into_iter().eq(0..next));
}

/// Whether a message of this number was written down, or shown already.
fn is_journaled(job: &Job, number: u64) -> bool {
    let files = std::fs::read_dir(job.path("state/journal/messages")).into_iter().flatten().flatten();
    let wanted = format!("\"number\":{number},");
    let mut contents = files.filter_map(|file| std::fs::read(file.path()).ok());
    contents.any(|content| content.windows(wanted.len()).any(|part| part == wanted.as_bytes()))
        || shown(job).contains(&number)
}

#[test]
fn a_server_that_dies_is_waited_for() {
    let Some(mut server) = server() else { return };
    let job = job(&server, "");
    let mut child = start(&job);
    server.tell_numbers("spare.count", 0..100);
    until(&mut child, || shown(&job).len() == 100);
    server.kill();
    read_until(&mut child, "it is tried again");
    server.go_on_without_streams("");
    // What is sent before it has subscribed again is lost.
    until(&mut child, || {
        server.tell("spare.again", &[], b"{\"number\":100}");
        shown(&job).len() > 100
    });
    assert_eq!(job.end(child).code, Some(0));
    let rows = shown(&job);
    assert!(rows[..100].iter().copied().eq(0..100) && rows[100..].iter().all(|number| *number == 100));
    server.kill();
    assert!(job.run(&[]).stderr.contains("Connection refused"));
}

#[test]
fn each_message_comes_to_one_of_a_group() {
    let Some(server) = server() else { return };
    let jobs = [(); 2].map(|()| job(&server, "queue_group = \"mill\""));
    let mut children = jobs.each_ref().map(start);
    server.tell_numbers("spare.count", 0..1_000);
    until(&mut children[0], || jobs.iter().map(|job| shown(job).len()).sum::<usize>() == 1_000);
    for (job, child) in jobs.iter().zip(children) {
        assert_eq!(job.end(child).code, Some(0));
        assert!(!shown(job).is_empty());
    }
    let mut all: Vec<u64> = jobs.iter().flat_map(shown).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..1_000));
}

#[test]
fn messages_that_come_faster_than_they_are_taken_are_dropped_and_counted() {
    let Some(server) = server() else { return };
    let job = job(&server, "rate = 1");
    // A journal would take them all.
    job.write("pipeline.toml", job.read("pipeline.toml").replace(CHECKPOINT, "").replace("1KiB", "1MiB"));
    let mut child = start(&job);
    tell_long(&server, 200);
    read_until(&mut child, "messages come faster than they are taken");
    let ended = job.end(child);
    let (taken, dropped) = (ended.figure("/nodes/messages/in"), ended.figure("/nodes/messages/dropped"));
    assert!(dropped > 0 && taken + dropped <= 200, "{taken} taken, {dropped} dropped");
}

#[test]
fn messages_are_taken_while_the_journal_is_read_again() {
    let Some(server) = server() else { return };
    let job = job(&server, "rate = 1");
    job.write("pipeline.toml", job.read("pipeline.toml").replace("1KiB", "1MiB"));
    let mut child = start(&job);
    tell_long(&server, 60);
    until(&mut child, || journal_bytes(&job) > 40 << 20);
    kill_now(child.id() as i32);
    child.wait().expect("a child");
    let mut child = start(&job);
    // It takes a minute until the journal's end is reached, and nobody writes to the journal before.
    tell_long(&server, 200);
    read_until(&mut child, "messages come faster than they are taken");
    assert_eq!(job.end(child).code, Some(0));
}

#[test]
fn a_burst_of_small_messages_is_taken_whole() {
    let Some(mut server) = Nats::stopped() else { return };
    server.go_on_without_streams("write_deadline: \"10m\"");
    let job = job(&server, "");
    let mut child = start(&job);
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGSTOP).expect("it is there");
    server.tell_numbers("spare.count", 0..200_000);
    kill(pid, Signal::SIGCONT).expect("it is there");
    until(&mut child, || shown(&job).len() == 200_000);
    assert_eq!(job.end(child).code, Some(0));
    assert!(shown(&job).into_iter().eq(0..200_000));
}

/// Sends so many messages of 900 kB.
fn tell_long(server: &Nats, count: usize) {
    let long = format!("{{\"number\":1,\"rest\":\"{}\"}}", "x".repeat(900_000));
    (0..count).for_each(|_| server.tell("spare.long", &[], long.as_bytes()));
}

fn journal_bytes(job: &Job) -> u64 {
    let files = std::fs::read_dir(job.path("state/journal/messages")).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

#[test]
fn headers_that_nobody_can_read_cost_the_connection_and_not_the_run() {
    let Some(server) = server() else { return };
    let job = job(&server, "");
    let mut child = start(&job);
    for (number, head) in (0..).zip(Nats::UNREADABLE) {
        server.tell_raw("spare.raw", head, b"{\"number\":1000}");
        // What is sent before it has subscribed again is lost.
        until(&mut child, || {
            server.tell("spare.again", &[], format!("{{\"number\":{number}}}").as_bytes());
            shown(&job).contains(&number)
        });
    }
    assert_eq!(job.end(child).code, Some(0));
}

#[test]
fn subjects_that_the_server_refuses_end_the_run_at_its_start() {
    let Some(mut server) = Nats::stopped() else { return };
    let users = |permissions: &str| {
        format!(
            "no_auth_user: a\nauthorization {{ users: [{{ user: a, password: b, permissions: {{ {permissions} }} }}] }}"
        )
    };
    server.go_on_without_streams(&users("subscribe: { deny: [\"spare.>\"] }"));
    let job = job(&server, "");
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.to_lowercase().contains("permissions violation for subscription to"), "{}", ended.stderr);
    for least in [
        "publish: { deny: [\">\"] }, subscribe: { allow: [\"plant.*.count\", \"spare.>\"] }",
        "publish: { deny: [\">\"] }, subscribe: { allow: [\">\"] }",
    ] {
        server.kill();
        server.go_on_without_streams(&users(least));
        assert_eq!(job.end(start(&job)).code, Some(0), "who may not ask may read");
    }
}

#[test]
fn the_pipeline_of_the_documentation_shows_what_it_is_sent() {
    let Some(server) = server() else { return };
    let job = Page::read("connect/nats-core").job(&[("nats://localhost:4222", &server.url())]);
    let mut child = job.start(&[]);
    read_until(&mut child, "subscribed to");
    server.tell("plant.7.temperature", &[], br#"{"sensor": "s-1", "celsius": 21.5}"#);
    server.tell("plant.8.temperature", &[], br#"{"sensor": "s-2", "celsius": 48.0}"#);
    until(&mut child, || !job.whole_rows("hot.ndjson").is_empty());
    assert_eq!(job.end(child).figure("/rows/in"), 2);
    assert_eq!(job.rows("hot.ndjson"), [json!({ "subject": "plant.8.temperature", "sensor": "s-2", "celsius": 48.0 })]);
}
