//! Checkpoints are damaged at random places; what is wrong is found, and what is said to be sound is.
//!
//! `RINGMILL_DAMAGES=1000` tries more, `RINGMILL_DAMAGES_FIRST=17 RINGMILL_DAMAGES=1` one again.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringmill_state::{Manifest, ShardStore, StateError, StateFolder};

use crate::support::{
    Entries, Random, assert_is_epoch, copy_folder, expected, list, number, place, recover_all, run_epochs,
};

/// Every file of every checkpoint.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in path.read_dir().expect("list") {
        let entry = entry.expect("list").path();
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

/// Damages a file in its place, so that all checkpoints that share it have the damage; says how.
fn damage(file: &Path, random: &mut Random) -> String {
    let length = fs::metadata(file).expect("length").len();
    let opened = OpenOptions::new().read(true).write(true).open(file).expect("open");
    let kind = if length == 0 { 3 } else { random.below(6) };
    match kind {
        0 | 1 => {
            let (at, bit) = (random.below(length), random.below(8));
            let mut byte = [0];
            opened.read_exact_at(&mut byte, at).expect("read");
            byte[0] ^= 1 << bit;
            opened.write_all_at(&byte, at).expect("write");
            format!("bit {bit} of byte {at} flipped")
        }
        2 => {
            let left = random.below(length);
            opened.set_len(left).expect("cut");
            format!("{left} of {length} bytes left")
        }
        3 => {
            let more = 1 + random.below(100);
            opened.set_len(length + more).expect("extend");
            format!("{more} bytes more")
        }
        4 => {
            let at = random.below(length);
            let mut bytes = vec![0; random.below(length - at) as usize + 1];
            bytes.fill(random.below(256) as u8);
            opened.write_all_at(&bytes, at).expect("write");
            format!("{} bytes from {at} on overwritten with {}", bytes.len(), bytes[0])
        }
        _ => {
            fs::remove_file(file).expect("remove");
            "removed".to_owned()
        }
    }
}

#[test]
fn damage_is_found_and_what_is_called_sound_is_sound() {
    let (around, path) = place();
    run_epochs(&StateFolder::open(&path).expect("open"), 3);
    let victim = around.path().join("victim");
    let first = number("RINGMILL_DAMAGES_FIRST", 0);
    let mut found = BTreeMap::<&str, u64>::new();
    for seed in first..first + number("RINGMILL_DAMAGES", 50) {
        copy_folder(&path, &victim);
        let mut random = Random(seed);
        let file = random.pick(&files(&victim.join("checkpoints"))).clone();
        let before = fs::read(&file).expect("read");
        let what = format!("seed {seed}: {}: {}", file.display(), damage(&file, &mut random));
        let is_same = fs::read(&file).is_ok_and(|after| after == before);
        let folder = StateFolder::open(&victim).expect("open");
        let (newest, damaged) = folder.newest_sound().expect(&what);
        for error in &damaged {
            assert!(matches!(error, StateError::Damaged { .. }), "{what}: {error}");
        }
        let epoch = newest.as_ref().map_or(0, |manifest| manifest.epoch);
        assert_eq!(3 - epoch, damaged.len() as u64, "{what}");
        let all_sound = (1..=3).all(|epoch| folder.verify(epoch).is_ok());
        assert_eq!(all_sound, is_same, "{what}: verified");
        for epoch in 1..=3 {
            if let Ok(manifest) = folder.verify(epoch) {
                assert_is_epoch(&recover_all(&folder, &manifest).expect(&what), epoch);
            }
        }
        *found.entry(["none sound", "back to 1", "back to 2", "3 is sound"][epoch as usize]).or_default() += 1;
        fs::remove_dir_all(&victim).expect("remove");
    }
    println!("{found:?}");
}

/// What recovery makes of a checkpoint that was damaged after it was verified.
fn recovered(folder: &StateFolder, manifest: &Manifest, shards: usize) -> Result<Vec<Entries>, StateError> {
    let mut found = Vec::new();
    for shard in 0..shards {
        let store = ShardStore::recover(folder, manifest, shard, shards)?;
        let mut entries = Entries::new();
        store.for_each(|key, value| {
            entries.insert(key.into(), value.to_vec());
            Ok::<_, StateError>(())
        })?;
        found.push(entries);
    }
    Ok(found)
}

#[test]
fn damage_that_comes_after_the_check_does_not_change_content_in_silence() {
    let (around, path) = place();
    let manifest = {
        let folder = StateFolder::open(&path).expect("open");
        run_epochs(&folder, 3);
        folder.verify(3).expect("sound")
    };
    let sound = [expected(3, 0), expected(3, 1)];
    let one_shard: Entries = sound.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let victim = around.path().join("victim");
    let first = number("RINGMILL_DAMAGES_FIRST", 0);
    let (mut refused, mut harmless) = (0, 0);
    for seed in first..first + number("RINGMILL_DAMAGES", 50) {
        copy_folder(&path, &victim);
        let mut random = Random(seed ^ 0xda3a_6e00);
        let file = random.pick(&files(&victim.join("checkpoints/0000000003"))).clone();
        let what = format!("seed {seed}: {}: {}", file.display(), damage(&file, &mut random));
        let folder = StateFolder::open(&victim).expect("open");
        match (recovered(&folder, &manifest, 2), recovered(&folder, &manifest, 1)) {
            (Ok(two), Ok(one)) => {
                assert_eq!(two, sound, "{what}");
                // The one entry of the whole shard is there once from each; the model keeps either.
                assert_eq!(one[0].keys().collect::<Vec<_>>(), one_shard.keys().collect::<Vec<_>>(), "{what}");
                harmless += 1;
            }
            (two, one) => {
                two.iter().for_each(|two| assert_eq!(*two, sound, "{what}"));
                one.iter().for_each(|one| assert_eq!(one[0].len(), one_shard.len(), "{what}"));
                refused += 1;
            }
        }
        drop(folder);
        fs::remove_dir_all(&victim).expect("remove");
    }
    println!("{refused} refused, {harmless} harmless");
    assert!(refused > 0 || number("RINGMILL_DAMAGES", 50) < 10);
}

#[test]
fn files_that_are_not_named_are_damage() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    run_epochs(&folder, 1);
    let checkpoint = path.join("checkpoints/0000000001");
    for name in ["shard-0/000999.sst", "shard-7", "other"] {
        fs::write(checkpoint.join(name), "something").expect("write");
        let error = folder.verify(1).expect_err("an unknown file");
        assert_eq!(error.to_string(), format!("checkpoint 1 is damaged: {name} is not in the manifest"));
        fs::remove_file(checkpoint.join(name)).expect("remove");
    }
    std::os::unix::fs::symlink("/etc/passwd", checkpoint.join("shard-0/link")).expect("link");
    assert!(folder.verify(1).expect_err("a link").to_string().contains("is neither a file nor a folder"));
    fs::remove_file(checkpoint.join("shard-0/link")).expect("remove");
    folder.verify(1).expect("sound again");
    fs::rename(&checkpoint, path.join("checkpoints/0000000002")).expect("rename");
    assert_eq!(
        folder.verify(2).expect_err("another name").to_string(),
        "checkpoint 2 is damaged: manifest is that of checkpoint 1"
    );
    assert!(list(&ShardStore::create(&folder, 0).expect("create")).is_empty());
}
