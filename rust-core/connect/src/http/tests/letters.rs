//! Rows that a server refuses for good, as dead letters of the sink.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;

use super::sink::{OK, bodies, lines, noting};
use crate::{
    HttpSink, LetterStore, OnRefused, Secret, TakenLetters, Transactions, Writer,
    disk::faults,
    for_each_letter, schema_of,
    testing::{
        fields,
        server::{Received, Reply},
    },
};

/// The folders of a sink, and the count of its letters.
struct World {
    folder: tempfile::TempDir,
    count: Arc<AtomicU64>,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        ["staging", "letters"].iter().for_each(|name| std::fs::create_dir(folder.path().join(name)).unwrap());
        World { folder, count: Arc::default() }
    }

    fn store(&self) -> std::path::PathBuf {
        self.folder.path().join("letters")
    }

    fn open(&self, sink: &HttpSink, recovered: Option<(u64, &Value)>) -> Box<dyn Writer> {
        let staging = self.folder.path().join("staging");
        let transactions = Transactions { staging: &staging, recovered };
        let store = LetterStore { folder: self.store(), origin: "out".to_owned(), count: self.count.clone() };
        sink.open(&schema_of(&fields(&["x:int64"])).unwrap(), Some(&transactions), Some(store)).unwrap()
    }

    /// The stored rows, and how many there are said to have been.
    fn letters(&self) -> (Vec<String>, u64) {
        (stored(&self.store()), self.count.load(Ordering::Relaxed))
    }
}

fn stored(folder: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for_each_letter(folder, &TakenLetters::default(), |id, letter, _| {
        assert_eq!(letter.reason, "it answers 422 Unprocessable Entity: not this one");
        rows.push(format!("{id} {}", letter.record.unwrap()));
        Ok::<(), crate::ConnectError>(())
    })
    .unwrap();
    rows
}

/// Refuses 3, 5 and what is larger than 9.
fn picky(received: &Received) -> Reply {
    let body = String::from_utf8_lossy(&received.body);
    let is_bad = body.lines().any(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let x = row["x"].as_u64().unwrap();
        [3, 5].contains(&x) || x > 9
    });
    if is_bad { Some(("422 Any Words", "not this one".to_owned())) } else { OK }
}

fn sink() -> HttpSink {
    let (mut sink, _) = noting(picky);
    sink.on_refused = OnRefused::DeadLetter;
    sink
}

#[test]
fn letters_are_shown_when_their_epoch_is_sent_and_counted_over_runs() {
    let (world, sink) = (World::new(), sink());
    let mut writer = world.open(&sink, None);
    writer.write(1, lines(0..5).as_bytes()).unwrap();
    writer.write(2, lines(5..7).as_bytes()).unwrap();
    writer.pre_commit(1).unwrap();
    assert_eq!(world.letters(), (Vec::new(), 0));
    writer.commit(1).unwrap();
    assert_eq!(world.letters(), (vec!["1-1 {\"x\":3}".to_owned()], 1));
    let second = writer.pre_commit(2).unwrap();
    drop(writer);
    // The second epoch was not sent yet.
    let mut writer = world.open(&sink, Some((2, &second)));
    let both = vec!["1-1 {\"x\":3}".to_owned(), "2-1 {\"x\":5}".to_owned()];
    assert_eq!(world.letters(), (both.clone(), 2));
    writer.write(3, lines(7..8).as_bytes()).unwrap();
    let third = writer.pre_commit(3).unwrap();
    writer.commit(3).unwrap();
    drop(writer);
    world.count.store(0, Ordering::Relaxed);
    drop(world.open(&sink, Some((3, &third))));
    assert_eq!(world.letters(), (both.clone(), 2), "what is sent stays so, and is counted");

    // A checkpoint that does not know the sink takes nothing away that is not of a pipeline that has begun anew since.
    drop(world.open(&sink, Some((2, &Value::Null))));
    assert_eq!(world.letters().0, both);
    drop(world.open(&sink, Some((1, &Value::Null))));
    assert_eq!(world.letters().0, [] as [&str; 0]);
}

#[test]
fn an_output_that_begins_anew_begins_its_letters_anew() {
    let (world, sink) = (World::new(), sink());
    let mut writer = world.open(&sink, None);
    writer.write(1, lines(0..6).as_bytes()).unwrap();
    writer.pre_commit(1).unwrap();
    writer.commit(1).unwrap();
    assert_eq!(world.letters().0.len(), 2);
    drop(world.open(&sink, None));
    assert_eq!(world.letters().0, [] as [&str; 0]);
}

