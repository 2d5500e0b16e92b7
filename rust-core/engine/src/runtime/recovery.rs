//! Where a run begins: opens the pipeline's state, chooses the checkpoint, and sees to it that everything in it fits.
//!
//! Nothing of a checkpoint is used before all of it was verified, and nothing outside the state folder is touched here:
//! a run that is refused leaves everything as it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::Builder;

use crossbeam::channel::{Sender, bounded};
use ringmill_connect::{FileFormat, Journal, KafkaSink, LettersSpec, OutputFormat, Replay, take_out};
use ringmill_failpoint::hit;
use ringmill_state::{Delta, EntryKey, Manifest, Misfit, NodeId, NodeIds, ShardStore, StateError, StateFolder};
use serde_json::Value;

use super::assemble::{udf_fingerprint, window_fingerprint};
use super::graph::Graph;
use super::outputs::writing_sinks;
use super::patience::with_space;
use super::snapshot::StartingPoint;
use crate::checkpoint::{ManifestFrame, NoMatch, NodeIdentity, NodeTable};
use crate::error::EngineError;
use crate::metrics::{CheckpointBoard, CheckpointFigures, Control, NodeCounts, RecoveredFrom, Snapshot};
use crate::plan::dead_letter_store::{folder, letters_taken, stored_node};
use crate::plan::replay::{letters_of, replayed_node};
use crate::plan::{CheckpointSpec, Node, NodeKind, Plan, SinkSpec, SourceConnector, StartFrom};

const FRESH: &str = "start anew with --fresh, which deletes the checkpoints";

/// A pipeline's durable state, and what the run goes on from.
pub struct Durable {
    /// Locked for as long as the run lasts.
    pub folder: Arc<StateFolder>,
    /// Everything that is there is to be deleted.
    is_fresh: bool,
    manifest: Option<Manifest>,
    nodes: NodeTable,
}

impl Durable {
    /// Opens the state of a plan with checkpoints.
    pub fn open(plan: &Plan, spec: &CheckpointSpec, control: &Control) -> Result<Durable, EngineError> {
        let failed = |error| EngineError::Durable { action: "open the pipeline's state".into(), error };
        hit("recovery.begin");
        let folder = with_space(control, STATE, || StateFolder::open(&spec.path).map_err(failed))?;
        hit("recovery.locked");
        check_replay(plan)?;
        let manifest = choose(plan, spec, &folder)?;
        hit("recovery.chosen");
        let nodes = match_nodes(plan, manifest.as_ref())?;
        check_letters(plan, manifest.as_ref())?;
        if let Some(manifest) = &manifest {
            take_letters_out(manifest, &spec.path, control)?;
        }
        if let Some(manifest) = &manifest {
            if let Some(renamed) = NodeIds::new(Some(manifest)).renamed(&plan.name) {
                tracing::warn!(
                    "checkpoint {} is one of pipeline {:?}, now {:?}",
                    manifest.epoch,
                    renamed.was,
                    renamed.is
                );
            }
            for (_, name) in nodes.put_aside() {
                tracing::warn!("{name} is gone; what checkpoint {} has of it is not used any more", manifest.epoch);
            }
            for source in plan.nodes.iter().filter(|node| is_lost(node) && !plan.is_replay()) {
                tracing::warn!("{} cannot be read again: what it gave after the checkpoint is lost", source.name);
            }
            tracing::info!("going on from checkpoint {}", manifest.epoch);
        }
        let is_fresh = spec.start == StartFrom::Beginning;
        Ok(Durable { folder: Arc::new(folder), is_fresh, manifest, nodes })
    }

    /// There is a checkpoint to go on from.
    pub fn goes_on(&self) -> bool {
        self.manifest.is_some()
    }

