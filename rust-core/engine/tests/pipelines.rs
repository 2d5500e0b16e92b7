//! Whole pipelines without Python, run in this process.

use std::path::Path;
use std::sync::Arc;

use ringmill_connect::{FieldSpec, FileSink, FileSpec, Format, GeneratorSpec, Order, OutputFormat};
use ringmill_engine::plan::{
    FilterSpec, NodeKind, NodeSpec, PipelineSpec, Plan, SinkSpec, SourceConnector, SourceSpec,
};
use ringmill_engine::{Control, EngineError, Summary, run};
use ringmill_ring::Wait;
use ringmill_wire::{DataType, TimeUnit};

fn pipeline(shards: usize) -> PipelineSpec {
    PipelineSpec {
        name: "test".into(),
        shards,
        wait: Wait::Adaptive,
        profile: Default::default(),
        cpus: Vec::new(),
        state_bytes_max: 1 << 30,
        sink_buffer_bytes: 2 << 20,
        run_base: None,
        worker_environment: Vec::new(),
        checkpoint: None,
    }
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

fn generator(rows: u64) -> NodeKind {
    source(SourceConnector::Generator(GeneratorSpec { keys: 100, rows: Some(rows), ..GeneratorSpec::default() }))
}

fn node(name: &str, inputs: &[&str], kind: NodeKind) -> NodeSpec {
    NodeSpec { name: name.into(), inputs: inputs.iter().map(|&input| input.into()).collect(), kind }
}

fn filter(expression: &str) -> NodeKind {
    NodeKind::Filter(FilterSpec { expression: expression.into() })
}

fn file(path: &Path) -> NodeKind {
    NodeKind::Sink(SinkSpec::File(FileSink::new(path, OutputFormat::Json)))
}

fn go(shards: usize, nodes: Vec<NodeSpec>) -> Result<Summary, EngineError> {
    let plan = Plan::build(pipeline(shards), nodes).unwrap_or_else(|errors| panic!("{errors:?}"));
    run(plan, Arc::new(Control::default()))
}

fn counts<'a>(summary: &'a Summary, name: &str) -> &'a ringmill_engine::NodeCounts {
    summary.snapshot.nodes.iter().find(|node| node.name == name).expect("the node is in the plan")
}

#[test]
fn the_null_sink_computes_the_same_for_any_number_of_shards() {
    let checksum = |shards| {
        let null = NodeKind::Sink(SinkSpec::Null);
        let summary = go(shards, vec![node("made", &[], generator(50_000)), node("out", &["made"], null)]).unwrap();
        assert_eq!((summary.snapshot.rows_in, counts(&summary, "out").rows_out), (50_000, 50_000));
        counts(&summary, "out").checksum.unwrap()
    };
    assert_eq!(checksum(1), checksum(2));
    assert_eq!(checksum(1), checksum(5));
}

#[test]
fn a_row_passes_every_branch_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let nodes = vec![
        node("made", &[], generator(20_000)),
        node("warm", &["made"], filter("temperature >= 20.0")),
        node("cold", &["made"], filter("not (temperature >= 20.0)")),
        node("both", &["warm", "cold"], file(&path("both.ndjson"))),
        node("all", &["made"], file(&path("all.ndjson"))),
    ];
    let summary = go(1, nodes).unwrap();
    let sorted = |name: &str| {
        let text = std::fs::read_to_string(path(name)).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted("all.ndjson").len(), 20_000);
    assert_eq!(sorted("both.ndjson"), sorted("all.ndjson"));
    let (warm, cold) = (counts(&summary, "warm"), counts(&summary, "cold"));
    assert_eq!((warm.rows_in, cold.rows_in), (20_000, 20_000));
    assert_eq!(warm.rows_out + cold.rows_out, 20_000);
    assert_eq!(warm.absorbed, cold.rows_out);
}

