//! Streams that never hurry: rows pass while their source is silent, and windows close by the clock.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use ringmill_system_tests::Job;

#[test]
fn a_row_from_standard_input_comes_out_while_the_input_stays_open() {
    let pipeline = r#"
[sources.lines]
kind = "stdin"
fields = { name = "utf8", value = "float64" }

[steps.twice]
kind = "udf"
inputs = ["lines"]
function = "functions:twice"

[steps.positive]
kind = "filter"
inputs = ["twice"]
where = "double > 0"

[sinks.out]
kind = "stdout"
inputs = ["positive"]
"#;
    let functions = "
@rm.udf(outputs={'double': rm.float64})
def twice(value: np.ndarray):
    return value * 2
";
    for wait in ["spin", "adaptive", "block"] {
        let job = Job::new(pipeline, functions);
        let mut command = job.command(&[&format!("pipeline.wait=\"{wait}\"")]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for value in 1..=20 {
            writeln!(stdin, "{{\"name\": \"a\", \"value\": {}}}", -value).unwrap();
            writeln!(stdin, "{{\"name\": \"b\", \"value\": {value}}}").unwrap();
            let line = lines.next().unwrap().unwrap();
            assert_eq!(line, format!("{{\"name\":\"b\",\"value\":{value}.0,\"double\":{}.0}}", 2 * value));
        }
        drop(stdin);
        assert!(lines.next().is_none());
        let ended = job.wait(child);
        assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/out/out")), (40, 20));
    }
}

#[test]
fn windows_without_event_time_close_by_the_clock() {
    let pipeline = r#"
[sources.sensors]
kind = "generator"
keys = 10
rate = 2000

[steps.counts]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = { tumbling = "200ms" }
aggregates = { readings = "count()" }

[sinks.out]
kind = "file"
inputs = ["counts"]
path = "out.ndjson"
"#;
    let job = Job::new(pipeline, "");
    for shards in ["pipeline.shards=1", "pipeline.shards=2"] {
        let mut command = job.command(&[shards]);
        command.args(["--duration", "1s"]);
        let ended = job.wait(command.spawn().unwrap());
        let rows = job.rows("out.ndjson");
        let counted: u64 = rows.iter().map(|row| row["readings"].as_u64().unwrap()).sum();
        assert!(rows.len() >= 30, "several windows of ten devices: {}", rows.len());
        assert_eq!(counted + ended.figure("/rows/late"), ended.figure("/rows/in"), "{shards}");
        assert_eq!(ended.figure("/rows/late"), 0);
    }
}

#[test]
fn an_idle_pipeline_sleeps() {
    let pipeline = r#"
[sources.lines]
kind = "stdin"
fields = { value = "float64" }

[steps.same]
kind = "udf"
inputs = ["lines"]
function = "functions:same"

[sinks.out]
kind = "stdout"
inputs = ["same"]
"#;
    let functions = "
@rm.udf(outputs={'other': rm.float64})
def same(value: np.ndarray):
    return value
";
    let job = Job::new(pipeline, functions);
    let mut child = job.command(&[]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(stdin, "{{\"value\": 1}}").unwrap();
    lines.next().unwrap().unwrap();
    let before = switches(child.id());
    // What is measured is what happens in this time while nothing is to be done.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let woken = switches(child.id()) - before;
    drop(stdin);
    job.wait(child).report();
    // A shard looks up ten times a second, the supervisor too; a loop that forgot to sleep would do so by the million.
    assert!(woken < 400, "{woken} wake-ups in two seconds");
}

/// How often the process's threads gave up the processor of their own accord; a spinning thread never does, so the
/// processor time it burns is added in ticks.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let switches: u64 =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()).map(count).sum();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    switches + 10 * ticks
}
