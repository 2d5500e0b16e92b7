//! Where a text partition's bytes come from: read in place, or by a thread of their own.

use std::{
    io::{self, Read},
    thread,
};

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

use super::content::Content;
use crate::Waker;

/// A thread reads at most so many bytes at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// … and so many chunks ahead.
const CHUNKS_AHEAD: usize = 8;
/// The memory of a chunk that came to be longer is not used again.
const CHUNK_KEPT_BYTES: usize = 1 << 20;

/// What [`Feed::read`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fed {
    /// so many bytes, at least one
    Bytes(usize),
    /// none now; the waker will be called
    Pending,
    /// the bytes so far were one stream, and what follows is another; `is_cut`: it was not read to its end
    Boundary { is_cut: bool },
    /// no more
    End,
}

/// Bytes that come only once, for a thread of their own.
pub(crate) trait Stream: Send {
    /// Waits for more, puts it into `bytes` from `at` on, and says how much it is; 0: there will be no more. What else
    /// `bytes` holds there does not count. At most `bytes_max` bytes, unless what must not be taken apart is longer.
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, bytes_max: usize) -> io::Result<usize>;

    /// All that was read so far is durable.
    fn settle(&mut self) {}
}

impl Stream for Content {
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, bytes_max: usize) -> io::Result<usize> {
        if bytes.len() < at + bytes_max {
            bytes.resize(at + bytes_max, 0);
        }
        loop {
            match self.read(&mut bytes[at..at + bytes_max]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
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
pub(crate) struct ReaderThread {
    pieces: Receiver<io::Result<Piece>>,
    spent: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    taken: usize,
}

impl ReaderThread {
    /// `open` runs on the thread: opening a FIFO waits for its writer.
    pub fn start<S: Stream>(
        open: impl FnOnce() -> io::Result<S> + Send + 'static,
        waker: Waker,
    ) -> io::Result<ReaderThread> {
        ReaderThread::run(move |outlet| read_all(open, outlet), waker)
    }

    /// A thread that does this.
    pub fn run(work: impl FnOnce(&Outlet) + Send + 'static, waker: Waker) -> io::Result<ReaderThread> {
        let (to_us, pieces) = bounded(CHUNKS_AHEAD);
        let (spent, to_fill) = bounded::<Vec<u8>>(CHUNKS_AHEAD);
        let outlet = Outlet { pieces: Some(to_us), spent: to_fill, waker };
        thread::Builder::new().name("ringmill-reader".to_owned()).spawn(move || work(&outlet))?;
        Ok(ReaderThread { pieces, spent, chunk: Vec::new(), taken: 0 })
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Fed> {
        if self.taken == self.chunk.len() {
            match self.pieces.try_recv() {
                Ok(piece) => {
                    let chunk = match piece? {
                        Piece::Bytes(chunk) => chunk,
                        Piece::Boundary { is_cut } => return Ok(Fed::Boundary { is_cut }),
                    };
                    let spent = std::mem::replace(&mut self.chunk, chunk);
                    self.taken = 0;
                    if spent.capacity() <= CHUNK_KEPT_BYTES {
                        let _ = self.spent.try_send(spent);
                    }
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

/// What the thread hands over.
pub(crate) enum Piece {
    /// the next bytes, at least one
    Bytes(Vec<u8>),
    /// see [`Fed::Boundary`]
    Boundary { is_cut: bool },
}

/// The thread's end of the queue. However the thread ends, the queue is closed and then its reader woken.
pub(crate) struct Outlet {
    pieces: Option<Sender<io::Result<Piece>>>,
    spent: Receiver<Vec<u8>>,
    waker: Waker,
}

impl Outlet {
    /// Hands a piece over, waiting for room; `false` if nobody takes it any more.
    pub fn send(&self, piece: io::Result<Piece>) -> bool {
        let taken = self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece).is_ok());
        (self.waker)();
        taken
    }

    /// A buffer to fill, with anything in it.
    pub fn buffer(&self) -> Vec<u8> {
        self.spent.try_recv().unwrap_or_default()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.pieces = None;
        (self.waker)();
    }
}

fn read_all<S: Stream>(open: impl FnOnce() -> io::Result<S>, outlet: &Outlet) {
    let mut stream = match open() {
        Ok(stream) => stream,
        Err(error) => {
            outlet.send(Err(error));
            return;
        }
    };
    loop {
        let mut chunk = outlet.buffer();
        let message = match stream.fill(&mut chunk, 0, CHUNK_BYTES) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                Ok(Piece::Bytes(chunk))
            }
            Err(error) => Err(error),
        };
        let last = message.is_err();
        if !outlet.send(message) || last {
            return;
        }
    }
}
