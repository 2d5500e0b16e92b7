//! A table of a PostgreSQL database as the target of a sink.

#[cfg(feature = "postgres")]
mod convert;
mod encode;
#[cfg(feature = "postgres")]
mod link;
#[cfg(feature = "postgres")]
mod session;
#[cfg(feature = "postgres")]
mod table;
#[cfg(all(test, feature = "postgres"))]
mod tests;
#[cfg(feature = "postgres")]
mod tls;
mod types;
#[cfg(feature = "postgres")]
mod writer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use ringmill_wire::Schema;

use crate::{ConnectError, Encoder, Promise, Secret, Transactions, Writer};

/// A table of a PostgreSQL database as a sink. Rows come in the binary format of `COPY`.
///
/// With checkpoints, the rows of an epoch and the epoch's number (in the table `ringmill_epochs`) are written in one
/// transaction when the epoch is committed. Without, each chunk of rows is a transaction of its own.
///
/// A server that cannot be reached, or ends the connection, is waited for; what it refuses otherwise ends the run.
///
/// | column | created as | may also be | |
/// |---|---|---|---|
/// | bool | `boolean` | | |
/// | int8, int16, uint8 | `smallint` | wider integers, `numeric` | |
/// | int32, uint16 | `integer` | `bigint`, `numeric` | |
/// | int64, uint32 | `bigint` | `numeric` | |
/// | uint64 | `numeric` | `bigint` | values from 2⁶³ on do not fit a `bigint` |
/// | float32, float64 | `real`, `double precision` | a float32 `double precision` | NaN and infinities are what they are |
/// | utf8 | `text` | `varchar`, `char`, `citext` | a text with a NUL character is refused |
/// | binary | `bytea` | | |
/// | timestamp | `timestamptz` | `timestamp` (in UTC) | microseconds, what is finer is cut off |
/// | list | an array of these | | |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSink {
    /// where the database is: `postgres://user:password@host:port/database`
    pub url: Secret,
    /// a file with the password, read at each connection
    pub password_file: Option<PathBuf>,
    /// whether and how the connection is encrypted
    pub tls: Tls,
    /// certificates to trust instead of the system's
    pub root_certificates: Option<PathBuf>,
    /// the schema that the table and the table of epochs lie in
    pub schema: String,
    /// the table
    pub table: String,
    /// what becomes of a row whose key is there
    pub mode: WriteMode,
    /// whether a missing table is created
    pub create: bool,
    /// for one attempt to connect
    pub connect_timeout: Duration,
    /// for one statement, the `COPY` of an epoch among them
    pub statement_timeout: Duration,
    /// what the server's administrator sees
    pub application_name: String,
}

/// How rows come into the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteMode {
    /// Rows are added.
    Insert,
    /// A row replaces the one that is equal in these columns.
    Upsert(Vec<String>),
}

/// Whether and how a connection is encrypted; the meanings are those of `sslmode` in libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// never
    Disable,
    /// if the server can; its certificate is not checked
    Prefer,
    /// always; its certificate is not checked
    Require,
    /// always, and the certificate must be good and for this host
    VerifyFull,
}

impl PostgresSink {
    /// What it promises with checkpoints.
    pub fn promise(&self) -> Promise {
        Promise::ExactlyOnce
    }

    /// Rows to what the table takes.
    pub fn encoder(&self, schema: &Schema) -> Box<dyn Encoder> {
        Box::new(encode::CopyEncoder::new(schema))
    }

    /// Whether `url` is one; the reason never has a password in it.
    #[cfg(feature = "postgres")]
    pub fn check_url(url: &Secret) -> Result<(), String> {
        session::parse_url(url).map(drop)
    }

    /// Opens the table, or completes it if the run continues from a checkpoint. If the server cannot be reached the
    /// writer does so when it can.
    #[cfg(feature = "postgres")]
    pub fn open(
        &self,
        schema: &Arc<Schema>,
        transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        Ok(match transactions {
            Some(transactions) => Box::new(writer::EpochWriter::open(self, schema, transactions)?),
            None => Box::new(writer::ChunkWriter::open(self, schema)?),
        })
    }

    /// This program was built without PostgreSQL.
    #[cfg(not(feature = "postgres"))]
    pub fn check_url(_url: &Secret) -> Result<(), String> {
        Ok(())
    }

    /// This program was built without PostgreSQL.
    #[cfg(not(feature = "postgres"))]
    pub fn open(
        &self,
        _schema: &Arc<Schema>,
        _transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        Err(ConnectError::Feature("postgres"))
    }
}
