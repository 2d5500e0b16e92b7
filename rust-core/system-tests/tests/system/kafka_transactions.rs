//! Rows as messages of a topic, in transactions that a broker really ends: through the death of the core, lost answers, and
//! others of the same name.

use std::collections::BTreeSet;
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ringmill_system_tests::chaos::{CoreKills, side_by_side};
use ringmill_system_tests::kafka_broker::Broker;
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, until};
use serde_json::Value;

const ROWS: u64 = 10_000;
/// Most of their time the runs wait.
const AT_ONCE: usize = 4;
const ID: &str = "transactional_id = \"mill\"";
/// The group with the marks.
const GROUP: &str = "mill-epochs";

fn broker() -> Broker {
    Broker::with_topics(&[("rows", 1)])
}

/// Rows of a file to a topic.
fn job(broker: &Broker, keys: &str) -> Job {
    let job = job_of(&file_source(20_000, r#"number = "uint64""#), broker, keys);
    write_rows(&job, ROWS);
    job
}

/// Rows of this source to a topic.
fn job_of(source: &str, broker: &Broker, keys: &str) -> Job {
    let pipeline = format!(
        r#"
{CHECKPOINT}
{source}
[sinks.out]
kind = "kafka"
inputs = ["rows"]
brokers = {}
topic = "rows"
{keys}
"#,
        broker.brokers()
    );
    Job::new(&pipeline, "")
}

fn write_rows(job: &Job, rows: u64) {
    job.write("in.ndjson", (0..rows).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
}

fn start_at(job: &Job, failpoint: &str) -> Child {
    job.command(&[]).env("RINGMILL_FAILPOINT", failpoint).spawn().expect("it is built")
}

fn numbers(values: &[String]) -> Vec<u64> {
    let number = |value: &String| {
        let row: Value = serde_json::from_str(value).expect("a row");
        row["number"].as_u64().expect("a number")
    };
    values.iter().map(number).collect()
}

/// What is committed is every row, once and in order.
fn assert_whole(broker: &Broker, rows: u64, place: &str) {
    let shown = numbers(&broker.committed("rows"));
    assert!(shown.iter().copied().eq(0..rows), "{place}: {} messages instead of {rows}", shown.len());
}

/// Starts it so slowly that no test is over before it, and waits until its first epoch is committed.
fn start_slowly(broker: &Broker, job: &Job) -> Child {
    let mut child = job.start(&["sources.rows.rate=100"]);
    until(&mut child, || broker.offset(GROUP, "rows").is_some_and(|epoch| epoch > 0));
    child
}

/// Answers a kind of request otherwise from now on, and waits until there was one.
fn answer(broker: &Broker, child: &mut Child, kind: &str, how: &str) {
    let before = broker.otherwise();
    broker.answer(kind, how, u32::MAX);
    until(child, || broker.otherwise() > before);
}

/// Ends a run in good order; the next one does the rest.
fn assert_goes_on(broker: &Broker, job: &Job, child: Child) {
    let ended = job.end(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(job.run(&[]).figure("/rows/in"), ROWS);
    assert_whole(broker, ROWS, "at the end");
}

#[test]
fn every_row_is_committed_once_and_in_order_however_often_the_core_dies() {
    let mut kills = CoreKills::of("kafka transactions", "RINGMILL_KAFKA_SINK_KILLS", 10);
    // Some epochs of a run.
    let rows = 3_000;
    while kills.are_wanted() {
        let broker = broker();
        let job = job(&broker, ID);
        write_rows(&job, rows);
        kills.behind_checkpoints(&job, |_| {
            let shown = numbers(&broker.committed("rows"));
            assert!(shown.iter().copied().eq(0..shown.len() as u64), "none is left out or comes again");
        });
        assert_whole(&broker, rows, "at the end");
    }
    println!("{} kills", kills.done);
}

#[test]
fn a_core_killed_at_every_place_of_the_protocol_commits_every_row_once() {
    let rows = 2_000;
    let run = |failpoint: &str| {
        let broker = broker();
        let job = job(&broker, ID);
        write_rows(&job, rows);
        let code = job.wait(start_at(&job, failpoint)).code;
        (broker, job, code)
    };
    let record = tempfile::NamedTempFile::new().expect("a file");
    assert_eq!(run(&format!("record:{}", record.path().display())).2, Some(0));
    let hits = std::fs::read_to_string(record.path()).expect("a line for each hit");
    let places: BTreeSet<&str> = hits.lines().filter_map(|line| line.split(' ').next()).collect();
    let places: Vec<&str> = places.into_iter().filter(|place| place.starts_with("sink.kafka.")).collect();
    for place in ["initialized", "begin", "send", "sent", "commit", "committed", "mark", "marked", "stage.synced"] {
        assert!(places.contains(&format!("sink.kafka.{place}").as_str()), "{places:?}");
    }
    // The first transaction has no rows, but only a mark.
    let again = ["begin", "commit", "committed"].map(|place| format!("sink.kafka.{place}:2"));
    let hits = places.iter().map(|place| format!("{place}:1")).chain(again);
    let hidden = Mutex::new(BTreeSet::new());
    side_by_side(AT_ONCE, hits, |place| {
        let (broker, job, code) = run(&format!("kill:{place}"));
        assert_eq!(code, None, "{place} was not reached");
        let shown = numbers(&broker.committed("rows"));
        assert!(shown.iter().copied().eq(0..shown.len() as u64), "{place}: a part of an epoch is shown");
        assert_eq!(job.run(&[]).figure("/rows/in"), rows, "{place}");
        assert_whole(&broker, rows, &place);
        if broker.written("rows").len() as u64 > rows {
            hidden.lock().expect("no other thread has failed").insert(place);
        }
    });
    let hidden = hidden.into_inner().expect("no thread has failed");
    // What was sent and not committed is in the log, and nobody is shown it who asks for what is committed.
    for place in ["sink.kafka.sent:1", "sink.kafka.commit:2"] {
        assert!(hidden.contains(place), "{place}: {hidden:?}");
    }
    assert!(!hidden.contains("sink.kafka.committed:2"), "what was committed was not sent again");
    println!("{places:?}");
}

#[test]
fn an_answer_that_is_lost_loses_and_repeats_nothing() {
    let kinds = ["InitProducerId", "AddPartitionsToTxn", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"];
    let each: Vec<_> = kinds.into_iter().flat_map(|kind| ["unheard", "lost"].map(|how| (kind, how))).collect();
    // All of them together take longest.
    let cases = std::iter::once(each.clone()).chain(each.into_iter().map(|case| vec![case]));
    side_by_side(AT_ONCE, cases, |lost: Vec<(&str, &str)>| {
        let broker = broker();
        for (kind, how) in &lost {
            broker.answer(kind, how, if lost.len() > 1 { 1 } else { 2 });
        }
        let job = job(&broker, ID);
        assert_eq!(job.run(&[]).figure("/rows/in"), ROWS, "{lost:?}");
        assert_whole(&broker, ROWS, &format!("{lost:?}"));
    });
}

#[test]
fn a_core_that_dies_before_the_answer_knows_what_was_committed() {
    let broker = broker();
    let job = job(&broker, ID);
    let mut child = start_slowly(&broker, &job);
    answer(&broker, &mut child, "EndTxn", "silent");
    child.kill().expect("it is there");
    assert_eq!(job.wait(child).code, None);
    broker.answer_as_usual();
    job.run(&[]);
    assert_whole(&broker, ROWS, "after the kill");
    assert_eq!(broker.written("rows").len() as u64, ROWS, "what was committed was not sent again");
}

#[test]
fn a_broker_that_goes_away_amid_transactions_is_waited_for() {
    let kinds = ["AddPartitionsToTxn", "Produce", "TxnOffsetCommit", "EndTxn"];
    side_by_side(AT_ONCE, kinds.into_iter(), |kind| {
        let broker = broker();
        let job = job(&broker, ID);
        let mut child = start_slowly(&broker, &job);
        answer(&broker, &mut child, kind, "silent");
        broker.go_away();
        read_until(&mut child, "paused: sink out: Kafka at ");
        broker.answer_as_usual();
        broker.come_back();
        read_until(&mut child, "sink out goes on");
        assert_goes_on(&broker, &job, child);
    });
}

#[test]
fn a_transaction_that_the_brokers_end_for_its_age_is_begun_again() {
    const AGE: Duration = Duration::from_secs(2);
    let broker = broker();
    let job = job(&broker, &format!("{ID}\noptions = {{ \"transaction.timeout.ms\" = \"{}\" }}", AGE.as_millis()));
    let mut child = start_slowly(&broker, &job);
    // The sink may give it up by itself at the same time; it is not to begin another one before, which would be too young.
    broker.answer("InitProducerId", "lost", u32::MAX);
    answer(&broker, &mut child, "EndTxn", "lost");
    let asked = Instant::now();
    until(&mut child, || asked.elapsed() > AGE);
    assert!(broker.expire("mill"), "it was open");
    broker.answer_as_usual();
    read_until(&mut child, "sink out goes on");
    assert_goes_on(&broker, &job, child);
    assert!(broker.written("rows").len() as u64 > ROWS, "the first attempt is in the log, and hidden");
}

#[test]
fn of_two_runs_with_one_name_the_elder_ends_and_commits_no_more() {
    let broker = broker();
    let (elder, younger) = (job(&broker, ID), job(&broker, ID));
    let first = start_slowly(&broker, &elder);
    assert_eq!(younger.run(&[]).figure("/rows/in"), ROWS);
    let ended = elder.wait(first);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let taken = "another run has taken transactional_id \"mill\" over, so this one ends";
    assert!(ended.stderr.contains(taken), "{}", ended.stderr);
    let shown = numbers(&broker.committed("rows"));
    let of_elder = shown.len() - ROWS as usize;
    assert!(shown[..of_elder].iter().copied().eq(0..of_elder as u64), "what the elder had committed is there");
    assert!(shown[of_elder..].iter().copied().eq(0..ROWS), "and then what the younger has");
    let ended = elder.run(&[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("the state is another run's or an older one"), "{}", ended.stderr);
    let ended = elder.run(&["sinks.out.transactional_id=elder"]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("kafka topic rows with transactional_id mill"), "{}", ended.stderr);
    assert_eq!(broker.committed("rows").len(), shown.len());
}

#[test]
fn a_mark_that_is_kept_no_more_matters_only_if_nobody_else_knows() {
    let broker = broker();
    let job = job(&broker, ID);
    assert_eq!(job.wait(start_at(&job, "kill:sink.kafka.committed:2")).code, None);
    let shown = broker.committed("rows");
    assert!(!shown.is_empty());
    broker.forget("mill", GROUP);
    for _ in 0..2 {
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("the brokers have its mark no more"), "{}", ended.stderr);
    }
    assert_eq!(broker.committed("rows"), shown);
    let other = self::job(&broker, ID);
    assert_eq!(other.run(&[]).code, Some(0));
    let shown = broker.committed("rows").len();
    broker.forget("mill", GROUP);
    let more = other.read("in.ndjson") + "{\"number\":10000}\n";
    other.write("in.ndjson", more);
    let died = other.wait(start_at(&other, "kill:sink.kafka.committed:1"));
    assert_eq!(died.code, None, "the mark was set again: {}", died.stderr);
    let ended = other.run(&[]);
    assert_eq!(ended.code, Some(0), "what it had sent it knows by itself: {}", ended.stderr);
    assert_eq!(broker.committed("rows").len(), shown + 1);
}

#[test]
fn a_sink_without_rows_for_longer_than_its_name_and_mark_are_kept_goes_on() {
    let broker = Broker::with_topics(&[("numbers", 1), ("rows", 1)]);
    let source = format!(
        "[sources.rows]\nkind = \"kafka\"\nbrokers = {}\ntopics = [\"numbers\"]\nfields = {{ number = \"uint64\" }}\n",
        broker.brokers()
    );
    let job = job_of(&source, &broker, ID);
    broker.send("numbers", &["{\"number\":0}"]);
    let is_committed = || broker.offset(GROUP, "rows").is_some_and(|epoch| epoch > 0);
    let mut child = job.start(&[]);
    until(&mut child, is_committed);
    broker.forget("mill", GROUP);
    broker.send("numbers", &["{\"number\":1}"]);
    until(&mut child, is_committed);
    let ended = job.end(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_whole(&broker, 2, "at the end");
}

#[test]
fn rows_of_a_checkpoint_are_sent_with_the_headers_that_they_were_to_have() {
    let broker = broker();
    let headers = "headers = { row = \"number\" }";
    let job = job(&broker, &format!("{ID}\n{headers}"));
    write_rows(&job, 10);
    assert_eq!(job.wait(start_at(&job, "kill:sink.kafka.send:1")).code, None);
    let as_it_was = job.read("pipeline.toml");
    job.write("pipeline.toml", as_it_was.replace(headers, ""));
    let ended = job.run(&[]);
    assert!(ended.stderr.contains("the checkpoint has rows for it with other `headers`"), "{}", ended.stderr);
    assert_eq!(broker.committed("rows").len(), 0);
    job.write("pipeline.toml", as_it_was);
    assert_eq!(job.run(&[]).code, Some(0));
    assert_whole(&broker, 10, "with headers");
}

#[test]
fn what_can_never_be_sent_is_refused_before_its_checkpoint() {
    let broker = broker();
    let job = job(&broker, &format!("{ID}\noptions = {{ \"message.max.bytes\" = \"1000\" }}"));
    let pipeline = job.read("pipeline.toml").replace("number = \"uint64\"", "text = \"utf8\"");
    job.write("pipeline.toml", pipeline);
    job.write("in.ndjson", format!("{{\"text\":\"{}\"}}\n", "x".repeat(2_000)));
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(1));
    let too_large = "a row is a message of 2011 bytes, and message.max.bytes allows less";
    assert!(ended.stderr.contains(too_large), "{}", ended.stderr);
    job.write("in.ndjson", "{\"text\":\"short\"}\n");
    std::fs::remove_dir_all(job.path("state")).expect("it can be begun anew");
    assert_eq!(job.run(&[]).code, Some(0));
    assert_eq!(broker.committed("rows"), ["{\"text\":\"short\"}"]);
}

#[test]
fn the_example_of_the_documentation_runs() {
    let broker = Broker::with_topics(&[("readings", 1), ("hot", 1)]);
    let page = Page::read("connect/kafka");
    let job = page.job(&[("[\"localhost:9092\"]", &broker.brokers())]);
    job.write("pipeline.toml", job.read("transactions.toml"));
    broker.send("readings", &["{\"celsius\": 20.5}", "{\"celsius\": 99.5}", "{\"celsius\": 98.0}"]);
    let ended = job.run(&["sources.readings.stop_at_end=true"]);
    assert_eq!(ended.figure("/rows/in"), 3);
    let hot = ["{\"sensor\":null,\"celsius\":99.5}", "{\"sensor\":null,\"celsius\":98.0}"];
    assert_eq!(broker.committed("hot"), hot);
}
