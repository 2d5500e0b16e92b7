//! A UDF step of one shard: fills micro-batches for its workers and passes their answers on in order.
//!
//! Batches are numbered. Whatever order workers answer in, results leave in the order of the numbers, and each
//! [`Mark`] leaves after the batch it followed. A result is the request slot's own columns plus a verified private copy
//! of the worker's; the slot is released when all consumers have taken it.
//!
//! What workers say is heard in [`answers`]. What the death of a worker leads to is in [`deaths`], what becomes of a batch that failed in [`retrial`].

mod answers;
mod deaths;
mod keeping;
mod keyed;
mod letters;
mod open_batch;
mod replay_log;
mod retrial;
mod search;
mod snapshots;

use std::collections::VecDeque;
use std::sync::Arc;

use ringmill_connect::{Encoder, letter_encoder};
use ringmill_ring::monotonic_ns;
use ringmill_state::{EntryKey, NodeId};
use ringmill_wire::{BatchView, BatchWriter, ColumnParts, HeapBatch, Lengths, Schema, Template};

pub use self::keyed::KeyedState;
pub use self::letters::Tracing;
use self::letters::{KeyText, Traces};
use self::open_batch::OpenBatch;
use self::retrial::Retrial;
use self::snapshots::Snapshots;
use super::dead_letters::DeadLetterBatch;
use super::operator::{
    DEAD_LETTERS, Delivery, InputMarks, LATE, Mark, Offer, Operator, OutputMarks, ROWS, Rows, ShardContext,
};
use super::store_port::StorePort;
use super::worker_link::WorkerLink;
use crate::error::EngineError;
use crate::metrics::{NodeCounts, WorkerSnapshot};
use crate::plan::{OnError, Supervision};
use crate::window::SpillFigures;

/// What became of a batch.
enum Outcome {
    /// Kept for the next process of its worker.
    Held,
    /// Published, not answered.
    Pending,
    Result,
    Failed {
        byte_length: u32,
    },
    /// Workers died of it, or it was answered with nonsense.
    Died(Box<Failure>),
    /// Out of its slot, being tried again.
    Retrial,
}

struct InFlight {
    worker: usize,
    /// `None` when it was given up for a retrial.
    slot: Option<u32>,
    rows: u32,
    /// Its rows' tags, if they are traced.
    tags: Vec<u64>,
    /// Deaths that it is the suspect of.
    deaths: u32,
    ingest_ns: u64,
    publish_ns: u64,
    mark: Option<Mark>,
    outcome: Outcome,
    /// Its answer will not count; it will be given to the worker again.
    is_void: bool,
}

/// What is offered to the consumers of the results.
enum Offering {
    /// The first batch in order.
    Head,
    /// So many rows of it, which is being tried in parts.
    Part { rows: u32 },
}

/// What a batch failed of.
#[derive(Clone, Debug)]
struct Failure {
    /// `ValueError: …` or `worker scores/0/0 was killed by SIGSEGV`.
    error: String,
    /// A traceback.
    detail: Option<String>,
    /// The worker died, or had to.
    is_death: bool,
}

/// The UDF node of one shard.
pub struct UdfOperator {
    name: String,
    on_error: OnError,
    input: Arc<Schema>,
    output: Arc<Schema>,
    request: Arc<Template>,
    writer: BatchWriter,
    response: HeapBatch,
    lengths: Lengths,
    workers: Vec<WorkerLink>,
    open: Option<OpenBatch>,
    flight: VecDeque<InFlight>,
    /// Number of the batch at the head of `flight`.
    head: u64,
    offering: Option<Offering>,
    parts: Vec<ColumnParts>,
    response_parts: Vec<ColumnParts>,
    supervision: Supervision,
    timeout_ns: Option<u64>,
    /// Its number in the stores.
    id: NodeId,
    /// Per-key state, if the function keeps any.
    keyed: Option<KeyedState>,
    /// The way to the store, if there is one.
    store: Option<StorePort>,
    /// What its workers have learnt, if that can be asked for.
    snapshots: Option<Snapshots>,
    /// The first batch in order, if it is being tried again.
    retrial: Option<Box<Retrial>>,
    /// The log was told that the function fails for most rows.
    has_complained: bool,
    dead: DeadLetterBatch,
    /// How its rows are traced to their records, if they are.
    traces: Option<Traces>,
    /// The columns of its rows' key, until they are needed.
    key_columns: Option<Vec<usize>>,
    key_text: Option<KeyText>,
    row_encoder: Box<dyn Encoder>,
    text: Vec<u8>,
    inputs: InputMarks,
    /// A mark with no batch before it.
    idle_mark: Option<Mark>,
    ended: bool,
    /// The last mark that left for the results.
    standing: Mark,
    /// The last barrier that has come through all inputs.
    barrier: u64,
    outputs: OutputMarks,
    rows_in: u64,
    rows_out: u64,
    skipped: u64,
}

