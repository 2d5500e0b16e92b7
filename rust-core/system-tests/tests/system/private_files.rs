//! What a run keeps for itself is nobody else's; what it writes for others has the permissions that the user wants.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringmill_system_tests::Job;

const FUNCTIONS: &str = "
@rm.udf(outputs={'double': rm.float64})
def double(temperature: np.ndarray):
    open('made_by_function', 'a').close()
    return temperature * 2
";

const PIPELINE: &str = r#"
[pipeline]
shards = 2

[checkpoint]
path = "state"
interval = "50ms"

[sources.sensors]
kind = "generator"
keys = 50
rows = 20_000
rate = 80_000
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
aggregates = { most = "max(temperature)" }
retain = "30d"

[sinks.rows]
kind = "file"
inputs = ["twice"]
path = "rows.ndjson"

[sinks.parts]
kind = "file"
inputs = ["twice"]
path = "new/parts/"
format = "json"

[sinks.table]
kind = "sqlite"
inputs = ["averages"]
path = "averages.sqlite"
table = "averages"
"#;

/// Files and folders below a folder, itself included.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.append(&mut below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn state_is_for_its_user_alone_and_outputs_are_as_the_users_umask_says() {
    let job = Job::new(PIPELINE, FUNCTIONS);
    let inner = job.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", "umask 027; exec \"$0\" \"$@\""]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(job.folder()).env("XDG_RUNTIME_DIR", job.folder());
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let ended = job.wait(started.unwrap());
    assert_eq!(ended.figure("/rows/in"), 20_000);
    let state = below(&job.path("state"));
    for path in &state {
        assert_eq!(mode(path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    let is_there = |ending: &str| state.iter().any(|path| path.display().to_string().ends_with(ending));
    assert!(is_there(".sst") && is_there("/manifest") && is_there("retained/averages/CURRENT"), "{state:?}");
    for path in ["rows.ndjson", "averages.sqlite", "report.json", "made_by_function"] {
        assert_eq!(mode(&job.path(path)), 0o640, "{path}");
    }
    for path in below(&job.path("new")) {
        assert_eq!(mode(&path), if path.is_dir() { 0o750 } else { 0o640 }, "{}", path.display());
    }
    // What was there keeps what it has.
    std::fs::set_permissions(job.path("report.json"), PermissionsExt::from_mode(0o604)).unwrap();
    assert_eq!(job.run(&[]).code, Some(0));
    assert_eq!(mode(&job.path("report.json")), 0o604);
}