#[test]
fn letters_that_were_gathered_when_the_server_failed_are_there_once() {
    let mut requests = 0;
    let (mut sink, notes) = noting(move |received| {
        requests += 1;
        if requests == 7 { Some(("503 Service Unavailable", String::new())) } else { picky(received) }
    });
    sink.on_refused = OnRefused::DeadLetter;
    let world = World::new();
    let mut writer = world.open(&sink, None);
    writer.write(1, lines(2..7).as_bytes()).unwrap();
    let staged = writer.pre_commit(1).unwrap();
    assert!(writer.commit(1).unwrap_err().is_transient());
    assert_eq!(world.letters(), (Vec::new(), 1), "the first of them is gathered and not shown");
    // This process dies, and the next one sends everything again.
    drop(writer);
    drop(world.open(&sink, Some((1, &staged))));
    assert_eq!(world.letters(), (vec!["1-1 {\"x\":3}".to_owned(), "1-2 {\"x\":5}".to_owned()], 2));
    assert!(bodies(&notes).len() > 7);
}

#[test]
fn letters_of_rows_that_are_sent_at_once_are_shown_with_their_checkpoint() {
    let (world, mut sink) = (World::new(), sink());
    sink.is_at_once = true;
    let mut writer = world.open(&sink, None);
    writer.write(1, lines(0..5).as_bytes()).unwrap();
    writer.write(2, lines(5..6).as_bytes()).unwrap();
    let first = writer.pre_commit(1).unwrap();
    assert_eq!(world.letters(), (Vec::new(), 2));
    // It dies behind the checkpoint: the rows of the next epoch come again, and so do their letters.
    drop(writer);
    sink.is_at_once = false;
    let mut writer = world.open(&sink, Some((1, &first)));
    assert_eq!(world.letters(), (vec!["1-1 {\"x\":3}".to_owned()], 1), "however rows are sent from now on");
    writer.write(2, lines(5..7).as_bytes()).unwrap();
    let second = writer.pre_commit(2).unwrap();
    drop(writer);
    sink.is_at_once = true;
    let mut writer = world.open(&sink, Some((2, &second)));
    let both = vec!["1-1 {\"x\":3}".to_owned(), "2-1 {\"x\":5}".to_owned()];
    assert_eq!(world.letters(), (both.clone(), 2));
    writer.write(3, lines(10..12).as_bytes()).unwrap();
    let third = writer.pre_commit(3).unwrap();
    writer.commit(3).unwrap();
    assert_eq!(world.letters().0.len(), 4);
    drop(writer);
    world.count.store(0, Ordering::Relaxed);
    drop(world.open(&sink, Some((3, &third))));
    assert_eq!(world.letters().1, 4);
}

#[test]
fn letters_that_are_not_shown_yet_are_so_by_a_run_that_keeps_no_more() {
    let (world, mut sink) = (World::new(), sink());
    let mut writer = world.open(&sink, None);
    writer.write(1, lines(3..5).as_bytes()).unwrap();
    let staged = writer.pre_commit(1).unwrap();
    writer.commit(1).unwrap();
    drop(writer);
    // As if the power had failed when it was noted that the epoch is sent.
    let part = world.store().join("part-0000000001.json");
    std::fs::rename(part, world.folder.path().join("staging/refused-0000000001.staged")).unwrap();
    sink.on_refused = OnRefused::Stop;
    sink.url = Secret::new("http://127.0.0.1:1/nobody");
    drop(world.open(&sink, Some((1, &staged))));
    assert_eq!(world.letters(), (vec!["1-1 {\"x\":3}".to_owned()], 1));
}

#[test]
fn an_epoch_is_not_committed_before_the_names_of_its_letters_are_on_the_disk() {
    for n in 1.. {
        let (world, sink) = (World::new(), sink());
        let mut writer = world.open(&sink, None);
        writer.write(1, lines(2..7).as_bytes()).unwrap();
        writer.pre_commit(1).unwrap();
        // The n-th change of the disk fails, and so does the next one, with which the second try begins.
        faults::order(n, 1, libc::EIO);
        let first = writer.commit(1).expect_err("it fails").to_string();
        let is_shown = world.store().join("part-0000000001.json").exists();
        if !is_shown {
            faults::order(0, 0, 0);
            writer.commit(1).unwrap();
            assert_eq!(world.letters().0.len(), 2, "call {n}");
            continue;
        }
        let second = writer.commit(1).expect_err("it fails again").to_string();
        assert!(first.contains("letters") && second.contains("letters"), "call {n}: {first}; {second}");
        writer.commit(1).unwrap();
        assert_eq!(world.letters().0.len(), 2);
        return;
    }
}

#[test]
fn what_a_server_says_of_our_headers_is_not_repeated() {
    let answer = |received: &Received| {
        let told = format!("{} of {} may not", received.headers["x-api-key"], received.headers["authorization"]);
        Some(("422 Any Words", told))
    };
    let (mut sink, _) = noting(answer);
    sink.headers.push(("x-api-key".to_owned(), Secret::new("T0KEN-1")));
    sink.headers.push(("authorization".to_owned(), Secret::new("Bearer T0KEN-2")));
    let world = World::new();
    let mut writer = world.open(&sink, None);
    writer.write(1, lines(0..1).as_bytes()).unwrap();
    writer.pre_commit(1).unwrap();
    let told = writer.commit(1).unwrap_err().to_string();
    assert!(told.contains("422") && told.contains("… of … may not") && !told.contains("T0KEN"), "{told}");
}
