//! The thread that does a sink's writing, and the shards' lanes to it.
//!
//! Encoded rows go through a bounded queue to one writer thread per sink, so a slow disk stalls nobody but those who
//! produce for it. With checkpoints the thread also ends epochs: when the barrier of an epoch has come from every shard
//! it makes the epoch's rows durable and says so; it shows them when the checkpoint thread tells it to, and not before.
//! Lack of space is waited out: the rows stay in the queue, and the full queue holds the shards back.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, never, select};
use ringmill_connect::{ConnectError, Writer};
use ringmill_failpoint::hit;
use ringmill_ring::monotonic_ns;

use super::checkpoint_thread::{CheckpointEvent, Message, SinkCommand};
use super::patience::{LEFT_TO_NEXT_RUN, LOOK, Patience, RETRY, Spent};
use super::signal::ShardSignal;
use crate::checkpoint::{Alignment, Event, Part};
use crate::error::EngineError;
use crate::instruments::ProbeLane;
use crate::metrics::{Control, Mailbox, Stage, StageHistograms};

/// Bytes at which a chunk is handed to the writer.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Chunks each shard has for each sink.
const CHUNKS: usize = 4;

/// Encoded rows on their way to the writer.
pub(super) struct Chunk {
    /// The rows, encoded.
    pub bytes: Vec<u8>,
    /// How many rows that is.
    pub rows: u64,
    /// When the chunk's rows were read and given to the sink, with their number.
    pub times: Vec<(u64, u64, u64)>,
    /// The epoch that the rows belong to.
    pub epoch: u64,
    /// The shard it belongs to.
    from: usize,
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

/// Bytes of memory the chunks of one sink take in one shard.
pub fn chunk_memory_bytes() -> u64 {
    (CHUNKS * CHUNK_BYTES) as u64
}

/// One shard's way to a writer thread and back.
pub struct WriterLane {
    to_writer: Sender<ToWriter>,
    spare: Receiver<Chunk>,
    /// The chunk being filled.
    pub(super) open: Option<Chunk>,
    /// Chunks not with us.
    away: usize,
    from: usize,
}

impl WriterLane {
    /// An open chunk with room, if the writer has given one back.
    pub(super) fn chunk(&mut self) -> Option<&mut Chunk> {
        if self.open.is_none() {
            self.open = self.spare.try_recv().ok();
            self.away -= usize::from(self.open.is_some());
        }
        self.open.as_mut().filter(|chunk| chunk.bytes.len() < CHUNK_BYTES)
    }

    /// Hands the open chunk to the writer, if it has rows; says whether it did.
    pub(super) fn send(&mut self) -> bool {
        let Some(chunk) = self.open.take_if(|chunk| chunk.rows > 0) else { return false };
        match self.to_writer.try_send(ToWriter::Chunk(chunk)) {
            Ok(()) => {
                self.away += 1;
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

    /// The writer has nothing of ours to do.
    pub(super) fn is_writer_idle(&mut self) -> bool {
        self.away == self.spare.len()
    }

    /// Queues the end of `epoch` behind the open chunk, and if it `is_over` that of all input; `false`: there is no room now,
    /// to be asked again.
    pub(super) fn barrier(&mut self, epoch: u64, is_over: bool) -> bool {
        self.send();
        if self.open.as_ref().is_some_and(|chunk| chunk.rows > 0) {
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

/// One sink's thread and the shards' lanes to it; `commits` is its part in checkpoints, if there are any.
pub fn start_writer(
    name: &str,
    writer: Box<dyn Writer>,
    commits: Option<CommitLink>,
    probe: Option<ProbeLane>,
    signals: &[Arc<ShardSignal>],
    control: &Arc<Control>,
) -> Result<(WriterThread, Vec<WriterLane>), EngineError> {
    // At most one barrier is on its way at any time, so this holds everything there ever is.
    let (to_writer, queue) = bounded::<ToWriter>((CHUNKS + 1) * signals.len());
    let epoch = commits.as_ref().map_or(0, |link| link.recovered_epoch) + 1;
    let mut lanes = Vec::with_capacity(signals.len());
    let mut returns = Vec::with_capacity(signals.len());
    for (from, signal) in signals.iter().enumerate() {
        let (give_back, spare) = bounded(CHUNKS);
        for _ in 0..CHUNKS {
            let bytes = Vec::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 2));
            let chunk = Chunk { bytes, rows: 0, times: Vec::with_capacity(1024), epoch, from };
            let _ = give_back.try_send(chunk);
        }
        lanes.push(WriterLane { to_writer: to_writer.clone(), spare, open: None, away: CHUNKS, from });
        returns.push((give_back, signal.clone()));
    }
    let thread = Thread {
        name: name.to_owned(),
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
        if let Err(stop) = self.persist(|writer| writer.write(chunk.epoch, &chunk.bytes)) {
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

    fn give_back(&self, mut chunk: Chunk) {
        chunk.bytes.clear();
        chunk.times.clear();
        chunk.rows = 0;
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
                Err(error) => return Err(Stop::Failed(EngineError::Connect { node: self.name.clone(), error })),
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
