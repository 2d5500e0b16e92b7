//! `ringmill bench` on real pipelines with real workers: what it promises about its figures, not how good they are.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use ringmill_system_tests::{Job, children_of, is_alive, read_until, ringmill};
use serde_json::Value;

const PIPELINE: &str = r#"
[pipeline]
shards = 1
[sources.sensors]
kind = "generator"
keys = 100
rows = 10
columns = ["timestamp", "temperature"]
[steps.scores]
kind = "udf"
inputs = ["sensors"]
function = "functions:score"
batch_rows = 1024
[sinks.out]
kind = "file"
inputs = ["scores"]
path = "out.ndjson"
"#;

const PLAIN: &str = r#"
@rm.udf(outputs={"score": rm.float64})
def score(temperature):
    return temperature
"#;

/// Once, for 0.4 s, in the measured time.
const STALLING: &str = r#"
import time

began = None
stalled = False

@rm.udf(outputs={"score": rm.float64})
def score(temperature):
    global began, stalled
    now = time.monotonic()
    began = began or now
    if not stalled and now > began + 1:
        stalled = True
        time.sleep(0.4)
    return temperature
"#;

/// Runs `ringmill bench pipeline.toml --output results` with what follows.
fn bench(job: &Job, arguments: &[&str]) -> Output {
    command(job, arguments).output().expect("the ringmill command is built (scripts/setup)")
}

