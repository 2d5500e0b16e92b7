//! The disk is full, at every fill level: nothing panics, nothing is called committed that is not, and once there is
//! room everything goes on.
//!
//! `RINGMILL_FULL_DISK_STEP=1` tries every single page and file; RocksDB waits a second after a flush that failed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ringmill_state::{Delta, Manifest, ShardStore, StateError, StateFolder};

use crate::support::{
    Random, apply_epoch, entries, expected, number, place, recover_all, run_epochs, take_checkpoint, this_program,
};

const DISK_BYTES: u64 = 24 << 20;
const DISK_FILES: u64 = 1000;
const PAGE_BYTES: u64 = 4 << 10;
/// What each epoch writes beside the small entries; it cannot be compressed.
const BULK_BYTES: usize = 100 << 10;

#[test]
fn a_full_disk_stops_a_checkpoint_and_room_lets_it_go_on() {
    let (around, _) = place();
    let options = format!("size={DISK_BYTES},nr_inodes={DISK_FILES},mode=0700");
    let mount = format!("mount -t tmpfs -o {options} none '{}'", around.path().display());
    // In a namespace of its own: the file system goes with the process, whatever becomes of it.
    let can_mount = Command::new("unshare").args(["--mount", "sh", "-c", &mount]).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no small file system can be mounted here (root can)");
        return;
    }
    let this = this_program();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]).arg(this.get_program());
    command.args(this.get_args()).env("RINGMILL_TEST_ROLE", "full_disk").env("RINGMILL_TEST_FOLDER", around.path());
    let output = command.output().expect("run");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Leaves room for `pages` and for any number of files.
fn fill_with_bytes(ballast: &Path, pages: u64) {
    let mut file = OpenOptions::new().create(true).append(true).open(ballast.join("bytes")).expect("ballast");
    let block = [0; PAGE_BYTES as usize];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().expect("length").len();
    file.set_len(length.saturating_sub(pages * PAGE_BYTES)).expect("make room");
}

/// Leaves room for so many files or hard links, each of any length.
fn fill_with_files(ballast: &Path, files: u64) {
    let made = (0..).take_while(|number| File::create(ballast.join(number.to_string())).is_ok()).count() as u64;
    for number in made.saturating_sub(files)..made {
        fs::remove_file(ballast.join(number.to_string())).expect("make room");
    }
}

/// A pipeline on a disk that is too full now and then.
struct Pipeline {
    folder: StateFolder,
    stores: Vec<ShardStore>,
    epoch: u64,
    failures: BTreeMap<String, u64>,
}

impl Pipeline {
    fn apply(&mut self) -> Result<(), StateError> {
        apply_epoch(self.epoch, &mut self.stores)?;
        let (mut random, mut delta) = (Random(self.epoch), Delta::default());
        let bulk: Vec<u8> = (0..BULK_BYTES).map(|_| random.below(256) as u8).collect();
        delta.node(9).put(0, 0, 0, b"bulk", &bulk);
        self.stores[0].apply(&mut delta)
    }

    fn try_epoch(&mut self) -> Result<Manifest, StateError> {
        self.apply()?;
        take_checkpoint(&self.folder, self.epoch, &mut self.stores)
    }

    fn note(&mut self, error: &StateError) {
        assert!(error.is_out_of_space(), "{error}");
        let (StateError::Io { action: what, .. } | StateError::Store { action: what, .. }) = error else {
            panic!("{error}");
        };
        *self.failures.entry((*what).to_owned()).or_default() += 1;
    }

    fn reopen(&mut self) -> Result<(), StateError> {
        self.stores.iter_mut().try_for_each(ShardStore::reopen)
    }

    /// Both shards hold what they should after this epoch.
    fn assert_is_whole(&self, stores: &[ShardStore]) {
        for (shard, store) in stores.iter().enumerate() {
            let mut found = entries(store);
            let bulk = found.extract_if(.., |key, _| key.node == 9).count();
            assert_eq!(bulk, usize::from(shard == 0 && self.epoch > 2));
            assert_eq!(found, expected(self.epoch, shard as u16));
        }
    }

    /// One epoch with a disk that `fill` fills; whether it succeeded at once.
    fn advance(&mut self, ballast: &Path, fill: &dyn Fn(&Path)) -> bool {
        self.epoch += 1;
        fs::create_dir(ballast).expect("ballast");
        fill(ballast);
        let tried = self.try_epoch();
        if let Err(error) = self.reopen() {
            self.note(&error);
        }
        fs::remove_dir_all(ballast).expect("make room");
        if let Err(error) = &tried {
            self.note(error);
            let newest = self.folder.newest_sound().expect("look").0.expect("the one before");
            assert_eq!(newest.epoch, self.epoch - 1, "what failed is not there");
            self.reopen().expect("reopen with room");
            self.try_epoch().expect("again with room");
        } else {
            self.reopen().expect("reopen with room");
        }
        self.assert_is_whole(&self.stores);
        let manifest = self.folder.newest_sound().expect("look").0.expect("a checkpoint");
        assert_eq!(manifest.epoch, self.epoch);
        self.folder.prune(2).expect("prune");
        tried.is_ok()
    }
}

/// What the other process does: a checkpoint at every fill level from nothing free to enough.
pub fn fill_and_go_on(disk: &Path) {
    let ballast = disk.join("ballast");
    let folder = StateFolder::open(&disk.join("state")).expect("open");
    run_epochs(&folder, 2);
    let stores = recover_all(&folder, &folder.verify(2).expect("sound")).expect("recover");
    let mut pipeline = Pipeline { folder, stores, epoch: 2, failures: BTreeMap::new() };
    let step = number("RINGMILL_FULL_DISK_STEP", 4);
    for fill in [fill_with_bytes, fill_with_files] {
        let (mut free, mut successes) = (0, 0);
        while successes < 2 {
            let is_success = pipeline.advance(&ballast, &|ballast| fill(ballast, free));
            successes = if is_success { successes + 1 } else { 0 };
            free += step;
        }
    }
    let manifest = pipeline.folder.verify(pipeline.epoch).expect("sound");
    pipeline.stores = recover_all(&pipeline.folder, &manifest).expect("recover");
    pipeline.assert_is_whole(&pipeline.stores);
    println!("{} fill levels; failures by step: {:?}", pipeline.epoch - 2, pipeline.failures);
    assert!(pipeline.failures.len() > 1, "a full disk was met at one step only: {:?}", pipeline.failures);
}
