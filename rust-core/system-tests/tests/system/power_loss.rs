//! The power fails at any moment: what was acknowledged is there, and the output is that of an undisturbed run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use ringmill_state::StateFolder;
use ringmill_system_tests::chaos::{Chance, rounds};
use ringmill_system_tests::power::{
    Acknowledged, Disk, Kept, Kind, Outputs, Pipeline, Record, Recording, Watched, run,
};
use ringmill_system_tests::python;

const ROWS: u64 = 60_000;
/// Slow enough for several checkpoints.
const RATE: u64 = 150_000;

/// Replaces a file by its next version over and over, each time by the book.
const WRITER: &str = "
import os
folder = os.open('.', os.O_RDONLY)
for version in range(1, 8):
    file = os.open('new', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(file, b'%d' % version * 2000)
    os.writev(file, [b'end', b' of it'])
    os.fsync(file)
    os.close(file)
    os.rename('new', 'version')
    os.fsync(folder)
os.truncate('version', 5)
os.mkdir('empty')
os.rmdir('empty')
os.link('version', 'twice')
";

const VERSIONS: u64 = 7;

/// Lets the writer run, then the power fail after every record of its log; how often something was wrong.
fn faults_of_the_writer(mode: &str) -> usize {
    let around = tempfile::tempdir().unwrap();
    let (root, log) = (around.path().join("root"), around.path().join("log"));
    std::fs::create_dir(&root).unwrap();
    let mut command = Command::new(python());
    command.args(["-c", WRITER]).current_dir(&root);
    Watched { root: &root, log: &log }.watch(&mut command, mode);
    assert!(command.status().unwrap().success());
    let recording = Recording::read(&log);
    let empty = tempfile::tempdir().unwrap();
    let mut disk = Disk::of(empty.path()).unwrap();
    let (mut acknowledged, mut faults, mut renames) = (0, 0, 0);
    for record in recording.records() {
        disk.apply(&record).unwrap();
        renames += u64::from(record.kind == Kind::Rename);
        if matches!(record.kind, Kind::Sync | Kind::SyncLied) {
            acknowledged = renames;
        }
        // Behind its last version the writer does other things, for the comparison below.
        let is_over = renames == VERSIONS && acknowledged == VERSIONS;
        for seed in 0..if is_over { 0 } else { 5 } {
            let found = disk.after_power_loss(&mut Chance::of(seed));
            let version = found.files().get(Path::new("version")).map_or(Some(0), |bytes| version(bytes));
            faults += usize::from(version.is_none_or(|version| version < acknowledged));
        }
    }
    assert_eq!((renames, acknowledged), (VERSIONS, VERSIONS));
    assert_eq!(disk.now().differences(&root).unwrap(), [""; 0], "the log tells all");
    faults
}

/// Which version of the writer's file this is, if it is one.
fn version(bytes: &[u8]) -> Option<u64> {
    (1..=VERSIONS).find(|version| bytes == [version.to_string().repeat(2000).as_bytes(), b"end of it"].concat())
}

#[test]
fn a_file_that_is_replaced_by_the_book_survives_and_without_fsync_it_does_not() {
    assert_eq!(faults_of_the_writer("record"), 0);
    assert!(faults_of_the_writer("lie") > 0, "a power loss that nothing notices proves nothing");
}

/// A run with its log, from which the disk can be had as it was at any point.
struct Recorded {
    start: Disk,
    /// Checkpoints that were there before.
    durable: BTreeSet<u64>,
    recording: Recording,
    /// The power is not to fail before this record.
    from: usize,
    kept: Kept,
}

/// A pipeline on a disk whose power fails again and again, and what happened.
struct Trial {
    pipeline: Pipeline,
    expected: Outputs,
    failures: u64,
    failures_while_recovering: u64,
    went_on: u64,
}

impl Trial {
    fn new(shards: usize) -> Trial {
        let expected = Pipeline::new(shards, ROWS, RATE).with_table().undisturbed();
        let pipeline = Pipeline::new(shards, ROWS, RATE).with_table();
        Trial { pipeline, expected, failures: 0, failures_while_recovering: 0, went_on: 0 }
    }

    /// Runs the pipeline to its end on the disk as it is.
    fn record(&self, mode: &str, is_fast: bool, store: &str) -> Result<Recorded, String> {
        let root = self.pipeline.disk();
        let start = Disk::of(&root).map_err(|error| error.to_string())?;
        let durable = sound_checkpoints(&root);
        let output = run(&mut self.pipeline.watched(is_fast, mode));
        self.check_end(&output)?;
        let recording = Recording::read(&self.pipeline.path("log"));
        let mut disk = start.clone();
        recording.records().try_for_each(|record| disk.apply(&record))?;
        assert_eq!(disk.now().differences(&root).unwrap(), [""; 0], "the log does not tell all");
        let kept = Kept::of(&disk, &root, self.pipeline.path(store)).map_err(|error| error.to_string())?;
        Ok(Recorded { start, durable, recording, from: 0, kept })
    }

    /// Lets the power fail at `count` points of a run, and each time sees what comes of it.
    fn fail_power(&mut self, past: &Recorded, count: u64, is_second: bool, chance: &mut Chance) -> Result<(), String> {
        let (mut disk, mut acknowledged) = (past.start.clone(), Acknowledged::of(past.durable.clone()));
        let mut records = past.recording.records();
        let mut done = 0;
        for point in points(&past.recording, past.from, count, chance) {
            for record in records.by_ref().take(point - done) {
                disk.apply(&record)?;
                acknowledged.note(&record);
            }
            done = point;
            let seed = chance.number();
            let image = disk.after_power_loss(&mut Chance::of(seed));
            image.put(&self.pipeline.disk(), &past.kept).map_err(|error| error.to_string())?;
            self.failures += 1;
            self.failures_while_recovering += u64::from(is_second);
            let recovered = self.recover(acknowledged.epochs(), is_second, chance);
            recovered.map_err(|error| {
                let last = past.recording.records().nth(done.saturating_sub(1));
                let last = last.map_or(String::new(), |record| describe(&record));
                format!("power failed after record {done} ({last}), seed {seed}: {error}")
            })?;
        }
        Ok(())
    }

    /// Goes on after the power failed.
    fn recover(&mut self, acknowledged: &BTreeSet<u64>, is_second: bool, chance: &mut Chance) -> Result<(), String> {
        let sound = sound_checkpoints(&self.pipeline.disk());
        if let Some(lost) = acknowledged.difference(&sound).next() {
            return Err(format!("checkpoint {lost} was acknowledged and is lost; {sound:?} are left"));
        }
        if !is_second && chance.below(4) == 0 {
            let recorded = self.record("record", true, "kept-again")?;
            self.fail_power(&recorded, 2, true, chance)?;
        } else {
            let output = run(&mut self.pipeline.command(true));
            self.check_end(&output)?;
            let newest = sound.last().copied();
            let went_on = self.pipeline.went_on_from();
            if went_on != newest {
                return Err(format!("went on from {went_on:?} and not from {newest:?}"));
            }
            self.went_on += u64::from(newest.is_some());
        }
        Ok(())
    }

    fn check_end(&self, output: &Output) -> Result<(), String> {
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || said.contains("panicked") {
            return Err(format!("the run failed: {said}"));
        }
        let differences =
            self.pipeline.outputs().iter().zip(&self.expected).filter(|(found, expected)| found != expected).count();
        if differences > 0 {
            Err(format!("{differences} outputs are not those of an undisturbed run\n{said}"))
        } else {
            Ok(())
        }
    }
}

/// The checkpoints that are there and whole.
fn sound_checkpoints(disk: &Path) -> BTreeSet<u64> {
    let Ok(folder) = StateFolder::open_read_only(&disk.join("state")) else { return BTreeSet::new() };
    let found = folder.checkpoints().unwrap_or_default();
    found.iter().map(|found| found.epoch).filter(|epoch| folder.verify(*epoch).is_ok()).collect()
}

/// Points of a log at which the power is to fail: half of them anywhere, half of them right after one of the rarer
/// records, with which the protocol makes its steps.
fn points(recording: &Recording, from: usize, count: u64, chance: &mut Chance) -> Vec<usize> {
    let is_step = |record: &Record<'_>| !matches!(record.kind, Kind::Write | Kind::Open | Kind::Grow);
    let all: Vec<usize> = (from..=recording.records().count()).collect();
    let steps = recording.records().enumerate().filter(|(_, record)| is_step(record)).map(|(index, _)| index + 1);
    let steps: Vec<usize> = steps.filter(|point| *point >= from).collect();
    let mut draw = |from: &[usize]| from[chance.below(from.len() as u64) as usize];
    let mut points: Vec<usize> = (0..count).map(|index| draw(if index % 2 == 0 { &all } else { &steps })).collect();
    points.sort_unstable();
    points
}

/// The place of the first commit in a log.
fn first_commit(recording: &Recording) -> usize {
    let is_commit = |record: &Record<'_>| record.kind == Kind::Rename && record.path.ends_with(b".partial");
    recording.records().position(|record| is_commit(&record)).expect("there was a checkpoint")
}

fn describe(record: &Record<'_>) -> String {
    let text = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
    format!("{:?} {} {} {}", record.kind, record.handle, text(record.path), text(record.other))
}

#[test]
fn a_power_loss_at_any_point_leaves_all_that_was_acknowledged_and_changes_no_output() {
    let mut chance = Chance::from_environment("power loss");
    let wanted = rounds("RINGMILL_POWER_LOSSES", 30);
    for shards in [1, 2] {
        let mut trial = Trial::new(shards);
        while trial.failures < wanted / 2 {
            let _ = std::fs::remove_dir_all(trial.pipeline.disk());
            std::fs::create_dir(trial.pipeline.disk()).unwrap();
            let recorded = trial.record("record", false, "kept").unwrap();
            let (all, syncs) = (recorded.recording.records().count(), recorded.recording.count(Kind::Sync));
            let count = (wanted / 2 - trial.failures).min(100);
            trial.fail_power(&recorded, count, false, &mut chance).unwrap();
            println!(
                "{shards} shards: {} power losses in a run of {all} changes and {syncs} fsyncs, {} of them while it \
                 recovered from one; {} went on from a checkpoint",
                trial.failures, trial.failures_while_recovering, trial.went_on
            );
        }
        assert!(trial.went_on > 0, "a power loss came behind a checkpoint");
    }
}

/// What must be found if the disk lies about the fsync of files whose paths end so.
const LIES: [&str; 8] = ["", "checkpoints", "manifest", ".sst", ".staged", "windows.ndjson", "rows", ".sqlite"];

#[test]
fn each_fsync_is_needed_because_without_it_a_power_loss_does_harm_that_is_found() {
    let mut chance = Chance::from_environment("power loss without fsync");
    for ending in LIES {
        let mut trial = Trial::new(1);
        let mut past = trial.record(&format!("lie:{ending}"), false, "kept").unwrap();
        past.from = first_commit(&past.recording);
        let lies = past.recording.count(Kind::SyncLied);
        assert!(lies > 0, "no fsync of …{ending}");
        let found = trial.fail_power(&past, 200, false, &mut chance);
        let harm = found.expect_err(&format!("{lies} lies about fsync of …{ending} do no harm that this test finds"));
        println!("{lies} lies about fsync of …{ending}, found after {} power losses: {harm}", trial.failures);
    }
}
