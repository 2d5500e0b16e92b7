//! Random operations on a channel against a model of plain queues.
//!
//! A failing case is shrunk and its seed printed and kept in `proptest-regressions/`.

use crate::support::{attached, batch, create, pair};
use proptest::prelude::*;
use ringmill_ring::{Completion, CompletionKind, CoreEnd, Resubmission, Submission, WorkerEnd};
use std::collections::VecDeque;

#[derive(Clone, Debug)]
enum Step {
    Acquire,
    Publish(usize),
    WorkerPoll,
    Complete {
        index: usize,
        failed: bool,
        leased: bool,
    },
    EndLease(usize),
    CorePoll,
    Release(usize),
    CoreSleep,
    /// The worker dies; with or without its last words being read. Its successor is asked again, or not.
    Replace {
        polled: bool,
        resubmitted: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0..8_usize;
    prop_oneof![
        3 => Just(Step::Acquire),
        3 => index.clone().prop_map(Step::Publish),
        3 => Just(Step::WorkerPoll),
        3 => (index.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.3))
            .prop_map(|(index, failed, leased)| Step::Complete { index, failed, leased }),
        2 => index.clone().prop_map(Step::EndLease),
        4 => Just(Step::CorePoll),
        3 => index.prop_map(Step::Release),
        1 => Just(Step::CoreSleep),
        1 => (prop::bool::weighted(0.8), prop::bool::weighted(0.7))
            .prop_map(|(polled, resubmitted)| Step::Replace { polled, resubmitted }),
    ]
}

/// What each party should have and what should lie between them.
struct Model {
    core: CoreEnd,
    worker: WorkerEnd,
    slots: usize,
    numbers: u64,
    free: usize,
    filling: Vec<u32>,
    submitted: VecDeque<Submission>,
    /// Published, and no answer polled: in order of publication, with their positions.
    unanswered: Vec<Resubmission>,
    position: u64,
    in_hand: Vec<Submission>,
    leases: Vec<(u32, u64)>,
    completed: VecDeque<Completion>,
    /// Answered and not released: slot, and whether its lease was reported over.
    answered: Vec<u32>,
    /// Leases that the core knows of: slot, released by the core already?
    leased: Vec<(u32, bool)>,
}

impl Model {
    fn new(slots: u32) -> Model {
        let core = create(slots, 64);
        let worker = attached(&core);
        Model {
            core,
            worker,
            slots: slots as usize,
            numbers: 0,
            free: slots as usize,
            filling: Vec::new(),
            submitted: VecDeque::new(),
            unanswered: Vec::new(),
            position: 0,
            in_hand: Vec::new(),
            leases: Vec::new(),
            completed: VecDeque::new(),
            answered: Vec::new(),
            leased: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Acquire => {
                let slot = self.core.acquire();
                assert_eq!(slot.is_some(), self.free > 0);
                self.free -= slot.iter().len();
                self.filling.extend(slot);
            }
            Step::Publish(index) if index < self.filling.len() => {
                let slot = self.filling.remove(index);
                self.numbers += 1;
                let submission = Submission { epoch: self.numbers / 3, ..batch(slot, self.numbers) };
                self.publish(&submission);
            }
            Step::WorkerPoll => {
                let submission = self.worker.poll().unwrap();
                assert_eq!(submission, self.submitted.pop_front());
                self.in_hand.extend(submission);
            }
            Step::Complete { index, failed, leased } if index < self.in_hand.len() => {
                let submission = self.in_hand.remove(index);
                let kind = if failed { CompletionKind::Failed } else { CompletionKind::Result };
                let completion = Completion { kind, leased, udf_end_ns: 9, ..Completion::result(&submission, 8) };
                self.worker.complete(&completion);
                self.completed.push_back(completion);
                if leased {
                    self.leases.push((submission.slot, submission.batch));
                }
            }
            Step::EndLease(index) if index < self.leases.len() => {
                let (slot, batch) = self.leases.remove(index);
                self.worker.lease_released(slot, batch);
                let kind = CompletionKind::LeaseReleased;
                self.completed.push_back(Completion { kind, slot, batch, ..Completion::ready() });
            }
            Step::CorePoll => self.core_poll(),
            Step::Release(index) if index < self.answered.len() => {
                let slot = self.answered.remove(index);
                self.core.release(slot);
                match self.leased.iter_mut().find(|(leased, _)| *leased == slot) {
                    Some((_, released)) => *released = true,
                    None => self.free += 1,
                }
            }
            Step::CoreSleep => {
                assert_eq!(self.core.arm_sleep(), self.completed.is_empty());
                self.core.disarm_sleep();
            }
            Step::Replace { polled, resubmitted } => self.replace(polled, resubmitted),
            _ => {}
        }
    }

    fn publish(&mut self, submission: &Submission) {
        self.core.publish(submission);
        self.submitted.push_back(*submission);
        self.unanswered.push(Resubmission { submission: *submission, position: self.position });
        self.position += 1;
    }

