//! What was written comes back.

use ringmill_state::{
    Delta, Misfit, NodeDeclaration, NodeIds, Renamed, ShardStore, StateError, StateFolder, WHOLE_SHARD,
};

use crate::support::{
    Entries, apply_epoch, apply_to_model, assert_is_epoch, entries, expected, manifest, place, recover_all, run_epochs,
    take_checkpoint,
};

#[test]
fn a_pipeline_goes_on_from_its_newest_checkpoint() {
    let (_around, path) = place();
    run_epochs(&StateFolder::open(&path).expect("open"), 3);
    let folder = StateFolder::open(&path).expect("open again");
    let (manifest, damaged) = folder.newest_sound().expect("look");
    assert!(damaged.is_empty());
    let mut stores = recover_all(&folder, &manifest.expect("a checkpoint")).expect("recover");
    assert_is_epoch(&stores, 3);
    for epoch in 4..=6 {
        apply_epoch(epoch, &mut stores).expect("apply");
        take_checkpoint(&folder, epoch, &mut stores).expect("checkpoint");
    }
    drop((stores, folder));
    let folder = StateFolder::open(&path).expect("open once more");
    let manifest = folder.newest_sound().expect("look").0.expect("a checkpoint");
    assert_eq!(manifest.epoch, 6);
    assert_is_epoch(&recover_all(&folder, &manifest).expect("recover"), 6);
}

#[test]
fn every_kept_checkpoint_can_be_gone_back_to() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    run_epochs(&folder, 5);
    folder.prune(3).expect("prune");
    let epochs: Vec<u64> = folder.checkpoints().expect("list").iter().map(|info| info.epoch).collect();
    assert_eq!(epochs, [5, 4, 3]);
    for epoch in epochs {
        let manifest = folder.verify(epoch).expect("sound");
        assert_is_epoch(&recover_all(&folder, &manifest).expect("recover"), epoch);
    }
    assert!(matches!(folder.verify(2), Err(StateError::Missing { epoch: 2 })));
}

#[test]
fn a_run_that_goes_back_forgets_what_was_newer() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    run_epochs(&folder, 4);
    let mut stores = recover_all(&folder, &folder.verify(2).expect("sound")).expect("recover");
    assert!(matches!(folder.begin_checkpoint(3), Err(StateError::Exists { epoch: 3 })));
    folder.forget_newer(2).expect("forget");
    apply_epoch(3, &mut stores).expect("apply");
    take_checkpoint(&folder, 3, &mut stores).expect("checkpoint");
    assert_eq!(folder.newest_sound().expect("look").0.expect("a checkpoint").epoch, 3);
}

#[test]
fn a_checkpoint_lists_its_bytes_and_manifest() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    run_epochs(&folder, 2);
    let list = StateFolder::open_read_only(&path).expect("open beside its owner").checkpoints().expect("list");
    assert_eq!(list.len(), 2);
    for info in list {
        let manifest = info.manifest.expect("readable");
        assert_eq!(manifest.epoch, info.epoch);
        let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
        assert!(info.bytes > bytes, "the manifest counts too");
    }
}

#[test]
fn starting_afresh_leaves_no_state() {
    let (_around, path) = place();
    let mut folder = StateFolder::open(&path).expect("open");
    run_epochs(&folder, 2);
    let staging = folder.staging("out").expect("staging");
    std::fs::write(staging.join("rows"), "staged").expect("write");
    folder.delete_all().expect("delete");
    assert!(folder.checkpoints().expect("list").is_empty() && !staging.exists());
    assert_eq!(folder.newest_sound().expect("look").0, None);
    run_epochs(&folder, 1);
    assert_eq!(folder.newest_sound().expect("look").0.expect("a checkpoint").epoch, 1);
}

#[test]
fn an_abandoned_checkpoint_leaves_nothing_and_may_be_begun_again() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores = [ShardStore::create(&folder, 0).expect("create")];
    let partial = folder.begin_checkpoint(1).expect("begin");
    stores[0].checkpoint(&partial.shard_folder(0)).expect("copy");
    partial.abandon();
    assert!(folder.checkpoints().expect("list").is_empty());
    take_checkpoint(&folder, 1, &mut stores).expect("checkpoint");
    assert_eq!(folder.checkpoints().expect("list").len(), 1);
}

#[test]
fn a_manifest_that_does_not_fit_its_folder_is_not_committed() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut store = ShardStore::create(&folder, 0).expect("create");
    let partial = folder.begin_checkpoint(1).expect("begin");
    let files = store.checkpoint(&partial.shard_folder(0)).expect("copy");
    assert!(files.len() >= 3, "{files:?}");
    let error = partial.commit(&manifest(1, 1, files[1..].to_vec())).expect_err("a file is not named");
    assert!(error.to_string().contains("is not in the manifest"), "{error}");
    let partial = folder.begin_checkpoint(1).expect("begin");
    let error = partial.commit(&manifest(1, 1, files)).expect_err("a file is not there");
    assert!(error.to_string().contains("is missing"), "{error}");
    let partial = folder.begin_checkpoint(1).expect("begin");
    assert!(partial.commit(&manifest(2, 1, vec![])).is_err());
    assert!(folder.checkpoints().expect("list").is_empty());
}

