//! An open-loop load on a pipeline's own sources: every row has a time at which it is due, whatever the pipeline does.
//!
//! [`OpenLoop::pace`] wraps the partitions of a source. A wrapped partition gives a row when its time has come and tells
//! that time ([`Partition::due_ns`]), so that latencies count from when a row *should* have been sent: a pipeline that
//! stops reading makes its rows late, not rare ("coordinated omission"). An input that ends is read again from its
//! beginning, each lap with event times behind those of the last.
//!
//! Who looks at the clock is one of two:
//!
//! - a thread of its own that spins and *releases* rows ([`OpenLoop::drive`]); it never waits for the pipeline, and keeps
//!   count of how late it was itself;
//! - the shard thread, whenever it polls. It needs no third core, and has no lag of its own to report: how late the
//!   shard looked is part of the latency.
//!
//! The rows themselves are made or parsed when they are taken, on the shard thread as in any other run.

mod memory;
mod partition;
mod schedule;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};

use crate::{Partitions, Waker, lock::lock};
pub use memory::{Held, hold_file, hold_stdin};
use partition::PacedPartition;
pub use schedule::{Phase, Schedule};

/// The load begins so long after the first poll, so that all shards are polling by then.
const HEAD_START_NS: u64 = 5_000_000;
/// Waits and lags beyond an hour count as one.
const WAIT_NS_MAX: u64 = 3_600_000_000_000;

fn wait_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, WAIT_NS_MAX, 3).expect("constant bounds are valid")
}

/// Who looks at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A thread of its own, see [`OpenLoop::drive`].
    Thread,
    /// The shard thread.
    Shard,
}

/// What becomes of event times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTimes {
    /// They are the input's own; each lap is moved behind the one before.
    Stream,
    /// They are the times at which the rows are due, by the wall clock.
    Live,
}

/// A load.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadSpec {
    /// Even load, phase by phase, over all sources; none: as fast as rows are taken.
    pub phases: Vec<Phase>,
    /// Its whole length.
    pub length_ns: u64,
    /// What is measured, since the start: from and to.
    pub measured_ns: (u64, u64),
    /// Rows that are due together.
    pub group: u64,
    /// Who looks at the clock.
    pub driver: Driver,
    /// What becomes of event times.
    pub event_times: EventTimes,
}

/// How the load has gone so far.
#[derive(Debug, Clone)]
pub struct LoadFigures {
    /// Rows that were to be sent, over the whole load; 0 where rows come as fast as they are taken.
    pub rows: u64,
    /// Rows released, at the end of the load at the latest.
    pub released: u64,
    /// When the last row was released; since the start.
    pub released_ns: u64,
    /// Records that the pipeline has taken.
    pub taken: u64,
    /// When the pipeline had taken the last row; since the start. `None`: it has not.
    pub finished_ns: Option<u64>,
    /// How late rows were released, of those that were measured; empty where the shard looks at the clock.
    pub lag: Histogram<u64>,
    /// From when a measured row was due until it was taken.
    pub waits: Histogram<u64>,
}

/// An open-loop load, shared by the partitions, the thread that drives it, and whoever watches.
#[derive(Debug)]
pub struct OpenLoop {
    spec: LoadSpec,
    /// The share of each source, by its node's index in the plan.
    shares: Vec<(usize, f64)>,
    /// 0 until the first poll.
    start_ns: AtomicU64,
    start_wall_ns: AtomicI64,
    lanes: Mutex<Vec<Arc<Lane>>>,
    released_ns: AtomicU64,
    is_stopped: AtomicBool,
    lag: Mutex<Histogram<u64>>,
}

/// One partition's part of the load.
struct Lane {
    schedule: Schedule,
    /// Written by the driving thread, read by the shard's.
    released: Padded,
    /// Written by the shard's thread, read by whoever watches.
    taken: Padded,
    /// 0: not yet.
    finished_ns: AtomicU64,
    waits: Mutex<Option<Histogram<u64>>>,
    waker: Waker,
}

