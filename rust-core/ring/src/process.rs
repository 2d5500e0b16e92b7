//! Death of a process, learnt from the kernel.

use crate::error::RingError;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// A process by descriptor: unlike a number it is never reused. Readable once the process is dead.
#[derive(Debug)]
pub struct PidFd {
    descriptor: OwnedFd,
}

impl PidFd {
    /// Watch a process. It must be a child that was not waited for yet, or the number may be another's by now.
    ///
    /// # Errors
    /// [`RingError::System`] if there is no such process.
    #[allow(unsafe_code)]
    pub fn open(process: u32) -> Result<PidFd, RingError> {
        // SAFETY: the call takes two integers and touches no memory of ours.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
        if descriptor < 0 {
            return Err(RingError::system("pidfd_open", "a process", std::io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor (close-on-exec) for us alone.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) };
        Ok(PidFd { descriptor })
    }

    /// Whether the process has ended (also as zombie).
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.poll(Some(Duration::ZERO))
    }

    /// Sleep until the process is dead or until `timeout` is over; true if dead.
    pub fn wait_dead(&self, timeout: Option<Duration>) -> bool {
        let start = Instant::now();
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            if self.poll(left) {
                return true;
            }
            if left == Some(Duration::ZERO) {
                return false;
            }
        }
    }

    /// Its descriptor as a number, for poll or epoll.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    fn poll(&self, timeout: Option<Duration>) -> bool {
        let mut polled = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        matches!(ppoll(&mut polled, timeout.map(TimeSpec::from_duration), None), Ok(1..))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
