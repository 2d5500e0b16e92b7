//! What functions keep: per-key state follows each key's rows and what a class has learnt follows its worker, whatever
//! is killed.
//!
//!   RINGMILL_UDF_STATE_KILLS  kills in each of the killing tests (default 10)

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::process::Child;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, kill_after, kill_now, newest_checkpoint, rounds};
use ringmill_system_tests::{Job, children_of, until};
use serde_json::Value;

const EWMA: &str = "
@rm.udf(outputs={'ewma': rm.float64, 'readings': rm.int64}, state={'level': rm.float64, 'n': rm.int64})
def ewma(temperature: np.ndarray, level, n):
    level = np.where(n == 0, temperature, 0.9 * level + 0.1 * temperature)
    return {'ewma': level, 'readings': n + 1, 'level': level, 'n': n + 1}
";

/// Every total depends on all rows before it, on each of them once, and on nothing else. What `setup()` drew by lot is part
/// of what it keeps, and a batch that fails leaves it with a wrong total.
const TOTALS: &str = "
import os, pathlib, time

SIZE = int(os.environ.get('KEEP_BYTES', '100_000'))

def stage(name):
    pathlib.Path(f'stage-{os.getpid()}').write_text(name)

@rm.udf(outputs={'total': rm.int64, 'learner': rm.int64})
class Totals:
    def setup(self):
        self.total = 0
        self.learner = int.from_bytes(os.urandom(6), 'little') if 'LOT' in os.environ else 0
        self.seconds = float(os.environ.get('KEEP_SECONDS', '0'))

    def __call__(self, timestamp, temperature):
        totals = self.total + np.cumsum(np.round(temperature * 1000).astype(np.int64) + 1)
        self.total = int(totals[-1])
        time.sleep(self.seconds / 20)
        milliseconds = timestamp.astype('int64') % 1_000_000
        if 'POISON' in os.environ and (milliseconds == 345_670).any():
            os._exit(7)
        if 'POISON' in os.environ and (milliseconds % 50_000 == 20).any():
            raise ValueError('bad weather')
        return {'total': totals, 'learner': np.full(len(totals), self.learner)}

    def snapshot(self):
        stage('snapshot')
        time.sleep(self.seconds)
        # Larger than a slot, so that it comes in pieces.
        kept = self.total.to_bytes(8, 'little') + self.learner.to_bytes(8, 'little') + bytes(SIZE)
        stage('batches')
        return kept

    def restore(self, state):
        assert len(state) == 16 + SIZE
        stage('restore')
        time.sleep(self.seconds)
        self.total = int.from_bytes(state[:8], 'little')
        self.learner = int.from_bytes(state[8:16], 'little')
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
fn per_key_state_that_does_not_fit_spills_with_checkpoints_and_ends_the_run_without() {
    let settings = [AT_ONCE, "sources.sensors.keys=20_000", "pipeline.state_memory=256KiB"];
    let job = Job::new(&pipeline(BY_KEY, CHECKPOINTS), EWMA);
    let ended = job.run(&settings);
    let (entries, read_back) = (ended.figure("/spilled/entries"), ended.figure("/spilled/read_back"));
    println!("{entries} entries spilled, {read_back} read back");
    assert!(entries > 20_000 && read_back > 20_000, "most keys were put away and came again");
    let seen = check_by_key(&job.rows("out.ndjson"));
    assert_eq!((seen.len(), seen.values().sum::<i64>()), (20_000, ROWS as i64));
    let ended = Job::new(&pipeline(BY_KEY, ""), EWMA).run(&settings);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("[checkpoint]"), "{}", ended.stderr);
}

