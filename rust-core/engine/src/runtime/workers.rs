//! Makes the channels of all UDF steps and Python sources, and starts their workers.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ringmill_connect::ConnectError;
use ringmill_ring::{ChannelConfig, CoreEnd};
use ringmill_wire::{Capacity, Field, Schema, Template, WireError};
use serde_json::json;

use super::signal::ShardSignal;
use super::supervisor::{Supervisor, WorkerPost, WorkerSpec};
use super::worker_feed::{FeedParts, WorkerFeed, slot_bytes};
use super::worker_link::{LinkParts, WorkerLink};
use crate::describe;
use crate::error::EngineError;
use crate::metrics::Control;
use crate::plan::{Node, NodeKind, Plan, PythonSource, RestartSpec, SourceConnector, SourceSpec, Supervision, UdfSpec};
use crate::rundir::ChannelHandle;

/// Least room of a response slot: a failure's message and traceback travel in it, however small the batch.
pub const FAILURE_BYTES: usize = 16 << 10;
/// The environment variable in which a class finds its options; it is taken away before the class is imported.
const OPTIONS_VARIABLE: &str = "RINGMILL_OPTIONS";
/// Largest batches for which a replay log has room at least: with so many, one that is not half full takes any other.
const REPLAY_BATCHES_MIN: usize = 4;

/// Micro-batch layouts of a UDF step.
pub struct UdfLayouts {
    /// Input columns, and what is kept for the row's key.
    pub request: Arc<Template>,
    /// The function's columns, and what is to be kept.
    pub response: Arc<Template>,
}

impl UdfLayouts {
    /// Bytes of each worker's replay log, if the function is a class with snapshots.
    pub fn replay_bytes(&self, udf: &UdfSpec) -> Option<usize> {
        let least = REPLAY_BATCHES_MIN * self.request.bytes();
        let bytes = usize::try_from(udf.supervision.replay_bytes_max).unwrap_or(usize::MAX);
        udf.description.snapshot.then(|| bytes.max(least))
    }
}

/// The layouts of a UDF step; `None` for other nodes.
pub fn udf_layouts(node: &Node) -> Result<Option<(&UdfSpec, UdfLayouts)>, EngineError> {
    let (NodeKind::Udf(udf), Some(input)) = (&node.kind, &node.input_schema) else { return Ok(None) };
    let layout = |error: WireError| EngineError::Layout { node: node.name.clone(), error };
    let capacity = Capacity { rows_max: udf.batch_rows, variable_bytes_max: udf.variable_bytes };
    let template = |schema| Ok(Arc::new(Template::new(schema, capacity).map_err(layout)?));
    // Per-key state travels behind the columns, both ways.
    let with_state = |fields: &[Field]| {
        let state = udf.description.state.iter().map(|field| Field::new(&field.name, field.data_type));
        Ok(Arc::new(Schema::new(fields.iter().cloned().chain(state).collect()).map_err(layout)?))
    };
    let is_stateless = udf.description.state.is_empty();
    let request = template(if is_stateless { input.clone() } else { with_state(&input.fields)? })?;
    let response = template(with_state(&udf.description.outputs)?)?;
    Ok(Some((udf, UdfLayouts { request, response })))
}

/// All workers, on their way.
pub struct Workers {
    /// By plan node and shard.
    pub links: HashMap<(usize, usize), Vec<WorkerLink>>,
    /// By plan node.
    pub feeds: HashMap<usize, Vec<FeedStart>>,
    /// Lives until the run ends.
    pub supervisor: Option<Supervisor>,
    /// For `ringmill inspect`.
    pub handles: Vec<ChannelHandle>,
}

/// A source's process, on its way.
pub struct FeedStart {
    /// The shard that asks it.
    pub shard: usize,
    /// The partition that it reads.
    pub partition: String,
    /// What it is asked through.
    pub feed: WorkerFeed,
}

struct Starting {
    node: usize,
    shard: usize,
    /// What it reads, if it is a source's.
    partition: Option<String>,
    name: String,
    channel: CoreEnd,
    post: Arc<WorkerPost>,
    restart: RestartSpec,
    handle: (OwnedFd, OwnedFd),
}

