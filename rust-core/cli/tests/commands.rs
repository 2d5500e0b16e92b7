//! The real command: exit codes, output, signals, reports.

mod folder;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use folder::{Finished, Folder};

/// Endless at a thousand rows a second into nothing.
const ENDLESS: &str = "[pipeline]\nname = \"endless\"\nshards = 1\n[sources.sensors]\nkind = \"generator\"\nrate = 1000\nkeys = 10\n[sinks.out]\nkind = \"null\"\ninputs = [\"sensors\"]\n";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the file is there")).expect("JSON")
}

#[test]
fn help_shows_commands_examples_and_exit_codes() {
    let folder = Folder::new("");
    folder.run(&["--help"]).expect(0, &["run ", "check ", "inspect ", "schema ", "Exit codes: 0 done, 1 failed"]);
    let run = [
        "--duration",
        "--report",
        "--hlog",
        "--fresh",
        "--from-checkpoint",
        "--quiet",
        "--set",
        "--log-format",
        "--log-level",
        "Examples:",
    ];
    folder.run(&["run", "--help"]).expect(0, &run);
    folder.run(&["inspect", "--help"]).expect(0, &["--watch", "--json", "Examples:"]);
    folder.run(&["check", "--help"]).expect(0, &["Examples:"]);
}

#[test]
fn misuse_ends_with_2() {
    let folder = Folder::new("[sources.s]\nkind = \"generator\"\nrow = 1\n");
    folder.run(&["fly"]).expect(2, &["unrecognized subcommand"]);
    folder.run(&["run"]).expect(2, &["FILE"]);
    folder.run(&["run", "pipeline.toml", "--duration", "10"]).expect(2, &["durations need a unit"]);
    folder.run(&["run", "nowhere.toml"]).expect(2, &["nowhere.toml: cannot be read: No such file"]);
    for command in ["run", "check"] {
        let parts = [
            "pipeline.toml:3:1",
            "unknown key `row`",
            "did you mean `rows`?",
            "needs `sinks`",
            "2 mistakes in pipeline.toml",
        ];
        folder.run(&[command, "pipeline.toml"]).expect(2, &parts);
    }
}

#[test]
fn flags_about_checkpoints_need_checkpoints() {
    let folder = Folder::new(ENDLESS);
    let parts =
        ["error: --fresh: pipeline.toml has no [checkpoint] table", "hint: without checkpoints every run begins"];
    folder.run(&["run", "pipeline.toml", "--fresh"]).expect(2, &parts);
    folder
        .run(&["run", "pipeline.toml", "--from-checkpoint", "7"])
        .expect(2, &["--from-checkpoint: pipeline.toml has no"]);
    folder.run(&["run", "pipeline.toml", "--fresh", "--from-checkpoint", "7"]).expect(2, &["cannot be used with"]);
    folder.run(&["run", "pipeline.toml", "--from-checkpoint", "last"]).expect(2, &["invalid value 'last'"]);
}

#[test]
fn a_wrong_failpoint_is_refused() {
    let folder = Folder::new(ENDLESS);
    let mut command = folder.command(&["run", "pipeline.toml"]);
    let finished = Finished::new(command.env("RINGMILL_FAILPOINT", "kill:x").output().expect("ringmill starts"));
    finished.expect(2, &["error: $RINGMILL_FAILPOINT: `kill:x` lacks the number of the hit", "hint: unset it"]);
}

#[test]
fn version_schema_and_completions_are_printed() {
    let folder = Folder::new("");
    folder.run(&["version"]).expect(0, &[concat!("ringmill ", env!("CARGO_PKG_VERSION"))]);
    assert_eq!(folder.run(&["schema"]).stdout, include_str!("../pipeline.schema.json"));
    folder.run(&["completions", "bash"]).expect(0, &["_ringmill()"]);
}

#[test]
fn check_prints_streams_and_memory() {
    let parts = ["endless: 1 shard", "sensors (source)", "timestamp[ms]", "out (sink) <- sensors", "in all", "\nok\n"];
    Folder::new(ENDLESS).run(&["check", "pipeline.toml"]).expect(0, &parts);
}

