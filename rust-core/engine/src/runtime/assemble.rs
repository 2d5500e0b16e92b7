//! Builds each shard's graph from the plan, and says beforehand how much memory that takes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossbeam::channel::Sender;
use ringmill_connect::{FedSpec, FeedPlace, Partition, Places, Resume, Waker};
use ringmill_state::{NodeId, PartitionRecord, RetainedStore};
use ringmill_wire::{Capacity, HeapBatch, Schema, Template, WireError};

use super::checkpoint_thread::{Message, SinkCommand};
use super::dead_letters::DeadLetterBatch;
use super::exchange::Lanes;
use super::filter::{FilterOperator, Selection};
use super::graph::Graph;
use super::operator::{DEAD_LETTERS, LATE, Operator, ROWS};
use super::outputs::{self, Outputs};
use super::patience::with_space;
use super::producer;
use super::recovery::Durable;
use super::signal::ShardSignal;
use super::sink::{NullTarget, SinkOperator, SinkTarget};
use super::snapshot::StartingPoint;
use super::source::{SourceOperator, SourceTime};
use super::standing::StandingSource;
use super::udf::{KeyedState, Tracing, UdfOperator, UdfParts};
use super::window::WindowNode;
use super::worker_feed::{FeedFigures, slot_bytes};
use super::worker_link::WorkerLink;
use super::worker_outlet::{WorkerOutlet, request_bytes};
use super::workers::{FAILURE_BYTES, FeedStart, SINK_SLOTS, feed_template, udf_layouts};
use super::writer_thread::{WriterLane, WriterThread};
use crate::error::EngineError;
use crate::expression::Expression;
use crate::metrics::{Control, NodeCounts};
use crate::plan::provenance::{are_rows_traced, consumers, key_columns};
use crate::plan::replay::letters_of;
use crate::plan::{
    Node, NodeKind, Plan, Port, SinkSpec, SourceConnector, SourceSpec, UdfDescription, UdfSpec, event_time_unit,
};
use crate::window::{KeyHasher, TimeColumn, WindowOperator};

/// Rows of a batch outside the rings.
const BATCH_ROWS: u32 = 1024;
/// Least room for one variable-length column of a window's results, whose lists gather many values.
const WINDOW_VARIABLE_BYTES: u32 = 4 << 20;
/// Room beyond the longest record, so that a batch is not full after one.
const SPARE_BYTES: usize = 64 << 10;

/// Room for one variable-length column of a batch outside the rings: any record's values fit.
fn variable_bytes(plan: &Plan) -> u32 {
    let longest = plan.nodes.iter().map(|node| match &node.kind {
        NodeKind::Source(source) => source.connector.record_bytes_max(),
        _ => 0,
    });
    u32::try_from(longest.max().unwrap_or(0) + SPARE_BYTES).unwrap_or(u32::MAX)
}

/// Everything the shards are made of.
pub struct Assembly<'a> {
    plan: &'a Plan,
    signals: &'a [Arc<ShardSignal>],
    start: StartingPoint,
    partitions: HashMap<(usize, usize), Vec<Box<dyn Partition>>>,
    lanes: HashMap<usize, Vec<WriterLane>>,
    exchanges: HashMap<usize, Lanes>,
    links: HashMap<(usize, usize), Vec<WorkerLink>>,
    /// Of the sources' processes.
    figures: HashMap<(usize, usize), Vec<FeedFigures>>,
    /// The processes of sinks, by index in the plan.
    outlets: HashMap<usize, WorkerOutlet>,
    /// What the tags of traced rows stand for.
    places: Arc<Places>,
    /// Sources, by index in the plan, and the shards on which they have partitions.
    reading: HashSet<(usize, usize)>,
    /// By shard, where each node sits in the graph.
    seats: Vec<Vec<usize>>,
    /// The sinks' threads.
    pub threads: Vec<WriterThread>,
}

