//! The window step as its owner sees it.

use std::ops::Range;
use std::sync::Arc;

use ringmill_wire::{BatchView, BatchWriter, Schema, TimeUnit};

use super::aligned::AlignedWindows;
use super::error::{StateFull, WindowError};
use super::key_table::BLOCK;
use super::session::SessionWindows;
use super::spec::{WindowKind, WindowSpec};
use super::step::{Rows, Step, Times};

/// What windows go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeColumn {
    /// A timestamp column.
    Event {
        /// Index in the input schema.
        index: usize,
        /// Its unit, which is also that of `window_start` and `window_end`.
        unit: TimeUnit,
    },
    /// The time of arrival, in milliseconds.
    Arrival,
}

/// The times of the rows of one push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowTime {
    /// In this column.
    Column(usize),
    /// All at this time; nanoseconds since 1970.
    Fixed(i64),
}

/// What [`WindowOperator::emit`] has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Rows that were appended.
    pub rows: u32,
    /// The oldest ingest of the rows that made their windows fire; `u64::MAX` without rows.
    pub ingest_ns: u64,
}

#[derive(Debug)]
enum Windows {
    Aligned(Box<AlignedWindows>),
    Session(Box<SessionWindows>),
}

/// Keyed windows with aggregates: rows in, results out when the watermark passes.
///
/// Results come in the order of their window's end, then of the first arrival of the key in that window. Nothing here
/// waits, and after warm-up nothing allocates by the row. After a [`StateFull`] the operator must not be used further.
#[derive(Debug)]
pub struct WindowOperator {
    step: Step,
    windows: Windows,
    failed: Option<StateFull>,
}

impl WindowOperator {
    /// For rows of the schema `input`, with at most that many bytes of state.
    ///
    /// # Errors
    /// The first mistake in `spec`; [`output_schema`](super::output_schema) gives them all.
    pub fn new(
        spec: &WindowSpec,
        input: Arc<Schema>,
        time: TimeColumn,
        state_bytes_max: u64,
    ) -> Result<Self, WindowError> {
        let mut step = Step::new(spec, &input, time, state_bytes_max)?;
        let windows = match spec.window {
            WindowKind::Tumbling { size_ns } => {
                Windows::Aligned(Box::new(AlignedWindows::new(size_ns, size_ns, &mut step)))
            }
            WindowKind::Sliding { size_ns, every_ns } => {
                Windows::Aligned(Box::new(AlignedWindows::new(size_ns, every_ns, &mut step)))
            }
            WindowKind::Session { gap_ns } => Windows::Session(Box::new(SessionWindows::new(gap_ns, &step))),
        };
        Ok(Self { step, windows, failed: None })
    }

    /// Takes rows; gives how many, which is fewer only if `late` is full. A row is late if every window it falls into
    /// is over, that is if the watermark has reached the window's end plus the allowed lateness; it is then written
    /// whole to `late`. A row for a window that fired but is not over makes its key's result go out again.
    ///
    /// # Errors
    /// [`StateFull`] when the state would outgrow its bound.
    pub fn push(
        &mut self,
        view: &BatchView<'_>,
        rows: Range<usize>,
        time: RowTime,
        ingest_ns: u64,
        late: &mut BatchWriter,
    ) -> Result<usize, StateFull> {
        self.check()?;
        let first = rows.start;
        let mut next = first;
        while next < rows.end {
            let block = next..rows.end.min(next + BLOCK);
            match self.push_block(view, block.clone(), time, ingest_ns, late) {
                Ok(taken) => next += taken,
                Err(full) => {
                    self.failed = Some(full);
                    return Err(full);
                }
            }
            if next < block.end {
                break;
            }
        }
        Ok(next - first)
    }

    fn push_block(
        &mut self,
        view: &BatchView<'_>,
        rows: Range<usize>,
        time: RowTime,
        ingest_ns: u64,
        late: &mut BatchWriter,
    ) -> Result<usize, StateFull> {
        let step = &mut self.step;
        let times = Times::of(view, rows.clone(), time, step.unit);
        for (lane, input) in step.lanes.iter_mut().zip(&step.layout.inputs) {
            lane.load(input, view, rows.clone());
        }
        // The keys borrow the scratch room while the rest of the step is in use.
        let mut scratch = std::mem::take(&mut step.key_scratch);
        let keys = step.keys.read(view, rows.clone(), &mut scratch);
        let block = Rows { view, first: rows.start, times, keys, ingest_ns };
        let taken = match &mut self.windows {
            Windows::Aligned(windows) => windows.push(step, &block, late),
            Windows::Session(windows) => windows.push(step, &block, late),
        };
        step.key_scratch = scratch;
        step.sequence += rows.len() as u64;
        taken
    }

    /// Moves the watermark: no row with an earlier event time follows, except late ones. Windows that end by then fire.
    /// `ingest_ns` is the ingest of the row that moved it. A watermark that does not move forward changes nothing.
    pub fn advance(&mut self, watermark_ns: i64, ingest_ns: u64) {
        if watermark_ns <= self.step.watermark_ns {
            return;
        }
        self.step.watermark_ns = watermark_ns;
        self.step.ingest_ns = ingest_ns;
        match &mut self.windows {
            Windows::Aligned(windows) => windows.advance(&mut self.step),
            Windows::Session(windows) => windows.advance(&mut self.step),
        }
    }

    /// Whether there are results to be emitted.
    #[must_use]
    pub fn has_output(&self) -> bool {
        match &self.windows {
            Windows::Aligned(windows) => windows.pending() > 0,
            Windows::Session(windows) => windows.pending() > 0,
        }
    }

    /// Appends results to `out` until it is full or there are no more. Call again with the next batch while
    /// [`WindowOperator::has_output`]; no rows into an empty batch means that one row is larger than a batch.
    pub fn emit(&mut self, out: &mut BatchWriter) -> Emitted {
        match &mut self.windows {
            Windows::Aligned(windows) => windows.emit(&mut self.step, out),
            Windows::Session(windows) => windows.emit(&mut self.step, out),
        }
    }

    /// The watermark that holds for the results once all pending ones are emitted.
    #[must_use]
    pub fn watermark(&self) -> i64 {
        self.step.watermark_ns
    }

    /// Bytes of memory that the state takes, spare room included.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        let own = match &self.windows {
            Windows::Aligned(windows) => windows.scratch_bytes(),
            Windows::Session(windows) => windows.scratch_bytes(),
        };
        self.step.budget.used() + self.step.scratch_bytes() + own
    }

    /// Rows that were written to `late`.
    #[must_use]
    pub fn late_rows(&self) -> u64 {
        self.step.late_rows
    }

    /// Integer sums that were clamped to the range of their type.
    #[must_use]
    pub fn clamped_sums(&self) -> u64 {
        self.step.writer.clamped
    }

    /// Whether the state has outgrown its bound, also while results were emitted (the rolling statistics then forget
    /// the oldest results). Ask at the end of input; before that [`WindowOperator::push`] tells.
    ///
    /// # Errors
    /// [`StateFull`] if it has.
    pub fn check(&self) -> Result<(), StateFull> {
        match self.failed {
            Some(full) => Err(full),
            None => self.step.shortage(),
        }
    }
}