/// What a UDF node is made of.
pub struct UdfParts {
    /// The step's name.
    pub name: String,
    /// What guilty rows lead to.
    pub on_error: OnError,
    /// How its workers are watched.
    pub supervision: Supervision,
    /// Layout of request slots.
    pub request: Arc<Template>,
    /// Layout of response slots.
    pub response: Arc<Template>,
    /// Schema of the results: input columns, then the function's.
    pub output: Arc<Schema>,
    /// Its number in the stores.
    pub id: NodeId,
    /// Per-key state, if the function keeps any.
    pub keyed: Option<KeyedState>,
    /// For a class with `snapshot()` and `restore()`: bytes of the log of what each worker was given since its last one.
    pub replay_bytes: Option<usize>,
    /// Its workers in this shard.
    pub workers: Vec<WorkerLink>,
    /// Streams it reads.
    pub inputs: usize,
    /// Columns that are its rows' key; empty: there is none.
    pub key: Vec<usize>,
    /// How its rows are traced to their records, if they are.
    pub tracing: Option<Tracing>,
}

impl UdfOperator {
    /// The workers' processes are on their way.
    pub fn new(parts: UdfParts) -> Result<Self, EngineError> {
        let layout = |error| EngineError::Layout { node: parts.name.clone(), error };
        let dead = DeadLetterBatch::new(&parts.name).map_err(layout)?;
        let input = parts.request.schema().clone();
        let columns = parts.keyed.as_ref().map_or(input.len(), KeyedState::inputs);
        let own = Schema::new(input.fields[..columns].to_vec()).map_err(layout)?;
        let row_encoder = letter_encoder(&own);
        let names = parts.workers.iter().map(|worker| worker.name.as_str());
        let log_writer = || BatchWriter::new(parts.request.clone());
        let snapshots = parts.replay_bytes.map(|bytes| Snapshots::new(names, log_writer(), bytes));
        let slots: usize = parts.workers.iter().map(WorkerLink::slots).sum();
        let rows_max = parts.request.capacity().rows_max;
        let traces = parts.tracing.map(|tracing| Traces::new(tracing, slots + 1, rows_max));
        let mut writer = BatchWriter::new(parts.request.clone());
        if traces.is_some() {
            writer.carry_tags();
        }
        let mut operator = Self {
            writer,
            traces,
            key_columns: Some(parts.key),
            key_text: None,
            response: HeapBatch::new(parts.response),
            lengths: Lengths::default(),
            flight: VecDeque::with_capacity(slots + 1),
            parts: Vec::with_capacity(parts.output.len()),
            response_parts: Vec::with_capacity(parts.output.len()),
            inputs: InputMarks::new(parts.inputs),
            name: parts.name,
            on_error: parts.on_error,
            request: parts.request,
            output: parts.output,
            workers: parts.workers,
            input,
            open: None,
            head: 1,
            offering: None,
            supervision: parts.supervision,
            timeout_ns: parts.supervision.timeout_ns,
            id: parts.id,
            keyed: parts.keyed,
            store: None,
            snapshots,
            retrial: None,
            has_complained: false,
            dead,
            row_encoder,
            text: Vec::new(),
            idle_mark: None,
            ended: false,
            standing: Mark::START,
            barrier: 0,
            outputs: OutputMarks::new(),
            rows_in: 0,
            rows_out: 0,
            skipped: 0,
        };
        // A process is given what it is to have learnt before it is given anything else.
        let keeps = operator.snapshots.is_some();
        operator.workers.iter_mut().for_each(|worker| worker.is_holding = keeps);
        Ok(operator)
    }

