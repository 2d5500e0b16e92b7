//! A dead worker's place is taken by another: what the core keeps, what it forgets, and that nothing of the dead
//! counts any more.
//!
//! (With real processes: `death.rs`. Against random operations: `model.rs`. At every store: `src/death_tests.rs`.)

use crate::support::{ANSWER, QUESTION, Worker, attach, attached, batch, check_payload, create, mix, write_payload};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::uio::pwrite;
use ringmill_ring::{
    Completion, CompletionKind, CoreEnd, Doorbell, NO_SLOT, ProtocolViolation, ResponseMemory, RingError, Submission,
    SubmissionKind, Wait, WorkerEnd, inspect,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Acquire a slot, fill it, publish it as batch `number`.
fn ask(core: &mut CoreEnd, number: u64) -> Submission {
    let slot = core.acquire().expect("a free slot");
    write_payload(core.slot_memory(slot).as_ptr(), number, QUESTION);
    let submission = Submission { byte_length: 256, ..batch(slot, number) };
    core.publish(&submission);
    submission
}

/// Take the next submission, look at its payload, answer it.
fn answer(worker: &mut WorkerEnd, leased: bool) -> Submission {
    let submission = worker.poll().unwrap().expect("something to answer");
    check_payload(worker.request_memory(submission.slot), submission.batch, QUESTION);
    write_payload(worker.response_slot(submission.slot).as_ptr(), submission.batch, ANSWER);
    worker.complete(&Completion { leased, ..Completion::result(&submission, 256) });
    submission
}

/// Poll the next completion, which is the answer to batch `number`.
fn take(core: &mut CoreEnd, number: u64) -> Completion {
    let completion = core.poll().unwrap().expect("an answer");
    assert_eq!((completion.kind, completion.batch), (CompletionKind::Result, number));
    check_payload(core.response_memory(completion.slot), number, ANSWER);
    completion
}

fn consume(core: &mut CoreEnd, number: u64) {
    let slot = take(core, number).slot;
    core.release(slot);
}

#[test]
fn unanswered_batches_come_back_in_order_of_publication() {
    let mut core = create(8, 256);
    let mut dead = attached(&core);
    dead.complete(&Completion::ready());
    assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::Ready);
    // Answered out of order, so that the slots of the last four are in another order than their numbers.
    for number in 0..6 {
        ask(&mut core, number);
    }
    let kept: Vec<Submission> = (0..6).map(|_| dead.poll().unwrap().unwrap()).collect();
    for index in [4, 1, 0] {
        let submission = kept[index];
        write_payload(dead.response_slot(submission.slot).as_ptr(), submission.batch, ANSWER);
        dead.complete(&Completion::result(&submission, 256));
        let completion = take(&mut core, submission.batch);
        core.release(completion.slot);
    }
    let last: Vec<Submission> = (6..10).map(|number| ask(&mut core, number)).collect();
    drop(dead);

    let unanswered = core.replace_worker(2).unwrap();
    let expected: Vec<Submission> = [kept[2], kept[3], kept[5]].into_iter().chain(last).collect();
    assert_eq!(unanswered.iter().map(|entry| entry.submission).collect::<Vec<_>>(), expected);
    assert_eq!(unanswered.iter().map(|entry| entry.position).collect::<Vec<_>>(), [2, 3, 5, 6, 7, 8, 9]);

    let mut worker = attached(&core);
    assert_eq!(worker.generation(), 2);
    assert_eq!(worker.poll(), Ok(None), "what was meant for the dead is not the successor's");
    worker.complete(&Completion::ready());
    assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::Ready, "said once by each worker");
    for entry in &unanswered {
        core.publish(&entry.submission);
    }
    for entry in &unanswered {
        assert_eq!(answer(&mut worker, false), entry.submission);
        let completion = take(&mut core, entry.submission.batch);
        core.release(completion.slot);
    }
    assert_eq!(core.free_slots(), 8);
}

