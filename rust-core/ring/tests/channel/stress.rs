//! Two processes, every payload byte checked on both sides, answers out of order, slots leased and released, workers
//! killed and replaced.
//!
//! `RINGMILL_SOAK_MESSAGES` sets the number of batches (scripts/soak: 10^8), `RINGMILL_FUZZ_SEED` when the kills come.

use crate::support::{ANSWER, QUESTION, Worker, check_payload, create, mix, payload_words, write_payload};
use ringmill_ring::{Completion, CompletionKind, CoreEnd, Doorbell, Submission, SubmissionKind, Wait, WorkerEnd};
use std::time::Duration;

const MESSAGES: u64 = 1_000_000;

/// Batches of the longest test; the others take a share of it.
pub fn messages() -> u64 {
    std::env::var("RINGMILL_SOAK_MESSAGES").map_or(MESSAGES, |text| text.parse().unwrap())
}

/// What random choices follow from.
pub fn seed() -> u64 {
    std::env::var("RINGMILL_FUZZ_SEED").map_or(0x5eed, |text| text.parse().unwrap())
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

/// A core whose workers are killed. Batches are numbered from 0.
struct Killer {
    core: CoreEnd,
    doorbell: Doorbell,
    generation: u64,
    published: u64,
    /// Published and not answered, in order of publication.
    in_flight: Vec<u64>,
    /// Polled and not consumed: these outlive the worker that gave them.
    kept: Vec<Completion>,
    answered: Vec<bool>,
    answers: u64,
}

/// What the kills met with.
#[derive(Debug, Default)]
struct Figures {
    kills: u64,
    /// Kills before the worker had said anything.
    at_birth: u64,
    /// Kills with nothing in flight.
    idle: u64,
    resubmitted: u64,
    /// Answers between the signal and the death.
    last_words: u64,
    leases: u64,
    kept: u64,
}

impl Killer {
    /// Publish what there is room for, take what there is. False: there is nothing to do.
    fn go_on(&mut self) -> bool {
        while (self.published as usize) < self.answered.len() && ask(&mut self.core, self.published) {
            self.in_flight.push(self.published);
            self.published += 1;
        }
        let Some(completion) = self.core.poll().unwrap() else {
            let consumed = !self.kept.is_empty();
            self.consume();
            return consumed;
        };
        if completion.kind == CompletionKind::Result {
            let number = completion.batch;
            assert!(!std::mem::replace(&mut self.answered[number as usize], true), "batch {number} answered twice");
            self.in_flight.remove(self.in_flight.iter().position(|other| *other == number).unwrap());
            self.answers += 1;
            self.kept.push(completion);
            if number % 11 != 0 {
                self.consume();
            }
        }
        true
    }

    fn consume(&mut self) {
        for completion in self.kept.drain(..) {
            check_payload(self.core.response_memory(completion.slot), completion.batch, ANSWER);
            self.core.release(completion.slot);
        }
    }

    /// Kill `worker`, read its last words, put a successor into its place.
    fn replace(&mut self, worker: &mut Worker, wait: Wait, figures: &mut Figures) {
        figures.at_birth += u64::from(self.core.peek_worker().completions_published == 0);
        let answers = self.answers;
        worker.process.kill().unwrap();
        // The signal takes its time: work goes on, so that it meets a worker with its hands full.
        while !worker.death.is_dead() {
            self.go_on();
        }
        while let Some(completion) = self.core.poll().unwrap() {
            if completion.kind == CompletionKind::Result {
                assert!(!std::mem::replace(&mut self.answered[completion.batch as usize], true));
                self.in_flight.retain(|number| *number != completion.batch);
                self.answers += 1;
                self.kept.push(completion);
            }
        }
        figures.kills += 1;
        figures.idle += u64::from(self.in_flight.is_empty());
        figures.last_words += self.answers - answers;
        figures.leases += self.core.leased_slots() as u64;
        figures.kept += self.kept.len() as u64;
        figures.resubmitted += self.in_flight.len() as u64;
        self.generation += 1;
        let unanswered = self.core.replace_worker(self.generation).unwrap();
        assert!(unanswered.iter().map(|entry| entry.submission.batch).eq(self.in_flight.iter().copied()));
        assert_eq!(self.core.leased_slots(), 0);
        for entry in &unanswered {
            // The payload is as it was: the worker checks each of its words.
            self.core.publish(&entry.submission);
        }
        *worker = Worker::spawn(&self.core, &self.doorbell, "answer", wait);
    }
}

fn run_with_kills(wait: Wait, slots: u32, messages: u64, seed: u64) -> Figures {
    let (core, doorbell) = (create(slots, 256), Doorbell::new().unwrap());
    let mut worker = Worker::spawn(&core, &doorbell, "answer", wait);
    let answered = vec![false; messages as usize];
    let (in_flight, kept) = (Vec::new(), Vec::new());
    let mut killer = Killer { core, doorbell, generation: 1, published: 0, in_flight, kept, answered, answers: 0 };
    let mut figures = Figures::default();
    let mut next_kill = 0;
    while killer.answers < messages {
        if killer.answers >= next_kill {
            let dice = mix(seed ^ figures.kills);
            killer.replace(&mut worker, wait, &mut figures);
            // Some die before they have done anything.
            next_kill = killer.answers + if dice.is_multiple_of(16) { 0 } else { mix(dice) % 2_500 };
        }
        if !killer.go_on() && killer.core.arm_sleep() {
            killer.doorbell.wait(Some(Duration::from_secs(1)));
            killer.doorbell.clear();
            killer.core.disarm_sleep();
            assert!(!worker.death.is_dead(), "the worker died unasked; its message is on stderr");
        }
    }
    killer.consume();
    assert!(killer.answered.iter().all(|answered| *answered) && killer.in_flight.is_empty());
    killer.core.publish(&Submission::new(SubmissionKind::Drain));
    while !worker.death.is_dead() {
        killer.go_on();
    }
    while killer.go_on() {}
    worker.join();
    assert_eq!((killer.core.free_slots(), killer.core.leased_slots()), (slots as usize, 0));
    figures
}

#[test]
fn every_batch_is_answered_once_however_many_workers_are_killed() {
    for (wait, slots, share) in [(Wait::Adaptive, 16, 20), (Wait::Block, 4, 60), (Wait::Spin, 1, 60)] {
        let figures = run_with_kills(wait, slots, messages() / share, seed());
        println!("RINGMILL_FUZZ_SEED={}: {wait}, {slots} slots, {} batches: {figures:?}", seed(), messages() / share);
        assert!(figures.kills > 5 && figures.idle < figures.kills, "{figures:?}");
    }
}
