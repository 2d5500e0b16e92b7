//! A process is killed at every step of the protocol, one after the other; what it leaves is an old checkpoint or a new
//! one, whole, and the next process goes on from it.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use ringmill_state::{Manifest, ShardStore, StateFolder, WHOLE_SHARD};

use crate::full_disk;
use crate::support::{
    Entries, apply_epoch, assert_is_epoch, copy_folder, expected, list, place, recover_all, take_checkpoint,
    this_program,
};

/// What a process does with the folder that the processes before it left.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Goes on, from nothing or from the newest checkpoint, to this epoch, with two shards.
    Run { to: u64 },
    /// Cuts the state for three shards and takes one checkpoint.
    Cut,
    /// Starts afresh.
    Fresh,
}

const PARTS: [(&str, Part); 4] =
    [("start", Part::Run { to: 3 }), ("restart", Part::Run { to: 5 }), ("cut", Part::Cut), ("fresh", Part::Fresh)];
const KEPT: usize = 2;

fn play(part: Part, folder: &mut StateFolder, mut committed: impl FnMut(u64)) {
    let (newest, damaged) = folder.newest_sound().expect("look");
    assert!(damaged.is_empty(), "{damaged:?}");
    match part {
        Part::Run { to } => {
            let mut epoch = newest.as_ref().map_or(0, |manifest| manifest.epoch);
            let mut stores = match &newest {
                Some(manifest) => recover_all(folder, manifest).expect("recover"),
                None => (0..2).map(|shard| ShardStore::create(folder, shard).expect("create")).collect(),
            };
            folder.forget_newer(epoch).expect("forget");
            stores.iter_mut().for_each(|store| store.reopen().expect("reopen"));
            while epoch < to {
                epoch += 1;
                apply_epoch(epoch, &mut stores).expect("apply");
                take_checkpoint(folder, epoch, &mut stores).expect("checkpoint");
                committed(epoch);
                folder.prune(KEPT).expect("prune");
            }
        }
        Part::Cut => {
            let newest = newest.expect("a checkpoint");
            if newest.shards == 3 {
                return;
            }
            let cut = |shard| ShardStore::recover(folder, &newest, shard, 3).expect("cut");
            let mut stores: Vec<ShardStore> = (0..3).map(cut).collect();
            take_checkpoint(folder, newest.epoch + 1, &mut stores).expect("checkpoint");
            committed(newest.epoch + 1);
        }
        Part::Fresh => {
            folder.delete_all().expect("delete");
            committed(0);
        }
    }
}

/// No test by itself: what [`this_program`] runs in the other process.
#[test]
fn play_a_role() {
    let Ok(role) = std::env::var("RINGMILL_TEST_ROLE") else { return };
    let path = std::env::var("RINGMILL_TEST_FOLDER").expect("a folder");
    if role == "full_disk" {
        return full_disk::fill_and_go_on(Path::new(&path));
    }
    let part = PARTS.iter().find(|(name, _)| *name == role).expect("a part").1;
    ringmill_failpoint::configure(&std::env::var("RINGMILL_TEST_FAILPOINT").expect("a failpoint")).expect("configure");
    let mut folder = StateFolder::open(Path::new(&path)).expect("open");
    play(part, &mut folder, |epoch| println!("committed {epoch}"));
    std::process::exit(0);
}

