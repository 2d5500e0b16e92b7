//! The folder of one run, and the list of all of them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::client;

/// The socket's name within the folder.
pub(super) const SOCKET: &str = "channels.sock";
/// The name of the socket to which producers connect.
const PRODUCERS: &str = "producers.sock";
/// A socket's path has room for 107 bytes; long pipeline names are cut to leave room for the rest.
const NAME_BYTES_MAX: usize = 40;

/// The folder of one run; removed when dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    pipeline: String,
}

/// A run that someone may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEntry {
    /// The pipeline's name, as far as the folder tells it.
    pub pipeline: String,
    /// The core process.
    pub pid: i32,
    /// Its folder.
    pub path: PathBuf,
}

impl RunFolder {
    /// Makes the folder of this process's run of `pipeline` and sweeps what dead runs left.
    ///
    /// # Errors
    /// What the file system says, and a refusal if the user's folder is not the user's alone.
    pub fn create(base: &Path, pipeline: &str) -> io::Result<RunFolder> {
        let parent = user_folder(base);
        make_private(&parent)?;
        check_private(&parent)?;
        sweep(&parent);
        let path = parent.join(format!("{}-{}", file_name(pipeline), std::process::id()));
        if path.exists() {
            // Left by a dead process whose number we were given.
            fs::remove_dir_all(&path)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(RunFolder { path, pipeline: pipeline.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the socket is.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Where producers connect, if the pipeline has a source for them.
    pub fn producers_socket(&self) -> PathBuf {
        self.path.join(PRODUCERS)
    }

    /// The pipeline's full name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Nobody is left to tell; the next run sweeps what stays.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// All runs of this user that answer, oldest first.
pub fn list(base: &Path) -> Vec<RunEntry> {
    let mut runs: Vec<(u64, RunEntry)> = entries(&user_folder(base))
        .filter(|run| !client::is_refused(&run.path.join(SOCKET)))
        .map(|run| (started(&run.path), run))
        .collect();
    runs.sort_by_key(|(started, run)| (*started, run.pid));
    runs.into_iter().map(|(_, run)| run).collect()
}

fn started(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |data| u64::try_from(data.ctime()).unwrap_or(0))
}

fn user_folder(base: &Path) -> PathBuf {
    base.join(format!("ringmill-{}", geteuid()))
}

fn make_private(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// In a folder that all may write to, someone else may have made ours first.
fn check_private(path: &Path) -> io::Result<()> {
    let data = fs::symlink_metadata(path)?;
    let is_ours = data.is_dir() && data.uid() == geteuid().as_raw() && data.permissions().mode() & 0o077 == 0;
    if is_ours {
        return Ok(());
    }
    let message = format!("{} is not a folder that only this user can enter", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

fn entries(parent: &Path) -> impl Iterator<Item = RunEntry> {
    fs::read_dir(parent).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (pipeline, pid) = name.rsplit_once('-')?;
        Some(RunEntry { pipeline: pipeline.to_owned(), pid: pid.parse().ok()?, path: entry.path() })
    })
}

/// Removes folders whose socket nobody serves any more.
fn sweep(parent: &Path) {
    for run in entries(parent).filter(|run| client::is_refused(&run.path.join(SOCKET))) {
        let _ = fs::remove_dir_all(&run.path);
    }
}

fn file_name(pipeline: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    pipeline.chars().map(allowed).take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_and_goes_with_the_run() {
        let base = tempfile::tempdir().expect("temporary folder");
        let folder = RunFolder::create(base.path(), "my pipeline/1").expect("create");
        let path = folder.path().to_owned();
        assert!(path.ends_with(format!("my_pipeline_1-{}", std::process::id())));
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let base = tempfile::tempdir().expect("temporary folder");
        let parent = user_folder(base.path());
        fs::create_dir(&parent).expect("create");
        fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).expect("chmod");
        let error = RunFolder::create(base.path(), "p").expect_err("not private");
        assert!(error.to_string().contains("only this user can enter"), "{error}");
    }
}
