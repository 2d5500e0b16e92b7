//! Dead letters that no sink takes are kept exactly once, also when the core is killed, and can be run again.

use std::io::Write;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_system_tests::Job;
use serde_json::Value;

const ROWS: u64 = 20_000;

/// Fails for eight of the rows until it is mended.
const FUNCTIONS: &str = "
import pathlib

mended = pathlib.Path(__file__).with_name('mended')

@rm.udf(outputs={'double': rm.int64})
def double(x: np.ndarray):
    if (x % 2500 == 7).any() and not mended.exists():
        raise ValueError('a seven')
    return x * 2
";

fn job() -> Job {
    let pipeline = r#"
[pipeline]
shards = 1

[checkpoint]
path = "state"
interval = "20ms"

[sources.numbers]
kind = "file"
path = "numbers.ndjson"
fields = { x = "int64" }
rate = 20_000

[steps.doubles]
kind = "udf"
inputs = ["numbers"]
function = "functions:double"
on_error = "dead_letter"

[sinks.out]
kind = "file"
inputs = ["doubles"]
path = "out.ndjson"
"#;
    let job = Job::new(pipeline, FUNCTIONS);
    let mut lines: String = (0..ROWS).map(|x| format!("{{\"x\":{x}}}\n")).collect();
    lines.push_str("nonsense\n");
    job.write("numbers.ndjson", lines);
    job
}

fn column(rows: &[Value], name: &str) -> Vec<i64> {
    rows.iter().map(|row| row[name].as_i64().unwrap_or_else(|| panic!("{name} in {row}"))).collect()
}

#[test]
fn letters_are_kept_once_through_a_kill_and_can_be_replayed() {
    let job = job();
    let mut child = job.start(&[]);
    // The first letters are committed, and the run has most of its rows before it.
    let part = job.path("state/dead_letters/doubles");
    while std::fs::read_dir(&part).map_or(0, |parts| parts.flatten().filter(is_part).count()) == 0 {
        assert_eq!(child.try_wait().expect("wait"), None, "the run has ended");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("kill");
    child.wait().expect("wait");
    let ended = job.run(&[]);
    assert_eq!(ended.figure("/rows/dead_letters"), 9);
    assert!(ended.figure("/checkpoints/recovered/rows_in") < ROWS);

    let guilty: Vec<i64> = (0..ROWS as i64).filter(|x| x % 2500 == 7).collect();
    let stored = job.letters(&["--step", "doubles"]);
    let records: Vec<Value> = stored
        .iter()
        .map(|letter| serde_json::from_str(letter["record"].as_str().expect("a row")).expect("JSON"))
        .collect();
    assert_eq!(column(&records, "x"), guilty);
    assert!(stored.iter().all(|letter| letter["reason"] == "ValueError: a seven"));
    let text = job.read("numbers.ndjson");
    for (letter, x) in stored.iter().zip(&guilty) {
        let line = format!("{{\"x\":{x}}}");
        let offset = letter["offset"].as_u64().expect("an offset") as usize;
        assert!(text[offset..].starts_with(&format!("{line}\n")), "{letter}");
        assert_eq!((&letter["source"], &letter["original"]), (&Value::from("numbers"), &Value::from(line)));
        assert!(letter["partition"].as_str().expect("a file").ends_with("numbers.ndjson"), "{letter}");
    }
    let shown = job.dlq(&["show", "state", "--step", "doubles"]);
    assert!(shown.contains("    at   numbers: ") && shown.contains("    from {\"x\":2507}\n"), "{shown}");
    let broken = job.letters(&["--step", "numbers"]);
    assert_eq!((broken.len(), &broken[0]["record"]), (1, &Value::from("nonsense")));
    let expected: Vec<i64> = (0..ROWS as i64).filter(|x| x % 2500 != 7).collect();
    assert_eq!(column(&job.rows("out.ndjson"), "x"), expected);

    job.write("mended", "");
    job.dlq(&["replay", "pipeline.toml", "--step", "doubles", "--into", "again"]);
    let again = job.rows("again/out.ndjson");
    assert_eq!(column(&again, "x"), guilty);
    assert_eq!(column(&again, "double"), guilty.iter().map(|x| 2 * x).collect::<Vec<_>>());
    for name in ["doubles.dead_letters.ndjson", "doubles.unreadable.ndjson"] {
        assert_eq!(job.read(&format!("again/{name}")), "", "{name}");
    }
    // The pipeline's own output and store are as they were.
    assert_eq!(job.letters(&["--step", "doubles"]).len(), guilty.len());
    assert_eq!(job.rows("out.ndjson").len(), expected.len());
}

fn is_part(entry: &std::fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with("part-")
}

/// Counts the rows of each key, and dies of two rows.
const COUNTING: &str = "
import os, signal

@rm.udf(outputs={'n': rm.int64}, state={'seen': rm.int64})
def count(x: np.ndarray, seen: np.ndarray):
    if (x == 707).any() or (x == 1501).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return seen + 1, seen + 1
";

#[test]
fn a_row_that_kills_its_worker_is_traced_through_a_filter_and_an_exchange_with_its_key() {
    let pipeline = r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"
interval = "20ms"

[sources.lines]
kind = "stdin"
format = "csv"
fields = { x = "int64", name = "utf8" }

[steps.odd]
kind = "filter"
inputs = ["lines"]
where = "x % 2 == 1"

[steps.counts]
kind = "udf"
inputs = ["odd"]
function = "functions:count"
key = ["name"]
on_error = "dead_letter"

[sinks.out]
kind = "file"
inputs = ["counts"]
path = "out.ndjson"
"#;
    let job = Job::new(pipeline, COUNTING);
    let record = |x: u64| format!("\"key, {}\",{x}", x % 10);
    let mut child = job.command(&[]).stdin(std::process::Stdio::piped()).spawn().expect("it is built");
    let mut stdin = child.stdin.take().expect("a pipe");
    let lines: String = (0..2_000).map(|x| record(x) + "\r\n").collect();
    stdin.write_all(format!("name,x\r\n{lines}").as_bytes()).expect("the run reads");
    drop(stdin);
    let ended = job.wait(child);
    assert_eq!((ended.figure("/rows/dead_letters"), ended.figure("/rows/out/out")), (2, 998));
    let mut stored = job.letters(&["--step", "counts"]);
    stored.sort_by_key(|letter| letter["offset"].as_u64());
    for (letter, x) in stored.iter().zip([707, 1501]) {
        assert!(letter["reason"].as_str().expect("a reason").contains("was killed by SIGKILL"), "{letter}");
        assert_eq!(letter["key"], format!("{{\"name\":\"key, {}\"}}", x % 10));
        assert_eq!((&letter["source"], &letter["partition"]), (&Value::from("lines"), &Value::from("stdin")));
        assert_eq!(letter["original"], record(x));
        let before: usize = (0..x).map(|x| record(x).len() + 2).sum();
        assert_eq!(letter["offset"], "name,x\r\n".len() + before);
    }
}
