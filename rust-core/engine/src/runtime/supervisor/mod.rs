//! Starts the worker processes, listens to what they say, learns of their deaths from the kernel, and starts the next.
//!
//! One thread does all of it and lives as long as the run: the kernel kills a worker when the *thread* that started it
//! ends (`PR_SET_PDEATHSIG`), which is how workers die with the core. The thread decides nothing: it tells the shard that
//! owns a worker's channel of the death, and the shard orders the next start when all is ready for it.

mod post;
mod process;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringmill_ring::{Doorbell, ResponseLayout, ResponseMemory, monotonic_ns};

use self::post::Order;
pub use self::post::{Death, Desk, WorkerPost};
use self::process::Process;
use super::signal::ShardSignal;
use crate::error::EngineError;
use crate::metrics::Control;
use crate::profile::Profile;
use crate::rundir::Directory;

/// How long drained workers may take to exit before they are killed.
const EXIT_NS_MAX: u64 = 10_000_000_000;

/// A worker, as it is started each time.
pub struct WorkerSpec {
    /// `step/shard/index`.
    pub name: String,
    /// The interpreter.
    pub python: PathBuf,
    /// The worker's configuration, without the descriptors.
    pub config: serde_json::Value,
    /// Variables besides those of this process.
    pub environment: Vec<(String, String)>,
    /// The shard's doorbell.
    pub doorbell: Doorbell,
    /// CPU to run on.
    pub cpu: Option<usize>,
    /// How the kernel is asked to treat it.
    pub profile: Profile,
    /// Most memory it may take.
    pub memory_bytes_max: Option<u64>,
    /// What its successor's response memory has to be like.
    pub response: ResponseLayout,
    /// Where its death is told.
    pub post: Arc<WorkerPost>,
    /// Wakes the shard that has to know.
    pub signal: Arc<ShardSignal>,
}

/// What workers used, when all have ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerUsage {
    /// User and system time of all workers.
    pub cpu_seconds: f64,
    /// Sum of the workers' peak resident sets; of a worker that was started again, the largest.
    pub peak_bytes: u64,
}

impl WorkerUsage {
    fn of(usage: &libc::rusage) -> WorkerUsage {
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        let cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
        WorkerUsage { cpu_seconds, peak_bytes: usage.ru_maxrss.max(0) as u64 * 1024 }
    }
}

/// What this process used so far.
#[allow(unsafe_code)]
pub fn own_usage() -> WorkerUsage {
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local of the right type.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    WorkerUsage::of(&usage)
}

/// The supervising thread.
pub struct Supervisor {
    handle: JoinHandle<WorkerUsage>,
    ending: Arc<AtomicBool>,
    waker: Doorbell,
    desk: Arc<Desk>,
}

impl Supervisor {
    /// Starts all workers, each with its ends of its channel; their numbers are in their posts when it returns.
    pub fn start(
        workers: Vec<(WorkerSpec, OwnedFd, OwnedFd)>,
        control: &Arc<Control>,
    ) -> Result<Supervisor, EngineError> {
        let ending = Arc::new(AtomicBool::new(false));
        let system = |error: ringmill_ring::RingError| {
            EngineError::system("make the supervisor's doorbell", std::io::Error::other(error.to_string()))
        };
        let waker = Doorbell::new().map_err(system)?;
        let watched = waker.try_clone().map_err(system)?;
        let desk = Desk::new(waker.try_clone().map_err(system)?);
        let (tell, told) = mpsc::channel();
        let (control, thread_ending, thread_desk) = (control.clone(), ending.clone(), desk.clone());
        let body = move || {
            let mut places = Vec::with_capacity(workers.len());
            for (spec, request, response) in workers {
                match Place::start(spec, request, response) {
                    Ok(place) => places.push(place),
                    Err(error) => {
                        places.iter().for_each(Place::kill);
                        let _ = tell.send(Err(error));
                        return WorkerUsage::default();
                    }
                }
            }
            let _ = tell.send(Ok(()));
            Watch { places, control, ending: thread_ending, waker: watched, desk: thread_desk }.run()
        };
        let handle = std::thread::Builder::new().name("supervisor".into()).spawn(body);
        let handle = handle.map_err(|error| EngineError::system("start the supervisor thread", error))?;
        told.recv().map_err(|_| EngineError::Internal("the supervisor thread panicked".into()))??;
        Ok(Supervisor { handle, ending, waker, desk })
    }

    /// Where orders are left.
    pub fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// Onlookers shall see the channels of workers that are started again.
    pub fn set_directory(&self, directory: Directory) {
        self.desk.set_directory(directory);
    }

    /// Waits for the workers to exit (they were drained), kills those that do not.
    pub fn finish(self) -> Result<WorkerUsage, EngineError> {
        self.ending.store(true, Ordering::Release);
        self.waker.ring();
        self.handle.join().map_err(|_| EngineError::Internal("the supervisor thread panicked".into()))
    }
}

/// One worker's place: at most one process at any time.
struct Place {
    spec: WorkerSpec,
    process: Option<Process>,
    usage: WorkerUsage,
}

