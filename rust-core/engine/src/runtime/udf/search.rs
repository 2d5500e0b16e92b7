//! Finds the rows of a batch for which a function fails, by trying ever smaller ranges.
//!
//! Knows neither rows nor workers: it names the next range to try and is told how that went. Rows are settled strictly in
//! order, so results can leave as soon as they are there. A row is condemned only when it failed alone.
//!
//! A range that failed is halved. If its first half passes, the second is taken to hold the fault without being tried as
//! a whole, which saves a death each time. Beyond a condemned row the ranges begin with one row and double while they
//! pass. So one guilty row among 4,096 costs at most 13 levels (12 halvings and the row alone) and as many doublings, and
//! a batch of n guilty rows n + log2 n tries; the worst mixture stays below 3 n.
//!
//! A function may also fail for too many rows at once (it runs out of memory, say) and for none of them alone. Once that
//! is seen, second halves are tried, and no more rows at once than half of what failed.

use std::ops::Range;

/// See the module.
#[derive(Debug)]
pub struct Search {
    rows: u32,
    /// Rows before it are settled.
    next: u32,
    /// End of the range from `next` on that holds a guilty row; `next` where nothing is known.
    suspect_end: u32,
    /// Rows to try next, where nothing is known.
    size: u32,
    /// Most rows to try at once; less than all when a range failed none of whose rows failed alone.
    size_max: u32,
    /// How often the suspect range was narrowed.
    level: u32,
    /// Most levels that any condemned row took, itself alone being the last.
    level_max: u32,
    tries: u32,
    guilty: u32,
    /// Ends of the ranges that failed.
    failed_ends: Vec<u32>,
}

impl Search {
    /// For a batch of `rows` rows, of which nothing is known.
    pub fn new(rows: u32) -> Search {
        let failed_ends = Vec::new();
        Search {
            rows,
            next: 0,
            suspect_end: 0,
            size: rows,
            size_max: rows,
            level: 0,
            level_max: 0,
            tries: 0,
            guilty: 0,
            failed_ends,
        }
    }

    /// The rows to try next; empty when all are settled.
    pub fn range(&self) -> Range<u32> {
        let end = match self.suspect_end - self.next {
            0 => self.rows.min(self.next.saturating_add(self.size)),
            1 => self.suspect_end,
            suspects => self.next + suspects / 2,
        };
        self.next..end
    }

    /// The range passed.
    pub fn passed(&mut self) {
        self.tries += 1;
        let end = self.range().end;
        let is_suspect = self.suspect_end > self.next;
        self.next = end;
        if !is_suspect {
            self.suspect_end = end;
            self.size = self.size.saturating_mul(2).min(self.size_max);
        } else if self.suspect_end == end {
            // The last suspect is innocent, as were all before it: so many rows at once are too many.
            self.size_max = self.size;
        } else if self.size_max < self.rows {
            self.suspect_end = end;
        } else {
            self.level += 1;
        }
    }

    /// The range failed; returns the row that this condemns, if it was alone.
    pub fn failed(&mut self) -> Option<u32> {
        self.tries += 1;
        let range = self.range();
        self.level = if self.suspect_end == self.next { 0 } else { self.level + 1 };
        self.failed_ends.push(range.end);
        if range.len() > 1 {
            self.suspect_end = range.end;
            self.size = range.len() as u32 / 2;
            return None;
        }
        self.level_max = self.level_max.max(self.level);
        self.guilty += 1;
        (self.next, self.suspect_end, self.size) = (range.end, range.end, 1);
        Some(range.start)
    }

    /// Whether every row is settled.
    pub fn is_done(&self) -> bool {
        self.next == self.rows
    }

    /// Whether the next range is the whole batch.
    pub fn is_whole(&self) -> bool {
        self.range() == (0..self.rows)
    }

    /// How many of the failed ranges held this row.
    pub fn failures_of(&self, row: u32) -> u32 {
        // Ranges are tried from the first unsettled row on, so one that ends behind a row held it.
        self.failed_ends.iter().filter(|end| **end > row).count() as u32
    }

    /// Rows condemned.
    pub fn guilty(&self) -> u32 {
        self.guilty
    }

    /// Ranges tried.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Most levels that any condemned row took.
    pub fn levels(&self) -> u32 {
        self.level_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search against a judge; returns it with the rows that passed and those condemned, each in order.
    fn run(rows: u32, fails: impl Fn(Range<u32>) -> bool) -> (Search, Vec<u32>, Vec<u32>) {
        let (mut search, mut passed, mut guilty) = (Search::new(rows), Vec::new(), Vec::new());
        while !search.is_done() {
            let range = search.range();
            assert!(!range.is_empty());
            if fails(range.clone()) {
                guilty.extend(search.failed());
            } else {
                passed.extend(range);
                search.passed();
            }
        }
        (search, passed, guilty)
    }

    fn check(rows: u32, bad: &[u32]) -> Search {
        let (search, passed, guilty) = run(rows, |range| bad.iter().any(|row| range.contains(row)));
        assert_eq!(guilty, bad, "{rows} rows");
        let rest: Vec<u32> = (0..rows).filter(|row| !bad.contains(row)).collect();
        assert_eq!(passed, rest, "{rows} rows, {bad:?}");
        search
    }

    #[test]
    fn one_guilty_row_of_4096_stands_alone_after_at_most_13_levels() {
        for row in 0..4096 {
            let search = check(4096, &[row]);
            assert!(search.levels() <= 13, "row {row}: {}", search.levels());
            assert!(search.tries() <= 27, "row {row}: {}", search.tries());
            assert!(search.failures_of(row) <= 14);
        }
    }

    #[test]
    fn every_set_of_guilty_rows_is_found_and_the_others_pass_once_and_in_order() {
        for rows in 1..=10 {
            for set in 0..1_u32 << rows {
                let bad: Vec<u32> = (0..rows).filter(|row| set & (1 << row) != 0).collect();
                let search = check(rows, &bad);
                assert!(search.tries() <= 3 * rows, "{rows} rows, {bad:?}: {}", search.tries());
            }
        }
    }

    #[test]
    fn a_batch_that_is_guilty_throughout_costs_hardly_more_than_its_rows() {
        let all: Vec<u32> = (0..4096).collect();
        assert!(check(4096, &all).tries() <= 4096 + 13);
    }

    #[test]
    fn no_row_is_condemned_that_passes_alone() {
        let (search, passed, guilty) = run(1000, |range| range.len() > 100);
        assert_eq!((passed.len(), guilty.len()), (1000, 0));
        assert!(search.tries() <= 30, "{}", search.tries());
    }
}
