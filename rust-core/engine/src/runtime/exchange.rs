//! Brings each row to the shard that owns its key.
//!
//! Between each pair of shards runs a bounded queue of packets and one back for the empty ones. A packet carries rows
//! and the mark that follows them, so it never holds rows of two epochs. A barrier goes to every shard, and the
//! receiving side takes no more from a shard whose barrier has come until those of all shards have. With one shard there
//! is no exchange.

use std::ops::Range;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use ringmill_state::{group_of, shard_of};
use ringmill_wire::{BatchView, HeapBatch, Template};

use super::operator::{Delivery, InputMarks, Mark, Offer, Operator, OutputMarks, ROWS, Rows, ShardContext};
use super::signal::ShardSignal;
use crate::error::EngineError;
use crate::metrics::NodeCounts;
use crate::window::KeyHasher;

/// Packets between one pair of shards.
const PACKETS: usize = 4;
/// Rows dealt out in one go.
const CHUNK: usize = 256;
struct Packet {
    batch: HeapBatch,
    ingest_ns: u64,
    mark: Option<Mark>,
}

/// One direction between two shards.
#[derive(Clone)]
struct Lane {
    full: Arc<ArrayQueue<Box<Packet>>>,
    empty: Arc<ArrayQueue<Box<Packet>>>,
}

/// All lanes of one exchange.
pub struct Lanes {
    template: Arc<Template>,
    /// `lanes[from][to]`.
    lanes: Vec<Vec<Lane>>,
}

impl Lanes {
    /// For that many shards and batches of that layout; whether their rows carry tags.
    pub fn new(shards: usize, template: &Arc<Template>, are_tagged: bool) -> Self {
        let lane = || {
            let lane = Lane { full: Arc::new(ArrayQueue::new(PACKETS)), empty: Arc::new(ArrayQueue::new(PACKETS)) };
            for _ in 0..PACKETS {
                let batch = HeapBatch::new(template.clone()).tagged(are_tagged);
                let packet = Packet { batch, ingest_ns: 0, mark: None };
                let _ = lane.empty.push(Box::new(packet));
            }
            lane
        };
        let lanes = (0..shards).map(|_| (0..shards).map(|_| lane()).collect()).collect();
        Self { template: template.clone(), lanes }
    }

    /// Bytes of memory the lanes of one exchange take.
    pub fn memory_bytes(shards: usize, template: &Template) -> u64 {
        (shards * shards * PACKETS * template.bytes()) as u64
    }

    /// The sending node of shard `from`.
    pub fn sender(
        &self,
        from: usize,
        name: String,
        hasher: KeyHasher,
        signals: &[Arc<ShardSignal>],
        inputs: usize,
    ) -> ExchangeSender {
        let outlet = |(to, lane): (usize, &Lane)| Outlet {
            lane: lane.clone(),
            open: None,
            pending: None,
            epoch: 0,
            selected: Vec::with_capacity(CHUNK),
            signal: signals[to].clone(),
        };
        let outlets = self.lanes[from].iter().enumerate().map(outlet).collect();
        let fields = self.template.schema().fields.iter().enumerate();
        ExchangeSender {
            name,
            hasher,
            hashes: Vec::with_capacity(CHUNK),
            outlets,
            variable: fields.filter(|(_, field)| field.data_type.is_variable()).map(|(index, _)| index).collect(),
            variable_bytes: self.template.capacity().variable_bytes_max,
            inputs: InputMarks::new(inputs),
            mark: Mark::START,
        }
    }

    /// The receiving node of shard `to`.
    pub fn receiver(&self, to: usize, signals: &[Arc<ShardSignal>]) -> ExchangeReceiver {
        let inlets: Vec<_> =
            self.lanes.iter().enumerate().map(|(from, lanes)| (lanes[to].clone(), signals[from].clone())).collect();
        let marks = InputMarks::new(inlets.len());
        ExchangeReceiver { inlets, current: None, next: 0, marks, mark: Mark::START, outputs: OutputMarks::new() }
    }
}

struct Outlet {
    lane: Lane,
    open: Option<Box<Packet>>,
    /// A mark that follows the open packet's rows.
    pending: Option<Mark>,
    /// The last epoch whose barrier was sent.
    epoch: u64,
    /// Rows of the current piece that belong to this shard.
    selected: Vec<u32>,
    signal: Arc<ShardSignal>,
}