#[test]
fn a_run_reconciles_and_reports() {
    let folder = Folder::new(ENDLESS);
    let arguments = [
        "run",
        "pipeline.toml",
        "--report",
        "r.json",
        "--hlog",
        "r.hlog",
        "--set",
        "sources.sensors.rows=5000",
        "--set",
        "sources.sensors.rate=100000000",
    ];
    folder.run(&arguments).expect(
        0,
        &[
            "memory at most",
            "reconciled: 5,000 rows in, 5,000 out, 0 late, 0 dead letters",
            "end to end",
            "p99.99",
            "no checkpoints configured",
        ],
    );
    let report = json(&folder.path("r.json"));
    assert_eq!(report["pipeline"], "endless");
    assert_eq!((&report["rows"]["in"], &report["rows"]["out"]["out"]), (&Value::from(5000), &Value::from(5000)));
    assert_eq!((&report["rows"]["late"], &report["rows"]["dead_letters"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(report["reconciled"], true);
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(report["rows_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    assert_eq!((&report["workers"]["started"], &report["workers"]["restarts"]), (&Value::from(0), &Value::from(0)));
    assert_eq!((&report["workers"]["each"], &report["checkpoints"]), (&serde_json::json!({}), &Value::Null));
    assert!(report["memory_bytes"]["core"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!(report["memory_bytes"]["workers"], 0);
    for stage in ["end_to_end", "parse", "window", "request_ring", "udf", "response_ring", "sink"] {
        for figure in ["count", "min", "p50", "p90", "p99", "p99_9", "p99_99", "max"] {
            assert!(report["latency_ns"][stage].get(figure).is_some(), "{stage}.{figure}");
        }
    }
    let log = std::fs::read_to_string(folder.path("r.hlog")).expect("the log");
    assert!(log.starts_with("#[Histogram log format version 1.3]\n") && log.contains("\nTag=end_to_end,"), "{log}");
}

/// [`ENDLESS`] with an end and checkpoints; the second run of it has nothing left to read.
fn with_checkpoints() -> Folder {
    let rows = ENDLESS.replace("rate = 1000\n", "rows = 5000\n");
    Folder::new(&format!("[checkpoint]\npath = \"state\"\n{rows}"))
}

#[test]
fn a_run_goes_on_from_its_newest_checkpoint_and_reports_it() {
    let folder = with_checkpoints();
    let run = |more: &[&str]| folder.run(&[&["run", "pipeline.toml", "--report", "r.json"], more].concat());
    run(&[]).expect(0, &["1 checkpoint, the last (1) of ", "reconciled: 5,000 rows in"]);
    let report = json(&folder.path("r.json"));
    let first = &report["checkpoints"];
    assert_eq!((&first["last"], &first["count"], &first["recovered"]), (&1.into(), &1.into(), &Value::Null));
    for figure in ["age_seconds", "duration_seconds", "bytes"] {
        assert!(first[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}");
    }

    run(&[]).expect(0, &["went on from checkpoint 1; 5,000 rows before it are counted below, too", "0 rows/s"]);
    let report = json(&folder.path("r.json"));
    let recovered = &report["checkpoints"]["recovered"];
    assert_eq!((&recovered["id"], &recovered["rows_in"]), (&1.into(), &5000.into()));
    assert_eq!(recovered["is_final"], true);
    assert_eq!((&report["rows"]["in"], &report["rows_per_second"]), (&5000.into(), &0.0.into()));
    assert_eq!(report["reconciled"], true);

    run(&["--from-checkpoint", "99"])
        .expect(1, &["error: there is no checkpoint 99", "hint: `ringmill checkpoints list`"]);
    run(&["--fresh"]).expect(0, &["1 checkpoint, the last (1) of "]);
    assert_eq!(json(&folder.path("r.json"))["checkpoints"]["recovered"], Value::Null);
}

#[test]
fn a_state_folder_has_one_owner() {
    let folder = Folder::new(&format!("[checkpoint]\npath = \"state\"\n{ENDLESS}"));
    let (mut child, mut stderr) = start(&folder);
    until_shown(&folder, &mut child);
    folder.run(&["run", "pipeline.toml"]).expect(1, &["error: ", "is in use by process "]);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("kill");
    stderr.read_to_string(&mut String::new()).expect("output");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    // The drain took a last checkpoint, and it is not the end of the input.
    let listed = folder.run(&["checkpoints", "list", "state", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed[0]["is_final"], false, "{listed}");
}

#[test]
fn quiet_runs_print_nothing() {
    let finished = Folder::new(ENDLESS).run(&["run", "pipeline.toml", "-q", "--set", "sources.sensors.rows=10"]);
    assert_eq!((finished.code, finished.stdout.as_str(), finished.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn a_json_log_is_json_line_by_line() {
    let folder = Folder::new(ENDLESS);
    let arguments = ["run", "pipeline.toml", "--log-format", "json", "--set", "sources.sensors.rows=10"];
    for (more, code) in
        [(&[][..], 0), (&["--set", "sinks.out.inputs=[\"x\"]"][..], 2), (&["--report", "no/r.json"][..], 1)]
    {
        let finished = folder.run(&[&arguments[..], more].concat());
        finished.expect(code, &[]);
        let lines: Vec<Value> = finished.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let last = lines.last().expect("a line");
        match code {
            0 => assert!(last["report"].as_str().is_some_and(|report| report.contains("\"reconciled\":true"))),
            _ => assert_eq!((&last["level"], &last["exit_code"]), (&Value::from("ERROR"), &Value::from(code))),
        }
    }
}

#[test]
fn check_tells_what_nobody_reads() {
    let folder = Folder::new(&format!("{ENDLESS}[sources.idle]\nkind = \"generator\"\n"));
    folder.run(&["check", "pipeline.toml"]).expect(0, &["note: nobody reads `idle`"]);
}

#[test]
fn a_time_limit_ends_an_endless_source_in_good_order() {
    let folder = Folder::new(ENDLESS);
    folder.run(&["run", "pipeline.toml", "--duration", "200ms", "--report", "r.json"]).expect(0, &["reconciled"]);
    assert!(json(&folder.path("r.json"))["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.2));
}

#[test]
fn rows_go_to_standard_output_and_talk_to_standard_error() {
    let folder = Folder::new(&ENDLESS.replace("kind = \"null\"", "kind = \"stdout\""));
    let finished = folder.run(&["run", "pipeline.toml", "--set", "sources.sensors.rows=3"]);
    finished.expect(0, &["reconciled"]);
    let rows: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row["temperature"].is_f64()));
}

#[test]
fn what_cannot_be_written_or_read_ends_with_1() {
    let folder = Folder::new(ENDLESS);
    let arguments = ["run", "pipeline.toml", "--set", "sources.sensors.rows=3"];
    let with = |more: &[&'static str]| [&arguments[..], more].concat();
    folder.run(&with(&["--report", "no/r.json"])).expect(1, &["error: no/r.json cannot be written"]);
    folder.run(&with(&["--hlog", "no/r.hlog"])).expect(1, &["error: no/r.hlog cannot be written"]);
    let file = "[sources.s]\nkind = \"file\"\npath = \"absent.csv\"\nfields = { a = \"utf8\" }\n[sinks.o]\nkind = \"null\"\ninputs = [\"s\"]\n";
    Folder::new(file).run(&["run", "pipeline.toml"]).expect(1, &["error: s: ", "absent.csv"]);
}

#[test]
fn a_python_without_ringmill_is_named_with_the_cure() {
    let step = "[steps.u]\nkind = \"udf\"\ninputs = [\"sensors\"]\nfunction = \"mine:f\"\n";
    let folder = Folder::new(&format!("{ENDLESS}{step}"));
    let set = ["check", "pipeline.toml", "--set"];
    folder
        .run(&[&set[..], &["pipeline.python=/no/python"]].concat())
        .expect(2, &["there is no Python interpreter at `/no/python`", "RINGMILL_PYTHON"]);
    // An interpreter that knows nothing: -S and -I would do, but they cannot be given here.
    std::fs::write(folder.path("python"), "#!/bin/sh\necho \"/python: No module named ringmill\" >&2\nexit 1\n")
        .expect("write");
    let mut permissions = std::fs::metadata(folder.path("python")).expect("metadata").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(folder.path("python"), permissions).expect("chmod");
    folder
        .run(&[&set[..], &["pipeline.python=./python"]].concat())
        .expect(2, &["No module named ringmill", "hint: install the ringmill package"]);
}

/// Starts an endless run and waits until it has said its first line.
fn start(folder: &Folder) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = folder.command(&["run", "pipeline.toml"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("ringmill starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("a line");
    assert!(line.contains("memory at most"), "{line}");
    (child, stderr)
}

/// Waits until `ringmill inspect` finds the run in the folder; signals are watched before that.
fn until_shown(folder: &Folder, child: &mut Child) -> Finished {
    loop {
        assert_eq!(child.try_wait().expect("wait"), None, "the run has ended");
        let seen = folder.run(&["inspect", "--json", "--interval", "1ms"]);
        if seen.code == Some(0) {
            return seen;
        }
        std::thread::yield_now();
    }
}

#[test]
fn the_first_signal_drains_and_reports() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let folder = Folder::new(ENDLESS);
        let (mut child, mut stderr) = start(&folder);
        until_shown(&folder, &mut child);
        kill(Pid::from_raw(child.id() as i32), signal).expect("kill");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("output");
        assert_eq!(child.wait().expect("wait").code(), Some(0), "{rest}");
        assert!(rest.contains("draining") && rest.contains("reconciled"), "{rest}");
    }
}

#[test]
fn the_second_signal_ends_at_once() {
    let folder = Folder::new(&ENDLESS.replace("kind = \"null\"", "kind = \"stdout\"").replace("rate = 1000\n", ""));
    // Of standard output one byte is read, from a pipe that holds less than the rows of one batch: the sink stands still
    // from its first write on, and the run cannot drain.
    let (mut rows, stdout) = std::io::pipe().expect("a pipe");
    fcntl(&rows, FcntlArg::F_SETPIPE_SZ(4096)).expect("a smaller pipe");
    let mut command = folder.command(&["run", "pipeline.toml"]);
    let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("ringmill starts");
    rows.read_exact(&mut [0]).expect("a row");
    let pid = Pid::from_raw(child.id() as i32);
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    kill(pid, Signal::SIGINT).expect("kill");
    let mut line = String::new();
    while !line.contains("draining") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("a line"), 0, "the run has ended");
    }
    kill(pid, Signal::SIGINT).expect("kill");
    assert_eq!(child.wait().expect("wait").code(), Some(130));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("output");
    assert!(rest.contains("error: ended at once"), "{rest}");
}

#[test]
fn inspect_finds_runs_by_name_and_process() {
    let folder = Folder::new(ENDLESS);
    folder.run(&["inspect"]).expect(1, &["no pipeline of yours is running", "ringmill run"]);
    let (mut child, mut stderr) = start(&folder);
    let seen: Value = serde_json::from_str(&until_shown(&folder, &mut child).stdout).expect("JSON");
    assert_eq!((&seen["pipeline"], &seen["pid"]), (&Value::from("endless"), &Value::from(child.id())));
    let pid = child.id().to_string();
    for name in ["endless", &pid] {
        folder.run(&["inspect", name, "--interval", "1ms"]).expect(0, &["endless (process ", "no workers"]);
    }
    folder.run(&["inspect", "other"]).expect(1, &["no pipeline called \"other\"", "endless"]);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("kill");
    stderr.read_to_string(&mut String::new()).expect("output");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}
