//! Counters and latency histograms, and how they get from the shard threads to whoever watches.
//!
//! A shard records into histograms of its own. When the watcher has left an empty set, the shard swaps it for its
//! full one (a pointer exchange); merging happens on the watcher's thread. So watching costs the hot path one
//! try-lock every 100 ms and no copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use ringmill_ring::monotonic_ns;
use ringmill_state::{RetainedReader, RetainedStore, StateError};

use crate::error::EngineError;
use crate::plan::Port;
use crate::window::SpillFigures;

/// A measured part of a row's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// From ingest of the batch's oldest row (for a window's result: of the row that closed it) until the sink wrote.
    EndToEnd,
    /// Reading, parsing and placing a batch.
    Parse,
    /// Adding a batch to windows.
    Window,
    /// From publishing a batch to the worker's picking it up.
    RequestRing,
    /// Inside the Python function.
    Udf,
    /// From the end of the function until the core took the result.
    ResponseRing,
    /// From handing a batch to the sink until it was written.
    Sink,
}

impl Stage {
    /// All stages, in reporting order.
    pub const ALL: [Stage; 7] = [
        Stage::EndToEnd,
        Stage::Parse,
        Stage::Window,
        Stage::RequestRing,
        Stage::Udf,
        Stage::ResponseRing,
        Stage::Sink,
    ];

    /// The name in reports and tags.
    pub fn name(self) -> &'static str {
        match self {
            Stage::EndToEnd => "end_to_end",
            Stage::Parse => "parse",
            Stage::Window => "window",
            Stage::RequestRing => "request_ring",
            Stage::Udf => "udf",
            Stage::ResponseRing => "response_ring",
            Stage::Sink => "sink",
        }
    }
}

/// Largest latency that is told apart, in nanoseconds (one hour); larger ones count as this.
pub const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// An empty latency histogram: 1 ns to one hour, 3 significant digits; it never grows.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds are valid")
}

/// One histogram for each stage, weighted by rows, in nanoseconds.
#[derive(Clone)]
pub struct StageHistograms(Box<[Histogram<u64>; 7]>);

impl Default for StageHistograms {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| latency_histogram())))
    }
}

impl StageHistograms {
    /// Counts `rows` rows that took `nanoseconds` in `stage`.
    #[inline]
    pub fn record(&mut self, stage: Stage, nanoseconds: u64, rows: u64) {
        self.0[stage as usize].saturating_record_n(nanoseconds.max(1), rows);
    }

    /// The histogram of one stage.
    pub fn stage(&self, stage: Stage) -> &Histogram<u64> {
        &self.0[stage as usize]
    }

    fn add(&mut self, other: &StageHistograms) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0.iter()) {
            if !theirs.is_empty() {
                // Same bounds on both sides, so this cannot fail.
                let _ = mine.add(theirs);
            }
        }
    }

    fn clear(&mut self) {
        self.0.iter_mut().filter(|histogram| !histogram.is_empty()).for_each(Histogram::reset);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Histogram::is_empty)
    }
}

/// How far a source's partition is behind what is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PartitionLag {
    /// The partition's.
    pub name: String,
    /// Messages that are there and were not read.
    pub messages: u64,
}

/// Rows that passed a node, over all shards.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// As in the configuration.
    pub name: String,
    /// `source`, `window`, `udf`, `filter` or `sink`.
    pub kind: &'static str,
    /// Rows taken in (for a source: records read, dead letters included).
    pub rows_in: u64,
    /// Rows given out (for a sink: written).
    pub rows_out: u64,
    /// Rows given to `.late`.
    pub late: u64,
    /// Rows given to `.dead_letters` (for a sink: refused for good).
    pub dead_letters: u64,
    /// Rows left out on purpose: by a filter's condition or by `on_error = "skip"`; for a window the rows it aggregated.
    pub absorbed: u64,
    /// Of a function, rows that it was given by replays of its dead letters before this run.
    pub replayed: u64,
    /// Rows that its inputs had given before a run in which it was new.
    pub missed: u64,
    /// What a null sink computed over every value.
    pub checksum: Option<u64>,
    /// Nanoseconds during which it made its producers wait.
    pub held_up_ns: u64,
    /// Of a source whose messages nobody keeps, those that came faster than they were taken in this run, and are lost.
    pub dropped: Option<u64>,
    /// Of a source, the partitions of which it is known how far behind they are.
    pub lags: Vec<PartitionLag>,
}

