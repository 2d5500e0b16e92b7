//! The files that the HdrHistogram tools read: `.hgrm` (a percentile distribution as text) and `.hlog` (an interval log,
//! V2). Values are nanoseconds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::{Counter, Histogram};

use super::run::Outcome;

/// Points of the distribution for each halving of the distance to 100 %, as the tools have it.
const TICKS_PER_HALF: u32 = 5;
/// Nanoseconds in the unit of the log's maximum column, as in the Java implementation.
const MAX_VALUE_DIVISOR: f64 = 1_000_000.0;
/// The first lines of a log, which some readers need.
const HEAD: &str = "#[Histogram log format version 1.3]\n\
    \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// Writes the whole percentile distribution.
///
/// # Errors
/// What the file system says.
pub fn write_hgrm(path: &Path, histogram: &Histogram<u64>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut count = 0;
    for value in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += value.count_since_last_iteration();
        let (at, quantile) = (value.value_iterated_to() as f64, value.quantile_iterated_to());
        if quantile < 1.0 {
            writeln!(out, "{at:12.3} {quantile:2.12} {count:10} {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, "{at:12.3} {quantile:2.12} {count:10}")?;
        }
    }
    writeln!(out, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", histogram.mean(), histogram.stdev())?;
    writeln!(out, "#[Max     = {:12.3}, Total count    = {:12}]", histogram.max() as f64, histogram.len())?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), sub_buckets(histogram))?;
    out.flush()
}

/// A power of two that tells apart what the significant digits do.
fn sub_buckets(histogram: &Histogram<u64>) -> u64 {
    (2 * 10_u64.pow(u32::from(histogram.sigfig()))).next_power_of_two()
}

/// Writes a run as an interval log: `end_to_end` by when rows were due, slice by slice; the stages over the whole
/// measured time; the machine's `hiccup`s over the whole measured time. Times count from the start of the load.
///
/// # Errors
/// What the file system says.
pub fn write_hlog(path: &Path, comment: &str, outcome: &Outcome, measured_ns: (u64, u64)) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(HEAD.as_bytes())?;
    let started = SystemTime::now();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(comment)
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut out, &mut serializer)?;
    let mut write = |histogram: &dyn Writable, start_ns: u64, length_ns: u64, tag: &'static str| {
        histogram.write(&mut log, Duration::from_nanos(start_ns), Duration::from_nanos(length_ns), Tag::new(tag))
    };
    for (index, slice) in outcome.slices.iter().enumerate() {
        let start_ns = index as u64 * outcome.slice_ns;
        if start_ns + outcome.slice_ns / 2 >= measured_ns.0 && !slice.is_empty() {
            write(slice, start_ns, outcome.slice_ns, "end_to_end")?;
        }
    }
    for interval in &outcome.intervals {
        for (stage, histogram) in interval.stages.iter().filter(|(stage, _)| *stage != ringmill_engine::Stage::EndToEnd)
        {
            write(histogram, interval.start_ns, interval.length_ns, stage.name())?;
        }
    }
    write(&outcome.hiccups.total, measured_ns.0, measured_ns.1 - measured_ns.0, "hiccup")?;
    out.flush()
}

type Log<'a, 'b> =
    hdrhistogram::serialization::interval_log::IntervalLogWriter<'a, 'b, BufWriter<File>, V2DeflateSerializer>;

/// A histogram with counters of whatever width.
trait Writable {
    fn write(&self, log: &mut Log<'_, '_>, start: Duration, length: Duration, tag: Option<Tag<'_>>) -> io::Result<()>;
}

impl<T: Counter> Writable for Histogram<T> {
    fn write(&self, log: &mut Log<'_, '_>, start: Duration, length: Duration, tag: Option<Tag<'_>>) -> io::Result<()> {
        log.write_histogram(self, start, length, tag).map_err(|error| io::Error::other(error.to_string()))
    }
}
