//! A file to which committed epochs are appended.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use ringmill_failpoint::hit;
use serde_json::Value;

use super::create;
use crate::{
    ConnectError, Transactions, Writer, disk,
    formats::has_same_columns,
    staging::{Sealed, StagePoints, Staged, StagingLog, checksum, read_error, stage_points, write_error},
};

/// Bytes appended by one call, at most.
const WRITE_BYTES: usize = 4 << 20;

const POINTS: StagePoints = stage_points!("sink.file");

/// Appends the rows of an epoch when it is committed.
pub struct AppendWriter {
    path: PathBuf,
    log: StagingLog,
    /// the file that we append to
    inode: u64,
    /// its length: header and committed epochs
    length: u64,
    /// durable and not yet appended
    pending: Option<Pending>,
    committed: u64,
}

/// What an append needs to know.
#[derive(Debug, Clone, Copy)]
struct Pending {
    rows: Sealed,
    inode: u64,
    before: u64,
}

impl Pending {
    fn end(&self) -> u64 {
        self.before + self.rows.bytes
    }
}

impl AppendWriter {
    pub fn open(path: &Path, header: &[u8], transactions: &Transactions<'_>) -> Result<AppendWriter, ConnectError> {
        let mut writer = AppendWriter {
            path: path.to_owned(),
            log: StagingLog::new(transactions.staging, "", 0o600, &POINTS),
            inode: 0,
            length: 0,
            pending: None,
            committed: transactions.recovered.map_or(0, |(epoch, _)| epoch),
        };
        match transactions.known() {
            Some((epoch, value)) => {
                writer.recover(epoch, value)?;
                writer.check_header(header)?;
            }
            None => writer.begin(header)?,
        }
        writer.log.clear()?;
        Ok(writer)
    }

    fn begin(&mut self, header: &[u8]) -> Result<(), ConnectError> {
        if fs::metadata(&self.path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(self.refuse("it is not a regular file, and rows can be shown exactly once in no other".into()));
        }
        hit("sink.file.create");
        let file = create(&self.path)?;
        let failed = |source| write_error(&self.path, source);
        disk::write_at(&file, header, 0).map_err(failed)?;
        disk::sync(&file).map_err(failed)?;
        disk::sync_name(&self.path).map_err(failed)?;
        hit("sink.file.created");
        self.inode = file.metadata().map_err(failed)?.ino();
        self.length = header.len() as u64;
        Ok(())
    }

    /// Appends what the checkpoint says and the file lacks.
    fn recover(&mut self, epoch: u64, value: &Value) -> Result<(), ConnectError> {
        let staged = Staged::of(value, epoch, &self.path.display().to_string())?;
        let Staged::File { rows, ref path, inode, before } = staged else {
            return Err(staged.refuse_kind(&self.path.display().to_string()));
        };
        let pending = Pending { rows, inode, before };
        self.append(&pending).map_err(|error| match error {
            ConnectError::Target { name, reason } if *path != name => {
                ConnectError::Target { name, reason: format!("{reason}; in the checkpoint the file is {path}") }
            }
            other => other,
        })?;
        (self.inode, self.length) = (inode, pending.end());
        Ok(())
    }

    /// Refuses a file whose columns are others than those of the rows to come.
    fn check_header(&self, header: &[u8]) -> Result<(), ConnectError> {
        let failed = |source| read_error(&self.path, source);
        let file = File::open(&self.path).map_err(|error| self.gone(error))?;
        let mut found = Vec::new();
        file.take(header.len() as u64).read_to_end(&mut found).map_err(failed)?;
        if has_same_columns(&found, header) {
            return Ok(());
        }
        let reason = "its columns are others than those of the pipeline now; run with --fresh to begin anew";
        Err(self.refuse(reason.to_owned()))
    }

    fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Target { name: self.path.display().to_string(), reason }
    }

    /// Whether this is the file that we append to, with a length that it may have.
    fn check(&self, target: &Metadata, inode: u64, lengths: std::ops::RangeInclusive<u64>) -> Result<(), ConnectError> {
        let (found, length) = (target.ino(), target.len());
        if found != inode {
            let reason = format!(
                "it has been replaced by another file (inode {found} instead of {inode}); put the file back, or run \
                 with --fresh to begin anew"
            );
            return Err(self.refuse(reason));
        }
        if !lengths.contains(&length) {
            let (least, most) = lengths.into_inner();
            let what = if length < least { "is shorter" } else { "is longer" };
            let expected = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            let reason = format!(
                "it {what} than the sink left it: {length} bytes instead of {expected}; somebody else has changed it, \
                 or it belongs to a later checkpoint"
            );
            return Err(self.refuse(reason));
        }
        Ok(())
    }

    fn gone(&self, error: io::Error) -> ConnectError {
        if error.kind() == io::ErrorKind::NotFound {
            return self
                .refuse("it has been removed or renamed; put it back, or run with --fresh to begin anew".into());
        }
        ConnectError::Open { path: self.path.clone(), source: error }
    }

    /// Makes the file end with the rows of `pending`, whatever of them it has already.
    fn append(&self, pending: &Pending) -> Result<(), ConnectError> {
        let mut options = File::options();
        let target = options.read(true).write(true).open(&self.path).map_err(|error| self.gone(error))?;
        let metadata = target.metadata().map_err(|source| read_error(&self.path, source))?;
        self.check(&metadata, pending.inode, pending.before..=pending.end())?;
        if pending.rows.bytes == 0 {
            return Ok(());
        }
        let Some(staged) = self.log.read(&pending.rows)? else {
            return self.check_appended(&target, pending);
        };
        hit("sink.file.append");
        // Bytes that are there already are written again, so that what an earlier failed fsync may have lost comes back.
        if let Err(source) = copy(&staged, &target, pending.before) {
            hit("sink.file.cut");
            let _ = disk::cut(&target, pending.before);
            return Err(write_error(&self.path, source));
        }
        hit("sink.file.appended");
        disk::sync(&target).map_err(|source| write_error(&self.path, source))?;
        hit("sink.file.synced");
        Ok(())
    }

    /// The staged rows are gone, which they are only once they stand in the file.
    fn check_appended(&self, target: &File, pending: &Pending) -> Result<(), ConnectError> {
        let rows = &pending.rows;
        let found = checksum(target, pending.before).map_err(|source| read_error(&self.path, source))?;
        if found == (rows.bytes, rows.crc32c) {
            return Ok(());
        }
        Err(self.refuse(format!(
            "it lacks rows of epoch {}: behind byte {} it has {} bytes with checksum {:08x} instead of {} with {:08x}, \
             and the staged rows are gone",
            rows.epoch, pending.before, found.0, found.1, rows.bytes, rows.crc32c
        )))
    }
}

/// Writes all of `from` into `to`, from byte `offset` on: by one call, or by several that end with a line each.
fn copy(from: &File, to: &File, mut offset: u64) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut block = vec![0; WRITE_BYTES.min(usize::try_from(length).unwrap_or(WRITE_BYTES))];
    let mut done = 0;
    while done < length {
        let count = block.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let bytes = &mut block[..count];
        from.read_exact_at(bytes, done)?;
        let is_last = done + count as u64 == length;
        let line_end = bytes.iter().rposition(|byte| *byte == b'\n').filter(|_| !is_last);
        let bytes = &bytes[..line_end.map_or(count, |at| at + 1)];
        disk::write_at(to, bytes, offset)?;
        hit("sink.file.append_part");
        done += bytes.len() as u64;
        offset += bytes.len() as u64;
    }
    Ok(())
}

impl Writer for AppendWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if bytes.is_empty() { Ok(()) } else { self.log.append(epoch, &[bytes]) }
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        let rows = self.log.seal(epoch)?;
        let metadata = fs::metadata(&self.path).map_err(|error| self.gone(error))?;
        self.check(&metadata, self.inode, self.length..=self.length)?;
        let (inode, before) = (self.inode, self.length);
        self.pending = Some(Pending { rows, inode, before });
        Staged::File { rows, path: self.path.display().to_string(), inode, before }.to_value()
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        if epoch <= self.committed {
            return Ok(());
        }
        let Some(pending) = self.pending.filter(|pending| pending.rows.epoch == epoch) else {
            return Err(ConnectError::NotStaged { name: self.path.display().to_string(), epoch });
        };
        self.append(&pending)?;
        if pending.rows.bytes > 0 {
            self.log.remove(epoch)?;
        }
        self.length = pending.end();
        (self.pending, self.committed) = (None, epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}
