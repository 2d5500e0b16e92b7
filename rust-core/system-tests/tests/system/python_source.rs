//! Sources that are Python classes: each row comes out once and in order, whichever process is killed and whenever.
//!
//!   RINGMILL_SOURCE_KILLS  processes killed in each of the killing tests (default 24)
//!   RINGMILL_KILL_SEED     the moments at which they are killed (default: anything)

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, kill_now, newest_checkpoint, rounds};
use ringmill_system_tests::{CHECKPOINT, Ended, Job, children_of, read_until, ringmill, terminate, until};
use serde_json::Value;

const NUMBERS: &str = "
import os, pathlib, time

class Numbers(rm.Source):
    def __init__(self, count, names=('0',), most=1000, seconds=0.0):
        self.next, self.count, self.names, self.most, self.seconds = 0, count, names, most, seconds

    def partitions(self):
        return list(self.names)

    def poll(self, partition, rows_max):
        time.sleep(self.seconds)
        rows = np.arange(self.next, min(self.next + min(rows_max, self.most), self.count))
        self.next += len(rows)
        return {'number': rows, 'partition': [partition] * len(rows)} if len(rows) else rm.End

    def position(self, partition):
        return {'next': self.next}

    def seek(self, partition, position):
        self.next = position['next']
";

fn pipeline(class: &str, options: &str, keys: &str) -> String {
    format!(
        r#"
[pipeline]
shards = 2

[sources.numbers]
kind = "python"
class = "functions:{class}"
options = {{ {options} }}
fields = {{ number = "int64", partition = "utf8" }}
{keys}

[sinks.out]
kind = "file"
inputs = ["numbers"]
path = "out.ndjson"
"#
    )
}

/// The numbers of each partition, as they came.
fn by_partition(rows: &[Value]) -> BTreeMap<String, Vec<i64>> {
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in rows {
        let partition = row["partition"].as_str().unwrap().to_owned();
        found.entry(partition).or_default().push(row["number"].as_i64().unwrap());
    }
    found
}

/// Fails unless every partition has its numbers from 0 on, each once and in order; returns how many there are in all.
fn check_prefixes(rows: &[Value]) -> usize {
    for (partition, numbers) in by_partition(rows) {
        let first_wrong = numbers.iter().zip(0..).find(|(found, expected)| *found != expected);
        assert_eq!(first_wrong, None, "of partition {partition}: found and expected");
    }
    rows.len()
}

fn check_whole(rows: &[Value], partitions: &[&str], count: i64) {
    let found = by_partition(rows);
    assert_eq!(found.keys().collect::<Vec<_>>(), partitions);
    assert!(found.values().all(|numbers| numbers.iter().copied().eq(0..count)), "a partition is not 0..{count}");
}

/// Ends a run that failed, and returns what it said.
fn failed(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.stdout, ended.stderr);
    &ended.stderr
}

const TWO: &str = "count = 100_000_000, names = [\"a\", \"b\"], seconds = 0.001";
const OFTEN: &str = "rate = 40_000\nrestarts_max = 10_000\nrestart_backoff = \"0s\"\nslots = 8\nbatch_rows = 64\n";

fn length(job: &Job) -> u64 {
    std::fs::metadata(job.path("out.ndjson")).map_or(0, |file| file.len())
}

#[test]
fn processes_killed_at_random_are_told_where_to_go_on_and_no_row_is_lost_or_repeated() {
    let wanted = rounds("RINGMILL_SOURCE_KILLS", 24);
    let mut chance = Chance::from_environment("kills of sources");
    let job = Job::new(&[&pipeline("Numbers", TWO, OFTEN), CHECKPOINT].concat(), NUMBERS);
    let mut child = job.command(&[]).stderr(File::create(job.path("log")).unwrap()).spawn().unwrap();
    let (core, mut victim) = (child.id(), 0);
    for _ in Progress::over("kills of a source's process", wanted) {
        // Both are there, and rows come of both again.
        until(&mut child, || {
            let sources = children_of(core);
            sources.len() == 2 && !sources.contains(&victim)
        });
        let shown = length(&job);
        until(&mut child, || length(&job) > shown);
        std::thread::sleep(chance.between(Duration::ZERO, Duration::from_millis(40)));
        victim = children_of(core)[chance.below(2) as usize];
        kill_now(victim);
    }
    let ended = job.end(child);
    assert_eq!(ended.code, Some(0), "{}", job.read("log"));
    let rows = job.rows("out.ndjson");
    check_prefixes(&rows);
    let deaths = job.read("log").matches("a source's process was killed by SIGKILL").count() as u64;
    assert!(deaths + 2 >= wanted, "{deaths} deaths of {wanted}: the last may have come with the end");

    let most = by_partition(&rows).values().map(Vec::len).max().unwrap() as i64 + 5_000;
    let ended = job.run(&[&format!("sources.numbers.options.count={most}"), "sources.numbers.rate=1e9"]);
    check_whole(&job.rows("out.ndjson"), &["a", "b"], most);
    assert_eq!(ended.figure("/rows/in"), 2 * most as u64, "totals go on from the checkpoint");
}

