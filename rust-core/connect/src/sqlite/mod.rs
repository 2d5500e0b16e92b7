//! A table of an SQLite database as the target of a sink.

#[cfg(feature = "sqlite")]
mod quota;
#[cfg(feature = "sqlite")]
mod rows;
#[cfg(feature = "sqlite")]
mod table;
#[cfg(all(test, feature = "sqlite"))]
mod tests;
#[cfg(feature = "sqlite")]
mod writer;

use std::{path::PathBuf, sync::Arc};

use ringmill_wire::Schema;

use crate::{ConnectError, Promise, Transactions, Writer};

/// A table of an SQLite database as a sink. Rows come as NDJSON.
///
/// The table is created if it is missing; one that is there must have a column for each of the stream's (their types are
/// the table's business). Rows are only ever added: a run that begins anew adds to what is there.
///
/// With checkpoints, the rows of an epoch and the epoch's number (in the table `ringmill_epochs`) are written in one
/// transaction when the epoch is committed. Without, each chunk of rows is a transaction of its own.
///
/// | column | declared as | value |
/// |---|---|---|
/// | bool | `BOOLEAN` | 0 or 1 |
/// | integers up to int64, uint32 | `INTEGER` | the integer |
/// | uint64 | none | an integer; from 2⁶³ on its decimal digits as text |
/// | float32, float64 | `REAL` | the number, float32 as the shortest decimal that stands for it; NULL if it is not finite |
/// | utf8 | `TEXT` | the text |
/// | binary | `BLOB` | the bytes |
/// | timestamp | `TEXT` | RFC 3339 in UTC, which sorts by time and which SQLite's date functions read |
/// | list | `TEXT` | a JSON array |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteSink {
    /// the database's file, which is created if it is missing
    pub path: PathBuf,
    /// the table
    pub table: String,
}

impl SqliteSink {
    /// What it promises with checkpoints.
    pub fn promise(&self) -> Promise {
        Promise::ExactlyOnce
    }

    /// Opens the database; creates the table if need be, or completes it if the run continues from a checkpoint.
    #[cfg(feature = "sqlite")]
    pub fn open(
        &self,
        schema: &Arc<Schema>,
        transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        let table = table::SqliteTable::open(self, schema, table::LOCK_WAIT)?;
        Ok(match transactions {
            Some(transactions) => Box::new(writer::EpochWriter::open(table, transactions)?),
            None => Box::new(writer::ChunkWriter::new(table)),
        })
    }

    /// This program was built without SQLite.
    #[cfg(not(feature = "sqlite"))]
    pub fn open(
        &self,
        _schema: &Arc<Schema>,
        _transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        Err(ConnectError::Feature("sqlite"))
    }
}
