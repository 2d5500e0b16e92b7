//! The core is killed with SIGKILL at random times and started again: nothing is lost, repeated or out of order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Fallen, Progress, kill_after, kill_now, newest_checkpoint, rounds};
use ringmill_system_tests::{Job, children_of};

const FUNCTIONS: &str = "
@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    return temperature * 2

@rm.udf(outputs={'spread': rm.float64})
def spread(least: np.ndarray, most: np.ndarray):
    return most - least
";

/// Rows straight through a function, and windows with rolling statistics through another, each into a file.
fn job() -> Job {
    let pipeline = r#"
[pipeline]
shards = 1

[checkpoint]
path = "state"
interval = "40ms"

[sources.sensors]
kind = "generator"
keys = 500
rows = 1_500_000
rate = 150_000
event_time = "timestamp"

[steps.twice]
kind = "udf"
inputs = ["sensors"]
function = "functions:double"

[steps.averages]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = { tumbling = "10s" }
aggregates = { least = "min(temperature)", most = "max(temperature)", readings = "count()" }
statistics = { of = "most", as = ["mean", "std", "count"] }

[steps.spreads]
kind = "udf"
inputs = ["averages"]
function = "functions:spread"

[sinks.rows]
kind = "file"
inputs = ["twice"]
path = "rows.ndjson"

[sinks.windows]
kind = "file"
inputs = ["spreads"]
path = "windows/"
format = "json"
"#;
    Job::new(pipeline, FUNCTIONS)
}

const AT_ONCE: &str = "sources.sensors.rate=1_000_000_000";

/// What both sinks show: the file of rows, and the parts of windows in their order.
fn outputs(job: &Job) -> [String; 2] {
    let rows = std::fs::read_to_string(job.path("rows.ndjson")).unwrap_or_default();
    let parts = std::fs::read_dir(job.path("windows")).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_shown = |path: &PathBuf| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut parts: Vec<PathBuf> = parts.filter(is_shown).collect();
    parts.sort();
    let windows = parts.iter().map(|part| std::fs::read_to_string(part).expect("a part that is shown can be read"));
    [rows, windows.collect()]
}

/// What an undisturbed run without checkpoints writes.
fn reference(settings: &[&str]) -> [String; 2] {
    let job = job();
    let mut all = vec![AT_ONCE];
    all.extend(settings);
    let ended = job.run(&all);
    assert_eq!(ended.figure("/rows/in"), 1_500_000);
    outputs(&job)
}

/// Files and folders below a folder.
fn entries(folder: &Path) -> usize {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    below.map(|entry| 1 + if entry.path().is_dir() { entries(&entry.path()) } else { 0 }).sum()
}

#[test]
fn a_core_killed_at_random_times_loses_repeats_and_reorders_nothing() {
    let mut chance = Chance::from_environment("core kills");
    let wanted = rounds("RINGMILL_CORE_KILLS", 30);
    let expected = reference(&[]);
    let (mut fallen, mut in_flight, mut both, mut most_entries) = (Fallen::default(), 0, 0, 0);
    let mut progress = Progress::of("kills of the core", wanted);
    while fallen.total() < wanted {
        let job = job();
        let before = fallen.total();
        while fallen.total() < wanted && fallen.total() < before + 30 {
            let (state, mut child) = (job.path("state"), job.start(&[]));
            let core = child.id();
            // Most kills come when new rows are being committed, some while the core starts and recovers.
            let (known, is_early) = (newest_checkpoint(&state), chance.below(5) == 0);
            let time = chance.between(Duration::ZERO, Duration::from_millis(if is_early { 400 } else { 120 }));
            // In a third of the rounds a worker dies with the core, or shortly before it.
            let mut takes_worker = chance.below(3) == 0;
            let is_time = || {
                let is_time = is_early || newest_checkpoint(&state) > known;
                if is_time && takes_worker {
                    let workers = children_of(core);
                    takes_worker = workers.is_empty();
                    both += u64::from(!takes_worker);
                    workers.into_iter().take(1).for_each(kill_now);
                }
                is_time
            };
            if !kill_after(&mut child, is_time, time) {
                break;
            }
            most_entries = most_entries.max(entries(&job.folder()));
            fallen.note(&state);
            progress.at(fallen.total());
            for (shown, whole) in outputs(&job).iter().zip(&expected) {
                in_flight += u64::from(shown.len() < whole.len());
                assert!(whole.starts_with(shown), "a sink shows something that an undisturbed run does not write");
            }
        }
        assert!(fallen.total() > before, "a job ended before it was killed");
        let ended = job.run(&[AT_ONCE]);
        assert_eq!(ended.figure("/rows/in"), 1_500_000, "totals go on from the checkpoint");
        assert!(entries(&job.path("ringmill")) <= 1, "runs that were killed leave nothing behind");
        assert!(outputs(&job) == expected, "the outputs differ from those of an undisturbed run");
    }
    println!(
        "{} kills of the core, {both} of them with a worker, {in_flight} outputs unfinished at that moment, at most \
         {most_entries} files and folders:\n{fallen}",
        fallen.total()
    );
    assert!(in_flight >= fallen.total(), "work was in flight at every kill");
}
