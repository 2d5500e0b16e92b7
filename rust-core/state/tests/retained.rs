//! Retained results on a disk that is full, at every fill level: nothing panics, no epoch is half there, nothing is called
//! applied that is not, and once there is room the same epoch goes in.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ringmill_state::{Committed, RetainedLimits, RetainedRange, RetainedRow, RetainedStore, StateError};

const DISK_BYTES: u64 = 16 << 20;
const PAGE_BYTES: u64 = 4 << 10;
const SECOND: i64 = 1_000_000_000;
const ROWS: i64 = 40;
/// Of a row; it cannot be compressed.
const ROW_BYTES: usize = 2 << 10;
/// Epochs that are retained.
const RETAINED: i64 = 8;

#[test]
fn a_full_disk_stops_an_epoch_and_room_lets_it_in() {
    let around = tempfile::tempdir().expect("temporary folder");
    let mount = format!("mount -t tmpfs -o size={DISK_BYTES},mode=0700 none '{}'", around.path().display());
    // In a namespace of its own: the file system goes with the process, whatever becomes of it.
    let can_mount = Command::new("unshare").args(["--mount", "sh", "-c", &mount]).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no small file system can be mounted here (root can)");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]).stdin(Stdio::null());
    command.arg(std::env::current_exe().expect("path of this program"));
    command.args(["--exact", "fill_and_go_on", "--nocapture"]).env("RINGMILL_TEST_FOLDER", around.path());
    let output = command.output().expect("run");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Leaves room for so many pages.
fn fill(ballast: &Path, pages: u64) {
    let mut file = OpenOptions::new().create(true).append(true).open(ballast).expect("ballast");
    let block = [0; PAGE_BYTES as usize];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().expect("length").len();
    file.set_len(length.saturating_sub(pages * PAGE_BYTES)).expect("make room");
}

/// Rows of an epoch: each key once, windows of a second.
fn frames(epoch: u64) -> Vec<u8> {
    let (mut frames, mut seed) = (Vec::new(), epoch);
    let start = epoch as i64 * SECOND;
    for key in 0..ROWS {
        let row: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        })
        .take(ROW_BYTES)
        .collect();
        let write_key = |out: &mut Vec<u8>| out.extend_from_slice(&key.to_be_bytes());
        RetainedRow::write_frame((start, start + SECOND), &mut frames, write_key, |out| out.extend_from_slice(&row));
    }
    frames
}

/// Rows that are shown, by epoch.
fn shown(store: &RetainedStore) -> Result<BTreeMap<u64, i64>, StateError> {
    let mut rows = BTreeMap::new();
    store.reader()?.scan(RetainedRange::default(), |row| {
        *rows.entry((row.start_ns / SECOND) as u64).or_default() += 1;
        true
    })?;
    Ok(rows)
}

/// No test by itself: what the other process does.
#[test]
fn fill_and_go_on() {
    let Ok(disk) = std::env::var("RINGMILL_TEST_FOLDER") else { return };
    let disk = Path::new(&disk);
    let limits = RetainedLimits { retain_ns: RETAINED * SECOND, bytes_max: None };
    let store = RetainedStore::open(&disk.join("retained"), limits, &().into()).expect("open");
    let (mut epoch, mut free, mut successes, mut failures) = (0, 0, 0, 0);
    while successes < 3 {
        epoch += 1;
        let (committed, frames) = (Committed { writer: "test".into(), epoch }, frames(epoch));
        fill(&disk.join("ballast"), free);
        let tried = store.apply(&committed, Cursor::new(&frames));
        if let Err(error) = &tried {
            assert!(error.is_out_of_space(), "{error}");
            assert_ne!(store.committed(), Some(committed.clone()));
            // The next try opens the store again, and has no room for that either.
            if let Err(error) = store.apply(&committed, Cursor::new(&frames)) {
                assert!(error.is_out_of_space() || matches!(error, StateError::Broken { .. }), "{error}");
            }
            if let Ok(rows) = shown(&store) {
                assert!(rows.values().all(|count| *count == ROWS), "half of an epoch: {rows:?}");
            }
            failures += 1;
        }
        fs::remove_file(disk.join("ballast")).expect("make room");
        store.apply(&committed, Cursor::new(&frames)).expect("with room");
        let wanted = (epoch.saturating_sub(RETAINED as u64 - 1).max(1)..=epoch).map(|epoch| (epoch, ROWS)).collect();
        assert_eq!(shown(&store).expect("read"), wanted);
        assert_eq!(store.committed(), Some(committed));
        if epoch % 8 == 0 {
            store.compact().expect("compact");
        }
        successes = if tried.is_ok() { successes + 1 } else { 0 };
        free += 1;
    }
    println!("{epoch} fill levels, {failures} failures");
    assert!(failures > 5, "the disk was never full");
}
