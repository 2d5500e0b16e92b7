//! Sources of each kind but the generator, with sinks of each kind that keeps rows behind them: the core is killed at random
//! times, and then each sink has what it promises of what the source gave.
//!
//! What a source gave is what the file sink shows. That is held against what was sent; the other sinks are held against the
//! file.
//!
//!   RINGMILL_PAIR_KILLS  kills of the core for each source (default 20)
//!   RINGMILL_KILL_SEED   the moments at which they fall (default: anything)

mod endpoint;
mod sinks;
mod sources;

use std::collections::BTreeSet;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, newest_checkpoint, rounds};
use ringmill_system_tests::{CHECKPOINT, Job};
use serde_json::Value;
use sources::Source;

/// What a source gives of the numbers that were sent, or a sink shows of those that came to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    Once,
    AtLeastOnce,
    AtMostOnce,
}

impl Promise {
    /// Fails if `found` is not what this promises of `expected`.
    fn check(self, what: &str, mut found: Vec<u64>, expected: &[u64]) {
        let mut expected = expected.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        let once = |numbers: &[u64]| numbers.iter().copied().collect::<BTreeSet<u64>>();
        let (found_once, expected_once) = (once(&found), once(&expected));
        let missing: Vec<u64> = expected_once.difference(&found_once).copied().take(10).collect();
        let strange: Vec<u64> = found_once.difference(&expected_once).copied().take(10).collect();
        assert!(strange.is_empty(), "{what}: {strange:?} of {} were never given to it", found.len());
        assert!(
            self == Promise::AtMostOnce || missing.is_empty(),
            "{what}: it lacks {missing:?} of {}",
            expected.len()
        );
        match self {
            Promise::Once => assert!(found == expected, "{what}: {} rows instead of {}", found.len(), expected.len()),
            Promise::AtMostOnce => assert_eq!(found.len(), found_once.len(), "{what}: some came twice"),
            Promise::AtLeastOnce => {}
        }
    }
}

fn number(row: &str) -> u64 {
    let row: Value = serde_json::from_str(row).expect("a row");
    row["number"].as_u64().expect("a number")
}

/// The numbers in the file.
fn shown(job: &Job) -> Vec<u64> {
    job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_u64().expect("a number")).collect()
}

/// `source`: none on a machine without its server.
fn every_sink_has_what_comes_of(source: Option<impl Source>) {
    let Some(mut source) = source else { return };
    let sinks = sinks::all();
    let tables: String = sinks.iter().map(|sink| sink.table()).collect();
    let table = source.table();
    let pipeline = format!(
        "[pipeline]\nname = \"pairs\"\nshards = 2\n\n{CHECKPOINT}\n[sources.rows]\n{table}\n\n\
         [sinks.out]\nkind = \"file\"\ninputs = [\"rows\"]\npath = \"out.ndjson\"\n{tables}"
    );
    let job = Job::new(&pipeline, &[sinks::TABLE, sources::NUMBERS].concat());
    let mut chance = Chance::from_environment("pairs");
    let wanted = rounds("RINGMILL_PAIR_KILLS", 20);
    source.begin(&job, wanted);
    for _ in Progress::over("kills", wanted) {
        let before = newest_checkpoint(&job.path("state"));
        let mut child = source.start(&job);
        source.feed(&job, &mut child, &mut chance);
        let is_time = || newest_checkpoint(&job.path("state")) > before;
        let time = chance.between(Duration::ZERO, Duration::from_millis(60));
        assert!(kill_after(&mut child, is_time, time), "the run ended: {}", job.wait(child).stderr);
    }
    let sent = source.finish(&job);
    let given = shown(&job);
    source.promise().check("the source", given.clone(), &sent);
    for sink in &sinks {
        sink.promise().check(sink.name(), sink.numbers(&job), &given);
    }
    println!("{wanted} kills, {} rows to {} sinks", given.len(), sinks.len() + 1);
}

#[test]
fn rows_of_a_file() {
    every_sink_has_what_comes_of(Some(sources::File::default()));
}

#[test]
fn rows_of_a_python_class() {
    every_sink_has_what_comes_of(Some(sources::Python::default()));
}

#[test]
fn rows_of_a_producer() {
    every_sink_has_what_comes_of(Some(sources::Producer::default()));
}

#[test]
fn lines_of_standard_input() {
    every_sink_has_what_comes_of(Some(sources::Stdin::default()));
}

#[test]
fn lines_of_a_socket() {
    every_sink_has_what_comes_of(Some(sources::Socket::default()));
}

#[test]
fn rows_of_http_requests() {
    every_sink_has_what_comes_of(Some(sources::Http::new()));
}

#[test]
fn messages_of_kafka() {
    every_sink_has_what_comes_of(Some(sources::Topic::new()));
}

#[test]
fn messages_of_a_nats_stream() {
    every_sink_has_what_comes_of(sources::Stream::new());
}

#[test]
fn messages_of_core_nats() {
    every_sink_has_what_comes_of(sources::Subject::new());
}

#[test]
fn messages_of_mqtt() {
    every_sink_has_what_comes_of(sources::Mqtt::new());
}
