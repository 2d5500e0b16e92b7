//! Opens a plan's sinks and starts their threads.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crossbeam::channel::{Sender, bounded};
use ringmill_connect::{
    Encoder, FileSink, LetterStore, SqliteSink, StdoutSink, Transactions, Writer, staged_without_letters,
};
use serde_json::Value;

use super::checkpoint_thread::{Message, SinkCommand};
use super::patience::with_space;
use super::recovery::Durable;
use super::retained::{self, RetainedEncoder};
use super::signal::ShardSignal;
use super::worker_outlet::WorkerOutlet;
use super::writer_thread::{CommitLink, Room, WriterLane, WriterThread, start_writer};
use crate::error::EngineError;
use crate::metrics::Control;
use crate::plan::dead_letter_store::{folder, stored_node};
use crate::plan::roll_up::roll_up;
use crate::plan::{Node, NodeKind, Plan, SinkSpec};

/// Commands on their way to a sink: a commit, and the end behind it.
const COMMANDS: usize = 2;

/// The sinks at work.
#[derive(Default)]
pub struct Outputs {
    /// Their threads.
    pub threads: Vec<WriterThread>,
    /// Each shard's lane to each sink, by the sink's index in the plan.
    pub lanes: HashMap<usize, Vec<WriterLane>>,
    /// The ways to the sinks, in the order of [`writing_sinks`]; empty without checkpoints.
    pub commands: Vec<Sender<SinkCommand>>,
}

/// Sinks that have a writer and take part in checkpoints: index in the plan and node.
pub fn writing_sinks(plan: &Plan) -> impl Iterator<Item = (usize, &Node, &SinkSpec)> {
    plan.nodes.iter().enumerate().filter_map(|(index, node)| match &node.kind {
        NodeKind::Sink(sink) if !matches!(sink, SinkSpec::Null) => Some((index, node, sink)),
        _ => None,
    })
}

impl Outputs {
    /// Opens all sinks, which creates their files, or completes them where the run goes on from a checkpoint. What was
    /// opened before an error stays in `self`.
    pub fn open(
        &mut self,
        plan: &Plan,
        signals: &[Arc<ShardSignal>],
        control: &Arc<Control>,
        checkpoints: Option<(&Durable, &Sender<Message>)>,
        outlets: &HashMap<usize, WorkerOutlet>,
    ) -> Result<(), EngineError> {
        for (number, (index, node, sink)) in writing_sinks(plan).enumerate() {
            let outlet = outlets.get(&index);
            let open = || open_writer(plan, (node, sink, outlet), checkpoints.map(|(durable, _)| durable), control);
            let writer = with_space(control, &format!("sink {}", node.name), open)?;
            let commits = checkpoints.map(|(durable, reports)| {
                let (sender, commands) = bounded(COMMANDS);
                self.commands.push(sender);
                CommitLink { sink: number, recovered_epoch: durable.epoch(), commands, reports: reports.clone() }
            });
            let probe = plan.instruments.as_ref().filter(|_| !sink.is_internal(&node.name));
            let probe = probe.map(|instruments| instruments.probe.lane(&node.name));
            let target = (encoder(node, sink)?, writer);
            let room = room(plan, node)?;
            let (thread, lanes) = start_writer(&node.name, target, room, commits, probe, signals, control)?;
            self.threads.push(thread);
            self.lanes.insert(index, lanes);
        }
        Ok(())
    }
}

/// What makes bytes of a sink's rows.
pub fn encoder(node: &Node, sink: &SinkSpec) -> Result<Box<dyn Encoder>, EngineError> {
    let made = match sink {
        SinkSpec::Retained(_) => RetainedEncoder::new(&node.schema).map(|encoder| Some(Box::new(encoder) as Box<_>)),
        _ => sink.encoder(&node.schema),
    };
    let made = made.map_err(|error| EngineError::Connect { node: node.name.clone(), error })?;
    made.ok_or_else(|| EngineError::Internal(format!("{} writes nothing", node.name)))
}

/// Where a shard's rows wait for a sink.
pub fn room(plan: &Plan, node: &Node) -> Result<Room, EngineError> {
    let room = Room::new(&node.schema, plan.sink_buffer_bytes);
    room.map_err(|error| EngineError::Layout { node: node.name.clone(), error })
}

