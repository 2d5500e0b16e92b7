//! What MQTT 5 has and MQTT 3.1.1 has not, between the pipeline, a real broker and the protocol's official client.

use std::collections::BTreeSet;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use ringmill_system_tests::chaos::kill_now;
use ringmill_system_tests::mosquitto::{ANYBODY, Mosquitto};
use ringmill_system_tests::{CHECKPOINT, Job, file_source, sinks_of, until};
use serde_json::{Value, json};

const POLL: Duration = Duration::from_millis(10);

/// Messages of `plant/#` as rows.
fn source(broker: &Mosquitto, client: &str, keys: &str) -> Job {
    let port = broker.port();
    let pipeline = format!(
        r#"
{CHECKPOINT}
[sources.messages]
kind = "mqtt"
url = "mqtt://127.0.0.1:{port}"
protocol = "5"
client_id = "{client}"
{keys}
{}"#,
        sinks_of("messages")
    );
    Job::new(&pipeline, "")
}

/// Rows of a file as messages.
fn sink(broker: &Mosquitto, keys: &str) -> Job {
    let source =
        file_source(20_000, r#"number = "uint64", trace = { type = "utf8", nullable = true }, site = "int32""#);
    let port = broker.port();
    let sink =
        format!("[sinks.out]\nkind = \"mqtt\"\ninputs = [\"rows\"]\nurl = \"mqtt://127.0.0.1:{port}\"\n{keys}\n");
    Job::new(&format!("{CHECKPOINT}\n{source}\n{sink}"), "")
}

/// Starts it, and waits until the broker sends it what comes.
fn start(job: &Job, broker: &Mosquitto, client: &str) -> Child {
    let subscriptions = || broker.log().matches(&format!("Sending SUBACK to {client}")).count();
    let before = subscriptions();
    let mut child = job.start(&[]);
    until(&mut child, || subscriptions() > before);
    child
}

const NUMBERS: &str = "topics = [\"plant/#\"]\nfields = { number = \"uint64\" }";

fn numbers(job: &Job) -> Vec<u64> {
    job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_u64().expect("a number")).collect()
}

/// The official client sends messages, each a line `topic`, `payload` and a list of properties.
const SENDER: &str = r#"
import json, sys
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_start()
for topic, payload, named in json.loads(sys.argv[2]):
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [tuple(pair) for pair in named]
    client.publish(topic, payload, qos=1, properties=properties if named else None).wait_for_publish()
client.disconnect()
client.loop_stop()
"#;

/// It writes what it is sent until a message `end` comes.
const RECEIVER: &str = r##"
import json, sys
import paho.mqtt.client as mqtt

received = []

def note(client, _, message):
    if message.payload == b"end":
        client.disconnect()
    properties = message.properties
    received.append({
        "topic": message.topic,
        "payload": message.payload.decode(),
        "retain": message.retain,
        "headers": getattr(properties, "UserProperty", []),
        "content_type": getattr(properties, "ContentType", None),
        "expiry": getattr(properties, "MessageExpiryInterval", None),
    })

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_connect = lambda client, *_: client.subscribe("#", qos=2)
client.on_message = note
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
with open("received.json", "w") as file:
    json.dump(received, file)
"##;

fn send(job: &Job, broker: &Mosquitto, messages: &Value) {
    job.script(SENDER, &[&broker.port().to_string(), &messages.to_string()]);
}

/// What a broker has kept of the job's rows, the last of each topic, in the order of their topics.
fn kept(job: &Job, broker: &Mosquitto) -> Vec<Value> {
    // Kept as well, and sent to whoever subscribes, in any order: the last one is that of now.
    let sender = std::thread::scope(|scope| {
        let received = scope.spawn(|| job.script(RECEIVER, &[&broker.port().to_string()]));
        while !broker.log().contains("Sending SUBACK to auto-") {
            assert!(!received.is_finished(), "it subscribes");
            sleep(POLL);
        }
        broker.send("end", b"end");
        received.join()
    });
    sender.expect("it has received");
    let mut received: Vec<Value> = serde_json::from_str(&job.read("received.json")).expect("JSON");
    received.retain(|message| message["payload"] != "end");
    received.sort_by_key(|message| message["topic"].as_str().map(str::to_owned));
    received
}

