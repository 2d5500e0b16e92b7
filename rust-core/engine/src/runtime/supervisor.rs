//! Starts the worker processes, listens to what they say, and learns of their deaths from the kernel.
//!
//! One thread does all of it and lives as long as the run: the kernel kills a worker when the *thread* that started it
//! ends (`PR_SET_PDEATHSIG`), which is how workers die with the core. In this version a worker that dies while it is
//! needed ends the run.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;
use ringmill_ring::process::PidFd;
use ringmill_ring::{Doorbell, monotonic_ns};
use serde_json::json;

use super::worker_log::{LineBuffer, log_line, log_raw};
use crate::error::EngineError;
use crate::metrics::Control;

/// How long drained workers may take to exit before they are killed.
const EXIT_NS_MAX: u64 = 10_000_000_000;

/// A worker to be started.
pub struct WorkerSpec {
    /// `step/shard/index`.
    pub name: String,
    /// The interpreter.
    pub python: PathBuf,
    /// The worker's configuration, without the descriptors.
    pub config: serde_json::Value,
    /// Variables besides those of this process.
    pub environment: Vec<(String, String)>,
    /// Request memory, read-only.
    pub request: OwnedFd,
    /// Response memory.
    pub response: OwnedFd,
    /// The shard's doorbell.
    pub doorbell: Doorbell,
    /// CPU to run on.
    pub cpu: Option<usize>,
    /// Set by the shard when it sent `drain`.
    pub drained: Arc<AtomicBool>,
}

/// What workers used, when all have ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerUsage {
    /// User and system time of all workers.
    pub cpu_seconds: f64,
    /// Sum of the workers' peak resident sets.
    pub peak_bytes: u64,
}

