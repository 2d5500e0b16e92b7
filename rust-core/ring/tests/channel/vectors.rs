//! The golden files of `ringbuf-spec/vectors` are what this build writes, to the byte.
//!
//! After a deliberate change of the format: `RINGMILL_WRITE_VECTORS=1 cargo test --release -p ringmill-ring vectors`.

use crate::layout::specification;
use crate::support::{bytes_of, config};
use nix::sys::uio::pwrite;
use ringmill_ring::{
    Completion, CompletionKind, CoreEnd, Doorbell, NO_SLOT, Submission, SubmissionKind, Wait, WorkerEnd, layout,
};

/// The payload of `slot` for batch `number`: 64 bytes that count up from a value of their own.
fn fill(memory: *mut u8, first: u8) {
    for index in 0..64 {
        // SAFETY: slots of these channels have 64 bytes.
        unsafe { memory.add(usize::from(index)).write(first.wrapping_add(index)) };
    }
}

fn submission(slot: u32, number: u64) -> Submission {
    Submission {
        kind: SubmissionKind::Batch,
        slot,
        byte_length: 64,
        row_count: 8,
        batch: number,
        epoch: 0x0e0c,
        ingest_ns: 1_000_000 + number,
        publish_ns: 2_000_000 + number,
    }
}

fn completion(submission: &Submission) -> Completion {
    Completion {
        pickup_ns: 3_000_000 + submission.batch,
        udf_start_ns: 4_000_000 + submission.batch,
        udf_end_ns: 5_000_000 + submission.batch,
        ..Completion::result(submission, 48)
    }
}

fn ends() -> (CoreEnd, WorkerEnd) {
    let core = CoreEnd::create(&config(2, 64)).unwrap();
    let (request, response) = core.worker_fds().unwrap();
    let worker = WorkerEnd::attach(request, response, Doorbell::new().unwrap(), Wait::Spin, 0x51, 0x52).unwrap();
    (core, worker)
}

/// Both files; the process number, which no two runs share, is put to 0.
fn files(core: &CoreEnd) -> [Vec<u8>; 2] {
    let (request, response) = core.worker_fds().unwrap();
    let field = layout::FIELDS.iter().find(|field| field.name == "process_id").unwrap();
    pwrite(&response, &[0; 4], field.offset as i64).unwrap();
    [bytes_of(&request), bytes_of(&response)]
}

/// Nothing has happened.
fn fresh() -> [Vec<u8>; 2] {
    files(&ends().0)
}

/// The worker is ready; one batch was asked and answered; a second one lies unread.
fn one_answered() -> [Vec<u8>; 2] {
    let (mut core, mut worker) = ends();
    worker.complete(&Completion::ready());
    for number in [1, 2] {
        let slot = core.acquire().unwrap();
        fill(core.slot_memory(slot).as_ptr(), number as u8 * 16);
        core.publish(&submission(slot, number));
    }
    let first = worker.poll().unwrap().unwrap();
    fill(worker.response_slot(first.slot).as_ptr(), 0xa0);
    worker.complete(&completion(&first));
    files(&core)
}

/// The first worker answered 1, which was polled, and died over 2; its successor is ready and has polled nothing.
fn replaced() -> [Vec<u8>; 2] {
    let (mut core, mut worker) = ends();
    worker.complete(&Completion::ready());
    for number in [1, 2] {
        let slot = core.acquire().unwrap();
        fill(core.slot_memory(slot).as_ptr(), number as u8 * 16);
        core.publish(&submission(slot, number));
    }
    let first = worker.poll().unwrap().unwrap();
    fill(worker.response_slot(first.slot).as_ptr(), 0xa0);
    worker.complete(&completion(&first));
    core.poll().unwrap().unwrap();
    core.poll().unwrap().unwrap();
    let second = worker.poll().unwrap().unwrap();
    fill(worker.response_slot(second.slot).as_ptr(), 0xb0);
    drop(worker);
    let unanswered = core.replace_worker(2).unwrap();
    let (request, response) = core.worker_fds().unwrap();
    let mut worker = WorkerEnd::attach(request, response, Doorbell::new().unwrap(), Wait::Spin, 0x51, 0x52).unwrap();
    worker.complete(&Completion::ready());
    core.publish(&unanswered[0].submission);
    core.release(first.slot);
    let slot = core.acquire().unwrap();
    core.publish(&Submission { slot, batch: 3, epoch: 0x0e0d, ..Submission::new(SubmissionKind::Snapshot) });
    files(&core)
}

/// Both rings have gone round; a failure, a lease and its end, a drain; the core is armed to sleep.
fn second_lap() -> [Vec<u8>; 2] {
    let (mut core, mut worker) = ends();
    worker.complete(&Completion::ready());
    core.poll().unwrap().unwrap();
    for number in 1..=7 {
        let slot = core.acquire().unwrap();
        fill(core.slot_memory(slot).as_ptr(), number as u8);
        core.publish(&submission(slot, number));
        let taken = worker.poll().unwrap().unwrap();
        fill(worker.response_slot(slot).as_ptr(), 0x80 + number as u8);
        let kind = if number == 5 { CompletionKind::Failed } else { CompletionKind::Result };
        worker.complete(&Completion { kind, leased: number == 6, ..completion(&taken) });
        if number < 7 {
            core.poll().unwrap().unwrap();
            core.release(slot);
        }
        if number == 6 {
            worker.lease_released(slot, number);
            core.poll().unwrap().unwrap();
        }
    }
    core.publish(&Submission::new(SubmissionKind::Drain));
    core.poll().unwrap().unwrap();
    assert!(core.arm_sleep());
    files(&core)
}

#[test]
fn the_vectors_are_what_this_build_writes() {
    let folder = specification().join("vectors");
    let vectors =
        [("fresh", fresh()), ("one_answered", one_answered()), ("replaced", replaced()), ("second_lap", second_lap())];
    for (name, files) in vectors {
        for (role, bytes) in ["request", "response"].iter().zip(files) {
            let path = folder.join(format!("{name}.{role}.bin"));
            if std::env::var_os("RINGMILL_WRITE_VECTORS").is_some() {
                std::fs::write(&path, &bytes).unwrap();
            }
            let golden = std::fs::read(&path).unwrap();
            assert_eq!(golden.len(), bytes.len(), "{}", path.display());
            let differs = (0..bytes.len()).find(|at| golden[*at] != bytes[*at]);
            assert_eq!(differs, None, "{}: first differing byte", path.display());
        }
    }
}

#[test]
fn this_build_attaches_to_the_vectors() {
    let folder = specification().join("vectors");
    let worker_of = |name: &str| {
        let file =
            |role: &str| crate::support::file_of(&std::fs::read(folder.join(format!("{name}.{role}.bin"))).unwrap());
        let doorbell = Doorbell::new().unwrap();
        WorkerEnd::attach(file("request"), file("response"), doorbell, Wait::Block, 0x51, 0x52).unwrap()
    };
    // A successor reads from its own start on.
    let mut worker = worker_of("replaced");
    let found: Vec<Submission> = std::iter::from_fn(|| worker.poll().unwrap()).collect();
    let found: Vec<_> = found.iter().map(|submission| (submission.kind, submission.batch)).collect();
    assert_eq!(found, [(SubmissionKind::Batch, 2), (SubmissionKind::Snapshot, 3)]);
    let mut worker = worker_of("second_lap");
    // A newcomer starts at position 0, which the second lap has overwritten: it must not take that for news.
    let found = worker.poll();
    assert!(found.is_err(), "{found:?}");
    assert_eq!(Submission::new(SubmissionKind::Drain).slot, NO_SLOT);
}