    fn replace(&mut self, polled: bool, resubmitted: bool) {
        while polled && !self.completed.is_empty() {
            self.core_poll();
        }
        let generation = self.core.generation() + 1;
        let unanswered = self.core.replace_worker(generation).unwrap();
        assert_eq!(unanswered, self.unanswered);
        self.worker = attached(&self.core);
        assert_eq!(self.worker.generation(), generation);
        // Whatever the dead worker had in its hands, or had said to nobody, is gone.
        self.submitted.clear();
        self.in_hand.clear();
        self.leases.clear();
        self.completed.clear();
        self.unanswered.clear();
        self.free += self.leased.drain(..).filter(|(_, released)| *released).count();
        for entry in unanswered {
            if resubmitted {
                self.publish(&entry.submission);
            } else {
                self.filling.push(entry.submission.slot);
            }
        }
    }

    fn core_poll(&mut self) {
        let completion = self.core.poll().unwrap();
        assert_eq!(completion, self.completed.pop_front());
        let Some(completion) = completion else { return };
        if completion.kind == CompletionKind::LeaseReleased {
            let index = self.leased.iter().position(|(slot, _)| *slot == completion.slot).unwrap();
            let (_, released) = self.leased.remove(index);
            self.free += usize::from(released);
        } else {
            self.answered.push(completion.slot);
            self.unanswered.retain(|entry| entry.submission.slot != completion.slot);
            if completion.leased {
                self.leased.push((completion.slot, false));
            }
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        assert_eq!(self.core.free_slots(), self.free);
        assert_eq!(self.core.leased_slots(), self.leased.len());
        assert!(self.submitted.len() <= self.slots, "the submission ring has room for one per slot");
        assert!(self.completed.len() <= 2 * self.slots, "the completion ring has room for two per slot");
    }

    /// Everything still under way comes home, and every slot with it.
    fn finish(&mut self) {
        while !self.filling.is_empty() {
            let slot = self.filling.remove(0);
            self.core.release(slot);
            self.free += 1;
        }
        while !self.submitted.is_empty() {
            self.take(&Step::WorkerPoll);
        }
        while !self.in_hand.is_empty() {
            self.take(&Step::Complete { index: 0, failed: false, leased: false });
        }
        while !self.leases.is_empty() {
            self.take(&Step::EndLease(0));
        }
        while !self.completed.is_empty() {
            self.take(&Step::CorePoll);
        }
        while !self.answered.is_empty() {
            self.take(&Step::Release(0));
        }
        assert_eq!(self.core.free_slots(), self.slots);
    }
}

proptest! {
    #[test]
    fn any_sequence_of_operations_behaves_as_plain_queues_do(
        power in 0..4_u32,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut model = Model::new(1 << power);
        for step in &steps {
            model.take(step);
            model.check();
        }
        model.finish();
    }
}

#[test]
fn a_leased_slot_returns_when_both_sides_have_let_go() {
    for core_first in [true, false] {
        let (mut core, mut worker) = pair(1, 64);
        let slot = core.acquire().unwrap();
        core.publish(&batch(slot, 1));
        let submission = worker.poll().unwrap().unwrap();
        worker.complete(&Completion { leased: true, ..Completion::result(&submission, 0) });
        assert!(core.poll().unwrap().unwrap().leased);
        if core_first {
            core.release(slot);
            assert_eq!(core.acquire(), None);
        }
        worker.lease_released(slot, 1);
        assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::LeaseReleased);
        if !core_first {
            assert_eq!(core.acquire(), None);
            core.release(slot);
        }
        assert_eq!(core.acquire(), Some(slot));
    }
}

#[test]
fn rings_never_fill_up_however_late_a_side_reads() {
    for slots in [1, 2, 8, 1024] {
        let (mut core, mut worker) = pair(slots, 8);
        for lap in 0..5_u64 {
            // The worker reads nothing until every slot is out, the core nothing until all is answered and released.
            while let Some(slot) = core.acquire() {
                core.publish(&batch(slot, lap));
            }
            if lap == 0 {
                worker.complete(&Completion::ready());
            }
            let mut leases = Vec::new();
            while let Some(submission) = worker.poll().unwrap() {
                worker.complete(&Completion { leased: true, ..Completion::result(&submission, 0) });
                leases.push(submission.slot);
            }
            leases.iter().for_each(|slot| worker.lease_released(*slot, lap));
            let mut answered = Vec::new();
            while let Some(completion) = core.poll().unwrap() {
                if completion.kind == CompletionKind::Result {
                    assert_eq!(completion.batch, lap);
                    answered.push(completion.slot);
                }
            }
            assert_eq!(answered.len(), slots as usize);
            answered.iter().for_each(|slot| core.release(*slot));
            assert_eq!(core.free_slots(), slots as usize);
        }
    }
}
