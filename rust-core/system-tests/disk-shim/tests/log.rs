//! The log can be read back, up to a torn end.

#[path = "../src/record.rs"]
mod record;

use record::{Kind, OPENED_EMPTIED, OPENED_NEW, OPENED_SYNCHRONOUS, Record};

#[test]
fn what_is_written_into_a_log_is_read_from_it_up_to_a_torn_end() {
    let records = [
        Record::of(Kind::Begin, 0, 4711),
        Record::of(Kind::Open, 7, OPENED_NEW | OPENED_EMPTIED | OPENED_SYNCHRONOUS).at(b"a/b"),
        Record::of(Kind::Write, 7, 512).with(b"bytes"),
        Record::of(Kind::Rename, 0, 0).at(b"a/b").with(b"a/c"),
        Record::of(Kind::SyncAll, 0, u64::MAX),
    ];
    let mut log = Vec::new();
    records.iter().for_each(|record| record.encode(&mut log));
    for end in 0..=log.len() {
        let mut rest = &log[..end];
        let read: Vec<Record<'_>> = std::iter::from_fn(|| Record::decode(&mut rest)).collect();
        assert!(records.starts_with(&read));
        assert_eq!(read.len() == records.len(), end == log.len());
    }
}

#[test]
fn every_kind_of_record_has_a_number_of_its_own() {
    for kind in 1..=Kind::Begin as u8 {
        let log = [&[kind][..], &[0; 20]].concat();
        let read = Record::decode(&mut log.as_slice()).unwrap();
        assert_eq!(read.kind as u8, kind);
    }
    assert_eq!(Record::decode(&mut [&[Kind::Begin as u8 + 1][..], &[0; 20]].concat().as_slice()), None);
}
