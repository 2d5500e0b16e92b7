//! Files whose rows are counted: Parquet, Arrow and Avro, which hold their schema and their rows in blocks. Arrow, Avro and
//! micro-batches may also come as bytes that somebody has sent ([`Medium`]).
//!
//! A position is the number of a row in its file, so a run goes on exactly behind the last row that a checkpoint has.
//! Some thousand rows are decoded at a time, by the shard that polls. What is wrong with a file ends the run with its
//! name, the row and the reason; no bytes make the decoders panic, wait, or take more memory than a file may have
//! decoded at a time.

mod avro;
#[cfg(test)]
mod avro_tests;
#[cfg(feature = "arrow")]
mod columns;
#[cfg(feature = "arrow")]
mod ipc;
mod medium;
#[cfg(feature = "arrow")]
mod micro_batch;
#[cfg(feature = "arrow")]
mod parquet;
mod partition;
#[cfg(all(test, feature = "arrow"))]
mod tests;
#[cfg(feature = "arrow")]
mod thrift;

use std::{
    any::Any,
    fs::File,
    io,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use crate::{
    ConnectError, FieldMisfit, FieldSpec, FileFormat,
    formats::{Records, Stop},
};

#[cfg(feature = "arrow")]
pub(crate) use ipc::{message_of, message_prefix};
pub(crate) use medium::Medium;
pub(super) use partition::RowsPartition;

/// The rows of a file, in their order.
pub(crate) trait RowFile: Send {
    /// The next row is this one; only before any was loaded.
    fn seek(&mut self, row: u64) -> Result<(), Trouble>;

    /// Decodes the next rows, when those before were given out; `false`: there are none.
    fn load(&mut self) -> Result<bool, Trouble>;

    /// The numbers of the rows that are decoded.
    fn loaded(&self) -> Range<u64>;

    /// The number of the first row that was not given out.
    fn row(&self) -> u64;

    /// Gives out decoded rows; the offset and the tag of `records` are those of the first one that was decoded.
    fn give(&mut self, records: &mut Records<'_, '_>) -> Result<(), Stop>;
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// the system says so
    Io(io::Error),
    /// what is in it is not what it should be
    Broken(String),
    /// its columns are others than those of the fields
    Misfits(Vec<FieldMisfit>),
    /// unpacked it is longer than so many bytes
    TooLong(u64),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl Trouble {
    fn broken(reason: impl ToString) -> Trouble {
        Trouble::Broken(reason.to_string())
    }

    pub fn of(self, name: &str, row: u64) -> ConnectError {
        let name = name.to_owned();
        match self {
            Trouble::Misfits(misfits) => ConnectError::Columns { name, misfits },
            other => ConnectError::Damaged { name, row, reason: other.reason() },
        }
    }

    /// The same for people who know of what.
    pub fn reason(self) -> String {
        match self {
            Trouble::Io(error) => error.to_string(),
            Trouble::Broken(reason) => reason,
            Trouble::Misfits(misfits) => {
                let reasons: Vec<String> = misfits.iter().map(ToString::to_string).collect();
                format!("it does not fit the fields: {}", reasons.join("; "))
            }
            Trouble::TooLong(max) => format!("unpacked it has more than {max} bytes"),
        }
    }
}

/// Opens a file and finds the columns of the fields in it.
fn open(path: &Path, format: &FileFormat, fields: &[FieldSpec]) -> Result<Box<dyn RowFile>, Trouble> {
    open_medium(Medium::File(File::open(path)?), format, fields)
}

/// The same of what is opened already.
pub(crate) fn open_medium(
    medium: Medium,
    format: &FileFormat,
    fields: &[FieldSpec],
) -> Result<Box<dyn RowFile>, Trouble> {
    guarded(|| match format {
        #[cfg(feature = "arrow")]
        FileFormat::Arrow => columns::ColumnRows::open(ipc::IpcFile::open(medium)?, fields),
        #[cfg(feature = "arrow")]
        FileFormat::Parquet => match medium {
            Medium::File(file) => columns::ColumnRows::open(parquet::ParquetFile::open(file)?, fields),
            Medium::Memory(_) => Err(Trouble::broken("Parquet is read from files only")),
        },
        #[cfg(feature = "arrow")]
        FileFormat::MicroBatch => columns::ColumnRows::open(micro_batch::MicroBatches::open(medium, fields)?, fields),
        #[cfg(not(feature = "arrow"))]
        FileFormat::Arrow | FileFormat::Parquet | FileFormat::MicroBatch => {
            Err(Trouble::broken("this program was built without the feature `arrow`"))
        }
        FileFormat::Avro(reader) => avro::AvroFile::open(medium, reader.as_ref(), fields),
        FileFormat::Text(_) => Err(Trouble::broken("the rows of text are not counted")),
    })
}

/// Calls decoders that others have written, which should never panic; if one does, the file is to blame, and nobody uses
/// the decoder any more.
pub(crate) fn guarded<T>(call: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panicked| Err(Trouble::Broken(said(&*panicked))))
}

fn said(panicked: &(dyn Any + Send)) -> String {
    let text = panicked.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panicked.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
    format!("the decoder gave up on it: {text}")
}
