//! Rolling up, whatever comes in between: what is shown is always what came, in rows of one size or another.

use std::collections::BTreeMap;
use std::io::Cursor;

use tempfile::TempDir;

use super::*;

const SECOND: i64 = 1_000_000_000;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// In seconds: so late rows may come.
const LATENESS: i64 = 5;
const ALL: Amount = Amount { rows: u64::MAX, bytes: u64::MAX };

/// A row: start and end in seconds, count and sum.
type Shown = (i64, i64, (u64, u64));

/// Rows are `count sum`.
struct Sums(u64, u64);

fn parse(row: &[u8]) -> Option<(u64, u64)> {
    let (count, sum) = std::str::from_utf8(row).ok()?.split_once(' ')?;
    Some((count.parse().ok()?, sum.parse().ok()?))
}

impl Merge for Sums {
    fn add(&mut self, row: &[u8]) -> bool {
        let Some((count, sum)) = parse(row) else { return false };
        (self.0, self.1) = (self.0 + count, self.1 + sum);
        true
    }

    fn finish(self: Box<Self>, _start_ns: i64, _end_ns: i64) -> Option<Vec<u8>> {
        Some(format!("{} {}", self.0, self.1).into_bytes())
    }
}

fn levels(levels: &[(i64, i64)]) -> RollUp {
    let level = |&(after, size): &(i64, i64)| RollUpLevel { after_ns: after * SECOND, size_ns: size * SECOND };
    RollUp { levels: levels.iter().map(level).collect(), merge: Box::new(|| Box::new(Sums(0, 0))) }
}

const LEVELS: [(i64, i64); 2] = [(9, 4), (20, 12)];

/// A store of windows of one second, and all that ever came into it.
struct World {
    _around: TempDir,
    path: PathBuf,
    limits: RetainedLimits,
    store: Option<RetainedStore>,
    epoch: u64,
    /// Seconds: the newest end.
    newest: i64,
    came: BTreeMap<(&'static str, i64), u64>,
    seed: u64,
}

impl World {
    fn new(seed: u64, bytes_max: Option<u64>) -> World {
        // Each step is made durable, and there are many.
        let around = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary folder");
        let path = around.path().join("retained/step");
        let limits = RetainedLimits { retain_ns: 60 * SECOND, bytes_max };
        World { _around: around, path, limits, store: None, epoch: 0, newest: 0, came: BTreeMap::new(), seed }
    }

    fn open(&mut self, sizes: &[(i64, i64)]) {
        // It ends as at a crash: between two steps.
        self.store = None;
        let store = RetainedStore::open(&self.path, self.limits, &serde_json::Value::Null).expect("open");
        self.store = Some(if sizes.is_empty() { store } else { store.rolling_up(levels(sizes)) });
    }

