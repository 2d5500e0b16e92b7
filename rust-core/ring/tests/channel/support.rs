//! Channels, payload patterns, edited copies of memory files, and a second process.

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::{pread, pwrite};
use ringmill_ring::process::PidFd;
use ringmill_ring::{ChannelConfig, CoreEnd, Doorbell, Submission, SubmissionKind, Wait, WorkerEnd};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

pub const SCHEMA: u64 = 0x51;
pub const RESPONSE_SCHEMA: u64 = 0x52;

pub fn config(slots: u32, slot_bytes: usize) -> ChannelConfig {
    ChannelConfig {
        slots,
        request_slot_bytes: slot_bytes,
        response_slot_bytes: slot_bytes,
        schema_hash: SCHEMA,
        response_schema_hash: RESPONSE_SCHEMA,
        generation: 1,
    }
}

pub fn create(slots: u32, slot_bytes: usize) -> CoreEnd {
    CoreEnd::create(&config(slots, slot_bytes)).unwrap()
}

/// Both ends in this process.
pub fn pair(slots: u32, slot_bytes: usize) -> (CoreEnd, WorkerEnd) {
    let core = create(slots, slot_bytes);
    let worker = attached(&core);
    (core, worker)
}

/// A worker's end in this process, for the present generation.
pub fn attached(core: &CoreEnd) -> WorkerEnd {
    let (request, response) = core.worker_fds().unwrap();
    attach(request, response, Doorbell::new().unwrap(), Wait::Adaptive)
}

pub fn attach(request: OwnedFd, response: OwnedFd, doorbell: Doorbell, wait: Wait) -> WorkerEnd {
    WorkerEnd::attach(request, response, doorbell, wait, SCHEMA, RESPONSE_SCHEMA).unwrap()
}

pub fn batch(slot: u32, number: u64) -> Submission {
    Submission { slot, batch: number, row_count: 1, byte_length: 8, ..Submission::new(SubmissionKind::Batch) }
}

/// All bytes of a file.
pub fn bytes_of(file: &impl AsFd) -> Vec<u8> {
    let size = nix::sys::stat::fstat(file).unwrap().st_size as usize;
    let mut bytes = vec![0; size];
    assert_eq!(pread(file, &mut bytes, 0).unwrap(), size);
    bytes
}

/// A memory file with these bytes; sealed against a change of its size, not against writing.
pub fn file_of(bytes: &[u8]) -> OwnedFd {
    let file = unsealed_file_of(bytes);
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
    file
}

pub fn unsealed_file_of(bytes: &[u8]) -> OwnedFd {
    let file = memfd_create("ringmill-test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    assert_eq!(pwrite(&file, bytes, 0).unwrap(), bytes.len());
    file
}

/// FNV-1a, 64 bits, written down here a second time so that the crate's own is checked.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Correct the header hash of an edited file.
pub fn rehash(bytes: &mut [u8]) {
    let hash = fnv1a(&bytes[..120]);
    bytes[120..128].copy_from_slice(&hash.to_le_bytes());
}

/// splitmix64: a well-mixed 64-bit function of its argument.
pub fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Words of the payload of batch `number`: 1 to 32, so that lengths vary.
pub fn payload_words(number: u64) -> usize {
    (mix(number) % 32) as usize + 1
}

/// Write a batch's payload; its sum.
pub fn write_payload(memory: *mut u8, number: u64, salt: u64) -> u64 {
    let mut sum = 0_u64;
    for index in 0..payload_words(number) {
        let word = mix(number ^ salt ^ (index as u64) << 48);
        sum = sum.wrapping_add(word);
        // SAFETY: callers pass a slot of at least 32 words that is theirs to write.
        unsafe { memory.cast::<u64>().add(index).write(word) };
    }
    sum
}

/// Sum of a payload that was written by [`write_payload`]; panics if any word is another's.
pub fn check_payload(memory: *const u8, number: u64, salt: u64) -> u64 {
    let mut sum = 0_u64;
    for index in 0..payload_words(number) {
        // SAFETY: callers pass a slot of at least 32 words.
        let word = unsafe { memory.cast::<u64>().add(index).read_volatile() };
        assert_eq!(word, mix(number ^ salt ^ (index as u64) << 48), "word {index} of batch {number}");
        sum = sum.wrapping_add(word);
    }
    sum
}

/// Salts tell question from answer.
pub const QUESTION: u64 = 0x1111 << 32;
pub const ANSWER: u64 = 0x2222 << 32;

/// This test binary once more, as another process that plays `role`.
pub struct Worker {
    pub process: std::process::Child,
    pub death: PidFd,
}

impl Worker {
    pub fn spawn(core: &CoreEnd, doorbell: &Doorbell, role: &str, wait: Wait) -> Worker {
        let (request, response) = core.worker_fds().unwrap();
        let doorbell = doorbell.try_clone().unwrap();
        for descriptor in [request.as_fd(), response.as_fd(), doorbell.as_fd()] {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        }
        let numbers = format!("{},{},{}", request.as_raw_fd(), response.as_raw_fd(), doorbell.fd());
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::play_a_role", "--nocapture"])
            .env("RINGMILL_TEST_ROLE", role)
            .env("RINGMILL_TEST_WAIT", wait.to_string())
            .env("RINGMILL_TEST_DESCRIPTORS", numbers)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let death = PidFd::open(process.id()).unwrap();
        Worker { process, death }
    }

    /// Ends well, or fails the test.
    pub fn join(mut self) {
        assert!(self.process.wait().unwrap().success());
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        assert!(self.death.wait_dead(None));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// No test by itself: what [`Worker::spawn`] runs in the other process.
#[test]
fn play_a_role() {
    let Ok(role) = std::env::var("RINGMILL_TEST_ROLE") else { return };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let wait = std::env::var("RINGMILL_TEST_WAIT").unwrap().parse().unwrap();
    let numbers = std::env::var("RINGMILL_TEST_DESCRIPTORS").unwrap();
    let mut descriptors = numbers.split(',').map(|number| {
        // SAFETY: inherited for this process alone; each is taken once.
        unsafe { OwnedFd::from_raw_fd(number.parse().unwrap()) }
    });
    let (request, response) = (descriptors.next().unwrap(), descriptors.next().unwrap());
    let doorbell = Doorbell::from_fd(descriptors.next().unwrap());
    match role.as_str() {
        "answer" => crate::stress::answer_until_drained(attach(request, response, doorbell, wait)),
        "trespass" => crate::sealing::trespass(&request, &response),
        "scribble" => crate::replacement::scribble(&response),
        "replace again and again" => crate::replacement::replace_again_and_again(),
        "replace without descriptors" => crate::replacement::replace_without_descriptors(),
        other => panic!("unknown role {other}"),
    }
    std::process::exit(0);
}
