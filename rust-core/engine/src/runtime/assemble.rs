//! Builds each shard's graph from the plan, and says beforehand how much memory that takes.

use std::collections::HashMap;
use std::sync::Arc;

use ringmill_connect::{Checksum, FileWriter, Partition, StdoutWriter, Waker, Writer, encoder};
use ringmill_wire::{Capacity, HeapBatch, Schema, Template, WireError};

use super::dead_letters::DeadLetterBatch;
use super::exchange::Lanes;
use super::filter::FilterOperator;
use super::graph::Graph;
use super::operator::{DEAD_LETTERS, LATE, Operator, ROWS};
use super::signal::ShardSignal;
use super::sink::{SinkOperator, SinkTarget, WriterLane, WriterThread, chunk_memory_bytes, start_writer};
use super::source::{SourceOperator, SourceTime};
use super::udf::{UdfOperator, UdfParts, WorkerLink};
use super::window::WindowNode;
use super::workers::{FAILURE_BYTES, udf_layouts};
use crate::error::EngineError;
use crate::expression::Expression;
use crate::metrics::{Control, NodeCounts};
use crate::plan::{Node, NodeKind, Plan, Port, SinkSpec, SourceConnector, SourceSpec, event_time_unit};
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
        NodeKind::Source(SourceSpec { connector: SourceConnector::File(file), .. }) => file.record_bytes_max,
        NodeKind::Source(SourceSpec { connector: SourceConnector::Stdin(stdin), .. }) => stdin.record_bytes_max,
        _ => 0,
    });
    u32::try_from(longest.max().unwrap_or(0) + SPARE_BYTES).unwrap_or(u32::MAX)
}

/// Everything the shards are made of.
pub struct Assembly<'a> {
    plan: &'a Plan,
    signals: &'a [Arc<ShardSignal>],
    partitions: HashMap<(usize, usize), Vec<Box<dyn Partition>>>,
    lanes: HashMap<usize, Vec<WriterLane>>,
    exchanges: HashMap<usize, Lanes>,
    links: HashMap<(usize, usize), Vec<WorkerLink>>,
    /// The sinks' threads.
    pub threads: Vec<WriterThread>,
}