#[test]
fn user_properties_become_columns() {
    let Some(broker) = Mosquitto::start() else { return };
    let keys = r#"
topics = ["plant/#"]
topic_field = "topic"
header_fields = { trace = "trace-id", raw = "raw" }
fields = { number = "uint64", topic = "utf8", trace = { type = "utf8", nullable = true }, raw = { type = "binary", nullable = true } }"#;
    let job = source(&broker, "mill", keys);
    let mut child = start(&job, &broker, "mill");
    let none: [[&str; 2]; 0] = [];
    let messages = json!([
        ["plant/1", "{\"number\":1}", [["trace-id", "a"], ["other", "x"], ["trace-id", "\"ü\""]]],
        ["plant/2", "{\"number\":2,\"trace\":\"mine\"}", none],
        ["plant/3", "{\"number\":3}", [["raw", "bytes"], ["trace-id", ""]]],
        ["plant/4", "{}", [["trace-id", "t"]]],
    ]);
    send(&job, &broker, &messages);
    until(&mut child, || job.whole_rows("out.ndjson").len() + job.whole_rows("dead.ndjson").len() == 4);
    let ended = job.end(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (4, 1), "{}", ended.stderr);
    let expected = [
        json!({ "number": 1, "topic": "plant/1", "trace": "\"ü\"", "raw": null }),
        json!({ "number": 2, "topic": "plant/2", "trace": null, "raw": null }),
        json!({ "number": 3, "topic": "plant/3", "trace": "", "raw": "Ynl0ZXM=" }),
    ];
    assert_eq!(job.rows("out.ndjson"), expected);
}

#[test]
fn columns_become_user_properties_and_messages_say_what_they_are_and_until_when() {
    let Some(broker) = Mosquitto::start() else { return };
    let keys = r#"
protocol = "5"
topic_column = "trace"
topic = "others"
retain = true
headers = { trace-id = "trace", site = "site" }
content_type = "application/json"
message_expiry = "1h""#;
    let job = sink(&broker, keys);
    job.write("in.ndjson", "{\"number\":1,\"trace\":\"ü\",\"site\":-7}\n{\"number\":2,\"trace\":null,\"site\":8}\n");
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let found = kept(&job, &broker);
    let message = |found: &Value| (found["payload"].clone(), found["headers"].clone(), found["content_type"].clone());
    let payload = |number: u64, trace: Value, site: i64| {
        json!(format!("{{\"number\":{number},\"trace\":{trace},\"site\":{site}}}"))
    };
    let expected = [
        (payload(2, Value::Null, 8), json!([["site", "8"]]), json!("application/json")),
        (payload(1, json!("ü"), -7), json!([["trace-id", "ü"], ["site", "-7"]]), json!("application/json")),
    ];
    assert_eq!(found.iter().map(message).collect::<Vec<_>>(), expected);
    for message in &found {
        assert_eq!(message["retain"], true);
        let left = message["expiry"].as_u64().expect("seconds");
        assert!((1..=3_600).contains(&left), "{left}");
    }
}

