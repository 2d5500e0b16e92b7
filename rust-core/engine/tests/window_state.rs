//! Windows that are written out as they change, taken back after a crash and go on: nobody sees the difference.
//!
//! `RINGMILL_ORACLE_SEEDS=20000` tries more streams; `RINGMILL_ORACLE_FIRST=17 RINGMILL_ORACLE_SEEDS=1` one again.

mod window_support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use ringmill_engine::window::{TimeColumn, WindowKind, WindowOperator, WindowSpec};
use ringmill_state::{Delta, EntryKey, KEY_GROUPS, WHOLE_SHARD, group_of, shard_of};
use ringmill_wire::TimeUnit;
use window_support::store::{NODE, Store};
use window_support::stream::{by_key, exactly, hashes, key_of, stream, take_step};
use window_support::{
    Driver, Random, Row, TIME, Value, input_schema, number, random_row, random_spec, spec, statistics_of,
};

const MS: i64 = 1_000_000;
const TEN: WindowKind = WindowKind::Tumbling { size_ns: 10 * MS };
const ROOM: u64 = 1 << 30;

fn tracking(spec: &WindowSpec) -> Driver {
    let mut driver = Driver::new(spec, ROOM);
    driver.operator.track_changes();
    driver
}

/// Runs a stream with crashes; `None` if nobody sees them.
fn difference_after_crashes(seed: u64) -> Option<String> {
    let mut random = Random(seed);
    let spec = random_spec(&mut random);
    let steps = stream(&mut random, &spec);
    let mut calm = Driver::new(&spec, ROOM);
    steps.iter().for_each(|step| take_step(&mut calm, step));
    let mut driver = tracking(&spec);
    let mut store = Store::default();
    let (mut next, mut crashes) = (0, 3 + random.below(8));
    // Where the last checkpoint was, and what had been given out by then; the same of one that is being written.
    let mut checkpoint = (0, 0, 0);
    let mut begun: Option<(Delta, (usize, usize, usize))> = None;
    while next < steps.len() {
        take_step(&mut driver, &steps[next]);
        next += 1;
        if begun.is_none() && !driver.operator.has_output() && random.chance(2) {
            let mut delta = Delta::default();
            driver.operator.begin_snapshot(&mut delta.node(NODE));
            begun = Some((delta, (next, driver.results.len(), driver.late.len())));
        }
        if let Some((mut delta, at)) = begun.take() {
            // It may take as long as it likes, and a crash may come before it is whole.
            while driver.operator.owes_snapshot() && !random.chance(3) {
                driver.operator.write_owed(&mut delta.node(NODE));
            }
            if driver.operator.owes_snapshot() || random.chance(8) {
                begun = Some((delta, at));
            } else {
                store.apply(&delta);
                checkpoint = at;
            }
        }
        if crashes > 0 && random.chance(4) {
            crashes -= 1;
            let mut restarted = tracking(&spec);
            store.restore(&mut restarted.operator).unwrap();
            assert!(!restarted.operator.has_output());
            restarted.results = driver.results[..checkpoint.1].to_vec();
            restarted.late = driver.late[..checkpoint.2].to_vec();
            driver = restarted;
            next = checkpoint.0;
            begun = None;
        }
    }
    if let Some((mut delta, _)) = begun {
        while driver.operator.owes_snapshot() {
            driver.operator.write_owed(&mut delta.node(NODE));
        }
        store.apply(&delta);
    }
    let counts = |driver: &Driver| (driver.operator.late_rows(), driver.operator.clamped_sums());
    if counts(&calm) != counts(&driver) || exactly(&calm.late) != exactly(&driver.late) {
        return Some(format!("seed {seed}: late rows differ\n{spec:?}"));
    }
    let mut pairs = calm.results.iter().zip(&driver.results).enumerate();
    if let Some((at, (one, other))) = pairs.find(|(_, (one, other))| exactly(one) != exactly(other)) {
        return Some(format!("seed {seed}: result {at} differs:\n{one:?}\n{other:?}\n{spec:?}"));
    }
    if calm.results.len() != driver.results.len() {
        return Some(format!("seed {seed}: {} results, not {}\n{spec:?}", driver.results.len(), calm.results.len()));
    }
    // Everything is over: but for the histories nothing is left.
    store.snapshot(&mut driver.operator);
    let left = store.0.keys().filter(|key| matches!(EntryKey::parse(key).unwrap().section, 1 | 2)).count();
    (left > 0).then(|| format!("seed {seed}: {left} entries of windows are left\n{spec:?}"))
}

