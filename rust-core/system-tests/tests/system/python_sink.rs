//! Sinks that are Python classes: each row is written, in order and with an identity that stays, whichever process is
//! killed and whenever.
//!
//!   RINGMILL_SINK_KILLS  processes killed in each of the killing tests (default 24)
//!   RINGMILL_KILL_SEED   the moments at which they are killed (default: anything)

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, kill_now, newest_checkpoint, rounds, side_by_side};
use ringmill_system_tests::{CHECKPOINT, Ended, Job, children_of, file_source, read_until, ringmill, terminate, until};
use serde_json::{Value, json};

/// A table with an upsert by identity. `seen` has whatever was ever given to the class, before it is in the table.
const TABLE: &str = "
import sqlite3

class Table(rm.Sink):
    def setup(self):
        self.seen = open('seen', 'ab', buffering=0)
        self.database = sqlite3.connect('out.db')
        self.database.execute('PRAGMA synchronous = OFF')
        self.database.execute(
            'CREATE TABLE IF NOT EXISTS rows (id TEXT, row INTEGER, device TEXT, time INTEGER, value REAL, PRIMARY KEY (id, row))'
        )

    def write(self, batch):
        values = zip(batch['device_id'], batch['timestamp'].astype('int64').tolist(), batch['temperature'].tolist())
        rows = [(batch.id, number, *value) for number, value in zip(batch.row_numbers.tolist(), values)]
        # A process that was killed here may have left a part of a line.
        self.seen.write(b''.join(f'\\n{id}#{row} {device} {time} {value}'.encode() for id, row, device, time, value in rows))
        with self.database:
            self.database.executemany('INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?)', rows)
";

fn pipeline(keys: &str) -> String {
    format!(
        r#"
[pipeline]
shards = 2

[sources.sensors]
kind = "generator"
keys = 500
rate = 40_000

[sinks.table]
kind = "python"
class = "functions:Table"
inputs = ["sensors"]
batch_rows = 256
{keys}
"#
    )
}

/// Most of their time the runs wait for an interpreter to start.
const AT_ONCE: usize = 4;

const OFTEN: &str = "restarts_max = 10_000\nrestart_backoff = \"0s\"\n";

/// The rows of the table, sorted; whatever their order, there are two shards.
fn table(job: &Job) -> Vec<(String, i64, String)> {
    let Ok(database) = rusqlite::Connection::open(job.path("out.db")) else { return Vec::new() };
    let Ok(mut query) = database.prepare("SELECT device, time, value FROM rows ORDER BY device, time") else {
        return Vec::new();
    };
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get::<_, f64>(2)?.to_string()));
    query.query_map([], row).unwrap().map(|row| row.unwrap()).collect()
}

/// What was given to the class: the identities of each row. A process may have died within a line.
fn identities(job: &Job) -> BTreeMap<String, BTreeSet<String>> {
    let seen = std::fs::read_to_string(job.path("seen")).unwrap_or_default();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in seen.lines() {
        let Some((identity, row)) = line.split_once(' ') else { continue };
        if row.split(' ').count() == 3 {
            found.entry(row.to_owned()).or_default().insert(identity.to_owned());
        }
    }
    found
}

fn given(job: &Job) -> u64 {
    std::fs::metadata(job.path("seen")).map_or(0, |file| file.len())
}

/// Runs what was disturbed to its end, some rows further, and compares it with a run that was not.
fn check_against_undisturbed(job: &Job, keys: &str) {
    // More than a checkpoint can hold that the table does not have yet.
    let rows = table(job).len() as u64 + 50_000;
    let settings = [format!("sources.sensors.rows={rows}"), "sources.sensors.rate=1e9".to_owned()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let ended = job.run(&settings);
    assert_eq!(ended.figure("/rows/in"), rows, "totals go on from the checkpoint");
    let undisturbed = Job::new(&pipeline(keys), TABLE);
    undisturbed.run(&settings).report();
    let (found, expected) = (table(job), table(&undisturbed));
    assert_eq!(expected.len() as u64, rows);
    assert!(found == expected, "{} rows instead of {}, or others", found.len(), expected.len());
    check_identities(job);
}

fn check_identities(job: &Job) {
    let several = identities(job).into_iter().find(|(_, identities)| identities.len() > 1);
    assert_eq!(several, None, "a row that came again had another identity");
}

/// Ends a run that failed, and returns what it said.
fn failed(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.stdout, ended.stderr);
    &ended.stderr
}