#[test]
fn an_answer_that_was_polled_but_not_consumed_outlives_its_worker() {
    let mut core = create(4, 256);
    let mut dead = attached(&core);
    for number in 1..=3 {
        ask(&mut core, number);
    }
    answer(&mut dead, true);
    answer(&mut dead, false);
    let (first, second) = (take(&mut core, 1), take(&mut core, 2));
    // A failure's text that fills its slot to the last byte.
    let third = dead.poll().unwrap().unwrap();
    let text: Vec<u8> = (0..=255).collect();
    // SAFETY: the slot is the worker's and has 256 bytes.
    unsafe { dead.response_slot(third.slot).as_ptr().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    dead.complete(&Completion { kind: CompletionKind::Failed, ..Completion::result(&third, 256) });
    assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::Failed);
    drop(dead);

    // Twice over: the copy is copied.
    for generation in [2, 3] {
        assert_eq!(core.replace_worker(generation).unwrap(), []);
        check_payload(core.response_memory(first.slot), 1, ANSWER);
        check_payload(core.response_memory(second.slot), 2, ANSWER);
        check_payload(core.slot_memory(first.slot).as_ptr(), 1, QUESTION);
        let mut copied = Vec::new();
        core.copy_response(third.slot, 256, &mut copied);
        assert_eq!(copied, text);
    }
    // The successor works beside them.
    let mut worker = attached(&core);
    ask(&mut core, 4);
    answer(&mut worker, false);
    let fourth = take(&mut core, 4);
    check_payload(core.response_memory(first.slot), 1, ANSWER);
    for slot in [first.slot, second.slot, third.slot, fourth.slot] {
        core.release(slot);
    }
    assert_eq!(core.free_slots(), 4);
}

#[test]
fn leases_end_with_the_worker_that_holds_them() {
    let mut core = create(4, 256);
    let mut dead = attached(&core);
    for number in 1..=3 {
        ask(&mut core, number);
    }
    let slots: Vec<u32> = (1..=3)
        .map(|number| {
            answer(&mut dead, true);
            take(&mut core, number).slot
        })
        .collect();
    // The core has let go of the first; the second's lease end was published and never polled.
    core.release(slots[0]);
    dead.lease_released(slots[1], 2);
    assert_eq!((core.leased_slots(), core.free_slots()), (3, 1));

    assert_eq!(core.replace_worker(2).unwrap(), []);
    assert_eq!((core.leased_slots(), core.free_slots()), (0, 2));
    core.release(slots[1]);
    assert_eq!(core.free_slots(), 3);
    // An answered slot may be asked again at once: nobody looks into it any more.
    core.publish(&Submission { byte_length: 256, ..batch(slots[2], 3) });
    let mut worker = attached(&core);
    answer(&mut worker, false);
    consume(&mut core, 3);
    assert_eq!(core.free_slots(), 4);
}

#[test]
fn a_successor_cannot_end_the_lease_of_the_dead_nor_answer_what_they_were_asked() {
    let mut core = create(2, 256);
    let mut dead = attached(&core);
    ask(&mut core, 1);
    answer(&mut dead, true);
    let slot = take(&mut core, 1).slot;
    let unanswered = ask(&mut core, 2);
    assert_eq!(core.replace_worker(2).unwrap().len(), 1);

    let put = |core: &CoreEnd, completion: &Completion| raw_completion(&core.worker_fds().unwrap().1, completion);
    put(&core, &Completion { kind: CompletionKind::LeaseReleased, slot, batch: 1, ..Completion::ready() });
    assert_eq!(core.poll(), Err(ProtocolViolation::NotLeased { position: 0, slot }));
    core.replace_worker(3).unwrap();
    put(&core, &Completion::result(&unanswered, 0));
    let slot = unanswered.slot;
    assert_eq!(core.poll(), Err(ProtocolViolation::NotInFlight { position: 0, slot }));
}

/// Put a completion at position 0 of a response file, past all checks of a worker's end.
pub fn raw_completion(response: &OwnedFd, completion: &Completion) {
    let mut bytes = Vec::new();
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend((completion.kind as u16).to_le_bytes());
    bytes.extend(u16::from(completion.leased).to_le_bytes());
    bytes.extend(completion.slot.to_le_bytes());
    bytes.extend(completion.byte_length.to_le_bytes());
    bytes.extend(completion.row_count.to_le_bytes());
    bytes.extend(completion.batch.to_le_bytes());
    bytes.extend(completion.epoch.to_le_bytes());
    assert_eq!(pwrite(response, &bytes, ringmill_ring::layout::RING_OFFSET as i64), Ok(bytes.len()));
}

#[test]
fn a_drain_is_forgotten_with_the_worker_that_was_drained() {
    let mut core = create(2, 256);
    ask(&mut core, 1);
    core.publish(&Submission::new(SubmissionKind::Drain));
    let unanswered = core.replace_worker(2).unwrap();
    let mut worker = attached(&core);
    assert_eq!(worker.poll(), Ok(None), "the successor is not drained");
    core.publish(&unanswered[0].submission);
    core.publish(&Submission::new(SubmissionKind::Drain));
    answer(&mut worker, false);
    assert_eq!(worker.poll().unwrap().unwrap().kind, SubmissionKind::Drain);
    take(&mut core, 1);
}

