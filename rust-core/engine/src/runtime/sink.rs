//! The sink node of one shard, and the thread that does a sink's writing.
//!
//! Rows become bytes on the shard's thread; the bytes go through a bounded queue to one writer thread per sink, so a
//! slow disk stalls nobody but those who produce for it. The null sink needs no thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use ringmill_connect::{Checksum, Encoder, Writer};
use ringmill_ring::monotonic_ns;

use super::operator::{Delivery, InputMarks, Mark, Offer, Operator, ShardContext};
use super::signal::ShardSignal;
use crate::error::EngineError;
use crate::metrics::{Control, Mailbox, NodeCounts, Stage, StageHistograms};

/// Bytes at which a chunk is handed to the writer.
const CHUNK_BYTES: usize = 256 << 10;
/// Rows encoded in one go before the chunk's size is looked at.
const ENCODE_ROWS: usize = 256;
/// Chunks each shard has for each sink.
const CHUNKS: usize = 4;

/// Encoded rows on their way to the writer.
struct Chunk {
    bytes: Vec<u8>,
    rows: u64,
    /// When the chunk's rows were read and given to the sink, with their number.
    times: Vec<(u64, u64, u64)>,
    epoch: u64,
    from: usize,
}

/// Bytes of memory the chunks of one sink take in one shard.
pub fn chunk_memory_bytes() -> u64 {
    (CHUNKS * CHUNK_BYTES) as u64
}

/// Where a sink node's rows go.
pub enum SinkTarget {
    /// Counted and checksummed.
    Null(Checksum),
    /// Encoded and written by a thread.
    Writer {
        /// Rows to bytes.
        encoder: Box<dyn Encoder>,
        /// The way to the thread.
        lane: WriterLane,
    },
}

/// One shard's way to a writer thread and back.
pub struct WriterLane {
    to_writer: Sender<Chunk>,
    spare: Receiver<Chunk>,
    open: Option<Chunk>,
    /// Chunks not with us.
    away: usize,
}

/// The sink node of one shard.
pub struct SinkOperator {
    target: SinkTarget,
    inputs: InputMarks,
    mark: Mark,
    rows: u64,
}

impl SinkOperator {
    /// Writes to `target`.
    pub fn new(target: SinkTarget, inputs: usize) -> Self {
        Self { target, inputs: InputMarks::new(inputs), mark: Mark::START, rows: 0 }
    }

    /// The checksum of a null sink.
    pub fn checksum(&self) -> Option<u64> {
        match &self.target {
            SinkTarget::Null(checksum) => Some(checksum.value()),
            SinkTarget::Writer { .. } => None,
        }
    }
}

impl WriterLane {
    /// An open chunk with room, if the writer has given one back.
    fn chunk(&mut self) -> Option<&mut Chunk> {
        if self.open.is_none() {
            self.open = self.spare.try_recv().ok();
            self.away -= usize::from(self.open.is_some());
        }
        self.open.as_mut().filter(|chunk| chunk.bytes.len() < CHUNK_BYTES)
    }

    fn send(&mut self) -> bool {
        let Some(chunk) = self.open.take_if(|chunk| chunk.rows > 0) else { return false };
        match self.to_writer.try_send(chunk) {
            Ok(()) => {
                self.away += 1;
                true
            }
            // The queue holds all chunks there are, so it is never full; a writer that is gone has already failed the run.
            Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) => {
                self.open = Some(chunk);
                false
            }
        }
    }

    /// The writer has nothing of ours to do.
    fn is_writer_idle(&mut self) -> bool {
        self.away == self.spare.len()
    }
}

impl Operator for SinkOperator {
    fn advance(&mut self, _: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let SinkTarget::Writer { lane, .. } = &mut self.target else { return Ok(false) };
        let full = lane.open.as_ref().is_some_and(|chunk| chunk.bytes.len() >= CHUNK_BYTES);
        Ok((full || lane.is_writer_idle()) && lane.send())
    }