#[test]
fn crashes_and_restarts_change_no_bit_of_what_goes_out() {
    let first = number("RINGMILL_ORACLE_FIRST", 0);
    for seed in first..first + number("RINGMILL_ORACLE_SEEDS", 200) {
        if let Some(difference) = difference_after_crashes(seed) {
            panic!("{difference}");
        }
    }
}

#[test]
fn state_that_lacks_an_entry_is_found_out() {
    let found = (0..100u64).filter(|seed| {
        let mut random = Random(*seed);
        let spec = random_spec(&mut random);
        let steps = stream(&mut random, &spec);
        let (mut calm, mut driver, mut store) = (Driver::new(&spec, ROOM), tracking(&spec), Store::default());
        steps.iter().for_each(|step| take_step(&mut calm, step));
        let half = steps.len() / 2;
        steps[..half].iter().for_each(|step| take_step(&mut driver, step));
        driver.drain(10);
        store.snapshot(&mut driver.operator);
        store.0.pop_last();
        let mut restarted = tracking(&spec);
        if store.restore(&mut restarted.operator).is_err() {
            return true;
        }
        restarted.results = driver.results;
        steps[half..].iter().for_each(|step| take_step(&mut restarted, step));
        exactly(&calm.results) != exactly(&restarted.results)
    });
    let found = found.count();
    assert!(found > 50, "only {found} of 100 streams saw that an entry was missing");
}

fn shard_driver(spec: &WindowSpec, shard: usize, shards: usize) -> Driver {
    let mut driver = tracking(spec);
    driver.operator.set_shard(shard, shards);
    driver
}

/// Runs a stream over shards that are cut anew now and then, each with a watermark of its own, against one operator for
/// each key; `None` if nobody sees it.
fn difference_after_cuts(seed: u64) -> Option<String> {
    let mut random = Random(seed);
    let spec = random_spec(&mut random);
    let steps = stream(&mut random, &spec);
    let together = random.chance(3);
    let mut shards = 1 + random.below(3) as usize;
    let mut drivers: Vec<Driver> = (0..shards).map(|shard| shard_driver(&spec, shard, shards)).collect();
    let mut stores = vec![Store::default(); shards];
    let mut alone: BTreeMap<String, (u64, Driver)> = BTreeMap::new();
    // How far each key group has got.
    let mut reached_ns = vec![i64::MIN; usize::from(KEY_GROUPS)];
    let (mut results, mut late, mut late_rows) = (BTreeMap::new(), BTreeMap::new(), 0);
    for step in &steps {
        let hashes = hashes(&spec, &step.rows);
        for (row, hash) in step.rows.iter().zip(&hashes) {
            let key = alone.entry(key_of(&spec, row)).or_insert_with(|| {
                let mut driver = Driver::new(&spec, ROOM);
                driver.operator.advance(reached_ns[usize::from(group_of(*hash))], 1);
                (*hash, driver)
            });
            key.1.push(std::slice::from_ref(row), 1);
        }
        for (shard, driver) in drivers.iter_mut().enumerate() {
            let rows = step.rows.iter().zip(&hashes);
            let rows: Vec<Row> = rows
                .filter(|(_, hash)| shard_of(group_of(**hash), shards) == shard)
                .map(|(row, _)| row.clone())
                .collect();
            driver.push(&rows, step.late_rows);
            driver.drain(step.emit_rows);
            let behind = if together || step.watermark_ns == i64::MAX { 0 } else { random.below(40) as i64 * MS };
            driver.operator.advance(step.watermark_ns - behind, 1);
            driver.drain(step.emit_rows);
        }
        for (group, reached_ns) in (0..KEY_GROUPS).zip(&mut reached_ns) {
            *reached_ns = drivers[shard_of(group, shards)].operator.watermark().max(*reached_ns);
        }
        for (hash, driver) in alone.values_mut() {
            driver.drain(7);
            driver.operator.advance(reached_ns[usize::from(group_of(*hash))], 1);
            driver.drain(7);
        }
        if random.chance(3) {
            let cut = 1 + random.below(4) as usize;
            for (driver, store) in drivers.iter_mut().zip(&mut stores) {
                store.snapshot(&mut driver.operator);
                by_key(&spec, &driver.results, &mut results);
                driver
                    .late
                    .iter()
                    .for_each(|row| late.entry(key_of(&spec, row)).or_insert_with(Vec::new).push(row.clone()));
            }
            if cut != shards {
                stores = Store::cut(&stores, cut);
                shards = cut;
            }
            drivers = (0..shards).map(|shard| shard_driver(&spec, shard, shards)).collect();
            for (driver, store) in drivers.iter_mut().zip(&stores) {
                store.restore(&mut driver.operator).unwrap();
            }
        }
    }
    for driver in &drivers {
        by_key(&spec, &driver.results, &mut results);
        driver.late.iter().for_each(|row| late.entry(key_of(&spec, row)).or_insert_with(Vec::new).push(row.clone()));
        late_rows += driver.operator.late_rows();
    }
    let (mut expected, mut expected_late) = (BTreeMap::new(), BTreeMap::new());
    for (key, (_, driver)) in alone {
        by_key(&spec, &driver.results, &mut expected);
        if !driver.late.is_empty() {
            expected_late.insert(key, driver.late);
        }
    }
    if exactly(&late) != exactly(&expected_late)
        || late_rows != late.values().map(|rows| rows.len() as u64).sum::<u64>()
    {
        return Some(format!("seed {seed}: late rows differ: {late:?}\n{expected_late:?}\n{spec:?}"));
    }
    let differs = |key: &&String| exactly(&results.get(*key)) != exactly(&expected.get(*key));
    let key = expected.keys().chain(results.keys()).find(differs)?;
    Some(format!("seed {seed}: {key} differs:\n{:?}\n{:?}\n{spec:?}", results.get(key), expected.get(key)))
}

