//! The thread that does a sink's writing, and the shards' lanes to it.
//!
//! Rows go through a bounded queue to one writer thread per sink, so a slow disk stalls nobody but those who produce for
//! it. They are encoded by whoever has time: the writer thread as long as it keeps up, else the shard (ADR 29). With checkpoints the thread also ends epochs: when the barrier of an epoch has come from every shard
//! it makes the epoch's rows durable and says so; it shows them when the checkpoint thread tells it to, and not before.
//! Lack of space is waited out: the rows stay in the queue, and the full queue holds the shards back.

use std::mem;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, never, select};
use ringmill_connect::{ConnectError, Encoder, Writer};
use ringmill_failpoint::hit;
use ringmill_ring::monotonic_ns;
use ringmill_wire::{BatchView, Capacity, Field, HeapBatch, Schema, Template, WireError};

use super::checkpoint_thread::{CheckpointEvent, Message, SinkCommand};
use super::operator::Delivery;
use super::patience::{LEFT_TO_NEXT_RUN, LOOK, Patience, RETRY, Spent};
use super::signal::ShardSignal;
use crate::checkpoint::{Alignment, Event, Part};
use crate::error::EngineError;
use crate::instruments::ProbeLane;
use crate::metrics::{Control, Mailbox, Stage, StageHistograms};

/// Bytes at which a chunk is handed to the writer.
const CHUNK_BYTES: usize = 256 << 10;
/// Room for the row that makes it so many.
const CHUNK_ROOM: usize = CHUNK_BYTES + (CHUNK_BYTES >> 2);
/// Fewest chunks that each shard has for each sink.
const CHUNKS_MIN: usize = 4;
/// A batch of fewer rows is encoded sooner than it is handed over.
const ROWS_WORTH_HANDING_OVER: usize = 256;
/// Most rows of a chunk that are not encoded.
const ROWS_MAX: usize = 4096;
/// What a variable-length value is taken for when rows are counted that a chunk should hold.
const VARIABLE_BYTES: usize = 16;
/// Least room for a variable-length column of rows that are handed over. What does not fit is encoded by the shard.
const VARIABLE_BYTES_MIN: usize = 16 << 10;

/// Rows on their way to the writer.
pub(super) struct Chunk {
    /// Rows as they came, for the writer to encode.
    batch: HeapBatch,
    /// Rows that are encoded; a chunk holds either these or those.
    pub bytes: Vec<u8>,
    /// How many rows that is.
    rows: u64,
    /// When the chunk's rows were read and given to the sink, with their number.
    times: Vec<(u64, u64, u64)>,
    /// The epoch that the rows belong to.
    epoch: u64,
    /// Bytes of memory that it took when it was sent.
    memory_bytes: usize,
    /// The shard it belongs to.
    from: usize,
}

impl Chunk {
    fn new(template: &Arc<Template>, from: usize) -> Self {
        Self {
            batch: HeapBatch::new(template.clone()),
            bytes: Vec::with_capacity(CHUNK_ROOM),
            rows: 0,
            times: Vec::with_capacity(1024),
            epoch: 0,
            memory_bytes: 0,
            from,
        }
    }

    /// Its rows are to be encoded.
    fn is_raw(&self) -> bool {
        self.batch.rows() > 0
    }

    /// Notes rows that were added: of which epoch they are, when they were read, and when they were given to the sink.
    pub(super) fn note(&mut self, epoch: u64, ingest_ns: u64, given_ns: u64, rows: usize) {
        self.epoch = epoch;
        self.rows += rows as u64;
        self.times.push((ingest_ns, given_ns, rows as u64));
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.bytes.clear();
        self.bytes.shrink_to(CHUNK_ROOM);
        self.times.clear();
        self.rows = 0;
    }
}

/// What a lane carries, in order.
enum ToWriter {
    Chunk(Chunk),
    /// The end of an epoch in one shard, perhaps also that of all input.
    Barrier {
        epoch: u64,
        is_over: bool,
        from: usize,
    },
}