impl<'a> Assembly<'a> {
    /// Opens the sources where the run goes on; nothing has been written yet.
    pub fn open_sources(
        plan: &'a Plan,
        signals: &'a [Arc<ShardSignal>],
        mut start: StartingPoint,
        control: &Arc<Control>,
    ) -> Result<Self, EngineError> {
        for journal in start.journals.values_mut() {
            let control = control.clone();
            journal.on_wait = Arc::new(move |folder, reason| match reason {
                Some(reason) => control.pause(&folder.to_string_lossy(), reason),
                None => control.resume(&folder.to_string_lossy()),
            });
        }
        let wakers: Vec<Waker> = signals.iter().map(waker).collect();
        let mut partitions: HashMap<(usize, usize), Vec<Box<dyn Partition>>> = HashMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let NodeKind::Source(source) = &node.kind else { continue };
            if plan.is_replay() && letters_of(node).is_none() {
                continue;
            }
            let records = start.partitions.get(&index);
            let resume = records.map(|records| records.iter().map(resume).collect::<Vec<Resume<'_>>>());
            let open = || {
                let opened = match &source.connector {
                    SourceConnector::Generator(spec) => spec.open(plan.shards, &wakers, resume.as_deref()),
                    SourceConnector::File(spec) => {
                        spec.open_journaled(plan.shards, &wakers, start.journals.get(&index), resume.as_deref())
                    }
                    SourceConnector::Stdin(spec) => spec.open(&wakers, start.journals.get(&index), resume.as_deref()),
                    SourceConnector::Socket(spec) => spec.open(&wakers, start.journals.get(&index), resume.as_deref()),
                    SourceConnector::Http(spec) => spec.open(&wakers, start.journals.get(&index), resume.as_deref()),
                    SourceConnector::Kafka(spec) => spec.open(plan.shards, &wakers, resume.as_deref()),
                    SourceConnector::Mqtt(spec) => spec.open(&wakers, start.journals.get(&index), resume.as_deref()),
                    SourceConnector::Nats(spec) => spec.open(&wakers, resume.as_deref()),
                    SourceConnector::NatsCore(spec) => {
                        spec.open(&wakers, start.journals.get(&index), resume.as_deref())
                    }
                    // Its processes are started with the workers.
                    SourceConnector::Python(_) => Ok(Vec::new()),
                    // These connect while it runs.
                    SourceConnector::Producer(_) => Ok(Vec::new()),
                    SourceConnector::Letters(spec) => spec.open(),
                };
                opened.map_err(|error| EngineError::Connect { node: node.name.clone(), error })
            };
            let opened = with_space(control, &format!("source {}", node.name), open)?;
            let opened = match &plan.instruments {
                Some(instruments) => instruments.load.pace(index, opened, &wakers),
                None => opened,
            };
            for (shard, partition) in opened {
                partitions.entry((index, shard)).or_default().push(partition);
            }
        }
        let (lanes, exchanges, links, figures, outlets, places, reading, seats) = Default::default();
        Ok(Self {
            plan,
            signals,
            start,
            partitions,
            lanes,
            exchanges,
            links,
            figures,
            outlets,
            places,
            reading,
            seats,
            threads: Vec::new(),
        })
    }

    /// Opens the sinks and starts their threads; files are created here. With checkpoints the ways to the sinks come back.
    pub fn open_sinks(
        &mut self,
        control: &Arc<Control>,
        checkpoints: Option<(&Durable, &Sender<Message>)>,
    ) -> Result<Vec<Sender<SinkCommand>>, EngineError> {
        let mut outputs = Outputs::default();
        let opened = outputs.open(self.plan, self.signals, control, checkpoints, &self.outlets);
        self.threads.append(&mut outputs.threads);
        opened?;
        self.lanes = outputs.lanes;
        Ok(outputs.commands)
    }

    /// Makes partitions of the sources' processes.
    pub fn set_feeds(&mut self, feeds: HashMap<usize, Vec<FeedStart>>) -> Result<(), EngineError> {
        for (index, started) in feeds {
            let node = &self.plan.nodes[index];
            let NodeKind::Source(SourceSpec { connector: SourceConnector::Python(source), .. }) = &node.kind else {
                continue;
            };
            let place = |FeedStart { shard, partition, feed }| {
                self.figures.entry((index, shard)).or_default().push(feed.figures());
                FeedPlace { name: partition, shard, feed: Box::new(feed) }
            };
            let places = started.into_iter().map(place).collect();
            self.open_feeds(index, &source.feed, places)?;
        }
        Ok(())
    }

