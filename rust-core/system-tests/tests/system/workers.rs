//! Workers that die, hang, lie or eat memory: every other row comes out exactly once and in order.
//!
//!   RINGMILL_WORKER_KILLS  workers killed in the middle of a batch (default 50)
//!   RINGMILL_KILL_SEED     the moments at which they are killed (default: anything)

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmill_engine::rundir;
use ringmill_system_tests::chaos::{Chance, Progress, rounds};
use ringmill_system_tests::{Ended, Job, children_of, is_alive, read_until, terminate};
use serde_json::Value;

/// The one row of the generator's that functions stumble over: no other has this time.
const POISON_TIME: &str = "2024-01-01T00:00:12.340Z";
const POISON_MS: i64 = 1_704_067_212_340;
/// Five batches of 64 rows before it.
const EARLY_MS: i64 = POISON_MS - 5 * 640;

fn pipeline(step: &str) -> String {
    format!(
        r#"
[pipeline]
shards = 1

[sources.sensors]
kind = "generator"
keys = 100
rows = 10_000
event_time = "timestamp"

[steps.twice]
kind = "udf"
inputs = ["sensors"]
function = "functions:double"
{step}

[sinks.out]
kind = "file"
inputs = ["twice"]
path = "out.ndjson"

[sinks.dead]
kind = "file"
inputs = ["twice.dead_letters"]
path = "dead.ndjson"
"#
    )
}

/// Follows the rows that appear in a file.
struct Tail {
    file: File,
    rest: Vec<u8>,
}

impl Tail {
    fn of(path: &Path, run: &mut Child) -> Tail {
        let file = loop {
            if let Ok(file) = File::open(path) {
                break file;
            }
            assert!(run.try_wait().unwrap().is_none(), "the run ended before it made {}", path.display());
            std::thread::yield_now();
        };
        Tail { file, rest: Vec::new() }
    }

    /// Waits for a complete line that `wanted` likes.
    fn wait_for(&mut self, run: &mut Child, mut wanted: impl FnMut(&str) -> bool) {
        loop {
            let has_ended = run.try_wait().unwrap().is_some();
            self.file.read_to_end(&mut self.rest).unwrap();
            let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let lines: Vec<u8> = self.rest.drain(..end).collect();
            if String::from_utf8(lines).unwrap().lines().any(&mut wanted) {
                return;
            }
            assert!(!has_ended, "the run ended before the row came");
            std::thread::yield_now();
        }
    }
}

/// The output without the column that says which process made a row.
fn without_pid(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.rsplit_once(",\"pid\"").unwrap().0).collect()
}

const SLOW_WITH_PID: &str = "
import os, time

SECONDS = float(os.environ.get('UDF_SECONDS', '0'))

@rm.udf(outputs={'double': rm.float64, 'pid': rm.int64})
def double(temperature: np.ndarray):
    time.sleep(SECONDS)
    return {'double': temperature * 2, 'pid': np.full(len(temperature), os.getpid())}
";