#[test]
fn other_numbers_of_shards_change_no_bit_of_what_a_key_gives() {
    let first = number("RINGMILL_ORACLE_FIRST", 0);
    for seed in first..first + number("RINGMILL_ORACLE_SEEDS", 200) {
        if let Some(difference) = difference_after_cuts(seed) {
            panic!("{difference}");
        }
    }
}

fn row(name: &str, time: i64, x: f64) -> Row {
    let mut row = random_row(&mut Random(1), time, 1);
    row[1] = Value::Bytes(name.as_bytes().to_vec());
    row[5] = Value::Float(x);
    row
}

fn delta_of(driver: &mut Driver) -> Delta {
    let mut delta = Delta::default();
    driver.operator.snapshot(&mut delta.node(NODE));
    delta
}

/// Entries put, by section.
fn sections(delta: &Delta) -> Vec<u8> {
    let mut sections: Vec<u8> = delta.puts().map(|(key, _)| EntryKey::parse(key).unwrap().section).collect();
    sections.sort_unstable();
    sections
}

#[test]
fn only_what_has_changed_is_written() {
    for window in [TEN, WindowKind::Session { gap_ns: 10 * MS }] {
        let mut driver = tracking(&spec(&["name"], window, &["count()"]));
        let rows: Vec<Row> = (0..1000).map(|key| row(&format!("key {key}"), 5, 1.0)).collect();
        driver.push(&rows, 1);
        assert_eq!(delta_of(&mut driver).puts().len(), 1001);
        driver.push(&rows[500..510], 1);
        driver.push(&rows[505..515], 1);
        assert_eq!(delta_of(&mut driver).puts().len(), 16);
        let delta = delta_of(&mut driver);
        assert_eq!((sections(&delta), delta.deletes().len(), delta.windows().len()), (vec![0], 0, 0));
    }
}

/// Whether two snapshots have the same, in whatever order.
fn are_equal(one: &Delta, other: &Delta) -> bool {
    fn entries(delta: &Delta) -> BTreeMap<&[u8], &[u8]> {
        let entries: BTreeMap<_, _> = delta.puts().collect();
        assert_eq!(entries.len(), delta.puts().len(), "no entry is written twice");
        entries
    }
    one.windows() == other.windows() && one.deletes().eq(other.deletes()) && entries(one) == entries(other)
}

