//! The thread that reads a stream through its journal.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    OnWait,
    log::Log,
    record::{Kind, RECORD_HEAD_BYTES},
    walk::walk,
};
use crate::{
    ConnectError,
    lock::lock,
    text::{Outlet, Piece, Stream},
};

/// Bytes read, made durable and handed over at a time, at most: as much as a pipe holds at most without privileges, so
/// while one read is made durable the next one gathers in the pipe.
pub(super) const READ_BYTES: usize = 1 << 20;
/// How long to wait before a disk that had no room is tried again, and for a checkpoint to make room in the journal.
const PAUSE: Duration = Duration::from_millis(100);

/// What the shard and the thread tell each other.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Written by the shard: everything before this offset is in checkpoints that are kept. Only ever grows.
    acknowledged: AtomicU64,
    /// Nobody reads any more: the journal may be another's. Held while the journal is written to, so it is set between
    /// two records.
    is_over: Mutex<bool>,
    changed: Condvar,
}

impl Link {
    /// Lets the journal forget what comes before `offset`.
    pub fn acknowledge(&self, offset: u64) {
        // The thread looks at intervals anyway, so nothing has to be ordered.
        self.acknowledged.fetch_max(offset, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Nothing is written to the journal after this.
    pub fn end(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        lock(&self.is_over)
    }

    /// The right to write to the journal, while somebody reads.
    fn hold(&self) -> Result<MutexGuard<'_, bool>, Stop> {
        Some(self.lock()).filter(|is_over| !**is_over).ok_or(Stop::Over)
    }

    /// Waits a moment.
    fn pause<'a>(&self, guard: MutexGuard<'a, bool>) -> Result<MutexGuard<'a, bool>, Stop> {
        let guard = self.changed.wait_timeout(guard, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
        Some(guard).filter(|is_over| !**is_over).ok_or(Stop::Over)
    }
}

/// What the thread works with.
pub(super) struct Work {
    pub folder: PathBuf,
    pub segment_bytes: u64,
    /// reading stops when the journal holds so many bytes
    pub bytes_max: u64,
    pub link: Arc<Link>,
    pub on_wait: OnWait,
}

/// Reading waits for the journal, as the log and whoever watches the run are told; until it is dropped.
struct Waiting<'a>(&'a Work);

impl<'a> Waiting<'a> {
    fn new(work: &'a Work, reason: &str) -> Waiting<'a> {
        tracing::warn!("{reason}");
        (work.on_wait)(&work.folder, Some(reason));
        Waiting(work)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        (self.0.on_wait)(&self.0.folder, None);
    }
}

/// Why the thread ended before the stream did.
enum Stop {
    /// nobody listens
    Over,
    Failed(io::Error),
}

impl From<ConnectError> for Stop {
    fn from(error: ConnectError) -> Stop {
        Stop::Failed(io::Error::other(error.to_string()))
    }
}

impl Work {
    /// Hands over what the journal holds from `from` on, then what comes in, as soon as it is durable.
    pub fn run(self, from: u64, open: impl FnOnce() -> io::Result<Box<dyn Stream>>, outlet: &Outlet) {
        if let Err(Stop::Failed(error)) = self.read_through(from, open, outlet) {
            outlet.send(Err(error));
        }
    }

    fn read_through(
        &self,
        from: u64,
        open: impl FnOnce() -> io::Result<Box<dyn Stream>>,
        outlet: &Outlet,
    ) -> Result<(), Stop> {
        let mut log = self.replay(from, outlet)?;
        let mut stream = open().map_err(Stop::Failed)?;
        let mut record = vec![0; RECORD_HEAD_BYTES + READ_BYTES];
        let mut kind = Kind::Begin;
        loop {
            self.wait_for_room(&mut log)?;
            let count = stream.fill(&mut record, RECORD_HEAD_BYTES, READ_BYTES).map_err(Stop::Failed)?;
            if count == 0 {
                if kind == Kind::More {
                    self.append(&mut log, Kind::End, &mut record[..RECORD_HEAD_BYTES])?;
                }
                return Ok(());
            }
            let record = &mut record[..RECORD_HEAD_BYTES + count];
            self.append(&mut log, kind, record)?;
            stream.settle();
            kind = Kind::More;
            send(outlet, &record[RECORD_HEAD_BYTES..])?;
        }
    }

    /// Hands over what is in the journal, and makes it ready to be written to.
    fn replay(&self, from: u64, outlet: &Outlet) -> Result<Log, Stop> {
        let mut is_open = true;
        let mut has_listener = true;
        drop(self.link.hold()?);
        let found = walk(&self.folder, from, |head, bytes| {
            has_listener = match head.kind {
                Kind::Begin if head.offset >= from => boundary(outlet, is_open).is_ok(),
                _ => true,
            } && (bytes.is_empty() || send(outlet, bytes).is_ok());
            is_open = head.kind != Kind::End;
            has_listener
        })?;
        if !has_listener {
            return Err(Stop::Over);
        }
        let guard = self.link.hold()?;
        let log = Log::recover(&self.folder, &found, self.segment_bytes)?;
        drop(guard);
        if log.end() > 0 {
            boundary(outlet, found.is_open)?;
        }
        Ok(log)
    }

    /// Removes what is not needed any more, and waits until one more read has room.
    fn wait_for_room(&self, log: &mut Log) -> Result<(), Stop> {
        let mut guard = self.link.hold()?;
        let mut waiting = None;
        loop {
            let removed = log.remove_before(self.link.acknowledged.load(Ordering::Relaxed));
            if let Err(error) = removed.as_ref()
                && !error.is_transient()
            {
                removed?;
            }
            if log.bytes() + READ_BYTES as u64 <= self.bytes_max {
                return Ok(());
            }
            waiting.get_or_insert_with(|| {
                let (path, bytes) = (self.folder.display(), self.bytes_max);
                let reason = format!("reading waits for the next checkpoints: journal {path} holds {bytes} bytes");
                Waiting::new(self, &reason)
            });
            guard = self.link.pause(guard)?;
        }
    }

    /// Makes a record durable, however long the disk has no room for it.
    fn append(&self, log: &mut Log, kind: Kind, record: &mut [u8]) -> Result<(), Stop> {
        let mut guard = self.link.hold()?;
        let mut waiting = None;
        loop {
            match log.append(kind, record) {
                Ok(()) => {
                    if waiting.is_some() {
                        tracing::info!("journal {} is written again", self.folder.display());
                    }
                    return Ok(());
                }
                Err(error) if error.is_transient() => {
                    waiting.get_or_insert_with(|| {
                        let path = self.folder.display();
                        let reason = match error.is_out_of_space() {
                            true => format!("paused: no space for journal {path}"),
                            false => format!("paused: journal {path}: {error}"),
                        };
                        Waiting::new(self, &reason)
                    });
                }
                Err(error) => return Err(error.into()),
            }
            guard = self.link.pause(guard)?;
        }
    }
}

/// A record may be longer than one read, and what waits for the shard should not be.
fn send(outlet: &Outlet, bytes: &[u8]) -> Result<(), Stop> {
    for piece in bytes.chunks(READ_BYTES) {
        let mut chunk = outlet.buffer();
        chunk.clear();
        chunk.extend_from_slice(piece);
        if !outlet.send(Ok(Piece::Bytes(chunk))) {
            return Err(Stop::Over);
        }
    }
    Ok(())
}

fn boundary(outlet: &Outlet, is_cut: bool) -> Result<(), Stop> {
    if outlet.send(Ok(Piece::Boundary { is_cut })) { Ok(()) } else { Err(Stop::Over) }
}
