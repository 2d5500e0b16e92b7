//! Cores are killed and started again in one place: what they leave behind is cleaned up and never grows.

use std::path::Path;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, newest_checkpoint, rounds};
use ringmill_system_tests::{Job, children_of, is_alive};

const FUNCTIONS: &str = "
@rm.udf(outputs={'spread': rm.float64})
def spread(least: np.ndarray, most: np.ndarray):
    return most - least
";

const PIPELINE: &str = r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"
interval = "40ms"
keep = 3

[sources.sensors]
kind = "generator"
keys = 200
rows = 1_000_000_000
rate = 40_000
event_time = "timestamp"

[steps.averages]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = { tumbling = "10s" }
aggregates = { least = "min(temperature)", most = "max(temperature)" }
retain = "1h"

[steps.spreads]
kind = "udf"
inputs = ["averages"]
function = "functions:spread"

[sinks.windows]
kind = "file"
inputs = ["spreads"]
path = "windows.ndjson"

[sinks.table]
kind = "sqlite"
inputs = ["averages"]
path = "averages.sqlite"
table = "averages"
"#;

/// Checkpoints that are kept, one being written, one being removed.
const CHECKPOINTS_MAX: usize = 3 + 1 + 1;
/// Epochs of one sink that are staged: shown next, and being filled; and one that replaces another.
const STAGED_MAX: usize = 3;
/// Files of the pipeline's own: pipeline, functions, report, and the outputs with SQLite's journal.
const OWN_MAX: usize = 8;

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Shared memory files with a name; there are none of ours.
fn named_segments() -> usize {
    names(Path::new("/dev/shm")).iter().filter(|name| name.contains("ringmill")).count()
}

/// What lies where after a kill: the folder, what is in it, and how much that may be.
fn check(job: &Job) {
    let state = job.path("state");
    let user = job.path(&format!("ringmill-{}", nix::unistd::geteuid()));
    let mut places = vec![
        (user, 1),
        (job.path("tmp"), 0),
        (state.join("checkpoints"), CHECKPOINTS_MAX),
        // One for each shard, and one that is being put in its place.
        (state.join("live"), 2 * 2),
        // Checkpoints, live stores, staging, retained results, lock, and a folder of checkpoints being removed.
        (state.clone(), 6),
        (job.folder(), OWN_MAX + 4),
    ];
    places.extend(names(&state.join("staging")).into_iter().map(|sink| (state.join("staging").join(sink), STAGED_MAX)));
    for (place, most) in places {
        let found = names(&place);
        assert!(found.len() <= most, "{} holds {} things instead of {most}: {found:?}", place.display(), found.len());
    }
}

#[test]
fn nothing_accumulates_over_many_kills_and_restarts() {
    let mut chance = Chance::from_environment("leftovers");
    let wanted = rounds("RINGMILL_LEFTOVERS", 8);
    let job = Job::new(PIPELINE, FUNCTIONS);
    std::fs::create_dir(job.path("tmp")).unwrap();
    let (state, segments) = (job.path("state"), named_segments());
    let (mut early, mut most_files) = (0, 0);
    for _ in Progress::over("kills", wanted) {
        let mut command = job.command(&[]);
        let mut child = command.env("TMPDIR", job.path("tmp")).env("PYTHONDONTWRITEBYTECODE", "1").spawn().unwrap();
        let (core, known, is_early) = (child.id(), newest_checkpoint(&state), chance.below(3) == 0);
        let time = chance.between(Duration::ZERO, Duration::from_millis(if is_early { 400 } else { 100 }));
        let mut workers = Vec::new();
        let is_time = || {
            let now = children_of(core);
            workers.extend(now.into_iter().filter(|pid| !workers.contains(pid)).collect::<Vec<_>>());
            is_early || newest_checkpoint(&state) > known + 1
        };
        let is_killed = kill_after(&mut child, is_time, time);
        assert!(is_killed, "the run ended: {:?}", job.wait(child).stderr);
        early += u64::from(is_early);
        // The kernel kills them with their core; each is gone sooner or later.
        while workers.iter().any(|worker| is_alive(*worker)) {
            std::thread::yield_now();
        }
        check(&job);
        most_files = most_files.max(files(&state));
    }
    assert_eq!(named_segments(), segments);
    println!("{wanted} kills, {early} of them while the core started; at most {most_files} files in the state folder");
}

fn files(folder: &Path) -> usize {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    below.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}
