//! A journal gives back what was durable, whatever became of the process and of the last record; anything else that is
//! wrong with it is refused.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::{
    log::Log,
    record::{Head, Kind, RECORD_HEAD_BYTES},
    walk::walk,
};
use crate::{ConnectError, disk::faults};

const SEGMENT_BYTES: u64 = 200;

fn record(bytes: &[u8]) -> Vec<u8> {
    [&[0; RECORD_HEAD_BYTES], bytes].concat()
}

fn open(folder: &Path, from: u64) -> Result<Log, ConnectError> {
    Log::recover(folder, &walk(folder, from, |_, _| true)?, SEGMENT_BYTES)
}

/// All bytes from an offset on, and where streams begin and end.
fn read(folder: &Path, from: u64) -> Result<(Vec<u8>, Vec<Head>), ConnectError> {
    let (mut all, mut marks) = (Vec::new(), Vec::new());
    walk(folder, from, |head, bytes| {
        all.extend_from_slice(bytes);
        marks.extend((head.kind != Kind::More).then_some(*head));
        true
    })?;
    Ok((all, marks))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u8>),
    /// of what is there, in per cent
    Acknowledge(u64),
    /// the process dies; so many per cent of a next record are in the file, and are zero or not
    Die {
        written: u64,
        is_zero: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 1..120).prop_map(Step::Append),
        2 => (0..=100_u64).prop_map(Step::Acknowledge),
        2 => (0..100_u64, any::<bool>()).prop_map(|(written, is_zero)| Step::Die { written, is_zero }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn from_any_offset_that_was_not_acknowledged_all_that_was_durable_comes_back(
        steps in prop::collection::vec(step(), 1..60),
        places in prop::collection::vec(0..=100_u64, 5),
    ) {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("journal/lines");
        let (mut model, mut acknowledged) = (Vec::<u8>::new(), 0_u64);
        let mut log = open(&folder, 0).unwrap();
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    log.append(Kind::More, &mut record(&bytes)).unwrap();
                    model.extend(bytes);
                }
                Step::Acknowledge(share) => {
                    acknowledged += (model.len() as u64 - acknowledged) * share / 100;
                    log.remove_before(acknowledged).unwrap();
                    let kept = model.len() as u64 - acknowledged;
                    prop_assert!(log.bytes() <= kept + SEGMENT_BYTES + 120, "{} of {kept}", log.bytes());
                }
                Step::Die { written, is_zero } => {
                    drop(log);
                    if let Some(last) = files_if_any(&folder).last() {
                        let mut torn = record(&[7; 100]);
                        torn[..RECORD_HEAD_BYTES]
                            .copy_from_slice(&Head::of(Kind::More, model.len() as u64, &[7; 100]).encode());
                        torn.truncate(torn.len() * written as usize / 100);
                        if is_zero {
                            torn.fill(0);
                        }
                        let whole = fs::read(last).unwrap();
                        fs::write(last, [whole, torn].concat()).unwrap();
                    }
                    log = open(&folder, acknowledged).unwrap();
                    prop_assert_eq!(log.end(), model.len() as u64);
                }
            }
            for share in &places {
                let from = acknowledged + (model.len() as u64 - acknowledged) * share / 100;
                prop_assert_eq!(&read(&folder, from).unwrap().0, &model[from as usize..]);
            }
        }
        let beyond = model.len() as u64 + 1;
        prop_assert!(read(&folder, beyond).is_err());
    }
}

fn files_if_any(folder: &Path) -> Vec<PathBuf> {
    if folder.exists() { files(folder) } else { Vec::new() }
}

/// A journal of several segments and streams, and its bytes.
fn made(folder: &Path) -> Vec<u8> {
    let mut log = open(folder, 0).unwrap();
    let mut all = Vec::new();
    for index in 0..12_u8 {
        let bytes = [index; 40];
        let kind = if index % 5 == 0 { Kind::Begin } else { Kind::More };
        log.append(kind, &mut record(&bytes)).unwrap();
        if index == 4 {
            log.append(Kind::End, &mut record(&[])).unwrap();
        }
        all.extend(bytes);
    }
    assert!(files(folder).len() >= 3);
    all
}

