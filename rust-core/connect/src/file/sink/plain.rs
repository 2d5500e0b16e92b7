//! A file that shows rows as they come.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::create;
use crate::{ConnectError, Writer, disk, staging::write_error};

/// Writes to a file, a pipe or a device.
pub struct PlainWriter {
    file: File,
    path: PathBuf,
    /// can be cut back
    is_regular: bool,
    /// bytes written, whole rows
    length: u64,
    /// Bytes of a failed write that a pipe or a device has taken; it gets the others when the write is made again.
    taken: usize,
    /// a file could not be cut back after a failed write
    has_rest: bool,
}

impl PlainWriter {
    /// Creates the file, or empties it.
    pub fn create(path: &Path, header: &[u8]) -> Result<PlainWriter, ConnectError> {
        let file = create(path)?;
        let kind = file.metadata().map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
        let is_regular = kind.is_file();
        let path = path.to_owned();
        let mut writer = PlainWriter { file, path, is_regular, length: 0, taken: 0, has_rest: false };
        if !header.is_empty() {
            writer.write(1, header)?;
        }
        Ok(writer)
    }

    /// Writes to what is open already, from where it stands.
    pub fn of_stream(file: File, name: &str) -> PlainWriter {
        PlainWriter { file, path: name.into(), is_regular: false, length: 0, taken: 0, has_rest: false }
    }

    fn write_stream(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.taken < bytes.len() {
            match self.file.write(&bytes[self.taken..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.taken = 0;
        Ok(())
    }
}

impl Writer for PlainWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if !self.is_regular {
            return self.write_stream(bytes).map_err(|source| write_error(&self.path, source));
        }
        if let Err(source) = disk::write_at(&self.file, bytes, self.length) {
            self.has_rest = disk::cut(&self.file, self.length).is_err();
            return Err(write_error(&self.path, source));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        if self.has_rest {
            disk::cut(&self.file, self.length).map_err(|source| write_error(&self.path, source))?;
            self.has_rest = false;
        }
        Ok(())
    }
}
