//! Rows per second.

use ringmill_wire::BatchWriter;

use crate::{ConnectError, Poll, PollContext};

/// Admits rows at an even rate, counted from the first poll. A partition that fell behind catches up at once, so that
/// row `n` is never due later than `n / rate` after the start (an open-loop load). Without a rate all rows are due.
#[derive(Debug)]
pub(crate) struct Pace {
    rows_per_second: Option<f64>,
    start_ns: Option<u64>,
    admitted: u64,
}

/// What [`Pace::admit`] answers.
#[derive(Debug, PartialEq)]
pub(crate) enum Admission {
    /// this many rows are due now (at least one)
    Rows(u64),
    /// the next row is due at this time
    Until(u64),
}

impl Pace {
    pub(crate) fn new(rows_per_second: Option<f64>) -> Pace {
        debug_assert!(rows_per_second.is_none_or(|rate| rate > 0.0));
        Pace { rows_per_second, start_ns: None, admitted: 0 }
    }

    /// How many of `wanted` rows are due at `now_ns`.
    pub(crate) fn admit(&mut self, now_ns: u64, wanted: u64) -> Admission {
        let Some(rows_per_second) = self.rows_per_second else { return Admission::Rows(wanted) };
        let start_ns = *self.start_ns.get_or_insert(now_ns);
        let elapsed_s = now_ns.saturating_sub(start_ns) as f64 * 1e-9;
        let due = (elapsed_s * rows_per_second) as u64 + 1;
        match due.saturating_sub(self.admitted) {
            0 => {
                let next_s = self.admitted as f64 / rows_per_second;
                Admission::Until((start_ns + (next_s * 1e9).ceil() as u64).max(now_ns + 1))
            }
            rows => Admission::Rows(rows.min(wanted)),
        }
    }

    /// Counts rows that were really consumed.
    pub(crate) fn consumed(&mut self, rows: u64) {
        self.admitted += rows;
    }

    /// Starts counting anew at the next poll.
    pub(crate) fn restart(&mut self) {
        self.start_ns = None;
        self.admitted = 0;
    }
}

/// A partition whose records come at a pace.
pub(crate) trait Paced {
    fn pace(&mut self) -> &mut Pace;

    /// Records consumed so far.
    fn rows(&self) -> u64;

    /// Reads up to `wanted` records, which are due.
    fn read(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>, wanted: u32)
    -> Result<Poll, ConnectError>;

    /// Reads what is due and the batch has room for.
    fn read_at_pace(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        let wanted = match self.pace().admit(context.now_ns, u64::from(context.rows_max)) {
            Admission::Rows(due) => due as u32,
            Admission::Until(time_ns) => return Ok(Poll::Until(time_ns)),
        };
        let before = self.rows();
        let poll = self.read(out, context, wanted)?;
        let consumed = self.rows() - before;
        self.pace().consumed(consumed);
        Ok(poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_due_evenly_and_missed_ones_at_once() {
        let mut pace = Pace::new(Some(1000.0));
        let second = 1_000_000_000;
        assert_eq!(pace.admit(second, 10), Admission::Rows(1));
        pace.consumed(1);
        assert_eq!(pace.admit(second, 10), Admission::Until(second + 1_000_000));
        assert_eq!(pace.admit(second + 1_000_000, 10), Admission::Rows(1));
        pace.consumed(1);
        assert_eq!(pace.admit(2 * second, 10_000), Admission::Rows(999));
        assert_eq!(pace.admit(2 * second, 10), Admission::Rows(10));
    }

    #[test]
    fn a_slow_rate_waits_for_the_whole_interval() {
        let mut pace = Pace::new(Some(0.5));
        assert_eq!(pace.admit(7, 1), Admission::Rows(1));
        pace.consumed(1);
        assert_eq!(pace.admit(8, 1), Admission::Until(2_000_000_007));
    }

    #[test]
    fn without_a_rate_all_rows_are_due() {
        let mut pace = Pace::new(None);
        assert_eq!(pace.admit(7, 10), Admission::Rows(10));
        pace.consumed(10);
        assert_eq!(pace.admit(7, 20), Admission::Rows(20));
    }
}
