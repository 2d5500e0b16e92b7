//! What such rows are read from: a file, or bytes that somebody has sent.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    sync::Arc,
};

use super::Trouble;

/// Of bytes in memory.
const SCHEMA_BYTES_MAX: usize = 1 << 20;

/// A file, or bytes in memory.
pub(crate) enum Medium {
    File(File),
    Memory(Memory),
}

/// Bytes in memory, of a stranger's.
pub(crate) struct Memory {
    bytes: Arc<Vec<u8>>,
    /// where they begin
    from: usize,
    /// all that they may become, unpacked
    unpacked_max: u64,
    /// what is left of that
    left: u64,
}

impl Medium {
    /// These bytes from `from` on. All together they become no more than `unpacked_max` bytes when they are unpacked, and
    /// no more rows.
    pub fn memory(bytes: Arc<Vec<u8>>, from: usize, unpacked_max: u64) -> Medium {
        Medium::Memory(Memory { bytes, from, unpacked_max, left: unpacked_max })
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            Medium::File(file) => Ok(file.metadata()?.len()),
            Medium::Memory(memory) => Ok(memory.bytes().len() as u64),
        }
    }

    pub(super) fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Medium::File(file) => file.read_exact_at(into, offset),
            Medium::Memory(memory) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| memory.bytes().get(offset..));
                let bytes = rest.and_then(|rest| rest.get(..into.len())).ok_or(ErrorKind::UnexpectedEof)?;
                into.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// How many bytes the next block may become, of those of which `max` are read at a time.
    pub(super) fn block_bytes_max(&self, max: u64) -> u64 {
        match self {
            Medium::File(_) => max,
            Medium::Memory(memory) => max.min(memory.left),
        }
    }

    /// So many bytes came out of it, in so many rows. A row that takes no byte counts as one.
    pub(super) fn unpacked(&mut self, bytes: u64, rows: u64) -> Result<(), Trouble> {
        let Medium::Memory(memory) = self else { return Ok(()) };
        let left = memory.left.checked_sub(bytes.max(rows));
        memory.left = left.ok_or(Trouble::TooLong(memory.unpacked_max))?;
        Ok(())
    }

    /// So many bytes come out of it beside those, which stand in it fewer times.
    pub(super) fn repeated(&mut self, bytes: impl FnOnce() -> u64) -> Result<(), Trouble> {
        match self {
            Medium::File(_) => Ok(()),
            Medium::Memory(_) => self.unpacked(bytes(), 0),
        }
    }

    /// A stranger's schema is not so long, as it takes a hundred times its length.
    pub(super) fn check_schema(&self, bytes: usize) -> Result<(), Trouble> {
        match self {
            Medium::Memory(_) if bytes > SCHEMA_BYTES_MAX => {
                Err(Trouble::Broken(format!("its schema has {bytes} bytes; at most 1 MiB is read")))
            }
            _ => Ok(()),
        }
    }

    /// That nothing is in it from there on: zeros are nothing.
    pub(super) fn check_end(&self, at: u64) -> Result<(), Trouble> {
        let Medium::Memory(memory) = self else { return Ok(()) };
        let rest = usize::try_from(at).ok().and_then(|at| memory.bytes().get(at..)).unwrap_or_default();
        match rest.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(Trouble::Broken(format!("it ends at byte {at}, and something follows"))),
        }
    }

    /// Why a block is larger than `max`, or than all that is left.
    pub(super) fn too_large(&self, max: u64, reason: impl FnOnce() -> String) -> Trouble {
        match self {
            Medium::Memory(memory) if memory.left < max => Trouble::TooLong(memory.unpacked_max),
            _ => Trouble::Broken(reason()),
        }
    }

    /// Why bytes may be missing at its end.
    pub(super) fn cut(&self) -> &'static str {
        match self {
            Medium::File(_) => "; the file was cut, or is being written",
            Medium::Memory(_) => "",
        }
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}
