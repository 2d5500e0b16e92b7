//! Rows as messages of core NATS, which are handed to whoever is there.

use ringmill_wire::Schema;

use super::NatsServers;
use crate::{ConnectError, Encoder, HeaderColumn, MessageOutput, Promise, Writer};

/// Subjects of core NATS as a sink: each row is a message, its payload the row in a format.
///
/// Rows are sent as they come. A message that is on its way when the connection breaks is lost, and so is one for which
/// nobody is there.
#[derive(Debug, Clone, PartialEq)]
pub struct NatsCoreSink {
    /// where they are taken
    pub servers: NatsServers,
    /// the subject of rows for which no column says one
    pub subject: Option<String>,
    /// the column that says a row's subject
    pub subject_column: Option<String>,
    /// columns that are also headers
    pub headers: Vec<HeaderColumn>,
    /// what a message is
    pub format: MessageOutput,
}

impl NatsCoreSink {
    /// The servers keep nothing, and do not say what they have taken. After a crash the rows of the interrupted epoch are sent
    /// again.
    pub fn promise(&self) -> Promise {
        Promise::AtMostOnce
    }

    /// What makes messages of rows of this schema; refused if it has no such column.
    #[cfg(feature = "nats")]
    pub fn encoder(&self, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        super::sink::encoder(self.subject_column.as_deref(), &self.headers, &self.format, schema)
    }

    /// Connects; fails if no server answers.
    #[cfg(feature = "nats")]
    pub fn open(&self, schema: &Schema) -> Result<Box<dyn Writer>, ConnectError> {
        self.format.prepare(schema)?;
        Ok(Box::new(super::core_writer::CoreWriter::open(self)?))
    }

    /// This program was built without NATS.
    #[cfg(not(feature = "nats"))]
    pub fn encoder(&self, _schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        Err(ConnectError::Feature("nats"))
    }

    /// This program was built without NATS.
    #[cfg(not(feature = "nats"))]
    pub fn open(&self, _schema: &Schema) -> Result<Box<dyn Writer>, ConnectError> {
        Err(ConnectError::Feature("nats"))
    }
}
