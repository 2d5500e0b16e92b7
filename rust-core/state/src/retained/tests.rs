//! Rows in, rows out, rows gone; keys that sort as their values do.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use proptest::prelude::*;
use tempfile::TempDir;

use super::key::{row, stored_key};
use super::*;

const SECOND: i64 = 1_000_000_000;
const ALL: Amount = Amount { rows: u64::MAX, bytes: u64::MAX };

/// What a key column may hold; one kind for each column of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Bytes(Vec<u8>),
}

impl Value {
    fn part(&self) -> KeyPart<'_> {
        match self {
            Value::Null => KeyPart::Null,
            Value::Bool(value) => KeyPart::Bool(*value),
            Value::Signed(value) => KeyPart::Signed(*value),
            Value::Unsigned(value) => KeyPart::Unsigned(*value),
            Value::Bytes(bytes) => KeyPart::Bytes(bytes),
        }
    }
}

fn value(kind: u8) -> BoxedStrategy<Value> {
    let some = match kind {
        0 => any::<bool>().prop_map(Value::Bool).boxed(),
        1 => any::<i64>().prop_map(Value::Signed).boxed(),
        2 => any::<u64>().prop_map(Value::Unsigned).boxed(),
        // Few different bytes, so that keys are often the beginning of others, and zeros are frequent.
        _ => {
            prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 254, 255]), 0..6).prop_map(Value::Bytes).boxed()
        }
    };
    prop_oneof![1 => Just(Value::Null), 9 => some].boxed()
}

/// Two keys of the same columns, each with a window's start.
fn pair() -> impl Strategy<Value = [(Vec<Value>, i64); 2]> {
    prop::collection::vec(0u8..4, 0..4).prop_flat_map(|kinds| {
        let key = || (kinds.iter().map(|kind| value(*kind)).collect::<Vec<_>>(), any::<i64>());
        [key(), key()]
    })
}

fn encode(key: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.iter().for_each(|value| value.part().write(&mut bytes));
    bytes
}

proptest! {
    #[test]
    fn stored_keys_sort_as_their_values_and_windows_do([a, b] in pair()) {
        let (left, right) = (encode(&a.0), encode(&b.0));
        prop_assert_eq!(stored_key(&left, a.1).cmp(&stored_key(&right, b.1)), a.cmp(&b));
        prop_assert_eq!(left == right, a.0 == b.0);
    }

    #[test]
    fn no_key_is_the_beginning_of_another([a, b] in pair()) {
        let (left, right) = (encode(&a.0), encode(&b.0));
        prop_assert!(left.cmp(&right) == Ordering::Equal || !left.starts_with(&right) && !right.starts_with(&left));
    }

    #[test]
    fn rows_come_out_of_a_staging_log_as_they_went_in(
        rows in prop::collection::vec((any::<Vec<u8>>(), any::<i64>(), any::<i64>(), any::<Vec<u8>>()), 0..8),
    ) {
        let mut bytes = Vec::new();
        for (key, start, end, row) in &rows {
            frame(&mut bytes, key, *start, *end, row);
        }
        let found: Option<Vec<_>> = super::frame::rows(&bytes).collect();
        let wanted: Vec<RetainedRow<'_>> = rows
            .iter()
            .map(|(key, start, end, row)| RetainedRow { key, start_ns: *start, end_ns: *end, row })
            .collect();
        prop_assert_eq!(found, Some(wanted));
        // Nothing that was cut off is taken for a row, and nothing panics.
        for end in 0..bytes.len() {
            let cut: Vec<_> = super::frame::rows(&bytes[..end]).collect();
            prop_assert!(cut.len() <= rows.len());
        }
    }
}

fn frame(out: &mut Vec<u8>, key: &[u8], start: i64, end: i64, row: &[u8]) {
    RetainedRow::write_frame((start, end), out, |out| out.extend_from_slice(key), |out| out.extend_from_slice(row));
}

/// A store of windows of one second.
struct Place {
    _around: TempDir,
    path: PathBuf,
    limits: RetainedLimits,
}

impl Place {
    fn new(retain_s: i64, bytes_max: Option<u64>) -> Place {
        let around = tempfile::tempdir().expect("temporary folder");
        let path = around.path().join("retained/step");
        Place { _around: around, path, limits: RetainedLimits { retain_ns: retain_s * SECOND, bytes_max } }
    }

    fn open(&self) -> RetainedStore {
        RetainedStore::open(&self.path, self.limits, &about()).expect("open")
    }

    fn onlooker(&self) -> Option<RetainedReader> {
        RetainedReader::open(&self.path, &self.path.with_extension("scratch")).expect("look")
    }
}

fn about() -> serde_json::Value {
    serde_json::json!({ "key": ["name"] })
}

