//! The production algorithm under loom: every interleaving and every value a weak memory model allows.
//!
//! Each promise is checked together with its canary: the same model with one ordering taken out must fail, which shows
//! that the model would notice.

use crate::core_link::{CoreLink, Parts};
use crate::descriptor::{Completion, CompletionKind, Submission, SubmissionKind};
use crate::layout::{CoreFigures, Line, RequestState, ResponseState, WorkerFigures};
use crate::memory::{Memory, Word};
use crate::ring::{Consumer, Descriptor, Producer};
use crate::worker_link::WorkerLink;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const SOUND: u8 = 0;
const WITHOUT_FENCE: u8 = 1;
const WITHOUT_RELEASE: u8 = 2;
const WITHOUT_ACQUIRE: u8 = 3;

/// Loom's memory, with one fault.
struct Modelled<const FAULT: u8>;

/// The word and, for those used as futex, the kernel's queue of sleepers.
struct ModelledU32<const FAULT: u8> {
    value: AtomicU32,
    sleepers: Mutex<()>,
    woken: Condvar,
}

struct ModelledU64<const FAULT: u8>(AtomicU64);

impl<const FAULT: u8> Memory for Modelled<FAULT> {
    type U32 = ModelledU32<FAULT>;
    type U64 = ModelledU64<FAULT>;

    fn full_fence() {
        if FAULT != WITHOUT_FENCE {
            fence(Ordering::SeqCst);
        }
    }

    /// As the kernel does it: compare and queue in one step. Never times out, so that a lost wake-up is a deadlock.
    fn futex_wait(word: &Self::U32, expected: u32, _timeout: Duration) {
        let sleepers = word.sleepers.lock().unwrap();
        if word.value.load(Ordering::Relaxed) == expected {
            drop(word.woken.wait(sleepers).unwrap());
        }
    }

    fn futex_wake(word: &Self::U32) {
        let _sleepers = word.sleepers.lock().unwrap();
        word.woken.notify_all();
    }
}

macro_rules! word {
    ($word:ident, $value:ty, $($field:tt)+) => {
        impl<const FAULT: u8> Word<$value> for $word<FAULT> {
            fn load_relaxed(&self) -> $value {
                self.$($field)+.load(Ordering::Relaxed)
            }
            fn store_relaxed(&self, value: $value) {
                self.$($field)+.store(value, Ordering::Relaxed);
            }
            fn load_acquire(&self) -> $value {
                let value = self.$($field)+.load(Ordering::Relaxed);
                if FAULT != WITHOUT_ACQUIRE {
                    fence(Ordering::Acquire);
                }
                value
            }
            fn store_release(&self, value: $value) {
                let ordering = if FAULT == WITHOUT_RELEASE { Ordering::Relaxed } else { Ordering::Release };
                self.$($field)+.store(value, ordering);
            }
        }
    };
}

word!(ModelledU32, u32, value);
word!(ModelledU64, u64, 0);

fn u32_word<const FAULT: u8>() -> ModelledU32<FAULT> {
    ModelledU32 { value: AtomicU32::new(0), sleepers: Mutex::new(()), woken: Condvar::new() }
}

fn u64_word<const FAULT: u8>() -> ModelledU64<FAULT> {
    ModelledU64(AtomicU64::new(0))
}

fn ring<const FAULT: u8>(entries: u32) -> Vec<Descriptor<Modelled<FAULT>>> {
    let entry = |_| Descriptor { sequence: u64_word(), words: std::array::from_fn(|_| u64_word()) };
    (0..entries).map(entry).collect()
}

/// A channel in loom's memory; its payload cells report any access that is not ordered.
struct Channel<const FAULT: u8> {
    request: RequestState<Modelled<FAULT>>,
    response: ResponseState<Modelled<FAULT>>,
    submissions: Vec<Descriptor<Modelled<FAULT>>>,
    completions: Vec<Descriptor<Modelled<FAULT>>>,
    questions: Vec<UnsafeCell<u64>>,
    answers: Vec<UnsafeCell<u64>>,
    doorbell: (Mutex<bool>, Condvar),
}

