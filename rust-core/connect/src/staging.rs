//! The staging log of a sink: rows that are not yet shown, one file for each epoch (or for whatever else the sink numbers).
//!
//! A file is `PREFIX<epoch>.staged`. What [`StagingLog::append`] reported as an error has left nothing behind;
//! what [`StagingLog::seal`] reported as done is on the disk. The checksum that `seal` answers is compared before any of
//! the bytes is shown, so a damaged file is refused and never shown.
//!
//! It knows nothing of the target; several epochs may be open at once.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use ringmill_failpoint::hit;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ConnectError, Transactions, disk, http::Form as HttpForm};

const SUFFIX: &str = ".staged";
/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// The places of one kind of sink at which a test may kill the process, before and after each change of the log.
#[derive(Debug)]
pub struct StagePoints {
    /// of bytes
    pub write: [&'static str; 2],
    /// of a file to the disk
    pub sync: [&'static str; 2],
    /// of a file's name to the disk
    pub sync_folder: [&'static str; 2],
    /// of a file
    pub remove: [&'static str; 2],
}

macro_rules! stage_points {
    ($sink:literal) => {
        $crate::staging::StagePoints {
            write: [concat!($sink, ".stage.write"), concat!($sink, ".stage.written")],
            sync: [concat!($sink, ".stage.sync"), concat!($sink, ".stage.synced")],
            sync_folder: [concat!($sink, ".stage.sync_folder"), concat!($sink, ".stage.folder_synced")],
            remove: [concat!($sink, ".stage.remove"), concat!($sink, ".stage.removed")],
        }
    };
}
pub(crate) use stage_points;

/// What a sink puts into a checkpoint's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Staged {
    /// rows to be appended to a file
    File {
        #[serde(flatten)]
        rows: Sealed,
        /// the file
        path: String,
        /// … which is this one
        inode: u64,
        /// its length without these rows
        before: u64,
    },
    /// the parts of a folder
    Parts {
        /// which epoch
        epoch: u64,
        /// those that are complete
        files: Vec<StagedPart>,
        /// the one that goes on
        open: Option<StagedRows>,
    },
    /// rows for a table
    Sqlite {
        #[serde(flatten)]
        rows: Sealed,
        /// who wrote them, in the database's table of epochs
        writer: String,
        /// the epoch that stood there before
        before: Option<u64>,
    },
    /// rows for a server that takes requests
    Http {
        #[serde(flatten)]
        rows: Sealed,
        /// what the keys of its requests begin with
        writer: String,
        /// rows in a request, at most
        rows_max: usize,
        /// bytes in a request, at most
        bytes_max: usize,
        /// what they look like in it; an earlier version did not say so, and knew JSON only
        #[serde(default)]
        form: Option<HttpForm>,
    },
    /// messages for a stream
    Nats {
        #[serde(flatten)]
        rows: Sealed,
        /// what their ids begin with
        writer: String,
        /// by which their headers are told from others; 0: they have none
        #[serde(default)]
        headers: u32,
    },
    /// messages for a topic
    Kafka {
        #[serde(flatten)]
        rows: Sealed,
        /// what their marks begin with
        writer: String,
        /// by which their headers are told from others; 0: they have none
        headers: u32,
        /// the mark that stood there before
        before: Option<String>,
    },
    /// rows for a process of their own
    Python {
        #[serde(flatten)]
        rows: Sealed,
        /// what their identities begin with
        writer: String,
        /// the hash of their schema
        schema: u64,
    },
    /// rows for a table of a server
    Postgres {
        #[serde(flatten)]
        rows: Sealed,
        /// who wrote them, in the database's table of epochs
        writer: String,
        /// the epoch that stood there before; 0: none
        before: u64,
    },
}

/// A part that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedPart {
    #[serde(flatten)]
    pub file: Sealed,
    /// how it is called when it is shown
    pub name: String,
}

/// The rows of a part that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedRows {
    #[serde(flatten)]
    pub rows: Sealed,
    /// for how long runs have been filling it
    pub age_ms: u64,
    /// the folder
    pub folder: String,
}

/// The rows of an epoch, durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// which one; of a part its number
    pub epoch: u64,
    /// their length; 0: there is no file
    pub bytes: u64,
    /// their checksum
    pub crc32c: u32,
}

impl Staged {
    /// Reads what a sink called `name` put into the manifest of `epoch`.
    pub fn of(value: &Value, epoch: u64, name: &str) -> Result<Staged, ConnectError> {
        let refuse = |reason: String| ConnectError::Target { name: name.to_owned(), reason };
        let staged: Staged = serde_json::from_value(value.clone())
            .map_err(|error| refuse(format!("what the checkpoint says about it is not understood: {error}")))?;
        let found = staged.epoch();
        if found != epoch {
            return Err(refuse(format!("the checkpoint of epoch {epoch} says that the sink staged epoch {found}")));
        }
        Ok(staged)
    }

