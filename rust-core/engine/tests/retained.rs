//! Retained results are those that a file sink shows, each once, whatever is cut off or killed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ringmill_connect::{FieldSpec, FileSink, FileSpec, Format, GeneratorSpec, Order, OutputFormat, RECORD_BYTES_MAX};
use ringmill_engine::plan::retained::{self, RetainedAbout, RetainedSpec};
use ringmill_engine::plan::{
    CheckpointSpec, NodeKind, NodeSpec, PipelineSpec, Plan, PlanError, SinkSpec, SourceConnector, SourceSpec, StartFrom,
};
use ringmill_engine::window::{NamedAggregate, WindowKind, WindowSpec};
use ringmill_engine::{Control, EngineError, run};
use ringmill_ring::Wait;
use ringmill_state::{Amount, RetainedLimits, RetainedRange, RetainedReader, RollUpLevel, StateFolder};
use ringmill_wire::{DataType, TimeUnit};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// One pipeline in a folder.
struct Harness {
    folder: PathBuf,
    rows: u64,
    rate: Option<f64>,
    /// 0: nothing is retained.
    retain_ns: i64,
    roll_up: Vec<RollUpLevel>,
    start: StartFrom,
}

impl Harness {
    fn new(folder: &Path) -> Harness {
        let folder = folder.to_owned();
        Harness { folder, rows: 20_000, rate: None, retain_ns: 30 * DAY, roll_up: Vec::new(), start: StartFrom::Newest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn plan(&self, shards: usize) -> Plan {
        let generator = GeneratorSpec {
            keys: 50,
            rows: Some(self.rows),
            rate: self.rate,
            period_ns: SECOND.unsigned_abs(),
            ..GeneratorSpec::default()
        };
        let limits = RetainedLimits { retain_ns: self.retain_ns, bytes_max: None };
        let mut nodes = vec![
            node("made", &[], source(SourceConnector::Generator(generator))),
            node("windows", &["made"], windows(&["device_id"], 7)),
            node("closed", &["windows"], file(self.path("closed.ndjson"))),
        ];
        if self.retain_ns > 0 {
            let roll_up = self.roll_up.clone();
            nodes.push(retained::sink(RetainedSpec { step: "windows".into(), limits, roll_up }));
        }
        plan(shards, Some(self.path("state")), self.start, nodes).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn run(&self, shards: usize) {
        run(self.plan(shards), Arc::new(Control::default())).unwrap_or_else(|error| panic!("{error}"));
    }

    fn shown(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("closed.ndjson")).unwrap_or_default();
        sorted(text.lines().map(str::to_owned).collect())
    }

    fn reader(&self) -> Option<RetainedReader> {
        let folder = StateFolder::open_read_only(&self.path("state")).ok()?;
        RetainedReader::open(&folder.retained("windows"), &self.path("scratch")).unwrap()
    }

    fn retained(&self) -> Vec<String> {
        let mut rows = Vec::new();
        if let Some(reader) = self.reader() {
            let visit = |row: &ringmill_state::RetainedRow<'_>| {
                rows.push(String::from_utf8(row.row.to_vec()).unwrap());
                true
            };
            reader.scan(RetainedRange::default(), visit).unwrap();
        }
        sorted(rows)
    }
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

fn plan(shards: usize, state: Option<PathBuf>, start: StartFrom, nodes: Vec<NodeSpec>) -> Result<Plan, Vec<PlanError>> {
    let pipeline = PipelineSpec {
        name: "test".into(),
        shards,
        wait: Wait::Block,
        profile: Default::default(),
        cpus: Vec::new(),
        state_bytes_max: 1 << 30,
        sink_buffer_bytes: 2 << 20,
        run_base: None,
        worker_environment: Vec::new(),
        checkpoint: state.map(|path| CheckpointSpec { path, interval_ns: 40_000_000, keep: 3, start }),
    };
    Plan::build(pipeline, nodes)
}

fn node(name: &str, inputs: &[&str], kind: NodeKind) -> NodeSpec {
    NodeSpec { name: name.into(), inputs: inputs.iter().map(|&input| input.into()).collect(), kind }
}

fn source(connector: SourceConnector) -> NodeKind {
    NodeKind::Source(SourceSpec {
        connector,
        event_time: Some("timestamp".into()),
        out_of_orderness_ns: 0,
        idle_timeout_ns: None,
        max_future_ns: i64::MAX,
    })
}

fn windows(key: &[&str], size_s: i64) -> NodeKind {
    NodeKind::Window(WindowSpec {
        key: key.iter().map(|&column| column.into()).collect(),
        window: WindowKind::Tumbling { size_ns: size_s * SECOND },
        allowed_lateness_ns: 0,
        aggregates: vec![NamedAggregate { name: "rows".into(), expression: "count()".into() }],
        statistics: None,
    })
}

fn file(path: PathBuf) -> NodeKind {
    NodeKind::Sink(SinkSpec::File(FileSink::new(path, OutputFormat::Json)))
}

#[test]
fn a_run_that_is_cut_off_again_and_again_retains_what_the_file_shows() {
    let around = tempfile::tempdir().unwrap();
    let mut harness = Harness::new(around.path());
    harness.rate = Some(20_000.0);
    let mut seen = BTreeSet::new();
    for shards in [1, 2, 1, 3] {
        let control = Arc::new(Control::default());
        let (plan, steering) = (harness.plan(shards), control.clone());
        let running = std::thread::spawn(move || run(plan, steering));
        let taken = || control.snapshot().checkpoint.map_or(0, |checkpoint| checkpoint.count);
        while taken() < 3 && !control.is_finished() {
            // What a reader in the process sees is never taken back.
            if let Some(reader) = control.retained("windows") {
                let mut now = BTreeSet::new();
                let reader = reader.unwrap();
                let visit = |row: &ringmill_state::RetainedRow<'_>| now.insert(row.row.to_vec());
                reader.scan(RetainedRange::default(), visit).unwrap();
                assert!(seen.is_subset(&now), "{} rows are gone", seen.difference(&now).count());
                seen = now;
            }
        }
        control.request_abort();
        match running.join().unwrap() {
            Ok(_) | Err(EngineError::Aborted) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(control.retained("windows").is_none(), "the sink is gone");
    }
    assert!(!seen.is_empty());
    harness.rate = None;
    harness.run(2);
    let (shown, retained) = (harness.shown(), harness.retained());
    assert!(shown.len() > 2_000, "{}", shown.len());
    assert!(shown == retained, "{} shown, {} retained", shown.len(), retained.len());
    // Started anew, everything is there once again, and nothing is left of before.
    (harness.start, harness.rows) = (StartFrom::Beginning, 10_000);
    harness.run(1);
    assert!(harness.shown() == harness.retained() && harness.shown().len() < shown.len());
}

#[test]
fn a_step_that_is_asked_to_retain_later_begins_then() {
    let around = tempfile::tempdir().unwrap();
    let mut harness = Harness { rate: Some(20_000.0), retain_ns: 0, ..Harness::new(around.path()) };
    let control = Arc::new(Control::default());
    let (plan, steering) = (harness.plan(1), control.clone());
    let running = std::thread::spawn(move || run(plan, steering));
    while harness.shown().is_empty() {
        std::thread::yield_now();
    }
    control.request_abort();
    assert!(matches!(running.join().unwrap(), Err(EngineError::Aborted)));
    let before = harness.shown();
    (harness.rate, harness.retain_ns) = (None, DAY);
    harness.run(2);
    let (shown, retained) = (harness.shown(), harness.retained());
    assert!(!retained.is_empty() && retained.iter().all(|row| shown.binary_search(row).is_ok()));
    assert!(retained.iter().all(|row| before.binary_search(row).is_err()));
    // Taken out and put back, it begins anew.
    (harness.retain_ns, harness.rows) = (0, 25_000);
    harness.run(1);
    (harness.retain_ns, harness.rows) = (DAY, 30_000);
    harness.run(1);
    assert!(retained.iter().all(|row| harness.retained().binary_search(row).is_err()));
}

#[test]
fn rows_older_than_is_asked_for_are_not_shown() {
    let around = tempfile::tempdir().unwrap();
    let harness = Harness { retain_ns: 70 * SECOND, ..Harness::new(around.path()) };
    harness.run(2);
    let (shown, retained) = (harness.shown(), harness.retained());
    let shown: BTreeSet<&String> = shown.iter().collect();
    assert!(retained.iter().all(|row| shown.contains(row)));
    // Ten windows of each of 50 keys, as windows are seven seconds long.
    assert_eq!(retained.len(), 500);
}

#[test]
fn keys_of_all_kinds_are_found_by_their_text() {
    let around = tempfile::tempdir().unwrap();
    let rows = [
        r#"{"site": "a", "number": -3, "open": true, "at": "2026-01-01T00:00:00Z", "timestamp": "2026-01-01T00:00:01Z"}"#,
        r#"{"site": "a", "number": null, "open": false, "at": "2026-01-01T00:00:00.5Z", "timestamp": "2026-01-01T00:00:02Z"}"#,
        r#"{"site": "a\u0000b", "number": 7, "open": false, "at": "1969-12-31T23:59:59Z", "timestamp": "2026-01-01T00:00:03Z"}"#,
    ];
    std::fs::write(around.path().join("in.ndjson"), rows.join("\n")).unwrap();
    let field = |name: &str, data_type, nullable| FieldSpec { name: name.into(), data_type, path: None, nullable };
    let time = DataType::Timestamp(TimeUnit::Millisecond);
    let spec = FileSpec {
        path: around.path().join("in.ndjson").display().to_string(),
        format: Format::Json.into(),
        fields: vec![
            field("site", DataType::Utf8, false),
            field("number", DataType::Int16, true),
            field("open", DataType::Bool, false),
            field("at", time, false),
            field("timestamp", time, false),
        ]
        .into(),
        rate: None,
        order: Order::Parallel,
        record_bytes_max: RECORD_BYTES_MAX,
        decode_threads: 0,
    };
    let limits = RetainedLimits { retain_ns: DAY, bytes_max: None };
    let nodes = vec![
        node("read", &[], source(SourceConnector::File(spec))),
        node("windows", &["read"], windows(&["site", "number", "open", "at"], 10)),
        retained::sink(RetainedSpec { step: "windows".into(), limits, roll_up: Vec::new() }),
    ];
    let plan = plan(1, Some(around.path().join("state")), StartFrom::Newest, nodes).unwrap();
    run(plan.clone(), Arc::new(Control::default())).unwrap();
    assert_eq!(retained::steps(&plan).count(), 1);
    let folder = StateFolder::open_read_only(&around.path().join("state")).unwrap().retained("windows");
    let reader = RetainedReader::open(&folder, &around.path().join("scratch")).unwrap().unwrap();
    let about = RetainedAbout::read(reader.about()).unwrap();
    let max = Amount { rows: 10, bytes: u64::MAX };
    for key in [
        ["a", "-3", "true", "2026-01-01T00:00:00Z"],
        ["a", "null", "false", "2026-01-01T00:00:00.5Z"],
        ["a\0b", "7", "false", "1969-12-31T23:59:59Z"],
    ] {
        let (rows, _) = reader.get(&about.parse_key(&key).unwrap(), RetainedRange::default(), max).unwrap();
        assert_eq!(rows.len(), 1, "{key:?}");
    }
    for (key, problem) in [
        (&["a"][..], "windows wants 4 keys, one for each of site, number, open, at; there is one"),
        (&["a", "40000", "true", "2026-01-01T00:00:00Z"][..], "\"40000\" is no int16 number"),
        (&["a", "1", "yes", "2026-01-01T00:00:00Z"][..], "\"yes\" is no bool open"),
        (&["a", "1", "true", "today"][..], "\"today\" is no timestamp[ms] at"),
    ] {
        assert_eq!(about.parse_key(key).unwrap_err(), problem);
    }
}

#[test]
fn without_checkpoints_nothing_can_be_retained() {
    let around = tempfile::tempdir().unwrap();
    let mut nodes = Harness::new(around.path()).plan(1).nodes;
    nodes.retain(|node| retained::retained_step(&node.name).is_none());
    let limits = RetainedLimits { retain_ns: DAY, bytes_max: None };
    let nodes = vec![
        node("made", &[], source(SourceConnector::Generator(GeneratorSpec::default()))),
        node("windows", &["made"], windows(&[], 10)),
        retained::sink(RetainedSpec { step: "windows".into(), limits, roll_up: Vec::new() }),
    ];
    let errors = plan(1, None, StartFrom::Newest, nodes).unwrap_err();
    assert_eq!((errors.len(), errors[0].node.as_str(), errors[0].key.as_str()), (1, "windows", "retain"));
}

/// How often a failpoint is hit at most before the process is killed there.
const HITS: u32 = 3;

/// No test by itself: what the next one kills.
#[test]
fn play_a_role() {
    let Ok(folder) = std::env::var("RINGMILL_TEST_FOLDER") else { return };
    ringmill_failpoint::configure(&std::env::var("RINGMILL_TEST_FAILPOINT").unwrap()).unwrap();
    let roll_up = if std::env::var("RINGMILL_TEST_ROLL_UP").is_ok() { LEVELS.to_vec() } else { Vec::new() };
    // Some ten checkpoints.
    let harness = Harness { rows: 10_000, rate: Some(25_000.0), roll_up, ..Harness::new(Path::new(&folder)) };
    harness.run(2);
    std::process::exit(0);
}

/// Runs the pipeline as a process of its own; whether it was killed.
fn play(folder: &Path, failpoint: &str) -> bool {
    play_with(folder, failpoint, &[])
}

fn play_with(folder: &Path, failpoint: &str, variables: &[(&str, &str)]) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "play_a_role", "--nocapture"]).stdin(Stdio::null());
    command.env("RINGMILL_TEST_FOLDER", folder).env("RINGMILL_TEST_FAILPOINT", failpoint);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let is_killed = output.status.signal() == Some(nix::libc::SIGKILL);
    assert!(is_killed || output.status.success(), "{failpoint}: {}", String::from_utf8_lossy(&output.stderr));
    is_killed
}