    /// Makes partitions of the producers that may connect.
    pub fn set_producers(&mut self, places: HashMap<usize, Vec<FeedPlace>>) -> Result<(), EngineError> {
        for (index, places) in places {
            if let NodeKind::Source(SourceSpec { connector: SourceConnector::Producer(source), .. }) =
                &self.plan.nodes[index].kind
            {
                self.open_feeds(index, &source.feed, places)?;
            }
        }
        Ok(())
    }

    fn open_feeds(&mut self, index: usize, spec: &FedSpec, places: Vec<FeedPlace>) -> Result<(), EngineError> {
        let records = self.start.partitions.get(&index);
        let resume = records.map(|records| records.iter().map(resume).collect::<Vec<Resume<'_>>>());
        let opened = spec.open(places, resume.as_deref());
        let failed = |error| EngineError::Connect { node: self.plan.nodes[index].name.clone(), error };
        for (shard, partition) in opened.map_err(failed)? {
            self.partitions.entry((index, shard)).or_default().push(partition);
        }
        Ok(())
    }

    /// Takes the sinks' processes over.
    pub fn set_outlets(&mut self, outlets: HashMap<usize, WorkerOutlet>) {
        self.outlets = outlets;
    }

    /// Waits until the sinks' processes are ready, or one of them could not start.
    pub fn await_outlets(&self, control: &Control) -> Result<(), EngineError> {
        for outlet in self.outlets.values() {
            while !outlet.await_ready()? {
                if control.is_aborted() {
                    return Err(EngineError::Aborted);
                }
            }
        }
        Ok(())
    }

    /// Takes the workers over.
    pub fn set_workers(&mut self, links: HashMap<(usize, usize), Vec<WorkerLink>>) {
        self.links = links;
    }

    /// The graph of one shard, without the sinks that write; to be called for shard 0, 1, … in order.
    pub fn graph(&mut self, shard: usize) -> Result<Graph, EngineError> {
        // Graphs take their partitions away.
        self.reading.extend(self.partitions.keys());
        let mut graph = Graph::default();
        let mut seats: Vec<usize> = Vec::with_capacity(self.plan.nodes.len());
        for (index, node) in self.plan.nodes.iter().enumerate() {
            let seat = match &node.kind {
                NodeKind::Sink(sink) if !matches!(sink, SinkSpec::Null) => usize::MAX,
                NodeKind::Window(_) | NodeKind::Udf(_) if self.plan.shards > 1 && key_of(node).is_some() => {
                    self.add_exchanged(&mut graph, &seats, index, node, shard)?
                }
                _ => {
                    let operator = self.operator(index, node, shard, node.inputs.len())?;
                    let seat = graph.add(operator, index, true);
                    connect_inputs(&mut graph, &seats, node, seat);
                    seat
                }
            };
            seats.push(seat);
        }
        for (index, node) in self.plan.nodes.iter().enumerate() {
            if let Some(consumer) = direct_consumer(self.plan, index, node) {
                graph.set_direct(seats[index], seats[consumer]);
            }
        }
        self.seats.push(seats);
        Ok(graph)
    }

    /// Adds the sinks that write, which are open by now, to all graphs.
    pub fn add_sinks(&mut self, graphs: &mut [Graph]) -> Result<(), EngineError> {
        for (shard, graph) in graphs.iter_mut().enumerate() {
            for (index, node) in self.plan.nodes.iter().enumerate() {
                let (NodeKind::Sink(sink), Some(lanes)) = (&node.kind, self.lanes.get_mut(&index)) else { continue };
                let target = SinkTarget::Writer { encoder: outputs::encoder(node, sink)?, lane: lanes.remove(0) };
                let mut operator = SinkOperator::new(node.name.clone(), target, node.inputs.len());
                // One shard shows the process, which all of them share.
                if let Some(outlet) = self.outlets.get(&index).filter(|_| shard == 0) {
                    operator.set_process(outlet.figures());
                }
                let seat = graph.add(Box::new(operator), index, true);
                connect_inputs(graph, &self.seats[shard], node, seat);
            }
        }
        Ok(())
    }

    /// Adds a node with a key behind an exchange.
    fn add_exchanged(
        &mut self,
        graph: &mut Graph,
        seats: &[usize],
        index: usize,
        node: &Node,
        shard: usize,
    ) -> Result<usize, EngineError> {
        let input = input_schema(node)?;
        if !self.exchanges.contains_key(&index) {
            let template = heap_template(node, input, variable_bytes(self.plan))?;
            self.exchanges.insert(index, Lanes::new(self.plan.shards, &template, are_rows_traced(self.plan, index)));
        }
        let operator = self.operator(index, node, shard, 1)?;
        let lanes = &self.exchanges[&index];
        let keys = key_indices(node, input);
        let sender = lanes.sender(shard, node.name.clone(), KeyHasher::new(keys), self.signals, node.inputs.len());
        let mut receiver = lanes.receiver(shard, self.signals);
        for from in (0..self.plan.shards).filter(|from| self.sends_nothing(node, *from)) {
            receiver.expect_nothing_from(from);
        }
        let sender = graph.add(Box::new(sender), index, false);
        connect_inputs(graph, seats, node, sender);
        let receiver = graph.add(Box::new(receiver), index, false);
        let seat = graph.add(operator, index, true);
        graph.connect(receiver, ROWS, seat, 0);
        Ok(seat)
    }

    /// A shard's inputs of a node have no row, ever, because no source above them reads anything there. (One that stands
    /// in a replay may have rows at other times, so it keeps its say in the watermark.)
    fn sends_nothing(&self, node: &Node, shard: usize) -> bool {
        node.inputs.iter().all(|stream| {
            let above = &self.plan.nodes[stream.node];
            stream.port == Port::Rows
                && match above.kind {
                    NodeKind::Source(_) if self.plan.is_replay() && letters_of(above).is_none() => false,
                    NodeKind::Source(_) => !self.reading.contains(&(stream.node, shard)),
                    // Rows come to it from all shards.
                    _ if key_of(above).is_some() => false,
                    _ => self.sends_nothing(above, shard),
                }
        })
    }

    fn operator(
        &mut self,
        index: usize,
        node: &Node,
        shard: usize,
        inputs: usize,
    ) -> Result<Box<dyn Operator>, EngineError> {
        Ok(match &node.kind {
            NodeKind::Source(source) => self.source(index, node, source, shard)?,
            NodeKind::Window(_) => window_node(self.plan, node, self.start.node_id(index), shard, inputs)?,
            NodeKind::Filter(filter) => {
                let input = input_schema(node)?;
                let bound = Expression::parse(&filter.expression).and_then(|expression| expression.bind(input));
                let predicate =
                    bound.map_err(|error| EngineError::Internal(format!("{}: {}", node.name, error.message)))?;
                let variable = variable_bytes(self.plan).max(WINDOW_VARIABLE_BYTES);
                let out = heap_batch(node, input, variable)?.tagged(are_rows_traced(self.plan, index));
                Box::new(FilterOperator::new(node.name.clone(), Selection::Where(predicate), out, inputs))
            }
            NodeKind::EventType(spec) => {
                let number = u16::try_from(spec.number)
                    .map_err(|_| EngineError::Internal(format!("{}: there are too many types", node.name)))?;
                let selection = Selection::EventType { number, columns: spec.columns().to_vec() };
                let out = heap_batch(node, &node.schema, variable_bytes(self.plan))?;
                let out = out.tagged(are_rows_traced(self.plan, index));
                Box::new(FilterOperator::new(node.name.clone(), selection, out, inputs))
            }
            NodeKind::Udf(udf) => {
                let Some((_, layouts)) = udf_layouts(node)? else {
                    return Err(EngineError::Internal("not a UDF".into()));
                };
                let replay_bytes = layouts.replay_bytes(udf);
                Box::new(UdfOperator::new(UdfParts {
                    name: node.name.clone(),
                    on_error: udf.on_error,
                    supervision: udf.supervision,
                    request: layouts.request,
                    response: layouts.response,
                    output: node.schema.clone(),
                    id: self.start.node_id(index),
                    keyed: keyed_state(self.plan, node, udf)?,
                    replay_bytes,
                    workers: self.links.remove(&(index, shard)).unwrap_or_default(),
                    inputs,
                    key: key_columns(self.plan, index),
                    tracing: are_rows_traced(self.plan, index)
                        .then(|| Tracing { places: self.places.clone(), waker: waker(&self.signals[shard]) }),
                })?)
            }
            NodeKind::Sink(_) => {
                let null = NullTarget::new(self.start.node_id(index), shard, self.plan.shards);
                let target = SinkTarget::Null(null.watched(self.plan.instruments.as_deref(), &node.name));
                Box::new(SinkOperator::new(node.name.clone(), target, inputs))
            }
        })
    }

    fn source(
        &mut self,
        index: usize,
        node: &Node,
        source: &SourceSpec,
        shard: usize,
    ) -> Result<Box<dyn Operator>, EngineError> {
        if self.plan.is_replay() && letters_of(node).is_none() {
            let records = self.start.partitions.get(&index).filter(|_| shard == 0).cloned().unwrap_or_default();
            return Ok(Box::new(StandingSource::new(index, records)));
        }
        let mut partitions = self.partitions.remove(&(index, shard)).unwrap_or_default();
        let are_traced = are_rows_traced(self.plan, index);
        if are_traced {
            partitions.iter_mut().for_each(|partition| partition.note_places(&self.places, &node.name));
        }
        let time = SourceTime {
            column: event_time_unit(&node.schema, source.event_time.as_deref()),
            out_of_orderness_ns: source.out_of_orderness_ns,
            idle_timeout_ns: source.idle_timeout_ns,
            max_future_ns: source.max_future_ns,
            is_needed: feeds_window(self.plan, index),
        };
        let batch = heap_batch(node, &node.schema, variable_bytes(self.plan))?.tagged(are_traced);
        // Letters that fail again are those of their source or step.
        let origin = letters_of(node).map_or(&node.name, |letters| &letters.origin);
        let dead =
            DeadLetterBatch::new(origin).map_err(|error| EngineError::Layout { node: node.name.clone(), error })?;
        let mut operator = SourceOperator::new(node.name.clone(), index, partitions, time, batch, dead);
        operator.set_processes(self.figures.remove(&(index, shard)).unwrap_or_default());
        operator.resume(self.start.partitions.get(&index).map_or(&[], Vec::as_slice));
        operator.set_checkpoints_kept(self.plan.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.keep));
        Ok(Box::new(operator))
    }
}