    fn epoch(&self) -> u64 {
        match self {
            Staged::Parts { epoch, .. } => *epoch,
            Staged::File { rows, .. } | Staged::Sqlite { rows, .. } | Staged::Http { rows, .. } => rows.epoch,
            Staged::Nats { rows, .. } | Staged::Kafka { rows, .. } => rows.epoch,
            Staged::Python { rows, .. } | Staged::Postgres { rows, .. } => rows.epoch,
        }
    }

    /// The kind of sink that wrote it, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Staged::File { .. } => "a file",
            Staged::Parts { .. } => "a folder of parts",
            Staged::Sqlite { .. } => "an SQLite table",
            Staged::Http { .. } => "a server that takes requests",
            Staged::Nats { .. } => "a NATS stream",
            Staged::Kafka { .. } => "a Kafka topic in transactions",
            Staged::Python { .. } => "a Python class",
            Staged::Postgres { .. } => "a PostgreSQL table",
        }
    }

    pub fn to_value(&self) -> Result<Value, ConnectError> {
        serde_json::to_value(self).map_err(|error| ConnectError::Schema(error.to_string()))
    }

    /// The refusal of a checkpoint in which `name` was a sink of another kind.
    pub fn refuse_kind(&self, name: &str) -> ConnectError {
        let reason = format!("in the checkpoint the sink is {}; run with --fresh to begin anew", self.kind());
        ConnectError::Target { name: name.to_owned(), reason }
    }
}

/// One epoch's file while it is written.
#[derive(Debug)]
struct Open {
    epoch: u64,
    path: PathBuf,
    file: File,
    /// all that counts; anything beyond is the rest of a failed write
    bytes: u64,
    crc32c: u32,
    /// there may be something beyond
    has_rest: bool,
    /// An fsync failed: the system may have thrown pages away and call them clean, so another fsync would prove nothing.
    is_suspect: bool,
    is_name_durable: bool,
}

/// The staging log of one sink.
#[derive(Debug)]
pub struct StagingLog {
    folder: PathBuf,
    prefix: &'static str,
    mode: u32,
    points: &'static StagePoints,
    open: Vec<Open>,
}

impl StagingLog {
    /// A log in `folder`, which exists. Files from before stay until [`clear`](StagingLog::clear).
    pub fn new(folder: &Path, prefix: &'static str, mode: u32, points: &'static StagePoints) -> StagingLog {
        StagingLog { folder: folder.to_owned(), prefix, mode, points, open: Vec::new() }
    }

    /// The file of an epoch.
    pub fn path(&self, epoch: u64) -> PathBuf {
        self.folder.join(format!("{}{epoch:010}{SUFFIX}", self.prefix))
    }

    /// Bytes staged for an open epoch.
    pub fn bytes(&self, epoch: u64) -> u64 {
        self.open.iter().find(|open| open.epoch == epoch).map_or(0, |open| open.bytes)
    }

    /// Appends these pieces to an epoch: all of them or, with an error, none.
    pub fn append(&mut self, epoch: u64, pieces: &[&[u8]]) -> Result<(), ConnectError> {
        let points = self.points;
        hit(points.write[0]);
        let index = self.find_or_create(epoch)?;
        let open = &mut self.open[index];
        let (mut end, mut crc32c) = (open.bytes, open.crc32c);
        for piece in pieces {
            if let Err(source) = disk::write_at(&open.file, piece, end) {
                // What stays behind if this fails too is overwritten by the next write, or cut off before the seal.
                open.has_rest = disk::cut(&open.file, open.bytes).is_err();
                return Err(write_error(&open.path, source));
            }
            end += piece.len() as u64;
            crc32c = crc32c::crc32c_append(crc32c, piece);
        }
        (open.bytes, open.crc32c) = (end, crc32c);
        hit(points.write[1]);
        Ok(())
    }

    fn find_or_create(&mut self, epoch: u64) -> Result<usize, ConnectError> {
        if let Some(index) = self.open.iter().position(|open| open.epoch == epoch) {
            return Ok(index);
        }
        let path = self.path(epoch);
        let file = disk::create(&path, self.mode).map_err(|source| write_error(&path, source))?;
        self.open.push(Open {
            epoch,
            path,
            file,
            bytes: 0,
            crc32c: 0,
            has_rest: false,
            is_suspect: false,
            is_name_durable: false,
        });
        Ok(self.open.len() - 1)
    }