/// Starts every worker of the plan; their links say when they are ready.
pub fn start_workers(
    plan: &Plan,
    signals: &[Arc<ShardSignal>],
    control: &Arc<Control>,
) -> Result<Workers, EngineError> {
    let (mut starting, mut specs) = (Vec::new(), Vec::new());
    let mut add = |one: Starting, spec: WorkerSpec| -> Result<(), EngineError> {
        let (request, response) = one.fds()?;
        starting.push(one);
        specs.push((spec, request, response));
        Ok(())
    };
    let mut cpus = plan.cpus.iter().copied().skip(plan.shards);
    for (index, node) in plan.nodes.iter().enumerate() {
        if let Some(source) = python_source(plan, node) {
            for (number, partition) in partitions(node, source)?.into_iter().enumerate() {
                let (one, mut spec) = prepare_feed(plan, node, source, (index, number), partition, signals)?;
                spec.cpu = cpus.next();
                add(one, spec)?;
            }
        }
        let Some((udf, layouts)) = udf_layouts(node)? else { continue };
        for (shard, signal) in signals.iter().enumerate() {
            for worker in 0..udf.workers {
                let name = format!("{}/{shard}/{worker}", node.name);
                let (one, mut spec) = prepare(plan, node, udf, &layouts, (index, shard), &name, signal)?;
                spec.cpu = cpus.next();
                spec.config["shard"] = json!(shard);
                spec.config["index"] = json!(worker);
                add(one, spec)?;
            }
        }
    }
    if specs.is_empty() {
        return Ok(Workers { links: HashMap::new(), feeds: HashMap::new(), supervisor: None, handles: Vec::new() });
    }
    let supervisor = Supervisor::start(specs, control)?;
    let mut links: HashMap<(usize, usize), Vec<WorkerLink>> = HashMap::new();
    let mut feeds: HashMap<usize, Vec<FeedStart>> = HashMap::new();
    let mut handles = Vec::with_capacity(starting.len());
    for (place, one) in starting.into_iter().enumerate() {
        let (request, response) = one.handle;
        handles.push(ChannelHandle { name: one.name.clone(), pid: one.post.pid(), request, response });
        let Starting { node, shard, partition, name, channel, post, restart, .. } = one;
        let link = LinkParts { name, channel, post, desk: supervisor.desk(), place, restart };
        let link = WorkerLink::new(link);
        match (partition, python_source(plan, &plan.nodes[node])) {
            (Some(partition), Some(source)) => {
                let feed = WorkerFeed::new(FeedParts {
                    link,
                    origin: source.feed.origin.clone(),
                    template: feed_template(&plan.nodes[node], source)?,
                    supervision: source.supervision,
                    is_seekable: source.feed.is_seekable,
                });
                feeds.entry(node).or_default().push(FeedStart { shard, partition, feed });
            }
            _ => links.entry((node, shard)).or_default().push(link),
        }
    }
    Ok(Workers { links, feeds, supervisor: Some(supervisor), handles })
}

#[allow(unsafe_code)]
fn prepare(
    plan: &Plan,
    node: &Node,
    udf: &UdfSpec,
    layouts: &UdfLayouts,
    (index, shard): (usize, usize),
    name: &str,
    signal: &Arc<ShardSignal>,
) -> Result<(Starting, WorkerSpec), EngineError> {
    let failed = |error| EngineError::Channel { worker: name.to_owned(), error };
    let channel = CoreEnd::create(&ChannelConfig {
        slots: udf.slots,
        request_slot_bytes: layouts.request.bytes(),
        response_slot_bytes: layouts.response.bytes().max(FAILURE_BYTES),
        schema_hash: layouts.request.hash(),
        response_schema_hash: layouts.response.hash(),
        generation: 1,
    })
    .map_err(failed)?;
    for slot in 0..udf.slots {
        // SAFETY: the slot is `request.bytes()` long and 64-byte aligned, and no worker has been given it yet.
        unsafe { layouts.request.stamp(channel.slot_memory(slot).as_ptr()) };
    }
    let post = Arc::new(WorkerPost::default());
    let handle = channel.worker_fds().map_err(failed)?;
    let config = json!({
        "role": describe::Role::Udf,
        "step": node.name,
        "worker": name,
        "function": udf.function,
        "directory": udf.directory,
        "wait": plan.worker_wait(),
        "input": layouts.request.schema(),
        "output": layouts.response.schema(),
        "capacity": layouts.request.capacity(),
        "output_capacity": layouts.response.capacity(),
    });
    let doorbell = signal.doorbell().try_clone().map_err(failed)?;
    let python = udf.python.clone();
    let spec = WorkerSpec {
        name: name.to_owned(),
        python,
        config,
        environment: plan.worker_environment.clone(),
        doorbell,
        cpu: None,
        profile: plan.profile,
        memory_bytes_max: udf.supervision.memory_bytes_max,
        response: channel.response_layout(),
        post: post.clone(),
        signal: signal.clone(),
    };
    let restart = udf.supervision.restart;
    let name = name.to_owned();
    Ok((Starting { node: index, shard, partition: None, name, channel, post, restart, handle }, spec))
}

