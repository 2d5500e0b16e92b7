//! A partition that gives its rows when they are due.

use std::sync::Arc;

use hdrhistogram::Histogram;
use ringmill_wire::{BatchWriter, DataType, TimeUnit};

use super::{EventTimes, Lane, OpenLoop};
use crate::{ConnectError, DeadLetter, DeadLetters, Partition, Poll, PollContext, Position};

/// Gives the rows of another partition when they are due, and begins it anew when it has ended.
pub(super) struct PacedPartition {
    inner: Box<dyn Partition>,
    load: Arc<OpenLoop>,
    lane: Arc<Lane>,
    times: EventTimes,
    laps: Laps,
    /// records taken
    taken: u64,
    /// when the oldest row of the last poll was due; monotonic nanoseconds
    due_ns: Option<u64>,
    /// the inner partition has ended and is begun anew at the next poll
    is_at_end: bool,
    /// records of this lap
    lap_records: u64,
    waits: Option<Histogram<u64>>,
}

/// Moves the event times of every lap behind those of the one before.
#[derive(Default)]
struct Laps {
    shift: i64,
    oldest: Option<i64>,
    newest: i64,
    rows: u64,
}

/// Counts the letters that pass.
struct Counted<'a> {
    to: &'a mut dyn DeadLetters,
    count: u64,
}

impl DeadLetters for Counted<'_> {
    fn has_room(&self) -> bool {
        self.to.has_room()
    }

    fn push(&mut self, letter: &DeadLetter<'_>) {
        self.count += 1;
        self.to.push(letter);
    }
}

impl PacedPartition {
    pub fn new(inner: Box<dyn Partition>, load: Arc<OpenLoop>, lane: Arc<Lane>, times: EventTimes) -> PacedPartition {
        let waits = Some(super::wait_histogram());
        PacedPartition {
            inner,
            load,
            lane,
            times,
            laps: Laps::default(),
            taken: 0,
            due_ns: None,
            is_at_end: false,
            lap_records: 0,
            waits,
        }
    }

    /// Rows that may be taken now, or what to answer instead.
    fn admit(&self, now_ns: u64) -> Result<u64, Poll> {
        let start_ns = self.load.begin(now_ns);
        let end_ns = start_ns + self.load.spec.length_ns;
        match (self.load.is_over(&self.lane, self.taken), self.load.is_flat_out()) {
            (true, _) if now_ns < end_ns => return Err(Poll::Until(end_ns)),
            (true, _) => return Err(Poll::End),
            (_, true) if now_ns >= end_ns => return Err(Poll::End),
            (_, true) => return Ok(u64::MAX),
            (false, false) => {}
        }
        let due = if self.load.has_thread() {
            self.lane.released()
        } else {
            now_ns.checked_sub(start_ns).map_or(0, |since_ns| self.lane.schedule.due(since_ns))
        };
        match due.saturating_sub(self.taken) {
            0 if self.load.has_thread() => Err(Poll::Idle),
            0 => Err(Poll::Until((start_ns + self.lane.schedule.due_ns(self.taken)).max(now_ns + 1))),
            rows => Ok(rows),
        }
    }

    /// Begins the inner partition anew.
    fn rewind(&mut self) -> Result<(), ConnectError> {
        if self.lap_records == 0 {
            return Err(ConnectError::EmptyLap { partition: self.inner.name().to_owned() });
        }
        self.laps.turn();
        (self.is_at_end, self.lap_records) = (false, 0);
        self.inner.seek(&Position { rows: self.taken, ..Position::default() })
    }

    /// Sets the event times of the rows that were just read, the first of which is row `first` of the schedule.
    fn date(&mut self, out: &mut BatchWriter, from: u32, column: usize) {
        let DataType::Timestamp(unit) = out.template().schema().fields[column].data_type else { return };
        let values = out.finished_rows::<i64>(column, from);
        match self.times {
            EventTimes::Stream => self.laps.date(values),
            EventTimes::Live => {
                let unit_ns = match unit {
                    TimeUnit::Second => 1_000_000_000,
                    TimeUnit::Millisecond => 1_000_000,
                    TimeUnit::Microsecond => 1_000,
                    TimeUnit::Nanosecond => 1,
                };
                for (value, row) in values.iter_mut().zip(self.taken..) {
                    *value = self.load.wall_clock_ns(self.lane.schedule.due_ns(row)).div_euclid(unit_ns);
                }
            }
        }
    }

    fn note_waits(&mut self, now_ns: u64, records: u64) {
        let Some(due_ns) = self.due_ns else { return };
        if let Some(waits) = &mut self.waits
            && self.load.is_measured(due_ns)
        {
            waits.saturating_record_n(now_ns.saturating_sub(due_ns).max(1), records);
        }
    }
}

/// A load that is given up has waits, too.
impl Drop for PacedPartition {
    fn drop(&mut self) {
        self.lane.keep_waits(self.waits.take());
    }
}

impl Laps {
    fn date(&mut self, values: &mut [i64]) {
        for value in values {
            *value = value.saturating_add(self.shift);
            self.newest = if self.oldest.is_none() { *value } else { self.newest.max(*value) };
            self.oldest = Some(self.oldest.map_or(*value, |oldest| oldest.min(*value)));
            self.rows += 1;
        }
    }

    /// The next lap begins one mean distance of rows after the newest row of this one.
    fn turn(&mut self) {
        if let Some(oldest) = self.oldest.take() {
            let span = self.newest.saturating_sub(oldest);
            let distance = span / i64::try_from(self.rows.saturating_sub(1).max(1)).unwrap_or(i64::MAX);
            self.shift = self.shift.saturating_add(span).saturating_add(distance.max(1));
        }
        self.rows = 0;
    }
}

impl Partition for PacedPartition {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        let rows = match self.admit(context.now_ns) {
            Ok(rows) => rows,
            Err(Poll::End) => {
                self.lane.keep_waits(self.waits.take());
                self.lane.finish(context.now_ns);
                return Ok(Poll::End);
            }
            Err(poll) => return Ok(poll),
        };
        if self.is_at_end {
            self.rewind()?;
        }
        let before = out.rows();
        let mut dead = Counted { to: context.dead, count: 0 };
        let mut inner_context = PollContext {
            now_ns: context.now_ns,
            event_time: context.event_time,
            event_time_max_ns: context.event_time_max_ns,
            dead: &mut dead,
            rows_max: context.rows_max.min(u32::try_from(rows).unwrap_or(u32::MAX)),
        };
        let polled = self.inner.poll(out, &mut inner_context)?;
        let records = u64::from(out.rows() - before) + dead.count;
        if let Some(column) = context.event_time
            && out.rows() > before
        {
            self.date(out, before, column);
        }
        self.due_ns = self.load.due_ns(&self.lane, self.taken);
        self.note_waits(context.now_ns, records);
        self.taken += records;
        self.lap_records += records;
        self.lane.note_taken(self.taken);
        Ok(match polled {
            Poll::End => {
                self.is_at_end = true;
                Poll::Rows
            }
            other => other,
        })
    }

    fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    fn position(&self) -> Position {
        self.inner.position()
    }

    fn seek(&mut self, position: &Position) -> Result<(), ConnectError> {
        self.inner.seek(position)
    }

    fn acknowledge(&mut self, position: &Position) {
        self.inner.acknowledge(position);
    }
}