impl<const FAULT: u8> Channel<FAULT> {
    fn new(slots: u32) -> Arc<Self> {
        let figures = CoreFigures {
            submissions_published: u64_word(),
            completions_read: u64_word(),
            slots_free: u32_word(),
            slots_leased: u32_word(),
        };
        let worker_figures = WorkerFigures {
            submissions_read: u64_word(),
            completions_published: u64_word(),
            heartbeat_ns: u64_word(),
            current_batch: u64_word(),
            process_id: u32_word(),
        };
        let cells = |_| UnsafeCell::new(0);
        Arc::new(Channel {
            request: RequestState { wake: Line(u32_word()), sleeping: Line(u32_word()), figures: Line(figures) },
            response: ResponseState { sleeping: Line(u32_word()), figures: Line(worker_figures) },
            submissions: ring((slots + 2).next_power_of_two()),
            completions: ring((2 * slots + 2).next_power_of_two()),
            questions: (0..slots).map(cells).collect(),
            answers: (0..slots).map(cells).collect(),
            doorbell: (Mutex::new(false), Condvar::new()),
        })
    }

    fn parts(&self) -> Parts<Modelled<FAULT>> {
        Parts {
            request: &raw const self.request,
            response: &raw const self.response,
            submissions: self.submissions.as_ptr(),
            completions: self.completions.as_ptr(),
            submission_entries: self.submissions.len() as u32,
            completion_entries: self.completions.len() as u32,
            slots: self.questions.len() as u32,
            request_slot_bytes: 8,
            response_slot_bytes: 8,
            start_position: 0,
        }
    }

    fn ring_doorbell(&self) {
        *self.doorbell.0.lock().unwrap() = true;
        self.doorbell.1.notify_all();
    }

