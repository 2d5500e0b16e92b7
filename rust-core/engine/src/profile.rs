//! How a run asks the kernel to treat it.
//!
//! `latency`: workers *sleep* on their futex under the real-time policy SCHED_FIFO, so that one is run at once when its
//! batch comes; shard threads spin, at the highest ordinary priority; and the CPUs are kept out of deep idle states,
//! from which waking takes tens of microseconds. (A thread that spins under SCHED_FIFO would be throttled by the kernel for
//! 50 ms of each second: it is the worker that sleeps.) What the system does not allow is said once, and the run goes on
//! without it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// How a run asks the kernel to treat it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// As any other process.
    #[default]
    Default,
    /// For the shortest tails; see the module.
    Latency,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Default => "default",
            Profile::Latency => "latency",
        })
    }
}

/// Real-time priority of the workers: that of interrupt threads, which must not be kept waiting by them.
const WORKER_PRIORITY: i32 = 50;
/// Of shard threads.
const SHARD_NICE: i32 = -20;
/// Holding it open with 0 written forbids idle states that take time to leave.
const DMA_LATENCY: &str = "/dev/cpu_dma_latency";

/// Keeps the CPUs awake for as long as it lives.
pub(crate) struct Awake {
    _device: Option<File>,
}

impl Awake {
    /// For a run with this profile; says once what cannot be had.
    pub fn hold(profile: Profile) -> Awake {
        if profile == Profile::Default {
            return Awake { _device: None };
        }
        let missing = missing(profile);
        if !missing.is_empty() {
            tracing::warn!("profile = \"latency\" goes on without {}", missing.join(", "));
        }
        Awake { _device: keep_awake().ok() }
    }

    /// Whether deep idle states are forbidden.
    #[cfg(test)]
    pub fn is_held(&self) -> bool {
        self._device.is_some()
    }
}

/// What the profile wants and this process may not have, in words; empty: it has all, or wants nothing.
pub fn missing(profile: Profile) -> Vec<String> {
    if profile == Profile::Default {
        return Vec::new();
    }
    // Both are tried by a thread that ends at once, so that nothing is changed.
    let tried = std::thread::Builder::new().spawn(|| (be_real_time(), be_preferred())).map(|thread| thread.join());
    let (real_time, preferred) = match tried {
        Ok(Ok(tried)) => tried,
        _ => (Err(io::Error::other("cannot be tried")), Err(io::Error::other("cannot be tried"))),
    };
    let why = |what: &str, error: &io::Error| format!("{what} ({error})");
    let mut missing = Vec::new();
    if let Err(error) = real_time {
        missing.push(why("SCHED_FIFO for workers: it needs CAP_SYS_NICE or an rtprio limit of 50", &error));
    }
    if let Err(error) = preferred {
        missing.push(why("nice -20 for shards: it needs CAP_SYS_NICE", &error));
    }
    if let Err(error) = keep_awake() {
        missing.push(why("shallow idle states: it needs write access to /dev/cpu_dma_latency", &error));
    }
    missing
}

fn keep_awake() -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(DMA_LATENCY)?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

/// Puts the calling thread under SCHED_FIFO; threads and processes that it starts are ordinary again. Makes one system
/// call and allocates nothing, so that it may stand between fork and exec.
#[allow(unsafe_code)]
pub(crate) fn be_real_time() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: WORKER_PRIORITY };
    // SAFETY: the pointer is to a live local of the right type.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread the highest ordinary priority.
#[allow(unsafe_code)]
pub(crate) fn be_preferred() -> io::Result<()> {
    // SAFETY: the call takes plain numbers; on Linux 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, SHARD_NICE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_wants_nothing() {
        assert!(missing(Profile::Default).is_empty());
        assert!(!Awake::hold(Profile::Default).is_held());
    }

    #[test]
    fn what_is_missing_is_what_cannot_be_had_and_trying_changes_nothing() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("a thread has a stat");
            // Fields 18, 19 and 41: priority, nice, policy.
            let fields: Vec<String> = stat.rsplit(')').next().unwrap_or("").split(' ').map(str::to_owned).collect();
            (fields[16].clone(), fields[17].clone(), fields[39].clone())
        };
        let before = policy();
        let missing = missing(Profile::Latency);
        assert_eq!(policy(), before);
        let is_missing = |what: &str| missing.iter().any(|text| text.contains(what));
        assert_eq!(is_missing("cpu_dma_latency"), !Awake::hold(Profile::Latency).is_held());
        let fifo = std::thread::spawn(be_real_time).join().expect("the thread ends");
        assert_eq!(is_missing("SCHED_FIFO"), fifo.is_err());
    }
}
