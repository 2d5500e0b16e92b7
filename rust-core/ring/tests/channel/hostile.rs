//! Every rule a peer can break, broken by writing the shared memory directly.

use crate::support::{RESPONSE_SCHEMA, SCHEMA, batch, bytes_of, create, file_of};
use nix::sys::uio::pwrite;
use ringmill_ring::{
    Completion, CompletionKind, CoreEnd, Doorbell, NO_SLOT, ProtocolViolation, Submission, SubmissionKind, Wait,
    WorkerEnd, layout,
};
use std::os::fd::OwnedFd;

/// A descriptor as raw bytes.
#[derive(Clone, Copy)]
struct Raw {
    sequence: u64,
    kind: u16,
    flags: u16,
    slot: u32,
    byte_length: u32,
    row_count: u32,
    batch: u64,
    epoch: u64,
}

impl Raw {
    fn write(&self, file: &OwnedFd, position: u64) {
        let mut bytes = Vec::new();
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.slot.to_le_bytes());
        bytes.extend(self.byte_length.to_le_bytes());
        bytes.extend(self.row_count.to_le_bytes());
        bytes.extend(self.batch.to_le_bytes());
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend([0; 24]);
        assert_eq!(pwrite(file, &bytes, (layout::RING_OFFSET + position * 64) as i64), Ok(64));
    }
}

const RESULT: Raw = Raw { sequence: 1, kind: 1, flags: 0, slot: 0, byte_length: 8, row_count: 1, batch: 5, epoch: 0 };

/// A channel with batch 5 in flight in slot 0 of 2, and its response file to write into.
fn in_flight() -> (CoreEnd, OwnedFd) {
    let mut core = create(2, 64);
    let slot = core.acquire().unwrap();
    assert_eq!(slot, 0);
    core.publish(&batch(slot, 5));
    let (_, response) = core.worker_fds().unwrap();
    (core, response)
}

/// What the core makes of the last of these descriptors; the others have to pass.
fn verdict(descriptors: &[Raw]) -> Result<Option<Completion>, ProtocolViolation> {
    let (mut core, response) = in_flight();
    for (position, descriptor) in descriptors.iter().enumerate() {
        descriptor.write(&response, position as u64);
    }
    for _ in 1..descriptors.len() {
        core.poll().unwrap().unwrap();
    }
    core.poll()
}

#[test]
fn an_answer_by_the_rules_is_taken() {
    let completion = verdict(&[RESULT]).unwrap().unwrap();
    assert_eq!((completion.kind, completion.slot, completion.batch), (CompletionKind::Result, 0, 5));
}

#[test]
fn a_worker_that_breaks_a_rule_is_reported_by_name() {
    use ProtocolViolation::*;
    let check = |descriptors: &[Raw], violation, message: &str| {
        assert_eq!(verdict(descriptors), Err(violation));
        assert_eq!(violation.to_string(), message);
    };
    let ready = Raw { kind: 6, slot: NO_SLOT, batch: 0, byte_length: 0, ..RESULT };
    let leased = Raw { flags: 1, ..RESULT };
    let lease_end = Raw { sequence: 2, kind: 3, byte_length: 0, ..RESULT };
    check(
        &[Raw { sequence: 2, ..RESULT }],
        BadSequence { position: 0, found: 2, expected: 1 },
        "descriptor 0 has sequence 2, expected 1 or an older lap's",
    );
    for kind in [0, 4, 5, 7, u16::MAX] {
        check(
            &[Raw { kind, ..RESULT }],
            UnknownKind { position: 0, kind },
            &format!("descriptor 0 has unknown kind {kind}"),
        );
    }
    check(&[Raw { flags: 2, ..RESULT }], UnknownFlags { position: 0, flags: 2 }, "descriptor 0 has unknown flags 0x2");
    check(&[Raw { flags: 1, ..ready }], UnknownFlags { position: 0, flags: 1 }, "descriptor 0 has unknown flags 0x1");
    check(
        &[Raw { slot: 2, ..RESULT }],
        SlotOutOfRange { position: 0, slot: 2, slots: 2 },
        "descriptor 0 names slot 2, but there are 2",
    );
    check(
        &[Raw { slot: 1, ..RESULT }],
        NotInFlight { position: 0, slot: 1 },
        "descriptor 0 answers slot 1, which is not in flight",
    );
    check(
        &[RESULT, Raw { sequence: 2, ..RESULT }],
        NotInFlight { position: 1, slot: 0 },
        "descriptor 1 answers slot 0, which is not in flight",
    );
    check(
        &[RESULT, lease_end],
        NotLeased { position: 1, slot: 0 },
        "descriptor 1 ends a lease of slot 0, which has none",
    );
    check(
        &[leased, Raw { batch: 6, ..lease_end }],
        WrongBatch { position: 1, slot: 0, found: 6, expected: 5 },
        "descriptor 1 answers batch 6 in slot 0, which holds batch 5",
    );
    check(
        &[Raw { byte_length: 65, ..RESULT }],
        TooLong { position: 0, byte_length: 65, slot_bytes: 64 },
        "descriptor 0 claims 65 payload bytes, but a slot has 64",
    );
    check(
        &[Raw { batch: 4, ..RESULT }],
        WrongBatch { position: 0, slot: 0, found: 4, expected: 5 },
        "descriptor 0 answers batch 4 in slot 0, which holds batch 5",
    );
    check(
        &[Raw { epoch: 1, ..RESULT }],
        WrongEpoch { position: 0, slot: 0, found: 1, expected: 0 },
        "descriptor 0 answers slot 0 in epoch 1, submitted in 0",
    );
    check(
        &[Raw { row_count: 2, ..RESULT }],
        WrongRowCount { position: 0, slot: 0, found: 2, expected: 1 },
        "descriptor 0 returns 2 rows in slot 0, submitted were 1",
    );
    check(&[ready, Raw { sequence: 2, ..ready }], ReadyTwice { position: 1 }, "descriptor 1 says ready a second time");
}

