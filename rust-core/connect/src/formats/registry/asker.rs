//! The thread that asks a registry.

use std::{
    collections::VecDeque,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::{
    Known, Shared,
    client::{Client, Schema, Trouble},
};
use crate::lock::lock;

/// Between attempts while the registry does not answer, doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// For so long a number is known to be unknown.
const UNKNOWN: Duration = Duration::from_secs(30);
/// So many unknown numbers are remembered.
const UNKNOWN_MAX: usize = 10_000;

/// Makes something of a schema, or says what is wrong with it.
type Make<T> = dyn Fn(Schema) -> Result<T, String> + Send;

pub(super) struct Asker<T> {
    pub name: String,
    pub client: Client,
    pub shared: Arc<Shared<T>>,
    pub make: Box<Make<T>>,
    /// asked for while another one was waited for
    pub waiting: VecDeque<u32>,
    pub asked: Receiver<u32>,
}

impl<T> Asker<T> {
    pub fn run(mut self) {
        while let Some(id) = self.next() {
            if !self.answer(id) {
                return;
            }
        }
    }

    fn next(&mut self) -> Option<u32> {
        self.waiting.pop_front().or_else(|| self.asked.recv().ok())
    }

    /// Asks until there is an answer; `false`: nobody waits for it any more.
    fn answer(&mut self, id: u32) -> bool {
        let mut wait = Duration::ZERO;
        loop {
            match self.client.schema(id) {
                Ok(schema) => {
                    // What reads a schema is not ours: one that makes it panic cannot be read, and holds up no other one.
                    let made = panic::catch_unwind(AssertUnwindSafe(|| (self.make)(schema)));
                    let known =
                        match made.unwrap_or_else(|_| Err("cannot be read: it makes its reader panic".to_owned())) {
                            Ok(made) => Known::Found(Arc::new(made)),
                            Err(reason) => Known::Refused(format!("schema {id} of the registry {reason}").into()),
                        };
                    lock(&self.shared.known).insert(id, known);
                    break;
                }
                Err(Trouble::Gone(reason)) => {
                    self.forget();
                    lock(&self.shared.unknown).insert(id, Instant::now() + UNKNOWN);
                    lock(&self.shared.known).insert(id, Known::Refused(reason.into()));
                    break;
                }
                Err(Trouble::Lasting(reason)) => {
                    *lock(&self.shared.fault) = Some(reason);
                    return true;
                }
                Err(Trouble::Passing(reason)) => {
                    if wait.is_zero() {
                        let name = &self.name;
                        tracing::warn!(
                            "schema registry at {name}: {reason}; messages of schema {id} wait until it answers"
                        );
                    }
                    wait = (wait * 2).clamp(RETRY_MIN, RETRY_MAX);
                    if !self.pause(wait) {
                        return false;
                    }
                }
            }
        }
        if !wait.is_zero() {
            tracing::info!("schema registry at {}: it answers again", self.name);
        }
        true
    }

    /// Waits, and takes note of what is asked for meanwhile; `false`: nobody is there any more.
    fn pause(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            match self.asked.recv_deadline(until) {
                Ok(id) => self.waiting.push_back(id),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Whoever sends ever other numbers does not fill the memory.
    fn forget(&self) {
        let mut known = lock(&self.shared.known);
        let mut unknown = lock(&self.shared.unknown);
        if unknown.len() >= UNKNOWN_MAX {
            unknown.drain().for_each(|(id, _)| drop(known.remove(&id)));
        }
    }
}
