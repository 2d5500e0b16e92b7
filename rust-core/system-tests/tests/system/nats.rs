//! Messages of a real NATS server: through the death of the core and the server's absence, gaps and garbage among them.

use std::process::{Child, Command};
use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use ringmill_system_tests::chaos::{Chance, Progress, kill_after, kill_now, newest_checkpoint, rounds};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Ended, Job, read_until, sinks_of, until};

fn pipeline(url: &str, keys: &str) -> String {
    format!(
        r#"
{CHECKPOINT}
[sources.messages]
kind = "nats"
url = "{url}"
stream = "EVENTS"
sequence_field = "sequence"
subject_field = "subject"
record_size_max = "1KiB"
fields = {{ number = "uint64", sequence = "int64", subject = "utf8" }}
{keys}
{}"#,
        sinks_of("messages")
    )
}

fn job(server: &Nats, keys: &str) -> Job {
    Job::new(&pipeline(&server.url(), keys), "")
}

/// A server with a stream.
fn server() -> Option<Nats> {
    let server = Nats::start()?;
    server.create("EVENTS", &["plant.>", "spare.>"], Config::default());
    Some(server)
}

/// The numbers in the order in which they are shown.
fn shown(job: &Job) -> Vec<u64> {
    job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_u64().expect("a number")).collect()
}

fn refused(ended: &Ended, reason: &str) {
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
}

/// Starts it, waits until so many rows are shown and in a checkpoint, and kills it.
fn kill_behind(job: &Job, rows: usize) {
    let mut child = job.start(&[]);
    until(&mut child, || shown(job).len() == rows);
    let before = newest_checkpoint(&job.path("state"));
    until(&mut child, || newest_checkpoint(&job.path("state")) > before + 1);
    kill(child);
}

fn kill(mut child: Child) {
    kill_now(child.id() as i32);
    child.wait().expect("a child");
}

/// Whether that message is the next one, as the newest checkpoint has it.
fn stands_at(job: &Job, number: u64) -> bool {
    let newest = newest_checkpoint(&job.path("state"));
    let manifest = job.path("state/checkpoints").join(format!("{newest:010}")).join("manifest");
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    text.split_whitespace().collect::<String>().contains(&format!("\"offset\":{number},"))
}

#[test]
fn every_message_is_shown_once_and_in_order_however_often_the_core_dies() {
    let Some(server) = server() else { return };
    let job = job(&server, "");
    let mut chance = Chance::from_environment("nats");
    let wanted = rounds("RINGMILL_NATS_KILLS", 20);
    let (mut next, mut running) = (0, 0);
    for _ in Progress::over("kills", wanted) {
        let before = shown(&job).len();
        let mut child = job.start(&[]);
        for _ in 0..1 + chance.below(4) {
            let messages = 1 + chance.below(3_000);
            server.send_numbers("plant.7.count", next..next + messages);
            next += messages;
        }
        let has_begun = || shown(&job).len() > before;
        running +=
            u64::from(kill_after(&mut child, has_begun, chance.between(Duration::ZERO, Duration::from_millis(60))));
        let numbers = shown(&job);
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "none is left out or comes again");
    }
    assert_eq!(running, wanted, "each kill hits a run");
    let mut child = job.start(&[]);
    until(&mut child, || shown(&job).len() as u64 == next);
    assert_eq!(job.end(child).code, Some(0));
    let rows = job.rows("out.ndjson");
    for (number, row) in (0..next).zip(&rows) {
        let expected = serde_json::json!({ "number": number, "sequence": number + 1, "subject": "plant.7.count" });
        assert_eq!(*row, expected);
    }
    assert_eq!(rows.len() as u64, next);
    println!("{wanted} kills, {next} messages");
}