impl NodeCounts {
    /// Rows that it has given out there.
    #[must_use]
    pub fn given(&self, port: Port) -> u64 {
        match port {
            Port::Rows => self.rows_out,
            Port::Late => self.late,
            Port::DeadLetters => self.dead_letters,
        }
    }
}

impl NodeCounts {
    /// Messages that are there and were not read, over all partitions; `None`: that is not known of any.
    pub fn lag(&self) -> Option<u64> {
        let lags = Some(&self.lags).filter(|lags| !lags.is_empty())?;
        Some(lags.iter().map(|lag| lag.messages).sum())
    }
}

/// Whether a worker works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerCondition {
    /// Its process runs and is not ready yet.
    #[default]
    Starting,
    /// It answers batches.
    Running,
    /// It is dead and will be started again.
    Restarting,
    /// It died so often that it is not started again.
    Failed,
}

impl WorkerCondition {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
        }
    }
}

/// A worker as the core sees it.
#[derive(Debug, Default)]
pub struct WorkerSnapshot {
    /// `step/shard/index`.
    pub name: String,
    /// Its process.
    pub pid: i32,
    /// Batches it has and has not answered.
    pub in_flight: u32,
    /// Slots of its ring.
    pub slots: u32,
    /// Slots kept by views that user code holds.
    pub leased: u32,
    /// Batches answered.
    pub batches: u64,
    /// Nanoseconds spent inside the function.
    pub busy_ns: u64,
    /// Whether the process lives.
    pub alive: bool,
    /// Whether it works.
    pub state: WorkerCondition,
    /// How often it was started again.
    pub restarts: u64,
}

/// `clone_from` keeps the room that names and lists take, so that posting figures allocates nothing.
macro_rules! clone_in_place {
    ($type:ident { $($field:ident),+ $(; $list:ident)? }) => {
        impl Clone for $type {
            fn clone(&self) -> Self {
                let mut copy = Self::default();
                copy.clone_from(self);
                copy
            }

            fn clone_from(&mut self, other: &Self) {
                let Self { name, $($field),+ $(, $list)? } = other;
                self.name.clone_from(name);
                $(self.$list.clone_from($list);)?
                $(self.$field = *$field;)+
            }
        }
    };
}
clone_in_place!(NodeCounts { kind, rows_in, rows_out, late, dead_letters, absorbed, replayed, missed, checksum, held_up_ns, dropped; lags });
clone_in_place!(PartitionLag { messages });
clone_in_place!(WorkerSnapshot { pid, in_flight, slots, leased, batches, busy_ns, alive, state, restarts });

/// The state of a run at one moment.
#[derive(Clone)]
pub struct Snapshot {
    /// Since the first row could enter.
    pub elapsed: Duration,
    /// Records read by all sources, dead letters included.
    pub rows_in: u64,
    /// Rows given to any `.late`.
    pub rows_late: u64,
    /// Rows given to any `.dead_letters`.
    pub rows_dead: u64,
    /// In the order of the plan.
    pub nodes: Vec<NodeCounts>,
    /// Cumulative, in nanoseconds, weighted by rows.
    pub stages: Vec<(Stage, Histogram<u64>)>,
    /// All workers.
    pub workers: Vec<WorkerSnapshot>,
    /// Bytes of window state, over all shards.
    pub state_bytes: u64,
    /// What had no place in memory and was put away in the shards' stores.
    pub spilled: SpillFigures,
    /// The node that made its producers wait longest, if any did for more than 1 % of the time.
    pub bound: Option<String>,
    /// What keeps the run from going on now and is waited out, for people; empty: nothing.
    pub paused: Vec<String>,
    /// How the checkpoints go; `None`: there are none.
    pub checkpoint: Option<CheckpointFigures>,
}

