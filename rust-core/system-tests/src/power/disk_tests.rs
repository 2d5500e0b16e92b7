use std::collections::BTreeSet;

use super::*;

/// A log from these calls.
fn disk(records: &[Record<'_>]) -> Disk {
    let empty = tempfile::tempdir().unwrap();
    let mut disk = Disk::of(empty.path()).unwrap();
    records.iter().for_each(|record| disk.apply(record).unwrap());
    disk
}

fn make(handle: u32, path: &'static str) -> Record<'static> {
    Record::of(Kind::Open, handle, OPENED_NEW).at(path.as_bytes())
}

fn write(handle: u32, bytes: &'static str) -> Record<'static> {
    Record::of(Kind::Write, handle, 0).with(bytes.as_bytes())
}

fn sync(handle: u32) -> Record<'static> {
    Record::of(Kind::Sync, handle, 0)
}

fn open(handle: u32, path: &'static str) -> Record<'static> {
    Record::of(Kind::Open, handle, 0).at(path.as_bytes())
}

fn rename(from: &'static str, to: &'static str) -> Record<'static> {
    Record::of(Kind::Rename, 0, 0).at(from.as_bytes()).with(to.as_bytes())
}

/// All that may be found, as `name=content` with spaces between.
fn found(disk: &Disk) -> BTreeSet<String> {
    let describe = |image: Image| {
        let files = image.files();
        let files = files.iter().map(|(path, bytes)| format!("{}={}", path.display(), String::from_utf8_lossy(bytes)));
        files.collect::<Vec<_>>().join(" ")
    };
    (0..500).map(|seed| describe(disk.after_power_loss(&mut Chance::of(seed)))).collect()
}

fn check(records: &[Record<'_>], expect: &[&str]) {
    assert_eq!(found(&disk(records)), expect.iter().map(|text| (*text).to_owned()).collect());
}

#[test]
fn a_file_replaced_by_the_book_is_the_old_one_or_the_new_one() {
    let first = [make(1, "f"), write(1, "old"), sync(1), open(2, ""), sync(2)];
    let second = [make(3, "new"), write(3, "NEW"), sync(3), rename("new", "f")];
    check(&[&first[..], &second[..]].concat(), &["f=old", "f=old new=NEW", "f=NEW"]);
    check(&[&first[..], &second[..], &[sync(2)]].concat(), &["f=NEW"]);
}

#[test]
fn without_an_fsync_before_the_rename_the_new_name_may_stand_for_nothing() {
    let first = [make(1, "f"), write(1, "old"), sync(1), open(2, ""), sync(2)];
    let second = [make(3, "new"), write(3, "NEW"), rename("new", "f"), sync(2)];
    check(&[&first[..], &second[..]].concat(), &["f=", "f=\0\0\0", "f=NEW"]);
}

#[test]
fn an_fsync_of_a_file_is_none_of_its_name() {
    check(&[make(1, "f"), write(1, "x"), sync(1)], &["", "f=x"]);
}

#[test]
fn a_rename_into_another_folder_is_there_in_both_or_in_none() {
    let folder = Record::of(Kind::MakeFolder, 0, 0).at(b"d");
    let first = [make(1, "f"), write(1, "x"), sync(1), folder, open(2, ""), sync(2)];
    check(&[&first[..], &[rename("f", "d/f")]].concat(), &["f=x", "d/f=x"]);
    let other = [rename("f", "d/f"), open(3, "d"), sync(3)];
    check(&[&first[..], &other[..]].concat(), &["d/f=x"]);
}

#[test]
fn names_of_one_folder_come_in_their_order() {
    let records = [make(1, "a"), make(2, "b"), make(3, "c")];
    check(&records, &["", "a=", "a= b=", "a= b= c="]);
}

#[test]
fn a_removed_file_may_come_back_with_its_bytes() {
    let first = [make(1, "f"), write(1, "x"), sync(1), open(2, ""), sync(2)];
    check(&[&first[..], &[Record::of(Kind::Remove, 0, 0).at(b"f")]].concat(), &["", "f=x"]);
}

#[test]
fn a_log_that_lacks_something_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let refused = |record: Record<'_>| Disk::of(empty.path()).unwrap().apply(&record).unwrap_err();
    for record in [open(1, "f"), rename("f", "g"), write(1, "x"), sync(1)] {
        refused(record);
    }
    let blind = Record::of(Kind::Blind, 0, 0).at(b"f").with(b"mmap");
    assert_eq!(refused(blind), "the log lacks what mmap did to f");
}
