//! Graphs of several shards, driven by one thread that throws dice: which shard is next, who refuses, when barriers come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ringmill_connect::{Partition, Position, dead_letter_schema};
use ringmill_ring::monotonic_ns;
use ringmill_state::{EntryKey, NodeId, PartitionRecord, WHOLE_SHARD, shard_of};
use ringmill_wire::{Capacity, HeapBatch, Schema, Template, TimeUnit};

use super::parts::{Log, OUT_OF_ORDER_MS, TestPartition, TestSink, schema};
use crate::expression::Expression;
use crate::metrics::{NodeCounts, StageHistograms};
use crate::random::Random;
use crate::runtime::dead_letters::DeadLetterBatch;
use crate::runtime::exchange::Lanes;
use crate::runtime::filter::{FilterOperator, Selection};
use crate::runtime::graph::Graph;
use crate::runtime::operator::{DEAD_LETTERS, Operator, ROWS, ShardContext};
use crate::runtime::signal::ShardSignal;
use crate::runtime::sink::{NullTarget, SinkOperator, SinkTarget};
use crate::runtime::snapshot::{BarrierRequest, ShardSnapshot};
use crate::runtime::source::{SourceOperator, SourceTime};
use crate::runtime::window::WindowNode;
use crate::window::{KeyHasher, NamedAggregate, TimeColumn, WindowKind, WindowOperator, WindowSpec, output_schema};

/// A node and what it reads: producer's index and port.
pub struct NodeSpec {
    pub kind: Kind,
    pub inputs: &'static [(usize, usize)],
}

#[derive(Clone, Copy)]
pub enum Kind {
    /// Partitions, records of each, and how far back in time rows lie.
    Source {
        partitions: u64,
        records: u64,
        jitter_ms: i64,
    },
    Filter(&'static str),
    Window,
    /// Takes rows of this kind of stream.
    Sink(usize),
    Null,
}

/// A graph, and how many shards run it.
pub struct Topology {
    pub nodes: &'static [NodeSpec],
    pub shards: usize,
    pub windows: WindowKind,
}

pub type Store = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a barrier has left behind in all shards.
#[derive(Clone, Default)]
pub struct Checkpoint {
    pub epoch: u64,
    /// Each shard's entries.
    pub stores: Vec<Store>,
    pub partitions: Vec<(usize, PartitionRecord)>,
    pub counts: HashMap<usize, NodeCounts>,
}

/// How a run is disturbed.
#[derive(Clone)]
pub struct Schedule {
    pub random: Random,
    /// Sinks refuse one time in so many; 0: never.
    pub refuses: u64,
    /// A barrier is asked for in one round out of so many; 0: there are no checkpoints.
    pub barriers: u64,
    /// Sources are told to read nothing more in this round.
    pub drains_at: u64,
}

/// What a run has come to.
pub struct Outcome {
    /// By node.
    pub logs: HashMap<usize, Vec<(u64, String)>>,
    pub checkpoints: Vec<Checkpoint>,
    /// Of the null sinks, over all shards.
    pub checksums: HashMap<usize, u64>,
}

const ROUNDS_MAX: u64 = 200_000;

fn batch(schema: &Arc<Schema>) -> HeapBatch {
    let capacity = Capacity { rows_max: 64, variable_bytes_max: 1 << 14 };
    HeapBatch::new(Arc::new(Template::new(schema.clone(), capacity).unwrap()))
}

fn window_spec(window: WindowKind) -> WindowSpec {
    let aggregate = |name: &str, text: &str| NamedAggregate { name: name.into(), expression: text.into() };
    WindowSpec {
        key: vec!["k".into()],
        window,
        allowed_lateness_ns: 0,
        aggregates: vec![aggregate("n", "count()"), aggregate("sum", "sum(x)"), aggregate("newest", "max(t)")],
        statistics: None,
    }
}

struct Builder<'a> {
    topology: &'a Topology,
    schedule: &'a Schedule,
    start: &'a Checkpoint,
    lanes: HashMap<usize, Lanes>,
    signals: &'a [Arc<ShardSignal>],
    logs: HashMap<usize, Log>,
}

