//! What a plan is made of, without running it.

use std::path::{Path, PathBuf};

use ringmill_connect::{
    EventType, EventTypes, FieldSpec, FileSink, FileSpec, Format, GeneratorSpec, Order, OutputFormat, TypePlace,
};
use ringmill_engine::plan::dead_letter_store::stored_node;
use ringmill_engine::plan::{
    CheckpointSpec, EventTypeSpec, FilterSpec, NodeKind, NodeSpec, PipelineSpec, Plan, Port, SinkSpec, SourceConnector,
    SourceSpec, StartFrom,
};
use ringmill_engine::window::{NamedAggregate, WindowKind, WindowSpec};
use ringmill_ring::Wait;
use ringmill_wire::{DataType, TimeUnit};

fn pipeline(state: Option<&str>) -> PipelineSpec {
    PipelineSpec {
        name: "test".into(),
        shards: 1,
        wait: Wait::Adaptive,
        profile: Default::default(),
        cpus: Vec::new(),
        state_bytes_max: 1 << 30,
        sink_buffer_bytes: 2 << 20,
        checkpoint: state.map(|path| CheckpointSpec {
            path: path.into(),
            interval_ns: 1_000_000_000,
            keep: 3,
            start: StartFrom::Newest,
        }),
        run_base: None,
        worker_environment: Vec::new(),
    }
}

fn source(connector: SourceConnector) -> NodeKind {
    NodeKind::Source(SourceSpec {
        connector,
        event_time: None,
        out_of_orderness_ns: 0,
        idle_timeout_ns: None,
        max_future_ns: i64::MAX,
    })
}

fn readings() -> NodeKind {
    let field = FieldSpec { name: "device".into(), data_type: DataType::Utf8, nullable: false, path: None };
    source(SourceConnector::File(FileSpec {
        path: "readings.ndjson".into(),
        format: Format::Json.into(),
        fields: vec![field].into(),
        rate: None,
        order: Order::Parallel,
        record_bytes_max: ringmill_connect::RECORD_BYTES_MAX,
        decode_threads: 0,
    }))
}

fn generator() -> NodeKind {
    source(SourceConnector::Generator(GeneratorSpec::default()))
}

fn node(name: &str, inputs: &[&str], kind: NodeKind) -> NodeSpec {
    NodeSpec { name: name.into(), inputs: inputs.iter().map(|&input| input.into()).collect(), kind }
}

fn null() -> NodeKind {
    NodeKind::Sink(SinkSpec::Null)
}

/// The nodes whose letters are stored, and where.
fn stored(plan: &Plan) -> Vec<(&str, PathBuf)> {
    let sinks = plan.nodes.iter().filter_map(|node| Some((stored_node(&node.name)?, node)));
    sinks
        .map(|(name, sink)| {
            assert_eq!(sink.inputs.len(), 1);
            assert_eq!(sink.inputs[0].port, Port::DeadLetters);
            assert_eq!(plan.nodes[sink.inputs[0].node].name, name);
            let NodeKind::Sink(SinkSpec::File(FileSink { path, format: OutputFormat::Json, .. })) = &sink.kind else {
                panic!("{sink:?}")
            };
            (name, path.clone())
        })
        .collect()
}

#[test]
fn dead_letters_that_no_sink_takes_are_stored_with_the_checkpoints() {
    let nodes = || {
        vec![
            node("read", &[], readings()),
            node("taken", &[], readings()),
            node("made", &[], generator()),
            node("out", &["read", "taken"], null()),
            node("rest", &["made"], null()),
            node("broken", &["taken.dead_letters"], null()),
        ]
    };
    let plan = Plan::build(pipeline(Some("/state")), nodes()).expect("a plan");
    let found = stored(&plan);
    assert_eq!(found, [("read", Path::new("/state/dead_letters/read/").to_owned())]);
    // The ending makes it a folder of parts; comparing paths does not see it.
    assert!(found[0].1.to_string_lossy().ends_with('/'));
    let without = Plan::build(pipeline(None), nodes()).expect("a plan");
    assert!(stored(&without).is_empty());
}

#[test]
fn the_built_in_store_does_not_stand_in_for_a_sink() {
    let errors = Plan::build(pipeline(Some("/state")), vec![node("read", &[], readings())]).expect_err("no sink");
    assert_eq!(errors[0].message, "the pipeline has no sink");
}

/// A source of orders, which have a time, and beats, which have none; and the nodes of its types.
fn events() -> Vec<NodeSpec> {
    let field = |name: &str, data_type| FieldSpec { name: name.into(), data_type, nullable: false, path: None };
    let of = |name: &str, time: Option<&str>| EventType {
        name: name.into(),
        values: vec![name.into()],
        fields: vec![field("at", DataType::Timestamp(TimeUnit::Second)), field("host", DataType::Utf8)],
        event_time: time.map(str::to_owned),
    };
    let types = vec![of("order", Some("at")), of("beat", None)];
    let types = EventTypes::new(TypePlace::Field("kind".into()), types).expect("types");
    let event_time = types.time_column().map(str::to_owned);
    let NodeKind::Source(readings) = readings() else { panic!("a source") };
    let SourceConnector::File(file) = readings.connector else { panic!("a file") };
    let connector = SourceConnector::File(FileSpec { fields: types.into(), ..file });
    let source = SourceSpec { connector, event_time, ..readings };
    let types = EventTypeSpec::nodes("events", &source);
    [vec![node("events", &[], NodeKind::Source(source))], types].concat()
}

#[test]
fn each_type_of_events_is_a_stream_with_its_own_columns() {
    let plan = Plan::build(pipeline(Some("/state")), [events(), vec![node("out", &["events.order"], null())]].concat());
    let plan = plan.expect("a plan");
    let order = plan.nodes.iter().find(|node| node.name == "events.order").expect("it is there");
    let names: Vec<&str> = order.schema.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!((names, order.event_time.as_deref()), (vec!["at", "host"], Some("at")));
    let stored: Vec<&str> = stored(&plan).into_iter().map(|(name, _)| name).collect();
    assert_eq!(stored, ["events"], "one stream of dead letters for all types");
}

#[test]
fn what_has_no_columns_or_no_time_of_its_own_is_refused() {
    let refused = |inputs: &str, kind: NodeKind| {
        let nodes = [events(), vec![node("step", &[inputs], kind), node("out", &["step"], null())]].concat();
        Plan::build(pipeline(None), nodes).expect_err("a mistake").remove(0).message
    };
    let filter = NodeKind::Filter(FilterSpec { expression: "host == 'a'".into() });
    let several = "\"events\" has events of several types, each with a stream of its own: events.order, events.beat";
    assert_eq!(refused("events", filter), several);
    let window = NodeKind::Window(WindowSpec {
        key: vec!["host".into()],
        window: WindowKind::Tumbling { size_ns: 1_000_000_000 },
        allowed_lateness_ns: 0,
        aggregates: vec![NamedAggregate { name: "rows".into(), expression: "count()".into() }],
        statistics: None,
    });
    let timeless = "the rows of \"events.beat\" have no event time, and other types of their source have";
    assert_eq!(refused("events.beat", window), timeless);
}