    /// The last epoch that ended; 0: none.
    pub fn epoch(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.epoch)
    }

    /// Where sources and nodes go on.
    pub fn starting_point(&self, plan: &Plan) -> StartingPoint {
        let sources = self.manifest.iter().flat_map(|manifest| &manifest.sources);
        let index = |name: &str| plan.nodes.iter().position(|node| node.name == name);
        // A source that only stood still since it is there begins at its beginning.
        let sources = sources.filter(|source| !source.partitions.is_empty());
        let partitions = sources.filter_map(|source| Some((index(&source.node)?, source.partitions.clone())));
        let journal = |name: &str| Journal {
            folder: self.folder.journal(name),
            is_emptied: self.is_fresh,
            on_wait: Arc::new(|_, _| {}),
        };
        let is_journaled = |node: &Node| matches!(&node.kind, NodeKind::Source(source) if source.connector.replay() == Replay::Journaled);
        let nodes = plan.nodes.iter().enumerate().filter(|(_, node)| is_journaled(node));
        StartingPoint {
            node_ids: self.nodes.ids().to_vec(),
            partitions: partitions.collect(),
            journals: nodes.map(|(index, node)| (index, journal(&node.name))).collect(),
        }
    }

    /// Figures of the runs before, by index in the plan.
    pub fn base_counts(&self) -> Vec<NodeCounts> {
        self.nodes.base_counts()
    }

    /// A sink's own folder.
    pub fn staging(&self, sink: &str) -> Result<PathBuf, EngineError> {
        let failed = |error| EngineError::Durable { action: format!("make the folder of sink {sink}"), error };
        self.folder.staging(sink).map_err(failed)
    }

    /// What a sink made durable for the checkpoint; null where the checkpoint does not know it.
    pub fn staged(&self, sink: &str) -> Option<(u64, &Value)> {
        let manifest = self.manifest.as_ref()?;
        let record = manifest.sinks.iter().find(|record| record.node == sink);
        Some((manifest.epoch, record.map_or(&Value::Null, |record| &record.staged)))
    }

    /// What all manifests of the run have in common.
    pub fn frame(&self, plan: &Plan) -> ManifestFrame {
        let sources = plan.nodes.iter().enumerate().filter(|(_, node)| matches!(node.kind, NodeKind::Source(_)));
        ManifestFrame {
            pipeline: plan.name.clone(),
            shards: plan.shards,
            nodes: self.nodes.clone(),
            sources: sources.map(|(index, node)| (index, node.name.clone())).collect(),
            sinks: writing_sinks(plan).map(|(_, node, _)| node.name.clone()).collect(),
            had_ended: plan.is_replay().then(|| self.manifest.as_ref().is_some_and(|manifest| manifest.is_final)),
        }
    }

    /// What is shown at the start.
    pub fn board(&self, plan: &Plan) -> CheckpointBoard {
        let is_source = |index: &usize| matches!(plan.nodes[*index].kind, NodeKind::Source(_));
        let counts = self.base_counts();
        let rows_in = (0..counts.len()).filter(is_source).map(|index| counts[index].rows_in).sum();
        let recovered = self.manifest.as_ref().map(|manifest| RecoveredFrom {
            epoch: manifest.epoch,
            created_ms: manifest.created_ms,
            is_final: manifest.is_final,
            rows_in,
        });
        let figures = CheckpointFigures {
            epoch: self.epoch(),
            state: "starting".into(),
            recovered,
            ..CheckpointFigures::default()
        };
        CheckpointBoard { figures, committed_ns: None }
    }

    /// Removes what the run does not go on from: newer checkpoints, or all of them for a fresh start. To be called when
    /// everything but the sinks is open, for there is no way back.
    pub fn settle(&mut self, control: &Control) -> Result<(), EngineError> {
        let failed =
            |error| EngineError::Durable { action: "remove checkpoints that are not gone on from".into(), error };
        with_space(control, STATE, || match Arc::get_mut(&mut self.folder) {
            Some(folder) if self.is_fresh => folder.delete_all().map_err(failed),
            _ => self.folder.forget_newer(self.epoch()).map_err(failed),
        })?;
        hit("recovery.settled");
        Ok(())
    }

    /// Says so if the checkpoint held everything that there was to be read.
    pub fn note_end(&self, snapshot: &Snapshot) {
        let recovered = snapshot.checkpoint.as_ref().and_then(|checkpoint| checkpoint.recovered.as_ref());
        if let Some(recovered) = recovered.filter(|recovered| recovered.rows_in == snapshot.rows_in) {
            tracing::info!("there was nothing new to read since checkpoint {}", recovered.epoch);
        }
    }

    /// Takes the letters out of their store that this run has replayed; what is not done here, the next run does.
    pub fn take_letters_out(&self, control: &Control) -> Result<(), EngineError> {
        let failed = |error| EngineError::Durable { action: "read the checkpoints".into(), error };
        let newest = self.folder.checkpoints().map_err(failed)?.into_iter().next();
        match newest.and_then(|info| info.manifest.ok()) {
            Some(manifest) => take_letters_out(&manifest, self.folder.path(), control),
            None => Ok(()),
        }
    }

    /// Makes each shard's store and gives the shard's nodes their state back, all shards at once. With each store comes
    /// what is to be deleted from it.
    pub fn restore(&self, graphs: &mut [Graph], control: &Control) -> Result<Vec<(ShardStore, Delta)>, EngineError> {
        let shards = graphs.len();
        hit("recovery.restore");
        let restored: Vec<Result<(ShardStore, Delta), EngineError>> = std::thread::scope(|scope| {
            let restore = |(shard, graph)| scope.spawn(move || self.restore_shard(graph, shard, shards, control));
            let threads: Vec<_> = graphs.iter_mut().enumerate().map(restore).collect();
            let lost = |_| Err(EngineError::Internal("a recovering thread panicked".into()));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
        });
        hit("recovery.restored");
        restored.into_iter().collect()
    }

    fn restore_shard(
        &self,
        graph: &mut Graph,
        shard: usize,
        shards: usize,
        control: &Control,
    ) -> Result<(ShardStore, Delta), EngineError> {
        let failed = |error| EngineError::Durable { action: format!("recover the state of shard {shard}"), error };
        let mut gone = Delta::default();
        let opened = with_space(control, &format!("the state of shard {shard}"), || {
            let opened = match &self.manifest {
                None => ShardStore::create(&self.folder, shard),
                Some(manifest) => ShardStore::recover(&self.folder, manifest, shard, shards),
            };
            opened.map_err(failed)
        });
        let store = opened?;
        if self.manifest.is_some() {
            let ids = self.nodes.ids();
            let id_of = |index: usize| ids.get(index).copied().unwrap_or(NodeId::MAX);
            read_ahead(&store, failed, |entry, value| {
                if !graph.restore(id_of, entry, value)? {
                    gone.delete(entry);
                }
                Ok(())
            })?;
        }
        graph.restored(self.epoch())?;
        Ok((store, gone))
    }
}

