//! When each row of an open-loop load is due: a function of the row's number alone.

/// A stretch of even load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// its length, nanoseconds
    pub length_ns: u64,
    /// rows per second
    pub rate: f64,
}

/// Intended send times of the rows of one partition, as nanoseconds since the start of the load.
///
/// Rows are due one by one at even distances, or in groups: then the rows of a group are due together, and the groups at
/// even distances. Nothing that the reader does or leaves undone moves the schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    stretches: Vec<Stretch>,
    group: u64,
    rows: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    start_ns: u64,
    first_row: u64,
    rows: u64,
    groups_per_ns: f64,
}

impl Stretch {
    /// When group `group` of this stretch is due.
    fn time_of(&self, group: u64) -> u64 {
        self.start_ns + (group as f64 / self.groups_per_ns).ceil() as u64
    }
}

impl Schedule {
    /// Phases one after the other, each with `share` of its rate, the first row `offset` (0 to 1) of a group's distance
    /// after the start.
    pub fn new(phases: &[Phase], share: f64, group: u64, offset: f64) -> Schedule {
        let group = group.max(1);
        let (mut stretches, mut start_ns, mut rows) = (Vec::with_capacity(phases.len()), 0, 0);
        for phase in phases {
            let groups_per_ns = phase.rate * share / group as f64 * 1e-9;
            let first_ns = if stretches.is_empty() { (offset / groups_per_ns) as u64 } else { 0 };
            let begin_ns = start_ns + first_ns.min(phase.length_ns);
            start_ns += phase.length_ns;
            let count = ((start_ns - begin_ns) as f64 * groups_per_ns).round() as u64 * group;
            if count > 0 {
                stretches.push(Stretch { start_ns: begin_ns, first_row: rows, rows: count, groups_per_ns });
                rows += count;
            }
        }
        Schedule { stretches, group, rows }
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows that are due at `since_start_ns`, from the first on.
    pub fn due(&self, since_start_ns: u64) -> u64 {
        let begun = self.stretches.partition_point(|stretch| stretch.start_ns <= since_start_ns);
        let Some(stretch) = begun.checked_sub(1).map(|index| &self.stretches[index]) else { return 0 };
        let mut groups = ((since_start_ns - stretch.start_ns) as f64 * stretch.groups_per_ns) as u64 + 1;
        // What rounding moved is put right, so that this and `due_ns` never disagree.
        while groups > 0 && stretch.time_of(groups - 1) > since_start_ns {
            groups -= 1;
        }
        while stretch.time_of(groups) <= since_start_ns {
            groups += 1;
        }
        stretch.first_row + (groups * self.group).min(stretch.rows)
    }

    /// When row `row` is due; the last row's time for a row that there is not.
    pub fn due_ns(&self, row: u64) -> u64 {
        let row = row.min(self.rows.saturating_sub(1));
        let begun = self.stretches.partition_point(|stretch| stretch.first_row <= row);
        let Some(stretch) = begun.checked_sub(1).map(|index| &self.stretches[index]) else { return 0 };
        stretch.time_of((row - stretch.first_row) / self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn rows_are_due_at_even_distances() {
        let schedule = Schedule::new(&[Phase { length_ns: 2 * SECOND, rate: 1000.0 }], 1.0, 1, 0.0);
        assert_eq!(schedule.rows(), 2000);
        assert_eq!((schedule.due(0), schedule.due(999_999), schedule.due(1_000_000)), (1, 1, 2));
        assert_eq!(schedule.due(10 * SECOND), 2000);
        assert_eq!((schedule.due_ns(0), schedule.due_ns(1), schedule.due_ns(1999)), (0, 1_000_000, 1_999_000_000));
    }

    #[test]
    fn rows_of_a_group_are_due_together() {
        let schedule = Schedule::new(&[Phase { length_ns: SECOND, rate: 100.0 }], 1.0, 10, 0.0);
        assert_eq!((schedule.due(0), schedule.due(SECOND / 10 - 1), schedule.due(SECOND / 10)), (10, 10, 20));
        assert_eq!((schedule.due_ns(9), schedule.due_ns(10), schedule.rows()), (0, SECOND / 10, 100));
    }

    #[test]
    fn no_row_is_due_before_its_time_whatever_the_rate() {
        for rate in [3.0, 999.0, 12_345.6, 7e6, 33_333_333.3] {
            for (group, share, offset) in [(1, 1.0, 0.0), (7, 0.3, 0.5), (1024, 1.0, 0.9)] {
                let phases = [(1, 1.0), (2, 10.0), (1, 1.0)];
                let phases =
                    phases.map(|(tenths, times)| Phase { length_ns: tenths * SECOND / 10, rate: rate * times });
                let schedule = Schedule::new(&phases, share, group, offset);
                let step = (schedule.rows() / 997).max(1);
                for row in (0..schedule.rows()).step_by(step as usize) {
                    let at_ns = schedule.due_ns(row);
                    assert!(schedule.due(at_ns) > row, "row {row} at {rate}/s in groups of {group}");
                    assert!(at_ns == 0 || schedule.due(at_ns - 1) <= row, "row {row} at {rate}/s in groups of {group}");
                }
            }
        }
    }

    #[test]
    fn a_burst_is_a_phase_of_its_own() {
        let even = Phase { length_ns: SECOND, rate: 100.0 };
        let burst = Phase { length_ns: SECOND / 10, rate: 1000.0 };
        let schedule = Schedule::new(&[even, burst, even], 1.0, 1, 0.0);
        assert_eq!(schedule.rows(), 300);
        assert_eq!(schedule.due_ns(100), SECOND);
        assert_eq!(schedule.due(SECOND + SECOND / 10 - 1), 200);
    }
}
