//! Tells SQLite of a spent quota as of a full disk.
//!
//! Lack of room is to SQLite what the system calls `ENOSPC` (and it rolls back and says so); `EDQUOT` is a broken disk, and
//! what it does to roll back overwrites the system's reason before anybody can ask for it.

use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::Once,
};

use nix::errno::Errno;
use rusqlite::ffi::{SQLITE_OK, sqlite3_initialize, sqlite3_syscall_ptr, sqlite3_vfs_find};

use crate::disk::faults;

type Write = unsafe extern "C" fn(c_int, *const c_void, usize, libc::off_t) -> isize;

/// From now on all connections of this process write through [`write`].
#[allow(unsafe_code)]
pub fn tell_as_full_disk() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SQLite keeps its file system for as long as the process lives, and casts the function back to the type
        // of `pwrite(2)`, which is `write`'s, before it calls it.
        let code = unsafe {
            sqlite3_initialize();
            let vfs = sqlite3_vfs_find(ptr::null());
            let set = vfs.as_ref().and_then(|vfs| vfs.xSetSystemCall);
            let write = std::mem::transmute::<Write, sqlite3_syscall_ptr>(write);
            set.map(|set| set(vfs, c"pwrite".as_ptr(), write))
        };
        debug_assert_eq!(code, Some(SQLITE_OK));
    });
}

/// `pwrite(2)`, but for a spent quota's errno.
#[allow(unsafe_code)]
unsafe extern "C" fn write(file: c_int, bytes: *const c_void, count: usize, offset: libc::off_t) -> isize {
    let errno = match faults::next_write() {
        Some(error) => Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        None => {
            // SAFETY: what the caller gives is what `pwrite(2)` is given.
            let written = unsafe { libc::pwrite(file, bytes, count, offset) };
            if written >= 0 {
                return written;
            }
            Errno::last()
        }
    };
    if errno == Errno::EDQUOT { Errno::ENOSPC } else { errno }.set();
    -1
}