    /// Makes an epoch durable. An epoch without rows has no file.
    pub fn seal(&mut self, epoch: u64) -> Result<Sealed, ConnectError> {
        let points = self.points;
        let Some(open) = self.open.iter_mut().find(|open| open.epoch == epoch) else {
            return Ok(Sealed { epoch, bytes: 0, crc32c: 0 });
        };
        if open.has_rest {
            disk::cut(&open.file, open.bytes).map_err(|source| write_error(&open.path, source))?;
            open.has_rest = false;
        }
        hit(points.sync[0]);
        if open.is_suspect {
            open.write_again(self.mode)?;
        } else if let Err(source) = disk::sync(&open.file) {
            open.is_suspect = true;
            return Err(write_error(&open.path, source));
        }
        hit(points.sync[1]);
        if !open.is_name_durable {
            hit(points.sync_folder[0]);
            disk::sync_folder(&self.folder).map_err(|source| write_error(&self.folder, source))?;
            open.is_name_durable = true;
            hit(points.sync_folder[1]);
        }
        Ok(Sealed { epoch, bytes: open.bytes, crc32c: open.crc32c })
    }

    /// The rows of a sealed epoch, if their file is there, checked from the first byte to the last.
    pub fn read(&self, rows: &Sealed) -> Result<Option<File>, ConnectError> {
        let path = self.path(rows.epoch);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ConnectError::Open { path, source }),
        };
        let (bytes, crc32c) = checksum(&file, 0).map_err(|source| read_error(&path, source))?;
        if (bytes, crc32c) != (rows.bytes, rows.crc32c) {
            return Err(damaged(&path, rows, bytes, crc32c));
        }
        Ok(Some(file))
    }

    /// Goes on with the file of an epoch that an earlier process has sealed; what follows its seal is cut off. `false`: it is
    /// not there.
    pub fn resume(&mut self, rows: &Sealed) -> Result<bool, ConnectError> {
        let path = self.path(rows.epoch);
        let file = match disk::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(ConnectError::Open { path, source }),
        };
        let length = file.metadata().map_err(|source| read_error(&path, source))?.len();
        if length > rows.bytes {
            disk::cut(&file, rows.bytes).map_err(|source| write_error(&path, source))?;
        }
        let (bytes, crc32c) = checksum(&file, 0).map_err(|source| read_error(&path, source))?;
        if (bytes, crc32c) != (rows.bytes, rows.crc32c) {
            return Err(damaged(&path, rows, bytes, crc32c));
        }
        let (has_rest, is_suspect, is_name_durable) = (false, false, true);
        self.open.push(Open { epoch: rows.epoch, path, file, bytes, crc32c, has_rest, is_suspect, is_name_durable });
        Ok(true)
    }

    /// The bytes of an open epoch from `from` on, `length` of them or those that there are.
    pub fn bytes_at(&self, epoch: u64, from: u64, length: u64) -> Result<Vec<u8>, ConnectError> {
        let Some(open) = self.open.iter().find(|open| open.epoch == epoch) else { return Ok(Vec::new()) };
        let length = length.min(open.bytes.saturating_sub(from));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        open.file.read_exact_at(&mut bytes, from).map_err(|source| read_error(&open.path, source))?;
        Ok(bytes)
    }

    /// Forgets an epoch whose rows are shown.
    pub fn remove(&mut self, epoch: u64) -> Result<(), ConnectError> {
        hit(self.points.remove[0]);
        let path = self.path(epoch);
        disk::remove(&path).map_err(|source| write_error(&path, source))?;
        self.open.retain(|open| open.epoch != epoch);
        hit(self.points.remove[1]);
        Ok(())
    }

    /// The epoch's file now has another name, or nothing more is written to it.
    pub fn forget(&mut self, epoch: u64) {
        self.open.retain(|open| open.epoch != epoch);
    }

    /// Removes every file of the log.
    pub fn clear(&mut self) -> Result<(), ConnectError> {
        self.clear_but(None)
    }

    /// Removes every file of the log but one.
    pub fn clear_but(&mut self, kept: Option<u64>) -> Result<(), ConnectError> {
        self.open.retain(|open| Some(open.epoch) == kept);
        let kept = kept.map(|epoch| self.path(epoch));
        let list = |source| ConnectError::Open { path: self.folder.clone(), source };
        for entry in fs::read_dir(&self.folder).map_err(list)? {
            let entry = entry.map_err(list)?;
            if self.is_own(&entry.file_name().to_string_lossy()) && Some(entry.path()) != kept {
                hit(self.points.remove[0]);
                disk::remove(&entry.path()).map_err(|source| write_error(&entry.path(), source))?;
                hit(self.points.remove[1]);
            }
        }
        Ok(())
    }

    /// Whether the log makes files of this name.
    fn is_own(&self, name: &str) -> bool {
        let number = name.strip_prefix(self.prefix).and_then(|rest| {
            let rest = rest.strip_suffix(AGAIN).unwrap_or(rest);
            rest.strip_suffix(SUFFIX)
        });
        number.is_some_and(is_epoch)
    }
}