#[test]
fn a_server_that_dies_is_waited_for_and_nothing_is_left_out() {
    let Some(mut server) = server() else { return };
    let job = job(&server, "");
    let mut child = job.start(&[]);
    let mut next = 0;
    for round in 0..4 {
        server.send_numbers("plant.7.count", next..next + 5_000);
        // Before it has delivered everything, or after that.
        let least = if round % 2 == 0 { next + 1 } else { next + 5_000 };
        next += 5_000;
        until(&mut child, || shown(&job).len() as u64 >= least);
        server.kill();
        read_until(&mut child, "it is tried again");
        server.go_on("");
    }
    server.send_numbers("plant.7.count", next..next + 1);
    until(&mut child, || shown(&job).len() as u64 > next);
    server.kill();
    assert_eq!(job.end(child).code, Some(0), "a run ends though nobody answers");
    assert!(shown(&job).into_iter().eq(0..=next));
}

#[test]
fn garbage_is_a_dead_letter_and_an_end_that_is_asked_for_ends_the_run() {
    let Some(server) = server() else { return };
    let long = format!("{{\"number\":{:>2000}}}", 1);
    for payload in ["{\n\"number\":0}", "", "{\"number\":-1}", "\u{0}", &long, "{\"number\":1}"] {
        server.send("plant.1", payload.as_bytes());
    }
    let job = job(&server, "stop_at_end = true");
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (6, 4));
    assert_eq!(shown(&job), [0, 1]);
    let letters = job.rows("dead.ndjson");
    let sequences: Vec<u64> = letters.iter().map(|row| row["offset"].as_u64().expect("an offset")).collect();
    assert_eq!(sequences, [2, 3, 4, 5]);
    assert_eq!(job.run(&[]).figure("/rows/in"), 6, "nothing was there to be read");
    server.send_numbers("plant.1", 2..4);
    let ended = job.run(&[]);
    assert_eq!(ended.figure("/rows/in"), 8, "the next run goes on behind what was read");
    assert_eq!(shown(&job), [0, 1, 2, 3]);
}

#[test]
fn reading_begins_where_it_is_to_and_with_the_messages_that_are_meant() {
    let Some(server) = server() else { return };
    server.send_numbers("plant.1.a", 0..3);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970");
    std::thread::sleep(Duration::from_millis(5));
    server.send_numbers("plant.1.b", 3..6);
    server.send_numbers("plant.2.a", 6..9);
    server.delete_message("EVENTS", 2);
    let end = "stop_at_end = true";
    let time = format!("start_time = \"{}\"", iso(clock.as_millis() as i64 + 2));
    for (keys, numbers) in [
        ("", &[0, 2, 3, 4, 5, 6, 7, 8][..]),
        ("start = \"latest\"", &[]),
        (&time, &[3, 4, 5, 6, 7, 8]),
        ("subject = \"plant.*.a\"", &[0, 2, 6, 7, 8]),
        ("subject = \"plant.1.>\"", &[0, 2, 3, 4, 5]),
        ("subject = \"plant.3.>\"", &[]),
        ("subjects = [\"plant.1.b\", \"plant.2.*\", \"spare.>\"]", &[3, 4, 5, 6, 7, 8]),
        ("subjects = [\"spare.a\", \"spare.b\"]", &[]),
    ] {
        let job = job(&server, &format!("{end}\n{keys}"));
        assert_eq!(job.run(&[]).figure("/rows/in"), numbers.len() as u64, "{keys}");
        assert_eq!(shown(&job), numbers, "{keys}");
    }
    let job = job(&server, "start = \"latest\"");
    let mut child = job.start(&[]);
    let checkpoint = || newest_checkpoint(&job.path("state")) > 0;
    until(&mut child, checkpoint);
    server.send_numbers("spare.x", 9..11);
    until(&mut child, || shown(&job).len() == 2);
    assert_eq!(job.end(child).code, Some(0));
    job.write("pipeline.toml", job.read("pipeline.toml").replace("EVENTS", "EVENTS\"\nsubject = \"spare.>"));
    refused(&job.run(&[]), "EVENTS/spare.> is read now");
}