/// What lacks space, for people.
const STATE: &str = "the pipeline's state";

/// Bytes of entries that are handed from thread to thread together, and how many such parts may wait.
const PART_BYTES: usize = 256 << 10;
const PARTS_AHEAD: usize = 8;

/// Shows `take` every entry of a store, which is read on a thread of its own: reading takes about as long as taking.
fn read_ahead(
    store: &ShardStore,
    failed: impl Fn(StateError) -> EngineError,
    mut take: impl FnMut(&EntryKey<'_>, &[u8]) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    std::thread::scope(|scope| {
        let (sender, parts) = bounded::<Delta>(PARTS_AHEAD);
        let reader = Builder::new().name("recovery".into()).spawn_scoped(scope, move || read_in_parts(store, &sender));
        let reader = reader.map_err(|error| EngineError::system("start a reading thread", error))?;
        for part in parts {
            for (key, value) in part.puts() {
                let entry = EntryKey::parse(key);
                take(&entry.ok_or_else(|| EngineError::Internal("an entry has lost its key".into()))?, value)?;
            }
        }
        match reader.join() {
            Ok(Err(Halt::Failed(error))) => Err(failed(error)),
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::Internal("a reading thread panicked".into())),
        }
    })
}

/// Why a store was not read to its end.
enum Halt {
    Failed(StateError),
    /// Nobody takes any more.
    Unwanted,
}

impl From<StateError> for Halt {
    fn from(error: StateError) -> Self {
        Halt::Failed(error)
    }
}

fn read_in_parts(store: &ShardStore, sender: &Sender<Delta>) -> Result<(), Halt> {
    let mut part = Delta::default();
    let send = |part: &mut Delta| sender.send(std::mem::take(part)).map_err(|_| Halt::Unwanted);
    store.for_each(|entry, value| {
        part.put(entry, value);
        if part.bytes() < PART_BYTES { Ok(()) } else { send(&mut part) }
    })?;
    send(&mut part)
}