/// Takes snapshots of a stream of many keys: at once if `is_whole`, else in parts, while rows come and windows close.
fn snapshots_of_many_keys(spec: &WindowSpec, is_whole: bool) -> Vec<Delta> {
    let mut random = Random(7);
    let mut driver = tracking(spec);
    let (mut deltas, mut parts) = (Vec::<Delta>::new(), 0);
    for round in 0..160 {
        let rows: Vec<Row> = (0..300).map(|_| random_row(&mut random, round / 4 + 5, 1_000)).collect();
        driver.push(&rows, 300);
        driver.operator.advance((round / 4) * MS, 1);
        driver.drain(50);
        if let Some(delta) = deltas.last_mut().filter(|_| driver.operator.owes_snapshot()) {
            parts += 1;
            driver.operator.write_owed(&mut delta.node(NODE));
        }
        if round % 40 == 38 {
            let mut delta = Delta::default();
            driver.operator.begin_snapshot(&mut delta.node(NODE));
            while is_whole && driver.operator.owes_snapshot() {
                driver.operator.write_owed(&mut delta.node(NODE));
            }
            deltas.push(delta);
        }
    }
    while driver.operator.owes_snapshot() {
        let last = deltas.last_mut().expect("one was begun");
        driver.operator.write_owed(&mut last.node(NODE));
    }
    assert!(is_whole || parts > 8, "{parts} parts are too few to say anything");
    deltas
}

#[test]
fn a_snapshot_in_parts_is_that_of_its_barrier_whatever_comes_meanwhile() {
    let sliding = WindowKind::Sliding { size_ns: 20 * MS, every_ns: 5 * MS };
    for (window, lateness) in [(TEN, 0), (sliding, 0), (sliding, 10)] {
        for statistics in [None, Some(statistics_of("a1", None)), Some(statistics_of("a1", Some(15 * MS)))] {
            let mut spec = spec(&["name"], window, &["count()", "mean(x)", "last(text)", "collect(u)"]);
            (spec.allowed_lateness_ns, spec.statistics) = (lateness * MS, statistics);
            let (whole, parts) = (snapshots_of_many_keys(&spec, true), snapshots_of_many_keys(&spec, false));
            for (barrier, (whole, part)) in whole.iter().zip(&parts).enumerate() {
                assert!(are_equal(whole, part), "barrier {barrier} of {spec:?}");
            }
        }
    }
}

#[test]
fn without_being_asked_nothing_is_noted_or_written() {
    let mut driver = Driver::new(&spec(&["name"], TEN, &["count()"]), ROOM);
    driver.push(&[row("a", 5, 1.0)], 1);
    assert_eq!(delta_of(&mut driver).puts().len(), 0);
}

#[test]
fn a_window_that_is_over_goes_as_a_whole_and_only_if_it_was_written() {
    let mut driver = tracking(&spec(&["name"], TEN, &["count()"]));
    let rows: Vec<Row> = (0..1000).map(|key| row(&format!("key {key}"), 5, 1.0)).collect();
    driver.push(&rows, 1);
    delta_of(&mut driver);
    driver.push(&[row("a", 15, 1.0)], 1);
    driver.operator.advance(20 * MS, 1);
    driver.drain(500);
    let delta = delta_of(&mut driver);
    assert_eq!((sections(&delta), delta.deletes().len(), delta.windows().len()), (vec![0], 0, 1));
}

#[test]
fn sessions_that_merge_or_are_over_go_one_by_one() {
    let mut driver = tracking(&spec(&["name"], WindowKind::Session { gap_ns: 10 * MS }, &["count()"]));
    let mut store = Store::default();
    driver.push(&[row("a", 0, 1.0), row("a", 15, 1.0), row("b", 0, 1.0), row("b", 90, 1.0)], 1);
    assert_eq!(store.snapshot(&mut driver.operator), 5);
    driver.push(&[row("a", 8, 1.0)], 1);
    driver.operator.advance(50 * MS, 1);
    driver.drain(10);
    let delta = delta_of(&mut driver);
    assert_eq!((sections(&delta), delta.deletes().len(), delta.windows().len()), (vec![0], 3, 0));
    store.apply(&delta);
    assert_eq!(store.0.len(), 2, "the shard's own and b's second session");
}

