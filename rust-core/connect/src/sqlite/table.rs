//! The table, the table of epochs, and rows into them.

use std::{
    fs::{self, File},
    io::{self, BufRead},
    sync::Arc,
    time::Duration,
};

use ringmill_failpoint::hit;
use ringmill_wire::Schema;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::{
    SqliteSink,
    quota::tell_as_full_disk,
    rows::{bind, declared_type},
};
use crate::{ConnectError, Fault, create_output};

/// How long a lock of somebody else is waited for before it is a transient error.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A connection, and the table that rows go to.
pub struct SqliteTable {
    pub name: String,
    /// the database's file
    pub path: String,
    schema: Arc<Schema>,
    pub(super) connection: Connection,
    insert: String,
}

impl SqliteTable {
    /// Opens the database and creates what is missing in it.
    pub fn open(sink: &SqliteSink, schema: &Arc<Schema>, lock_wait: Duration) -> Result<SqliteTable, ConnectError> {
        let path = sink.path.display().to_string();
        hit("sink.sqlite.create");
        // SQLite cannot say why it cannot create a file, and would not share it as the user's umask says.
        let created = create_output(File::options().read(true).write(true), &sink.path);
        created.map_err(|source| ConnectError::Open { path: sink.path.clone(), source })?;
        tell_as_full_disk();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&sink.path, flags);
        let connection = connection.map_err(|error| unopened(&path, &error))?;
        let failed = |error| database_error(&path, &connection, &error);
        connection.busy_timeout(lock_wait).map_err(failed)?;
        // The folder too is synced before a commit is reported, as the staged rows are removed afterwards.
        connection.pragma_update(None, "synchronous", "EXTRA").map_err(failed)?;
        let columns: Vec<String> = schema
            .fields
            .iter()
            .map(|field| format!("{} {}", quoted(&field.name), declared_type(field.data_type)))
            .collect();
        let table = quoted(&sink.table);
        let create = format!("CREATE TABLE IF NOT EXISTS {table} ({})", columns.join(", "));
        connection.execute(&create, []).map_err(failed)?;
        hit("sink.sqlite.created");
        let names: Vec<String> = schema.fields.iter().map(|field| quoted(&field.name)).collect();
        let marks = vec!["?"; names.len()].join(", ");
        let insert = format!("INSERT INTO {table} ({}) VALUES ({marks})", names.join(", "));
        let opened = SqliteTable { name: sink.table.clone(), path, schema: schema.clone(), connection, insert };
        opened.check_columns()?;
        Ok(opened)
    }

    pub fn failed(&self, error: &rusqlite::Error) -> ConnectError {
        database_error(&self.path, &self.connection, error)
    }

    /// The refusal of what is not as the checkpoint left it.
    pub fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Target { name: format!("{} in {}", self.name, self.path), reason }
    }

    fn check_columns(&self) -> Result<(), ConnectError> {
        let failed = |error| self.failed(&error);
        let mut statement = self.connection.prepare("SELECT name FROM pragma_table_info(?)").map_err(failed)?;
        let names = statement.query_map([&self.name], |row| row.get::<_, String>(0)).map_err(failed)?;
        let found: Vec<String> = names.collect::<Result<_, _>>().map_err(failed)?;
        let is_missing = |name: &str| !found.iter().any(|column| column.eq_ignore_ascii_case(name));
        let missing: Vec<&str> =
            self.schema.fields.iter().map(|field| field.name.as_str()).filter(|name| is_missing(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let reason = format!("the table has no column {missing:?}; it has {found:?}");
        Err(ConnectError::Database { name: self.path.clone(), reason, fault: Fault::Permanent })
    }

    /// Creates the table of epochs if it is missing.
    pub fn create_epochs(&self) -> Result<(), ConnectError> {
        let create = "CREATE TABLE IF NOT EXISTS ringmill_epochs (sink TEXT PRIMARY KEY, epoch INTEGER NOT NULL)";
        self.connection.execute(create, []).map(drop).map_err(|error| self.failed(&error))
    }

    /// The last epoch that `writer` has committed to this database.
    pub fn epoch(&self, writer: &str) -> Result<Option<u64>, ConnectError> {
        epoch_of(&self.connection, writer).map_err(|error| self.failed(&error))
    }

    /// Adds the rows of `lines` and then does what `conclude` says, all in one transaction.
    pub fn add(
        &mut self,
        lines: impl BufRead,
        conclude: impl FnOnce(&Transaction<'_>) -> Result<(), ConnectError>,
    ) -> Result<(), ConnectError> {
        let path = self.path.clone();
        hit("sink.sqlite.begin");
        let begun = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| self.failed(&error))?;
        insert(&transaction, &self.insert, &self.schema, lines, &path)?;
        hit("sink.sqlite.inserted");
        conclude(&transaction)?;
        hit("sink.sqlite.commit");
        transaction.commit().map_err(|error| self.failed(&error))?;
        hit("sink.sqlite.committed");
        Ok(())
    }
}

/// Notes that `writer` has committed `epoch`.
pub fn set_epoch(transaction: &Transaction<'_>, writer: &str, epoch: u64) -> Result<(), rusqlite::Error> {
    let set = "INSERT INTO ringmill_epochs (sink, epoch) VALUES (?1, ?2) ON CONFLICT (sink) DO UPDATE SET epoch = ?2";
    transaction.execute(set, (writer, epoch as i64)).map(drop)
}

/// The last epoch that `writer` has committed, as this connection or transaction sees it.
pub fn epoch_of(connection: &Connection, writer: &str) -> Result<Option<u64>, rusqlite::Error> {
    let find = "SELECT epoch FROM ringmill_epochs WHERE sink = ?";
    let epoch = connection.query_row(find, [writer], |row| row.get::<_, i64>(0)).optional()?;
    Ok(epoch.map(|epoch| epoch as u64))
}

fn insert(
    transaction: &Transaction<'_>,
    sql: &str,
    schema: &Schema,
    mut lines: impl BufRead,
    path: &str,
) -> Result<(), ConnectError> {
    let failed = |error| database_error(path, transaction, &error);
    let mut statement = transaction.prepare(sql).map_err(failed)?;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let count = lines.read_until(b'\n', &mut line).map_err(|source| ConnectError::Read {
            name: format!("the rows staged for {path}"),
            offset: 0,
            source,
        })?;
        if count == 0 {
            break;
        }
        bind(&line, schema, &mut statement).map_err(|reason| ConnectError::Target {
            name: path.to_owned(),
            reason: format!("staged row {number} is damaged: {reason}"),
        })?;
        statement.raw_execute().map_err(failed)?;
    }
    Ok(())
}

