//! Makes the channels of all UDF steps, starts their workers, and waits until they are ready.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ringmill_ring::{ChannelConfig, CompletionKind, CoreEnd};
use ringmill_wire::{Capacity, Schema, Template, WireError};
use serde_json::json;

use super::signal::ShardSignal;
use super::supervisor::{Supervisor, WorkerSpec};
use super::udf::WorkerLink;
use crate::error::EngineError;
use crate::metrics::Control;
use crate::plan::{Node, NodeKind, Plan, UdfSpec};
use crate::rundir::ChannelHandle;

/// Least room of a response slot: a failure's message and traceback travel in it, however small the batch.
pub const FAILURE_BYTES: usize = 16 << 10;

/// Micro-batch layouts of a UDF step.
pub struct UdfLayouts {
    /// Input columns.
    pub request: Arc<Template>,
    /// The function's columns.
    pub response: Arc<Template>,
}

/// The layouts of a UDF step; `None` for other nodes.
pub fn udf_layouts(node: &Node) -> Result<Option<(&UdfSpec, UdfLayouts)>, EngineError> {
    let (NodeKind::Udf(udf), Some(input)) = (&node.kind, &node.input_schema) else { return Ok(None) };
    let layout = |error: WireError| EngineError::Layout { node: node.name.clone(), error };
    let capacity = Capacity { rows_max: udf.batch_rows, variable_bytes_max: udf.variable_bytes };
    let output = Schema::new(udf.description.outputs.clone()).map_err(layout)?;
    let request = Arc::new(Template::new(input.clone(), capacity).map_err(layout)?);
    let response = Arc::new(Template::new(Arc::new(output), capacity).map_err(layout)?);
    Ok(Some((udf, UdfLayouts { request, response })))
}

/// All workers, ready.
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
    drained: Arc<AtomicBool>,
    handle: (OwnedFd, OwnedFd),
}

/// Starts every worker of the plan and waits until each said it is ready or one of them failed.
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
                starting.push(one);
                specs.push(spec);
            }
        }
    }
    if specs.is_empty() {
        return Ok(Workers { links: HashMap::new(), supervisor: None, handles: Vec::new() });
    }
    let (supervisor, pids) = Supervisor::start(specs, control)?;
    if let Err(error) = wait_until_ready(&mut starting, signals, control) {
        control.request_abort();
        supervisor.finish()?;
        return Err(control.take_failure().unwrap_or(error));
    }
    let mut links: HashMap<(usize, usize), Vec<WorkerLink>> = HashMap::new();
    let mut handles = Vec::with_capacity(starting.len());
    for (one, pid) in starting.into_iter().zip(pids) {
        let (request, response) = one.handle;
        handles.push(ChannelHandle { name: one.name.clone(), pid, request, response });
        links.entry((one.node, one.shard)).or_default().push(WorkerLink::new(one.name, pid, one.channel, one.drained));
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
    signal: &ShardSignal,
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
    let drained = Arc::new(AtomicBool::new(false));
    let (request, response) = channel.worker_fds().map_err(failed)?;
    let handle = channel.worker_fds().map_err(failed)?;
    let config = json!({
        "step": node.name,
        "worker": name,
        "function": udf.function,
        "directory": udf.directory,
        "wait": plan.wait,
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
        request,
        response,
        doorbell,
        cpu: None,
        drained: drained.clone(),
    };
    Ok((Starting { node: index, shard, name: name.to_owned(), channel, drained, handle }, spec))
}

fn wait_until_ready(
    starting: &mut [Starting],
    signals: &[Arc<ShardSignal>],
    control: &Control,
) -> Result<(), EngineError> {
    for one in starting {
        loop {
            match one.channel.poll() {
                Ok(Some(completion)) if completion.kind == CompletionKind::Ready => break,
                Ok(Some(_)) => {}
                Ok(None) if control.is_aborted() => return Err(EngineError::Aborted),
                Ok(None) => {
                    if one.channel.arm_sleep() {
                        signals[one.shard].sleep(Duration::from_millis(50));
                    }
                    one.channel.disarm_sleep();
                    signals[one.shard].doorbell().clear();
                }
                Err(violation) => {
                    let (worker, violation) = (one.name.clone(), violation.to_string());
                    return Err(EngineError::Protocol { worker, violation });
                }
            }
        }
    }
    Ok(())
}
