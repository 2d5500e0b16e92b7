//! A worker scribbles over its whole response file, again and again, while the core works on.
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
    let (_, response) = core.worker_fds().unwrap();
    let bytes = std::fs::File::from(response.try_clone().unwrap()).metadata().unwrap().len();
    let mut batch = 0;
    for store in stores(input) {
        if let Some(slot) = core.acquire() {
            batch += 1;
            let submission = Submission::new(SubmissionKind::Batch);
            core.publish(&Submission { slot, byte_length: 64, row_count: 1, batch, epoch: 1, ..submission });
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
                        core.release(completion.slot);
                    }
                }
                Ok(None) => break,
                // The core would kill the worker now.
                Err(_) => return,
            }
        }
        let _ = core.peek_worker();
    }
});