/// How the checkpoints of a run go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointFigures {
    /// The last one, also of an earlier run; 0: there is none yet.
    pub epoch: u64,
    /// How long ago its rows were committed; `None`: not in this run.
    pub age: Option<Duration>,
    /// From the start of its barrier until all sinks had committed it.
    pub duration: Duration,
    /// Bytes of the files that it names.
    pub bytes: u64,
    /// How many were taken in this run.
    pub count: u64,
    /// How often something had to be tried again, for example for lack of space.
    pub failures: u64,
    /// What is being waited for, for people.
    pub state: String,
    /// Where the run began; `None`: at the beginning.
    pub recovered: Option<RecoveredFrom>,
}

/// The checkpoint that a run began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredFrom {
    /// Its number.
    pub epoch: u64,
    /// When it was written, milliseconds since 1970.
    pub created_ms: u64,
    /// All input there was at that time is in it.
    pub is_final: bool,
    /// Records that all sources had read before; [`Snapshot::rows_in`] counts them, too.
    pub rows_in: u64,
}

/// What a shard publishes about itself; the shard writes, watchers read.
#[derive(Debug, Default)]
pub(crate) struct ShardCounts {
    pub nodes: Vec<NodeCounts>,
    pub workers: Vec<WorkerSnapshot>,
    pub state_bytes: u64,
    pub spilled: SpillFigures,
}

impl ShardCounts {
    fn copy(&mut self, other: &ShardCounts) {
        self.nodes.clone_from(&other.nodes);
        self.workers.clone_from(&other.workers);
        self.state_bytes = other.state_bytes;
        self.spilled = other.spilled;
    }
}

/// Where one thread leaves its figures.
#[derive(Default)]
pub(crate) struct Mailbox {
    counts: Mutex<ShardCounts>,
    full: Mutex<Option<StageHistograms>>,
    empty: Mutex<Option<StageHistograms>>,
}

impl Mailbox {
    /// Copies the counters; swaps histograms if the watcher left an empty set. Called by the owning thread.
    pub fn post(&self, counts: &ShardCounts, histograms: &mut StageHistograms) {
        self.post_counts(counts);
        self.post_histograms(histograms);
    }

    fn post_counts(&self, counts: &ShardCounts) {
        if let Ok(mut shared) = self.counts.try_lock() {
            shared.copy(counts);
        }
    }

    /// The histogram half of [`Mailbox::post`].
    pub fn post_histograms(&self, histograms: &mut StageHistograms) {
        let Ok(mut full) = self.full.try_lock() else { return };
        if full.is_none()
            && let Ok(mut empty) = self.empty.try_lock()
            && let Some(spare) = empty.take()
        {
            *full = Some(std::mem::replace(histograms, spare));
        }
    }

