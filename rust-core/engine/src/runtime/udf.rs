//! A UDF step of one shard: fills micro-batches for its workers and passes their answers on in order.
//!
//! Batches are numbered. Whatever order workers answer in, results leave in the order of the numbers, and each
//! [`Mark`] leaves after the batch it followed. A result is the request slot's own columns plus a verified private copy
//! of the worker's; the slot is released when all consumers have taken it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringmill_connect::{Encoder, Format, encoder};
use ringmill_ring::{Completion, CompletionKind, CoreEnd, Submission, SubmissionKind, monotonic_ns};
use ringmill_wire::{BatchView, BatchWriter, ColumnParts, HeapBatch, Lengths, Schema, Template};

use super::dead_letters::DeadLetterBatch;
use super::operator::{DEAD_LETTERS, Delivery, InputMarks, LATE, Mark, Offer, Operator, ROWS, Rows, ShardContext};
use crate::error::EngineError;
use crate::metrics::{NodeCounts, Stage, WorkerSnapshot};
use crate::plan::OnError;

/// The core's side of one worker.
pub struct WorkerLink {
    /// `step/shard/index`.
    pub name: String,
    /// Its process.
    pub pid: i32,
    /// Its channel, request slots stamped.
    pub channel: CoreEnd,
    /// Slots of the ring.
    pub slots: u32,
    in_flight: u32,
    batches: u64,
    busy_ns: u64,
    /// Set when `drain` was sent; tells the supervisor that its exit is in order.
    drained: Arc<AtomicBool>,
}

impl WorkerLink {
    /// A worker that has said it is ready.
    pub fn new(name: String, pid: i32, channel: CoreEnd, drained: Arc<AtomicBool>) -> Self {
        let slots = channel.slots();
        Self { name, pid, channel, slots, in_flight: 0, batches: 0, busy_ns: 0, drained }
    }
}

enum Outcome {
    Pending,
    Result,
    Failed { byte_length: u32 },
}

struct InFlight {
    worker: usize,
    slot: u32,
    rows: u32,
    ingest_ns: u64,
    publish_ns: u64,
    mark: Option<Mark>,
    outcome: Outcome,
}

struct OpenBatch {
    worker: usize,
    slot: u32,
    ingest_ns: u64,
    mark: Option<Mark>,
}

/// A failed batch on its way to dead letters.
struct Failure {
    error: String,
    traceback: Option<String>,
    next_row: usize,
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
    offering: bool,
    parts: Vec<ColumnParts>,
    response_parts: Vec<ColumnParts>,
    failure: Option<Failure>,
    dead: DeadLetterBatch,
    row_encoder: Box<dyn Encoder>,
    text: Vec<u8>,
    inputs: InputMarks,
    /// A mark with no batch before it.
    idle_mark: Option<Mark>,
    ended: bool,
    rows_in: u64,
    rows_out: u64,
    skipped: u64,
    finished: [bool; 3],
}

/// What a UDF node is made of.
pub struct UdfParts {
    /// The step's name.
    pub name: String,
    /// What a failed batch leads to.
    pub on_error: OnError,
    /// Layout of request slots.
    pub request: Arc<Template>,
    /// Layout of response slots.
    pub response: Arc<Template>,
    /// Schema of the results: input columns, then the function's.
    pub output: Arc<Schema>,
    /// Its workers in this shard.
    pub workers: Vec<WorkerLink>,
    /// Streams it reads.
    pub inputs: usize,
}

impl UdfOperator {
    /// All workers are ready.
    pub fn new(parts: UdfParts) -> Result<Self, EngineError> {
        let layout = |error| EngineError::Layout { node: parts.name.clone(), error };
        let dead = DeadLetterBatch::new(&parts.name).map_err(layout)?;
        let input = parts.request.schema().clone();
        let row_encoder =
            encoder(Format::Json, &input).map_err(|error| EngineError::Connect { node: parts.name.clone(), error })?;
        let slots: usize = parts.workers.iter().map(|worker| worker.slots as usize).sum();
        Ok(Self {
            writer: BatchWriter::new(parts.request.clone()),
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
            offering: false,
            failure: None,
            dead,
            row_encoder,
            text: Vec::new(),
            idle_mark: None,
            ended: false,
            rows_in: 0,
            rows_out: 0,
            skipped: 0,
            finished: [false; 3],
        })
    }

