//! State that is larger than its memory: it spills, nobody sees it in the results, and the core stays small, also when it
//! is killed again and again.
//!
//! `RINGMILL_SPILL_KEYS=4000000` makes the state large enough for the bound on memory to mean something.

use std::time::Duration;

use ringmill_system_tests::Job;
use ringmill_system_tests::chaos::{Chance, kill_after, newest_checkpoint, rounds};

/// Most memory of a core that spills, whatever its state: the windows' share, RocksDB's, and everything else.
const CORE_BYTES_MAX: u64 = 400 << 20;

/// Each kind of window keeps its state in another form. An hour holds all of the run's rows, as does a gap of an hour.
const WINDOWS: [&str; 3] = [r#"{ tumbling = "1h" }"#, r#"{ sliding = "1h", every = "30m" }"#, r#"{ session = "1h" }"#];

fn job(window: &str) -> Job {
    let keys = rounds("RINGMILL_SPILL_KEYS", 20_000);
    let rows = keys * 20;
    let pipeline = format!(
        r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"
interval = "50ms"

[sources.sensors]
kind = "generator"
keys = {keys}
rows = {rows}
event_time = "timestamp"

[steps.averages]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = {window}
aggregates = {{ mean = "mean(temperature)", last = "last(temperature)", readings = "count()" }}

[sinks.windows]
kind = "file"
inputs = ["averages"]
path = "windows.ndjson"
"#
    );
    Job::new(&pipeline, "")
}

/// A hundredth of what the state takes.
fn little_memory() -> String {
    format!("pipeline.state_memory={}KiB", (rounds("RINGMILL_SPILL_KEYS", 20_000) / 100).max(64))
}

fn windows(job: &Job) -> Vec<String> {
    let mut lines: Vec<String> = job.read("windows.ndjson").lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn windows_larger_than_their_memory_give_the_same_results_in_bounded_memory() {
    for window in WINDOWS {
        let whole = job(window);
        let ended = whole.run(&[]);
        assert_eq!(ended.figure("/spilled/entries"), 0, "there is enough memory by default");
        let job = job(window);
        let ended = job.run(&[&little_memory()]);
        let (entries, bytes) = (ended.figure("/spilled/entries"), ended.figure("/spilled/bytes"));
        let (read_back, core) = (ended.figure("/spilled/read_back"), ended.figure("/memory_bytes/core"));
        println!(
            "{window}: spilled {entries} entries, {bytes} bytes; {read_back} read back; the core took {core} bytes"
        );
        assert!(entries > 0 && bytes > 0 && read_back > 0);
        assert!(core < CORE_BYTES_MAX, "the core took {core} bytes");
        assert!(
            windows(&job) == windows(&whole),
            "{window}: the results differ from those of a run with enough memory"
        );
    }
}

#[test]
fn a_core_killed_while_it_spills_loses_and_changes_nothing() {
    let mut chance = Chance::from_environment("spilling");
    let memory = little_memory();
    for window in WINDOWS {
        let whole = job(window);
        whole.run(&[]);
        let job = job(window);
        let (wanted, mut kills) = (rounds("RINGMILL_SPILL_KILLS", 5), 0);
        while kills < wanted {
            let (state, mut child) = (job.path("state"), job.start(&[&memory]));
            let known = newest_checkpoint(&state);
            let time = chance.between(Duration::ZERO, Duration::from_millis(150));
            if !kill_after(&mut child, || newest_checkpoint(&state) > known, time) {
                break;
            }
            kills += 1;
        }
        job.run(&[&memory]);
        println!("{window}: {kills} kills");
        assert!(kills > 0, "it was killed while it worked");
        assert!(
            windows(&job) == windows(&whole),
            "{window}: the results differ from those of a run that was left alone"
        );
    }
}