/// Kills a worker's process; one that is gone already stays gone.
pub fn kill(pid: i32) {
    let _ = send_signal(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The supervising thread.
pub struct Supervisor {
    handle: JoinHandle<WorkerUsage>,
    ending: Arc<AtomicBool>,
    waker: Doorbell,
}

impl Supervisor {
    /// Starts all workers; returns their process ids in the order of `specs`.
    pub fn start(specs: Vec<WorkerSpec>, control: &Arc<Control>) -> Result<(Supervisor, Vec<i32>), EngineError> {
        let ending = Arc::new(AtomicBool::new(false));
        let system = |error: ringmill_ring::RingError| {
            EngineError::system("make the supervisor's doorbell", std::io::Error::other(error.to_string()))
        };
        let waker = Doorbell::new().map_err(system)?;
        let watched = waker.try_clone().map_err(system)?;
        let (tell, told) = mpsc::channel();
        let (thread_control, thread_ending) = (control.clone(), ending.clone());
        let body = move || {
            let mut workers = Vec::with_capacity(specs.len());
            for spec in specs {
                match Worker::spawn(spec) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => {
                        workers.iter().for_each(|worker: &Worker| kill(worker.pid));
                        let _ = tell.send(Err(error));
                        return WorkerUsage::default();
                    }
                }
            }
            let _ = tell.send(Ok(workers.iter().map(|worker| worker.pid).collect()));
            supervise(workers, &thread_control, &thread_ending, &watched)
        };
        let handle = std::thread::Builder::new().name("supervisor".into()).spawn(body);
        let handle = handle.map_err(|error| EngineError::system("start the supervisor thread", error))?;
        let pids = told.recv().map_err(|_| EngineError::Internal("the supervisor thread panicked".into()))??;
        Ok((Supervisor { handle, ending, waker }, pids))
    }

    /// Waits for the workers to exit (they were drained), kills those that do not.
    pub fn finish(self) -> Result<WorkerUsage, EngineError> {
        self.ending.store(true, Ordering::Release);
        self.waker.ring();
        self.handle.join().map_err(|_| EngineError::Internal("the supervisor thread panicked".into()))
    }
}

struct Worker {
    name: String,
    pid: i32,
    pidfd: PidFd,
    /// stdout, stderr, log records.
    pipes: [Option<(OwnedFd, LineBuffer)>; 3],
    request: OwnedFd,
    response: OwnedFd,
    drained: Arc<AtomicBool>,
    fatal: Option<(String, Option<String>)>,
    ended: bool,
}

const LOG: usize = 2;

impl Worker {
    fn spawn(spec: WorkerSpec) -> Result<Worker, EngineError> {
        let name = spec.name.clone();
        let failed = |error: std::io::Error| {
            EngineError::system(format!("start worker {name} with {}", spec.python.display()), error)
        };
        let (log_read, log_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        let inherited =
            [spec.request.as_raw_fd(), spec.response.as_raw_fd(), spec.doorbell.fd(), log_write.as_raw_fd()];
        let mut config = spec.config;
        for (key, fd) in ["request_fd", "response_fd", "doorbell_fd", "log_fd"].iter().zip(inherited) {
            config[*key] = json!(fd);
        }
        let mut command = Command::new(&spec.python);
        command.args(["-m", "ringmill.worker", "--config", &config.to_string()]);
        command.envs(spec.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        in_child(&mut command, inherited, std::process::id(), spec.cpu);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id() as i32;
        let pidfd = PidFd::open(child.id()).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        let pipes = [stdout, stderr, Some(log_read)].map(|pipe| pipe.map(|pipe| (pipe, LineBuffer::default())));
        for (pipe, _) in pipes.iter().flatten() {
            set_nonblocking(pipe.as_fd()).map_err(failed)?;
        }
        Ok(Worker {
            name: spec.name,
            pid,
            pidfd,
            pipes,
            request: spec.request,
            response: spec.response,
            drained: spec.drained,
            fatal: None,
            ended: false,
        })
    }

    /// Reads what the worker wrote, as far as it is there.
    fn listen(&mut self, pipe: usize) {
        let Some((fd, lines)) = &mut self.pipes[pipe] else { return };
        let mut bytes = [0_u8; 16 << 10];
        loop {
            let mut reader = std::fs::File::from(match fd.try_clone() {
                Ok(fd) => fd,
                Err(_) => return,
            });
            match reader.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => lines.push(&bytes[..length], |line| {
                    if pipe == LOG {
                        if let Some(fatal) = log_line(&self.name, line) {
                            self.fatal = Some(fatal);
                        }
                    } else {
                        log_raw(&self.name, pipe == 1, line);
                    }
                }),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.pipes[pipe] = None;
    }

    /// The process is dead: collects it; returns what went wrong, unless it ended as it should.
    fn bury(&mut self, usage: &mut WorkerUsage) -> Option<EngineError> {
        (0..self.pipes.len()).for_each(|pipe| self.listen(pipe));
        self.ended = true;
        let (status, used) = wait(self.pid);
        usage.cpu_seconds += used.cpu_seconds;
        usage.peak_bytes += used.peak_bytes;
        let (inspected, how) = (ringmill_ring::inspect(&self.request, &self.response), explain(status));
        let worker = self.name.clone();
        if let Some((message, traceback)) = self.fatal.take() {
            return Some(EngineError::WorkerStart { worker, message, traceback });
        }
        if self.drained.load(Ordering::Acquire) {
            if status != 0 {
                tracing::warn!(%worker, "{how} after its last batch; all its answers are in");
            }
            return None;
        }
        let batch = inspected.map_or(0, |inspection| inspection.worker.current_batch);
        Some(EngineError::WorkerDied { worker, pid: self.pid, how, batch })
    }
}

fn supervise(mut workers: Vec<Worker>, control: &Control, ending: &AtomicBool, waker: &Doorbell) -> WorkerUsage {
    let mut usage = WorkerUsage::default();
    let mut ending_since_ns = None;
    while workers.iter().any(|worker| !worker.ended) {
        if control.is_aborted() {
            workers.iter().filter(|worker| !worker.ended).for_each(|worker| kill(worker.pid));
        }
        if ending.load(Ordering::Acquire) {
            let since_ns = *ending_since_ns.get_or_insert_with(monotonic_ns);
            if monotonic_ns() - since_ns > EXIT_NS_MAX {
                for worker in workers.iter().filter(|worker| !worker.ended) {
                    tracing::warn!(worker = %worker.name, "did not exit within 10 s after its last batch and is killed");
                    kill(worker.pid);
                }
            }
        }
        let ready = wait_for_news(&workers, waker);
        for (worker, news) in ready {
            let worker = &mut workers[worker];
            match news {
                News::Pipe(pipe) => worker.listen(pipe),
                News::Death => {
                    let aborted = control.is_aborted() || ending.load(Ordering::Acquire);
                    if let Some(error) = worker.bury(&mut usage)
                        && !aborted
                    {
                        control.fail(error);
                    }
                }
            }
        }
        waker.clear();
    }
    usage
}

enum News {
    Death,
    Pipe(usize),
}

/// Waits up to 100 ms for a death or for something to read.
fn wait_for_news(workers: &[Worker], waker: &Doorbell) -> Vec<(usize, News)> {
    let mut fds = vec![PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
    let mut meanings = Vec::new();
    for (index, worker) in workers.iter().enumerate().filter(|(_, worker)| !worker.ended) {
        fds.push(PollFd::new(worker.pidfd.as_fd(), PollFlags::POLLIN));
        meanings.push((index, News::Death));
        for (pipe, open) in worker.pipes.iter().enumerate() {
            if let Some((fd, _)) = open {
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                meanings.push((index, News::Pipe(pipe)));
            }
        }
    }
    if poll(&mut fds, PollTimeout::from(100_u16)).is_err() {
        return Vec::new();
    }
    let happened = fds[1..].iter().map(|fd| fd.any().unwrap_or(false));
    meanings.into_iter().zip(happened).filter(|(_, happened)| *happened).map(|(meaning, _)| meaning).collect()
}

/// What the child does between fork and exec: dies with the core, keeps four descriptors, and is pinned.
#[allow(unsafe_code)]
fn in_child(command: &mut Command, inherited: [RawFd; 4], core: u32, cpu: Option<usize>) {
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid().as_raw() as u32 != core {
            // The core died before the line above took effect.
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        for fd in inherited {
            // SAFETY: the descriptors are open in the parent until `spawn` returns, hence in the child.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        if let Some(cpu) = cpu {
            let mut set = nix::sched::CpuSet::new();
            set.set(cpu)?;
            nix::sched::sched_setaffinity(Pid::from_raw(0), &set)?;
        }
        Ok(())
    };
    // SAFETY: `prepare` makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Collects a dead child: its raw wait status and what it used.
#[allow(unsafe_code)]
fn wait(pid: i32) -> (i32, WorkerUsage) {
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types.
    unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    (status, WorkerUsage { cpu_seconds: cpu_seconds(&usage), peak_bytes: peak_bytes(&usage) })
}

fn cpu_seconds(usage: &libc::rusage) -> f64 {
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn peak_bytes(usage: &libc::rusage) -> u64 {
    usage.ru_maxrss.max(0) as u64 * 1024
}

/// What this process used so far.
#[allow(unsafe_code)]
pub fn own_usage() -> WorkerUsage {
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local of the right type.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    WorkerUsage { cpu_seconds: cpu_seconds(&usage), peak_bytes: peak_bytes(&usage) }
}

/// `exited with code 3` or `was killed by SIGSEGV`.
fn explain(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return match Signal::try_from(signal) {
            Ok(signal) => format!("was killed by {signal}"),
            Err(_) => format!("was killed by signal {signal}"),
        };
    }
    format!("exited with code {}", libc::WEXITSTATUS(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_told_in_words() {
        assert_eq!(explain(libc::SIGSEGV), "was killed by SIGSEGV");
        assert_eq!(explain(3 << 8), "exited with code 3");
    }
}
