//! Messages of a real MQTT broker: through the death of the core and the broker's absence, garbage among them.

use std::process::{Child, Command};
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, kill_now, rounds};
use ringmill_system_tests::mosquitto::{ANYBODY, Mosquitto};
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Job, read_until, sinks_of, until};

fn pipeline(url: &str, keys: &str) -> String {
    format!(
        r#"
[pipeline]
shards = 2

{CHECKPOINT}
[sources.messages]
kind = "mqtt"
url = "{url}"
topics = ["plant/+/count", "spare/#"]
client_id = "mill"
topic_field = "topic"
record_size_max = "1KiB"
fields = {{ number = "int64", topic = "utf8" }}
{keys}
{}"#,
        sinks_of("messages")
    )
}

fn job(broker: &Mosquitto, keys: &str) -> Job {
    Job::new(&pipeline(&format!("mqtt://127.0.0.1:{}", broker.port()), keys), "")
}

const PROTOCOLS: [&str; 2] = ["protocol = \"3.1.1\"", "protocol = \"5\""];

/// Numbers and topics, in the order in which they are shown.
fn shown(job: &Job) -> Vec<(u64, String)> {
    let row = |row: serde_json::Value| {
        (row["number"].as_u64().expect("a number"), row["topic"].as_str().expect("a text").to_owned())
    };
    job.whole_rows("out.ndjson").into_iter().map(row).collect()
}

/// The numbers without those that came before, and how many came before.
fn once(rows: &[(u64, String)]) -> (Vec<u64>, usize) {
    let mut seen = std::collections::BTreeSet::new();
    let first: Vec<u64> = rows.iter().map(|(number, _)| *number).filter(|number| seen.insert(*number)).collect();
    let repeated = rows.len() - first.len();
    (first, repeated)
}

/// Starts it, and waits until the broker sends it what comes.
fn start(job: &Job, broker: &Mosquitto) -> Child {
    start_as("mill", job, broker)
}

fn start_as(client: &str, job: &Job, broker: &Mosquitto) -> Child {
    let subscriptions = || broker.log().matches(&format!("Sending SUBACK to {client}")).count();
    let before = subscriptions();
    let mut child = job.start(&[]);
    until(&mut child, || subscriptions() > before);
    child
}

#[test]
fn no_message_is_lost_however_often_the_core_dies() {
    for protocol in PROTOCOLS {
        kill_the_core(protocol, rounds("RINGMILL_MQTT_KILLS", 10).div_ceil(2));
    }
}

fn kill_the_core(protocol: &str, wanted: u64) {
    let Some(broker) = Mosquitto::start() else { return };
    let mut chance = Chance::from_environment("mqtt");
    let job = job(&broker, protocol);
    let mut sender = broker.sender("plant/7/count");
    let mut next = 0;
    for _ in Progress::over("kills", wanted) {
        let mut child = start(&job, &broker);
        for _ in 0..1 + chance.below(4) {
            let messages = 1 + chance.below(2_000);
            sender
                .send(&(next..next + messages).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
            next += messages;
        }
        kill_after(&mut child, || true, chance.between(Duration::ZERO, Duration::from_millis(250)));
        let (first, _) = once(&shown(&job));
        assert!(first.iter().copied().eq(0..first.len() as u64), "none is left out, and they are in order");
    }
    sender.end();
    let mut child = start(&job, &broker);
    until(&mut child, || once(&shown(&job)).0.len() as u64 == next);
    assert_eq!(job.end(child).code, Some(0));
    let rows = shown(&job);
    let (first, repeated) = once(&rows);
    assert!(first.into_iter().eq(0..next));
    assert!(rows.iter().all(|(_, topic)| topic == "plant/7/count"));
    println!("{protocol}: {wanted} kills, {next} messages, {repeated} came twice");
    let again = broker.log().matches("Sending PUBLISH to mill (d1").count();
    assert!(repeated <= again, "{repeated} came twice, and the broker sent {again} again");
}

#[test]
fn what_is_not_on_the_disk_yet_is_not_acknowledged() {
    let Some(broker) = Mosquitto::start() else { return };
    let job = job(&broker, "");
    let mut hanging = job.command(&[]);
    let mut child = hanging.env("RINGMILL_FAILPOINT", "hang:journal.write:1").spawn().expect("it is built");
    until(&mut child, || broker.log().contains("Sending SUBACK to mill"));
    broker.send("plant/1/count", b"{\"number\":0}");
    until(&mut child, || broker.log().contains("Sending PUBLISH to mill"));
    // Time in which an acknowledgement would come that is not to come.
    std::thread::sleep(Duration::from_millis(300));
    kill_now(child.id() as i32);
    child.wait().expect("a child");
    broker.send("plant/1/count", b"{\"number\":1}");
    let mut child = job.start(&[]);
    until(&mut child, || shown(&job).iter().any(|(number, _)| *number == 1));
    assert_eq!(job.end(child).code, Some(0));
    assert_eq!(once(&shown(&job)).0, [0, 1]);
}

#[test]
fn garbage_is_a_dead_letter_and_every_topic_says_where_it_comes_from() {
    for protocol in PROTOCOLS {
        let Some(broker) = Mosquitto::start() else { return };
        let job = job(&broker, protocol);
        let mut child = start(&job, &broker);
        broker.send("plant/1/count", b"{\n  \"number\": 1\n}\n");
        broker.send("plant/1/count", b"\xff\x00");
        broker.send("plant/1/count", b"{\"number\":\"one\"}");
        broker.send("plant/1/count", b"");
        broker.send("plant/1/other", b"{\"number\":7}");
        broker.send("spare/a/b", b"{\"number\":2}{\"number\":3}");
        broker.send("spare/a/b", &vec![b'['; 10 << 20]);
        broker.send("spare/\"q\"", b"{\"number\":4,\"topic\":\"mine\"}");
        until(&mut child, || shown(&job).len() == 2);
        let ended = job.end(child);
        assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (6, 4));
        assert_eq!(shown(&job), [(1, "plant/1/count".to_owned()), (4, "spare/\"q\"".to_owned())]);
        assert_eq!(job.rows("dead.ndjson").len(), 4);
    }
}

