//! The resolved pipeline: what `ringmill run` executes.
//!
//! A [`Plan`] is built from [`NodeSpec`]s by [`Plan::build`], which orders the nodes so that producers stand before
//! consumers, resolves the schema of every stream, and reports all mistakes at once, each with the place in the
//! configuration it belongs to. It reads no files and no environment; the caller gives it the UDFs' descriptions.

mod build;
pub mod dead_letter_store;
mod event_types;
mod producer;
pub mod provenance;
mod python;
mod rebalancing;
pub mod replay;
pub mod retained;
pub(crate) mod roll_up;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ringmill_connect::{
    ConnectError, Encoder, EventTypes, Fields, FileSink, FileSpec, Format, GeneratorSpec, HttpSink, HttpSpec,
    KafkaSink, KafkaSpec, LettersSpec, MqttSink, MqttSpec, NatsCoreSink, NatsCoreSpec, NatsSink, NatsSpec, OnRefused,
    OutputFormat, PostgresSink, Promise, Replay, SocketSpec, SqliteSink, StdinSpec, StdoutSink, encoder,
};
use ringmill_ring::Wait;
use ringmill_wire::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use crate::instruments::Instruments;
use crate::profile::Profile;
use crate::window::WindowSpec;
pub use event_types::EventTypeSpec;
pub use producer::ProducerSource;
pub use python::{ClassDescription, PythonSink, PythonSource};
use retained::RetainedSpec;

/// Which of a node's streams is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// The node's results: `inputs = ["name"]`.
    Rows,
    /// Rows that came after their window had closed for good: `name.late`.
    Late,
    /// Rows that could not be parsed or processed: `name.dead_letters`.
    DeadLetters,
}

/// One stream: a node's index in the plan and the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamRef {
    /// Index into [`Plan::nodes`].
    pub node: usize,
    /// Which stream of that node.
    pub port: Port,
}

/// A node as the configuration states it; inputs are still names (`"scores"`, `"averages.late"`).
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Unique among sources, steps and sinks.
    pub name: String,
    /// Names of the streams it reads; empty for a source.
    pub inputs: Vec<String>,
    /// What it does.
    pub kind: NodeKind,
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// Rows come in here.
    Source(SourceSpec),
    /// The rows of one type, of a source whose rows are of several.
    EventType(EventTypeSpec),
    /// Keyed windows with aggregates.
    Window(WindowSpec),
    /// A Python function in worker processes.
    Udf(UdfSpec),
    /// Rows for which the expression holds.
    Filter(FilterSpec),
    /// Rows go out here.
    Sink(SinkSpec),
}

/// A source and its event time.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// The system that is read.
    pub connector: SourceConnector,
    /// Name of the timestamp column that carries event time; `None`: arrival time is used.
    pub event_time: Option<String>,
    /// How far behind the newest row of its partition a row may come without being late, in nanoseconds.
    pub out_of_orderness_ns: i64,
    /// A partition silent for this long no longer holds the watermark back; `None`: it always does.
    pub idle_timeout_ns: Option<u64>,
    /// A row stamped further ahead of the wall clock than this goes to dead letters, in nanoseconds.
    pub max_future_ns: i64,
}

/// The system a source reads.
#[derive(Clone, Debug)]
pub enum SourceConnector {
    /// Deterministic made-up events.
    Generator(GeneratorSpec),
    /// NDJSON or CSV files.
    File(FileSpec),
    /// Standard input.
    Stdin(StdinSpec),
    /// Lines from whoever connects.
    Socket(SocketSpec),
    /// Rows from whoever sends requests.
    Http(HttpSpec),
    /// Messages of Kafka topics.
    Kafka(KafkaSpec),
    /// Messages of an MQTT broker.
    Mqtt(MqttSpec),
    /// Messages of a NATS stream.
    Nats(NatsSpec),
    /// subjects of core NATS
    NatsCore(NatsCoreSpec),
    /// What a Python class has.
    Python(Box<PythonSource>),
    /// What processes of others send.
    Producer(Box<ProducerSource>),
    /// Stored dead letters; see [`replay`].
    Letters(LettersSpec),
}

