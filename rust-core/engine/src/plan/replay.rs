//! A plan that feeds stored dead letters back into a pipeline.
//!
//! It is the pipeline's own plan with a further source for each origin of letters: the rows of a function's letters go to
//! the function, those of a sink to the sink, a source's records to whoever reads the source. A run of it goes on from the newest checkpoint. The
//! pipeline's sources are not even opened and stay where they are ([`Plan::is_replay`]), so that the run ends with the
//! letters, and the next ordinary run goes on where the last one ended. Which letters were taken is the position of their
//! source in the checkpoint, so they leave the store in the same moment in which the sinks show what became of them.

use ringmill_connect::{FieldSpec, Format, LetterFilter, LetterForm, LettersSpec, MessageFormat, RECORD_BYTES_MAX};

use super::dead_letter_store::folder;
use super::provenance::consumers;
use super::{Node, NodeKind, NodeSpec, PipelineSpec, Plan, PlanError, Port, SourceConnector, SourceSpec, StreamRef};
use crate::nearest::nearest;

/// Configurations cannot have a name with a colon, so this one is never taken.
const PREFIX: &str = "replay:";

/// The letters of one source, step or sink that are to be fed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The source, step or sink.
    pub origin: String,
    /// Which of them.
    pub filter: LetterFilter,
}

/// Why letters cannot be fed back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReplayRefused {
    /// What is in the way.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The source, step or sink whose letters the source called `name` feeds back, if it is such a source.
pub fn replayed_node(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// The name of the source that feeds the letters of `origin` back.
pub fn replay_source(origin: &str) -> String {
    format!("{PREFIX}{origin}")
}

/// The letters that a source feeds back, if it is one that does.
pub fn letters_of(node: &Node) -> Option<&LettersSpec> {
    match &node.kind {
        NodeKind::Source(SourceSpec { connector: SourceConnector::Letters(letters), .. }) => Some(letters),
        _ => None,
    }
}

impl Plan {
    /// Whether it feeds dead letters back; its other sources stand still then.
    pub fn is_replay(&self) -> bool {
        self.nodes.iter().any(|node| letters_of(node).is_some())
    }

    /// The plan that feeds these letters back into this one.
    ///
    /// # Errors
    /// When a pipeline without checkpoints keeps no letters, or those of a node cannot be fed back.
    pub fn replaying(&self, all: &[Replayed]) -> Result<Plan, ReplayRefused> {
        let refuse = |message: String| ReplayRefused { message, hint: None };
        let Some(checkpoint) = &self.checkpoint else {
            return Err(refuse(format!("{} has no [checkpoint] table, so no dead letters are stored", self.name)));
        };
        let mut nodes: Vec<NodeSpec> = self.nodes.iter().map(|node| self.spec_of(node)).collect();
        for Replayed { origin, filter } in all {
            let index = find_origin(self, origin)?;
            let source = replay_source(origin);
            let mut kind = letters_source(self, index).map_err(refuse)?;
            kind.connector = match kind.connector {
                SourceConnector::Letters(letters) => SourceConnector::Letters(LettersSpec {
                    folder: folder(&checkpoint.path, origin),
                    filter: filter.clone(),
                    ..letters
                }),
                other => other,
            };
            match self.nodes[index].kind {
                NodeKind::Source(_) => nodes.iter_mut().for_each(|node| {
                    let reads = |input: &str| node.inputs.iter().any(|other| other == input);
                    let rows = reads(origin).then(|| source.clone());
                    let letters = reads(&format!("{origin}.dead_letters")).then(|| format!("{source}.dead_letters"));
                    node.inputs.extend(rows.into_iter().chain(letters));
                }),
                _ => nodes[index].inputs.push(source.clone()),
            }
            nodes.push(NodeSpec { name: source, inputs: Vec::new(), kind: NodeKind::Source(kind) });
        }
        Plan::build(self.pipeline(), nodes).map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(PlanError::to_string).collect();
            refuse(format!("the letters cannot be fed back: {}", errors.join("; ")))
        })
    }

    fn spec_of(&self, node: &Node) -> NodeSpec {
        let inputs = node.inputs.iter().map(|input| self.stream_name(*input)).collect();
        NodeSpec { name: node.name.clone(), inputs, kind: node.kind.clone() }
    }

    /// How the configuration calls a stream.
    pub fn stream_name(&self, input: StreamRef) -> String {
        let name = &self.nodes[input.node].name;
        match input.port {
            Port::Rows => name.clone(),
            Port::Late => format!("{name}.late"),
            Port::DeadLetters => format!("{name}.dead_letters"),
        }
    }

    /// What belongs to the pipeline as a whole.
    pub fn pipeline(&self) -> PipelineSpec {
        PipelineSpec {
            name: self.name.clone(),
            shards: self.shards,
            wait: self.wait,
            profile: self.profile,
            cpus: self.cpus.clone(),
            state_bytes_max: self.state_bytes_max,
            sink_buffer_bytes: self.sink_buffer_bytes,
            checkpoint: self.checkpoint.clone(),
            run_base: self.run_base.clone(),
            worker_environment: self.worker_environment.clone(),
        }
    }
}