#[test]
fn the_successor_s_first_sleep_is_ended_though_its_predecessor_slept_too() {
    let mut core = create(2, 256);
    for generation in 1..4 {
        if generation > 1 {
            let unanswered = core.replace_worker(generation).unwrap();
            core.release(unanswered[0].submission.slot);
        }
        // Every worker counts its tickets from 1, and each is woken from its first sleep.
        let (request, response) = core.worker_fds().unwrap();
        let mut worker = attach(request, response, Doorbell::new().unwrap(), Wait::Block);
        let thread = std::thread::spawn(move || worker.wait(Duration::MAX).unwrap().unwrap().batch);
        while !core.peek_worker().sleeping {
            std::thread::yield_now();
        }
        let slot = core.acquire().unwrap();
        core.publish(&batch(slot, generation));
        assert_eq!(thread.join().unwrap(), generation);
    }
}

#[test]
fn a_core_that_announced_to_sleep_is_rung_by_the_successor() {
    let mut core = create(2, 256);
    let doorbell = Doorbell::new().unwrap();
    let attach_to = |core: &CoreEnd| {
        let (request, response) = core.worker_fds().unwrap();
        attach(request, response, doorbell.try_clone().unwrap(), Wait::Adaptive)
    };
    let dead = attach_to(&core);
    assert!(core.arm_sleep());
    drop(dead);
    core.replace_worker(2).unwrap();
    let mut worker = attach_to(&core);
    worker.complete(&Completion::ready());
    assert!(doorbell.wait(None));
    core.disarm_sleep();
    assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::Ready);
}

#[test]
fn positions_go_on_and_an_onlooker_sees_the_new_generation() {
    let mut core = create(2, 256);
    let mut dead = attached(&core);
    for number in 1..=3 {
        ask(&mut core, number);
        answer(&mut dead, false);
        consume(&mut core, number);
    }
    ask(&mut core, 4);
    core.replace_worker(7).unwrap();
    assert_eq!(core.generation(), 7);
    let (request, response) = core.worker_fds().unwrap();
    let seen = inspect(&request, &response).unwrap();
    assert_eq!(seen.generation, 7);
    // Nothing lies unread: what was published before is not for the new worker, attached or not.
    assert_eq!((seen.submissions.published, seen.submissions.unread), (4, 0));
    assert_eq!((seen.completions.published, seen.completions.read, seen.completions.unread), (0, 0, 0));
    let mut worker = attached(&core);
    assert_eq!(inspect(&request, &response).unwrap().submissions.read, 4);
    ask(&mut core, 5);
    assert_eq!(inspect(&request, &response).unwrap().submissions.unread, 1);
    answer(&mut worker, false);
    take(&mut core, 5);
    let seen = inspect(&request, &response).unwrap();
    assert_eq!((seen.submissions.read, seen.completions.read), (5, 1));
}

#[test]
fn a_generation_that_does_not_grow_is_refused_and_changes_nothing() {
    let mut core = create(2, 256);
    let mut worker = attached(&core);
    ask(&mut core, 1);
    for generation in [0, 1] {
        let error = core.replace_worker(generation).unwrap_err();
        let expected = format!("generation is {generation}, but must be greater than that of the worker before");
        assert_eq!(error.to_string(), expected);
    }
    answer(&mut worker, false);
    take(&mut core, 1);
    core.replace_worker(u64::MAX).unwrap();
    assert!(core.replace_worker(u64::MAX).is_err());
}

#[test]
fn memory_made_by_another_thread_serves_the_successor_and_keeps_what_was_answered() {
    let mut core = create(4, 256);
    let mut dead = attached(&core);
    ask(&mut core, 1);
    ask(&mut core, 2);
    answer(&mut dead, true);
    let first = take(&mut core, 1);
    assert!(core.is_leased(first.slot));
    drop(dead);
    let layout = core.response_layout();
    let memory = || std::thread::spawn(move || ResponseMemory::make(layout).unwrap()).join().unwrap();
    assert!(core.replace_worker_with(1, memory()).is_err());
    let unanswered = core.replace_worker_with(2, memory()).unwrap();
    assert_eq!((unanswered.len(), core.is_leased(first.slot)), (1, false));
    check_payload(core.response_memory(first.slot), 1, ANSWER);
    let mut worker = attached(&core);
    assert_eq!(worker.generation(), 2);
    core.publish(&unanswered[0].submission);
    answer(&mut worker, false);
    consume(&mut core, 2);
}

