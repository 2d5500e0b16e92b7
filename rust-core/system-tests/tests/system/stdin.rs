//! Standard input and FIFOs with checkpoints: a core that dies, however it dies, has lost nothing that was durable.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use ringmill_system_tests::chaos::{Chance, kill_now, rounds};
use ringmill_system_tests::{JOURNAL_HEAD_BYTES, Job, journaled_bytes, terminate, until};

const PIPELINE: &str = r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"
interval = "20ms"

[sources.lines]
kind = "stdin"
fields = { number = "int64" }

[sinks.out]
kind = "file"
path = "out.ndjson"
inputs = ["lines"]
"#;

fn start(job: &Job) -> (Child, ChildStdin) {
    let mut child = job.command(&[]).stdin(Stdio::piped()).spawn().expect("the ringmill command is built");
    let stdin = child.stdin.take().expect("a pipe");
    (child, stdin)
}

fn line(number: u64) -> String {
    format!("{{\"number\":{number}}}\n")
}

/// The numbers of the whole rows; of the last one a part may be written yet.
fn shown(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let number = |line: &str| line.trim_start_matches("{\"number\":").trim_end_matches('}').parse::<u64>();
    whole.lines().map(|line| number(line).expect("a whole row")).collect()
}

#[test]
fn every_line_that_was_durable_is_shown_once_however_often_the_core_dies() {
    let mut chance = Chance::from_environment("standard input");
    let job = Job::new(PIPELINE, "");
    let out = job.path("out.ndjson");
    let wanted = rounds("RINGMILL_STDIN_KILLS", 10);
    let (mut next, mut sent, mut unfinished, mut orderly) = (0, 0, 0, 0);
    for round in 0..wanted {
        let (mut child, mut stdin) = start(&job);
        for _ in 0..1 + chance.below(4) {
            let lines = 1 + chance.below(5_000);
            let burst: String = (next..next + lines).map(line).collect();
            stdin.write_all(burst.as_bytes()).expect("the run reads");
            next += lines;
            sent += burst.len() as u64;
            until(&mut child, || journaled_bytes(&job) == sent);
            if chance.below(3) == 0 {
                until(&mut child, || shown_last(&out) == Some(next - 1));
            }
        }
        // What is in the file may be on its way to the disk still; it is in the system's hands, and the core dies, not
        // the system.
        unfinished += u64::from(shown_last(&out) != Some(next - 1));
        if round % 2 == 0 {
            kill_now(child.id() as i32);
        } else {
            orderly += 1;
            terminate(&child);
        }
        drop(stdin);
        let status = child.wait().expect("a child can be waited for");
        assert_eq!(status.code(), (round % 2 == 1).then_some(0));
        let rows = shown(&out);
        assert!(rows.iter().copied().eq(0..rows.len() as u64), "rows are whole, in order and once");
    }
    let (child, mut stdin) = start(&job);
    stdin.write_all(line(next).as_bytes()).expect("the run reads");
    drop(stdin);
    let ended = job.wait(child);
    assert_eq!(ended.figure("/rows/in"), next + 1, "totals go on from the checkpoint");
    assert!(shown(&out).into_iter().eq(0..=next));
    println!("{next} lines, {wanted} deaths, {orderly} of them by SIGTERM; {unfinished} before all lines were shown");
}

fn shown_last(path: &Path) -> Option<u64> {
    shown(path).last().copied()
}

#[test]
fn a_fresh_run_forgets_the_journal_and_a_lost_one_is_refused() {
    let job = Job::new(PIPELINE, "");
    let run = |arguments: &[&str], lines: &str| {
        let mut child = job.command(&[]).args(arguments).stdin(Stdio::piped()).spawn().expect("it is built");
        // A run that is refused does not read.
        let _ = child.stdin.take().expect("a pipe").write_all(lines.as_bytes());
        job.wait(child)
    };
    run(&[], &line(1)).report();
    run(&[], &line(2)).report();
    assert_eq!(shown(&job.path("out.ndjson")), [1, 2]);
    let kept = job.path("state/journal");
    std::fs::rename(&kept, job.path("moved")).expect("it is there");
    let refused = run(&[], &line(3));
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("--fresh begins anew"), "{}", refused.stderr);
    assert_eq!(shown(&job.path("out.ndjson")), [1, 2]);
    std::fs::rename(job.path("moved"), &kept).expect("it is there");
    run(&[], &line(3)).report();
    assert_eq!(shown(&job.path("out.ndjson")), [1, 2, 3]);
    run(&["--fresh"], &line(4)).report();
    assert_eq!(shown(&job.path("out.ndjson")), [4]);
    let bytes: u64 = std::fs::read_dir(kept.join("lines"))
        .expect("it is there")
        .flatten()
        .map(|file| file.metadata().expect("it is there").len())
        .sum();
    assert_eq!(bytes, 4 * JOURNAL_HEAD_BYTES as u64 + line(4).len() as u64);
}

#[test]
fn a_fifo_is_journaled_too_and_goes_on_under_a_writer_that_stays() {
    let mut chance = Chance::from_environment("a FIFO");
    let pipeline = PIPELINE.replace("kind = \"stdin\"", "kind = \"file\"\npath = \"pipe*.ndjson\"");
    let job = Job::new(&pipeline, "");
    nix::unistd::mkfifo(&job.path("pipe.ndjson"), nix::sys::stat::Mode::S_IRWXU).expect("the folder can be written");
    // Whoever holds both ends never waits for the other, and keeps what was not read.
    let mut pipe = std::fs::File::options().read(true).write(true).open(job.path("pipe.ndjson")).expect("a FIFO");
    let (out, wanted) = (job.path("out.ndjson"), rounds("RINGMILL_STDIN_KILLS", 6));
    let (mut next, mut sent) = (0, 0);
    for round in 0..wanted {
        let mut child = job.start(&[]);
        for _ in 0..1 + chance.below(3) {
            let lines = 1 + chance.below(5_000);
            let burst: String = (next..next + lines).map(line).collect();
            pipe.write_all(burst.as_bytes()).expect("the run reads");
            next += lines;
            sent += burst.len() as u64;
            until(&mut child, || journaled_bytes(&job) == sent);
            if chance.below(2) == 0 {
                until(&mut child, || shown_last(&out) == Some(next - 1));
            }
        }
        match round % 2 {
            0 => kill_now(child.id() as i32),
            _ => terminate(&child),
        }
        let status = child.wait().expect("a child can be waited for");
        assert_eq!(status.code(), (round % 2 == 1).then_some(0));
        let rows = shown(&out);
        assert!(rows.iter().copied().eq(0..rows.len() as u64), "rows are whole, in order and once");
    }
    pipe.write_all(line(next).as_bytes()).expect("it has room");
    let mut child = job.start(&[]);
    until(&mut child, || journaled_bytes(&job) == sent + line(next).len() as u64);
    drop(pipe);
    let ended = job.wait(child);
    assert_eq!(ended.figure("/rows/in"), next + 1);
    assert!(shown(&out).into_iter().eq(0..=next));
}