impl Builder<'_> {
    fn graph(&mut self, shard: usize) -> Graph {
        let mut graph = Graph::default();
        let mut seats: Vec<usize> = Vec::new();
        for (index, node) in self.topology.nodes.iter().enumerate() {
            let connect = |graph: &mut Graph, seat: usize| {
                for (input, (from, port)) in node.inputs.iter().enumerate() {
                    graph.connect(seats[*from], *port, seat, input);
                }
            };
            let seat = if matches!(node.kind, Kind::Window) && self.topology.shards > 1 {
                let template = batch(&schema()).template().clone();
                let shards = self.topology.shards;
                let lanes = self.lanes.entry(index).or_insert_with(|| Lanes::new(shards, &template, false));
                let hasher = KeyHasher::new(vec![1]);
                let sender = lanes.sender(shard, "window".into(), hasher, self.signals, node.inputs.len());
                let receiver = lanes.receiver(shard, self.signals);
                let sender = graph.add(Box::new(sender), index, false);
                connect(&mut graph, sender);
                let receiver = graph.add(Box::new(receiver), index, false);
                let seat = graph.add(self.operator(index, 1, shard), index, true);
                graph.connect(receiver, ROWS, seat, 0);
                seat
            } else {
                let seat = graph.add(self.operator(index, node.inputs.len(), shard), index, true);
                connect(&mut graph, seat);
                seat
            };
            seats.push(seat);
        }
        self.restore(&mut graph, shard);
        graph
    }

    fn restore(&self, graph: &mut Graph, shard: usize) {
        if self.schedule.barriers == 0 {
            return;
        }
        let (stores, shards) = (&self.start.stores, self.topology.shards);
        for (from, (key, value)) in
            stores.iter().enumerate().flat_map(|(from, store)| store.iter().map(move |entry| (from, entry)))
        {
            let entry = EntryKey::parse(key).unwrap();
            let is_ours = match entry.group {
                _ if stores.len() == shards => from == shard,
                WHOLE_SHARD => true,
                group => shard_of(group, shards) == shard,
            };
            if is_ours {
                assert!(graph.restore(|index| index as NodeId, &entry, value).unwrap());
            }
        }
        graph.restored(self.start.epoch).unwrap();
    }

    fn operator(&mut self, index: usize, inputs: usize, shard: usize) -> Box<dyn Operator> {
        let shards = self.topology.shards;
        match self.topology.nodes[index].kind {
            Kind::Source { partitions, records, jitter_ms } => {
                let numbers = (0..partitions).filter(|number| *number as usize % shards == shard);
                let opened = numbers.map(|number| self.partition(index, number, records, jitter_ms)).collect();
                let time = SourceTime {
                    column: Some((0, TimeUnit::Millisecond)),
                    out_of_orderness_ns: OUT_OF_ORDER_MS * 1_000_000,
                    idle_timeout_ns: None,
                    max_future_ns: i64::MAX,
                    is_needed: true,
                };
                let dead = DeadLetterBatch::new("source").unwrap();
                let mut source = SourceOperator::new("source".into(), index, opened, time, batch(&schema()), dead);
                let records: Vec<_> = self.start.partitions.iter().filter(|(node, _)| *node == index).collect();
                source.resume(&records.into_iter().map(|(_, record)| record.clone()).collect::<Vec<_>>());
                Box::new(source)
            }
            Kind::Filter(text) => {
                let predicate = Expression::parse(text).and_then(|parsed| parsed.bind(&schema())).unwrap();
                Box::new(FilterOperator::new("filter".into(), Selection::Where(predicate), batch(&schema()), inputs))
            }
            Kind::Window => Box::new(self.window(index, inputs, shard)),
            Kind::Sink(port) => {
                let schema = match port {
                    DEAD_LETTERS => dead_letter_schema(),
                    ROWS if self.reads_window(index) => {
                        batch_of_results(self.topology.windows).template().schema().clone()
                    }
                    _ => schema(),
                };
                let log = self.logs.entry(index).or_default();
                let mut random = self.schedule.random.clone();
                random.0 ^= (index << 8 | shard) as u64;
                Box::new(TestSink::new(&schema, log, inputs, random, self.schedule.refuses))
            }
            Kind::Null => {
                let target = SinkTarget::Null(NullTarget::new(index as NodeId, shard, shards));
                Box::new(SinkOperator::new("null".into(), target, inputs))
            }
        }
    }

    fn window(&self, index: usize, inputs: usize, shard: usize) -> WindowNode {
        let time = TimeColumn::Event { index: 0, unit: TimeUnit::Millisecond };
        let spec = window_spec(self.topology.windows);
        let mut windows = WindowOperator::new(&spec, schema(), time, 1 << 30).unwrap();
        if self.schedule.barriers > 0 {
            windows.track_changes();
            windows.set_shard(shard, self.topology.shards);
        }
        let (out, late) = (batch_of_results(self.topology.windows), batch(&schema()));
        WindowNode::new("window".into(), index as NodeId, windows, Some(0), out, late, inputs)
    }

    fn reads_window(&self, index: usize) -> bool {
        let nodes = self.topology.nodes;
        nodes[index].inputs.iter().any(|(from, _)| matches!(nodes[*from].kind, Kind::Window))
    }

    fn partition(&self, index: usize, number: u64, records: u64, jitter_ms: i64) -> Box<dyn Partition> {
        let name = format!("{index}/{number}");
        let mut random = self.schedule.random.clone();
        let number = (index as u64) << 8 | number;
        random.0 ^= number << 20;
        let next = self.start.position(index, &name);
        Box::new(TestPartition { name, number, next, records, jitter_ms, random })
    }
}