/// The columns by which a node's rows are brought to the shard of their key; `None`: they stay where they are.
fn key_of(node: &Node) -> Option<&[String]> {
    match &node.kind {
        NodeKind::Window(spec) => Some(&spec.key),
        NodeKind::Udf(udf) if !udf.description.state.is_empty() => Some(&udf.key),
        _ => None,
    }
}

fn key_indices(node: &Node, input: &Schema) -> Vec<usize> {
    key_of(node).unwrap_or_default().iter().filter_map(|key| input.index_of(key)).collect()
}

/// The empty table of a function's per-key state, if it keeps any.
fn keyed_state(plan: &Plan, node: &Node, udf: &UdfSpec) -> Result<Option<KeyedState>, EngineError> {
    let UdfDescription { state, outputs, .. } = &udf.description;
    if state.is_empty() {
        return Ok(None);
    }
    let input = input_schema(node)?;
    let mut keyed = KeyedState::new(&key_indices(node, input), input, state, outputs.len(), state_bytes_max(plan));
    if plan.checkpoint.is_some() {
        keyed.track_changes();
        keyed.allow_spilling();
    }
    Ok(Some(keyed))
}

/// What a function's state in a checkpoint has to look like to be taken back; empty: it has none.
pub fn udf_fingerprint(plan: &Plan, node: &Node, udf: &UdfSpec) -> String {
    let mut parts = Vec::new();
    if udf.description.snapshot {
        // Nobody but the class knows how to divide what one worker has learnt among others.
        parts.push(format!("snapshots of {} workers in each of {} shards", udf.workers, plan.shards));
    }
    if udf.description.state.is_empty() {
        return parts.concat();
    }
    let input = node.input_schema.as_deref();
    let key = udf.key.iter().map(|name| {
        let field = input.and_then(|input| Some(input.field(input.index_of(name)?)));
        field.map_or_else(String::new, |field| {
            format!("{name} {}{}", field.data_type, if field.nullable { "?" } else { "" })
        })
    });
    let state = udf.description.state.iter().map(|field| format!("{} {}", field.name, field.data_type));
    let (key, state) = (key.collect::<Vec<_>>().join(", "), state.collect::<Vec<_>>().join(", "));
    parts.push(format!("key {key}; state {state}"));
    parts.join("; ")
}

