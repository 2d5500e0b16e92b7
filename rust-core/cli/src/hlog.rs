//! `--hlog FILE`: an HdrHistogram interval log (V2, compressed), one line for each stage and interval, tagged with the
//! stage's name. Written by a thread of its own, so that a slow disk does not hold the display up.
//!
//! Times are seconds since `BaseTime`; histograms are in nanoseconds, the maximum column in milliseconds, which is what
//! the Java tools expect.

use std::fs::File;
use std::io::{self, LineWriter, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use ringmill_connect::create_output;
use ringmill_engine::Stage;

/// Intervals that may wait for the disk.
const QUEUE: usize = 64;
/// Nanoseconds in the unit of the maximum column, as in the Java implementation.
const MAX_VALUE_DIVISOR: f64 = 1_000_000.0;
/// The line that names the columns; the tools skip or use it.
const LEGEND: &str = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// Latencies of one interval.
pub struct Interval {
    /// Since the start of the log.
    pub start: Duration,
    /// Its length.
    pub length: Duration,
    /// By stage.
    pub stages: Vec<(Stage, Histogram<u64>)>,
}

/// A log that is being written.
pub struct IntervalLog {
    sender: SyncSender<Interval>,
    thread: JoinHandle<io::Result<()>>,
}

impl IntervalLog {
    /// Creates or replaces the file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path, pipeline: &str, started: SystemTime) -> io::Result<IntervalLog> {
        let file = LineWriter::new(create_output(File::options().write(true).truncate(true), path)?);
        let comment = format!("ringmill {}, pipeline {pipeline}, nanoseconds", env!("CARGO_PKG_VERSION"));
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("ringmill-hlog".to_owned())
            .spawn(move || write(file, &comment, started, receiver.into_iter()))?;
        Ok(IntervalLog { sender, thread })
    }

    /// Hands an interval over. After a failed write intervals are dropped; [`IntervalLog::finish`] tells.
    pub fn push(&self, interval: Interval) {
        let _ = self.sender.send(interval);
    }

    /// Writes what is waiting and closes the file.
    ///
    /// # Errors
    /// The first write that failed.
    pub fn finish(self) -> io::Result<()> {
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes the log panicked")))
    }
}

fn write<W: Write>(
    mut out: W,
    comment: &str,
    started: SystemTime,
    intervals: impl Iterator<Item = Interval>,
) -> io::Result<()> {
    out.write_all(b"#[Histogram log format version 1.3]\n")?;
    out.write_all(LEGEND.as_bytes())?;
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(comment)
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut out, &mut serializer)?;
    for interval in intervals {
        for (stage, histogram) in &interval.stages {
            log.write_histogram(histogram, interval.start, interval.length, Tag::new(stage.name()))
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
    }
    out.flush()
}
