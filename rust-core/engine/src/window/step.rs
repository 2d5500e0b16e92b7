//! What windows of every shape share: the columns, the cells' layout, the bound on memory, the way results go out.

use std::ops::Range;
use std::sync::Arc;

use ringmill_state::{EntryKey, StoreCall};
use ringmill_wire::{BatchView, BatchWriter, Schema, TimeUnit};

use super::arena::Arena;
use super::budget::Budget;
use super::cells::CellLayout;
use super::emit::{Results, RowWriter, as_number};
use super::entry::{Reader, Refused, SHOWN_WORDS, load_entry};
use super::error::{StateFull, WindowError};
use super::fingerprint::fingerprint;
use super::key::{KeyColumns, KeyScratch, Keys};
use super::key_table::BLOCK;
use super::lanes::Lane;
use super::operator::{RowTime, TimeColumn};
use super::progress::Progress;
use super::schema::{self, Bound};
use super::spec::{WindowKind, WindowSpec};
use super::statistics::{Statistics, Summary};

/// The rolling statistics and what of a cell is theirs.
#[derive(Debug)]
pub struct History {
    pub statistics: Statistics,
    /// The aggregate that they are of.
    output: usize,
    /// First of the words about what was shown; `None`: windows fire once only.
    pub shown: Option<usize>,
}

/// What windows of every shape share.
#[derive(Debug)]
pub struct Step {
    pub keys: KeyColumns,
    pub layout: CellLayout,
    pub budget: Budget,
    pub history: Option<History>,
    pub writer: RowWriter,
    pub unit: TimeUnit,
    pub lateness_ns: i64,
    pub watermark_ns: i64,
    /// The watermark as it is for the rows at hand: later than the step's if their key group has got further.
    pub passed_ns: i64,
    pub progress: Progress,
    pub fingerprint: String,
    /// Ingest of the rows that moved the watermark last.
    pub ingest_ns: u64,
    pub late_rows: u64,
    /// Rows that were ever taken, plus one.
    pub sequence: u64,
    pub lanes: Vec<Lane>,
    pub key_scratch: KeyScratch,
    /// Cells and bounds of the block that goes out.
    pub cells: Vec<usize>,
    pub bounds: Vec<(i64, i64)>,
    summaries: Vec<Summary>,
    /// Histories of the block, and 0, 1, 2, …
    histories: Vec<u32>,
    block: Vec<u32>,
    /// The last block was not written because the history of its first key was not there.
    is_held_up: bool,
}

impl Step {
    pub fn new(
        spec: &WindowSpec,
        input: &Arc<Schema>,
        time: TimeColumn,
        state_bytes_max: u64,
    ) -> Result<Self, WindowError> {
        let unit = match time {
            TimeColumn::Event { unit, .. } => unit,
            TimeColumn::Arrival => TimeUnit::Millisecond,
        };
        let event_time = matches!(time, TimeColumn::Event { .. }).then_some(unit);
        let bound = schema::bind(spec, input, event_time).map_err(|mut errors| errors.swap_remove(0))?;
        let fingerprint = fingerprint(spec, &bound, input, time);
        let Bound { keys: indices, aggregates, statistics_of, .. } = bound;
        let keys = KeyColumns::new(&indices, input);
        let mut layout = CellLayout::new(&aggregates, input);
        let fires_again = spec.allowed_lateness_ns > 0 || matches!(spec.window, WindowKind::Session { .. });
        let history = spec.statistics.as_ref().zip(statistics_of).map(|(statistics, output)| History {
            statistics: Statistics::new(keys.are_words(), statistics.horizon_ns),
            output,
            shown: fires_again.then(|| layout.add_words(&[0; SHOWN_WORDS])),
        });
        let columns =
            spec.statistics.iter().flat_map(|statistics| &statistics.columns).map(|(statistic, _)| *statistic);
        let writer = RowWriter::new(keys.clone(), indices.len(), unit, columns.collect());
        let lanes = layout.inputs.iter().map(|_| Lane::default()).collect();
        Ok(Self {
            keys,
            layout,
            budget: Budget::new(state_bytes_max),
            history,
            writer,
            unit,
            lateness_ns: spec.allowed_lateness_ns,
            watermark_ns: i64::MIN,
            passed_ns: i64::MIN,
            progress: Progress::new(),
            fingerprint,
            ingest_ns: 0,
            late_rows: 0,
            sequence: 1,
            lanes,
            key_scratch: KeyScratch::default(),
            cells: Vec::with_capacity(BLOCK),
            bounds: Vec::with_capacity(BLOCK),
            summaries: Vec::with_capacity(BLOCK),
            histories: Vec::with_capacity(BLOCK),
            block: (0..BLOCK as u32).collect(),
            is_held_up: false,
        })
    }