#[test]
fn a_worker_killed_mid_batch_is_replaced_and_every_row_leaves_once_and_in_order() {
    let rounds = rounds("RINGMILL_WORKER_KILLS", 50);
    let mut chance = Chance::from_environment("workers killed mid-batch");
    let job = Job::new(&pipeline("batch_rows = 64\nrestarts_max = 10_000"), SLOW_WITH_PID);
    let mut command = job.command(&["sources.sensors.rows=100_000_000", "sources.sensors.rate=10_000"]);
    let mut child = command.env("UDF_SECONDS", "0.004").stderr(File::create(job.path("log")).unwrap()).spawn().unwrap();
    let mut out = Tail::of(&job.path("out.ndjson"), &mut child);
    let mut resumed = Histogram::<u64>::new(3).unwrap();
    for _ in Progress::over("kills of a worker", rounds) {
        let worker = loop {
            if let Some(worker) = children_of(child.id()).first() {
                break *worker;
            }
        };
        let mark = format!("\"pid\":{worker}}}");
        out.wait_for(&mut child, |line| line.ends_with(&mark));
        std::thread::sleep(Duration::from_micros(chance.below(20_000)));
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        let killed = Instant::now();
        out.wait_for(&mut child, |line| !line.ends_with(&mark));
        resumed.record(killed.elapsed().as_micros() as u64).unwrap();
    }
    let runs = rundir::list(&job.folder());
    let shown = &rundir::connect(&runs[0].path).unwrap().channels[0];
    let inspected = ringmill_ring::inspect(&shown.request, &shown.response).unwrap();
    assert_eq!((children_of(child.id()), inspected.generation), (vec![shown.pid], rounds + 1));
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", job.read("log"));
    println!(
        "{rounds} workers killed; from kill to next output: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
        resumed.value_at_quantile(0.5) as f64 / 1e3,
        resumed.value_at_quantile(0.9) as f64 / 1e3,
        resumed.value_at_quantile(0.99) as f64 / 1e3,
        resumed.max() as f64 / 1e3,
    );
    let log = job.read("log");
    let deaths: Vec<&str> = log.lines().filter(|line| line.contains("was killed by SIGKILL")).collect();
    assert_eq!(deaths.len() as u64, rounds);
    let in_flight = deaths.iter().filter(|death| !death.contains("batch=0")).count();
    println!("{in_flight} of them had work in flight");
    assert!(in_flight as u64 * 10 > rounds * 9, "{in_flight} of {rounds} kills met work in flight");
    let disturbed = job.read("out.ndjson");
    let rows = without_pid(&disturbed);
    let calm = Job::new(&pipeline(""), SLOW_WITH_PID);
    calm.run(&[&format!("sources.sensors.rows={}", rows.len())]).report();
    let expected = calm.read("out.ndjson");
    let expected = without_pid(&expected);
    assert_eq!(rows.len(), expected.len());
    let first = rows.iter().zip(&expected).position(|(row, expected)| row != expected);
    assert_eq!(first, None, "the first row that is not as it should be");
    assert_eq!(job.read("dead.ndjson"), "");
}

#[test]
fn kills_crashes_and_exceptions_together_lose_repeat_and_reorder_nothing() {
    let functions = "
import os, time

SECONDS = float(os.environ.get('UDF_SECONDS', '0'))

@rm.udf(outputs={'double': rm.float64})
def double(timestamp, temperature: np.ndarray):
    time.sleep(SECONDS)
    milliseconds = timestamp.astype('int64') % 1_000_000
    if SECONDS and (milliseconds == 345_670).any():
        os.abort()
    if SECONDS and (milliseconds % 50_000 == 20).any():
        raise ValueError('bad weather')
    return temperature * 2
";
    let mut chance = Chance::from_environment("kills, crashes and exceptions");
    let step = "batch_rows = 128\nrestarts_max = 10_000\non_error = \"dead_letter\"";
    let job = Job::new(&pipeline(step), functions);
    let settings = ["sources.sensors.rows=60_000", "pipeline.shards=2", "steps.twice.workers=2"];
    let mut command = job.command(&settings);
    let mut child = command.env("UDF_SECONDS", "0.004").stderr(File::create(job.path("log")).unwrap()).spawn().unwrap();
    Tail::of(&job.path("out.ndjson"), &mut child).wait_for(&mut child, |_| true);
    let mut kills = 0;
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(50 + chance.below(200)));
        let workers = children_of(child.id());
        if let Some(worker) = workers.get(chance.below(4) as usize) {
            kills += u32::from(kill(Pid::from_raw(*worker), Signal::SIGKILL).is_ok());
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", job.read("log"));
    let calm = Job::new(&pipeline(""), functions);
    calm.run(&["sources.sensors.rows=60_000"]).report();
    let milliseconds = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let time = row["timestamp"].as_str().unwrap();
        let (minutes, seconds) = (time[14..16].parse::<u64>().unwrap(), &time[17..23]);
        minutes * 60_000 + seconds.replace('.', "").parse::<u64>().unwrap()
    };
    // The first row's time is a whole number of 50 s, and 800 s more than one of 1,000 s.
    let is_poison = |line: &str| {
        let milliseconds = (milliseconds(line) + 200_000) % 1_000_000;
        milliseconds == 345_670 || milliseconds % 50_000 == 20
    };
    let all = calm.read("out.ndjson");
    let mut expected: Vec<&str> = all.lines().filter(|line| !is_poison(line)).collect();
    let poison = all.lines().filter(|line| is_poison(line)).count();
    let disturbed = job.read("out.ndjson");
    let dead = job.rows("dead.ndjson");
    println!("{kills} kills, {poison} poison rows, {} dead letters", dead.len());
    let key = |line: &&str| line.split_once(',').unwrap().0.to_owned();
    let mut rows: Vec<&str> = disturbed.lines().collect();
    // Stable: rows of one key stay in the order in which they came.
    rows.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(rows.len(), expected.len());
    assert!(rows == expected, "{:?}", rows.iter().zip(&expected).find(|(row, expected)| row != expected));
    assert_eq!((dead.len(), poison), (13, 13));
}

