//! What a step with per-key state needs, and how its mistakes are told.

use std::path::PathBuf;

use ringmill_connect::GeneratorSpec;
use ringmill_engine::plan::{
    NodeKind, NodeSpec, OnError, PipelineSpec, Plan, SinkSpec, SourceConnector, SourceSpec, StateField, Supervision,
    UdfDescription, UdfSpec,
};
use ringmill_ring::Wait;
use ringmill_wire::{DataType, Field};

fn state(name: &str, data_type: DataType, initial: &str) -> StateField {
    StateField { name: name.into(), data_type, initial: initial.into() }
}

fn level() -> Vec<StateField> {
    vec![state("level", DataType::Float64, "0000000000000000")]
}

fn build(key: &[&str], state: Vec<StateField>) -> Result<Plan, Vec<String>> {
    let source = NodeKind::Source(SourceSpec {
        connector: SourceConnector::Generator(GeneratorSpec::default()),
        event_time: None,
        out_of_orderness_ns: 0,
        idle_timeout_ns: None,
        max_future_ns: i64::MAX,
    });
    let arguments = std::iter::once("temperature").chain(state.iter().map(|field| field.name.as_str()));
    let description = UdfDescription {
        mode: "columns".into(),
        arguments: arguments.map(str::to_owned).collect(),
        outputs: vec![Field::new("score", DataType::Float64)],
        state,
        ..UdfDescription::default()
    };
    let udf = NodeKind::Udf(UdfSpec {
        function: "m:f".into(),
        directory: PathBuf::new(),
        python: PathBuf::new(),
        workers: 1,
        batch_rows: 64,
        variable_bytes: 4096,
        slots: 4,
        on_error: OnError::Stop,
        supervision: Supervision::default(),
        key: key.iter().map(|&key| key.into()).collect(),
        description,
    });
    let node = |name: &str, inputs: &[&str], kind| NodeSpec {
        name: name.into(),
        inputs: inputs.iter().map(|&input| input.into()).collect(),
        kind,
    };
    let nodes = vec![
        node("sensors", &[], source),
        node("scores", &["sensors"], udf),
        node("out", &["scores"], NodeKind::Sink(SinkSpec::Null)),
    ];
    let pipeline = PipelineSpec {
        name: "test".into(),
        shards: 2,
        wait: Wait::Adaptive,
        profile: Default::default(),
        cpus: Vec::new(),
        state_bytes_max: 1 << 30,
        sink_buffer_bytes: 2 << 20,
        checkpoint: None,
        run_base: None,
        worker_environment: Vec::new(),
    };
    Plan::build(pipeline, nodes).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn state_is_given_and_kept_and_not_among_the_results() {
    let plan = build(&["device_id"], level()).unwrap();
    let step = plan.nodes.iter().find(|node| node.name == "scores").unwrap();
    assert!(step.schema.index_of("score").is_some() && step.schema.index_of("level").is_none());
}

#[test]
fn what_does_not_fit_together_is_told_with_its_key() {
    let long = || vec![state("level", DataType::Int8, "0000")];
    let text = || vec![state("level", DataType::Utf8, "")];
    let taken = || vec![state("humidity", DataType::Float64, "0000000000000000")];
    for (key, state, expected) in [
        (&["device_id"][..], Vec::new(), "scores.key: m:f keeps nothing for a key"),
        (&[], level(), "scores.function: m:f keeps level for each key, and the step names no key"),
        (&["device"], level(), "scores.key: there is no column \"device\""),
        (&["temperature"], level(), "scores.key: temperature is float64, and floats make no keys"),
        (&["device_id", "device_id"], level(), "scores.key: device_id is named twice"),
        (
            &["device_id"],
            taken(),
            "scores.function: m:f keeps a column \"humidity\", which the step's input has already",
        ),
        (&["device_id"], text(), "scores.function: m:f keeps \"level\" as utf8, which is not possible"),
        (&["device_id"], long(), "scores.function: m:f keeps \"level\" as int8, which is not possible"),
    ] {
        let errors = build(key, state).unwrap_err();
        assert!(errors.iter().any(|error| error.starts_with(expected)), "{errors:?} where {expected:?} was expected");
    }
}

#[test]
fn a_new_key_begins_with_the_value_that_was_said() {
    for (data_type, initial, word) in [
        (DataType::Float64, "000000000000f83f", Some(1.5_f64.to_bits())),
        (DataType::Int16, "feff", Some(0xfffe)),
        (DataType::Bool, "01", Some(1)),
        (DataType::Int16, "fe", None),
        (DataType::Int16, "fexx", None),
        (DataType::Utf8, "", None),
    ] {
        assert_eq!(state("s", data_type, initial).initial_word(), word, "{data_type} {initial}");
    }
}