fn batch_of_results(window: WindowKind) -> HeapBatch {
    let results = output_schema(&window_spec(window), &schema(), Some(TimeUnit::Millisecond));
    batch(&Arc::new(results.unwrap()))
}

impl Checkpoint {
    /// Where a partition stands.
    pub fn position(&self, node: usize, name: &str) -> u64 {
        let record = self.partitions.iter().find(|(of, record)| *of == node && record.name == name);
        record.map_or(0, |(_, record)| serde_json::from_value::<Position>(record.position.clone()).unwrap().offset)
    }

    /// What a shard's store holds at the start.
    fn share(&self, shard: usize, shards: usize) -> Store {
        if self.stores.len() == shards {
            return self.stores[shard].clone();
        }
        let is_ours = |key: &[u8]| {
            let group = EntryKey::parse(key).unwrap().group;
            group != WHOLE_SHARD && shard_of(group, shards) == shard
        };
        let entries = self.stores.iter().flatten().filter(|(key, _)| is_ours(key));
        entries.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Adds what one shard has handed over to its store and to this.
    pub fn add(&mut self, store: &mut Store, snapshot: &mut ShardSnapshot) {
        let delta = &snapshot.delta;
        for window in delta.windows() {
            store.retain(|key, _| {
                let entry = EntryKey::parse(key).unwrap();
                (entry.node, entry.section, entry.window) != *window
            });
        }
        delta.deletes().for_each(|key| drop(store.remove(key)));
        store.extend(delta.puts().map(|(key, value)| (key.to_vec(), value.to_vec())));
        self.stores.push(store.clone());
        self.partitions.append(&mut snapshot.partitions);
        for (node, counts) in snapshot.counts.drain(..) {
            let sum = self.counts.entry(node).or_default();
            sum.rows_in += counts.rows_in;
            sum.rows_out += counts.rows_out;
            sum.late += counts.late;
            sum.dead_letters += counts.dead_letters;
            sum.absorbed += counts.absorbed;
        }
        snapshot.clear();
    }
}

/// All shards' graphs that go on from `start`, and what their sinks will have got.
pub fn build(
    topology: &Topology,
    schedule: &Schedule,
    start: &Checkpoint,
    signals: &[Arc<ShardSignal>],
) -> (Vec<Graph>, HashMap<usize, Log>) {
    let mut builder = Builder { topology, schedule, start, lanes: HashMap::new(), signals, logs: HashMap::new() };
    let graphs = (0..topology.shards).map(|shard| builder.graph(shard)).collect();
    (graphs, builder.logs)
}

/// A signal for each shard.
pub fn signals(shards: usize) -> Vec<Arc<ShardSignal>> {
    (0..shards).map(|_| Arc::new(ShardSignal::new().unwrap())).collect()
}

/// Runs to the end, from `start` on.
pub fn run(topology: &Topology, schedule: &Schedule, start: &Checkpoint) -> Result<Outcome, String> {
    let (graphs, logs) = build(topology, schedule, start, &signals(topology.shards));
    // Each shard's state by itself, as in its store.
    let stores = (0..topology.shards).map(|shard| start.share(shard, topology.shards)).collect();
    let request = BarrierRequest { epoch: start.epoch, is_final: false };
    let mut world = World {
        snapshots: graphs.iter().map(|_| ShardSnapshot::default()).collect(),
        graphs,
        stores,
        histograms: StageHistograms::default(),
        schedule: schedule.clone(),
        request,
        written: start.epoch,
        round: 0,
        checkpoints: Vec::new(),
    };
    world.run()?;
    let mut checksums = HashMap::new();
    for graph in &world.graphs {
        let mut counts = crate::metrics::ShardCounts::default();
        counts.nodes.resize_with(topology.nodes.len(), NodeCounts::default);
        graph.counts(&mut counts, 0);
        for (node, counts) in counts.nodes.iter().enumerate() {
            if let Some(sum) = counts.checksum {
                let total = checksums.entry(node).or_insert(0_u64);
                *total = total.wrapping_add(sum);
            }
        }
    }
    Ok(Outcome { logs: take(logs), checkpoints: world.checkpoints, checksums })
}

/// What is in the logs.
pub fn take(logs: HashMap<usize, Log>) -> HashMap<usize, Vec<(u64, String)>> {
    logs.into_iter().map(|(node, log)| (node, std::mem::take(&mut *log.lock().unwrap()))).collect()
}

struct World {
    graphs: Vec<Graph>,
    snapshots: Vec<ShardSnapshot>,
    stores: Vec<Store>,
    histograms: StageHistograms,
    schedule: Schedule,
    request: BarrierRequest,
    /// The last checkpoint.
    written: u64,
    round: u64,
    checkpoints: Vec<Checkpoint>,
}

impl World {
    fn run(&mut self) -> Result<(), String> {
        while !self.graphs.iter().all(Graph::is_finished) {
            self.round += 1;
            if self.round > ROUNDS_MAX {
                return Err(format!("stuck with barrier {:?} after checkpoint {}", self.request, self.written));
            }
            let shard = self.schedule.random.below(self.graphs.len() as u64) as usize;
            self.step(shard)?;
            self.steer();
        }
        Ok(())
    }

