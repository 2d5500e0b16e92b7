//! No step ever waits: a huge window close behind few slots, slow functions, a stalled sink.

use std::io::Read;
use std::process::Child;

use ringmill_system_tests::Job;

const CHAIN: &str = r#"
[pipeline]
name = "chain"

[sources.sensors]
kind = "generator"
keys = 500_000
rows = 1_500_000
event_time = "timestamp"

[steps.windows]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = { tumbling = "1s" }
aggregates = { temperature = "mean(temperature)" }

[steps.first]
kind = "udf"
inputs = ["windows"]
function = "functions:first"
slots = 4
batch_rows = 4096

[steps.second]
kind = "udf"
inputs = ["first"]
function = "functions:second"
slots = 4
batch_rows = 512

[sinks.out]
kind = "file"
inputs = ["second"]
path = "out.csv"
format = "csv"

[sinks.tap]
kind = "null"
inputs = ["first"]
"#;

const FUNCTIONS: &str = "
import time

@rm.udf(outputs={'a': rm.float64})
def first(temperature: np.ndarray):
    time.sleep(0.0005)
    return temperature + 1

@rm.udf(outputs={'b': rm.float64})
def second(a: np.ndarray):
    return a + 1
";

#[test]
fn a_close_of_half_a_million_keys_passes_two_slow_functions_and_a_stalled_sink() {
    for settings in [&["pipeline.wait=\"adaptive\""][..], &["pipeline.wait=\"block\"", "pipeline.shards=2"]] {
        let job = Job::new(CHAIN, FUNCTIONS);
        let fifo = job.path("out.csv");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Opened for both directions the pipe has a reader and a writer from the start, so neither side waits for it.
        let both = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
        let mut child = job.start(settings);
        // Nothing is read until the pipe and every buffer before it are full and all threads have come to rest; reading
        // on must set everything in motion again.
        wait_until_stalled(&mut child);
        let mut reader = std::fs::File::open(&fifo).unwrap();
        drop(both);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let ended = job.wait(child);
        assert_eq!(ended.figure("/rows/in"), 1_500_000, "{settings:?}");
        assert_eq!(ended.figure("/rows/out/out"), 1_500_000, "{settings:?}");
        assert_eq!(ended.figure("/rows/out/tap"), 1_500_000, "{settings:?}");
        assert_eq!(text.lines().count(), 1_500_001);
    }
}

/// The sinks are open and no processor time is used over several looks.
fn wait_until_stalled(child: &mut Child) {
    let (mut still, mut last) = (0, 0);
    while still < 20 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its sink was read");
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
        let names = threads.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        let is_running = names.into_iter().any(|name| name.starts_with("sink-"));
        let used = ticks(child.id());
        still = if is_running && used.abs_diff(last) <= 1 { still + 1 } else { 0 };
        last = used;
        // Not a wait for something to happen, but the distance between two looks at the clock of the process.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_run_that_fails_behind_a_stalled_sink_still_ends() {
    let job = Job::new(CHAIN, FUNCTIONS);
    let fifo = job.path("out.csv");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _both = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let mut child = job.start(&["steps.first.restarts_max=0", "steps.second.restarts_max=0"]);
    wait_until_stalled(&mut child);
    let worker = ringmill_system_tests::children_of(child.id())[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL).unwrap();
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("SIGKILL"), "{}", ended.stderr);
}
