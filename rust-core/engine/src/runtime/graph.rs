//! The nodes of one shard and the passing of rows between them.
//!
//! Nodes stand in topological order and are served from the sinks back to the sources, so that what is finished leaves
//! before anything new enters.

use ringmill_state::{EntryKey, NodeId};

use super::farewell::Farewell;
use super::operator::{Delivery, Mark, Operator, PORTS, ShardContext};
use super::store_port::StorePort;
use crate::error::EngineError;
use crate::metrics::{NodeCounts, ShardCounts};
use crate::window::SpillFigures;

/// From one node's port to another node's input.
struct Edge {
    to: usize,
    input: usize,
    taken: usize,
    /// The mark it was given last since the offer began.
    marked: Option<Mark>,
}

/// A node, its outgoing edges, and its share in holding others up.
struct Seat {
    operator: Box<dyn Operator>,
    /// Index of the node in the plan; exchanges belong to the window they feed.
    plan_node: usize,
    is_plan_node: bool,
    /// The last epoch whose barrier has passed it.
    epoch: u64,
    edges: [Vec<Edge>; PORTS],
    /// Some edge of this node waits for room.
    blocked: bool,
    /// Since when it has refused rows; 0: it does not.
    refusing_since_ns: u64,
    held_up_ns: u64,
    /// Index of the consumer that lends this node room to write into.
    direct: Option<usize>,
}

/// One shard's nodes.
#[derive(Default)]
pub struct Graph {
    seats: Vec<Seat>,
    /// Nodes that know where the run goes on.
    restored: usize,
}

impl Graph {
    /// Adds a node after all its producers; returns its index.
    pub fn add(&mut self, operator: Box<dyn Operator>, plan_node: usize, is_plan_node: bool) -> usize {
        self.seats.push(Seat {
            operator,
            plan_node,
            is_plan_node,
            epoch: 0,
            edges: Default::default(),
            blocked: false,
            refusing_since_ns: 0,
            held_up_ns: 0,
            direct: None,
        });
        self.seats.len() - 1
    }

    /// Joins a port to the input of a later node.
    pub fn connect(&mut self, from: usize, port: usize, to: usize, input: usize) {
        assert!(from < to, "edges go forward");
        self.seats[from].edges[port].push(Edge { to, input, taken: 0, marked: None });
    }

    /// Lets `from` write its results straight into room lent by `to`.
    pub fn set_direct(&mut self, from: usize, to: usize) {
        self.seats[from].direct = Some(to);
    }

    /// One round; says whether anything moved.
    pub fn step(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut moved = false;
        for index in (0..self.seats.len()).rev() {
            let (seats, later) = self.seats.split_at_mut(index + 1);
            let seat = &mut seats[index];
            moved |= match seat.direct {
                Some(to) => seat.operator.advance_into(later[to - index - 1].operator.as_mut(), context)?,
                None => seat.operator.advance(context)?,
            };
            seat.blocked = false;
            for port in 0..PORTS {
                moved |= deliver(seat, port, later, index, context)?;
            }
            if context.barrier.epoch > seat.epoch {
                seat.note_epoch(context);
            }
        }
        Ok(moved)
    }

    /// Every node has passed on everything.
    pub fn is_finished(&self) -> bool {
        self.seats.iter().all(|seat| seat.operator.is_finished())
    }

    /// The last epoch whose barrier has passed every node.
    pub fn epoch_passed(&self) -> u64 {
        self.seats.iter().map(|seat| seat.epoch).min().unwrap_or(0)
    }

    /// Some node's state at the last barrier is not in the snapshot yet.
    pub fn owes_snapshot(&self) -> bool {
        self.seats.iter().any(|seat| seat.operator.owes_snapshot())
    }

    /// No source has anything more to read.
    pub fn is_exhausted(&self) -> bool {
        self.seats.iter().all(|seat| seat.operator.is_exhausted())
    }