    fn is_draining(&self) -> bool {
        self.round >= self.schedule.drains_at
    }

    fn step(&mut self, shard: usize) -> Result<(), String> {
        let draining = self.is_draining();
        let mut context = ShardContext {
            histograms: &mut self.histograms,
            now_ns: monotonic_ns(),
            wake_ns: &mut 0,
            draining,
            has_checkpoints: self.schedule.barriers > 0,
            barrier: self.request,
            shipped_epoch: 0,
            snapshot: &mut self.snapshots[shard],
        };
        self.graphs[shard].step(&mut context).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// What the checkpoint thread does.
    fn steer(&mut self) {
        if self.schedule.barriers == 0 {
            return;
        }
        if self.request.epoch > self.written {
            if self.graphs.iter().all(|graph| graph.epoch_passed() == self.request.epoch) {
                self.write();
            }
        } else if !self.request.is_final && self.schedule.random.one_in(self.schedule.barriers) {
            let is_over = self.is_draining() || self.graphs.iter().all(Graph::is_exhausted);
            self.request = BarrierRequest { epoch: self.written + 1, is_final: is_over };
        }
    }

    fn write(&mut self) {
        self.written = self.request.epoch;
        let mut checkpoint = Checkpoint { epoch: self.written, ..Checkpoint::default() };
        for (store, snapshot) in self.stores.iter_mut().zip(&mut self.snapshots) {
            checkpoint.add(store, snapshot);
        }
        self.checkpoints.push(checkpoint);
    }
}
