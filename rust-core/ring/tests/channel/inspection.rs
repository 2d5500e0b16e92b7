//! Looking at a live channel, and the copy of a response.

use crate::support::{RESPONSE_SCHEMA, SCHEMA, batch, pair};
use ringmill_ring::{Completion, CompletionKind, inspect};

#[test]
fn an_onlooker_sees_positions_occupancy_leases_and_both_sides() {
    let (mut core, mut worker) = pair(4, 256);
    let (request, response) = core.worker_fds().unwrap();
    worker.complete(&Completion::ready());
    for number in 1..=3 {
        let slot = core.acquire().unwrap();
        core.publish(&batch(slot, number));
    }
    let first = worker.poll().unwrap().unwrap();
    worker.heartbeat(first.batch);
    worker.complete(&Completion { leased: true, ..Completion::result(&first, 0) });
    core.poll().unwrap();
    core.poll().unwrap();
    let before = [crate::support::bytes_of(&request), crate::support::bytes_of(&response)];
    let seen = inspect(&request, &response).unwrap();
    assert_eq!(before, [crate::support::bytes_of(&request), crate::support::bytes_of(&response)], "undisturbed");
    assert_eq!((seen.version.as_str(), seen.generation), ("1.0", 1));
    assert_eq!((seen.slots, seen.slots_free, seen.slots_leased), (4, 1, 1));
    let submissions = &seen.submissions;
    assert_eq!((submissions.published, submissions.read, submissions.unread, submissions.entries), (3, 1, 2, 8));
    assert_eq!(submissions.kinds, [("batch", 3)].into());
    let completions = &seen.completions;
    assert_eq!((completions.published, completions.read, completions.unread, completions.entries), (2, 2, 0, 16));
    assert_eq!(completions.kinds, [("ready", 1), ("result", 1)].into());
    assert_eq!((seen.request.schema_hash, seen.response.schema_hash), (SCHEMA, RESPONSE_SCHEMA));
    assert!(seen.taken_ns >= seen.worker.heartbeat_ns && seen.worker.heartbeat_ns > 0);
    assert_eq!((seen.worker.current_batch, seen.worker.process_id), (1, std::process::id()));
    assert_eq!(seen.worker, core.peek_worker());
    let text = seen.to_string();
    assert!(text.contains("submissions  3 published, 1 read, 2 unread of 8 entries; batch 3"), "{text}");
    assert!(text.contains("slots        4 (1 free, 1 leased)"), "{text}");
}

#[test]
fn a_failure_s_payload_is_copied_to_the_byte() {
    let (mut core, mut worker) = pair(2, 100);
    let text = b"{\"error\": \"ValueError: no\", \"traceback\": \"...\"}";
    let slot = core.acquire().unwrap();
    core.publish(&batch(slot, 1));
    let submission = worker.poll().unwrap().unwrap();
    // SAFETY: the slot is the worker's and has 100 bytes.
    unsafe { worker.response_slot(slot).as_ptr().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    worker.complete(&Completion {
        kind: CompletionKind::Failed,
        row_count: 0,
        ..Completion::result(&submission, text.len() as u32)
    });
    let completion = core.poll().unwrap().unwrap();
    assert_eq!(completion.kind, CompletionKind::Failed);
    let mut copy = vec![1, 2, 3];
    core.copy_response(slot, completion.byte_length, &mut copy);
    assert_eq!(copy, text);
}

#[test]
fn addresses_outlive_the_worker_end_by_their_guard() {
    let (mut core, mut worker) = pair(1, 64);
    let slot = core.acquire().unwrap();
    // SAFETY: the slot is the core's and has 64 bytes.
    unsafe { core.slot_memory(slot).as_ptr().write(42) };
    core.publish(&batch(slot, 1));
    worker.poll().unwrap().unwrap();
    let (address, guard) = (worker.request_memory(slot), worker.mapping_guard());
    drop((worker, core));
    // SAFETY: the guard keeps the mapping.
    assert_eq!(unsafe { address.read() }, 42);
    drop(guard);
}

#[test]
fn slots_are_aligned_apart_and_in_range() {
    let (core, worker) = pair(4, 200);
    for slot in 0..4 {
        assert_eq!(core.slot_memory(slot).as_ptr() as usize % 128, 0);
        assert_eq!(worker.response_slot(slot).as_ptr() as usize % 128, 0);
        assert_eq!(
            core.slot_memory(slot).as_ptr() as usize - core.slot_memory(0).as_ptr() as usize,
            slot as usize * 256
        );
    }
    assert_eq!((core.slots(), core.request_slot_bytes(), core.response_slot_bytes()), (4, 200, 200));
    assert_eq!((worker.slots(), worker.request_slot_bytes(), worker.response_slot_bytes()), (4, 200, 200));
    assert!(std::panic::catch_unwind(|| core.slot_memory(4)).is_err());
}