/// Where a shard's rows wait for a sink.
pub struct Room {
    /// A chunk's rows before they are encoded.
    template: Arc<Template>,
    /// Bytes of memory that chunks may take, beyond the first few.
    bytes: usize,
}

impl Room {
    /// For rows like these.
    pub fn new(schema: &Arc<Schema>, bytes: u64) -> Result<Self, WireError> {
        let width = |field: &Field| field.data_type.width().unwrap_or(VARIABLE_BYTES);
        let row_bytes: usize = schema.fields.iter().map(width).sum();
        let variable = schema.fields.iter().filter(|field| field.data_type.is_variable()).count();
        let capacity = Capacity {
            rows_max: (CHUNK_BYTES / row_bytes.max(1)).clamp(ROWS_WORTH_HANDING_OVER, ROWS_MAX) as u32,
            variable_bytes_max: (CHUNK_BYTES / variable.max(1)).max(VARIABLE_BYTES_MIN) as u32,
        };
        let template = Arc::new(Template::new(schema.clone(), capacity)?);
        Ok(Self { template, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
    }

    /// Bytes of memory that a chunk takes whose rows are no longer than usual: it may have held them as they came, and as bytes.
    fn chunk_bytes(&self) -> usize {
        self.template.bytes() + CHUNK_ROOM
    }

    /// Most chunks that there can be.
    fn chunks_max(&self) -> usize {
        (self.bytes / self.chunk_bytes()).max(CHUNKS_MIN)
    }

    /// Bytes of memory that it takes once all of it was in use.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes.max(CHUNKS_MIN * self.chunk_bytes()) as u64
    }
}

/// One shard's way to a writer thread and back.
pub struct WriterLane {
    to_writer: Sender<ToWriter>,
    /// Chunks that the writer has given back.
    returned: Receiver<Chunk>,
    /// Empty chunks; the one that was used last is used first.
    spare: Vec<Chunk>,
    /// The chunk being filled.
    open: Option<Chunk>,
    room: Arc<Room>,
    /// Chunks that there are; more are made when they are needed.
    made: usize,
    /// Chunks that were sent and not taken back, and the bytes of memory that they took then.
    away: usize,
    away_bytes: usize,
    from: usize,
}

impl WriterLane {
    /// An open chunk with room for bytes, if there is memory for it.
    pub(super) fn chunk(&mut self) -> Option<&mut Chunk> {
        if self.open.as_ref().is_some_and(Chunk::is_raw) && !self.send() {
            return None;
        }
        self.any_chunk().filter(|chunk| chunk.bytes.len() < CHUNK_BYTES)
    }

    fn any_chunk(&mut self) -> Option<&mut Chunk> {
        self.take_back();
        if self.open.is_none() {
            let may_make = self.made < CHUNKS_MIN || self.memory_bytes() + self.room.chunk_bytes() <= self.room.bytes;
            self.open = self.spare.pop().or_else(|| {
                self.made += usize::from(may_make);
                may_make.then(|| Chunk::new(&self.room.template, self.from))
            });
        }
        self.open.as_mut()
    }

    /// Takes chunks back, and frees some of them if others hold rows that are longer than usual.
    fn take_back(&mut self) {
        for chunk in self.returned.try_iter() {
            self.away -= 1;
            self.away_bytes -= chunk.memory_bytes;
            self.spare.push(chunk);
        }
        while self.made > CHUNKS_MIN && self.memory_bytes() > self.room.bytes && self.spare.pop().is_some() {
            self.made -= 1;
        }
    }

    fn memory_bytes(&self) -> usize {
        self.away_bytes + self.spare.len() * self.room.chunk_bytes()
    }

