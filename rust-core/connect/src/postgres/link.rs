//! A connection that is made again when it is lost, later and later.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ringmill_failpoint::hit;
use ringmill_wire::Schema;

use super::{PostgresSink, session::Session, table::Table};
use crate::{ConnectError, Fault};

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The way to the table, whether there is a connection or not.
pub struct Link {
    pub sink: PostgresSink,
    schema: Arc<Schema>,
    open: Option<(Session, Table)>,
    backoff: Backoff,
}

impl Link {
    pub fn new(sink: &PostgresSink, schema: &Arc<Schema>) -> Link {
        Link { sink: sink.clone(), schema: schema.clone(), open: None, backoff: Backoff::default() }
    }

    /// Calls with a connection. One that is lost is not used again; was it idle since the last call, a new one is made at
    /// once, so `call` must find out by itself what the server has done.
    pub fn with<T>(
        &mut self,
        mut call: impl FnMut(&Session, &Table) -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        let was_idle = self.open.is_some();
        let done = self.try_with(&mut call);
        match done {
            Err(error) if was_idle && error.is_transient() => {
                self.backoff = Backoff::default();
                self.try_with(&mut call)
            }
            done => done,
        }
    }

    fn try_with<T>(
        &mut self,
        call: &mut impl FnMut(&Session, &Table) -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        if self.open.is_none() {
            self.backoff.check()?;
            hit("sink.postgres.connect");
            match connect(&self.sink, &self.schema) {
                Ok(open) => self.open = Some(open),
                Err(error) => return Err(self.backoff.failed(error)),
            }
            hit("sink.postgres.connected");
        }
        let Some((session, table)) = &self.open else { return Err(self.backoff.failed(gone(&self.sink))) };
        match call(session, table) {
            Ok(done) => {
                self.backoff = Backoff::default();
                Ok(done)
            }
            Err(error) => {
                // With the connection goes whatever transaction it has begun.
                self.open = None;
                Err(self.backoff.failed(error))
            }
        }
    }
}

fn gone(sink: &PostgresSink) -> ConnectError {
    let name = super::session::target_name(sink);
    ConnectError::Database { name, reason: "not connected".to_owned(), fault: Fault::Transient }
}

fn connect(sink: &PostgresSink, schema: &Arc<Schema>) -> Result<(Session, Table), ConnectError> {
    let session = Session::connect(sink)?;
    let table = Table::open(&session, sink, schema)?;
    Ok((session, table))
}

/// When the next attempt may be made, and what the last one said.
#[derive(Default)]
struct Backoff {
    wait: Duration,
    last: Option<(Instant, String, String)>,
}

impl Backoff {
    /// Says the last error again while it is too early.
    fn check(&self) -> Result<(), ConnectError> {
        match &self.last {
            Some((until, name, reason)) if Instant::now() < *until => {
                Err(ConnectError::Database { name: name.clone(), reason: reason.clone(), fault: Fault::Transient })
            }
            _ => Ok(()),
        }
    }

    /// Takes note of a failure. Attempts come half as often after each, up to a limit, and not in step with others.
    fn failed(&mut self, error: ConnectError) -> ConnectError {
        if let ConnectError::Database { name, reason, fault: Fault::Transient } = &error {
            self.wait = (self.wait * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
            let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
            let wait = self.wait.mul_f64(0.5 + f64::from(clock % 1_000) / 2_000.0);
            self.last = Some((Instant::now() + wait, name.clone(), reason.clone()));
        }
        error
    }
}
