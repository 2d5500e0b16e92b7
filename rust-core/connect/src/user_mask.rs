//! Who may use what a sink makes: whoever the user's umask lets.
//!
//! A process that keeps its own files to itself has a umask of 077, which hides everything that it creates, whichever
//! library creates it. Outputs are for others: what is newly made gets the permissions that the user's own umask leaves,
//! and what was there keeps those that it has. Where nobody has called [`set_user_mask`], the process's umask is the
//! user's, and nothing is done here.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::OnceLock,
};

/// The permissions of a file and of a folder before a umask.
const FILE: u32 = 0o666;
const FOLDER: u32 = 0o777;

static USER_MASK: OnceLock<u32> = OnceLock::new();

/// Says which umask the process had before it began to hide its files. The first call counts.
pub fn set_user_mask(mask: u32) {
    // A second call is one for the same process, whose user is the same.
    let _ = USER_MASK.set(mask);
}

/// The user's umask, if it is another than the process's.
pub fn user_mask() -> Option<u32> {
    USER_MASK.get().copied()
}

/// Opens an output as `options` say (they need not say that it is created) and creates it if it is not there.
///
/// # Errors
/// What the file system says.
pub fn create_output(options: &OpenOptions, path: &Path) -> io::Result<File> {
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = options.clone().create(true).open(path)?;
            share_file(&file, FILE)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// Gives a new file the mode that the user's umask leaves.
pub(crate) fn share_file(file: &File, mode: u32) -> io::Result<()> {
    user_mask().map_or(Ok(()), |mask| file.set_permissions(fs::Permissions::from_mode(mode & !mask)))
}

/// Makes a folder for outputs, and those above it, unless it is there.
///
/// # Errors
/// What the file system says.
pub fn create_output_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), create_output_folder)?;
    fs::create_dir(path)?;
    user_mask().map_or(Ok(()), |mask| fs::set_permissions(path, fs::Permissions::from_mode(FOLDER & !mask)))
}
