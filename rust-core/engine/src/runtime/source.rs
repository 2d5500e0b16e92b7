//! Reads a source's partitions of one shard, and makes its watermark.
//!
//! The partition furthest behind in event time is read next, so that windows stay few when files lie apart in time.
//! A watermark is a function of row positions alone: where a row is late by the rows before it in the same batch, the
//! batch is passed on in two pieces with a [`Mark`] between them.
//!
//! Barriers begin here: between two reads, when all that was read was taken, the partitions' positions go into the
//! shard's snapshot and the mark is moved. With checkpoints a source ends with the last barrier only: one that has read
//! everything moves its watermark and waits for it; one that is drained leaves its watermark where it is, because the
//! windows that it would close go on with the next run.

use std::collections::VecDeque;
use std::sync::PoisonError;

use ringmill_connect::{DeadLetter, DeadLetters, Partition, Poll, PollContext, Position};
use ringmill_ring::monotonic_ns;
use ringmill_state::PartitionRecord;
use ringmill_wire::{BatchWriter, HeapBatch, TimeUnit};

use super::dead_letters::DeadLetterBatch;
use super::farewell::Farewell;
use super::operator::{DEAD_LETTERS, Delivery, Mark, Offer, Operator, OutputMarks, ROWS, Rows, ShardContext};
use super::worker_feed::FeedFigures;
use crate::error::EngineError;
use crate::metrics::{NodeCounts, PartitionLag, Stage, WorkerSnapshot};
use crate::time::{nanoseconds, wall_clock_ns};

/// How rows of this source are dated.
#[derive(Clone, Copy, Debug)]
pub struct SourceTime {
    /// Column and unit of the event time; `None`: arrival time.
    pub column: Option<(usize, TimeUnit)>,
    /// How far out of order rows may come.
    pub out_of_orderness_ns: i64,
    /// A partition silent for so long is left out of the watermark.
    pub idle_timeout_ns: Option<u64>,
    /// Rows further ahead of the wall clock go to dead letters.
    pub max_future_ns: i64,
    /// Some window reads the watermark.
    pub is_needed: bool,
}

/// Where rows are dated by their arrival, the watermark moves in steps of this size.
const ARRIVAL_STEP_NS: i64 = 20_000_000;

struct PartitionState {
    partition: Box<dyn Partition>,
    /// Newest event time seen; `i64::MIN` before the first row.
    newest_ns: i64,
    last_rows_ns: u64,
    /// When it last had rows that tell a time.
    last_time_ns: u64,
    /// Not to be asked before this moment.
    not_before_ns: u64,
    /// It had nothing when it was asked in this round.
    is_idle: bool,
    /// It has something already, and the shard goes to sleep nevertheless, because it was not to be asked.
    is_unwatched: bool,
    ended: bool,
}

/// The source node of one shard.
pub struct SourceOperator {
    name: String,
    /// Its index in the plan.
    node: usize,
    partitions: Vec<PartitionState>,
    time: SourceTime,
    batch: HeapBatch,
    /// When the batch's first row was read.
    ingest_ns: u64,
    /// Ends of the pieces in which the batch is passed on, with the watermark after each.
    pieces: Vec<(usize, Mark)>,
    piece: usize,
    mark: Mark,
    outputs: OutputMarks,
    /// The watermark of the last cut: what is late by it is so whatever batches rows share.
    cut_ns: i64,
    dead: DeadLetterBatch,
    rows: u64,
    /// Where the partitions stood at the newest barriers, oldest first: as many as checkpoints are kept.
    kept: VecDeque<Vec<Position>>,
    checkpoints_kept: usize,
    /// The partitions know that they will not be polled any more.
    is_draining: bool,
    /// Of the partitions' processes, if they have any.
    processes: Vec<FeedFigures>,
}

impl SourceOperator {
    /// Reads `partitions` into batches like `batch`; `node` is the source's index in the plan.
    pub fn new(
        name: String,
        node: usize,
        partitions: Vec<Box<dyn Partition>>,
        time: SourceTime,
        batch: HeapBatch,
        dead: DeadLetterBatch,
    ) -> Self {
        let now_ns = monotonic_ns();
        let state = |partition| PartitionState {
            partition,
            newest_ns: i64::MIN,
            last_rows_ns: now_ns,
            last_time_ns: now_ns,
            not_before_ns: 0,
            is_idle: false,
            is_unwatched: false,
            ended: false,
        };
        Self {
            name,
            node,
            partitions: partitions.into_iter().map(state).collect(),
            time,
            batch,
            ingest_ns: 0,
            pieces: Vec::with_capacity(64),
            piece: 0,
            mark: Mark::START,
            outputs: OutputMarks::new(),
            cut_ns: i64::MIN,
            dead,
            rows: 0,
            kept: VecDeque::new(),
            checkpoints_kept: 0,
            is_draining: false,
            processes: Vec::new(),
        }
    }