#[test]
fn figures_the_worker_scribbles_over_change_nothing() {
    let (mut core, response) = in_flight();
    assert_eq!(pwrite(&response, &[0xff; 512], 128), Ok(512));
    let state = core.peek_worker();
    assert!(state.sleeping && state.current_batch == u64::MAX && state.process_id == u32::MAX);
    RESULT.write(&response, 0);
    assert_eq!(core.poll().unwrap().unwrap().batch, 5);
    core.release(0);
    core.publish(&Submission::new(SubmissionKind::Drain));
}

#[test]
fn what_is_overwritten_after_the_poll_is_not_looked_at() {
    let (mut core, response) = in_flight();
    RESULT.write(&response, 0);
    let completion = core.poll().unwrap().unwrap();
    Raw { slot: 1, batch: 9, byte_length: 60, ..RESULT }.write(&response, 0);
    assert_eq!((completion.slot, completion.batch, completion.byte_length), (0, 5, 8));
}

/// A worker on a copy of the request file that the test may write.
fn worker_with(descriptors: &[Raw]) -> WorkerEnd {
    let core = create(2, 64);
    let (request, response) = core.worker_fds().unwrap();
    let request = file_of(&bytes_of(&request));
    for (position, descriptor) in descriptors.iter().enumerate() {
        descriptor.write(&request, position as u64);
    }
    let doorbell = Doorbell::new().unwrap();
    WorkerEnd::attach(request, response, doorbell, Wait::Adaptive, SCHEMA, RESPONSE_SCHEMA).unwrap()
}

#[test]
fn a_core_that_breaks_a_rule_is_reported_by_name() {
    use ProtocolViolation::*;
    let check = |descriptors: &[Raw], violation| {
        let mut worker = worker_with(descriptors);
        for _ in 1..descriptors.len() {
            worker.poll().unwrap().unwrap();
        }
        assert_eq!(worker.poll(), Err(violation));
    };
    let drain = Raw { kind: 3, slot: NO_SLOT, ..RESULT };
    check(&[Raw { sequence: 9, ..RESULT }], BadSequence { position: 0, found: 9, expected: 1 });
    check(&[Raw { kind: 2, ..RESULT }], UnknownKind { position: 0, kind: 2 });
    check(&[Raw { flags: 1, ..RESULT }], UnknownFlags { position: 0, flags: 1 });
    check(&[Raw { slot: 2, ..RESULT }], SlotOutOfRange { position: 0, slot: 2, slots: 2 });
    check(&[Raw { byte_length: 65, ..RESULT }], TooLong { position: 0, byte_length: 65, slot_bytes: 64 });
    check(&[RESULT, Raw { sequence: 2, ..RESULT }], NotInFlight { position: 1, slot: 0 });
    check(&[drain, Raw { sequence: 2, ..RESULT }], AfterDrain { position: 1 });
}

#[test]
fn an_error_of_the_own_process_panics_before_it_reaches_the_ring() {
    fn check(act: impl FnOnce(&mut CoreEnd), message: &str) {
        let mut core = create(1, 64);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&mut core))).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some(message));
    }
    check(|core| core.release(0), "slot 0 released while Free");
    check(|core| core.publish(&batch(0, 1)), "slot 0 published while Free, leased: false");
    check(
        |core| {
            let slot = core.acquire().unwrap();
            core.publish(&batch(slot, 1));
            core.release(slot);
        },
        "slot 0 released while InFlight",
    );
    let state = |kind, byte_length, row_count| {
        move |core: &mut CoreEnd| {
            let slot = core.acquire().unwrap();
            core.publish(&Submission { slot, byte_length, row_count, ..Submission::new(kind) });
        }
    };
    check(state(SubmissionKind::Snapshot, 1, 0), "a snapshot has neither payload nor rows, not 1 bytes and 0 rows");
    check(state(SubmissionKind::Snapshot, 0, 2), "a snapshot has neither payload nor rows, not 0 bytes and 2 rows");
    check(state(SubmissionKind::Restore, 8, 2), "a restore has no rows, not 2");
    check(state(SubmissionKind::Restore, 65, 0), "65 bytes are longer than a slot of 64");
    check(state(SubmissionKind::Fill, 8, 2), "a fill has no payload, not 8 bytes");
    check(state(SubmissionKind::Batch, 65, 1), "65 bytes are longer than a slot of 64");
}
