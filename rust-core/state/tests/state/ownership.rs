//! Whose the folder is: one process's at a time, and this user's alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::unistd::{Uid, chown, geteuid};
use ringmill_state::{StateError, StateFolder};

use crate::support::{manifest, place, run_epochs};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("metadata").mode() & 0o7777
}

fn refusal(path: &Path) -> String {
    StateFolder::open(path).expect_err("refused").to_string()
}

#[test]
fn two_owners_at_once_are_refused_naming_the_first() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let error = StateFolder::open(&path).expect_err("in use");
    let StateError::InUse { owner: Some(owner), .. } = &error else { panic!("{error}") };
    assert_eq!(owner.pid, std::process::id());
    let start =
        format!("the state folder {} is in use by process {}, which has been running for ", path.display(), owner.pid);
    assert!(error.to_string().starts_with(&start), "{error}");
    drop(folder);
    StateFolder::open(&path).expect("free again");
}

#[test]
fn a_lock_file_without_a_lock_keeps_nobody_out() {
    let (_around, path) = place();
    drop(StateFolder::open(&path).expect("open"));
    // Whatever stands in it: this very process, another, nonsense.
    for text in [&format!("{} 1\n", std::process::id()), "1 1\n", "nonsense", ""] {
        fs::write(path.join("lock"), text).expect("write");
        StateFolder::open(&path).expect("nobody is there");
    }
}

#[test]
fn links_files_and_foreign_folders_are_refused() {
    let (around, path) = place();
    fs::create_dir(&path).expect("create");
    let link = around.path().join("link");
    symlink(&path, &link).expect("link");
    assert!(refusal(&link).contains("is a symbolic link"));
    assert!(refusal(&link.join("")).contains("is a symbolic link"), "also with a slash at the end");
    assert!(StateFolder::open_read_only(&link).is_err());
    let file = around.path().join("file");
    fs::write(&file, "").expect("write");
    assert!(refusal(&file).contains("is not a folder"));
    symlink(&path, path.join("checkpoints")).expect("link");
    assert!(refusal(&path).contains("checkpoints is a symbolic link"));
    fs::remove_file(path.join("checkpoints")).expect("remove");
    fs::remove_file(path.join("lock")).expect("remove");
    symlink(&file, path.join("lock")).expect("link");
    assert!(refusal(&path).contains("lock is a symbolic link"));
    fs::remove_file(path.join("lock")).expect("remove");
    if !geteuid().is_root() {
        return eprintln!("SKIPPED: foreign owners (root can make one)");
    }
    chown(&path, Some(Uid::from_raw(12345)), None).expect("chown");
    assert!(refusal(&path).contains("belongs to user 12345, not to this one (0)"));
}

#[test]
fn loose_permissions_are_tightened_unless_others_may_have_written() {
    let (_around, path) = place();
    fs::create_dir(&path).expect("create");
    for (loose, content, is_refused) in
        [(0o755, false, false), (0o777, false, false), (0o755, true, false), (0o775, true, true), (0o702, true, true)]
    {
        if content {
            fs::write(path.join("lock"), "").expect("write");
            fs::set_permissions(path.join("lock"), Permissions::from_mode(0o644)).expect("chmod");
        }
        fs::set_permissions(&path, Permissions::from_mode(loose)).expect("chmod");
        if is_refused {
            assert!(refusal(&path).contains("can be written to by others"), "{loose:o}");
            assert_eq!(mode(&path), loose);
        } else {
            drop(StateFolder::open(&path).expect("open"));
            assert_eq!((mode(&path), mode(&path.join("lock"))), (0o700, 0o600), "{loose:o}");
            fs::remove_dir_all(&path).expect("remove");
            fs::create_dir(&path).expect("create");
        }
    }
}

fn assert_private(path: &Path) {
    for entry in path.read_dir().expect("list") {
        let entry = entry.expect("list").path();
        let is_folder = entry.is_dir();
        assert_eq!(mode(&entry), if is_folder { 0o700 } else { 0o600 }, "{}", entry.display());
        if is_folder {
            assert_private(&entry);
        }
    }
}

#[test]
fn everything_is_private() {
    let (around, _) = place();
    let path = around.path().join("new/folders/state");
    let folder = StateFolder::open(&path).expect("open");
    run_epochs(&folder, 2);
    folder.staging("out/put").expect("staging");
    assert_private(around.path());
}

#[test]
fn what_a_dead_owner_left_half_done_goes_and_the_rest_stays() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    run_epochs(&folder, 1);
    let staged = folder.staging("out").expect("staging").join("rows");
    drop(folder);
    let leftovers =
        ["checkpoints/0000000002.partial", "checkpoints/0000000009.removed", "checkpoints.removed", "live/shard-7"];
    for name in leftovers {
        fs::create_dir(path.join(name)).expect("create");
        fs::write(path.join(name).join("file"), "half").expect("write");
    }
    for name in ["staging/out/rows", "checkpoints/notes.txt"] {
        fs::write(path.join(name), "mine").expect("write");
    }
    let folder = StateFolder::open(&path).expect("open");
    for name in leftovers {
        assert!(!path.join(name).exists(), "{name}");
    }
    assert!(staged.exists() && path.join("checkpoints/notes.txt").exists());
    assert_eq!(folder.checkpoints().expect("list").len(), 1);
}

#[test]
fn a_folder_opened_for_reading_changes_nothing() {
    let (_around, path) = place();
    assert!(StateFolder::open_read_only(&path).is_err(), "it is not made");
    let owner = StateFolder::open(&path).expect("open");
    run_epochs(&owner, 2);
    let partial = owner.begin_checkpoint(3).expect("begin");
    let mut reader = StateFolder::open_read_only(&path).expect("open beside its owner");
    assert_eq!(reader.verify(2).expect("sound").epoch, 2);
    let is_refused = |result: Result<(), StateError>| matches!(result, Err(StateError::ReadOnly { .. }));
    assert!(is_refused(reader.prune(1)) && is_refused(reader.forget_newer(0)) && is_refused(reader.delete_all()));
    assert!(is_refused(reader.begin_checkpoint(4).map(drop)) && is_refused(reader.staging("out").map(drop)));
    drop(reader);
    partial.commit(&manifest(3, 1, vec![])).expect("it is still there");
}
