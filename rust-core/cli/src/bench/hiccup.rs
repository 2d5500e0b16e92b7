//! The hiccup control: how long this machine keeps a thread waiting that does nothing.
//!
//! A thread sleeps for a millisecond, again and again, and records by how much longer it took than the quickest sleep so
//! far, as Gil Tene's jHiccup does. What it sees is the scheduler's, the hypervisor's and the neighbours' doing, not the
//! pipeline's: a tail of the pipeline's that this thread has as well is the machine's. A stall of many periods counts for
//! each of the sleeps that it swallowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringmill_connect::open_loop::OpenLoop;
use ringmill_engine::latency_histogram;
use ringmill_ring::monotonic_ns;

/// Distance of two looks.
pub const PERIOD_NS: u64 = 1_000_000;

/// A control that is running.
pub struct HiccupControl {
    thread: JoinHandle<Hiccups>,
    is_over: Arc<AtomicBool>,
}

/// What it saw.
#[derive(Clone, Debug)]
pub struct Hiccups {
    /// Of the measured time, in nanoseconds.
    pub total: Histogram<u64>,
    /// The longest one of each slice, since the start of the load.
    pub slices: Vec<u64>,
}

impl HiccupControl {
    /// Starts it; it looks at `load` to know when what is measured begins and ends.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(load: Arc<OpenLoop>, slice_ns: u64, slices: usize) -> std::io::Result<HiccupControl> {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let body = move || watch(&load, slice_ns, slices, &told);
        let thread = std::thread::Builder::new().name("ringmill-hiccup".to_owned()).spawn(body)?;
        Ok(HiccupControl { thread, is_over })
    }

    /// Ends it.
    pub fn finish(self) -> Hiccups {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Hiccups { total: latency_histogram(), slices: Vec::new() })
    }
}

fn watch(load: &OpenLoop, slice_ns: u64, slices: usize, is_over: &AtomicBool) -> Hiccups {
    // Otherwise the kernel may add 50 µs to each sleep, to save wake-ups.
    let _ = nix::sys::prctl::set_timerslack(1);
    let mut hiccups = Hiccups { total: latency_histogram(), slices: vec![0; slices] };
    let mut quickest_ns = u64::MAX;
    while !is_over.load(Ordering::Relaxed) {
        let before_ns = monotonic_ns();
        std::thread::sleep(Duration::from_nanos(PERIOD_NS));
        let slept_ns = monotonic_ns() - before_ns;
        quickest_ns = quickest_ns.min(slept_ns);
        let hiccup_ns = slept_ns - quickest_ns;
        if load.is_measured(before_ns) {
            hiccups.note(hiccup_ns);
        }
        let since_ns = load.start_ns().and_then(|start_ns| before_ns.checked_sub(start_ns));
        let slice = since_ns.and_then(|since_ns| usize::try_from(since_ns / slice_ns).ok());
        if let Some(longest) = slice.and_then(|slice| hiccups.slices.get_mut(slice)) {
            *longest = hiccup_ns.max(*longest);
        }
    }
    hiccups
}

impl Hiccups {
    /// Counts a hiccup, and the shorter ones that looks would have seen that it left out.
    fn note(&mut self, hiccup_ns: u64) {
        let mut left_ns = hiccup_ns;
        loop {
            self.total.saturating_record(left_ns.max(1));
            match left_ns.checked_sub(PERIOD_NS) {
                Some(rest_ns) if rest_ns > 0 => left_ns = rest_ns,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stall_counts_for_every_look_that_it_swallowed() {
        let mut hiccups = Hiccups { total: latency_histogram(), slices: Vec::new() };
        (0..90).for_each(|_| hiccups.note(0));
        hiccups.note(10 * PERIOD_NS);
        assert_eq!(hiccups.total.len(), 100);
        assert!(hiccups.total.value_at_quantile(0.95) >= 4 * PERIOD_NS, "half of the stall lies above its middle");
    }
}
