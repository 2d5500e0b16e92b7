//! Windows that have less memory than their state takes put it away and have it back: nobody sees the difference, but
//! for the order of keys within a window, and for results in between when rows come late.
//!
//! `RINGMILL_ORACLE_SEEDS=20000` tries more streams; `RINGMILL_ORACLE_FIRST=17 RINGMILL_ORACLE_SEEDS=1` one again.

mod window_support;

use std::collections::BTreeMap;

use ringmill_engine::window::{SpillFigures, WindowKind, WindowSpec};
use ringmill_state::{EntryKey, KEY_GROUPS, StoreCall, group_of, shard_of};
use window_support::store::{NODE, Store};
use window_support::stream::{Step, by_key, exactly, hashes, key_of, stream, take_step};
use window_support::{Driver, Random, Row, Value, number, random_row, random_spec, spec};

const MS: i64 = 1_000_000;
const ROOM: u64 = 1 << 30;

/// How windows are put away depends on whether they are the same for all keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Aligned,
    Sessions,
}

fn spec_of(shape: Shape, random: &mut Random) -> WindowSpec {
    loop {
        let spec = random_spec(random);
        if matches!(spec.window, WindowKind::Session { .. }) == (shape == Shape::Sessions) {
            return spec;
        }
    }
}

/// Less than the state takes, mostly. What is known of each open window stays in memory, so there is room for it.
fn little_memory(random: &mut Random, spec: &WindowSpec) -> u64 {
    let (length, distance) = match spec.window {
        WindowKind::Tumbling { size_ns } => (size_ns, size_ns),
        WindowKind::Sliding { size_ns, every_ns } => (size_ns, every_ns),
        WindowKind::Session { .. } => return 1_000 + random.below(5_000),
    };
    // Streams are up to 40 ms out of order, shards up to 40 ms behind, and a batch is of up to 160 ms.
    let open = (length + spec.allowed_lateness_ns + 300 * MS) / distance + 2;
    500 * open as u64 + 500 + random.below(4_000)
}

fn spilling(spec: &WindowSpec, bytes_max: u64, store: Store) -> Driver {
    let mut driver = Driver::new(spec, bytes_max);
    driver.operator.track_changes();
    driver.operator.allow_spilling();
    driver.store = Some(store);
    driver
}

fn keys_of(spec: &WindowSpec, results: &[Row]) -> BTreeMap<String, Vec<Row>> {
    let mut keys = BTreeMap::new();
    by_key(spec, results, &mut keys);
    keys
}

/// Whether a key gives the same with little memory. Rows that come after a window fired make it go out again; where a
/// batch of them has to wait for the store in the middle, it goes out once more in between, as if the batch had ended
/// there, and the key's other windows before or after it. Then statistics see results in another order, so that they are
/// left out here (`statistics/tests.rs` has them).
fn is_same(spec: &WindowSpec, expected: &[Row], given: &[Row]) -> bool {
    if spec.allowed_lateness_ns == 0 {
        return exactly(&expected) == exactly(&given);
    }
    let compared = spec.key.len() + 2 + spec.aggregates.len();
    let is_equal = |one: &Row, other: &Row| exactly(&one[..compared].to_vec()) == exactly(&other[..compared].to_vec());
    let bounds = |row: &Row| match &row[spec.key.len()..spec.key.len() + 2] {
        [Value::Int(start), Value::Int(end)] => (*start, *end),
        other => panic!("{other:?} are no times"),
    };
    // A window, or what a session was before it grew.
    let is_part = |row: &Row, of: &Row| bounds(of).0 <= bounds(row).0 && bounds(row).1 <= bounds(of).1;
    let goes_out = |row: &Row| {
        let expected_parts: Vec<&Row> = expected.iter().filter(|other| is_part(other, row)).collect();
        let given_parts: Vec<&Row> = given.iter().filter(|other| is_part(other, row)).collect();
        let mut rest = given_parts.iter();
        let is_whole = expected.iter().all(|other| !is_part(row, other) || is_part(other, row));
        let ends_so = match (expected_parts.last(), given_parts.last()) {
            (Some(one), Some(other)) => !is_whole || is_equal(one, other),
            _ => false,
        };
        ends_so && expected_parts.iter().all(|wanted| rest.any(|other| is_equal(wanted, other)))
    };
    expected.iter().all(goes_out) && given.iter().all(|row| expected.iter().any(|whole| is_part(row, whole)))
}

