//! Whether a run counts: it kept its schedule, lost nothing, and left no growing backlog.

use ringmill_connect::open_loop::LoadFigures;

use crate::units::{grouped, rate};

/// What a verdict is made from.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// How the load went.
    pub load: &'a LoadFigures,
    /// What was measured, since the start of the load.
    pub measured_ns: (u64, u64),
    /// Rows that were due in that time.
    pub rows_measured: u64,
    /// Share of the rate that may be missed.
    pub tolerance: f64,
    /// Where rows went missing, a sentence each.
    pub differences: Vec<String>,
    /// Rows that a sink saw of what was measured.
    pub results: u64,
    /// The run was ended before it had taken all rows.
    pub was_given_up: bool,
    /// Rows due and not taken, looked at again and again while rows were measured.
    pub backlog: &'a [u64],
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Rows a second that the pipeline took in the measured time.
    pub achieved_rate: f64,
    /// Rows a second that the load released in that time.
    pub released_rate: f64,
    /// Rows that were due and not taken when the time was over.
    pub lost: u64,
    /// The backlog grew all the time: the rate is more than the pipeline can keep up with.
    pub is_growing: bool,
    /// Why the run is INVALID; empty: it is valid.
    pub reasons: Vec<String>,
}

/// Judges an open-loop run.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let load = evidence.load;
    let (from_ns, to_ns) = evidence.measured_ns;
    let length_ns = to_ns.saturating_sub(from_ns).max(1) as f64;
    let wanted = evidence.rows_measured as f64 / length_ns * 1e9;
    // The last row is due a moment before the end, so that being done by the end is being in time.
    let over = |ended_ns: u64| evidence.rows_measured as f64 / (ended_ns.max(to_ns) - from_ns).max(1) as f64 * 1e9;
    let released_rate = if load.released < load.rows { 0.0 } else { over(load.released_ns) };
    let achieved_rate = load.finished_ns.map_or(0.0, over);
    let least = wanted * (1.0 - evidence.tolerance);
    let lost = load.rows.saturating_sub(load.taken);
    let is_growing = is_growing(evidence.backlog, wanted * length_ns * 1e-9 * evidence.tolerance);
    let mut reasons = Vec::new();
    let missed = |what: &str, achieved: f64| {
        let percent = achieved / wanted * 100.0;
        format!("{what}: {} of {} ({percent:.2} %)", rate(achieved), rate(wanted))
    };
    if released_rate < least {
        reasons.push(missed("the generator missed its schedule", released_rate));
    }
    if evidence.was_given_up {
        reasons.push("the pipeline did not catch up: the run was ended with rows outstanding".to_owned());
    } else if achieved_rate < least && released_rate >= least {
        reasons.push(missed("the pipeline fell behind the schedule", achieved_rate));
    }
    if is_growing {
        reasons.push("the backlog grew throughout: the rate is not sustained".to_owned());
    }
    if lost > 0 {
        reasons.push(format!("{} rows were never taken", grouped(lost)));
    }
    reasons.extend(evidence.differences.iter().map(|difference| format!("rows were lost: {difference}")));
    if evidence.results == 0 {
        reasons.push("no result reached a sink in the measured time".to_owned());
    }
    Verdict { achieved_rate, released_rate, lost, is_growing, reasons }
}

/// The median of the last quarter lies above that of the first by more than what may be missed of the rows in between.
fn is_growing(backlog: &[u64], rows_missed_max: f64) -> bool {
    let quarter = backlog.len() / 4;
    if quarter < 4 {
        return false;
    }
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2] as f64
    };
    let grown = median(&backlog[backlog.len() - quarter..]) - median(&backlog[..quarter]);
    // From the middle of one quarter to that of the other.
    grown > 0.75 * rows_missed_max
}

#[cfg(test)]
mod tests {
    use ringmill_engine::latency_histogram;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A load of 11 s at 1,000 rows/s, of which the first second is warm-up.
    fn figures() -> LoadFigures {
        LoadFigures {
            rows: 11_000,
            released: 11_000,
            released_ns: 11 * SECOND - SECOND / 1000,
            taken: 11_000,
            finished_ns: Some(11 * SECOND - SECOND / 1000),
            lag: latency_histogram(),
            waits: latency_histogram(),
        }
    }

    fn judged<'a>(load: &'a LoadFigures, change: impl FnOnce(&mut Evidence<'a>)) -> Verdict {
        let mut evidence = Evidence {
            load,
            measured_ns: (SECOND, 11 * SECOND),
            rows_measured: 10_000,
            tolerance: 0.001,
            differences: Vec::new(),
            results: 10_000,
            was_given_up: false,
            backlog: &[0; 100],
        };
        change(&mut evidence);
        judge(&evidence)
    }

    #[test]
    fn a_run_that_keeps_its_schedule_and_loses_nothing_is_valid() {
        let verdict = judged(&figures(), |_| {});
        assert_eq!(verdict.reasons, Vec::<String>::new());
        assert!((verdict.achieved_rate - 1000.0).abs() < 1e-6, "{verdict:?}");
    }

    #[test]
    fn a_miss_of_more_than_a_thousandth_of_the_schedule_is_invalid() {
        for (late_ms, is_valid) in [(9, true), (12, false)] {
            let late = LoadFigures { finished_ns: Some(11 * SECOND + late_ms * 1_000_000), ..figures() };
            let verdict = judged(&late, |_| {});
            assert_eq!(verdict.reasons.is_empty(), is_valid, "{late_ms} ms late: {verdict:?}");
            let late = LoadFigures { released_ns: 11 * SECOND + late_ms * 1_000_000, ..late };
            let verdict = judged(&late, |_| {});
            let blamed = verdict.reasons.first().map(|reason| reason.contains("the generator missed its schedule"));
            assert_eq!(blamed, (!is_valid).then_some(true), "{verdict:?}");
        }
    }

    #[test]
    fn a_lost_row_is_invalid() {
        let verdict = judged(&LoadFigures { taken: 10_999, finished_ns: None, ..figures() }, |_| {});
        assert_eq!(verdict.lost, 1);
        assert!(verdict.reasons.iter().any(|reason| reason.contains("1 rows were never taken")), "{verdict:?}");
        let verdict = judged(&figures(), |evidence| evidence.differences = vec!["out took 1 row less".to_owned()]);
        assert_eq!(verdict.reasons, ["rows were lost: out took 1 row less"]);
    }

    #[test]
    fn a_growing_backlog_is_invalid_and_one_that_comes_and_goes_is_not() {
        let growing: Vec<u64> = (0..100).collect();
        let waves: Vec<u64> = (0..100).map(|at| if at % 10 == 0 { 500 } else { at % 3 }).collect();
        assert!(judged(&figures(), |evidence| evidence.backlog = &growing).is_growing);
        assert!(!judged(&figures(), |evidence| evidence.backlog = &waves).is_growing);
    }

    #[test]
    fn a_run_without_results_is_invalid() {
        assert_eq!(judged(&figures(), |evidence| evidence.results = 0).reasons.len(), 1);
    }
}