#[test]
fn a_long_horizon_costs_the_newest_results_alone() {
    let mut spec = spec(&["name"], TEN, &["mean(x)"]);
    spec.statistics = Some(statistics_of("a0", Some(1000 * 10 * MS)));
    let (mut driver, mut store) = (tracking(&spec), Store::default());
    for window in 0..3000 {
        driver.push(&[row("a", window * 10, window as f64)], 1);
        driver.operator.advance((window + 1) * 10 * MS, 1);
        driver.drain(10);
        let delta = delta_of(&mut driver);
        // Every 16th result fills a chunk.
        let fills_chunk = window % 16 == 15;
        assert_eq!(sections(&delta), if fills_chunk { vec![0, 3, 4] } else { vec![0, 3] });
        assert!(delta.bytes() < 500, "{} bytes", delta.bytes());
        store.apply(&delta);
    }
    assert!((64..68).contains(&store.0.len()), "{} entries for 1000 results", store.0.len());
    let mut restarted = tracking(&spec);
    store.restore(&mut restarted.operator).unwrap();
    for driver in [&mut driver, &mut restarted] {
        driver.results.clear();
        driver.push(&[row("a", 30_000, 0.0)], 1);
        driver.operator.advance(i64::MAX, 1);
        driver.drain(1);
    }
    assert_eq!(exactly(&driver.results), exactly(&restarted.results));
    assert_eq!(driver.results[0][6], Value::Int(1000));
}

#[test]
fn taking_state_back_keeps_to_the_bound_on_memory() {
    for window in [TEN, WindowKind::Session { gap_ns: 10 * MS }] {
        let mut spec = spec(&["name"], window, &["count()", "collect(x)", "last(text)"]);
        spec.statistics = Some(statistics_of("a0", Some(1000 * MS)));
        let (mut driver, mut store) = (tracking(&spec), Store::default());
        let rows: Vec<Row> =
            (0..3000).map(|key| row(&format!("a key of more than sixteen bytes {key}"), 5, 1.0)).collect();
        rows.chunks(1000).for_each(|rows| driver.push(rows, 1));
        store.snapshot(&mut driver.operator);
        let bound = 300_000;
        let mut small = Driver::new(&spec, bound);
        small.operator.track_changes();
        let error = store.restore(&mut small.operator).unwrap_err();
        let full = small.operator.check().unwrap_err();
        assert!(full.needed > bound && full.allowed == bound, "{full:?}");
        assert_eq!(error.message, full.to_string());
        assert!(small.operator.state_bytes() <= bound + 100_000, "{} bytes", small.operator.state_bytes());
    }
}

#[test]
fn entries_of_another_step_or_form_are_refused() {
    let mut driver = tracking(&spec(&["name"], TEN, &["count()", "last(text)"]));
    let mut store = Store::default();
    driver.push(&[row("a", 5, 1.0)], 1);
    store.snapshot(&mut driver.operator);
    let (key, value) = store.0.iter().find(|(key, _)| EntryKey::parse(key).unwrap().section == 1).unwrap();
    let entry = EntryKey::parse(key).unwrap();
    let check = |entry: EntryKey<'_>, value: &[u8], words: &str| {
        let mut fresh = tracking(&spec(&["name"], TEN, &["count()", "last(text)"]));
        let error = fresh.operator.restore(&entry, value).unwrap_err();
        assert!(error.to_string().contains(words) && error.hint.is_some(), "{words}: {error}");
    };
    check(entry, &[], "empty");
    check(entry, &[&[2], &value[1..]].concat(), "version");
    check(entry, &value[..value.len() - 1], "too short");
    check(entry, &[value, &[0][..]].concat(), "too long");
    check(entry, &[&value[..6], &[0xff; 8], &value[14..]].concat(), "count is out of range");
    check(EntryKey { key: &[0xff], ..entry }, value, "no UTF-8");
    check(EntryKey { key: b"b", ..entry }, value, "another group");
    check(EntryKey { section: 2, ..entry }, value, "has not");
    check(EntryKey { section: 9, ..entry }, value, "has not");
    check(EntryKey { group: WHOLE_SHARD, ..entry }, value, "no key group");
    let whole = EntryKey { group: WHOLE_SHARD, section: 0, window: 0, key: &[], ..entry };
    check(whole, &[&[1][..], &[0; 32], &[0, 0, 1, 4]].concat(), "out of range");
    let mut twice = tracking(&spec(&["name"], TEN, &["count()", "last(text)"]));
    twice.operator.restore(&entry, value).unwrap();
    assert!(twice.operator.restore(&entry, value).unwrap_err().message.contains("twice"));
    let error = twice.operator.restored().unwrap_err();
    assert!(error.message.contains("how far its shard has come is missing"), "{error}");
    let mut word = tracking(&spec(&["number"], TEN, &["count()"]));
    assert!(word.operator.restore(&entry, value).unwrap_err().message.contains("wrong length"));
}

