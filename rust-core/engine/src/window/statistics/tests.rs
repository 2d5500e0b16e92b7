use std::collections::BTreeMap;

use ringmill_state::{Delta, EntryKey, StoreCall};
use ringmill_wire::{DataType, Field, Schema};

use super::*;
use crate::window::entry::{HISTORIES, Reader};
use crate::window::key::{KeyColumns, KeyScratch};

/// What a shard's store has of it.
type Stored = BTreeMap<Vec<u8>, Vec<u8>>;

fn columns() -> KeyColumns {
    KeyColumns::new(&[0], &Schema::new(vec![Field::new("key", DataType::UInt64)]).unwrap())
}

/// Histories with what they need around them.
struct Kept {
    statistics: Statistics,
    budget: Budget,
    stored: Stored,
    scratch: KeyScratch,
}

impl Kept {
    fn new(horizon_ns: Option<i64>, memory: u64, stored: Stored) -> Kept {
        let mut statistics = Statistics::new(true, horizon_ns);
        statistics.track_changes(true);
        statistics.allow_spilling();
        let mut budget = Budget::new(memory);
        budget.soften();
        let mut scratch = KeyScratch::default();
        for (key, value) in &stored {
            let entry = EntryKey::parse(key).unwrap();
            columns().load(entry.key, &mut scratch).unwrap();
            let (keys, mut from) = (columns().of_scratch(&mut scratch), Reader::new(value).unwrap());
            if entry.section != HISTORIES {
                statistics.restore_chunk(&keys, entry.window, &mut from).unwrap();
            } else if statistics.leaves_in_store(&budget) {
                statistics.leave_in_store();
            } else {
                statistics.restore_history(&keys, &mut from, &mut budget).unwrap();
            }
        }
        statistics.all_restored().unwrap();
        Kept { statistics, budget, stored, scratch }
    }

    fn apply(&mut self, delta: &Delta) {
        delta.deletes().for_each(|key| drop(self.stored.remove(key)));
        self.stored.extend(delta.puts().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }

    fn snapshot(&mut self) {
        let mut delta = Delta::default();
        self.statistics.begin_snapshot(8, &mut delta.node(1));
        while self.statistics.owes_snapshot() {
            self.statistics.write_owed(8, &mut Default::default(), &mut delta.node(1));
        }
        self.apply(&delta);
    }

    fn serve(&mut self) {
        while self.statistics.store().wants_any() {
            let mut call = StoreCall::default();
            let mut room = Default::default();
            if !self.statistics.call(8, &mut self.budget, &mut room, &mut call.node(1)) {
                continue;
            }
            self.apply(&call.writes);
            for (key, _) in call.keys.iter() {
                self.stored.get(key).into_iter().for_each(|value| call.found.push(key, value));
            }
            self.statistics.answer(&columns(), &mut self.scratch, &mut self.budget, &call).unwrap();
        }
    }

    /// The history of a key, wherever it is.
    fn history(&mut self, key: u64) -> u32 {
        let mut scratch = KeyScratch { words: vec![key], ..KeyScratch::default() };
        let keys = columns().of_scratch(&mut scratch);
        while self.statistics.ready_keys(&keys) == 0 {
            if self.budget.is_exceeded() && self.statistics.can_make_room(&self.budget) {
                self.statistics.put_away();
            } else {
                self.statistics.ask(&keys, 8);
            }
            self.serve();
        }
        let mut found = Vec::new();
        self.statistics.resolve(&keys, &[0], &mut self.budget, &mut found).unwrap();
        found[0]
    }
}

/// Results of many keys, some of them replaced later, in memory and with little of it.
fn check(horizon_ns: Option<i64>, seed: u64) {
    let mut random = seed;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut whole = Kept::new(horizon_ns, 1 << 30, Stored::new());
    let mut little = Kept::new(horizon_ns, 8 << 10, Stored::new());
    let mut newest: BTreeMap<u64, (i64, f64)> = BTreeMap::new();
    let mut figures = little.statistics.store().figures;
    for step in 0..6000i64 {
        let key = below(if step % 2 == 0 { 4 } else { 400 });
        let (end_ns, open_ns) = (step / 10, step / 10 - below(5) as i64);
        let histories = (whole.history(key), little.history(key));
        let summaries = (whole.statistics.summary(histories.0, end_ns), little.statistics.summary(histories.1, end_ns));
        assert_eq!(format!("{:?}", summaries.0), format!("{:?}", summaries.1), "key {key} at step {step}");
        let new = (end_ns, below(1000) as f64 / 7.0);
        let is_replaced = newest.get(&key).filter(|_| below(4) == 0).is_some_and(|old| {
            let one = whole.statistics.replace(histories.0, *old, new);
            assert_eq!(one, little.statistics.replace(histories.1, *old, new), "key {key} at step {step}");
            one
        });
        if !is_replaced {
            whole.statistics.add(histories.0, end_ns, new.1, open_ns, &mut whole.budget);
            little.statistics.add(histories.1, end_ns, new.1, open_ns, &mut little.budget);
        }
        newest.insert(key, new);
        if below(150) == 0 {
            little.snapshot();
            if below(3) == 0 {
                figures += little.statistics.store().figures;
                little = Kept::new(horizon_ns, 8 << 10, little.stored);
            }
        }
    }
    figures += little.statistics.store().figures;
    assert!(figures.entries > 300 && figures.read_back > 300, "{figures:?}");
}

#[test]
fn histories_larger_than_their_memory_are_had_back_to_the_last_bit() {
    for seed in 0..5 {
        check(None, seed);
        check(Some(40), seed);
        check(Some(10_000), seed);
    }
}