    /// So many checkpoints can be gone on from; what none of them needs is acknowledged to the partitions.
    pub fn set_checkpoints_kept(&mut self, checkpoints: usize) {
        self.checkpoints_kept = checkpoints.max(1);
    }

    /// The partitions have processes with these figures.
    pub fn set_processes(&mut self, processes: Vec<FeedFigures>) {
        self.processes = processes;
    }

    /// Takes back what was known of each partition, by name. The partitions themselves stand where they were; one that
    /// had ended says so again when it is polled, unless there is more by now.
    pub fn resume(&mut self, records: &[PartitionRecord]) {
        for state in &mut self.partitions {
            if let Some(record) = records.iter().find(|record| record.name == state.partition.name()) {
                state.newest_ns = record.newest_ns;
            }
        }
    }

    fn next_partition(&self, now_ns: u64) -> Option<usize> {
        let ready = |state: &PartitionState| !state.ended && !state.is_idle && state.not_before_ns <= now_ns;
        let candidates = self.partitions.iter().enumerate().filter(|(_, state)| ready(state));
        candidates.min_by_key(|(_, state)| (state.newest_ns, state.last_rows_ns)).map(|(index, _)| index)
    }

    /// Polls one partition into `writer`; returns the rows written and whether the next row did not fit.
    fn poll(
        &mut self,
        index: usize,
        writer: Option<&mut BatchWriter>,
        context: &mut ShardContext<'_>,
    ) -> Result<(u32, bool), EngineError> {
        let state = &mut self.partitions[index];
        let writer = match writer {
            Some(writer) => writer,
            None => self.batch.writer(),
        };
        let before = writer.rows();
        let event_time_max_ns = wall_clock_ns().saturating_add(self.time.max_future_ns);
        let mut poll_context = PollContext {
            now_ns: context.now_ns,
            event_time: self.time.column.map(|(column, _)| column),
            event_time_max_ns,
            dead: &mut self.dead,
            rows_max: writer.rows_free(),
        };
        let polled = state.partition.poll(writer, &mut poll_context);
        let rows = writer.rows() - before;
        let outcome = polled.map_err(|error| EngineError::Connect { node: self.name.clone(), error })?;
        let mut full = false;
        match outcome {
            Poll::Full => full = true,
            Poll::Rows => {}
            Poll::Idle => {
                state.is_idle = true;
                if state.is_unwatched {
                    context.wake_at(context.now_ns);
                }
            }
            Poll::Until(at_ns) => {
                state.not_before_ns = at_ns;
                context.wake_at(at_ns);
            }
            Poll::End => state.ended = true,
        }
        if rows > 0 {
            self.ingest_ns = state.partition.due_ns().unwrap_or(self.ingest_ns);
            state.last_rows_ns = context.now_ns;
            self.rows += u64::from(rows);
            context.histograms.record(Stage::Parse, monotonic_ns() - context.now_ns, u64::from(rows));
        }
        Ok((rows, full))
    }

    fn watermark_of(&self, state: &PartitionState, now_ns: u64) -> Option<i64> {
        let idle = self.time.idle_timeout_ns.is_some_and(|timeout| now_ns.saturating_sub(state.last_time_ns) > timeout);
        match () {
            () if state.ended || idle => None,
            () if self.time.column.is_none() => Some(wall_clock_ns()),
            () if state.newest_ns == i64::MIN => Some(i64::MIN),
            () => Some(state.newest_ns.saturating_sub(self.time.out_of_orderness_ns)),
        }
    }

    /// The least watermark of all partitions but one; `None` when no other partition counts.
    fn watermark_but(&self, but: Option<usize>, now_ns: u64) -> Option<i64> {
        let others = self.partitions.iter().enumerate().filter(|(index, _)| Some(*index) != but);
        others.filter_map(|(_, state)| self.watermark_of(state, now_ns)).min()
    }