/// `"name"`, as SQL wants a name that may have any character.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An error of a database that could not be opened; its file is there.
fn unopened(path: &str, error: &rusqlite::Error) -> ConnectError {
    ConnectError::Database { name: path.to_owned(), reason: error.to_string(), fault: Fault::Permanent }
}

/// What `connection` to the database at `path` has just said.
///
/// SQLite says "unable to open database file" where a journal cannot be made for lack of space, and "disk I/O error" where
/// a sync finds a quota spent, as it does for a broken disk; only the first gets better by waiting.
pub fn database_error(path: &str, connection: &Connection, error: &rusqlite::Error) -> ConnectError {
    let mut reason = error.to_string();
    let fault = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Fault::OutOfSpace,
        Some(ErrorCode::CannotOpen) => match make_probe(path) {
            // What it was has passed, as lack of space does.
            Ok(()) => Fault::OutOfSpace,
            Err(error) => {
                reason = format!("{reason}: {error}");
                match error.raw_os_error() {
                    Some(libc::ENOSPC | libc::EDQUOT) => Fault::OutOfSpace,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Fault::Transient,
                    _ => Fault::Permanent,
                }
            }
        },
        Some(ErrorCode::SystemIoFailure) if lacks_space(connection) => Fault::OutOfSpace,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::FileLockingProtocolFailed,
        ) => Fault::Transient,
        _ => Fault::Permanent,
    };
    ConnectError::Database { name: path.to_owned(), reason, fault }
}

/// Finds out why SQLite cannot make its journal, or that it can by now. (It then tries to open a journal that is there,
/// and what the system says to that hides the reason.)
fn make_probe(path: &str) -> io::Result<()> {
    let probe = format!("{path}-probe");
    File::create(&probe)?;
    fs::remove_file(&probe)
}

/// Whether the system's reason for the last file that could not be opened, read or written is that there is no room.
#[allow(unsafe_code)]
fn lacks_space(connection: &Connection) -> bool {
    // SAFETY: the handle is that of an open connection, which nobody else uses meanwhile.
    let reason = unsafe { rusqlite::ffi::sqlite3_system_errno(connection.handle()) };
    matches!(reason, libc::ENOSPC | libc::EDQUOT)
}
