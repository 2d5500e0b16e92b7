//! What changes the content of files, and what makes it durable.

use libc::{
    EINVAL, EXDEV, SEEK_END, SYS_copy_file_range, SYS_fallocate, SYS_fdatasync, SYS_fsync, SYS_ftruncate, SYS_lseek,
    SYS_mmap, SYS_pwrite64, SYS_sendfile, SYS_sync, SYS_syncfs, SYS_write, c_char, c_int, c_long, c_uint, c_void,
    iovec, off_t, size_t, ssize_t,
};

use super::aliases;
use crate::fault::{Site, Verdict};
use crate::record::{Kind, Record};
use crate::system::{call, fd as word, position, set_errno};
use crate::watch::{Mode, State, Watch, handle, watch};

/// Where a write goes.
#[derive(Clone, Copy)]
enum At {
    /// Where the last one ended, or at the file's end.
    Position,
    Offset(u64),
}

/// The watch, and the handle of a descriptor, if both are there.
fn watched(fd: c_int) -> Option<(&'static Watch, u32)> {
    let handle = handle(fd)?;
    watch().map(|watch| (watch, handle))
}

/// Carries a call out under the lock unless it is to fail; `note` says what it did.
fn change(watch: &Watch, fd: c_int, site: Site, run: impl FnOnce() -> isize, note: impl FnOnce(&mut State)) -> isize {
    let mut state = watch.lock();
    if let Verdict::Fail(_) = state.judge(site, || watch.location_of(fd).unwrap_or_default()) {
        return -1;
    }
    let result = run();
    if result >= 0 && watch.mode != Mode::Fail {
        note(&mut state);
    }
    result
}

