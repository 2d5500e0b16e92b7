//! The disk is full, or fails: the pipeline waits for space and goes on, or ends with a clear error; what it shows is
//! never wrong, and after a restart it is what an undisturbed run shows.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringmill_system_tests::chaos::{Chance, Progress, kill_now, rounds, side_by_side};
use ringmill_system_tests::power::{Kind, OPENED_NEW, Outputs, Pipeline, Record, Recording, run};
use ringmill_system_tests::terminate;

const ROWS: u64 = 20_000;
/// Slow enough for several checkpoints.
const RATE: u64 = 80_000;
/// Most of their time the runs wait for space.
const AT_ONCE: usize = 8;
/// As good as all.
const EVERY: u64 = 2_000;
/// So many calls in a row that did not come any more are the end of them.
const MISSES_MAX: u64 = 40;

/// How runs ended.
#[derive(Default)]
struct Figures {
    /// Faults that were met.
    met: AtomicU64,
    /// Runs that said that they waited, and then went on to the end.
    waited: AtomicU64,
    /// Runs that went on without a word, because what failed was not needed.
    unmoved: AtomicU64,
    /// The calls that they did not need, and on which files.
    unneeded: Mutex<BTreeSet<String>>,
    /// Runs that ended with an error.
    ended: AtomicU64,
    /// … before anything was shown.
    ended_at_start: AtomicU64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [met, waited, unmoved, ended, at_start] =
            [&self.met, &self.waited, &self.unmoved, &self.ended, &self.ended_at_start]
                .map(|figure| figure.load(Ordering::Relaxed));
        write!(
            f,
            "{met} faults met: {waited} runs waited and went on, {unmoved} did not need what failed, {ended} ended with \
             an error ({at_start} of them at their start)"
        )?;
        let unneeded = self.unneeded.lock().expect("no other thread has failed");
        unneeded.iter().try_for_each(|call| write!(f, "\n  not needed: {call}"))
    }
}

/// A path whose numbers, which tell epochs and tables apart, are all 0.
fn without_numbers(path: &str) -> String {
    let mut plain = String::new();
    for character in path.chars() {
        match character {
            '0'..='9' if plain.ends_with('0') => {}
            '0'..='9' => plain.push('0'),
            _ => plain.push(character),
        }
    }
    plain
}

fn count(figure: &AtomicU64) {
    figure.fetch_add(1, Ordering::Relaxed);
}

/// Windows into a file, filtered rows into parts and into a table.
fn pipeline() -> Pipeline {
    Pipeline::new(2, ROWS, RATE).with_table()
}

/// How many calls of these kinds an undisturbed run makes, about.
fn calls(kinds: &[Kind]) -> u64 {
    let pipeline = pipeline();
    assert!(run(&mut pipeline.watched(false, "record")).status.success());
    let recording = Recording::read(&pipeline.path("log"));
    let is_meant = |record: &Record<'_>| kinds.contains(&record.kind) && !is_reopening(record);
    recording.records().filter(is_meant).count() as u64
}

fn is_reopening(record: &Record<'_>) -> bool {
    record.kind == Kind::Open && record.number & OPENED_NEW == 0
}

/// Runs with one fault, then without; whether the fault was met.
fn check(fault: &str, expected: &Outputs, figures: &Figures) -> bool {
    let pipeline = pipeline();
    let output = run(&mut pipeline.watched(false, fault));
    let recording = Recording::read(&pipeline.path("log"));
    let Some(record) = recording.records().find(|record| record.kind == Kind::Fault) else { return false };
    let where_it_was = String::from_utf8_lossy(record.path).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    let context = format!("{fault} at {where_it_was}:\n{said}");
    assert!(output.status.code().is_some() && !said.contains("panicked"), "{context}");
    count(&figures.met);
    let has_waited = said.contains("trying again every second");
    if output.status.success() {
        assert!(pipeline.outputs() == *expected, "the output differs from that of an undisturbed run; {context}");
        if has_waited {
            count(&figures.waited);
        } else {
            count(&figures.unmoved);
            let call = format!("{} {}", String::from_utf8_lossy(record.other), without_numbers(&where_it_was));
            figures.unneeded.lock().expect("no other thread has failed").insert(call);
        }
    } else {
        let reasons =
            ["No space left on device", "Disk quota exceeded", "Input/output error", "disk I/O error", "is full"];
        assert!(reasons.iter().any(|reason| said.contains(reason)), "the error does not say what is wrong; {context}");
        assert!(fault.contains("EIO"), "the run did not wait for space; {context}");
        let is_at_start = pipeline.outputs().iter().all(String::is_empty);
        count(&figures.ended);
        figures.ended_at_start.fetch_add(u64::from(is_at_start), Ordering::Relaxed);
    }
    check_restart(&pipeline, expected, &context);
    true
}

