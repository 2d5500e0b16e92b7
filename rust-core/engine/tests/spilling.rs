//! Pipelines whose windows and rolling statistics are larger than their memory: with checkpoints they spill, and nobody
//! sees it in the results, also when runs are cut off and go on with another number of shards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringmill_connect::{FileSink, GeneratorSpec, OutputFormat};
use ringmill_engine::plan::{
    CheckpointSpec, NodeKind, NodeSpec, PipelineSpec, Plan, SinkSpec, SourceConnector, SourceSpec, StartFrom,
};
use ringmill_engine::window::{NamedAggregate, Statistic, StatisticsSpec, WindowKind, WindowSpec};
use ringmill_engine::{Control, EngineError, Summary, run};
use ringmill_ring::Wait;

const KEYS: u64 = 4_000;
const SECOND: i64 = 1_000_000_000;
/// A tenth of what the windows take, or less.
const LITTLE: u64 = 64 << 10;
const SLIDING: WindowKind = WindowKind::Sliding { size_ns: 4 * SECOND, every_ns: 2 * SECOND };

/// What a step does.
#[derive(Clone, Debug)]
struct Shape {
    window: WindowKind,
    statistics: Option<StatisticsSpec>,
}

fn shapes() -> [Shape; 5] {
    let columns = [(Statistic::Mean, "before"), (Statistic::Std, "spread"), (Statistic::Count, "windows_before")];
    let columns = columns.map(|(statistic, name)| (statistic, name.to_owned())).to_vec();
    let within = |horizon_ns| Some(StatisticsSpec { of: "mean".into(), columns: columns.clone(), horizon_ns });
    // Of one row each, and of all rows of a key.
    let [short, long] = [SECOND * 9 / 10, SECOND * 3 / 2].map(|gap_ns| WindowKind::Session { gap_ns });
    [
        Shape { window: SLIDING, statistics: None },
        Shape { window: SLIDING, statistics: within(None) },
        Shape { window: SLIDING, statistics: within(Some(5 * SECOND)) },
        Shape { window: short, statistics: within(None) },
        Shape { window: long, statistics: None },
    ]
}

fn node(name: &str, inputs: &[&str], kind: NodeKind) -> NodeSpec {
    NodeSpec { name: name.into(), inputs: inputs.iter().map(|&input| input.into()).collect(), kind }
}

/// Each key has a row a second, for ten seconds, and each window is of four.
fn nodes(folder: &Path, shape: &Shape) -> Vec<NodeSpec> {
    let generator =
        GeneratorSpec { keys: KEYS, rows: Some(10 * KEYS), period_ns: SECOND as u64, ..GeneratorSpec::default() };
    let source = NodeKind::Source(SourceSpec {
        connector: SourceConnector::Generator(generator),
        event_time: Some("timestamp".into()),
        out_of_orderness_ns: 0,
        idle_timeout_ns: None,
        max_future_ns: i64::MAX,
    });
    let aggregate = |name: &str, text: &str| NamedAggregate { name: name.into(), expression: text.into() };
    let windows = NodeKind::Window(WindowSpec {
        key: vec!["device_id".into()],
        window: shape.window,
        allowed_lateness_ns: 0,
        aggregates: vec![aggregate("rows", "count()"), aggregate("mean", "mean(temperature)")],
        statistics: shape.statistics.clone(),
    });
    let sink = NodeKind::Sink(SinkSpec::File(FileSink::new(folder.join("windows.ndjson"), OutputFormat::Json)));
    vec![node("made", &[], source), node("windows", &["made"], windows), node("closed", &["windows"], sink)]
}

fn plan(folder: &Path, shape: &Shape, shards: usize, state_bytes_max: u64, has_checkpoints: bool) -> Plan {
    let path = folder.join("state");
    let pipeline = PipelineSpec {
        name: "test".into(),
        shards,
        wait: Wait::Block,
        profile: Default::default(),
        cpus: Vec::new(),
        state_bytes_max,
        sink_buffer_bytes: 2 << 20,
        run_base: None,
        worker_environment: Vec::new(),
        checkpoint: has_checkpoints.then_some(CheckpointSpec {
            path,
            interval_ns: 20_000_000,
            keep: 2,
            start: StartFrom::Newest,
        }),
    };
    Plan::build(pipeline, nodes(folder, shape)).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn run_in(
    folder: &Path,
    shape: &Shape,
    shards: usize,
    bytes: u64,
    has_checkpoints: bool,
) -> Result<Summary, EngineError> {
    run(plan(folder, shape, shards, bytes, has_checkpoints), Arc::new(Control::default()))
}

fn windows(folder: &Path) -> Vec<String> {
    let path: PathBuf = folder.join("windows.ndjson");
    let mut lines: Vec<String> = std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// What a run with enough memory gives.
fn expected(shape: &Shape) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let summary = run_in(folder.path(), shape, 1, 1 << 30, false).unwrap();
    assert_eq!(summary.snapshot.spilled.entries, 0);
    windows(folder.path())
}

#[test]
fn state_that_does_not_fit_spills_and_gives_the_same_results() {
    for shape in shapes() {
        let expected = expected(&shape);
        for shards in 1..=2 {
            let folder = tempfile::tempdir().unwrap();
            let summary = run_in(folder.path(), &shape, shards, LITTLE, true).unwrap();
            let spilled = summary.snapshot.spilled;
            assert!(
                spilled.entries > KEYS && spilled.bytes > LITTLE && spilled.read_back > KEYS,
                "{spilled:?}, {shape:?}"
            );
            same(&windows(folder.path()), &expected);
        }
    }
}

#[test]
fn without_checkpoints_windows_that_do_not_fit_end_the_run() {
    let folder = tempfile::tempdir().unwrap();
    for shape in shapes() {
        let error = run_in(folder.path(), &shape, 1, LITTLE, false).map(drop).unwrap_err();
        assert!(matches!(&error, EngineError::State { .. }), "{error}");
    }
}

#[test]
fn runs_that_are_cut_off_while_they_spill_go_on_in_any_number_of_shards() {
    for shape in &shapes() {
        let expected = expected(shape);
        let folder = tempfile::tempdir().unwrap();
        for shards in [2, 1, 3, 1] {
            let control = Arc::new(Control::default());
            let (plan, steering) = (plan(folder.path(), shape, shards, LITTLE, true), control.clone());
            let running = std::thread::spawn(move || run(plan, steering).map(drop));
            // Some checkpoints later.
            let taken = || control.snapshot().checkpoint.map_or(0, |figures| figures.count);
            while taken() < 2 && !control.is_finished() {
                std::thread::yield_now();
            }
            control.request_abort();
            let _ = running.join().unwrap();
        }
        run_in(folder.path(), shape, 2, LITTLE, true).unwrap();
        same(&windows(folder.path()), &expected);
    }
}

/// Shows what differs.
fn same(found: &[String], expected: &[String]) {
    let lacking: Vec<&String> = expected.iter().filter(|line| found.binary_search(line).is_err()).take(5).collect();
    let wrong: Vec<&String> = found.iter().filter(|line| expected.binary_search(line).is_err()).take(5).collect();
    assert!(found == expected, "{} of {} rows; lacking {lacking:#?}, wrong {wrong:#?}", found.len(), expected.len());
}