/// A function that does `deed` when it meets the poison row.
fn poisoned(deed: &str) -> String {
    format!(
        "
import ctypes, os, signal, subprocess, time

def early():
    pass

def deed():
    {deed}

@rm.udf(outputs={{'double': rm.float64}})
def double(timestamp, temperature: np.ndarray):
    times = timestamp.astype('int64')
    if (times == {EARLY_MS}).any():
        early()
    if (times == {POISON_MS}).any():
        deed()
    return temperature * 2
"
    )
}

/// Runs a function with a poison row: exactly that row is dead-lettered, for `reason`, and the others come out in order.
fn check_poison(deed: &str, settings: &[&str], reason: &str) -> Ended {
    let job = Job::new(&pipeline("on_error = \"dead_letter\""), &poisoned(deed));
    let ended = job.run(settings);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/out/out")), (10_000, 9_999), "{deed}\n{}", ended.stderr);
    let dead = job.rows("dead.ndjson");
    assert_eq!(dead.len(), 1, "{deed}");
    assert!(dead[0]["reason"].as_str().unwrap().contains(reason), "{deed}: {}", dead[0]);
    let record: Value = serde_json::from_str(dead[0]["record"].as_str().unwrap()).unwrap();
    assert_eq!(record["timestamp"], POISON_TIME);
    let calm = Job::new(&pipeline(""), &poisoned("pass"));
    calm.run(&[]).report();
    let expected = calm.read("out.ndjson");
    let expected: Vec<&str> = expected.lines().filter(|line| !line.contains(POISON_TIME)).collect();
    assert!(job.read("out.ndjson").lines().eq(expected), "{deed}: the other rows");
    let log = ended.stderr.lines().find(|line| line.contains("rows failed alone")).unwrap();
    let levels = log.split("levels=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let attempts = dead[0]["attempts"].as_u64().unwrap();
    println!("{reason}: {levels} levels, {attempts} attempts");
    assert!((1..=13).contains(&levels.parse::<u32>().unwrap()), "{log}");
    ended
}

const WHOLE: &str = "steps.twice.batch_rows=4096";
const SMALL: &str = "steps.twice.batch_rows=64";

#[test]
fn exactly_the_row_for_which_the_function_raises_is_dead_lettered() {
    let ended = check_poison("raise ValueError('bad weather')", &[WHOLE], "ValueError: bad weather");
    assert_eq!(ended.figure("/workers/restarts"), 0);
}

#[test]
fn exactly_the_row_that_crashes_the_process_is_dead_lettered_in_at_most_13_levels() {
    let ended = check_poison("ctypes.string_at(0)", &[WHOLE], "was killed by SIGSEGV");
    assert!((3..=27).contains(&ended.figure("/workers/restarts")), "{}", ended.stderr);
}

#[test]
fn every_other_way_to_die_is_told_and_costs_one_row() {
    check_poison("os._exit(7)", &[SMALL], "exited with code 7");
    check_poison("os.abort()", &[SMALL, "steps.twice.workers=3"], "was killed by SIGABRT");
}

#[test]
fn a_function_that_hangs_is_killed_at_its_timeout_and_costs_one_row() {
    let timeout = "steps.twice.timeout=\"400ms\"";
    let settings = &["steps.twice.batch_rows=16", timeout][..];
    for deed in ["time.sleep(1_000_000)", "while True: pass", "sum(range(10**12))"] {
        check_poison(deed, settings, "gave no answer within 400ms");
    }
}

#[test]
fn a_memory_bomb_meets_its_limit_and_costs_one_row() {
    let limit = "steps.twice.memory_limit=\"512MiB\"";
    check_poison("np.ones(1 << 28)", &[SMALL, limit], "llocate");
    let deed = "bytearray(1 << 29); os.abort()";
    check_poison(deed, &[SMALL, limit], "MemoryError");
}

/// Fills the page of the response memory that holds the descriptors.
const SCRIBBLE: &str = "
    maps = [line.split() for line in open('/proc/self/maps')]
    start, end = next(line[0] for line in maps if line[1] == 'rw-s' and 'memfd' in line[5]).split('-')
    ctypes.memset(int(start, 16) + 4096, 0xff, 4096)
    time.sleep(1_000_000)
";

#[test]
fn a_worker_that_scribbles_over_its_ring_is_killed_and_replaced() {
    check_poison(SCRIBBLE, &[SMALL], "broke the ring protocol");
}

/// The core is stopped while the batches before the poison row are answered, so that it finds their answers spoiled.
#[test]
fn a_worker_that_scribbles_over_answers_of_earlier_batches_costs_one_row_all_the_same() {
    let early = "
def early():
    core = os.getppid()
    subprocess.Popen(['sh', '-c', f'sleep 0.3; kill -CONT {core}'])
    os.kill(core, signal.SIGSTOP)
";
    // The row is tried again, then without stopping the core. One that gets no processor just then suspects an innocent
    // batch, too; that costs time, and is not what this test is about.
    let suspects_innocents = || {
        let ended = check_poison(&format!("{SCRIBBLE}{early}"), &[SMALL], "broke the ring protocol");
        ended.stderr.contains("all rows passed")
    };
    assert!((0..10).any(|_| !suspects_innocents()), "a batch was suspected that is innocent, ten times");
}

#[test]
fn a_row_that_fails_alone_ends_the_run_with_an_error_that_shows_it() {
    let job = Job::new(&pipeline("on_error = \"stop\""), &poisoned("raise ValueError('bad weather')"));
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for words in ["bad weather", "Traceback", "twice", POISON_TIME, "on_error"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

#[test]
fn a_fault_that_goes_away_is_retried_and_loses_nothing() {
    let functions = "
@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    double.calls = getattr(double, 'calls', 0) + 1
    if double.calls in (3, 4, 5):
        raise ConnectionError('try again later')
    return temperature * 2
";
    let job = Job::new(
        &pipeline("batch_rows = 100\nretries = 3\nretry_backoff = \"1ms\"\non_error = \"dead_letter\""),
        functions,
    );
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/out/out"), ended.figure("/rows/out/dead")), (10_000, 0), "{}", ended.stderr);
    let calm = Job::new(&pipeline(""), &functions.replace("(3, 4, 5)", "()"));
    calm.run(&[]).report();
    assert_eq!(job.read("out.ndjson"), calm.read("out.ndjson"));
}

#[test]
fn a_function_that_fails_for_every_row_costs_about_a_call_for_each() {
    let functions = "
@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    raise ValueError('never')
";
    let job = Job::new(&pipeline("batch_rows = 1000\non_error = \"dead_letter\""), functions);
    let ended = job.run(&["sources.sensors.rows=3000"]);
    assert_eq!((ended.figure("/rows/out/out"), ended.figure("/rows/out/dead")), (0, 3000));
    let tries = ended
        .stderr
        .lines()
        .filter_map(|line| line.split("tries=").nth(1)?.split_whitespace().next()?.parse::<u64>().ok());
    let tries: u64 = tries.sum();
    assert!((3000..=3000 + 3 * 40).contains(&tries), "{tries} tries");
    assert_eq!(ended.stderr.matches("the function fails for most rows").count(), 1);
}

#[test]
fn a_worker_that_keeps_crashing_fails_visibly_and_ends_the_run() {
    let functions = "
import os

@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    os._exit(7)
";
    let step = "batch_rows = 4\nrestarts_max = 3\nrestart_backoff = \"10ms\"\non_error = \"skip\"";
    let ended = Job::new(&pipeline(step), functions).run(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for words in ["FAILED", "no worker is left", "twice/0/0", "died", "exited with code 7"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

#[test]
fn a_worker_that_cannot_be_started_again_says_why() {
    let functions = "
import os, pathlib, sys

if '--config' in sys.argv:
    mark = pathlib.Path('started')
    if mark.exists():
        raise ImportError('the model is gone')
    mark.touch()

@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    os._exit(7)
";
    let ended = Job::new(&pipeline("restarts_max = 2\nrestart_backoff = \"1ms\""), functions).run(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for words in ["no worker is left", "exited with code 7", "could not start", "the model is gone", "Traceback"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

#[test]
fn a_worker_that_hangs_while_it_starts_is_killed_and_replaced_or_ends_the_run_if_it_is_the_first() {
    let functions = "
import os, pathlib, sys, time

if '--config' in sys.argv:
    mark = pathlib.Path(f'hangs-{len(list(pathlib.Path().glob(\"started-*\")))}')
    pathlib.Path(f'started-{os.getpid()}').touch()
    if mark.exists():
        time.sleep(1_000_000)

@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    if len(list(pathlib.Path().glob('started-*'))) == 1:
        os._exit(7)
    return temperature * 2
";
    let said = |seconds: u32| format!("its imports and setup() were not done within {seconds}s (start_timeout)");
    let first = Job::new(&pipeline("start_timeout = \"1s\""), functions);
    first.write("hangs-0", "");
    let ended = first.run(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&said(1)) && ended.stderr.contains("twice/0/0"), "{}", ended.stderr);
    let second = Job::new(&pipeline("start_timeout = \"8s\""), functions);
    second.write("hangs-1", "");
    let ended = second.run(&[]);
    assert_eq!((ended.figure("/rows/out/out"), ended.figure("/rows/out/dead")), (10_000, 0));
    assert!(ended.stderr.contains(&said(8)), "{}", ended.stderr);
}

#[test]
fn a_worker_that_is_killed_before_the_run_begins_is_started_again_twice() {
    let functions = |deaths: u32| {
        format!(
            "
import os, pathlib, signal, sys

if '--config' in sys.argv and len(list(pathlib.Path().glob('killed-*'))) < {deaths}:
    pathlib.Path(f'killed-{{os.getpid()}}').touch()
    os.kill(os.getpid(), signal.SIGKILL)

@rm.udf(outputs={{'double': rm.float64}})
def double(temperature: np.ndarray):
    return temperature * 2
"
        )
    };
    let ended = Job::new(&pipeline(""), &functions(2)).run(&[]);
    assert_eq!((ended.figure("/rows/out/out"), ended.figure("/rows/out/dead")), (10_000, 0));
    assert!(ended.stderr.contains("was killed by SIGKILL while it started"), "{}", ended.stderr);
    let ended = Job::new(&pipeline(""), &functions(3)).run(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("was killed by SIGKILL"), "{}", ended.stderr);
}

#[test]
fn the_other_workers_go_on_when_one_has_failed_for_good() {
    let functions = "
import os, pathlib, sys, time

if '--config' in sys.argv:
    started = len(list(pathlib.Path('.').glob('started-*')))
    pathlib.Path(f'started-{os.getpid()}').touch()
    if started >= 3:
        os._exit(9)

@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    print('a batch', flush=True)
    time.sleep(0.002)
    return temperature * 2
";
    let step = "workers = 3\nbatch_rows = 10\nrestarts_max = 1\nslots = 4\n";
    let job = Job::new(&pipeline(step), functions);
    let mut child = job.start(&[]);
    read_until(&mut child, "a batch");
    let victim = children_of(child.id())[1];
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let ended = job.wait(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/out/out")), (10_000, 10_000));
    assert!(ended.stderr.contains("FAILED"), "{}", ended.stderr);
    let calm = Job::new(&pipeline(""), &poisoned("pass"));
    calm.run(&[]).report();
    assert_eq!(job.read("out.ndjson"), calm.read("out.ndjson"));
}

#[test]
fn what_a_worker_had_started_dies_with_it() {
    let functions = "
import os, subprocess, time

@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    if not os.path.exists('child'):
        child = subprocess.Popen(['sleep', '1000'])
        open('child', 'w').write(str(child.pid))
        os._exit(7)
    return temperature * 2
";
    let job = Job::new(&pipeline(""), functions);
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/out/out"), ended.figure("/workers/restarts")), (10_000, 1));
    assert!(!is_alive(job.read("child").parse().unwrap()));
}