#[test]
fn a_core_killed_at_random_with_and_without_its_source_goes_on_where_its_checkpoint_stands() {
    let wanted = rounds("RINGMILL_SOURCE_KILLS", 24);
    let mut chance = Chance::from_environment("kills of the core over a source");
    let (job, mut progress) = (
        Job::new(&[&pipeline("Numbers", TWO, OFTEN), CHECKPOINT].concat(), NUMBERS),
        Progress::of("kills of the core", wanted),
    );
    let (mut both, mut grown) = (0, 0);
    for done in 0..wanted {
        let mut child = job.start(&[]);
        let (core, state, shown) = (child.id(), job.path("state"), length(&job));
        let (known, mut takes_source) = (newest_checkpoint(&state), chance.below(2) == 0);
        let time = chance.between(Duration::ZERO, Duration::from_millis(100));
        let is_time = || {
            let is_time = newest_checkpoint(&state) > known;
            if is_time && takes_source {
                takes_source = false;
                let sources = children_of(core);
                both += u64::from(!sources.is_empty());
                sources.into_iter().take(1).for_each(kill_now);
            }
            is_time
        };
        assert!(kill_after(&mut child, is_time, time), "the run ended before it was killed");
        progress.at(done + 1);
        check_prefixes(&job.whole_rows("out.ndjson"));
        grown += u64::from(length(&job) > shown);
    }
    let most = by_partition(&job.whole_rows("out.ndjson")).values().map(Vec::len).max().unwrap() as i64 + 5_000;
    let ended = job.run(&[&format!("sources.numbers.options.count={most}"), "sources.numbers.rate=1e9"]);
    ended.report();
    check_whole(&job.rows("out.ndjson"), &["a", "b"], most);
    println!("{wanted} kills of the core, {both} with a source's process; rows had come in {grown} runs");
    assert!(both > 0 && grown * 2 > wanted);
}

#[test]
fn the_positions_of_a_class_are_where_a_run_goes_on_also_within_a_batch() {
    // Batches of the class are larger than those of the core, so that checkpoints fall within them.
    let keys = "batch_rows = 100_000\nbatch_bytes = \"8MiB\"\nrate = 100_000\n";
    let options = "count = 100_000_000, most = 100_000";
    let job = Job::new(&[&pipeline("Numbers", options, keys), CHECKPOINT].concat(), NUMBERS);
    for _ in 0..3 {
        let mut child = job.start(&[]);
        let shown = length(&job);
        until(&mut child, || length(&job) > shown);
        assert_eq!(job.end(child).code, Some(0));
        check_prefixes(&job.rows("out.ndjson"));
    }
    let ended = job.run(&["sources.numbers.options.count=150_000", "sources.numbers.rate=1e9"]);
    check_whole(&job.rows("out.ndjson"), &["0"], 150_000);
    assert_eq!(ended.figure("/rows/in"), 150_000);
}

const TROUBLE: &str = "
import os, pathlib, time

class Trouble(rm.Source):
    kind = 'none'

    def __init__(self, count=3000, **options):
        self.next, self.count, self.calls, self.options = 0, count, 0, options

    def poll(self, partition, rows_max):
        self.calls += 1
        rows = np.arange(self.next, min(self.next + 100, self.count))
        self.next += len(rows)
        if not len(rows):
            return rm.End
        return self.disturbed({'number': rows, 'partition': [partition] * len(rows)})

    def position(self, partition):
        return self.next

    def seek(self, partition, position):
        self.next = position

class Raises(Trouble):
    def disturbed(self, rows):
        if self.calls % 3 == 0 and (self.options.get('always') or self.next % 700 == 0):
            raise ConnectionError(f'the line broke at {self.next}')
        return rows

