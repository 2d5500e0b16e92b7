//! Parquet and Arrow files as sources, as PyArrow and Polars write them: through the death of the core, with rows that do
//! not fit, which are fed back, and files that are new at a second run.

use ringmill_system_tests::chaos::CoreKills;
use ringmill_system_tests::{CHECKPOINT, Job, sinks_of};
use serde_json::{Value, json};

const ROWS: u64 = 20_000;

/// Writes `in-0.X`, `in-1.X`, …, each with its share of the numbers.
const WRITER: &str = r#"
import sys
import numpy as np, polars as pl, pyarrow as pa, pyarrow.feather as feather, pyarrow.parquet as pq
what, rows, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for file, numbers in enumerate(np.array_split(np.arange(rows), files)):
    numbers = numbers.astype(np.int32)
    names = pa.array([None if n % 3 == 0 else f"n{n}" for n in numbers]).dictionary_encode()
    samples = pa.array([[float(n), 0.5] for n in numbers], pa.list_(pa.float32()))
    meta = pa.StructArray.from_arrays([pa.array([f"s{n % 7}" for n in numbers])], ["site"])
    at = pa.array(numbers.astype(np.int64) * 1000, pa.timestamp("ms", "UTC"))
    table = pa.table({"unused": numbers, "number": numbers, "name": names, "samples": samples, "meta": meta, "at": at})
    path = f"in-{file}.{what.split('-')[0]}"
    if what == "parquet":
        pq.write_table(table, path, row_group_size=777, compression="zstd", data_page_size=1000)
    elif what == "parquet-polars":
        pl.from_arrow(table).write_parquet(path, row_group_size=900)
    elif what == "arrow-polars":
        pl.from_arrow(table).write_ipc(path, compression="zstd")
    elif what == "feather":
        feather.write_feather(table, path, chunksize=500)
    else:
        with pa.ipc.new_stream(path, table.schema) as stream:
            for batch in table.to_batches(max_chunksize=500):
                stream.write_batch(batch)
"#;

const FIELDS: &str = r#"{ number = "int64", name = { type = "utf8", nullable = true }, samples = "list[float64]",
    site = { type = "utf8", path = "/meta/site" }, at = "timestamp[us]" }"#;

fn pipeline(pattern: &str, keys: &str, fields: &str) -> String {
    let fields = fields.replace('\n', " ");
    format!(
        "[pipeline]\nshards = 2\nguarantee = \"exactly-once\"\n{CHECKPOINT}\n[sources.rows]\nkind = \"file\"\n\
         path = \"{pattern}\"\n{keys}\nfields = {fields}\n{}",
        sinks_of("rows")
    )
}

fn row(number: u64) -> Value {
    let name = (!number.is_multiple_of(3)).then(|| format!("n{number}"));
    let (day, second) = (1 + number / 86_400, number % 86_400);
    let at = format!("1970-01-{day:02}T{:02}:{:02}:{:02}.000000Z", second / 3600, second / 60 % 60, second % 60);
    json!({ "number": number, "name": name, "samples": [number as f64, 0.5], "site": format!("s{}", number % 7), "at": at })
}

/// The rows that are shown, in the order of their numbers.
fn shown(job: &Job) -> Vec<Value> {
    let mut rows = job.whole_rows("out.ndjson");
    rows.sort_by_key(|row| row["number"].as_u64());
    rows
}

#[test]
fn what_pyarrow_and_polars_write_is_read() {
    for what in ["parquet", "parquet-polars", "feather", "arrow", "arrow-polars"] {
        let extension = what.split('-').next().expect("a suffix");
        let job = Job::new(&pipeline(&format!("in-*.{extension}"), "", FIELDS), "");
        job.script(WRITER, &[what, "2000", "3"]);
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(0), "{what}: {}", ended.stderr);
        assert_eq!(ended.figure("/rows/dead_letters"), 0, "{what}");
        assert!(shown(&job).into_iter().eq((0..2000).map(row)), "{what}");
    }
}

/// PyArrow writes a row group without rows, and Polars too.
const EMPTY: &str = r#"
import sys
import polars as pl, pyarrow as pa, pyarrow.feather as feather, pyarrow.parquet as pq
table = pa.table({"number": pa.array([], pa.int32())})
pq.write_table(table, "in-0.parquet")
pl.from_arrow(table).write_parquet("in-1.parquet")
pq.write_table(pa.table({"number": [7]}), "in-2.parquet")
feather.write_feather(table, "in-0.arrow")
with pa.ipc.new_stream("in-1.arrow", table.schema):
    pass
feather.write_feather(pa.table({"number": [7]}), "in-2.arrow")
"#;