/// A counter in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl OpenLoop {
    /// A load on the sources with these shares of it, by their nodes' indices.
    pub fn new(spec: LoadSpec, shares: Vec<(usize, f64)>) -> OpenLoop {
        OpenLoop {
            spec,
            shares,
            start_ns: AtomicU64::new(0),
            start_wall_ns: AtomicI64::new(0),
            lanes: Mutex::default(),
            released_ns: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            lag: Mutex::new(wait_histogram()),
        }
    }

    /// Wraps the partitions of a source.
    pub fn pace(self: &Arc<Self>, node: usize, partitions: Partitions, wakers: &[Waker]) -> Partitions {
        let share = self.shares.iter().find(|(other, _)| *other == node).map_or(0.0, |(_, share)| *share);
        let count = partitions.len();
        let wrap = |(index, (shard, inner)): (usize, (usize, _))| {
            // Partitions take turns instead of all having rows at the same instants.
            let (share, offset) = (share / count as f64, index as f64 / count as f64);
            let lane = Arc::new(Lane {
                schedule: Schedule::new(&self.spec.phases, share, self.spec.group, offset),
                released: Padded::default(),
                taken: Padded::default(),
                finished_ns: AtomicU64::new(0),
                waits: Mutex::default(),
                waker: wakers.get(shard).cloned().unwrap_or_else(|| Arc::new(|| {})),
            });
            lock(&self.lanes).push(lane.clone());
            let paced = PacedPartition::new(inner, self.clone(), lane, self.spec.event_times);
            (shard, Box::new(paced) as Box<dyn crate::Partition>)
        };
        partitions.into_iter().enumerate().map(wrap).collect()
    }

    /// When the load began (CLOCK_MONOTONIC, nanoseconds); `None`: not yet. Until then nothing is due.
    pub fn start_ns(&self) -> Option<u64> {
        Some(self.start_ns.load(Ordering::Acquire)).filter(|start_ns| *start_ns != 0)
    }

    /// Whether rows come as fast as they are taken.
    pub fn is_flat_out(&self) -> bool {
        self.spec.phases.is_empty()
    }

    /// Whether what was due (or read) at this moment is measured.
    pub fn is_measured(&self, at_ns: u64) -> bool {
        let (from_ns, to_ns) = self.spec.measured_ns;
        let start_ns = self.start_ns.load(Ordering::Relaxed);
        start_ns != 0 && at_ns.checked_sub(start_ns).is_some_and(|since_ns| (from_ns..to_ns).contains(&since_ns))
    }

    /// Those rows of a partition that are due in the measured time.
    fn measured_rows(&self, schedule: &Schedule) -> Range<u64> {
        let before = |at_ns: u64| at_ns.checked_sub(1).map_or(0, |last_ns| schedule.due(last_ns));
        before(self.spec.measured_ns.0)..before(self.spec.measured_ns.1)
    }

    /// Releases rows until all are released or [`OpenLoop::stop`]; spins. Nothing is done for a load without a thread.
    pub fn drive(&self) {
        if !self.has_thread() {
            return;
        }
        let start_ns = loop {
            match self.start_ns() {
                Some(start_ns) => break start_ns,
                None if self.is_stopped.load(Ordering::Relaxed) => return,
                None => std::thread::yield_now(),
            }
        };
        let lanes = lock(&self.lanes).clone();
        let mut lag = wait_histogram();
        let mut left = lanes.len();
        while left > 0 && !self.is_stopped.load(Ordering::Relaxed) {
            left = 0;
            for lane in &lanes {
                let now_ns = monotonic_ns();
                let Some(since_ns) = now_ns.checked_sub(start_ns) else {
                    left += 1;
                    continue;
                };
                let released = lane.released();
                let due = lane.schedule.due(since_ns);
                if due > released {
                    let measured = self.measured_rows(&lane.schedule);
                    lane.release(due);
                    let (first, end) = (released.max(measured.start), due.min(measured.end));
                    if first < end {
                        // All of them are taken to be as late as the oldest.
                        lag.saturating_record_n((since_ns - lane.schedule.due_ns(first)).max(1), end - first);
                    }
                    if due == lane.schedule.rows() {
                        self.released_ns.fetch_max(since_ns, Ordering::Relaxed);
                    }
                }
                left += usize::from(due < lane.schedule.rows());
            }
            std::hint::spin_loop();
        }
        *lock(&self.lag) = lag;
    }

    /// Ends [`OpenLoop::drive`] before its time.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Rows that are due and were not taken, and rows taken.
    pub fn backlog(&self) -> (u64, u64) {
        let since_ns = self.start_ns().and_then(|start_ns| monotonic_ns().checked_sub(start_ns));
        let (mut backlog, mut taken) = (0, 0);
        for lane in lock(&self.lanes).iter() {
            let lane_taken = lane.taken.0.load(Ordering::Relaxed);
            let due = since_ns.map_or(0, |since_ns| lane.schedule.due(since_ns));
            backlog += due.saturating_sub(lane_taken);
            taken += lane_taken;
        }
        (backlog, taken)
    }

    /// How it has gone; complete when the run is over.
    pub fn figures(&self) -> LoadFigures {
        let mut waits = wait_histogram();
        let (mut rows, mut released, mut taken, mut finished_ns) = (0, 0, 0, Some(0));
        for lane in lock(&self.lanes).iter() {
            let lane_taken = lane.taken.0.load(Ordering::Relaxed);
            rows += lane.schedule.rows();
            released += if self.has_thread() { lane.released() } else { lane.schedule.rows() };
            taken += lane_taken;
            finished_ns = match lane.finished_ns.load(Ordering::Relaxed) {
                0 => None,
                at_ns => finished_ns.map(|other: u64| other.max(at_ns)),
            };
            if let Some(lane_waits) = &*lock(&lane.waits) {
                // The bounds are the same, so nothing can be out of them.
                let _ = waits.add(lane_waits);
            }
        }
        let start_ns = self.start_ns().unwrap_or(0);
        LoadFigures {
            rows,
            released,
            released_ns: self.released_ns.load(Ordering::Relaxed),
            taken,
            finished_ns: finished_ns.map(|at_ns| at_ns.saturating_sub(start_ns)),
            lag: lock(&self.lag).clone(),
            waits,
        }
    }

    /// Begins the load at the first poll; says when that was.
    fn begin(&self, now_ns: u64) -> u64 {
        let start_ns = self.start_ns.load(Ordering::Acquire);
        if start_ns != 0 {
            return start_ns;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ns = i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX).saturating_add(HEAD_START_NS as i64);
        // Another shard may have been first; then its clock counts, and differs by less than a poll.
        self.start_wall_ns.store(wall_ns, Ordering::Relaxed);
        let own_ns = now_ns + HEAD_START_NS;
        match self.start_ns.compare_exchange(0, own_ns, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => own_ns,
            Err(other_ns) => other_ns,
        }
    }

    fn has_thread(&self) -> bool {
        self.spec.driver == Driver::Thread && !self.is_flat_out()
    }

    /// The partition has given all that it was to give. It does not end before the load does, so that what the end
    /// brings about (windows that close) is not measured.
    fn is_over(&self, lane: &Lane, taken: u64) -> bool {
        !self.is_flat_out() && taken >= lane.schedule.rows()
    }

    /// When row `row` of a partition is due; `None` where rows come as fast as they are taken.
    fn due_ns(&self, lane: &Lane, row: u64) -> Option<u64> {
        let start_ns = self.start_ns.load(Ordering::Relaxed);
        (!self.is_flat_out()).then(|| start_ns + lane.schedule.due_ns(row))
    }

    fn wall_clock_ns(&self, since_start_ns: u64) -> i64 {
        self.start_wall_ns.load(Ordering::Relaxed).saturating_add_unsigned(since_start_ns)
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("rows", &self.schedule.rows()).finish_non_exhaustive()
    }
}

impl Lane {
    fn released(&self) -> u64 {
        self.released.0.load(Ordering::Relaxed)
    }

    /// Nothing but the number itself is handed over, so no ordering is needed; the waker has its own.
    fn release(&self, rows: u64) {
        self.released.0.store(rows, Ordering::Relaxed);
        (self.waker)();
    }

    fn note_taken(&self, records: u64) {
        self.taken.0.store(records, Ordering::Relaxed);
    }

    fn keep_waits(&self, waits: Option<Histogram<u64>>) {
        if let Some(waits) = waits {
            *lock(&self.waits) = Some(waits);
        }
    }

    fn finish(&self, now_ns: u64) {
        self.finished_ns.store(now_ns, Ordering::Relaxed);
    }
}

fn monotonic_ns() -> u64 {
    // The clock id is a constant that the kernel always knows, so the call cannot fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(test)]
mod tests;