#[allow(unsafe_code)]
fn write_to(fd: c_int, buffer: *const c_void, count: size_t, at: At) -> ssize_t {
    let put = |count: usize| match at {
        At::Position => call(SYS_write, [word(fd), buffer as usize, count, 0, 0, 0]),
        At::Offset(offset) => call(SYS_pwrite64, [word(fd), buffer as usize, count, offset as usize, 0, 0]),
    };
    let Some((watch, handle)) = watched(fd) else { return put(count) };
    let mut state = watch.lock();
    match state.judge(Site::Write, || watch.location_of(fd).unwrap_or_default()) {
        Verdict::Pass => {}
        Verdict::Short => return put(count.div_ceil(2)),
        Verdict::Fail(_) => return -1,
    }
    let written = put(count);
    if written > 0 && watch.mode != Mode::Fail {
        let start = match at {
            At::Position => position(fd).map(|end| end - written as u64),
            At::Offset(offset) => Some(offset),
        };
        // SAFETY: the kernel has just read this many bytes from there.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), written as usize) };
        // A pipe that has got the number of a file that was closed behind our back has no position.
        if let Some(start) = start {
            state.note(Record::of(Kind::Write, handle, start).with(bytes));
        }
    }
    written
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    write_to(fd, buffer, count, At::Position)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    write_to(fd, buffer, count, At::Offset(offset as u64))
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn writev(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    if watched(fd).is_none() {
        return call(libc::SYS_writev, [word(fd), pieces as usize, word(count), 0, 0, 0]);
    }
    let bytes = gather(pieces, count);
    write_to(fd, bytes.as_ptr().cast(), bytes.len(), At::Position)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn pwritev(fd: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    if watched(fd).is_none() {
        return call(libc::SYS_pwritev, [word(fd), pieces as usize, word(count), offset as usize, 0, 0]);
    }
    let bytes = gather(pieces, count);
    write_to(fd, bytes.as_ptr().cast(), bytes.len(), At::Offset(offset as u64))
}

/// The pieces of a write in one.
#[allow(unsafe_code)]
fn gather(pieces: *const iovec, count: c_int) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller of writev promises `count` pieces, each with as many bytes as it says.
        let piece = unsafe { &*pieces.add(index) };
        if piece.iov_len > 0 {
            // SAFETY: as above.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) });
        }
    }
    bytes
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    let run = || call(SYS_ftruncate, [word(fd), length as usize, 0, 0, 0, 0]);
    let Some((watch, handle)) = watched(fd) else { return run() as c_int };
    let note = |state: &mut State| state.note(Record::of(Kind::Resize, handle, length as u64));
    change(watch, fd, Site::Resize, run, note) as c_int
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn truncate(path: *const c_char, length: off_t) -> c_int {
    let run = || call(libc::SYS_truncate, [path as usize, length as usize, 0, 0, 0, 0]);
    let found = watch().and_then(|watch| Some((watch, watch.locate(libc::AT_FDCWD, path)?)));
    let Some((watch, path)) = found else { return run() as c_int };
    let mut state = watch.lock();
    if let Verdict::Fail(_) = state.judge(Site::Resize, || path.clone()) {
        return -1;
    }
    let result = run();
    if result >= 0 && watch.mode != Mode::Fail {
        state.note(Record::of(Kind::Resize, 0, length as u64).at(&path));
    }
    result as c_int
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    let run = || call(SYS_fallocate, [word(fd), word(mode), offset as usize, length as usize, 0, 0]);
    let Some((watch, handle)) = watched(fd) else { return run() as c_int };
    let note = |state: &mut State| match mode {
        0 => state.note(Record::of(Kind::Grow, handle, (offset + length) as u64)),
        libc::FALLOC_FL_KEEP_SIZE => {}
        // RocksDB gives back what it has allocated behind the end of a file.
        _ if mode == libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE && is_behind_the_end(fd, offset) => {}
        _ => blind(state, watch, fd, b"fallocate"),
    };
    change(watch, fd, Site::Allocate, run, note) as c_int
}

fn is_behind_the_end(fd: c_int, offset: off_t) -> bool {
    let before = call(SYS_lseek, [word(fd), 0, libc::SEEK_CUR as usize, 0, 0, 0]);
    let end = call(SYS_lseek, [word(fd), 0, SEEK_END as usize, 0, 0, 0]);
    call(SYS_lseek, [word(fd), before as usize, libc::SEEK_SET as usize, 0, 0, 0]);
    offset as isize >= end
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn posix_fallocate(fd: c_int, offset: off_t, length: off_t) -> c_int {
    // This one says its error code instead of -1.
    if fallocate(fd, 0, offset, length) == 0 {
        return 0;
    }
    std::io::Error::last_os_error().raw_os_error().unwrap_or(EINVAL)
}

/// This change is not in the log.
fn blind(state: &mut State, watch: &Watch, fd: c_int, what: &[u8]) {
    let path = watch.location_of(fd).unwrap_or_default();
    state.note(Record::of(Kind::Blind, 0, 0).at(&path).with(what));
}

fn sync_file(fd: c_int, number: c_long) -> c_int {
    let run = || call(number, [word(fd), 0, 0, 0, 0, 0]);
    let Some((watch, handle)) = watched(fd) else { return run() as c_int };
    if watch.lies_about(fd) {
        watch.lock().note(Record::of(Kind::SyncLied, handle, 0));
        return 0;
    }
    change(watch, fd, Site::Sync, run, |state| state.note(Record::of(Kind::Sync, handle, 0))) as c_int
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    sync_file(fd, SYS_fsync)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync_file(fd, SYS_fdatasync)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn syncfs(fd: c_int) -> c_int {
    let run = || call(SYS_syncfs, [word(fd), 0, 0, 0, 0, 0]);
    match watched(fd) {
        Some((watch, _)) if watch.lies_about(fd) => 0,
        Some((watch, _)) => {
            change(watch, fd, Site::Sync, run, |state| state.note(Record::of(Kind::SyncAll, 0, 0))) as c_int
        }
        None => run() as c_int,
    }
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn sync() {
    match watch() {
        Some(watch) => {
            let mut state = watch.lock();
            call(SYS_sync, [0; 6]);
            state.note(Record::of(Kind::SyncAll, 0, 0));
        }
        None => {
            call(SYS_sync, [0; 6]);
        }
    }
}

/// Refused for our files as between file systems: every caller then reads and writes instead.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn copy_file_range(
    from: c_int,
    from_offset: *mut off_t,
    to: c_int,
    to_offset: *mut off_t,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    if watched(to).is_some() {
        set_errno(EXDEV);
        return -1;
    }
    let arguments = [word(from), from_offset as usize, word(to), to_offset as usize, count, flags as usize];
    call(SYS_copy_file_range, arguments)
}

/// Refused for our files as where it is not supported.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    if watched(to).is_some() {
        set_errno(EINVAL);
        return -1;
    }
    call(SYS_sendfile, [word(to), word(from), offset as usize, count, 0, 0])
}

/// Refused for our files as where it is not supported.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn splice(
    from: c_int,
    from_offset: *mut off_t,
    to: c_int,
    to_offset: *mut off_t,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    if watched(to).is_some() {
        set_errno(EINVAL);
        return -1;
    }
    let arguments = [word(from), from_offset as usize, word(to), to_offset as usize, count, flags as usize];
    call(libc::SYS_splice, arguments)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let is_written = protection & libc::PROT_WRITE != 0 && flags & libc::MAP_SHARED != 0;
    if is_written && let Some((watch, _)) = watched(fd) {
        blind(&mut watch.lock(), watch, fd, b"mmap");
    }
    let arguments = [address as usize, length, word(protection), word(flags), word(fd), offset as usize];
    call(SYS_mmap, arguments) as *mut c_void
}

aliases! {
    pwrite64 = pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t;
    pwritev64 = pwritev(fd: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t;
    ftruncate64 = ftruncate(fd: c_int, length: off_t) -> c_int;
    truncate64 = truncate(path: *const c_char, length: off_t) -> c_int;
    fallocate64 = fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int;
    posix_fallocate64 = posix_fallocate(fd: c_int, offset: off_t, length: off_t) -> c_int;
    sendfile64 = sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t;
    mmap64 = mmap(
        address: *mut c_void, length: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t
    ) -> *mut c_void;
}