fn epoch(epoch: u64) -> Committed {
    Committed { writer: "test".to_owned(), epoch }
}

fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    KeyPart::Bytes(name.as_bytes()).write(&mut key);
    key
}

/// Applies rows: key, start in seconds, content.
fn apply(store: &RetainedStore, number: u64, rows: &[(&str, i64, &str)]) {
    let mut frames = Vec::new();
    for (name, start, row) in rows {
        frame(&mut frames, &key(name), start * SECOND, (start + 1) * SECOND, row.as_bytes());
    }
    store.apply(&epoch(number), Cursor::new(&frames)).expect("apply");
}

fn get(reader: &RetainedReader, name: &str) -> Vec<String> {
    let (rows, is_more) = reader.get(&key(name), RetainedRange::default(), ALL).expect("get");
    assert!(!is_more);
    rows.into_iter().map(|row| String::from_utf8(row).expect("text")).collect()
}

fn all(reader: &RetainedReader) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    let scanned = reader.scan(RetainedRange::default(), |row| {
        found.push((row.start_ns / SECOND, String::from_utf8(row.row.to_vec()).expect("text")));
        true
    });
    scanned.expect("scan");
    found
}

/// Rows that lie in the store, shown or not.
fn stored(store: &RetainedStore) -> usize {
    let db = store.db().expect("open");
    db.iterator(rocksdb::IteratorMode::Start)
        .filter(|entry| entry.as_ref().is_ok_and(|(key, value)| row(key, value).is_some()))
        .count()
}

#[test]
fn a_key_has_its_rows_in_the_order_of_their_windows_and_nobody_elses() {
    let place = Place::new(1_000, None);
    let store = place.open();
    apply(&store, 1, &[("b", 2, "b2"), ("a", 3, "a3"), ("a\0", 1, "zero"), ("a", -5, "a-5"), ("", 1, "none")]);
    apply(&store, 2, &[("a", 10, "a10"), ("ab", 1, "ab1")]);
    let reader = store.reader().expect("read");
    assert_eq!(get(&reader, "a"), ["a-5", "a3", "a10"]);
    assert_eq!((get(&reader, "a\0"), get(&reader, "")), (vec!["zero".to_owned()], vec!["none".to_owned()]));
    assert!(get(&reader, "c").is_empty());
    let range = |from: i64, to: i64| RetainedRange { from_ns: from * SECOND, to_ns: to * SECOND };
    for (range, limit, rows, is_more) in [
        (range(3, 10), 9, vec!["a3"], false),
        (range(3, 11), 9, vec!["a3", "a10"], false),
        (range(4, 10), 9, vec![], false),
        (RetainedRange::default(), 2, vec!["a3", "a10"], true),
        (RetainedRange::default(), 3, vec!["a-5", "a3", "a10"], false),
        (RetainedRange { from_ns: i64::MIN, to_ns: i64::MIN }, 3, vec![], false),
    ] {
        let rows: Vec<Vec<u8>> = rows.into_iter().map(|row| row.as_bytes().to_vec()).collect();
        let max = Amount { rows: limit, ..ALL };
        assert_eq!(reader.get(&key("a"), range, max).expect("get"), (rows, is_more), "{range:?} {limit}");
    }
    for (bytes, rows) in [(0, 1), (3, 1), (5, 2), (7, 2), (8, 3)] {
        let (found, is_more) = reader.get(&key("a"), RetainedRange::default(), Amount { bytes, ..ALL }).expect("get");
        assert_eq!((found.len(), is_more), (rows, rows < 3), "{bytes}");
    }
    let found: Vec<String> = all(&reader).into_iter().map(|(_, row)| row).collect();
    assert_eq!(found, ["none", "a-5", "a3", "a10", "zero", "ab1", "b2"]);
}

#[test]
fn a_later_row_of_a_window_takes_the_place_of_the_earlier() {
    let place = Place::new(1_000, None);
    let store = place.open();
    apply(&store, 1, &[("a", 1, "first"), ("a", 1, "second")]);
    assert_eq!(get(&store.reader().expect("read"), "a"), ["second"]);
    apply(&store, 2, &[("a", 1, "the third")]);
    assert_eq!(get(&store.reader().expect("read"), "a"), ["the third"]);
    let live = store.figures().live;
    // One byte before the key, eight for each bound of the window.
    assert_eq!(live, Amount { rows: 1, bytes: (1 + key("a").len() + 8 + 8 + "the third".len()) as u64 });
}