/// A time as TOML has it.
fn iso(milliseconds: i64) -> String {
    let date = Command::new("date")
        .args([
            "-u",
            "-d",
            &format!("@{}.{:03}", milliseconds / 1_000, milliseconds % 1_000),
            "+%Y-%m-%dT%H:%M:%S.%3NZ",
        ])
        .output();
    String::from_utf8(date.expect("it is there").stdout).expect("text").trim().to_owned()
}

#[test]
fn several_subjects_are_read_once_and_in_order_however_often_the_core_dies() {
    let Some(server) = server() else { return };
    let job = job(&server, "subjects = [\"plant.*.count\", \"spare.count\"]");
    let wanted = ["plant.1.count", "spare.count"];
    let mut next = 0;
    for _ in 0..4 {
        for subject in wanted {
            server.send_numbers("plant.1.other", 0..50);
            server.send_numbers(subject, next..next + 200);
            next += 200;
        }
        kill_behind(&job, next as usize);
    }
    let mut child = job.start(&[]);
    server.send_numbers("spare.other", 0..50);
    // What nobody wants is behind us all the same.
    until(&mut child, || stands_at(&job, next + 4 * 2 * 50 + 50 + 1));
    assert_eq!(job.end(child).figure("/rows/in"), next);
    assert!(shown(&job).into_iter().eq(0..next));
    job.write("pipeline.toml", job.read("pipeline.toml").replace(", \"spare.count\"", ""));
    refused(&job.run(&[]), "EVENTS/plant.*.count is read now");
}

#[test]
fn what_stands_beside_a_message_becomes_fields() {
    let Some(server) = server() else { return };
    for headers in [
        &[("trace-id", "a"), ("trace-id", "ü: 7"), ("raw", "\u{1}")][..],
        &[("Trace-Id", "other")],
        &[("trace-id", "\u{2}")],
    ] {
        server.send_with("plant.1", headers, b"{}");
    }
    let text = pipeline(&server.url(), "stop_at_end = true\nheader_fields = { trace = \"trace-id\", raw = \"raw\" }");
    let fields = "fields = { sequence = \"int64\", subject = \"utf8\", trace = \"utf8\", raw = { type = \"binary\", nullable = true } }";
    let job = Job::new(
        &text.replace("fields = { number = \"uint64\", sequence = \"int64\", subject = \"utf8\" }", fields),
        "",
    );
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (3, 1), "{}", ended.stderr);
    let expected = [
        serde_json::json!({ "sequence": 1, "subject": "plant.1", "trace": "ü: 7", "raw": "AQ==" }),
        serde_json::json!({ "sequence": 3, "subject": "plant.1", "trace": "\u{2}", "raw": null }),
    ];
    assert_eq!(job.rows("out.ndjson"), expected);
    assert_eq!(job.rows("dead.ndjson")[0]["offset"], 2);
}

#[test]
fn headers_that_are_no_text_hurt_no_other_message() {
    let Some(server) = server() else { return };
    server.send_numbers("plant.1", 0..3);
    for (number, head) in (3..).zip([Nats::UNREADABLE, Nats::UNREADABLE].concat()) {
        server.tell_raw("plant.1", head, format!("{{\"number\":{number}}}").as_bytes());
    }
    server.send_numbers("plant.1", 11..14);
    server.tell_raw("plant.1", Nats::UNREADABLE[0], b"{\"number\":14}");
    let plain = job(&server, "stop_at_end = true\ndurable = \"mill\"");
    let ended = plain.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (15, 0), "{}", ended.stderr);
    assert!(shown(&plain).into_iter().eq(0..15));
    let fields = "subject = \"utf8\", trace = { type = \"utf8\", nullable = true } }";
    let text = pipeline(&server.url(), "stop_at_end = true\nheader_fields = { trace = \"trace-id\" }");
    let headed = Job::new(&text.replace("subject = \"utf8\" }", fields), "");
    let ended = headed.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (15, 3), "{}", ended.stderr);
    assert!(shown(&headed).into_iter().eq([0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13]));
    assert_eq!(headed.rows("out.ndjson")[3]["trace"], "a\rb");
}