    /// Puts rows into the open chunk for the writer to encode; returns how many. There are none if their batch is too small to
    /// be worth it, if there is no room, or if half of it waits for the writer: then that has more to do than we have.
    pub(super) fn hand_over(&mut self, epoch: u64, given_ns: u64, rows: &Delivery<'_>) -> usize {
        self.take_back();
        let is_behind = 2 * self.away > CHUNKS_MIN && 2 * self.away_bytes > self.room.bytes;
        let is_raw = self.open.as_ref().is_some_and(Chunk::is_raw);
        if is_behind || !is_raw && rows.view.rows() < ROWS_WORTH_HANDING_OVER {
            return 0;
        }
        // A chunk is filled with what it has begun with, unless the writer waits for it.
        if !is_raw && self.has_rows() && (self.away > 0 || !self.send()) {
            return 0;
        }
        let Some(chunk) = self.any_chunk() else { return 0 };
        let count = chunk.batch.writer().copy_rows(&rows.view, rows.first..rows.view.rows());
        if count > 0 {
            chunk.note(epoch, rows.ingest_ns, given_ns, count);
        }
        if count < rows.remaining() || chunk.batch.writer().rows_free() == 0 {
            self.send();
        }
        count
    }

    /// Hands the open chunk to the writer, if it has rows; says whether it did.
    pub(super) fn send(&mut self) -> bool {
        let Some(mut chunk) = self.open.take_if(|chunk| chunk.rows > 0) else { return false };
        chunk.memory_bytes = self.room.template.bytes() + chunk.bytes.capacity();
        let memory_bytes = chunk.memory_bytes;
        match self.to_writer.try_send(ToWriter::Chunk(chunk)) {
            Ok(()) => {
                self.away += 1;
                self.away_bytes += memory_bytes;
                true
            }
            // The queue has room for all there is, so it is never full; a writer that is gone has already failed the run.
            Err(TrySendError::Full(unsent) | TrySendError::Disconnected(unsent)) => {
                if let ToWriter::Chunk(chunk) = unsent {
                    self.open = Some(chunk);
                }
                false
            }
        }
    }

    /// Rows wait in the open chunk.
    pub(super) fn has_rows(&self) -> bool {
        self.open.as_ref().is_some_and(|chunk| chunk.rows > 0)
    }

    /// The open chunk has as many bytes as one should.
    pub(super) fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|chunk| chunk.bytes.len() >= CHUNK_BYTES)
    }

    /// The writer has nothing of ours to do.
    pub(super) fn is_writer_idle(&self) -> bool {
        self.away == self.returned.len()
    }

    /// Queues the end of `epoch` behind the open chunk, and if it `is_over` that of all input; `false`: there is no room now,
    /// to be asked again.
    pub(super) fn barrier(&mut self, epoch: u64, is_over: bool) -> bool {
        self.send();
        if self.has_rows() {
            return false;
        }
        self.to_writer.try_send(ToWriter::Barrier { epoch, is_over, from: self.from }).is_ok()
    }
}

/// How long a run that has failed waits for a sink that may be stuck in a write.
const STUCK: Duration = Duration::from_secs(1);

