//! The window step as its owner sees it.

use std::ops::Range;
use std::sync::Arc;

use ringmill_state::{EntryKey, NodeCall, NodeDelta, StoreCall, WHOLE_SHARD, group_of};
use ringmill_wire::{BatchView, BatchWriter, Schema, TimeUnit};

use super::aligned::AlignedWindows;
use super::entry::{DUE, HISTORIES, PARKED, RESULTS, Reader, Refused, SESSIONS, WHOLE, WINDOWS};
use super::error::{StateFull, WindowError};
use super::key::KeyScratch;
use super::key_table::BLOCK;
use super::progress::Counts;
use super::session::SessionWindows;
use super::spec::{WindowKind, WindowSpec};
use super::spill::SpillFigures;
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
    /// Numbers of entries and a value, while they are written out.
    room: (Vec<u32>, Vec<u8>),
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
        Ok(Self { step, windows, failed: None, room: Default::default() })
    }

    /// Takes rows; gives how many, which is fewer only if `late` is full. A row is late if every window it falls into
    /// is over, that is if the watermark has reached the window's end plus the allowed lateness; it is then written
    /// whole to `late`. A row for a window that fired but is not over makes its key's result go out again. Fewer rows are
    /// taken, too, once [`WindowOperator::wants_store`].
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
        while next < rows.end && !self.wants_store() {
            // While key groups differ in how far they have got, every row has its own watermark.
            let block_rows = if self.step.progress.has_floors() { 1 } else { BLOCK };
            let block = next..rows.end.min(next + block_rows);
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
        if step.progress.has_floors() {
            step.passed_ns = step.progress.reached_ns(group_of(keys.hashes[0]), step.watermark_ns);
        }
        let ready = match &mut self.windows {
            Windows::Aligned(windows) => windows.ready_rows(step, &block),
            Windows::Session(windows) => windows.ready_rows(step, &block),
        };
        if ready < block.count() {
            step.passed_ns = step.watermark_ns;
            step.key_scratch = scratch;
            let rows = rows.start..rows.start + ready;
            return if ready == 0 { Ok(0) } else { self.push_block(view, rows, time, ingest_ns, late) };
        }
        let taken = match &mut self.windows {
            Windows::Aligned(windows) => {
                windows.push(step, &block, late).and_then(|taken| windows.make_room(step).map(|()| taken))
            }
            Windows::Session(windows) => {
                windows.push(step, &block, late).and_then(|taken| windows.make_room(step).map(|()| taken))
            }
        };
        step.passed_ns = step.watermark_ns;
        step.key_scratch = scratch;
        step.sequence += rows.len() as u64;
        taken
    }

    /// From now on state that has no place in memory is put away in the shard's store. After
    /// [`WindowOperator::track_changes`], before anything is taken back or pushed.
    pub fn allow_spilling(&mut self) {
        match &mut self.windows {
            Windows::Aligned(windows) => windows.allow_spilling(&mut self.step),
            Windows::Session(windows) => windows.allow_spilling(&mut self.step),
        }
        if let Some(history) = &mut self.step.history {
            history.statistics.allow_spilling();
        }
    }

    /// The store is needed before rows are taken again. Give out what is pending, [`call`](WindowOperator::call), and
    /// bring the [`answer`](WindowOperator::answer); until then [`WindowOperator::push`] takes nothing.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        let windows_do = match &self.windows {
            Windows::Aligned(windows) => windows.store().wants_any(),
            Windows::Session(windows) => windows.store().wants_any(),
        };
        windows_do || self.step.wants_histories()
    }

    /// Writes down what the store is needed for; `false`: nothing, or not now. Every call has to be answered before the
    /// next one, and calls and snapshots have to reach the store in their order.
    pub fn call(&mut self, call: &mut NodeCall<'_>) -> bool {
        let is_asked = match &self.windows {
            Windows::Aligned(windows) => windows.store().is_asked,
            Windows::Session(windows) => windows.store().is_asked,
        };
        let step = &mut self.step;
        if is_asked || step.history.as_ref().is_some_and(|history| history.statistics.store().is_asked) {
            return false;
        }
        // Histories hold up results, for which other needs may have to wait.
        if let Some(history) = &mut step.history
            && history.statistics.call(step.keys.word_bytes(), &mut step.budget, &mut self.room, call)
        {
            return true;
        }
        match &mut self.windows {
            Windows::Aligned(windows) => windows.call(step, &mut self.room, call),
            Windows::Session(windows) => windows.call(step, &mut self.room, call),
        }
    }

    /// Takes a call that the store has served.
    ///
    /// # Errors
    /// An entry is damaged, or the state would outgrow its bound.
    pub fn answer(&mut self, call: &StoreCall) -> Result<(), WindowError> {
        let step = &mut self.step;
        let taken = match (&mut self.windows, &mut step.history) {
            (_, Some(history)) if history.statistics.store().is_asked => {
                history.statistics.answer(&step.keys, &mut step.key_scratch, &mut step.budget, call)
            }
            (Windows::Aligned(windows), _) => windows.answer(step, call),
            (Windows::Session(windows), _) => windows.answer(step, call),
        };
        self.settle_restored(taken)
    }

    /// What was put away and had back so far.
    #[must_use]
    pub fn spilled(&self) -> SpillFigures {
        let mut figures = match &self.windows {
            Windows::Aligned(windows) => windows.store().figures,
            Windows::Session(windows) => windows.store().figures,
        };
        if let Some(history) = &self.step.history {
            figures += history.statistics.store().figures;
        }
        figures
    }

    /// Moves the watermark: no row with an earlier event time follows, except late ones. Windows that end by then fire.
    /// `ingest_ns` is the ingest of the row that moved it. A watermark that does not move forward changes nothing.
    pub fn advance(&mut self, watermark_ns: i64, ingest_ns: u64) {
        if watermark_ns <= self.step.watermark_ns {
            return;
        }
        self.step.watermark_ns = watermark_ns;
        self.step.passed_ns = watermark_ns;
        self.step.progress.advance(watermark_ns);
        self.step.ingest_ns = ingest_ns;
        match &mut self.windows {
            Windows::Aligned(windows) => windows.advance(&mut self.step),
            Windows::Session(windows) => windows.advance(&mut self.step),
        }
    }

    /// When the last window ends that has rows, or that a row of that time falls into. Looks at every session.
    #[must_use]
    pub fn last_end_ns(&self, newest_ns: i64) -> i64 {
        match &self.windows {
            Windows::Aligned(windows) => windows.last_end_ns(newest_ns),
            Windows::Session(windows) => windows.last_end_ns(newest_ns),
        }
    }

    /// Whether there are results to be emitted.
    #[must_use]
    pub fn has_output(&self) -> bool {
        match &self.windows {
            Windows::Aligned(windows) => windows.pending() > 0,
            Windows::Session(windows) => windows.has_output(&self.step),
        }
    }

    /// Appends results to `out` until it is full or there are no more. Call again with the next batch while
    /// [`WindowOperator::has_output`]; no rows into an empty batch means that one row is larger than a batch, unless the
    /// operator now [wants its store](WindowOperator::wants_store).
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

    /// From now on notes what changes, so that [`WindowOperator::snapshot`] can write it. Before the first push.
    pub fn track_changes(&mut self) {
        self.step.progress.is_tracked = true;
        if let Some(history) = &mut self.step.history {
            history.statistics.track_changes(self.step.keys.are_words());
        }
        match &mut self.windows {
            Windows::Aligned(windows) => windows.track_changes(),
            Windows::Session(windows) => windows.track_changes(),
        }
    }

    /// Says which of how many shards this is, so that it is known later whose keys it had. Before the first push.
    pub fn set_shard(&mut self, shard: usize, shards: usize) {
        self.step.progress.set_shard(shard, shards);
    }

    /// Writes what has changed since the last time, or since the state was taken back, all at once: as
    /// [`begin_snapshot`](WindowOperator::begin_snapshot) and [`write_owed`](WindowOperator::write_owed) do.
    pub fn snapshot(&mut self, out: &mut NodeDelta<'_>) {
        self.begin_snapshot(out);
        while self.owes_snapshot() {
            self.write_owed(out);
        }
    }

    /// Begins to write what has changed since the last time, or since the state was taken back. There must be no output
    /// pending, and nothing [owed](WindowOperator::owes_snapshot). Without [`WindowOperator::track_changes`] there is nothing.
    ///
    /// Entries of tumbling and sliding windows and histories are owed; sessions are written here. Rows may come and results
    /// leave before everything is written: what changes is kept as it was. The store must not be
    /// [called](WindowOperator::call) meanwhile.
    pub fn begin_snapshot(&mut self, out: &mut NodeDelta<'_>) {
        let step = &mut self.step;
        if !step.progress.is_tracked {
            return;
        }
        let (_, value) = &mut self.room;
        value.clear();
        let counts = Counts {
            watermark_ns: step.watermark_ns,
            sequence: step.sequence,
            late_rows: step.late_rows,
            clamped: step.writer.clamped,
        };
        step.progress.write(&counts, value);
        out.put(WHOLE, 0, WHOLE_SHARD, &[], value);
        if let Some(history) = &mut step.history {
            history.statistics.begin_snapshot(step.keys.word_bytes(), out);
        }
        match &mut self.windows {
            Windows::Aligned(windows) => windows.begin_snapshot(out),
            Windows::Session(windows) => windows.snapshot(step, &mut self.room, out),
        }
    }

    /// Some of the state of the last [`begin_snapshot`](WindowOperator::begin_snapshot) is not written yet.
    #[must_use]
    pub fn owes_snapshot(&self) -> bool {
        let histories_do = self.step.history.as_ref().is_some_and(|history| history.statistics.owes_snapshot());
        let windows_do = match &self.windows {
            Windows::Aligned(windows) => windows.owes_snapshot(),
            Windows::Session(_) => false,
        };
        histories_do || windows_do
    }

    /// Writes some of what is owed to a snapshot, which takes some ten microseconds.
    pub fn write_owed(&mut self, out: &mut NodeDelta<'_>) {
        let step = &mut self.step;
        match (&mut self.windows, &mut step.history) {
            (_, Some(history)) if history.statistics.owes_snapshot() => {
                history.statistics.write_owed(step.keys.word_bytes(), &mut self.room, out);
            }
            (Windows::Aligned(windows), _) => windows.write_owed(step, &mut self.room, out),
            (Windows::Session(_), _) => {}
        }
    }

    /// Takes back an entry that [`WindowOperator::snapshot`] wrote, in this shard or, if its key's group was, in
    /// another; the entries of a key come in their order. After [`WindowOperator::track_changes`] and
    /// [`WindowOperator::set_shard`], before the first push.
    ///
    /// # Errors
    /// The entry is damaged, or the state would outgrow its bound; [`WindowOperator::check`] then tells by how much.
    pub fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), WindowError> {
        let mut scratch = std::mem::take(&mut self.step.key_scratch);
        let taken = self.restore_entry(entry, value, &mut scratch);
        self.step.key_scratch = scratch;
        self.settle_restored(taken)
    }

    /// All entries were taken back.
    ///
    /// # Errors
    /// The one that tells how far the shard has come is missing, or the state would outgrow its bound.
    pub fn restored(&mut self) -> Result<(), WindowError> {
        let whole = self.step.history.as_ref().map_or(Ok(()), |history| history.statistics.all_restored());
        whole?;
        let Some(counts) = self.step.progress.join()? else { return Ok(()) };
        self.step.watermark_ns = counts.watermark_ns;
        self.step.passed_ns = counts.watermark_ns;
        self.step.sequence = counts.sequence;
        self.step.late_rows = counts.late_rows;
        self.step.writer.clamped = counts.clamped;
        let taken = match &mut self.windows {
            Windows::Aligned(windows) => {
                windows.restored(&mut self.step);
                Ok(())
            }
            Windows::Session(windows) => windows.restored(&mut self.step).map_err(Refused::Full),
        };
        self.settle_restored(taken)
    }

    fn restore_entry(&mut self, entry: &EntryKey<'_>, value: &[u8], scratch: &mut KeyScratch) -> Result<(), Refused> {
        let step = &mut self.step;
        let mut from = Reader::new(value)?;
        if entry.group == WHOLE_SHARD {
            return step.progress.read(entry.section, entry.key, &mut from);
        }
        step.keys.load(entry.key, scratch).map_err(Refused::Damaged)?;
        step.progress.has_entries = true;
        let keys = step.keys.of_scratch(scratch);
        if group_of(keys.hashes[0]) != entry.group {
            return Err(Refused::Damaged("its key is of another group"));
        }
        match (entry.section, &mut self.windows, &mut step.history) {
            (WINDOWS, Windows::Aligned(windows), _) if windows.leaves_in_store(&step.budget) => {
                Ok(windows.leave_in_store(step, entry.window)?)
            }
            (WINDOWS, Windows::Aligned(windows), _) => windows.restore(step, entry.window, &keys, &mut from),
            (SESSIONS, Windows::Session(windows), _) => windows.restore(step, entry.window, &keys, &mut from),
            // It comes back when it is needed.
            (PARKED, Windows::Session(_), _) => Ok(()),
            (DUE, Windows::Session(windows), _) => windows.restore_parked(entry.window, &mut from),
            (HISTORIES, _, Some(history)) if history.statistics.leaves_in_store(&step.budget) => {
                history.statistics.leave_in_store();
                Ok(())
            }
            (HISTORIES, _, Some(history)) => {
                history.statistics.restore_history(&keys, &mut from, &mut step.budget).map(|_| ())
            }
            (RESULTS, _, Some(history)) => history.statistics.restore_chunk(&keys, entry.window, &mut from),
            _ => Err(Refused::Damaged("it is of a part that this step has not")),
        }
    }

    fn settle_restored(&mut self, taken: Result<(), Refused>) -> Result<(), WindowError> {
        if let Err(Refused::Full(full)) = taken {
            self.failed = Some(full);
        }
        taken.map_err(WindowError::from)
    }

    /// What state must be of to be taken back: windows, times, keys, aggregates and statistics with their types.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.step.fingerprint.clone()
    }

    /// Bytes of memory that the state takes, spare room included.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        let own = match &self.windows {
            Windows::Aligned(windows) => windows.scratch_bytes(),
            Windows::Session(windows) => windows.scratch_bytes(),
        };
        let history = self.step.history.as_ref().map_or(0, |history| history.statistics.scratch_bytes());
        let room = self.room.0.capacity() * 4 + self.room.1.capacity();
        self.step.budget.used() + self.step.scratch_bytes() + own + history + room as u64
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