#[test]
fn an_epoch_is_applied_once_and_known_after_a_restart() {
    let place = Place::new(1_000, None);
    let store = place.open();
    assert_eq!(store.committed(), None);
    apply(&store, 3, &[("a", 1, "right")]);
    apply(&store, 3, &[("a", 1, "wrong")]);
    let figures = store.figures();
    drop(store);
    let store = place.open();
    assert_eq!((store.committed(), store.figures()), (Some(epoch(3)), figures));
    assert_eq!(get(&store.reader().expect("read"), "a"), ["right"]);
    drop(store);
    let store = RetainedStore::begin(&place.path, place.limits, &about()).expect("begin");
    assert_eq!((store.committed(), stored(&store)), (None, 0));
}

#[test]
fn a_damaged_staged_row_is_refused_and_nothing_of_its_epoch_is_there() {
    let store = Place::new(1_000, None);
    let store = store.open();
    let mut frames = Vec::new();
    frame(&mut frames, &key("a"), 0, SECOND, b"row");
    frames.truncate(frames.len() - 1);
    assert!(store.apply(&epoch(1), Cursor::new(&frames)).is_err());
    assert_eq!((store.committed(), stored(&store)), (None, 0));
}

/// Frames of which the disk gives only so many bytes before it fails.
struct Failing<'a> {
    frames: Cursor<&'a [u8]>,
    until: u64,
}

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.until.saturating_sub(self.frames.position()) {
            0 => Err(io::Error::other("the disk is gone")),
            left => self.frames.by_ref().take(left).read(buffer),
        }
    }
}

impl Seek for Failing<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.frames.seek(to)
    }
}

#[test]
fn an_epoch_that_was_broken_off_goes_on_where_it_stood_and_nothing_counts_twice() {
    let mut frames = Vec::new();
    for number in 0..200i64 {
        // Each window comes twice, the second time long after the first.
        let start = number % 100 * SECOND;
        frame(&mut frames, &key("a"), start, start + SECOND, format!("row {number}").as_bytes());
    }
    let undisturbed = Place::new(1_000, None);
    let whole = undisturbed.open();
    whole.apply(&epoch(7), Cursor::new(&frames)).expect("apply");
    let place = Place::new(1_000, None);
    let mut most = 0;
    for until in (0..frames.len() as u64).step_by(700) {
        let store = place.open();
        let failing = Failing { frames: Cursor::new(&frames), until };
        assert!(store.apply(&epoch(7), failing).is_err());
        assert_eq!(store.committed(), None);
        let rows = all(&store.reader().expect("read"));
        assert!(rows.len() >= most, "what was there is there");
        most = rows.len();
    }
    assert!(most > 50, "an epoch has many blocks");
    let store = place.open();
    store.apply(&epoch(7), Cursor::new(&frames)).expect("apply");
    assert_eq!((store.committed(), store.figures()), (Some(epoch(7)), whole.figures()));
    assert_eq!(all(&store.reader().expect("read")), all(&whole.reader().expect("read")));
    assert_eq!(stored(&store), 100);
}

#[test]
fn rows_go_when_newer_windows_have_ended_long_enough_after_theirs() {
    let place = Place::new(10, None);
    let store = place.open();
    apply(&store, 1, &[("a", 0, "0"), ("a", 1, "1"), ("b", 5, "5")]);
    apply(&store, 2, &[("b", 9, "9")]);
    assert_eq!(get(&store.reader().expect("read"), "a"), ["0", "1"], "the newest window ended ten seconds ago only");
    apply(&store, 3, &[("b", 10, "10"), ("c", 0, "too late")]);
    assert_eq!(get(&store.reader().expect("read"), "a"), ["1"]);
    assert!(get(&store.reader().expect("read"), "c").is_empty());
    assert_eq!(store.figures().live.rows, 4);
    assert_eq!(stored(&store), 5, "nothing is searched for");
    store.compact().expect("compact");
    assert_eq!(stored(&store), 4);
    drop(store);
    let store = place.open();
    assert_eq!(get(&store.reader().expect("read"), "a"), ["1"]);
    // A longer time brings nothing back: what went may be in no file any more.
    let longer = RetainedLimits { retain_ns: 100 * SECOND, ..place.limits };
    drop(store);
    let store = RetainedStore::open(&place.path, longer, &about()).expect("open");
    apply(&store, 4, &[("b", 11, "11"), ("c", 0, "too late")]);
    assert_eq!(all(&store.reader().expect("read")).len(), 5);
}

#[test]
fn a_compaction_begins_by_itself_when_enough_is_dead() {
    let place = Place::new(10, None);
    let store = place.open();
    let large = "x".repeat(64 << 10);
    let rows: Vec<(&str, i64, &str)> = (0..200).map(|start| ("a", start, large.as_str())).collect();
    for (number, rows) in rows.chunks(20).enumerate() {
        apply(&store, number as u64 + 1, rows);
    }
    if let Some(compaction) = store.ledger().compaction.take() {
        compaction.thread.join().expect("it ends");
    }
    assert!(stored(&store) < 200, "{}", stored(&store));
    assert_eq!(store.figures().live.rows, 10);
}

