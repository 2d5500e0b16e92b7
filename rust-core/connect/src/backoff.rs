//! When what has just failed is tried again: later and later, and not in step with others.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use crate::{ConnectError, Fault};

/// Tests have no time.
const MIN: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });
const MAX: Duration = Duration::from_secs(10);

/// When the next attempt may be made, and what the last one said.
#[derive(Default)]
pub(crate) struct Backoff {
    wait: Duration,
    last: Option<(Instant, String, String)>,
}

impl Backoff {
    /// Says the last error again while it is too early.
    pub fn check(&self) -> Result<(), ConnectError> {
        match &self.last {
            Some((until, name, reason)) if Instant::now() < *until => {
                Err(ConnectError::Database { name: name.clone(), reason: reason.clone(), fault: Fault::Transient })
            }
            _ => Ok(()),
        }
    }

    /// Takes note of a failure. Attempts come half as often after each, up to a limit.
    pub fn failed(&mut self, error: ConnectError) -> ConnectError {
        self.failed_until(error, Duration::ZERO)
    }

    /// … and at the earliest after `least`, which the other side has asked for.
    pub fn failed_until(&mut self, error: ConnectError, least: Duration) -> ConnectError {
        if let ConnectError::Database { name, reason, fault: Fault::Transient } = &error {
            self.wait = (self.wait * 2).clamp(MIN, MAX);
            let chance = RandomState::new().hash_one(0) >> 11;
            let share = 0.5 + chance as f64 / (1_u64 << 54) as f64;
            self.last = Some((Instant::now() + self.wait.mul_f64(share).max(least), name.clone(), reason.clone()));
        }
        error
    }
}

/// A server that is away is waited for, when there are rows for it.
pub(crate) fn unless_away(opened: Result<(), ConnectError>) -> Result<(), ConnectError> {
    match opened {
        Err(error) if error.is_transient() => {
            tracing::warn!("{error}; trying again when there are rows");
            Ok(())
        }
        opened => opened,
    }
}