    /// Like the eventfd: sticky, and reset by the waiter.
    fn wait_doorbell(&self) {
        let mut rung = self.doorbell.0.lock().unwrap();
        while !*rung {
            rung = self.doorbell.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

#[allow(unsafe_code)]
fn write(cell: &UnsafeCell<u64>, value: u64) {
    // SAFETY: loom fails the model if this access is not ordered against every other one of the cell.
    cell.with_mut(|pointer| unsafe { *pointer = value });
}

#[allow(unsafe_code)]
fn read(cell: &UnsafeCell<u64>) -> u64 {
    // SAFETY: as in `write`.
    cell.with(|pointer| unsafe { *pointer })
}

#[allow(unsafe_code)]
fn worker<const FAULT: u8>(channel: &Channel<FAULT>, lease_first: bool) {
    // SAFETY: the caller keeps the channel alive while this function runs.
    let mut link = unsafe { WorkerLink::new(&channel.parts()) };
    let mut leased = None;
    loop {
        let found = match link.poll().unwrap() {
            Some(submission) => Some(submission),
            None => link.sleep(Duration::MAX).unwrap(),
        };
        let Some(submission) = found else { continue };
        if submission.kind == SubmissionKind::Drain {
            return;
        }
        let slot = submission.slot as usize;
        let question = read(&channel.questions[slot]);
        assert_eq!(question, submission.batch);
        write(&channel.answers[slot], question + 100);
        let lease = lease_first && leased.is_none();
        link.place(&Completion { leased: lease, ..Completion::result(&submission, 8) });
        if lease {
            leased = Some(submission);
            link.place(&Completion {
                kind: CompletionKind::LeaseReleased,
                slot: submission.slot,
                batch: submission.batch,
                ..Completion::ready()
            });
        }
        if link.must_ring() {
            channel.ring_doorbell();
        }
    }
}

/// `batches` batches through a channel of `slots` slots, the first one leased if so wished; both sides sleep whenever they find nothing.
#[allow(unsafe_code)]
fn round_trips<const FAULT: u8>(slots: u32, batches: u64, lease_first: bool) {
    let channel = Channel::<FAULT>::new(slots);
    let thread = {
        let channel = Arc::clone(&channel);
        loom::thread::spawn(move || worker(&channel, lease_first))
    };
    // SAFETY: `channel` lives until the end of this function.
    let mut core = unsafe { CoreLink::new(&channel.parts()) };
    let (mut published, mut answered) = (0, 0);
    while answered < batches {
        while published < batches {
            let Some(slot) = core.acquire() else { break };
            published += 1;
            write(&channel.questions[slot as usize], published);
            core.place(&Submission { slot, batch: published, byte_length: 8, ..batch() });
            core.notify();
        }
        match core.poll().unwrap() {
            Some(completion) if completion.kind == CompletionKind::Result => {
                assert_eq!(read(&channel.answers[completion.slot as usize]), completion.batch + 100);
                answered += 1;
                core.release(completion.slot);
            }
            Some(_) => {}
            None if core.arm_sleep() => {
                channel.wait_doorbell();
                core.disarm_sleep();
            }
            None => {}
        }
    }
    core.place(&Submission::new(SubmissionKind::Drain));
    core.notify();
    thread.join().unwrap();
}

/// The core publishes and never looks back; the worker sleeps whenever it finds nothing.
#[allow(unsafe_code)]
fn one_way<const FAULT: u8>(slots: u32) {
    let channel = Channel::<FAULT>::new(slots);
    let thread = {
        let channel = Arc::clone(&channel);
        loom::thread::spawn(move || {
            // SAFETY: `channel` lives until the end of this closure.
            let mut link = unsafe { WorkerLink::new(&channel.parts()) };
            for expected in 1..=u64::from(slots) {
                let submission = loop {
                    if let Some(submission) = link.poll().unwrap() {
                        break submission;
                    }
                    if let Some(submission) = link.sleep(Duration::MAX).unwrap() {
                        break submission;
                    }
                };
                assert_eq!(submission.batch, expected);
                assert_eq!(read(&channel.questions[submission.slot as usize]), expected);
            }
        })
    };
    // SAFETY: `channel` lives until the end of this function.
    let mut core = unsafe { CoreLink::new(&channel.parts()) };
    for number in 1..=u64::from(slots) {
        let slot = core.acquire().unwrap();
        write(&channel.questions[slot as usize], number);
        core.place(&Submission { slot, batch: number, byte_length: 8, ..batch() });
        core.notify();
    }
    thread.join().unwrap();
}

/// The worker answers `slots` batches that were there from the start; the core sleeps whenever it finds nothing.
#[allow(unsafe_code)]
fn one_way_back<const FAULT: u8>(slots: u32) {
    let channel = Channel::<FAULT>::new(slots);
    // SAFETY: `channel` lives until the end of this function.
    let mut core = unsafe { CoreLink::new(&channel.parts()) };
    for number in 1..=u64::from(slots) {
        let slot = core.acquire().unwrap();
        core.place(&Submission { slot, batch: number, byte_length: 8, ..batch() });
    }
    let thread = {
        let channel = Arc::clone(&channel);
        loom::thread::spawn(move || {
            // SAFETY: `channel` lives until the end of this closure.
            let mut link = unsafe { WorkerLink::new(&channel.parts()) };
            while let Some(submission) = link.poll().unwrap() {
                write(&channel.answers[submission.slot as usize], submission.batch + 100);
                link.place(&Completion::result(&submission, 8));
                if link.must_ring() {
                    channel.ring_doorbell();
                }
            }
        })
    };
    let mut answered = 0;
    while answered < slots {
        if let Some(completion) = core.poll().unwrap() {
            assert_eq!(read(&channel.answers[completion.slot as usize]), completion.batch + 100);
            answered += 1;
        } else if core.arm_sleep() {
            channel.wait_doorbell();
            core.disarm_sleep();
        }
    }
    thread.join().unwrap();
}

fn batch() -> Submission {
    Submission::new(SubmissionKind::Batch)
}

/// Descriptors through a ring of two entries and back through another, so that every entry is overwritten: the position
/// that comes back is the only permission to reuse an entry, as the paired slots are in a channel.
#[allow(unsafe_code)]
fn laps<const FAULT: u8>(descriptors: u64) {
    let rings = Arc::new((ring::<FAULT>(2), ring::<FAULT>(2)));
    let thread = {
        let rings = Arc::clone(&rings);
        loom::thread::spawn(move || {
            // SAFETY: `rings` outlives both ends.
            let (mut there, mut back) =
                unsafe { (Consumer::new(rings.0.as_ptr(), 2, 0), Producer::new(rings.1.as_ptr(), 2, 0)) };
            for expected in 1..=descriptors {
                let words = take(&mut there);
                assert_eq!(words, [expected; 7]);
                back.put(&words);
            }
        })
    };
    // SAFETY: `rings` outlives both ends.
    let (mut there, mut back) =
        unsafe { (Producer::new(rings.0.as_ptr(), 2, 0), Consumer::new(rings.1.as_ptr(), 2, 0)) };
    for number in 1..=descriptors {
        there.put(&[number; 7]);
        if number >= 2 {
            assert_eq!(take(&mut back), [number - 1; 7]);
        }
    }
    assert_eq!(take(&mut back), [descriptors; 7]);
    thread.join().unwrap();
}

fn take<const FAULT: u8>(consumer: &mut Consumer<Modelled<FAULT>>) -> [u64; 7] {
    loop {
        match consumer.take() {
            Ok(Some(words)) => return words,
            Ok(None) => loom::thread::yield_now(),
            Err(sequence) => panic!("impossible sequence {sequence}"),
        }
    }
}

/// Every interleaving.
fn exhaustively(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.max_branches = 100_000;
    builder.check(model);
}

/// Every interleaving with at most so many switches away from a thread that could have gone on: whole round trips have
/// too many others.
fn boundedly(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(model);
}

#[test]
fn no_wake_up_of_the_worker_is_lost() {
    exhaustively(|| one_way::<SOUND>(2));
}

#[test]
fn no_wake_up_of_the_core_is_lost() {
    exhaustively(|| one_way_back::<SOUND>(2));
}

/// Loom cannot unwind from this deadlock (the sleeper holds a lock), so it is let die in a process of its own.
#[test]
fn without_the_fence_a_wake_up_of_the_worker_is_lost() {
    const NAME: &str = "loom_tests::without_the_fence_a_wake_up_of_the_worker_is_lost";
    if std::env::var_os("RINGMILL_TEST_CANARY").is_some() {
        exhaustively(|| one_way::<WITHOUT_FENCE>(1));
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", NAME, "--nocapture"]).env("RINGMILL_TEST_CANARY", "1").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("deadlock"));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_wake_up_of_the_core_is_lost() {
    exhaustively(|| one_way_back::<WITHOUT_FENCE>(1));
}

#[test]
fn both_sides_may_sleep_and_slots_are_reused() {
    boundedly(4, || round_trips::<SOUND>(1, 2, false));
}

#[test]
fn a_leased_slot_is_reused_only_after_its_release() {
    boundedly(3, || round_trips::<SOUND>(2, 3, true));
}

#[test]
fn descriptors_arrive_once_in_order_and_whole() {
    exhaustively(|| laps::<SOUND>(3));
}

#[test]
#[should_panic]
fn without_the_release_a_descriptor_is_torn() {
    exhaustively(|| laps::<WITHOUT_RELEASE>(3));
}

#[test]
#[should_panic]
fn without_the_acquire_a_descriptor_is_torn() {
    exhaustively(|| laps::<WITHOUT_ACQUIRE>(3));
}

#[test]
#[should_panic]
fn without_the_release_a_payload_is_read_while_written() {
    exhaustively(|| one_way::<WITHOUT_RELEASE>(1));
}
