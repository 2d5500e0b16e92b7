//! What every node of a shard can do, and the words that pass between nodes.
//!
//! An operator never waits. It *offers* rows and, after them, a [`Mark`]; the graph passes them to each consumer, which
//! takes as many as it has room for and may be asked again later. Only when every consumer has taken everything is the
//! operator told so, and may make its next offer. That is all the back-pressure there is.
//!
//! # Barriers
//!
//! A barrier is a position in every stream, told by [`Mark::barrier`]: what is before it belongs to the epoch that ends
//! there. At most one is on its way.
//!
//! 1. A source that was asked for a barrier reads nothing more until all that it has read was taken, dead letters
//!    included. Then it notes its partitions' positions and moves its mark.
//! 2. A node is at the barrier when all its inputs are ([`InputMarks`]). Until then it refuses the rows of an input
//!    whose barrier has come, because they are of the next epoch; from then until the barrier has left through all its
//!    ports it refuses all rows.
//! 3. It sends the barrier through each of its ports behind that port's rows ([`OutputMarks`]). Its state is written to
//!    the shard's snapshot as it was when the barrier left for the results, at once or in parts; it has passed the barrier
//!    when it left through every port.
//! 4. When all nodes of a shard have passed it and owe nothing to the snapshot, the shard hands that over.
//!
//! No two nodes can wait for each other: rows before the barrier are never refused for its sake, so they leave, and the
//! barrier, which needs no room, follows.

use ringmill_state::EntryKey;
use ringmill_wire::{BatchView, BatchWriter};

use super::farewell::Farewell;
use super::snapshot::{BarrierRequest, ShardSnapshot};
use super::store_port::StorePort;
use crate::error::EngineError;
use crate::metrics::{NodeCounts, PartitionLag, StageHistograms, WorkerSnapshot};
use crate::window::SpillFigures;

/// A position in a stream: everything before it was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// No row with an earlier event time (nanoseconds since 1970) follows, except late ones; `i64::MAX`: everything was
    /// read.
    pub watermark_ns: i64,
    /// The newest event time that the sources have met so far; `i64::MIN`: none.
    pub newest_ns: i64,
    /// When the row that moved the watermark was read; monotonic nanoseconds.
    pub ingest_ns: u64,
    /// Rows after this position must not share a micro-batch with rows before it, so that what is late does not
    /// depend on where batches happen to end.
    pub cut: bool,
    /// The last epoch that has ended before this position; 0: none. A barrier is a mark that moves it; rows after a
    /// barrier share no micro-batch with rows before it. At most one barrier is on its way at any time.
    pub barrier: u64,
    /// Nothing follows.
    pub end: bool,
}

impl Mark {
    /// Before anything is known.
    pub const START: Mark =
        Mark { watermark_ns: i64::MIN, newest_ns: i64::MIN, ingest_ns: 0, cut: false, barrier: 0, end: false };

    /// Everything was read and nothing follows. Where a run is drained there is more to read, in the next one.
    pub fn is_over(&self) -> bool {
        self.end && self.watermark_ns == i64::MAX
    }
}

/// Rows on their way from one node to another.
#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    /// The batch.
    pub view: BatchView<'a>,
    /// First row that was not taken yet.
    pub first: usize,
    /// When the batch's oldest row was read; monotonic nanoseconds.
    pub ingest_ns: u64,
}

impl Delivery<'_> {
    /// Rows not taken yet.
    pub fn remaining(&self) -> usize {
        self.view.rows() - self.first
    }
}

/// Rows to pass on.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The batch.
    pub view: BatchView<'a>,
    /// First row of the offer; the rows before it were passed on with an earlier one.
    pub first: usize,
    /// When the batch's oldest row was read; monotonic nanoseconds.
    pub ingest_ns: u64,
}

/// What an operator has to pass on through one port.
pub struct Offer<'a> {
    /// Rows, if any.
    pub rows: Option<Rows<'a>>,
    /// Passed on after the rows.
    pub mark: Option<Mark>,
}

