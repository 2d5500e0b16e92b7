//! Makes the channels of all UDF steps and starts their workers.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ringmill_ring::{ChannelConfig, CoreEnd};
use ringmill_wire::{Capacity, Field, Schema, Template, WireError};
use serde_json::json;

use super::signal::ShardSignal;
use super::supervisor::{Supervisor, WorkerPost, WorkerSpec};
use super::udf::{LinkParts, WorkerLink};
use crate::error::EngineError;
use crate::metrics::Control;
use crate::plan::{Node, NodeKind, Plan, RestartSpec, UdfSpec};
use crate::rundir::ChannelHandle;

/// Least room of a response slot: a failure's message and traceback travel in it, however small the batch.
pub const FAILURE_BYTES: usize = 16 << 10;
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
    /// Lives until the run ends.
    pub supervisor: Option<Supervisor>,
    /// For `ringmill inspect`.
    pub handles: Vec<ChannelHandle>,
}

struct Starting {
    node: usize,
    shard: usize,
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
    let mut cpus = plan.cpus.iter().copied().skip(plan.shards);
    for (index, node) in plan.nodes.iter().enumerate() {
        let Some((udf, layouts)) = udf_layouts(node)? else { continue };
        for (shard, signal) in signals.iter().enumerate() {
            for worker in 0..udf.workers {
                let name = format!("{}/{shard}/{worker}", node.name);
                let (one, mut spec) = prepare(plan, node, udf, &layouts, (index, shard), &name, signal)?;
                spec.cpu = cpus.next();
                spec.config["shard"] = json!(shard);
                spec.config["index"] = json!(worker);
                let (request, response) = one.fds()?;
                starting.push(one);
                specs.push((spec, request, response));
            }
        }
    }
    if specs.is_empty() {
        return Ok(Workers { links: HashMap::new(), supervisor: None, handles: Vec::new() });
    }
    let supervisor = Supervisor::start(specs, control)?;
    let mut links: HashMap<(usize, usize), Vec<WorkerLink>> = HashMap::new();
    let mut handles = Vec::with_capacity(starting.len());
    for (place, one) in starting.into_iter().enumerate() {
        let (request, response) = one.handle;
        handles.push(ChannelHandle { name: one.name.clone(), pid: one.post.pid(), request, response });
        let Starting { name, channel, post, restart, .. } = one;
        let link = LinkParts { name, channel, post, desk: supervisor.desk(), place, restart };
        links.entry((one.node, one.shard)).or_default().push(WorkerLink::new(link));
    }
    Ok(Workers { links, supervisor: Some(supervisor), handles })
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
    Ok((Starting { node: index, shard, name: name.to_owned(), channel, post, restart, handle }, spec))
}

impl Starting {
    fn fds(&self) -> Result<(OwnedFd, OwnedFd), EngineError> {
        self.channel.worker_fds().map_err(|error| EngineError::Channel { worker: self.name.clone(), error })
    }
}