    /// Looks at the batch at the head of the order: makes its result the current offer, or deals with its failure.
    fn serve_head(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        if self.offering.is_some() || self.idle_mark.is_some() {
            return Ok(false);
        }
        if self.retrial.is_some() {
            return self.go_on_trying(context);
        }
        let Some(head) = self.flight.front() else { return Ok(false) };
        let (index, slot, rows) = (head.worker, head.slot, head.rows);
        match head.outcome {
            Outcome::Pending => return Ok(false),
            Outcome::Held if !self.is_stranded(index, context.now_ns) => return Ok(false),
            Outcome::Held | Outcome::Failed { .. } | Outcome::Died(_) | Outcome::Retrial => {
                self.begin_retrial(context)?;
            }
            Outcome::Result => match self.compose(index, slot.unwrap_or_default(), rows)? {
                Ok(()) => {
                    self.note_sound(index);
                    self.offering = Some(Offering::Head);
                }
                Err(violation) => {
                    self.note_unsound(index);
                    let failure = Box::new(self.blame(index, &violation, false));
                    if let Some(head) = self.flight.front_mut() {
                        head.deaths += 1;
                        head.outcome = Outcome::Died(failure);
                    }
                }
            },
        }
        Ok(true)
    }

    /// Describes a result: the request slot's columns and a verified copy of the response slot's; or says why it is none.
    #[allow(unsafe_code)]
    fn compose(&mut self, index: usize, slot: u32, rows: u32) -> Result<Result<(), String>, EngineError> {
        let channel = &self.workers[index].channel;
        let response = self.response.template().clone();
        // SAFETY: the pointer is to the slot's response room, `response.bytes()` long; the worker may still scribble on
        // it, which `copy_untrusted` is made for.
        let copied = unsafe { response.copy_untrusted(channel.response_memory(slot), rows, &mut self.response) };
        if let Err(error) = copied {
            return Ok(Err(format!("a result that is not a valid micro-batch: {error}")));
        }
        self.request_parts(index, slot)?;
        self.response.view().parts(&mut self.response_parts);
        if let Some(keyed) = &self.keyed {
            self.parts.truncate(keyed.inputs());
            self.response_parts.truncate(keyed.outputs());
        }
        self.parts.extend_from_slice(&self.response_parts);
        Ok(Ok(()))
    }

    /// Makes `parts` those of a request slot, which only we can write.
    #[allow(unsafe_code)]
    fn request_parts(&mut self, worker: usize, slot: u32) -> Result<(), EngineError> {
        let memory = self.workers[worker].channel.slot_memory(slot).as_ptr().cast_const();
        // SAFETY: the slot was stamped with this template, closed by our writer, and stays unchanged until released.
        let read = unsafe { self.request.read_lengths(memory, &mut self.lengths) };
        read.map_err(|error| EngineError::Layout { node: self.name.clone(), error })?;
        // SAFETY: the lengths were just read from this very slot.
        unsafe { self.request.parts(memory, &self.lengths, &mut self.parts) };
        Ok(())
    }

    /// A row that fits no micro-batch goes to dead letters; `false`: no room there now.
    fn refuse_row(&mut self, view: &BatchView<'_>, row: usize) -> Result<bool, EngineError> {
        let room = self.request.capacity().variable_bytes_max;
        let reason =
            format!("the row needs more than the {room} bytes that batch_bytes gives each variable-length column");
        self.text.clear();
        self.row_encoder.encode(view, row..row + 1, &mut self.text);
        self.push_letter((view, row), view.tag(row), &reason, None, None)
    }

    /// Gives the head's slot back; returns the mark that followed it.
    fn release_head(&mut self) -> Option<Mark> {
        let head = self.flight.pop_front()?;
        self.head += 1;
        if let Some(keyed) = &mut self.keyed {
            keyed.release(head.rows as usize);
        }
        if let Some(slot) = head.slot {
            self.workers[head.worker].channel.release(slot);
        }
        if let Some(traces) = &mut self.traces {
            traces.give_back(head.tags);
        }
        head.mark
    }

    /// The epoch of the rows it takes now.
    fn epoch(&self) -> u64 {
        self.outputs.epoch() + 1
    }

    /// A barrier has come in and has not left through every port: rows that follow it have to wait.
    fn is_at_barrier(&self) -> bool {
        self.barrier > self.outputs.epoch()
    }