    /// Whether rows of a window with that end can no longer count.
    #[inline]
    pub fn is_over(&self, end_ns: i64) -> bool {
        end_ns.saturating_add(self.lateness_ns) <= self.passed_ns
    }

    /// First of a cell's words about what was shown.
    pub fn shown(&self) -> Option<usize> {
        self.history.as_ref().and_then(|history| history.shown)
    }

    /// Bytes of memory that are no table's.
    pub fn scratch_bytes(&self) -> u64 {
        let lanes: u64 = self.lanes.iter().map(Lane::bytes).sum();
        lanes + self.key_scratch.bytes() + self.writer.bytes()
    }

    /// Writes the block of results at `self.cells`, whose keys are in the writer's scratch; gives the rows that fit and
    /// whose histories are there.
    pub fn write_block(&mut self, words: &mut [u64], arena: &Arena, out: &mut BatchWriter) -> usize {
        let ready = self.find_histories();
        let results = Results { words, arena, cells: &self.cells[..ready], bounds: &self.bounds[..ready] };
        let rows = self.writer.write(&self.layout, &results, out);
        if rows == 0 {
            return 0;
        }
        self.summaries.clear();
        if let Some(history) = &mut self.history {
            history.statistics.save(&self.histories[..rows], self.keys.word_bytes());
            let open_ns = self.watermark_ns.saturating_sub(self.lateness_ns);
            for at in 0..rows {
                let (cell, ends) = (self.cells[at], (self.bounds[at].1, open_ns));
                let key = self.histories[at];
                self.summaries.push(history.pass(&self.layout, words, cell, key, ends, &mut self.budget));
            }
        }
        self.writer.finish(&self.layout, &self.summaries, rows, out);
        rows
    }

    /// Finds the histories of the block's keys; gives how many of its first rows have theirs.
    fn find_histories(&mut self) -> usize {
        let count = self.cells.len();
        let Some(history) = &mut self.history else { return count };
        let keys = self.keys.of_scratch(&mut self.writer.scratch);
        let ready = history.statistics.ready_keys(&keys);
        self.is_held_up = ready == 0;
        let found = history.statistics.resolve(&keys, &self.block[..ready], &mut self.budget, &mut self.histories);
        if found.is_err() {
            return 0;
        }
        // Once they were put away, room is made where some are asked for.
        if self.budget.is_exceeded() && !history.statistics.is_parted() {
            self.put_histories_away(0);
        }
        ready
    }

    /// Results wait for histories: asks for those of the keys in the writer's scratch, unless there has to be room first.
    pub fn ask_for_histories(&mut self) {
        let is_full = self.budget.is_exceeded() && self.put_histories_away(0);
        if let Some(history) = self.history.as_mut().filter(|_| !is_full) {
            let keys = self.keys.of_scratch(&mut self.writer.scratch);
            history.statistics.ask(&keys, self.keys.word_bytes());
        }
    }

    /// How many keys' histories are worth being asked for, if that is what the results of a block wait for.
    pub fn histories_to_ask_for(&self) -> Option<usize> {
        let statistics = &self.history.as_ref()?.statistics;
        (self.is_held_up && !statistics.store().wants_any()).then(|| statistics.at_once(&self.budget))
    }

    /// Puts the histories away if they take at least as much as the windows do; whether it did.
    pub fn put_histories_away(&mut self, windows_bytes: u64) -> bool {
        let Some(history) = &mut self.history else { return false };
        let is_right =
            history.statistics.can_make_room(&self.budget) && history.statistics.table_bytes() >= windows_bytes;
        if is_right {
            history.statistics.put_away();
        }
        is_right
    }