    /// Splits the batch just read where a row is late by the rows before it, and moves the partition's newest time.
    fn cut_into_pieces(&mut self, index: usize, context: &ShardContext<'_>) {
        self.pieces.clear();
        self.piece = 0;
        let others_ns = self.watermark_but(Some(index), context.now_ns).unwrap_or(i64::MAX);
        let mut newest_ns = self.partitions[index].newest_ns;
        let mut is_dated = true;
        if let Some((column, unit)) = self.time.column {
            let view = self.batch.view();
            let column = view.column(column);
            let are_all_dated = column.null_count() == 0;
            is_dated = column.null_count() < view.rows();
            for (row, &time) in column.values::<i64>().iter().enumerate() {
                // Of several types some may have no event time, and say nothing of it.
                if !are_all_dated && !column.is_valid(row) {
                    continue;
                }
                let time_ns = nanoseconds(time, unit);
                if time_ns < newest_ns {
                    let watermark_ns = others_ns.min(newest_ns.saturating_sub(self.time.out_of_orderness_ns));
                    if time_ns < watermark_ns && watermark_ns > self.cut_ns {
                        self.cut_ns = watermark_ns;
                        let mark = Mark { watermark_ns, ingest_ns: self.ingest_ns, cut: true, ..self.mark };
                        self.pieces.push((row, mark));
                    }
                } else {
                    newest_ns = time_ns;
                }
            }
        }
        self.partitions[index].newest_ns = newest_ns;
        if is_dated {
            self.partitions[index].last_time_ns = context.now_ns;
        }
    }

    /// Brings the mark up to date; idle and ended partitions move it without rows. `ingest_ns` is when what moves it was
    /// read.
    fn refresh_mark(&mut self, ingest_ns: u64, context: &mut ShardContext<'_>) {
        if context.draining && context.has_checkpoints {
            return;
        }
        let is_over = context.draining || self.is_exhausted();
        let end = is_over && !context.has_checkpoints;
        let watermark_ns = match (is_over, self.time.is_needed) {
            (true, _) => i64::MAX,
            (false, false) => return,
            (false, true) => self.watermark_but(None, context.now_ns).unwrap_or(self.mark.watermark_ns),
        };
        if !is_over && self.time.column.is_none() {
            context.wake_at(context.now_ns + ARRIVAL_STEP_NS as u64);
            if watermark_ns < self.mark.watermark_ns.saturating_add(ARRIVAL_STEP_NS) {
                return;
            }
        }
        if end != self.mark.end || watermark_ns > self.mark.watermark_ns {
            let watermark_ns = watermark_ns.max(self.mark.watermark_ns);
            let newest_ns = self.newest_ns();
            self.mark = Mark { watermark_ns, newest_ns, ingest_ns, cut: false, end, ..self.mark };
        }
    }

    fn newest_ns(&self) -> i64 {
        match self.time.column {
            Some(_) => self.partitions.iter().map(|state| state.newest_ns).max().unwrap_or(i64::MIN),
            None => wall_clock_ns(),
        }
    }

    fn is_passing_on(&self) -> bool {
        self.batch.rows() > 0
    }

    /// Puts the barrier that was asked for between what was read and what will be; `false`: not all of it was taken.
    fn inject_barrier(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        if self.is_passing_on() || self.dead.rows() > 0 {
            return Ok(false);
        }
        let positions: Vec<Position> = self.partitions.iter().map(|state| state.partition.position()).collect();
        for (state, position) in self.partitions.iter().zip(&positions) {
            let position = serde_json::to_value(position);
            let position = position.map_err(|error| EngineError::Internal(format!("{}: {error}", self.name)))?;
            let name = state.partition.name().to_owned();
            let record = PartitionRecord { name, position, newest_ns: state.newest_ns, ended: state.ended };
            context.snapshot.partitions.push((self.node, record));
        }
        self.acknowledge(positions);
        self.mark = Mark { barrier: context.barrier.epoch, end: context.barrier.is_final, ..self.mark };
        Ok(true)
    }