impl Outlet {
    fn open(&mut self) -> Option<&mut Packet> {
        if self.open.is_none() {
            let mut packet = self.lane.empty.pop()?;
            packet.batch.clear();
            packet.mark = None;
            self.open = Some(packet);
        }
        self.open.as_deref_mut()
    }

    /// Whether the pending mark must not wait for the packet to fill.
    fn is_urgent(&self) -> bool {
        self.pending.is_some_and(|mark| mark.cut || mark.end || mark.barrier > self.epoch)
    }

    /// Sends the open packet with the pending mark; `false`: nothing to send, or no packet for the mark alone.
    fn send(&mut self) -> bool {
        let pending = self.pending;
        let Some(packet) = (if pending.is_some() { self.open() } else { self.open.as_deref_mut() }) else {
            return false;
        };
        if packet.batch.rows() == 0 && pending.is_none() {
            return false;
        }
        packet.mark = pending;
        self.pending = None;
        self.epoch = pending.map_or(self.epoch, |mark| mark.barrier);
        if let Some(packet) = self.open.take() {
            // There are as many places as packets, so the queue is never full.
            let _ = self.lane.full.push(packet);
            self.signal.notify();
        }
        true
    }
}

/// Whether every outlet can take some rows, whomever they belong to.
enum Room {
    Enough,
    /// Some outlet's packets are all on their way.
    NoPacket,
    /// The rows are more than an empty packet holds.
    TooLittle,
}

/// Deals rows out to the shards.
pub struct ExchangeSender {
    name: String,
    hasher: KeyHasher,
    hashes: Vec<u64>,
    outlets: Vec<Outlet>,
    /// Indices of the variable-length columns, and the room a packet has for each.
    variable: Vec<usize>,
    variable_bytes: u32,
    inputs: InputMarks,
    mark: Mark,
}

impl ExchangeSender {
    fn make_room(&mut self, view: &BatchView<'_>, rows: Range<usize>) -> Room {
        let bytes = |column: usize| {
            let column = view.column(column);
            let (offsets, width) = (column.offsets(), column.data_type().item_width());
            (offsets[rows.end] - offsets[rows.start]) as usize * width
        };
        let bytes_max = self.variable.iter().map(|column| bytes(*column)).max().unwrap_or(0);
        if bytes_max > self.variable_bytes as usize {
            return Room::TooLittle;
        }
        for outlet in &mut self.outlets {
            let lacks_room = |packet: &mut Packet| {
                let writer = packet.batch.writer();
                let lacks_bytes = |column: &usize| (writer.bytes_free(*column) as usize) < bytes_max;
                (writer.rows_free() as usize) < rows.len() || self.variable.iter().any(lacks_bytes)
            };
            if (outlet.pending.is_some() || outlet.open.as_deref_mut().is_some_and(lacks_room)) && !outlet.send() {
                return Room::NoPacket;
            }
            if outlet.open().is_none() {
                return Room::NoPacket;
            }
        }
        Room::Enough
    }

    /// Copies rows to their owners' packets, which have room.
    fn deal(&mut self, delivery: &Delivery<'_>, rows: Range<usize>) {
        let shards = self.outlets.len();
        self.hasher.hash(&delivery.view, rows.clone(), &mut self.hashes);
        for (&hash, row) in self.hashes.iter().zip(rows) {
            self.outlets[shard_of(group_of(hash), shards)].selected.push(row as u32);
        }
        for outlet in &mut self.outlets {
            if let Some(packet) = outlet.open.as_deref_mut()
                && !outlet.selected.is_empty()
            {
                if packet.batch.rows() == 0 {
                    packet.ingest_ns = delivery.ingest_ns;
                }
                let copied = packet.batch.writer().copy_selected(&delivery.view, &outlet.selected);
                debug_assert_eq!(copied, outlet.selected.len(), "room was made");
            }
            outlet.selected.clear();
        }
    }
}

impl Operator for ExchangeSender {
    fn advance(&mut self, _: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut sent = false;
        for outlet in &mut self.outlets {
            // Packets fill by themselves while the receiver is busy.
            if outlet.lane.full.is_empty() || outlet.is_urgent() {
                sent |= outlet.send();
            }
        }
        Ok(sent)
    }