/// What a shard lends its operators.
pub struct ShardContext<'a> {
    /// Latencies, recorded by the shard's thread.
    pub histograms: &'a mut StageHistograms,
    /// Monotonic clock, read once for each round of the graph.
    pub now_ns: u64,
    /// Earliest moment at which an operator wants to be asked again though nothing happens; monotonic nanoseconds.
    pub wake_ns: &'a mut u64,
    /// Sources read nothing more.
    pub draining: bool,
    /// Whether there are checkpoints; without them no barrier ever comes.
    pub has_checkpoints: bool,
    /// The barrier that sources are asked for.
    pub barrier: BarrierRequest,
    /// The last epoch whose snapshot was handed to the store thread.
    pub shipped_epoch: u64,
    /// Operators write what changed here when the barrier passes them.
    pub snapshot: &'a mut ShardSnapshot,
}

impl ShardContext<'_> {
    /// Asks for another round no later than `at_ns`.
    pub fn wake_at(&mut self, at_ns: u64) {
        *self.wake_ns = (*self.wake_ns).min(at_ns);
    }
}

/// Index of the port for results.
pub const ROWS: usize = 0;
/// Index of the port for late rows.
pub const LATE: usize = 1;
/// Index of the port for dead letters.
pub const DEAD_LETTERS: usize = 2;
/// Ports of every node.
pub const PORTS: usize = 3;

