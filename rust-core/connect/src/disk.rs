//! What sinks and journals do to files: every call that changes a disk goes through here, so that a test can make any of them fail.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use crate::user_mask::share_file;

/// Creates a file, or empties it; a symbolic link is refused. One that is for others too is shared with them as far as the
/// user's umask goes.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    faults::next()?;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    if mode & 0o077 != 0 {
        share_file(&file, mode)?;
    }
    Ok(file)
}

/// Opens a file to be written on; a symbolic link is refused.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Writes all of `bytes` at `offset`. After an error some of them may be there.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    if let Some(error) = faults::next_write() {
        file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
        return Err(error);
    }
    file.write_all_at(bytes, offset)
}

/// Cuts a file to its first `length` bytes.
pub(crate) fn cut(file: &File, length: u64) -> io::Result<()> {
    faults::next()?;
    file.set_len(length)
}

/// Makes a file's content and length durable.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    faults::next()?;
    file.sync_all()
}

/// Makes a file's content durable, and its length.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    faults::next()?;
    file.sync_data()
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    faults::next()?;
    File::open(path)?.sync_all()
}

/// Makes a file's name durable.
pub(crate) fn sync_name(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}

/// Gives a file another name, replacing what has it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::next()?;
    fs::rename(from, to)
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    faults::next()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(not(test))]
pub(crate) mod faults {
    use std::io;

    #[inline(always)]
    pub fn next() -> io::Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn next_write() -> Option<io::Error> {
        None
    }
}

/// Failures to order: the n-th change of a disk by this thread fails.
#[cfg(test)]
pub(crate) mod faults {
    use std::{cell::Cell, io};

    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(0) };
        static CODE: Cell<i32> = const { Cell::new(0) };
        static REPEATS: Cell<u64> = const { Cell::new(0) };
    }

    /// The `n`-th change from now on (counted from 1), and `repeats` changes after it, fail with this error number.
    pub fn order(n: u64, repeats: u64, code: i32) {
        LEFT.set(n);
        REPEATS.set(repeats);
        CODE.set(code);
    }

    /// Does what somebody else does, whom nothing fails.
    pub fn spare<T>(work: impl FnOnce() -> T) -> T {
        let (left, repeats) = (LEFT.take(), REPEATS.take());
        let done = work();
        LEFT.set(left);
        REPEATS.set(repeats);
        done
    }

    /// Whether all ordered failures have happened.
    pub fn are_spent() -> bool {
        LEFT.get() == 0 && REPEATS.get() == 0
    }

    pub fn next() -> io::Result<()> {
        next_write().map_or(Ok(()), Err)
    }

    pub fn next_write() -> Option<io::Error> {
        let fails = match LEFT.get() {
            0 if REPEATS.get() > 0 => {
                REPEATS.set(REPEATS.get() - 1);
                true
            }
            0 => false,
            left => {
                LEFT.set(left - 1);
                left == 1
            }
        };
        fails.then(|| io::Error::from_raw_os_error(CODE.get()))
    }
}