#[test]
fn the_successor_s_files_are_sealed_and_allocated_like_the_first_ones() {
    let mut core = create(8, 4096);
    core.replace_worker(2).unwrap();
    let (_, response) = core.worker_fds().unwrap();
    let status = nix::sys::stat::fstat(&response).unwrap();
    assert!(status.st_blocks * 512 >= status.st_size);
    Worker::spawn(&core, &Doorbell::new().unwrap(), "trespass", Wait::Block).join();
}

#[test]
fn the_response_file_of_a_dead_generation_is_refused_once_the_channel_has_begun_later() {
    let (old, mut config) = (create(2, 64), crate::support::config(2, 64));
    config.generation = 2;
    let new = CoreEnd::create(&config).unwrap();
    let (request, _) = new.worker_fds().unwrap();
    let (_, response) = old.worker_fds().unwrap();
    let error = WorkerEnd::attach(
        request,
        response,
        Doorbell::new().unwrap(),
        Wait::Block,
        config.schema_hash,
        config.response_schema_hash,
    );
    assert!(matches!(error, Err(RingError::GenerationMismatch { request: 2, response: 1 })));
}

/// A process that outlived its own death: writes all over its response file until it is killed.
pub fn scribble(response: &OwnedFd) {
    let bytes = nix::sys::stat::fstat(response).unwrap().st_size as u64;
    for round in 0.. {
        let mut offset = mix(round) % bytes;
        // Now and then where it hurts most: the first entries of the ring, with the next sequence numbers.
        if round % 4 == 0 {
            offset = 4096 + 64 * (round / 4 % 16);
        }
        let word = if round % 4 == 0 { mix(round) % 64 } else { mix(!round) };
        let length = (bytes - offset).min(8) as usize;
        pwrite(response, &word.to_le_bytes()[..length], offset as i64).unwrap();
    }
}

#[test]
fn a_zombie_that_goes_on_writing_changes_nothing() {
    let mut core = create(4, 256);
    let doorbell = Doorbell::new().unwrap();
    let mut own_zombie = attached(&core);
    let zombie = Worker::spawn(&core, &doorbell, "scribble", Wait::Block);
    let (_, old_response) = core.worker_fds().unwrap();
    let file = |file: &OwnedFd| nix::sys::stat::fstat(file.as_fd()).unwrap().st_ino;
    for number in 1..=4 {
        ask(&mut core, number);
    }
    let in_hand = own_zombie.poll().unwrap().unwrap();
    // The other process is at it: something stands where nobody has answered yet.
    while crate::support::bytes_of(&old_response)[4096..4160] == [0; 64] {
        std::thread::yield_now();
    }

    let unanswered = core.replace_worker(2).unwrap();
    assert_ne!(file(&old_response), file(&core.worker_fds().unwrap().1), "another file");
    assert_eq!(unanswered.len(), 4);
    let mut worker = attached(&core);
    for entry in unanswered {
        core.publish(&entry.submission);
    }
    // It answers what it still has in hand; it even sees what is published for its successor (and may say so).
    own_zombie.complete(&Completion::result(&in_hand, 256));
    while let Ok(Some(_)) = own_zombie.poll() {}
    assert_eq!(core.poll(), Ok(None));
    for number in 1..=20_000 {
        answer(&mut worker, false);
        consume(&mut core, number);
        ask(&mut core, number + 4);
    }
    assert!(!zombie.death.is_dead(), "it went on to the end");
    assert_eq!(core.poll(), Ok(None));
}

/// What a process holds: its descriptors, and its mappings of memory files.
fn holdings() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap();
    (descriptors, mappings.lines().filter(|line| line.contains("memfd:ringmill")).count())
}

/// In a process of its own, so that nobody else's descriptors come and go.
pub fn replace_again_and_again() {
    let mut core = create(4, 256);
    let (mut before, bytes) = ((0, 0), core.memory_bytes());
    let mut number = 0;
    for round in 1..=500 {
        let mut worker = attached(&core);
        worker.complete(&Completion::ready());
        assert_eq!(core.poll().unwrap().unwrap().slot, NO_SLOT);
        while core.free_slots() > 0 {
            number += 1;
            ask(&mut core, number);
        }
        let first = answer(&mut worker, round % 2 == 0);
        consume(&mut core, first.batch);
        drop(worker);
        let unanswered = core.replace_worker(round + 1).unwrap();
        assert_eq!((unanswered.len(), core.free_slots(), core.memory_bytes()), (3, 1, bytes));
        unanswered.iter().for_each(|entry| core.release(entry.submission.slot));
        if round == 1 {
            before = holdings();
            assert_eq!(before.1, 2, "one mapping of each file");
        }
    }
    assert_eq!(holdings(), before);
}