#[test]
fn processes_killed_at_random_are_given_again_what_they_have_not_taken() {
    let wanted = rounds("RINGMILL_SINK_KILLS", 24);
    let mut chance = Chance::from_environment("kills of sinks");
    for checkpoint in [CHECKPOINT, ""] {
        let job = Job::new(&[&pipeline(OFTEN), checkpoint].concat(), TABLE);
        let mut child = job.command(&[]).stderr(File::create(job.path("log")).unwrap()).spawn().unwrap();
        let (core, mut victim) = (child.id(), 0);
        for _ in Progress::over("kills of a sink's process", wanted / 2) {
            until(&mut child, || children_of(core).iter().any(|pid| *pid != victim));
            let before = given(&job);
            until(&mut child, || given(&job) > before);
            std::thread::sleep(chance.between(Duration::ZERO, Duration::from_millis(20)));
            victim = children_of(core)[0];
            kill_now(victim);
        }
        let ended = job.end(child);
        assert_eq!(ended.code, Some(0), "{}", job.read("log"));
        let deaths = job.read("log").matches("a sink's process was killed by SIGKILL").count() as u64;
        assert!(deaths + 1 >= wanted / 2, "{deaths} deaths: the last may have come with the end");
        assert_eq!(ended.figure("/rows/in"), table(&job).len() as u64, "all is there, and nothing twice");
        if checkpoint.is_empty() {
            check_identities(&job);
        } else {
            check_against_undisturbed(&job, OFTEN);
        }
    }
}

#[test]
fn a_core_killed_at_random_with_and_without_its_sink_gives_rows_again_with_the_same_identities() {
    let wanted = rounds("RINGMILL_SINK_KILLS", 24);
    let mut chance = Chance::from_environment("kills of the core over a sink");
    let job = Job::new(&[&pipeline(OFTEN), CHECKPOINT].concat(), TABLE);
    let (mut both, mut grown) = (0, 0);
    for _ in Progress::over("kills of the core", wanted) {
        let mut child = job.start(&[]);
        let (core, state, before) = (child.id(), job.path("state"), given(&job));
        let (known, mut takes_sink) = (newest_checkpoint(&state), chance.below(2) == 0);
        let time = chance.between(Duration::ZERO, Duration::from_millis(60));
        let is_time = || {
            let is_time = newest_checkpoint(&state) > known;
            if is_time && takes_sink {
                takes_sink = false;
                let sinks = children_of(core);
                both += u64::from(!sinks.is_empty());
                sinks.into_iter().for_each(kill_now);
            }
            is_time
        };
        assert!(kill_after(&mut child, is_time, time), "the run ended before it was killed");
        grown += u64::from(given(&job) > before);
    }
    check_against_undisturbed(&job, OFTEN);
    let repeated = identities(&job).len() < job.read("seen").lines().skip(1).count();
    println!(
        "{wanted} kills of the core, {both} with a sink's process; rows had come in {grown} runs; again: {repeated}"
    );
    assert!(both > 0 && grown * 2 > wanted);
}

