//! A file as the target of a sink.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{ConnectError, Writer};

/// Writes to a file that it creates anew. Its folder must exist.
#[derive(Debug)]
pub struct FileWriter {
    file: File,
    path: PathBuf,
}

impl FileWriter {
    /// Creates the file, or empties it.
    pub fn create(path: impl AsRef<Path>) -> Result<FileWriter, ConnectError> {
        let path = path.as_ref().to_owned();
        match File::create(&path) {
            Ok(file) => Ok(FileWriter { file, path }),
            Err(error) => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let source = match parent {
                    Some(parent) if error.kind() == io::ErrorKind::NotFound && !parent.exists() => {
                        let text = format!("its folder {} does not exist", parent.display());
                        io::Error::new(io::ErrorKind::NotFound, text)
                    }
                    _ => error,
                };
                Err(ConnectError::Open { path, source })
            }
        }
    }
}

impl Writer for FileWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.file
            .write_all(bytes)
            .map_err(|source| ConnectError::Write { name: self.path.display().to_string(), source })
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}