/// A sink's writing thread.
pub struct WriterThread {
    handle: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// A sink's part in checkpoints.
pub struct CommitLink {
    /// Its number among the sinks that take part.
    pub sink: usize,
    /// The last epoch that was committed before this run; 0: none.
    pub recovered_epoch: u64,
    /// When to show what.
    pub commands: Receiver<SinkCommand>,
    /// What it reports.
    pub reports: Sender<Message>,
}

/// One sink's thread and the shards' lanes to it, each with so much room; `commits` is its part in checkpoints, if there are
/// any.
pub fn start_writer(
    name: &str,
    (encoder, writer): (Box<dyn Encoder>, Box<dyn Writer>),
    room: Room,
    commits: Option<CommitLink>,
    probe: Option<ProbeLane>,
    signals: &[Arc<ShardSignal>],
    control: &Arc<Control>,
) -> Result<(WriterThread, Vec<WriterLane>), EngineError> {
    // At most one barrier is on its way at any time, so this holds everything there ever is.
    let (to_writer, queue) = bounded::<ToWriter>((room.chunks_max() + 1) * signals.len());
    let epoch = commits.as_ref().map_or(0, |link| link.recovered_epoch) + 1;
    let mut lanes = Vec::with_capacity(signals.len());
    let mut returns = Vec::with_capacity(signals.len());
    let room = Arc::new(room);
    for (from, signal) in signals.iter().enumerate() {
        let (give_back, returned) = bounded(room.chunks_max());
        lanes.push(WriterLane {
            to_writer: to_writer.clone(),
            returned,
            spare: (0..CHUNKS_MIN).map(|_| Chunk::new(&room.template, from)).collect(),
            open: None,
            room: room.clone(),
            made: CHUNKS_MIN,
            away: 0,
            away_bytes: 0,
            from,
        });
        returns.push((give_back, signal.clone()));
    }
    let thread = Thread {
        name: name.to_owned(),
        encoder,
        encoded: Vec::with_capacity(CHUNK_ROOM),
        writer,
        alignment: Alignment::new(signals.len(), epoch - 1),
        commits,
        control: control.clone(),
        mailbox: control.add_mailbox(),
        histograms: StageHistograms::default(),
        probe,
        returns,
        shards_over: 0,
        unwritten_rows: 0,
    };
    let spawned = std::thread::Builder::new().name(format!("sink-{name}"));
    let (ending, ended) = bounded(0);
    let handle = spawned.spawn(move || {
        let _guard = thread.control.guard();
        let _ending: Sender<()> = ending;
        thread.run(&queue);
    });
    let handle = handle.map_err(|error| EngineError::system(format!("start the thread of sink {name}"), error))?;
    Ok((WriterThread { handle, ended }, lanes))
}

impl WriterThread {
    /// Waits until everything was written; the lanes must be gone.
    pub fn join(self) -> Result<(), EngineError> {
        self.handle.join().map_err(|_| EngineError::Internal("a sink's thread panicked".into()))
    }

    /// Waits a moment; a thread that is stuck in a write is left behind, and ends with the process.
    pub fn abandon(self) {
        if self.ended.recv_timeout(STUCK) == Err(RecvTimeoutError::Disconnected) {
            // It has ended, so this does not wait; a panic has failed the run already.
            let _ = self.handle.join();
        }
    }
}

/// Why the thread ends before its output does.
enum Stop {
    /// The run is over without this sink.
    Aborted,
    /// This sink ends the run.
    Failed(EngineError),
    /// The run is to be drained, and what this sink lacks does not come.
    GivenUp(ConnectError),
}

struct Thread {
    name: String,
    encoder: Box<dyn Encoder>,
    /// Rows that it has encoded; empty between two chunks.
    encoded: Vec<u8>,
    writer: Box<dyn Writer>,
    alignment: Alignment,
    commits: Option<CommitLink>,
    control: Arc<Control>,
    mailbox: Arc<Mailbox>,
    histograms: StageHistograms,
    /// Where a bench measures.
    probe: Option<ProbeLane>,
    returns: Vec<(Sender<Chunk>, Arc<ShardSignal>)>,
    /// Shards in which all input has come to its end.
    shards_over: usize,
    /// Rows that were given up.
    unwritten_rows: u64,
}

impl Thread {
    fn run(mut self, queue: &Receiver<ToWriter>) {
        let outcome = self.serve(queue).and_then(|()| self.persist(|writer| writer.finish()));
        match outcome {
            Ok(()) | Err(Stop::Aborted) => {}
            Err(Stop::Failed(error)) => self.fail(error),
            Err(Stop::GivenUp(error)) => self.give_up(queue, &error),
        }
        self.mailbox.post_final(None, self.histograms);
    }

    fn fail(&self, error: EngineError) {
        if let Some(link) = &self.commits {
            self.report(Event::Failed { part: Part::Sink(link.sink) });
        }
        self.control.fail(error);
    }

