//! Makes the channels of all UDF steps, Python sources and Python sinks, and starts their workers.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use ringmill_connect::ConnectError;
use ringmill_ring::{ChannelConfig, CoreEnd};
use ringmill_wire::{Capacity, Field, Schema, Template, WireError};
use serde_json::json;

use super::signal::ShardSignal;
use super::supervisor::{Supervisor, WorkerPost, WorkerSpec};
use super::worker_feed::{FeedParts, WorkerFeed, slot_bytes};
use super::worker_link::{LinkParts, WorkerLink};
use super::worker_outlet::{OutletParts, WorkerOutlet, request_bytes};
use crate::describe;
use crate::error::EngineError;
use crate::metrics::Control;
use crate::plan::{
    Node, NodeKind, Plan, PythonSink, PythonSource, RestartSpec, SinkSpec, SourceConnector, SourceSpec, Supervision,
    UdfSpec,
};
use crate::rundir::ChannelHandle;

/// Least room of a response slot: a failure's message and traceback travel in it, however small the batch.
pub const FAILURE_BYTES: usize = 16 << 10;
/// Slots of a sink's ring. One is in use at a time; a class that keeps arrays of half of them is given copies.
pub const SINK_SLOTS: u32 = 4;
/// Bytes that a rejected row takes in an answer, which has its number as text: eight digits and what stands between them.
const REJECTED_ROW_BYTES: usize = 10;
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
#[derive(Default)]
pub struct Workers {
    /// By plan node and shard.
    pub links: HashMap<(usize, usize), Vec<WorkerLink>>,
    /// By plan node.
    pub feeds: HashMap<usize, Vec<FeedStart>>,
    /// By plan node.
    pub outlets: HashMap<usize, WorkerOutlet>,
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
    /// Wakes whoever drives it.
    signal: Arc<ShardSignal>,
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
        if let NodeKind::Sink(SinkSpec::Python(sink)) = &node.kind {
            let (one, mut spec) = prepare_outlet(plan, node, sink, index)?;
            spec.cpu = cpus.next();
            add(one, spec)?;
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
        return Ok(Workers::default());
    }
    let supervisor = Supervisor::start(specs, control)?;
    started(plan, starting, supervisor)
}

/// What shards and sinks drive the processes through.
fn started(plan: &Plan, starting: Vec<Starting>, supervisor: Supervisor) -> Result<Workers, EngineError> {
    let mut workers = Workers::default();
    for (place, one) in starting.into_iter().enumerate() {
        let (request, response) = one.handle;
        workers.handles.push(ChannelHandle { name: one.name.clone(), pid: one.post.pid(), request, response });
        let Starting { node: index, shard, partition, name, channel, post, restart, signal, .. } = one;
        let node = &plan.nodes[index];
        let link = LinkParts { name, channel, post, desk: supervisor.desk(), place, restart };
        let link = WorkerLink::new(link);
        match (&node.kind, partition, python_source(plan, node)) {
            (_, Some(partition), Some(source)) => {
                let feed = WorkerFeed::new(FeedParts {
                    link,
                    origin: source.feed.origin.clone(),
                    template: feed_template(node, source)?,
                    supervision: source.supervision,
                    is_seekable: source.feed.is_seekable,
                });
                workers.feeds.entry(index).or_default().push(FeedStart { shard, partition, feed });
            }
            (NodeKind::Sink(SinkSpec::Python(sink)), ..) => {
                let outlet = WorkerOutlet::new(OutletParts {
                    link,
                    origin: sink.outlet.origin.clone(),
                    template: outlet_template(node, sink)?,
                    supervision: sink.supervision,
                    wait: plan.wait,
                    signal,
                });
                workers.outlets.insert(index, outlet);
            }
            _ => workers.links.entry((index, shard)).or_default().push(link),
        }
    }
    workers.supervisor = Some(supervisor);
    Ok(workers)
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
    let signal = signal.clone();
    Ok((Starting { node: index, shard, partition: None, name, channel, post, restart, handle, signal }, spec))
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
    let class = Class { python: &source.python, options: &source.options, supervision: &source.supervision };
    let place = Place { node: index, shard, partition: Some(partition), name, signal: signals[shard].clone() };
    class_process(plan, &class, place, channel, config)
}

