//! What functions keep: per-key state follows each key's rows and what a class has learnt follows its worker, whatever
//! is killed.
//!
//!   RINGMILL_UDF_STATE_KILLS  kills in each of the killing tests (default 10)

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_system_tests::chaos::{Chance, kill_after, kill_now, newest_checkpoint, rounds};
use ringmill_system_tests::{Job, children_of};
use serde_json::Value;

const EWMA: &str = "
@rm.udf(outputs={'ewma': rm.float64, 'readings': rm.int64}, state={'level': rm.float64, 'n': rm.int64})
def ewma(temperature: np.ndarray, level, n):
    level = np.where(n == 0, temperature, 0.9 * level + 0.1 * temperature)
    return {'ewma': level, 'readings': n + 1, 'level': level, 'n': n + 1}
";

const TOTALS: &str = "
import os, time

@rm.udf(outputs={'total': rm.int64})
class Totals:
    def setup(self):
        self.total = 0
        self.seconds = float(os.environ.get('KEEP_SECONDS', '0'))

    def __call__(self, temperature):
        totals = self.total + 1 + np.arange(len(temperature))
        self.total += len(temperature)
        return totals

    def snapshot(self):
        # Larger than a slot, so that it comes in pieces.
        time.sleep(self.seconds)
        return self.total.to_bytes(8, 'little') + bytes(100_000)

    def restore(self, state):
        assert len(state) == 100_008
        time.sleep(self.seconds)
        self.total = int.from_bytes(state[:8], 'little')
";

const ROWS: u64 = 200_000;
const AT_ONCE: &str = "sources.sensors.rate=1_000_000_000";

fn pipeline(step: &str, checkpoint: &str) -> String {
    format!(
        r#"
[pipeline]
shards = 1
{checkpoint}
[sources.sensors]
kind = "generator"
keys = 700
rows = {ROWS}
rate = 50_000
columns = ["device_id", "timestamp", "temperature"]
event_time = "timestamp"

[steps.kept]
kind = "udf"
inputs = ["sensors"]
{step}

[sinks.out]
kind = "file"
inputs = ["kept"]
path = "out.ndjson"
"#
    )
}

const BY_KEY: &str = "function = \"functions:ewma\"\nkey = [\"device_id\"]\nworkers = 2";
const BY_WORKER: &str = "function = \"functions:Totals\"";
const CHECKPOINTS: &str = "
[checkpoint]
path = \"state\"
interval = \"40ms\"
";

/// What an undisturbed run without checkpoints writes.
fn reference(step: &str, functions: &str) -> String {
    let job = Job::new(&pipeline(step, ""), functions);
    let ended = job.run(&[AT_ONCE]);
    assert_eq!(ended.figure("/rows/in"), ROWS);
    job.read("out.ndjson")
}

/// Fails unless every row shows the state that its key's rows so far lead to; returns the rows of each key.
fn check_by_key(rows: &[Value]) -> HashMap<String, i64> {
    let mut levels: HashMap<String, (f64, i64)> = HashMap::new();
    for row in rows {
        let key = row["device_id"].to_string();
        let temperature = row["temperature"].as_f64().unwrap();
        let (level, readings) = levels.entry(key).or_insert((temperature, 0));
        if *readings > 0 {
            *level = 0.9 * *level + 0.1 * temperature;
        }
        *readings += 1;
        assert_eq!(row["readings"].as_i64(), Some(*readings), "{row}");
        let ewma = row["ewma"].as_f64().unwrap();
        assert!((ewma - *level).abs() <= 1e-9 * level.abs(), "{row} where {level} was expected");
    }
    levels.into_iter().map(|(key, (_, readings))| (key, readings)).collect()
}

