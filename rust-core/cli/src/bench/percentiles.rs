//! The figures of one latency histogram, without those that it has too few samples for.

use hdrhistogram::Histogram;
use serde::Serialize;

/// A percentile is given only if so many observations lie above it.
pub const ABOVE_MIN: f64 = 10.0;

/// The percentiles that are given: name and quantile.
pub const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("p99.999", 0.99999)];

/// Figures in nanoseconds. Absent ones lack observations: fewer than ten of them lie above.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Rows measured.
    pub count: u64,
    /// Observations: rows of one micro-batch are observed together, so they count as one.
    pub observations: u64,
    /// Smallest.
    pub min: Option<u64>,
    /// Mean.
    pub mean: Option<f64>,
    /// Half are at most this.
    pub p50: Option<u64>,
    /// 90 % are at most this.
    pub p90: Option<u64>,
    /// 99 % are at most this.
    pub p99: Option<u64>,
    /// 99.9 % are at most this.
    pub p99_9: Option<u64>,
    /// 99.99 % are at most this.
    pub p99_99: Option<u64>,
    /// 99.999 % are at most this.
    pub p99_999: Option<u64>,
    /// Largest.
    pub max: Option<u64>,
    /// The whole histogram: HdrHistogram V2, compressed, base64; only where several runs were merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<String>,
}

impl Percentiles {
    /// The figures of a histogram of rows that were observed in so many batches.
    pub fn of(histogram: &Histogram<u64>, observations: u64) -> Percentiles {
        if histogram.is_empty() {
            return Percentiles::default();
        }
        let observations = observations.clamp(1, histogram.len());
        let at = |quantile: f64| is_given(observations, quantile).then(|| histogram.value_at_quantile(quantile));
        let [p50, p90, p99, p99_9, p99_99, p99_999] = QUANTILES.map(|(_, quantile)| at(quantile));
        Percentiles {
            count: histogram.len(),
            observations,
            min: Some(histogram.min()),
            mean: Some((histogram.mean() * 10.0).round() / 10.0),
            p50,
            p90,
            p99,
            p99_9,
            p99_99,
            p99_999,
            max: Some(histogram.max()),
            histogram: None,
        }
    }

    /// The figures in the order of [`QUANTILES`].
    pub fn quantiles(&self) -> [Option<u64>; 6] {
        [self.p50, self.p90, self.p99, self.p99_9, self.p99_99, self.p99_999]
    }
}

/// Whether enough of so many observations lie above a quantile for it to be given.
pub fn is_given(observations: u64, quantile: f64) -> bool {
    // 1 - 0.999 is a little less than a thousandth.
    observations as f64 * (1.0 - quantile) >= ABOVE_MIN * (1.0 - 1e-9)
}

#[cfg(test)]
mod tests {
    use ringmill_engine::latency_histogram;

    use super::*;

    fn one_to(count: u64) -> Histogram<u64> {
        let mut histogram = latency_histogram();
        (1..=count).for_each(|value| histogram.record(value).expect("in bounds"));
        histogram
    }

    #[test]
    fn figures_of_a_known_distribution_are_its_own() {
        let figures = Percentiles::of(&one_to(1_000_000), 1_000_000);
        let near = |value: Option<u64>, expected: f64| {
            let value = value.expect("there are enough samples") as f64;
            assert!((value / expected - 1.0).abs() < 0.001, "{value} is not {expected} to three digits");
        };
        near(figures.p50, 500_000.0);
        near(figures.p90, 900_000.0);
        near(figures.p99, 990_000.0);
        near(figures.p99_9, 999_000.0);
        near(figures.p99_99, 999_900.0);
        near(figures.p99_999, 999_990.0);
        assert_eq!((figures.count, figures.min), (1_000_000, Some(1)));
    }

    #[test]
    fn no_percentile_is_given_with_fewer_than_ten_samples_above_it() {
        for (samples, given) in [(19, 0), (20, 1), (99, 1), (100, 2), (999, 2), (1_000, 3), (9_999, 3), (10_000, 4)] {
            let figures = Percentiles::of(&one_to(samples), samples);
            let count = figures.quantiles().iter().flatten().count();
            assert_eq!(count, given, "of {samples} samples");
            assert_eq!(figures.max.map(|max| max >= samples), Some(true), "the largest is always given");
        }
    }

    #[test]
    fn rows_of_one_batch_are_one_observation() {
        let mut histogram = latency_histogram();
        (1..=100).for_each(|batch| histogram.record_n(batch, 1_000).expect("in bounds"));
        let figures = Percentiles::of(&histogram, 100);
        assert_eq!(figures.count, 100_000);
        assert!(figures.p90.is_some() && figures.p99.is_none(), "{figures:?}");
    }

    #[test]
    fn nothing_has_no_figures() {
        assert_eq!(Percentiles::of(&latency_histogram(), 0), Percentiles::default());
    }
}
