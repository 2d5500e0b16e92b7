//! Many connections as one stream of whole lines.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::listener::{Connection, Listener};

/// A connection is read so far at a time, then it is the others' turn.
const TURN_BYTES: usize = 64 << 10;
/// How long no connection is taken after one could not be, for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(200);

/// The stream. It never ends.
pub struct Lines {
    listener: Listener,
    connections: Vec<Open>,
    record_bytes_max: usize,
    connections_max: usize,
    /// no connection is taken before
    pause_until: Option<Instant>,
    /// whole lines; `ready[taken..]` are not handed out yet
    ready: Vec<u8>,
    taken: usize,
    block: Box<[u8]>,
}

struct Open {
    stream: Box<dyn Connection>,
    /// the beginning of a line
    rest: Vec<u8>,
    /// what follows belongs to a line that is too long, of which enough was handed out
    is_skipping: bool,
    is_readable: bool,
    has_ended: bool,
}

impl Lines {
    pub fn new(listener: Listener, record_bytes_max: usize, connections_max: usize) -> Lines {
        Lines {
            listener,
            connections: Vec::new(),
            record_bytes_max,
            connections_max,
            pause_until: None,
            ready: Vec::new(),
            taken: 0,
            block: vec![0; TURN_BYTES].into_boxed_slice(),
        }
    }

    /// Waits until something happens, and takes what has come.
    fn go_on(&mut self) -> io::Result<()> {
        let takes_more = self.connections.len() < self.connections_max && self.pause_until.is_none();
        let mut watched: Vec<PollFd<'_>> = Vec::with_capacity(self.connections.len() + 1);
        watched.extend(self.connections.iter().map(|open| PollFd::new(open.stream.as_fd(), PollFlags::POLLIN)));
        if takes_more {
            watched.push(PollFd::new(std::os::fd::AsFd::as_fd(&self.listener), PollFlags::POLLIN));
        }
        let timeout = match self.pause_until {
            Some(until) => {
                PollTimeout::try_from(until.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut watched, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // An error is found when it is read.
        let happened: Vec<bool> =
            watched.iter().map(|fd| fd.revents().is_none_or(|events| !events.is_empty())).collect();
        for (open, happened) in self.connections.iter_mut().zip(&happened) {
            open.is_readable = *happened;
        }
        if self.pause_until.is_some_and(|until| until <= Instant::now()) {
            self.pause_until = None;
        }
        if takes_more && happened.last() == Some(&true) {
            self.accept();
        }
        for open in self.connections.iter_mut().filter(|open| open.is_readable) {
            open.take_turn(&mut self.block, self.record_bytes_max, &mut self.ready);
        }
        self.connections.retain(|open| !open.has_ended);
        Ok(())
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok(stream) => self.connections.push(Open {
                stream,
                rest: Vec::new(),
                is_skipping: false,
                is_readable: true,
                has_ended: false,
            }),
            // It was given up before it was taken, or another one's turn has come.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => {
                tracing::warn!("a connection cannot be taken yet: {error}");
                self.pause_until = Some(Instant::now() + PAUSE);
            }
        }
    }
}

impl Open {
    /// Reads once, without waiting.
    fn take_turn(&mut self, block: &mut [u8], record_bytes_max: usize, ready: &mut Vec<u8>) {
        match self.stream.read(block) {
            Ok(0) => self.end(ready),
            Ok(count) => self.take(&block[..count], record_bytes_max, ready),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The other side has died: what it sent is taken as it is.
            Err(_) => self.end(ready),
        }
    }

    fn take(&mut self, mut bytes: &[u8], record_bytes_max: usize, ready: &mut Vec<u8>) {
        if self.is_skipping {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return };
            bytes = &bytes[end + 1..];
            self.is_skipping = false;
        }
        if let Some(end) = memchr::memrchr(b'\n', bytes) {
            ready.append(&mut self.rest);
            ready.extend_from_slice(&bytes[..=end]);
            bytes = &bytes[end + 1..];
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() > record_bytes_max {
            // So much that it is known to be too long.
            self.rest.truncate(record_bytes_max + 1);
            self.end_line(ready);
            self.is_skipping = true;
        }
    }

    fn end(&mut self, ready: &mut Vec<u8>) {
        self.has_ended = true;
        if !self.rest.is_empty() {
            self.end_line(ready);
        }
    }

    fn end_line(&mut self, ready: &mut Vec<u8>) {
        ready.append(&mut self.rest);
        ready.push(b'\n');
    }
}

impl Read for Lines {
    /// Waits for at least one whole line; hands out whole lines only, where the buffer has room for them.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
            self.go_on()?;
        }
        let count = buffer.len().min(self.ready.len() - self.taken);
        buffer[..count].copy_from_slice(&self.ready[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}
