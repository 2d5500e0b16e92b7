//! The thread of one shard: rounds of its graph, and what it does between them.

use std::sync::Arc;
use std::time::Duration;

use ringmill_ring::{Wait, monotonic_ns};

use super::checkpoint_link::ShardCheckpoints;
use super::farewell::Farewell;
use super::graph::Graph;
use super::operator::ShardContext;
use super::signal::ShardSignal;
use super::snapshot::{BarrierRequest, ShardSnapshot};
use crate::error::EngineError;
use crate::metrics::{Control, Mailbox, NodeCounts, ShardCounts, StageHistograms};
use crate::profile::{Profile, be_preferred};

/// How long an idle shard spins before it gives way, with `wait = "adaptive"`: longer than nearly all answers of a busy
/// worker, shorter than a scheduler's tick.
pub(super) const SPIN_NS: u64 = 50_000;
/// How long it then yields before it sleeps.
pub(super) const YIELD_NS: u64 = 50_000;
/// Longest sleep, and the distance between two posts of figures.
const POST_NS: u64 = 100_000_000;

/// One shard, ready to run.
pub struct Shard {
    /// Its nodes.
    pub graph: Graph,
    /// Wakes it.
    pub signal: Arc<ShardSignal>,
    /// How it waits.
    pub wait: Wait,
    /// How it asks the kernel to treat it.
    pub profile: Profile,
    /// CPU to run on.
    pub cpu: Option<usize>,
    /// Name and kind of the plan's nodes.
    pub nodes: Vec<NodeCounts>,
    /// Where it leaves its figures.
    pub mailbox: Arc<Mailbox>,
    /// Steers it.
    pub control: Arc<Control>,
    /// Its way to the checkpoints, if there are any.
    pub checkpoints: Option<ShardCheckpoints>,
}

struct Pace {
    histograms: StageHistograms,
    counts: ShardCounts,
    posted_ns: u64,
    idle_since_ns: u64,
    wake_ns: u64,
    /// What the barrier on its way has gathered so far.
    snapshot: Box<ShardSnapshot>,
}

impl Shard {
    /// Runs until all is passed on, or the run is aborted. What it returns outlives it until the last checkpoint is
    /// complete.
    pub fn run(mut self) -> Vec<Farewell> {
        let _guard = self.control.guard();
        if let Some(cpu) = self.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
        {
            tracing::warn!(cpu, "cannot pin a shard to this CPU; it runs unpinned");
        }
        if self.profile == Profile::Latency {
            // That it may not be was said when the run began.
            let _ = be_preferred();
        }
        let counts = ShardCounts { nodes: self.nodes.clone(), ..ShardCounts::default() };
        let mut pace = Pace {
            histograms: StageHistograms::default(),
            counts,
            posted_ns: 0,
            idle_since_ns: 0,
            wake_ns: u64::MAX,
            snapshot: Box::default(),
        };
        if let Err(error) = self.rounds(&mut pace) {
            self.control.fail(error);
        }
        self.count(&mut pace, monotonic_ns());
        self.mailbox.post_final(Some(&pace.counts), pace.histograms);
        self.graph.farewells()
    }

    fn rounds(&mut self, pace: &mut Pace) -> Result<(), EngineError> {
        while !self.control.is_aborted() {
            let moved = self.round(pace)?;
            if moved {
                pace.idle_since_ns = 0;
                continue;
            }
            if self.is_finished() {
                return Ok(());
            }
            self.idle(pace)?;
        }
        Ok(())
    }

    /// Everything was passed on, and the last snapshot was handed over.
    fn is_finished(&self) -> bool {
        let is_due = |checkpoints: &ShardCheckpoints| checkpoints.is_due(self.graph.epoch_passed());
        self.graph.is_finished() && !self.checkpoints.as_ref().is_some_and(is_due)
    }

    /// Brings the figures up to date, those of the runs before included.
    fn count(&self, pace: &mut Pace, now_ns: u64) {
        self.graph.counts(&mut pace.counts, now_ns);
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.add_base(pace.counts.nodes.iter_mut().enumerate());
        }
    }

    fn round(&mut self, pace: &mut Pace) -> Result<bool, EngineError> {
        let now_ns = monotonic_ns();
        pace.wake_ns = u64::MAX;
        let barrier = self.checkpoints.as_ref().map_or_else(BarrierRequest::default, ShardCheckpoints::request);
        let mut context = ShardContext {
            histograms: &mut pace.histograms,
            now_ns,
            wake_ns: &mut pace.wake_ns,
            draining: self.control.is_draining(),
            has_checkpoints: self.checkpoints.is_some(),
            barrier,
            shipped_epoch: self.checkpoints.as_ref().map_or(0, ShardCheckpoints::shipped),
            snapshot: &mut pace.snapshot,
        };
        let mut moved = self.graph.step(&mut context)?;
        if let Some(checkpoints) = &mut self.checkpoints {
            moved |= hand_over(checkpoints, &self.graph, pace, moved);
        }
        if now_ns - pace.posted_ns > POST_NS {
            pace.posted_ns = now_ns;
            self.count(pace, now_ns);
            self.mailbox.post(&pace.counts, &mut pace.histograms);
        }
        Ok(moved)
    }

    fn idle(&mut self, pace: &mut Pace) -> Result<(), EngineError> {
        let now_ns = monotonic_ns();
        if pace.idle_since_ns == 0 {
            pace.idle_since_ns = now_ns;
        }
        let idle_ns = now_ns - pace.idle_since_ns;
        match self.wait {
            Wait::Spin => std::hint::spin_loop(),
            Wait::Adaptive if idle_ns < SPIN_NS => std::hint::spin_loop(),
            Wait::Adaptive if idle_ns < SPIN_NS + YIELD_NS => std::thread::yield_now(),
            Wait::Adaptive | Wait::Block => self.sleep(pace)?,
        }
        Ok(())
    }

    /// Announces sleep, looks once more, and sleeps.
    fn sleep(&mut self, pace: &mut Pace) -> Result<(), EngineError> {
        self.signal.arm();
        if self.graph.arm_sleep() && !self.round(pace)? && !self.is_finished() && !self.control.is_aborted() {
            let now_ns = monotonic_ns();
            let until_ns = pace.wake_ns.min(now_ns + POST_NS);
            if until_ns > now_ns {
                self.signal.sleep(Duration::from_nanos(until_ns - now_ns));
            }
        }
        self.graph.disarm_sleep();
        self.signal.disarm();
        pace.idle_since_ns = 0;
        Ok(())
    }
}

/// Tells the checkpoint thread what is new in this shard; says whether anything was handed over.
fn hand_over(checkpoints: &mut ShardCheckpoints, graph: &Graph, pace: &mut Pace, moved: bool) -> bool {
    if !moved && checkpoints.awaits_exhaustion() && graph.is_exhausted() {
        checkpoints.note_exhausted();
    }
    // Only while a barrier is on its way is there anything to be looked for in the graph.
    if !checkpoints.is_due(checkpoints.request().epoch) {
        return false;
    }
    let passed = graph.epoch_passed();
    checkpoints.is_due(passed) && !graph.owes_snapshot() && checkpoints.ship(passed, &mut pace.snapshot)
}