/// Changes something about one of the entries.
fn damage(store: &mut Store, random: &mut Random) {
    let at = random.below(store.0.len() as u64) as usize;
    let (key, value) = store.0.iter().nth(at).map(|(key, value)| (key.clone(), value.clone())).unwrap();
    let (mut new_key, mut new_value) = (key.clone(), value);
    let bytes = if random.chance(4) { &mut new_key } else { &mut new_value };
    let place = random.below(bytes.len() as u64) as usize;
    match random.below(4) {
        0 => bytes[place] ^= 1 << random.below(8),
        1 => bytes[place] = random.next() as u8,
        2 => bytes.truncate(place),
        _ => bytes.insert(place, random.next() as u8),
    }
    store.0.remove(&key);
    if EntryKey::parse(&new_key).is_some() {
        store.0.insert(new_key, new_value);
    }
}

#[test]
fn damaged_entries_are_refused_or_do_no_harm_but_never_panic() {
    let mut refused = 0;
    let seeds = number("RINGMILL_ORACLE_SEEDS", 200);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let spec = random_spec(&mut random);
        let steps = stream(&mut random, &spec);
        let (mut driver, mut store) = (tracking(&spec), Store::default());
        let half = steps.len() / 2;
        steps[..half].iter().for_each(|step| take_step(&mut driver, step));
        driver.drain(10);
        store.snapshot(&mut driver.operator);
        for _ in 0..10 {
            let mut damaged = store.clone();
            damage(&mut damaged, &mut random);
            let mut restarted = tracking(&spec);
            match damaged.restore(&mut restarted.operator) {
                Err(_) => refused += 1,
                Ok(()) => {
                    steps[half..].iter().for_each(|step| take_step(&mut restarted, step));
                    damaged.snapshot(&mut restarted.operator);
                }
            }
        }
    }
    assert!(refused > seeds, "only {refused} of {} damages were noticed by the step itself", seeds * 10);
}

proptest! {
    #[test]
    fn any_bytes_as_an_entry_are_refused_or_do_no_harm(
        section in 0u8..6, window: u64, word: i16, mut value in proptest::collection::vec(any::<u8>(), 0..120),
        session: bool, horizon: bool,
    ) {
        let window_kind = if session { WindowKind::Session { gap_ns: 10 * MS } } else { TEN };
        let mut spec = spec(&["number"], window_kind, &["count()", "collect(x)", "last(text)", "stddev(x)"]);
        spec.statistics = Some(statistics_of("a0", horizon.then_some(100 * MS)));
        let mut driver = tracking(&spec);
        let mut row = row("a", 5, 1.0);
        row[3] = Value::Int(word.into());
        let hash = hashes(&spec, std::slice::from_ref(&row))[0];
        if let Some(version) = value.first_mut() {
            *version = 1;
        }
        let key = [&[1], &word.to_le_bytes()[..]].concat();
        let whole = EntryKey { node: NODE, section: 0, window: 0, group: WHOLE_SHARD, key: &[] };
        let entry = EntryKey { section, window, group: group_of(hash), key: &key, ..whole };
        let entry = if section == 0 { whole } else { entry };
        if driver.operator.restore(&entry, &value).is_ok() && driver.operator.restored().is_ok() {
            driver.push(&[row.clone(), row], 2);
            driver.operator.advance(i64::MAX, 1);
            driver.drain(9);
        }
    }
}

