//! Files as targets of a sink.

mod append;
#[cfg(feature = "arrow")]
mod complete;
#[cfg(not(feature = "arrow"))]
#[path = "sink/no_columns.rs"]
mod complete;
mod folder;
mod parts;
mod plain;

use std::{
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ringmill_wire::Schema;

use complete::Completer;
pub(crate) use folder::part_epoch;
pub(crate) use plain::PlainWriter;

use crate::{
    ConnectError, OutputFormat, Promise, Transactions, Writer, create_output, create_output_folder, disk, encoder,
};

/// A file, or a folder of files, as a sink.
///
/// **A file** is created anew when a run begins anew. With checkpoints, the rows of an epoch are appended to it when the
/// epoch is committed; it holds nothing but its header and whole committed epochs, except while an append is in progress
/// (a reader may then see the beginning of the epoch's rows; up to 4 MiB are written by one call, longer ones by several,
/// each ending with a line if it is text) and after a crash in the middle of one (until the next start, which completes it). It must
/// not be written, cut or replaced by anybody else: what differs is refused.
///
/// **A folder of parts** is a path that ends in `/`. Each epoch with rows becomes `part-<epoch>.<format>`, which appears
/// complete, by rename, when the epoch is committed; parts may be taken away at any time. Until then its rows are in a
/// hidden file of the same folder. With a [`Rolling`] of a size an epoch may have several, `part-<epoch>-<number>.<format>`, and
/// with one of an interval a part goes on over epochs and is named for the one that it is complete with. A run that begins
/// anew removes the parts of earlier ones and nothing else. Without checkpoints parts appear when they are full, and the last
/// one at the end. Every part of a CSV sink has the header, and every part in
/// columns is complete: of Arrow's file format (Feather), or a Parquet file. One file in Arrow is an IPC stream; in Parquet
/// there is none, for such a file cannot grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSink {
    /// a file in a folder that exists, or a folder of parts (ending in `/`), which is created
    pub path: PathBuf,
    /// what is written
    pub format: OutputFormat,
    /// when a part is complete
    pub rolling: Rolling,
}

/// When a part of a folder is complete; the end of the input completes every part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rolling {
    /// it has so many bytes, or a few more; `None`: however many
    pub bytes_max: Option<u64>,
    /// it has been filled for so long, looked at with each checkpoint; `None`: with its checkpoint
    pub interval: Option<Duration>,
}

impl FileSink {
    /// One whose parts are complete with their checkpoint.
    pub fn new(path: impl Into<PathBuf>, format: impl Into<OutputFormat>) -> FileSink {
        FileSink { path: path.into(), format: format.into(), rolling: Rolling::default() }
    }

    /// Whether this is a folder of parts.
    pub fn has_parts(&self) -> bool {
        self.path.as_os_str().as_bytes().ends_with(b"/")
    }

    /// What it promises with checkpoints.
    pub fn promise(&self) -> Promise {
        Promise::ExactlyOnce
    }

    /// Most memory that files take whose end is still to come, about.
    pub fn memory_bytes(&self) -> u64 {
        if self.has_parts() { Completer::memory_bytes(self.format) } else { 0 }
    }

    /// Creates the target, or completes it if the run continues from a checkpoint.
    pub fn open(
        &self,
        schema: &Schema,
        transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        if matches!(self.format, OutputFormat::Parquet(_)) && !self.has_parts() {
            let reason = "a Parquet file cannot grow: write parts into a folder, whose path ends with /".to_owned();
            return Err(ConnectError::Target { name: self.path.display().to_string(), reason });
        }
        let mut header = Vec::new();
        encoder(self.format, schema)?.begin(schema, &mut header);
        Ok(match (self.has_parts(), transactions) {
            (true, Some(transactions)) => {
                Box::new(parts::PartsWriter::open(&self.path, self.format, header, self.rolling, transactions)?)
            }
            (true, None) => Box::new(parts::AtOnceWriter::open(&self.path, self.format, header, self.rolling)?),
            (false, Some(transactions)) => Box::new(append::AppendWriter::open(&self.path, &header, transactions)?),
            (false, None) => Box::new(plain::PlainWriter::create(&self.path, &header)?),
        })
    }
}

/// Creates a file, or empties it. Its folder must exist.
fn create(path: &Path) -> Result<File, ConnectError> {
    let mut options = File::options();
    options.write(true).truncate(true);
    let created = create_output(options.clone().read(true), path).or_else(|error| {
        // Some pipes and devices are open to writing only.
        if error.kind() == io::ErrorKind::PermissionDenied { create_output(&options, path) } else { Err(error) }
    });
    created.map_err(|error| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let source = match parent {
            Some(parent) if error.kind() == io::ErrorKind::NotFound && !parent.exists() => {
                let text = format!("its folder {} does not exist", parent.display());
                io::Error::new(io::ErrorKind::NotFound, text)
            }
            _ => error,
        };
        ConnectError::Open { path: path.to_owned(), source }
    })
}

/// Creates a folder and those above it, durably.
fn create_folder(path: &Path) -> Result<(), ConnectError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), create_folder)?;
    let created = create_output_folder(path).and_then(|()| disk::sync_name(path));
    created.map_err(|source| ConnectError::Open { path: path.to_owned(), source })
}