    /// Room to write into: the open batch, or a new one if a slot is free.
    #[allow(unsafe_code)]
    fn open(&mut self, ingest_ns: u64) -> bool {
        if self.open.is_some() {
            return true;
        }
        let free = self.workers.iter().enumerate().filter(|(_, worker)| worker.channel.free_slots() > 0);
        let Some((worker, _)) = free.min_by_key(|(_, worker)| worker.in_flight) else { return false };
        let channel = &mut self.workers[worker].channel;
        let Some(slot) = channel.acquire() else { return false };
        // SAFETY: the slot was stamped with this template when the channel was made, and from `acquire` to `publish`
        // nobody else touches it.
        unsafe { self.writer.open(channel.slot_memory(slot)) };
        self.open = Some(OpenBatch { worker, slot, ingest_ns, mark: None });
        true
    }

    /// Hands the open batch to its worker.
    fn publish(&mut self) {
        let Some(open) = self.open.take() else { return };
        let closed = self.writer.close();
        let publish_ns = monotonic_ns();
        let worker = &mut self.workers[open.worker];
        worker.in_flight += 1;
        worker.channel.publish(&Submission {
            kind: SubmissionKind::Batch,
            slot: open.slot,
            byte_length: closed.bytes,
            row_count: closed.rows,
            batch: self.head + self.flight.len() as u64,
            epoch: 1,
            ingest_ns: open.ingest_ns,
            publish_ns,
        });
        self.flight.push_back(InFlight {
            worker: open.worker,
            slot: open.slot,
            rows: closed.rows,
            ingest_ns: open.ingest_ns,
            publish_ns,
            mark: open.mark,
            outcome: Outcome::Pending,
        });
    }

    /// Full batches go at once; a started one goes when its worker would otherwise have nothing to do.
    fn publish_if_due(&mut self) -> bool {
        let Some(open) = &self.open else { return false };
        let rows = self.writer.rows();
        let idle = self.workers[open.worker].in_flight == 0;
        let due =
            rows > 0 && (idle || self.ended || self.writer.rows_free() == 0 || open.mark.is_some_and(|mark| mark.cut));
        if due {
            self.publish();
        }
        due
    }

    fn take_completions(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut taken = false;
        for index in 0..self.workers.len() {
            loop {
                let worker = &mut self.workers[index];
                let polled = worker.channel.poll();
                let completion = match polled {
                    Ok(Some(completion)) => completion,
                    Ok(None) => break,
                    Err(violation) => return Err(self.violation(index, violation.to_string())),
                };
                taken = true;
                match completion.kind {
                    CompletionKind::Result | CompletionKind::Failed => self.note_answer(index, &completion, context)?,
                    _ => {}
                }
            }
        }
        Ok(taken)
    }

    fn note_answer(
        &mut self,
        index: usize,
        completion: &Completion,
        context: &mut ShardContext<'_>,
    ) -> Result<(), EngineError> {
        let entry =
            completion.batch.checked_sub(self.head).and_then(|at| self.flight.get_mut(usize::try_from(at).ok()?));
        let entry = entry.filter(|entry| {
            entry.worker == index && entry.slot == completion.slot && matches!(entry.outcome, Outcome::Pending)
        });
        let Some(entry) = entry else {
            return Err(
                self.violation(index, format!("an answer to batch {}, which it was not given", completion.batch))
            );
        };
        entry.outcome = match completion.kind {
            CompletionKind::Failed => Outcome::Failed { byte_length: completion.byte_length },
            _ => Outcome::Result,
        };
        let (now_ns, rows) = (monotonic_ns(), u64::from(entry.rows));
        let busy_ns = completion.udf_end_ns.saturating_sub(completion.udf_start_ns);
        context.histograms.record(Stage::RequestRing, completion.pickup_ns.saturating_sub(entry.publish_ns), rows);
        context.histograms.record(Stage::Udf, busy_ns, rows);
        context.histograms.record(Stage::ResponseRing, now_ns.saturating_sub(completion.udf_end_ns), rows);
        let worker = &mut self.workers[index];
        worker.in_flight -= 1;
        worker.batches += 1;
        worker.busy_ns += busy_ns;
        Ok(())
    }

    fn violation(&self, worker: usize, violation: String) -> EngineError {
        let worker = &self.workers[worker];
        super::supervisor::kill(worker.pid);
        EngineError::Protocol { worker: worker.name.clone(), violation }
    }

