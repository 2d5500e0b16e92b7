//! Lines and messages as they are: bytes come out as they went in, through the death of the core, from files, sockets and
//! brokers; what is no text is kept and can be fed back.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::chaos::{Chance, Progress, kill_after, rounds};
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::mosquitto::Mosquitto;
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::{CHECKPOINT, Job, sinks_of, until};

const TO_FILE: &str = "[sinks.out]\nkind = \"file\"\ninputs = [\"lines\"]\npath = \"out.raw\"\nformat = \"raw\"\n";

fn written(job: &Job) -> Vec<u8> {
    std::fs::read(job.path("out.raw")).unwrap_or_default()
}

/// Lines of any bytes but line ends.
fn lines(chance: &mut Chance, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        bytes.extend((0..chance.below(60)).map(|_| chance.number() as u8).filter(|byte| !b"\r\n".contains(byte)));
        bytes.push(b'\n');
    }
    bytes
}

#[test]
fn every_byte_of_a_file_comes_out_as_it_was_however_often_the_core_dies() {
    let mut chance = Chance::from_environment("raw lines");
    let source = "[sources.lines]\nkind = \"file\"\npath = \"in.log\"\nformat = \"raw\"\nrate = 60000\nfields = { line = \"binary\" }";
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n{TO_FILE}"), "");
    let wanted = rounds("RINGMILL_FILE_KILLS", 6);
    let content = lines(&mut chance, 12_000 * wanted);
    job.write("in.log", &content);
    for _ in Progress::over("kills", wanted) {
        let mut child = job.start(&[]);
        let before = written(&job).len();
        let mut has_begun = || written(&job).len() > before;
        kill_after(&mut child, &mut has_begun, chance.between(Duration::ZERO, Duration::from_millis(60)));
        assert!(content.starts_with(&written(&job)), "none is left out, changed or comes again");
    }
    assert_eq!(job.run(&["sources.lines.rate=1000000"]).code, Some(0));
    assert!(written(&job) == content);
}

#[test]
fn what_is_no_text_is_kept_and_can_be_fed_back_as_bytes() {
    let source = "[sources.lines]\nkind = \"stdin\"\nformat = \"raw\"\nfields = { line = \"utf8\" }";
    let text = format!("{CHECKPOINT}\n{source}\n{TO_FILE}");
    let job = Job::new(&text, "");
    let mut command = job.command(&[]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("the ringmill command is built");
    child.stdin.take().expect("a pipe").write_all(b"first\n\n\xff\xfe\n{\"last\"").expect("it reads");
    let ended = job.wait(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (4, 1), "{}", ended.stderr);
    assert_eq!(written(&job), b"first\n\n{\"last\"\n");
    let reason = job.letters(&[])[0]["reason"].to_string();
    assert!(reason.contains("not valid UTF-8"), "{reason}");
    job.write("pipeline.toml", text.replace("\"utf8\"", "\"binary\""));
    job.dlq(&["replay", "pipeline.toml"]);
    assert_eq!(written(&job), b"first\n\n{\"last\"\n\xff\xfe\n");
}

#[test]
fn lines_of_a_socket_are_rows_as_they_are() {
    let source =
        "[sources.lines]\nkind = \"socket\"\npath = \"in.sock\"\nformat = \"raw\"\nfields = { line = \"binary\" }";
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n{TO_FILE}"), "");
    let mut child = job.start(&[]);
    until(&mut child, || UnixStream::connect(job.path("in.sock")).is_ok());
    let mut client = UnixStream::connect(job.path("in.sock")).expect("somebody listens");
    client.write_all(b"<34>1 2026-01-01T00:00:00Z a b - - x\r\n\xff\nlast").expect("it reads");
    drop(client);
    let expected = b"<34>1 2026-01-01T00:00:00Z a b - - x\n\xff\nlast\n";
    until(&mut child, || written(&job) == expected);
    assert_eq!(job.end(child).figure("/rows/dead_letters"), 0);
}

#[test]
fn messages_of_kafka_go_through_as_they_are_with_their_keys() {
    let kafka = Kafka::with_topic("in", 1);
    let sent: [&[u8]; 5] = [b"{\"a\": 1}", b"two\nlines\r\n", b"\x00\xff", b"", b"last"];
    sent.iter().for_each(|message| kafka.write("in", 0, message));
    kafka.flush();
    let brokers = kafka.brokers();
    let source = format!(
        "[sources.lines]\nkind = \"kafka\"\nbrokers = {brokers}\ntopics = [\"in\"]\nstop_at_end = true\nformat = \"raw\"\n\
         offset_field = \"offset\"\nfields = {{ offset = \"int64\", payload = \"binary\" }}"
    );
    let sink = format!(
        "[sinks.out]\nkind = \"kafka\"\ninputs = [\"lines\"]\nbrokers = {brokers}\ntopic = \"out\"\nkey = \"offset\"\nformat = \"raw\"\n"
    );
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n{sink}"), "");
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 0), "{}", ended.stderr);
    let mut came: Vec<(Option<Vec<u8>>, Vec<u8>)> =
        kafka.messages("out").into_iter().map(|(_, key, value)| (key, value)).collect();
    came.sort();
    let expected =
        sent.iter().zip(0..).map(|(message, offset)| (Some(offset.to_string().into_bytes()), message.to_vec()));
    assert!(came.into_iter().eq(expected));
}