#[test]
fn a_core_killed_at_every_place_of_the_delivery_goes_on_as_if_nothing_had_been() {
    let settings = ["sources.sensors.rows=3000", "sources.sensors.rate=30000"];
    let run = |job: &Job, failpoint: Option<&str>| {
        let mut command = job.command(&settings);
        failpoint.into_iter().for_each(|place| {
            command.env("RINGMILL_FAILPOINT", place);
        });
        job.wait(command.spawn().unwrap()).code
    };
    let new = || Job::new(&[&pipeline(OFTEN), CHECKPOINT].concat(), TABLE);
    let undisturbed = new();
    let record = undisturbed.path("places");
    assert_eq!(run(&undisturbed, Some(&format!("record:{}", record.display()))), Some(0));
    let whole = table(&undisturbed);
    assert_eq!(whole.len(), 3000);
    let places = undisturbed.read("places");
    // There is a line for each hit.
    let names = places.lines().filter_map(|line| line.split(' ').next());
    let places: BTreeSet<&str> = names.filter(|name| name.starts_with("sink.python")).collect();
    let kills = Mutex::new(BTreeMap::new());
    side_by_side(AT_ONCE, places.into_iter(), |place| {
        let job = new();
        let killed = run(&job, Some(&format!("kill:{place}:1")));
        kills.lock().unwrap().insert(place.to_owned(), u64::from(killed.is_none()));
        assert_eq!(run(&job, None), Some(0), "{place}");
        assert!(table(&job) == whole, "{place}: the table differs from that of an undisturbed run");
        assert!(identities(&job).values().all(|identities| identities.len() == 1), "{place}");
    });
    let kills = kills.into_inner().unwrap();
    println!("{kills:?}");
    for place in ["sink.python.deliver", "sink.python.delivered", "sink.python.mark", "sink.python.marked"] {
        assert!(kills.get(place).is_some_and(|kills| *kills > 0), "{place}: {kills:?}");
    }
}

const ALL_TYPES: &str = "
import json

class All(rm.Sink):
    def setup(self):
        self.out = open('out.ndjson', 'w')

    def write(self, batch):
        columns = {}
        for name in batch.columns:
            column = batch[name]
            if isinstance(column, np.ndarray):
                assert not column.flags.writeable
                values = column.astype('int64') if column.dtype.kind == 'M' else column
                columns[name] = [str(column.dtype), values.tolist()]
            elif isinstance(column, rm.ListColumn):
                columns[name] = [column.data_type, [None if item is None else item.tolist() for item in column]]
            else:
                columns[name] = [column.data_type, [item.decode() if isinstance(item, bytes) else item for item in column]]
        assert batch.to_arrow().num_rows == len(batch)
        for row in range(len(batch)):
            self.out.write(json.dumps({name: [kind, values[row]] for name, (kind, values) in columns.items()}) + '\\n')

    def close(self):
        self.out.write('\"closed\"\\n')
        self.out.close()
";

#[test]
fn columns_of_every_type_arrive_as_what_they_are_with_nulls_and_close_is_called() {
    let types = [
        ("i8", "int8", json!(-8), "int8"),
        ("i16", "int16", json!(-16), "int16"),
        ("i32", "int32", json!(-32), "int32"),
        ("i64", "int64", json!(-64), "int64"),
        ("u8", "uint8", json!(8), "uint8"),
        ("u16", "uint16", json!(16), "uint16"),
        ("u32", "uint32", json!(32), "uint32"),
        ("u64", "uint64", json!(u64::MAX), "uint64"),
        ("f32", "float32", json!(0.5), "float32"),
        ("f64", "float64", json!(0.25), "float64"),
        ("flag", "bool", json!(true), "bool"),
        ("at", "timestamp[ms]", json!(1_700_000_000_123_i64), "datetime64[ms]"),
        ("text", "utf8", json!("gr\u{fc}\u{df}e"), "utf8"),
    ];
    let mut fields = Vec::new();
    let (mut full, mut empty, mut expected) = (json!({}), json!({}), [json!({}), json!({})]);
    for (name, data_type, value, shown) in &types {
        fields.push(format!("{name} = \"{data_type}\", {name}_or = {{ type = \"{data_type}\", nullable = true }}"));
        let or = format!("{name}_or");
        full[name] = value.clone();
        full[&or] = value.clone();
        empty[name] = value.clone();
        empty[&or] = Value::Null;
        for (row, value_or) in expected.iter_mut().zip([value, &Value::Null]) {
            row[name] = json!([shown, value]);
            row[&or] = json!([shown, value_or]);
        }
    }
    let pipeline = format!(
        "[pipeline]\nshards = 1\n{}\n[sinks.out]\nkind = \"python\"\nclass = \"functions:All\"\ninputs = [\"rows\"]\n",
        file_source(1_000_000, &fields.join(", "))
    );
    for checkpoint in ["", CHECKPOINT] {
        let job = Job::new(&[&pipeline, checkpoint].concat(), ALL_TYPES);
        let lines: Vec<String> = [&full, &empty, &full, &empty, &empty].map(|row| format!("{row}\n")).into();
        job.write("in.ndjson", lines.concat());
        job.run(&[]).report();
        let [full, empty] = &expected;
        assert_eq!(job.rows("out.ndjson"), [full, empty, full, empty, empty, &json!("closed")].map(Clone::clone));
    }
}

