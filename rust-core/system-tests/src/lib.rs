//! Runs the real `ringmill` command on pipelines in folders of their own.
//!
//! The command and the interpreter are those of the environment (`RINGMILL_BIN`, `RINGMILL_PYTHON`, set by
//! `scripts/test`); without them, the command next to the test binary and `python3`.

pub mod bodies;
pub mod certificates;
pub mod chaos;
pub mod http;
pub mod kafka;
pub mod kafka_broker;
pub mod messages;
pub mod mosquitto;
pub mod nats;
pub mod page;
pub mod postgres;
pub mod power;
pub mod registry;
pub mod relay;
pub mod taker;

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// `[checkpoint]` of a pipeline that is killed often.
pub const CHECKPOINT: &str = "[checkpoint]\npath = \"state\"\ninterval = \"20ms\"\n";

/// A source `rows` that reads so many rows a second of these columns from `in.ndjson`.
pub fn file_source(rate: u64, fields: &str) -> String {
    format!("[sources.rows]\nkind = \"file\"\npath = \"in.ndjson\"\nrate = {rate}\nfields = {{ {fields} }}\n")
}

/// Sinks of a source's rows (`out.ndjson`) and of its dead letters (`dead.ndjson`).
pub fn sinks_of(source: &str) -> String {
    format!(
        r#"
[sinks.out]
kind = "file"
path = "out.ndjson"
inputs = ["{source}"]

[sinks.dead]
kind = "file"
path = "dead.ndjson"
inputs = ["{source}.dead_letters"]
"#
    )
}

/// A folder with a pipeline and its functions.
pub struct Job {
    folder: TempDir,
}

/// A run that has ended.
pub struct Ended {
    /// Exit code; `None` if it was killed by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// `report.json`, if it was written.
    pub report: Option<Value>,
}

/// The command under test.
pub fn ringmill() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGMILL_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.parent().and_then(Path::parent).expect("tests lie in target/release/deps");
    target.join("ringmill")
}

/// A program of this machine, also of those that are for administrators.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|program| program.exists())
}

/// The interpreter under test.
pub fn python() -> PathBuf {
    std::env::var_os("RINGMILL_PYTHON").unwrap_or_else(|| "python3".into()).into()
}

impl Job {
    /// A folder with `pipeline.toml` and `functions.py`.
    pub fn new(pipeline: &str, functions: &str) -> Job {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let job = Job { folder };
        job.write("pipeline.toml", pipeline);
        job.write("functions.py", format!("import numpy as np\nimport ringmill as rm\n\n{functions}"));
        job
    }

    /// Puts a file beside the pipeline.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("the folder can be written");
    }

    /// The pipeline's folder, where its runs also show themselves to `ringmill inspect`.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().into()
    }

    /// A file beside the pipeline.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The text of a file beside the pipeline.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
    }

    /// The rows of an NDJSON file beside the pipeline.
    pub fn rows(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
    }

    /// `ringmill run pipeline.toml` with these settings, to be started.
    pub fn command(&self, settings: &[&str]) -> Command {
        let mut command = Command::new(ringmill());
        command.args(["run", "pipeline.toml", "--report", "report.json"]).current_dir(self.folder.path());
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, settings: &[&str]) -> Ended {
        self.wait(self.start(settings))
    }

    /// Starts it.
    pub fn start(&self, settings: &[&str]) -> Child {
        self.command(settings).spawn().expect("the ringmill command is built (scripts/setup)")
    }

    /// Runs a Python script beside the pipeline to its end, which has to be a good one.
    pub fn script(&self, script: &str, arguments: &[&str]) {
        let output = Command::new(python()).args(["-c", script]).args(arguments).current_dir(self.folder()).output();
        let output = output.expect("Python is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `ringmill dlq` with these arguments to its end, which has to be a good one; what it printed.
    pub fn dlq(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(ringmill());
        command.arg("dlq").args(arguments).current_dir(self.folder()).env("XDG_RUNTIME_DIR", self.folder());
        let output = command.output().expect("the ringmill command is built (scripts/setup)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The stored letters, or those that further arguments choose.
    pub fn letters(&self, chosen: &[&str]) -> Vec<Value> {
        let shown = self.dlq(&[&["show", "pipeline.toml", "--json"], chosen].concat());
        shown.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
    }

    /// Waits for a started run.
    pub fn wait(&self, child: Child) -> Ended {
        let output = child.wait_with_output().expect("its output can be read");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let report = std::fs::read(self.path("report.json")).ok();
        let report = report.map(|report| serde_json::from_slice(&report).expect("the report is JSON"));
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr), report }
    }

    /// Ends a started run in good order.
    pub fn end(&self, child: Child) -> Ended {
        terminate(&child);
        self.wait(child)
    }

    /// The rows of an NDJSON file beside the pipeline whose last line may be torn until the next start, as after a kill;
    /// none if it is not there.
    pub fn whole_rows(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).expect("a whole row")).collect()
    }
}

impl Ended {
    /// Fails the test unless it ended well; returns the report.
    pub fn report(&self) -> &Value {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.report.as_ref().expect("a run that ended well wrote its report")
    }

    /// A figure of the report, by JSON pointer.
    pub fn figure(&self, pointer: &str) -> u64 {
        let found = self.report().pointer(pointer);
        found.and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {}", self.report()))
    }
}

/// Asks a run to end in good order, as a service manager does.
pub fn terminate(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it is there");
}

/// An address of this machine at which nobody listens, with a port below those that the system deals out (from 32,768 on),
/// so that nobody is given it before it is used; tests that run at the same time begin elsewhere.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(61);
    let ports = std::iter::repeat_with(|| 10_000 + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 22_000);
    let mut addresses = ports.take(22_000).map(|port| SocketAddr::from(([127, 0, 0, 1], port as u16)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

/// Reads from a running child's standard error until `text` was seen; returns what was read.
pub fn read_until(child: &mut Child, text: &str) -> String {
    let stderr = child.stderr.as_mut().expect("stderr is a pipe");
    let (mut seen, mut byte) = (Vec::new(), [0_u8; 1]);
    while !String::from_utf8_lossy(&seen).contains(text) {
        match stderr.read(&mut byte) {
            Ok(1) => seen.push(byte[0]),
            _ => panic!("the run ended before it said {text:?}: {}", String::from_utf8_lossy(&seen)),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// Waits until something is so that a process does and tells nobody. Fails the test if the process ends before.
pub fn until(child: &mut Child, mut what: impl FnMut() -> bool) {
    while !what() {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            let mut said = String::new();
            let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
            panic!("it ended too soon, with {status}: {said}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A journal's segment and each of its records begin with so many bytes of their own.
pub const JOURNAL_HEAD_BYTES: usize = 24;

/// How many bytes of the stream are in the journal's files: records are a head, in which the length stands, and bytes.
pub fn journaled_bytes(job: &Job) -> u64 {
    let journals = std::fs::read_dir(job.path("state/journal")).into_iter().flatten().flatten();
    let segments = journals.flat_map(|journal| std::fs::read_dir(journal.path()).into_iter().flatten().flatten());
    let mut bytes = 0;
    for segment in segments {
        let segment = std::fs::read(segment.path()).unwrap_or_default();
        let mut rest = segment.get(JOURNAL_HEAD_BYTES..).unwrap_or_default();
        while let Some(length) = rest.get(8..12) {
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            let Some(behind) = rest.get(JOURNAL_HEAD_BYTES + length..) else { break };
            bytes += length as u64;
            rest = behind;
        }
    }
    bytes
}

/// Live child processes of a process.
pub fn children_of(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}
