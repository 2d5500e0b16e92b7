//! Messages of real connections to Kafka brokers: through the death of the core and the brokers' absence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringmill_system_tests::chaos::{Chance, CoreKills, Progress, kill_after, newest_checkpoint, rounds};
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, sinks_of, until};

const PARTITIONS: i32 = 3;

fn pipeline(kafka: &Kafka, keys: &str) -> String {
    format!(
        r#"
[pipeline]
shards = 2

{CHECKPOINT}
[sources.messages]
kind = "kafka"
brokers = {}
topics = ["num*"]
partition_field = "partition"
fields = {{ number = "uint64", partition = "int32" }}
{keys}
{}"#,
        kafka.brokers(),
        sinks_of("messages")
    )
}

/// The numbers of each partition, in the order in which they are shown.
fn shown(job: &Job) -> Vec<Vec<u64>> {
    let mut numbers = vec![Vec::new(); PARTITIONS as usize];
    for row in job.whole_rows("out.ndjson") {
        let partition = row["partition"].as_u64().expect("a number") as usize;
        numbers[partition].push(row["number"].as_u64().expect("a number"));
    }
    numbers
}

fn rows(job: &Job) -> u64 {
    shown(job).iter().map(|numbers| numbers.len() as u64).sum()
}

#[test]
fn every_message_is_shown_once_and_in_order_however_often_the_core_dies() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    let job = Job::new(&pipeline(&kafka, "group = \"mill\""), "");
    let mut chance = Chance::from_environment("kafka");
    let wanted = rounds("RINGMILL_KAFKA_KILLS", 10);
    let mut next = [0_u64; PARTITIONS as usize];
    let mut running = 0;
    for _ in Progress::over("kills", wanted) {
        let before = rows(&job);
        let mut child = job.start(&[]);
        for _ in 0..1 + chance.below(6) {
            let partition = chance.below(PARTITIONS as u64) as usize;
            let messages = 1 + chance.below(1_500);
            kafka.send_numbers("numbers", partition as i32, next[partition]..next[partition] + messages);
            next[partition] += messages;
        }
        let mut has_begun = || rows(&job) > before;
        running += u64::from(kill_after(
            &mut child,
            &mut has_begun,
            chance.between(Duration::ZERO, Duration::from_millis(60)),
        ));
        for numbers in shown(&job) {
            assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "none is left out or comes again");
        }
    }
    assert_eq!(running, wanted, "each kill hits a run");
    let mut child = job.start(&[]);
    for _ in 0..3 {
        kafka.send_numbers("numbers", 0, next[0]..next[0] + 10);
        next[0] += 10;
        until(&mut child, || rows(&job) == next.iter().sum::<u64>());
        // What the brokers are told comes from the newest checkpoint that is complete.
        until(&mut child, || {
            (0..PARTITIONS).all(|partition| {
                let next = next[partition as usize] as i64;
                next == 0 || kafka.committed("mill", "numbers", partition) == Some(next)
            })
        });
    }
    assert_eq!(job.end(child).code, Some(0));
    for (numbers, next) in shown(&job).into_iter().zip(next) {
        assert!(numbers.into_iter().eq(0..next));
    }
    println!("{wanted} kills, {} messages", next.iter().sum::<u64>());
}

#[test]
fn brokers_that_go_away_are_waited_for() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    let job = Job::new(&pipeline(&kafka, "group = \"mill\""), "");
    let mut child = job.start(&[]);
    for round in 0..3 {
        kafka.send_numbers("numbers", round as i32, 0..100);
        until(&mut child, || rows(&job) == 100 * (round + 1));
        kafka.go_away();
        // Disconnected, or refused when it tries again: librdkafka says one or the other, and not always both.
        read_until(&mut child, "Kafka at ");
        kafka.come_back();
    }
    kafka.go_away();
    let begun = Instant::now();
    let ended = job.end(child);
    assert_eq!(ended.figure("/rows/in"), 300);
    assert!(begun.elapsed() < Duration::from_secs(20), "a run ends though nobody answers");
}

#[test]
fn garbage_is_a_dead_letter_and_an_end_that_is_asked_for_ends_the_run() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    for value in ["{\"number\":0}", "", "{\"number\":-1}", "\u{0}", "{\"number\":1}"] {
        kafka.write("numbers", 1, value.as_bytes());
    }
    kafka.flush();
    let job = Job::new(&pipeline(&kafka, "stop_at_end = true"), "");
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 3));
    assert_eq!(shown(&job), [vec![], vec![0, 1], vec![]]);
    let offsets: Vec<u64> =
        job.rows("dead.ndjson").iter().map(|row| row["offset"].as_u64().expect("an offset")).collect();
    assert_eq!(offsets, [1, 2, 3]);
    kafka.send_numbers("numbers", 1, 2..4);
    let ended = job.run(&[]);
    assert_eq!(ended.figure("/rows/in"), 7, "the next run goes on behind what was read");
    assert_eq!(shown(&job)[1], [0, 1, 2, 3]);
}

