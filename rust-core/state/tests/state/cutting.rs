//! Another number of shards: every entry goes to the shard that owns its group, once; entries of whole shards go to all.

use std::collections::BTreeSet;

use ringmill_state::{Delta, ShardStore, StateFolder, WHOLE_SHARD, shard_of};

use crate::support::{Entries, Key, Random, list, place, take_checkpoint};

const ENTRIES: u64 = 5000;

/// Everything in all stores but what belongs to whole shards; fails if something is where it does not belong.
fn owned(stores: &[ShardStore]) -> Entries {
    let mut all = Entries::new();
    for (shard, store) in stores.iter().enumerate() {
        for (key, value) in list(store).into_iter().filter(|(key, _)| key.group != WHOLE_SHARD) {
            assert_eq!(shard_of(key.group, stores.len()), shard, "{key:?}");
            assert_eq!(all.insert(key, value), None, "an entry is in two shards");
        }
    }
    all
}

fn whole(store: &ShardStore) -> Vec<(Key, Vec<u8>)> {
    list(store).into_iter().filter(|(key, _)| key.group == WHOLE_SHARD).collect()
}

fn cut(folder: &StateFolder, stores: Vec<ShardStore>, epoch: u64, shards: usize) -> Vec<ShardStore> {
    let mut stores = stores;
    let manifest = take_checkpoint(folder, epoch, &mut stores).expect("checkpoint");
    drop(stores);
    assert_eq!(folder.verify(epoch).expect("sound"), manifest);
    (0..shards).map(|shard| ShardStore::recover(folder, &manifest, shard, shards).expect("cut")).collect()
}

fn fill(stores: &mut [ShardStore]) -> Entries {
    let (mut all, mut random) = (Entries::new(), Random(3));
    let mut deltas: Vec<Delta> = stores.iter().map(|_| Delta::default()).collect();
    for number in 0..ENTRIES {
        let (window, group) = (random.below(4), random.below(1024) as u16);
        let (key, value) = (number.to_le_bytes().to_vec(), vec![number as u8; random.below(300) as usize]);
        deltas[shard_of(group, stores.len())].node(2).put(1, window, group, &key, &value);
        all.insert(Key { node: 2, section: 1, window, group, key }, value);
    }
    for (shard, (store, delta)) in stores.iter_mut().zip(&mut deltas).enumerate() {
        delta.node(2).put(0, 0, WHOLE_SHARD, b"watermark", &[shard as u8]);
        delta.node(2).put(0, 0, WHOLE_SHARD, b"same", b"in all");
        store.apply(delta).expect("apply");
    }
    all
}

/// The values under one key.
fn values(entries: &[(Key, Vec<u8>)], key: &[u8]) -> Vec<Vec<u8>> {
    entries.iter().filter(|(entry, _)| entry.key == key).map(|(_, value)| value.clone()).collect()
}

#[test]
fn every_entry_stays_exactly_once_and_whole_shards_entries_are_everywhere() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores: Vec<ShardStore> = (0..3).map(|shard| ShardStore::create(&folder, shard).expect("create")).collect();
    let all = fill(&mut stores);
    assert_eq!(owned(&stores), all);
    for (epoch, shards) in [(1, 2), (2, 5), (3, 5), (4, 1)] {
        stores = cut(&folder, stores, epoch, shards);
        assert_eq!(owned(&stores), all, "{shards} shards");
        for store in &stores {
            let whole = whole(store);
            assert_eq!(values(&whole, b"watermark"), [[0], [1], [2]], "{shards} shards");
            assert_eq!(values(&whole, b"same"), [b"in all"], "{shards} shards");
        }
    }
}

#[test]
fn what_an_operator_writes_takes_the_place_of_all_that_was_taken_over() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores: Vec<ShardStore> = (0..3).map(|shard| ShardStore::create(&folder, shard).expect("create")).collect();
    fill(&mut stores);
    let mut stores = cut(&folder, stores, 1, 2);
    let write = |store: &mut ShardStore| {
        let mut delta = Delta::default();
        delta.node(2).put(0, 0, WHOLE_SHARD, b"watermark", b"new");
        delta.node(2).delete(0, 0, WHOLE_SHARD, b"same");
        store.apply(&mut delta).expect("apply");
    };
    let both = |whole: &[(Key, Vec<u8>)]| (values(whole, b"watermark"), values(whole, b"same"));
    let new = (vec![b"new".to_vec()], vec![]);
    write(&mut stores[0]);
    assert_eq!(both(&whole(&stores[0])), new);
    // Lost before it was durable, perhaps; written again it must have the same effect.
    stores[0].reopen().expect("reopen");
    write(&mut stores[0]);
    assert_eq!(both(&whole(&stores[0])), new);
    let mut stores = cut(&folder, stores, 2, 2);
    assert_eq!(both(&whole(&stores[0])), new);
    assert_eq!(values(&whole(&stores[1]), b"watermark").len(), 3, "the other shard wrote nothing");
    // Recovered, it still knows what was taken over.
    write(&mut stores[1]);
    let stores = cut(&folder, stores, 3, 2);
    assert_eq!(both(&whole(&stores[1])), new);
}

#[test]
fn a_window_goes_with_what_was_taken_over_into_it() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores =
        vec![ShardStore::create(&folder, 0).expect("create"), ShardStore::create(&folder, 1).expect("create")];
    for (shard, store) in stores.iter_mut().enumerate() {
        let mut delta = Delta::default();
        for window in [6, 7] {
            delta.node(1).put(0, window, WHOLE_SHARD, b"whole", &[shard as u8]);
        }
        store.apply(&mut delta).expect("apply");
    }
    let mut stores = cut(&folder, stores, 1, 1);
    let mut delta = Delta::default();
    delta.node(1).delete_window(0, 7);
    stores[0].apply(&mut delta).expect("apply");
    let left: BTreeSet<u64> = whole(&stores[0]).iter().map(|(key, _)| key.window).collect();
    assert_eq!((left, whole(&stores[0]).len()), (BTreeSet::from([6]), 2));
}