    /// Histories that are put away or had back hold the results up.
    pub fn wants_histories(&self) -> bool {
        self.history.as_ref().is_some_and(|history| history.statistics.store().wants_any())
    }

    /// Hands every entry that the store has found to `take`, its key among the step's columns.
    pub fn each_found(
        &mut self,
        call: &StoreCall,
        mut take: impl FnMut(&mut Step, &EntryKey<'_>, &Keys<'_>, &mut Reader<'_>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut scratch = std::mem::take(&mut self.key_scratch);
        let taken = call.found.iter().try_for_each(|(key, value)| {
            let entry = load_entry(&self.keys, key, &mut scratch)?;
            let keys = self.keys.of_scratch(&mut scratch);
            take(self, &entry, &keys, &mut Reader::new(value)?)
        });
        self.key_scratch = scratch;
        taken
    }

    /// The shortage of memory that made statistics forget results.
    pub fn shortage(&self) -> Result<(), StateFull> {
        self.history.as_ref().and_then(|history| history.statistics.full()).map_or(Ok(()), Err)
    }
}

impl History {
    /// What is shown with a result that goes out, which enters its key's `history`. `ends` are the window's and the earliest
    /// of a window that may still fire.
    fn pass(
        &mut self,
        layout: &CellLayout,
        words: &mut [u64],
        cell: usize,
        history: u32,
        ends: (i64, i64),
        budget: &mut Budget,
    ) -> Summary {
        let (end_ns, open_ns) = ends;
        let value = as_number(&layout.outputs[self.output], words, cell);
        let Some(shown) = self.shown else {
            let summary = self.statistics.summary(history, end_ns);
            if value.is_finite() {
                self.statistics.add(history, end_ns, value, open_ns, budget);
            }
            return summary;
        };
        let shown = &mut words[cell + shown..cell + shown + SHOWN_WORDS];
        if shown[0] & 1 == 0 {
            let summary = self.statistics.summary(history, end_ns);
            shown[..4].copy_from_slice(&[1, summary.count, summary.mean.to_bits(), summary.std.to_bits()]);
        }
        let summary = Summary { count: shown[1], mean: f64::from_bits(shown[2]), std: f64::from_bits(shown[3]) };
        if value.is_finite() {
            let old = (shown[4] as i64, f64::from_bits(shown[5]));
            if shown[0] & 2 == 0 || !self.statistics.replace(history, old, (end_ns, value)) {
                self.statistics.add(history, end_ns, value, open_ns, budget);
            }
            shown[0] |= 2;
            (shown[4], shown[5]) = (end_ns as u64, value.to_bits());
        }
        summary
    }
}

/// A block of rows on its way into windows.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The batch that they are of.
    pub view: &'a BatchView<'a>,
    /// The first of them in the batch.
    pub first: usize,
    pub times: Times<'a>,
    pub keys: Keys<'a>,
    pub ingest_ns: u64,
}

impl Rows<'_> {
    pub fn count(&self) -> usize {
        self.keys.hashes.len()
    }
}

/// Event times of a block's rows.
#[derive(Clone, Copy)]
pub struct Times<'a> {
    values: &'a [i64],
    unit: TimeUnit,
    fixed_ns: i64,
}

impl<'a> Times<'a> {
    pub fn of(view: &BatchView<'a>, rows: Range<usize>, time: RowTime, unit: TimeUnit) -> Self {
        match time {
            RowTime::Column(index) => Self { values: &view.column(index).values::<i64>()[rows], unit, fixed_ns: 0 },
            RowTime::Fixed(fixed_ns) => Self { values: &[], unit, fixed_ns },
        }
    }

    /// Nanoseconds since 1970; beyond 1677 and 2262 the nearest that fits.
    #[inline]
    pub fn get(&self, row: usize) -> i64 {
        match self.values.get(row) {
            Some(value) => value.saturating_mul(self.unit.nanoseconds()),
            None => self.fixed_ns,
        }
    }

    /// The earliest and the latest.
    pub fn range(&self) -> (i64, i64) {
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for value in self.values {
            least = least.min(*value);
            most = most.max(*value);
        }
        if self.values.is_empty() {
            return (self.fixed_ns, self.fixed_ns);
        }
        let factor = self.unit.nanoseconds();
        (least.saturating_mul(factor), most.saturating_mul(factor))
    }
}