const TROUBLE: &str = "
import os, pathlib, time

class Trouble(rm.Sink):
    def setup(self):
        self.out = open('out', 'a', buffering=1)
        self.calls = 0

    def write(self, batch):
        self.calls += 1
        self.disturb(batch)
        self.out.writelines(f'{number}\\n' for number in batch['number'].tolist())

    def close(self):
        pathlib.Path('closed').touch()

class Leaves(Trouble):
    def disturb(self, batch):
        pass

    def close(self):
        raise OSError('cannot say goodbye')

class Raises(Trouble):
    def disturb(self, batch):
        if self.calls == 2 or (self.calls > 2 and pathlib.Path('always').exists()):
            raise ValueError(f'no room for {batch[\"number\"][0]}')

class Away(Trouble):
    def disturb(self, batch):
        if not pathlib.Path('back').exists():
            raise rm.Retry('the server is away')

class Unreachable(Trouble):
    def setup(self):
        if not pathlib.Path('back').exists():
            raise rm.Retry('nobody answers')
        super().setup()

    def disturb(self, batch):
        pass

class Missing(Trouble):
    def disturb(self, batch):
        batch['nubmer']

class Returns(Trouble):
    def write(self, batch):
        return len(batch)

class Stuck(Trouble):
    def disturb(self, batch):
        if not pathlib.Path('free').exists():
            print('stuck')
            time.sleep(1000)

class Exits(Trouble):
    def disturb(self, batch):
        os._exit(7)

class Writes(Trouble):
    def disturb(self, batch):
        batch['number'][0] = 7

class Keeps(Trouble):
    kept = []

    def disturb(self, batch):
        self.kept.append((batch, batch['number'], batch['number'].copy()))
        assert all((numbers == copy).all() and (batch['number'] == copy).all() for batch, numbers, copy in self.kept)
";

fn troubled(class: &str, keys: &str, checkpoint: &str) -> Job {
    let source = file_source(1_000_000, "number = \"int64\"");
    let sink = format!(
        "[sinks.out]\nkind = \"python\"\nclass = \"functions:{class}\"\ninputs = [\"rows\"]\nbatch_rows = 100\n"
    );
    let job = Job::new(&["[pipeline]\nshards = 1\n", &source, &sink, keys, checkpoint].concat(), TROUBLE);
    job.write("in.ndjson", (0..1000).map(|number| format!("{{\"number\": {number}}}\n")).collect::<String>());
    job
}

/// Fails unless the file has all numbers, each once and in order.
fn check_whole(job: &Job) {
    let numbers: Vec<u64> = job.read("out").lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..1000), "{numbers:?}");
}