    fn accept(
        &mut self,
        _: usize,
        delivery: Delivery<'_>,
        context: &mut ShardContext<'_>,
    ) -> Result<usize, EngineError> {
        let end = delivery.view.rows();
        let started_ns = monotonic_ns();
        let taken = match &mut self.target {
            SinkTarget::Null(checksum) => {
                checksum.update(&delivery.view, delivery.first..end);
                let (rows, ended_ns) = (delivery.remaining() as u64, monotonic_ns());
                context.histograms.record(Stage::Sink, ended_ns.saturating_sub(started_ns), rows);
                if delivery.ingest_ns > 0 {
                    context.histograms.record(Stage::EndToEnd, ended_ns.saturating_sub(delivery.ingest_ns), rows);
                }
                delivery.remaining()
            }
            SinkTarget::Writer { encoder, lane } => {
                let mut row = delivery.first;
                while row < end {
                    let Some(chunk) = lane.chunk() else { break };
                    let next = (row + ENCODE_ROWS).min(end);
                    encoder.encode(&delivery.view, row..next, &mut chunk.bytes);
                    chunk.rows += (next - row) as u64;
                    chunk.times.push((delivery.ingest_ns, started_ns, (next - row) as u64));
                    row = next;
                    if chunk.bytes.len() >= CHUNK_BYTES {
                        lane.send();
                    }
                }
                row - delivery.first
            }
        };
        self.rows += taken as u64;
        Ok(taken)
    }

    fn mark(&mut self, input: usize, mark: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        self.mark = self.inputs.update(input, mark);
        Ok(())
    }

    fn offer(&self, _: usize) -> Option<Offer<'_>> {
        None
    }

    fn delivered(&mut self, _: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let is_sent = match &self.target {
            SinkTarget::Null(_) => true,
            SinkTarget::Writer { lane, .. } => lane.open.as_ref().is_none_or(|chunk| chunk.rows == 0),
        };
        self.mark.end && is_sent
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.rows_in = self.rows;
        counts.rows_out = self.rows;
        counts.checksum = self.checksum();
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

/// One sink's thread and the shards' lanes to it; `header` is written first.
pub fn start_writer(
    name: &str,
    writer: Box<dyn Writer>,
    header: Vec<u8>,
    signals: &[Arc<ShardSignal>],
    control: &Arc<Control>,
) -> Result<(WriterThread, Vec<WriterLane>), EngineError> {
    let (to_writer, chunks) = bounded::<Chunk>(CHUNKS * signals.len());
    let mut lanes = Vec::with_capacity(signals.len());
    let mut returns = Vec::with_capacity(signals.len());
    for (from, signal) in signals.iter().enumerate() {
        let (give_back, spare) = bounded(CHUNKS);
        for _ in 0..CHUNKS {
            let bytes = Vec::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 2));
            let chunk = Chunk { bytes, rows: 0, times: Vec::with_capacity(1024), epoch: 1, from };
            let _ = give_back.try_send(chunk);
        }
        lanes.push(WriterLane { to_writer: to_writer.clone(), spare, open: None, away: CHUNKS });
        returns.push((give_back, signal.clone()));
    }
    let thread = Thread { name: name.to_owned(), writer, control: control.clone(), mailbox: control.add_mailbox() };
    let spawned = std::thread::Builder::new().name(format!("sink-{name}"));
    let (ending, ended) = bounded(0);
    let handle = spawned.spawn(move || {
        let _guard = thread.control.guard();
        let _ending: Sender<()> = ending;
        thread.run(&header, &chunks, &returns);
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

struct Thread {
    name: String,
    writer: Box<dyn Writer>,
    control: Arc<Control>,
    mailbox: Arc<Mailbox>,
}

impl Thread {
    fn run(mut self, header: &[u8], chunks: &Receiver<Chunk>, returns: &[(Sender<Chunk>, Arc<ShardSignal>)]) {
        let mut histograms = StageHistograms::default();
        let mut outcome = if header.is_empty() { Ok(()) } else { self.writer.write(1, header) };
        while outcome.is_ok()
            && let Ok(mut chunk) = chunks.recv()
        {
            outcome = self.writer.write(chunk.epoch, &chunk.bytes);
            let ended_ns = monotonic_ns();
            for (ingest_ns, given_ns, rows) in chunk.times.drain(..) {
                histograms.record(Stage::Sink, ended_ns.saturating_sub(given_ns), rows);
                if ingest_ns > 0 {
                    histograms.record(Stage::EndToEnd, ended_ns.saturating_sub(ingest_ns), rows);
                }
            }
            self.mailbox.post_histograms(&mut histograms);
            chunk.bytes.clear();
            chunk.rows = 0;
            let (give_back, signal) = &returns[chunk.from];
            let _ = give_back.try_send(chunk);
            signal.notify();
        }
        outcome = outcome.and_then(|()| self.writer.finish());
        self.mailbox.post_final(None, histograms);
        if let Err(error) = outcome {
            self.control.fail(EngineError::Connect { node: self.name, error });
        }
    }
}
