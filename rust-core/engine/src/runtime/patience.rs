//! How long something that failed is tried again: lack of space passes, and so do a few other troubles.
//!
//! Whoever waits says so once, tries again every second, and says when it goes on. A run that is aborted waits for
//! nothing. One that is to be drained tries a few times more and then gives up, so that one signal ends a run whose disk
//! stays full; nothing that was not durable has been acknowledged, so the next run does it again.

use std::time::{Duration, Instant};

use crate::error::EngineError;
use crate::metrics::Control;

/// How long whoever lacks space waits before trying again.
pub(super) const RETRY: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(1) };
/// How often it looks meanwhile whether the run was aborted.
pub(super) const LOOK: Duration = if cfg!(test) { Duration::from_millis(5) } else { Duration::from_millis(50) };
/// Tries that a drain still waits for. A service manager that asks a process to end gives it much longer.
const TRIES_IN_DRAIN: u32 = 3;

/// What is left over when a run with checkpoints gives up.
pub(super) const LEFT_TO_NEXT_RUN: &str = "what came after the last checkpoint is left to the next run";

/// Why there is no further try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// The run was aborted.
    Aborted,
    /// The run is to be drained, and this would hold it up.
    Draining,
}

/// The patience with one thing that fails again and again.
#[derive(Debug, Default)]
pub(super) struct Patience {
    tries_in_drain: u32,
}

impl Patience {
    /// To be asked after each failure, before waiting: whether there is to be another try.
    pub fn is_left(&mut self, control: &Control) -> Result<(), Spent> {
        if control.is_aborted() {
            return Err(Spent::Aborted);
        }
        if control.is_draining() {
            if self.tries_in_drain == TRIES_IN_DRAIN {
                return Err(Spent::Draining);
            }
            self.tries_in_drain += 1;
        }
        Ok(())
    }

    /// The same, and then waits, unless the run is aborted meanwhile.
    pub fn wait(&mut self, control: &Control) -> Result<(), Spent> {
        self.is_left(control)?;
        let until = Instant::now() + RETRY;
        while Instant::now() < until {
            if control.is_aborted() {
                return Err(Spent::Aborted);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// A step of the start, tried until there is space for it; nothing has been read yet.
pub(super) fn with_space<T>(
    control: &Control,
    what: &str,
    mut attempt: impl FnMut() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let (mut patience, mut is_paused) = (Patience::default(), false);
    loop {
        let error = match attempt() {
            Err(error) if error.is_out_of_space() => error,
            outcome => {
                if is_paused {
                    control.resume(what);
                    tracing::info!("there is space for {what}");
                }
                return outcome;
            }
        };
        if !is_paused {
            is_paused = true;
            let reason = format!("waiting for space for {what}");
            tracing::error!("{reason} ({error}); trying again every second");
            control.pause(what, &reason);
        }
        patience.wait(control).map_err(|spent| match spent {
            Spent::Aborted => EngineError::Aborted,
            Spent::Draining => {
                EngineError::Unfinished { reason: error.to_string(), left: "nothing has been read".into() }
            }
        })?;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use ringmill_connect::ConnectError;

    use super::*;

    fn failure(code: i32) -> EngineError {
        let source = io::Error::from_raw_os_error(code);
        EngineError::Connect { node: "out".into(), error: ConnectError::Write { name: "out.csv".into(), source } }
    }

    #[test]
    fn a_start_waits_for_space_and_for_nothing_else() {
        let control = Control::default();
        let mut codes = vec![libc::ENOSPC, libc::EDQUOT, libc::ENOSPC];
        let started = with_space(&control, "sink out", || codes.pop().map_or(Ok(7), |code| Err(failure(code))));
        assert_eq!(started.unwrap(), 7);
        let mut tries = 0;
        let failed = with_space(&control, "sink out", || {
            tries += 1;
            Err::<(), _>(failure(libc::EIO))
        });
        assert!(matches!(failed, Err(EngineError::Connect { .. })) && tries == 1);
    }

    #[test]
    fn a_drain_ends_a_start_that_finds_no_space_after_some_more_tries() {
        let control = Control::default();
        let mut tries = 0;
        let ended = with_space(&control, "sink out", || {
            tries += 1;
            if tries == 5 {
                control.request_drain();
            }
            Err::<(), _>(failure(libc::ENOSPC))
        });
        assert!(matches!(ended, Err(EngineError::Unfinished { .. })));
        assert_eq!(tries, 5 + TRIES_IN_DRAIN);
    }

    #[test]
    fn an_abort_ends_it_at_once() {
        let control = Control::default();
        control.request_abort();
        let ended = with_space(&control, "sink out", || Err::<(), _>(failure(libc::ENOSPC)));
        assert!(matches!(ended, Err(EngineError::Aborted)));
    }
}
