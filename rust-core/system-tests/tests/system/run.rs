//! What a run promises: order, reconciliation, errors, signals, deaths.

use std::collections::HashMap;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_system_tests::{CHECKPOINT, Job, children_of, file_source, is_alive, read_until, sinks_of};

const GENERATOR: &str = r#"
[sources.sensors]
kind = "generator"
keys = 100
rows = 200_000
event_time = "timestamp"
"#;

const DOUBLE: &str = "
@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    return temperature * 2
";

fn udf_job(extra: &str, functions: &str) -> Job {
    let pipeline = format!(
        "{GENERATOR}
[steps.twice]
kind = \"udf\"
inputs = [\"sensors\"]
function = \"functions:double\"
{extra}
[sinks.out]
kind = \"file\"
inputs = [\"twice\"]
path = \"out.ndjson\"
"
    );
    Job::new(&pipeline, functions)
}

#[test]
fn every_row_comes_out_once_in_order_with_its_result() {
    for settings in [
        &["pipeline.shards=1", "steps.twice.workers=1"][..],
        &["pipeline.shards=1", "steps.twice.workers=3", "steps.twice.batch_rows=100"],
        &["pipeline.shards=2", "steps.twice.workers=2", "steps.twice.batch_rows=64", "steps.twice.slots=2"],
    ] {
        let job = udf_job("", DOUBLE);
        let ended = job.run(settings);
        assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/out/out")), (200_000, 200_000), "{settings:?}");
        let rows = job.rows("out.ndjson");
        assert_eq!(rows.len(), 200_000);
        let mut last: HashMap<String, String> = HashMap::new();
        for row in &rows {
            let (device, time) = (row["device_id"].as_str().unwrap(), row["timestamp"].as_str().unwrap());
            let (double, single) = (row["double"].as_f64().unwrap(), row["temperature"].as_f64().unwrap());
            // serde_json reads the last digit of a float inexactly.
            assert!((double - 2.0 * single).abs() <= 4.0 * f64::EPSILON * double.abs(), "{row}");
            if let Some(before) = last.insert(device.into(), time.into()) {
                assert!(before.as_str() < time, "{settings:?}: {device} went from {before} back to {time}");
            }
        }
        assert_eq!(last.len(), 100);
    }
}

#[test]
fn windows_are_the_same_for_any_number_of_shards() {
    let pipeline = format!(
        "{GENERATOR}
[steps.averages]
kind = \"window\"
inputs = [\"sensors\"]
key = [\"device_id\"]
window = {{ tumbling = \"10s\" }}
aggregates = {{ mean = \"mean(temperature)\", readings = \"count()\" }}

[sinks.out]
kind = \"file\"
inputs = [\"averages\"]
path = \"out.ndjson\"
"
    );
    let outcome = |shards: &str| {
        let job = Job::new(&pipeline, "");
        let ended = job.run(&[shards]);
        assert_eq!(ended.figure("/rows/late"), 0);
        let mut lines: Vec<String> = job.read("out.ndjson").lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let one = outcome("pipeline.shards=1");
    assert_eq!(one.len(), 100 * 200);
    assert_eq!(one, outcome("pipeline.shards=2"));
    assert_eq!(one, outcome("pipeline.shards=3"));
}

#[test]
fn a_failing_row_stops_the_run_or_is_skipped_or_dead_lettered_alone() {
    let fails = "
@rm.udf(outputs={'double': rm.float64})
def double(timestamp, temperature: np.ndarray):
    if (timestamp.astype('int64') % 100_000 == 0).any():
        raise ValueError('bad weather')
    return temperature * 2
";
    let job = udf_job("batch_rows = 1000\n", fails);
    let stopped = job.run(&["steps.twice.on_error=\"stop\""]);
    assert_eq!(stopped.code, Some(1), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("bad weather") && stopped.stderr.contains("Traceback"), "{}", stopped.stderr);
    let skipped = job.run(&["steps.twice.on_error=\"skip\""]);
    assert_eq!((skipped.figure("/rows/in"), skipped.figure("/rows/out/out")), (200_000, 199_980));
    let letters = "
[sinks.dead]
kind = \"file\"
inputs = [\"twice.dead_letters\"]
path = \"dead.ndjson\"
";
    let job = udf_job("batch_rows = 1000\non_error = \"dead_letter\"\n", fails);
    job.write("pipeline.toml", job.read("pipeline.toml") + letters);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/dead_letters"), ended.figure("/rows/out/out")), (20, 199_980));
    let dead = job.rows("dead.ndjson");
    assert_eq!(dead.len(), 20);
    assert!(dead[0]["reason"].as_str().unwrap().contains("bad weather"));
    assert!(dead[0]["record"].as_str().unwrap().contains("device_id"));
}

const SLOW: &str = "
import time

@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    print('a batch of', len(temperature), flush=True)
    time.sleep(0.01)
    return temperature * 2
";

#[test]
fn a_killed_worker_that_may_not_be_started_again_ends_the_run_with_an_error_that_names_it() {
    let job = udf_job("restarts_max = 0\n", SLOW);
    let mut child = job.start(&["sources.sensors.rows=100_000_000"]);
    read_until(&mut child, "a batch of");
    let workers = children_of(child.id());
    assert_eq!(workers.len(), 1);
    kill(Pid::from_raw(workers[0]), Signal::SIGKILL).unwrap();
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("twice/0/0") && ended.stderr.contains("SIGKILL"), "{}", ended.stderr);
}

#[test]
fn workers_die_with_the_core() {
    let job = udf_job("", SLOW);
    let mut child = job.start(&["sources.sensors.rows=100_000_000", "steps.twice.workers=2"]);
    read_until(&mut child, "a batch of");
    let workers = children_of(child.id());
    assert_eq!(workers.len(), 2);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
    job.wait(child);
    while workers.iter().any(|worker| is_alive(*worker)) {
        std::thread::yield_now();
    }
}

#[test]
fn a_signal_drains_and_ends_well() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let job = udf_job("", SLOW);
        let mut child = job.start(&["sources.sensors.rows=100_000_000"]);
        read_until(&mut child, "a batch of");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let ended = job.wait(child);
        assert!(ended.figure("/rows/in") > 0);
        assert_eq!(ended.figure("/rows/in"), ended.figure("/rows/out/out"));
        assert_eq!(job.rows("out.ndjson").len() as u64, ended.figure("/rows/out/out"));
    }
}

#[test]
fn what_workers_print_is_logged_with_worker_and_batch() {
    let speaks = "
import logging, os

@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    print('printed words')
    logging.getLogger('mine').warning('logged words')
    os.write(2, b'raw words\\n')
    return temperature * 2
";
    let job = udf_job("batch_rows = 1000\n", speaks);
    let ended = job.run(&["sources.sensors.rows=1000"]);
    ended.report();
    for words in ["printed words", "logged words", "raw words"] {
        let line = ended.stderr.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{}", ended.stderr));
        assert!(line.contains("twice/0/0"), "{line}");
        assert!(words == "raw words" || line.contains("batch"), "{line}");
    }
}

#[test]
fn a_missing_column_is_named_before_anything_runs() {
    let wrong = "
@rm.udf(outputs={'double': rm.float64})
def double(temprature: np.ndarray):
    return temprature
";
    let job = udf_job("", wrong);
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("temprature") && ended.stderr.contains("temperature"), "{}", ended.stderr);
    assert!(!job.path("out.ndjson").exists());
}

#[test]
fn an_endless_source_ends_after_the_duration() {
    let job = udf_job("", DOUBLE);
    let mut command = job.command(&["sources.sensors.rows=9_000_000_000_000", "sources.sensors.rate=10_000"]);
    command.args(["--duration", "1s"]);
    let ended = job.wait(command.spawn().unwrap());
    assert!(ended.figure("/rows/in") > 0);
    assert_eq!(ended.figure("/rows/in"), ended.figure("/rows/out/out"));
}

#[test]
fn what_is_late_does_not_depend_on_where_batches_end() {
    let pipeline = r#"
[sources.rows]
kind = "file"
path = "rows.ndjson"
event_time = "time"
out_of_orderness = "2s"
fields = { key = "utf8", time = "timestamp[ms]", temperature = "float64" }

[steps.twice]
kind = "udf"
inputs = ["rows"]
function = "functions:double"

[steps.sums]
kind = "window"
inputs = ["twice"]
key = ["key"]
window = { tumbling = "5s" }
allowed_lateness = "1s"
aggregates = { sum = "sum(double)", readings = "count()" }

[sinks.out]
kind = "file"
inputs = ["sums"]
path = "out.ndjson"

[sinks.late]
kind = "file"
inputs = ["sums.late"]
path = "late.ndjson"
"#;
    let job = Job::new(pipeline, DOUBLE);
    let mut text = String::new();
    let mut random = 88_172_645_463_325_252_u64;
    for row in 0..20_000_u64 {
        // Marsaglia's xorshift; one row in sixteen comes up to 20 s behind its time, far beyond what is allowed.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let behind = if random.is_multiple_of(16) { random / 16 % 20_000 } else { random % 1_500 };
        let time = 1_700_000_000_000 + 10 * row - behind;
        text += &format!("{{\"key\": \"k{}\", \"time\": {time}, \"temperature\": {row}}}\n", random % 7);
    }
    job.write("rows.ndjson", text);
    let outcome = |settings: &[&str]| {
        let ended = job.run(settings);
        assert_eq!(ended.figure("/rows/in"), 20_000);
        assert!(ended.figure("/rows/late") > 100, "some rows are late");
        (job.read("out.ndjson"), job.read("late.ndjson"))
    };
    let whole = outcome(&[]);
    for settings in [
        &["steps.twice.batch_rows=1"][..],
        &["steps.twice.batch_rows=7", "steps.twice.workers=3"],
        &["steps.twice.slots=2", "pipeline.wait=\"block\""],
        &["sources.rows.rate=100000", "pipeline.wait=\"spin\""],
    ] {
        let other = outcome(settings);
        assert_eq!(whole.1, other.1, "late rows with {settings:?}");
        let last = |text: &str| -> HashMap<String, String> {
            // A window that fired twice shows its last result last.
            let rows = text.lines().map(|line| (line.split("\"sum\"").next().unwrap().to_owned(), line.to_owned()));
            rows.collect()
        };
        assert_eq!(last(&whole.0), last(&other.0), "results with {settings:?}");
    }
}

#[test]
fn a_column_of_another_type_than_annotated_is_refused_with_both_types() {
    let narrow = "
import numpy.typing as npt

@rm.udf(outputs={'double': rm.float64})
def double(temperature: npt.NDArray[np.float32]):
    return temperature * 2
";
    let ended = udf_job("", narrow).run(&[]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    for words in ["temperature", "float32", "float64", "functions:double"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

#[test]
fn a_function_sees_all_values_of_a_window_as_a_list() {
    let pipeline = format!(
        "{GENERATOR}
[steps.windows]
kind = \"window\"
inputs = [\"sensors\"]
key = [\"device_id\"]
window = {{ sliding = \"10s\", every = \"5s\" }}
aggregates = {{ all = \"collect(temperature)\", mean = \"mean(temperature)\", readings = \"count()\" }}

[steps.spread]
kind = \"udf\"
inputs = [\"windows\"]
function = \"functions:spread\"
batch_bytes = \"256KiB\"

[sinks.out]
kind = \"file\"
inputs = [\"spread\"]
path = \"out.ndjson\"
"
    );
    let functions = "
@rm.udf(outputs={'length': rm.int64, 'middle': rm.float64})
def spread(all):
    return {'length': [len(values) for values in all], 'middle': np.array([values.mean() for values in all])}
";
    let job = Job::new(&pipeline, functions);
    let ended = job.run(&["sources.sensors.rows=50_000"]);
    let rows = job.rows("out.ndjson");
    assert_eq!(rows.len() as u64, ended.figure("/rows/out/out"));
    assert!(rows.len() > 10_000);
    for row in rows {
        assert_eq!(row["length"], row["readings"]);
        assert_eq!(row["all"].as_array().unwrap().len() as u64, row["readings"].as_u64().unwrap());
        let (mean, middle) = (row["mean"].as_f64().unwrap(), row["middle"].as_f64().unwrap());
        assert!((mean - middle).abs() < 1e-9 * mean.abs(), "{row}");
    }
}

#[test]
fn rows_too_large_for_a_micro_batch_become_dead_letters_and_the_others_pass() {
    let pipeline = r#"
[sources.lines]
kind = "file"
path = "lines.ndjson"
fields = { name = "utf8", value = "float64" }

[steps.twice]
kind = "udf"
inputs = ["lines"]
function = "functions:twice"
batch_bytes = "1KiB"
batch_rows = 16

[sinks.out]
kind = "file"
inputs = ["twice"]
path = "out.ndjson"

[sinks.dead]
kind = "file"
inputs = ["twice.dead_letters"]
path = "dead.ndjson"
"#;
    let functions = "
@rm.udf(outputs={'double': rm.float64})
def twice(value: np.ndarray):
    return value * 2
";
    let job = Job::new(pipeline, functions);
    let line = |row: usize| {
        let name = "x".repeat(if row.is_multiple_of(10) { 2000 } else { row % 900 });
        format!("{{\"name\": \"{name}\", \"value\": {row}}}\n")
    };
    job.write("lines.ndjson", (0..5000).map(line).collect::<String>());
    let ended = job.run(&[]);
    assert_eq!(ended.figure("/rows/in"), 5000);
    assert_eq!((ended.figure("/rows/out/out"), ended.figure("/rows/out/dead")), (4500, 500));
    let dead = job.rows("dead.ndjson");
    assert!(dead.iter().all(|letter| letter["reason"].as_str().unwrap().contains("batch_bytes")));
    let values: Vec<f64> = job.rows("out.ndjson").iter().map(|row| row["value"].as_f64().unwrap()).collect();
    assert!(values.is_sorted());
}

/// What a step was not there for is not missing from its figures.
#[test]
fn a_step_that_is_new_behind_a_checkpoint_reconciles() {
    let fields = "number = \"int64\"";
    let pipeline = |more: &str| format!("{CHECKPOINT}{}{}{more}", file_source(1_000_000, fields), sinks_of("rows"));
    let job = Job::new(&pipeline(""), "");
    let lines =
        |numbers: std::ops::Range<u64>| numbers.map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>();
    job.write("in.ndjson", lines(0..700));
    assert_eq!(job.run(&[]).figure("/rows/in"), 700);
    let filter = "[steps.even]\nkind = \"filter\"\ninputs = [\"rows\"]\nwhere = \"number % 2 == 0\"\n";
    let sink = "[sinks.evens]\nkind = \"file\"\ninputs = [\"even\"]\npath = \"evens.ndjson\"\n";
    job.write("pipeline.toml", pipeline(&format!("{filter}{sink}")));
    job.write("in.ndjson", lines(0..1_000));
    for _ in 0..2 {
        let ended = job.run(&[]);
        assert_eq!(ended.figure("/rows/in"), 1_000);
        assert_eq!(ended.report()["reconciled"], true, "{}", ended.stderr);
        assert_eq!(job.rows("evens.ndjson").len(), 150);
    }
}