/// The first key that does not give the same.
fn differing<'a>(
    spec: &WindowSpec,
    expected: &'a BTreeMap<String, Vec<Row>>,
    given: &'a BTreeMap<String, Vec<Row>>,
) -> Option<&'a String> {
    let rows = |of: &'a BTreeMap<String, Vec<Row>>, key: &String| of.get(key).map_or(&[][..], Vec::as_slice);
    expected.keys().chain(given.keys()).find(|key| !is_same(spec, rows(expected, key), rows(given, key)))
}

/// Runs a stream with little memory and with crashes, against one with enough of it; `None` if nobody sees it.
fn difference(shape: Shape, seed: u64, figures: &mut SpillFigures) -> Option<String> {
    let mut random = Random(seed);
    let spec = spec_of(shape, &mut random);
    let bytes_max = little_memory(&mut random, &spec);
    let steps = stream(&mut random, &spec);
    let mut calm = Driver::new(&spec, ROOM);
    steps.iter().for_each(|step| take_step(&mut calm, step));
    let mut driver = spilling(&spec, bytes_max, Store::default());
    let (mut next, mut crashes) = (0, random.below(6));
    // What a checkpoint holds: the store as it was, where the stream was, and what had been given out by then.
    let mut checkpoint = (Store::default(), 0, 0, 0);
    while next < steps.len() {
        take_step(&mut driver, &steps[next]);
        next += 1;
        if !driver.operator.has_output() && random.chance(2) {
            let mut store = driver.store.take().unwrap();
            store.snapshot(&mut driver.operator);
            checkpoint = (store.clone(), next, driver.results.len(), driver.late.len());
            driver.store = Some(store);
        }
        if crashes > 0 && random.chance(4) {
            crashes -= 1;
            let mut restarted = spilling(&spec, bytes_max, checkpoint.0.clone());
            checkpoint.0.restore(&mut restarted.operator).unwrap();
            assert!(!restarted.operator.has_output());
            restarted.results = driver.results[..checkpoint.2].to_vec();
            restarted.late = driver.late[..checkpoint.3].to_vec();
            *figures += driver.operator.spilled();
            driver = restarted;
            next = checkpoint.1;
        }
    }
    *figures += driver.operator.spilled();
    // What goes out once more is clamped once more.
    let clamped = |driver: &Driver| driver.operator.clamped_sums() * u64::from(spec.allowed_lateness_ns == 0);
    let counts = |driver: &Driver| (driver.operator.late_rows(), clamped(driver));
    if counts(&calm) != counts(&driver) || exactly(&calm.late) != exactly(&driver.late) {
        let (one, other) = (counts(&calm), counts(&driver));
        return Some(format!("seed {seed}: late rows or clamped sums differ: {one:?}, {other:?}\n{spec:?}"));
    }
    let (one, other) = (keys_of(&spec, &calm.results), keys_of(&spec, &driver.results));
    if let Some(key) = differing(&spec, &one, &other) {
        let (one, other) = (one.get(key), other.get(key));
        return Some(format!("seed {seed}: {key} differs:\n{one:?}\n{other:?}\n{spec:?}"));
    }
    // Everything is over: but for the histories nothing is left.
    let mut store = driver.store.take().unwrap();
    store.snapshot(&mut driver.operator);
    let left = store.0.keys().filter(|key| [1, 2, 5, 6].contains(&EntryKey::parse(key).unwrap().section)).count();
    (left > 0).then(|| format!("seed {seed}: {left} entries of windows are left\n{spec:?}"))
}

/// Tries the streams that were asked for, or so many.
fn try_seeds(default: u64, mut difference: impl FnMut(u64, &mut SpillFigures) -> Option<String>) {
    let first = number("RINGMILL_ORACLE_FIRST", 0);
    let seeds = number("RINGMILL_ORACLE_SEEDS", default);
    let mut figures = SpillFigures::default();
    for seed in first..first + seeds {
        if let Some(difference) = difference(seed, &mut figures) {
            panic!("{difference}");
        }
    }
    println!("{figures:?}");
    assert!(seeds == 1 || figures.entries > 5 * seeds && figures.read_back > 5 * seeds, "{figures:?}");
}

#[test]
fn little_memory_and_crashes_change_nothing_that_a_key_gives() {
    try_seeds(150, |seed, figures| difference(Shape::Aligned, seed, figures));
}