/// A node of a shard's graph.
pub trait Operator: Send {
    /// Does what can be done now without waiting; says whether anything was.
    fn advance(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError>;

    /// Takes rows from the delivery's first on; returns how many (0: no room now).
    fn accept(
        &mut self,
        input: usize,
        delivery: Delivery<'_>,
        context: &mut ShardContext<'_>,
    ) -> Result<usize, EngineError>;

    /// Takes a mark; called after all rows before it were accepted.
    fn mark(&mut self, input: usize, mark: Mark, context: &mut ShardContext<'_>) -> Result<(), EngineError>;

    /// What is to be passed on through a port; the same until [`Operator::delivered`].
    fn offer(&self, port: usize) -> Option<Offer<'_>>;

    /// Every consumer of the port has taken what was offered.
    fn delivered(&mut self, port: usize, context: &mut ShardContext<'_>) -> Result<(), EngineError>;

    /// It has seen the end of its inputs and passed on everything.
    fn is_finished(&self) -> bool;

    /// The last epoch whose barrier it has passed on through all its ports, its state of that moment being in the
    /// snapshot, or [owed](Operator::owes_snapshot) to it; 0: none.
    fn epoch_passed(&self) -> u64 {
        0
    }

    /// Some of its state at the last barrier is not in the snapshot yet; it gets there with each
    /// [`advance`](Operator::advance).
    fn owes_snapshot(&self) -> bool {
        false
    }

    /// Rows are refused for no other reason than that a barrier has come through some inputs and not through others.
    fn is_aligning(&self) -> bool {
        false
    }

    /// It reads nothing more, ever: a source at its end, or no source at all.
    fn is_exhausted(&self) -> bool {
        true
    }

    /// Takes back one entry of its state, before anything else is asked of it. Entries of several earlier shards may
    /// come together; those of a whole shard then come from each.
    fn restore(&mut self, entry: &EntryKey<'_>, _value: &[u8]) -> Result<(), EngineError> {
        Err(EngineError::Internal(format!("state of node {} belongs to an operator that has none", entry.node)))
    }

    /// All entries were given back; `epoch` is the last that ended.
    fn restored(&mut self, _epoch: u64) -> Result<(), EngineError> {
        Ok(())
    }

    /// Whether it could begin; asked before the first round until it says so. What is missing rings the shard's doorbell.
    fn is_ready(&mut self) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// Partitions that are to be told when the last checkpoint is complete; called when everything was passed on.
    fn farewells(&mut self) -> Vec<Farewell> {
        Vec::new()
    }

    /// Its row counts.
    fn counts(&self, counts: &mut NodeCounts);

    /// Open room into which a producer may write rows directly instead of offering them, if there is some now.
    fn direct_writer(&mut self, _context: &mut ShardContext<'_>) -> Option<&mut BatchWriter> {
        None
    }

    /// Rows were written through [`Operator::direct_writer`]; `ingest_ns` is when the first was read, `full` says that
    /// the next row did not fit.
    fn direct_written(
        &mut self,
        _rows: u32,
        _ingest_ns: u64,
        _full: bool,
        _context: &mut ShardContext<'_>,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Like [`Operator::advance`] for a producer whose only consumer lends it room.
    fn advance_into(
        &mut self,
        _consumer: &mut dyn Operator,
        context: &mut ShardContext<'_>,
    ) -> Result<bool, EngineError> {
        self.advance(context)
    }

    /// Announces that the shard is going to sleep; `false`: there is news, do not.
    fn arm_sleep(&mut self) -> bool {
        true
    }

    /// The shard is awake again.
    fn disarm_sleep(&mut self) {}

    /// Bytes of state it holds.
    fn state_bytes(&self) -> u64 {
        0
    }

    /// What it has put away in the shard's store for lack of memory.
    fn spilled(&self) -> SpillFigures {
        SpillFigures::default()
    }

    /// May put state away in the shard's store from now on; before anything is given back.
    fn set_store(&mut self, _port: StorePort) {}

    /// Writes how far its partitions are behind into `lags`, whose room it uses again.
    fn lags(&self, _lags: &mut Vec<PartitionLag>) {}

    /// Writes its workers' figures from `workers[next]` on; returns the index behind them.
    fn workers(&self, _workers: &mut Vec<WorkerSnapshot>, next: usize) -> usize {
        next
    }
}

/// The marks of a node's inputs, joined: the least watermark, the newest time, the least barrier, the end when all have
/// ended.
#[derive(Debug)]
pub struct InputMarks {
    marks: Vec<Mark>,
    joined: Mark,
}

impl InputMarks {
    /// For a node with that many inputs.
    pub fn new(inputs: usize) -> Self {
        Self { marks: vec![Mark::START; inputs], joined: Mark::START }
    }

    /// Takes one input's mark; returns the joined mark.
    pub fn update(&mut self, input: usize, mark: Mark) -> Mark {
        // Where nothing is expected, the watermark is there before the input knows it.
        let known_ns = self.marks[input].watermark_ns;
        self.marks[input] = Mark { watermark_ns: mark.watermark_ns.max(known_ns), ..mark };
        let watermark_ns = self.marks.iter().map(|mark| mark.watermark_ns).min().unwrap_or(i64::MIN);
        let barrier = self.marks.iter().map(|mark| mark.barrier).min().unwrap_or(0);
        let end = self.marks.iter().all(|mark| mark.end);
        let newest_ns = self.marks.iter().map(|mark| mark.newest_ns).max().unwrap_or(i64::MIN);
        self.joined = Mark { watermark_ns, newest_ns, ingest_ns: mark.ingest_ns, cut: mark.cut, barrier, end };
        self.joined
    }

    /// An input has no rows, ever: it has no say in the watermark, also before its first mark.
    pub fn expect_nothing_from(&mut self, input: usize) {
        self.marks[input].watermark_ns = i64::MAX;
    }

    /// The input's barrier has come and another input's has not: its rows belong to the next epoch and have to wait.
    pub fn is_blocked(&self, input: usize) -> bool {
        #[cfg(test)]
        if super::barrier_tests::is_alignment_broken() {
            return false;
        }
        self.marks[input].barrier > self.joined.barrier
    }

    /// Some input is blocked.
    pub fn is_aligning(&self) -> bool {
        (0..self.marks.len()).any(|input| self.is_blocked(input))
    }

    /// The run goes on after this epoch.
    pub fn restored(&mut self, epoch: u64) {
        self.marks.iter_mut().for_each(|mark| mark.barrier = epoch);
        self.joined.barrier = epoch;
    }
}

/// What has left through each port of a node.
#[derive(Clone, Copy, Debug)]
pub struct OutputMarks {
    sent: [Mark; PORTS],
}

impl OutputMarks {
    /// Before anything was sent.
    pub fn new() -> Self {
        Self { sent: [Mark::START; PORTS] }
    }

    /// The mark to be sent through `port` for a node that stands at `mark`, if there is news.
    ///
    /// Through the ports for late rows and dead letters go barriers and the end only: those streams have no time of
    /// their own, so their watermark stays unknown until nothing can follow.
    pub fn due(&self, port: usize, mark: Mark) -> Option<Mark> {
        let sent = &self.sent[port];
        if port == ROWS {
            return (mark != *sent).then_some(mark);
        }
        let watermark_ns = if mark.is_over() { i64::MAX } else { i64::MIN };
        (mark.barrier > sent.barrier || mark.end && !sent.end).then_some(Mark { watermark_ns, cut: false, ..mark })
    }

    /// The node's `mark` has left through `port`.
    pub fn note_sent(&mut self, port: usize, mark: Mark) {
        self.sent[port] = mark;
    }

    /// `mark` has left for the results: rows may follow it there.
    pub fn has_sent(&self, mark: &Mark) -> bool {
        self.sent[ROWS] == *mark
    }

    /// The last epoch whose barrier has left for the results.
    pub fn results_epoch(&self) -> u64 {
        self.sent[ROWS].barrier
    }

    /// The last epoch whose barrier has left through every port.
    pub fn epoch(&self) -> u64 {
        self.sent.iter().map(|sent| sent.barrier).min().unwrap_or(0)
    }

    /// The end has left through every port.
    pub fn are_ended(&self) -> bool {
        self.sent.iter().all(|sent| sent.end)
    }

    /// The mark that replaces `earlier`: a cut that was not sent yet stays one.
    pub fn replace(&self, earlier: Mark, mark: Mark) -> Mark {
        Mark { cut: mark.cut || earlier.cut && !self.has_sent(&earlier), ..mark }
    }

    /// The run goes on after this epoch.
    pub fn restored(&mut self, epoch: u64) {
        self.sent.iter_mut().for_each(|sent| sent.barrier = epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(watermark_ns: i64, barrier: u64, end: bool) -> Mark {
        Mark { watermark_ns, ingest_ns: 7, barrier, end, ..Mark::START }
    }

    #[test]
    fn joined_mark_is_the_least_watermark_and_ends_with_the_last_input() {
        let mut marks = InputMarks::new(2);
        assert_eq!(marks.update(0, mark(100, 0, false)).watermark_ns, i64::MIN);
        assert_eq!(marks.update(1, mark(50, 0, false)).watermark_ns, 50);
        assert_eq!(marks.update(1, mark(i64::MAX, 0, true)), mark(100, 0, false));
        assert!(marks.update(0, mark(i64::MAX, 0, true)).end);
    }

    #[test]
    fn an_input_without_rows_has_no_say_in_the_watermark_also_before_its_first_mark() {
        let mut marks = InputMarks::new(2);
        marks.expect_nothing_from(1);
        assert_eq!(marks.update(0, mark(100, 0, false)).watermark_ns, 100);
        assert_eq!(marks.update(1, mark(i64::MIN, 0, false)).watermark_ns, 100);
    }

    #[test]
    fn joined_mark_has_the_newest_time_of_any_input() {
        let mut marks = InputMarks::new(2);
        marks.update(0, Mark { newest_ns: 70, ..mark(i64::MAX, 0, false) });
        assert_eq!(marks.update(1, Mark { newest_ns: 30, ..mark(i64::MAX, 0, false) }).newest_ns, 70);
    }

    #[test]
    fn an_input_whose_barrier_came_first_waits_for_the_others() {
        let mut marks = InputMarks::new(2);
        assert_eq!(marks.update(0, mark(100, 1, false)).barrier, 0);
        assert!(marks.is_blocked(0) && !marks.is_blocked(1));
        assert_eq!(marks.update(1, mark(100, 1, false)).barrier, 1);
        assert!(!marks.is_blocked(0) && !marks.is_blocked(1));
    }

    #[test]
    fn side_ports_pass_barriers_and_the_end_but_no_watermark_before_nothing_can_follow() {
        let mut outputs = OutputMarks::new();
        assert_eq!(outputs.due(ROWS, mark(5, 0, false)), Some(mark(5, 0, false)));
        assert_eq!(outputs.due(LATE, mark(5, 0, false)), None);
        assert_eq!(outputs.due(LATE, mark(5, 1, false)), Some(mark(i64::MIN, 1, false)));
        outputs.note_sent(LATE, mark(5, 1, false));
        assert_eq!(outputs.due(LATE, mark(9, 1, false)), None);
        assert_eq!(outputs.due(LATE, mark(9, 2, true)), Some(mark(i64::MIN, 2, true)), "drained");
        assert_eq!(outputs.due(LATE, mark(i64::MAX, 2, true)), Some(mark(i64::MAX, 2, true)));
        assert_eq!(outputs.epoch(), 0, "the other ports have not passed it");
    }

    #[test]
    fn a_cut_that_was_not_sent_survives_the_next_mark() {
        let mut outputs = OutputMarks::new();
        let cut = Mark { cut: true, ..mark(5, 0, false) };
        assert!(outputs.replace(cut, mark(6, 0, false)).cut);
        outputs.note_sent(ROWS, cut);
        assert!(!outputs.replace(cut, mark(6, 0, false)).cut);
    }
}