    /// Looks at the batch at the head of the order: makes its result the current offer, or deals with its failure.
    fn serve_head(&mut self) -> Result<bool, EngineError> {
        if self.offering || self.idle_mark.is_some() {
            return Ok(false);
        }
        match self.flight.front().map(|entry| &entry.outcome) {
            Some(Outcome::Result) => {
                self.compose()?;
                self.offering = true;
                Ok(true)
            }
            Some(&Outcome::Failed { byte_length }) => self.fail_head(byte_length),
            Some(Outcome::Pending) | None => Ok(false),
        }
    }

    /// Describes the head's result: the request slot's columns and a verified copy of the response slot's.
    #[allow(unsafe_code)]
    fn compose(&mut self) -> Result<(), EngineError> {
        let Some(head) = self.flight.front() else { return Ok(()) };
        let (index, slot, rows) = (head.worker, head.slot, head.rows);
        let channel = &self.workers[index].channel;
        let response = self.response.template().clone();
        // SAFETY: the pointer is to the slot's response room, `response.bytes()` long; the worker may still scribble on
        // it, which `copy_untrusted` is made for.
        let copied = unsafe { response.copy_untrusted(channel.response_memory(slot), rows, &mut self.response) };
        if let Err(error) = copied {
            return Err(self.violation(index, format!("a result that is not a valid micro-batch: {error}")));
        }
        self.request_parts(index, slot)?;
        self.response.view().parts(&mut self.response_parts);
        self.parts.extend_from_slice(&self.response_parts);
        Ok(())
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

    fn fail_head(&mut self, byte_length: u32) -> Result<bool, EngineError> {
        let Some(head) = self.flight.front() else { return Ok(false) };
        let (index, slot, rows) = (head.worker, head.slot, head.rows);
        if self.failure.is_none() {
            self.text.clear();
            self.workers[index].channel.copy_response(slot, byte_length, &mut self.text);
            let failure = Failure::read(&self.text);
            let (worker, batch) = (&self.workers[index].name, self.head);
            tracing::warn!(step = %self.name, %worker, batch, rows, "the function failed: {}", failure.error);
            if self.on_error == OnError::Stop {
                let (step, error, traceback) = (self.name.clone(), failure.error, failure.traceback);
                return Err(EngineError::Udf { step, batch, rows, error, traceback });
            }
            self.failure = Some(failure);
        }
        if self.on_error == OnError::DeadLetter {
            self.request_parts(index, slot)?;
            if !self.write_dead_letters(rows as usize) {
                return Ok(false);
            }
        } else {
            self.skipped += u64::from(rows);
        }
        self.failure = None;
        self.idle_mark = self.release_head();
        Ok(true)
    }

    /// Writes the failed batch's rows to dead letters; `false`: no room for more now.
    #[allow(unsafe_code)]
    fn write_dead_letters(&mut self, rows: usize) -> bool {
        let Some(failure) = &mut self.failure else { return true };
        // SAFETY: the parts were just made from the request slot, which holds `rows` rows of the input schema.
        let view = unsafe { BatchView::from_parts(&self.input, rows, &self.parts) };
        while failure.next_row < rows {
            if !self.dead.has_room() {
                return false;
            }
            self.text.clear();
            self.row_encoder.encode(&view, failure.next_row..failure.next_row + 1, &mut self.text);
            let record = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
            self.dead.push_row(&failure.error, failure.traceback.as_deref(), record);
            failure.next_row += 1;
        }
        true
    }

    /// A row that fits no micro-batch goes to dead letters; `false`: no room there now.
    fn refuse_row(&mut self, view: &BatchView<'_>, row: usize) -> bool {
        if !self.dead.has_room() {
            return false;
        }
        let room = self.request.capacity().variable_bytes_max;
        let reason =
            format!("the row needs more than the {room} bytes that batch_bytes gives each variable-length column");
        self.text.clear();
        self.row_encoder.encode(view, row..row + 1, &mut self.text);
        self.dead.push_row(&reason, None, self.text.strip_suffix(b"\n").unwrap_or(&self.text));
        true
    }

    /// Gives the head's slot back; returns the mark that followed it.
    fn release_head(&mut self) -> Option<Mark> {
        let head = self.flight.pop_front()?;
        self.head += 1;
        self.workers[head.worker].channel.release(head.slot);
        head.mark
    }

    fn drain_workers(&mut self) {
        for worker in &mut self.workers {
            if worker.drained.swap(true, Ordering::AcqRel) {
                continue;
            }
            let drain = Submission::new(SubmissionKind::Drain);
            worker.channel.publish(&Submission { publish_ns: monotonic_ns(), epoch: 1, ..drain });
        }
    }

    fn is_empty(&self) -> bool {
        self.flight.is_empty() && self.writer_rows() == 0
    }

    fn writer_rows(&self) -> u32 {
        if self.open.is_some() { self.writer.rows() } else { 0 }
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
        let (error, traceback) = match serde_json::from_slice::<Payload>(payload) {
            Ok(payload) => (payload.error, payload.traceback),
            Err(_) => (String::from_utf8_lossy(payload).into_owned(), None),
        };
        Failure { error, traceback, next_row: 0 }
    }
}

impl Operator for UdfOperator {
    fn advance(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut moved = self.take_completions(context)?;
        moved |= self.serve_head()?;
        moved |= self.publish_if_due();
        if self.finished[ROWS] {
            self.drain_workers();
        }
        Ok(moved)
    }

