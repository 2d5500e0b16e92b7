//! A folder's content at one moment, to be compared with a real one or put in its place.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::disk::{Disk, NodeId};

/// Files and folders by their paths below the one that was watched.
#[derive(Debug, Default)]
pub struct Image {
    /// None is a folder.
    paths: BTreeMap<PathBuf, Option<NodeId>>,
    files: BTreeMap<NodeId, Vec<u8>>,
}

/// Other names for files, so that they can be found again under any name and keep their inode numbers.
pub struct Kept {
    store: PathBuf,
}

impl Image {
    pub(super) fn add_file(&mut self, path: Vec<u8>, node: NodeId, bytes: impl FnOnce() -> Vec<u8>) {
        self.files.entry(node).or_insert_with(bytes);
        self.paths.insert(OsStr::from_bytes(&path).into(), Some(node));
    }

    pub(super) fn add_folder(&mut self, path: Vec<u8>) {
        self.paths.insert(OsStr::from_bytes(&path).into(), None);
    }

    /// The files by path.
    #[must_use]
    pub fn files(&self) -> BTreeMap<&Path, &[u8]> {
        let files = self.paths.iter().filter_map(|(path, node)| Some((path.as_path(), (*node)?)));
        files.map(|(path, node)| (path, self.files[&node].as_slice())).collect()
    }

    /// Makes `folder` hold this and nothing else. A file that the store has keeps its inode number.
    ///
    /// # Errors
    /// What the file system says.
    pub fn put(&self, folder: &Path, kept: &Kept) -> io::Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        let mut put: HashMap<NodeId, PathBuf> = HashMap::new();
        for (path, node) in &self.paths {
            let path = folder.join(path);
            let Some(node) = node else {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
                continue;
            };
            if let Some(other) = put.get(node) {
                fs::hard_link(other, &path)?;
                continue;
            }
            if kept.has(*node) {
                fs::hard_link(kept.path(*node), &path)?;
            }
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(&self.files[node])?;
            put.insert(*node, path);
        }
        Ok(())
    }

    /// Says in which files `folder` differs from this.
    ///
    /// # Errors
    /// What the file system says.
    pub fn differences(&self, folder: &Path) -> io::Result<Vec<String>> {
        let other = Disk::of(folder)?.now();
        let (mine, others) = (self.files(), other.files());
        let mut found = Vec::new();
        for (path, bytes) in &mine {
            match others.get(path) {
                None => found.push(format!("{} is not there", path.display())),
                Some(other) if other != bytes => {
                    let at = bytes.iter().zip(*other).take_while(|(mine, other)| mine == other).count();
                    let lengths = format!("{} and {} bytes", bytes.len(), other.len());
                    found.push(format!("{} differs from byte {at} on ({lengths})", path.display()));
                }
                Some(_) => {}
            }
        }
        let unknown = others.keys().filter(|path| !mine.contains_key(*path));
        found.extend(unknown.map(|path| format!("{} is unknown", path.display())));
        Ok(found)
    }
}

impl Kept {
    /// Gives every file of `folder`, which holds what `disk` says, another name in `store`, which is made anew.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of(disk: &Disk, folder: &Path, store: PathBuf) -> io::Result<Kept> {
        match fs::remove_dir_all(&store) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&store)?,
        }
        let kept = Kept { store };
        for (path, node) in disk.now().paths {
            if let Some(node) = node.filter(|node| !kept.has(*node)) {
                fs::hard_link(folder.join(path), kept.path(node))?;
            }
        }
        Ok(kept)
    }

    fn path(&self, node: NodeId) -> PathBuf {
        self.store.join(node.to_string())
    }

    fn has(&self, node: NodeId) -> bool {
        fs::symlink_metadata(self.path(node)).is_ok()
    }
}
