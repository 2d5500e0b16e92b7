//! Rows that a Python sink rejects: dead letters, each once, whatever is killed and whenever.

use ringmill_system_tests::chaos::CoreKills;
use ringmill_system_tests::{CHECKPOINT, Job, file_source};
use serde_json::Value;

/// A table with an upsert by identity. Numbers that are divisible by seven are rejected until there is a file `mended`, and
/// those divisible by 700 also then.
const TABLE: &str = "
import os, sqlite3

class Table(rm.Sink):
    def setup(self):
        self.database = sqlite3.connect('out.db')
        self.database.execute('PRAGMA synchronous = OFF')
        self.database.execute(
            'CREATE TABLE IF NOT EXISTS rows (id TEXT, row INTEGER, number INTEGER, PRIMARY KEY (id, row))'
        )

    def write(self, batch):
        numbers = batch['number']
        is_bad = numbers % (700 if os.path.exists('mended') else 7) == 0
        rows = zip(batch.row_numbers[~is_bad].tolist(), numbers[~is_bad].tolist())
        with self.database:
            self.database.executemany(
                'INSERT OR IGNORE INTO rows VALUES (?, ?, ?)', [(batch.id, row, number) for row, number in rows]
            )
        if is_bad.any():
            raise rm.Reject(is_bad, 'a number of sevens')
";

const ROWS: u64 = 20_000;

fn job(keys: &str) -> Job {
    let source = file_source(20_000, "number = \"uint64\"");
    let pipeline = format!(
        r#"
{CHECKPOINT}
{source}
[sinks.table]
kind = "python"
class = "functions:Table"
inputs = ["rows"]
batch_rows = 100
idempotent = true
restarts_max = 10_000
{keys}
"#
    );
    let job = Job::new(&pipeline, TABLE);
    job.write("in.ndjson", (0..ROWS).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    job
}

fn table(job: &Job) -> Vec<u64> {
    let Ok(database) = rusqlite::Connection::open(job.path("out.db")) else { return Vec::new() };
    let Ok(mut query) = database.prepare("SELECT number FROM rows ORDER BY number") else { return Vec::new() };
    query.query_map([], |row| row.get(0)).expect("a table").map(|row| row.expect("a row")).collect()
}

/// The numbers of the stored letters, in their order.
fn rejected(job: &Job) -> Vec<u64> {
    let numbers = job.letters(&["--step", "table"]).into_iter().map(|letter| {
        assert_eq!(letter["reason"], "a number of sevens");
        let row: Value = serde_json::from_str(letter["record"].as_str().expect("a row")).expect("JSON");
        row["number"].as_u64().expect("a number")
    });
    numbers.collect()
}

fn divisible(by: u64) -> impl Iterator<Item = u64> {
    (0..ROWS).filter(move |number| number % by == 0)
}

#[test]
fn each_row_is_written_or_a_dead_letter_once_however_often_the_core_dies_and_letters_can_be_replayed() {
    let mut kills = CoreKills::of("python rejects", "RINGMILL_SINK_KILLS", 8);
    while kills.are_wanted() {
        let job = job("on_refused = \"dead_letter\"");
        kills.behind_checkpoints(&job, |_| ());
        assert!(table(&job).into_iter().eq((0..ROWS).filter(|number| number % 7 != 0)));
        assert!(rejected(&job).into_iter().eq(divisible(7)));
        job.write("mended", "");
        job.dlq(&["replay", "pipeline.toml"]);
        assert!(table(&job).into_iter().eq((0..ROWS).filter(|number| number % 700 != 0)));
        assert!(rejected(&job).into_iter().eq(divisible(700)), "what is rejected again is a letter again");
    }
    println!("{} kills of the core", kills.done);
}

#[test]
fn rejected_rows_end_a_run_that_is_not_to_keep_them_and_the_next_one_begins_with_them() {
    let job = job("");
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let words = "a number of sevens (on_refused = \"dead_letter\" keeps those)";
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
    job.run(&["sinks.table.on_refused=\"dead_letter\""]).report();
    assert!(table(&job).into_iter().eq((0..ROWS).filter(|number| number % 7 != 0)));
    assert!(rejected(&job).into_iter().eq(divisible(7)));
}
