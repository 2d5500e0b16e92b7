//! The journal of a source that comes only once: what was read is on the disk before anybody sees it.
//!
//! Every byte that a partition hands out can be read again from any offset that was not acknowledged, also after the
//! process was killed: the reading thread appends what it has read to a file, makes it durable, and only then hands it
//! over. What was taken from the pipe and is not durable yet when the process ends is lost: at most one read
//! ([`READ_BYTES`](thread::READ_BYTES), and what a decompressor holds); a pipe has no acknowledgement that could be held
//! back. While one read is made durable the next one gathers in the pipe.
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

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    ConnectError, Waker,
    text::{Content, ReaderThread},
};
use log::SEGMENT_BYTES;
use thread::{Link, Work};

/// A journal holds so many bytes of a stream; then its source is not read until checkpoints make room.
const BYTES_MAX: u64 = 1 << 30;

/// Where a source that comes only once keeps what it has read, for as long as a checkpoint may need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// its own folder, made when the first bytes come
    pub folder: PathBuf,
    /// what is in it will be removed before the first poll: it is not looked at when the source is opened
    pub is_emptied: bool,
}

/// A stream that is read through a journal.
pub(crate) struct Journaled {
    folder: PathBuf,
    bytes_max: u64,
    segment_bytes: u64,
    open: Option<Open>,
    link: Arc<Link>,
}

type Open = Box<dyn FnOnce() -> io::Result<Content> + Send>;

impl Journaled {
    /// A record of `record_bytes_max` has room.
    pub fn new(
        journal: &Journal,
        record_bytes_max: usize,
        open: impl FnOnce() -> io::Result<Content> + Send + 'static,
    ) -> Journaled {
        Journaled {
            folder: journal.folder.clone(),
            bytes_max: BYTES_MAX.max(2 * record_bytes_max as u64 + 2 * SEGMENT_BYTES),
            segment_bytes: SEGMENT_BYTES,
            open: Some(Box::new(open)),
            link: Arc::default(),
        }
    }

    /// Refuses a journal that cannot be read from `from` to its end. Changes nothing.
    pub fn check(&self, from: u64) -> Result<(), ConnectError> {
        walk::check_folder(&self.folder)?;
        walk::walk(&self.folder, from, |_, _| true).map(drop)
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
        };
        ReaderThread::run(move |outlet| work.run(from, open, outlet), waker)
    }

    /// Lets the journal forget what comes before `offset`.
    pub fn acknowledge(&self, offset: u64) {
        self.link.acknowledge(offset);
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        self.link.end();
    }
}