#[test]
fn a_durable_consumer_shows_what_checkpoints_cover() {
    let Some(mut server) = server() else { return };
    let job = job(&server, "subject = \"plant.>\"\ndurable = \"mill\"");
    let stands = |server: &Nats| server.consumer("EVENTS", "mill");
    server.send_numbers("plant.1", 0..3_000);
    let mut child = job.start(&["checkpoint.interval=1h"]);
    until(&mut child, || stands(&server) == Some((0, 3_000)));
    kill(child);
    let mut child = job.start(&[]);
    until(&mut child, || stands(&server) == Some((0, 0)));
    assert_eq!(shown(&job).len(), 3_000);
    kill(child);
    server.send_numbers("plant.1", 3_000..3_500);
    let mut child = job.start(&["checkpoint.interval=1h"]);
    until(&mut child, || stands(&server) == Some((0, 500)));
    assert_eq!(job.end(child).code, Some(0));
    assert_eq!(stands(&server), Some((0, 500)), "the last checkpoint of a run is told by the next one");
    let mut child = job.start(&[]);
    until(&mut child, || stands(&server) == Some((0, 0)));
    server.kill();
    read_until(&mut child, "it is tried again");
    server.go_on("");
    server.send_numbers("plant.1", 3_500..3_700);
    until(&mut child, || shown(&job).len() == 3_700 && stands(&server) == Some((0, 0)));
    assert_eq!(job.end(child).code, Some(0));
    assert!(shown(&job).into_iter().eq(0..3_700), "what is delivered again after a break is not read again");
}

#[test]
fn a_consumer_of_somebody_else_is_left_alone() {
    let Some(server) = server() else { return };
    server.create_consumer("EVENTS", "theirs");
    let job = job(&server, "durable = \"theirs\"");
    refused(&job.run(&[]), "consumer \"theirs\" is there and not ours");
    assert_eq!(server.consumer("EVENTS", "theirs"), Some((0, 0)), "it is there");
}