#[test]
fn the_state_of_each_key_follows_its_rows_through_any_number_of_workers_and_shards() {
    for (shards, workers, keys) in [(1, 1, 700), (1, 3, 2), (2, 2, 50)] {
        let job = Job::new(&pipeline(BY_KEY, ""), EWMA);
        let rows = if keys < 10 { 5_000 } else { 50_000 };
        let settings = [
            AT_ONCE.to_owned(),
            format!("sources.sensors.rows={rows}"),
            format!("sources.sensors.keys={keys}"),
            format!("steps.kept.workers={workers}"),
            format!("pipeline.shards={shards}"),
        ];
        let ended = job.run(&settings.each_ref().map(String::as_str));
        assert_eq!(ended.figure("/rows/in"), rows);
        let seen = check_by_key(&job.rows("out.ndjson"));
        assert_eq!((seen.len(), seen.values().sum::<i64>()), (keys, rows as i64));
    }
}

#[test]
fn per_key_state_is_that_of_an_undisturbed_run_though_workers_are_killed() {
    let mut chance = Chance::from_environment("worker kills with per-key state");
    let expected = reference(BY_KEY, EWMA);
    let step = format!("{BY_KEY}\nrestarts_max = 10_000");
    let job = Job::new(&pipeline(&step, ""), EWMA);
    let mut child = job.start(&[]);
    while std::fs::metadata(job.path("out.ndjson")).map_or(0, |file| file.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended too soon");
        std::thread::yield_now();
    }
    let (mut killed, wanted) = (0, rounds("RINGMILL_UDF_STATE_KILLS", 10));
    while killed < wanted && child.try_wait().unwrap().is_none() {
        let pause = chance.between(Duration::from_millis(20), Duration::from_millis(250));
        std::thread::sleep(pause);
        let workers = children_of(child.id());
        if let Some(worker) = workers.get(chance.below(workers.len() as u64) as usize) {
            kill_now(*worker);
            killed += 1;
        }
    }
    let ended = job.wait(child);
    assert_eq!(ended.figure("/rows/in"), ROWS);
    assert!(killed >= wanted.min(5), "{killed} kills");
    assert!(job.read("out.ndjson") == expected, "the output differs from that of an undisturbed run");
}

/// Kills the core at random times and lets it end at last.
fn kill_the_core(job: &Job, chance: &mut Chance) {
    let mut killed = 0;
    for _ in 0..rounds("RINGMILL_UDF_STATE_KILLS", 10) {
        let mut child = job.start(&[]);
        // Only a run that has got on is worth a kill.
        let before = newest_checkpoint(&job.path("state"));
        let time = chance.between(Duration::ZERO, Duration::from_millis(300));
        if !kill_after(&mut child, || newest_checkpoint(&job.path("state")) > before, time) {
            break;
        }
        killed += 1;
    }
    assert!(killed > 2, "it ended after {killed} kills");
    let ended = job.run(&[AT_ONCE]);
    assert_eq!(ended.figure("/rows/in"), ROWS, "totals go on from the checkpoint");
}

#[test]
fn per_key_state_goes_on_from_the_checkpoint_after_a_core_was_killed() {
    let mut chance = Chance::from_environment("core kills with per-key state");
    let expected = reference(BY_KEY, EWMA);
    let job = Job::new(&pipeline(BY_KEY, CHECKPOINTS), EWMA);
    kill_the_core(&job, &mut chance);
    assert!(job.read("out.ndjson") == expected, "the output differs from that of an undisturbed run");
}