/// The node called `origin`, which makes dead letters that can be read back.
///
/// # Errors
/// When there is no such node.
pub fn find_origin(plan: &Plan, origin: &str) -> Result<usize, ReplayRefused> {
    let makes_letters = |node: &Node| match &node.kind {
        NodeKind::Source(_) | NodeKind::Udf(_) => true,
        NodeKind::Sink(sink) => sink.has_letters(),
        NodeKind::EventType(_) | NodeKind::Window(_) | NodeKind::Filter(_) => false,
    };
    match plan.nodes.iter().position(|node| node.name == origin) {
        Some(index) if makes_letters(&plan.nodes[index]) => Ok(index),
        Some(index) => {
            let (message, hint) = match plan.nodes[index].kind {
                NodeKind::Sink(_) => {
                    let hint = "they go back to the sink where on_refused = \"dead_letter\"".to_owned();
                    (format!("{origin} keeps no dead letters"), Some(hint))
                }
                _ => (format!("{origin} has no dead letters; only sources, udf steps and some sinks have"), None),
            };
            Err(ReplayRefused { message, hint })
        }
        None => {
            let names = plan.nodes.iter().filter(|node| makes_letters(node)).map(|node| node.name.as_str());
            let hint = nearest(origin, names).map(|near| format!("did you mean `{near}`?"));
            Err(ReplayRefused { message: format!("there is no source, step or sink {origin:?}"), hint })
        }
    }
}

/// Windows that rows of `origin` come to and whose late rows nobody reads: a letter that is late there is only counted.
pub fn windows_without_late(plan: &Plan, origin: usize) -> Vec<&str> {
    let (mut found, mut ahead) = (Vec::new(), vec![origin]);
    while let Some(at) = ahead.pop() {
        let late = StreamRef { node: at, port: Port::Late };
        let node = &plan.nodes[at];
        let is_window = at != origin && matches!(node.kind, NodeKind::Window(_));
        if is_window
            && !plan.nodes.iter().any(|node| node.inputs.contains(&late))
            && !found.contains(&node.name.as_str())
        {
            found.push(&node.name);
        }
        if !is_window {
            ahead.extend(consumers(plan, at));
        }
    }
    found
}

