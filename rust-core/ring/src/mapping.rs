//! The only place where memory is mapped.

use crate::error::{FileRole, RingError};
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};

/// A memory file in this process's address space. Hands out addresses, never references: another process may
/// write what lies behind them.
pub(crate) struct Mapping {
    memory: ManuallyDrop<MmapRaw>,
    /// The process that has it: a forked child has not.
    process: u32,
}

impl Mapping {
    /// Map a file to write it. Its size is fixed (sealed, or not yet handed over), so no access can fault.
    pub fn writable(file: FileRole, descriptor: &OwnedFd, bytes: u64) -> Result<Mapping, RingError> {
        let mapped = MmapOptions::new().len(bytes as usize).populate().map_raw(descriptor.as_raw_fd());
        Self::finish(file, bytes, mapped)
    }

    /// Map a file to read it.
    pub fn read_only(file: FileRole, descriptor: &OwnedFd, bytes: u64) -> Result<Mapping, RingError> {
        let mapped = MmapOptions::new().len(bytes as usize).populate().map_raw_read_only(descriptor.as_raw_fd());
        Self::finish(file, bytes, mapped)
    }

    fn finish(file: FileRole, bytes: u64, mapped: std::io::Result<MmapRaw>) -> Result<Mapping, RingError> {
        let what = match file {
            FileRole::Request => "request memory",
            FileRole::Response => "response memory",
        };
        let failed = |call| move |source| RingError::System { call, what, bytes, source };
        let memory = mapped.map_err(failed("mmap"))?;
        // A forked child must not become a second writer, nor keep the memory alive.
        memory.advise(Advice::DontFork).map_err(failed("madvise"))?;
        Ok(Mapping { memory: ManuallyDrop::new(memory), process: std::process::id() })
    }

    /// First byte; page-aligned.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.memory.as_mut_ptr()
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // In a forked child nothing is mapped there, or by now something of the child's own, which must stay.
        if std::process::id() == self.process {
            // SAFETY: dropped here, once, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}
