//! No step ever waits: a huge window close behind few slots, slow functions, a stalled sink.

use std::io::Read;

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
        let child = job.start(settings);
        // Opening blocks until the run opens its sink. Then nothing is read until the pipe and every buffer are full,
        // which shows in the report of who held the others up; reading on must set everything in motion again.
        let mut reader = std::fs::File::open(&fifo).unwrap();
        let mut text = String::new();
        let mut first = [0_u8; 1];
        reader.read_exact(&mut first).unwrap();
        wait_until_asleep(child.id());
        reader.read_to_string(&mut text).unwrap();
        let ended = job.wait(child);
        assert_eq!(ended.figure("/rows/in"), 1_500_000, "{settings:?}");
        assert_eq!(ended.figure("/rows/out/out"), 1_500_000, "{settings:?}");
        assert_eq!(ended.figure("/rows/out/tap"), 1_500_000, "{settings:?}");
        assert_eq!(text.lines().count(), 1_500_001);
    }
}

/// Every thread of the process has come to rest: no more processor time is used over several looks.
fn wait_until_asleep(pid: u32) {
    let mut still = 0;
    let mut last = 0;
    while still < 20 {
        let used = ticks(pid);
        still = if used.abs_diff(last) <= 1 { still + 1 } else { 0 };
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
