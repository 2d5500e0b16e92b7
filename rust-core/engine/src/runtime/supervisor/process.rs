//! One worker process: started, listened to, and collected when it is dead.

use std::ffi::CStr;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill as send_signal, killpg};
use nix::unistd::Pid;
use ringmill_ring::process::PidFd;
use serde_json::json;

use super::post::Death;
use super::{WorkerSpec, WorkerUsage};
use crate::error::EngineError;
use crate::profile::{Profile, be_real_time};
use crate::runtime::worker_log::{LineBuffer, Tail, log_line, log_raw};
use crate::user_mask::give_umask_back;

/// How much sooner than the core a worker is taken when the machine is out of memory (of 1,000).
const OOM_SCORE: &CStr = c"500";
/// Index of the pipe for standard error.
const STDERR: usize = 1;
/// Index of the pipe for log records.
const LOG: usize = 2;

/// A process that was started and not collected yet.
pub(super) struct Process {
    name: String,
    pub(super) pid: i32,
    pub(super) pidfd: PidFd,
    /// stdout, stderr, log records.
    pub(super) pipes: [Option<(OwnedFd, LineBuffer)>; 3],
    request: OwnedFd,
    response: OwnedFd,
    fatal: Option<(String, Option<String>)>,
    last_words: Tail,
}

impl Process {
    /// Starts the process with these ends of its channel.
    pub(super) fn spawn(spec: &WorkerSpec, request: OwnedFd, response: OwnedFd) -> Result<Process, EngineError> {
        let name = spec.name.clone();
        let failed = |error: std::io::Error| {
            EngineError::system(format!("start worker {name} with {}", spec.python.display()), error)
        };
        let (log_read, log_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        let inherited = [request.as_raw_fd(), response.as_raw_fd(), spec.doorbell.fd(), log_write.as_raw_fd()];
        let mut config = spec.config.clone();
        for (key, fd) in ["request_fd", "response_fd", "doorbell_fd", "log_fd"].iter().zip(inherited) {
            config[*key] = json!(fd);
        }
        let mut command = Command::new(&spec.python);
        command.args(["-m", "ringmill.worker", "--config", &config.to_string()]);
        command.envs(spec.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        give_umask_back(&mut command);
        in_child(&mut command, inherited, std::process::id(), spec);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id() as i32;
        let pidfd = PidFd::open(child.id()).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        let pipes = [stdout, stderr, Some(log_read)].map(|pipe| pipe.map(|pipe| (pipe, LineBuffer::default())));
        for (pipe, _) in pipes.iter().flatten() {
            set_nonblocking(pipe.as_fd()).map_err(failed)?;
        }
        let (fatal, last_words) = (None, Tail::default());
        Ok(Process { name: spec.name.clone(), pid, pidfd, pipes, request, response, fatal, last_words })
    }

    /// Kills it. It was not collected yet, so the number is still its own.
    pub(super) fn kill(&self) {
        let _ = send_signal(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// Reads what it wrote, as far as it is there.
    pub(super) fn listen(&mut self, pipe: usize) {
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
                        if pipe == STDERR {
                            self.last_words.push(line);
                        }
                        log_raw(&self.name, pipe == STDERR, line);
                    }
                }),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.pipes[pipe] = None;
    }

    /// The process is dead: reads its last words, ends what it had started, and collects it. Returns how it died; the
    /// flag says whether it had exited with status 0.
    pub(super) fn bury(mut self, usage: &mut WorkerUsage) -> (Death, bool) {
        // Its group is what it started itself. While the dead leader is not collected, the number stays the group's.
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        (0..self.pipes.len()).for_each(|pipe| self.listen(pipe));
        let (status, used) = wait(self.pid);
        usage.cpu_seconds += used.cpu_seconds;
        usage.peak_bytes = usage.peak_bytes.max(used.peak_bytes);
        let inspected = ringmill_ring::inspect(&self.request, &self.response);
        let batch = inspected.map_or(0, |inspection| inspection.worker.current_batch);
        let pid = self.pid;
        let death = match self.fatal {
            Some((message, traceback)) => {
                let how = format!("could not start: {message}");
                Death { how, detail: traceback, fatal: Some(message), pid, batch }
            }
            None => Death { how: explain(status), detail: self.last_words.text(), fatal: None, pid, batch },
        };
        (death, status == 0)
    }
}

/// What the child does between fork and exec: dies with the core, keeps four descriptors, is pinned, takes no more memory
/// than it may, and offers itself to the kernel when memory runs out.
#[allow(unsafe_code)]
fn in_child(command: &mut Command, inherited: [RawFd; 4], core: u32, spec: &WorkerSpec) {
    let (cpu, profile, memory_bytes_max) = (spec.cpu, spec.profile, spec.memory_bytes_max);
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
        if profile == Profile::Latency {
            // That it may not be was said when the run began.
            let _ = be_real_time();
        }
        if let Some(bytes) = memory_bytes_max {
            // Heap, stacks and private mappings that can be written. The address space as a whole (RLIMIT_AS) would
            // count the rings, every library, and what the thread pools of NumPy only reserve.
            setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
        }
        offer_to_the_kernel();
        Ok(())
    };
    // SAFETY: `prepare` makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// When memory runs out, this process is killed before the core. A machine that forbids it runs on without.
#[allow(unsafe_code)]
fn offer_to_the_kernel() {
    // SAFETY: both texts end with a zero byte and live for ever; the descriptor is used and closed here only.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, OOM_SCORE.as_ptr().cast(), OOM_SCORE.count_bytes());
            libc::close(fd);
        }
    }
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
    (status, WorkerUsage::of(&usage))
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