#[test]
fn the_report_says_how_far_the_stream_is_ahead() {
    let Some(server) = server() else { return };
    server.send_numbers("spare.1", 0..100);
    server.send_numbers("plant.1", 0..5_000);
    let job = job(&server, "subject = \"plant.>\"\nrate = 500");
    let mut child = job.start(&[]);
    until(&mut child, || !shown(&job).is_empty());
    let ended = job.end(child);
    let (read, behind) = (ended.figure("/rows/in"), ended.figure("/nodes/messages/lag/total"));
    assert_eq!((read + behind, ended.figure("/nodes/messages/lag/partitions/EVENTS~1plant.>")), (5_000, behind));
    assert!(behind > 0);
    let ended = job.run(&["sources.messages.stop_at_end=true", "sources.messages.rate=100000"]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/nodes/messages/lag/total")), (5_000, 0));
}

#[test]
fn a_cluster_goes_on_when_any_of_its_servers_dies() {
    let Some(mut servers) = Nats::cluster() else { return };
    let replicated = || Config { num_replicas: 3, ..Config::default() };
    servers[0].0.create("EVENTS", &["plant.>"], replicated());
    servers[0].0.create("SCORES", &["scores"], replicated());
    let urls = servers.iter().map(|(server, _)| server.url()).collect::<Vec<_>>().join(",");
    let scores = format!(
        "\n[sinks.scores]\nkind = \"nats\"\nurl = \"{urls}\"\nstream = \"SCORES\"\nsubject = \"scores\"\ninputs = [\"messages\"]\n"
    );
    let job = Job::new(&(pipeline(&urls, "rate = 5000\ndurable = \"mill\"") + &scores), "");
    let mut child = job.start(&[]);
    let mut next = 0;
    for killed in 0..3 {
        for stream in ["EVENTS", "SCORES"] {
            servers[killed].0.settled(stream);
        }
        servers[(killed + 1) % 3].0.send_numbers("plant.1", next..next + 3_000);
        until(&mut child, || shown(&job).len() as u64 > next);
        let (server, settings) = &mut servers[killed];
        server.kill();
        next += 3_000;
        until(&mut child, || shown(&job).len() as u64 == next);
        server.go_on(settings);
    }
    assert_eq!(job.end(child).code, Some(0));
    assert!(shown(&job).into_iter().eq(0..next));
    assert_eq!(servers[0].0.settled("SCORES"), next, "the stream drops what it has had");
}

#[test]
fn messages_that_went_before_they_were_read_end_the_run() {
    let Some(server) = server() else { return };
    server.send_numbers("plant.1", 0..100);
    let job = job(&server, "");
    kill_behind(&job, 100);
    // All that is gone was read.
    server.send_numbers("plant.1", 100..150);
    server.purge_before("EVENTS", 101);
    kill_behind(&job, 150);
    server.send_numbers("plant.1", 150..200);
    server.purge_before("EVENTS", 171);
    refused(&job.run(&[]), "messages 151 to 170 went before they were read");
    assert_eq!(shown(&job).len(), 150);
    // One that reads too slowly hears of it, too.
    server.create("SMALL", &["small"], Config { max_messages: 1_000, ..Config::default() });
    let text = job.read("pipeline.toml").replace("EVENTS", "SMALL");
    let slow = Job::new(&text, "");
    server.send_numbers("small", 0..10);
    let mut child = slow.start(&[]);
    until(&mut child, || shown(&slow).len() == 10);
    let send = |signal| signal::kill(Pid::from_raw(child.id() as i32), signal).expect("it is there");
    send(Signal::SIGSTOP);
    server.send_numbers("small", 10..20_000);
    send(Signal::SIGCONT);
    refused(&slow.wait(child), "went before they were read");
    let numbers = shown(&slow);
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
}

#[test]
fn a_stream_that_was_created_anew_is_told_from_the_old_one() {
    let Some(server) = server() else { return };
    server.send_numbers("plant.1", 0..10);
    let job = job(&server, "");
    kill_behind(&job, 10);
    let mut child = job.start(&[]);
    server.delete("EVENTS");
    let gone = read_until(&mut child, "there is no stream \"EVENTS\"");
    assert!(!gone.contains("panicked"));
    child.wait().expect("a child");
    refused(&job.run(&[]), "there is no stream \"EVENTS\"");
    server.create("EVENTS", &["plant.>"], Config::default());
    server.send_numbers("plant.1", 0..50);
    refused(&job.run(&[]), "deleted and created anew");
    assert_eq!(shown(&job).len(), 10);
}

#[test]
fn what_others_write_may_go_when_it_is_behind_us() {
    let Some(server) = server() else { return };
    server.send_numbers("plant.1", 0..10);
    let job = job(&server, "subject = \"plant.>\"");
    let mut child = job.start(&[]);
    until(&mut child, || shown(&job).len() == 10);
    server.send_numbers("spare.1", 0..1_000);
    until(&mut child, || stands_at(&job, 1_011));
    kill(child);
    server.purge_before("EVENTS", 1_011);
    server.send_numbers("plant.1", 10..20);
    let mut child = job.start(&[]);
    until(&mut child, || shown(&job).len() == 20);
    assert_eq!(job.end(child).code, Some(0));
    assert!(shown(&job).into_iter().eq(0..20));
}

#[test]
fn what_is_wrong_is_said() {
    let Some(mut server) = server() else { return };
    server.create("WORK", &["work"], Config { retention: RetentionPolicy::WorkQueue, ..Config::default() });
    let text = pipeline(&server.url(), "");
    for (from, to, reason) in [
        ("EVENTS", "OTHER", "there is no stream \"OTHER\""),
        ("EVENTS", "WORK", "its retention must be `limits`"),
        (&*server.url(), "nats://127.0.0.1:1", "NATS at nats://127.0.0.1:1: Connection refused"),
    ] {
        refused(&Job::new(&text.replace(from, to), "").run(&[]), reason);
    }
    server.stop();
    server.go_on("authorization { users = [{ user: miller, password: right }] }");
    let job = job(&server, "user = \"miller\"\npassword_file = \"secret\"\nstop_at_end = true");
    job.write("secret", "wr0ng\n");
    let ended = job.run(&[]);
    refused(&ended, "it does not let us in: look at `user` and `password_file`");
    assert!(!ended.stderr.contains("wr0ng"), "{}", ended.stderr);
    job.write("secret", "right\n");
    assert_eq!(job.run(&[]).code, Some(0));
    server.stop();
    server.go_on("authorization { token: \"t0ken\" }");
    let job = self::job(&server, "token_file = \"secret\"\nstop_at_end = true");
    job.write("secret", "t0ken\n");
    assert_eq!(job.run(&[]).code, Some(0));
    job.write("secret", "other\n");
    refused(&job.run(&[]), "it does not let us in");
    server.stop();
    server.go_on_without_streams("");
    refused(&self::job(&server, "").run(&[]), "JetStream");
}

#[test]
fn an_encrypted_connection_checks_the_server_s_certificate() {
    let Some(mut server) = Nats::stopped() else { return };
    let folder = server.folder().to_owned();
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out certificate -days 2 \
                   -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let done = Command::new("openssl").args(request.split_whitespace()).current_dir(&folder).output().expect("openssl");
    assert!(done.status.success());
    let (key, certificate) = (folder.join("key"), folder.join("certificate"));
    server.go_on("");
    server.create("EVENTS", &["plant.>"], Config::default());
    server.send_numbers("plant.1", 0..3);
    server.stop();
    server.go_on(&format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}"));
    let url = format!("tls://localhost:{}", server.port());
    let job = Job::new(&pipeline(&url, "ca_file = \"ours.pem\"\nstop_at_end = true"), "");
    job.write("ours.pem", std::fs::read(&certificate).expect("openssl wrote it"));
    let ended = job.run(&[]);
    assert_eq!(ended.figure("/rows/in"), 3, "{}", ended.stderr);
    let stranger = Job::new(&pipeline(&url, ""), "");
    refused(&stranger.run(&[]), "certificate");
    let misled = Job::new(&pipeline(&url, "ca_file = \"pipeline.toml\""), "");
    refused(&misled.run(&[]), "the certificates cannot be used");
}

#[test]
fn the_pipeline_of_the_documentation_carries_messages_to_another_stream() {
    let Some(server) = Nats::start() else { return };
    server.create("PLANT", &["plant.>"], Config::default());
    server.create("ALERTS", &["alerts.>"], Config::default());
    let job = Page::read("connect/nats").job(&[("nats://localhost:4222", &server.url())]);
    server.send("plant.7.temperature", br#"{"sensor": "s-1", "celsius": 21.5}"#);
    server.send("plant.8.temperature", br#"{"sensor": "s-2", "celsius": 48.0}"#);
    let mut child = job.start(&[]);
    until(&mut child, || !server.read("ALERTS").is_empty());
    assert_eq!(job.end(child).figure("/rows/in"), 2);
    let alerts = server.read("ALERTS");
    let alert = r#"{"subject":"plant.8.temperature","sensor":"s-2","celsius":48.0}"#;
    assert_eq!((alerts.len(), alerts[0].subject.as_str(), alerts[0].payload.as_str()), (1, "alerts.heat", alert));
}
