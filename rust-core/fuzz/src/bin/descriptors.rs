//! A worker scribbles over its whole response file, again and again, while the core works on; caught, it is replaced by
//! another of its kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nix::sys::uio::pwrite;
use ringmill_fuzz::stores;
use ringmill_ring::{ChannelConfig, CompletionKind, CoreEnd, Submission, SubmissionKind};

fuzz_target!(|input: &[u8]| {
    let config = ChannelConfig {
        slots: 2,
        request_slot_bytes: 64,
        response_slot_bytes: 64,
        schema_hash: 7,
        response_schema_hash: 7,
        generation: 1,
    };
    let mut core = CoreEnd::create(&config).unwrap();
    let (_, mut response) = core.worker_fds().unwrap();
    let bytes = std::fs::File::from(response.try_clone().unwrap()).metadata().unwrap().len();
    let mut batch = 0;
    let mut in_flight = Vec::new();
    for store in stores(input) {
        if let Some(slot) = core.acquire() {
            batch += 1;
            let submission = if batch % 4 == 0 {
                Submission::new(SubmissionKind::Snapshot)
            } else {
                Submission { byte_length: 64, row_count: 1, ..Submission::new(SubmissionKind::Batch) }
            };
            core.publish(&Submission { slot, batch, epoch: 1, ..submission });
            in_flight.push(batch);
        }
        // The ring stands on the second page; stores go there most of the time.
        let offset = if store.offset % 4 == 0 { store.offset as u64 % bytes } else { 4096 + store.offset as u64 % 512 };
        let length = store.bytes.len().min((bytes - offset) as usize);
        pwrite(&response, &store.bytes[..length], offset as i64).unwrap();
        loop {
            match core.poll() {
                Ok(Some(completion)) => {
                    if matches!(completion.kind, CompletionKind::Result | CompletionKind::Failed) {
                        let mut payload = Vec::new();
                        core.copy_response(completion.slot, completion.byte_length, &mut payload);
                        assert!(payload.len() <= 64, "never more than a slot");
                        let asked = in_flight.iter().position(|batch| *batch == completion.batch);
                        in_flight.remove(asked.expect("an answer to what was asked"));
                        core.release(completion.slot);
                    }
                }
                Ok(None) => break,
                // The core would kill the worker now, and ask another one.
                Err(_) => {
                    let unanswered = core.replace_worker(core.generation() + 1).unwrap();
                    assert!(unanswered.iter().map(|entry| entry.submission.batch).eq(in_flight.iter().copied()));
                    unanswered.iter().for_each(|entry| core.publish(&entry.submission));
                    (_, response) = core.worker_fds().unwrap();
                }
            }
        }
        let _ = core.peek_worker();
    }
});
