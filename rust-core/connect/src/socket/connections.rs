//! Many connections, read in turns: what becomes whole of each goes into one stream.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::listener::{Connection, Listener};

/// A connection is read so far at a time, then it is the others' turn.
pub const TURN_BYTES: usize = 64 << 10;
/// When so much has become whole, it is handed out before others have their turn.
pub const WHOLE_BYTES_MAX: usize = 1 << 20;
/// How long no connection is taken after one could not be, for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(200);
/// Of connections that are ended for what they sent, one is told in so long.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Puts together what one connection sends. An error ends the connection, and says why.
pub trait Assembler: Send {
    /// More has come; what is whole of it goes to `whole`.
    fn take(&mut self, bytes: &[u8], whole: &mut Vec<u8>) -> Result<(), String>;

    /// What has come is more than goes to `whole` at a time: it goes on in the next turn, and nothing more is read before.
    fn is_behind(&self) -> bool {
        false
    }

    /// No more will come.
    fn end(&mut self, whole: &mut Vec<u8>) -> Result<(), String>;
}

/// All connections, and where further ones come from.
pub struct Connections {
    listener: Listener,
    assembler: Box<dyn Fn() -> Box<dyn Assembler> + Send>,
    open: Vec<Open>,
    connections_max: usize,
    /// whose turn is first
    first: usize,
    /// no connection is taken before
    pause_until: Option<Instant>,
    block: Box<[u8]>,
    ended: Ended,
}

struct Open {
    stream: Box<dyn Connection>,
    /// for people
    peer: String,
    assembler: Box<dyn Assembler>,
    is_readable: bool,
    has_ended: bool,
}

impl Connections {
    /// Each with an assembler of its own.
    pub fn new<A: Assembler + 'static>(
        listener: Listener,
        connections_max: usize,
        assembler: impl Fn() -> A + Send + 'static,
    ) -> Connections {
        Connections {
            listener,
            assembler: Box::new(move || Box::new(assembler())),
            open: Vec::new(),
            connections_max,
            first: 0,
            pause_until: None,
            block: vec![0; TURN_BYTES].into_boxed_slice(),
            ended: Ended::default(),
        }
    }

    /// Waits until something happens, and appends what has become whole.
    pub fn go_on(&mut self, whole: &mut Vec<u8>) -> io::Result<()> {
        self.wait()?;
        let (from, count) = (whole.len(), self.open.len());
        let first = std::mem::take(&mut self.first);
        for turn in 0..count {
            let open = &mut self.open[(first + turn) % count];
            if open.is_readable {
                open.take_turn(&mut self.block, whole, &mut self.ended);
            }
            if whole.len() - from >= WHOLE_BYTES_MAX {
                self.first = (first + turn + 1) % count;
                break;
            }
        }
        // Those before it move up.
        self.first -= self.open[..self.first].iter().filter(|open| open.has_ended).count();
        self.open.retain(|open| !open.has_ended);
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let takes_more = self.open.len() < self.connections_max && self.pause_until.is_none();
        let mut watched: Vec<PollFd<'_>> = Vec::with_capacity(self.open.len() + 1);
        watched.extend(self.open.iter().map(|open| PollFd::new(open.stream.as_fd(), PollFlags::POLLIN)));
        if takes_more {
            watched.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match self.pause_until {
            _ if self.open.iter().any(|open| open.assembler.is_behind()) => PollTimeout::ZERO,
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
        for (open, happened) in self.open.iter_mut().zip(&happened) {
            open.is_readable = *happened || open.assembler.is_behind();
        }
        if self.pause_until.is_some_and(|until| until <= Instant::now()) {
            self.pause_until = None;
        }
        if takes_more && happened.last() == Some(&true) {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, peer)) => {
                let assembler = (self.assembler)();
                self.open.push(Open { stream, peer, assembler, is_readable: true, has_ended: false });
            }
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
    /// Reads once, without waiting, unless what was read before comes first.
    fn take_turn(&mut self, block: &mut [u8], whole: &mut Vec<u8>, ended: &mut Ended) {
        let outcome = match self.assembler.is_behind() {
            true => self.assembler.take(&[], whole),
            false => self.read(block, whole),
        };
        if let Err(reason) = outcome {
            self.has_ended = true;
            ended.tell(&self.peer, &reason);
        }
    }

    fn read(&mut self, block: &mut [u8], whole: &mut Vec<u8>) -> Result<(), String> {
        match self.stream.read(block) {
            Ok(0) => self.end(whole),
            Ok(count) => self.assembler.take(&block[..count], whole),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            // The other side has died: what it sent is taken as it is.
            Err(_) => self.end(whole),
        }
    }

    fn end(&mut self, whole: &mut Vec<u8>) -> Result<(), String> {
        self.has_ended = true;
        self.assembler.end(whole)
    }
}

/// Connections that were ended for what they sent. Whoever makes many does not fill the log.
#[derive(Default)]
struct Ended {
    told: Option<Instant>,
    untold: u64,
}

impl Ended {
    fn tell(&mut self, peer: &str, reason: &str) {
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            self.untold += 1;
            return;
        }
        let others = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            count => format!(" (and so were {count} others)"),
        };
        tracing::warn!("a connection {peer} is ended{others}: {reason}");
        self.told = Some(Instant::now());
    }
}
