//! The calls as the kernel has them, without the C library's functions that this library stands in front of.

use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_char, c_int, c_long};

/// A system call. The arguments are those of the process that is watched, handed on as they came: what they point to
/// is the kernel's to check and that process's to answer for, as without this library.
#[allow(unsafe_code)]
pub(crate) fn call(number: c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the kernel checks every argument; a wrong pointer is answered with EFAULT.
    unsafe { libc::syscall(number, a, b, c, d, e, f) as isize }
}

/// The error code of this thread's last failed call.
#[allow(unsafe_code)]
pub(crate) fn set_errno(code: c_int) {
    // SAFETY: the C library gives every thread a place of its own, which lives as long as the thread.
    unsafe { *libc::__errno_location() = code };
}

/// A file descriptor as an argument.
pub(crate) fn fd(fd: c_int) -> usize {
    fd as isize as usize
}

/// The offset at which the next plain write to `fd` would go on.
pub(crate) fn position(of: c_int) -> Option<u64> {
    u64::try_from(call(libc::SYS_lseek, [fd(of), 0, libc::SEEK_CUR as usize, 0, 0, 0])).ok()
}

/// The function of this name in the libraries behind this one; `cache` keeps it. 0 if there is none.
#[allow(unsafe_code)]
pub(crate) fn next(name: &std::ffi::CStr, cache: &AtomicUsize) -> usize {
    let known = cache.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: the name ends with a zero byte; looking a symbol up changes nothing.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast::<c_char>()) } as usize;
    cache.store(found, Ordering::Relaxed);
    found
}
