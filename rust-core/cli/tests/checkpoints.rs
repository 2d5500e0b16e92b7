//! `ringmill checkpoints`: what is there is listed, and damage is named, without disturbing the owner of the folder.

mod folder;

use std::path::Path;

use folder::Folder;
use ringmill_state::{FORMAT, Manifest, NodeRecord, ShardStore, StateFolder};
use serde_json::Value;

const PIPELINE: &str = "[checkpoint]\npath = \"state\"\n[sources.sensors]\nkind = \"generator\"\nrows = 3\n[sinks.out]\nkind = \"null\"\ninputs = [\"sensors\"]\n";

/// Writes one checkpoint of one shard after another, as a run would, and goes on owning the folder.
fn write_checkpoints(path: &Path, epochs: std::ops::RangeInclusive<u64>) -> StateFolder {
    let state = StateFolder::open(path).expect("the folder is ours");
    let mut store = ShardStore::create(&state, 0).expect("a store");
    let last = *epochs.end();
    for epoch in epochs {
        let partial = state.begin_checkpoint(epoch).expect("begin");
        let files = store.checkpoint(&partial.shard_folder(0)).expect("checkpoint");
        let node = |name: &str, kind: &str, id| NodeRecord {
            id,
            name: name.to_owned(),
            kind: kind.to_owned(),
            fingerprint: String::new(),
            udf_version: None,
            counts: [("rows_in".to_owned(), epoch * 1_000)].into(),
        };
        let manifest = Manifest {
            format: FORMAT,
            epoch,
            created_ms: 1_700_000_000_000,
            pipeline: "telemetry".to_owned(),
            ringmill: "0".to_owned(),
            shards: 1,
            is_final: epoch == last,
            nodes: vec![node("sensors", "source", 0), node("out", "sink", 1)],
            sources: Vec::new(),
            sinks: Vec::new(),
            files,
        };
        partial.commit(&manifest).expect("commit");
    }
    state
}

/// Changes the last byte of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).expect("the file is there");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    std::fs::write(path, bytes).expect("write");
}

#[test]
fn a_pipeline_that_never_ran_has_no_checkpoints() {
    let folder = Folder::new(PIPELINE);
    folder.run(&["checkpoints", "list", "pipeline.toml"]).expect(0, &["no checkpoints in "]);
    assert_eq!(folder.run(&["checkpoints", "list", "pipeline.toml", "--json"]).stdout, "[]\n");
    folder.run(&["checkpoints", "verify", "pipeline.toml"]).expect(1, &["error: ", "state"]);
    assert!(!folder.path("state").exists());
    let without = PIPELINE.replace("[checkpoint]\npath = \"state\"\n", "");
    Folder::new(&without)
        .run(&["checkpoints", "list", "pipeline.toml"])
        .expect(2, &["pipeline.toml has no [checkpoint] table", "hint: add one"]);
}

#[test]
fn checkpoints_are_listed_beside_their_owner() {
    let folder = Folder::new(PIPELINE);
    let _owner = write_checkpoints(&folder.path("state"), 7..=9);
    for target in ["pipeline.toml", "state"] {
        let listed = folder.run(&["checkpoints", "list", target]);
        listed.expect(0, &["rows in", "9,000", "final"]);
        let ids: Vec<&str> = listed.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(ids, ["9", "8", "7"]);
    }
    let listed = folder.run(&["checkpoints", "list", "state", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
    for (key, value) in [
        ("id", Value::from(9)),
        ("pipeline", "telemetry".into()),
        ("created_ms", 1_700_000_000_000_u64.into()),
        ("rows_in", 9_000.into()),
        ("shards", 1.into()),
        ("is_final", true.into()),
    ] {
        assert_eq!(listed[0][key], value, "{key}");
    }
    assert!(listed[0]["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!((&listed[2]["id"], &listed[2]["is_final"]), (&Value::from(7), &Value::from(false)));
}

#[test]
fn damage_is_found_and_the_file_named() {
    let folder = Folder::new(PIPELINE);
    let _owner = write_checkpoints(&folder.path("state"), 1..=3);
    let verify = |id: &[&str]| folder.run(&[&["checkpoints", "verify", "state"], id].concat());
    verify(&[]).expect(0, &["checkpoint 3 is sound: ", "checkpoint 2 is sound: ", "checkpoint 1 is sound: "]);
    verify(&["4"]).expect(1, &["there is no checkpoint 4"]);

    damage(&folder.path("state/checkpoints/0000000003/manifest"));
    folder.run(&["checkpoints", "list", "state"]).expect(0, &["damaged", "checkpoint 3 is damaged: manifest"]);
    let list = folder.run(&["checkpoints", "list", "state", "--json"]);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    assert!(list[0]["damage"].as_str().is_some_and(|damage| damage.contains("manifest")), "{list}");

    let store = folder.path("state/checkpoints/0000000002");
    let shard = std::fs::read_dir(&store).expect("list").map(|entry| entry.expect("entry").path());
    let shard = shard.into_iter().find(|path| path.is_dir()).expect("the shard's store");
    damage(&shard.join("CURRENT"));
    let damaged = verify(&[]);
    damaged
        .expect(1, &["checkpoint 3 is damaged", "CURRENT", "checkpoint 1 is sound", "2 of 3 checkpoints are damaged"]);
    verify(&["2"]).expect(1, &["checkpoint 2 is damaged", "CURRENT"]);
    verify(&["1"]).expect(0, &["checkpoint 1 is sound"]);
}