#[test]
fn tables_are_shared_between_checkpoints() {
    use std::os::unix::fs::MetadataExt;
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores = [ShardStore::create(&folder, 0).expect("create")];
    apply_epoch(1, &mut stores).expect("apply");
    let one = take_checkpoint(&folder, 1, &mut stores).expect("checkpoint");
    apply_epoch(2, &mut stores).expect("apply");
    take_checkpoint(&folder, 2, &mut stores).expect("checkpoint");
    let table = one.files.iter().find(|file| file.path.ends_with(".sst")).expect("a table");
    let inode = |epoch: &str| {
        std::fs::metadata(path.join("checkpoints").join(epoch).join(&table.path)).expect("the table").ino()
    };
    assert_eq!(inode("0000000001"), inode("0000000002"));
}

#[test]
fn a_delta_deletes_before_it_puts_and_the_last_put_wins() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut store = ShardStore::create(&folder, 0).expect("create");
    let mut model = Entries::new();
    for round in 0..3u8 {
        let mut delta = Delta::default();
        let mut node = delta.node(u16::MAX);
        for value in [b"first", b"later", b"final"] {
            node.put(u8::MAX, u64::MAX, 5, b"key", &[value.as_slice(), &[round]].concat());
        }
        node.put(u8::MAX, u64::MAX, 5, &[round], b"of this round");
        node.put(u8::MAX, u64::MAX, WHOLE_SHARD, b"whole", b"shard");
        node.put(u8::MAX, 0, 5, b"other window", &[round]);
        node.delete(u8::MAX, 0, 5, b"other window");
        node.delete_window(u8::MAX, u64::MAX);
        apply_to_model(&delta, &mut model);
        store.apply(&mut delta).expect("apply");
        assert_eq!(entries(&store), model);
    }
    assert_eq!(model.len(), 4);
}

#[test]
fn an_entry_that_no_shard_owns_is_refused_and_nothing_is_written() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut store = ShardStore::create(&folder, 0).expect("create");
    let mut delta = Delta::default();
    delta.node(3).put(0, 0, 1, b"right", b"");
    delta.node(3).put(0, 0, 1024, b"wrong", b"");
    let error = store.apply(&mut delta).expect_err("group 1024");
    assert_eq!(
        error.to_string(),
        "an entry of node 3 has group 1024; groups are 0 to 1023, or 65535 for a whole shard"
    );
    assert!(entries(&store).is_empty());
}

#[test]
fn a_store_that_is_opened_again_takes_the_same_changes_again() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores = [0, 1].map(|shard| ShardStore::create(&folder, shard).expect("create"));
    for epoch in 1..=4 {
        apply_epoch(epoch, &mut stores).expect("apply");
        stores.iter_mut().for_each(|store| store.reopen().expect("reopen"));
        apply_epoch(epoch, &mut stores).expect("apply again");
        take_checkpoint(&folder, epoch, &mut stores).expect("checkpoint");
        stores.iter_mut().for_each(|store| store.reopen().expect("reopen"));
        assert_is_epoch(&stores, epoch);
    }
    assert_eq!(entries(&stores[0]), expected(4, 0));
}

fn node<'a>(name: &'a str, kind: &'a str, fingerprint: &'a str) -> NodeDeclaration<'a> {
    NodeDeclaration { name, kind, fingerprint, udf_version: None }
}

#[test]
fn a_node_keeps_its_number_for_good() {
    let mut ids = NodeIds::new(None);
    assert_eq!(ids.assign(&[node("a", "source", ""), node("b", "window", "60 s")]).expect("assign"), [0, 1]);
    let mut later = manifest(1, 1, vec![]);
    later.nodes = ids.records().to_vec();
    let mut ids = NodeIds::new(Some(&later));
    assert_eq!(ids.assign(&[node("c", "udf", ""), node("b", "window", "60 s")]).expect("assign"), [2, 1]);
    later.nodes = ids.records().to_vec();
    let mut ids = NodeIds::new(Some(&later));
    assert_eq!(ids.assign(&[node("d", "udf", ""), node("a", "source", "")]).expect("assign"), [3, 0]);
    assert_eq!(ids.records().len(), 4);
    let names: Vec<String> = (0..70_000).map(|number| format!("node {number}")).collect();
    let many: Vec<NodeDeclaration<'_>> = names.iter().map(|name| node(name, "udf", "")).collect();
    assert!(matches!(ids.assign(&many), Err(StateError::Nodes { .. })));
    assert_eq!(ids.records().len(), 4);
}

#[test]
fn state_that_no_longer_fits_is_named() {
    let mut old = manifest(1, 1, vec![]);
    let mut ids = NodeIds::new(None);
    let nodes = [node("a", "source", ""), node("b", "window", "60 s"), node("c", "udf", "v1")];
    ids.assign(&nodes).expect("assign");
    old.nodes = ids.records().to_vec();
    let ids = NodeIds::new(Some(&old));
    assert_eq!(ids.misfits(&nodes), []);
    assert_eq!(ids.renamed("test"), None);
    assert_eq!(ids.renamed("new"), Some(Renamed { was: "test".to_owned(), is: "new".to_owned() }));
    let misfits = ids.misfits(&[node("b", "window", "30 s"), node("d", "udf", "v1")]);
    let changed = Misfit::Changed { node: "b".into(), was: "window 60 s".into(), is: "window 30 s".into() };
    assert_eq!(misfits, [changed, Misfit::Gone { node: "c".into(), was: "udf v1".into() }]);
    assert_eq!(
        ids.misfits(&[node("b", "filter", ""), nodes[2]])[0].to_string(),
        "the state of step \"b\" no longer fits: it was \"window 60 s\", and the step is now \"filter without state\""
    );
}