#[test]
fn per_key_state_is_exact_though_workers_and_cores_of_two_shards_are_killed() {
    let mut chance = Chance::from_environment("double faults with per-key state");
    let job = Job::new(&pipeline(&format!("{BY_KEY}\nrestarts_max = 10_000"), CHECKPOINTS), EWMA);
    let newest = || newest_checkpoint(&job.path("state"));
    let mut killed = 0;
    for _ in 0..rounds("RINGMILL_UDF_STATE_KILLS", 10) {
        let mut child = job.start(&["pipeline.shards=2"]);
        let (core, before, workers) = (child.id(), newest(), chance.below(3) as usize);
        let has_got_on = || {
            let is_time = newest() > before;
            if is_time {
                children_of(core).into_iter().take(workers).for_each(kill_now);
            }
            is_time
        };
        let time = chance.between(Duration::ZERO, Duration::from_millis(300));
        if !kill_after(&mut child, has_got_on, time) {
            break;
        }
        killed += 1;
    }
    assert!(killed > 2, "it ended after {killed} kills");
    let ended = job.run(&[AT_ONCE, "pipeline.shards=2"]);
    assert_eq!(ended.figure("/rows/in"), ROWS);
    let seen = check_by_key(&job.rows("out.ndjson"));
    assert_eq!((seen.len(), seen.values().sum::<i64>()), (700, ROWS as i64));
}

#[test]
fn what_a_class_has_learnt_goes_on_from_the_checkpoint_after_a_core_was_killed() {
    let mut chance = Chance::from_environment("core kills with snapshots");
    let expected = reference(BY_WORKER, TOTALS);
    let job = Job::new(&pipeline(BY_WORKER, CHECKPOINTS), TOTALS);
    kill_the_core(&job, &mut chance);
    assert!(job.read("out.ndjson") == expected, "the output differs from that of an undisturbed run");
}

/// Ends a run in good order after a while.
fn drain(job: &Job) {
    let mut child = job.start(&[]);
    while newest_checkpoint(&job.path("state")) < 3 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended too soon");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let ended = job.wait(child);
    assert!(ended.figure("/rows/in") < ROWS, "there is something left");
}

#[test]
fn per_key_state_follows_its_keys_to_other_shards() {
    let job = Job::new(&pipeline(BY_KEY, CHECKPOINTS), EWMA);
    drain(&job);
    let ended = job.run(&[AT_ONCE, "pipeline.shards=2", "steps.kept.workers=1"]);
    assert_eq!(ended.figure("/rows/in"), ROWS);
    let seen = check_by_key(&job.rows("out.ndjson"));
    assert_eq!((seen.len(), seen.values().sum::<i64>()), (700, ROWS as i64));
}

#[test]
fn state_that_no_longer_fits_is_refused_naming_the_step() {
    let job = Job::new(&pipeline(BY_KEY, CHECKPOINTS), EWMA);
    drain(&job);
    let before = job.read("out.ndjson");
    let refused = job.run(&["steps.kept.key=[\"device_id\", \"timestamp\"]"]);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("\"kept\"") && refused.stderr.contains("state level float64"),
        "{}",
        refused.stderr
    );
    let snapshots = Job::new(&pipeline(BY_WORKER, CHECKPOINTS), TOTALS);
    drain(&snapshots);
    let refused = snapshots.run(&["steps.kept.workers=2"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("\"kept\"") && refused.stderr.contains("snapshots of"), "{}", refused.stderr);
    assert_eq!(job.read("out.ndjson"), before, "a run that is refused leaves everything as it was");
}

