//! Files that go on over checkpoints: the core is killed again and again, drained and started with other settings.

use std::process::Command;

use ringmill_system_tests::chaos::{CoreKills, newest_checkpoint};
use ringmill_system_tests::{CHECKPOINT, Job, file_source, python, until};
use serde_json::Value;

const ROWS: u64 = 20_000;
/// Names and formats of the sinks.
const SINKS: [&str; 4] = ["parquet", "arrow", "json", "csv"];

fn pipeline(rate: u64, rolling: &str) -> String {
    let sink = |format| {
        format!(
            "[sinks.{format}]\nkind = \"file\"\npath = \"{format}/\"\nformat = \"{format}\"\ninputs = [\"rows\"]\n{rolling}\n"
        )
    };
    let sinks = SINKS.map(sink).concat();
    let source = file_source(rate, r#"number = "uint64", name = { type = "utf8", nullable = true }"#);
    format!("[pipeline]\nshards = 2\n\n{CHECKPOINT}\n{source}\n{sinks}")
}

fn job(rate: u64, rolling: &str) -> Job {
    let job = Job::new(&pipeline(rate, rolling), "");
    let line = |number: u64| format!("{}\n", serde_json::json!({ "number": number, "name": name(number) }));
    job.write("in.ndjson", (0..ROWS).map(line).collect::<String>());
    job
}

fn name(number: u64) -> Option<String> {
    (!number.is_multiple_of(3)).then(|| format!("n{number}"))
}

/// Prints how many rows each file has, and all rows, in the order of the files' names.
const READER: &str = "
import csv, glob, json, sys
import pyarrow as pa, pyarrow.parquet as pq
what = sys.argv[1]
def rows(path):
    if what == 'json':
        return [json.loads(line) for line in open(path)]
    if what == 'csv':
        return [{'number': int(row['number']), 'name': row['name'] or None} for row in csv.DictReader(open(path))]
    table = pq.read_table(path) if what == 'parquet' else pa.ipc.open_file(pa.memory_map(path)).read_all()
    return table.to_pylist()
files = [rows(path) for path in sorted(glob.glob(f'{what}/part-*'))]
print(json.dumps([len(file) for file in files]))
print(json.dumps([[row['number'], row.get('name')] for file in files for row in file]))
";

/// How many rows each file has, and all rows.
fn read(job: &Job, what: &str) -> (Vec<u64>, Vec<(u64, Option<String>)>) {
    let output = Command::new(python()).args(["-c", READER, what]).current_dir(job.folder()).output().expect("Python");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut next = || lines.next().expect("two lines");
    let (counts, rows) = (next(), next());
    (serde_json::from_value(counts).expect("numbers"), serde_json::from_value(rows).expect("rows"))
}

/// The rows from the first on, as far as they are shown; how many rows each file has.
fn check_prefix(job: &Job, what: &str) -> Vec<u64> {
    let (counts, rows) = read(job, what);
    let expect = (0..rows.len() as u64).map(|number| (number, name(number)));
    assert!(rows.iter().cloned().eq(expect), "{what}: none is left out or comes again");
    counts
}

fn check_all(job: &Job, what: &str) -> Vec<u64> {
    let counts = check_prefix(job, what);
    assert_eq!(counts.iter().sum::<u64>(), ROWS, "{what}");
    let left = std::fs::read_dir(job.path(what)).expect("a folder").flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.as_encoded_bytes().starts_with(b".")).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    counts
}

#[test]
fn every_row_is_in_one_file_however_often_the_core_dies_while_files_go_on_over_checkpoints() {
    let mut kills = CoreKills::of("rolled", "RINGMILL_ROLLED_KILLS", 24);
    let rolls =
        ["file_size_max = \"20KiB\"\nroll_interval = \"1h\"", "roll_interval = \"100ms\"", "file_size_max = \"4KiB\""];
    let mut rounds = 0;
    while kills.are_wanted() {
        let job = job(20_000, rolls[rounds % rolls.len()]);
        rounds += 1;
        kills.behind_checkpoints(&job, |chance| {
            check_prefix(&job, SINKS[chance.below(SINKS.len() as u64) as usize]);
        });
        for what in SINKS {
            check_all(&job, what);
        }
    }
    println!("{} kills", kills.done);
}

#[test]
fn a_file_goes_on_in_the_next_run_and_is_shown_when_rolling_is_turned_off_or_the_input_ends() {
    let job = job(2_000, "roll_interval = \"1h\"");
    for _ in 0..2 {
        let before = newest_checkpoint(&job.path("state"));
        let mut child = job.start(&[]);
        until(&mut child, || newest_checkpoint(&job.path("state")) > before + 3);
        let ended = job.end(child);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(SINKS.iter().all(|what| check_prefix(&job, what).is_empty()), "everything waits");
    }
    // One of them is shown with the first checkpoint of a run without rolling, the others at the end of the input.
    let plain = pipeline(1_000_000, "roll_interval = \"1h\"").replacen("roll_interval = \"1h\"\n", "", 1);
    job.write("pipeline.toml", plain);
    job.run(&[]).report();
    check_all(&job, "parquet");
    for what in &SINKS[1..] {
        assert_eq!(check_all(&job, what), [ROWS], "{what}: one file");
    }
    // What comes later is in a file of its own.
    let more = format!("{}{}", job.read("in.ndjson"), "{\"number\": 20000, \"name\": \"n20000\"}\n");
    job.write("in.ndjson", more);
    job.run(&[]).report();
    assert_eq!(check_prefix(&job, "json"), [ROWS, 1]);
}
