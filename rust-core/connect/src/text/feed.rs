//! Where a text partition's bytes come from: read in place, or by a thread of their own.

use std::{io, thread};

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

use super::content::Content;
use crate::Waker;

/// A thread reads at most so many bytes at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// … and so many chunks ahead.
const CHUNKS_AHEAD: usize = 8;

/// What [`Feed::read`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// so many bytes, at least one
    Bytes(usize),
    /// none now; the waker will be called
    Pending,
    /// no more
    End,
}

/// A stream of decompressed bytes.
pub(super) enum Feed {
    /// a regular file, which never keeps its reader waiting for somebody else
    Inline(Content),
    /// a FIFO, a terminal, standard input
    Thread(ReaderThread),
}

impl Feed {
    /// Reads into `buffer`, which is not empty.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Fed> {
        match self {
            Feed::Inline(content) => loop {
                match content.read(buffer) {
                    Ok(0) => return Ok(Fed::End),
                    Ok(count) => return Ok(Fed::Bytes(count)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            },
            Feed::Thread(thread) => thread.read(buffer),
        }
    }
}

/// A thread that reads ahead into a bounded queue. It ends with its input, or when it next has something to hand over
/// and nobody takes it any more.
pub(super) struct ReaderThread {
    chunks: Receiver<io::Result<Vec<u8>>>,
    spent: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    taken: usize,
}

impl ReaderThread {
    /// `open` runs on the thread: opening a FIFO waits for its writer.
    pub fn start(
        open: impl FnOnce() -> io::Result<Content> + Send + 'static,
        waker: Waker,
    ) -> io::Result<ReaderThread> {
        let (to_us, chunks) = bounded(CHUNKS_AHEAD);
        let (spent, to_fill) = bounded::<Vec<u8>>(CHUNKS_AHEAD);
        let outlet = Outlet { chunks: Some(to_us), waker };
        let work = move || read_all(open, &outlet, &to_fill);
        thread::Builder::new().name("ringmill-reader".to_owned()).spawn(work)?;
        Ok(ReaderThread { chunks, spent, chunk: Vec::new(), taken: 0 })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Fed> {
        if self.taken == self.chunk.len() {
            match self.chunks.try_recv() {
                Ok(chunk) => {
                    let spent = std::mem::replace(&mut self.chunk, chunk?);
                    self.taken = 0;
                    let _ = self.spent.try_send(spent);
                }
                Err(TryRecvError::Empty) => return Ok(Fed::Pending),
                Err(TryRecvError::Disconnected) => return Ok(Fed::End),
            }
        }
        let rest = &self.chunk[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(Fed::Bytes(count))
    }
}

/// The thread's end of the queue. However the thread ends, the queue is closed and then its reader woken.
struct Outlet {
    chunks: Option<Sender<io::Result<Vec<u8>>>>,
    waker: Waker,
}

impl Outlet {
    /// Hands a message over, waiting for room; `false` if nobody takes it any more.
    fn send(&self, message: io::Result<Vec<u8>>) -> bool {
        let taken = self.chunks.as_ref().is_some_and(|chunks| chunks.send(message).is_ok());
        (self.waker)();
        taken
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.chunks = None;
        (self.waker)();
    }
}

fn read_all(open: impl FnOnce() -> io::Result<Content>, outlet: &Outlet, spent: &Receiver<Vec<u8>>) {
    let mut content = match open() {
        Ok(content) => content,
        Err(error) => {
            outlet.send(Err(error));
            return;
        }
    };
    loop {
        let mut chunk = spent.try_recv().unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        let message = match content.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                Ok(chunk)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let last = message.is_err();
        if !outlet.send(message) || last {
            return;
        }
    }
}
