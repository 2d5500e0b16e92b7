//! Rows into a table: epoch by epoch, or as they come.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Read},
};

use serde_json::Value;

use super::table::{SqliteTable, database_error, epoch_of, set_epoch};
use crate::{
    ConnectError, Transactions, Writer,
    staging::{Commits, Sealed, StagePoints, Staged, StagingLog, damaged, new_writer_name, stage_points},
};

const POINTS: StagePoints = stage_points!("sink.sqlite");

/// Each chunk of rows is a transaction.
pub struct ChunkWriter {
    pub(super) table: SqliteTable,
}

impl ChunkWriter {
    pub fn new(table: SqliteTable) -> ChunkWriter {
        ChunkWriter { table }
    }
}

impl Writer for ChunkWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if bytes.is_empty() { Ok(()) } else { self.table.add(bytes, |_| Ok(())) }
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}

/// The rows of an epoch and its number are one transaction.
pub struct EpochWriter {
    table: SqliteTable,
    log: StagingLog,
    /// Who we are in the table of epochs; the same from checkpoint to checkpoint, another one for an output that began
    /// anew, so that the epochs of an earlier one are not taken for ours.
    writer: String,
    /// the last epoch with rows that the database has of us
    newest: Option<u64>,
    commits: Commits,
}

impl EpochWriter {
    pub fn open(table: SqliteTable, transactions: &Transactions<'_>) -> Result<EpochWriter, ConnectError> {
        table.create_epochs()?;
        let mut writer = EpochWriter {
            log: StagingLog::new(transactions.staging, "", 0o600, &POINTS),
            writer: new_writer_name(&table.name),
            table,
            newest: None,
            commits: Commits::after(transactions),
        };
        if let Some((epoch, value)) = transactions.known() {
            writer.recover(epoch, value)?;
        }
        writer.log.clear()?;
        Ok(writer)
    }

    /// Adds the rows of the checkpoint unless the database has them.
    fn recover(&mut self, epoch: u64, value: &Value) -> Result<(), ConnectError> {
        let name = format!("{} in {}", self.table.name, self.table.path);
        let staged = Staged::of(value, epoch, &name)?;
        let Staged::Sqlite { rows, ref writer, before } = staged else {
            return Err(staged.refuse_kind(&name));
        };
        self.writer = writer.clone();
        self.newest = before;
        self.apply(&rows)?;
        let expected = if rows.bytes > 0 { Some(epoch) } else { before };
        let found = self.table.epoch(&self.writer)?;
        if found != expected {
            return Err(self.refuse_epoch(found, expected));
        }
        self.newest = expected;
        Ok(())
    }

    fn refuse_epoch(&self, found: Option<u64>, expected: Option<u64>) -> ConnectError {
        let words = |epoch: Option<u64>| epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
        self.table.refuse(format!(
            "the database has {} of this sink instead of {}; it is another database or belongs to another checkpoint, \
             so put the right one back, or run with --fresh to begin anew",
            words(found),
            words(expected)
        ))
    }

    /// Adds the rows of an epoch, unless they are there.
    fn apply(&mut self, rows: &Sealed) -> Result<(), ConnectError> {
        if rows.bytes == 0 {
            return Ok(());
        }
        let found = self.table.epoch(&self.writer)?;
        if found == Some(rows.epoch) {
            return Ok(());
        }
        if found != self.newest {
            return Err(self.refuse_epoch(found, self.newest));
        }
        let path = self.log.path(rows.epoch);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let reason = format!("it lacks the rows of epoch {}, and the staged rows are gone", rows.epoch);
                return Err(self.table.refuse(reason));
            }
            Err(source) => return Err(ConnectError::Open { path, source }),
        };
        let database = self.table.path.clone();
        let sums = Cell::new((0, 0));
        let lines = BufReader::with_capacity(256 << 10, Summed { file, sums: &sums });
        let (writer, newest) = (&self.writer, self.newest);
        self.table.add(lines, |transaction| {
            let (bytes, crc32c) = sums.get();
            if (bytes, crc32c) != (rows.bytes, rows.crc32c) {
                return Err(damaged(&path, rows, bytes, crc32c));
            }
            // Nobody else can have written since the transaction began; somebody may have before.
            let failed = |error| database_error(&database, transaction, &error);
            let found = epoch_of(transaction, writer).map_err(failed)?;
            if found != newest {
                let reason = format!("epoch {found:?} was committed by another run at the same time");
                return Err(ConnectError::Target { name: database.clone(), reason });
            }
            set_epoch(transaction, writer, rows.epoch).map_err(failed)
        })
    }
}

impl Writer for EpochWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if bytes.is_empty() { Ok(()) } else { self.log.append(epoch, &[bytes]) }
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        let rows = self.commits.sealed(self.log.seal(epoch)?);
        Staged::Sqlite { rows, writer: self.writer.clone(), before: self.newest }.to_value()
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let Some(rows) = self.commits.due(epoch, &self.table.path)? else { return Ok(()) };
        self.apply(&rows)?;
        if rows.bytes > 0 {
            self.log.remove(epoch)?;
            self.newest = Some(epoch);
        }
        self.commits.shown(epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}

/// Reads a file and sums up what was read: bytes and checksum.
struct Summed<'a> {
    file: File,
    sums: &'a Cell<(u64, u32)>,
}

impl Read for Summed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let (bytes, crc32c) = self.sums.get();
        self.sums.set((bytes + count as u64, crc32c::crc32c_append(crc32c, &buffer[..count])));
        Ok(count)
    }
}