impl<'a> Assembly<'a> {
    /// Opens the sources; nothing has been written yet.
    pub fn open_sources(plan: &'a Plan, signals: &'a [Arc<ShardSignal>]) -> Result<Self, EngineError> {
        let wakers: Vec<Waker> = signals.iter().map(waker).collect();
        let mut partitions: HashMap<(usize, usize), Vec<Box<dyn Partition>>> = HashMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let NodeKind::Source(source) = &node.kind else { continue };
            let opened = match &source.connector {
                SourceConnector::Generator(spec) => spec.open(plan.shards, &wakers),
                SourceConnector::File(spec) => spec.open(plan.shards, &wakers),
                SourceConnector::Stdin(spec) => spec.open(plan.shards, &wakers),
            };
            let opened = opened.map_err(|error| EngineError::Connect { node: node.name.clone(), error })?;
            for (shard, partition) in opened {
                partitions.entry((index, shard)).or_default().push(partition);
            }
        }
        let (lanes, exchanges, links) = Default::default();
        Ok(Self { plan, signals, partitions, lanes, exchanges, links, threads: Vec::new() })
    }

    /// Opens the sinks and starts their threads; files are created here.
    pub fn open_sinks(&mut self, control: &Arc<Control>) -> Result<(), EngineError> {
        for (index, node) in self.plan.nodes.iter().enumerate() {
            let NodeKind::Sink(sink) = &node.kind else { continue };
            let failed = |error| EngineError::Connect { node: node.name.clone(), error };
            let (writer, format): (Box<dyn Writer>, _) = match sink {
                SinkSpec::Null => continue,
                SinkSpec::File { path, format } => (Box::new(FileWriter::create(path).map_err(failed)?), *format),
                SinkSpec::Stdout { format } => (Box::new(StdoutWriter), *format),
            };
            let mut header = Vec::new();
            encoder(format, &node.schema).map_err(failed)?.begin(&node.schema, &mut header);
            let (thread, lanes) = start_writer(&node.name, writer, header, self.signals, control)?;
            self.threads.push(thread);
            self.lanes.insert(index, lanes);
        }
        Ok(())
    }

    /// Takes the workers over.
    pub fn set_workers(&mut self, links: HashMap<(usize, usize), Vec<WorkerLink>>) {
        self.links = links;
    }

    /// The graph of one shard; to be called for shard 0, 1, … in order.
    pub fn graph(&mut self, shard: usize) -> Result<Graph, EngineError> {
        let mut graph = Graph::default();
        let mut seats: Vec<usize> = Vec::with_capacity(self.plan.nodes.len());
        for (index, node) in self.plan.nodes.iter().enumerate() {
            let seat = match &node.kind {
                NodeKind::Window(_) if self.plan.shards > 1 => {
                    self.add_exchanged_window(&mut graph, &seats, index, node, shard)?
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
        Ok(graph)
    }

    fn add_exchanged_window(
        &mut self,
        graph: &mut Graph,
        seats: &[usize],
        index: usize,
        node: &Node,
        shard: usize,
    ) -> Result<usize, EngineError> {
        let NodeKind::Window(spec) = &node.kind else { return Err(EngineError::Internal("not a window".into())) };
        let input = input_schema(node)?;
        if !self.exchanges.contains_key(&index) {
            let template = heap_template(node, input, variable_bytes(self.plan))?;
            self.exchanges.insert(index, Lanes::new(self.plan.shards, &template));
        }
        let window = self.operator(index, node, shard, 1)?;
        let lanes = &self.exchanges[&index];
        let keys: Vec<usize> = spec.key.iter().filter_map(|key| input.index_of(key)).collect();
        let sender = lanes.sender(shard, node.name.clone(), KeyHasher::new(keys), self.signals, node.inputs.len());
        let receiver = lanes.receiver(shard, self.signals);
        let sender = graph.add(Box::new(sender), index, false);
        connect_inputs(graph, seats, node, sender);
        let receiver = graph.add(Box::new(receiver), index, false);
        let seat = graph.add(window, index, true);
        graph.connect(receiver, ROWS, seat, 0);
        Ok(seat)
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
            NodeKind::Window(_) => window_node(self.plan, node, inputs)?,
            NodeKind::Filter(filter) => {
                let input = input_schema(node)?;
                let bound = Expression::parse(&filter.expression).and_then(|expression| expression.bind(input));
                let predicate =
                    bound.map_err(|error| EngineError::Internal(format!("{}: {}", node.name, error.message)))?;
                let variable = variable_bytes(self.plan).max(WINDOW_VARIABLE_BYTES);
                Box::new(FilterOperator::new(node.name.clone(), predicate, heap_batch(node, input, variable)?, inputs))
            }
            NodeKind::Udf(udf) => {
                let Some((_, layouts)) = udf_layouts(node)? else {
                    return Err(EngineError::Internal("not a UDF".into()));
                };
                Box::new(UdfOperator::new(UdfParts {
                    name: node.name.clone(),
                    on_error: udf.on_error,
                    request: layouts.request,
                    response: layouts.response,
                    output: node.schema.clone(),
                    workers: self.links.remove(&(index, shard)).unwrap_or_default(),
                    inputs,
                })?)
            }
            NodeKind::Sink(sink) => {
                let target = match (sink, self.lanes.get_mut(&index)) {
                    (SinkSpec::File { format, .. } | SinkSpec::Stdout { format }, Some(lanes)) => {
                        let encoder = encoder(*format, &node.schema);
                        let encoder =
                            encoder.map_err(|error| EngineError::Connect { node: node.name.clone(), error })?;
                        SinkTarget::Writer { encoder, lane: lanes.remove(0) }
                    }
                    _ => SinkTarget::Null(Checksum::default()),
                };
                Box::new(SinkOperator::new(target, inputs))
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
        let partitions = self.partitions.remove(&(index, shard)).unwrap_or_default();
        let time = SourceTime {
            column: event_time_unit(&node.schema, source.event_time.as_deref()),
            out_of_orderness_ns: source.out_of_orderness_ns,
            idle_timeout_ns: source.idle_timeout_ns,
            max_future_ns: source.max_future_ns,
            is_needed: feeds_window(self.plan, index),
        };
        let batch = heap_batch(node, &node.schema, variable_bytes(self.plan))?;
        let dead =
            DeadLetterBatch::new(&node.name).map_err(|error| EngineError::Layout { node: node.name.clone(), error })?;
        Ok(Box::new(SourceOperator::new(node.name.clone(), partitions, time, batch, dead)))
    }
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
        NodeKind::Filter(_) => "filter",
        NodeKind::Sink(_) => "sink",
    };
    plan.nodes
        .iter()
        .map(|node| NodeCounts { name: node.name.clone(), kind: kind(node), ..NodeCounts::default() })
        .collect()
}

/// What will be allocated, by name, in bytes; window state is a limit, everything else is taken at the start.
pub fn memory_budget(plan: &Plan) -> Vec<(String, u64)> {
    let (mut budget, mut state) = (Vec::new(), false);
    let variable = variable_bytes(plan);
    let window_variable = variable.max(WINDOW_VARIABLE_BYTES);
    let bytes =
        |schema: &Arc<Schema>, variable| heap_capacity(schema, variable).map_or(0, |template| template.bytes() as u64);
    for node in &plan.nodes {
        let shards = plan.shards as u64;
        let (what, size) = match &node.kind {
            NodeKind::Source(_) => ("batches", shards * (bytes(&node.schema, variable) + DeadLetterBatch::bytes())),
            NodeKind::Filter(_) => ("batches", shards * bytes(&node.schema, window_variable)),
            NodeKind::Sink(SinkSpec::Null) => continue,
            NodeKind::Sink(_) => ("chunks", shards * chunk_memory_bytes()),
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
        budget.push(("window state, at most".into(), plan.state_bytes_max));
    }
    budget
}

fn window_node(plan: &Plan, node: &Node, inputs: usize) -> Result<Box<dyn Operator>, EngineError> {
    let NodeKind::Window(spec) = &node.kind else { return Err(EngineError::Internal("not a window".into())) };
    let input = input_schema(node)?;
    let column = input_time(plan, node).and_then(|column| event_time_unit(input, Some(column)));
    let time = column.map_or(TimeColumn::Arrival, |(index, unit)| TimeColumn::Event { index, unit });
    let windows = plan.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Window(_))).count().max(1);
    let state_bytes_max = plan.state_bytes_max / (plan.shards * windows) as u64;
    let windows = WindowOperator::new(spec, input.clone(), time, state_bytes_max);
    let windows = windows.map_err(|error| EngineError::Internal(format!("{}: {error}", node.name)))?;
    let variable = variable_bytes(plan);
    let out = heap_batch(node, &node.schema, variable.max(WINDOW_VARIABLE_BYTES))?;
    let late = heap_batch(node, input, variable)?;
    Ok(Box::new(WindowNode::new(node.name.clone(), windows, column.map(|(index, _)| index), out, late, inputs)))
}

/// The event-time column of a node's inputs.
fn input_time<'a>(plan: &'a Plan, node: &Node) -> Option<&'a str> {
    let mut times = node.inputs.iter().map(|input| match input.port {
        Port::Rows => plan.nodes[input.node].event_time.as_deref(),
        Port::Late | Port::DeadLetters => None,
    });
    let first = times.next()??;
    times.all(|time| time == Some(first)).then_some(first)
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