#[test]
fn streams_are_told_apart() {
    let place = tempfile::tempdir().unwrap();
    let all = made(place.path());
    let (read_back, marks) = read(place.path(), 0).unwrap();
    assert_eq!(read_back, all);
    let marks: Vec<(Kind, u64)> = marks.iter().map(|head| (head.kind, head.offset)).collect();
    assert_eq!(marks, [(Kind::Begin, 0), (Kind::End, 200), (Kind::Begin, 200), (Kind::Begin, 400)]);
    let found = walk(place.path(), 0, |_, _| true).unwrap();
    assert!(found.is_open && found.rest_bytes == 0 && found.end == 480);
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_costs_the_last_record_alone() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let all = made(folder);
    let last_record = all.len() - 40;
    let (mut refused, mut cut) = (0, 0);
    for path in files(folder) {
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            match read(folder, 0) {
                Ok((bytes, _)) if bytes == all => {}
                Ok((bytes, _)) => {
                    assert_eq!(bytes, all[..last_record], "byte {at} of {}", path.display());
                    assert!(read(folder, all.len() as u64).is_err(), "a checkpoint that had it is refused");
                    cut += 1;
                }
                Err(error) => {
                    assert!(error.to_string().starts_with("journal "), "{error}");
                    refused += 1;
                }
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    println!("{refused} flips refused, {cut} in the last record");
    assert!(refused > 500 && (64..=64 + 24).contains(&cut), "{refused} refused, {cut} cut");
}

#[test]
fn a_segment_that_is_cut_or_gone_is_refused_unless_it_is_the_last_one() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let all = made(folder);
    let paths = files(folder);
    for (index, path) in paths.iter().enumerate() {
        let whole = fs::read(path).unwrap();
        for length in 0..whole.len() {
            fs::write(path, &whole[..length]).unwrap();
            match read(folder, 0) {
                Ok((bytes, _)) => {
                    assert!(index + 1 == paths.len() && all.starts_with(&bytes), "{length} of {}", path.display());
                }
                Err(_) => assert!(index + 1 < paths.len(), "{length} of {}", path.display()),
            }
        }
        fs::remove_file(path).unwrap();
        assert_eq!(read(folder, 0).is_err(), index + 1 < paths.len());
        assert_eq!(read(folder, all.len() as u64).is_err(), index + 1 == paths.len());
        fs::write(path, &whole).unwrap();
    }
    assert_eq!(read(folder, 0).unwrap().0, all);
}

#[test]
fn what_a_disk_refused_is_written_by_the_next_try() {
    for code in [libc::ENOSPC, libc::EIO] {
        for n in 1.. {
            let place = tempfile::tempdir().unwrap();
            let folder = place.path().join("journal/lines");
            let mut log = open(&folder, 0).unwrap();
            let mut all = Vec::new();
            faults::order(n, 1, code);
            let mut failures = 0;
            for index in 0..9_u8 {
                let bytes = [index; 50];
                while let Err(error) = log.append(Kind::More, &mut record(&bytes)) {
                    let is_full = code == libc::ENOSPC;
                    assert_eq!((error.is_transient(), error.is_out_of_space()), (is_full, is_full), "{error}");
                    failures += 1;
                }
                all.extend(bytes);
                while log.remove_before(if index > 6 { 300 } else { 0 }).is_err() {
                    failures += 1;
                }
            }
            let is_over = !faults::are_spent();
            faults::order(0, 0, 0);
            assert_eq!(read(&folder, 300).unwrap().0, all[300..], "fault {n}");
            assert_eq!(open(&folder, 300).unwrap().end(), all.len() as u64);
            if is_over {
                assert!(n > 30, "{n} places");
                break;
            }
            assert!(failures > 0, "fault {n}");
        }
    }
}

#[test]
fn only_this_user_can_read_it_and_links_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("journal");
    made(&folder);
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert!(files(&folder).iter().all(|path| mode(path) == 0o600));
    let link = place.path().join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    let found = walk(&link, 0, |_, _| true).unwrap();
    let error = Log::recover(&link, &found, SEGMENT_BYTES).unwrap_err();
    assert!(error.to_string().ends_with("it is not a folder of this user"), "{error}");
    let last = files(&folder).pop().unwrap();
    fs::rename(&last, place.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.path().join("elsewhere"), &last).unwrap();
    assert!(read(&folder, 0).is_err());
}
