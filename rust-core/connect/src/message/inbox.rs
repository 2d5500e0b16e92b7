//! Messages between a connection's thread and the one that reads them.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::lock::lock;

pub(crate) struct Inbox<M> {
    state: Mutex<State<M>>,
    changed: Condvar,
    /// what waits beyond so many bytes is too much
    bytes_max: usize,
}

struct State<M> {
    /// each with its bytes
    messages: VecDeque<(M, usize)>,
    bytes: usize,
    /// why no more will come
    failed: Option<String>,
    /// nobody reads any more
    is_over: bool,
}

impl<M> Inbox<M> {
    pub fn new(bytes_max: usize) -> Inbox<M> {
        let state = State { messages: VecDeque::new(), bytes: 0, failed: None, is_over: false };
        Inbox { state: Mutex::new(state), changed: Condvar::new(), bytes_max }
    }

    /// Waits until not too much waits, or nobody reads any more.
    #[cfg(feature = "mqtt")]
    pub fn wait_for_room(&self) {
        let mut state = self.lock();
        while state.bytes > self.bytes_max && !state.is_over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether not too much waits.
    #[cfg(feature = "nats")]
    pub fn has_room(&self) -> bool {
        self.lock().bytes <= self.bytes_max
    }

    /// Adds a message of so many bytes; `false`: nobody wants any more.
    pub fn push(&self, message: M, bytes: usize) -> bool {
        let mut state = self.lock();
        state.bytes += bytes;
        state.messages.push_back((message, bytes));
        self.changed.notify_all();
        !state.is_over
    }

    /// Waits for messages and moves some out: of several, not more than `bytes_max` together. Or why none will come.
    pub fn take(&self, bytes_max: usize, taken: &mut Vec<M>) -> Result<(), String> {
        let mut state = self.lock();
        while state.messages.is_empty() {
            if let Some(reason) = &state.failed {
                return Err(reason.clone());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        while let Some((message, its)) = state.messages.pop_front_if(|(_, next)| {
            bytes += *next;
            bytes <= bytes_max || taken.is_empty()
        }) {
            state.bytes -= its;
            taken.push(message);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// No more will come, after those that are there.
    pub fn fail(&self, reason: String) {
        self.lock().failed = Some(reason);
        self.changed.notify_all();
    }

    /// Nobody reads any more.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    #[cfg(feature = "mqtt")]
    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        lock(&self.state)
    }
}