fn consumers(plan: &Plan, index: usize) -> impl Iterator<Item = usize> {
    let reads = move |node: &Node| node.inputs.iter().any(|input| input.node == index && input.port == Port::Rows);
    (0..plan.nodes.len()).filter(move |consumer| reads(&plan.nodes[*consumer]))
}

/// The UDF step into whose slots a source can parse directly: its only reader, which reads nothing else and has room for
/// any record, with no window behind it (a window needs the source to cut batches where rows are late).
fn direct_consumer(plan: &Plan, index: usize, node: &Node) -> Option<usize> {
    let NodeKind::Source(source) = &node.kind else { return None };
    let mut readers = consumers(plan, index);
    let (reader, others) = (readers.next()?, readers.next());
    let NodeKind::Udf(udf) = &plan.nodes[reader].kind else { return None };
    let record_bytes_max = match &source.connector {
        SourceConnector::Generator(_) => 0,
        SourceConnector::File(file) => file.record_bytes_max,
        SourceConnector::Stdin(stdin) => stdin.record_bytes_max,
    };
    let is_variable = node.schema.fields.iter().any(|field| field.data_type.is_variable());
    let fits = !is_variable || udf.variable_bytes as usize >= record_bytes_max;
    let is_only = others.is_none() && plan.nodes[reader].inputs.len() == 1;
    (fits && is_only && !feeds_window(plan, index)).then_some(reader)
}
