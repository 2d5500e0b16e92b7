//! The file of rows that a server refused.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use ureq::http::StatusCode;

use crate::{
    ConnectError, create_output, disk,
    letters::{Refusal, Sent, text_or_base64},
    staging::write_error,
};

/// A row and why it was refused, one line of JSON each.
pub struct RefusedRows {
    path: PathBuf,
    file: File,
    /// rows kept by this run
    count: u64,
}

const BLOCK_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct Line<'a> {
    refused_at: String,
    /// the request that it was in alone
    key: &'a str,
    status: u16,
    reason: &'a str,
    /// JSON as it is, other text as such
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<Box<RawValue>>,
    /// in base64, if it is not UTF-8
    #[serde(skip_serializing_if = "Option::is_none")]
    row_bytes: Option<String>,
}

impl RefusedRows {
    /// Creates the file, or goes on behind the last whole line in it.
    pub fn open(path: &Path) -> Result<RefusedRows, ConnectError> {
        let opened = create_output(File::options().read(true).append(true), path);
        let file = opened.map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
        let mend = || {
            let whole = whole_lines(&file)?;
            file.set_len(whole)?;
            disk::sync_name(path)
        };
        mend().map_err(|source| write_error(path, source))?;
        Ok(RefusedRows { path: path.to_owned(), file, count: 0 })
    }

    /// Keeps a row. It is on the disk when this returns.
    pub fn add(&mut self, key: &str, status: StatusCode, refusal: &Refusal<'_>) -> Result<(), ConnectError> {
        let failed = |source| write_error(&self.path, source);
        let Refusal { reason, row, sent, .. } = *refusal;
        let (text, row_bytes) = text_or_base64(row);
        let row = match sent {
            Sent::Json => serde_json::from_slice(row).map(Some),
            Sent::Csv(_) | Sent::Raw(_) => text.map(to_raw_value).transpose(),
        };
        let row = row.map_err(|error| failed(error.into()))?;
        let refused_at = Timestamp::now().to_string();
        let line = Line { refused_at, key, status: status.as_u16(), reason, row, row_bytes };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        let length = self.file.metadata().map_err(failed)?.len();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|source| {
            // What stays behind if this fails too is half a line, which the next run cuts off.
            let _ = self.file.set_len(length);
            write_error(&self.path, source)
        })?;
        self.count += 1;
        if self.count.is_power_of_two() {
            let path = self.path.display();
            tracing::warn!("{} rows were refused so far and are kept in {path}; the last one: {reason}", self.count);
        }
        Ok(())
    }
}

/// Length of the file up to its last line break.
fn whole_lines(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; BLOCK_BYTES];
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let block = &mut block[..(end - start) as usize];
        file.read_exact_at(block, start)?;
        if let Some(last) = memchr::memrchr(b'\n', block) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