#[test]
fn files_without_rows_are_none_to_stop_at() {
    for extension in ["parquet", "arrow"] {
        let job =
            Job::new(&pipeline(&format!("in-*.{extension}"), "order = \"sequential\"", r#"{ number = "int64" }"#), "");
        job.script(EMPTY, &[]);
        let ended = job.run(&[]);
        assert_eq!((ended.code, ended.figure("/rows/in")), (Some(0), 1), "{}", ended.stderr);
    }
}

#[test]
fn every_row_comes_once_however_often_the_core_dies() {
    let mut kills = CoreKills::of("files", "RINGMILL_FILES_KILLS", 10);
    while kills.are_wanted() {
        let what = ["parquet", "arrow"][kills.chance.below(2) as usize];
        let order = ["parallel", "sequential"][kills.chance.below(2) as usize];
        let keys = format!("rate = 20000\norder = \"{order}\"");
        let job = Job::new(&pipeline(&format!("in-*.{what}"), &keys, FIELDS), "");
        job.script(WRITER, &[what, &ROWS.to_string(), "3"]);
        kills.behind_checkpoints(&job, |_| {});
        assert_eq!(job.run(&[]).code, Some(0), "{what}, {order}: nothing is left to be read");
        let rows = shown(&job);
        assert_eq!(rows.len() as u64, ROWS, "{what}, {order}: none is left out or comes again");
        assert!(rows.into_iter().eq((0..ROWS).map(row)), "{what}, {order}");
    }
    println!("{} kills", kills.done);
}

#[test]
fn a_run_goes_on_with_the_files_that_are_new() {
    let job = Job::new(&pipeline("in-*.parquet", "", FIELDS), "");
    job.script(WRITER, &["parquet", "100", "1"]);
    assert_eq!(job.run(&[]).figure("/rows/in"), 100);
    let more =
        WRITER.replace("np.arange(rows)", "np.arange(100, 300)").replace("enumerate(", "enumerate(start=1, iterable=");
    job.script(&more, &["parquet", "0", "2"]);
    let ended = job.run(&[]);
    assert_eq!((ended.code, ended.figure("/rows/in")), (Some(0), 300), "{}", ended.stderr);
    assert!(shown(&job).into_iter().eq((0..300).map(row)));
}

/// A number that is too large, a null where none may be, and a row that fits.
const MISFITS: &str = r#"
import pyarrow as pa, pyarrow.parquet as pq
pq.write_table(pa.table({
    "number": pa.array([1, 2**63, None, 4], pa.uint64()),
    "word": ["a", "b", "c", "d"],
    "share": [0.5, float("inf"), float("nan"), 0.25],
}), "in.parquet")
"#;

#[test]
fn rows_that_do_not_fit_are_kept_and_fed_back_once_they_do() {
    let text = pipeline("in.parquet", "", r#"{ number = "int64", word = "utf8", share = "float64" }"#);
    let text = text.split("\n[sinks.dead]").next().expect("a sink of dead letters").to_owned();
    let job = Job::new(&text, "");
    job.script(MISFITS, &[]);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (4, 2), "{}", ended.stderr);
    let letters = job.letters(&[]);
    let found: Vec<(u64, &str, &str)> = letters
        .iter()
        .map(|letter| {
            let text = |key: &str| letter[key].as_str().expect("text");
            (letter["offset"].as_u64().expect("a row"), text("reason"), text("record"))
        })
        .collect();
    let beyond = "field \"number\": expected int64, got 9223372036854775808 (out of range)";
    let first = (1, beyond, r#"{"number":9223372036854775808,"share":"inf","word":"b"}"#);
    assert_eq!(found, [first, (2, "field \"number\" is null", r#"{"number":null,"share":"NaN","word":"c"}"#)]);
    job.write("pipeline.toml", text.replace(r#"number = "int64""#, r#"number = { type = "int64", nullable = true }"#));
    job.dlq(&["replay", "pipeline.toml"]);
    let words: Vec<Value> = job.whole_rows("out.ndjson").iter().map(|row| row["word"].clone()).collect();
    assert_eq!(words, [json!("a"), json!("d"), json!("c")]);
}

#[test]
fn a_file_that_does_not_fit_or_is_damaged_is_named_with_what_is_wrong() {
    let check = |fields: &str, change: &dyn Fn(&mut Vec<u8>), expected: &[&str]| {
        let job = Job::new(&pipeline("in.parquet", "", fields), "");
        job.script(MISFITS, &[]);
        let mut bytes = std::fs::read(job.path("in.parquet")).expect("it was written");
        change(&mut bytes);
        job.write("in.parquet", bytes);
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
    };
    let (fits, as_it_is) = (r#"{ number = "uint64" }"#, |_: &mut Vec<u8>| {});
    check(
        r#"{ x = "int64" }"#,
        &as_it_is,
        &["in.parquet does not fit the fields", "no column \"x\"", "number, word, share"],
    );
    check(r#"{ word = "int64" }"#, &as_it_is, &["does not become int64"]);
    check(fits, &|bytes| bytes.truncate(bytes.len() - 9), &["in.parquet beyond row 0", "it lacks its end"]);
    check(fits, &|bytes| bytes[4..40].fill(0xff), &["in.parquet beyond row 0", "page"]);
}
