//! A worker attaches to, and an onlooker inspects, two files whose first pages were scribbled on.
#![no_main]

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::{pread, pwrite};
use ringmill_fuzz::scribble;
use ringmill_ring::{ChannelConfig, CoreEnd, Doorbell, Wait, WorkerEnd, inspect};

const SCHEMA_HASH: u64 = 7;

/// The two files of a fresh channel.
fn pristine() -> &'static [Vec<u8>; 2] {
    static FILES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let channel = CoreEnd::create(&config()).expect("a small channel can be made");
        let (request, response) = channel.worker_fds().expect("its files can be opened");
        [request, response].map(|file| {
            let mut bytes = vec![0; std::fs::File::from(file.try_clone().unwrap()).metadata().unwrap().len() as usize];
            pread(&file, &mut bytes, 0).unwrap();
            bytes
        })
    })
}

fn config() -> ChannelConfig {
    ChannelConfig {
        slots: 2,
        request_slot_bytes: 64,
        response_slot_bytes: 64,
        schema_hash: SCHEMA_HASH,
        response_schema_hash: SCHEMA_HASH,
        generation: 1,
    }
}

fn file(bytes: &[u8], seals: SealFlag) -> OwnedFd {
    let file = memfd_create(c"fuzz", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    pwrite(&file, bytes, 0).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

fuzz_target!(|input: &[u8]| {
    let (first, second) = input.split_at(input.len() / 2);
    let mut files = pristine().clone();
    // The length of a file is the hostile side's choice too.
    if let [cut, ..] = first
        && cut % 8 == 7
    {
        let length = files[0].len() * usize::from(*cut) / 256;
        files[0].truncate(length.max(1));
    }
    scribble(&mut files[0], first);
    scribble(&mut files[1], second);
    let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    let request = file(&files[0], size | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL);
    let response = file(&files[1], size | SealFlag::F_SEAL_SEAL);
    let _ = inspect(&request, &response);
    let doorbell = Doorbell::new().unwrap();
    if let Ok(mut worker) = WorkerEnd::attach(request, response, doorbell, Wait::Spin, SCHEMA_HASH, SCHEMA_HASH) {
        while let Ok(Some(submission)) = worker.poll() {
            if submission.slot < worker.slots() {
                let _ = worker.request_memory(submission.slot);
            }
        }
    }
});