fn readings(path: &Path) -> NodeKind {
    let field = |name: &str, data_type| FieldSpec { name: name.into(), data_type, nullable: false, path: None };
    let fields = vec![field("device", DataType::Utf8), field("timestamp", DataType::Timestamp(TimeUnit::Millisecond))];
    source(SourceConnector::File(FileSpec {
        path: path.to_string_lossy().into_owned(),
        format: Format::Json.into(),
        fields: fields.into(),
        rate: None,
        order: Order::Parallel,
        record_bytes_max: ringmill_connect::RECORD_BYTES_MAX,
        decode_threads: 0,
    }))
}

#[test]
fn broken_lines_become_dead_letters_and_every_line_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for row in 0..5000 {
        text += &match row % 10 {
            3 => "{\"device\": 7, \"timestamp\": 1}\n".to_owned(),
            7 => format!("garbage {row}\n"),
            _ => format!("{{\"device\": \"d{row}\", \"timestamp\": {row}}}\n"),
        };
    }
    std::fs::write(folder.path().join("in.ndjson"), text).unwrap();
    let nodes = vec![
        node("lines", &[], readings(&folder.path().join("in.ndjson"))),
        node("good", &["lines"], file(&folder.path().join("good.ndjson"))),
        node("dead", &["lines.dead_letters"], file(&folder.path().join("dead.ndjson"))),
    ];
    let summary = go(2, nodes).unwrap();
    assert_eq!((summary.snapshot.rows_in, summary.snapshot.rows_dead), (5000, 1000));
    let lines = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap().lines().count();
    assert_eq!((lines("good.ndjson"), lines("dead.ndjson")), (4000, 1000));
}

#[test]
fn a_drained_run_ends_with_everything_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.ndjson");
    let spec = GeneratorSpec { keys: 10, rows: None, ..GeneratorSpec::default() };
    let nodes = vec![
        node("made", &[], source(SourceConnector::Generator(spec))),
        node("few", &["made"], filter("temperature > 1000.0")),
        node("out", &["few", "made.dead_letters"][..1], file(&out)),
    ];
    let plan = Plan::build(pipeline(2), nodes).unwrap();
    let control = Arc::new(Control::default());
    let steering = control.clone();
    let running = std::thread::spawn(move || run(plan, steering));
    while control.snapshot().rows_in == 0 {
        std::thread::yield_now();
    }
    control.request_drain();
    let summary = running.join().unwrap().unwrap();
    assert!(summary.snapshot.rows_in > 0);
    assert_eq!(counts(&summary, "few").rows_in, summary.snapshot.rows_in);
}

#[test]
fn an_aborted_run_says_so() {
    let spec = GeneratorSpec { keys: 10, rows: None, ..GeneratorSpec::default() };
    let nodes = vec![
        node("made", &[], source(SourceConnector::Generator(spec))),
        node("out", &["made"], NodeKind::Sink(SinkSpec::Null)),
    ];
    let plan = Plan::build(pipeline(1), nodes).unwrap();
    let control = Arc::new(Control::default());
    control.request_abort();
    assert!(matches!(run(plan, control), Err(EngineError::Aborted)));
}

#[test]
fn mistakes_are_reported_all_at_once() {
    let nodes = vec![
        node("made", &[], generator(1)),
        node("made", &[], generator(1)),
        node("a", &["b"], filter("temperature > 0")),
        node("b", &["a"], filter("temperature > 0")),
        node("c", &["mad"], filter("temperature > 0")),
        node("d", &["made.late"], filter("temperature > 0")),
        node("e", &["made"], filter("temprature > 0")),
        node("f", &[], NodeKind::Sink(SinkSpec::Null)),
    ];
    let errors = Plan::build(pipeline(1), nodes).unwrap_err();
    let said = |node: &str, words: &str| {
        let found = errors.iter().any(|error| error.node == node && error.to_string().contains(words));
        assert!(found, "{node}: {words} in {errors:#?}");
    };
    said("made", "used twice");
    said("a", "circle");
    said("c", "did you mean \"made\"");
    said("d", "no late rows");
    said("e", "temprature");
    said("f", "reads nothing");
}
