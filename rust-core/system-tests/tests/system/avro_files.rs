//! Container files of Avro as sources, as the official Python package and fastavro write them: through the death of the
//! core, with rows that do not fit, which are fed back, and files that are damaged.

use ringmill_system_tests::chaos::CoreKills;
use ringmill_system_tests::{CHECKPOINT, Job, sinks_of};
use serde_json::{Value, json};

const ROWS: u64 = 20_000;

/// Writes `in-0.avro` to `in-2.avro`, each with its share of the numbers and a schema of its own.
const WRITER: &str = r#"
import json, sys
import avro.schema, fastavro
from avro.datafile import DataFileWriter
from avro.io import DatumWriter

name = {"name": "name", "type": ["null", "string"]}
samples = {"name": "samples", "type": {"type": "array", "items": "float"}}

def schema(*fields):
    return {"type": "record", "name": "Row", "namespace": "plant", "fields": list(fields)}

def row(n, **more):
    return {"number": n, "name": None if n % 3 == 0 else f"n{n}", "samples": [n % 100, 0.5], **more}

def write(path, schema, codec, rows):
    with DataFileWriter(open(path, "wb"), DatumWriter(), avro.schema.parse(json.dumps(schema)), codec) as writer:
        for index, row in enumerate(rows):
            writer.append(row)
            if index % 500 == 499:
                writer.sync()

total = int(sys.argv[1])
first, second = total // 3, total // 3 * 2
meta = {"name": "meta", "type": {"type": "record", "name": "Meta", "fields": [{"name": "site", "type": "string"}]}}
write("in-0.avro", schema({"name": "number", "type": "long"}, name, samples, meta), "deflate",
      (row(n, meta={"site": "north"}) for n in range(first)))
place = {"name": "place", "type": {"type": "record", "name": "Place", "fields": [{"name": "site", "type": "string"}]}}
write("in-1.avro", schema(place, samples, name, {"name": "number", "type": "int"}), "null",
      (row(n, place={"site": "north"}) for n in range(first, second)))
with open("in-2.avro", "wb") as file:
    parsed = fastavro.parse_schema(schema({"name": "number", "type": "int"}, name, samples))
    fastavro.writer(file, parsed, (row(n) for n in range(second, total)), codec="deflate", sync_interval=5_000)
"#;

/// What the second file calls `place`, and the third lacks.
const READER: &str = r#"{"type": "record", "name": "Row", "namespace": "plant", "fields": [
    {"name": "meta", "aliases": ["place"], "default": {"site": "north"},
     "type": {"type": "record", "name": "Meta", "fields": [{"name": "site", "type": "string"}]}}]}"#;

const FIELDS: &str = r#"{ number = "int64", name = { type = "utf8", nullable = true }, samples = "list[float64]", site = { type = "utf8", path = "/meta/site" } }"#;

fn pipeline(keys: &str, fields: &str) -> String {
    format!(
        "[pipeline]\nshards = 2\nguarantee = \"exactly-once\"\n{CHECKPOINT}\n[sources.rows]\nkind = \"file\"\n\
         path = \"in-*.avro\"\n{keys}\nfields = {fields}\n{}",
        sinks_of("rows")
    )
}

/// A job with all rows in three files.
fn job(keys: &str) -> Job {
    let job = Job::new(&pipeline(&format!("avro = {{ schema_file = \"row.avsc\" }}\n{keys}"), FIELDS), "");
    job.write("row.avsc", READER);
    job.script(WRITER, &[&ROWS.to_string()]);
    job
}

fn row(number: u64) -> Value {
    let name = (!number.is_multiple_of(3)).then(|| format!("n{number}"));
    json!({ "number": number, "name": name, "samples": [(number % 100) as f64, 0.5], "site": "north" })
}

fn are_all_shown_once(job: &Job) -> bool {
    let mut rows = job.whole_rows("out.ndjson");
    rows.sort_by_key(|row| row["number"].as_u64());
    rows.into_iter().eq((0..ROWS).map(row))
}