#[test]
fn a_class_that_raises_is_tried_again_or_ends_the_run_with_its_traceback_and_loses_nothing() {
    for checkpoint in ["", CHECKPOINT] {
        let job = troubled("Raises", "retries = 1\n", checkpoint);
        let ended = job.run(&[]);
        ended.report();
        check_whole(&job);
        assert!(ended.stderr.contains("ValueError: no room for "), "{}", ended.stderr);
        assert!(ended.stderr.contains("it is tried again (retry 1 of 1)"), "{}", ended.stderr);
    }
    let job = troubled("Raises", "retries = 2\n", CHECKPOINT);
    job.write("always", "");
    let ended = job.run(&[]);
    let stderr = failed(&ended);
    assert!(stderr.contains("functions:Raises: ValueError: no room for 100"), "{stderr}");
    assert!(stderr.contains("functions.py\", line ") && stderr.contains("in disturb"), "{stderr}");
    std::fs::remove_file(job.path("always")).unwrap();
    job.run(&[]).report();
    // Batches are cut at other places in the second run, but each of its rows came behind those of the first.
    let numbers: BTreeSet<u64> = job.read("out").lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.into_iter().eq(0..1000));

    for (class, expected) in [
        ("Missing", "there are number"),
        ("Returns", "sink Returns: write(): expected None, got int "),
        ("Writes", "assignment destination is read-only"),
    ] {
        let ended = troubled(class, "", "").run(&[]);
        let stderr = failed(&ended);
        assert!(stderr.contains(expected), "{class}: {stderr}");
    }
}

#[test]
fn a_target_that_is_away_is_waited_for_and_one_signal_ends_the_waiting() {
    let job = troubled("Away", "", CHECKPOINT);
    let mut child = job.start(&[]);
    let said = read_until(&mut child, "paused: sink out: cannot write functions:Away: the server is away");
    assert!(!said.contains("Traceback"), "{said}");
    job.write("back", "");
    job.wait(child).report();
    check_whole(&job);

    let job = troubled("Away", "", CHECKPOINT);
    let mut child = job.start(&[]);
    read_until(&mut child, "paused: sink out");
    terminate(&child);
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    job.write("back", "");
    job.run(&[]).report();
    check_whole(&job);

    let job = troubled("Away", "", "");
    let mut child = job.start(&[]);
    read_until(&mut child, "paused: sink out");
    terminate(&child);
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("1000 rows were not written"), "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("did not exit within"),
        "the process is told that nothing follows: {}",
        ended.stderr
    );
    assert!(job.path("closed").exists());
}

#[test]
fn a_target_that_is_away_when_the_process_starts_is_waited_for_too() {
    for checkpoint in ["", CHECKPOINT] {
        // A process that died of it would end the run.
        let job = troubled("Unreachable", "restarts_max = 0\n", checkpoint);
        let mut child = job.start(&[]);
        let said = read_until(&mut child, "paused: sink out: cannot write functions:Unreachable: nobody answers");
        assert!(said.contains("setup(): Retry: nobody answers; it is called again when there are rows"), "{said}");
        job.write("back", "");
        job.wait(child).report();
        check_whole(&job);
        assert!(job.path("closed").exists());
    }
}

#[test]
fn a_close_that_raises_is_heard_of() {
    for checkpoint in ["", CHECKPOINT] {
        let job = troubled("Leaves", "", checkpoint);
        let ended = job.run(&[]);
        ended.report();
        check_whole(&job);
        let said = "sink Leaves: close(): OSError: cannot say goodbye; every write() had returned";
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        assert!(ended.stderr.contains("in close"), "its traceback: {}", ended.stderr);
    }
}

#[test]
fn a_write_that_never_returns_is_ended_by_its_timeout_and_its_rows_come_again() {
    let job = troubled("Stuck", "timeout = \"100ms\"\nrestarts_max = 1\n", CHECKPOINT);
    let ended = job.run(&[]);
    let stderr = failed(&ended);
    assert!(stderr.contains("a sink's process gave no answer within 100ms and was killed"), "{stderr}");
    assert!(stderr.contains("is not started again: died 2 times"), "{stderr}");
    job.write("free", "");
    job.run(&[]).report();
    check_whole(&job);

    let ended = troubled("Exits", "restarts_max = 2\n", "").run(&[]);
    let stderr = failed(&ended);
    assert!(stderr.contains("died 3 times; it exited with code 7"), "{stderr}");
}

