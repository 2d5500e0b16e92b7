//! Arrow and Parquet files as PyArrow and Polars read them: while the core is killed again and again, and at the end.

use std::process::Command;

use ringmill_system_tests::chaos::CoreKills;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, python};
use serde_json::Value;

const ROWS: u64 = 20_000;

fn pipeline() -> String {
    let sink = |(name, path)| format!("[sinks.{name}]\nkind = \"file\"\npath = \"{path}\"\ninputs = [\"rows\"]\n");
    let sinks = [("parquet", "rows.parquet/"), ("arrow", "rows.arrow/"), ("stream", "stream.arrow")].map(sink).concat();
    let columns = r#"number = "uint64", at = "timestamp[s]", name = { type = "utf8", nullable = true }"#;
    let source = file_source(20_000, columns);
    format!(
        r#"
[pipeline]
shards = 2

{CHECKPOINT}
{source}
{sinks}"#
    )
}

/// Prints the types, and then the rows in the order of their numbers.
const READER: &str = "
import glob, json, sys
import polars as pl, pyarrow as pa, pyarrow.parquet as pq
what = sys.argv[1]
if what == 'stream':
    table = pa.ipc.open_stream('stream.arrow').read_all()
else:
    read = pq.read_table if what == 'parquet' else lambda path: pa.ipc.open_file(pa.memory_map(path)).read_all()
    parts = [read(path) for path in glob.glob(f'rows.{what}/*')]
    table = pa.concat_tables(parts) if parts else pa.table({'number': [], 'at': [], 'name': []})
    scan = pl.scan_parquet if what == 'parquet' else pl.scan_ipc
    assert not parts or scan(f'rows.{what}/*.{what}').collect().height == table.num_rows
print(json.dumps([str(field.type) for field in table.schema]))
for row in table.sort_by('number').to_pylist():
    print(json.dumps([row['number'], row['at'].timestamp(), row['name']]))
";

type Row = (u64, u64, Option<String>);

fn row(number: u64) -> Row {
    (number, 1_700_000_000 + number, (!number.is_multiple_of(3)).then(|| format!("n{number}")))
}

fn job() -> Job {
    let job = Job::new(&pipeline(), "");
    let line = |number| {
        let (number, at, name) = row(number);
        let row = serde_json::json!({ "number": number, "at": at, "name": name });
        format!("{row}\n")
    };
    job.write("in.ndjson", (0..ROWS).map(line).collect::<String>());
    job
}

/// The columns' types, and the rows.
fn read(job: &Job, what: &str) -> (Vec<String>, Vec<Row>) {
    let output = Command::new(python()).args(["-c", READER, what]).current_dir(job.folder()).output().expect("Python");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines();
    let types = serde_json::from_str(lines.next().expect("the types")).expect("names");
    let row = |line: &str| {
        let row: Vec<Value> = serde_json::from_str(line).expect("a row");
        let at = row[1].as_f64().expect("seconds");
        (row[0].as_u64().expect("a number"), at as u64, row[2].as_str().map(str::to_owned))
    };
    (types, lines.map(row).collect())
}

#[test]
fn every_row_is_in_one_file_however_often_the_core_dies_and_each_file_is_whole() {
    let mut kills = CoreKills::of("columns", "RINGMILL_COLUMNS_KILLS", 10);
    while kills.are_wanted() {
        let job = job();
        kills.behind_checkpoints(&job, |chance| {
            let what = ["parquet", "arrow"][chance.below(2) as usize];
            let (_, rows) = read(&job, what);
            let count = rows.len() as u64;
            assert!(rows.into_iter().eq((0..count).map(row)), "{what}: none is left out or comes again");
        });
        for (what, time) in [("parquet", "ms"), ("arrow", "s"), ("stream", "s")] {
            let (types, rows) = read(&job, what);
            assert_eq!(types, ["uint64".to_owned(), format!("timestamp[{time}, tz=UTC]"), "string".to_owned()]);
            assert!(rows.into_iter().eq((0..ROWS).map(row)), "{what}");
        }
    }
    println!("{} kills", kills.done);
}