    fn accept(&mut self, _: usize, delivery: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        let (mut first, end) = (delivery.first, delivery.view.rows());
        while first < end && self.idle_mark.is_none() && self.open(delivery.ingest_ns) {
            let copied = self.writer.copy_rows(&delivery.view, first..end);
            first += copied;
            if copied == 0 && self.writer.rows() == 0 {
                if !self.refuse_row(&delivery.view, first) {
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
        if self.writer_rows() > 0 {
            if let Some(open) = &mut self.open {
                open.mark = Some(mark);
            }
            if mark.cut || mark.end {
                self.publish();
            }
        } else if let Some(last) = self.flight.back_mut() {
            last.mark = Some(mark);
        } else {
            self.idle_mark = Some(mark);
        }
        Ok(())
    }

    #[allow(unsafe_code)]
    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        match port {
            ROWS if self.offering => {
                let head = self.flight.front()?;
                // SAFETY: `compose` made the parts from the head's slots, which stay unchanged until `release_head`.
                let view = unsafe { BatchView::from_parts(&self.output, head.rows as usize, &self.parts) };
                let rows = Rows { view, first: 0, ingest_ns: head.ingest_ns };
                Some(Offer { rows: Some(rows), mark: head.mark })
            }
            ROWS => self.idle_mark.map(|mark| Offer { rows: None, mark: Some(mark) }),
            DEAD_LETTERS if self.dead.rows() > 0 => self.dead.offer(),
            _ if self.finished[ROWS] && !self.finished[port] => {
                let mark = Mark { watermark_ns: i64::MAX, end: true, ..Mark::START };
                Some(Offer { rows: None, mark: Some(mark) })
            }
            _ => None,
        }
    }

    fn delivered(&mut self, port: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        match port {
            ROWS => {
                let mark = if self.offering {
                    self.offering = false;
                    self.rows_out += self.flight.front().map_or(0, |head| u64::from(head.rows));
                    self.release_head()
                } else {
                    self.idle_mark.take()
                };
                self.finished[ROWS] |= mark.is_some_and(|mark| mark.end) && self.is_empty();
            }
            DEAD_LETTERS if self.dead.rows() > 0 => self.dead.clear(),
            LATE | DEAD_LETTERS => self.finished[port] = true,
            _ => {}
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.finished.iter().all(|finished| *finished)
            && self.workers.iter().all(|worker| worker.drained.load(Ordering::Acquire))
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.rows_in = self.rows_in;
        counts.rows_out = self.rows_out;
        counts.dead_letters = self.dead.total();
        counts.absorbed = self.skipped;
    }

    fn direct_writer(&mut self, context: &mut ShardContext<'_>) -> Option<&mut BatchWriter> {
        (self.idle_mark.is_none() && self.open(context.now_ns)).then_some(&mut self.writer)
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

    fn arm_sleep(&mut self) -> bool {
        self.workers.iter_mut().all(|worker| worker.channel.arm_sleep())
    }

    fn disarm_sleep(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.channel.disarm_sleep());
    }

    fn workers(&self, workers: &mut Vec<WorkerSnapshot>, next: usize) -> usize {
        workers.resize_with(workers.len().max(next + self.workers.len()), WorkerSnapshot::default);
        for (snapshot, worker) in workers[next..].iter_mut().zip(&self.workers) {
            snapshot.name.clone_from(&worker.name);
            snapshot.pid = worker.pid;
            snapshot.in_flight = worker.in_flight;
            snapshot.slots = worker.slots;
            snapshot.leased = u32::try_from(worker.channel.leased_slots()).unwrap_or(u32::MAX);
            snapshot.batches = worker.batches;
            snapshot.busy_ns = worker.busy_ns;
            snapshot.alive = true;
        }
        next + self.workers.len()
    }
}
