//! When a dead worker is started again, and when no more.

use std::collections::VecDeque;

use crate::plan::RestartSpec;
use crate::random::mix;

/// Reasons kept for the error that ends the story.
const REASONS_MAX: usize = 3;

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start again at this moment; monotonic nanoseconds.
    StartAt(u64),
    /// Do not start again.
    Failed,
}

/// The deaths of one worker.
#[derive(Debug)]
pub struct Restarts {
    spec: RestartSpec,
    /// Moments of the deaths that count, oldest first.
    deaths: VecDeque<u64>,
    /// Deaths since it last answered a batch.
    in_a_row: u32,
    /// Deaths ever, those brought about on purpose included.
    total: u64,
    reasons: VecDeque<String>,
}

impl Restarts {
    /// A worker that has not died yet.
    pub fn new(spec: RestartSpec) -> Restarts {
        Restarts { spec, deaths: VecDeque::new(), in_a_row: 0, total: 0, reasons: VecDeque::new() }
    }

    /// The worker answered a batch.
    #[inline]
    pub fn note_answer(&mut self) {
        self.in_a_row = 0;
    }

    /// The worker died. An expected death, brought about to find out which row is guilty, counts for nothing.
    pub fn note_death(&mut self, now_ns: u64, reason: &str, is_expected: bool) -> Verdict {
        self.total += 1;
        if self.reasons.back().is_none_or(|last| last != reason) {
            self.reasons.push_back(reason.to_owned());
            if self.reasons.len() > REASONS_MAX {
                self.reasons.pop_front();
            }
        }
        if is_expected {
            return Verdict::StartAt(now_ns);
        }
        self.in_a_row += 1;
        self.deaths.push_back(now_ns);
        while self.deaths.front().is_some_and(|death| now_ns.saturating_sub(*death) > self.spec.window_ns) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= self.spec.deaths_max as usize {
            return Verdict::Failed;
        }
        Verdict::StartAt(now_ns.saturating_add(self.delay_ns(now_ns)))
    }

    /// The cause of so many of the last deaths was found and removed: they do not count.
    pub fn forgive(&mut self, deaths: u32) {
        self.deaths.truncate(self.deaths.len().saturating_sub(deaths as usize));
        self.in_a_row = self.in_a_row.saturating_sub(deaths);
    }

    /// How often it died, and of what.
    pub fn story(&self) -> String {
        let (times, reasons): (_, Vec<&str>) = (self.total, self.reasons.iter().map(String::as_str).collect());
        format!("died {times} {}; it {}", if times == 1 { "time" } else { "times" }, reasons.join(", then "))
    }

    /// None for the first death in a row; then the back-off, doubled each time, less up to half of it, so that workers
    /// that died together do not start together.
    fn delay_ns(&self, now_ns: u64) -> u64 {
        let Some(doublings) = self.in_a_row.checked_sub(2) else { return 0 };
        let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
        let delay_ns = self.spec.backoff_ns.saturating_mul(factor).min(self.spec.backoff_ns_max);
        delay_ns - mix(now_ns) % (delay_ns / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: RestartSpec =
        RestartSpec { backoff_ns: 100, backoff_ns_max: 1_000, deaths_max: 8, window_ns: 1_000_000, start_ns_max: 0 };

    #[test]
    fn the_first_start_follows_at_once_and_the_next_wait_twice_as_long_each() {
        let mut restarts = Restarts::new(SPEC);
        assert_eq!(restarts.note_death(5_000, "was killed", false), Verdict::StartAt(5_000));
        for most in [100, 200, 400, 800, 1_000, 1_000] {
            let Verdict::StartAt(at_ns) = restarts.note_death(5_000, "was killed", false) else { panic!("failed") };
            assert!((5_000 + most / 2..=5_000 + most).contains(&at_ns), "{at_ns}, at most {most}");
        }
        assert_eq!(restarts.note_death(5_000, "was killed", false), Verdict::Failed);
        assert_eq!(restarts.story(), "died 8 times; it was killed");
    }

    #[test]
    fn a_worker_that_gets_something_done_is_started_at_once_and_still_fails_if_it_dies_too_often() {
        let mut restarts = Restarts::new(SPEC);
        for death in 0..7 {
            assert_eq!(restarts.note_death(death, "was killed", false), Verdict::StartAt(death));
            restarts.note_answer();
        }
        assert_eq!(restarts.note_death(7, "was killed", false), Verdict::Failed);
    }

    #[test]
    fn deaths_long_ago_expected_or_forgiven_do_not_count() {
        let mut restarts = Restarts::new(SPEC);
        for death in 1..100 {
            let now_ns = death * 200_000;
            assert_ne!(restarts.note_death(now_ns, "was killed", false), Verdict::Failed, "death {death}");
            restarts.note_answer();
        }
        for _ in 0..100 {
            assert_eq!(restarts.note_death(7, "exited", true), Verdict::StartAt(7));
        }
        for _ in 0..100 {
            assert_ne!(restarts.note_death(100_000_000, "was killed", false), Verdict::Failed);
            restarts.forgive(1);
        }
        assert_eq!(restarts.total, 299);
    }
}