#[test]
fn per_key_state_is_that_of_an_undisturbed_run_though_workers_are_killed() {
    let mut chance = Chance::from_environment("worker kills with per-key state");
    let expected = reference(BY_KEY, EWMA);
    let step = format!("{BY_KEY}\nrestarts_max = 10_000");
    let job = Job::new(&pipeline(&step, ""), EWMA);
    let mut child = job.start(&[]);
    until(&mut child, || std::fs::metadata(job.path("out.ndjson")).is_ok_and(|file| file.len() > 0));
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
fn per_key_state_that_spills_is_exact_though_workers_and_cores_of_two_shards_are_killed() {
    let mut chance = Chance::from_environment("double faults with per-key state");
    // Each shard has room for a third of its keys.
    let settings = ["pipeline.shards=2", "pipeline.state_memory=24KiB"];
    let wanted = rounds("RINGMILL_UDF_STATE_KILLS", 10);
    let mut kills = 0;
    while kills < wanted {
        let job = Job::new(&pipeline(&format!("{BY_KEY}\nrestarts_max = 10_000"), CHECKPOINTS), EWMA);
        let newest = || newest_checkpoint(&job.path("state"));
        let mut killed = 0;
        // So few that there is much left for the run that is not killed.
        while killed < 10.min(wanted) {
            let mut child = job.start(&settings);
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
        kills += killed;
        let ended = job.run(&[AT_ONCE, settings[0], settings[1]]);
        assert_eq!(ended.figure("/rows/in"), ROWS);
        assert!(ended.figure("/spilled/entries") > 0 && ended.figure("/spilled/read_back") > 0, "it spilled");
        let seen = check_by_key(&job.rows("out.ndjson"));
        assert_eq!((seen.len(), seen.values().sum::<i64>()), (700, ROWS as i64));
    }
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
    until(&mut child, || newest_checkpoint(&job.path("state")) >= 3);
    let ended = job.end(child);
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

/// Kills workers at random moments until the run ends, or `wanted` have been killed; every second one soon after it began
/// to be given what its predecessor had learnt. Returns what the killed were at.
fn kill_workers(job: &Job, child: &mut Child, chance: &mut Chance, wanted: u64) -> BTreeMap<String, u64> {
    let mut stages: BTreeMap<String, u64> = BTreeMap::new();
    let stage_of = |pid: i32| std::fs::read_to_string(job.path(&format!("stage-{pid}"))).unwrap_or_default();
    let mut victims: Vec<i32> = Vec::new();
    while stages.values().sum::<u64>() < wanted && child.try_wait().unwrap().is_none() {
        let workers = children_of(child.id()).into_iter().filter(|pid| !victims.contains(pid));
        let Some(worker) = workers.rev().find(|pid| !stage_of(*pid).is_empty()) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let longest = Duration::from_millis(if victims.len() % 2 == 1 { 60 } else { 300 });
        std::thread::sleep(chance.between(Duration::ZERO, longest));
        *stages.entry(stage_of(worker)).or_default() += 1;
        victims.push(worker);
        kill_now(worker);
    }
    println!("workers killed, by the last that they said they were at: {stages:?}");
    stages
}

#[test]
fn what_a_class_has_learnt_is_that_of_an_undisturbed_run_though_its_worker_is_killed_at_any_moment() {
    let mut chance = Chance::from_environment("worker kills with snapshots");
    let expected = reference(BY_WORKER, TOTALS);
    // A small log: snapshots are taken between checkpoints, and without any.
    let step = format!("{BY_WORKER}\nrestarts_max = 10_000\nrestart_backoff = \"1ms\"\nreplay_memory = \"1MiB\"");
    for checkpoints in [CHECKPOINTS, ""] {
        let job = Job::new(&pipeline(&step, checkpoints), TOTALS);
        let log = File::create(job.path("log")).unwrap();
        let mut child = job.command(&[]).env("KEEP_SECONDS", "0.02").stderr(log).spawn().unwrap();
        let killed = kill_workers(&job, &mut child, &mut chance, rounds("RINGMILL_UDF_STATE_KILLS", 4));
        let ended = job.wait(child);
        assert_eq!(ended.code, Some(0), "{}", job.read("log"));
        assert_eq!(ended.figure("/rows/in"), ROWS);
        assert!(killed.values().sum::<u64>() >= 2, "{killed:?}");
        assert!(job.read("out.ndjson") == expected, "the output differs from that of an undisturbed run");
    }
}

/// Fails unless the totals of each learner are those of the rows that it passed, in the order in which they came out.
fn check_totals(rows: &[Value]) -> usize {
    let mut totals: HashMap<i64, i64> = HashMap::new();
    for row in rows {
        let total = totals.entry(row["learner"].as_i64().unwrap()).or_default();
        *total += (row["temperature"].as_f64().unwrap() * 1000.0).round_ties_even() as i64 + 1;
        assert_eq!(row["total"].as_i64(), Some(*total), "{row}");
    }
    totals.len()
}

#[test]
fn rows_that_fail_or_kill_teach_nothing_and_every_other_is_learnt_once_by_one_worker() {
    let mut chance = Chance::from_environment("poison, kills and snapshots");
    let dead = "[sinks.dead]\nkind = \"file\"\ninputs = [\"kept.dead_letters\"]\npath = \"dead.ndjson\"\n";
    let step = format!(
        "{BY_WORKER}\non_error = \"dead_letter\"\nbatch_rows = 32\nrestarts_max = 10_000\nrestart_backoff = \"1ms\""
    );
    for workers in [1, 2] {
        let job = Job::new(&format!("{}{dead}", pipeline(&step, "")), TOTALS);
        let settings =
            ["sources.sensors.rows=20_000", "sources.sensors.keys=100", &format!("steps.kept.workers={workers}")];
        let mut command = job.command(&settings);
        command.env("KEEP_SECONDS", "0.002").env("KEEP_BYTES", "5_000").env("LOT", "").env("POISON", "");
        let mut child = command.stderr(File::create(job.path("log")).unwrap()).spawn().unwrap();
        kill_workers(&job, &mut child, &mut chance, rounds("RINGMILL_UDF_STATE_KILLS", 2));
        let ended = job.wait(child);
        assert_eq!(ended.code, Some(0), "{}", job.read("log"));
        let (rows, dead) = (job.rows("out.ndjson"), job.rows("dead.ndjson"));
        assert_eq!(rows.len() + dead.len(), 20_000);
        assert_eq!(dead.len(), 5);
        assert_eq!(check_totals(&rows), workers, "what setup() drew by lot was drawn again");
    }
}

#[test]
fn a_restore_that_hangs_is_ended_by_the_start_timeout_and_tried_again() {
    let functions = TOTALS.replace("stage('restore')", "stage('restore')\n        self.hang_once()")
        + "
    def hang_once(self):
        if not os.path.exists('hung'):
            pathlib.Path('hung').touch()
            time.sleep(1_000_000)
";
    let expected = reference(BY_WORKER, &functions);
    let job = Job::new(&pipeline(&format!("{BY_WORKER}\nstart_timeout = \"8s\""), ""), &functions);
    let mut child = job.command(&[]).env("KEEP_SECONDS", "0.001").spawn().unwrap();
    until(&mut child, || std::fs::metadata(job.path("out.ndjson")).is_ok_and(|file| file.len() > 0));
    children_of(child.id()).into_iter().for_each(kill_now);
    let ended = job.wait(child);
    assert_eq!(ended.figure("/rows/in"), ROWS);
    assert!(ended.stderr.contains("restore() was not done within 8s (start_timeout)"), "{}", ended.stderr);
    assert!(job.read("out.ndjson") == expected, "the output differs from that of an undisturbed run");
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
    let job = Job::new(&pipeline(BY_WORKER, CHECKPOINTS), &TOTALS.replace("bytes(SIZE)", "bytes(65 << 20)"));
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
