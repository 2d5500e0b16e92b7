//! Files that go on over checkpoints: the core is killed again and again, drained and started with other settings.

use std::process::Command;

use ringmill_system_tests::chaos::{CoreKills, newest_checkpoint};
use ringmill_system_tests::{CHECKPOINT, Job, file_source, python, until};

const ROWS: u64 = 4_000;
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
    job.write("in.ndjson", (0..ROWS).map(line).collect::<String>());
    job
}

fn line(number: u64) -> String {
    format!("{}\n", serde_json::json!({ "number": number, "name": name(number) }))
}

fn name(number: u64) -> Option<String> {
    (!number.is_multiple_of(3)).then(|| format!("n{number}"))
}

/// Prints a line for each sink: its files in the order of their names, each as the list of its rows.
const READER: &str = "
import csv, glob, json, sys
def rows(what, path):
    if what == 'json':
        return [json.loads(line) for line in open(path)]
    if what == 'csv':
        return [{'number': int(row['number']), 'name': row['name'] or None} for row in csv.DictReader(open(path))]
    import pyarrow as pa, pyarrow.parquet as pq
    table = pq.read_table(path) if what == 'parquet' else pa.ipc.open_file(pa.memory_map(path)).read_all()
    return table.to_pylist()
for what in sys.argv[1:]:
    files = [rows(what, path) for path in sorted(glob.glob(f'{what}/part-*'))]
    print(json.dumps([[[row['number'], row.get('name')] for row in file] for file in files]))
";

type Rows = Vec<(u64, Option<String>)>;

/// The files of each sink, and their rows.
fn read(job: &Job, sinks: &[&str]) -> Vec<Vec<Rows>> {
    let output = Command::new(python()).args(["-c", READER]).args(sinks).current_dir(job.folder()).output();
    let output = output.expect("Python");
    assert!(output.status.success(), "{sinks:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("rows")).collect()
}

/// Each sink shows the rows from the first on, as far as they are shown; how many rows each of its files has.
fn check_prefix(job: &Job, sinks: &[&str]) -> Vec<Vec<usize>> {
    let all = read(job, sinks);
    assert_eq!(all.len(), sinks.len());
    for (what, files) in sinks.iter().zip(&all) {
        let expect = (0..).map(|number| (number, name(number)));
        assert!(
            files.iter().flatten().cloned().zip(expect).all(|(row, expect)| row == expect),
            "{what}: none is left out or comes again"
        );
    }
    all.iter().map(|files| files.iter().map(Vec::len).collect()).collect()
}

/// Each sink shows all rows, and hides nothing; how many rows each of its files has.
fn check_all(job: &Job) -> Vec<Vec<usize>> {
    let counts = check_prefix(job, &SINKS);
    for (what, counts) in SINKS.iter().zip(&counts) {
        assert_eq!(counts.iter().sum::<usize>() as u64, ROWS, "{what}");
        let left = std::fs::read_dir(job.path(what)).expect("a folder").flatten().map(|entry| entry.file_name());
        let left: Vec<_> = left.filter(|name| name.as_encoded_bytes().starts_with(b".")).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
    counts
}

#[test]
fn every_row_is_in_one_file_however_often_the_core_dies_while_files_go_on_over_checkpoints() {
    let mut kills = CoreKills::of("rolled", "RINGMILL_ROLLED_KILLS", 10);
    let rolls =
        ["file_size_max = \"20KiB\"\nroll_interval = \"1h\"", "roll_interval = \"100ms\"", "file_size_max = \"4KiB\""];
    let mut rounds = 0;
    while kills.are_wanted() || rounds < rolls.len() {
        let job = job(20_000, rolls[rounds % rolls.len()]);
        rounds += 1;
        kills.behind_checkpoints(&job, |chance| {
            check_prefix(&job, &[SINKS[chance.below(SINKS.len() as u64) as usize]]);
        });
        check_all(&job);
    }
    println!("{} kills", kills.done);
}

#[test]
fn a_file_goes_on_in_the_next_run_and_is_shown_when_rolling_is_turned_off_or_the_input_ends() {
    // So slowly that no machine reads all of it before it is stopped.
    let job = job(50, "roll_interval = \"1h\"");
    for _ in 0..2 {
        let before = newest_checkpoint(&job.path("state"));
        let mut child = job.start(&[]);
        until(&mut child, || newest_checkpoint(&job.path("state")) > before + 3);
        let ended = job.end(child);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(check_prefix(&job, &SINKS).iter().all(Vec::is_empty), "everything waits");
    }
    // One of them is shown with the first checkpoint of a run without rolling, the others at the end of the input.
    let plain = pipeline(1_000_000, "roll_interval = \"1h\"").replacen("roll_interval = \"1h\"\n", "", 1);
    job.write("pipeline.toml", plain);
    job.run(&[]).report();
    for (what, files) in SINKS.iter().zip(check_all(&job)).skip(1) {
        assert_eq!(files, [ROWS as usize], "{what}: one file");
    }
    // What comes later is in a file of its own.
    let more = format!("{}{}", job.read("in.ndjson"), line(ROWS));
    job.write("in.ndjson", more);
    job.run(&[]).report();
    assert_eq!(check_prefix(&job, &["json"]), [[ROWS as usize, 1]]);
}
