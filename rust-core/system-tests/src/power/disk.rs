//! The files and folders as the log says, with what of them is durable.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::content::{Change, Content};
use super::image::Image;
use super::record::{Kind, OPENED_EMPTIED, OPENED_NEW, OPENED_SYNCHRONOUS, Record};
use crate::chaos::Chance;

/// A file or folder, whatever it is called.
pub(super) type NodeId = usize;
/// The folder that is watched.
const ROOT: NodeId = 0;

type Names = BTreeMap<Vec<u8>, NodeId>;

/// A folder's files while a log is played.
#[derive(Clone)]
pub struct Disk {
    nodes: Vec<Node>,
    opened: HashMap<u32, (NodeId, bool)>,
    /// All changes of names, in their order.
    changes: Vec<NameChange>,
}

#[derive(Clone)]
enum Node {
    File(Content),
    Folder {
        /// at the beginning of the log
        first: Names,
        now: Names,
        /// that many of the disk's changes are durable as far as they concern this folder
        durable: usize,
    },
}

/// What happens at once: in these folders these names now stand for these nodes, or for nothing.
#[derive(Clone)]
struct NameChange(Vec<(NodeId, Vec<u8>, Option<NodeId>)>);

impl Disk {
    /// The disk as it is, all of it durable.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of(folder: &Path) -> io::Result<Disk> {
        let mut disk = Disk { nodes: Vec::new(), opened: HashMap::new(), changes: Vec::new() };
        disk.read(folder, &mut HashMap::new())?;
        Ok(disk)
    }

    fn read(&mut self, folder: &Path, known: &mut HashMap<u64, NodeId>) -> io::Result<NodeId> {
        let id = self.add(Node::folder(Names::new()));
        let mut names = Names::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let data = std::fs::symlink_metadata(entry.path())?;
            let node = match known.get(&data.ino()) {
                Some(node) => *node,
                None if data.is_dir() => self.read(&entry.path(), known)?,
                None => {
                    let bytes = std::fs::read(entry.path())?;
                    let node = self.add(Node::File(Content::durable(bytes)));
                    known.insert(data.ino(), node);
                    node
                }
            };
            names.insert(entry.file_name().into_vec(), node);
        }
        self.nodes[id] = Node::folder(names);
        Ok(id)
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Does what a record says.
    ///
    /// # Errors
    /// A record that does not fit to those before it: the log does not tell all.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<(), String> {
        let failed = || format!("the log does not tell all before {:?} {}", record.kind, show(record.path));
        match record.kind {
            Kind::Open => self.open(record).ok_or_else(failed),
            Kind::Write => self.change(record, Change::Write { offset: record.number, bytes: record.other.to_vec() }),
            Kind::Resize => self.change(record, Change::Resize(record.number)),
            Kind::Grow => self.change(record, Change::Grow(record.number)),
            Kind::Rename => self.rename(record).ok_or_else(failed),
            Kind::Link => self.link(record).ok_or_else(failed),
            Kind::Remove => {
                let (folder, name) = self.parent(record.path).ok_or_else(failed)?;
                self.lookup(folder, &name).ok_or_else(failed)?;
                self.change_names(vec![(folder, name, None)]);
                Ok(())
            }
            Kind::MakeFolder => {
                let (folder, name) = self.parent(record.path).ok_or_else(failed)?;
                let made = self.add(Node::folder(Names::new()));
                self.change_names(vec![(folder, name, Some(made))]);
                Ok(())
            }
            Kind::Sync => {
                let (node, _) = *self.opened.get(&record.handle).ok_or_else(failed)?;
                self.sync(node);
                Ok(())
            }
            Kind::SyncAll => {
                (0..self.nodes.len()).for_each(|node| self.sync(node));
                Ok(())
            }
            Kind::SyncLied | Kind::Fault | Kind::Begin => Ok(()),
            Kind::Blind => Err(format!("the log lacks what {} did to {}", show(record.other), show(record.path))),
        }
    }

    fn open(&mut self, record: &Record<'_>) -> Option<()> {
        let node = if record.number & OPENED_NEW == 0 {
            self.find(record.path)?
        } else {
            let (folder, name) = self.parent(record.path)?;
            let made = self.add(Node::File(Content::default()));
            self.change_names(vec![(folder, name, Some(made))]);
            made
        };
        if record.number & OPENED_EMPTIED != 0 {
            self.content(node)?.push(Change::Resize(0));
        }
        self.opened.insert(record.handle, (node, record.number & OPENED_SYNCHRONOUS != 0));
        Some(())
    }

    fn change(&mut self, record: &Record<'_>, change: Change) -> Result<(), String> {
        let found = match record.handle {
            0 => self.find(record.path).map(|node| (node, false)),
            handle => self.opened.get(&handle).copied(),
        };
        let content = found.and_then(|(node, is_synchronous)| Some((self.content(node)?, is_synchronous)));
        let (content, is_synchronous) = content.ok_or("the log changes a file that it did not open")?;
        content.push(change);
        if is_synchronous {
            content.sync();
        }
        Ok(())
    }

    fn rename(&mut self, record: &Record<'_>) -> Option<()> {
        let (from_folder, from) = self.parent(record.path)?;
        let (to_folder, to) = self.parent(record.other)?;
        let node = self.lookup(from_folder, &from)?;
        if self.lookup(to_folder, &to) != Some(node) {
            self.change_names(vec![(from_folder, from, None), (to_folder, to, Some(node))]);
        }
        Some(())
    }

    fn link(&mut self, record: &Record<'_>) -> Option<()> {
        let node = self.find(record.path)?;
        let (folder, name) = self.parent(record.other)?;
        self.change_names(vec![(folder, name, Some(node))]);
        Some(())
    }

    fn change_names(&mut self, change: Vec<(NodeId, Vec<u8>, Option<NodeId>)>) {
        for (folder, name, node) in &change {
            if let Node::Folder { now, .. } = &mut self.nodes[*folder] {
                set(now, name, *node);
            }
        }
        self.changes.push(NameChange(change));
    }

    fn sync(&mut self, node: NodeId) {
        match &mut self.nodes[node] {
            Node::File(content) => content.sync(),
            Node::Folder { durable, .. } => *durable = self.changes.len(),
        }
    }

    fn content(&mut self, node: NodeId) -> Option<&mut Content> {
        match &mut self.nodes[node] {
            Node::File(content) => Some(content),
            Node::Folder { .. } => None,
        }
    }

    fn lookup(&self, folder: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.nodes[folder] {
            Node::Folder { now, .. } => now.get(name).copied(),
            Node::File(_) => None,
        }
    }

    fn find(&self, path: &[u8]) -> Option<NodeId> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(ROOT, |folder, name| self.lookup(folder, name))
    }

    /// The folder that a path lies in, and its name there.
    fn parent(&self, path: &[u8]) -> Option<(NodeId, Vec<u8>)> {
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (folder, name) = cut.map_or((&b""[..], path), |cut| (&path[..cut], &path[cut + 1..]));
        Some((self.find(folder)?, name.to_vec()))
    }

    /// As the process sees it.
    #[must_use]
    pub fn now(&self) -> Image {
        self.image(&|folder| self.now_in(folder).clone(), &mut |content| content.now())
    }

    /// As it may be found after the power failed.
    #[must_use]
    pub fn after_power_loss(&self, chance: &mut Chance) -> Image {
        let until = if chance.below(2) == 0 { self.one_journal(chance) } else { self.by_folder(chance) };
        let mut found: HashMap<NodeId, Names> = HashMap::new();
        for (index, NameChange(parts)) in self.changes.iter().enumerate() {
            for (folder, name, node) in parts.iter().filter(|(folder, ..)| index < until[*folder]) {
                let names = found.entry(*folder).or_insert_with(|| self.first_in(*folder).clone());
                set(names, name, *node);
            }
        }
        let names = |folder| found.get(&folder).unwrap_or_else(|| self.first_in(folder)).clone();
        self.image(&names, &mut |content| content.after_power_loss(chance))
    }

    /// For each node how many of the changes are there: the same for all.
    fn one_journal(&self, chance: &mut Chance) -> Vec<usize> {
        // The last change that a folder's fsync made durable; an fsync without anything new before it moves nothing.
        let is_durable = |index: usize| {
            let NameChange(parts) = &self.changes[index];
            parts.iter().any(|(folder, ..)| index < self.durable_in(*folder))
        };
        let least = (0..self.changes.len()).rev().find(|index| is_durable(*index)).map_or(0, |index| index + 1);
        vec![between(least, self.changes.len(), chance); self.nodes.len()]
    }

    /// The same, each folder for itself.
    fn by_folder(&self, chance: &mut Chance) -> Vec<usize> {
        let all = self.changes.len();
        let mut until: Vec<usize> =
            (0..self.nodes.len()).map(|node| between(self.durable_in(node), all, chance)).collect();
        // What is there in one of its folders is there in all of them, with what was before it there.
        loop {
            let mut is_done = true;
            for (index, NameChange(parts)) in self.changes.iter().enumerate().filter(|(_, change)| change.0.len() > 1) {
                if parts.iter().any(|(folder, ..)| index < until[*folder]) {
                    for (folder, ..) in parts.iter().filter(|(folder, ..)| index >= until[*folder]).collect::<Vec<_>>()
                    {
                        until[*folder] = index + 1;
                        is_done = false;
                    }
                }
            }
            if is_done {
                return until;
            }
        }
    }

    fn durable_in(&self, node: NodeId) -> usize {
        match &self.nodes[node] {
            Node::Folder { durable, .. } => *durable,
            Node::File(_) => 0,
        }
    }

    fn first_in(&self, node: NodeId) -> &Names {
        match &self.nodes[node] {
            Node::Folder { first, .. } => first,
            Node::File(_) => unreachable!("only folders have names"),
        }
    }

    fn now_in(&self, node: NodeId) -> &Names {
        match &self.nodes[node] {
            Node::Folder { now, .. } => now,
            Node::File(_) => unreachable!("only folders have names"),
        }
    }

    fn image(&self, names: &dyn Fn(NodeId) -> Names, bytes: &mut dyn FnMut(&Content) -> Vec<u8>) -> Image {
        let mut image = Image::default();
        let mut folders = vec![(Vec::new(), ROOT)];
        while let Some((path, folder)) = folders.pop() {
            for (name, node) in names(folder) {
                let path = if path.is_empty() { name } else { [path.as_slice(), &name].join(&b'/') };
                match &self.nodes[node] {
                    Node::File(content) => image.add_file(path, node, || bytes(content)),
                    Node::Folder { .. } => {
                        image.add_folder(path.clone());
                        folders.push((path, node));
                    }
                }
            }
        }
        image
    }
}

impl Node {
    fn folder(names: Names) -> Node {
        Node::Folder { first: names.clone(), now: names, durable: 0 }
    }
}

fn set(names: &mut Names, name: &[u8], node: Option<NodeId>) {
    match node {
        Some(node) => names.insert(name.to_vec(), node),
        None => names.remove(name),
    };
}

/// None of what is not durable, all of it, or some.
fn between(least: usize, most: usize, chance: &mut Chance) -> usize {
    match chance.below(3) {
        0 => least,
        1 => most,
        _ => least + chance.below((most - least) as u64 + 1) as usize,
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