fn open_writer(
    plan: &Plan,
    (node, sink, outlet): (&Node, &SinkSpec, Option<&WorkerOutlet>),
    durable: Option<&Durable>,
    control: &Control,
) -> Result<Box<dyn Writer>, EngineError> {
    let staging = durable.filter(|_| sink.is_bound()).map(|durable| durable.staging(&node.name)).transpose()?;
    let recovered = durable.and_then(|durable| durable.staged(&node.name));
    let kept = kept_letters(node, sink, recovered)?;
    let recovered = kept.as_ref().map(|(epoch, staged)| (*epoch, staged)).or(recovered);
    let transactions = staging.as_deref().map(|staging| Transactions { staging, recovered });
    if let (Some(durable), SinkSpec::File(FileSink { path, .. }), Some(_)) = (durable, sink, stored_node(&node.name)) {
        make_store(durable, path, &node.name)?;
    }
    let letters = durable.map(|durable| letter_store(durable, node, sink, control)).transpose()?.flatten();
    let opened = match sink {
        SinkSpec::Null => return Err(EngineError::Internal(format!("{} has no writer", node.name))),
        SinkSpec::File(sink) => sink.open(&node.schema, transactions.as_ref()),
        SinkSpec::Sqlite { path, table } => {
            SqliteSink { path: path.clone(), table: table.clone() }.open(&node.schema, transactions.as_ref())
        }
        SinkSpec::Postgres(sink) => sink.open(&node.schema, transactions.as_ref()),
        SinkSpec::Kafka(sink) => sink.open(&node.schema, transactions.as_ref()),
        SinkSpec::Mqtt(sink) => sink.open(&node.schema),
        SinkSpec::Nats(sink) => sink.open(&node.schema, transactions.as_ref()),
        SinkSpec::NatsCore(sink) => sink.open(&node.schema),
        SinkSpec::Http(sink) => sink.open(&node.schema, transactions.as_ref(), letters),
        SinkSpec::Python(sink) => {
            let outlet = outlet.ok_or_else(|| EngineError::Internal(format!("{} has no process", node.name)))?;
            sink.outlet.open(&node.schema, Box::new(outlet.clone()), transactions.as_ref(), letters)
        }
        SinkSpec::Retained(spec) => {
            let folder = durable.map(|durable| durable.folder.retained(&spec.step));
            let (Some(folder), Some(transactions)) = (folder, &transactions) else {
                return Err(EngineError::Internal(format!("{} has no checkpoints", node.name)));
            };
            let roll_up = roll_up(spec, &plan.nodes, node);
            retained::open(&folder, spec, roll_up.as_ref(), &node.schema, transactions, control)
        }
        SinkSpec::Stdout { format } => StdoutSink { format: *format }.open(&node.schema),
    };
    opened.map_err(|error| EngineError::Connect { node: node.name.clone(), error })
}

fn make_store(durable: &Durable, folder: &Path, name: &str) -> Result<(), EngineError> {
    let failed = |error| EngineError::Durable { action: format!("make the folder of {name}"), error };
    durable.folder.make_dead_letters(folder).map_err(failed)
}

/// Where the sink's own dead letters go. One that had them and is to have none any more may still have some to show.
fn letter_store(
    durable: &Durable,
    node: &Node,
    sink: &SinkSpec,
    control: &Control,
) -> Result<Option<LetterStore>, EngineError> {
    let folder = folder(durable.folder.path(), &node.name);
    let may_have = matches!(sink, SinkSpec::Http(_) | SinkSpec::Python(_)) && folder.is_dir();
    if !sink.has_letters() && !may_have {
        return Ok(None);
    }
    make_store(durable, &folder, &node.name)?;
    let count = control.count_refused(&node.name);
    Ok(Some(LetterStore { folder, origin: node.name.clone(), count }))
}

/// What a store of dead letters goes on from that the checkpoint does not know.
fn kept_letters(
    node: &Node,
    sink: &SinkSpec,
    recovered: Option<(u64, &Value)>,
) -> Result<Option<(u64, Value)>, EngineError> {
    let (SinkSpec::File(FileSink { path, .. }), Some(_), Some((epoch, Value::Null))) =
        (sink, stored_node(&node.name), recovered)
    else {
        return Ok(None);
    };
    let staged = staged_without_letters(path, epoch);
    let staged = staged.map_err(|error| EngineError::Connect { node: node.name.clone(), error })?;
    Ok(staged.map(|staged| (epoch, staged)))
}
