//! The figures of one latency histogram that reports and tables show.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Percentiles in nanoseconds; those of an empty histogram are absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Rows measured.
    pub count: u64,
    /// Smallest.
    pub min: Option<u64>,
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
    /// Largest.
    pub max: Option<u64>,
}

impl Latency {
    /// The figures of a histogram; `None` counts as empty.
    pub fn of(histogram: Option<&Histogram<u64>>) -> Latency {
        let filled = histogram.filter(|histogram| !histogram.is_empty());
        let at = |quantile: f64| filled.map(|histogram| histogram.value_at_quantile(quantile));
        Latency {
            count: filled.map_or(0, Histogram::len),
            min: filled.map(Histogram::min),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: filled.map(Histogram::max),
        }
    }
}
