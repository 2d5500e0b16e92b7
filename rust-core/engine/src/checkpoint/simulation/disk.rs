//! A disk that forgets what was not synced.
//!
//! Files are words. A process's death loses nothing; a loss of power may lose, per file, anything written since its last
//! sync, and any of the changes to names since the last sync of the folder, in whatever order.

use std::collections::BTreeMap;

use crate::random::Random;

/// What files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A shard's state in the checkpoint of an epoch.
    Store(u64, usize),
    /// The manifest of an epoch.
    Manifest(u64),
    /// The checkpoint of an epoch under its final name; it has no content of its own.
    Checkpoint(u64),
    /// A sink's rows of an epoch, not shown yet.
    Staged(usize, u64),
    /// What a sink shows.
    Target(usize),
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u64>,
    synced: Vec<u64>,
}

enum Change {
    Link(Name, usize),
    Unlink(Name),
}

/// See the module's words.
#[derive(Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<Name, usize>,
    synced_names: BTreeMap<Name, usize>,
    changes: Vec<Change>,
}

impl Disk {
    /// Whether there is such a file.
    pub fn exists(&self, name: Name) -> bool {
        self.names.contains_key(&name)
    }

    /// All names.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = Name> + '_ {
        self.names.keys().copied()
    }

    /// A file's content; none if it is missing.
    pub fn read(&self, name: Name) -> &[u64] {
        self.names.get(&name).map_or(&[], |inode| &self.inodes[*inode].now)
    }

    /// Appends, making the file if need be.
    pub fn append(&mut self, name: Name, words: &[u64]) {
        let inode = self.inode(name);
        self.inodes[inode].now.extend_from_slice(words);
    }

    /// Cuts a file.
    pub fn truncate(&mut self, name: Name, length: usize) {
        let inode = self.inode(name);
        self.inodes[inode].now.truncate(length);
    }

    /// Makes an empty file in place of what may be there.
    pub fn create(&mut self, name: Name) {
        self.inodes.push(Inode::default());
        let inode = self.inodes.len() - 1;
        self.names.insert(name, inode);
        self.changes.push(Change::Link(name, inode));
    }

    /// Removes a name.
    pub fn remove(&mut self, name: Name) {
        if self.names.remove(&name).is_some() {
            self.changes.push(Change::Unlink(name));
        }
    }

    /// What was written to a file is durable.
    pub fn sync(&mut self, name: Name) {
        if let Some(&inode) = self.names.get(&name) {
            let inode = &mut self.inodes[inode];
            inode.synced.clone_from(&inode.now);
        }
    }

    /// All names are durable.
    pub fn sync_names(&mut self) {
        self.changes.clear();
        self.synced_names.clone_from(&self.names);
    }

    /// The power fails and comes back.
    pub fn lose_power(&mut self, chance: &mut Random) {
        for change in std::mem::take(&mut self.changes) {
            if chance.one_in(2) {
                match change {
                    Change::Link(name, inode) => self.synced_names.insert(name, inode),
                    Change::Unlink(name) => self.synced_names.remove(&name),
                };
            }
        }
        self.names.clone_from(&self.synced_names);
        for inode in &mut self.inodes {
            let Inode { now, synced } = inode;
            match chance.below(3) {
                0 => now.clone_from(synced),
                1 if now.starts_with(synced) && now.len() > synced.len() => {
                    now.truncate(synced.len() + 1 + chance.below((now.len() - synced.len()) as u64) as usize);
                    if chance.one_in(2)
                        && let Some(torn) = now.last_mut()
                    {
                        *torn ^= 1 << chance.below(64);
                    }
                }
                _ => {}
            }
            synced.clone_from(now);
        }
    }

    fn inode(&mut self, name: Name) -> usize {
        if !self.exists(name) {
            self.create(name);
        }
        self.names[&name]
    }
}