#[test]
fn messages_go_from_mqtt_to_nats_as_they_are() {
    let (Some(broker), Some(server)) = (Mosquitto::start(), Nats::start()) else { return };
    server.create("out", &["out"], Config::default());
    let mqtt = format!("url = \"mqtt://127.0.0.1:{}\"", broker.port());
    let source = format!(
        "[sources.messages]\nkind = \"mqtt\"\n{mqtt}\ntopics = [\"t\"]\nclient_id = \"mill\"\nformat = \"raw\"\nfields = {{ payload = \"binary\" }}"
    );
    let nats = format!(
        "[sinks.nats]\nkind = \"nats\"\ninputs = [\"messages\"]\nurl = \"{}\"\nstream = \"out\"\nsubject = \"out\"\nformat = \"raw\"\n",
        server.url()
    );
    let job = Job::new(&format!("{CHECKPOINT}\n{source}\n{nats}\n{}", sinks_of("messages")), "");
    let mut child = job.start(&[]);
    until(&mut child, || broker.log().contains("Sending SUBACK to mill"));
    let from = "[sources.lines]\nkind = \"file\"\npath = \"in.log\"\nformat = \"raw\"\nfields = { line = \"binary\" }";
    let sink = format!("[sinks.out]\nkind = \"mqtt\"\ninputs = [\"lines\"]\n{mqtt}\ntopic = \"t\"\nformat = \"raw\"\n");
    let other = Job::new(&format!("{CHECKPOINT}\n{from}\n{sink}"), "");
    other.write("in.log", b"a\n\n\xff\x00\n");
    assert_eq!(other.run(&[]).figure("/rows/in"), 3);
    until(&mut child, || job.whole_rows("out.ndjson").len() == 3);
    assert_eq!(job.end(child).figure("/rows/dead_letters"), 0);
    // What the stream has, our own source reads.
    let back = format!(
        "[sources.lines]\nkind = \"nats\"\nurl = \"{}\"\nstream = \"out\"\nstop_at_end = true\nformat = \"raw\"\nfields = {{ line = \"binary\" }}",
        server.url()
    );
    let job = Job::new(&format!("{CHECKPOINT}\n{back}\n{TO_FILE}"), "");
    assert_eq!(job.run(&[]).figure("/rows/in"), 3);
    assert_eq!(written(&job), b"a\n\n\xff\x00\n");
}