fn check_restart(pipeline: &Pipeline, expected: &Outputs, context: &str) {
    let output = run(&mut pipeline.command(true));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the restart failed: {said}; before it: {context}");
    assert!(pipeline.outputs() == *expected, "the output differs after a restart: {said}; before it: {context}");
}

/// Lets the n-th call fail, several runs at once, and prints what came of them. `RINGMILL_DISK_ERRORS` says how many
/// numbers n, spread over all calls; from [`EVERY`] on it is every n until none is met any more.
fn check_all(test: &str, calls: u64, fault: impl Fn(u64, &mut Chance) -> String + Sync) {
    let mut chance = Chance::from_environment(test);
    let wanted = rounds("RINGMILL_DISK_ERRORS", 16);
    let is_every = wanted >= EVERY;
    let step = if is_every { 1 } else { (calls / wanted).max(1) };
    let faults: Vec<(u64, Chance)> =
        (0..wanted).map(|index| (1 + index * step + chance.below(step), Chance::of(chance.number()))).collect();
    let (expected, figures) = (pipeline().undisturbed(), Figures::default());
    let (misses, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut progress = Progress::of("faults", wanted.min(calls));
    let left = faults.into_iter().inspect(|(n, _)| progress.at(n / step));
    let left = left.take_while(|_| !is_over.load(Ordering::Relaxed));
    side_by_side(AT_ONCE, left, |(mut n, mut chance)| {
        // Runs differ in how many calls they make.
        let mut is_met = check(&fault(n, &mut chance), &expected, &figures);
        while !is_met && !is_every && n > 1 {
            n /= 2;
            is_met = check(&fault(n, &mut chance), &expected, &figures);
        }
        let misses_now = if is_met { 0 } else { misses.load(Ordering::Relaxed) + 1 };
        misses.store(misses_now, Ordering::Relaxed);
        // One that was begun before may still be met.
        is_over.fetch_or(misses_now >= MISSES_MAX, Ordering::Relaxed);
    });
    println!("{test}: {figures}");
    let met = figures.met.load(Ordering::Relaxed);
    assert!(met > 0 && (!is_every || is_over.into_inner()), "not every call has failed yet");
}

#[test]
fn a_full_disk_makes_a_run_wait_and_go_on_whichever_call_meets_it() {
    let calls = calls(&[Kind::Write, Kind::Open, Kind::MakeFolder, Kind::Link, Kind::Rename, Kind::Grow]);
    check_all("full disk", calls, |n, chance| match chance.below(3) {
        0 => format!("fail:ENOSPC:space:{n}"),
        1 => format!("fail:ENOSPC:space:{n}:4"),
        _ => format!("fail:EDQUOT:space:{n}:4:short"),
    });
}

#[test]
fn a_failing_disk_ends_a_run_with_a_clear_error_or_does_no_harm_whichever_call_meets_it() {
    let [writes, names] =
        [[Kind::Write, Kind::Open, Kind::MakeFolder, Kind::Link], [Kind::Rename, Kind::Grow, Kind::Sync, Kind::Remove]];
    let calls = calls(&[writes, names].concat());
    check_all("failing disk", calls, |n, chance| match chance.below(3) {
        0 => format!("fail:EIO:any:{n}"),
        1 => format!("fail:EIO:any:{n}:forever"),
        _ => format!("fail:EIO:any:{n}:2:short"),
    });
}

/// Reads what a run says until it waits for space.
fn read_until_it_waits(child: &mut Child) -> String {
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    while lines.read_line(&mut said).expect("stderr is text") > 0 {
        if said.contains("trying again") {
            // What comes after it is read by nobody else, and must not block the run.
            std::thread::spawn(move || std::io::copy(&mut lines.by_ref(), &mut std::io::sink()));
            return said;
        }
    }
    panic!("the run ended before it waited for space: {said}");
}

/// How many writes a run makes before it has rows, about.
fn writes_at_start() -> u64 {
    let pipeline = pipeline();
    assert!(run(&mut pipeline.watched(false, "record")).status.success());
    let recording = Recording::read(&pipeline.path("log"));
    let is_staging = |record: &Record<'_>| record.kind == Kind::Open && record.path.ends_with(b".staged");
    let before = recording.records().take_while(|record| !is_staging(record));
    before.filter(|record| record.kind == Kind::Write).count() as u64
}

#[test]
fn a_run_that_is_killed_while_it_waits_for_space_has_lost_nothing() {
    let mut chance = Chance::from_environment("killed while waiting");
    let expected = pipeline().undisturbed();
    let first = writes_at_start() + 5;
    for _ in 0..rounds("RINGMILL_DISK_ERRORS", 16).div_ceil(6).min(50) {
        let pipeline = pipeline();
        let fault = format!("fail:ENOSPC:write:{}:forever", first + chance.below(20));
        let mut command = pipeline.watched(false, &fault);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = read_until_it_waits(&mut child);
        kill_now(child.id() as i32);
        child.wait().unwrap();
        check_restart(&pipeline, &expected, &format!("{fault}: {said}"));
    }
}

/// Runs it with a real file system of 2 MiB in the place of its disk, in a mount namespace of its own; what was written
/// is copied out of it at the end.
fn start_on_a_small_disk(pipeline: &Pipeline) -> Child {
    let script = "mount -t tmpfs -o size=2m,mode=700 none disk && \
                  { \"$0\" \"$@\"; code=$?; cp -r disk small; exit $code; }";
    let inner = pipeline.command(false);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(pipeline.path("")).env("XDG_RUNTIME_DIR", pipeline.path(""));
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("unshare can be started")
}

fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "sh", "-c", "mount -t tmpfs none /mnt"]).output();
    tried.is_ok_and(|Output { status, .. }| status.success())
}

