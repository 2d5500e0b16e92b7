//! Parcels: what is taken as a whole or not at all, a request with its rows or a message, as a stream that may be journaled.
//!
//! A parcel is its kind (one byte), the length of what follows (four bytes, little-endian), and its content as it came:
//! lines of JSON, a stream of Arrow, a container of Avro, micro-batches, or a message. Rows are made of it when it is read, so that what
//! lies in a journal is what was sent. A position is the offset of a parcel, and how much of it was taken: bytes of lines,
//! rows of columns.
//!
//! Whoever puts a parcel into a stream has looked at it before ([`count_rows`]): one that cannot be read any more, because
//! the declared fields are others now, ends the run and stays in its journal.

mod partition;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use partition::{ParcelOptions, ParcelPartition};

use crate::{
    FieldSpec, FileFormat,
    file::rows::{Medium, RowFile, Trouble, guarded, open_medium},
};

/// What comes before the content.
pub(crate) const HEAD_BYTES: usize = 5;

/// What is in a parcel. The numbers stand in journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// of JSON, each with its end
    Lines = 1,
    /// an IPC stream of Arrow, or an IPC file
    Arrow = 2,
    /// a container of Avro
    Avro = 3,
    /// the length of a header (four bytes, little-endian), the header, and a message of a binary format
    #[cfg(feature = "mqtt")]
    Message = 4,
    /// FlatBuffers, each behind its length
    MicroBatch = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Lines,
            2 => Kind::Arrow,
            3 => Kind::Avro,
            #[cfg(feature = "mqtt")]
            4 => Kind::Message,
            5 => Kind::MicroBatch,
            _ => return None,
        })
    }

    /// Of a parcel whose rows are counted.
    fn format(self) -> Option<FileFormat> {
        match self {
            Kind::Arrow => Some(FileFormat::Arrow),
            Kind::Avro => Some(FileFormat::Avro(None)),
            Kind::MicroBatch => Some(FileFormat::MicroBatch),
            _ => None,
        }
    }

    /// What comes before a content of so many bytes.
    pub fn head(self, length: usize) -> [u8; HEAD_BYTES] {
        let [a, b, c, d] = (length as u32).to_le_bytes();
        [self as u8, a, b, c, d]
    }
}

/// How many rows a content has; reads all of it. Unpacked it is no longer than `unpacked_max` bytes, and has no more rows.
pub(crate) fn count_rows(
    kind: Kind,
    content: &Arc<Vec<u8>>,
    fields: &[FieldSpec],
    unpacked_max: u64,
) -> Result<u64, Trouble> {
    let mut rows = open_rows(kind, Medium::memory(Arc::clone(content), 0, unpacked_max), fields)?;
    while guarded(|| rows.load())? {}
    Ok(rows.loaded().end)
}

fn open_rows(kind: Kind, medium: Medium, fields: &[FieldSpec]) -> Result<Box<dyn RowFile>, Trouble> {
    let format = kind.format().ok_or_else(|| Trouble::Broken("its rows are not counted".to_owned()))?;
    open_medium(medium, &format, fields)
}