#[test]
fn little_memory_and_crashes_change_no_session() {
    try_seeds(400, |seed, figures| difference(Shape::Sessions, seed, figures));
}

/// A shard of several, with little memory.
fn shard(spec: &WindowSpec, bytes_max: u64, shard: usize, shards: usize, store: &Store) -> Driver {
    let mut driver = spilling(spec, bytes_max, store.clone());
    driver.operator.set_shard(shard, shards);
    store.restore(&mut driver.operator).unwrap();
    driver
}

/// One operator for each key, with enough memory, and how far each key group has got.
struct Alone {
    keys: BTreeMap<String, (u64, Driver)>,
    reached_ns: Vec<i64>,
}

impl Alone {
    fn push(&mut self, spec: &WindowSpec, rows: &[Row], hashes: &[u64]) {
        for (row, hash) in rows.iter().zip(hashes) {
            let key = self.keys.entry(key_of(spec, row)).or_insert_with(|| {
                let mut driver = Driver::new(spec, ROOM);
                driver.operator.advance(self.reached_ns[usize::from(group_of(*hash))], 1);
                (*hash, driver)
            });
            key.1.push(std::slice::from_ref(row), 1);
        }
    }

    fn advance(&mut self, drivers: &[Driver]) {
        for (group, reached_ns) in (0..KEY_GROUPS).zip(&mut self.reached_ns) {
            *reached_ns = drivers[shard_of(group, drivers.len())].operator.watermark().max(*reached_ns);
        }
        for (hash, driver) in self.keys.values_mut() {
            driver.drain(7);
            driver.operator.advance(self.reached_ns[usize::from(group_of(*hash))], 1);
            driver.drain(7);
        }
    }
}

fn step_shards(drivers: &mut [Driver], step: &Step, hashes: &[u64], random: &mut Random) {
    let shards = drivers.len();
    for (shard, driver) in drivers.iter_mut().enumerate() {
        let rows = step.rows.iter().zip(hashes);
        let rows = rows.filter(|(_, hash)| shard_of(group_of(**hash), shards) == shard);
        driver.push(&rows.map(|(row, _)| row.clone()).collect::<Vec<_>>(), step.late_rows);
        driver.drain(step.emit_rows);
        let behind = if step.watermark_ns == i64::MAX { 0 } else { random.below(40) as i64 * MS };
        driver.operator.advance(step.watermark_ns - behind, 1);
        driver.drain(step.emit_rows);
    }
}

/// Runs a stream over shards with little memory that are cut anew now and then; `None` if nobody sees it.
fn difference_after_cuts(shape: Shape, seed: u64, figures: &mut SpillFigures) -> Option<String> {
    let mut random = Random(seed);
    let spec = spec_of(shape, &mut random);
    let bytes_max = little_memory(&mut random, &spec);
    let steps = stream(&mut random, &spec);
    let shards = 1 + random.below(3) as usize;
    let mut drivers: Vec<Driver> =
        (0..shards).map(|at| shard(&spec, bytes_max, at, shards, &Store::default())).collect();
    let mut alone = Alone { keys: BTreeMap::new(), reached_ns: vec![i64::MIN; usize::from(KEY_GROUPS)] };
    let mut results = BTreeMap::new();
    for step in &steps {
        let hashes = hashes(&spec, &step.rows);
        alone.push(&spec, &step.rows, &hashes);
        step_shards(&mut drivers, step, &hashes, &mut random);
        alone.advance(&drivers);
        if random.chance(3) {
            let stores: Vec<Store> = drivers
                .iter_mut()
                .map(|driver| {
                    by_key(&spec, &driver.results, &mut results);
                    *figures += driver.operator.spilled();
                    let mut store = driver.store.take().unwrap();
                    store.snapshot(&mut driver.operator);
                    store
                })
                .collect();
            let shards = 1 + random.below(4) as usize;
            let stores = if shards == stores.len() { stores } else { Store::cut(&stores, shards) };
            drivers = (0..shards).map(|at| shard(&spec, bytes_max, at, shards, &stores[at])).collect();
        }
    }
    drivers.iter().for_each(|driver| by_key(&spec, &driver.results, &mut results));
    let mut expected = BTreeMap::new();
    alone.keys.values().for_each(|(_, driver)| by_key(&spec, &driver.results, &mut expected));
    let key = differing(&spec, &expected, &results)?;
    Some(format!("seed {seed}: {key} differs:\n{:?}\n{:?}\n{spec:?}", results.get(key), expected.get(key)))
}