/// Sends a run one SIGTERM while it waits for space, and checks that this ends it, and how.
fn check_that_one_signal_ends(pipeline: &Pipeline, fault: &str, expected: &Outputs) {
    let mut command = pipeline.watched(false, fault);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = read_until_it_waits(&mut child);
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(75), "{fault}: {said}");
    for (shown, whole) in pipeline.outputs().iter().zip(expected) {
        let whole: BTreeSet<&str> = whole.lines().collect();
        assert!(shown.lines().all(|line| whole.contains(line)), "{fault}: something is shown that should not be");
    }
    check_restart(pipeline, expected, fault);
}

#[test]
fn one_signal_ends_a_run_that_waits_for_space_and_the_next_run_goes_on() {
    let mut chance = Chance::from_environment("ended while waiting");
    let expected = pipeline().undisturbed();
    check_that_one_signal_ends(&pipeline(), "fail:ENOSPC:space:1:forever", &expected);
    let fault = format!("fail:ENOSPC:write:{}:forever", writes_at_start() + 5 + chance.below(20));
    check_that_one_signal_ends(&pipeline(), &fault, &expected);
}

#[test]
fn a_small_disk_that_is_full_and_then_grows_makes_a_run_wait_and_go_on() {
    if !can_mount() {
        println!("SKIPPED: only root can mount a small disk");
        return;
    }
    let expected = pipeline().undisturbed();
    let pipeline = pipeline();
    let mut child = start_on_a_small_disk(&pipeline);
    let said = read_until_it_waits(&mut child);
    let mut grow = Command::new("nsenter");
    grow.args(["--target", &child.id().to_string(), "--mount", "mount", "-o", "remount,size=64m"]);
    assert!(grow.arg(pipeline.disk()).status().unwrap().success());
    assert!(child.wait().unwrap().success(), "{said}");
    std::fs::remove_dir_all(pipeline.disk()).unwrap();
    std::fs::rename(pipeline.path("small"), pipeline.disk()).unwrap();
    assert!(pipeline.outputs() == expected, "the output differs from that of an undisturbed run");
}
