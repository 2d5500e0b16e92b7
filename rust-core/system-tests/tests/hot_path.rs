//! While its peer is awake, a shard makes no system call and no allocation for a batch, and a worker no system call.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use ringmill_connect::GeneratorSpec;
use ringmill_engine::describe::{Description, FunctionRef, Role, describe};
use ringmill_engine::plan::{
    NodeKind, NodeSpec, OnError, PipelineSpec, SinkSpec, SourceConnector, SourceSpec, Supervision, UdfSpec,
};
use ringmill_engine::{Control, Plan, run, rundir};
use ringmill_ring::Wait;
use ringmill_system_tests::{Job, children_of, python, read_until};

const FUNCTION: &str = "
@rm.udf(outputs={'score': rm.float64})
def score(temperature: np.ndarray):
    return temperature - 1.0
";

/// Thread whose allocations are counted; 0: nobody's.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every request is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let watched = WATCHED.load(Ordering::Relaxed);
        // SAFETY: gettid takes nothing and touches no memory.
        if watched != 0 && unsafe { libc::gettid() } == watched {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `System.alloc` above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn thread_named(pid: u32, name: &str) -> Option<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let named = |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let path = tasks.flatten().map(|task| task.path()).find(named)?;
    path.file_name()?.to_str()?.parse().ok()
}

fn plan(folder: PathBuf) -> Plan {
    let python = python();
    let function = FunctionRef {
        step: "scores".into(),
        role: Role::Udf,
        function: "functions:score".into(),
        directory: folder.clone(),
        options: serde_json::Value::Null,
    };
    let described = describe(&python, std::slice::from_ref(&function)).unwrap();
    let Ok(Description::Udf(description)) = described[0].1.clone() else { panic!("{described:?}") };
    let generator = SourceSpec {
        connector: SourceConnector::Generator(GeneratorSpec::default()),
        event_time: None,
        out_of_orderness_ns: 0,
        idle_timeout_ns: None,
        max_future_ns: i64::MAX,
    };
    let udf = UdfSpec {
        function: function.function,
        directory: folder,
        python,
        workers: 1,
        batch_rows: 256,
        variable_bytes: 64 << 10,
        slots: 8,
        on_error: OnError::Stop,
        key: Vec::new(),
        supervision: Supervision::default(),
        description,
    };
    let node = |name: &str, inputs: &[&str], kind| NodeSpec {
        name: name.into(),
        inputs: inputs.iter().map(|&input| input.into()).collect(),
        kind,
    };
    let nodes = vec![
        node("made", &[], NodeKind::Source(generator)),
        node("scores", &["made"], NodeKind::Udf(udf)),
        node("out", &["scores"], NodeKind::Sink(SinkSpec::Null)),
    ];
    let pipeline = PipelineSpec {
        name: "hot".into(),
        shards: 1,
        wait: Wait::Spin,
        profile: Default::default(),
        cpus: Vec::new(),
        state_bytes_max: 1 << 30,
        sink_buffer_bytes: 2 << 20,
        run_base: None,
        worker_environment: Vec::new(),
        checkpoint: None,
    };
    Plan::build(pipeline, nodes).unwrap()
}

#[test]
fn a_shard_allocates_nothing_per_batch() {
    let job = Job::new("", FUNCTION);
    let plan = plan(job.path("functions.py").parent().unwrap().into());
    let control = Arc::new(Control::default());
    let steering = control.clone();
    let running = std::thread::spawn(move || run(plan, steering));
    let batches = || control.snapshot().workers.first().map_or(0, |worker| worker.batches);
    let wait_for = |enough: u64| {
        while batches() < enough {
            assert!(!control.is_finished(), "the run ended early");
            std::thread::yield_now();
        }
    };
    wait_for(2_000);
    let shard = thread_named(std::process::id(), "shard-0").unwrap();
    WATCHED.store(shard, Ordering::Relaxed);
    let (first, before) = (batches(), ALLOCATIONS.load(Ordering::Relaxed));
    wait_for(first + 20_000);
    let (counted, passed) = (ALLOCATIONS.load(Ordering::Relaxed) - before, batches() - first);
    WATCHED.store(0, Ordering::Relaxed);
    control.request_drain();
    running.join().unwrap().unwrap();
    // Figures are posted ten times a second, by name; batches go by at tens of thousands a second.
    assert!(counted * 100 < passed, "{counted} allocations in {passed} batches");
}

/// System calls of a thread, by number, until `enough` says so.
fn system_calls(thread: i32, mut enough: impl FnMut() -> bool) -> BTreeMap<i64, u64> {
    let thread = Pid::from_raw(thread);
    let mut calls = BTreeMap::new();
    ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::syscall(thread, None).unwrap();
    while !enough() {
        match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                let number = ptrace::getregs(thread).unwrap().orig_rax as i64;
                *calls.entry(number).or_default() += 1;
                ptrace::syscall(thread, None).unwrap();
            }
            WaitStatus::StillAlive => std::thread::yield_now(),
            WaitStatus::Stopped(_, signal) => ptrace::syscall(thread, Some(signal)).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let _ = ptrace::interrupt(thread);
    while !matches!(
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap(),
        WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)
    ) {
        ptrace::syscall(thread, None).unwrap();
    }
    ptrace::detach(thread, None).unwrap();
    calls
}

fn published(job: &Job, child: &Child) -> u64 {
    let runs = rundir::list(&job.folder());
    let entry = runs.iter().find(|run| run.pid as u32 == child.id()).expect("the run shows itself");
    let run = rundir::connect(&entry.path).unwrap();
    let channel = &run.channels[0];
    ringmill_ring::inspect(&channel.request, &channel.response).unwrap().submissions.published
}

#[test]
fn neither_side_makes_system_calls_per_batch() {
    let pipeline = r#"
[pipeline]
shards = 1
wait = "spin"

[sources.sensors]
kind = "generator"

[steps.scores]
kind = "udf"
inputs = ["sensors"]
function = "functions:score"
batch_rows = 256

[sinks.out]
kind = "null"
inputs = ["scores"]
"#;
    let job = Job::new(pipeline, &format!("{FUNCTION}\nprint('imported', flush=True)\n"));
    let mut child = job.start(&[]);
    read_until(&mut child, "imported");
    let shard = loop {
        if let Some(shard) = thread_named(child.id(), "shard-0") {
            break shard;
        }
    };
    let worker = children_of(child.id())[0];
    for (who, thread) in [("shard", shard), ("worker", worker)] {
        let start = published(&job, &child);
        let mut passed = 0;
        let calls = system_calls(thread, || {
            passed = published(&job, &child) - start;
            passed > 20_000
        });
        let total: u64 = calls.values().sum();
        assert!(total * 100 < passed, "the {who} made {total} system calls in {passed} batches: {calls:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