#[test]
fn shards_that_join_go_on_from_the_least_watermark_and_give_nothing_out_again() {
    for window in [TEN, WindowKind::Session { gap_ns: 10 * MS }] {
        let mut spec = spec(&["name"], window, &["count()"]);
        spec.allowed_lateness_ns = 30 * MS;
        let names: Vec<Row> = (0..20).map(|key| row(&format!("key {key}"), 0, 1.0)).collect();
        let mut old = [shard_driver(&spec, 0, 2), shard_driver(&spec, 1, 2)];
        let mut stores = vec![Store::default(); 2];
        for (shard, watermark) in [(0, 5), (1, 15)] {
            let own = hashes(&spec, &names).into_iter().zip(&names);
            let own: Vec<Row> =
                own.filter(|(hash, _)| shard_of(group_of(*hash), 2) == shard).map(|(_, row)| row.clone()).collect();
            old[shard].push(&own, 1);
            old[shard].operator.advance(watermark * MS, 1);
            old[shard].drain(30);
            stores[shard].snapshot(&mut old[shard].operator);
        }
        let mut one = shard_driver(&spec, 0, 1);
        Store::cut(&stores, 1)[0].restore(&mut one.operator).unwrap();
        assert_eq!(one.operator.watermark(), 5 * MS);
        one.operator.advance(100 * MS, 1);
        one.drain(30);
        assert!(old[0].results.is_empty() && !old[1].results.is_empty());
        assert_eq!(old[1].results.len() + one.results.len(), names.len());
    }
}

#[test]
fn a_fingerprint_says_what_state_is_of() {
    let check = |spec: &WindowSpec, time: TimeColumn, expected: &str| {
        assert_eq!(WindowOperator::new(spec, input_schema(), time, ROOM).unwrap().fingerprint(), expected);
    };
    let event = TimeColumn::Event { index: TIME, unit: TimeUnit::Millisecond };
    let mut first = spec(&["name", "number"], WindowKind::Tumbling { size_ns: 10_000 * MS }, &["mean(x)", "count()"]);
    let plain = "tumbling 10s; time t; key name utf8, number int16?; aggregates mean(x float64), count()";
    check(&first, event, plain);
    first.statistics = Some(statistics_of("a0", None));
    check(&first, event, &format!("{plain}; statistics of mean(x float64) without horizon"));
    first.statistics = Some(statistics_of("a0", Some(30 * 86_400_000 * MS)));
    first.aggregates[1].name = "another".into();
    first.allowed_lateness_ns = 7;
    check(&first, event, &format!("{plain}; statistics of mean(x float64) within 30d"));
    let sliding = spec(&[], WindowKind::Sliding { size_ns: 90_000 * MS, every_ns: 1_500 * MS }, &["last(text)"]);
    check(
        &sliding,
        TimeColumn::Arrival,
        "sliding 90s every 1500ms; time of arrival; key none; aggregates last(text utf8?)",
    );
    let session = spec(&["flag"], WindowKind::Session { gap_ns: 120_000 * MS }, &["collect(u)"]);
    check(&session, event, "session 2m; time t; key flag bool; aggregates collect(u uint32?)");
}

/// Everything that a step of each shape writes, in hexadecimal.
fn written(window: WindowKind, key: &[&str], horizon_ns: Option<i64>) -> Vec<String> {
    let mut spec = spec(key, window, &["mean(x)", "sum(i)", "last(text)", "collect(u)", "stddev(x)"]);
    spec.allowed_lateness_ns = 20 * MS;
    spec.statistics = Some(statistics_of("a0", horizon_ns));
    let (mut driver, mut store) = (tracking(&spec), Store::default());
    driver.operator.set_shard(1, 2);
    let mut random = Random(3);
    driver.push(&[random_row(&mut random, 5, 3), random_row(&mut random, 18, 3)], 1);
    driver.operator.advance(16 * MS, 1);
    driver.drain(4);
    store.snapshot(&mut driver.operator);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    store.0.iter().map(|(key, value)| format!("{} {}", hex(key), hex(value))).collect()
}

#[test]
fn stored_entries_never_change_without_a_new_version() {
    let golden = include_str!("window_support/entries.txt");
    let session = WindowKind::Session { gap_ns: 10 * MS };
    let written = [
        written(TEN, &["name"], None),
        written(TEN, &["number", "flag"], Some(100 * MS)),
        written(session, &["site", "name"], Some(100 * MS)),
    ];
    assert_eq!(written.concat(), golden.lines().collect::<Vec<_>>(), "\n{}\n", written.concat().join("\n"));
}
