//! While its peer is awake, neither side allocates or makes a system call per batch: counted, and enforced by the kernel.
//!
//! The measured loop runs in a process of its own under a seccomp filter that kills at the first system call. That
//! the filter bites, and that the counter counts, is shown by canaries.
#![allow(unsafe_code, reason = "a counting allocator and prctl")]

use ringmill_ring::{
    ChannelConfig, Completion, CompletionKind, CoreEnd, Doorbell, Submission, SubmissionKind, Wait, WorkerEnd,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

struct Counting;

thread_local! {
    /// Of this thread: the test harness has threads of its own, which allocate when they like.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: passed on from the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on from the caller.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From here on every system call but the one that ends the process kills it with SIGSYS.
fn forbid_system_calls() {
    let statement = |code: u32, jump_true, jump_false, value| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k: value,
    };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_exit_group as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the calls.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process, running nothing more of it.
    unsafe { libc::_exit(code) }
}

/// One batch there and back, answered with a lease that ends.
fn round_trip(core: &mut CoreEnd, worker: &mut WorkerEnd, number: u64) {
    let slot = core.acquire().unwrap();
    core.publish(&Submission { slot, batch: number, ..Submission::new(SubmissionKind::Batch) });
    let submission = worker.wait(Duration::from_secs(1)).unwrap().unwrap();
    worker.heartbeat(number);
    worker.complete(&Completion { leased: true, ..Completion::result(&submission, 8) });
    worker.lease_released(slot, number);
    assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::Result);
    core.release(slot);
    assert_eq!(core.poll().unwrap().unwrap().kind, CompletionKind::LeaseReleased);
}

/// What the other process does after its preparations, and with what it ends.
fn play(role: &str) -> ! {
    let config = ChannelConfig {
        slots: 8,
        request_slot_bytes: 4096,
        response_slot_bytes: 4096,
        schema_hash: 0,
        response_schema_hash: 0,
        generation: 0,
    };
    let mut core = CoreEnd::create(&config).unwrap();
    let doorbell = Doorbell::new().unwrap();
    let (request, response) = core.worker_fds().unwrap();
    let bell = doorbell.try_clone().unwrap();
    let mut worker = WorkerEnd::attach(request, response, bell, Wait::Adaptive, 0, 0).unwrap();
    round_trip(&mut core, &mut worker, 0);
    forbid_system_calls();
    let before = ALLOCATIONS.get();
    match role {
        "hot path" => (1..=100_000).for_each(|number| round_trip(&mut core, &mut worker, number)),
        "allocation" => drop(std::hint::black_box(Box::new(1))),
        "ring a sleeper" => {
            assert!(core.arm_sleep());
            worker.complete(&Completion::ready());
        }
        "wait for nothing" => drop(worker.wait(Duration::from_millis(1))),
        _ => exit(9),
    }
    exit(if ALLOCATIONS.get() == before { 0 } else { 7 })
}

fn run(role: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "play_a_role", "--nocapture"]).env("RINGMILL_TEST_ROLE", role);
    command.output().unwrap().status
}

/// No test by itself: what [`run`] runs in the other process.
#[test]
fn play_a_role() {
    if let Ok(role) = std::env::var("RINGMILL_TEST_ROLE") {
        play(&role);
    }
}

#[test]
fn the_hot_path_makes_no_system_call_and_allocates_nothing() {
    assert_eq!(run("hot path").code(), Some(0));
}

#[test]
fn an_allocation_would_be_noticed() {
    assert_eq!(run("allocation").code(), Some(7));
}

#[test]
fn a_system_call_would_be_noticed() {
    for role in ["ring a sleeper", "wait for nothing"] {
        assert_eq!(run(role).signal(), Some(libc::SIGSYS), "{role}");
    }
}
