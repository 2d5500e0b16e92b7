//! Rows as messages of a stream.

use ringmill_wire::Schema;

use super::{NatsServers, subject::is_subject};
use crate::{ConnectError, Encoder, HeaderColumn, MessageOutput, Promise, Transactions, Writer};

/// Servers end the connection when a command is longer than 4 KiB.
const SUBJECT_BYTES_MAX: usize = 1_024;

/// A stream of NATS JetStream as a sink: each row is a message, its payload the row as JSON.
///
/// With checkpoints, the rows of an epoch are sent when the epoch is committed, each with the same `Nats-Msg-Id` however
/// often it has to be sent, so the stream drops a message that it has had within its duplicate window. Without, they are
/// sent as they come. Servers that go away are waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct NatsSink {
    /// where the stream is
    pub servers: NatsServers,
    /// its name; no other one is written to
    pub stream: String,
    /// the subject of rows for which no column says one
    pub subject: Option<String>,
    /// the column that says a row's subject
    pub subject_column: Option<String>,
    /// columns that are also headers
    pub headers: Vec<HeaderColumn>,
    /// what a message is
    pub format: MessageOutput,
}

impl NatsSink {
    /// The stream has acknowledged every row of an epoch when it is committed; a row that is sent again after a crash, later
    /// than the stream remembers ids, is there twice.
    pub fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }

    /// Whether a message can have this subject.
    pub fn is_subject(subject: &str) -> bool {
        let is_short = subject.len() <= SUBJECT_BYTES_MAX && !subject.chars().any(char::is_control);
        is_short && is_subject(subject) && !subject.split('.').any(|part| part == "*" || part == ">")
    }

    /// What makes messages of rows of this schema; refused if it has no such column.
    #[cfg(feature = "nats")]
    pub fn encoder(&self, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        encoder(self.subject_column.as_deref(), &self.headers, &self.format, schema)
    }

    /// Asks the servers for the stream, fails if none answers, and sends what a checkpoint has left to be sent.
    #[cfg(feature = "nats")]
    pub fn open(
        &self,
        schema: &Schema,
        transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        self.format.prepare(schema)?;
        let publisher = super::publisher::Publisher::open(self)?;
        Ok(match transactions {
            Some(transactions) => Box::new(crate::courier::EpochWriter::open(publisher, transactions, None)?),
            None => Box::new(crate::courier::ChunkWriter::new(publisher)),
        })
    }

    /// This program was built without NATS.
    #[cfg(not(feature = "nats"))]
    pub fn encoder(&self, _schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        Err(ConnectError::Feature("nats"))
    }

    /// This program was built without NATS.
    #[cfg(not(feature = "nats"))]
    pub fn open(
        &self,
        _schema: &Schema,
        _transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        Err(ConnectError::Feature("nats"))
    }
}

/// What makes messages of rows of this schema, with a column of subjects and such of headers.
#[cfg(feature = "nats")]
pub(super) fn encoder(
    subject_column: Option<&str>,
    headers: &[HeaderColumn],
    format: &MessageOutput,
    schema: &Schema,
) -> Result<Box<dyn Encoder>, ConnectError> {
    use ringmill_wire::DataType;

    use crate::message::{MessageEncoder, column_of, is_key};
    let types: (fn(_) -> _, _) = (|column| column == DataType::Utf8, "a subject is of type utf8");
    let subject = subject_column.map(|name| column_of(("subject_column", name), types, schema));
    let types: (fn(_) -> _, _) =
        (|column| column != DataType::Binary && is_key(column), "a header is of type utf8 or an integer");
    let header = |header: &HeaderColumn| column_of(("headers", &header.column), types, schema);
    let headers = headers.iter().map(header).collect::<Result<_, _>>()?;
    Ok(Box::new(MessageEncoder::new(subject.transpose()?, headers, format, schema)?))
}