/// The checkpoint to go on from, verified.
fn choose(plan: &Plan, spec: &CheckpointSpec, folder: &StateFolder) -> Result<Option<Manifest>, EngineError> {
    let failed = |error| EngineError::Durable { action: "read the checkpoints".into(), error };
    match spec.start {
        StartFrom::Beginning => Ok(None),
        StartFrom::Newest => {
            let (manifest, damaged) = folder.newest_sound().map_err(failed)?;
            for error in &damaged {
                tracing::error!("{error}");
            }
            let Some(worst) = damaged.first() else { return Ok(manifest) };
            let Some(manifest) = manifest else {
                let message = format!("no checkpoint can be read: {worst}");
                return Err(EngineError::Recovery { message, hint: format!("put the file back, or {FRESH}") });
            };
            if let Some(sink) = bound_sink(plan) {
                let message = format!(
                    "{worst}; checkpoint {} before it is whole, but sink {sink:?} may have shown rows that came after it, \
                     and would show them again",
                    manifest.epoch
                );
                return Err(EngineError::Recovery { message, hint: format!("put the file back, or {FRESH}") });
            }
            let again = match plan.has_moving_partitions() {
                true => {
                    "rows that came after it are read again, but for a group's, which goes on where its brokers say"
                }
                false => "rows that came after it are read again",
            };
            tracing::error!("falling back to checkpoint {}: {again}", manifest.epoch);
            Ok(Some(manifest))
        }
        StartFrom::Checkpoint(epoch) => {
            let newest = folder.checkpoints().map_err(failed)?.first().map_or(0, |info| info.epoch);
            if let Some(sink) = bound_sink(plan).filter(|_| epoch < newest) {
                let message = format!(
                    "checkpoint {epoch} is older than checkpoint {newest}, and sink {sink:?} has shown the rows between \
                     them; they cannot be taken back"
                );
                let hint = format!("go on from checkpoint {newest} (leave --from-checkpoint out), or {FRESH}");
                return Err(EngineError::Recovery { message, hint });
            }
            let manifest = folder.verify(epoch).map_err(|error| match error {
                error @ (StateError::Missing { .. } | StateError::Damaged { .. }) => EngineError::Recovery {
                    message: error.to_string(),
                    hint: "`ringmill checkpoints list` shows those that are there".into(),
                },
                error => failed(error),
            })?;
            Ok(Some(manifest))
        }
    }
}

/// Letters are fed back into a pipeline that goes on.
fn check_letters(plan: &Plan, manifest: Option<&Manifest>) -> Result<(), EngineError> {
    match plan.nodes.iter().find_map(letters_of).filter(|_| manifest.is_none()) {
        None => Ok(()),
        Some(LettersSpec { origin, .. }) => {
            let message = format!("the letters of {origin:?} cannot be replayed: there is no checkpoint to go on from");
            Err(EngineError::Recovery { message, hint: "run the pipeline first".into() })
        }
    }
}

/// Takes out of their stores what the checkpoint says was replayed.
fn take_letters_out(manifest: &Manifest, state: &Path, control: &Control) -> Result<(), EngineError> {
    for source in &manifest.sources {
        let Some(origin) = replayed_node(&source.node) else { continue };
        for partition in &source.partitions {
            let taken = letters_taken(partition);
            if !taken.is_empty() {
                let failed = |error| EngineError::Connect { node: source.node.clone(), error };
                with_space(control, STATE, || take_out(&folder(state, origin), &taken).map_err(failed))?;
            }
        }
    }
    Ok(())
}

/// What is shown exactly once must be read again after a crash. Plans refuse what they know; pipes are seen here.
fn check_replay(plan: &Plan) -> Result<(), EngineError> {
    let asked_for = writing_sinks(plan).filter(|(_, node, _)| stored_node(&node.name).is_none());
    let Some(sink) = asked_for.filter(|(_, _, sink)| sink.is_bound()).map(|(_, node, _)| &node.name).next() else {
        return Ok(());
    };
    let lost = plan.nodes.iter().find(|node| is_lost(node));
    lost.map_or(Ok(()), |source| {
        let message = format!(
            "sink {sink:?} shows every row exactly once, but what source {:?} reads cannot be read again after a crash",
            source.name
        );
        let hint = "read regular files, leave [checkpoint] out, or use a sink that shows rows at least once".into();
        Err(EngineError::Recovery { message, hint })
    })
}

fn is_lost(node: &Node) -> bool {
    matches!(&node.kind, NodeKind::Source(source) if source.connector.replay() == Replay::Lost)
}

/// A sink whose output forbids to go back.
fn bound_sink(plan: &Plan) -> Option<&str> {
    writing_sinks(plan).find(|(_, _, sink)| sink.is_bound()).map(|(_, node, _)| node.name.as_str())
}

