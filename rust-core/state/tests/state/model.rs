//! A store against a map: any changes, with checkpoints, recoveries and reopenings in between.

use proptest::prelude::*;
use ringmill_state::{Delta, Manifest, ShardStore, StateFolder, WHOLE_SHARD};

use crate::support::{Entries, apply_to_model, entries, place, take_checkpoint};

#[derive(Clone, Debug)]
enum Change {
    Put { at: (u16, u8, u64, u16, u8), value: Vec<u8> },
    Delete { at: (u16, u8, u64, u16, u8) },
    DeleteWindow { node: u16, section: u8, window: u64 },
}

#[derive(Clone, Debug)]
enum Step {
    Epoch { changes: Vec<Change>, fails_first: bool },
    Restart,
}

/// Few of each, so that they meet, and the borders among them.
fn place_of_entry() -> impl Strategy<Value = (u16, u8, u64, u16, u8)> {
    (
        prop::sample::select(vec![0, 1, u16::MAX]),
        prop::sample::select(vec![0, 1, u8::MAX]),
        prop::sample::select(vec![0, 1, 255, 256, u64::MAX - 1, u64::MAX]),
        prop::sample::select(vec![0, 1, 1023, WHOLE_SHARD]),
        0..3u8,
    )
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (place_of_entry(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(at, value)| Change::Put { at, value }),
        2 => place_of_entry().prop_map(|at| Change::Delete { at }),
        1 => place_of_entry().prop_map(|(node, section, window, ..)| Change::DeleteWindow { node, section, window }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (prop::collection::vec(change(), 0..40), any::<bool>())
            .prop_map(|(changes, fails_first)| Step::Epoch { changes, fails_first }),
        1 => Just(Step::Restart),
    ]
}

fn delta(changes: &[Change]) -> Delta {
    let mut delta = Delta::default();
    for change in changes {
        match change {
            Change::Put { at: (node, section, window, group, key), value } => {
                delta.node(*node).put(*section, *window, *group, &[*key], value);
            }
            Change::Delete { at: (node, section, window, group, key) } => {
                delta.node(*node).delete(*section, *window, *group, &[*key]);
            }
            Change::DeleteWindow { node, section, window } => delta.node(*node).delete_window(*section, *window),
        }
    }
    delta
}

fn check(steps: &[Step]) {
    let (_around, path) = place();
    let folder = StateFolder::open(&path).expect("open");
    let mut stores = [ShardStore::create(&folder, 0).expect("create")];
    let mut newest: Option<Manifest> = None;
    let (mut model, mut epoch) = (Entries::new(), 0);
    for step in steps {
        match step {
            Step::Epoch { changes, fails_first } => {
                epoch += 1;
                if *fails_first {
                    stores[0].apply(&mut delta(changes)).expect("apply");
                    stores[0].reopen().expect("reopen");
                }
                let mut delta = delta(changes);
                apply_to_model(&delta, &mut model);
                stores[0].apply(&mut delta).expect("apply");
                newest = Some(take_checkpoint(&folder, epoch, &mut stores).expect("checkpoint"));
                folder.prune(1).expect("prune");
            }
            Step::Restart => {
                let Some(manifest) = &newest else { continue };
                stores = [ShardStore::recover(&folder, manifest, 0, 1).expect("recover")];
            }
        }
        assert_eq!(entries(&stores[0]), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: number_of_cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_a_map_would_hold(steps in prop::collection::vec(step(), 1..12)) {
        check(&steps);
    }
}

/// Each takes tens of milliseconds, so fewer than elsewhere; `PROPTEST_CASES` counts all the same.
fn number_of_cases() -> u32 {
    crate::support::number("PROPTEST_CASES", 24) as u32
}