    /// Ends the run. With checkpoints nothing of the epoch can be committed, here or elsewhere. Without them the other
    /// sinks get all of their rows: ours are taken and counted until there are none left.
    fn give_up(&self, queue: &Receiver<ToWriter>, error: &ConnectError) {
        let reason = format!("write to sink {}: {error}", self.name);
        if self.commits.is_some() {
            return self.fail(EngineError::Unfinished { reason, left: LEFT_TO_NEXT_RUN.into() });
        }
        let mut rows = self.unwritten_rows;
        for message in queue {
            if let ToWriter::Chunk(chunk) = message {
                rows += chunk.rows;
                self.give_back(chunk);
            }
        }
        let left = format!("the output is incomplete: {rows} rows were not written");
        self.control.fail_at_end(EngineError::Unfinished { reason, left });
    }

    /// Until everything was written and, with checkpoints, committed.
    fn serve(&mut self, queue: &Receiver<ToWriter>) -> Result<(), Stop> {
        let commands = self.commits.as_ref().map_or_else(never, |link| link.commands.clone());
        loop {
            select! {
                recv(queue) -> message => match message {
                    Ok(message) => self.take(message)?,
                    Err(_) => break,
                },
                recv(commands) -> command => {
                    // A checkpoint thread that ends without a word has failed.
                    if self.obey(command.map_err(|_| Stop::Aborted)?)? {
                        return Ok(());
                    }
                }
            }
        }
        if self.commits.is_none() {
            return Ok(());
        }
        loop {
            if self.obey(commands.recv().map_err(|_| Stop::Aborted)?)? {
                return Ok(());
            }
        }
    }

    fn take(&mut self, message: ToWriter) -> Result<(), Stop> {
        match message {
            ToWriter::Chunk(chunk) => self.write(chunk),
            ToWriter::Barrier { epoch, is_over, from } => {
                self.shards_over += usize::from(is_over);
                let arrived = self.alignment.arrive(from, epoch);
                let arrived = arrived
                    .map_err(|refusal| Stop::Failed(EngineError::Internal(format!("sink {}: {refusal}", self.name))));
                match arrived? {
                    Some(epoch) => self.stage(epoch),
                    None => Ok(()),
                }
            }
        }
    }

    fn write(&mut self, mut chunk: Chunk) -> Result<(), Stop> {
        if let Err(stop) = self.encode_and_write(&mut chunk) {
            self.unwritten_rows += chunk.rows;
            self.give_back(chunk);
            return Err(stop);
        }
        let ended_ns = monotonic_ns();
        for (ingest_ns, given_ns, rows) in chunk.times.drain(..) {
            self.histograms.record(Stage::Sink, ended_ns.saturating_sub(given_ns), rows);
            if ingest_ns > 0 {
                self.histograms.record(Stage::EndToEnd, ended_ns.saturating_sub(ingest_ns), rows);
                if let Some(probe) = &mut self.probe {
                    probe.record(ingest_ns, ended_ns, rows);
                }
            }
        }
        self.mailbox.post_histograms(&mut self.histograms);
        self.give_back(chunk);
        Ok(())
    }

    /// Encodes what is not, and writes it in pieces; what is not written stays counted in the chunk's rows.
    fn encode_and_write(&mut self, chunk: &mut Chunk) -> Result<(), Stop> {
        if !chunk.is_raw() {
            return self.persist(|writer| writer.write(chunk.epoch, &chunk.bytes));
        }
        let mut bytes = mem::take(&mut self.encoded);
        let outcome = self.write_rows(&chunk.batch.view(), chunk.epoch, &mut chunk.rows, &mut bytes);
        bytes.clear();
        self.encoded = bytes;
        outcome
    }

    fn write_rows(
        &mut self,
        view: &BatchView<'_>,
        epoch: u64,
        left: &mut u64,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let mut row = 0;
        while row < view.rows() {
            let next = (row + self.encoder.rows_at_once()).min(view.rows());
            self.encoder.check(view, row..next).map_err(|error| self.failure(error))?;
            self.encoder.encode(view, row..next, bytes);
            row = next;
            if bytes.len() >= CHUNK_BYTES || row == view.rows() {
                self.persist(|writer| writer.write(epoch, bytes))?;
                bytes.clear();
                *left = (view.rows() - row) as u64;
            }
        }
        Ok(())
    }

