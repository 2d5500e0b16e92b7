//! Messages between the session's thread and the one that reads them.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rumqttc::{Publish, QoS};

use crate::lock::lock;

/// Messages that nobody acknowledges wait for room when so much is there. Of the others the broker sends only so many
/// before it wants acknowledgements.
const BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Publish>,
    bytes: usize,
    /// why no more will come
    failed: Option<String>,
    /// nobody reads any more
    is_over: bool,
}

impl Queue {
    /// `false`: nobody wants any more.
    pub fn push(&self, message: Publish) -> bool {
        let mut state = self.lock();
        while message.qos == QoS::AtMostOnce && state.bytes > BYTES_MAX && !state.is_over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += message.payload.len();
        state.messages.push_back(message);
        self.changed.notify_all();
        !state.is_over
    }

    /// Waits for messages and moves some out: of several, not more than `bytes_max` together. Or why none will come.
    pub fn take(&self, bytes_max: usize, taken: &mut Vec<Publish>) -> Result<(), String> {
        let mut state = self.lock();
        while state.messages.is_empty() {
            if let Some(reason) = &state.failed {
                return Err(reason.clone());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        while let Some(message) = state.messages.pop_front_if(|next| {
            bytes += next.payload.len() + next.topic.len();
            bytes <= bytes_max || taken.is_empty()
        }) {
            state.bytes -= message.payload.len();
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

    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
