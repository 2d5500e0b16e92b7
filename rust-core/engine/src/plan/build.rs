//! From node specs to a plan: order, streams, schemas, and every mistake at once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ringmill_connect::{ConnectError, FileSink, dead_letter_schema};
use ringmill_wire::{DataType, Field, Schema, TimeUnit};

use super::{
    Node, NodeKind, NodeSpec, PipelineSpec, Plan, PlanError, Port, SinkSpec, SourceConnector, SourceSpec, StreamRef,
    UdfSpec, dead_letter_store, rebalancing, retained, roll_up,
};
use crate::expression::Expression;
use crate::nearest::nearest;
use crate::window::{self, WindowSpec};

impl Plan {
    /// Orders and resolves `nodes`. All mistakes are reported together; nodes behind a broken one are not looked at.
    /// With checkpoints, sinks for dead letters that nobody reads are added; see [`super::dead_letter_store`].
    pub fn build(pipeline: PipelineSpec, mut nodes: Vec<NodeSpec>) -> Result<Plan, Vec<PlanError>> {
        let mut errors = Vec::new();
        let has_sink = nodes.iter().any(|node| matches!(node.kind, NodeKind::Sink(_)));
        if let Some(checkpoint) = &pipeline.checkpoint {
            nodes.extend(dead_letter_store::sinks(checkpoint, &nodes));
        }
        let order = order(&nodes, &mut errors);
        let mut built: Vec<Option<Node>> = Vec::with_capacity(order.len());
        let positions: HashMap<String, usize> =
            order.iter().enumerate().map(|(position, &index)| (nodes[index].name.clone(), position)).collect();
        let mut nodes: Vec<Option<NodeSpec>> = nodes.into_iter().map(Some).collect();
        for index in order {
            let Some(spec) = nodes[index].take() else { continue };
            built.push(resolve(spec, &built, &positions, &mut errors));
        }
        let nodes: Vec<Node> = built.into_iter().flatten().collect();
        if errors.is_empty() && !nodes.iter().any(|node| matches!(node.kind, NodeKind::Source(_))) {
            errors.push(error("pipeline", "sources", "the pipeline has no source", Some("add a [sources.NAME] table")));
        }
        if errors.is_empty() && !has_sink {
            errors.push(error(
                "pipeline",
                "sinks",
                "the pipeline has no sink",
                Some("add a [sinks.NAME] table, for example with kind = \"null\""),
            ));
        }
        check_paths(&nodes, &mut errors);
        if errors.is_empty() {
            errors.extend(roll_up::mistakes(&nodes));
            errors.extend(rebalancing::mistakes(&nodes, pipeline.checkpoint.is_some()));
        }
        if pipeline.checkpoint.is_none() {
            errors.extend(retained::without_checkpoints(&nodes));
            errors.extend(dead_letter_store::without_checkpoints(&nodes));
            check_rolling(&nodes, &mut errors);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let PipelineSpec {
            name,
            shards,
            wait,
            profile,
            cpus,
            state_bytes_max,
            sink_buffer_bytes,
            run_base,
            worker_environment,
            checkpoint,
        } = pipeline;
        let instruments = None;
        Ok(Plan {
            name,
            nodes,
            shards,
            wait,
            profile,
            cpus,
            state_bytes_max,
            sink_buffer_bytes,
            run_base,
            worker_environment,
            checkpoint,
            instruments,
        })
    }
}

fn error(node: &str, key: &str, message: impl Into<String>, hint: Option<&str>) -> PlanError {
    PlanError { node: node.into(), key: key.into(), message: message.into(), hint: hint.map(str::to_owned) }
}

/// A stream's name in its parts: `averages.late` is `averages` and its late rows.
pub fn stream_name(text: &str) -> (&str, Port) {
    if let Some(node) = text.strip_suffix(".late") {
        return (node, Port::Late);
    }
    match text.strip_suffix(".dead_letters") {
        Some(node) => (node, Port::DeadLetters),
        None => (text, Port::Rows),
    }
}

/// Indices of the nodes, producers first (Kahn); nodes of a cycle and those behind them are left out and reported.
fn order(nodes: &[NodeSpec], errors: &mut Vec<PlanError>) -> Vec<usize> {
    let mut indices: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if indices.insert(&node.name, index).is_some() {
            let message = format!("the name {:?} is used twice", node.name);
            errors.push(error(&node.name, "", message, Some("sources, steps and sinks share one set of names")));
        }
    }
    for node in nodes {
        check_inputs(node, nodes, &indices, errors);
    }
    let known = |node: &NodeSpec| -> Vec<usize> {
        node.inputs.iter().filter_map(|input| indices.get(stream_name(input).0).copied()).collect()
    };
    let mut waiting: Vec<Vec<usize>> = nodes.iter().map(known).collect();
    let mut order: Vec<usize> = Vec::with_capacity(nodes.len());
    let rank = |index: &usize| match nodes[*index].kind {
        NodeKind::Source(_) => 0,
        NodeKind::Sink(_) => 2,
        _ => 1,
    };
    loop {
        let ready = (0..nodes.len()).filter(|index| !order.contains(index) && waiting[*index].is_empty());
        let Some(next) = ready.min_by_key(rank) else { break };
        order.push(next);
        waiting.iter_mut().for_each(|inputs| inputs.retain(|input| *input != next));
    }
    let stuck: Vec<&str> =
        (0..nodes.len()).filter(|index| !order.contains(index)).map(|index| nodes[index].name.as_str()).collect();
    if let Some(first) = stuck.first() {
        let message = format!("these nodes wait for each other in a circle: {}", stuck.join(", "));
        errors.push(error(
            first,
            "inputs",
            message,
            Some("rows must flow from sources to sinks; take one of the inputs out"),
        ));
    }
    order
}