/// Bytes that the state of one node may take in one shard.
fn state_bytes_max(plan: &Plan) -> u64 {
    let nodes = plan.nodes.iter().filter(|node| key_of(node).is_some()).count().max(1);
    plan.state_bytes_max / (plan.shards * nodes) as u64
}

/// Where a partition goes on.
fn resume(record: &PartitionRecord) -> Resume<'_> {
    Resume { name: &record.name, position: &record.position, ended: record.ended }
}

/// Wakes a shard from any thread.
fn waker(signal: &Arc<ShardSignal>) -> Waker {
    let signal = signal.clone();
    Arc::new(move || signal.notify())
}

/// Name and kind of every node, for counting.
pub fn node_counts(plan: &Plan) -> Vec<NodeCounts> {
    let kind = |node: &Node| match node.kind {
        NodeKind::Source(_) => "source",
        NodeKind::Window(_) => "window",
        NodeKind::Udf(_) => "udf",
        NodeKind::EventType(_) => "event type",
        NodeKind::Filter(_) => "filter",
        NodeKind::Sink(_) => "sink",
    };
    plan.nodes
        .iter()
        .map(|node| NodeCounts { name: node.name.clone(), kind: kind(node), ..NodeCounts::default() })
        .collect()
}

/// What will be allocated, by name, in bytes, at the most.
pub fn memory_budget(plan: &Plan) -> Vec<(String, u64)> {
    let (mut budget, mut state) = (Vec::new(), false);
    let variable = variable_bytes(plan);
    let window_variable = variable.max(WINDOW_VARIABLE_BYTES);
    let bytes =
        |schema: &Arc<Schema>, variable| heap_capacity(schema, variable).map_or(0, |template| template.bytes() as u64);
    for node in &plan.nodes {
        let shards = plan.shards as u64;
        let (what, size) = match &node.kind {
            NodeKind::Source(source) => {
                if let SourceConnector::Python(source) = &source.connector {
                    let slot = feed_template(node, source).map_or(0, |template| {
                        let (request, response) = slot_bytes(&template);
                        request + response + template.bytes() / source.slots as usize
                    });
                    let bytes = u64::from(source.slots) * slot as u64;
                    budget.push((format!("{} rings, for each partition", node.name), bytes));
                }
                if let SourceConnector::Producer(source) = &source.connector {
                    let bytes = producer::memory_bytes(node, source);
                    budget.push((format!("{} rings, for each producer", node.name), bytes));
                }
                if let SourceConnector::File(file) = &source.connector {
                    let bytes = file.ahead_bytes();
                    let what = format!("{} blocks decoded ahead, for each long file", node.name);
                    budget.extend((bytes > 0).then_some((what, bytes)));
                }
                ("batches", shards * (bytes(&node.schema, variable) + DeadLetterBatch::bytes()))
            }
            NodeKind::EventType(_) => ("batches", shards * bytes(&node.schema, variable)),
            NodeKind::Filter(_) => ("batches", shards * bytes(&node.schema, window_variable)),
            NodeKind::Sink(SinkSpec::Null) => continue,
            NodeKind::Sink(SinkSpec::Retained(spec)) => {
                budget.push((
                    format!("{} retained results", spec.step),
                    RetainedStore::memory_bytes(!spec.roll_up.is_empty()),
                ));
                ("rows that wait", shards * room_bytes(plan, node))
            }
            NodeKind::Sink(sink) => {
                if let SinkSpec::Python(sink) = sink {
                    let slot = sink.outlet.template(&node.schema).map_or(0, |template| request_bytes(&template));
                    let bytes = u64::from(SINK_SLOTS) * (slot + FAILURE_BYTES) as u64;
                    budget.push((format!("{} ring", node.name), bytes));
                    // The one under way, and at most as much of what is read from the disk.
                    budget.push((format!("{} batches", node.name), 2 * slot as u64));
                }
                if let SinkSpec::File(sink) = sink {
                    let bytes = sink.memory_bytes();
                    budget.extend((bytes > 0).then(|| (format!("{} open files, at most", node.name), bytes)));
                }
                ("rows that wait", shards * room_bytes(plan, node))
            }
            NodeKind::Window(_) => {
                state = true;
                let input = node.input_schema.as_ref();
                let exchange = input.filter(|_| plan.shards > 1).and_then(|input| heap_capacity(input, variable).ok());
                let exchange = exchange.map_or(0, |template| Lanes::memory_bytes(plan.shards, &template));
                let late = input.map_or(0, |input| bytes(input, variable));
                ("batches", shards * (bytes(&node.schema, window_variable) + late) + exchange)
            }
            NodeKind::Udf(udf) => {
                let layouts = udf_layouts(node).ok().flatten();
                if key_of(node).is_some() {
                    state = true;
                    let input = node.input_schema.as_ref().filter(|_| plan.shards > 1);
                    let exchange = input.and_then(|input| heap_capacity(input, variable).ok());
                    let bytes = exchange.map_or(0, |template| Lanes::memory_bytes(plan.shards, &template));
                    budget.extend((bytes > 0).then(|| (format!("{} batches", node.name), bytes)));
                }
                let log = layouts.as_ref().and_then(|(_, layouts)| layouts.replay_bytes(udf));
                budget.extend(log.map(|bytes| {
                    (format!("{} replay logs, at most", node.name), shards * udf.workers as u64 * bytes as u64)
                }));
                let slot = layouts
                    .map_or(0, |(_, layouts)| layouts.request.bytes() + layouts.response.bytes().max(FAILURE_BYTES));
                (
                    "rings",
                    shards * udf.workers as u64 * u64::from(udf.slots) * slot as u64
                        + shards * DeadLetterBatch::bytes(),
                )
            }
        };
        budget.push((format!("{} {what}", node.name), size));
    }
    if state {
        let is_keyed = |node: &Node| matches!(node.kind, NodeKind::Udf(_)) && key_of(node).is_some();
        let what = if plan.nodes.iter().any(is_keyed) { "state" } else { "window state" };
        let more = if plan.checkpoint.is_some() { "; more spills to the disk" } else { "" };
        budget.push((format!("{what}, at most{more}"), plan.state_bytes_max));
    }
    budget
}

