//! Python processes have the user's umask: the files that functions make are the user's, not ours to hide.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::stat::{Mode, umask};

/// Lets the child create files as the user would, though this process hides its own.
#[allow(unsafe_code)]
pub(crate) fn give_umask_back(command: &mut Command) {
    let Some(mask) = ringmill_connect::user_mask() else { return };
    let prepare = move || {
        umask(Mode::from_bits_truncate(mask));
        Ok(())
    };
    // SAFETY: `prepare` makes one system call; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}
