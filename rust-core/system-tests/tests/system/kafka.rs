//! Messages of real connections to Kafka brokers: through the death of the core and the brokers' absence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, Instant};

use ringmill_system_tests::chaos::{Chance, CoreKills, Progress, kill_after, newest_checkpoint, rounds};
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, until};
use serde_json::json;

const PARTITIONS: i32 = 3;
const MAY_SAY_NOTHING: Duration = Duration::from_secs(5);

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
    let job = Job::new(&kafka.numbers_pipeline("group = \"mill\""), "");
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
    let job = Job::new(&kafka.numbers_pipeline("group = \"mill\""), "");
    let errors = File::create(job.path("errors")).expect("the folder can be written");
    let mut child = job.command(&[]).stderr(errors).spawn().expect("it is built");
    for round in 0..3 {
        kafka.send_numbers("numbers", round as i32, 0..100);
        until(&mut child, || rows(&job) == 100 * (round + 1));
        let said = job.read("errors").len();
        kafka.go_away();
        // Disconnected, or refused when it tries again. What it has said before librdkafka may leave out.
        let begun = Instant::now();
        until(&mut child, || job.read("errors")[said..].contains("Kafka at ") || begun.elapsed() > MAY_SAY_NOTHING);
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
    let job = Job::new(&kafka.numbers_pipeline("stop_at_end = true"), "");
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
fn the_report_and_the_live_line_say_how_far_each_partition_is_behind() {
    let kafka = Kafka::with_topic("numbers", PARTITIONS);
    kafka.send_numbers("numbers", 0, 0..500);
    kafka.send_numbers("numbers", 2, 0..300);
    let job = Job::new(&kafka.numbers_pipeline("rate = 100"), "");
    let mut child = job.start(&[]);
    read_until(&mut child, " messages behind");
    until(&mut child, || rows(&job) > 0);
    let ended = job.end(child);
    let lag = |partition: i32| ended.figure(&format!("/nodes/messages/lag/partitions/numbers~1{partition}"));
    let (read, total) = (ended.figure("/rows/in"), ended.figure("/nodes/messages/lag/total"));
    assert!(total > 0);
    assert_eq!((read + total, lag(0) + lag(1) + lag(2), lag(1)), (800, total, 0));
    let ended = job.run(&["sources.messages.stop_at_end=true", "sources.messages.rate=1000000"]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/nodes/messages/lag/total")), (800, 0));
}

#[test]
fn what_is_wrong_is_said() {
    let kafka = Kafka::with_topic("other", 1);
    let ended = Job::new(&kafka.numbers_pipeline(""), "").run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("there is no topic \"num*\""), "{}", ended.stderr);
    let job = Job::new(&kafka.numbers_pipeline("").replace(&kafka.brokers(), "[\"127.0.0.1:1\"]"), "");
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
fn headers_and_time_stamps_of_a_sink_are_those_that_a_source_reads() {
    let kafka = Kafka::with_topic("rows", 2);
    let job = sink(&kafka, "timestamp = \"at\"\nheaders = { trace-id = \"name\", n = \"number\" }");
    let fields = r#"number = "uint64", name = { type = "utf8", nullable = true }, at = { type = "timestamp[ns]", nullable = true }"#;
    job.write(
        "pipeline.toml",
        job.read("pipeline.toml").replace(r#"number = "uint64", name = { type = "utf8", nullable = true }"#, fields),
    );
    let lines = [
        r#"{"number":1,"name":"a","at":"1970-01-01T00:00:01.500999Z"}"#,
        r#"{"number":2,"name":null,"at":"2026-01-05T08:00:00Z"}"#,
        r#"{"number":3,"name":"","at":null}"#,
    ];
    job.write("in.ndjson", lines.join("\n"));
    assert_eq!(job.run(&[]).figure("/rows/in"), 3);
    let keys = "timestamp_field = \"at\"\nheader_fields = { trace = \"trace-id\", n = \"n\", other = \"name\" }\nstop_at_end = true";
    let fields = r#"n = "utf8", number = "uint64", at = "timestamp[ms]", trace = { type = "binary", nullable = true }, other = { type = "utf8", nullable = true }, partition = "int32""#;
    let pipeline = kafka.numbers_pipeline(keys).replace("num*", "rows");
    let job = Job::new(&pipeline.replace(r#"number = "uint64", partition = "int32""#, fields), "");
    assert_eq!(job.run(&[]).figure("/rows/in"), 3);
    let mut rows = job.rows("out.ndjson");
    rows.sort_by_key(|row| row["number"].as_u64());
    let of = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("trace"), [json!("YQ=="), json!(null), json!("")]);
    assert_eq!((of("n"), of("other")), (vec![json!("1"), json!("2"), json!("3")], vec![json!(null); 3]));
    assert_eq!(of("at")[..2], [json!("1970-01-01T00:00:01.500Z"), json!("2026-01-05T08:00:00.000Z")]);
    assert!(of("at")[2].as_str().expect("a time") > "2026-01-05", "when it was sent");
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

/// From a topic to another; what is secret would need brokers that ask for it.
#[test]
fn the_example_of_the_documentation_runs() {
    let kafka = Kafka::with_topic("readings", 2);
    let page = Page::read("connect/kafka");
    let job = page.job(&[("[\"localhost:9092\"]", &kafka.brokers())]);
    let pipeline = job.read("pipeline.toml");
    let open: Vec<&str> = pipeline.lines().filter(|line| !line.starts_with("options")).collect();
    job.write("pipeline.toml", open.join("\n"));
    for (partition, celsius) in [(0, 20.5), (1, 99.5), (0, 98.0)] {
        kafka.write("readings", partition, format!("{{\"celsius\": {celsius}}}").as_bytes());
    }
    kafka.flush();
    let ended = job.run(&["sources.readings.stop_at_end=true"]);
    assert_eq!(ended.figure("/rows/in"), 3);
    let hot: BTreeSet<String> = kafka.read("hot").into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(hot.len(), 2);
    assert!(hot.iter().all(|value| value.contains("\"celsius\":9")), "{hot:?}");
}