/// Bytes of memory that a sink's waiting rows take in one shard.
fn room_bytes(plan: &Plan, node: &Node) -> u64 {
    outputs::room(plan, node).map_or(0, |room| room.memory_bytes())
}

fn window_node(
    plan: &Plan,
    node: &Node,
    id: NodeId,
    shard: usize,
    inputs: usize,
) -> Result<Box<dyn Operator>, EngineError> {
    let (mut windows, time_column) = window_operator(plan, node)?;
    if plan.checkpoint.is_some() {
        windows.track_changes();
        windows.allow_spilling();
        windows.set_shard(shard, plan.shards);
    }
    let variable = variable_bytes(plan);
    let out = heap_batch(node, &node.schema, variable.max(WINDOW_VARIABLE_BYTES))?;
    let late = heap_batch(node, input_schema(node)?, variable)?;
    Ok(Box::new(WindowNode::new(node.name.clone(), id, windows, time_column, out, late, inputs)))
}

/// A window node's empty state, and the event-time column of its input.
fn window_operator(plan: &Plan, node: &Node) -> Result<(WindowOperator, Option<usize>), EngineError> {
    let NodeKind::Window(spec) = &node.kind else { return Err(EngineError::Internal("not a window".into())) };
    let input = input_schema(node)?;
    let column = plan.input_time(node).and_then(|column| event_time_unit(input, Some(&column)));
    let time = column.map_or(TimeColumn::Arrival, |(index, unit)| TimeColumn::Event { index, unit });
    let windows = WindowOperator::new(spec, input.clone(), time, state_bytes_max(plan));
    let windows = windows.map_err(|error| EngineError::Internal(format!("{}: {error}", node.name)))?;
    Ok((windows, column.map(|(index, _)| index)))
}

