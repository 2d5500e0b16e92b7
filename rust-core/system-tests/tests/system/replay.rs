//! Dead letters go back through the pipeline to its sinks, each exactly once, whatever is killed meanwhile.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_system_tests::chaos::{Chance, kill_after, rounds};
use ringmill_system_tests::{Job, ringmill};
use serde_json::Value;

fn dlq(job: &Job, arguments: &[&str]) -> Command {
    let mut command = Command::new(ringmill());
    command.arg("dlq").args(arguments).current_dir(job.folder()).env("XDG_RUNTIME_DIR", job.folder());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn done(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

/// Replays to the end; what it says.
fn replay(job: &Job, arguments: &[&str]) -> String {
    done(dlq(job, &[&["replay", "pipeline.toml"], arguments].concat()).output().expect("the command is built"))
}

/// The stored letters of a source or step.
fn letters(job: &Job, name: &str) -> Vec<Value> {
    let output = dlq(job, &["show", "pipeline.toml", "--json"]).output().expect("the command is built");
    let letters = done(output);
    let letters = letters.lines().map(|line| serde_json::from_str::<Value>(line).expect("a letter"));
    letters.filter(|letter| letter["origin"] == name).collect()
}

/// A column of the stored letters' rows.
fn column(letters: &[Value], name: &str) -> Vec<i64> {
    let row = |letter: &Value| serde_json::from_str::<Value>(letter["record"].as_str().expect("a row")).expect("JSON");
    letters.iter().map(|letter| row(letter)[name].as_i64().expect("a number")).collect()
}

fn numbers(job: &Job, file: &str, name: &str) -> Vec<i64> {
    let mut numbers: Vec<i64> = job.rows(file).iter().map(|row| row[name].as_i64().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

/// Rows of parts, each as its JSON text.
fn parts(job: &Job, folder: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    for part in std::fs::read_dir(job.path(folder)).into_iter().flatten().flatten() {
        if !part.file_name().as_encoded_bytes().starts_with(b".") {
            let text = std::fs::read_to_string(part.path()).expect("a part can be read");
            rows.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a row")));
        }
    }
    rows
}

/// Fails for every seventh row until it is mended, and for some of them also then; slowly, once it is mended.
const FUNCTIONS: &str = "
import pathlib, time

mended = pathlib.Path(__file__).with_name('mended')

@rm.udf(outputs={'double': rm.int64})
def double(x: np.ndarray):
    if mended.exists():
        if (x % 70 == 0).any():
            raise ValueError('never')
        time.sleep(float(mended.read_text() or 0))
    elif (x % 7 == 0).any():
        raise ValueError('not yet')
    return x * 2
";

/// Rows of a replay that is killed: a seventh of them are letters, and a tenth of those stay letters.
const ROWS: i64 = 1_400;

fn doubling(rows: i64) -> Job {
    let pipeline = r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"
interval = "20ms"

[sources.numbers]
kind = "file"
path = "numbers.ndjson"
fields = { x = "int64" }

[steps.doubles]
kind = "udf"
inputs = ["numbers"]
function = "functions:double"
on_error = "dead_letter"
batch_rows = 8

[sinks.out]
kind = "file"
inputs = ["doubles"]
path = "out.ndjson"
"#;
    let job = Job::new(pipeline, FUNCTIONS);
    job.write("numbers.ndjson", (1..=rows).map(|x| format!("{{\"x\":{x}}}\n")).collect::<String>());
    job
}

#[test]
fn letters_leave_the_store_when_their_rows_are_shown_and_those_that_fail_again_count_on() {
    let job = doubling(210);
    assert_eq!(job.run(&[]).figure("/rows/dead_letters"), 30);
    let before = letters(&job, "doubles");
    assert_eq!(column(&before, "x"), (1..=30).map(|x| 7 * x).collect::<Vec<_>>());
    job.write("mended", "");

    // One by its id, and two by their reason, the oldest ones.
    let id = before[4]["id"].as_str().expect("an id");
    assert!(replay(&job, &["--id", id]).contains("doubles: 1 of 1 letter replayed\n"));
    assert!(replay(&job, &["--reason", "not yet", "--limit", "2"]).contains("doubles: 2 of 2 letters replayed\n"));
    let mut shown: Vec<i64> = (1..=210).filter(|x| x % 7 != 0 || [7, 14, 35].contains(x)).collect();
    assert_eq!(numbers(&job, "out.ndjson", "x"), shown);
    assert_eq!(letters(&job, "doubles").len(), 27);

    assert!(replay(&job, &[]).contains("doubles: 27 of 27 letters replayed; 3 failed again\n"));
    shown.extend((1..=210).filter(|x| x % 7 == 0 && x % 70 != 0 && ![7, 14, 35].contains(x)));
    shown.sort_unstable();
    assert_eq!(numbers(&job, "out.ndjson", "x"), shown);
    let left = letters(&job, "doubles");
    assert_eq!(column(&left, "x"), [70, 140, 210]);
    for letter in &left {
        let earlier = before.iter().find(|earlier| earlier["record"] == letter["record"]).expect("it was one before");
        assert!(letter["attempts"].as_u64() > earlier["attempts"].as_u64(), "{letter}");
        for key in ["source", "partition", "offset", "original", "key"] {
            assert_eq!(letter[key], earlier[key], "{key}");
        }
        assert_eq!(letter["reason"], "ValueError: never");
    }
    let output = dlq(&job, &["replay", "pipeline.toml", "--id", id]).output().expect("the command is built");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("no letter {id} is stored")));

    // What was replayed is part of the pipeline's figures, and there is nothing left to be read.
    let again = job.run(&[]);
    assert!(again.stderr.contains("\nreconciled: 210 rows in, "), "{}", again.stderr);
    assert_eq!(numbers(&job, "out.ndjson", "x"), shown);
}

#[test]
fn a_replay_that_is_killed_again_and_again_repeats_and_loses_nothing() {
    let mut chance = Chance::from_environment("replay");
    let (wanted, mut replays, mut part_way) = (rounds("RINGMILL_REPLAYS", 1), 0, 0);
    // On a machine that does not let us kill in time, others follow.
    while replays < wanted || part_way == 0 && replays < wanted + 5 {
        part_way += kill_again_and_again(&mut chance);
        replays += 1;
    }
    println!("{replays} replays, {part_way} kills with some letters replayed and some not");
    assert!(part_way > 0, "a kill fell into a replay");
}

/// Two kills; how many of them fell between the first letter that was shown and the last.
fn kill_again_and_again(chance: &mut Chance) -> u32 {
    let job = doubling(ROWS);
    assert_eq!(job.run(&[]).figure("/rows/dead_letters"), ROWS as u64 / 7);
    job.write("mended", "0.03");
    let mut part_way = 0;
    for _ in 0..2 {
        let before = letters(&job, "doubles").len();
        let bytes = || std::fs::metadata(job.path("out.ndjson")).map_or(0, |data| data.len());
        let shown = bytes();
        let mut child = dlq(&job, &["replay", "pipeline.toml", "--quiet"]).spawn().expect("the command is built");
        let time = chance.between(Duration::ZERO, Duration::from_millis(40));
        let was_killed = kill_after(&mut child, || bytes() > shown, time);
        let left = letters(&job, "doubles").len();
        part_way += u32::from(was_killed && left < before && left > ROWS as usize / 70);
        // What is shown and what is stored add up at any moment, before and after a recovery.
        check(&job, false);
        if chance.below(2) == 0 {
            job.run(&[]).report();
            check(&job, true);
        }
    }
    job.write("mended", "");
    replay(&job, &[]);
    check(&job, true);
    assert_eq!(letters(&job, "doubles").len(), ROWS as usize / 70);
    assert!(job.run(&[]).stderr.contains("\nreconciled: "));
    part_way
}

/// Every row is shown or stored, and none twice; what is shown may lag behind the checkpoint until it is recovered.
fn check(job: &Job, is_whole: bool) {
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    for x in numbers(job, "out.ndjson", "x").into_iter().chain(column(&letters(job, "doubles"), "x")) {
        *seen.entry(x).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(!is_whole || seen.len() == ROWS as usize, "{} rows", seen.len());
}

/// Records that lack a value until the field may be null; windows of both streams.
const WINDOWS: &str = r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"
interval = "20ms"

[sources.lines]
kind = "stdin"
format = "csv"
event_time = "at"
fields = { at = "timestamp[s]", name = "utf8", x = "int64" }

[steps.odd]
kind = "filter"
inputs = ["lines"]
where = "x is null or x >= 0"

[steps.minutes]
kind = "window"
inputs = ["odd"]
key = ["name"]
window = { tumbling = "1m" }
aggregates = { n = "count()" }

[sinks.results]
kind = "file"
inputs = ["minutes"]
path = "minutes/"
format = "json"

[sinks.late]
kind = "file"
inputs = ["minutes.late"]
path = "late.ndjson"
"#;

#[test]
fn records_are_read_again_into_windows_that_are_open_and_those_of_closed_ones_are_late() {
    let job = Job::new(WINDOWS, "");
    let mut child = job.command(&[]).stdin(Stdio::piped()).spawn().expect("the command is built");
    let mut stdin = child.stdin.take().expect("a pipe");
    // The third minute stays open, and so do the letters' places in it; the first one's window has closed.
    let lines = "at,name,x\n10,a,1\n20,a,\n30,\"b,c\",2\n130,a,3\n140,\"b,c\",\n150,a,\nnonsense\n160,a,4\n";
    stdin.write_all(lines.as_bytes()).expect("the run reads");
    while letters(&job, "lines").len() < 4 {
        assert_eq!(child.try_wait().expect("wait"), None, "the run has ended");
    }
    let refused = dlq(&job, &["replay", "pipeline.toml"]).output().expect("the command is built");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("in use by process {}", child.id())), "{said}");
    drain(child);
    drop(stdin);
    assert_eq!(letters(&job, "lines").iter().map(|letter| &letter["header"]).collect::<Vec<_>>(), ["at,name,x\n"; 4]);

    let mended = WINDOWS.replace("x = \"int64\"", "x = { type = \"int64\", nullable = true }");
    job.write("pipeline.toml", mended);
    assert!(replay(&job, &[]).contains("lines: 4 of 4 letters replayed; 1 failed again\n"));
    let left = letters(&job, "lines");
    assert_eq!((&left[0]["record"], &left[0]["attempts"]), (&Value::from("nonsense"), &Value::from(2)));
    assert_eq!(left[0]["partition"], "stdin");
    assert_eq!(left[0]["offset"], lines.find("nonsense").expect("it is there"));
    assert_eq!(parts(&job, "minutes").len(), 2, "the open windows stay open");
    let late = job.rows("late.ndjson");
    assert_eq!((late.len(), &late[0]["name"]), (1, &Value::from("a")));

    // The next run goes on where the last ordinary one ended, and at its end all windows fire.
    let ended = job.run(&[]);
    assert!(ended.stderr.contains("\nreconciled: "), "{}", ended.stderr);
    let mut rows: Vec<String> = parts(&job, "minutes")
        .iter()
        .map(|row| format!("{} {} {}", row["window_start"], row["name"], row["n"]))
        .collect();
    rows.sort();
    let minute = |minute: u32| format!("\"1970-01-01T00:0{minute}:00Z\"");
    let expected = [(0, "\"a\" 1"), (0, "\"b,c\" 1"), (2, "\"a\" 3"), (2, "\"b,c\" 1")];
    assert_eq!(rows, expected.map(|(at, rest)| format!("{} {rest}", minute(at))));
}

/// Counts the results of each name, and fails for those of one name until it is mended.
const COUNTING: &str = "
import pathlib

mended = pathlib.Path(__file__).with_name('mended')

@rm.udf(outputs={'seen': rm.int64}, state={'count': rm.int64})
def count(name, count: np.ndarray):
    if not mended.exists() and 'b' in name.to_list():
        raise ValueError('b')
    return count + 1, count + 1
";

#[test]
fn rows_behind_a_window_go_to_a_function_that_keeps_something_for_their_key() {
    let pipeline = r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"

[sources.lines]
kind = "file"
path = "lines.ndjson"
event_time = "at"
fields = { at = "timestamp[s]", name = "utf8", x = "float64" }

[steps.minutes]
kind = "window"
inputs = ["lines"]
key = ["name"]
window = { tumbling = "1m" }
aggregates = { n = "count()", v = "variance(x)", all = "collect(x)" }

[steps.counts]
kind = "udf"
inputs = ["minutes"]
function = "functions:count"
key = ["name"]
on_error = "dead_letter"

[sinks.out]
kind = "file"
inputs = ["counts"]
path = "out.ndjson"
"#;
    let job = Job::new(pipeline, COUNTING);
    let line = |at: u64, name: &str| format!("{{\"at\":{at},\"name\":\"{name}\",\"x\":{at}.5}}\n");
    let lines: String =
        [(10, "a"), (20, "b"), (70, "a"), (80, "b"), (90, "b")].map(|(at, name)| line(at, name)).concat();
    job.write("lines.ndjson", &lines);
    assert_eq!(job.run(&[]).figure("/rows/dead_letters"), 2);
    let stored = letters(&job, "counts");
    assert!(
        stored.iter().all(|letter| letter["key"] == "{\"name\":\"b\"}" && letter["source"].is_null()),
        "{stored:?}"
    );
    // The same once more: the attempts count on, also without a place.
    assert!(replay(&job, &[]).contains("counts: 2 of 2 letters replayed; 2 failed again\n"));
    let attempts = |letters: &[Value]| letters.iter().map(|letter| letter["attempts"].as_u64()).max();
    assert!(attempts(&letters(&job, "counts")) > attempts(&stored));
    job.write("mended", "");
    assert!(replay(&job, &[]).contains("counts: 2 of 2 letters replayed\n"));
    // A new minute comes, and finds what both names have counted.
    job.write("lines.ndjson", lines + &line(190, "b") + &line(200, "a"));
    assert!(job.run(&[]).stderr.contains("\nreconciled: "));
    let mut rows: Vec<String> =
        job.rows("out.ndjson").iter().map(|row| format!("{} {} {}", row["name"], row["seen"], row["all"])).collect();
    rows.sort();
    let expected = [
        "\"a\" 1 [10.5]",
        "\"a\" 2 [70.5]",
        "\"a\" 3 [200.5]",
        "\"b\" 1 [20.5]",
        "\"b\" 2 [80.5,90.5]",
        "\"b\" 3 [190.5]",
    ];
    assert_eq!(rows, expected);
    // The variance of a single value is NaN, and was read back as that: a null would not fit the column.
    assert!(job.rows("out.ndjson").iter().any(|row| row["name"] == "b" && row["v"].is_null()));
}

/// Ends a run in good order.
fn drain(mut child: Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("kill");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

/// Records that fit once a field may be null, and one that never does.
fn records(job: &Job, is_mended: bool) {
    let field = if is_mended { "{ type = \"int64\", nullable = true }" } else { "\"int64\"" };
    let pipeline = format!(
        "[checkpoint]\npath = \"state\"\ninterval = \"10ms\"\n[sources.lines]\nkind = \"file\"\npath = \"lines.ndjson\"\n\
         fields = {{ id = \"int64\", x = {field} }}\n[sinks.out]\nkind = \"file\"\ninputs = [\"lines\"]\npath = \"out.ndjson\"\n\
         [sinks.table]\nkind = \"sqlite\"\ninputs = [\"lines\"]\npath = \"out.sqlite\"\ntable = \"lines\"\n"
    );
    job.write("pipeline.toml", pipeline);
}

const RECORDS: i64 = 12;

fn with_record_letters() -> Job {
    let job = Job::new("", "");
    records(&job, false);
    let mut lines: String =
        (0..RECORDS).map(|id| format!("{{\"id\":{id},\"x\":{}}}\n", if id % 3 == 0 { "null" } else { "1" })).collect();
    lines.push_str("nonsense\n");
    job.write("lines.ndjson", lines);
    job.run(&[]).report();
    records(&job, true);
    job
}

/// Every record is shown by both sinks, or stored, and never both.
fn check_records(job: &Job, place: &str) {
    let stored = letters(job, "lines").iter().filter(|letter| letter["record"] != "nonsense").count();
    let shown = numbers(job, "out.ndjson", "id");
    assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "{place}: twice: {shown:?}");
    assert_eq!(shown.len() + stored, RECORDS as usize, "{place}");
    let database = rusqlite::Connection::open(job.path("out.sqlite")).expect("a database");
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a number");
    assert_eq!(count("SELECT count(*) FROM lines"), shown.len() as i64, "{place}");
    assert_eq!(count("SELECT count(DISTINCT id) FROM lines"), shown.len() as i64, "{place}");
}

#[test]
fn a_replay_killed_at_every_named_place_has_shown_and_removed_each_letter_together() {
    let job = with_record_letters();
    let record = job.path("places");
    // Some letters of a part, and then all that are left.
    let (some, all) =
        (&["replay", "pipeline.toml", "--quiet", "--limit", "3"][..], &["replay", "pipeline.toml", "--quiet"][..]);
    for arguments in [some, all] {
        let mut command = dlq(&job, arguments);
        command.env("RINGMILL_FAILPOINT", format!("record:{}", record.display()));
        done(command.output().expect("the command is built"));
    }
    check_records(&job, "undisturbed");
    let places: std::collections::BTreeSet<String> =
        job.read("places").lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
    let taken = ["letters.written", "letters.renamed", "letters.part_removed"];
    assert!(taken.iter().all(|place| places.contains(*place)), "{places:?}");
    // In the test the places that only a replay has and the commit points of the others, in the soak all.
    let is_chosen = |place: &&String| {
        let names = ["letters.", "manifest.renamed", "sink.parts.renamed", "sink.file.appended"];
        rounds("RINGMILL_REPLAY_PLACES", 0) > 0 || names.iter().any(|name| place.starts_with(name))
    };
    let places: Vec<&String> = places.iter().filter(is_chosen).collect();
    let mut kills = 0;
    for place in &places {
        let job = with_record_letters();
        let killed = |arguments: &[&str]| {
            let mut command = dlq(&job, arguments);
            command.env("RINGMILL_FAILPOINT", format!("kill:{place}:1"));
            command.output().expect("the command is built").status.code().is_none()
        };
        // While it replays, and again at the same place while the next one recovers, if it comes by.
        kills += usize::from(killed(some)) + usize::from(killed(all));
        job.run(&[]).report();
        check_records(&job, place);
        done(dlq(&job, all).output().expect("the command is built"));
        check_records(&job, place);
        assert_eq!(numbers(&job, "out.ndjson", "id"), (0..RECORDS).collect::<Vec<_>>(), "{place}");
        assert_eq!(letters(&job, "lines").len(), 1, "{place}");
    }
    println!("{} places, {kills} kills", places.len());
    assert!(kills >= places.len());
}

#[test]
fn what_cannot_be_fed_back_is_refused_or_stays_with_its_reason() {
    let job = with_record_letters();
    let refused = |arguments: &[&str], code: i32, expected: &str| {
        let output = dlq(&job, &[&["replay", "pipeline.toml"], arguments].concat()).output().expect("it is built");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    };
    refused(&["--step", "line"], 2, "did you mean `lines`?");
    refused(&["--id", "lines-3"], 2, "\"lines-3\" is no letter's id");
    refused(&["--reason", "no such reason"], 1, "there are no such dead letters");
    refused(&["--into", "beside"], 2, "--into needs --step");
    // Another sink takes the letters for a while: those that are stored stay.
    let pipeline = job.read("pipeline.toml");
    let sink = "[sinks.broken]\nkind = \"null\"\ninputs = [\"lines.dead_letters\"]\n";
    for pipeline in [pipeline.clone() + sink, pipeline] {
        job.write("pipeline.toml", pipeline);
        job.run(&[]).report();
        assert_eq!(letters(&job, "lines").len(), 5);
    }
    std::fs::remove_dir_all(job.path("state/checkpoints")).expect("they are there");
    refused(&[], 1, "there is no checkpoint to go on from");
    assert_eq!(letters(&job, "lines").len(), 5);
}
