//! What goes from the connections to the thread that reads, and the news of it back.
//!
//! The server puts requests, the reading thread takes them, and whoever knows that their rows are safe says so: that
//! thread where there is a journal, else the shard that has decoded them. A request that nobody takes can be had back.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    lock::lock,
    parcel::{HEAD_BYTES, Kind},
    text::Stream,
};

/// How long a request may wait for room before the pipeline counts as full.
const FULL_TIME_MAX: Duration = Duration::from_secs(1);

/// Why a request is not taken, or not known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// there was no room for it
    Full,
    /// the run is ending
    Ending,
    /// it was taken, and whether its rows will be safe is not known
    Unknown,
}

/// Room in memory that requests share; given back when it is dropped.
pub struct Room(OwnedSemaphorePermit);

/// Of one source. The state is shared by the server's thread, the reading thread and the shard.
pub struct Intake {
    /// bytes that requests may still take
    free: Arc<Semaphore>,
    state: Mutex<State>,
    /// something was put, or nothing will be any more
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    /// put and not taken, oldest first
    waiting: VecDeque<Waiting>,
    /// taken and not known to be safe, oldest first
    taken: VecDeque<Taken>,
    /// bytes taken so far
    end: u64,
    /// the number of the next request
    next: u64,
    /// no new request is put
    is_ending: bool,
    /// no request is taken
    is_closed: bool,
}

struct Waiting {
    number: u64,
    kind: Kind,
    content: Vec<u8>,
    room: Room,
    answer: oneshot::Sender<()>,
}

impl Waiting {
    /// Of its parcel.
    fn length(&self) -> usize {
        HEAD_BYTES + self.content.len()
    }
}

struct Taken {
    /// of its bytes in all that were taken
    end: u64,
    answer: oneshot::Sender<()>,
    _room: Room,
}

impl Intake {
    /// For requests that take `bytes_max` together.
    pub fn new(bytes_max: usize) -> Intake {
        Intake { free: Arc::new(Semaphore::new(bytes_max)), state: Mutex::default(), arrived: Condvar::new() }
    }

    /// Waits a while for room.
    pub async fn room(&self, bytes: usize) -> Result<Room, Refusal> {
        let bytes = u32::try_from(bytes).map_err(|_| Refusal::Full)?;
        match timeout(FULL_TIME_MAX, Arc::clone(&self.free).acquire_many_owned(bytes)).await {
            Ok(Ok(permit)) => Ok(Room(permit)),
            Ok(Err(_)) => Err(Refusal::Ending),
            Err(_) => Err(Refusal::Full),
        }
    }

    /// Puts the content of a request, and waits until they are safe, or it is known that they will not be, or `deadline`.
    pub async fn put(&self, kind: Kind, content: Vec<u8>, room: Room, deadline: Instant) -> Result<(), Refusal> {
        let (answer, mut answered) = oneshot::channel();
        let number = {
            let mut state = self.lock();
            if state.is_ending {
                return Err(Refusal::Ending);
            }
            let number = state.next;
            state.next += 1;
            state.waiting.push_back(Waiting { number, kind, content, room, answer });
            number
        };
        self.arrived.notify_one();
        match timeout(FULL_TIME_MAX, &mut answered).await {
            Ok(answered) => return answered.map_err(|_| Refusal::Ending),
            Err(_) if self.take_back(number) => return Err(Refusal::Full),
            Err(_) => {}
        }
        match timeout_at(deadline, answered).await {
            Ok(answered) => answered.map_err(|_| Refusal::Ending),
            Err(_) => Err(Refusal::Unknown),
        }
    }

    /// Whether a request was not taken; then it will not be.
    fn take_back(&self, number: u64) -> bool {
        let mut state = self.lock();
        let index = state.waiting.iter().position(|waiting| waiting.number == number);
        index.and_then(|index| state.waiting.remove(index)).is_some()
    }

    /// What was taken before byte `end` is safe.
    pub fn settle(&self, end: u64) {
        let mut state = self.lock();
        while let Some(taken) = state.taken.pop_front_if(|taken| taken.end <= end) {
            // Who asked may be gone.
            let _ = taken.answer.send(());
        }
    }

    /// Refuses new requests; what was put may still be taken.
    pub fn refuse(&self) {
        self.lock().is_ending = true;
    }

    pub fn is_ending(&self) -> bool {
        self.lock().is_ending
    }

    /// Refuses all requests, and ends the stream.
    pub fn close(&self) {
        let mut state = self.lock();
        (state.is_ending, state.is_closed) = (true, true);
        state.waiting.clear();
        state.taken.clear();
        drop(state);
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Room {
    /// Takes another one's room as well.
    pub fn add(&mut self, other: Room) {
        self.0.merge(other.0);
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let spare = self.0.num_permits().saturating_sub(bytes);
        drop(self.0.split(spare));
    }
}

/// All requests as one stream of parcels, for the reading thread. Nothing is taken any more when it is dropped.
pub struct Requests {
    intake: Arc<Intake>,
    /// what is read is durable before the next read
    is_journaled: bool,
    /// taken together; empty between two reads
    group: Vec<Waiting>,
}

impl Requests {
    /// Of this intake.
    pub fn new(intake: Arc<Intake>, is_journaled: bool) -> Requests {
        Requests { intake, is_journaled, group: Vec::new() }
    }

    /// Waits for a request, and takes those that fit beside it.
    fn take(&mut self, bytes_max: usize) {
        let mut state = self.intake.lock();
        while state.waiting.is_empty() && !state.is_closed {
            state = self.intake.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut left = bytes_max;
        while let Some(waiting) =
            state.waiting.pop_front_if(|waiting| self.group.is_empty() || waiting.length() <= left)
        {
            left = left.saturating_sub(waiting.length());
            self.group.push(waiting);
        }
    }
}

impl Stream for Requests {
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, bytes_max: usize) -> io::Result<usize> {
        self.take(bytes_max);
        bytes.truncate(at);
        for Waiting { kind, content, .. } in &self.group {
            bytes.extend_from_slice(&kind.head(content.len()));
            bytes.extend_from_slice(content);
        }
        let mut state = self.intake.lock();
        for waiting in self.group.drain(..) {
            state.end += waiting.length() as u64;
            let end = state.end;
            state.taken.push_back(Taken { end, answer: waiting.answer, _room: waiting.room });
        }
        drop(state);
        Ok(bytes.len() - at)
    }

    fn settle(&mut self) {
        if self.is_journaled {
            self.intake.settle(u64::MAX);
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.intake.close();
    }
}