    /// What is offered is taken: the state that came with it counts.
    fn store_state(&mut self) {
        let (Some(keyed), Some(offering)) = (&mut self.keyed, &self.offering) else { return };
        let first = match offering {
            Offering::Head => 0,
            Offering::Part { .. } => self.retrial.as_ref().map_or(0, |retrial| retrial.first_row()),
        };
        keyed.store(first, &self.response.view());
    }

    /// A barrier has left for the results, and what some worker had learnt by then is not on its way to the stores.
    fn awaits_snapshots(&self) -> bool {
        self.snapshots.as_ref().is_some_and(Snapshots::are_pending)
    }
}

impl Failure {
    /// From the payload of a failed batch: JSON with `error` and `traceback`, or whatever text there is.
    fn read(payload: &[u8]) -> Failure {
        #[derive(serde::Deserialize)]
        struct Payload {
            error: String,
            traceback: Option<String>,
        }
        let (error, detail) = match serde_json::from_slice::<Payload>(payload) {
            Ok(payload) => (payload.error, payload.traceback),
            Err(_) => (String::from_utf8_lossy(payload).into_owned(), None),
        };
        Failure { error, detail, is_death: false }
    }
}

impl Operator for UdfOperator {
    fn advance(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut moved = self.take_completions(context)?;
        moved |= self.publish_paced();
        moved |= self.serve_keyed(context)?;
        moved |= self.go_on_keeping(context)?;
        self.watch_deadlines(context);
        moved |= self.serve_head(context)?;
        moved |= self.publish_if_due();
        if self.standing.end && !self.awaits_snapshots() {
            let epoch = self.epoch();
            self.workers.iter_mut().for_each(|worker| worker.drain(epoch));
        }
        Ok(moved)
    }

    fn accept(&mut self, input: usize, delivery: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        if self.is_at_barrier() || self.inputs.is_blocked(input) {
            return Ok(0);
        }
        if self.keyed.is_some() {
            return self.accept_keyed(&delivery);
        }
        let (mut first, end) = (delivery.first, delivery.view.rows());
        while first < end && self.idle_mark.is_none() && self.open(delivery.ingest_ns) {
            let copied = self.writer.copy_rows(&delivery.view, first..end);
            first += copied;
            if copied == 0 && self.writer.rows() == 0 {
                if !self.refuse_row(&delivery.view, first)? {
                    break;
                }
                first += 1;
                continue;
            }
            if first < end || self.writer.rows_free() == 0 {
                self.publish();
            }
        }
        self.rows_in += (first - delivery.first) as u64;
        Ok(first - delivery.first)
    }

    fn mark(&mut self, input: usize, mark: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        let mark = self.inputs.update(input, mark);
        self.ended = mark.end;
        let is_barrier = mark.barrier > self.barrier;
        self.barrier = self.barrier.max(mark.barrier);
        if self.writer_rows() > 0 {
            if let Some(open) = &mut self.open {
                open.mark = Some(mark);
            }
            if mark.cut || mark.end || is_barrier {
                self.publish();
            }
            return Ok(());
        }
        let waiting = self.flight.back_mut().map_or(&mut self.idle_mark, |last| &mut last.mark);
        let cut = mark.cut || waiting.is_some_and(|earlier| earlier.cut);
        *waiting = Some(Mark { cut, ..mark });
        Ok(())
    }