fn check_inputs(node: &NodeSpec, nodes: &[NodeSpec], indices: &HashMap<&str, usize>, errors: &mut Vec<PlanError>) {
    let is_source = matches!(node.kind, NodeKind::Source(_));
    if node.inputs.is_empty() && !is_source {
        errors.push(error(
            &node.name,
            "inputs",
            "it reads nothing",
            Some("name a source or step, for example inputs = [\"sensors\"]"),
        ));
    }
    for (at, input) in node.inputs.iter().enumerate() {
        let (name, port) = stream_name(input);
        if node.inputs[..at].contains(input) {
            errors.push(error(&node.name, "inputs", format!("{input:?} is named twice"), None));
        }
        let Some(producer) = indices.get(name).map(|index| &nodes[*index]) else {
            let streams =
                nodes.iter().filter(|node| !matches!(node.kind, NodeKind::Sink(_))).map(|node| node.name.as_str());
            let near = nearest(name, streams).map(|stream| format!("did you mean {stream:?}?"));
            errors.push(error(
                &node.name,
                "inputs",
                format!("there is no source or step named {name:?}"),
                near.as_deref(),
            ));
            continue;
        };
        let wrong = match (&producer.kind, port) {
            (NodeKind::Sink(_), _) => Some(format!("{name:?} is a sink; nothing can be read from it")),
            (NodeKind::Source(source), Port::Rows) if !matches!(node.kind, NodeKind::EventType(_)) => {
                source.connector.event_types().map(|types| {
                    let streams = types.types().iter().map(|event_type| format!("{name}.{}", event_type.name));
                    let streams = streams.collect::<Vec<_>>().join(", ");
                    format!("{name:?} has events of several types, each with a stream of its own: {streams}")
                })
            }
            (NodeKind::Source(_) | NodeKind::EventType(_) | NodeKind::Udf(_) | NodeKind::Filter(_), Port::Late) => {
                Some(format!("{name:?} has no late rows; only windows have"))
            }
            (NodeKind::Window(_) | NodeKind::EventType(_) | NodeKind::Filter(_), Port::DeadLetters) => {
                Some(format!("{name:?} has no dead letters; only sources and UDF steps have"))
            }
            _ => None,
        };
        if let Some(message) = wrong {
            errors.push(error(&node.name, "inputs", message, None));
        }
    }
}

/// What flows through a stream.
struct Stream {
    schema: Arc<Schema>,
    event_time: Option<String>,
    behind_window: bool,
}

