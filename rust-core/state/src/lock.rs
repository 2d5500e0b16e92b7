//! Who works with a state folder: a file that is locked for as long as its owner lives.
//!
//! Whether someone is there is told by the lock alone, which the kernel takes away with the process. The number and
//! start time in the file only make a refusal readable.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::disk;
use crate::error::StateError;

/// How long the lock of a dead owner may stay: a child that was being made when the owner was killed holds it until it
/// has become the program that it is to be.
const DYING: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(5);
/// The kernel's unit of start times as it shows them to programs (`USER_HZ`), on every Linux that Rust knows.
const TICKS_PER_SECOND: u64 = 100;

/// The process that works with a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// When it started, in ticks since the machine did: with the number it names one process only.
    started: u64,
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "process {}", self.pid)?;
        match uptime() {
            Some(uptime) => {
                write!(out, ", which has been running for {} s", uptime.saturating_sub(self.started / TICKS_PER_SECOND))
            }
            None => Ok(()),
        }
    }
}

impl Owner {
    fn this() -> Option<Owner> {
        let pid = std::process::id();
        Some(Owner { pid, started: start_of(pid)? })
    }

    fn parse(text: &str) -> Option<Owner> {
        let (pid, started) = text.trim_end().split_once(' ')?;
        Some(Owner { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.started)
    }
}

/// When a process started; `None`: there is none. A zombie has ended.
fn start_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; after it come the state (field 3) and the rest.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn uptime() -> Option<u64> {
    fs::read_to_string("/proc/uptime").ok()?.split('.').next()?.parse().ok()
}

/// Held for as long as this value lives, and never longer than the process.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    _file: File,
}

impl OwnerLock {
    /// Locks the file at `path` for the state folder `folder`.
    pub(crate) fn acquire(path: &Path, folder: &Path) -> Result<OwnerLock, StateError> {
        let mut file = disk::open_private_file(path)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(StateError::io("lock", path)(source)),
                Err(TryLockError::WouldBlock) => {
                    let owner = read_owner(&mut file);
                    // Without a readable owner it is one that has just come, or one that was killed while it wrote its number.
                    let is_dying = owner.is_none_or(|owner| !owner.is_alive());
                    if !is_dying || start.elapsed() > DYING {
                        let owner = owner.filter(Owner::is_alive);
                        return Err(StateError::InUse { path: folder.to_owned(), owner });
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
        // The lock counts, not the text: a full disk must not keep anyone from what is there.
        let _ = write_owner(&mut file);
        Ok(OwnerLock { _file: file })
    }
}

fn read_owner(file: &mut File) -> Option<Owner> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64).read_to_string(&mut text).ok()?;
    Owner::parse(&text)
}

fn write_owner(file: &mut File) -> std::io::Result<()> {
    let Some(owner) = Owner::this() else { return Ok(()) };
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{} {}\n", owner.pid, owner.started).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_number_and_start_time() {
        let this = Owner::this().expect("this process");
        assert!(this.is_alive());
        assert!(!Owner { started: this.started + 1, ..this }.is_alive());
        assert_eq!(Owner::parse(&format!("{} {}\n", this.pid, this.started)), Some(this));
        for nonsense in ["", "1", "x 1", "1 x", "-1 5"] {
            assert_eq!(Owner::parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_process_that_has_ended_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let started = start_of(child.id());
        child.wait().expect("wait");
        assert_ne!(start_of(child.id()), started.or(Some(0)));
    }
}