impl SourceConnector {
    /// The types of its events, where there are several.
    pub fn event_types(&self) -> Option<&Arc<EventTypes>> {
        let fields: &Fields = match self {
            SourceConnector::File(spec) => &spec.fields,
            SourceConnector::Stdin(spec) => &spec.fields,
            SourceConnector::Socket(spec) => &spec.fields,
            SourceConnector::Http(spec) => &spec.fields,
            SourceConnector::Kafka(spec) => &spec.fields,
            SourceConnector::Mqtt(spec) => &spec.fields,
            SourceConnector::Nats(spec) => &spec.fields,
            SourceConnector::NatsCore(spec) => &spec.fields,
            SourceConnector::Letters(spec) => &spec.fields,
            SourceConnector::Generator(_) | SourceConnector::Python(_) | SourceConnector::Producer(_) => return None,
        };
        fields.types()
    }

    /// Whether it can be read again from a checkpoint's positions. Files are looked at.
    pub fn replay(&self) -> Replay {
        match self {
            SourceConnector::Generator(spec) => spec.replay(),
            SourceConnector::File(spec) => spec.replay(),
            SourceConnector::Stdin(spec) => spec.replay(),
            SourceConnector::Socket(spec) => spec.replay(),
            SourceConnector::Http(spec) => spec.replay(),
            SourceConnector::Kafka(spec) => spec.replay(),
            SourceConnector::Mqtt(spec) => spec.replay(),
            SourceConnector::Nats(spec) => spec.replay(),
            SourceConnector::NatsCore(spec) => spec.replay(),
            SourceConnector::Python(source) => source.feed.replay(),
            SourceConnector::Producer(source) => source.feed.replay(),
            SourceConnector::Letters(_) => Replay::Seekable,
        }
    }

    /// What it promises for a run with checkpoints.
    pub fn promise(&self) -> Promise {
        match (self, self.replay()) {
            (SourceConnector::Kafka(spec), _) => spec.promise(),
            (_, Replay::Seekable) => Promise::ExactlyOnce,
            (SourceConnector::Http(_) | SourceConnector::Mqtt(MqttSpec { is_acknowledged: true, .. }), _) => {
                Promise::AtLeastOnce
            }
            (_, Replay::Journaled | Replay::Lost) => Promise::AtMostOnce,
        }
    }

    /// Length of the longest record it takes, in bytes; 0: its rows are bounded by what they are made of.
    pub fn record_bytes_max(&self) -> usize {
        match self {
            SourceConnector::Generator(_) => 0,
            SourceConnector::File(spec) => spec.record_bytes_max,
            SourceConnector::Stdin(spec) => spec.record_bytes_max,
            SourceConnector::Socket(spec) => spec.record_bytes_max,
            SourceConnector::Http(spec) => spec.record_bytes_max,
            SourceConnector::Kafka(spec) => spec.record_bytes_max,
            SourceConnector::Mqtt(spec) => spec.record_bytes_max,
            SourceConnector::Nats(spec) => spec.record_bytes_max,
            SourceConnector::NatsCore(spec) => spec.record_bytes_max,
            SourceConnector::Python(source) => source.feed.variable_bytes_max as usize,
            SourceConnector::Producer(source) => source.feed.variable_bytes_max as usize,
            SourceConnector::Letters(spec) => spec.record_bytes_max,
        }
    }
}

/// What happens to a batch for which the function raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run ends with the error.
    Stop,
    /// The rows are left out and counted.
    Skip,
    /// The rows go to the step's dead letters.
    DeadLetter,
}

/// When and how often a dead worker is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartSpec {
    /// Wait before the second start in a row (the first follows at once); doubled each time, with jitter.
    pub backoff_ns: u64,
    /// Longest wait.
    pub backoff_ns_max: u64,
    /// So many deaths within `window_ns` and the worker is FAILED: it is not started again.
    pub deaths_max: u32,
    /// See `deaths_max`.
    pub window_ns: u64,
    /// One that is not ready after so long, or not restored to what it is to have learnt, is killed.
    pub start_ns_max: u64,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            backoff_ns: 100_000_000,
            backoff_ns_max: 10_000_000_000,
            deaths_max: 10,
            window_ns: 60_000_000_000,
            start_ns_max: 60_000_000_000,
        }
    }
}