/// Runs a part as a process of its own; whether it was killed, and the epochs that it said were committed.
fn run(role: &str, failpoint: &str, folder: &Path) -> (bool, Vec<u64>) {
    let mut command = this_program();
    command.env("RINGMILL_TEST_ROLE", role).env("RINGMILL_TEST_FAILPOINT", failpoint);
    let output = command.env("RINGMILL_TEST_FOLDER", folder).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    let is_killed = output.status.signal() == Some(nix::libc::SIGKILL);
    assert!(is_killed || output.status.success(), "{failpoint}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let epochs = text.lines().filter_map(|line| line.rsplit_once("committed ")?.1.parse().ok()).collect();
    (is_killed, epochs)
}

/// The made-up pipeline's state, whatever the number of shards.
fn assert_is_whole(folder: &StateFolder, manifest: &Manifest) {
    if manifest.shards == 2 {
        return assert_is_epoch(&recover_all(folder, manifest).expect("recover"), manifest.epoch);
    }
    // Cutting takes an epoch and changes nothing.
    let all = [expected(manifest.epoch - 1, 0), expected(manifest.epoch - 1, 1)];
    let whole = |entries: &Entries| -> BTreeSet<Vec<u8>> {
        entries.iter().filter(|(key, _)| key.group == WHOLE_SHARD).map(|(_, value)| value.clone()).collect()
    };
    let mut own = Entries::new();
    for store in recover_all(folder, manifest).expect("recover") {
        let (mut found, mut count) = (BTreeSet::new(), 0);
        for (key, value) in list(&store) {
            if key.group == WHOLE_SHARD {
                count += 1;
                found.insert(value);
            } else {
                assert_eq!(own.insert(key, value), None, "an entry is in two shards");
            }
        }
        assert_eq!((count, found), (2, all.iter().flat_map(whole).collect()));
    }
    let wanted: Entries = all.into_iter().flatten().filter(|(key, _)| key.group != WHOLE_SHARD).collect();
    assert_eq!(own, wanted);
}

/// Nothing half done is left after the next process has opened the folder.
fn assert_is_tidy(path: &Path) {
    for entry in path.join("checkpoints").read_dir().expect("list") {
        let name = entry.expect("list").file_name().into_string().expect("text");
        assert!(name.len() == 10 && name.parse::<u64>().is_ok(), "{name} is left");
    }
    assert_eq!(path.join("live").read_dir().expect("list").count(), 0);
    assert!(!path.join("checkpoints.removed").exists());
}

#[test]
fn after_a_kill_at_any_step_there_is_the_old_checkpoint_or_the_new_one() {
    let (around, path) = place();
    let (mut kills, mut places) = (0, BTreeSet::new());
    for (role, part) in PARTS {
        let before = around.path().join(format!("before_{role}"));
        drop(StateFolder::open(&path).expect("open"));
        copy_folder(&path, &before);
        let record = around.path().join(format!("hits_{role}"));
        let (_, all) = run(role, &format!("record:{}", record.display()), &path);
        let last = *all.last().expect("something was committed");
        for hit in std::fs::read_to_string(&record).expect("the hits").lines() {
            let (name, number) = hit.split_once(' ').expect("name and number");
            places.insert(name.to_owned());
            let victim = around.path().join("victim");
            copy_folder(&before, &victim);
            let (is_killed, committed) = run(role, &format!("kill:{name}:{number}"), &victim);
            assert!(is_killed, "{hit}");
            kills += 1;
            let mut folder = StateFolder::open(&victim).expect("open after the kill");
            assert_is_tidy(&victim);
            check_after_kill(part, &folder, committed.last().copied(), last, hit);
            play(part, &mut folder, |_| {});
            let (end, _) = folder.newest_sound().expect("look");
            assert_eq!(end.as_ref().map_or(0, |manifest| manifest.epoch), last, "{hit}");
            end.iter().for_each(|manifest| assert_is_whole(&folder, manifest));
            drop(folder);
            std::fs::remove_dir_all(&victim).expect("remove");
        }
    }
    println!("{kills} kills at {} places: {places:?}", places.len());
    // A place that is not among them is one that nobody tests.
    assert_eq!(places.len(), 19, "{places:?}");
}

fn check_after_kill(part: Part, folder: &StateFolder, committed: Option<u64>, last: u64, hit: &str) {
    let (newest, damaged) = folder.newest_sound().expect("look");
    assert!(damaged.is_empty(), "{hit}: {damaged:?}");
    let epoch = newest.as_ref().map_or(0, |manifest| manifest.epoch);
    for info in folder.checkpoints().expect("list") {
        assert_is_whole(folder, &folder.verify(info.epoch).expect("each is whole"));
    }
    match part {
        Part::Fresh => assert!(epoch == 0 || committed.is_none(), "{hit}: state is back"),
        _ => assert!(epoch >= committed.unwrap_or(0) && epoch <= last, "{hit}: {committed:?}, but {epoch}"),
    }
}
