//! What a latency bench puts around a run: a load with times of its own ([`OpenLoop`]) and a [`Probe`] at the sinks.
//!
//! A plan without instruments pays nothing but a look at an `Option` for each batch.

use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use ringmill_connect::open_loop::OpenLoop;

use crate::metrics::{LATENCY_NS_MAX, latency_histogram};

/// The instruments of one run.
#[derive(Debug)]
pub struct Instruments {
    /// When rows are due.
    pub load: Arc<OpenLoop>,
    /// Takes the latency of what reaches the sinks.
    pub probe: Arc<Probe>,
    /// Null sinks count their rows without reading them.
    pub discards: bool,
}

/// Takes the latency of every row that reaches a sink, if it was due (for a window's result: the row that closed it was
/// due) within the measured time.
#[derive(Debug)]
pub struct Probe {
    load: Arc<OpenLoop>,
    slice_ns: u64,
    slices: usize,
    readings: Mutex<Vec<Reading>>,
}

/// What one sink has seen in one thread.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The sink.
    pub sink: String,
    /// Latencies of measured rows, in nanoseconds.
    pub total: Histogram<u64>,
    /// How many batches `total` was taken from.
    pub batches: u64,
    /// Latencies by when rows were due, measured or not, in slices since the start of the load; two significant digits.
    pub slices: Vec<Histogram<u32>>,
}

/// One thread's way to record; what it has seen goes to the probe when it is dropped.
#[derive(Debug)]
pub struct ProbeLane {
    probe: Arc<Probe>,
    reading: Option<Reading>,
}

impl Probe {
    /// A probe for `load`, with so many slices of this length.
    pub fn new(load: Arc<OpenLoop>, slice_ns: u64, slices: usize) -> Probe {
        Probe { load, slice_ns, slices, readings: Mutex::default() }
    }

    /// What was seen, lane by lane; complete when the run is over.
    pub fn take_readings(&self) -> Vec<Reading> {
        std::mem::take(&mut *self.readings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A lane for one thread of a sink. Its memory is all touched here, not while something is measured.
    pub(crate) fn lane(self: &Arc<Self>, sink: &str) -> ProbeLane {
        let slice = || {
            let mut slice = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).expect("constant bounds are valid");
            slice.saturating_record(1);
            slice.reset();
            slice
        };
        let slices = (0..self.slices).map(|_| slice()).collect();
        let reading = Reading { sink: sink.to_owned(), total: latency_histogram(), batches: 0, slices };
        ProbeLane { probe: self.clone(), reading: Some(reading) }
    }
}

impl ProbeLane {
    /// `rows` rows, the oldest of which was due at `due_ns`, have reached the sink at `now_ns`.
    pub(crate) fn record(&mut self, due_ns: u64, now_ns: u64, rows: u64) {
        let (Some(reading), Some(start_ns)) = (&mut self.reading, self.probe.load.start_ns()) else { return };
        let latency_ns = now_ns.saturating_sub(due_ns).max(1);
        if self.probe.load.is_measured(due_ns) {
            reading.total.saturating_record_n(latency_ns, rows);
            reading.batches += 1;
        }
        let slice = due_ns.checked_sub(start_ns).map(|since_ns| since_ns / self.probe.slice_ns);
        let slice = slice.and_then(|slice| reading.slices.get_mut(usize::try_from(slice).ok()?));
        if let Some(slice) = slice {
            slice.saturating_record_n(latency_ns, u32::try_from(rows).unwrap_or(u32::MAX));
        }
    }
}

impl Drop for ProbeLane {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.probe.readings.lock().unwrap_or_else(PoisonError::into_inner).push(reading);
        }
    }
}