#[test]
fn a_worker_that_dies_is_restored_to_the_last_checkpoint_and_learns_nothing_twice() {
    let mut chance = Chance::from_environment("worker kills with snapshots");
    let job = Job::new(&pipeline(&format!("{BY_WORKER}\nrestarts_max = 1_000"), CHECKPOINTS), TOTALS);
    // Many kills fall into a snapshot or a restore.
    let mut child = job.command(&[]).env("KEEP_SECONDS", "0.02").spawn().unwrap();
    let (mut killed_at, wanted) = (Vec::new(), rounds("RINGMILL_UDF_STATE_KILLS", 10));
    while killed_at.len() < wanted as usize && child.try_wait().unwrap().is_none() {
        let newest = newest_checkpoint(&job.path("state"));
        if newest > *killed_at.last().unwrap_or(&2) {
            std::thread::sleep(chance.between(Duration::ZERO, Duration::from_millis(100)));
            children_of(child.id()).into_iter().for_each(kill_now);
            killed_at.push(newest);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let ended = job.wait(child);
    assert_eq!(ended.figure("/rows/in"), ROWS);
    let totals: Vec<i64> = job.rows("out.ndjson").iter().map(|row| row["total"].as_i64().unwrap()).collect();
    assert_eq!(totals.len(), ROWS as usize);
    assert!(!killed_at.is_empty(), "no worker was killed");
    let falls: Vec<i64> = totals.windows(2).filter(|pair| pair[1] <= pair[0]).map(|pair| pair[1]).collect();
    assert!(falls.len() <= killed_at.len(), "{falls:?} after deaths at checkpoints {killed_at:?}");
    assert!(falls.iter().all(|total| *total > 1), "{falls:?}: it began anew");
    assert!(totals.windows(2).all(|pair| pair[1] <= pair[0] + 1), "rows were learnt twice");
}

#[test]
fn per_key_state_that_outgrows_its_room_ends_the_run_and_says_so() {
    let job = Job::new(&pipeline(BY_KEY, ""), EWMA);
    let ended = job.run(&[AT_ONCE, "pipeline.state_memory=32KiB"]);
    assert_ne!(ended.code, Some(0));
    let said = "kept: per-key state needs";
    assert!(ended.stderr.contains(said) && ended.stderr.contains("raise `state_memory`"), "{}", ended.stderr);
}

#[test]
fn a_snapshot_that_fails_ends_the_run_and_says_so() {
    let functions = TOTALS.replace("# Larger", "raise ValueError('nothing learnt')  # Larger");
    let job = Job::new(&pipeline(BY_WORKER, CHECKPOINTS), &functions);
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    let said = "kept: snapshot() failed: ValueError: nothing learnt";
    assert!(ended.stderr.contains(said) && ended.stderr.contains("Traceback"), "{}", ended.stderr);
    let job = Job::new(&pipeline(BY_WORKER, CHECKPOINTS), &TOTALS.replace("bytes(100_000)", "bytes(65 << 20)"));
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("kept: snapshot() failed: it gives more than 64 MiB"), "{}", ended.stderr);
}

#[test]
fn a_row_that_fails_leaves_the_state_of_its_key_as_it_was() {
    let functions = "
@rm.udf(outputs={'readings': rm.int64}, state={'n': rm.int64})
def count(timestamp, temperature, n):
    if (timestamp == np.datetime64('2024-01-01T00:00:12.340')).any():
        raise ValueError('poison')
    return {'readings': n + 1, 'n': n + 1}
";
    let step = "function = \"functions:count\"\nkey = [\"device_id\"]\non_error = \"dead_letter\"";
    let dead = "[sinks.dead]\nkind = \"file\"\ninputs = [\"kept.dead_letters\"]\npath = \"dead.ndjson\"\n";
    let job = Job::new(&format!("{}{dead}", pipeline(step, "")), functions);
    let ended = job.run(&[AT_ONCE, "sources.sensors.rows=10_000", "sources.sensors.keys=100"]);
    assert_eq!(ended.figure("/rows/in"), 10_000);
    let dead = job.rows("dead.ndjson");
    assert_eq!(dead.len(), 1, "{dead:?}");
    let record = dead[0]["record"].as_str().unwrap_or_default();
    assert!(record.contains("device_id") && !record.contains("\"n\""), "{record}");
    let mut seen: HashMap<String, i64> = HashMap::new();
    for row in job.rows("out.ndjson") {
        let readings = seen.entry(row["device_id"].to_string()).or_default();
        *readings += 1;
        assert_eq!(row["readings"].as_i64(), Some(*readings), "{row}");
    }
    let mut counts: Vec<i64> = seen.into_values().collect();
    counts.sort_unstable();
    assert_eq!((counts.len(), counts[0], counts[1]), (100, 99, 100));
}