    /// Gives one entry of its state back to the node whose number in the stores `node_id` gives for its index in the
    /// plan; `false`: there is no such node.
    pub fn restore(
        &mut self,
        node_id: impl Fn(usize) -> NodeId,
        entry: &EntryKey<'_>,
        value: &[u8],
    ) -> Result<bool, EngineError> {
        let owns = |seat: &&mut Seat| seat.is_plan_node && node_id(seat.plan_node) == entry.node;
        match self.seats.iter_mut().find(owns) {
            Some(seat) => seat.operator.restore(entry, value).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives every node a way to the shard's store.
    pub fn set_store(&mut self, port: impl Fn() -> StorePort) {
        self.seats.iter_mut().for_each(|seat| seat.operator.set_store(port()));
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.seats.len()
    }

    /// All state was given back; the graph goes on after `epoch` (0: at the beginning). To be called again for nodes that
    /// are added later.
    pub fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        for seat in &mut self.seats[self.restored..] {
            seat.epoch = epoch;
            seat.operator.restored(epoch)?;
        }
        self.restored = self.seats.len();
        Ok(())
    }

    /// Every node could begin. Whatever is missing will ring the shard's doorbell.
    pub fn is_ready(&mut self) -> Result<bool, EngineError> {
        let mut is_ready = true;
        for seat in &mut self.seats {
            is_ready &= seat.operator.is_ready()?;
        }
        Ok(is_ready)
    }

    /// Tells all nodes that the shard is going to sleep; `false`: there is news.
    pub fn arm_sleep(&mut self) -> bool {
        self.seats.iter_mut().all(|seat| seat.operator.arm_sleep())
    }

    /// The shard is awake again.
    pub fn disarm_sleep(&mut self) {
        self.seats.iter_mut().for_each(|seat| seat.operator.disarm_sleep());
    }

    /// Partitions that are to be told when the last checkpoint is complete.
    pub fn farewells(&mut self) -> Vec<Farewell> {
        self.seats.iter_mut().flat_map(|seat| seat.operator.farewells()).collect()
    }

    /// Writes the nodes' figures into `counts`, whose nodes have the plan's length.
    pub fn counts(&self, counts: &mut ShardCounts, now_ns: u64) {
        let mut workers = 0;
        (counts.state_bytes, counts.spilled) = (0, SpillFigures::default());
        for seat in &self.seats {
            let node = &mut counts.nodes[seat.plan_node];
            if seat.is_plan_node {
                // Whoever reads the figures may add to them; what a node does not count stays zero.
                (node.rows_in, node.rows_out, node.late, node.dead_letters, node.absorbed) = (0, 0, 0, 0, 0);
                seat.operator.counts(node);
                seat.operator.lags(&mut node.lags);
                let open = if seat.refusing_since_ns == 0 { 0 } else { now_ns.saturating_sub(seat.refusing_since_ns) };
                node.held_up_ns = seat.held_up_ns + open;
            }
            workers = seat.operator.workers(&mut counts.workers, workers);
            counts.state_bytes += seat.operator.state_bytes();
            counts.spilled += seat.operator.spilled();
        }
    }
}

fn deliver(
    seat: &mut Seat,
    port: usize,
    later: &mut [Seat],
    index: usize,
    context: &mut ShardContext<'_>,
) -> Result<bool, EngineError> {
    let Some(offer) = seat.operator.offer(port) else { return Ok(false) };
    let rows = offer.rows.map_or(0, |rows| rows.view.rows() - rows.first);
    let (mut moved, mut done) = (false, true);
    for edge in &mut seat.edges[port] {
        let consumer = &mut later[edge.to - index - 1];
        if let Some(offered) = offer.rows
            && edge.taken < rows
        {
            let first = offered.first + edge.taken;
            let delivery = Delivery { view: offered.view, first, ingest_ns: offered.ingest_ns };
            let taken = consumer.operator.accept(edge.input, delivery, context)?;
            edge.taken += taken;
            moved |= taken > 0;
            let refused = edge.taken < rows && !consumer.operator.is_aligning();
            consumer.note_refusal(refused, context.now_ns);
        }
        if edge.taken < rows {
            done = false;
        } else if let Some(mark) = offer.mark
            && edge.marked != offer.mark
        {
            consumer.operator.mark(edge.input, mark, context)?;
            edge.marked = offer.mark;
        }
    }
    seat.blocked |= !done;
    if done {
        for edge in &mut seat.edges[port] {
            (edge.taken, edge.marked) = (0, None);
        }
        seat.operator.delivered(port, context)?;
    }
    Ok(moved || done)
}

impl Seat {
    /// Notes that the barrier has passed the node, and its figures at that moment.
    fn note_epoch(&mut self, context: &mut ShardContext<'_>) {
        let passed = self.operator.epoch_passed();
        if passed > self.epoch {
            self.epoch = passed;
            if self.is_plan_node {
                // Without a name, which the index stands for: nothing is allocated.
                let mut counts = NodeCounts::default();
                self.operator.counts(&mut counts);
                context.snapshot.counts.push((self.plan_node, counts));
            }
        }
    }

    /// A node that refuses rows though nothing behind it does is what holds the others up.
    fn note_refusal(&mut self, refused: bool, now_ns: u64) {
        let guilty = refused && !self.blocked;
        match (guilty, self.refusing_since_ns) {
            (true, 0) => self.refusing_since_ns = now_ns,
            (false, since) if since != 0 => {
                self.held_up_ns += now_ns.saturating_sub(since);
                self.refusing_since_ns = 0;
            }
            _ => {}
        }
    }
}
