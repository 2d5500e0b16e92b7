//! Rows into a table: epoch by epoch, or as they come.

use std::{fs::File, sync::Arc};

use ringmill_wire::Schema;
use serde_json::Value;

use super::{PostgresSink, link::Link, session::target_name, table::Step};
use crate::{
    ConnectError, Transactions, Writer,
    backoff::unless_away,
    staging::{Commits, Sealed, StagePoints, Staged, StagingLog, new_writer_name, stage_points},
};

const POINTS: StagePoints = stage_points!("sink.postgres");

/// Each chunk of rows is a transaction. It is numbered, so that one whose end we did not hear of is not written twice.
pub struct ChunkWriter {
    link: Link,
    writer: String,
    chunks: u64,
}

impl ChunkWriter {
    pub fn open(sink: &PostgresSink, schema: &Arc<Schema>) -> Result<ChunkWriter, ConnectError> {
        let mut link = Link::new(sink, schema);
        unless_away(link.with(|_, _| Ok(())))?;
        Ok(ChunkWriter { link, writer: new_writer_name(&sink.table), chunks: 0 })
    }
}

impl Writer for ChunkWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let step = Step { writer: &self.writer, before: self.chunks, after: self.chunks + 1 };
        self.link.with(|session, table| table.add(session, step, || Ok(bytes)))?;
        self.chunks += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        if self.chunks == 0 {
            return Ok(());
        }
        let writer = &self.writer;
        self.link.with(|session, table| table.forget(session, writer))?;
        self.chunks = 0;
        Ok(())
    }
}

/// The rows of an epoch and its number are one transaction.
pub struct EpochWriter {
    link: Link,
    log: StagingLog,
    /// the target, for messages
    name: String,
    /// Who we are in the table of epochs; the same from checkpoint to checkpoint, another one for an output that began
    /// anew, so that the epochs of an earlier one are not taken for ours.
    writer: String,
    /// the last epoch with rows that the database has of us; 0: none
    newest: u64,
    /// the rows of the checkpoint, until we have seen that the database has them
    recovering: Option<Sealed>,
    is_settled: bool,
    commits: Commits,
}

impl EpochWriter {
    pub fn open(
        sink: &PostgresSink,
        schema: &Arc<Schema>,
        transactions: &Transactions<'_>,
    ) -> Result<EpochWriter, ConnectError> {
        let mut writer = EpochWriter {
            link: Link::new(sink, schema),
            log: StagingLog::new(transactions.staging, "", 0o600, &POINTS),
            name: target_name(sink),
            writer: new_writer_name(&sink.table),
            newest: 0,
            recovering: None,
            is_settled: false,
            commits: Commits::after(transactions),
        };
        if let Some((epoch, value)) = transactions.known() {
            let staged = Staged::of(value, epoch, &writer.name)?;
            let Staged::Postgres { rows, writer: name, before } = staged else {
                return Err(staged.refuse_kind(&writer.name));
            };
            (writer.writer, writer.newest, writer.recovering) = (name, before, Some(rows));
        }
        unless_away(writer.settle())?;
        Ok(writer)
    }

    /// Finds the table, and adds the rows of the checkpoint unless it has them. Until that is done no rows are taken.
    fn settle(&mut self) -> Result<(), ConnectError> {
        if self.is_settled {
            return Ok(());
        }
        match self.recovering {
            Some(rows) if rows.bytes > 0 => self.apply(&rows)?,
            recovering => {
                let (writer, newest) = (&self.writer, self.newest);
                self.link.with(|session, table| match table.epoch(session, writer)? {
                    found if recovering.is_some() && found != newest => Err(table.refuse_epoch(found, newest)),
                    _ => Ok(()),
                })?;
            }
        }
        self.recovering = None;
        self.log.clear()?;
        self.is_settled = true;
        Ok(())
    }

    /// Adds the rows of an epoch, unless they are there.
    fn apply(&mut self, rows: &Sealed) -> Result<(), ConnectError> {
        if rows.bytes == 0 {
            return Ok(());
        }
        let step = Step { writer: &self.writer, before: self.newest, after: rows.epoch };
        if self.newest != rows.epoch {
            let log = &self.log;
            self.link.with(|session, table| table.add(session, step, || staged(log, rows, |r| table.refuse(r))))?;
            self.newest = rows.epoch;
        }
        Ok(())
    }
}

fn staged(log: &StagingLog, rows: &Sealed, refuse: impl FnOnce(String) -> ConnectError) -> Result<File, ConnectError> {
    let lost = || refuse(format!("it lacks the rows of epoch {}, and the staged rows are gone", rows.epoch));
    log.read(rows)?.ok_or_else(lost)
}

impl Writer for EpochWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.settle()?;
        if bytes.is_empty() { Ok(()) } else { self.log.append(epoch, &[bytes]) }
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        self.settle()?;
        let rows = self.commits.sealed(self.log.seal(epoch)?);
        Staged::Postgres { rows, writer: self.writer.clone(), before: self.newest }.to_value()
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let Some(rows) = self.commits.due(epoch, &self.name)? else { return Ok(()) };
        self.apply(&rows)?;
        if rows.bytes > 0 {
            self.log.remove(epoch)?;
        }
        self.commits.shown(epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}
