//! Messages that the broker has not acknowledged, between the writer and the connection's thread.
//!
//! A session that ends takes what it had been given with it: the next one is given everything that was not acknowledged, in
//! its order. (The client library would forget that at a broker that does not know our session.) Within a session that
//! outlives its connections, the library goes on with what it was given, and is given nothing twice.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use super::{
    MqttQuality,
    connection::{Client, Outgoing},
};
use crate::lock::lock;

/// Messages at most, and bytes, beyond which none is taken.
pub const MESSAGES_MAX: usize = 10_000;
const BYTES_MAX: usize = 64 << 20;

/// What waits, and what the connection says.
pub struct Outbox {
    quality: MqttQuality,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// oldest first
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    /// of them, so many were given to the session
    given: usize,
    /// numbers that the first of them have in it
    sent: VecDeque<u16>,
    /// `None`: there is no connection
    client: Option<Arc<dyn Client>>,
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
    pub fn new(quality: MqttQuality) -> Outbox {
        Outbox { quality, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Takes a message, unless there is no room for so long.
    pub fn push(&self, message: Outgoing, patience: Duration) -> Result<(), Stuck> {
        let has_room = |state: &State| state.waiting.len() < MESSAGES_MAX && state.bytes < BYTES_MAX;
        let mut state = self.wait(has_room, patience)?;
        state.bytes += message.bytes();
        state.waiting.push_back(message);
        self.give(&mut state);
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

    /// Gives the session what it does not have. Its queue has room for as many messages as there are.
    fn give(&self, state: &mut State) {
        let State { waiting, given, client: Some(client), .. } = state else { return };
        waiting.range(*given..).for_each(|message| client.publish(message, self.quality));
        *given = waiting.len();
    }

    /// There is a connection, of a new session or of the one that was.
    pub fn connected(&self, client: &Arc<dyn Client>) {
        let mut state = lock(&self.state);
        (state.client, state.trouble) = (Some(Arc::clone(client)), None);
        self.give(&mut state);
        if state.is_over {
            client.disconnect();
        }
    }

    /// There is none any more, or still none.
    pub fn lost(&self, trouble: String) {
        let mut state = lock(&self.state);
        (state.client, state.trouble) = (None, Some(trouble));
    }

    /// The session is over, and the next one has nothing yet.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        (state.client, state.given) = (None, 0);
        state.sent.clear();
    }

    /// The session goes on over another connection, with nothing but what was sent. The numbers of that, oldest first.
    pub fn interrupted(&self) -> Vec<u16> {
        let mut state = lock(&self.state);
        state.given = state.sent.len();
        state.sent.iter().copied().collect()
    }

    /// There will be none; the first reason counts.
    pub fn fail(&self, fault: String) {
        lock(&self.state).fault.get_or_insert(fault);
        self.changed.notify_all();
    }

    /// The next message went out under this number, or one that has it already went out again. One that nobody acknowledges
    /// waits no more.
    pub fn sent(&self, number: u16) {
        let mut state = lock(&self.state);
        if !state.sent.contains(&number) {
            state.sent.push_back(number);
        }
        drop(state);
        if self.quality == MqttQuality::AtMostOnce {
            self.acknowledged(number);
        }
    }

    /// The broker has the message of this number. (They come in the order of the messages, as a rule.)
    pub fn acknowledged(&self, number: u16) {
        let mut state = lock(&self.state);
        let Some(index) = state.sent.iter().position(|sent| *sent == number) else { return };
        state.sent.remove(index);
        if let Some(message) = state.waiting.remove(index) {
            state.bytes -= message.bytes();
            state.given -= 1;
        }
        self.changed.notify_all();
    }

    /// The topic of the message of this number.
    pub fn topic(&self, number: u16) -> Option<String> {
        let state = lock(&self.state);
        let index = state.sent.iter().position(|sent| *sent == number)?;
        state.waiting.get(index).map(|message| message.topic.clone())
    }

    /// Nothing more comes; ends the connection.
    pub fn end(&self) {
        let mut state = lock(&self.state);
        state.is_over = true;
        if let Some(client) = &state.client {
            client.disconnect();
        }
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }
}