#[test]
fn five_hundred_replacements_leave_no_descriptor_and_no_mapping_behind() {
    Worker::spawn(&create(1, 64), &Doorbell::new().unwrap(), "replace again and again", Wait::Block).join();
}

/// In a process of its own, because it lowers a limit of the process.
pub fn replace_without_descriptors() {
    let mut core = create(2, 256);
    let mut worker = attached(&core);
    ask(&mut core, 1);
    ask(&mut core, 2);
    answer(&mut worker, false);
    let first = take(&mut core, 1);
    let before = holdings();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let next = Doorbell::new().unwrap().fd();
    setrlimit(Resource::RLIMIT_NOFILE, next.as_raw_fd() as u64, hard).unwrap();
    let error = core.replace_worker(2).unwrap_err();
    assert!(matches!(error, RingError::System { call: "memfd_create", .. }), "{error}");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!((core.generation(), holdings()), (1, before));
    check_payload(core.response_memory(first.slot), 1, ANSWER);
    assert_eq!(core.replace_worker(2).unwrap().len(), 1);
    check_payload(core.response_memory(first.slot), 1, ANSWER);
    assert_eq!(holdings(), before);
}

#[test]
fn a_replacement_that_fails_changes_nothing_and_may_be_repeated() {
    Worker::spawn(&create(1, 64), &Doorbell::new().unwrap(), "replace without descriptors", Wait::Block).join();
}

#[test]
fn a_function_s_state_is_asked_for_and_given_back() {
    let mut core = create(2, 256);
    let mut worker = attached(&core);
    let slot = core.acquire().unwrap();
    core.publish(&Submission { slot, epoch: 7, batch: 40, ..Submission::new(SubmissionKind::Snapshot) });
    let asked = worker.poll().unwrap().unwrap();
    assert_eq!((asked.kind, asked.slot, asked.epoch), (SubmissionKind::Snapshot, slot, 7));
    write_payload(worker.response_slot(slot).as_ptr(), 40, ANSWER);
    worker.complete(&Completion::result(&asked, 256));
    let state = take(&mut core, 40);
    assert_eq!((state.epoch, state.row_count, state.byte_length), (7, 0, 256));
    let mut bytes = Vec::new();
    core.copy_response(slot, state.byte_length, &mut bytes);
    core.release(slot);

    core.replace_worker(2).unwrap();
    let mut worker = attached(&core);
    let slot = core.acquire().unwrap();
    // SAFETY: the slot is the core's and has 256 bytes.
    unsafe { core.slot_memory(slot).as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    let restore = Submission { slot, byte_length: 256, batch: 41, ..Submission::new(SubmissionKind::Restore) };
    core.publish(&restore);
    let asked = worker.poll().unwrap().unwrap();
    assert_eq!(asked, restore);
    check_payload(worker.request_memory(slot), 40, ANSWER);
    // A worker that cannot: a failure like any other.
    worker.complete(&Completion { kind: CompletionKind::Failed, ..Completion::result(&asked, 0) });
    assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::Failed);
    core.release(slot);
    // Both count as unanswered when the worker dies over them.
    let slot = core.acquire().unwrap();
    let snapshot = Submission { slot, epoch: 8, ..Submission::new(SubmissionKind::Snapshot) };
    core.publish(&snapshot);
    assert_eq!(core.replace_worker(3).unwrap()[0].submission, snapshot);
}

#[test]
fn an_answer_about_state_has_no_rows() {
    let mut core = create(2, 256);
    let slot = core.acquire().unwrap();
    let asked = Submission { slot, ..Submission::new(SubmissionKind::Snapshot) };
    core.publish(&asked);
    let (_, response) = core.worker_fds().unwrap();
    raw_completion(&response, &Completion { row_count: 3, ..Completion::result(&asked, 8) });
    let violation = ProtocolViolation::WrongRowCount { position: 0, slot, found: 3, expected: 0 };
    assert_eq!(core.poll(), Err(violation));
}