class Floats(Trouble):
    def disturbed(self, rows):
        return {**rows, 'number': rows['number'] * 1.5} if self.next > 500 else rows

class Short(Trouble):
    def disturbed(self, rows):
        return {**rows, 'partition': ['x']}

class Many(Trouble):
    def disturbed(self, rows):
        return {name: np.repeat(values, 100) for name, values in rows.items()}

class Other(Trouble):
    def disturbed(self, rows):
        return 'rows'

class Lost(Trouble):
    def disturbed(self, rows):
        return rows

    def position(self, partition):
        return {1, 2}

class Stuck(Trouble):
    def disturbed(self, rows):
        if self.next > 1000 and not pathlib.Path('free').exists():
            print('stuck')
            time.sleep(1000)
        return rows

class Exits(Trouble):
    def disturbed(self, rows):
        if self.next > 1000:
            os._exit(7)
        return rows
";

#[test]
fn a_class_that_raises_is_asked_again_from_where_it_was_or_ends_the_run() {
    let job =
        Job::new(&[&pipeline("Raises", "", "retries = 1\nretry_backoff = \"1ms\"\n"), CHECKPOINT].concat(), TROUBLE);
    let ended = job.run(&[]);
    ended.report();
    check_whole(&job.rows("out.ndjson"), &["0"], 3000);
    let retries = ended.stderr.matches("it is asked again in 1ms (retry 1 of 1)").count();
    assert!(retries > 0 && ended.stderr.contains("ConnectionError: the line broke at"), "{}", ended.stderr);

    let job = Job::new(&[&pipeline("Raises", "always = true", ""), CHECKPOINT].concat(), TROUBLE);
    let ended = job.run(&[]);
    let stderr = failed(&ended);
    assert!(stderr.contains("numbers: functions:Raises: ConnectionError: the line broke at 300"), "{stderr}");
    assert!(stderr.contains("Traceback (most recent call last)") && stderr.contains("in disturbed"), "{stderr}");
    check_prefixes(&job.whole_rows("out.ndjson"));
}

#[test]
fn what_does_not_fit_the_fields_ends_the_run_and_names_column_expected_and_got() {
    fn check(class: &str, expected: &str) {
        let job = Job::new(&[&pipeline(class, "", "retries = 5\n"), CHECKPOINT].concat(), TROUBLE);
        let ended = job.run(&[]);
        let stderr = failed(&ended);
        assert!(stderr.contains(expected), "{class}: {stderr}");
        assert!(!stderr.contains("asked again"), "it would be the same: {stderr}");
    }
    check("Floats", "source Floats: column \"number\": expected int64, got float64");
    check("Short", "source Short: column \"partition\": expected 100 rows, got 1");
    check("Many", "source Many: poll(): expected at most 1024 rows (rows_max), got 10000");
    check("Other", "source Other: ");
    check("Lost", "source Lost: position(): expected JSON values, got {1, 2}");
}

#[test]
fn a_poll_that_never_returns_keeps_no_run_from_ending_and_is_ended_by_its_timeout() {
    let job = Job::new(&[&pipeline("Stuck", "", ""), CHECKPOINT].concat(), TROUBLE);
    let mut child = job.start(&[]);
    read_until(&mut child, "stuck");
    until(&mut child, || length(&job) > 0);
    terminate(&child);
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("did not exit within 10 s"), "{}", ended.stderr);
    assert_eq!(check_prefixes(&job.rows("out.ndjson")), 1000, "what it had made before is there");

    let ended = job.run(&["sources.numbers.timeout=100ms", "sources.numbers.restarts_max=1"]);
    let stderr = failed(&ended);
    assert!(stderr.contains("gave no answer within 100ms and was killed"), "{stderr}");
    assert!(stderr.contains("is not started again: died 2 times"), "{stderr}");

    job.write("free", "");
    job.run(&[]).report();
    check_whole(&job.rows("out.ndjson"), &["0"], 3000);
}

#[test]
fn a_process_that_exits_again_and_again_ends_the_run() {
    let job = Job::new(&[&pipeline("Exits", "", "restarts_max = 2\n"), CHECKPOINT].concat(), TROUBLE);
    let ended = job.run(&[]);
    let stderr = failed(&ended);
    assert!(stderr.contains("died 3 times; it exited with code 7"), "{stderr}");
}

const UNSEEKABLE: &str = "
import pathlib, time