/// How far a sink's epochs have come: one is sealed and waits for its commit, those before are shown.
#[derive(Debug)]
pub struct Commits {
    pending: Option<Sealed>,
    committed: u64,
}

impl Commits {
    /// Of a sink that goes on from a checkpoint, or begins anew.
    pub fn after(transactions: &Transactions<'_>) -> Commits {
        Commits { pending: None, committed: transactions.recovered.map_or(0, |(epoch, _)| epoch) }
    }

    /// The rows of an epoch are durable.
    pub fn sealed(&mut self, rows: Sealed) -> Sealed {
        self.pending = Some(rows);
        rows
    }

    /// The rows that the commit of `epoch` is to show; `None`: they are shown. `name` is the sink's.
    ///
    /// # Errors
    /// They were not sealed.
    pub fn due(&self, epoch: u64, name: &str) -> Result<Option<Sealed>, ConnectError> {
        if epoch <= self.committed {
            return Ok(None);
        }
        let rows = self.pending.filter(|rows| rows.epoch == epoch);
        rows.map(Some).ok_or_else(|| ConnectError::NotStaged { name: name.to_owned(), epoch })
    }

    /// They are shown.
    pub fn shown(&mut self, epoch: u64) {
        (self.pending, self.committed) = (None, epoch);
    }
}

/// A name that no other output has: table or step, time and process.
pub fn new_writer_name(table: &str) -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{table} {}.{:09} {}", since_1970.as_secs(), since_1970.subsec_nanos(), std::process::id())
}

/// Ten digits or more.
pub(crate) fn is_epoch(text: &str) -> bool {
    text.len() >= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Ends the name of a file that is to replace another.
const AGAIN: &str = ".again";

impl Open {
    /// Writes all that counts into a new file, which takes the place of the old one.
    fn write_again(&mut self, mode: u32) -> Result<(), ConnectError> {
        let mut path = self.path.clone().into_os_string();
        path.push(AGAIN);
        let path = PathBuf::from(path);
        let copy = || -> io::Result<(File, u64, u32)> {
            let file = disk::create(&path, mode)?;
            let (bytes, crc32c) = each_block(&self.file, 0, |block, offset| disk::write_at(&file, block, offset))?;
            disk::sync(&file)?;
            Ok((file, bytes, crc32c))
        };
        let (file, bytes, crc32c) = copy().map_err(|source| write_error(&path, source))?;
        if (bytes, crc32c) != (self.bytes, self.crc32c) {
            let rows = Sealed { epoch: self.epoch, bytes: self.bytes, crc32c: self.crc32c };
            return Err(damaged(&self.path, &rows, bytes, crc32c));
        }
        disk::rename(&path, &self.path).map_err(|source| write_error(&self.path, source))?;
        (self.file, self.is_suspect, self.is_name_durable) = (file, false, false);
        Ok(())
    }
}

/// Length and checksum of a file's content from byte `from` on.
pub(crate) fn checksum(file: &File, from: u64) -> io::Result<(u64, u32)> {
    each_block(file, from, |_, _| Ok(()))
}

/// Hands a file's content from byte `from` on over, block by block with its offset; its length and checksum.
fn each_block(file: &File, from: u64, mut take: impl FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<(u64, u32)> {
    let mut block = vec![0; BLOCK_BYTES];
    let (mut bytes, mut crc32c) = (0, 0);
    loop {
        let count = match file.read_at(&mut block, from + bytes) {
            Ok(0) => return Ok((bytes, crc32c)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(&block[..count], from + bytes)?;
        crc32c = crc32c::crc32c_append(crc32c, &block[..count]);
        bytes += count as u64;
    }
}

pub(crate) fn write_error(path: &Path, source: io::Error) -> ConnectError {
    ConnectError::Write { name: path.display().to_string(), source }
}

pub(crate) fn read_error(path: &Path, source: io::Error) -> ConnectError {
    ConnectError::Read { name: path.display().to_string(), offset: 0, source }
}

pub(crate) fn damaged(path: &Path, rows: &Sealed, bytes: u64, crc32c: u32) -> ConnectError {
    let reason = format!(
        "the staged rows are damaged: {bytes} bytes with checksum {crc32c:08x} instead of {} with {:08x}",
        rows.bytes, rows.crc32c
    );
    ConnectError::Target { name: path.display().to_string(), reason }
}