fn resolve(
    spec: NodeSpec,
    built: &[Option<Node>],
    positions: &HashMap<String, usize>,
    errors: &mut Vec<PlanError>,
) -> Option<Node> {
    let NodeSpec { name, inputs, kind } = spec;
    let mut refs = Vec::with_capacity(inputs.len());
    let mut streams = Vec::with_capacity(inputs.len());
    for input in &inputs {
        let (producer, port) = stream_name(input);
        let node = *positions.get(producer)?;
        refs.push(StreamRef { node, port });
        streams.push(stream(built.get(node)?.as_ref()?, port, built)?);
    }
    let input = join_streams(&name, &inputs, streams, errors);
    let before = errors.len();
    let (schema, event_time) = match (&kind, &input) {
        (NodeKind::Source(source), _) => resolve_source(&name, source, errors)?,
        (_, None) => return None,
        (NodeKind::EventType(spec), Some(_)) => match spec.schema() {
            Ok(schema) => (schema, spec.event_type().event_time.clone()),
            Err(wrong) => {
                let (source, name) = name.split_once('.').unwrap_or((&name, ""));
                errors.push(error(source, &format!("types.{name}.fields"), wrong, None));
                return None;
            }
        },
        (NodeKind::Window(window), Some(input)) => {
            check_time(&name, &refs, built, errors);
            (resolve_window(&name, window, input, errors)?, None)
        }
        (NodeKind::Udf(udf), Some(input)) => {
            (resolve_udf(&name, udf, &input.schema, errors)?, input.event_time.clone())
        }
        (NodeKind::Filter(filter), Some(input)) => {
            check_filter(&name, &filter.expression, &input.schema, errors);
            (input.schema.clone(), input.event_time.clone())
        }
        (NodeKind::Sink(sink), Some(input)) => {
            check_sink(&name, sink, &input.schema, errors);
            (input.schema.clone(), None)
        }
    };
    if errors.len() > before {
        return None;
    }
    Some(Node { name, inputs: refs, kind, input_schema: input.map(|input| input.schema), schema, event_time })
}

fn stream(node: &Node, port: Port, built: &[Option<Node>]) -> Option<Stream> {
    let behind = |node: &Node| is_behind_window(node, built);
    Some(match port {
        Port::Rows => {
            Stream { schema: node.schema.clone(), event_time: node.event_time.clone(), behind_window: behind(node) }
        }
        Port::Late => Stream { schema: node.input_schema.clone()?, event_time: None, behind_window: behind(node) },
        Port::DeadLetters => Stream { schema: dead_letter_schema(), event_time: None, behind_window: false },
    })
}

fn is_behind_window(node: &Node, built: &[Option<Node>]) -> bool {
    matches!(node.kind, NodeKind::Window(_))
        || node.inputs.iter().any(|input| built[input.node].as_ref().is_some_and(|node| is_behind_window(node, built)))
}

/// One stream from several: they must agree on their columns.
fn join_streams(name: &str, inputs: &[String], streams: Vec<Stream>, errors: &mut Vec<PlanError>) -> Option<Stream> {
    let mut joined: Option<Stream> = None;
    for (at, stream) in streams.into_iter().enumerate() {
        match &mut joined {
            None => joined = Some(stream),
            Some(first) => {
                if first.schema != stream.schema {
                    let message = format!(
                        "{:?} and {:?} have different columns: {} and {}",
                        inputs[0],
                        inputs[at],
                        columns(&first.schema),
                        columns(&stream.schema)
                    );
                    errors.push(error(
                        name,
                        "inputs",
                        message,
                        Some("streams that are read together must have the same columns"),
                    ));
                    return None;
                }
                if first.event_time != stream.event_time {
                    first.event_time = None;
                }
                first.behind_window |= stream.behind_window;
            }
        }
    }
    joined
}

fn columns(schema: &Schema) -> String {
    let fields = schema.fields.iter().map(|field| format!("{} {}", field.name, field.data_type));
    format!("({})", fields.collect::<Vec<_>>().join(", "))
}

