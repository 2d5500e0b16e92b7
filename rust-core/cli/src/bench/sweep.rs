//! Rates up to saturation: what the pipeline can take, what it sustains, and how fast it may be for a p99 to hold.

use super::result::{Point, Status, Sweep};
use crate::failure::Failure;

/// Parts of the capacity that are tried.
const PARTS: [f64; 9] = [0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05];
/// … in a quick run.
const PARTS_QUICK: [f64; 4] = [0.25, 0.5, 0.75, 1.0];
/// Halvings of the distance between the highest rate that is good and the lowest that is not.
const STEPS: usize = 4;
/// … in a quick run.
const STEPS_QUICK: usize = 2;

/// Tries rates; `attempt` runs the pipeline at one.
///
/// # Errors
/// What `attempt` says.
pub fn sweep(
    capacity: f64,
    p99_limit_ns: Option<u64>,
    is_quick: bool,
    mut attempt: impl FnMut(f64) -> Result<Point, Failure>,
) -> Result<Sweep, Failure> {
    let mut points = Vec::new();
    let (parts, steps) = if is_quick { (&PARTS_QUICK[..], STEPS_QUICK) } else { (&PARTS[..], STEPS) };
    for part in parts {
        points.push(attempt(capacity * part)?);
    }
    let sustainable_rate = narrow(&mut points, steps, |point| point.sustained, &mut attempt)?;
    let rate_at_p99_limit = match p99_limit_ns {
        None => None,
        Some(limit_ns) => narrow(&mut points, steps, |point| holds(point, limit_ns), &mut attempt)?,
    };
    Ok(Sweep { capacity, sustainable_rate, p99_limit_ns, rate_at_p99_limit, points })
}

/// A p99 that there are too few samples for is not known to hold.
fn holds(point: &Point, limit_ns: u64) -> bool {
    point.sustained && point.latency_ns.p99.is_some_and(|p99| p99 <= limit_ns)
}

/// Halves the distance between the highest good rate below every bad one, and the lowest bad one; the highest good rate.
fn narrow(
    points: &mut Vec<Point>,
    steps: usize,
    is_good: impl Fn(&Point) -> bool,
    attempt: &mut impl FnMut(f64) -> Result<Point, Failure>,
) -> Result<Option<f64>, Failure> {
    for _ in 0..steps {
        let (Some(good), Some(bad)) = bracket(points, &is_good) else { break };
        points.push(attempt((good + bad) / 2.0)?);
        points.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    }
    Ok(points.iter().filter(|point| is_good(point)).map(|point| point.rate).max_by(f64::total_cmp))
}

/// The highest good rate, and the lowest bad one above it: a stall of the machine at a low rate is no limit.
fn bracket(points: &[Point], is_good: &impl Fn(&Point) -> bool) -> (Option<f64>, Option<f64>) {
    let good = points.iter().filter(|point| is_good(point)).map(|point| point.rate).max_by(f64::total_cmp);
    let above = points.iter().filter(|point| !is_good(point) && good.is_none_or(|good| point.rate > good));
    (good, above.map(|point| point.rate).min_by(f64::total_cmp))
}

impl Point {
    /// What a run at `rate` came to.
    pub fn of(rate: f64, run: &super::result::Run, latency_ns: super::percentiles::Percentiles) -> Point {
        Point {
            rate,
            achieved_rate: run.achieved_rate,
            status: run.status,
            sustained: run.status == Status::Valid && !run.backlog.growing,
            backlog_growing: run.backlog.growing,
            latency_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::percentiles::Percentiles;

    /// A pipeline that sustains 700 rows/s and whose p99 is a microsecond for each row/s.
    fn pipeline(rate: f64) -> Result<Point, Failure> {
        let sustained = rate <= 700.0;
        let p99 = Some(rate as u64 * 1000);
        Ok(Point {
            rate,
            achieved_rate: rate.min(700.0),
            status: if sustained { Status::Valid } else { Status::Invalid },
            sustained,
            backlog_growing: !sustained,
            latency_ns: Percentiles { count: 1, p99, ..Percentiles::default() },
        })
    }

    #[test]
    fn the_sustainable_rate_is_narrowed_down() {
        let sweep = sweep(800.0, None, false, pipeline).expect("no run fails");
        let rate = sweep.sustainable_rate.expect("there is one");
        assert!((690.0..=700.0).contains(&rate), "{rate}");
        assert!(sweep.points.windows(2).all(|pair| pair[0].rate <= pair[1].rate), "points are in order");
    }

    #[test]
    fn the_highest_rate_within_a_p99_is_narrowed_down() {
        let sweep = sweep(800.0, Some(300_000), false, pipeline).expect("no run fails");
        let rate = sweep.rate_at_p99_limit.expect("there is one");
        assert!((285.0..=300.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_limit_that_no_rate_keeps_has_no_rate() {
        let sweep = sweep(800.0, Some(1), true, pipeline).expect("no run fails");
        assert_eq!(sweep.rate_at_p99_limit, None);
    }
}
