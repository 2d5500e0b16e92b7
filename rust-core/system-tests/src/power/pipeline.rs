//! The pipeline whose disk loses power or fails: windows into a file, filtered rows into parts that go on
//! over checkpoints, and into a table.
//!
//! All that it writes lies below one folder, `disk`. It runs no Python, so that a round takes a few hundredths of a
//! second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;

use super::recording::Watched;
use crate::ringmill;

/// Memory that must be free to be used as a disk.
const MEMORY_BYTES: u64 = 1 << 30;

const TABLE: &str = r#"
[steps.hot]
kind = "filter"
inputs = ["sensors"]
where = "temperature > 25.0"

[sinks.alarms]
kind = "sqlite"
inputs = ["hot"]
path = "disk/alarms.sqlite"
table = "alarms"
"#;

/// A folder with the pipeline, `disk` and `log`.
pub struct Pipeline {
    folder: TempDir,
    is_ordered: bool,
}

impl Pipeline {
    /// With a generator of this many rows at this rate.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn new(shards: usize, rows: u64, rate: u64) -> Pipeline {
        let text = format!(
            r#"
[pipeline]
shards = {shards}

[checkpoint]
path = "disk/state"
interval = "20ms"

[sources.sensors]
kind = "generator"
keys = 50
rows = {rows}
rate = {rate}
event_time = "timestamp"

[steps.averages]
kind = "window"
inputs = ["sensors"]
key = ["device_id"]
window = {{ tumbling = "1s" }}
aggregates = {{ least = "min(temperature)", most = "max(temperature)", readings = "count()" }}
statistics = {{ of = "most", as = ["mean", "std", "count"] }}

[steps.warm]
kind = "filter"
inputs = ["sensors"]
where = "temperature > 20.0"

[sinks.windows]
kind = "file"
inputs = ["averages"]
path = "disk/windows.ndjson"

[sinks.rows]
kind = "file"
inputs = ["warm"]
path = "disk/rows/"
format = "json"
file_size_max = "256KiB"
roll_interval = "50ms"
"#
        );
        let pipeline = Pipeline { folder: folder(), is_ordered: shards == 1 };
        fs::write(pipeline.path("pipeline.toml"), text).expect("there is room");
        fs::create_dir(pipeline.disk()).expect("there is room");
        pipeline
    }

    /// With a table too, for some of the rows.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn with_table(self) -> Pipeline {
        let text = fs::read_to_string(self.path("pipeline.toml")).expect("it was written");
        fs::write(self.path("pipeline.toml"), text + TABLE).expect("there is room");
        self
    }

    /// A file beside the pipeline.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder with all that it writes.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    /// `ringmill run`, at full speed or at the generator's rate.
    #[must_use]
    pub fn command(&self, is_fast: bool) -> Command {
        let mut command = Command::new(ringmill());
        command.args(["run", "pipeline.toml", "--report", "report.json"]).current_dir(self.folder.path());
        if is_fast {
            command.args(["--set", "sources.sensors.rate=1_000_000_000"]);
        }
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    /// The same, watched in this mode, with its log in `log`.
    #[must_use]
    pub fn watched(&self, is_fast: bool, mode: &str) -> Command {
        let mut command = self.command(is_fast);
        Watched { root: &self.disk(), log: &self.path("log") }.watch(&mut command, mode);
        command
    }

    /// Runs it to its end, undisturbed and at full speed, and then has its outputs.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn undisturbed(&self) -> Outputs {
        let output = run(&mut self.command(true));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let outputs = self.outputs();
        assert!(outputs[..2].iter().all(|text| text.lines().count() > 100), "there is something to lose");
        outputs
    }

    /// The checkpoint from which the last run went on.
    #[must_use]
    pub fn went_on_from(&self) -> Option<u64> {
        let report: Value = serde_json::from_slice(&fs::read(self.path("report.json")).ok()?).ok()?;
        report.pointer("/checkpoints/recovered/id").and_then(Value::as_u64)
    }

    /// What the sinks show. With several shards the order is left to chance, so the lines are sorted.
    #[must_use]
    pub fn outputs(&self) -> Outputs {
        let windows = fs::read_to_string(self.path("disk/windows.ndjson")).unwrap_or_default();
        let parts = fs::read_dir(self.path("disk/rows")).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_shown = |path: &PathBuf| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let mut parts: Vec<PathBuf> = parts.filter(is_shown).collect();
        parts.sort();
        let rows = parts.iter().map(|part| fs::read_to_string(part).unwrap_or_default()).collect();
        let outputs = [windows, rows, alarms(&self.path("disk/alarms.sqlite")).unwrap_or_default()];
        if self.is_ordered { outputs } else { outputs.map(|text| sorted(&text)) }
    }
}

/// What the sinks show: the file, the parts one behind the other, the table as lines.
pub type Outputs = [String; 3];

/// The table's rows; an error if there is none.
fn alarms(path: &Path) -> rusqlite::Result<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    let mut statement = database.prepare("SELECT * FROM alarms ORDER BY rowid")?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let values: Result<Vec<String>, _> =
            (0..columns).map(|column| row.get_ref(column).map(|value| format!("{value:?}"))).collect();
        Ok(values?.join(" ") + "\n")
    })?;
    rows.collect()
}

/// A folder in memory if there is one: what is durable here is the log's to say, not the disk's.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let room = nix::sys::statvfs::statvfs(memory).map_or(0, |room| room.blocks_available() * room.fragment_size());
    let folder = if room > MEMORY_BYTES { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("there is room")
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the ringmill command is built (scripts/setup)")
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}
