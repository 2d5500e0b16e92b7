//! A plan that runs one step, and everything behind it, on the rows of its dead letters, for a trial. Its sinks are files in a folder
//! of its own, so it can be run again, and it touches nothing of the pipeline.

use std::collections::HashMap;
use std::path::Path;

use ringmill_connect::{FieldSpec, FileSink, FileSpec, Format, Order, OutputFormat, RECORD_BYTES_MAX};
use ringmill_engine::Plan;
use ringmill_engine::plan::dead_letter_store::stored_node;
use ringmill_engine::plan::{
    Node, NodeKind, NodeSpec, PipelineSpec, PlanError, SinkSpec, SourceConnector, SourceSpec, StreamRef,
};

use crate::config::suggest::did_you_mean;
use crate::failure::Hinted;

/// The place of the step that is replayed.
///
/// # Errors
/// When there is no such step, or its letters are no rows, or a window behind it would lack rows.
pub fn find_step(plan: &Plan, step: &str) -> Result<usize, Hinted> {
    let steps = || plan.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Udf(_))).map(|node| &node.name);
    let index = plan.nodes.iter().position(|node| node.name == step);
    let Some(index) = index.filter(|index| !matches!(plan.nodes[*index].kind, NodeKind::Sink(_))) else {
        let hint = did_you_mean(step, steps());
        return Err(Hinted { message: format!("there is no step {step:?}"), hint, details: None });
    };
    let node = &plan.nodes[index];
    match node.kind {
        NodeKind::Udf(_) => {}
        NodeKind::Source(_) => {
            let hint = "without --into, they are read again by the source's decoder";
            return Err(Hinted::new(format!("{step} is a source; its dead letters are records, not rows")).hint(hint));
        }
        _ => return Err(Hinted::new(format!("{step} has no dead letters; only sources and udf steps have"))),
    }
    let behind = behind(plan, index);
    let windows = plan.nodes.iter().enumerate().filter(|(at, _)| behind.contains_key(at));
    if let Some((_, window)) = windows.into_iter().find(|(_, node)| matches!(node.kind, NodeKind::Window(_))) {
        let message = format!("{step} cannot be replayed: the windows of {} would lack their other rows", window.name);
        return Err(Hinted::new(message));
    }
    Ok(index)
}

/// The name of the file in the folder for the rows that the step is given.
pub fn letters_file(step: &str) -> String {
    format!("{step}.letters.ndjson")
}

/// The plan for a step that [`find_step`] found. It reads [`letters_file`] in `folder` and writes beside it.
///
/// # Errors
/// As [`Plan::build`]; none is expected, since the parts come from a plan.
pub fn replay_plan(plan: &Plan, step: usize, folder: &Path) -> Result<Plan, Vec<PlanError>> {
    let name = &plan.nodes[step].name;
    let source = format!("letters:{name}");
    let mut nodes =
        vec![NodeSpec { name: source.clone(), inputs: Vec::new(), kind: letters(&plan.nodes[step], folder) }];
    let behind = behind(plan, step);
    for (index, node) in plan.nodes.iter().enumerate() {
        let inputs = match behind.get(&index) {
            _ if index == step => vec![source.clone()],
            Some(inputs) => inputs.iter().map(|input| plan.stream_name(*input)).collect(),
            None => continue,
        };
        nodes.push(NodeSpec { name: node.name.clone(), inputs, kind: beside(node, folder) });
    }
    nodes.push(file_sink(&format!("{name}.unreadable"), format!("{source}.dead_letters"), folder));
    let pipeline = PipelineSpec {
        name: format!("{} (replay of {name})", plan.name),
        shards: 1,
        profile: Default::default(),
        checkpoint: None,
        ..plan.pipeline()
    };
    Plan::build(pipeline, nodes)
}

/// The nodes that get rows of the step, each with those of its inputs that come from there.
fn behind(plan: &Plan, step: usize) -> HashMap<usize, Vec<StreamRef>> {
    let mut found: HashMap<usize, Vec<StreamRef>> = HashMap::new();
    // Producers stand before consumers.
    for (index, node) in plan.nodes.iter().enumerate().skip(step + 1) {
        let from = |input: &&StreamRef| input.node == step || found.contains_key(&input.node);
        let inputs: Vec<StreamRef> = node.inputs.iter().filter(from).copied().collect();
        if !inputs.is_empty() {
            found.insert(index, inputs);
        }
    }
    found
}

/// The step's input, read back from the letters.
fn letters(step: &Node, folder: &Path) -> NodeKind {
    let schema = step.input_schema.iter().flat_map(|schema| &schema.fields);
    let fields = schema.map(|field| FieldSpec {
        name: field.name.clone(),
        data_type: field.data_type,
        nullable: field.nullable,
        path: None,
    });
    NodeKind::Source(SourceSpec {
        connector: SourceConnector::File(FileSpec {
            path: folder.join(letters_file(&step.name)).to_string_lossy().into_owned(),
            format: Format::Json.into(),
            fields: fields.collect(),
            rate: None,
            order: Order::Sequential,
            record_bytes_max: RECORD_BYTES_MAX,
            decode_threads: 0,
        }),
        event_time: None,
        out_of_orderness_ns: 0,
        idle_timeout_ns: None,
        max_future_ns: i64::MAX,
    })
}

/// The node as it is; a sink writes into the folder instead.
fn beside(node: &Node, folder: &Path) -> NodeKind {
    let NodeKind::Sink(sink) = &node.kind else { return node.kind.clone() };
    let format = match sink {
        SinkSpec::File(FileSink { format, .. }) | SinkSpec::Stdout { format } => *format,
        SinkSpec::Sqlite { .. }
        | SinkSpec::Postgres(_)
        | SinkSpec::Kafka(_)
        | SinkSpec::Mqtt(_)
        | SinkSpec::Nats(_)
        | SinkSpec::NatsCore(_)
        | SinkSpec::Http(_)
        | SinkSpec::Python(_)
        | SinkSpec::Retained(_)
        | SinkSpec::Null => OutputFormat::Json,
    };
    let name = stored_node(&node.name).map_or_else(|| node.name.clone(), |node| format!("{node}.dead_letters"));
    let has_parts = match sink {
        SinkSpec::File(sink) => sink.has_parts(),
        _ => false,
    };
    NodeKind::Sink(SinkSpec::File(FileSink::new(folder.join(file_name(&name, format, has_parts)), format)))
}

fn file_sink(name: &str, input: String, folder: &Path) -> NodeSpec {
    let path = folder.join(file_name(name, OutputFormat::Json, false));
    let kind = NodeKind::Sink(SinkSpec::File(FileSink::new(path, OutputFormat::Json)));
    NodeSpec { name: name.to_owned(), inputs: vec![input], kind }
}

/// A text file, or what the sink has: an Arrow stream, a folder of Arrow or Parquet files.
fn file_name(name: &str, format: OutputFormat, has_parts: bool) -> String {
    match format {
        OutputFormat::Json => format!("{name}.ndjson"),
        OutputFormat::Arrow if has_parts => format!("{name}.arrow/"),
        OutputFormat::Csv | OutputFormat::Raw | OutputFormat::Arrow => format!("{name}.{format}"),
        OutputFormat::Parquet(_) => format!("{name}.parquet/"),
    }
}