#[test]
fn what_is_wrong_is_said() {
    let kafka = Kafka::with_topic("other", 1);
    let ended = Job::new(&pipeline(&kafka, ""), "").run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("there is no topic \"num*\""), "{}", ended.stderr);
    let job = Job::new(&pipeline(&kafka, "").replace(&kafka.brokers(), "[\"127.0.0.1:1\"]"), "");
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    let reason = "Kafka at 127.0.0.1:1: ";
    assert!(ended.stderr.contains(reason) && ended.stderr.contains("Connection refused"), "{}", ended.stderr);
}

const ROWS: u64 = 20_000;

/// Rows of a file to a topic.
fn sink(kafka: &Kafka, keys: &str) -> Job {
    let source = file_source(40_000, r#"number = "uint64", name = { type = "utf8", nullable = true }"#);
    let pipeline = format!(
        r#"
{CHECKPOINT}
{source}
[sinks.out]
kind = "kafka"
brokers = {}
topic = "rows"
inputs = ["rows"]
{keys}
"#,
        kafka.brokers()
    );
    let job = Job::new(&pipeline, "");
    job.write("in.ndjson", (0..ROWS).map(|number| row(number) + "\n").collect::<String>());
    job
}

fn row(number: u64) -> String {
    match number % 3 {
        0 => format!("{{\"number\":{number},\"name\":null}}"),
        _ => format!("{{\"number\":{number},\"name\":\"n{}\"}}", number % 50),
    }
}

fn number(value: &str) -> u64 {
    let row: serde_json::Value = serde_json::from_str(value).expect("a row");
    row["number"].as_u64().expect("a number")
}

#[test]
fn every_row_becomes_a_message_in_order_though_the_brokers_go_away() {
    let kafka = Kafka::with_topic("rows", 4);
    let job = sink(&kafka, "key = \"name\"");
    let mut child = job.start(&["sources.rows.rate=10000"]);
    for _ in 0..2 {
        let before = newest_checkpoint(&job.path("state"));
        until(&mut child, || newest_checkpoint(&job.path("state")) > before);
        kafka.go_away();
        // Disconnected, or refused when it tries again: librdkafka says one or the other, and not always both.
        read_until(&mut child, "Kafka at ");
        kafka.come_back();
    }
    let ended = job.wait(child);
    assert_eq!(ended.figure("/rows/in"), ROWS);
    let messages = kafka.read("rows");
    let mut partitions: BTreeMap<String, i32> = BTreeMap::new();
    let mut last: BTreeMap<Option<String>, u64> = BTreeMap::new();
    for (partition, key, value) in &messages {
        let number = number(value);
        assert_eq!(*value, row(number));
        assert_eq!(*key, (!number.is_multiple_of(3)).then(|| format!("n{}", number % 50)));
        if let Some(key) = key {
            assert_eq!(partitions.entry(key.clone()).or_insert(*partition), partition, "a key has one partition");
            let before = last.insert(Some(key.clone()), number);
            assert!(before.is_none_or(|before| before < number), "in order");
        }
    }
    let numbers: BTreeSet<u64> = messages.iter().map(|(_, _, value)| number(value)).collect();
    assert_eq!((messages.len() as u64, numbers.len() as u64), (ROWS, ROWS), "each row once");
}

#[test]
fn no_row_is_missing_however_often_the_core_dies() {
    let mut kills = CoreKills::of("kafka sink", "RINGMILL_KAFKA_KILLS", 10);
    let mut repeated = 0;
    while kills.are_wanted() {
        let kafka = Kafka::with_topic("rows", 2);
        let job = sink(&kafka, "");
        kills.behind_checkpoints(&job, |_| {});
        let messages = kafka.read("rows");
        let numbers: BTreeSet<u64> = messages.iter().map(|(_, _, value)| number(value)).collect();
        assert!(numbers.iter().copied().eq(0..ROWS), "{} of {ROWS} rows", numbers.len());
        repeated += messages.len() - numbers.len();
    }
    println!("{} kills, {repeated} messages came again", kills.done);
}

#[test]
fn a_row_that_no_broker_takes_ends_the_run_with_its_reason() {
    let kafka = Kafka::with_topic("rows", 1);
    let job = sink(&kafka, "options = { \"message.max.bytes\" = \"1000\" }");
    job.write("in.ndjson", format!("{{\"number\":1,\"name\":\"{}\"}}\n", "x".repeat(2_000)));
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("message.max.bytes allows less"), "{}", ended.stderr);
}
