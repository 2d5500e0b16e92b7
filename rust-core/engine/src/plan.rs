//! The resolved pipeline: what `ringmill run` executes.
//!
//! A [`Plan`] is built from [`NodeSpec`]s by [`Plan::build`], which orders the nodes so that producers stand before
//! consumers, resolves the schema of every stream, and reports all mistakes at once, each with the place in the
//! configuration it belongs to. It reads no files and no environment; the caller gives it the UDFs' descriptions.

mod build;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ringmill_connect::{FileSpec, Format, GeneratorSpec, StdinSpec};
use ringmill_ring::Wait;
use ringmill_wire::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use crate::window::WindowSpec;

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
    /// What a failed batch leads to.
    pub on_error: OnError,
    /// What the function said about itself; see [`crate::describe`].
    pub description: UdfDescription,
}

/// What a Python function says about itself (`python -m ringmill.describe`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UdfDescription {
    /// The function's or class's name.
    pub name: String,
    /// Declared version.
    #[serde(default)]
    pub version: u32,
    /// `columns`: arguments are column names; `batch`: one `rm.Batch`.
    pub mode: String,
    /// Columns it asks for (empty in batch mode).
    pub arguments: Vec<String>,
    /// Types that it takes for an argument, where its annotations say so.
    #[serde(default)]
    pub accepts: Option<BTreeMap<String, Vec<DataType>>>,
    /// Columns it returns.
    pub outputs: Vec<Field>,
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
    /// A text file.
    File {
        /// Created or replaced.
        path: PathBuf,
        /// Text format.
        format: Format,
    },
    /// Standard output.
    Stdout {
        /// Text format.
        format: Format,
    },
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
    /// Folder under which the run shows itself to `ringmill inspect`; `None`: it does not.
    pub run_base: Option<PathBuf>,
    /// Variables that workers get besides those of this process.
    pub worker_environment: Vec<(String, String)>,
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
    /// CPUs to pin to; empty: no pinning.
    pub cpus: Vec<usize>,
    /// Most bytes of window state.
    pub state_bytes_max: u64,
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