#[test]
fn a_class_that_keeps_batches_keeps_what_was_in_them() {
    let job = troubled("Keeps", "", "");
    let ended = job.run(&[]);
    ended.report();
    check_whole(&job);
    assert!(ended.stderr.contains("keeps arrays of 2 of 4 slots and is given copies"), "{}", ended.stderr);
}

#[test]
fn what_is_wrong_with_a_class_is_told_before_anything_runs() {
    fn check(class: &str, options: &str, expected: &str) {
        let functions = "
class Fine(rm.Sink):
    def __init__(self, path=''):
        pass
    def write(self, batch):
        pass

class Silent(rm.Sink):
    pass

class NotReady(Fine):
    def setup(self):
        raise PermissionError('no entry')

def function():
    pass
";
        let job = troubled(class, &format!("options = {{ {options} }}\n"), "");
        job.write("functions.py", format!("import ringmill as rm\n{functions}"));
        let ended = job.run(&[]);
        let code = if class == "NotReady" { 1 } else { 2 };
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
        assert!(class != "NotReady" || ended.stderr.contains("functions.py\", line 14, in setup"), "{}", ended.stderr);
    }
    check("Fien", "", "module 'functions' has no 'Fien'; did you mean 'Fine'?");
    check("Silent", "", "sink Silent has no write(self, batch)");
    check("function", "", "functions:function is not a sink: derive a class from rm.Sink");
    check("Fine", "last = 3", "sink Fine does not take these options: got an unexpected keyword argument 'last'");
    check("NotReady", "", "PermissionError: no entry");

    let job = troubled("Fine", "", "");
    job.write("functions.py", "import nothing_of_that_name\n");
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("No module named 'nothing_of_that_name'"), "{}", ended.stderr);
}

#[test]
fn check_says_what_the_sink_promises_and_idempotent_meets_a_guarantee() {
    let said = |keys: &str, settings: &[&str]| {
        let job = Job::new(&[&pipeline(keys), CHECKPOINT].concat(), TABLE);
        let mut command = Command::new(ringmill());
        command.args(["check", "pipeline.toml"]).current_dir(job.folder());
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        let output = command.output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let text = said("", &[]);
    assert!(text.contains("at least once: the class is given rows when their checkpoint is complete"), "{text}");
    let text = said("", &["pipeline.guarantee=exactly-once"]);
    assert!(text.contains("`guarantee` demands exactly once, and this promises at least once"), "{text}");
    let text = said("idempotent = true\n", &["pipeline.guarantee=exactly-once"]);
    assert!(text.contains("exactly once, as the class makes the same of rows that come again"), "{text}");
    for part in ["table ring", "table batches"] {
        assert!(text.contains(part), "its memory is in the budget: {text}");
    }
}

#[test]
fn a_value_too_long_for_a_batch_ends_the_run_and_names_the_column() {
    let source = file_source(1_000_000, "text = \"utf8\"");
    let sink =
        "[sinks.out]\nkind = \"python\"\nclass = \"functions:All\"\ninputs = [\"rows\"]\nbatch_bytes = \"1KiB\"\n";
    let job = Job::new(&["[pipeline]\nshards = 1\n", &source, sink].concat(), ALL_TYPES);
    job.write("in.ndjson", format!("{{\"text\": \"{}\"}}\n{{\"text\": \"{}\"}}\n", "a".repeat(1024), "b".repeat(1025)));
    let ended = job.run(&[]);
    let stderr = failed(&ended);
    assert!(stderr.contains("column \"text\" has 1025 bytes") && stderr.contains("batch_bytes"), "{stderr}");
}
