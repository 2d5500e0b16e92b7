//! The core is killed at the n-th hit of every named place of the checkpoint protocol, for every n: nothing is lost,
//! repeated or shown too early. No Python: what Python adds is killed elsewhere.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ringmill_system_tests::chaos::{Chance, Progress, rounds, side_by_side};
use ringmill_system_tests::{Job, ringmill};

/// How many runs may end before they come by a place that another run came by.
const ATTEMPTS_MAX: u32 = 5;
/// Whether a row comes before the epoch in front of it has ended is a matter of luck: hardly two runs agree on these places.
const LUCK: &str = "sink.parts.ahead.";
/// Most of their time the runs wait for their next row or for the disk.
const AT_ONCE: usize = 4;

/// Memory for windows and statistics.
const AMPLE: &str = "1GiB";
/// So little that they spill all the time.
const LITTLE: &str = "12KiB";

/// How much there is where a run is killed at this place.
fn memory_at(place: &str) -> &'static str {
    if place.starts_with("store.") { LITTLE } else { AMPLE }
}

/// A file of rows, a folder of windows and a table of them, from a source that is read in four checkpoints or so.
fn job(memory: &str) -> Job {
    let pipeline = r#"
[pipeline]
shards = 2
state_memory = "MEMORY"

[checkpoint]
path = "state"
interval = "10ms"
keep = 2

[sources.sensors]
kind = "generator"
keys = 100
rows = 4_000
rate = 20_000
event_time = "timestamp"

[steps.averages]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = { tumbling = "5s" }
aggregates = { mean = "mean(temperature)", readings = "count()" }
statistics = { of = "mean", as = { mean = "before" }, horizon = "1h" }

[sinks.rows]
kind = "file"
inputs = ["sensors"]
path = "rows.ndjson"

[sinks.windows]
kind = "file"
inputs = ["averages"]
path = "windows/"
format = "json"

[sinks.table]
kind = "sqlite"
inputs = ["averages"]
path = "windows.sqlite"
table = "averages"
"#;
    Job::new(&pipeline.replace("MEMORY", memory), "")
}

/// Runs it, killed at a place if one is given; whether it came to its end.
fn run(job: &Job, failpoint: Option<&str>) -> bool {
    let mut command = Command::new(ringmill());
    command.args(["run", "pipeline.toml", "--quiet"]).current_dir(job.folder()).env("XDG_RUNTIME_DIR", job.folder());
    if let Some(failpoint) = failpoint {
        command.env("RINGMILL_FAILPOINT", failpoint);
    }
    let output = command.stdin(Stdio::null()).output().expect("the ringmill command is built (scripts/setup)");
    let code = output.status.code();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(code.is_none_or(|code| code == 0), "{failpoint:?}: it ended with {code:?} instead: {said}");
    code == Some(0)
}

/// What the file and the parts show, sorted, since two shards share them.
fn shown(job: &Job) -> Vec<Vec<String>> {
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let rows = std::fs::read_to_string(job.path("rows.ndjson")).unwrap_or_default();
    let mut windows = String::new();
    for part in std::fs::read_dir(job.path("windows")).into_iter().flatten().flatten() {
        if !part.file_name().as_encoded_bytes().starts_with(b".") {
            windows += &std::fs::read_to_string(part.path()).expect("a part that is shown can be read");
        }
    }
    vec![sorted(rows), sorted(windows), sorted(table(job))]
}

/// The rows of the table as text.
fn table(job: &Job) -> String {
    let Ok(database) = rusqlite::Connection::open(job.path("windows.sqlite")) else { return String::new() };
    let Ok(mut query) = database.prepare("SELECT device_id, window_start, mean, readings, before FROM averages") else {
        return String::new();
    };
    let row = |row: &rusqlite::Row<'_>| {
        let columns: Vec<String> = (0..5).map(|column| format!("{:?}", row.get_ref_unwrap(column))).collect();
        Ok(columns.join(" ") + "\n")
    };
    query.query_map([], row).expect("the table can be read").map(|row| row.expect("a row can be read")).collect()
}

/// How often each place is reached in a run from the beginning.
fn places() -> BTreeMap<String, u64> {
    let mut places = BTreeMap::new();
    for memory in [AMPLE, LITTLE] {
        let job = job(memory);
        let record = job.path("places");
        assert!(run(&job, Some(&format!("record:{}", record.display()))));
        for line in job.read("places").lines() {
            let (name, hits) = line.split_once(' ').expect("a place and a number");
            let hits: u64 = hits.parse().expect("a place and a number");
            let most = places.entry(name.to_owned()).or_default();
            *most = hits.max(*most);
        }
    }
    places
}

/// No row that is shown is not to be shown, and none twice. The last line of the file may be torn until the next start: each
/// sink has a thread of its own, so a kill at a place of one sink may fall into the append of another.
fn assert_part_of(shown: &[Vec<String>], whole: &[Vec<String>], place: &str) {
    for (index, (shown, whole)) in shown.iter().zip(whole).enumerate() {
        let (is_file, mut whole) = (index == 0, whole.iter());
        let mut lines = shown.iter().filter(|line| !is_file || line.ends_with('\n'));
        let foreign = lines.find(|line| !whole.any(|other| other == *line));
        assert_eq!(foreign, None, "{place}: this is shown, and an undisturbed run does not show it, or not twice");
    }
}

