//! The journal of a source that comes only once: what was read is on the disk before anybody sees it.
//!
//! Every byte that a partition hands out can be read again from any offset that was not acknowledged, also after the
//! process was killed: the reading thread appends what it has read to a file, makes it durable, and only then hands it
//! over. What was taken from the pipe and is not durable yet when the process ends is lost: at most one read
//! ([`READ_BYTES`](thread::READ_BYTES), and what a decompressor holds); a pipe has no acknowledgement that could be held
//! back. While one read is made durable the next one gathers in the pipe. A stream that has one is told
//! ([`Stream::settle`]); what it hands over at once is one record, there as a whole or not at all.
//!
//! The bytes are kept as they are after decompression, so that going on needs nothing of what came before. Each run
//! reads a stream of its own, with its own compression, byte-order mark and header; offsets count through all of them.
//! A stream that was read to its end is ended as a file is. One that broke off with the process may have broken off
//! within a record: that beginning is a dead letter.
//!
//! It knows nothing of records of text, and does not lock its folder: whoever opens it owns the state around it.

mod log;
mod record;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
mod thread;
mod walk;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    ConnectError, Waker,
    text::{ReaderThread, Stream},
};
use log::SEGMENT_BYTES;
use thread::{Link, Work};

/// A journal holds so many bytes of a stream; then its source is not read until checkpoints make room.
const BYTES_MAX: u64 = 1 << 30;

/// Where a source that comes only once keeps what it has read, for as long as a checkpoint may need it.
#[derive(Clone)]
pub struct Journal {
    /// its own folder, made when the first bytes come
    pub folder: PathBuf,
    /// what is in it will be removed before the first poll: it is not looked at when the source is opened
    pub is_emptied: bool,
    /// told why reading waits for the journal in this folder, for people, and when it goes on (`None`)
    pub on_wait: OnWait,
}

/// See [`Journal::on_wait`]. Called from the reading thread.
pub type OnWait = Arc<dyn Fn(&Path, Option<&str>) + Send + Sync>;

impl Journal {
    /// That of one of several streams of a source, beside the source's own. Refuses a name that makes no folder's name.
    pub(crate) fn of_stream(&self, name: &str) -> Result<Journal, ConnectError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let mut folder = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        folder.push('@');
        for byte in name.bytes() {
            if is_plain(byte) { folder.push(byte.into()) } else { folder.push_str(&format!("%{byte:02X}")) }
        }
        if folder.len() > NAME_BYTES_MAX {
            return Err(ConnectError::Spec {
                option: "path",
                value: name.to_owned(),
                rule: "the name of a pipe that is journaled must be shorter",
            });
        }
        Ok(Journal { folder: self.folder.with_file_name(folder), ..self.clone() })
    }
}

/// Longest name of a folder.
const NAME_BYTES_MAX: usize = 255;

/// A stream that is read through a journal.
pub(crate) struct Journaled {
    folder: PathBuf,
    bytes_max: u64,
    segment_bytes: u64,
    on_wait: OnWait,
    open: Option<Open>,
    link: Arc<Link>,
}

type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Stream>> + Send>;

impl Journaled {
    /// A record of `record_bytes_max` has room.
    pub fn new<S: Stream + 'static>(
        journal: &Journal,
        record_bytes_max: usize,
        open: impl FnOnce() -> io::Result<S> + Send + 'static,
    ) -> Journaled {
        let open = || open().map(|stream| Box::new(stream) as Box<dyn Stream>);
        Journaled {
            folder: journal.folder.clone(),
            bytes_max: BYTES_MAX.max(2 * record_bytes_max as u64 + 2 * SEGMENT_BYTES),
            segment_bytes: SEGMENT_BYTES,
            on_wait: Arc::clone(&journal.on_wait),
            open: Some(Box::new(open)),
            link: Arc::default(),
        }
    }

    /// Refuses a journal that cannot be read from `from` to its end. Changes nothing.
    pub fn check(&self, from: u64) -> Result<(), ConnectError> {
        walk::check_folder(&self.folder)?;
        walk::walk(&self.folder, from, |_, _| true).map(drop)
    }

    /// The same for a partition that goes on there.
    pub fn check_resume(&self, partition: &str, from: u64) -> Result<(), ConnectError> {
        self.check(from).map_err(|error| ConnectError::Resume {
            partition: partition.to_owned(),
            reason: format!("{error}; --fresh begins anew"),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the stream was not begun to be read yet, so that it may still be chosen from where.
    pub fn is_waiting(&self) -> bool {
        self.open.is_some()
    }

    /// Begins to read from offset `from`, once.
    pub fn start(&mut self, from: u64, waker: Waker) -> io::Result<ReaderThread> {
        let open = self.open.take().ok_or_else(|| io::Error::other("the stream is being read already"))?;
        let work = Work {
            folder: self.folder.clone(),
            segment_bytes: self.segment_bytes,
            bytes_max: self.bytes_max,
            link: Arc::clone(&self.link),
            on_wait: Arc::clone(&self.on_wait),
        };
        ReaderThread::run(move |outlet| work.run(from, open, outlet), waker)
    }

    /// Lets the journal forget what comes before `offset`.
    pub fn acknowledge(&self, offset: u64) {
        self.link.acknowledge(offset);
    }
}

/// Hands what a journal holds of one stream from offset `from` on over, until `visit` wants no more.
pub(crate) fn read_from(folder: &Path, from: u64, mut visit: impl FnMut(&[u8]) -> bool) -> Result<(), ConnectError> {
    let is_next = |head: &record::Head| head.kind == record::Kind::Begin && head.offset > from;
    walk::walk(folder, from, |head, bytes| !is_next(head) && visit(bytes)).map(drop)
}

impl Drop for Journaled {
    fn drop(&mut self) {
        self.link.end();
    }
}
