//! Messages that the broker has not acknowledged, between the writer and the connection's thread.
//!
//! A connection that breaks takes what it had been given with it: the next one is given everything that was not
//! acknowledged, in its order. (The client library would forget that at a broker that does not know our session.)

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use rumqttc::{Client, QoS};

use crate::lock::lock;

/// Messages at most, and bytes, beyond which none is taken.
pub const MESSAGES_MAX: usize = 10_000;
const BYTES_MAX: usize = 64 << 20;

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Vec<u8>,
    pub is_retained: bool,
}

impl Outgoing {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// What waits, and what the connection says.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// oldest first
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    /// numbers that the first of them have on this connection
    sent: VecDeque<u16>,
    /// `None`: there is no connection
    client: Option<Client>,
    trouble: Option<String>,
    fault: Option<String>,
    is_over: bool,
}

/// Why a message is not taken, or not all are acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// It may get better: so many wait, and what the connection said last.
    Waiting(usize, Option<String>),
    /// It cannot.
    Broken(String),
}

impl Outbox {
    /// Takes a message, unless there is no room for so long.
    pub fn push(&self, message: Outgoing, patience: Duration) -> Result<(), Stuck> {
        let has_room = |state: &State| state.waiting.len() < MESSAGES_MAX && state.bytes < BYTES_MAX;
        let mut state = self.wait(has_room, patience)?;
        if let Some(client) = &state.client {
            publish(client, &message);
        }
        state.bytes += message.bytes();
        state.waiting.push_back(message);
        Ok(())
    }

    /// Waits until all messages are acknowledged, or none for so long.
    pub fn flush(&self, patience: Duration) -> Result<(), Stuck> {
        self.wait(|state| state.waiting.is_empty(), patience).map(drop)
    }

    /// Waits until it is so, or no message was acknowledged for so long.
    fn wait(
        &self,
        is_so: impl Fn(&State) -> bool,
        patience: Duration,
    ) -> Result<std::sync::MutexGuard<'_, State>, Stuck> {
        let mut state = lock(&self.state);
        let (mut least, mut deadline) = (usize::MAX, Instant::now() + patience);
        loop {
            if let Some(fault) = &state.fault {
                return Err(Stuck::Broken(fault.clone()));
            }
            if is_so(&state) {
                return Ok(state);
            }
            if state.waiting.len() < least {
                (least, deadline) = (state.waiting.len(), Instant::now() + patience);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Stuck::Waiting(state.waiting.len(), state.trouble.clone()));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// There is a connection: it is given everything.
    pub fn connected(&self, client: Client) {
        let mut state = lock(&self.state);
        state.waiting.iter().for_each(|message| publish(&client, message));
        (state.client, state.trouble) = (Some(client), None);
    }

    /// There is none any more, or still none.
    pub fn lost(&self, trouble: String) {
        let mut state = lock(&self.state);
        (state.client, state.trouble) = (None, Some(trouble));
        state.sent.clear();
    }

    /// There will be none; the first reason counts.
    pub fn fail(&self, fault: String) {
        lock(&self.state).fault.get_or_insert(fault);
        self.changed.notify_all();
    }

    /// The next message went out under this number.
    pub fn sent(&self, number: u16) {
        lock(&self.state).sent.push_back(number);
    }

    /// The broker has the message of this number. (They come in the order of the messages, as a rule.)
    pub fn acknowledged(&self, number: u16) {
        let mut state = lock(&self.state);
        let Some(index) = state.sent.iter().position(|sent| *sent == number) else { return };
        state.sent.remove(index);
        if let Some(message) = state.waiting.remove(index) {
            state.bytes -= message.bytes();
        }
        self.changed.notify_all();
    }

    /// Nothing more comes; ends the connection.
    pub fn end(&self) {
        let mut state = lock(&self.state);
        state.is_over = true;
        if let Some(client) = &state.client {
            let _ = client.try_disconnect();
        }
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }
}

/// A connection's queue has room for as many messages as there are.
fn publish(client: &Client, message: &Outgoing) {
    let Outgoing { topic, payload, is_retained } = message;
    // One that has just broken says so itself.
    let _ = client.try_publish(topic, QoS::AtLeastOnce, *is_retained, payload.as_slice());
}
