//! Pipelines that are cut off and go on: in the end everything is there once.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringmill_connect::{FieldSpec, FileSink, FileSpec, Format, GeneratorSpec, Order, OutputFormat, StdinSpec};
use ringmill_engine::plan::{
    CheckpointSpec, FilterSpec, NodeKind, NodeSpec, PipelineSpec, Plan, PlanError, SinkSpec, SourceConnector,
    SourceSpec, StartFrom,
};
use ringmill_engine::window::{NamedAggregate, WindowKind, WindowSpec};
use ringmill_engine::{Control, EngineError, NodeCounts, Summary, run};
use ringmill_ring::Wait;
use ringmill_wire::{DataType, TimeUnit};

const ROWS: u64 = 120_000;
const KEYS: u64 = 50;
/// Rows of a window: each key has one row a second.
const WINDOW_ROWS: i64 = 7;

/// One pipeline in a folder of its own.
struct Harness {
    folder: tempfile::TempDir,
    rows: u64,
    /// Rows per second.
    rate: Option<f64>,
    interval_ns: u64,
    window_rows: i64,
}

impl Harness {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, rows: ROWS, rate: None, interval_ns: 10_000_000, window_rows: WINDOW_ROWS }
    }

    /// Slow enough that it does not end before a few checkpoints, however slow the disk.
    fn paced() -> Self {
        Self { rate: Some(20_000.0), ..Self::new() }
    }

    /// From now on as fast as it goes.
    fn hurry(&mut self) {
        self.rate = None;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn nodes(&self) -> Vec<NodeSpec> {
        let generator = GeneratorSpec {
            keys: KEYS,
            rows: Some(self.rows),
            rate: self.rate,
            period_ns: 1_000_000_000,
            ..GeneratorSpec::default()
        };
        let mut parts = self.path("hot").into_os_string();
        parts.push("/");
        vec![
            node("made", &[], source(SourceConnector::Generator(generator))),
            node("windows", &["made"], windows(self.window_rows)),
            node("hot_rows", &["made"], filter("temperature > 22.0")),
            node("closed", &["windows"], file(self.path("closed.ndjson"))),
            node("hot", &["hot_rows"], file(parts.into())),
            node("sum", &["made"], NodeKind::Sink(SinkSpec::Null)),
        ]
    }

    fn plan(&self, shards: usize, start: StartFrom) -> Plan {
        let spec = CheckpointSpec { path: self.path("state"), interval_ns: self.interval_ns, keep: 3, start };
        plan(shards, Some(spec), self.nodes()).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn run(&self, shards: usize) -> Result<Summary, EngineError> {
        run(self.plan(shards, StartFrom::Newest), Arc::new(Control::default()))
    }

    /// Runs until `enough`, then stops it by `stop`.
    fn run_until(
        &self,
        shards: usize,
        enough: impl Fn(&Control) -> bool,
        stop: impl Fn(&Control),
    ) -> Result<Summary, EngineError> {
        let control = Arc::new(Control::default());
        let (plan, steering) = (self.plan(shards, StartFrom::Newest), control.clone());
        let running = std::thread::spawn(move || run(plan, steering));
        while !enough(&control) && !control.is_finished() {
            std::thread::yield_now();
        }
        stop(&control);
        running.join().unwrap()
    }

    /// What can be seen: lines of the file and of all parts, sorted.
    fn output(&self) -> Output {
        let mut hot = Vec::new();
        for part in std::fs::read_dir(self.path("hot")).into_iter().flatten() {
            let path = part.unwrap().path();
            // Names that begin with a dot are not to be read yet.
            if !path.file_name().unwrap().to_string_lossy().starts_with('.') {
                hot.extend(lines(&path));
            }
        }
        hot.sort_unstable();
        Output { closed: lines(&self.path("closed.ndjson")), hot }
    }
}

#[derive(Debug, PartialEq)]
struct Output {
    closed: Vec<String>,
    hot: Vec<String>,
}

impl Output {
    /// Everything in it is in `whole`, and no more often.
    fn is_part_of(&self, whole: &Output) -> bool {
        is_part_of(&self.closed, &whole.closed) && is_part_of(&self.hot, &whole.hot)
    }
}

/// Of sorted lines.
fn is_part_of(part: &[String], whole: &[String]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|line| whole.any(|other| other == line))
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a row", path.display());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn plan(shards: usize, checkpoint: Option<CheckpointSpec>, nodes: Vec<NodeSpec>) -> Result<Plan, Vec<PlanError>> {
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
        checkpoint,
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

fn windows(rows: i64) -> NodeKind {
    let aggregate = |name: &str, text: &str| NamedAggregate { name: name.into(), expression: text.into() };
    NodeKind::Window(WindowSpec {
        key: vec!["device_id".into()],
        window: WindowKind::Tumbling { size_ns: rows * 1_000_000_000 },
        allowed_lateness_ns: 0,
        aggregates: vec![
            aggregate("rows", "count()"),
            aggregate("least", "min(temperature)"),
            aggregate("most", "max(humidity)"),
        ],
        statistics: None,
    })
}

fn filter(expression: &str) -> NodeKind {
    NodeKind::Filter(FilterSpec { expression: expression.into() })
}

fn file(path: PathBuf) -> NodeKind {
    NodeKind::Sink(SinkSpec::File(FileSink::new(path, OutputFormat::Json)))
}

type Totals = BTreeMap<String, (u64, u64, u64, Option<u64>)>;

fn totals(summary: &Summary) -> Totals {
    let of = |node: &NodeCounts| (node.name.clone(), (node.rows_in, node.rows_out, node.late, node.checksum));
    summary.snapshot.nodes.iter().map(of).collect()
}

/// What a run that nobody disturbs gives.
fn undisturbed() -> (Output, Totals) {
    let harness = Harness::new();
    let plan = plan(1, None, harness.nodes()).unwrap();
    let summary = run(plan, Arc::new(Control::default())).unwrap();
    let output = harness.output();
    assert!(output.closed.len() > 10_000 && output.hot.len() > 10_000, "{} {}", output.closed.len(), output.hot.len());
    (output, totals(&summary))
}

/// Checkpoints taken by the run so far.
fn taken(control: &Control) -> u64 {
    control.snapshot().checkpoint.map_or(0, |checkpoint| checkpoint.count)
}

/// Runs that are cut off before the last one.
const CUTS: u64 = 12;

/// Cuts the pipeline off again and again, `shards` giving the number of shards of each run, and lets it end at last.
fn cut_off_until_done(shards: impl Fn(u64) -> usize) {
    let (output, totals_expected) = undisturbed();
    let mut harness = Harness::paced();
    let mut epoch = 0;
    for round in 0..CUTS {
        // The first run ends before its first checkpoint, the others after one to three.
        let wanted = round % 4;
        let enough = |control: &Control| control.snapshot().rows_in > 0 && taken(control) >= wanted;
        match harness.run_until(shards(round), enough, Control::request_abort) {
            Err(EngineError::Aborted) => assert!(harness.output().is_part_of(&output), "round {round}"),
            Err(error) => panic!("round {round}: {error}"),
            Ok(_) => break,
        }
        let list = ringmill_state::StateFolder::open(&harness.path("state")).unwrap().checkpoints().unwrap();
        let newest = list.first().map_or(0, |info| info.epoch);
        assert!(newest >= epoch + wanted && list.len() <= 4, "round {round}: {list:?}");
        epoch = newest;
    }
    harness.hurry();
    let summary = harness.run(shards(CUTS)).unwrap();
    let checkpoint = summary.snapshot.checkpoint.clone().unwrap();
    assert_eq!(checkpoint.recovered.as_ref().map_or(0, |recovered| recovered.epoch), epoch);
    assert!(epoch > CUTS && checkpoint.epoch > epoch, "{checkpoint:?}");
    assert_eq!((harness.output() == output, totals(&summary)), (true, totals_expected));
}

#[test]
fn a_pipeline_that_is_cut_off_goes_on_where_its_last_checkpoint_was() {
    cut_off_until_done(|_| 1);
}

#[test]
fn so_does_one_with_two_shards() {
    cut_off_until_done(|_| 2);
}

#[test]
fn a_restart_with_another_number_of_shards_gives_the_same_rows() {
    cut_off_until_done(|round| [2, 3, 1, 3, 2, 1][round as usize % 6]);
}

#[test]
fn a_finished_pipeline_started_again_ends_at_once_with_the_same_totals() {
    let harness = Harness::new();
    let first = harness.run(2).unwrap();
    let (output, checkpoint) = (harness.output(), first.snapshot.checkpoint.clone().unwrap());
    assert_eq!((first.snapshot.rows_in, checkpoint.recovered), (ROWS, None));
    let again = harness.run(1).unwrap();
    let recovered = again.snapshot.checkpoint.clone().unwrap().recovered.unwrap();
    assert!(recovered.is_final && recovered.rows_in == ROWS && recovered.epoch == checkpoint.epoch, "{recovered:?}");
    assert_eq!(totals(&again), totals(&first));
    assert!(harness.output() == output);
}

#[test]
fn a_drained_pipeline_goes_on_with_its_open_windows() {
    let (output, totals_expected) = undisturbed();
    let mut harness = Harness::paced();
    let drained = harness.run_until(2, |control| taken(control) >= 2, Control::request_drain).unwrap();
    let rows = drained.snapshot.rows_in;
    assert!(rows > 0 && rows < ROWS, "{rows}");
    assert!(harness.output().is_part_of(&output));
    harness.hurry();
    let summary = harness.run(2).unwrap();
    let recovered = summary.snapshot.checkpoint.clone().unwrap().recovered.unwrap();
    assert_eq!((recovered.rows_in, recovered.is_final), (rows, false));
    assert_eq!((harness.output() == output, totals(&summary)), (true, totals_expected));
}

#[test]
fn a_fresh_start_forgets_everything() {
    let harness = Harness::new();
    harness.run(1).unwrap();
    let output = harness.output();
    let fresh = run(harness.plan(1, StartFrom::Beginning), Arc::new(Control::default())).unwrap();
    assert_eq!(fresh.snapshot.checkpoint.as_ref().unwrap().recovered, None);
    assert_eq!(fresh.snapshot.rows_in, ROWS);
    assert!(harness.output() == output);
}

fn recovery_refused(outcome: Result<Summary, EngineError>) -> String {
    match outcome {
        Err(EngineError::Recovery { message, hint }) => format!("{message}; {hint}"),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[test]
fn a_changed_window_is_refused_by_name_and_a_new_name_begins_anew() {
    let mut harness = Harness::new();
    harness.rows = 20_000;
    harness.run(1).unwrap();
    let before = harness.output();
    harness.window_rows += 1;
    let refusal = recovery_refused(harness.run(1));
    assert!(refusal.contains("\"windows\"") && refusal.contains("--fresh"), "{refusal}");
    assert!(harness.output() == before, "a refused run leaves the outputs alone");

    let mut nodes = harness.nodes();
    nodes[1].name = "other_windows".into();
    nodes[3].inputs = vec!["other_windows".into()];
    let spec = harness.plan(1, StartFrom::Newest).checkpoint;
    let summary = run(plan(1, spec, nodes).unwrap(), Arc::new(Control::default())).unwrap();
    assert_eq!(summary.snapshot.rows_in, 20_000);
}

/// Flips a bit in some file of a checkpoint.
fn damage(harness: &Harness, epoch: u64) {
    let folder = harness.path("state").join("checkpoints").join(format!("{epoch:010}")).join("shard-0");
    let table = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let table = table.filter(|path| path.extension().is_some_and(|ending| ending == "sst")).max().unwrap();
    // Tables are shared with other checkpoints by hard links: this one gets a copy of its own.
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&table).unwrap();
    std::fs::write(&table, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_refused_where_a_sink_cannot_go_back() {
    let harness = Harness::paced();
    let cut = harness.run_until(1, |control| taken(control) >= 3, Control::request_abort);
    assert!(matches!(cut, Err(EngineError::Aborted)));
    let list = ringmill_state::StateFolder::open(&harness.path("state")).unwrap().checkpoints().unwrap();
    damage(&harness, list[0].epoch);
    let refusal = recovery_refused(harness.run(1));
    assert!(refusal.contains("is damaged") && refusal.contains(".sst") && refusal.contains("\"closed\""), "{refusal}");
    let older = run(harness.plan(1, StartFrom::Checkpoint(list[1].epoch)), Arc::new(Control::default()));
    let refusal = recovery_refused(older);
    assert!(refusal.contains("is older than"), "{refusal}");
    let missing = run(harness.plan(1, StartFrom::Checkpoint(9_999)), Arc::new(Control::default()));
    assert!(recovery_refused(missing).contains("9999"));
}

#[test]
fn without_such_a_sink_the_run_falls_back_to_the_checkpoint_before() {
    let (_, totals_expected) = undisturbed();
    let mut harness = Harness::paced();
    let nodes = |harness: &Harness| {
        let mut nodes = harness.nodes();
        nodes.retain(|node| !matches!(node.name.as_str(), "closed" | "hot" | "hot_rows"));
        nodes[2].name = "sum".into();
        nodes.push(node("count", &["windows"], NodeKind::Sink(SinkSpec::Null)));
        nodes
    };
    let spec = harness.plan(1, StartFrom::Newest).checkpoint.unwrap();
    let control = Arc::new(Control::default());
    let (first, steering) = (plan(1, Some(spec.clone()), nodes(&harness)).unwrap(), control.clone());
    let running = std::thread::spawn(move || run(first, steering));
    while taken(&control) < 3 {
        std::thread::yield_now();
    }
    control.request_abort();
    assert!(matches!(running.join().unwrap(), Err(EngineError::Aborted)));
    let list = ringmill_state::StateFolder::open(&spec.path).unwrap().checkpoints().unwrap();
    damage(&harness, list[0].epoch);
    harness.hurry();
    let summary = run(plan(1, Some(spec), nodes(&harness)).unwrap(), Arc::new(Control::default())).unwrap();
    let recovered = summary.snapshot.checkpoint.clone().unwrap().recovered.unwrap();
    assert_eq!(recovered.epoch, list[1].epoch);
    assert_eq!(totals(&summary)["sum"], totals_expected["sum"]);
    assert_eq!(totals(&summary)["windows"], totals_expected["windows"]);
}

#[test]
fn exactly_once_from_standard_input_is_possible_because_it_is_journaled() {
    let folder = tempfile::tempdir().unwrap();
    let field = |name: &str, data_type| FieldSpec { name: name.into(), data_type, nullable: false, path: None };
    let fields = vec![field("timestamp", DataType::Timestamp(TimeUnit::Millisecond))];
    let stdin = StdinSpec { format: Format::Json, fields: fields.into(), rate: None, record_bytes_max: 1 << 20 };
    let nodes = vec![
        node("in", &[], source(SourceConnector::Stdin(stdin))),
        node("out", &["in"], file(folder.path().join("out.ndjson"))),
    ];
    let spec = CheckpointSpec {
        path: folder.path().join("state"),
        interval_ns: 1_000_000_000,
        keep: 1,
        start: StartFrom::Newest,
    };
    plan(1, Some(spec), nodes.clone()).unwrap();
    plan(1, None, nodes).unwrap();
}

#[test]
fn a_sink_without_space_pauses_the_run_visibly_instead_of_ending_it() {
    let generator = GeneratorSpec { keys: 10, rows: None, ..GeneratorSpec::default() };
    let nodes = vec![
        node("made", &[], source(SourceConnector::Generator(generator))),
        node("out", &["made"], file("/dev/full".into())),
    ];
    let control = Arc::new(Control::default());
    let (plan, steering) = (plan(1, None, nodes).unwrap(), control.clone());
    let running = std::thread::spawn(move || run(plan, steering));
    while control.snapshot().paused.is_empty() {
        assert!(!control.is_finished(), "it ended");
        std::thread::yield_now();
    }
    assert_eq!(control.snapshot().paused, ["paused: no space for sink out"]);
    control.request_abort();
    assert!(matches!(running.join().unwrap(), Err(EngineError::Aborted)));
}

#[test]
fn a_file_that_has_grown_is_read_on_from_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.ndjson"), folder.path().join("out.ndjson"));
    let text = |rows: std::ops::Range<u64>| rows.map(|row| format!("{{\"timestamp\":{row}}}\n")).collect::<String>();
    let field = |name: &str, data_type| FieldSpec { name: name.into(), data_type, nullable: false, path: None };
    let fields = vec![field("timestamp", DataType::Timestamp(TimeUnit::Millisecond))];
    let spec = FileSpec {
        path: input.to_string_lossy().into_owned(),
        format: Format::Json.into(),
        fields: fields.into(),
        rate: None,
        order: Order::Parallel,
        record_bytes_max: 1 << 20,
        decode_threads: 0,
    };
    let go = || {
        let nodes =
            vec![node("in", &[], source(SourceConnector::File(spec.clone()))), node("out", &["in"], file(out.clone()))];
        let path = folder.path().join("state");
        let spec = CheckpointSpec { path, interval_ns: 1_000_000_000, keep: 1, start: StartFrom::Newest };
        run(plan(2, Some(spec), nodes).unwrap(), Arc::new(Control::default())).unwrap()
    };
    std::fs::write(&input, text(0..1_000)).unwrap();
    assert_eq!(go().snapshot.rows_in, 1_000);
    assert_eq!(go().snapshot.rows_in, 1_000);
    std::fs::write(&input, text(0..1_500)).unwrap();
    assert_eq!(go().snapshot.rows_in, 1_500);
    assert_eq!(lines(&out).len(), 1_500);
}

/// A file of events that grows between runs, counted by key in windows.
struct Growing {
    folder: tempfile::TempDir,
    window: WindowKind,
    lateness_s: i64,
}

impl Growing {
    fn new(window: WindowKind, lateness_s: i64) -> Growing {
        Growing { folder: tempfile::tempdir().unwrap(), window, lateness_s }
    }

    /// Appends events, each a key and a second, and runs to the end; gives the number of late rows so far, and what is new
    /// in the output: key, seconds of the window, count.
    fn run(&self, shards: usize, events: &[(&str, i64)]) -> (u64, Vec<(String, i64, i64, u64)>) {
        let (input, out) = (self.folder.path().join("in.ndjson"), self.folder.path().join("out.ndjson"));
        let before = lines(&out);
        let mut to = std::fs::File::options().create(true).append(true).open(&input).unwrap();
        for (key, second) in events {
            writeln!(to, "{{\"timestamp\":{},\"key\":\"{key}\"}}", second * 1000).unwrap();
        }
        let field = |name: &str, data_type| FieldSpec { name: name.into(), data_type, nullable: false, path: None };
        let fields = vec![field("timestamp", DataType::Timestamp(TimeUnit::Millisecond)), field("key", DataType::Utf8)];
        let spec = FileSpec {
            path: input.to_string_lossy().into_owned(),
            format: Format::Json.into(),
            fields: fields.into(),
            rate: None,
            order: Order::Parallel,
            record_bytes_max: 1 << 20,
            decode_threads: 0,
        };
        let window = NodeKind::Window(WindowSpec {
            key: vec!["key".into()],
            window: self.window,
            allowed_lateness_ns: self.lateness_s * SECOND,
            aggregates: vec![NamedAggregate { name: "rows".into(), expression: "count()".into() }],
            statistics: None,
        });
        let nodes = vec![
            node("in", &[], source(SourceConnector::File(spec))),
            node("windows", &["in"], window),
            node("out", &["windows"], file(out.clone())),
        ];
        let path = self.folder.path().join("state");
        let spec = CheckpointSpec { path, interval_ns: 1_000_000_000, keep: 1, start: StartFrom::Newest };
        let summary = run(plan(shards, Some(spec), nodes).unwrap(), Arc::new(Control::default())).unwrap();
        let mut rows = lines(&out);
        for line in before {
            rows.remove(rows.iter().position(|other| *other == line).expect("what was shown stays"));
        }
        (summary.snapshot.rows_late, rows.iter().map(|line| counted(line)).collect())
    }
}

const SECOND: i64 = 1_000_000_000;

fn counted(line: &str) -> (String, i64, i64, u64) {
    let row: serde_json::Value = serde_json::from_str(line).unwrap();
    let second = |name: &str| {
        let time: jiff::Timestamp = row[name].as_str().unwrap().parse().unwrap();
        time.as_second()
    };
    let key = row["key"].as_str().unwrap().to_owned();
    (key, second("window_start"), second("window_end"), row["rows"].as_u64().unwrap())
}

fn window(key: &str, start: i64, end: i64, rows: u64) -> (String, i64, i64, u64) {
    (key.to_owned(), start, end, rows)
}

#[test]
fn rows_that_a_file_gets_after_its_end_are_counted_and_windows_that_fired_stay_closed() {
    for shards in [[1, 1, 1], [2, 2, 2], [2, 3, 1]] {
        let file = Growing::new(WindowKind::Tumbling { size_ns: 10 * SECOND }, 0);
        // The end makes the last windows fire, also that of `b`, which has hardly begun.
        let (late, rows) = file.run(shards[0], &[("a", 1), ("a", 12), ("b", 21)]);
        assert_eq!((late, rows), (0, vec![window("a", 0, 10, 1), window("a", 10, 20, 1), window("b", 20, 30, 1)]));
        // What is not over yet goes on; of the windows until 30 everything has been said, whatever the key.
        let (late, rows) = file.run(shards[1], &[("b", 29), ("a", 25), ("b", 30), ("a", 31), ("c", 44)]);
        assert_eq!((late, rows), (2, vec![window("a", 30, 40, 1), window("b", 30, 40, 1), window("c", 40, 50, 1)]));
        let (late, rows) = file.run(shards[2], &[]);
        assert_eq!((late, rows), (2, vec![]));
        let (late, rows) = file.run(shards[0], &[("a", 50)]);
        assert_eq!((late, rows), (2, vec![window("a", 50, 60, 1)]));
    }
}

#[test]
fn with_allowed_lateness_windows_that_fired_at_the_end_fire_again_for_what_the_file_gets_later() {
    for shards in [1, 2] {
        let file = Growing::new(WindowKind::Tumbling { size_ns: 10 * SECOND }, 15);
        let (_, rows) = file.run(shards, &[("a", 1), ("a", 21), ("b", 22)]);
        assert_eq!(rows, [window("a", 0, 10, 1), window("a", 20, 30, 1), window("b", 20, 30, 1)]);
        // Windows that ended 15 seconds before 30 are over.
        let (late, rows) = file.run(shards, &[("a", 8), ("b", 19), ("a", 23), ("c", 24), ("a", 31)]);
        let again = [window("a", 20, 30, 2), window("a", 30, 40, 1), window("b", 10, 20, 1), window("c", 20, 30, 1)];
        assert_eq!((late, rows), (1, again.to_vec()));
    }
}

#[test]
fn sessions_and_sliding_windows_go_on_after_the_end_too() {
    for shards in [1, 2] {
        let file = Growing::new(WindowKind::Session { gap_ns: 10 * SECOND }, 0);
        assert_eq!(file.run(shards, &[("a", 1), ("a", 5)]).1, [window("a", 1, 15, 2)]);
        let (late, rows) = file.run(shards, &[("a", 4), ("a", 20), ("a", 26), ("b", 30)]);
        assert_eq!((late, rows), (1, vec![window("a", 20, 36, 2), window("b", 30, 40, 1)]));
        let file = Growing::new(WindowKind::Sliding { size_ns: 10 * SECOND, every_ns: 5 * SECOND }, 0);
        assert_eq!(file.run(shards, &[("a", 12)]).1, [window("a", 5, 15, 1), window("a", 10, 20, 1)]);
        let (late, rows) = file.run(shards, &[("a", 13), ("a", 19), ("a", 21)]);
        assert_eq!((late, rows), (1, vec![window("a", 15, 25, 2), window("a", 20, 30, 1)]));
    }
}
