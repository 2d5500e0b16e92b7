//! Pipelines that share a topic as members of a group: joining, leaving in good order, dying, and coming back.
//!
//! With the older protocol the brokers wait a second less than the session's time-out for members to join.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{Job, python, read_until, terminate, until};

const PARTITIONS: i32 = 4;
/// The protocol in which clients deal the partitions among themselves. While they do, these brokers take no offsets, as
/// Kafka's do, so that a member that deals while another hands over may make messages come again.
const CLASSIC: &str = "\"session.timeout.ms\" = \"6000\", \"heartbeat.interval.ms\" = \"500\"";
/// The one in which brokers do. These wait for nobody.
const NEWER: &str = "\"group.protocol\" = \"consumer\"";

fn member(kafka: &Kafka, options: &str, keys: &str) -> Job {
    let group = format!("assignment = \"group\"\ngroup = \"mill\"\noptions = {{ {options} }}\n{keys}");
    Job::new(&kafka.numbers_pipeline(&group), "")
}

/// Numbers that go to every partition, and how many there were.
struct Sent<'a> {
    kafka: &'a Kafka,
    each: u64,
}

impl Sent<'_> {
    fn send(&mut self, numbers: u64) {
        for partition in 0..PARTITIONS {
            self.kafka.send_numbers("numbers", partition, self.each..self.each + numbers);
        }
        self.each += numbers;
    }

    fn total(&self) -> usize {
        self.each as usize * PARTITIONS as usize
    }
}

/// How often each message is shown, by all of these together.
fn shown(jobs: &[&Job]) -> BTreeMap<(u64, u64), u64> {
    let mut shown = BTreeMap::new();
    for row in jobs.iter().flat_map(|job| job.whole_rows("out.ndjson")) {
        let (partition, number) = (row["partition"].as_u64(), row["number"].as_u64());
        *shown.entry((partition.expect("a number"), number.expect("a number"))).or_default() += 1;
    }
    shown
}

fn rows(job: &Job) -> usize {
    job.whole_rows("out.ndjson").len()
}

/// Sends until this member has shown something new.
fn send_until_shown(sent: &mut Sent<'_>, member: &Job, child: &mut Child) {
    let before = rows(member);
    until(child, || {
        sent.send(1);
        rows(member) > before
    });
}

#[test]
fn a_partition_that_is_handed_over_comes_once_when_a_member_joins_and_when_one_leaves() {
    assert_eq!(hand_over(NEWER), (0, true), "messages that came again, and whether the group knows what came last");
}

#[test]
fn members_that_deal_among_themselves_hand_over_without_losing_a_message() {
    let (again, _) = hand_over(CLASSIC);
    println!("{again} messages came again");
}

/// A second member joins the first, which then leaves in good order; how many messages came again, and whether the group
/// knows at the end what came last.
fn hand_over(options: &str) -> (u64, bool) {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    let mut sent = Sent { kafka: &kafka, each: 0 };
    let (first, second) = (member(&kafka, options, ""), member(&kafka, options, ""));
    sent.send(1_000);
    let mut first_child = first.start(&[]);
    until(&mut first_child, || rows(&first) == sent.total());
    let mut second_child = second.start(&[]);
    send_until_shown(&mut sent, &second, &mut second_child);
    assert!(read_until(&mut second_child, "group \"mill\" gives numbers/").contains("INFO"));
    sent.send(500);
    until(&mut second_child, || shown(&[&first, &second]).len() == sent.total());
    terminate(&first_child);
    sent.send(500);
    assert_eq!(first.wait(first_child).code, Some(0));
    sent.send(500);
    until(&mut second_child, || shown(&[&first, &second]).len() == sent.total());
    assert_eq!(second.end(second_child).code, Some(0));
    let shown = shown(&[&first, &second]);
    let knows = |partition| kafka.committed("mill", "numbers", partition) == Some(sent.each as i64);
    (shown.values().sum::<u64>() - shown.len() as u64, (0..PARTITIONS).all(knows))
}

#[test]
fn what_a_member_that_is_killed_had_goes_to_the_others_and_no_message_is_lost() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    let mut sent = Sent { kafka: &kafka, each: 0 };
    let members = [member(&kafka, CLASSIC, ""), member(&kafka, CLASSIC, "")];
    let mut children = members.each_ref().map(|member| member.start(&[]));
    for (member, child) in members.iter().zip(&mut children) {
        send_until_shown(&mut sent, member, child);
    }
    let [mut killed, mut other] = children;
    sent.send(2_000);
    until(&mut killed, || rows(&members[0]) > 0);
    killed.kill().expect("it is there");
    killed.wait().expect("it was killed");
    let before = rows(&members[1]);
    sent.send(500);
    until(&mut other, || shown(&[&members[0], &members[1]]).len() == sent.total());
    assert!(rows(&members[1]) > before);
    // It comes back, and what it had shown stays shown.
    let mut back = members[0].start(&[]);
    send_until_shown(&mut sent, &members[0], &mut back);
    until(&mut back, || shown(&[&members[0], &members[1]]).len() == sent.total());
    assert_eq!(members[0].end(back).code, Some(0));
    assert_eq!(members[1].end(other).code, Some(0));
    let shown = shown(&[&members[0], &members[1]]);
    println!("{} messages, {} of them again", shown.len(), shown.values().sum::<u64>() - shown.len() as u64);
}

