//! Measures the ring between two processes, against a bare cache line that bounces between the same two:
//! `cargo run --release -p ringmill-ring --example ring_bench [-- --rounds N] [--json]`.
//!
//! Both sides spin, each pinned to a core of its own. The round trips of a round alternate with the bare ones, so that
//! a ratio compares what ran side by side; every figure is the median over the rounds. Payloads are written and read
//! in full.
#![allow(unsafe_code, reason = "payloads are written and read through raw slot addresses, as users of the crate do")]

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Pid, ftruncate};
use ringmill_ring::{
    ChannelConfig, Completion, CompletionKind, CoreEnd, Doorbell, Submission, SubmissionKind, Wait, WorkerEnd,
};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROUND_TRIPS: usize = 200_000;
const DESCRIPTORS: u64 = 10_000_000;
const BATCHES: u64 = 1_000_000;
const BATCH_BYTES: usize = 6 * 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "peer") {
        return peer(&arguments[2], &arguments[3..]);
    }
    let rounds = match arguments.iter().position(|argument| argument == "--rounds") {
        Some(at) => arguments[at + 1].parse().expect("--rounds takes a number"),
        None => 7,
    };
    pin(0);
    let runs: Vec<Run> = (0..rounds).map(|_| run()).collect();
    report(&runs, arguments.iter().any(|argument| argument == "--json"));
}

/// Figures of one round.
struct Run {
    bare: Latency,
    ring: Latency,
    payload: Latency,
    descriptors_per_second: f64,
    batches_per_second: f64,
}

#[derive(Clone, Copy)]
struct Latency {
    p50: f64,
    p99: f64,
}

fn run() -> Run {
    Run {
        bare: bare_round_trips(),
        ring: ring_round_trips(0),
        payload: ring_round_trips(64),
        descriptors_per_second: descriptors(),
        batches_per_second: batches(),
    }
}

