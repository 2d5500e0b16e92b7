//! A folder of parts: the files in it that everybody sees, and the hidden ones that become them.
//!
//! A part has a number while it is hidden, `.part-<number>.staged`, and a name when it is shown. One part is *open* at a
//! time. Lines of text are a part as they are. A file in columns is whole only with its end, which cannot be
//! taken back: where a part goes on over checkpoints, its rows are also kept as they came, `.rows-<number>.staged`, and after
//! a crash the file is made of them again, in pieces.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ringmill_failpoint::hit;
use serde_json::Value;

use super::{Completer, Rolling, create_folder};
use crate::{
    ConnectError, OutputFormat, disk,
    formats::has_same_columns,
    staging::{
        Sealed, StagePoints, Staged, StagedPart, StagedRows, StagingLog, checksum, damaged, is_epoch, read_error,
        stage_points, write_error,
    },
};

const FILES: StagePoints = stage_points!("sink.parts");
const ROWS: StagePoints = stage_points!("sink.parts.rows");
/// Parts are for everybody whom the user's umask lets read them, and who may use the folder.
const MODE: u32 = 0o666;
/// Rows are for nobody else.
pub(super) const ROWS_MODE: u32 = 0o600;
/// Bytes of kept rows that are read at a time.
const PIECE_BYTES: u64 = if cfg!(test) { 64 } else { 1 << 20 };
/// So many bytes of kept rows are encoded again for each byte that comes: a large part delays no checkpoint, and is soon there.
const AGAIN: u64 = 4;

/// The part that rows go to.
struct OpenPart {
    number: u64,
    /// how long earlier runs have filled it
    age_before: Duration,
    began: Instant,
    /// A checkpoint may count on it.
    is_staged: bool,
    /// It takes no more rows: it is being completed, or those of this run have other columns.
    is_closed: bool,
    /// Rows of a call that failed are kept already; the file did not take them.
    is_unfinished: bool,
    /// Kept rows that the file, which is made again, has so far, in bytes; `None`: it has all.
    made: Option<u64>,
}

impl OpenPart {
    fn new(number: u64) -> OpenPart {
        OpenPart {
            number,
            age_before: Duration::ZERO,
            began: Instant::now(),
            is_staged: false,
            is_closed: false,
            is_unfinished: false,
            made: None,
        }
    }

    fn age(&self) -> Duration {
        self.age_before + self.began.elapsed()
    }
}

/// The folder and the hidden files in it.
pub(super) struct Folder {
    path: PathBuf,
    format: OutputFormat,
    header: Vec<u8>,
    rolling: Rolling,
    /// what becomes visible
    files: StagingLog,
    /// the rows of a file in columns that goes on over checkpoints
    rows: StagingLog,
    /// makes files in columns
    completer: Option<Completer>,
    open: Option<OpenPart>,
    /// complete and not yet forgotten
    complete: Vec<Sealed>,
    /// the number of the next part
    next: u64,
}

impl Folder {
    /// Creates it if it is missing.
    pub fn open(path: &Path, format: OutputFormat, header: Vec<u8>, rolling: Rolling) -> Result<Folder, ConnectError> {
        hit("sink.parts.create");
        create_folder(path)?;
        hit("sink.parts.created");
        let data = fs::metadata(path).map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
        Ok(Folder {
            path: path.to_owned(),
            format,
            rolling,
            files: StagingLog::new(path, ".part-", MODE & data.permissions().mode(), &FILES),
            rows: StagingLog::new(path, ".rows-", ROWS_MODE, &ROWS),
            completer: Completer::new(format, &header),
            header,
            open: None,
            complete: Vec::new(),
            next: 1,
        })
    }

    pub fn display(&self) -> String {
        self.path.display().to_string()
    }

    fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Target { name: self.display(), reason }
    }

    /// The parts that are shown, with their epochs.
    fn shown(&self) -> Result<Vec<(u64, PathBuf)>, ConnectError> {
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
    pub fn begin(&mut self) -> Result<(), ConnectError> {
        for (_, path) in self.shown()? {
            hit("sink.parts.remove");
            disk::remove(&path).map_err(|source| write_error(&path, source))?;
            hit("sink.parts.removed");
        }
        self.files.clear()?;
        self.rows.clear()
    }

    /// Rows for the open part, or for the next one: all of them or, with an error, none; then the call is made again.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let is_unfinished = self.open.as_ref().is_some_and(|part| part.is_unfinished);
        if !is_unfinished && self.is_full() {
            self.complete()?;
        }
        let part = self.open.get_or_insert_with(|| {
            self.next += 1;
            OpenPart::new(self.next - 1)
        });
        let Some(completer) = &mut self.completer else {
            return append(&mut self.files, part.number, &self.header, bytes);
        };
        if !part.is_unfinished {
            if self.rolling.interval.is_some() || part.made.is_some() {
                append(&mut self.rows, part.number, &self.header, bytes)?;
            }
            part.is_unfinished = true;
        }
        match part.made {
            None => completer.write(&mut self.files, part.number, bytes)?,
            // They are behind those that were kept, and their turn comes.
            Some(_) => self.make_again((bytes.len() as u64).saturating_mul(AGAIN).max(PIECE_BYTES))?,
        }
        if let Some(part) = &mut self.open {
            part.is_unfinished = false;
        }
        Ok(())
    }

    /// Whether the open part takes no more rows.
    fn is_full(&self) -> bool {
        let Some(part) = &self.open else { return false };
        let bytes = self.files.bytes(part.number) + self.completer.as_ref().map_or(0, Completer::bytes);
        part.is_closed || self.rolling.bytes_max.is_some_and(|most| bytes >= most)
    }

    /// Whether the open part is complete with the epoch that ends.
    fn is_due(&self) -> bool {
        let is_old = |interval| self.open.as_ref().is_some_and(|part| part.age() >= interval);
        self.rolling.interval.is_none_or(is_old) || self.is_full()
    }

    /// Makes the file of a part that an earlier run began as far as its kept rows go, or `most` bytes of them and a piece.
    fn make_again(&mut self, most: u64) -> Result<(), ConnectError> {
        let (Some(part), Some(completer)) = (&mut self.open, &mut self.completer) else { return Ok(()) };
        let end = part.made.unwrap_or(0).saturating_add(most);
        while let Some(made) = part.made.filter(|made| *made < end) {
            let piece = self.rows.bytes_at(part.number, made, PIECE_BYTES)?;
            if piece.is_empty() {
                part.made = None;
                break;
            }
            completer.write_again(&mut self.files, part.number, &piece)?;
            part.made = Some(made + piece.len() as u64);
        }
        Ok(())
    }

    /// Completes the open part, durably. May be called again after an error.
    pub fn complete(&mut self) -> Result<(), ConnectError> {
        self.make_again(u64::MAX)?;
        let Some(part) = &mut self.open else { return Ok(()) };
        let number = part.number;
        // Its file may get its end now and the log not take it: whoever tries again must complete it first.
        part.is_closed = true;
        if let Some(completer) = &mut self.completer {
            completer.complete(&mut self.files, number)?;
        }
        let file = self.files.seal(number)?;
        if self.rows.bytes(number) > 0 && !part.is_staged {
            self.rows.remove(number)?;
        }
        self.files.forget(number);
        self.rows.forget(number);
        self.complete.push(file);
        self.open = None;
        Ok(())
    }

    /// Makes everything put so far durable; completes the open part if it is time, or if it `is_last`. What is staged of
    /// the part that goes on. May be called again after an error.
    pub fn seal(&mut self, is_last: bool) -> Result<Option<StagedRows>, ConnectError> {
        if is_last || self.is_due() {
            self.complete()?;
        }
        let folder = self.display();
        let Some(part) = &mut self.open else { return Ok(None) };
        let log = if self.completer.is_some() { &mut self.rows } else { &mut self.files };
        let rows = log.seal(part.number)?;
        part.is_staged = true;
        let age_ms = u64::try_from(part.age().as_millis()).unwrap_or(u64::MAX);
        Ok(Some(StagedRows { rows, age_ms, folder }))
    }

    /// The parts that are complete, with their names in `epoch`, of which so many have a name already.
    pub fn complete_parts(&self, epoch: u64, named: usize) -> Vec<StagedPart> {
        let (extension, is_only) = (self.format.name(), self.rolling.bytes_max.is_none() && self.complete.len() == 1);
        let part = |(index, file): (usize, &Sealed)| {
            let name = match is_only {
                true => format!("part-{epoch:010}.{extension}"),
                false => format!("part-{epoch:010}-{:06}.{extension}", named + index + 1),
            };
            StagedPart { file: *file, name }
        };
        self.complete.iter().enumerate().map(part).collect()
    }

    /// They are no longer ours to name.
    pub fn forget_complete(&mut self) {
        self.complete.clear();
    }

    /// How long the open part has been filled, if there is one.
    pub fn age(&self) -> Option<Duration> {
        self.open.as_ref().map(OpenPart::age)
    }

    /// Gives parts their names, unless they have them, and forgets their rows.
    pub fn show(&mut self, parts: &[StagedPart]) -> Result<(), ConnectError> {
        if parts.is_empty() {
            return Ok(());
        }
        for StagedPart { file, name } in parts {
            let (hidden, part) = (self.files.path(file.epoch), self.path.join(name));
            if fs::symlink_metadata(&hidden).is_err() {
                continue;
            }
            if fs::symlink_metadata(&part).is_ok() {
                return Err(self.refuse(format!("somebody else has put {name} there; take it away")));
            }
            hit("sink.parts.rename");
            disk::rename(&hidden, &part).map_err(|source| write_error(&part, source))?;
            hit("sink.parts.renamed");
        }
        disk::sync_folder(&self.path).map_err(|source| write_error(&self.path, source))?;
        hit("sink.parts.synced");
        if self.completer.is_some() {
            for part in parts {
                if fs::symlink_metadata(self.rows.path(part.file.epoch)).is_ok() {
                    self.rows.remove(part.file.epoch)?;
                }
            }
        }
        Ok(())
    }

    /// Shows the parts of the checkpoint that are still hidden, and goes on with the one that is open. A part that is
    /// neither hidden nor there was shown and then taken away by its reader.
    pub fn recover(&mut self, epoch: u64, value: &Value) -> Result<(), ConnectError> {
        let staged = Staged::of(value, epoch, &self.display())?;
        let Staged::Parts { files, open, .. } = staged else { return Err(staged.refuse_kind(&self.display())) };
        if let Some((later, path)) = self.shown()?.into_iter().rfind(|(later, _)| *later > epoch) {
            return Err(self.refuse(format!(
                "{} is of epoch {later}, beyond the checkpoint of epoch {epoch}; run with --fresh to begin anew",
                path.display()
            )));
        }
        for part in &files {
            if self.files.read(&part.file)?.is_none() {
                self.check_shown(part)?;
            }
        }
        self.show(&files)?;
        let numbers = files.iter().map(|part| &part.file).chain(open.as_ref().map(|open| &open.rows));
        self.next = numbers.map(|file| file.epoch + 1).max().unwrap_or(1);
        if let Some(open) = &open {
            self.resume(open)?;
        }
        let kept = self.open.as_ref().map(|part| part.number);
        let in_columns = self.completer.is_some();
        self.files.clear_but(kept.filter(|_| !in_columns))?;
        self.rows.clear_but(kept.filter(|_| in_columns))
    }

    /// Goes on with the part that was open.
    fn resume(&mut self, open: &StagedRows) -> Result<(), ConnectError> {
        let log = if self.completer.is_some() { &mut self.rows } else { &mut self.files };
        let (number, path) = (open.rows.epoch, log.path(open.rows.epoch));
        if !log.resume(&open.rows)? {
            let moved = match open.folder == self.display() {
                true => String::new(),
                false => format!("; in the checkpoint the folder is {}", open.folder),
            };
            let reason = format!(
                "{} with rows that no file has yet is gone{moved}; put it back, or run with --fresh",
                path.display()
            );
            return Err(self.refuse(reason));
        }
        let found = log.bytes_at(number, 0, self.header.len() as u64)?;
        if self.completer.is_some() {
            let (folder, bytes) = (self.display(), open.rows.bytes);
            tracing::info!(
                "{folder}: {bytes} bytes of rows that wait for their file are encoded again, beside those that come"
            );
        }
        self.open = Some(OpenPart {
            age_before: Duration::from_millis(open.age_ms),
            is_staged: true,
            is_closed: !has_same_columns(&found, &self.header),
            made: self.completer.is_some().then_some(0),
            ..OpenPart::new(number)
        });
        Ok(())
    }

    fn check_shown(&self, StagedPart { file: rows, name }: &StagedPart) -> Result<(), ConnectError> {
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

/// Rows behind the header, all of them or none.
fn append(log: &mut StagingLog, number: u64, header: &[u8], rows: &[u8]) -> Result<(), ConnectError> {
    if log.bytes(number) == 0 { log.append(number, &[header, rows]) } else { log.append(number, &[rows]) }
}

/// The epoch in a part's name.
pub(crate) fn part_epoch(name: &str) -> Option<u64> {
    let (stem, extension) = name.strip_prefix("part-")?.split_once('.')?;
    let (epoch, index) = stem.split_once('-').unwrap_or((stem, "000001"));
    let is_index = index.len() >= 6 && index.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = is_epoch(epoch) && is_index && OutputFormat::is_extension(extension);
    is_ours.then(|| epoch.parse().ok())?
}