    /// The last post of a thread that ends: waits for the locks, so nothing is lost.
    pub fn post_final(&self, counts: Option<&ShardCounts>, histograms: StageHistograms) {
        if let Some(counts) = counts {
            lock(&self.counts).copy(counts);
        }
        let mut full = lock(&self.full);
        match full.as_mut() {
            Some(waiting) => waiting.add(&histograms),
            None => *full = Some(histograms),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Steers a run from outside and tells how it goes. Shared by [`crate::run`] and its caller.
#[derive(Default)]
pub struct Control {
    drain: AtomicBool,
    abort: AtomicBool,
    finished: AtomicBool,
    started_ns: AtomicU64,
    ended_ns: AtomicU64,
    failure: Mutex<Option<EngineError>>,
    mailboxes: Mutex<Vec<std::sync::Arc<Mailbox>>>,
    collected: Mutex<Collected>,
    wakers: Mutex<Vec<ringmill_connect::Waker>>,
    /// By who cannot go on.
    paused: Mutex<BTreeMap<String, String>>,
    checkpoint: Mutex<Option<CheckpointBoard>>,
    /// By sink, how many rows it was refused for good since its output began; each belongs to its sink.
    refused: Mutex<BTreeMap<String, std::sync::Arc<AtomicU64>>>,
    /// By step; each belongs to its sink.
    retained: Mutex<BTreeMap<String, std::sync::Weak<RetainedStore>>>,
}

/// What the checkpoint thread publishes.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckpointBoard {
    pub figures: CheckpointFigures,
    /// When the last checkpoint of this run was committed; monotonic nanoseconds.
    pub committed_ns: Option<u64>,
}

#[derive(Default)]
struct Collected {
    total: StageHistograms,
    interval: StageHistograms,
}

impl Control {
    /// Sources end where they are; everything that was read is processed, then the run ends.
    pub fn request_drain(&self) {
        self.drain.store(true, Ordering::Release);
        self.wake_all();
    }

    /// The run ends at once; what is under way is lost.
    pub fn request_abort(&self) {
        self.abort.store(true, Ordering::Release);
        self.wake_all();
    }

    /// The retained results of a step, as they are now; `None` before its sink was opened and after it has ended.
    pub fn retained(&self, step: &str) -> Option<Result<RetainedReader, StateError>> {
        let store = lock(&self.retained).get(step)?.upgrade()?;
        Some(store.reader())
    }

    pub(crate) fn show_retained(&self, step: &str, store: &std::sync::Arc<RetainedStore>) {
        lock(&self.retained).insert(step.to_owned(), std::sync::Arc::downgrade(store));
    }

    /// Whether the run is over.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.load(Ordering::Acquire)
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }

    /// Ends the run with an error; the first one is kept.
    pub(crate) fn fail(&self, error: EngineError) {
        lock(&self.failure).get_or_insert(error);
        self.request_abort();
    }

    /// The run goes on to its end, and has failed then.
    pub(crate) fn fail_at_end(&self, error: EngineError) {
        lock(&self.failure).get_or_insert(error);
    }

    /// For as long as the guard lives, a panic of this thread ends the run instead of leaving the others to wait for it.
    pub(crate) fn guard(self: &std::sync::Arc<Self>) -> PanicGuard {
        PanicGuard(self.clone())
    }

    pub(crate) fn take_failure(&self) -> Option<EngineError> {
        lock(&self.failure).take()
    }

    pub(crate) fn add_waker(&self, waker: ringmill_connect::Waker) {
        lock(&self.wakers).push(waker);
    }

    fn wake_all(&self) {
        lock(&self.wakers).iter().for_each(|wake| wake());
    }

    /// `who` cannot go on and keeps trying.
    pub(crate) fn pause(&self, who: &str, reason: &str) {
        lock(&self.paused).insert(who.to_owned(), reason.to_owned());
    }

    /// `who` goes on.
    pub(crate) fn resume(&self, who: &str) {
        lock(&self.paused).remove(who);
    }

    /// Where `sink` is to count the rows that it was refused for good, those of earlier runs included.
    pub(crate) fn count_refused(&self, sink: &str) -> std::sync::Arc<AtomicU64> {
        lock(&self.refused).entry(sink.to_owned()).or_default().clone()
    }

    pub(crate) fn set_checkpoint(&self, board: CheckpointBoard) {
        *lock(&self.checkpoint) = Some(board);
    }

    /// How the checkpoints go; `None`: there are none.
    pub fn checkpoint(&self) -> Option<CheckpointFigures> {
        let board = lock(&self.checkpoint).clone()?;
        let age = board.committed_ns.map(|at_ns| Duration::from_nanos(monotonic_ns().saturating_sub(at_ns)));
        Some(CheckpointFigures { age, ..board.figures })
    }

    pub(crate) fn add_mailbox(&self) -> std::sync::Arc<Mailbox> {
        let mailbox = std::sync::Arc::new(Mailbox::default());
        *lock(&mailbox.empty) = Some(StageHistograms::default());
        lock(&self.mailboxes).push(mailbox.clone());
        mailbox
    }

    pub(crate) fn start_clock(&self) {
        self.started_ns.store(monotonic_ns(), Ordering::Release);
    }

    pub(crate) fn stop_clock(&self) {
        self.ended_ns.store(monotonic_ns(), Ordering::Release);
    }

    pub(crate) fn set_finished(&self) {
        self.finished.store(true, Ordering::Release);
    }

    fn elapsed_ns(&self) -> u64 {
        let started = self.started_ns.load(Ordering::Acquire);
        let ended = match self.ended_ns.load(Ordering::Acquire) {
            0 => monotonic_ns(),
            ended => ended,
        };
        if started == 0 { 0 } else { ended.saturating_sub(started) }
    }

    fn collect(&self) {
        let mut collected = lock(&self.collected);
        for mailbox in lock(&self.mailboxes).iter() {
            let Some(mut full) = lock(&mailbox.full).take() else { continue };
            if !full.is_empty() {
                collected.total.add(&full);
                collected.interval.add(&full);
                full.clear();
            }
            *lock(&mailbox.empty) = Some(full);
        }
    }

    /// Latencies recorded since the last call, per stage; stages without samples are left out.
    pub fn take_intervals(&self) -> Vec<(Stage, Histogram<u64>)> {
        self.collect();
        let mut collected = lock(&self.collected);
        let taken = stages_of(&collected.interval);
        collected.interval.clear();
        taken
    }

    /// The state of the run now.
    pub fn snapshot(&self) -> Snapshot {
        self.collect();
        let elapsed_ns = self.elapsed_ns();
        let mut nodes: BTreeMap<usize, NodeCounts> = BTreeMap::new();
        let mut workers = Vec::new();
        let (mut state_bytes, mut spilled) = (0, SpillFigures::default());
        for mailbox in lock(&self.mailboxes).iter() {
            let counts = lock(&mailbox.counts);
            state_bytes += counts.state_bytes;
            spilled += counts.spilled;
            workers.extend(counts.workers.iter().cloned());
            for (index, node) in counts.nodes.iter().enumerate() {
                add_counts(nodes.entry(index).or_default(), node);
            }
        }
        let mut nodes: Vec<NodeCounts> = nodes.into_values().collect();
        self.take_refused_off(&mut nodes);
        let sum = |value: fn(&NodeCounts) -> u64| nodes.iter().map(value).sum();
        let bound = nodes.iter().max_by_key(|node| node.held_up_ns);
        Snapshot {
            elapsed: Duration::from_nanos(elapsed_ns),
            rows_in: nodes.iter().filter(|node| node.kind == "source").map(|node| node.rows_in).sum(),
            rows_late: sum(|node| node.late),
            rows_dead: sum(|node| node.dead_letters),
            bound: bound.filter(|node| node.held_up_ns > elapsed_ns / 100).map(|node| node.name.clone()),
            stages: stages_of(&lock(&self.collected).total),
            nodes,
            workers,
            state_bytes,
            spilled,
            paused: lock(&self.paused).values().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            checkpoint: self.checkpoint(),
        }
    }
}

impl Control {
    /// What a shard has given to a sink is written, or was refused.
    fn take_refused_off(&self, nodes: &mut [NodeCounts]) {
        let refused = lock(&self.refused);
        for node in nodes.iter_mut().filter(|node| node.kind == "sink") {
            let Some(count) = refused.get(&node.name) else { continue };
            node.dead_letters = count.load(Ordering::Relaxed).min(node.rows_out);
            node.rows_out -= node.dead_letters;
        }
    }
}

/// See [`Control::guard`].
pub(crate) struct PanicGuard(std::sync::Arc<Control>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            self.0.fail(EngineError::Internal(format!("thread {} panicked", thread.name().unwrap_or("?"))));
        }
    }
}

fn stages_of(histograms: &StageHistograms) -> Vec<(Stage, Histogram<u64>)> {
    let present = Stage::ALL.into_iter().filter(|stage| !histograms.stage(*stage).is_empty());
    present.map(|stage| (stage, histograms.stage(stage).clone())).collect()
}

fn add_counts(total: &mut NodeCounts, shard: &NodeCounts) {
    total.name.clone_from(&shard.name);
    total.kind = shard.kind;
    total.rows_in += shard.rows_in;
    total.rows_out += shard.rows_out;
    total.late += shard.late;
    total.dead_letters += shard.dead_letters;
    total.absorbed += shard.absorbed;
    total.replayed += shard.replayed;
    total.missed += shard.missed;
    if let Some(checksum) = shard.checksum {
        total.checksum = Some(total.checksum.unwrap_or(0).wrapping_add(checksum));
    }
    total.held_up_ns = total.held_up_ns.max(shard.held_up_ns);
    if let Some(dropped) = shard.dropped {
        *total.dropped.get_or_insert(0) += dropped;
    }
    total.lags.extend(shard.lags.iter().cloned());
}
