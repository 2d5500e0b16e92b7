//! Two processes, every payload byte checked on both sides, answers out of order, slots leased and released.
//!
//! `RINGMILL_SOAK_MESSAGES` sets the number of batches (scripts/soak: 10^8).

use crate::support::{ANSWER, QUESTION, Worker, check_payload, create, payload_words, write_payload};
use ringmill_ring::{Completion, CompletionKind, CoreEnd, Doorbell, Submission, SubmissionKind, Wait, WorkerEnd};
use std::time::Duration;

const MESSAGES: u64 = 1_000_000;

fn messages() -> u64 {
    std::env::var("RINGMILL_SOAK_MESSAGES").map_or(MESSAGES, |text| text.parse().unwrap())
}

/// The worker of these tests: every 5th answer is held back behind the next one, every 7th slot leased for a while.
pub fn answer_until_drained(mut worker: WorkerEnd) {
    worker.complete(&Completion::ready());
    let mut held: Option<Submission> = None;
    let mut leased: Option<Submission> = None;
    loop {
        let submission = match worker.poll().unwrap() {
            Some(submission) => submission,
            None => {
                // Nothing is kept while the core may be waiting for it.
                answer(&mut worker, held.take(), false);
                end_lease(&mut worker, leased.take());
                match worker.wait(Duration::from_secs(1)).unwrap() {
                    Some(submission) => submission,
                    None => continue,
                }
            }
        };
        if submission.kind == SubmissionKind::Drain {
            answer(&mut worker, held.take(), false);
            end_lease(&mut worker, leased.take());
            return;
        }
        if submission.batch % 5 == 0 && held.is_none() {
            held = Some(submission);
            continue;
        }
        let lease = submission.batch % 7 == 0 && leased.is_none();
        answer(&mut worker, Some(submission), lease);
        answer(&mut worker, held.take(), false);
        if lease {
            leased = Some(submission);
        } else if submission.batch % 3 == 0 {
            end_lease(&mut worker, leased.take());
        }
    }
}

fn answer(worker: &mut WorkerEnd, submission: Option<Submission>, leased: bool) {
    let Some(submission) = submission else { return };
    check_payload(worker.request_memory(submission.slot), submission.batch, QUESTION);
    write_payload(worker.response_slot(submission.slot).as_ptr(), submission.batch, ANSWER);
    worker.complete(&Completion { leased, ..Completion::result(&submission, submission.byte_length) });
}

fn end_lease(worker: &mut WorkerEnd, submission: Option<Submission>) {
    if let Some(submission) = submission {
        check_payload(worker.request_memory(submission.slot), submission.batch, QUESTION);
        worker.lease_released(submission.slot, submission.batch);
    }
}

/// Fill and publish batch `number`, if a slot is free.
pub fn ask(core: &mut CoreEnd, number: u64) -> bool {
    let Some(slot) = core.acquire() else { return false };
    write_payload(core.slot_memory(slot).as_ptr(), number, QUESTION);
    let byte_length = payload_words(number) as u32 * 8;
    core.publish(&Submission {
        slot,
        byte_length,
        row_count: number as u32 % 1000,
        batch: number,
        epoch: number / 100,
        ..Submission::new(SubmissionKind::Batch)
    });
    true
}

fn run(wait: Wait, slots: u32, messages: u64) {
    let mut core = create(slots, 256);
    let doorbell = Doorbell::new().unwrap();
    let worker = Worker::spawn(&core, &doorbell, "answer", wait);
    let (mut published, mut answered, mut leases) = (0, 0, 0_i64);
    let mut seen = vec![0_u64; messages.div_ceil(64) as usize];
    let mut idle = 0;
    while answered < messages || leases > 0 {
        while published < messages && ask(&mut core, published) {
            published += 1;
        }
        if let Some(completion) = core.poll().unwrap() {
            idle = 0;
            match completion.kind {
                CompletionKind::Result => {
                    check_payload(core.response_memory(completion.slot), completion.batch, ANSWER);
                    let (word, bit) = (completion.batch as usize / 64, completion.batch % 64);
                    assert_eq!(seen[word] >> bit & 1, 0, "batch {} answered twice", completion.batch);
                    seen[word] |= 1 << bit;
                    answered += 1;
                    leases += i64::from(completion.leased);
                    core.release(completion.slot);
                }
                CompletionKind::LeaseReleased => leases -= 1,
                CompletionKind::Ready => {}
                CompletionKind::Failed => panic!("nothing fails here"),
            }
            continue;
        }
        idle += 1;
        if idle > 200 && core.arm_sleep() {
            doorbell.wait(Some(Duration::from_secs(1)));
            doorbell.clear();
            core.disarm_sleep();
            assert!(!worker.death.is_dead(), "the worker died; its message is on stderr");
        }
        std::hint::spin_loop();
    }
    assert_eq!(core.free_slots(), slots as usize);
    core.publish(&Submission::new(SubmissionKind::Drain));
    worker.join();
}

#[test]
fn a_million_batches_cross_two_processes_unharmed() {
    run(Wait::Adaptive, 64, messages());
}

#[test]
fn few_slots_and_many_sleeps_lose_nothing() {
    run(Wait::Block, 1, messages() / 50);
    run(Wait::Block, 4, messages() / 50);
}

#[test]
fn a_spinning_worker_loses_nothing() {
    run(Wait::Spin, 16, messages() / 50);
}