fn match_nodes(plan: &Plan, manifest: Option<&Manifest>) -> Result<NodeTable, EngineError> {
    let nodes = plan.nodes.iter().map(|node| identity(plan, node)).collect::<Result<Vec<_>, _>>()?;
    let mut table = NodeTable::match_up(&nodes, manifest).map_err(|error| match error {
        NoMatch::State(error) => EngineError::Durable { action: "number the nodes".into(), error },
        NoMatch::Misfits(misfits) => {
            let epoch = manifest.map_or(0, |manifest| manifest.epoch);
            let misfits = misfits.iter().map(Misfit::to_string).collect::<Vec<_>>().join("; ");
            let message = format!("the pipeline cannot go on from checkpoint {epoch}: {misfits}");
            let hint = format!("{FRESH}, undo the change, or give the step a new name, with which it begins anew");
            EngineError::Recovery { message, hint }
        }
    })?;
    for (index, node) in plan.nodes.iter().enumerate().filter(|(_, node)| !node.inputs.is_empty()) {
        let given = |counts: &[NodeCounts]| {
            let ports = node.inputs.iter().map(|input| (input.port, &counts[input.node]));
            ports.map(|(port, counts)| counts.given(port)).sum()
        };
        table.note_missed(index, given);
    }
    Ok(table)
}

/// What a node says about itself: see [`NodeIdentity`].
fn identity(plan: &Plan, node: &Node) -> Result<NodeIdentity, EngineError> {
    let (kind, fingerprint, udf_version) = match &node.kind {
        NodeKind::Source(source) => {
            let connector = match &source.connector {
                // What its positions mean is the class's business.
                SourceConnector::Python(source) => &format!("python {}", source.feed.origin),
                SourceConnector::Producer(_) => "producer",
                SourceConnector::Generator(_) => "generator",
                SourceConnector::File(_) => "file",
                SourceConnector::Stdin(_) => "stdin",
                SourceConnector::Socket(spec) if matches!(spec.format, FileFormat::Text(_)) => "socket",
                // Its journal holds no lines.
                SourceConnector::Socket(spec) => &format!("socket of {}", spec.format.name()),
                SourceConnector::Http(_) => "http",
                SourceConnector::Kafka(_) => "kafka",
                SourceConnector::Mqtt(_) => "mqtt",
                SourceConnector::Nats(_) => "nats",
                SourceConnector::NatsCore(_) => "core nats",
                // Nothing of them is gone on from.
                SourceConnector::Letters(_) => "",
            };
            ("source", connector.to_owned(), None)
        }
        NodeKind::Window(_) => ("window", window_fingerprint(plan, node)?, None),
        NodeKind::Udf(udf) => ("udf", udf_fingerprint(plan, node, udf), Some(udf.description.version)),
        NodeKind::EventType(_) => ("event type", String::new(), None),
        NodeKind::Filter(_) => ("filter", String::new(), None),
        NodeKind::Sink(sink) => {
            let target = match sink {
                SinkSpec::Null => "null".to_owned(),
                SinkSpec::File(sink) => format!("file {} as {}", sink.path.display(), form(sink.format)),
                SinkSpec::Sqlite { path, table } => format!("table {table} of {}", path.display()),
                SinkSpec::Kafka(KafkaSink { topic, transactional_id: None, .. }) => format!("kafka topic {topic}"),
                // What was committed is looked up under the id.
                SinkSpec::Kafka(KafkaSink { topic, transactional_id: Some(id), .. }) => {
                    format!("kafka topic {topic} with transactional_id {id}")
                }
                SinkSpec::Mqtt(_) => "mqtt".to_owned(),
                SinkSpec::NatsCore(_) => "core nats".to_owned(),
                SinkSpec::Nats(sink) => format!("nats stream {}", sink.stream),
                // A server may move, and so may what it takes.
                SinkSpec::Http(_) => "requests".to_owned(),
                // What it makes of its rows is the class's business.
                SinkSpec::Python(sink) => format!("python {}", sink.outlet.origin),
                // A database may move to another host; what it has of us is looked at when it is opened.
                SinkSpec::Postgres(sink) => format!("postgres table {}.{}", sink.schema, sink.table),
                SinkSpec::Retained(spec) => format!("retained results of {}", spec.step),
                // What was printed is not looked at again.
                SinkSpec::Stdout { .. } => String::new(),
            };
            ("sink", target, None)
        }
    };
    Ok(NodeIdentity { name: node.name.clone(), kind, fingerprint, udf_version })
}

/// A sink's format as checkpoints name it. How pages are compressed may change.
fn form(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Json => "Json",
        OutputFormat::Csv => "Csv",
        OutputFormat::Raw => "Raw",
        OutputFormat::Arrow => "Arrow",
        OutputFormat::Parquet(_) => "Parquet",
    }
}
