//! What a plan is made of, without running it.

use std::path::{Path, PathBuf};

use ringmill_connect::{FieldSpec, FileSpec, Format, GeneratorSpec, Order, OutputFormat};
use ringmill_engine::plan::dead_letter_store::stored_node;
use ringmill_engine::plan::{
    CheckpointSpec, NodeKind, NodeSpec, PipelineSpec, Plan, Port, SinkSpec, SourceConnector, SourceSpec, StartFrom,
};
use ringmill_ring::Wait;
use ringmill_wire::DataType;

fn pipeline(state: Option<&str>) -> PipelineSpec {
    PipelineSpec {
        name: "test".into(),
        shards: 1,
        wait: Wait::Adaptive,
        profile: Default::default(),
        cpus: Vec::new(),
        state_bytes_max: 1 << 30,
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
        format: Format::Json,
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
            let NodeKind::Sink(SinkSpec::File { path, format: OutputFormat::Json }) = &sink.kind else {
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
