//! What is put away between two barriers: it can be had back, is part of the next checkpoint and of no earlier one, and
//! survives an error of the store though nobody has a copy.

use ringmill_state::{Delta, EntryKey, Manifest, ShardStore, StateFolder, StoreCall};

use crate::support::{Key, entries, place, recover_all, take_checkpoint};

/// Puts entries of a window away.
fn put_away(store: &mut ShardStore, window: u64, keys: std::ops::Range<u16>, value: &[u8]) {
    let mut call = StoreCall::default();
    // The store sorts them.
    keys.rev().for_each(|key| call.node(1).put(1, window, key % 1024, &key.to_be_bytes(), value));
    store.serve(&mut call).expect("put away");
}

fn read(store: &mut ShardStore, window: u64, keys: &[u16]) -> Vec<(u16, Vec<u8>)> {
    let mut call = StoreCall::default();
    keys.iter().for_each(|key| call.node(1).get(1, window, key % 1024, &key.to_be_bytes()));
    store.serve(&mut call).expect("read");
    found(&call)
}

fn found(call: &StoreCall) -> Vec<(u16, Vec<u8>)> {
    let key = |key: &[u8]| u16::from_be_bytes(EntryKey::parse(key).expect("a key").key.try_into().expect("two bytes"));
    call.found.iter().map(|(stored, value)| (key(stored), value.to_vec())).collect()
}

#[test]
fn entries_are_had_back_by_their_keys_in_order_and_once() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut store = ShardStore::create(&folder, 0).expect("create");
    put_away(&mut store, 7, 0..100, b"old");
    put_away(&mut store, 7, 50..60, b"new");
    let expected = [(3, b"old".to_vec()), (55, b"new".to_vec())];
    assert_eq!(read(&mut store, 7, &[55, 900, 3, 55]), expected);
    assert_eq!(read(&mut store, 8, &[55]), []);
}

#[test]
fn a_window_is_had_back_slice_by_slice() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut store = ShardStore::create(&folder, 0).expect("create");
    put_away(&mut store, 6, 0..10, b"before");
    put_away(&mut store, 7, 0..500, b"value");
    put_away(&mut store, 8, 0..10, b"after");
    let (mut after, mut keys, mut slices) = (Vec::new(), Vec::new(), 0);
    loop {
        let mut call = StoreCall::default();
        // Of 15 and 5 bytes each.
        call.node(1).scan(1, 7, &after, 120, 100 * 20);
        store.serve(&mut call).expect("scan");
        keys.extend(found(&call).into_iter().map(|(key, _)| key));
        after = call.found.last_key().unwrap_or_default().to_vec();
        slices += 1;
        if call.is_end {
            break;
        }
    }
    assert_eq!((keys, slices), ((0..500).collect(), 5));
}

#[test]
fn a_store_that_is_opened_again_has_what_was_put_away_and_takes_what_was_applied_again() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut store = ShardStore::create(&folder, 0).expect("create");
    let apply = |store: &mut ShardStore| {
        let mut applied = Delta::default();
        applied.node(2).put(0, 0, 1, b"key", b"applied");
        store.apply(&mut applied).expect("apply");
    };
    apply(&mut store);
    put_away(&mut store, 7, 0..100, b"put away");
    store.reopen().expect("reopen");
    apply(&mut store);
    assert_eq!(entries(&store).len(), 101);
    assert_eq!(read(&mut store, 7, &[99]), [(99, b"put away".to_vec())]);
}

#[test]
fn the_next_checkpoint_has_what_was_put_away_and_the_one_before_has_not() {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores = [ShardStore::create(&folder, 0).expect("create")];
    put_away(&mut stores[0], 7, 0..10, b"first");
    let first = take_checkpoint(&folder, 1, &mut stores).expect("checkpoint");
    put_away(&mut stores[0], 7, 5..20, b"second");
    let second = take_checkpoint(&folder, 2, &mut stores).expect("checkpoint");
    put_away(&mut stores[0], 7, 0..50, b"lost");
    let has = |manifest: &Manifest, count, value: &[u8]| {
        let recovered = recover_all(&folder, manifest).expect("recover");
        let entries = entries(&recovered[0]);
        let key = Key { node: 1, section: 1, window: 7, group: 7, key: 7_u16.to_be_bytes().to_vec() };
        assert_eq!((entries.len(), entries[&key].as_slice()), (count, value));
    };
    has(&folder.verify(1).expect("whole"), 10, b"first");
    has(&folder.verify(2).expect("whole"), 20, b"second");
    assert_eq!((first.epoch, second.epoch), (1, 2));
}