class Tickets(rm.Source):
    def poll(self, partition, rows_max):
        # Whoever asks next is given further ones: what was polled and is lost stays lost.
        time.sleep(0.001)
        counter = pathlib.Path('counter')
        first = int(counter.read_text()) if counter.exists() else 0
        fresh = counter.with_name('fresh')
        fresh.write_text(str(first + 10))
        fresh.rename(counter)
        return {'number': np.arange(first, first + 10), 'partition': ['x'] * 10}
";

/// The pipeline with a sink that shows rows at once.
fn said_at_once(pipeline: &str) -> String {
    pipeline.replace("kind = \"file\"", "kind = \"stdout\"").replace("path = \"out.ndjson\"\n", "")
}

#[test]
fn a_class_without_seek_repeats_nothing_and_says_that_it_may_lose() {
    let job = Job::new(&[&pipeline("Tickets", "", "restarts_max = 100\n"), CHECKPOINT].concat(), UNSEEKABLE);
    let check = |settings: &[&str]| {
        let mut command = std::process::Command::new(ringmill());
        command.args(["check", "pipeline.toml"]).current_dir(job.folder());
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        let output = command.output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let said = check(&[]);
    assert!(said.contains("it has no seek(): what was polled and is not in a checkpoint is lost in a crash"), "{said}");
    assert!(said.contains("of numbers, each that is in a checkpoint"), "{said}");
    let said = check(&["pipeline.guarantee=exactly-once"]);
    assert!(said.contains("`guarantee` demands exactly once, and this promises at most once"), "{said}");

    let refused = job.run(&[]);
    assert!(failed(&refused).contains("cannot be read again after a crash"), "{}", refused.stderr);
    job.write("pipeline.toml", said_at_once(&job.read("pipeline.toml")));
    let mut numbers: Vec<i64> = Vec::new();
    for round in 0..6 {
        let out = File::create(job.path("out.ndjson")).unwrap();
        let mut child = job.command(&[]).stdout(out).spawn().unwrap();
        let core = child.id();
        until(&mut child, || length(&job) > 0);
        children_of(core).into_iter().for_each(kill_now);
        let shown = length(&job);
        until(&mut child, || length(&job) > shown + 500);
        if round % 2 == 0 {
            kill_now(core as i32);
            child.wait().unwrap();
        } else {
            assert_eq!(job.end(child).code, Some(0));
        }
        numbers.extend(job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_i64().unwrap()));
        assert!(numbers.is_sorted_by(|one, next| one < next), "a row came twice, or out of order");
    }
}

#[test]
fn what_is_wrong_with_a_class_is_told_before_anything_runs() {
    fn check(class: &str, options: &str, expected: &str) {
        let functions = "
class Fine(rm.Source):
    def __init__(self, first=0):
        pass
    def poll(self, partition, rows_max):
        return rm.End

class Silent(rm.Source):
    pass

class Half(Fine):
    def seek(self, partition, position):
        pass

def function():
    pass
";
        let job = Job::new(&pipeline(class, options, ""), functions);
        let ended = job.run(&[]);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("[pipeline.toml:7:") && ended.stderr.contains(expected), "{}", ended.stderr);
        assert!(!job.path("out.ndjson").exists());
    }
    check("Fien", "", "module 'functions' has no 'Fien'; did you mean 'Fine'?");
    check("Silent", "", "source Silent has no poll(self, partition, rows_max)");
    check("Half", "", "source Half has seek() and no position()");
    check("function", "", "functions:function is not a source: derive a class from rm.Source");
    check("Fine", "last = 3", "source Fine does not take these options: got an unexpected keyword argument 'last'");
}

#[test]
fn what_keeps_a_source_from_starting_is_told_with_its_traceback_and_leaves_outputs_alone() {
    let functions = "
class Refused(rm.Source):
    def __init__(self, first=False):
        if not first:
            raise PermissionError('no entry')
    def poll(self, partition, rows_max):
        return rm.End

class Twice(rm.Source):
    def partitions(self):
        return ['a', 'a']
    def poll(self, partition, rows_max):
        return rm.End
";
    for (class, expected) in [
        ("Refused", "functions:Refused: PermissionError: no entry"),
        ("Twice", "source Twice: partitions(): expected different names, got 'a' twice"),
    ] {
        let job = Job::new(&pipeline(class, "", ""), functions);
        job.write("out.ndjson", "of an earlier run\n");
        let ended = job.run(&[]);
        let stderr = failed(&ended);
        assert!(stderr.contains(expected) && stderr.contains("Traceback"), "{stderr}");
        assert_eq!(job.read("out.ndjson"), "of an earlier run\n");
    }
}