/// How the workers of a step are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supervision {
    /// How often a batch is tried again for which the function raised, before `on_error` decides.
    pub retries: u32,
    /// Wait before the first retry; doubled each time.
    pub retry_backoff_ns: u64,
    /// A batch that takes longer is hung: its worker is killed. `None`: never.
    pub timeout_ns: Option<u64>,
    /// Most memory a worker may take; `None`: what the machine has.
    pub memory_bytes_max: Option<u64>,
    /// For a class with `snapshot()`: bytes of the log of what each worker was given since its last one. It holds a few
    /// batches at least.
    pub replay_bytes_max: u64,
    /// How its workers are started again.
    pub restart: RestartSpec,
}

/// A Python function and how it is run.
#[derive(Clone, Debug)]
pub struct UdfSpec {
    /// `module:attribute`.
    pub function: String,
    /// Folder that is put first on the worker's module search path.
    pub directory: PathBuf,
    /// The Python interpreter.
    pub python: PathBuf,
    /// Worker processes in each shard.
    pub workers: usize,
    /// Most rows in one micro-batch.
    pub batch_rows: u32,
    /// Room in one micro-batch for the bytes of each variable-length column.
    pub variable_bytes: u32,
    /// Slots of each worker's ring (a power of two).
    pub slots: u32,
    /// What rows lead to for which the function failed, or whose worker died, also when they stood alone.
    pub on_error: OnError,
    /// How its workers are watched.
    pub supervision: Supervision,
    /// Columns by which the state of `@rm.udf(state=…)` is kept; empty: the function keeps none.
    pub key: Vec<String>,
    /// What the function said about itself; see [`crate::describe`].
    pub description: UdfDescription,
}

/// What `@rm.udf` stands before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UdfKind {
    /// A function: it keeps nothing.
    #[default]
    Function,
    /// A class: what it keeps in `self` lives as long as its worker.
    Class,
}

/// What a Python function says about itself (`python -m ringmill.describe`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UdfDescription {
    /// The function's or class's name.
    pub name: String,
    /// Declared version.
    #[serde(default)]
    pub version: u32,
    /// Whether it keeps something from batch to batch.
    #[serde(default)]
    pub kind: UdfKind,
    /// `columns`: arguments are column names; `batch`: one `rm.Batch`.
    pub mode: String,
    /// Columns it asks for (empty in batch mode).
    pub arguments: Vec<String>,
    /// Types that it takes for an argument, where its annotations say so.
    #[serde(default)]
    pub accepts: Option<BTreeMap<String, Vec<DataType>>>,
    /// Columns it returns.
    pub outputs: Vec<Field>,
    /// Columns that are kept for each key: given with the arguments, returned after the outputs.
    #[serde(default)]
    pub state: Vec<StateField>,
    /// Whether it is a class with `snapshot()` and `restore()`.
    #[serde(default)]
    pub snapshot: bool,
}

/// A column of per-key state, of fixed width and never null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateField {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// What a key begins with: the value's bytes as they lie in memory, hexadecimal.
    pub initial: String,
}

impl StateField {
    /// `initial` as a word; `None` if it does not fit the type.
    pub fn initial_word(&self) -> Option<u64> {
        let width = self.data_type.width()?;
        if self.initial.len() != 2 * width || !self.initial.is_ascii() {
            return None;
        }
        let bytes = (0..width).map(|at| u8::from_str_radix(&self.initial[2 * at..2 * at + 2], 16).ok());
        bytes.rev().try_fold(0, |word, byte| Some(word << 8 | u64::from(byte?)))
    }
}

/// A row filter.
#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// For example `score > 4.0 and readings >= 3`.
    pub expression: String,
}