    /// Remembers where the partitions stand at this barrier. Because it was asked for, the checkpoint of the one before
    /// is complete and the oldest that are not kept are gone: what came before those that are left is acknowledged.
    fn acknowledge(&mut self, positions: Vec<Position>) {
        if let Some(complete) = self.kept.back() {
            for (state, position) in self.partitions.iter_mut().zip(complete) {
                state.partition.covered(position);
            }
        }
        if self.kept.len() >= self.checkpoints_kept
            && let Some(oldest) = self.kept.pop_front()
        {
            for (state, position) in self.partitions.iter_mut().zip(&oldest) {
                state.partition.acknowledge(position);
            }
        }
        self.kept.push_back(positions);
    }

    /// Asks the partitions, the one furthest behind first, until one has something.
    fn read(
        &mut self,
        mut consumer: Option<&mut dyn Operator>,
        context: &mut ShardContext<'_>,
    ) -> Result<bool, EngineError> {
        if context.draining && !self.is_draining {
            self.is_draining = true;
            self.partitions.iter_mut().for_each(|state| state.partition.drain());
        }
        self.partitions.iter_mut().for_each(|state| state.is_idle = false);
        if self.mark.end {
            return Ok(false);
        }
        if context.barrier.epoch > self.mark.barrier {
            return self.inject_barrier(context);
        }
        let is_at_barrier = self.outputs.epoch() < self.mark.barrier;
        if is_at_barrier || self.is_passing_on() || !self.dead.has_room() {
            return Ok(false);
        }
        while !context.draining
            && let Some(index) = self.next_partition(context.now_ns)
        {
            context.now_ns = monotonic_ns();
            self.ingest_ns = context.now_ns;
            let (letters, ended) = (self.dead.total(), self.partitions[index].ended);
            let rows = match &mut consumer {
                Some(consumer) => {
                    let Some(rows) = self.read_into(*consumer, index, context)? else { return Ok(false) };
                    rows
                }
                None => self.read_batch(index, context)?,
            };
            if rows > 0 || self.dead.total() > letters || self.partitions[index].ended != ended {
                self.refresh_mark(self.ingest_ns, context);
                return Ok(true);
            }
        }
        self.note_waiting(context);
        Ok(false)
    }

    /// Reads into room lent by the consumer; `None`: it has none now.
    fn read_into(
        &mut self,
        consumer: &mut dyn Operator,
        index: usize,
        context: &mut ShardContext<'_>,
    ) -> Result<Option<u32>, EngineError> {
        let Some(writer) = consumer.direct_writer(context) else { return Ok(None) };
        let was_empty = writer.rows() == 0;
        let (rows, full) = self.poll(index, Some(writer), context)?;
        consumer.direct_written(rows, self.ingest_ns, full, context)?;
        if full && was_empty && rows == 0 {
            // Too large for the ring: offered in the ordinary way, so that the consumer can refuse it by row.
            return self.read_batch(index, context).map(Some);
        }
        // What did not fit next to other rows will fit into the next batch.
        Ok((rows > 0 || !full).then_some(rows))
    }

    fn read_batch(&mut self, index: usize, context: &mut ShardContext<'_>) -> Result<u32, EngineError> {
        let (rows, full) = self.poll(index, None, context)?;
        if full && rows == 0 {
            let room = self.batch.template().capacity().variable_bytes_max;
            return Err(EngineError::RowTooLarge { node: self.name.clone(), room });
        }
        if rows > 0 && self.time.is_needed {
            self.cut_into_pieces(index, context);
        }
        Ok(rows)
    }

    fn note_waiting(&mut self, context: &mut ShardContext<'_>) {
        for state in self.partitions.iter().filter(|state| !state.ended && state.not_before_ns > 0) {
            if state.not_before_ns > context.now_ns {
                context.wake_at(state.not_before_ns);
            }
        }
        if let Some(timeout) = self.time.idle_timeout_ns {
            let silent_ends =
                self.partitions.iter().filter(|state| !state.ended).map(|state| state.last_time_ns + timeout + 1);
            let next = silent_ends.filter(|end| *end > context.now_ns).min();
            context.wake_at(next.unwrap_or(u64::MAX));
        }
        self.refresh_mark(context.now_ns, context);
    }
}

impl Operator for SourceOperator {
    fn advance(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        self.read(None, context)
    }

    fn advance_into(
        &mut self,
        consumer: &mut dyn Operator,
        context: &mut ShardContext<'_>,
    ) -> Result<bool, EngineError> {
        self.read(Some(consumer), context)
    }

    fn accept(&mut self, _: usize, _: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        Ok(0)
    }

