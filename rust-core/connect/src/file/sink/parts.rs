//! A folder whose files appear complete: with their checkpoint or, without checkpoints, when they are full and at the end.

use std::{collections::VecDeque, path::Path};

use serde_json::Value;

use super::{
    Rolling,
    folder::{Folder, ROWS_MODE},
};
use crate::{
    ConnectError, OutputFormat, Transactions, Writer,
    staging::{StagePoints, Staged, StagedPart, StagingLog, stage_points},
};

const AHEAD: StagePoints = stage_points!("sink.parts.ahead");

/// Rows that came before the end of the epoch before theirs: they must not get into a part that may be complete with that.
struct Ahead {
    /// theirs
    epoch: u64,
    log: StagingLog,
    /// where each call's rows end, of those that are not in a part
    ends: VecDeque<u64>,
    /// bytes that are in parts
    taken: u64,
}

/// Shows parts when the epoch that they are complete with is committed.
pub struct PartsWriter {
    folder: Folder,
    ahead: Ahead,
    /// the epoch whose rows go into parts
    epoch: u64,
    /// durable and not yet shown, with their epoch
    pending: Option<(u64, Vec<StagedPart>)>,
    committed: u64,
    is_last: bool,
}

impl PartsWriter {
    pub fn open(
        path: &Path,
        format: OutputFormat,
        header: Vec<u8>,
        rolling: Rolling,
        transactions: &Transactions<'_>,
    ) -> Result<PartsWriter, ConnectError> {
        let mut folder = Folder::open(path, format, header, rolling)?;
        match transactions.known() {
            Some((epoch, value)) => folder.recover(epoch, value)?,
            None => folder.begin()?,
        }
        let mut log = StagingLog::new(transactions.staging, "", ROWS_MODE, &AHEAD);
        log.clear()?;
        let ahead = Ahead { epoch: 0, log, ends: VecDeque::new(), taken: 0 };
        let committed = transactions.recovered.map_or(0, |(epoch, _)| epoch);
        Ok(PartsWriter { folder, ahead, epoch: committed + 1, pending: None, committed, is_last: false })
    }

    /// Puts rows of this epoch that came early into parts, call by call.
    fn take_ahead(&mut self) -> Result<(), ConnectError> {
        let Ahead { epoch, log, ends, taken } = &mut self.ahead;
        if *epoch != self.epoch {
            return Ok(());
        }
        while let Some(end) = ends.front() {
            self.folder.put(&log.bytes_at(*epoch, *taken, end - *taken)?)?;
            *taken = *end;
            ends.pop_front();
        }
        if *taken > 0 {
            log.remove(*epoch)?;
            *taken = 0;
        }
        Ok(())
    }
}

impl Writer for PartsWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if bytes.is_empty() {
            return Ok(());
        }
        // Also before rows that come early again: there is one log for them, of one epoch.
        self.take_ahead()?;
        if epoch > self.epoch {
            self.ahead.log.append(epoch, &[bytes])?;
            self.ahead.epoch = epoch;
            self.ahead.ends.push_back(self.ahead.log.bytes(epoch));
            return Ok(());
        }
        self.folder.put(bytes)
    }

    fn input_ends(&mut self) {
        self.is_last = true;
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        self.take_ahead()?;
        let open = self.folder.seal(self.is_last)?;
        let files = self.folder.complete_parts(epoch, 0);
        let value = Staged::Parts { epoch, files: files.clone(), open }.to_value()?;
        self.folder.forget_complete();
        self.pending = Some((epoch, files));
        self.epoch = epoch + 1;
        Ok(value)
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        if epoch <= self.committed {
            return Ok(());
        }
        let Some((_, parts)) = self.pending.as_ref().filter(|(pending, _)| *pending == epoch) else {
            return Err(ConnectError::NotStaged { name: self.folder.display(), epoch });
        };
        self.folder.show(parts)?;
        (self.pending, self.committed) = (None, epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        if let Some(age) = self.folder.age() {
            let (folder, seconds) = (self.folder.display(), age.as_secs());
            tracing::info!(
                "{folder}: rows of the last {seconds} s wait for their file, with which the next run goes on"
            );
        }
        Ok(())
    }
}

/// Without checkpoints: a part appears when it is full, and the last one at the end.
pub struct AtOnceWriter {
    folder: Folder,
    /// parts that are shown
    shown: usize,
}

/// The epoch of everything where there are no checkpoints.
const ONLY: u64 = 1;

impl AtOnceWriter {
    pub fn open(
        path: &Path,
        format: OutputFormat,
        header: Vec<u8>,
        rolling: Rolling,
    ) -> Result<AtOnceWriter, ConnectError> {
        let mut folder = Folder::open(path, format, header, rolling)?;
        folder.begin()?;
        Ok(AtOnceWriter { folder, shown: 0 })
    }

    fn show(&mut self) -> Result<(), ConnectError> {
        let parts = self.folder.complete_parts(ONLY, self.shown);
        self.folder.show(&parts)?;
        self.folder.forget_complete();
        self.shown += parts.len();
        Ok(())
    }
}

impl Writer for AtOnceWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.show()?;
        if bytes.is_empty() { Ok(()) } else { self.folder.put(bytes) }
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.folder.complete()?;
        self.show()
    }
}