/// Kills a run at the n-th hit of a place and the next one at the first, if it comes by, and lets a third one end; how
/// often it killed. None: how many checkpoints a run takes is a matter of time, and each run ended before this hit came.
fn kills_at(name: &str, hit: u64, whole: &[Vec<String>]) -> u64 {
    let place = format!("kill:{name}:{hit}");
    let killed = (0..ATTEMPTS_MAX).map(|_| job(memory_at(name))).find(|job| !run(job, Some(&place)));
    let Some(job) = killed else { return 0 };
    assert_part_of(&shown(&job), whole, &place);
    let is_killed_again = !run(&job, Some(&format!("kill:{name}:1")));
    assert_part_of(&shown(&job), whole, &place);
    assert!(run(&job, None), "{place}");
    assert!(shown(&job) == whole, "{place}: the outputs differ from those of an undisturbed run");
    1 + u64::from(is_killed_again)
}

#[test]
fn a_core_killed_at_every_named_place_goes_on_as_if_nothing_had_been() {
    let undisturbed = job(AMPLE);
    assert!(run(&undisturbed, None));
    let whole = shown(&undisturbed);
    assert_eq!(whole[0].len(), 4_000);
    assert_eq!(whole[1].len(), whole[2].len());
    // In the test the first hits of each place, in the soak all of them.
    let hits_max = rounds("RINGMILL_FAILPOINT_HITS", 1);
    let places = places();
    let hits = places.iter().flat_map(|(name, hits)| (1..=hits_max.min(*hits)).map(move |hit| (name.as_str(), hit)));
    // A soak that was ended may go on behind what it had done.
    let hits: Vec<(&str, u64)> = hits.skip(rounds("RINGMILL_FAILPOINT_FIRST", 0) as usize).collect();
    let wanted = hits.len() as u64;
    let mut progress = Progress::of("hits", wanted);
    let left = (0..).zip(hits).inspect(|(done, _)| progress.at(*done)).map(|(_, hit)| hit);
    let (kills, reached) = (AtomicU64::new(0), Mutex::new(BTreeMap::<&str, u64>::new()));
    side_by_side(AT_ONCE, left, |(name, hit)| {
        let here = kills_at(name, hit, &whole);
        kills.fetch_add(here, Ordering::Relaxed);
        let mut reached = reached.lock().expect("no other thread has failed");
        *reached.entry(name).or_default() += u64::from(here > 0);
    });
    let reached = reached.into_inner().expect("no thread has failed");
    let total: u64 = reached.values().sum();
    println!("{} places, {total} of {wanted} hits reached again, {} kills", places.len(), kills.into_inner());
    for (name, hits) in &places {
        println!("  {:6} of {hits:6} {name}", reached.get(name.as_str()).unwrap_or(&0));
    }
    let never: Vec<_> = reached.iter().filter(|(name, hits)| **hits == 0 && !name.starts_with(LUCK)).collect();
    assert!(never.is_empty(), "not reached a second time: {never:?}");
    assert!(places.len() > 30, "places are recorded");
    for place in ["store.spilled", "store.read_back", "store.scanned"] {
        assert!(places.contains_key(place), "it spilled and had back what it put away: {place}");
    }
}

#[test]
fn a_damaged_state_folder_is_noticed_or_harmless() {
    let mut chance = Chance::from_environment("damage");
    let undisturbed = job(AMPLE);
    assert!(run(&undisturbed, None));
    let whole = shown(&undisturbed);
    let (mut refused, mut harmless) = (0, 0);
    // A kill may come before the first checkpoint is there, or not at all where a busy machine takes one checkpoint only;
    // then there is nothing to be damaged.
    for _ in Progress::over("damaged folders", rounds("RINGMILL_DAMAGED_RUNS", 20)) {
        let job = job(AMPLE);
        let place = ["sink.file.appended", "coordinator.manifest.written", "coordinator.sink.staged"];
        let place = place[chance.below(3) as usize];
        if run(&job, Some(&format!("kill:{place}:{}", 1 + chance.below(2)))) {
            continue;
        }
        let Some(damaged) = damage(&job, &mut chance) else { continue };
        let before = shown(&job);
        let mut command = Command::new(ringmill());
        command.args(["run", "pipeline.toml", "--quiet"]).current_dir(job.folder());
        command.env("XDG_RUNTIME_DIR", job.folder()).stdin(Stdio::null());
        let output = command.output().expect("the ringmill command is built (scripts/setup)");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {
                assert!(shown(&job) == whole, "{damaged}: silently wrong: {said}");
                harmless += 1;
            }
            Some(code) if code < 100 => {
                assert!(!said.trim().is_empty(), "{damaged}: it was refused without a word");
                assert_part_of(&shown(&job), &whole, &damaged);
                assert!(shown(&job).iter().map(Vec::len).sum::<usize>() >= before.iter().map(Vec::len).sum());
                refused += 1;
            }
            code => panic!("{damaged}: it ended with {code:?}: {said}"),
        }
    }
    println!("{refused} damages refused, {harmless} harmless");
    assert!(refused > 0, "some damage was noticed");
}

/// Flips a bit of, or cuts, some file of a checkpoint or of the staged rows; says which.
fn damage(job: &Job, chance: &mut Chance) -> Option<String> {
    let mut files = Vec::new();
    let mut folders = vec![job.path("state/checkpoints"), job.path("state/staging")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.metadata().is_ok_and(|metadata| metadata.len() > 0) {
                files.push(path);
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return None;
    }
    let path = &files[chance.below(files.len() as u64) as usize];
    let mut content = std::fs::read(path).expect("a file can be read");
    let at = chance.below(content.len() as u64) as usize;
    let what = if chance.below(2) == 0 {
        content.truncate(at);
        "cut at"
    } else {
        content[at] ^= 1 << chance.below(8);
        "a bit flipped in"
    };
    std::fs::write(path, content).expect("a file can be written");
    Some(format!("{what} byte {at} of {}", path.display()))
}
