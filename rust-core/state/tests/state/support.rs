//! Small stores to try things on, and what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringmill_state::{
    Delta, EntryKey, FORMAT, FileRecord, Manifest, NodeId, PartialCheckpoint, ShardStore, StateError, StateFolder,
    WHOLE_SHARD,
};
use tempfile::TempDir;

/// An entry's key with everything its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub node: NodeId,
    pub section: u8,
    pub window: u64,
    pub group: u16,
    pub key: Vec<u8>,
}

impl From<&EntryKey<'_>> for Key {
    fn from(key: &EntryKey<'_>) -> Key {
        let EntryKey { node, section, window, group, key } = *key;
        Key { node, section, window, group, key: key.to_vec() }
    }
}

pub type Entries = BTreeMap<Key, Vec<u8>>;

/// All entries of a store, in its order, with those that share a key.
pub fn list(store: &ShardStore) -> Vec<(Key, Vec<u8>)> {
    let mut found = Vec::new();
    let visited: Result<(), StateError> = store.for_each(|key, value| {
        found.push((Key::from(key), value.to_vec()));
        Ok(())
    });
    visited.expect("read all entries");
    found
}

/// All entries of a store that has no two of one key.
pub fn entries(store: &ShardStore) -> Entries {
    let list = list(store);
    let count = list.len();
    let entries: Entries = list.into_iter().collect();
    assert_eq!(entries.len(), count, "two entries have the same key");
    entries
}

pub fn manifest(epoch: u64, shards: usize, files: Vec<FileRecord>) -> Manifest {
    Manifest {
        format: FORMAT,
        epoch,
        created_ms: 0,
        pipeline: "test".to_owned(),
        ringmill: "0.0.0".to_owned(),
        shards,
        is_final: false,
        nodes: Vec::new(),
        sources: Vec::new(),
        sinks: Vec::new(),
        files,
    }
}

/// The stores' files as part of a checkpoint.
pub fn copy_stores(stores: &mut [ShardStore], partial: &PartialCheckpoint) -> Result<Vec<FileRecord>, StateError> {
    let mut files = Vec::new();
    for (shard, store) in stores.iter_mut().enumerate() {
        files.extend(store.checkpoint(&partial.shard_folder(shard))?);
    }
    Ok(files)
}

/// A whole checkpoint of all stores.
pub fn take_checkpoint(folder: &StateFolder, epoch: u64, stores: &mut [ShardStore]) -> Result<Manifest, StateError> {
    let partial = folder.begin_checkpoint(epoch)?;
    let files = copy_stores(stores, &partial)?;
    let manifest = manifest(epoch, stores.len(), files);
    partial.commit(&manifest)?;
    Ok(manifest)
}

/// The changes that the epoch of a made-up pipeline brings to one shard; several kinds of each, and always the same.
pub fn changes(epoch: u64, shard: u16, delta: &mut Delta) {
    let stamp = |text: &str| format!("{text} of epoch {epoch}, shard {shard}").into_bytes();
    let mut node = delta.node(1);
    for index in 0..20u64 {
        let key = (epoch * 7 + index * 3) % 50;
        // Groups of this shard of two.
        let group = shard * 512 + (key % 512) as u16;
        node.put(0, 0, group, &key.to_le_bytes(), &stamp("value"));
        node.put(1, epoch, group, &index.to_le_bytes(), &stamp("windowed"));
    }
    node.delete(0, 0, shard * 512 + (epoch % 50) as u16, &(epoch % 50).to_le_bytes());
    if epoch > 2 {
        node.delete_window(1, epoch - 2);
    }
    delta.node(2).put(0, 0, WHOLE_SHARD, b"watermark", &stamp("watermark"));
}

/// What the changes of all epochs up to `epoch` make of one shard.
pub fn expected(epoch: u64, shard: u16) -> Entries {
    let mut entries = Entries::new();
    for epoch in 1..=epoch {
        let mut delta = Delta::default();
        changes(epoch, shard, &mut delta);
        apply_to_model(&delta, &mut entries);
    }
    entries
}

/// What a store is to do.
pub fn apply_to_model(delta: &Delta, entries: &mut Entries) {
    for &window in delta.windows() {
        entries.retain(|key, _| (key.node, key.section, key.window) != window);
    }
    for key in delta.deletes() {
        entries.remove(&Key::from(&EntryKey::parse(key).expect("a key")));
    }
    for (key, value) in delta.puts() {
        entries.insert(Key::from(&EntryKey::parse(key).expect("a key")), value.to_vec());
    }
}

/// A place for a state folder: in memory if possible, because the kernel loses nothing when a process is killed, and a
/// disk would only make hundreds of rounds slow.
pub fn place() -> (TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    let around = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let around = around.expect("temporary folder");
    let path = around.path().join("state");
    (around, path)
}

/// Runs the made-up pipeline with two shards from nothing, one checkpoint for each of `epochs`.
pub fn run_epochs(folder: &StateFolder, epochs: u64) {
    let mut stores = [0, 1].map(|shard| ShardStore::create(folder, shard).expect("create"));
    for epoch in 1..=epochs {
        apply_epoch(epoch, &mut stores).expect("apply");
        take_checkpoint(folder, epoch, &mut stores).expect("checkpoint");
    }
}

pub fn apply_epoch(epoch: u64, stores: &mut [ShardStore]) -> Result<(), StateError> {
    for (shard, store) in stores.iter_mut().enumerate() {
        let mut delta = Delta::default();
        changes(epoch, shard as u16, &mut delta);
        store.apply(&mut delta)?;
    }
    Ok(())
}

/// Recovers all shards of a checkpoint as they were.
pub fn recover_all(folder: &StateFolder, manifest: &Manifest) -> Result<Vec<ShardStore>, StateError> {
    (0..manifest.shards).map(|shard| ShardStore::recover(folder, manifest, shard, manifest.shards)).collect()
}

/// The stores hold what the made-up pipeline has after `epoch`.
pub fn assert_is_epoch(stores: &[ShardStore], epoch: u64) {
    for (shard, store) in stores.iter().enumerate() {
        assert_eq!(entries(store), expected(epoch, shard as u16), "shard {shard} after epoch {epoch}");
    }
}

pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Copies a state folder, hard links included.
pub fn copy_folder(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("--archive").args([from, to]).status().expect("cp");
    assert!(done.success());
}

/// This very program, to play a role as a process of its own; see [`crate::kills::play_a_role`].
pub fn this_program() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("path of this program"));
    command.args(["--exact", "kills::play_a_role", "--nocapture"]).stdin(Stdio::null());
    command
}

/// Repeatable random numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