    fn accept(&mut self, input: usize, delivery: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        if self.inputs.is_blocked(input) {
            return Ok(0);
        }
        let (mut first, end) = (delivery.first, delivery.view.rows());
        while first < end {
            let mut rows = first..(first + CHUNK).min(end);
            loop {
                match self.make_room(&delivery.view, rows.clone()) {
                    Room::Enough => break,
                    Room::NoPacket => return Ok(first - delivery.first),
                    Room::TooLittle if rows.len() > 1 => rows.end = first + rows.len() / 2,
                    Room::TooLittle => {
                        let room = self.variable_bytes;
                        return Err(EngineError::RowTooLarge { node: self.name.clone(), room });
                    }
                }
            }
            self.deal(&delivery, rows.clone());
            first = rows.end;
        }
        Ok(end - delivery.first)
    }

    fn mark(&mut self, input: usize, mark: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        let mark = self.inputs.update(input, mark);
        self.mark = mark;
        for outlet in &mut self.outlets {
            // A cut that was not sent yet stays one.
            let cut = mark.cut || outlet.pending.is_some_and(|earlier| earlier.cut);
            outlet.pending = Some(Mark { cut, ..mark });
        }
        Ok(())
    }

    fn offer(&self, _: usize) -> Option<Offer<'_>> {
        None
    }

    fn delivered(&mut self, _: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let empty = |outlet: &Outlet| {
            outlet.pending.is_none() && outlet.open.as_ref().is_none_or(|packet| packet.batch.rows() == 0)
        };
        self.mark.end && self.outlets.iter().all(empty)
    }

    fn epoch_passed(&self) -> u64 {
        self.outlets.iter().map(|outlet| outlet.epoch).min().unwrap_or(self.mark.barrier)
    }

    fn is_aligning(&self) -> bool {
        self.inputs.is_aligning()
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        self.mark.barrier = epoch;
        self.inputs.restored(epoch);
        self.outlets.iter_mut().for_each(|outlet| outlet.epoch = epoch);
        Ok(())
    }

    fn counts(&self, _: &mut NodeCounts) {}
}

/// Gathers rows from the shards.
pub struct ExchangeReceiver {
    inlets: Vec<(Lane, Arc<ShardSignal>)>,
    /// The packet being passed on and where it came from.
    current: Option<(usize, Box<Packet>)>,
    next: usize,
    marks: InputMarks,
    /// What holds behind the current packet's rows.
    mark: Mark,
    outputs: OutputMarks,
}

impl ExchangeReceiver {
    /// A shard sends no rows, ever: it has no say in the watermark, also before it is heard of first.
    pub fn expect_nothing_from(&mut self, shard: usize) {
        self.marks.expect_nothing_from(shard);
    }

    /// The next packet of a shard that is not ahead of the others by a barrier.
    fn take(&mut self) -> Option<(usize, Box<Packet>)> {
        let inlets = self.inlets.len();
        let order = (0..inlets).map(|step| (self.next + step) % inlets).filter(|from| !self.marks.is_blocked(*from));
        let found = order.filter_map(|from| self.inlets[from].0.full.pop().map(|packet| (from, packet))).next()?;
        self.next = (found.0 + 1) % inlets;
        Some(found)
    }
}

impl Operator for ExchangeReceiver {
    fn advance(&mut self, _: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        if self.current.is_some() || !self.outputs.has_sent(&self.mark) {
            return Ok(false);
        }
        self.current = self.take();
        if let Some((from, packet)) = &self.current
            && let Some(mark) = packet.mark
        {
            self.mark = self.marks.update(*from, mark);
        }
        Ok(self.current.is_some())
    }

    fn accept(&mut self, _: usize, _: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        Ok(0)
    }

    fn mark(&mut self, _: usize, _: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        let mark = self.outputs.due(port, self.mark);
        match &self.current {
            Some((_, packet)) if port == ROWS => {
                let rows = Rows { view: packet.batch.view(), first: 0, ingest_ns: packet.ingest_ns };
                Some(Offer { rows: (packet.batch.rows() > 0).then_some(rows), mark })
            }
            _ => mark.map(|mark| Offer { rows: None, mark: Some(mark) }),
        }
    }