/// A source of the node's letters, without a folder; or why they cannot be fed back.
fn letters_source(plan: &Plan, index: usize) -> Result<SourceSpec, String> {
    let node = &plan.nodes[index];
    let (form, fields, record_bytes_max, event_time, max_future_ns) = match &node.kind {
        NodeKind::Source(source) => {
            let json = LetterForm::Records(Format::Json);
            let (form, fields, record_bytes_max) = match &source.connector {
                SourceConnector::File(file) => (file.format.of_letters(), file.fields.clone(), file.record_bytes_max),
                SourceConnector::Stdin(stdin) => {
                    (LetterForm::Records(stdin.format), stdin.fields.clone(), stdin.record_bytes_max)
                }
                SourceConnector::Socket(socket) => {
                    (socket.format.of_letters(), socket.fields.clone(), socket.record_bytes_max)
                }
                SourceConnector::Http(http) => (LetterForm::Requests, http.fields.clone(), http.record_bytes_max),
                SourceConnector::Kafka(kafka) => {
                    let form = messages(&kafka.format, kafka.message_fields.names());
                    (form, kafka.fields.clone(), kafka.record_bytes_max)
                }
                SourceConnector::Mqtt(mqtt) => {
                    let form = messages(&mqtt.format, mqtt.members());
                    (form, mqtt.fields.clone(), mqtt.record_bytes_max)
                }
                SourceConnector::NatsCore(nats) => (json, nats.fields.clone(), nats.record_bytes_max),
                SourceConnector::Nats(nats) => {
                    let form = messages(&nats.format, nats.message_fields.names());
                    (form, nats.fields.clone(), nats.record_bytes_max)
                }
                SourceConnector::Python(source) => {
                    (json, source.feed.fields.clone().into(), source.feed.variable_bytes_max as usize)
                }
                SourceConnector::Producer(source) => {
                    (json, source.feed.fields.clone().into(), source.feed.variable_bytes_max as usize)
                }
                SourceConnector::Generator(_) | SourceConnector::Letters(_) => {
                    return Err(format!("{} makes its rows, and they are always right", node.name));
                }
            };
            let event_time = source.event_time.clone();
            (form, fields, record_bytes_max, event_time, source.max_future_ns)
        }
        NodeKind::Udf(_) | NodeKind::Sink(_) => {
            check_learning(plan, index)?;
            let schema = node.input_schema.iter().flat_map(|schema| &schema.fields);
            let fields = schema.map(|field| FieldSpec {
                name: field.name.clone(),
                data_type: field.data_type,
                nullable: field.nullable,
                path: None,
            });
            let form = if matches!(node.kind, NodeKind::Sink(_)) { LetterForm::Sent } else { LetterForm::Rows };
            (form, fields.collect(), RECORD_BYTES_MAX, plan.input_time(node), i64::MAX)
        }
        _ => return Err(format!("{} has no dead letters", node.name)),
    };
    let connector = SourceConnector::Letters(LettersSpec {
        folder: Default::default(),
        origin: node.name.clone(),
        form,
        fields,
        filter: LetterFilter::default(),
        record_bytes_max,
    });
    // However late a letter is, it moves no watermark: what is late is decided by what the pipeline has read.
    Ok(SourceSpec { connector, event_time, out_of_orderness_ns: i64::MAX, idle_timeout_ns: None, max_future_ns })
}

/// How the letters of a broker's messages are read. In a letter of JSON what stood beside a message is in its object.
fn messages(format: &MessageFormat, members: Vec<&str>) -> LetterForm {
    match format {
        MessageFormat::Json => LetterForm::Records(Format::Json),
        MessageFormat::Binary(format) => {
            LetterForm::Messages(format.clone(), members.into_iter().map(str::to_owned).collect())
        }
    }
}

/// What a class learns of a key is learnt in the shard of the key; letters behind a window come in the first shard.
fn check_learning(plan: &Plan, index: usize) -> Result<(), String> {
    let mut ahead = vec![index];
    while let Some(at) = ahead.pop() {
        let node = &plan.nodes[at];
        let udf = match &node.kind {
            // Here rows come to the shards of their keys again.
            NodeKind::Window(_) => continue,
            NodeKind::Udf(udf) if !udf.description.state.is_empty() => continue,
            NodeKind::Udf(udf) => Some(udf),
            _ => None,
        };
        if let Some(udf) = udf.filter(|udf| udf.description.snapshot && plan.shards > 1 && is_behind_window(plan, node))
        {
            return Err(format!(
                "{} cannot be given letters: {} learns from its rows, and with {} shards they would meet other workers \
                 than the rows of their keys",
                node.name, udf.function, plan.shards
            ));
        }
        ahead.extend(consumers(plan, at));
    }
    Ok(())
}

fn is_behind_window(plan: &Plan, node: &Node) -> bool {
    let is_window = |node: &Node| matches!(node.kind, NodeKind::Window(_));
    node.inputs
        .iter()
        .any(|input| is_window(&plan.nodes[input.node]) || is_behind_window(plan, &plan.nodes[input.node]))
}
