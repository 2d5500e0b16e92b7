//! Ringmill's ring. A message is a batch in a slot, and the answer takes the slot's pair.
#![allow(unsafe_code, reason = "slots are memory shared with another process, used as the crate's documentation says")]

use crate::{Client, Outcome, Plan, Server, payload};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use ringmill_ring::{ChannelConfig, Completion, CoreEnd, Doorbell, Submission, SubmissionKind, Wait, WorkerEnd};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

/// So few of the largest messages stay in the caches.
const SLOTS: u32 = 32;
/// Of all others more on the way were always faster.
const SLOTS_MAX: u32 = 1024;
/// The longest of those others.
const BYTES_SMALL: usize = 8192;
/// Ends that sleep wake each other once for all that is on the way: as much as pipes and sockets hold.
const BYTES_SLEEPING: usize = 1 << 20;

struct Core {
    channel: CoreEnd,
    doorbell: Doorbell,
    plan: Plan,
}

pub fn connect(plan: &Plan) -> Outcome<(Box<dyn Client>, Child)> {
    let slots = match (plan.bytes, plan.spin) {
        (..=64, _) | (..=BYTES_SMALL, true) => SLOTS_MAX,
        (_, true) => SLOTS,
        (bytes, false) => ((BYTES_SLEEPING / bytes).next_power_of_two() as u32).clamp(SLOTS, SLOTS_MAX),
    };
    let channel = CoreEnd::create(&ChannelConfig {
        slots,
        request_slot_bytes: plan.bytes.max(64),
        response_slot_bytes: if plan.round_trip { plan.bytes.max(64) } else { 64 },
        schema_hash: 0,
        response_schema_hash: 0,
        generation: 0,
    })?;
    let (request, response) = channel.worker_fds()?;
    let doorbell = Doorbell::new()?;
    let mut numbers = Vec::new();
    for descriptor in [request.as_fd(), response.as_fd(), doorbell.as_fd()] {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        numbers.push(descriptor.as_raw_fd().to_string());
    }
    let child = plan.child(&numbers)?.spawn()?;
    let mut core = Core { channel, doorbell, plan: plan.clone() };
    core.completion()?; // it is ready
    Ok((Box::new(core), child))
}

impl Core {
    fn completion(&mut self) -> Outcome<Completion> {
        loop {
            if let Some(completion) = self.channel.poll()? {
                return Ok(completion);
            }
            self.pause();
        }
    }

    fn pause(&mut self) {
        if self.plan.spin {
            std::hint::spin_loop();
            return;
        }
        if self.channel.arm_sleep() {
            self.doorbell.wait(None);
            self.doorbell.clear();
        }
        self.channel.disarm_sleep();
    }

    fn fill(&mut self, slot: u32, number: u64) -> Submission {
        let memory = self.channel.slot_memory(slot).cast::<u64>();
        // SAFETY: the slot was acquired, so it is ours alone until it is published; it is aligned and long enough.
        let words = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), self.plan.bytes / 8) };
        payload::write(words, number);
        let bytes = self.plan.bytes as u32;
        Submission { slot, batch: number, byte_length: bytes, ..Submission::new(SubmissionKind::Batch) }
    }
}

impl Client for Core {
    fn round_trip(&mut self, number: u64) -> Outcome<()> {
        let slot = self.channel.acquire().ok_or("a slot should be free")?;
        let submission = self.fill(slot, number);
        self.channel.publish(&submission);
        let completion = self.completion()?;
        // SAFETY: the worker has answered and writes no more into this slot; aligned and long enough.
        let words = unsafe {
            std::slice::from_raw_parts(self.channel.response_memory(completion.slot).cast(), self.plan.bytes / 8)
        };
        payload::read(words);
        self.channel.release(completion.slot);
        Ok(())
    }

    fn stream(&mut self, count: u64) -> Outcome<()> {
        // A sleeper is woken while there is still room for more; who spins is best left alone for as long as there is any.
        let most = if self.plan.spin { self.channel.slots() } else { self.channel.slots() / 4 };
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            let mut placed = 0;
            while placed < most
                && sent < count
                && let Some(slot) = self.channel.acquire()
            {
                let submission = self.fill(slot, sent);
                self.channel.place(&submission);
                sent += 1;
                placed += 1;
            }
            if placed > 0 {
                self.channel.notify();
            }
            let mut came = false;
            while let Some(completion) = self.channel.poll()? {
                answered += 1;
                came = true;
                self.channel.release(completion.slot);
            }
            if !came && placed == 0 && answered < count {
                self.pause();
            }
        }
        Ok(())
    }
}

struct Worker {
    channel: WorkerEnd,
    plan: Plan,
}

pub fn serve(plan: &Plan, numbers: &[String]) -> Outcome<Box<dyn Server>> {
    let mut files = Vec::new();
    for number in numbers {
        // SAFETY: inherited for this process alone; each is taken once.
        files.push(unsafe { OwnedFd::from_raw_fd(number.parse()?) });
    }
    let [request, response, doorbell]: [OwnedFd; 3] = files.try_into().map_err(|_| "three descriptors are needed")?;
    let wait = if plan.spin { Wait::Spin } else { Wait::Block };
    let mut channel = WorkerEnd::attach(request, response, Doorbell::from_fd(doorbell), wait, 0, 0)?;
    channel.complete(&Completion::ready());
    Ok(Box::new(Worker { channel, plan: plan.clone() }))
}

impl Worker {
    fn next(&mut self) -> Outcome<Submission> {
        loop {
            if let Some(submission) = self.channel.wait(Duration::from_secs(1))? {
                return Ok(submission);
            }
        }
    }

    fn read(&self, submission: &Submission) -> u64 {
        let memory = self.channel.request_memory(submission.slot).cast();
        // SAFETY: the core lets go of a slot that it has published until it is answered; aligned and long enough.
        payload::read(unsafe { std::slice::from_raw_parts(memory, self.plan.bytes / 8) })
    }
}

impl Server for Worker {
    fn answer(&mut self, count: u64) -> Outcome<()> {
        for _ in 0..count {
            let submission = self.next()?;
            self.read(&submission);
            let memory = self.channel.response_slot(submission.slot).cast::<u64>();
            // SAFETY: the pair of a submitted slot is the worker's to write; aligned and long enough.
            let words = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), self.plan.bytes / 8) };
            payload::write(words, submission.batch);
            self.channel.complete(&Completion::result(&submission, submission.byte_length));
        }
        Ok(())
    }

    fn receive(&mut self, count: u64) -> Outcome<()> {
        let mut received = 0;
        while received < count {
            let mut submission = self.next()?;
            // Everything that is there is answered before the core is looked after: one fence for all.
            loop {
                self.read(&submission);
                self.channel.place(&Completion::result(&submission, 0));
                received += 1;
                match self.channel.poll()? {
                    Some(next) => submission = next,
                    None => break,
                }
            }
            self.channel.notify();
        }
        Ok(())
    }
}