#[test]
fn what_the_official_package_and_fastavro_write_is_read_each_file_by_its_own_schema() {
    let job = job("");
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (ROWS, 0), "{}", ended.stderr);
    assert!(are_all_shown_once(&job));
}

#[test]
fn every_row_comes_once_however_often_the_core_dies() {
    let mut kills = CoreKills::of("avro_files", "RINGMILL_FILES_KILLS", 10);
    while kills.are_wanted() {
        let order = ["parallel", "sequential"][kills.chance.below(2) as usize];
        let job = job(&format!("rate = 20000\norder = \"{order}\""));
        kills.behind_checkpoints(&job, |_| {});
        assert_eq!(job.run(&[]).code, Some(0), "{order}: nothing is left to be read");
        assert!(are_all_shown_once(&job), "{order}: none is left out or comes again");
    }
    println!("{} kills", kills.done);
}

/// A null where none may be, in files of different schemas.
const MISFITS: &str = r#"
import fastavro
word = {"name": "word", "type": ["null", "string"]}
number = {"name": "number", "type": "long"}
for path, fields in [("in-0.avro", [number, word]), ("in-1.avro", [word, number])]:
    schema = fastavro.parse_schema({"type": "record", "name": "Row", "fields": fields})
    with open(path, "wb") as file:
        fastavro.writer(file, schema, [{"number": 1, "word": path[3]}, {"number": 2, "word": None}])
"#;

#[test]
fn rows_that_do_not_fit_are_kept_and_fed_back_once_they_do() {
    let text = pipeline("order = \"sequential\"", r#"{ number = "int64", word = "utf8" }"#);
    let text = text.split("\n[sinks.dead]").next().expect("a sink of dead letters").to_owned();
    let job = Job::new(&text, "");
    job.script(MISFITS, &[]);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (4, 2), "{}", ended.stderr);
    let letters = job.letters(&[]);
    assert_eq!(letters.len(), 2);
    for letter in &letters {
        assert_eq!((&letter["offset"], &letter["reason"]), (&json!(1), &json!("field \"word\" is null")));
    }
    job.write("pipeline.toml", text.replace(r#"word = "utf8""#, r#"word = { type = "utf8", nullable = true }"#));
    job.dlq(&["replay", "pipeline.toml"]);
    let rows = job.whole_rows("out.ndjson");
    let mut words: Vec<String> = rows.iter().map(|row| format!("{} {}", row["number"], row["word"])).collect();
    words.sort();
    assert_eq!(words, ["1 \"0\"", "1 \"1\"", "2 null", "2 null"], "each letter by the schema of its file");
    assert_eq!(job.dlq(&["show", "pipeline.toml", "--json"]), "", "none is left");
}

#[test]
fn a_file_that_does_not_fit_or_is_damaged_is_named_with_what_is_wrong() {
    let check = |fields: &str, change: &dyn Fn(&mut Vec<u8>), expected: &[&str]| {
        let job = Job::new(&pipeline("", fields), "");
        job.script(MISFITS, &[]);
        let mut bytes = std::fs::read(job.path("in-1.avro")).expect("it was written");
        change(&mut bytes);
        job.write("in-1.avro", bytes);
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
    };
    let (fits, as_it_is) = (r#"{ number = "int64" }"#, |_: &mut Vec<u8>| {});
    check(r#"{ x = "int64" }"#, &as_it_is, &["in-0.avro does not fit the fields", "no field \"x\""]);
    check(fits, &|bytes| bytes.truncate(bytes.len() - 9), &["in-1.avro beyond row 0", "the file was cut"]);
    let flip = |bytes: &mut Vec<u8>| bytes.iter_mut().last().into_iter().for_each(|byte| *byte ^= 1);
    check(fits, &flip, &["in-1.avro beyond row 0", "the block at byte", "sync marker"]);
}