fn resolve_source(
    name: &str,
    source: &SourceSpec,
    errors: &mut Vec<PlanError>,
) -> Option<(Arc<Schema>, Option<String>)> {
    let schema = match &source.connector {
        SourceConnector::Generator(spec) => spec.schema(),
        SourceConnector::File(spec) => spec.schema(),
        SourceConnector::Stdin(spec) => spec.schema(),
        SourceConnector::Socket(spec) => spec.schema(),
        SourceConnector::Http(spec) => spec.schema(),
        SourceConnector::Kafka(spec) => spec.schema(),
        SourceConnector::Mqtt(spec) => spec.schema(),
        SourceConnector::Nats(spec) => spec.schema(),
        SourceConnector::NatsCore(spec) => spec.schema(),
        SourceConnector::Python(source) => source.feed.schema(),
        SourceConnector::Producer(source) => source.feed.schema(),
        SourceConnector::Letters(spec) => spec.schema(),
    };
    let schema = match schema {
        Ok(schema) => schema,
        Err(wrong) => {
            errors.push(error(name, "fields", wrong.to_string(), None));
            return None;
        }
    };
    // Of several types it was checked with them.
    if let Some(column) = source.event_time.as_ref().filter(|_| source.connector.event_types().is_none()) {
        match schema.index_of(column).map(|index| schema.field(index)) {
            None => errors.push(missing_column(name, "event_time", column, &schema)),
            Some(field) if !matches!(field.data_type, DataType::Timestamp(_)) => {
                let message = format!("event time must be a timestamp, and {column} is {}", field.data_type);
                errors.push(error(name, "event_time", message, Some("declare it as \"timestamp[ms]\", for example")));
            }
            Some(field) if field.nullable => {
                errors.push(error(
                    name,
                    "event_time",
                    format!("{column} is nullable; every row needs an event time"),
                    None,
                ));
            }
            Some(_) => {}
        }
    }
    Some((schema, source.event_time.clone()))
}

/// A window over rows without a time, beside others of their source that have one, would not know when it ends.
fn check_time(name: &str, inputs: &[StreamRef], built: &[Option<Node>], errors: &mut Vec<PlanError>) {
    let mut ahead: Vec<usize> = inputs.iter().map(|input| input.node).collect();
    while let Some(node) = ahead.pop().and_then(|at| built[at].as_ref()) {
        if let NodeKind::EventType(spec) = &node.kind
            && spec.is_timeless()
        {
            let message =
                format!("the rows of {:?} have no event time, and other types of their source have", node.name);
            errors.push(error(name, "inputs", message, Some("name it in the type: event_time = \"at\", for example")));
            return;
        }
        ahead.extend(node.inputs.iter().map(|input| input.node));
    }
}

/// The unit of a stream's event time.
pub fn event_time_unit(schema: &Schema, column: Option<&str>) -> Option<(usize, TimeUnit)> {
    let index = schema.index_of(column?)?;
    match schema.field(index).data_type {
        DataType::Timestamp(unit) => Some((index, unit)),
        _ => None,
    }
}

fn resolve_window(name: &str, window: &WindowSpec, input: &Stream, errors: &mut Vec<PlanError>) -> Option<Arc<Schema>> {
    if input.behind_window {
        let message = "a window over the results of another window is not supported yet";
        errors.push(error(
            name,
            "inputs",
            message,
            Some("write the first window's results to a sink and read them in a second pipeline"),
        ));
        return None;
    }
    let unit = event_time_unit(&input.schema, input.event_time.as_deref()).map(|(_, unit)| unit);
    match window::output_schema(window, &input.schema, unit) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(wrong) => {
            errors.extend(wrong.into_iter().map(|wrong| PlanError {
                node: name.into(),
                key: wrong.key,
                message: wrong.message,
                hint: wrong.hint,
            }));
            None
        }
    }
}

fn resolve_udf(name: &str, udf: &UdfSpec, input: &Schema, errors: &mut Vec<PlanError>) -> Option<Arc<Schema>> {
    let description = &udf.description;
    check_state(name, udf, input, errors);
    for argument in &description.arguments {
        let is_state = description.state.iter().any(|field| field.name == *argument);
        if input.index_of(argument).is_none() && !is_state {
            let mut wrong = missing_column(name, "function", argument, input);
            wrong.message = format!(
                "{} asks for column {argument:?}, which the step's input does not have: {}",
                udf.function,
                columns(input)
            );
            errors.push(wrong);
        }
    }
    for (argument, types) in description.accepts.iter().flatten() {
        let Some(field) = input.index_of(argument).map(|index| input.field(index)) else { continue };
        if !types.contains(&field.data_type) {
            let expected = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let message =
                format!("{} expects column {argument:?} to be {expected}, got {}", udf.function, field.data_type);
            errors.push(error(
                name,
                "function",
                message,
                Some("change the column's type or the function's annotation"),
            ));
        }
    }
    for output in &description.outputs {
        if input.index_of(&output.name).is_some() {
            let message =
                format!("{} returns a column {:?}, which the step's input has already", udf.function, output.name);
            errors.push(error(name, "function", message, Some("give the output another name")));
        }
    }
    if description.outputs.is_empty() {
        errors.push(error(
            name,
            "function",
            format!("{} declares no outputs", udf.function),
            Some("name them: @rm.udf(outputs={\"score\": rm.float64})"),
        ));
    }
    let fields: Vec<Field> = input.fields.iter().chain(&description.outputs).cloned().collect();
    match Schema::new(fields) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(_) if !errors.is_empty() => None,
        Err(wrong) => {
            errors.push(error(name, "function", wrong.to_string(), None));
            None
        }
    }
}

