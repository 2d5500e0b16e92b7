//! The file of rows that a server refused.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use ureq::http::StatusCode;

use crate::{ConnectError, create_output, staging::write_error};

/// A row and why it was refused, one line of JSON each.
pub struct RefusedRows {
    path: PathBuf,
    file: File,
}

#[derive(Serialize)]
struct Line<'a> {
    refused_at: String,
    /// the request that it was in alone
    key: &'a str,
    status: u16,
    reason: &'a str,
    row: &'a RawValue,
}

impl RefusedRows {
    /// Creates the file, or goes on behind what is in it.
    pub fn open(path: &Path) -> Result<RefusedRows, ConnectError> {
        let opened = create_output(File::options().append(true), path);
        let file = opened.map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
        Ok(RefusedRows { path: path.to_owned(), file })
    }

    /// Keeps a row. It is on the disk when this returns.
    pub fn add(&mut self, key: &str, status: StatusCode, reason: &str, row: &[u8]) -> Result<(), ConnectError> {
        let failed = |source| write_error(&self.path, source);
        let row: &RawValue = serde_json::from_slice(row).map_err(|error| failed(error.into()))?;
        let line = Line { refused_at: Timestamp::now().to_string(), key, status: status.as_u16(), reason, row };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        let length = self.file.metadata().map_err(failed)?.len();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|source| {
            // What stays behind if this fails too is half a line, which is no row.
            let _ = self.file.set_len(length);
            write_error(&self.path, source)
        })
    }
}