#[test]
fn other_numbers_of_shards_with_little_memory_change_nothing_that_a_key_gives() {
    try_seeds(100, |seed, figures| difference_after_cuts(Shape::Aligned, seed, figures));
}

#[test]
fn other_numbers_of_shards_with_little_memory_change_no_session() {
    try_seeds(200, |seed, figures| difference_after_cuts(Shape::Sessions, seed, figures));
}

#[test]
fn a_window_of_many_keys_stays_within_its_memory_and_is_given_out_wholly() {
    many_keys_stay_within_memory(WindowKind::Tumbling { size_ns: 1_000 * MS });
}

#[test]
fn sessions_of_many_keys_stay_within_their_memory_and_are_given_out_wholly() {
    many_keys_stay_within_memory(WindowKind::Session { gap_ns: 1_000 * MS });
}

fn many_keys_stay_within_memory(window: WindowKind) {
    let spec = spec(&["name"], window, &["count()", "last(text)"]);
    let bytes_max = 1 << 20;
    let mut driver = spilling(&spec, bytes_max, Store::default());
    let mut random = Random(7);
    // Each key comes twice, far apart.
    for round in 0..2 {
        for batch in 0..50 {
            let rows = (0..1000).map(|at| {
                let mut row = random_row(&mut random, 5 + round, 1);
                row[1] = Value::Bytes(format!("key {}", batch * 1000 + at).into_bytes());
                row
            });
            driver.push(&rows.collect::<Vec<_>>(), 1);
        }
    }
    let spilled = driver.operator.spilled();
    assert!(spilled.bytes > 4 * bytes_max && spilled.read_back > 40_000, "{spilled:?}");
    driver.operator.advance(i64::MAX, 1);
    driver.drain(1000);
    assert_eq!(driver.results.len(), 50_000);
    assert!(driver.results.iter().all(|row| row[3] == Value::Int(2)));
    assert!(driver.bytes_max < bytes_max + bytes_max / 2, "{} bytes of {bytes_max}", driver.bytes_max);
}

#[test]
fn an_entry_that_the_store_loses_is_found_out() {
    let shape = Shape::Aligned;
    let found = (0..60u64).filter(|seed| {
        let mut random = Random(*seed);
        let mut spec = spec_of(shape, &mut random);
        spec.statistics = None;
        let bytes_max = little_memory(&mut random, &spec);
        let steps = stream(&mut random, &spec);
        let (mut calm, mut driver) = (Driver::new(&spec, ROOM), spilling(&spec, bytes_max, Store::default()));
        steps.iter().for_each(|step| take_step(&mut calm, step));
        for step in &steps {
            driver.store.as_mut().unwrap().0.pop_first();
            take_step(&mut driver, step);
        }
        driver.operator.spilled().entries > 0
            && differing(&spec, &keys_of(&spec, &calm.results), &keys_of(&spec, &driver.results)).is_some()
    });
    let found = found.count();
    assert!(found > 10, "only {found} of 60 streams saw that entries were missing");
}

#[test]
fn sessions_that_are_due_and_that_the_store_has_lost_are_an_error() {
    let spec = spec(&["name"], WindowKind::Session { gap_ns: 10 * MS }, &["count()"]);
    let mut driver = spilling(&spec, 1_000, Store::default());
    let mut random = Random(7);
    driver.push(&(0..40).map(|_| random_row(&mut random, 5, 12)).collect::<Vec<_>>(), 1);
    let mut store = driver.store.take().unwrap();
    let parked = |key: &Vec<u8>| EntryKey::parse(key).unwrap().section == 5;
    let known = store.0.len();
    store.0.retain(|key, _| !parked(key));
    assert!(store.0.len() < known, "some were put away");
    driver.operator.advance(i64::MAX, 1);
    let error = loop {
        let mut call = StoreCall::default();
        if driver.operator.call(&mut call.node(NODE)) {
            store.serve(&mut call);
            if let Err(error) = driver.operator.answer(&call) {
                break error;
            }
        } else {
            driver.emit(10);
        }
    };
    assert!(error.to_string().contains("sessions that are due are missing"), "{error}");
}
