//! Death at every store: a process that runs the production algorithm is killed before its first store into shared
//! memory, then before its second, and so on; the survivor must see whole messages only. The core that survives a worker
//! also replaces it, and all work is done in the end.
//!
//! Modelled on AOS's `lockless_queue_death_test.cc`. The stores counted are all that go to shared memory: payload words,
//! descriptor words, sequence numbers, flags, figures.

use crate::core_end::parts;
use crate::core_link::{CoreLink, Parts};
use crate::descriptor::{Completion, CompletionKind, Submission, SubmissionKind};
use crate::error::FileRole;
use crate::header::Header;
use crate::layout::Geometry;
use crate::mapping::Mapping;
use crate::memory::{Memory, Shared, Word};
use crate::process::PidFd;
use crate::worker_end::check_header;
use crate::worker_link::WorkerLink;
use crate::{ChannelConfig, CoreEnd, Doorbell, Wait, WorkerEnd, memory_file};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const SLOTS: u32 = 2;
const BATCHES: u64 = 5;
const WORDS: u64 = 4;

/// Stores left before this process kills itself.
static STORES_LEFT: AtomicI64 = AtomicI64::new(i64::MAX);

fn count_a_store() {
    if STORES_LEFT.fetch_sub(1, Ordering::Relaxed) == 0 {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        loop {
            std::hint::spin_loop();
        }
    }
}

/// The shared memory of a process that is about to die.
struct Mortal;

#[repr(transparent)]
struct MortalU32(AtomicU32);

#[repr(transparent)]
struct MortalU64(AtomicU64);

impl Memory for Mortal {
    type U32 = MortalU32;
    type U64 = MortalU64;

    fn full_fence() {
        Shared::full_fence();
    }

    fn futex_wait(word: &MortalU32, expected: u32, timeout: Duration) {
        Shared::futex_wait(&word.0, expected, timeout);
    }

    fn futex_wake(word: &MortalU32) {
        Shared::futex_wake(&word.0);
    }
}

macro_rules! mortal {
    ($word:ident, $value:ty) => {
        impl Word<$value> for $word {
            fn load_relaxed(&self) -> $value {
                self.0.load_relaxed()
            }
            fn store_relaxed(&self, value: $value) {
                count_a_store();
                self.0.store_relaxed(value);
            }
            fn load_acquire(&self) -> $value {
                self.0.load_acquire()
            }
            fn store_release(&self, value: $value) {
                count_a_store();
                self.0.store_release(value);
            }
        }
    };
}

mortal!(MortalU32, u32);
mortal!(MortalU64, u64);

/// The same addresses, seen by a mortal.
fn mortal(parts: &Parts<Shared>) -> Parts<Mortal> {
    Parts {
        request: parts.request.cast(),
        response: parts.response.cast(),
        submissions: parts.submissions.cast(),
        completions: parts.completions.cast(),
        submission_entries: parts.submission_entries,
        completion_entries: parts.completion_entries,
        slots: parts.slots,
        request_slot_bytes: parts.request_slot_bytes,
        response_slot_bytes: parts.response_slot_bytes,
        start_position: parts.start_position,
    }
}

#[allow(unsafe_code)]
fn write_payload(memory: *mut u8, number: u64) {
    for index in 0..WORDS {
        count_a_store();
        // SAFETY: slots of these tests have `WORDS` words, and this one is the caller's.
        unsafe { memory.cast::<u64>().add(index as usize).write_volatile(number * 1000 + index) };
    }
}

#[allow(unsafe_code)]
fn assert_payload(memory: *const u8, number: u64) {
    for index in 0..WORDS {
        // SAFETY: slots of these tests have `WORDS` words.
        let word = unsafe { memory.cast::<u64>().add(index as usize).read_volatile() };
        assert_eq!(word, number * 1000 + index);
    }
}

fn batch(slot: u32, number: u64) -> Submission {
    let byte_length = WORDS as u32 * 8;
    Submission { slot, batch: number, byte_length, row_count: 1, ..Submission::new(SubmissionKind::Batch) }
}

