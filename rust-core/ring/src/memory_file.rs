//! Creating, sealing and sizing the memory files. Mapping them is `mapping.rs`'s.

use crate::error::{FileRole, RingError};
use crate::header::Header;
use crate::layout::{Geometry, HEADER_BYTES};
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fstat};
use nix::sys::uio::{pread, pwrite};
use std::os::fd::{AsRawFd, OwnedFd};

/// Seals without which a file's size could change under a mapping (an access beyond the end is SIGBUS).
const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// Make a memory file with all its memory, its header written; not sealed yet.
pub(crate) fn create(geometry: &Geometry, header: &Header) -> Result<OwnedFd, RingError> {
    let descriptor = reserve(geometry)?;
    write_all(&descriptor, 0, &header.encode())?;
    Ok(descriptor)
}

/// Make a memory file with all its memory, full of zeros; not sealed yet.
pub(crate) fn reserve(geometry: &Geometry) -> Result<OwnedFd, RingError> {
    let (name, what) = match geometry.role {
        FileRole::Request => ("ringmill-request", "request memory"),
        FileRole::Response => ("ringmill-response", "response memory"),
    };
    let bytes = geometry.file_bytes;
    let failed = |call| move |error: nix::Error| RingError::System { call, what, bytes, source: error.into() };
    // tmpfs hands out memory until the kernel kills somebody, so ask first.
    if let Some(available) = available_bytes().filter(|available| *available < bytes) {
        return Err(RingError::OutOfMemory { file: geometry.role, bytes, available });
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let descriptor = memfd_create(name, flags).map_err(failed("memfd_create"))?;
    // Also sets the size. From here on no access can fail for want of memory.
    fallocate(&descriptor, FallocateFlags::empty(), 0, bytes as libc::off_t).map_err(failed("fallocate"))?;
    Ok(descriptor)
}

/// Write into a file that is not sealed against writing.
pub(crate) fn write_all(descriptor: &OwnedFd, offset: u64, bytes: &[u8]) -> Result<(), RingError> {
    let mut written = 0;
    while written < bytes.len() {
        let at = (offset + written as u64) as libc::off_t;
        match pwrite(descriptor, &bytes[written..], at) {
            Ok(0) => return Err(RingError::system("pwrite", "a memory file", nix::Error::ENOSPC)),
            Ok(count) => written += count,
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(RingError::system("pwrite", "a memory file", error)),
        }
    }
    Ok(())
}

/// Fix the size for ever; with `read_only` also refuse every later writable mapping and every write.
pub(crate) fn seal(descriptor: &OwnedFd, read_only: bool) -> Result<(), RingError> {
    let mut seals = SIZE_SEALS | SealFlag::F_SEAL_SEAL;
    if read_only {
        seals |= SealFlag::F_SEAL_FUTURE_WRITE;
    }
    fcntl(descriptor, FcntlArg::F_ADD_SEALS(seals))
        .map_err(|error| RingError::system("fcntl(F_ADD_SEALS)", "a memory file", error))?;
    Ok(())
}

/// Refuse a file whose size could change.
pub(crate) fn check_seals(file: FileRole, descriptor: &OwnedFd) -> Result<(), RingError> {
    let found = fcntl(descriptor, FcntlArg::F_GET_SEALS)
        .map_err(|error| RingError::system("fcntl(F_GET_SEALS)", "a memory file", error))?;
    if SealFlag::from_bits_truncate(found).contains(SIZE_SEALS) {
        return Ok(());
    }
    Err(RingError::NotSealed { file, found: found as u32, needed: SIZE_SEALS.bits() as u32 })
}

/// A second descriptor of a memory file that can only read.
pub(crate) fn reopen_read_only(descriptor: &OwnedFd) -> Result<OwnedFd, RingError> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|error| RingError::system("open", "request memory, read-only", error))
}

/// A private copy of the header and the size of the file.
pub(crate) fn read_header(file: FileRole, descriptor: &OwnedFd) -> Result<(Header, u64), RingError> {
    let status = fstat(descriptor).map_err(|error| RingError::system("fstat", "a memory file", error))?;
    let bytes = u64::try_from(status.st_size).unwrap_or(0);
    if bytes < HEADER_BYTES as u64 {
        return Err(RingError::Truncated { file, bytes, needed: HEADER_BYTES as u64 });
    }
    let mut header = [0; HEADER_BYTES];
    read_exact(file, descriptor, 0, &mut header)?;
    Ok((Header::decode(&header), bytes))
}

/// Fill `buffer` from `offset` on.
pub(crate) fn read_exact(
    file: FileRole,
    descriptor: &OwnedFd,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), RingError> {
    let read = pread(descriptor, buffer, offset as libc::off_t)
        .map_err(|error| RingError::system("pread", "a memory file", error))?;
    if read < buffer.len() {
        let (bytes, needed) = (offset + read as u64, offset + buffer.len() as u64);
        return Err(RingError::Truncated { file, bytes, needed });
    }
    Ok(())
}

/// What the kernel says it could give without swapping (`MemAvailable`); `None` where there is no /proc.
fn available_bytes() -> Option<u64> {
    let information = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = information.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