    fn failure(&self, error: ConnectError) -> Stop {
        Stop::Failed(EngineError::Connect { node: self.name.clone(), error })
    }

    fn give_back(&self, mut chunk: Chunk) {
        chunk.clear();
        let (give_back, signal) = &self.returns[chunk.from];
        let _ = give_back.try_send(chunk);
        signal.notify();
    }

    /// All rows of `epoch` were written: makes them durable and says so.
    fn stage(&mut self, epoch: u64) -> Result<(), Stop> {
        hit("coordinator.sink.aligned");
        if self.shards_over == self.returns.len() {
            self.writer.input_ends();
        }
        let staged = self.persist(|writer| writer.pre_commit(epoch))?;
        hit("coordinator.sink.staged");
        if let Some(link) = &self.commits {
            self.report(Event::SinkStaged { sink: link.sink, epoch, staged });
        }
        Ok(())
    }

    /// Does what the checkpoint thread wants; says whether that was the last.
    fn obey(&mut self, command: SinkCommand) -> Result<bool, Stop> {
        match command {
            SinkCommand::Finish => Ok(true),
            SinkCommand::Commit(epoch) => {
                hit("coordinator.sink.commit");
                self.persist(|writer| writer.commit(epoch))?;
                hit("coordinator.sink.committed");
                if let Some(link) = &self.commits {
                    self.report(Event::SinkCommitted { sink: link.sink, epoch });
                }
                Ok(false)
            }
        }
    }

    fn report(&self, event: CheckpointEvent) {
        if let Some(link) = &self.commits {
            // A checkpoint thread that is gone has ended the run.
            let _ = link.reports.send(Message::Event(event));
        }
    }

    /// Tries until it works; what cannot get better by waiting ends the run, and so does a drain that would have to wait.
    fn persist<T>(&mut self, mut attempt: impl FnMut(&mut dyn Writer) -> Result<T, ConnectError>) -> Result<T, Stop> {
        let (mut patience, mut is_paused) = (Patience::default(), false);
        loop {
            match attempt(self.writer.as_mut()) {
                Ok(value) => {
                    if is_paused {
                        self.resume();
                    }
                    return Ok(value);
                }
                Err(error) if error.is_transient() => {
                    if !is_paused {
                        self.pause(&error);
                        is_paused = true;
                    }
                    match patience.is_left(&self.control) {
                        Ok(()) => self.wait()?,
                        Err(Spent::Aborted) => return Err(Stop::Aborted),
                        Err(Spent::Draining) => return Err(Stop::GivenUp(error)),
                    }
                }
                Err(error) => return Err(self.failure(error)),
            }
        }
    }

    fn pause(&self, error: &ConnectError) {
        let (reason, told) = if error.is_out_of_space() {
            let reason = format!("paused: no space for sink {}", self.name);
            (reason.clone(), format!("{reason} ({error})"))
        } else {
            let reason = format!("paused: sink {}: {error}", self.name);
            (reason.clone(), reason)
        };
        tracing::error!("{told}; trying again every second");
        self.control.pause(&self.name, &reason);
        if let Some(link) = &self.commits {
            self.report(Event::Paused { part: Part::Sink(link.sink), reason });
        }
    }

    fn resume(&self) {
        tracing::info!("sink {} goes on", self.name);
        self.control.resume(&self.name);
        if let Some(link) = &self.commits {
            self.report(Event::Resumed { part: Part::Sink(link.sink) });
        }
    }

    /// Waits a moment. Commits that come meanwhile are done: rows that lack space must not hold back rows that have it.
    fn wait(&mut self) -> Result<(), Stop> {
        let commands = self.commits.as_ref().map_or_else(never, |link| link.commands.clone());
        let until = std::time::Instant::now() + RETRY;
        while std::time::Instant::now() < until {
            if self.control.is_aborted() {
                return Err(Stop::Aborted);
            }
            match commands.recv_timeout(LOOK) {
                Ok(command) => {
                    self.obey(command)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stop::Aborted),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "writer_thread_tests.rs"]
mod tests;
