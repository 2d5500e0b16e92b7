//! The eventfd on which a core thread sleeps; each of its workers can ring it.

use crate::error::RingError;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// A sticky bell: a ring before the wait ends the wait at once. Close-on-exec; the spawner lets a worker inherit it.
#[derive(Debug)]
pub struct Doorbell {
    descriptor: OwnedFd,
}

impl Doorbell {
    /// A silent bell.
    ///
    /// # Errors
    /// [`RingError::System`] when the process has no descriptors left.
    pub fn new() -> Result<Doorbell, RingError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags)
            .map_err(|error| RingError::system("eventfd", "the doorbell", error))?;
        Ok(Doorbell { descriptor: event.into() })
    }

    /// The bell behind an inherited descriptor.
    #[must_use]
    pub fn from_fd(descriptor: OwnedFd) -> Doorbell {
        Doorbell { descriptor }
    }

    /// The same bell through another descriptor.
    ///
    /// # Errors
    /// [`RingError::System`] when the process has no descriptors left.
    pub fn try_clone(&self) -> Result<Doorbell, RingError> {
        let descriptor =
            self.descriptor.try_clone().map_err(|error| RingError::system("dup", "the doorbell", error))?;
        Ok(Doorbell { descriptor })
    }

    /// Its descriptor, readable once rung.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Ring. A counter at its limit (nobody listened 2^64 times) already rings, so a refused write is none.
    pub fn ring(&self) {
        while nix::unistd::write(&self.descriptor, &1_u64.to_ne_bytes()) == Err(Errno::EINTR) {}
    }

    /// Forget earlier rings.
    pub fn clear(&self) {
        let mut count = [0; 8];
        while nix::unistd::read(&self.descriptor, &mut count) == Err(Errno::EINTR) {}
    }

    /// Sleep until rung or until `timeout` is over; true if rung. Does not [`Doorbell::clear`]. May return early.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let mut polled = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        matches!(ppoll(&mut polled, timeout.map(TimeSpec::from_duration), None), Ok(1..))
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