/// The node's class, if it is a source in Python that is read.
fn python_source<'a>(plan: &Plan, node: &'a Node) -> Option<&'a PythonSource> {
    match &node.kind {
        NodeKind::Source(SourceSpec { connector: SourceConnector::Python(source), .. }) if !plan.is_replay() => {
            Some(source)
        }
        _ => None,
    }
}

/// The layout of a source's batches.
pub fn feed_template(node: &Node, source: &PythonSource) -> Result<Arc<Template>, EngineError> {
    let layout = |error: WireError| EngineError::Layout { node: node.name.clone(), error };
    Ok(Arc::new(Template::new(node.schema.clone(), source.feed.capacity()).map_err(layout)?))
}

/// The names of a source's partitions.
fn partitions(node: &Node, source: &PythonSource) -> Result<Vec<String>, EngineError> {
    if !source.description.partitions {
        return Ok(vec!["0".to_owned()]);
    }
    describe::partitions(source)?.map_err(|error| {
        let (origin, reason, detail) = (source.feed.origin.clone(), error.message, error.traceback);
        EngineError::Connect { node: node.name.clone(), error: ConnectError::Process { origin, reason, detail } }
    })
}

fn prepare_feed(
    plan: &Plan,
    node: &Node,
    source: &PythonSource,
    (index, number): (usize, usize),
    partition: String,
    signals: &[Arc<ShardSignal>],
) -> Result<(Starting, WorkerSpec), EngineError> {
    let shard = number % plan.shards;
    let name = format!("{}/{shard}/{number}", node.name);
    let failed = |error| EngineError::Channel { worker: name.clone(), error };
    let template = feed_template(node, source)?;
    let (request_slot_bytes, response_slot_bytes) = slot_bytes(&template);
    let channel = CoreEnd::create(&ChannelConfig {
        slots: source.slots,
        request_slot_bytes,
        response_slot_bytes,
        // What lies in requests are positions, which are the class's own.
        schema_hash: template.hash(),
        response_schema_hash: template.hash(),
        generation: 1,
    })
    .map_err(failed)?;
    let post = Arc::new(WorkerPost::default());
    let handle = channel.worker_fds().map_err(failed)?;
    let config = json!({
        "role": describe::Role::Source,
        "step": node.name,
        "worker": name,
        "function": source.feed.origin,
        "directory": source.directory,
        "wait": plan.worker_wait(),
        "output": template.schema(),
        "output_capacity": template.capacity(),
        "partition": partition,
        "shard": shard,
        "index": number,
    });
    let doorbell = signals[shard].doorbell().try_clone().map_err(failed)?;
    let Supervision { memory_bytes_max, restart, .. } = source.supervision;
    let mut environment = plan.worker_environment.clone();
    // Not among the arguments, which everybody on the machine can read.
    environment.push((OPTIONS_VARIABLE.to_owned(), source.options.to_string()));
    let spec = WorkerSpec {
        name: name.clone(),
        python: source.python.clone(),
        config,
        environment,
        doorbell,
        cpu: None,
        profile: plan.profile,
        memory_bytes_max,
        response: channel.response_layout(),
        post: post.clone(),
        signal: signals[shard].clone(),
    };
    let partition = Some(partition);
    Ok((Starting { node: index, shard, partition, name, channel, post, restart, handle }, spec))
}

impl Starting {
    fn fds(&self) -> Result<(OwnedFd, OwnedFd), EngineError> {
        self.channel.worker_fds().map_err(|error| EngineError::Channel { worker: self.name.clone(), error })
    }
}