    fn store(&self) -> &RetainedStore {
        self.store.as_ref().expect("it is open")
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn apply(&mut self, rows: &[(&'static str, i64, u64)]) {
        let mut frames = Vec::new();
        for (name, start, value) in rows {
            let (row, bounds) = (format!("1 {value}"), (start * SECOND, (start + 1) * SECOND));
            let write_key = |out: &mut Vec<u8>| out.extend_from_slice(&key(name));
            RetainedRow::write_frame(bounds, &mut frames, write_key, |out| out.extend_from_slice(row.as_bytes()));
            self.newest = self.newest.max(start + 1);
        }
        self.epoch += 1;
        let epoch = Committed { writer: "test".to_owned(), epoch: self.epoch };
        self.store().apply(&epoch, Cursor::new(&frames)).expect("apply");
    }

    /// An epoch of results: new windows, and some that fire again.
    fn advance(&mut self) {
        let (before, seconds) = (self.newest, self.random(8) as i64);
        let mut rows = Vec::new();
        for _ in 0..self.random(12) {
            let start = before - LATENESS + self.random((LATENESS + seconds) as u64) as i64;
            let (name, value) = (NAMES[self.random(5) as usize], self.random(1_000));
            rows.push((name, start, value));
            self.came.insert((name, start), value);
        }
        self.apply(&rows);
    }

    /// Until nothing is left to be done.
    fn settle(&mut self) {
        self.apply(&[]);
        let rolling = self.store().ledger().rolling.take();
        if let Some(rolling) = rolling {
            rolling.thread.join().expect("it ends");
        }
    }

    /// What is shown is what came, each row once and in order, and the book says the same.
    fn check(&self) {
        // The figures of the same moment: the thread changes them only with the rows.
        let (figures, live) = loop {
            let before = self.store().figures();
            let live = self.look(before.floor_ns / SECOND.max(1));
            if self.store().figures() == before {
                break (before, live);
            }
        };
        assert_eq!(figures.live, live);
        assert_eq!(figures.refused_rows, 0);
    }

    fn look(&self, floor: i64) -> Amount {
        let (reader, mut live) = (self.store().reader().expect("read"), Amount::default());
        let mut shown: BTreeMap<Vec<u8>, Vec<Shown>> = BTreeMap::new();
        let scanned = reader.scan(RetainedRange::default(), |row| {
            live.rows += 1;
            live.bytes += (1 + row.key.len() + 16 + row.row.len()) as u64;
            let row_of_key = (row.start_ns / SECOND, row.end_ns / SECOND, parse(row.row).expect("a row"));
            shown.entry(row.key.to_vec()).or_default().push(row_of_key);
            true
        });
        scanned.expect("scan");
        for name in NAMES {
            let rows = shown.remove(&key(name)).unwrap_or_default();
            let mut last = i64::MIN;
            for (start, end, sums) in &rows {
                assert!(*start >= last, "{name}: {rows:?}");
                last = *end;
                let parts = self.came.range((name, *start)..(name, *end)).map(|(_, value)| *value);
                assert_eq!(*sums, (parts.clone().count() as u64, parts.sum()), "{name} from {start} to {end}");
            }
            for ((_, start), _) in self.came.range((name, floor)..(name, i64::MAX)) {
                let is_shown = rows.iter().any(|(from, to, _)| (*from..*to).contains(start));
                assert!(is_shown, "{name}: {start} lacks, the floor is {floor}: {rows:?}");
            }
        }
        assert!(shown.is_empty());
        live
    }

    /// Every window that is old enough is one row.
    fn check_settled(&self, sizes: &[(i64, i64)]) {
        let (newest, floor) = (self.newest, self.store().figures().floor_ns / SECOND);
        let scanned = self.store().reader().expect("read").scan(RetainedRange::default(), |row| {
            let (start, end) = (row.start_ns / SECOND, row.end_ns / SECOND);
            for (after, size) in sizes {
                let coarse = start.div_euclid(*size) * size;
                let is_due = coarse + size <= newest - after && coarse >= floor;
                assert!(!is_due || end - start >= *size, "{start} to {end} at {newest}, from {floor} on");
            }
            true
        });
        scanned.expect("scan");
    }
}

fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    KeyPart::Bytes(name.as_bytes()).write(&mut key);
    key
}

#[test]
fn what_is_shown_is_what_came_whenever_it_is_rolled_up() {
    for seed in 0..4 {
        let mut world = World::new(seed, (seed % 3 == 2).then_some(1_500));
        world.open(&LEVELS);
        let mut coarse = 0;
        for _ in 0..80 {
            world.advance();
            match world.random(8) {
                0 => world.open(&LEVELS),
                1 | 2 => {
                    world.settle();
                    world.check_settled(&LEVELS);
                }
                3 => world.store().compact().expect("compact"),
                _ => {}
            }
            world.check();
            let reader = world.store().reader().expect("read");
            let counted = reader.scan(RetainedRange::default(), |row| {
                coarse += usize::from(row.end_ns - row.start_ns == 12 * SECOND);
                true
            });
            counted.expect("scan");
        }
        assert!(coarse > 100 || world.limits.bytes_max.is_some(), "{seed}: {coarse}");
        let store = world.store.take().expect("it is open");
        let (path, scratch) = (world.path.clone(), world.path.with_extension("scratch"));
        drop(store);
        let onlooker = RetainedReader::open(&path, &scratch).expect("look").expect("it stands");
        for name in NAMES {
            let (rows, _) = onlooker.get(&key(name), RetainedRange::default(), ALL).expect("get");
            assert!(!rows.is_empty());
        }
    }
}

#[test]
fn other_sizes_lose_and_double_nothing() {
    let choices: [&[(i64, i64)]; 5] = [&LEVELS, &[(9, 6)], &[], &[(9, 3), (15, 12)], &[(12, 5)]];
    for seed in 0..6 {
        let mut world = World::new(100 + seed, None);
        for _ in 0..100 {
            if world.store.is_none() || world.random(12) == 0 {
                let choice = world.random(5) as usize;
                world.open(choices[choice]);
            }
            world.advance();
            if world.random(3) == 0 {
                world.settle();
            }
            world.check();
        }
    }
}

#[test]
fn what_comes_for_a_window_that_is_rolled_up_is_refused_and_counted() {
    let mut world = World::new(0, None);
    world.open(&LEVELS);
    world.apply(&[("a", 0, 1), ("a", 1, 2), ("a", 5, 4)]);
    world.apply(&[("a", 16, 8)]);
    world.settle();
    assert_eq!(world.store().figures().rolled_up_ns, Some(8 * SECOND));
    // The first one would take the place of the coarser row, the other one would be in it twice.
    world.apply(&[("a", 0, 100), ("a", 7, 100), ("a", 8, 16)]);
    let rows = |world: &World| {
        let (rows, _) =
            world.store().reader().expect("read").get(&key("a"), RetainedRange::default(), ALL).expect("get");
        rows.into_iter().map(|row| String::from_utf8(row).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(
        (rows(&world), world.store().figures().refused_rows),
        (["2 3", "1 4", "1 16", "1 8"].map(str::to_owned).to_vec(), 2)
    );
    // Without rolling up, what was rolled up stays so.
    world.open(&[]);
    world.apply(&[("a", 1, 100), ("a", 40, 32)]);
    assert_eq!((rows(&world).len(), world.store().figures().refused_rows), (5, 3));
}

#[test]
fn what_cannot_be_merged_stays_as_it_is() {
    let mut world = World::new(0, None);
    world.open(&LEVELS);
    let mut frames = Vec::new();
    for start in 0..4 {
        let bounds = (start * SECOND, (start + 1) * SECOND);
        let row: &[u8] = if start == 2 { b"nonsense" } else { b"1 1" };
        let write_key = |out: &mut Vec<u8>| out.extend_from_slice(&key("a"));
        RetainedRow::write_frame(bounds, &mut frames, write_key, |out| out.extend_from_slice(row));
    }
    let epoch = Committed { writer: "test".to_owned(), epoch: 1_000 };
    world.store().apply(&epoch, Cursor::new(&frames)).expect("apply");
    world.apply(&[("a", 40, 1)]);
    world.settle();
    let reader = world.store().reader().expect("read");
    let (rows, _) = reader.get(&key("a"), RetainedRange::default(), ALL).expect("get");
    assert_eq!(rows.len(), 5);
}

#[test]
fn rows_that_became_others_are_dead_and_go_with_a_compaction() {
    let mut world = World::new(0, None);
    world.open(&LEVELS);
    world.apply(&(0..8).map(|start| ("a", start, 1)).collect::<Vec<_>>());
    world.apply(&[("a", 30, 1)]);
    let before = world.store().ledger().book.dead_bytes();
    world.settle();
    let ledger = world.store().ledger();
    assert!(ledger.book.dead_bytes() > before, "{before}");
    drop(ledger);
    assert_eq!(world.store().figures().live.rows, 3);
}
