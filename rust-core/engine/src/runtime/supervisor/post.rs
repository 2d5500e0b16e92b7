//! What the shards and the supervisor tell each other: deaths one way, orders the other.
//!
//! A shard asks for news with one load each round; everything else is rare, and takes a lock.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmill_ring::{Doorbell, ResponseMemory, RingError};

use crate::rundir::Directory;

/// How a worker died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// `was killed by SIGSEGV`, `exited with code 1`, `could not start: …`.
    pub how: String,
    /// The traceback of what kept it from starting, or what it wrote to standard error while it crashed.
    pub detail: Option<String>,
    /// What kept it from starting, in its own words; `None` if it said nothing.
    pub fatal: Option<String>,
    /// Its process.
    pub pid: i32,
    /// The batch it said to work on; 0: none. Unchecked.
    pub batch: u64,
}

/// One worker's pigeonhole between its shard and the supervisor.
#[derive(Debug, Default)]
pub struct WorkerPost {
    /// Written by the supervisor after `death`, cleared by the shard.
    has_died: AtomicBool,
    death: Mutex<Option<Death>>,
    /// For the answers of the next worker, made by the supervisor so that no shard waits for it.
    memory: Mutex<Option<Result<ResponseMemory, RingError>>>,
    /// Written by the supervisor at each start; the shard only shows it.
    pid: AtomicI32,
    /// Set by the shard when it sent `drain` or needs the worker no more: its exit is in order.
    drained: AtomicBool,
}

impl WorkerPost {
    /// The process that was started last.
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub(super) fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Its exit is in order from now on; says whether it was before.
    pub fn set_drained(&self) -> bool {
        self.drained.swap(true, Ordering::AcqRel)
    }

    /// Whether its exit is in order.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    pub(super) fn put_memory(&self, memory: Result<ResponseMemory, RingError>) {
        *lock(&self.memory) = Some(memory);
    }

    /// Whether the supervisor has made response memory for the next worker, or failed to.
    pub fn has_memory(&self) -> bool {
        lock(&self.memory).is_some()
    }

    /// The memory, once.
    pub fn take_memory(&self) -> Option<Result<ResponseMemory, RingError>> {
        lock(&self.memory).take()
    }

    /// The worker is dead and collected: nothing of it runs any more.
    pub(super) fn tell_death(&self, death: Death) {
        *lock(&self.death) = Some(death);
        // Release, paired with the Acquire in `take_death`: who sees the flag sees the death.
        self.has_died.store(true, Ordering::Release);
    }

    /// The death of the present worker, told once.
    #[inline]
    pub fn take_death(&self) -> Option<Death> {
        if !self.has_died.load(Ordering::Acquire) {
            return None;
        }
        self.has_died.store(false, Ordering::Relaxed);
        lock(&self.death).take()
    }
}

/// What a shard wants done; workers are counted in the order in which they were given to the supervisor.
#[derive(Debug)]
pub(super) enum Order {
    /// Kill the present process, if there is one.
    Kill { worker: usize },
    /// Try again to make response memory for the next process.
    MakeMemory { worker: usize },
    /// Start the next process, the one before being dead.
    Start { worker: usize, request: OwnedFd, response: OwnedFd },
}

/// Where shards leave their orders for the supervisor.
#[derive(Debug)]
pub struct Desk {
    orders: Mutex<Vec<Order>>,
    directory: Mutex<Option<Directory>>,
    waker: Doorbell,
}

impl Desk {
    pub(super) fn new(waker: Doorbell) -> Arc<Desk> {
        Arc::new(Desk { orders: Mutex::default(), directory: Mutex::default(), waker })
    }

    /// Has the worker's process killed. Only the supervisor sends signals: it alone collects the dead, so that no number
    /// it signals can be another process by now.
    pub fn kill(&self, worker: usize) {
        self.give(Order::Kill { worker });
    }

    /// Has the next process of a dead worker started, with these ends of its channel.
    pub fn start(&self, worker: usize, request: OwnedFd, response: OwnedFd) {
        self.give(Order::Start { worker, request, response });
    }

    /// Has the response memory for the next process made, which there was no room for when the last one died.
    pub fn make_memory(&self, worker: usize) {
        self.give(Order::MakeMemory { worker });
    }

    fn give(&self, order: Order) {
        lock(&self.orders).push(order);
        self.waker.ring();
    }

    pub(super) fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut *lock(&self.orders))
    }

    pub(super) fn set_directory(&self, directory: Directory) {
        *lock(&self.directory) = Some(directory);
    }

    pub(super) fn directory(&self) -> MutexGuard<'_, Option<Directory>> {
        lock(&self.directory)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told_once() {
        let post = WorkerPost::default();
        assert_eq!(post.take_death(), None);
        let death = Death { how: "exited with code 3".into(), detail: None, fatal: None, pid: 7, batch: 0 };
        post.tell_death(death.clone());
        assert_eq!(post.take_death(), Some(death));
        assert_eq!(post.take_death(), None);
    }
}