#[test]
fn those_who_share_a_subscription_have_every_message_between_them_when_one_is_killed() {
    let Some(broker) = Mosquitto::start() else { return };
    let keys = NUMBERS.replace("plant/#", "$share/mill/plant/#");
    let jobs = ["one", "two"].map(|client| (client, source(&broker, client, &keys)));
    let mut children = jobs.each_ref().map(|(client, job)| start(job, &broker, client));
    let mut sender = broker.sender("plant/1/count");
    let mut send = |from: u64| {
        sender.send(&(from..from + 1_000).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    };
    send(0);
    until(&mut children[0], || jobs.iter().all(|(_, job)| !numbers(job).is_empty()));
    kill_now(children[1].id() as i32);
    children[1].wait().expect("a child");
    send(1_000);
    let (client, job) = &jobs[1];
    children[1] = start(job, &broker, client);
    send(2_000);
    sender.end();
    let all = || jobs.iter().flat_map(|(_, job)| numbers(job)).collect::<BTreeSet<u64>>();
    until(&mut children[0], || all().len() == 3_000);
    for ((_, job), child) in jobs.iter().zip(children) {
        assert_eq!(job.end(child).code, Some(0));
    }
    assert!(all().into_iter().eq(0..3_000));
}

#[test]
fn a_session_lasts_as_long_as_it_is_to() {
    let Some(broker) = Mosquitto::start() else { return };
    for (client, expiry, is_kept) in
        [("short", "session_expiry = \"1s\"", false), ("long", "session_expiry = \"1h\"", true), ("ever", "", true)]
    {
        let job = source(&broker, client, &format!("{NUMBERS}\n{expiry}"));
        let child = start(&job, &broker, client);
        assert_eq!(job.end(child).code, Some(0));
        if !is_kept {
            // The broker looks once a second or so.
            while !broker.log().contains(&format!("Expiring client {client}")) {
                sleep(POLL);
            }
        }
        broker.send("plant/1", b"{\"number\":1}");
        let mut child = start(&job, &broker, client);
        broker.send("plant/1", b"{\"number\":2}");
        until(&mut child, || numbers(&job).contains(&2));
        assert_eq!(job.end(child).code, Some(0));
        assert_eq!(numbers(&job), if is_kept { &[1, 2][..] } else { &[2] }, "{expiry}");
    }
}

#[test]
fn what_the_broker_refuses_it_says_why() {
    let Some(mut broker) = Mosquitto::stopped() else { return };
    let rules = broker.write("rules", "topic readwrite open/#\n");
    broker.configure(&format!("{ANYBODY}acl_file {}\nmax_packet_size 200\n", rules.display()));
    broker.go_on();
    for quality in [1, 2] {
        let keys = format!("protocol = \"5\"\nclient_id = \"mill\"\nqos = {quality}\ntopic = ");
        let job = sink(&broker, &format!("{keys}\"closed\""));
        job.write("in.ndjson", "{\"number\":1,\"trace\":\"x\",\"site\":1}\n");
        let ended = job.run(&[]);
        assert_ne!(ended.code, Some(0));
        let reason = "it refuses a message to topic \"closed\": not authorized";
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        let job = sink(&broker, &format!("{keys}\"open/a\""));
        job.write("in.ndjson", format!("{{\"number\":1,\"trace\":\"{}\",\"site\":1}}\n", "x".repeat(300)));
        let ended = job.run(&[]);
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains("and it takes no more than 200"), "{}", ended.stderr);
        let job = sink(&broker, &format!("{keys}\"open/a\""));
        job.write("in.ndjson", "{\"number\":1,\"trace\":\"x\",\"site\":1}\n");
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    let Some(mut strict) = Mosquitto::stopped() else { return };
    strict.configure(&ANYBODY.replace("true", "false"));
    strict.go_on();
    let ended = source(&strict, "mill", NUMBERS).run(&[]);
    assert_ne!(ended.code, Some(0));
    let reason = "refuses the connection: not authorized; look at `user` and `password_file`";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
}

#[test]
fn a_header_that_no_message_can_have_ends_the_run() {
    let Some(broker) = Mosquitto::start() else { return };
    let job = sink(&broker, "protocol = \"5\"\ntopic = \"scores\"\nheaders = { trace-id = \"trace\" }");
    job.write("in.ndjson", "{\"number\":1,\"trace\":\"a\\u0000b\",\"site\":1}\n");
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("header \"trace-id\" of a row"), "{}", ended.stderr);
}