/// What a window's state in a checkpoint has to look like to be taken back.
pub fn window_fingerprint(plan: &Plan, node: &Node) -> Result<String, EngineError> {
    Ok(window_operator(plan, node)?.0.fingerprint())
}

fn input_schema(node: &Node) -> Result<&Arc<Schema>, EngineError> {
    node.input_schema.as_ref().ok_or_else(|| EngineError::Internal(format!("{} has no input", node.name)))
}

fn heap_capacity(schema: &Arc<Schema>, variable_bytes_max: u32) -> Result<Template, WireError> {
    Template::new(schema.clone(), Capacity { rows_max: BATCH_ROWS, variable_bytes_max })
}

fn heap_template(node: &Node, schema: &Arc<Schema>, variable: u32) -> Result<Arc<Template>, EngineError> {
    let template =
        heap_capacity(schema, variable).map_err(|error| EngineError::Layout { node: node.name.clone(), error })?;
    Ok(Arc::new(template))
}

fn heap_batch(node: &Node, schema: &Arc<Schema>, variable: u32) -> Result<HeapBatch, EngineError> {
    Ok(HeapBatch::new(heap_template(node, schema, variable)?))
}

fn connect_inputs(graph: &mut Graph, seats: &[usize], node: &Node, seat: usize) {
    for (input, stream) in node.inputs.iter().enumerate() {
        let port = match stream.port {
            Port::Rows => ROWS,
            Port::Late => LATE,
            Port::DeadLetters => DEAD_LETTERS,
        };
        graph.connect(seats[stream.node], port, seat, input);
    }
}

/// Some window gets its time from this node's rows.
fn feeds_window(plan: &Plan, index: usize) -> bool {
    consumers(plan, index)
        .any(|consumer| matches!(plan.nodes[consumer].kind, NodeKind::Window(_)) || feeds_window(plan, consumer))
}

/// The UDF step into whose slots a source can parse directly: its only reader, which reads nothing else and has room for
/// any record, with no window behind it (a window needs the source to cut batches where rows are late).
fn direct_consumer(plan: &Plan, index: usize, node: &Node) -> Option<usize> {
    let NodeKind::Source(source) = &node.kind else { return None };
    let mut readers = consumers(plan, index);
    let (reader, others) = (readers.next()?, readers.next());
    let NodeKind::Udf(udf) = &plan.nodes[reader].kind else { return None };
    let is_variable = node.schema.fields.iter().any(|field| field.data_type.is_variable());
    let fits = !is_variable || udf.variable_bytes as usize >= source.connector.record_bytes_max();
    let is_only = others.is_none() && plan.nodes[reader].inputs.len() == 1;
    // Per-key state has to be looked up for each row.
    let is_stateless = udf.description.state.is_empty();
    (fits && is_only && is_stateless && !feeds_window(plan, index)).then_some(reader)
}
