//! The few steps on the file system that everything durable here is made of: private folders and files, fsync,
//! checksums.
//!
//! Folders are 0700 and files 0600, and ours alone; a symbolic link is never followed in the last component of a path.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{ELOOP, O_DIRECTORY, O_NOFOLLOW};

use crate::error::StateError;

/// Bytes read at once for a checksum: beyond 256 KiB it becomes no faster.
const READ_BYTES: usize = 256 << 10;

/// Makes a folder, and those above it, unless it is there; then sees to it that it is ours alone.
pub(crate) fn private_folder(path: &Path) -> Result<(), StateError> {
    match fs::symlink_metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StateError::io("create", path))?;
            if let Some(parent) = path.parent() {
                sync_folder_if_readable(parent)?;
            }
        }
        Err(source) => return Err(StateError::io("look at", path)(source)),
    }
    check_folder(path)?;
    tighten(path)
}

/// Refuses what is not a folder of this user.
pub(crate) fn check_folder(path: &Path) -> Result<(), StateError> {
    let data = fs::symlink_metadata(path).map_err(StateError::io("look at", path))?;
    if data.is_symlink() {
        return Err(StateError::refused(path, "is a symbolic link; state is kept in a real folder only"));
    }
    if !data.is_dir() {
        return Err(StateError::refused(path, "is not a folder"));
    }
    check_owner(path, &data)
}

/// Refuses what belongs to another user.
pub(crate) fn check_owner(path: &Path, data: &fs::Metadata) -> Result<(), StateError> {
    let user = nix::unistd::geteuid().as_raw();
    if data.uid() == user {
        return Ok(());
    }
    Err(StateError::refused(path, format!("belongs to user {}, not to this one ({user})", data.uid())))
}

/// Takes away what group and others may do. What others could write to is not trusted if there is something in it.
fn tighten(path: &Path) -> Result<(), StateError> {
    let mode = fs::symlink_metadata(path).map_err(StateError::io("look at", path))?.mode();
    if mode & 0o077 == 0 && mode & 0o700 == 0o700 {
        return Ok(());
    }
    if mode & 0o022 != 0 && !names(path)?.is_empty() {
        let rule = format!(
            "can be written to by others (mode {:04o}) and is not empty; see what is in it, then chmod 700",
            mode & 0o7777
        );
        return Err(StateError::refused(path, rule));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(StateError::io("chmod", path))
}

/// The names in a folder, sorted; names that are not text are refused.
pub(crate) fn names(path: &Path) -> Result<Vec<String>, StateError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(StateError::io("list", path))? {
        let name = entry.map_err(StateError::io("list", path))?.file_name();
        let name =
            name.into_string().map_err(|name| StateError::refused(&path.join(name), "has a name that is not text"))?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// Removes a folder and all in it; it need not be there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Opens a file that is no symbolic link, for reading.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)
}

/// Opens a file of this user alone for reading and writing, and makes it unless it is there.
pub(crate) fn open_private_file(path: &Path) -> Result<File, StateError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(path);
    let file = opened.map_err(|error| {
        if error.raw_os_error() == Some(ELOOP) {
            StateError::refused(path, "is a symbolic link")
        } else {
            StateError::io("open", path)(error)
        }
    })?;
    let data = file.metadata().map_err(StateError::io("look at", path))?;
    if !data.is_file() {
        return Err(StateError::refused(path, "is not a file"));
    }
    check_owner(path, &data)?;
    if data.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(StateError::io("chmod", path))?;
    }
    Ok(file)
}

/// Makes a file that is not there yet and writes it; it is not durable before [`sync_file`].
pub(crate) fn write_new_file(path: &Path, bytes: &[u8]) -> Result<File, StateError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(StateError::io("create", path))?;
    file.write_all(bytes).map_err(StateError::io("write", path))?;
    Ok(file)
}

/// Makes a file's content durable.
pub(crate) fn sync_file(file: &File, path: &Path) -> Result<(), StateError> {
    file.sync_all().map_err(StateError::io("fsync", path))
}

/// Makes a folder's entries durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), StateError> {
    let opened = OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(path);
    sync_file(&opened.map_err(StateError::io("open", path))?, path)
}

/// The same for a folder that may be someone else's: one that we may enter but not read cannot be synced by us.
fn sync_folder_if_readable(path: &Path) -> Result<(), StateError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match OpenOptions::new().read(true).custom_flags(O_DIRECTORY).open(path) {
        Ok(folder) => sync_file(&folder, path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(StateError::io("open", path)(error)),
    }
}

/// Length and CRC-32C of what is left to be read of a file.
pub(crate) fn checksum(file: &mut File) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, crc)),
            Ok(count) => {
                bytes += count as u64;
                crc = crc32c::crc32c_append(crc, &buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Moves a folder to another name next to it; the move is not durable before [`sync_folder`] of the folder around.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StateError> {
    fs::rename(from, to).map_err(StateError::io("rename", from))
}

/// A path without `.`, double slashes and a slash at the end (with which a symbolic link would be followed).
pub(crate) fn plain_path(path: &Path) -> PathBuf {
    path.components().collect()
}
