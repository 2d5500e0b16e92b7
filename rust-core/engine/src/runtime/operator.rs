//! What every node of a shard can do, and the words that pass between nodes.
//!
//! An operator never waits. It *offers* rows and, after them, a [`Mark`]; the graph passes them to each consumer, which
//! takes as many as it has room for and may be asked again later. Only when every consumer has taken everything is the
//! operator told so, and may make its next offer. That is all the back-pressure there is.

use ringmill_wire::{BatchView, BatchWriter};

use crate::error::EngineError;
use crate::metrics::{NodeCounts, StageHistograms, WorkerSnapshot};

/// A position in a stream: everything before it was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// No row with an earlier event time (nanoseconds since 1970) follows, except late ones.
    pub watermark_ns: i64,
    /// When the row that moved the watermark was read; monotonic nanoseconds.
    pub ingest_ns: u64,
    /// Rows after this position must not share a micro-batch with rows before it, so that what is late does not
    /// depend on where batches happen to end.
    pub cut: bool,
    /// Nothing follows.
    pub end: bool,
}

impl Mark {
    /// Before anything is known.
    pub const START: Mark = Mark { watermark_ns: i64::MIN, ingest_ns: 0, cut: false, end: false };
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

    /// Writes its workers' figures from `workers[next]` on; returns the index behind them.
    fn workers(&self, _workers: &mut Vec<WorkerSnapshot>, next: usize) -> usize {
        next
    }
}

/// The marks of a node's inputs, joined: the least watermark, the end when all have ended.
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
        self.marks[input] = mark;
        let watermark_ns = self.marks.iter().map(|mark| mark.watermark_ns).min().unwrap_or(i64::MIN);
        let end = self.marks.iter().all(|mark| mark.end);
        self.joined = Mark { watermark_ns, ingest_ns: mark.ingest_ns, cut: mark.cut, end };
        self.joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_mark_is_the_least_watermark_and_ends_with_the_last_input() {
        let mut marks = InputMarks::new(2);
        let mark = |watermark_ns, end| Mark { watermark_ns, ingest_ns: 7, cut: false, end };
        assert_eq!(marks.update(0, mark(100, false)).watermark_ns, i64::MIN);
        assert_eq!(marks.update(1, mark(50, false)).watermark_ns, 50);
        assert_eq!(
            marks.update(1, mark(i64::MAX, true)),
            Mark { watermark_ns: 100, ingest_ns: 7, cut: false, end: false }
        );
        assert!(marks.update(0, mark(i64::MAX, true)).end);
    }
}