#[test]
fn a_kill_at_any_step_of_the_sink_loses_and_repeats_nothing() {
    let around = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let record = around.path().join("hits");
    assert!(!play(&around.path().join("whole"), &format!("record:{}", record.display())));
    let whole = Harness::new(&around.path().join("whole")).shown();
    assert_eq!(whole, Harness::new(&around.path().join("whole")).retained());
    let text = std::fs::read_to_string(&record).unwrap();
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| name.starts_with("sink.retained.")).collect();
    let mut kills = 0;
    for name in &names {
        for number in 1..=HITS {
            let folder = around.path().join("victim");
            std::fs::create_dir(&folder).unwrap();
            // How often a thing is done differs from run to run.
            let is_killed = play(&folder, &format!("kill:{name}:{number}"));
            assert!(is_killed || number > 1, "{name}");
            kills += u32::from(is_killed);
            let harness = Harness { rows: 10_000, ..Harness::new(&folder) };
            if let Some(reader) = harness.reader() {
                // What is shown after the kill is right already.
                drop(reader);
                let shown = harness.retained();
                assert!(shown.iter().all(|row| whole.binary_search(row).is_ok()), "{name} {number}");
            }
            harness.run(1);
            assert!(harness.shown() == whole && harness.retained() == whole, "{name} {number}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
    println!("{kills} kills at {} places: {names:?}", names.len());
    assert_eq!(names.len(), 12, "{names:?}");
}

/// Windows are seven seconds long.
const LEVELS: [RollUpLevel; 2] = [
    RollUpLevel { after_ns: 28 * SECOND, size_ns: 21 * SECOND },
    RollUpLevel { after_ns: 70 * SECOND, size_ns: 42 * SECOND },
];

/// Key, start and end in seconds, and rows.
type Row = (String, i64, i64, u64);

fn results(rows: &[String]) -> Vec<Row> {
    let second = |value: &serde_json::Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    let result = |row: &String| {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let key = row["device_id"].as_str().unwrap().to_owned();
        (key, second(&row["window_start"]), second(&row["window_end"]), row["rows"].as_u64().unwrap())
    };
    sorted_results(rows.iter().map(result).collect())
}

fn sorted_results(mut results: Vec<Row>) -> Vec<Row> {
    results.sort_unstable();
    results
}

/// Checks that each retained row is the sum of the results in its window, and none is in two; how many results are in
/// them, and how many are longer than a window.
fn covered(whole: &[Row], retained: &[Row]) -> (usize, usize) {
    let whole: BTreeMap<(&str, i64), u64> = whole.iter().map(|part| ((part.0.as_str(), part.1), part.3)).collect();
    let (mut covered, mut coarse) = (0, 0);
    for (number, (key, start, end, rows)) in retained.iter().enumerate() {
        let next = retained.get(number + 1).filter(|next| next.0 == *key);
        assert!(next.is_none_or(|next| next.1 >= *end), "{key} {start} {end} {next:?}");
        let parts = whole.range((key.as_str(), *start)..(key.as_str(), *end)).map(|(_, rows)| *rows);
        covered += parts.clone().count();
        assert_eq!(*rows, parts.sum::<u64>(), "{key} from {start} to {end}");
        coarse += usize::from(end - start > 7);
    }
    (covered, coarse)
}

#[test]
fn a_kill_at_any_step_of_rolling_up_loses_and_doubles_nothing() {
    let around = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let reference = Harness { rows: 10_000, ..Harness::new(&around.path().join("whole")) };
    reference.run(1);
    let whole = results(&reference.shown());
    for name in ["roll_up", "rolled_up"] {
        for number in 1..=HITS {
            let folder = around.path().join("victim");
            std::fs::create_dir(&folder).unwrap();
            let failpoint = format!("kill:sink.retained.{name}:{number}");
            let is_killed = play_with(&folder, &failpoint, &[("RINGMILL_TEST_ROLL_UP", "1")]);
            assert!(is_killed || number > 1, "{name}");
            let harness = Harness { rows: 10_000, roll_up: LEVELS.to_vec(), ..Harness::new(&folder) };
            covered(&whole, &results(&harness.retained()));
            harness.run(2);
            assert_eq!(results(&harness.shown()), whole);
            assert_eq!(covered(&whole, &results(&harness.retained())).0, whole.len(), "{name} {number}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
}

#[test]
fn old_results_become_fewer_while_a_run_goes_on() {
    let around = tempfile::tempdir().unwrap();
    let mut harness =
        Harness { rows: 100_000, rate: Some(20_000.0), roll_up: LEVELS.to_vec(), ..Harness::new(around.path()) };
    let control = Arc::new(Control::default());
    let (plan, steering) = (harness.plan(2), control.clone());
    let running = std::thread::spawn(move || run(plan, steering));
    let mut is_long = false;
    while !is_long {
        assert!(!control.is_finished(), "nothing was rolled up");
        if let Some(reader) = control.retained("windows") {
            let visit = |row: &ringmill_state::RetainedRow<'_>| {
                is_long = row.end_ns - row.start_ns == 42 * SECOND;
                !is_long
            };
            reader.unwrap().scan(RetainedRange::default(), visit).unwrap();
        }
    }
    control.request_abort();
    assert!(matches!(running.join().unwrap(), Ok(_) | Err(EngineError::Aborted)));
    harness.rate = None;
    harness.run(1);
    let whole = results(&harness.shown());
    let (all, coarse) = covered(&whole, &results(&harness.retained()));
    assert!(all == whole.len() && coarse >= 50, "{all} of {}, {coarse}", whole.len());
}