    fn mark(&mut self, _: usize, _: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn offer(&self, port: usize) -> Option<Offer<'_>> {
        match port {
            ROWS if self.is_passing_on() => {
                let view = self.batch.view();
                let first = self.piece.checked_sub(1).map_or(0, |before| self.pieces[before].0);
                let (end, mark) = self.pieces.get(self.piece).copied().unwrap_or((view.rows(), self.mark));
                let rows = Some(Rows { view: view.prefix(end), first, ingest_ns: self.ingest_ns });
                Some(Offer { rows, mark: Some(mark) })
            }
            DEAD_LETTERS if self.dead.rows() > 0 => self.dead.offer(),
            _ => self.outputs.due(port, self.mark).map(|mark| Offer { rows: None, mark: Some(mark) }),
        }
    }

    fn delivered(&mut self, port: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        match port {
            ROWS if self.is_passing_on() && self.piece < self.pieces.len() => self.piece += 1,
            ROWS => {
                self.batch.clear();
                self.pieces.clear();
                self.piece = 0;
                self.outputs.note_sent(ROWS, self.mark);
            }
            DEAD_LETTERS if self.dead.rows() > 0 => self.dead.clear(),
            _ => self.outputs.note_sent(port, self.mark),
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.outputs.are_ended()
    }

    fn is_ready(&mut self) -> Result<bool, EngineError> {
        let mut is_ready = true;
        for state in &mut self.partitions {
            let ready = state.partition.is_ready();
            is_ready &= ready.map_err(|error| EngineError::Connect { node: self.name.clone(), error })?;
        }
        Ok(is_ready)
    }

    /// What a partition has keeps the shard awake only if it would be taken: one that was not asked, or not to be asked
    /// yet, is asked again when what it waits for has come, and the shard is awake for that.
    fn arm_sleep(&mut self) -> bool {
        let mut has_nothing = true;
        for state in &mut self.partitions {
            state.is_unwatched = !state.partition.arm_sleep();
            has_nothing &= !(state.is_unwatched && state.is_idle);
        }
        has_nothing
    }

    fn disarm_sleep(&mut self) {
        for state in &mut self.partitions {
            state.is_unwatched = false;
            state.partition.disarm_sleep();
        }
    }

    fn lags(&self, lags: &mut Vec<PartitionLag>) {
        let mut count = 0;
        for partition in self.partitions.iter().map(|state| &state.partition) {
            let Some(messages) = partition.lag() else { continue };
            lags.resize_with(lags.len().max(count + 1), PartitionLag::default);
            let lag = &mut lags[count];
            lag.name.clear();
            lag.name.push_str(partition.name());
            lag.messages = messages;
            count += 1;
        }
        lags.truncate(count);
    }

    fn workers(&self, workers: &mut Vec<WorkerSnapshot>, next: usize) -> usize {
        workers.resize_with(workers.len().max(next + self.processes.len()), WorkerSnapshot::default);
        for (snapshot, figures) in workers[next..].iter_mut().zip(&self.processes) {
            snapshot.clone_from(&figures.lock().unwrap_or_else(PoisonError::into_inner));
        }
        next + self.processes.len()
    }

    fn epoch_passed(&self) -> u64 {
        self.outputs.epoch()
    }

    fn is_exhausted(&self) -> bool {
        self.partitions.iter().all(|state| state.ended)
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        self.mark.barrier = epoch;
        self.outputs.restored(epoch);
        Ok(())
    }

    fn farewells(&mut self) -> Vec<Farewell> {
        let last = self.kept.pop_back().unwrap_or_default();
        let partitions = std::mem::take(&mut self.partitions).into_iter().map(|state| state.partition);
        let farewell = |(partition, position)| Farewell { partition, position };
        partitions.zip(last).filter(|(partition, _)| partition.awaits_last_checkpoint()).map(farewell).collect()
    }

    fn counts(&self, counts: &mut NodeCounts) {
        counts.dead_letters = self.dead.total();
        counts.rows_in = self.rows + self.dead.total();
        counts.rows_out = self.rows;
        counts.dropped = self.partitions.iter().filter_map(|state| state.partition.dropped()).reduce(u64::wrapping_add);
    }
}

impl DeadLetters for DeadLetterBatch {
    fn has_room(&self) -> bool {
        DeadLetterBatch::has_room(self)
    }

    fn push(&mut self, letter: &DeadLetter<'_>) {
        self.push_record(letter);
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
