//! The writing end of a journal.

use std::{
    collections::VecDeque,
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use ringmill_failpoint::hit;

use super::{
    record::{Head, Kind, RECORD_HEAD_BYTES, segment_head, segment_name},
    walk::{self, Walk, check_folder},
};
use crate::{ConnectError, disk, staging::write_error};

/// A segment that is longer gets no more records.
pub(super) const SEGMENT_BYTES: u64 = 64 << 20;

/// The last segment.
#[derive(Debug)]
struct Active {
    path: PathBuf,
    file: File,
    base: u64,
    /// so many bytes of the file are durable
    bytes: u64,
}

/// A journal that this process writes.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    segment_bytes: u64,
    /// where each segment begins, oldest first
    segments: VecDeque<u64>,
    active: Option<Active>,
    end: u64,
}

impl Log {
    /// Goes on behind what a walk found: an unfinished record is cut off, and what is whole is made durable.
    pub fn recover(folder: &Path, found: &Walk, segment_bytes: u64) -> Result<Log, ConnectError> {
        check_folder(folder)?;
        let mut segments: VecDeque<u64> = found.segments.iter().copied().collect();
        let mut active = None;
        if let Some(&base) = segments.back() {
            let path = folder.join(segment_name(base));
            if found.rest_bytes > 0 {
                tracing::warn!(
                    "journal {}: its last record was not finished; {} bytes are cut off behind byte {} of the stream",
                    path.display(),
                    found.rest_bytes,
                    found.end
                );
            }
            if found.tail_bytes == 0 {
                hit("journal.recover.remove");
                disk::remove(&path).map_err(|source| write_error(&path, source))?;
                segments.pop_back();
            } else {
                let file = walk::open(&path).map_err(|source| ConnectError::Open { path: path.clone(), source })?;
                hit("journal.recover.cut");
                if found.rest_bytes > 0 {
                    disk::cut(&file, found.tail_bytes).map_err(|source| write_error(&path, source))?;
                }
                hit("journal.recover.sync");
                disk::sync(&file).map_err(|source| write_error(&path, source))?;
                active = Some(Active { path, file, base, bytes: found.tail_bytes });
            }
            disk::sync_folder(folder).map_err(|source| write_error(folder, source))?;
            hit("journal.recover.synced");
        }
        Ok(Log { folder: folder.to_owned(), segment_bytes, segments, active, end: found.end })
    }

    /// Offset behind the last record.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of the stream that are kept.
    pub fn bytes(&self) -> u64 {
        self.end - self.segments.front().copied().unwrap_or(self.end)
    }

    /// Appends a record and makes it durable. `record` has room for its head before the bytes. After an error nothing
    /// counts of it, and the same call may be repeated.
    pub fn append(&mut self, kind: Kind, record: &mut [u8]) -> Result<(), ConnectError> {
        let (head, bytes) = record.split_at_mut(RECORD_HEAD_BYTES);
        let length = bytes.len() as u64;
        head.copy_from_slice(&Head::of(kind, self.end, bytes).encode());
        let end = self.end;
        let active = self.active()?;
        let write = || {
            hit("journal.write");
            disk::write_at(&active.file, record, active.bytes)?;
            hit("journal.sync");
            disk::sync_data(&active.file)
        };
        if let Err(source) = write() {
            // What stays if this fails too is overwritten by the next try, with these same bytes.
            let _ = disk::cut(&active.file, active.bytes);
            return Err(write_error(&active.path, source));
        }
        hit("journal.synced");
        active.bytes += record.len() as u64;
        self.end = end + length;
        Ok(())
    }

    /// The segment that takes the next record.
    fn active(&mut self) -> Result<&mut Active, ConnectError> {
        let is_full = |active: &Active| active.bytes >= self.segment_bytes && active.base < self.end;
        if self.active.as_ref().is_none_or(is_full) {
            let made = self.create_segment()?;
            self.segments.push_back(made.base);
            self.active = Some(made);
        }
        self.active.as_mut().ok_or_else(|| walk::refuse(&self.folder, "it has no segment".to_owned()))
    }

    fn create_segment(&self) -> Result<Active, ConnectError> {
        let base = self.end;
        let path = self.folder.join(segment_name(base));
        let create = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            hit("journal.segment.create");
            let file = disk::create(&path, 0o600)?;
            let head = segment_head(base);
            disk::write_at(&file, &head, 0)?;
            hit("journal.segment.sync");
            disk::sync(&file)?;
            hit("journal.segment.sync_folder");
            disk::sync_folder(&self.folder)?;
            for folder in self.folder.ancestors().skip(1).take(2).filter(|_| self.segments.is_empty()) {
                disk::sync_folder(folder)?;
            }
            hit("journal.segment.created");
            Ok((file, head.len() as u64))
        };
        let (file, bytes) = create().map_err(|source| write_error(&path, source))?;
        Ok(Active { path, file, base, bytes })
    }

    /// Removes segments of which nothing from `offset` on is a part. The last one stays.
    pub fn remove_before(&mut self, offset: u64) -> Result<(), ConnectError> {
        while self.segments.len() > 1 && self.segments[1] <= offset {
            let path = self.folder.join(segment_name(self.segments[0]));
            hit("journal.remove");
            disk::remove(&path).map_err(|source| write_error(&path, source))?;
            // One after the other also on the disk: what is left has no gap.
            disk::sync_folder(&self.folder).map_err(|source| write_error(&self.folder, source))?;
            hit("journal.removed");
            self.segments.pop_front();
        }
        Ok(())
    }
}