/// Where rows go.
#[derive(Clone, Debug)]
pub enum SinkSpec {
    /// Counts and checksums every column.
    Null,
    /// A file, or a folder of files.
    File(FileSink),
    /// A table of an SQLite database.
    Sqlite {
        /// The database's file.
        path: PathBuf,
        /// The table; created if it is not there.
        table: String,
    },
    /// A table of a PostgreSQL database.
    Postgres(PostgresSink),
    /// A topic of Apache Kafka.
    Kafka(KafkaSink),
    /// Topics of an MQTT broker.
    Mqtt(MqttSink),
    /// A stream of NATS.
    Nats(NatsSink),
    /// Subjects of core NATS.
    NatsCore(NatsCoreSink),
    /// A server that takes requests.
    Http(HttpSink),
    /// A Python class.
    Python(Box<PythonSink>),
    /// The store of a step's retained results; see [`retained`].
    Retained(RetainedSpec),
    /// Standard output.
    Stdout {
        /// What is written.
        format: OutputFormat,
    },
}

impl SinkSpec {
    /// What makes bytes of its rows; `None`: nothing does. The store of retained results has an encoder of its own.
    pub fn encoder(&self, schema: &Schema) -> Result<Option<Box<dyn Encoder>>, ConnectError> {
        match self {
            SinkSpec::Null | SinkSpec::Retained(_) => Ok(None),
            SinkSpec::File(FileSink { format, .. }) | SinkSpec::Stdout { format } => encoder(*format, schema).map(Some),
            SinkSpec::Sqlite { .. } => encoder(Format::Json, schema).map(Some),
            SinkSpec::Http(sink) => sink.encoder(schema).map(Some),
            SinkSpec::Postgres(sink) => Ok(Some(sink.encoder(schema))),
            SinkSpec::Kafka(sink) => sink.encoder(schema).map(Some),
            SinkSpec::Mqtt(sink) => sink.encoder(schema).map(Some),
            SinkSpec::Nats(sink) => sink.encoder(schema).map(Some),
            SinkSpec::NatsCore(sink) => sink.encoder(schema).map(Some),
            SinkSpec::Python(sink) => Ok(Some(sink.outlet.encoder())),
        }
    }

    /// What it promises for a run with checkpoints.
    pub fn promise(&self) -> Promise {
        match self {
            SinkSpec::Null | SinkSpec::Retained(_) => Promise::ExactlyOnce,
            SinkSpec::File(sink) => sink.promise(),
            SinkSpec::Sqlite { path, table } => SqliteSink { path: path.clone(), table: table.clone() }.promise(),
            SinkSpec::Postgres(sink) => sink.promise(),
            SinkSpec::Kafka(sink) => sink.promise(),
            SinkSpec::Mqtt(sink) => sink.promise(),
            SinkSpec::Nats(sink) => sink.promise(),
            SinkSpec::NatsCore(sink) => sink.promise(),
            SinkSpec::Http(sink) => sink.promise(),
            SinkSpec::Python(sink) => sink.outlet.promise(),
            SinkSpec::Stdout { format } => StdoutSink { format: *format }.promise(),
        }
    }

    /// Whether it is a store in the state folder, which the pipeline was given for its own keeping.
    pub fn is_internal(&self, name: &str) -> bool {
        matches!(self, SinkSpec::Retained(_)) || dead_letter_store::stored_node(name).is_some()
    }

    /// Whether rows that it is refused for good are dead letters.
    pub fn has_letters(&self) -> bool {
        match self {
            SinkSpec::Http(sink) => sink.on_refused == OnRefused::DeadLetter,
            SinkSpec::Python(sink) => sink.outlet.keeps_rejected,
            _ => false,
        }
    }

    /// Whether what it showed cannot be taken back when a run goes on from an older checkpoint. A null sink shows
    /// nothing; requests, messages with ids and rows for a class are bound to their epochs whatever their server makes of them.
    pub fn is_bound(&self) -> bool {
        match self {
            SinkSpec::Null => false,
            SinkSpec::Http(_) | SinkSpec::Nats(_) | SinkSpec::Python(_) => true,
            sink => sink.promise() == Promise::ExactlyOnce,
        }
    }
}