/// Per-key state and the step's key belong together, and state has names of its own.
fn check_state(name: &str, udf: &UdfSpec, input: &Schema, errors: &mut Vec<PlanError>) {
    let state = &udf.description.state;
    if state.is_empty() {
        if !udf.key.is_empty() {
            let message = format!("{} keeps nothing for a key", udf.function);
            let hint = "declare what it keeps, @rm.udf(state={\"level\": rm.float64}, …), or leave `key` out";
            errors.push(error(name, "key", message, Some(hint)));
        }
        return;
    }
    if udf.key.is_empty() {
        let names = state.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("{} keeps {names} for each key, and the step names no key", udf.function);
        errors.push(error(name, "function", message, Some("add its columns, for example key = [\"device_id\"]")));
    }
    let mut wrong = Vec::new();
    window::bind_keys(&udf.key, input, &mut wrong);
    errors.extend(wrong.into_iter().map(|wrong| PlanError {
        node: name.into(),
        key: wrong.key,
        message: wrong.message,
        hint: wrong.hint,
    }));
    for field in state {
        if input.index_of(&field.name).is_some() {
            let message =
                format!("{} keeps a column {:?}, which the step's input has already", udf.function, field.name);
            errors.push(error(name, "function", message, Some("give what is kept another name")));
        }
        if field.initial_word().is_none() {
            let message =
                format!("{} keeps {:?} as {}, which is not possible", udf.function, field.name, field.data_type);
            errors.push(error(name, "function", message, Some("state needs a type of fixed width")));
        }
    }
}

fn missing_column(node: &str, key: &str, column: &str, schema: &Schema) -> PlanError {
    let near = nearest(column, schema.fields.iter().map(|field| field.name.as_str()));
    let hint = near.map(|name| format!("did you mean {name:?}?"));
    PlanError {
        node: node.into(),
        key: key.into(),
        message: format!("there is no column {column:?} in {}", columns(schema)),
        hint,
    }
}

fn check_filter(name: &str, text: &str, schema: &Schema, errors: &mut Vec<PlanError>) {
    if let Err(wrong) = Expression::parse(text).and_then(|expression| expression.bind(schema)) {
        let message = format!("{} (at character {} of {text:?})", wrong.message, wrong.offset + 1);
        errors.push(PlanError { node: name.into(), key: "where".into(), message, hint: wrong.hint });
    }
}

/// Without checkpoints nobody would look at the time.
fn check_rolling(nodes: &[Node], errors: &mut Vec<PlanError>) {
    for node in nodes {
        if let NodeKind::Sink(SinkSpec::File(FileSink { rolling, .. })) = &node.kind
            && rolling.interval.is_some()
        {
            let message = "`roll_interval`: files go on over checkpoints, and there are none".to_owned();
            errors.push(error(&node.name, "roll_interval", message, Some("add [checkpoint] with path = \"state\"")));
        }
    }
}

/// Two sinks that write one file would write over each other.
fn check_paths(nodes: &[Node], errors: &mut Vec<PlanError>) {
    let mut writers: HashMap<(&PathBuf, Option<&str>), &str> = HashMap::new();
    for node in nodes {
        let (path, table) = match &node.kind {
            NodeKind::Sink(SinkSpec::File(FileSink { path, .. })) => (path, None),
            NodeKind::Sink(SinkSpec::Sqlite { path, table }) => (path, Some(table.as_str())),
            _ => continue,
        };
        if let Some(other) = writers.insert((path, table), &node.name) {
            let message = format!("{} is written by the sink {other:?} already", path.display());
            errors.push(error(
                &node.name,
                "path",
                message,
                Some("one sink may read several streams: inputs = [\"a\", \"b\"]"),
            ));
        }
    }
}

fn check_sink(name: &str, sink: &SinkSpec, schema: &Schema, errors: &mut Vec<PlanError>) {
    if let Err(wrong) = sink.encoder(schema) {
        let key = if matches!(wrong, ConnectError::Spec { option: "column", .. }) { "column" } else { "format" };
        errors.push(error(name, key, wrong.to_string(), None));
    }
}