#[test]
fn options_are_not_among_the_arguments_that_everybody_can_read() {
    let job = Job::new(&pipeline("Numbers", "count = 9_999_999, seconds = 0.004321", ""), NUMBERS);
    let mut child = job.start(&[]);
    until(&mut child, || length(&job) > 0);
    let arguments: Vec<String> = children_of(child.id())
        .iter()
        .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap())
        .collect();
    assert_eq!(job.end(child).code, Some(0));
    assert_eq!(arguments.len(), 1);
    assert!(arguments[0].contains("functions:Numbers") && !arguments[0].contains("0.004321"), "{arguments:?}");
}

const STANDS: &str = "
import os, pathlib

class Stands(rm.Source):
    # A cursor that is None at first, as those of many services are.
    def __init__(self, count=3000):
        self.cursor, self.count = None, count

    def poll(self, partition, rows_max):
        first = self.cursor or 0
        rows = np.arange(first, min(first + 100, self.count))
        if not len(rows):
            return rm.End
        self.cursor = first + len(rows)
        if not pathlib.Path('raised').exists():
            pathlib.Path('raised').touch()
            raise ConnectionError('once')
        return {'number': rows, 'partition': [partition] * len(rows)}

    def position(self, partition):
        return self.cursor

    def seek(self, partition, position):
        self.cursor = position

class Tail(Stands):
    # Begins at the end of what there is, which is further on for every process; there is nothing new at first.
    def __init__(self):
        with open('starts', 'a') as starts:
            starts.write('x')
        self.cursor, self.count = 1000 * (os.path.getsize('starts') - 1), 3000

    def poll(self, partition, rows_max):
        pathlib.Path('raised').touch()
        return super().poll(partition, rows_max) if pathlib.Path('go').exists() else self.note()

    def note(self):
        with open('polls', 'a') as polls:
            polls.write('x')
        return None
";

#[test]
fn a_class_whose_first_poll_raises_seeks_its_first_position_even_if_that_is_none() {
    let job =
        Job::new(&[&pipeline("Stands", "", "retries = 1\nretry_backoff = \"1ms\"\n"), CHECKPOINT].concat(), STANDS);
    let ended = job.run(&[]);
    ended.report();
    assert!(ended.stderr.contains("ConnectionError: once; it is asked again"), "{}", ended.stderr);
    check_whole(&job.rows("out.ndjson"), &["0"], 3000);
}

#[test]
fn a_class_that_had_no_rows_yet_goes_on_from_its_first_position_when_its_process_or_the_core_dies() {
    let job = Job::new(&[&pipeline("Tail", "", "restart_backoff = \"0s\"\n"), CHECKPOINT].concat(), STANDS);
    let polled = || std::fs::metadata(job.path("polls")).map_or(0, |file| file.len());
    let mut child = job.start(&[]);
    let core = child.id();
    until(&mut child, || polled() > 3);
    let (first, known) = (children_of(core), polled());
    kill_now(first[0]);
    until(&mut child, || polled() > known + 3);
    // One that was begun when the position was known is complete.
    for _ in 0..2 {
        let newest = newest_checkpoint(&job.path("state"));
        until(&mut child, || newest_checkpoint(&job.path("state")) > newest);
    }
    kill_now(core as i32);
    child.wait().unwrap();
    job.write("go", "");
    job.run(&[]).report();
    check_whole(&job.rows("out.ndjson"), &["0"], 3000);
    assert_eq!(job.read("starts").len(), 3);
}

#[test]
fn a_position_of_quotes_alone_may_be_as_long_as_any() {
    let quotes = "
class Quotes(rm.Source):
    def __init__(self):
        self.next = 0

    def poll(self, partition, rows_max):
        self.next += 1
        return {'number': [self.next - 1], 'partition': [partition]} if self.next <= 10 else rm.End

    def position(self, partition):
        # Up to 16,381 bytes as JSON, of 16,383 that are allowed.
        return ['\"' * 8187, self.next]

    def seek(self, partition, position):
        self.next = position[1]
";
    let job = Job::new(&[&pipeline("Quotes", "", ""), CHECKPOINT].concat(), quotes);
    job.run(&[]).report();
    check_whole(&job.rows("out.ndjson"), &["0"], 10);
}