/// A resolved node.
#[derive(Clone, Debug)]
pub struct Node {
    /// As in the configuration.
    pub name: String,
    /// Streams it reads.
    pub inputs: Vec<StreamRef>,
    /// What it does.
    pub kind: NodeKind,
    /// Schema of its inputs (all inputs share one); `None` for a source.
    pub input_schema: Option<Arc<Schema>>,
    /// Schema of its results; a sink has its input's.
    pub schema: Arc<Schema>,
    /// The event-time column of its results.
    pub event_time: Option<String>,
}

/// Where a run begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// At the newest sound checkpoint; at the beginning if there is none.
    #[default]
    Newest,
    /// At the beginning; earlier checkpoints are deleted.
    Beginning,
    /// At this checkpoint.
    Checkpoint(u64),
}

/// Checkpoints of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSpec {
    /// The pipeline's state folder.
    pub path: PathBuf,
    /// From the start of one checkpoint to the start of the next.
    pub interval_ns: u64,
    /// How many are kept, at least one.
    pub keep: usize,
    /// Where the run begins.
    pub start: StartFrom,
}

/// A whole pipeline, checked and ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    /// Sources, steps and sinks; producers before consumers.
    pub nodes: Vec<Node>,
    /// Shard threads.
    pub shards: usize,
    /// How shards and workers wait for each other.
    pub wait: Wait,
    /// CPUs to pin to: shard threads first, then workers; empty: no pinning.
    pub cpus: Vec<usize>,
    /// Most bytes that all windows' state may take, over all shards.
    pub state_bytes_max: u64,
    /// Bytes of memory in which rows wait for a sink, for each sink and shard; as much as four chunks take is
    /// always there.
    pub sink_buffer_bytes: u64,
    /// Checkpoints; `None`: there are none, and a run that dies begins anew.
    pub checkpoint: Option<CheckpointSpec>,
    /// Folder under which the run shows itself to `ringmill inspect`; `None`: it does not.
    pub run_base: Option<PathBuf>,
    /// Variables that workers get besides those of this process.
    pub worker_environment: Vec<(String, String)>,
    /// How the run asks the kernel to treat it.
    pub profile: Profile,
    /// What a latency bench puts around the run; `None`: it is a run like any other.
    pub instruments: Option<Arc<Instruments>>,
}

impl Plan {
    /// The event-time column of a node's inputs.
    pub fn input_time(&self, node: &Node) -> Option<String> {
        let mut times = node.inputs.iter().map(|input| match input.port {
            Port::Rows => self.nodes[input.node].event_time.as_ref(),
            Port::Late | Port::DeadLetters => None,
        });
        let first = times.next()??;
        times.all(|time| time == Some(first)).then(|| first.clone())
    }

    /// How workers wait for batches: a real-time thread has to sleep.
    pub fn worker_wait(&self) -> Wait {
        match self.profile {
            Profile::Default => self.wait,
            Profile::Latency => Wait::Block,
        }
    }
}

/// What belongs to the pipeline as a whole.
#[derive(Clone, Debug)]
pub struct PipelineSpec {
    /// The pipeline's name.
    pub name: String,
    /// Shard threads.
    pub shards: usize,
    /// How shards and workers wait for each other.
    pub wait: Wait,
    /// How the run asks the kernel to treat it.
    pub profile: Profile,
    /// CPUs to pin to; empty: no pinning.
    pub cpus: Vec<usize>,
    /// Most bytes of window state.
    pub state_bytes_max: u64,
    /// Bytes of memory in which rows wait for a sink, for each sink and shard.
    pub sink_buffer_bytes: u64,
    /// Checkpoints; `None`: there are none, and a run that dies begins anew.
    pub checkpoint: Option<CheckpointSpec>,
    /// Folder under which the run shows itself to `ringmill inspect`; `None`: it does not.
    pub run_base: Option<PathBuf>,
    /// Variables that workers get besides those of this process.
    pub worker_environment: Vec<(String, String)>,
}

/// One mistake in a pipeline, tied to a configuration key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// The node's name.
    pub node: String,
    /// The key under the node that is to be mended, for example `inputs`, `where`, `aggregates.mean_temperature`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}: {}", self.node, self.key, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PlanError {}

pub use build::{event_time_unit, stream_name};