#[test]
fn the_oldest_rows_go_when_all_together_are_too_large() {
    let place = Place::new(100_000, Some(10_000));
    let store = place.open();
    let large = "x".repeat(1_000);
    // Slices of 100,000 s / 4,096 = 24.4 s.
    for number in 0..100 {
        apply(&store, number + 1, &[("a", number as i64 * 30, &large)]);
    }
    let live = store.figures().live;
    assert!(live.bytes <= 10_000 && live.rows == 9, "{live:?}");
    let starts: Vec<i64> = all(&store.reader().expect("read")).into_iter().map(|(start, _)| start).collect();
    assert_eq!(starts, (91..100).map(|number| number * 30).collect::<Vec<_>>());
    store.compact().expect("compact");
    assert_eq!(stored(&store), 9);
    // The newest slice stays, however large it is.
    let rows: Vec<(&str, i64, &str)> = (0..20).map(|_| ("b", 3_000, large.as_str())).collect();
    apply(&store, 101, &rows);
    let keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    let rows: Vec<(&str, i64, &str)> = keys.iter().map(|key| (key.as_str(), 4_000, large.as_str())).collect();
    apply(&store, 102, &rows);
    assert_eq!(store.figures().live.rows, 20);
}

#[test]
fn an_onlooker_sees_what_was_committed_while_the_owner_writes_and_compacts() {
    let place = Place::new(50, None);
    assert!(place.onlooker().is_none(), "there is nothing");
    let store = place.open();
    assert!(place.onlooker().is_none(), "nothing was committed");
    let large = "x".repeat(2_000);
    let writer = std::thread::spawn(move || {
        for number in 0..300 {
            let row = format!("{number} {large}");
            let rows: Vec<(&str, i64, &str)> = ["a", "b", "c"].iter().map(|key| (*key, number, row.as_str())).collect();
            apply(&store, number as u64 + 1, &rows);
            if number % 10 == 0 {
                store.compact().expect("compact");
            }
        }
        store
    });
    let (mut looks, mut newest) = (0, 0);
    loop {
        let is_last = writer.is_finished();
        let Some(reader) = place.onlooker() else { continue };
        let mut starts: BTreeMap<i64, usize> = BTreeMap::new();
        all(&reader).into_iter().for_each(|(start, _)| *starts.entry(start).or_default() += 1);
        let (first, last) =
            (starts.first_key_value().map(|first| *first.0), starts.last_key_value().map(|last| *last.0));
        let (first, last) = (first.expect("rows"), last.expect("rows"));
        // An epoch of several blocks is there block by block.
        let are_whole = starts.iter().all(|(start, count)| *count == 3 || *start == last && !is_last);
        assert!(are_whole, "half of an epoch: {starts:?}");
        assert_eq!(starts.len() as i64, last - first + 1, "something lacks in between");
        assert!(last >= newest && first == (last - 49).max(0), "{first} to {last}, after {newest}");
        (looks, newest) = (looks + 1, last);
        if is_last {
            break;
        }
    }
    println!("{looks} looks");
    assert_eq!(newest, 299);
    drop(writer.join().expect("the writer"));
    let onlooker = place.onlooker().expect("it stands");
    assert_eq!((all(&onlooker).len(), onlooker.about()), (150, &about()));
    drop(onlooker);
    assert!(!place.path.with_extension("scratch").exists());
}

#[test]
fn the_book_agrees_with_the_rows_whatever_comes() {
    let place = Place::new(40, Some(4_000));
    let store = place.open();
    let mut seed = 7u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let names = ["a", "b", "c", "d"];
    for number in 0..200 {
        let rows: Vec<(usize, i64, String)> = (0..random(6))
            .map(|_| (random(4) as usize, number as i64 - random(60) as i64, "y".repeat(random(50) as usize)))
            .collect();
        let rows: Vec<(&str, i64, &str)> =
            rows.iter().map(|(name, start, row)| (names[*name], *start, row.as_str())).collect();
        apply(&store, number + 1, &rows);
        if random(20) == 0 {
            store.compact().expect("compact");
        }
        let figures = store.figures();
        let (mut live, mut found) = (Amount::default(), Vec::new());
        let scanned = store.reader().expect("read").scan(RetainedRange::default(), |row| {
            live.rows += 1;
            live.bytes += (1 + row.key.len() + 16 + row.row.len()) as u64;
            found.push(row.end_ns);
            true
        });
        scanned.expect("scan");
        // Slices are as long as windows here, so the floor cuts none of them.
        assert_eq!(figures.live, live, "after {number}");
        assert!(live.bytes <= 4_000 || found.iter().all(|end| Some(*end) == figures.newest_end_ns));
    }
}