fn outlet_template(node: &Node, sink: &PythonSink) -> Result<Arc<Template>, EngineError> {
    let template = sink.outlet.template(&node.schema);
    template.map_err(|error| EngineError::Connect { node: node.name.clone(), error })
}

#[allow(unsafe_code)]
fn prepare_outlet(
    plan: &Plan,
    node: &Node,
    sink: &PythonSink,
    index: usize,
) -> Result<(Starting, WorkerSpec), EngineError> {
    // No shard's: the sink's writer thread drives it.
    let (shard, name) = (0, format!("{}/0/0", node.name));
    let failed = |error| EngineError::Channel { worker: name.clone(), error };
    let template = outlet_template(node, sink)?;
    let nothing =
        Template::new(Arc::default(), Capacity { rows_max: template.capacity().rows_max, variable_bytes_max: 0 });
    let nothing = nothing.map_err(|error| EngineError::Layout { node: node.name.clone(), error })?;
    let rejected_bytes = (REJECTED_ROW_BYTES * template.capacity().rows_max as usize).next_multiple_of(64);
    let channel = CoreEnd::create(&ChannelConfig {
        slots: SINK_SLOTS,
        request_slot_bytes: request_bytes(&template),
        response_slot_bytes: nothing.bytes().max(FAILURE_BYTES + rejected_bytes),
        schema_hash: template.hash(),
        response_schema_hash: nothing.hash(),
        generation: 1,
    })
    .map_err(failed)?;
    for slot in 0..SINK_SLOTS {
        // SAFETY: the slot is longer than the template says and 64-byte aligned, and no worker has been given it yet.
        unsafe { template.stamp(channel.slot_memory(slot).as_ptr()) };
    }
    let config = json!({
        "role": describe::Role::Sink,
        "step": node.name,
        "worker": name,
        "function": sink.outlet.origin,
        "directory": sink.directory,
        "wait": plan.worker_wait(),
        "input": template.schema(),
        "output": nothing.schema(),
        "capacity": template.capacity(),
        "output_capacity": nothing.capacity(),
        "shard": shard,
        "index": 0,
    });
    let class = Class { python: &sink.python, options: &sink.options, supervision: &sink.supervision };
    let signal = Arc::new(ShardSignal::new().map_err(failed)?);
    let place = Place { node: index, shard, partition: None, name, signal };
    class_process(plan, &class, place, channel, config)
}

/// A class of the user's, as a process has it.
struct Class<'a> {
    python: &'a Path,
    options: &'a serde_json::Value,
    supervision: &'a Supervision,
}

/// Which process it is, and who drives it.
struct Place {
    node: usize,
    shard: usize,
    partition: Option<String>,
    name: String,
    signal: Arc<ShardSignal>,
}

/// The process of a class, with its end of the channel.
fn class_process(
    plan: &Plan,
    class: &Class<'_>,
    Place { node, shard, partition, name, signal }: Place,
    channel: CoreEnd,
    config: serde_json::Value,
) -> Result<(Starting, WorkerSpec), EngineError> {
    let failed = |error| EngineError::Channel { worker: name.clone(), error };
    let post = Arc::new(WorkerPost::default());
    let handle = channel.worker_fds().map_err(failed)?;
    let doorbell = signal.doorbell().try_clone().map_err(failed)?;
    let Supervision { memory_bytes_max, restart, .. } = *class.supervision;
    let mut environment = plan.worker_environment.clone();
    // Not among the arguments, which everybody on the machine can read.
    environment.push((OPTIONS_VARIABLE.to_owned(), class.options.to_string()));
    let spec = WorkerSpec {
        name: name.clone(),
        python: class.python.to_owned(),
        config,
        environment,
        doorbell,
        cpu: None,
        profile: plan.profile,
        memory_bytes_max,
        response: channel.response_layout(),
        post: post.clone(),
        signal: signal.clone(),
    };
    Ok((Starting { node, shard, partition, name, channel, post, restart, handle, signal }, spec))
}

impl Starting {
    fn fds(&self) -> Result<(OwnedFd, OwnedFd), EngineError> {
        self.channel.worker_fds().map_err(|error| EngineError::Channel { worker: self.name.clone(), error })
    }
}