    fn delivered(&mut self, port: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        if port == ROWS
            && let Some((from, packet)) = self.current.take()
        {
            let (lane, signal) = &self.inlets[from];
            let _ = lane.empty.push(packet);
            signal.notify();
        }
        self.outputs.note_sent(port, self.mark);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.outputs.are_ended()
    }

    fn epoch_passed(&self) -> u64 {
        self.outputs.epoch()
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        self.mark.barrier = epoch;
        self.marks.restored(epoch);
        self.outputs.restored(epoch);
        Ok(())
    }

    fn counts(&self, _: &mut NodeCounts) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::snapshot::{BarrierRequest, ShardSnapshot};
    use ringmill_state::KEY_GROUPS;
    use ringmill_wire::{Capacity, DataType, Field, Schema};

    fn lanes(shards: usize) -> (Lanes, Vec<Arc<ShardSignal>>) {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64)]).unwrap());
        let template = Template::new(schema, Capacity { rows_max: 4, variable_bytes_max: 0 }).unwrap();
        let signals = (0..shards).map(|_| Arc::new(ShardSignal::new().unwrap())).collect();
        (Lanes::new(shards, &Arc::new(template), false), signals)
    }

    /// Puts a packet with one row on its way from a shard to shard 0.
    fn send(lanes: &Lanes, from: usize, mark: Mark) {
        let lane = &lanes.lanes[from][0];
        let mut packet = lane.empty.pop().unwrap();
        packet.batch.writer().push(0, 1_i64);
        packet.batch.writer().finish_row();
        packet.mark = Some(mark);
        assert!(lane.full.push(packet).is_ok());
    }

    /// Rows and watermarks that the receiver passes on until there is nothing more.
    fn receive(receiver: &mut ExchangeReceiver) -> Vec<(usize, Option<Mark>)> {
        let (mut passed, mut snapshot, mut histograms) = (Vec::new(), ShardSnapshot::default(), Default::default());
        let mut context = ShardContext {
            histograms: &mut histograms,
            now_ns: 1,
            wake_ns: &mut 0,
            draining: false,
            has_checkpoints: true,
            barrier: BarrierRequest::default(),
            shipped_epoch: 0,
            snapshot: &mut snapshot,
        };
        while receiver.advance(&mut context).unwrap() {
            let offer = receiver.offer(ROWS).unwrap();
            passed.push((offer.rows.map_or(0, |rows| rows.view.rows()), offer.mark));
            receiver.delivered(ROWS, &mut context).unwrap();
        }
        passed
    }

    #[test]
    fn a_mark_leaves_before_the_rows_of_the_next_packet() {
        let (lanes, signals) = lanes(1);
        let mut receiver = lanes.receiver(0, &signals);
        let marks = [1, 2].map(|watermark_ns| Mark { watermark_ns, cut: true, ..Mark::START });
        marks.iter().for_each(|mark| send(&lanes, 0, *mark));
        assert_eq!(receive(&mut receiver), [(1, Some(marks[0])), (1, Some(marks[1]))]);
    }

    #[test]
    fn a_shard_that_is_ahead_by_a_barrier_waits_for_the_others() {
        let (lanes, signals) = lanes(2);
        let mut receiver = lanes.receiver(0, &signals);
        let mark = |barrier| Mark { barrier, ..Mark::START };
        [0, 1, 1].into_iter().for_each(|barrier| send(&lanes, 0, mark(barrier)));
        assert_eq!(receive(&mut receiver), [(1, None), (1, None)], "the third row is of the next epoch");
        [0, 1].into_iter().for_each(|barrier| send(&lanes, 1, mark(barrier)));
        assert_eq!(receive(&mut receiver), [(1, None), (1, Some(mark(1))), (1, None)]);
    }

    #[test]
    fn every_key_group_has_one_shard_and_shards_get_like_shares() {
        for shards in [1, 2, 3, 7, 64] {
            let mut groups = vec![0; shards];
            (0..KEY_GROUPS).for_each(|group| groups[shard_of(group, shards)] += 1);
            let (least, most) = (groups.iter().min().unwrap(), groups.iter().max().unwrap());
            assert!(most - least <= 1, "{shards}: {groups:?}");
        }
    }
}