/// This test binary once more; it plays the part of `test` and dies before store number `stores`.
fn spawn(test: &str, request: &OwnedFd, response: &OwnedFd, stores: i64) -> (Child, PidFd) {
    for descriptor in [request, response] {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("RINGMILL_TEST_MORTAL", format!("{},{},{stores}", request.as_raw_fd(), response.as_raw_fd()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let death = PidFd::open(child.id()).unwrap();
    (child, death)
}

/// The two files of a channel, mapped by a process that was started for it.
struct Inherited {
    request: Mapping,
    request_geometry: Geometry,
    response: Mapping,
    response_geometry: Geometry,
    start_position: u64,
}

impl Inherited {
    fn parts(&self) -> Parts<Mortal> {
        let Inherited { request, request_geometry, response, response_geometry, start_position } = self;
        mortal(&parts(request, request_geometry, response, response_geometry, *start_position))
    }
}

/// In the other process: the two mappings and what lies where. `None` in the test itself.
#[allow(unsafe_code)]
fn inherited(writable: FileRole) -> Option<Inherited> {
    let text = std::env::var("RINGMILL_TEST_MORTAL").ok()?;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let numbers: Vec<i64> = text.split(',').map(|number| number.parse().unwrap()).collect();
    // SAFETY: inherited for this process alone; each is taken once.
    let file = |index: usize| unsafe { OwnedFd::from_raw_fd(numbers[index] as i32) };
    let map = |role, file: &OwnedFd| {
        let (header, geometry) = check_header(role, file).unwrap();
        let map = if role == writable { Mapping::writable } else { Mapping::read_only };
        (map(role, file, geometry.file_bytes).unwrap(), geometry, header.start_position)
    };
    let (request, request_geometry, _) = map(FileRole::Request, &file(0));
    let (response, response_geometry, start_position) = map(FileRole::Response, &file(1));
    STORES_LEFT.store(numbers[2], Ordering::Relaxed);
    Some(Inherited { request, request_geometry, response, response_geometry, start_position })
}

/// The worker's part: ready, then every batch answered, each second one with a lease.
#[allow(unsafe_code)]
fn mortal_worker(inherited: &Inherited) {
    // SAFETY: both mappings outlive the link.
    let mut link = unsafe { WorkerLink::new(&inherited.parts()) };
    link.place(&Completion::ready());
    loop {
        let found = match link.poll().unwrap() {
            Some(submission) => Some(submission),
            None => link.sleep(Duration::from_secs(1)).unwrap(),
        };
        let Some(submission) = found else { continue };
        if submission.kind == SubmissionKind::Drain {
            std::process::exit(0);
        }
        let leased = submission.batch % 2 == 0;
        let slot = submission.slot;
        // SAFETY: a slot's offset lies inside the mapping.
        let memory = unsafe { inherited.response.base().add(inherited.response_geometry.slot_offset(slot)) };
        write_payload(memory, submission.batch + 50);
        link.place(&Completion { leased, ..Completion::result(&submission, WORDS as u32 * 8) });
        if leased {
            let kind = CompletionKind::LeaseReleased;
            link.place(&Completion { kind, slot, batch: submission.batch, ..Completion::ready() });
        }
    }
}

#[test]
fn a_worker_killed_before_any_store_leaves_whole_messages_and_its_successor_finishes() {
    if let Some(inherited) = inherited(FileRole::Response) {
        return mortal_worker(&inherited);
    }
    let mut seen = BTreeSet::new();
    for stores in 0.. {
        let (answered, survived) = outlive_a_worker(stores);
        seen.insert(answered);
        if survived {
            assert!(stores > 50 && seen.into_iter().eq(0..=BATCHES), "every number of batches, in {stores} stores");
            return;
        }
    }
}

/// What a core has seen of its workers.
struct Survivor {
    core: CoreEnd,
    published: u64,
    answered: u64,
    /// Published and not answered, in order.
    in_flight: Vec<Submission>,
    drained: bool,
}

/// How many answers the first worker gave, and whether it lived to the end. It and its successor die before store
/// number `stores`, the third worker does not; whatever happens, every batch is answered once and in order.
fn outlive_a_worker(stores: i64) -> (u64, bool) {
    const NAME: &str = "death_tests::a_worker_killed_before_any_store_leaves_whole_messages_and_its_successor_finishes";
    let config = ChannelConfig {
        slots: SLOTS,
        request_slot_bytes: WORDS as usize * 8,
        response_slot_bytes: WORDS as usize * 8,
        schema_hash: 1,
        response_schema_hash: 2,
        generation: 1,
    };
    let core = CoreEnd::create(&config).unwrap();
    let mut survivor = Survivor { core, published: 0, answered: 0, in_flight: Vec::new(), drained: false };
    let mut first = None;
    for generation in 1.. {
        let (request, response) = survivor.core.worker_fds().unwrap();
        let (mut child, death) = spawn(NAME, &request, &response, if generation > 2 { i64::MAX } else { stores });
        survivor.outlive(&death);
        let survived = child.wait().unwrap().success();
        let first = *first.get_or_insert((survivor.answered, survived));
        if survived {
            assert_eq!((survivor.answered, survivor.in_flight.len()), (BATCHES, 0));
            return first;
        }
        survivor.replace(generation + 1);
    }
    unreachable!("the third worker is immortal")
}

impl Survivor {
    /// Give the worker everything to do, then a drain; until it is dead.
    fn outlive(&mut self, death: &PidFd) {
        let Survivor { core, published, answered, in_flight, drained } = self;
        loop {
            // Looked at before the poll: what a dead worker published is there, and nothing comes after.
            let dead = death.is_dead();
            while *published < BATCHES
                && let Some(slot) = core.acquire()
            {
                *published += 1;
                in_flight.push(batch(slot, *published));
                core.publish(&batch(slot, *published));
            }
            match core.poll().expect("a dying worker breaks no rule") {
                Some(completion) if completion.kind == CompletionKind::Result => {
                    *answered += 1;
                    assert_eq!((completion.batch, in_flight.remove(0).batch), (*answered, *answered));
                    assert_payload(core.response_memory(completion.slot), completion.batch + 50);
                    core.release(completion.slot);
                }
                Some(_) => {}
                None if dead => return,
                None if *answered == BATCHES && core.free_slots() == SLOTS as usize && !*drained => {
                    core.publish(&Submission::new(SubmissionKind::Drain));
                    *drained = true;
                }
                None => std::thread::yield_now(),
            }
        }
    }

    fn replace(&mut self, generation: u64) {
        let unanswered = self.core.replace_worker(generation).unwrap();
        assert!(unanswered.iter().map(|entry| entry.submission).eq(self.in_flight.iter().copied()));
        assert_eq!(self.core.leased_slots(), 0);
        assert_eq!(self.core.free_slots(), SLOTS as usize - self.in_flight.len());
        self.in_flight.iter().for_each(|submission| self.core.publish(submission));
        self.drained = false;
    }
}

/// The core's part: every batch published as slots come back, then a drain.
#[allow(unsafe_code)]
fn mortal_core(inherited: &Inherited) {
    // SAFETY: both mappings outlive the link.
    let mut link = unsafe { CoreLink::new(&inherited.parts()) };
    let (mut published, mut answered) = (0, 0);
    while answered < BATCHES {
        while published < BATCHES
            && let Some(slot) = link.acquire()
        {
            published += 1;
            // SAFETY: a slot's offset lies inside the mapping.
            let memory = unsafe { inherited.request.base().add(inherited.request_geometry.slot_offset(slot)) };
            write_payload(memory, published);
            link.place(&batch(slot, published));
            link.notify();
        }
        match link.poll().unwrap() {
            Some(completion) => {
                answered += 1;
                link.release(completion.slot);
            }
            None => std::thread::yield_now(),
        }
    }
    link.place(&Submission::new(SubmissionKind::Drain));
    link.notify();
    std::process::exit(0);
}

#[test]
fn a_core_killed_before_any_store_leaves_whole_messages_only() {
    if let Some(inherited) = inherited(FileRole::Request) {
        return mortal_core(&inherited);
    }
    let mut seen = BTreeSet::new();
    for stores in 0.. {
        let (taken, survived) = outlive_a_core(stores);
        seen.insert(taken);
        if survived {
            assert!(stores > 50 && seen.into_iter().eq(0..=BATCHES), "every number of batches, in {stores} stores");
            return;
        }
    }
}

/// Batches taken, and whether the core lived to the end.
fn outlive_a_core(stores: i64) -> (u64, bool) {
    const NAME: &str = "death_tests::a_core_killed_before_any_store_leaves_whole_messages_only";
    let file = |role| {
        let geometry = Geometry::new(role, SLOTS, WORDS * 8).unwrap();
        let file = memory_file::create(&geometry, &Header::new(&geometry, role as u64, 1, 0)).unwrap();
        // Not sealed against writing: the core that dies here must map it after us.
        memory_file::seal(&file, false).unwrap();
        file
    };
    let (request, response) = (file(FileRole::Request), file(FileRole::Response));
    let (mut child, death) = spawn(NAME, &request, &response, stores);
    let doorbell = Doorbell::new().unwrap();
    let mut worker = WorkerEnd::attach(request, response, doorbell, Wait::Adaptive, 1, 2).unwrap();
    let mut taken = 0;
    loop {
        let dead = death.is_dead();
        match worker.poll().expect("a dying core breaks no rule") {
            Some(submission) if submission.kind == SubmissionKind::Batch => {
                taken += 1;
                assert_eq!(submission.batch, taken);
                assert_payload(worker.request_memory(submission.slot), taken);
                worker.complete(&Completion::result(&submission, 0));
            }
            Some(_) => {}
            None if dead => break,
            None => std::thread::yield_now(),
        }
    }
    (taken, child.wait().unwrap().success())
}
