//! A folder in which each epoch appears as a file of its own.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ringmill_failpoint::hit;
use serde_json::Value;

#[cfg(feature = "arrow")]
use super::complete::Completer;
use super::create_folder;
use crate::{
    ConnectError, OutputFormat, Transactions, Writer, disk,
    staging::{
        Commits, Sealed, StagePoints, Staged, StagingLog, checksum, damaged, is_epoch, read_error, stage_points,
        write_error,
    },
};

const POINTS: StagePoints = stage_points!("sink.parts");
/// Parts are for everybody whom the user's umask lets read them, and who may use the folder.
const MODE: u32 = 0o666;

/// The folder and the hidden files in it.
struct Folder {
    path: PathBuf,
    format: OutputFormat,
    header: Vec<u8>,
    log: StagingLog,
    #[cfg(feature = "arrow")]
    completer: Option<Completer>,
}

impl Folder {
    fn open(path: &Path, format: OutputFormat, header: Vec<u8>) -> Result<Folder, ConnectError> {
        hit("sink.parts.create");
        create_folder(path)?;
        hit("sink.parts.created");
        let data = fs::metadata(path).map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
        let log = StagingLog::new(path, ".part-", MODE & data.permissions().mode(), &POINTS);
        Ok(Folder {
            path: path.to_owned(),
            format,
            #[cfg(feature = "arrow")]
            completer: Completer::new(format, &header),
            header,
            log,
        })
    }

    fn name(&self, epoch: u64) -> String {
        format!("part-{epoch:010}.{}", self.format.name())
    }

    fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Target { name: self.path.display().to_string(), reason }
    }

    /// The parts that are there, with their epochs.
    fn parts(&self) -> Result<Vec<(u64, PathBuf)>, ConnectError> {
        let failed = |source| ConnectError::Open { path: self.path.clone(), source };
        let mut parts = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let epoch = name.to_str().and_then(part_epoch);
            parts.extend(epoch.map(|epoch| (epoch, entry.path())));
        }
        parts.sort();
        Ok(parts)
    }

    /// Removes what an earlier run left.
    fn begin(&mut self) -> Result<(), ConnectError> {
        for (_, path) in self.parts()? {
            hit("sink.parts.remove");
            disk::remove(&path).map_err(|source| write_error(&path, source))?;
            hit("sink.parts.removed");
        }
        self.log.clear()
    }

    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        #[cfg(feature = "arrow")]
        if let Some(completer) = self.completer.as_mut().filter(|_| !bytes.is_empty()) {
            return completer.write(&mut self.log, epoch, bytes);
        }
        match (bytes.is_empty(), self.log.bytes(epoch)) {
            (true, _) => Ok(()),
            (false, 0) => self.log.append(epoch, &[&self.header, bytes]),
            (false, _) => self.log.append(epoch, &[bytes]),
        }
    }

    /// Makes everything written for an epoch durable.
    fn seal(&mut self, epoch: u64) -> Result<Sealed, ConnectError> {
        #[cfg(feature = "arrow")]
        if let Some(completer) = &mut self.completer {
            completer.complete(&mut self.log, epoch)?;
        }
        self.log.seal(epoch)
    }

    /// Gives the rows of an epoch their name, unless they have it.
    fn show(&mut self, rows: &Sealed, name: &str) -> Result<(), ConnectError> {
        if rows.bytes == 0 {
            return Ok(());
        }
        let (hidden, part) = (self.log.path(rows.epoch), self.path.join(name));
        let is_hidden = fs::symlink_metadata(&hidden).is_ok();
        if is_hidden {
            if fs::symlink_metadata(&part).is_ok() {
                return Err(self.refuse(format!("somebody else has put {name} there; take it away")));
            }
            hit("sink.parts.rename");
            disk::rename(&hidden, &part).map_err(|source| write_error(&part, source))?;
            self.log.forget(rows.epoch);
            hit("sink.parts.renamed");
        }
        disk::sync_folder(&self.path).map_err(|source| write_error(&self.path, source))?;
        hit("sink.parts.synced");
        Ok(())
    }

    /// Shows the part of the checkpoint if it is still hidden. One that is neither hidden nor there was shown and then
    /// taken away by its reader.
    fn recover(&mut self, epoch: u64, value: &Value) -> Result<(), ConnectError> {
        let staged = Staged::of(value, epoch, &self.path.display().to_string())?;
        let Staged::Parts { rows, ref name } = staged else {
            return Err(staged.refuse_kind(&self.path.display().to_string()));
        };
        if let Some((later, path)) = self.parts()?.into_iter().rfind(|(later, _)| *later > epoch) {
            return Err(self.refuse(format!(
                "{} is of epoch {later}, beyond the checkpoint of epoch {epoch}; run with --fresh to begin anew",
                path.display()
            )));
        }
        if rows.bytes > 0 && self.log.read(&rows)?.is_none() {
            self.check_shown(&rows, name)?;
        }
        self.show(&rows, name)?;
        self.log.clear()
    }

    fn check_shown(&self, rows: &Sealed, name: &str) -> Result<(), ConnectError> {
        let part = self.path.join(name);
        let file = match File::open(&part) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ConnectError::Open { path: part, source }),
        };
        let (bytes, crc32c) = checksum(&file, 0).map_err(|source| read_error(&part, source))?;
        if (bytes, crc32c) == (rows.bytes, rows.crc32c) { Ok(()) } else { Err(damaged(&part, rows, bytes, crc32c)) }
    }
}

/// The epoch in a part's name.
pub(crate) fn part_epoch(name: &str) -> Option<u64> {
    let (epoch, extension) = name.strip_prefix("part-")?.split_once('.')?;
    let is_ours = is_epoch(epoch) && OutputFormat::is_extension(extension);
    is_ours.then(|| epoch.parse().ok())?
}

/// Shows each epoch as a part when it is committed.
pub struct PartsWriter {
    folder: Folder,
    commits: Commits,
}

impl PartsWriter {
    pub fn open(
        path: &Path,
        format: OutputFormat,
        header: Vec<u8>,
        transactions: &Transactions<'_>,
    ) -> Result<PartsWriter, ConnectError> {
        let mut folder = Folder::open(path, format, header)?;
        match transactions.known() {
            Some((epoch, value)) => folder.recover(epoch, value)?,
            None => folder.begin()?,
        }
        Ok(PartsWriter { folder, commits: Commits::after(transactions) })
    }
}

impl Writer for PartsWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.folder.write(epoch, bytes)
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        let rows = self.commits.sealed(self.folder.seal(epoch)?);
        Staged::Parts { rows, name: self.folder.name(epoch) }.to_value()
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let path = self.folder.path.display().to_string();
        let Some(rows) = self.commits.due(epoch, &path)? else { return Ok(()) };
        let name = self.folder.name(epoch);
        self.folder.show(&rows, &name)?;
        self.commits.shown(epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}

/// Without checkpoints: one part, which appears at the end.
pub struct OnePartWriter {
    folder: Folder,
}

/// The epoch of everything where there are no checkpoints.
const ONLY: u64 = 1;

impl OnePartWriter {
    pub fn open(path: &Path, format: OutputFormat, header: Vec<u8>) -> Result<OnePartWriter, ConnectError> {
        let mut folder = Folder::open(path, format, header)?;
        folder.begin()?;
        Ok(OnePartWriter { folder })
    }
}

impl Writer for OnePartWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.folder.write(ONLY, bytes)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        let rows = self.folder.seal(ONLY)?;
        let name = self.folder.name(ONLY);
        self.folder.show(&rows, &name)
    }
}
