//! A connection that is made again when it is lost, later and later.

use std::sync::Arc;

use ringmill_failpoint::hit;
use ringmill_wire::Schema;

use super::{PostgresSink, session::Session, table::Table};
use crate::{ConnectError, Fault, backoff::Backoff};

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