    #[allow(unsafe_code)]
    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        match port {
            ROWS => {
                let (Some(offering), Some(head)) = (&self.offering, self.flight.front()) else {
                    return self.idle_mark.map(|mark| Offer { rows: None, mark: Some(mark) });
                };
                let (rows, is_last, first) = match *offering {
                    Offering::Head => (head.rows, true, 0),
                    Offering::Part { rows } => (rows, self.is_last_part(), self.first_row_of_part()),
                };
                // SAFETY: `compose` made the parts from slots that stay unchanged until they are released on delivery.
                let view = unsafe { BatchView::from_parts(&self.output, rows as usize, &self.parts) };
                let view = view.with_tags(head.tags.get(first..).unwrap_or_default());
                let rows = Rows { view, first: 0, ingest_ns: head.ingest_ns };
                Some(Offer { rows: Some(rows), mark: head.mark.filter(|_| is_last) })
            }
            DEAD_LETTERS if self.dead.rows() > 0 => self.dead.offer(),
            LATE if self.awaits_snapshots() => None,
            _ => self.outputs.due(port, self.standing).map(|mark| Offer { rows: None, mark: Some(mark) }),
        }
    }

    fn delivered(&mut self, port: usize, context: &mut ShardContext<'_>) -> Result<(), EngineError> {
        match port {
            ROWS => {
                self.store_state();
                let mark = match self.offering.take() {
                    Some(Offering::Head) => {
                        self.rows_out += self.flight.front().map_or(0, |head| u64::from(head.rows));
                        self.release_head()
                    }
                    Some(Offering::Part { rows }) => {
                        self.rows_out += u64::from(rows);
                        self.settle_part()
                    }
                    None => self.idle_mark.take(),
                };
                if let Some(mark) = mark {
                    let is_barrier = mark.barrier > self.outputs.results_epoch();
                    self.standing = mark;
                    self.outputs.note_sent(ROWS, mark);
                    if is_barrier && let Some(keyed) = &mut self.keyed {
                        keyed.snapshot(&mut context.snapshot.delta.node(self.id));
                    }
                    if is_barrier && let Some(snapshots) = &mut self.snapshots {
                        snapshots.begin();
                    }
                }
            }
            DEAD_LETTERS if self.dead.rows() > 0 => self.dead.clear(),
            _ => self.outputs.note_sent(port, self.standing),
        }
        Ok(())
    }

    fn epoch_passed(&self) -> u64 {
        self.outputs.epoch()
    }

    fn is_aligning(&self) -> bool {
        self.inputs.is_aligning()
    }

    fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), EngineError> {
        let restored = match (&mut self.keyed, &mut self.snapshots) {
            (Some(keyed), _) if entry.section == keyed::SECTION => keyed.restore(entry, value),
            (_, Some(snapshots)) if entry.section == snapshots::SECTION => snapshots.restore(entry, value),
            _ => Err("the step keeps nothing of that kind".into()),
        };
        restored.map_err(|reason| EngineError::Unfit { node: self.name.clone(), reason })
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        (self.barrier, self.standing.barrier) = (epoch, epoch);
        self.inputs.restored(epoch);
        self.outputs.restored(epoch);
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool, EngineError> {
        let (mut is_ready, now_ns) = (true, monotonic_ns());
        for worker in &mut self.workers {
            is_ready &= worker.is_ready(now_ns)?;
        }
        Ok(is_ready)
    }

    fn is_finished(&self) -> bool {
        self.outputs.are_ended() && self.workers.iter().all(WorkerLink::is_drained)
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.rows_in = self.rows_in;
        counts.rows_out = self.rows_out;
        counts.dead_letters = self.dead.total();
        counts.absorbed = self.skipped;
    }

    fn direct_writer(&mut self, context: &mut ShardContext<'_>) -> Option<&mut BatchWriter> {
        (self.idle_mark.is_none() && !self.is_at_barrier() && self.open(context.now_ns)).then_some(&mut self.writer)
    }

    fn direct_written(
        &mut self,
        rows: u32,
        ingest_ns: u64,
        full: bool,
        _: &mut ShardContext<'_>,
    ) -> Result<(), EngineError> {
        self.rows_in += u64::from(rows);
        if let Some(open) = &mut self.open
            && self.writer.rows() == rows
        {
            open.ingest_ns = ingest_ns;
        }
        if self.writer.rows() > 0 && (full || self.writer.rows_free() == 0) {
            self.publish();
        }
        Ok(())
    }

    fn state_bytes(&self) -> u64 {
        self.keyed.as_ref().map_or(0, KeyedState::bytes)
    }

    fn spilled(&self) -> SpillFigures {
        self.keyed.as_ref().map_or_else(SpillFigures::default, KeyedState::spilled)
    }

    fn set_store(&mut self, port: StorePort) {
        self.store = Some(port);
    }

    fn arm_sleep(&mut self) -> bool {
        self.workers.iter_mut().all(WorkerLink::arm_sleep)
    }

    fn disarm_sleep(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.channel.disarm_sleep());
    }

    fn workers(&self, workers: &mut Vec<WorkerSnapshot>, next: usize) -> usize {
        workers.resize_with(workers.len().max(next + self.workers.len()), WorkerSnapshot::default);
        for (snapshot, worker) in workers[next..].iter_mut().zip(&self.workers) {
            worker.snapshot(snapshot);
        }
        next + self.workers.len()
    }
}