impl Place {
    fn start(spec: WorkerSpec, request: OwnedFd, response: OwnedFd) -> Result<Place, EngineError> {
        let process = Process::spawn(&spec, request, response)?;
        spec.post.set_pid(process.pid);
        Ok(Place { spec, process: Some(process), usage: WorkerUsage::default() })
    }

    fn kill(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// Starts the next process; one that cannot be started counts as one that died.
    fn start_again(&mut self, request: OwnedFd, response: OwnedFd, desk: &Desk) {
        let shown = request.try_clone().and_then(|request| Ok((request, response.try_clone()?)));
        match Process::spawn(&self.spec, request, response) {
            Ok(process) => {
                self.spec.post.set_pid(process.pid);
                if let (Some(directory), Ok((request, response))) = (desk.directory().as_ref(), shown) {
                    directory.replace_worker(&self.spec.name, process.pid, request, response);
                }
                self.process = Some(process);
            }
            Err(error) => {
                let how = format!("could not start: {error}");
                self.tell(Death { how, detail: None, fatal: None, pid: 0, batch: 0 });
            }
        }
    }

    /// The process is dead. The shard is told, unless it was to end.
    fn bury(&mut self, is_over: bool) {
        let Some(process) = self.process.take() else { return };
        let (death, is_success) = process.bury(&mut self.usage);
        if is_over {
            return;
        }
        if self.spec.post.is_drained() && death.fatal.is_none() {
            if !is_success {
                tracing::warn!(worker = %self.spec.name, "{} after its last batch; all its answers are in", death.how);
            }
            return;
        }
        self.tell(death);
    }

    fn tell(&self, death: Death) {
        self.spec.post.put_memory(ResponseMemory::make(self.spec.response));
        self.spec.post.tell_death(death);
        self.spec.signal.notify();
    }

    fn make_memory(&self) {
        self.spec.post.put_memory(ResponseMemory::make(self.spec.response));
        self.spec.signal.notify();
    }
}

/// What the thread has in hand.
struct Watch {
    places: Vec<Place>,
    control: Arc<Control>,
    ending: Arc<AtomicBool>,
    waker: Doorbell,
    desk: Arc<Desk>,
}

enum News {
    Death,
    Pipe(usize),
}

impl Watch {
    fn run(mut self) -> WorkerUsage {
        let mut ending_since_ns = None;
        loop {
            let (is_ending, is_aborted) = (self.ending.load(Ordering::Acquire), self.control.is_aborted());
            if is_ending {
                let since_ns = *ending_since_ns.get_or_insert_with(monotonic_ns);
                if monotonic_ns() - since_ns > EXIT_NS_MAX {
                    self.kill_late();
                }
                if self.places.iter().all(|place| place.process.is_none()) {
                    break;
                }
            }
            if is_aborted {
                self.places.iter().for_each(Place::kill);
            }
            let news = self.wait_for_news();
            self.waker.clear();
            for (place, news) in news {
                match (news, &mut self.places[place].process) {
                    (News::Pipe(pipe), Some(process)) => process.listen(pipe),
                    (News::Death, Some(_)) => self.places[place].bury(is_ending || self.control.is_aborted()),
                    (_, None) => {}
                }
            }
            self.follow_orders();
        }
        let mut usage = WorkerUsage::default();
        for place in &self.places {
            usage.cpu_seconds += place.usage.cpu_seconds;
            usage.peak_bytes += place.usage.peak_bytes;
        }
        usage
    }

    fn kill_late(&self) {
        for place in self.places.iter().filter(|place| place.process.is_some()) {
            tracing::warn!(worker = %place.spec.name, "did not exit within 10 s after its last batch and is killed");
            place.kill();
        }
    }

    fn follow_orders(&mut self) {
        for order in self.desk.take_orders() {
            match order {
                Order::Kill { worker } => self.places[worker].kill(),
                Order::MakeMemory { worker } => self.places[worker].make_memory(),
                Order::Start { worker, request, response } => {
                    let is_over = self.control.is_aborted() || self.ending.load(Ordering::Acquire);
                    let place = &mut self.places[worker];
                    if !is_over && place.process.is_none() && !place.spec.post.is_drained() {
                        place.start_again(request, response, &self.desk);
                    }
                }
            }
        }
    }

    /// Waits up to 100 ms for a death, an order, or something to read.
    fn wait_for_news(&self) -> Vec<(usize, News)> {
        let mut fds = vec![PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)];
        let mut meanings = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            let Some(process) = &place.process else { continue };
            for (pipe, open) in process.pipes.iter().enumerate() {
                if let Some((fd, _)) = open {
                    fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                    meanings.push((index, News::Pipe(pipe)));
                }
            }
            fds.push(PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN));
            meanings.push((index, News::Death));
        }
        if poll(&mut fds, PollTimeout::from(100_u16)).is_err() {
            return Vec::new();
        }
        let happened = fds[1..].iter().map(|fd| fd.any().unwrap_or(false));
        meanings.into_iter().zip(happened).filter(|(_, happened)| *happened).map(|(meaning, _)| meaning).collect()
    }
}