fn command(job: &Job, arguments: &[&str]) -> Command {
    let mut command = Command::new(ringmill());
    command.args(["bench", "pipeline.toml", "--output", "results"]).args(arguments).current_dir(job.folder());
    command.env("XDG_RUNTIME_DIR", job.folder());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn result(job: &Job, output: &Output) -> Value {
    let path = job.path("results/result.json");
    let text = std::fs::read(&path);
    let text = text.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_slice(&text).expect("the result is JSON")
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {value:#}"))
}

#[test]
fn a_stall_in_the_function_makes_rows_late_not_rare() {
    let job = Job::new(PIPELINE, STALLING);
    // The backlog of the stall and a busy machine are no reason to doubt the schedule here.
    let output = bench(
        &job,
        &[
            "--rate",
            "5000",
            "--warmup",
            "500ms",
            "--duration",
            "3s",
            "--runs",
            "1",
            "--generator",
            "thread",
            "--tolerance",
            "50%",
        ],
    );
    let result = result(&job, &output);
    let run = "/measurements/0/runs/0";
    assert_eq!(number(&result, &format!("{run}/lost")), 0.0);
    assert_eq!(number(&result, &format!("{run}/rows_in")), 17_500.0, "every row that was due was sent");
    // 0.4 s at 5,000 rows/s: of 15,000 rows 2,000 were due during the stall, the first 1,024 of them in one batch. A bench
    // that stops sending while it waits would have seen one slow batch.
    let latency = "/measurements/0/latency_ns/end_to_end";
    assert!(number(&result, &format!("{latency}/p90")) > 0.1e9, "{:#}", result.pointer(latency).unwrap());
    assert!(number(&result, &format!("{latency}/max")) > 0.39e9);
    // The function itself was slow for a single batch, which its own percentiles hide.
    assert!(number(&result, "/measurements/0/latency_ns/udf/count") > 10_000.0);
    // The generator was not held up with the pipeline: all rows were released.
    assert_eq!(number(&result, &format!("{run}/generator/released")), 17_500.0);
}

#[test]
fn a_rate_beyond_the_pipeline_is_invalid_everywhere() {
    let slow = "import time\n\n@rm.udf(outputs={\"score\": rm.float64})\ndef score(temperature):\n    time.sleep(0.01)\n    return temperature\n";
    let job = Job::new(&PIPELINE.replace("batch_rows = 1024", "batch_rows = 16\nslots = 2"), slow);
    let output = bench(&job, &["--rate", "20k", "--warmup", "100ms", "--duration", "1s", "--runs", "1"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let result = result(&job, &output);
    assert_eq!(result["status"], "invalid");
    assert_eq!(result["measurements"][0]["status"], "invalid");
    assert_eq!(result["measurements"][0]["runs"][0]["status"], "invalid");
    assert!(result["invalid_because"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{result:#}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("INVALID"));
    assert!(job.read("results/report.html").contains("INVALID"));
    let log = job.read("results/undisturbed-20000/run-1.hlog");
    assert!(log.contains("INVALID"), "{log}");
    assert!(!job.path("out.ndjson").exists(), "a sink of the user's is not written unless asked for");
}

#[test]
fn a_file_is_replayed_in_a_loop_and_kept_sinks_get_every_row() {
    let pipeline = PIPELINE
        .replace("kind = \"generator\"\nkeys = 100\nrows = 10\ncolumns = [\"timestamp\", \"temperature\"]", "kind = \"file\"\npath = \"in.csv\"\nevent_time = \"t\"\nfields = { t = \"timestamp[s]\", temperature = \"float64\" }");
    let job = Job::new(&pipeline, PLAIN);
    let rows: String = (0..1000).map(|row| format!("{row},{}.5\n", row % 40)).collect();
    job.write("in.csv", format!("t,temperature\n{rows}"));
    let output = bench(
        &job,
        &[
            "--rate",
            "5000",
            "--warmup",
            "200ms",
            "--duration",
            "800ms",
            "--runs",
            "1",
            "--keep-sinks",
            "--tolerance",
            "90%",
        ],
    );
    let result = result(&job, &output);
    assert_eq!(number(&result, "/measurements/0/runs/0/rows_in"), 5_000.0, "{result:#}");
    let rows = job.rows("out.ndjson");
    assert_eq!(rows.len(), 5_000);
    let seconds = |row: &Value| row["t"].as_str().expect("a time").to_owned();
    assert!(rows.windows(2).all(|pair| seconds(&pair[0]) < seconds(&pair[1])), "event times go on, lap after lap");
    assert!(!scratch_is_left(&job.path("results")), "what was needed for the runs alone is taken away");
}

#[test]
fn workers_that_are_killed_and_checkpoints_are_measured_and_marked() {
    let job = Job::new(PIPELINE, PLAIN);
    let output = bench(
        &job,
        &[
            "--rate",
            "2000",
            "--warmup",
            "100ms",
            "--duration",
            "1200ms",
            "--every",
            "500ms",
            "--runs",
            "1",
            "--tolerance",
            "95%",
            "--event",
            "kill-worker",
            "--event",
            "checkpoint",
            "--event",
            "slow-udf",
            "--event",
            "burst",
        ],
    );
    let result = result(&job, &output);
    let measurements = result["measurements"].as_array().expect("a list");
    let events: Vec<&Value> = measurements.iter().map(|measurement| &measurement["event"]).collect();
    assert_eq!(
        events,
        [&Value::Null, &"kill-worker".into(), &"checkpoint".into(), &"slow-udf".into(), &"burst".into()]
    );
    for (index, kind) in [(1, "kill-worker"), (2, "checkpoint"), (3, "slow-udf"), (4, "burst")] {
        let marked = measurements[index]["runs"][0]["events"].as_array().expect("a list");
        let marks = marked.iter().filter(|event| event["kind"] == kind).count();
        assert!(marks >= 1, "{kind}: {marked:?}");
        assert_eq!(number(&measurements[index], "/runs/0/lost"), 0.0, "{kind}");
    }
    assert!(number(&measurements[1], "/runs/0/workers_restarts") >= 1.0);
    assert!(number(&measurements[4], "/rate") > 2_400.0, "bursts count in the mean rate");
    assert!(!job.path("state").exists() && !scratch_is_left(&job.path("results")));
}

#[test]
fn an_interrupted_bench_leaves_no_process_behind() {
    let job = Job::new(PIPELINE, PLAIN);
    let mut child = command(&job, &["--rate", "1000", "--duration", "60s"]).spawn().expect("ringmill starts");
    read_until(&mut child, "results go to");
    let workers = loop {
        let workers = children_of(child.id());
        if !workers.is_empty() {
            break workers;
        }
        assert!(child.try_wait().expect("it can be waited for").is_none(), "it ended before it was interrupted");
        std::thread::yield_now();
    };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT)
        .expect("kill");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(workers.iter().all(|worker| !is_alive(*worker)));
}

fn scratch_is_left(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).expect("the folder is there").flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("scratch-"))
}