#[test]
fn a_member_with_a_name_that_is_soon_back_has_its_partitions_again_and_the_group_does_not_notice() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    let mut sent = Sent { kafka: &kafka, each: 0 };
    let named = |name: &str| member(&kafka, NEWER, &format!("group_instance_id = \"{name}\""));
    let members = [named("a"), named("b")];
    let mut children = members.each_ref().map(|member| member.start(&[]));
    for (member, child) in members.iter().zip(&mut children) {
        send_until_shown(&mut sent, member, child);
    }
    until(&mut children[0], || shown(&[&members[0], &members[1]]).len() == sent.total());
    let [first, mut second] = children;
    let partitions_of = |job: &Job, from: usize| {
        let rows = job.whole_rows("out.ndjson");
        rows[from..].iter().map(|row| row["partition"].as_u64()).collect::<BTreeSet<_>>()
    };
    let begins = members.each_ref().map(rows);
    sent.send(100);
    until(&mut second, || shown(&[&members[0], &members[1]]).len() == sent.total());
    let had: Vec<_> = members.iter().zip(begins).map(|(member, from)| partitions_of(member, from)).collect();
    assert_eq!(members[0].end(first).code, Some(0));
    let begins = members.each_ref().map(rows);
    sent.send(100);
    let mut first = members[0].start(&[]);
    until(&mut first, || shown(&[&members[0], &members[1]]).len() == sent.total());
    let has: Vec<_> = members.iter().zip(begins).map(|(member, from)| partitions_of(member, from)).collect();
    assert_eq!((has, shown(&[&members[0], &members[1]]).values().max()), (had, Some(&1)));
    assert_eq!(members[0].end(first).code, Some(0));
    assert_eq!(members[1].end(second).code, Some(0));
}

#[test]
fn a_member_ends_although_its_brokers_are_away() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    let mut sent = Sent { kafka: &kafka, each: 0 };
    let job = member(&kafka, NEWER, "");
    let mut child = job.start(&[]);
    send_until_shown(&mut sent, &job, &mut child);
    kafka.go_away();
    let begun = Instant::now();
    let ended = job.end(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // librdkafka would go on for the 45 s of a session, and again for a second call.
    assert!(begun.elapsed() < Duration::from_secs(40), "{}", ended.stderr);
}

#[test]
fn the_example_of_the_documentation_is_a_member() {
    let kafka = Kafka::with_topic("readings", 2);
    let job = Page::read("connect/kafka").job(&[("[\"localhost:9092\"]", &kafka.brokers())]);
    job.write("pipeline.toml", job.read("group.toml"));
    for (partition, celsius) in [(0, 20.5), (1, 99.5), (0, 98.0)] {
        kafka.write("readings", partition, format!("{{\"celsius\": {celsius}}}").as_bytes());
    }
    kafka.flush();
    let mut child = job.start(&[]);
    until(&mut child, || kafka.read("hot").len() == 2);
    assert_eq!(job.end(child).figure("/rows/in"), 3);
    assert_eq!([0, 1].map(|partition| kafka.committed("alerting", "readings", partition)), [Some(2), Some(1)]);
}

/// A member that is none of ours; it says what it reads.
const CLIENT: &str = r#"
import sys
from confluent_kafka import Consumer

consumer = Consumer({
    "bootstrap.servers": sys.argv[1],
    "group.id": "mill",
    "group.protocol": "consumer",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
})
consumer.subscribe(["numbers"])
while True:
    message = consumer.poll(0.05)
    if message is not None and message.error() is None:
        consumer.commit(message, asynchronous=False)
        print(message.partition(), message.offset(), flush=True)
        if message.value() == b'{"number":999999}':
            break
consumer.close()
"#;

#[test]
fn a_client_of_another_kind_shares_the_group() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    let mut sent = Sent { kafka: &kafka, each: 0 };
    let ours = member(&kafka, NEWER, "");
    sent.send(200);
    let mut child = ours.start(&[]);
    until(&mut child, || rows(&ours) == sent.total());
    let brokers = kafka.brokers().replace(['[', ']', '"', ' '], "");
    let client = Command::new(python()).args(["-c", CLIENT, &brokers]).stdout(Stdio::piped()).spawn();
    let mut client = client.expect("python starts");
    let mut lines = BufReader::new(client.stdout.take().expect("a pipe")).lines();
    // What it has is sent to until it says so, for before that nobody knows when it has joined.
    let (heard, had) = std::sync::mpsc::channel();
    let listener = std::thread::spawn(move || {
        for line in lines.by_ref() {
            let _ = heard.send(line.expect("a line"));
        }
    });
    let mut theirs: Vec<String> = Vec::new();
    until(&mut child, || {
        sent.send(1);
        theirs.extend(had.try_iter());
        !theirs.is_empty()
    });
    sent.send(50);
    until(&mut child, || {
        theirs.extend(had.try_iter());
        rows(&ours) + theirs.len() == sent.total()
    });
    for partition in 0..PARTITIONS {
        kafka.write("numbers", partition, b"{\"number\":999999}");
    }
    kafka.flush();
    assert!(client.wait().expect("it ends").success());
    listener.join().expect("it listens to the end");
    theirs.extend(had.try_iter());
    // The partitions of the client come back to us, each where the client left it.
    until(&mut child, || {
        let ours = shown(&[&ours]);
        let read: BTreeSet<(u64, u64)> = theirs.iter().map(|line| read(line)).collect();
        let ours = ours.into_keys().map(|(partition, number)| (partition, number.min(sent.each)));
        ours.chain(read).collect::<BTreeSet<_>>().len() == sent.total() + PARTITIONS as usize
    });
    assert_eq!(rows(&ours) + theirs.len(), sent.total() + PARTITIONS as usize, "each message was read once");
    assert_eq!(ours.end(child).code, Some(0));
}

/// Partition and offset.
fn read(line: &str) -> (u64, u64) {
    let (partition, offset) = line.split_once(' ').expect("two numbers");
    (partition.parse().expect("a number"), offset.parse().expect("a number"))
}