#[test]
fn a_broker_that_goes_away_is_waited_for() {
    for protocol in PROTOCOLS {
        let Some(mut broker) = Mosquitto::stopped() else { return };
        broker.configure(ANYBODY);
        let job = job(&broker, protocol);
        let mut child = job.start(&[]);
        read_until(&mut child, "it is tried again");
        broker.go_on();
        until(&mut child, || broker.log().contains("Sending SUBACK to mill"));
        for round in 0..3 {
            broker.send("spare/x", format!("{{\"number\":{round}}}").as_bytes());
            until(&mut child, || once(&shown(&job)).0.len() == round + 1);
            let connections = |broker: &Mosquitto| broker.log().matches("Sending CONNACK to mill").count();
            let before = connections(&broker);
            broker.stop();
            broker.go_on();
            until(&mut child, || connections(&broker) > before);
        }
        assert_eq!(job.end(child).code, Some(0));
        assert_eq!(once(&shown(&job)).0, [0, 1, 2]);
    }
}

#[test]
fn a_user_with_a_wrong_password_is_told_so() {
    let Some(mut broker) = Mosquitto::stopped() else { return };
    let passwords = broker.write("passwords", "miller:right\n");
    assert!(Command::new("mosquitto_passwd").arg("-U").arg(&passwords).status().expect("it is installed").success());
    broker.configure(&format!("password_file {}\n", passwords.display()));
    broker.go_on();
    let job = job(&broker, "user = \"miller\"\npassword_file = \"secret\"");
    job.write("secret", "wr0ng\n");
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("refuses the connection"), "{}", ended.stderr);
    assert!(ended.stderr.contains("`password_file`") || ended.stderr.contains("password is wrong"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("wr0ng"), "{}", ended.stderr);
    job.write("secret", "right\n");
    let child = start(&job, &broker);
    assert_eq!(job.end(child).code, Some(0));
}

#[test]
fn an_encrypted_connection_checks_the_broker_s_certificate() {
    let Some(mut broker) = Mosquitto::stopped() else { return };
    let folder = broker.folder().to_owned();
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out certificate -days 2 \
                   -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    let done = Command::new("openssl").args(request.split_whitespace()).current_dir(&folder).output().expect("openssl");
    assert!(done.status.success());
    let path = folder.display();
    broker.configure(&format!("{ANYBODY}certfile {path}/certificate\nkeyfile {path}/key\n"));
    broker.go_on();
    let url = format!("mqtts://localhost:{}", broker.port());
    let job = Job::new(&pipeline(&url, "ca_file = \"ours.pem\""), "");
    job.write("ours.pem", std::fs::read(folder.join("certificate")).expect("openssl wrote it"));
    let child = start(&job, &broker);
    assert_eq!(job.end(child).code, Some(0));
    let stranger = Job::new(&pipeline(&url, ""), "");
    let ended = stranger.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("no encrypted connection"), "{}", ended.stderr);
    let careless = Job::new(&pipeline(&url.replace("mqtts", "mqtt"), ""), "");
    let mut child = careless.start(&[]);
    read_until(&mut child, "it is tried again");
    kill_now(child.id() as i32);
    child.wait().expect("a child");
}

#[test]
fn the_pipeline_of_the_documentation_carries_messages_to_another_topic() {
    let Some(broker) = Mosquitto::start() else { return };
    let receiver = broker.receiver("alerts");
    let address = format!("127.0.0.1:{}", broker.port());
    let job = Page::read("connect/mqtt").job(&[("localhost:1883", &address)]);
    let mut child = start_as("ringmill-temperatures", &job, &broker);
    broker.send("plant/7/temperature", br#"{"sensor": "s-1", "celsius": 21.5}"#);
    broker.send("plant/8/temperature", br#"{"sensor": "s-2", "celsius": 48.0}"#);
    until(&mut child, || !receiver.received().is_empty());
    assert_eq!(job.end(child).figure("/rows/in"), 2);
    let alert = r#"{"topic":"plant/8/temperature","sensor":"s-2","celsius":48.0}"#;
    assert_eq!(receiver.received(), [("alerts".to_owned(), alert.to_owned())]);
}
