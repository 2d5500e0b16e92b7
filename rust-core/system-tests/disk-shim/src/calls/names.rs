//! What changes the names in folders.

use libc::{
    AT_FDCWD, AT_REMOVEDIR, RENAME_NOREPLACE, SYS_linkat, SYS_mkdirat, SYS_renameat2, SYS_symlinkat, SYS_unlinkat,
    c_char, c_int, c_uint, mode_t,
};

use crate::fault::{Site, Verdict};
use crate::record::{Kind, Record};
use crate::system::{call, fd as word};
use crate::watch::{Mode, watch};

/// A path as it was given: what it is relative to, and its text.
type Given = (c_int, *const c_char);

/// Carries out a call that changes one name or two, and notes it if one of them is ours.
fn change(site: Site, record: Record<'_>, first: Given, second: Option<Given>, run: impl FnOnce() -> isize) -> c_int {
    let Some(watch) = watch() else { return run() as c_int };
    // Under the lock, because the path leads where the names lead at this moment.
    let mut state = watch.lock();
    let path = watch.locate(first.0, first.1);
    let other = second.and_then(|(folder, path)| watch.locate(folder, path));
    if path.is_none() && other.is_none() {
        drop(state);
        return run() as c_int;
    }
    if let Verdict::Fail(_) = state.judge(site, || path.clone().unwrap_or_default()) {
        return -1;
    }
    let result = run();
    if result >= 0 && watch.mode != Mode::Fail {
        let is_across = second.is_some() && (path.is_none() || other.is_none());
        let kind = if is_across { Kind::Blind } else { record.kind };
        let (path, other) = (path.unwrap_or_default(), other.unwrap_or_default());
        state.note(Record { kind, ..record }.at(&path).with(&other));
    }
    result as c_int
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn renameat2(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    let kind = if flags & !RENAME_NOREPLACE == 0 { Kind::Rename } else { Kind::Blind };
    let arguments = [word(from_folder), from as usize, word(to_folder), to as usize, flags as usize, 0];
    let record = Record::of(kind, 0, 0);
    change(Site::Rename, record, (from_folder, from), Some((to_folder, to)), || call(SYS_renameat2, arguments))
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn renameat(from_folder: c_int, from: *const c_char, to_folder: c_int, to: *const c_char) -> c_int {
    renameat2(from_folder, from, to_folder, to, 0)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, 0)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn linkat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    let arguments = [word(from_folder), from as usize, word(to_folder), to as usize, word(flags), 0];
    let record = Record::of(Kind::Link, 0, 0);
    change(Site::Link, record, (from_folder, from), Some((to_folder, to)), || call(SYS_linkat, arguments))
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    linkat(AT_FDCWD, from, AT_FDCWD, to, 0)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    let is_folder = u64::from(flags & AT_REMOVEDIR != 0);
    let record = Record::of(Kind::Remove, 0, is_folder);
    let arguments = [word(folder), path as usize, word(flags), 0, 0, 0];
    change(Site::Remove, record, (folder, path), None, || call(SYS_unlinkat, arguments))
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    unlinkat(AT_FDCWD, path, 0)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn rmdir(path: *const c_char) -> c_int {
    unlinkat(AT_FDCWD, path, AT_REMOVEDIR)
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn remove(path: *const c_char) -> c_int {
    let result = unlink(path);
    let code = std::io::Error::last_os_error().raw_os_error();
    // This is how the C library finds out that it is a folder.
    if result < 0 && matches!(code, Some(libc::EISDIR | libc::EPERM)) { rmdir(path) } else { result }
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn mkdirat(folder: c_int, path: *const c_char, mode: mode_t) -> c_int {
    let arguments = [word(folder), path as usize, mode as usize, 0, 0, 0];
    let record = Record::of(Kind::MakeFolder, 0, 0);
    change(Site::Folder, record, (folder, path), None, || call(SYS_mkdirat, arguments))
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    mkdirat(AT_FDCWD, path, mode)
}

/// Nothing of ours makes symbolic links in such a folder.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn symlinkat(target: *const c_char, folder: c_int, path: *const c_char) -> c_int {
    let arguments = [target as usize, word(folder), path as usize, 0, 0, 0];
    change(Site::Link, Record::of(Kind::Blind, 0, 0), (folder, path), None, || call(SYS_symlinkat, arguments))
}

#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn symlink(target: *const c_char, path: *const c_char) -> c_int {
    symlinkat(target, AT_FDCWD, path)
}