fn report(runs: &[Run], json: bool) {
    let median = |figure: &dyn Fn(&Run) -> f64| {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let lines = [
        ("bare_line_round_trip_ns", median(&|run| run.bare.p50), median(&|run| run.bare.p99)),
        ("ring_round_trip_ns", median(&|run| run.ring.p50), median(&|run| run.ring.p99)),
        ("ring_round_trip_64_bytes_ns", median(&|run| run.payload.p50), median(&|run| run.payload.p99)),
    ];
    let ratio = (median(&|run| run.ring.p50 / run.bare.p50), median(&|run| run.ring.p99 / run.bare.p99));
    let payload_ratio = (median(&|run| run.payload.p50 / run.bare.p50), median(&|run| run.payload.p99 / run.bare.p99));
    let descriptors = median(&|run| run.descriptors_per_second);
    let batches = median(&|run| run.batches_per_second);
    if json {
        let latencies: Vec<String> = lines
            .iter()
            .map(|(name, p50, p99)| format!("\"{name}\": {{\"p50\": {p50:.0}, \"p99\": {p99:.0}}}"))
            .collect();
        println!(
            "{{{}, \"ring_to_bare\": {{\"p50\": {:.2}, \"p99\": {:.2}}}, \"descriptors_per_second\": {descriptors:.0}, \
             \"batches_6_kib_per_second\": {batches:.0}}}",
            latencies.join(", "),
            ratio.0,
            ratio.1
        );
        return;
    }
    println!("{:<44} {:>10} {:>10}", "round trip (ns)", "p50", "p99");
    for (name, p50, p99) in lines {
        println!("{name:<44} {p50:>10.0} {p99:>10.0}");
    }
    println!("{:<44} {:>10.2} {:>10.2}", "ring : bare line", ratio.0, ratio.1);
    println!("{:<44} {:>10.2} {:>10.2}", "ring with 64 bytes each way : bare line", payload_ratio.0, payload_ratio.1);
    println!("{:<44} {:>10.1} M/s", "64-byte descriptors (both ways together)", descriptors / 1e6);
    println!("{:<44} {:>10.2} M/s", "batches of 6 KiB, written and read", batches / 1e6);
}

/// The other process of a measurement.
struct Peer(Child);

impl Peer {
    fn spawn(role: &str, descriptors: &[&dyn AsRawFd]) -> Peer {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg("peer").arg(role);
        for descriptor in descriptors {
            let number = descriptor.as_raw_fd();
            // SAFETY: open for the length of this call, by the caller's borrow.
            let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
            fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor can be made inheritable");
            command.arg(number.to_string());
        }
        Peer(command.spawn().expect("this program can be started"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn peer(role: &str, descriptors: &[String]) {
    pin(1);
    let mut files = descriptors.iter().map(|number| {
        // SAFETY: inherited for this process alone; each is taken once.
        unsafe { OwnedFd::from_raw_fd(number.parse().expect("a descriptor is a number")) }
    });
    let mut next = || files.next().expect("a descriptor for each part");
    if role == "bare" {
        return bounce(&map(&next()));
    }
    let (request, response, doorbell) = (next(), next(), Doorbell::from_fd(next()));
    let worker = WorkerEnd::attach(request, response, doorbell, Wait::Spin, 0, 0).expect("the core made the channel");
    match role {
        "answer" => answer(worker),
        other => panic!("unknown role {other}"),
    }
}

/// On a machine with a single core this fails, and the figures are those of its scheduler.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

fn map(file: &OwnedFd) -> MmapRaw {
    MmapOptions::new().len(4096).populate().map_raw(file.as_raw_fd()).expect("a page can be mapped")
}

fn line(memory: &MmapRaw) -> &AtomicU64 {
    // SAFETY: the mapping is a page long and aligned; both processes use this word as an atomic only.
    unsafe { AtomicU64::from_ptr(memory.as_mut_ptr().cast()) }
}

/// Odd numbers come from the other side, even ones go back.
fn bounce(memory: &MmapRaw) {
    let line = line(memory);
    let mut expected = 1;
    loop {
        while line.load(Ordering::Acquire) != expected {
            std::hint::spin_loop();
        }
        line.store(expected + 1, Ordering::Release);
        expected += 2;
    }
}

fn bare_round_trips() -> Latency {
    let file = memfd_create("bare-line", MFdFlags::MFD_CLOEXEC).expect("a memory file");
    ftruncate(&file, 4096).expect("a page");
    let memory = map(&file);
    let line = line(&memory);
    let _peer = Peer::spawn("bare", &[&file]);
    let mut number = 1;
    measure(|| {
        line.store(number, Ordering::Release);
        while line.load(Ordering::Acquire) != number + 1 {
            std::hint::spin_loop();
        }
        number += 2;
    })
}

/// Time of each call, without those of warming up.
fn measure(mut round_trip: impl FnMut()) -> Latency {
    for _ in 0..ROUND_TRIPS / 4 {
        round_trip();
    }
    let mut nanoseconds = Vec::with_capacity(ROUND_TRIPS);
    let mut before = Instant::now();
    for _ in 0..ROUND_TRIPS {
        round_trip();
        let now = Instant::now();
        nanoseconds.push((now - before).as_nanos() as u64);
        before = now;
    }
    nanoseconds.sort_unstable();
    let at = |share: f64| nanoseconds[(nanoseconds.len() as f64 * share) as usize] as f64;
    Latency { p50: at(0.5), p99: at(0.99) }
}

fn channel(slots: u32, request_slot_bytes: usize) -> (CoreEnd, Peer) {
    let config = ChannelConfig {
        slots,
        request_slot_bytes,
        response_slot_bytes: 64,
        schema_hash: 0,
        response_schema_hash: 0,
        generation: 0,
    };
    let mut core = CoreEnd::create(&config).expect("memory for a channel");
    let (request, response) = core.worker_fds().expect("descriptors for a worker");
    let doorbell = Doorbell::new().expect("a doorbell");
    let peer = Peer::spawn("answer", &[&request, &response, &doorbell.fd()]);
    while core.poll().expect("a worker by the rules").is_none() {
        std::hint::spin_loop();
    }
    (core, peer)
}

/// The worker of all measurements: reads what was sent, writes as much back (64 bytes at most).
fn answer(mut worker: WorkerEnd) {
    worker.complete(&Completion::ready());
    loop {
        let mut submission = match worker.wait(Duration::from_secs(1)).expect("a core by the rules") {
            Some(submission) => submission,
            None => continue,
        };
        // Everything that is there is answered before the core is looked after: one fence for all.
        loop {
            let bytes = submission.byte_length as usize;
            if bytes > 0 {
                let sum = read(worker.request_memory(submission.slot), bytes);
                write(worker.response_slot(submission.slot).as_ptr(), bytes.min(64), sum);
            }
            worker.place(&Completion::result(&submission, bytes.min(64) as u32));
            match worker.poll().expect("a core by the rules") {
                Some(next) => submission = next,
                None => break,
            }
        }
        worker.notify();
    }
}

fn write(memory: *mut u8, bytes: usize, value: u64) {
    for index in 0..bytes / 8 {
        // SAFETY: callers pass a slot of at least `bytes` bytes that is theirs to write.
        unsafe { memory.cast::<u64>().add(index).write(value + index as u64) };
    }
}

fn read(memory: *const u8, bytes: usize) -> u64 {
    // SAFETY: callers pass a slot of at least `bytes` bytes that its writer has let go of.
    let words = unsafe { std::slice::from_raw_parts(memory.cast::<u64>(), bytes / 8) };
    words.iter().fold(0, |sum, word| sum ^ word)
}

fn ring_round_trips(bytes: usize) -> Latency {
    let (mut core, _peer) = channel(1, 64);
    let mut number = 0;
    measure(|| {
        number += 1;
        let slot = core.acquire().expect("the only slot is free");
        write(core.slot_memory(slot).as_ptr(), bytes, number);
        core.publish(&batch(slot, number, bytes));
        loop {
            if let Some(completion) = core.poll().expect("a worker by the rules") {
                std::hint::black_box(read(core.response_memory(slot), bytes));
                core.release(completion.slot);
                return;
            }
            std::hint::spin_loop();
        }
    })
}

fn batch(slot: u32, number: u64, bytes: usize) -> Submission {
    Submission { slot, batch: number, byte_length: bytes as u32, ..Submission::new(SubmissionKind::Batch) }
}

fn descriptors() -> f64 {
    // Each batch is a descriptor there and one back.
    2.0 * throughput(1024, 0, DESCRIPTORS)
}

fn batches() -> f64 {
    throughput(32, BATCH_BYTES, BATCHES)
}

/// Batches per second, as many in flight as there are slots.
fn throughput(slots: u32, bytes: usize, batches: u64) -> f64 {
    let (mut core, _peer) = channel(slots, bytes.max(64));
    let start = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    while answered < batches {
        let mut placed = 0;
        while placed < slots / 4
            && sent < batches
            && let Some(slot) = core.acquire()
        {
            sent += 1;
            placed += 1;
            write(core.slot_memory(slot).as_ptr(), bytes, sent);
            core.place(&batch(slot, sent, bytes));
        }
        if placed > 0 {
            core.notify();
        }
        while let Some(completion) = core.poll().expect("a worker by the rules") {
            debug_assert_eq!(completion.kind, CompletionKind::Result);
            answered += 1;
            core.release(completion.slot);
        }
    }
    batches as f64 / start.elapsed().as_secs_f64()
}
