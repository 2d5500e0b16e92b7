//! What makes descriptors, doubles them and ends them.

use std::ffi::CStr;
use std::sync::atomic::AtomicUsize;

use libc::{
    AT_FDCWD, AT_SYMLINK_NOFOLLOW, DIR, F_DUPFD, F_DUPFD_CLOEXEC, FILE, O_ACCMODE, O_CREAT, O_DSYNC, O_EXCL,
    O_NOFOLLOW, O_RDONLY, O_SYNC, O_TMPFILE, O_TRUNC, O_WRONLY, SYS_close, SYS_close_range, SYS_dup, SYS_dup3,
    SYS_fcntl, SYS_openat, c_char, c_int, c_uint, mode_t,
};

use super::aliases;
use crate::fault::{Site, Verdict};
use crate::record::{Kind, OPENED_EMPTIED, OPENED_NEW, OPENED_SYNCHRONOUS, Record};
use crate::system::{call, fd as word, next};
use crate::watch::{Mode, Watch, handle, set_handle, watch};

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn openat(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let run = || call(SYS_openat, [word(folder), path as usize, word(flags), mode as usize, 0, 0]) as c_int;
    match watch() {
        Some(watch) => open_watched(watch, folder, path, flags, run),
        None => run(),
    }
}

fn open_watched(watch: &Watch, folder: c_int, path: *const c_char, flags: c_int, run: impl FnOnce() -> c_int) -> c_int {
    let mut state = watch.lock();
    let is_creation = flags & O_CREAT != 0;
    let is_new = is_creation && !exists(folder, path, flags);
    if is_new
        && let Some(path) = watch.locate(folder, path)
        && let Verdict::Fail(_) = state.judge(Site::Create, || path)
    {
        return -1;
    }
    let fd = run();
    if fd < 0 {
        return fd;
    }
    // The descriptor of a file that was closed behind our back may be this one.
    set_handle(fd, 0);
    let Some(path) = watch.location_of(fd) else { return fd };
    let handle = state.next_handle();
    set_handle(fd, handle);
    if watch.mode == Mode::Fail {
        return fd;
    }
    if flags & O_TMPFILE == O_TMPFILE {
        state.note(Record::of(Kind::Blind, 0, 0).at(&path).with(b"O_TMPFILE"));
    }
    let mut bits = if is_new { OPENED_NEW } else { 0 };
    if !is_new && flags & O_TRUNC != 0 && flags & O_ACCMODE != O_RDONLY {
        bits |= OPENED_EMPTIED;
    }
    if flags & (O_SYNC | O_DSYNC) != 0 {
        bits |= OPENED_SYNCHRONOUS;
    }
    state.note(Record::of(Kind::Open, handle, bits).at(&path));
    fd
}

#[allow(unsafe_code)]
fn exists(folder: c_int, path: *const c_char, flags: c_int) -> bool {
    let follow = if flags & (O_NOFOLLOW | O_EXCL) == 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
    // SAFETY: the path is what the caller of open gave, and `data` is ours; all zeros is a value of it.
    unsafe {
        let mut data: libc::stat = std::mem::zeroed();
        libc::fstatat(folder, path, &mut data, follow) == 0
    }
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    openat(AT_FDCWD, path, flags, mode)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode)
}

/// The "fortified" form, without a mode.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn __openat_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    openat(folder, path, flags, 0)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    openat(AT_FDCWD, path, flags, 0)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    // Before the call: after it another thread may have got the same number.
    set_handle(fd, 0);
    call(SYS_close, [word(fd), 0, 0, 0, 0, 0]) as c_int
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // With the bit CLOSE_RANGE_CLOEXEC they are only marked.
    if flags & 4 == 0 {
        (first..=last).map_while(|fd| c_int::try_from(fd).ok()).take(1 << 16).for_each(|fd| set_handle(fd, 0));
    }
    call(SYS_close_range, [first as usize, last as usize, word(flags), 0, 0, 0]) as c_int
}

/// `new` stands for what `old` stands for.
fn double(old: c_int, new: c_int) -> c_int {
    if new >= 0 && new != old {
        set_handle(new, handle(old).unwrap_or(0));
    }
    new
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn dup(old: c_int) -> c_int {
    double(old, call(SYS_dup, [word(old), 0, 0, 0, 0, 0]) as c_int)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    if old == new {
        let is_open = call(SYS_fcntl, [word(old), libc::F_GETFD as usize, 0, 0, 0, 0]) >= 0;
        return if is_open { new } else { -1 };
    }
    dup3(old, new, 0)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    double(old, call(SYS_dup3, [word(old), word(new), word(flags), 0, 0, 0]) as c_int)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    let result = call(SYS_fcntl, [word(fd), word(command), argument, 0, 0, 0]) as c_int;
    if matches!(command, F_DUPFD | F_DUPFD_CLOEXEC) { double(fd, result) } else { result }
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn closedir(folder: *mut DIR) -> c_int {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the caller promises an open stream.
    set_handle(unsafe { libc::dirfd(folder) }, 0);
    // SAFETY: this is the type of the C library's function of that name.
    let function: extern "C" fn(*mut DIR) -> c_int = unsafe { std::mem::transmute(next(c"closedir", &NEXT)) };
    function(folder)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fclose(file: *mut FILE) -> c_int {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the caller promises an open stream.
    set_handle(unsafe { libc::fileno(file) }, 0);
    // SAFETY: this is the type of the C library's function of that name.
    let function: extern "C" fn(*mut FILE) -> c_int = unsafe { std::mem::transmute(next(c"fclose", &NEXT)) };
    function(file)
}

/// What is written through a stream goes past us: such a file makes the log worthless, and that is said.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if is_written(mode)
        && let Some(watch) = watch()
        && let Some(path) = watch.locate(AT_FDCWD, path)
    {
        watch.lock().note(Record::of(Kind::Blind, 0, 0).at(&path).with(b"fopen"));
    }
    // SAFETY: this is the type of the C library's function of that name.
    let function: extern "C" fn(*const c_char, *const c_char) -> *mut FILE =
        unsafe { std::mem::transmute(next(c"fopen", &NEXT)) };
    function(path, mode)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if is_written(mode)
        && handle(fd).is_some()
        && let Some(watch) = watch()
        && let Some(path) = watch.location_of(fd)
    {
        watch.lock().note(Record::of(Kind::Blind, 0, 0).at(&path).with(b"fdopen"));
    }
    // SAFETY: this is the type of the C library's function of that name.
    let function: extern "C" fn(c_int, *const c_char) -> *mut FILE =
        unsafe { std::mem::transmute(next(c"fdopen", &NEXT)) };
    function(fd, mode)
}

/// Whether a stream of this mode can be written to.
#[allow(unsafe_code)]
fn is_written(mode: *const c_char) -> bool {
    // SAFETY: the caller of fopen promises a text that ends with a zero byte.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    mode.first() != Some(&b'r') || mode.contains(&b'+')
}

aliases! {
    openat64 = openat(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    open64 = open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    creat64 = creat(path: *const c_char, mode: mode_t) -> c_int;
    __openat64_2 = __openat_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int;
    __open64_2 = __open_2(path: *const c_char, flags: c_int) -> c_int;
    fcntl64 = fcntl(fd: c_int, command: c_int, argument: usize) -> c_int;
    fopen64 = fopen(path: *const c_char, mode: *const c_char) -> *mut FILE;
}
