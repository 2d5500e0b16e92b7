use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use ringmill_wire::{DataType, HeapBatch, TimeUnit};
use serde_json::json;

use super::{Fed, FedSpec, Feed, FeedPlace, POSITION_BYTES_MAX};
use crate::{
    ConnectError, FieldSpec, Partition, Poll, PollContext, Position, Resume,
    lock::lock,
    testing::{Letters, batch, poll},
};

/// Batches of numbers that were made before; a position is the next number.
#[derive(Default)]
struct Script {
    batches: VecDeque<Vec<i64>>,
    /// Told before the first batch, if there is anything to be told.
    stands: Option<String>,
    at: Option<String>,
    sought: Option<String>,
    is_drained: bool,
    covered: Option<String>,
    had_ended: bool,
}

struct Scripted(Arc<Mutex<Script>>);

impl Feed for Scripted {
    fn is_ready(&mut self) -> Result<bool, ConnectError> {
        Ok(true)
    }

    fn seek(&mut self, position: String) {
        lock(&self.0).sought = Some(position);
    }

    fn resume_ended(&mut self) {
        lock(&self.0).had_ended = true;
    }

    fn take(&mut self, into: &mut HeapBatch, _: u64) -> Result<Fed, ConnectError> {
        let mut script = lock(&self.0);
        if let Some(position) = script.stands.take() {
            return Ok(Fed::Stands(position));
        }
        let Some(numbers) = script.batches.pop_front() else { return Ok(Fed::Idle) };
        into.clear();
        for number in &numbers {
            into.writer().push(0, *number);
            into.writer().finish_row();
        }
        let before = numbers.first().map(i64::to_string);
        script.at = numbers.last().map(|last| (last + 1).to_string()).or(script.at.take());
        Ok(Fed::Batch { before, after: script.at.clone(), is_last: script.batches.is_empty() })
    }

    fn arm_sleep(&mut self) -> bool {
        true
    }

    fn disarm_sleep(&mut self) {}

    fn drain(&mut self) {
        lock(&self.0).is_drained = true;
    }

    fn covered(&mut self, position: &str) {
        lock(&self.0).covered = Some(position.to_owned());
    }
}

fn spec(is_seekable: bool) -> FedSpec {
    let field = |data_type| FieldSpec { name: "number".to_owned(), data_type, nullable: false, path: None };
    FedSpec {
        origin: "numbers:Numbers".to_owned(),
        fields: vec![field(DataType::Timestamp(TimeUnit::Nanosecond))],
        rate: None,
        is_seekable,
        variable_bytes_max: 0,
        rows_max: 8,
    }
}

fn open(spec: &FedSpec, batches: &[&[i64]], resume: Option<&[Resume<'_>]>) -> (Box<dyn Partition>, Arc<Mutex<Script>>) {
    let batches = batches.iter().map(|numbers| numbers.to_vec()).collect();
    let script = Arc::new(Mutex::new(Script { batches, ..Script::default() }));
    let place = FeedPlace { name: "0".to_owned(), shard: 0, feed: Box::new(Scripted(Arc::clone(&script))) };
    let mut partitions = spec.open(vec![place], resume).unwrap();
    (partitions.remove(0).1, script)
}

/// Polls until the end, at most `step` rows at a time; the numbers, and where it stood after each poll.
fn read(partition: &mut dyn Partition, step: u32) -> Vec<(Vec<i64>, Position)> {
    let mut seen = Vec::new();
    loop {
        let mut out = batch(&spec(true).schema().unwrap(), 8, 0);
        let polled = poll(partition, &mut out, &mut Letters::default(), step).unwrap();
        seen.push((out.view().column(0).values::<i64>().to_vec(), partition.position()));
        if polled == Poll::End {
            return seen;
        }
    }
}

const BATCHES: [&[i64]; 3] = [&[1, 2, 3], &[], &[4, 5, 6, 7, 8]];

#[test]
fn from_wherever_it_stood_the_rest_follows_once_however_the_batches_are_cut() {
    for step in [1, 2, 3, 8] {
        let (mut partition, script) = open(&spec(true), &BATCHES, None);
        let seen = read(&mut *partition, step);
        assert!(lock(&script).is_drained, "nobody asks any more");
        let all: Vec<i64> = seen.iter().flat_map(|(numbers, _)| numbers.clone()).collect();
        assert_eq!(all, [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut taken = 0;
        for (numbers, position) in &seen {
            taken += numbers.len();
            assert_eq!(position.rows, taken as u64);
            // What the class would give again, cut in another way.
            let from: i64 = position.opaque.as_deref().unwrap_or("1").parse().unwrap();
            let again: Vec<i64> = (from..=8).collect();
            let (first, rest) = again.split_at(again.len().min(2));
            let value = serde_json::to_value(position).unwrap();
            let resume = [Resume { name: "0", position: &value, ended: false }];
            let (mut partition, script) = open(&spec(true), &[first, rest], Some(&resume));
            assert_eq!(lock(&script).sought, position.opaque);
            let rest: Vec<i64> = read(&mut *partition, step).into_iter().flat_map(|(numbers, _)| numbers).collect();
            assert_eq!(rest, all[taken..], "behind {position:?}");
        }
    }
}

#[test]
fn one_that_cannot_seek_begins_where_it_likes_and_is_not_skipped() {
    let position = serde_json::to_value(Position { offset: 2, rows: 9, ..Position::default() }).unwrap();
    let resume = [Resume { name: "0", position: &position, ended: false }];
    let (mut partition, script) = open(&spec(false), &BATCHES, Some(&resume));
    let seen = read(&mut *partition, 8);
    assert_eq!(lock(&script).sought, None);
    assert_eq!(seen.iter().map(|(numbers, _)| numbers.len()).sum::<usize>(), 8);
    assert_eq!(seen.last().unwrap().1, Position { rows: 17, ..Position::default() });
}

#[test]
fn a_checkpoint_s_partition_that_the_class_has_no_more_is_refused() {
    let position = json!({ "offset": 0, "rows": 9 });
    let resume = [Resume { name: "north", position: &position, ended: false }];
    let feed = Box::new(Scripted(Arc::default()));
    let refused = spec(true).open(vec![FeedPlace { name: "0".to_owned(), shard: 0, feed }], Some(&resume));
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("north") && error.contains("numbers:Numbers has the partitions 0"), "{error}");
}

#[test]
fn rows_of_a_time_too_far_ahead_are_dead_letters_and_wait_for_room() {
    let (mut partition, _) = open(&spec(true), &[&[1, 90, 2, 91, 3]], None);
    let mut out = batch(&spec(true).schema().unwrap(), 8, 0);
    let mut letters = Letters { room: 1, ..Letters::default() };
    let mut take = |letters: &mut Letters| {
        let mut context =
            PollContext { now_ns: 0, event_time: Some(0), event_time_max_ns: 50, dead: letters, rows_max: 8 };
        partition.poll(out.writer(), &mut context).unwrap();
        (out.view().column(0).values::<i64>().to_vec(), partition.position())
    };
    let (numbers, position) = take(&mut letters);
    assert_eq!((numbers, position.offset, position.rows), (vec![1, 2], 3, 3), "no room for the second");
    letters.room = 2;
    let (numbers, position) = take(&mut letters);
    assert_eq!((numbers, position.opaque.as_deref(), position.rows), (vec![1, 2, 3], Some("4"), 5));
    let found: Vec<(u64, &str)> =
        letters.taken.iter().map(|letter| (letter.offset, std::str::from_utf8(&letter.record).unwrap())).collect();
    let record = |ns| format!("{{\"number\":\"1970-01-01T00:00:00.0000000{ns}Z\"}}");
    assert_eq!(found, [(1, record(90).as_str()), (3, record(91).as_str())]);
}

#[test]
fn where_it_stands_before_the_first_batch_is_in_a_checkpoint_as_soon_as_it_is_known() {
    let (mut partition, script) = open(&spec(true), &[&[5, 6], &[7]], None);
    lock(&script).stands = Some("5".to_owned());
    let mut out = batch(&spec(true).schema().unwrap(), 8, 0);
    assert_eq!(partition.position().opaque, None);
    assert_eq!(poll(&mut *partition, &mut out, &mut Letters::default(), 8).unwrap(), Poll::Idle);
    let position = partition.position();
    assert_eq!((position.opaque.as_deref(), position.offset, position.rows), (Some("5"), 0, 0));
    poll(&mut *partition, &mut out, &mut Letters::default(), 1).unwrap();
    let position = partition.position();
    assert_eq!((position.opaque.as_deref(), position.offset, position.rows), (Some("5"), 1, 1));
}

#[test]
fn a_checkpoint_s_position_that_no_process_could_be_told_is_refused() {
    for (length, is_refused) in [(POSITION_BYTES_MAX - 1, false), (POSITION_BYTES_MAX, true)] {
        let position = Position { opaque: Some("1".repeat(length)), ..Position::default() };
        let position = serde_json::to_value(position).unwrap();
        let resume = [Resume { name: "0", position: &position, ended: false }];
        let feed = Box::new(Scripted(Arc::default()));
        let opened = spec(true).open(vec![FeedPlace { name: "0".to_owned(), shard: 0, feed }], Some(&resume));
        let error = opened.err().map(|error| error.to_string());
        assert_eq!(error.is_some(), is_refused);
        assert!(error.is_none_or(|error| error.contains("its position has 16384 bytes")));
    }
}

#[test]
fn a_complete_checkpoint_is_told_to_the_process_in_its_own_words() {
    let (mut partition, script) = open(&spec(true), &BATCHES, None);
    for (_, position) in read(&mut *partition, 2) {
        partition.covered(&position);
        assert!(position.opaque.is_some());
        assert_eq!(lock(&script).covered, position.opaque);
    }
}

#[test]
fn one_that_had_ended_while_others_had_not_is_told_so() {
    let position = serde_json::to_value(Position::default()).unwrap();
    for ended in [[true, true], [true, false], [false, true], [false, false]] {
        let names = ["0", "1"];
        let resume = [0, 1].map(|index| Resume { name: names[index], position: &position, ended: ended[index] });
        let scripts: [Arc<Mutex<Script>>; 2] = Default::default();
        let place = |index: usize| {
            let feed = Box::new(Scripted(Arc::clone(&scripts[index])));
            FeedPlace { name: names[index].to_owned(), shard: 0, feed }
        };
        spec(true).open(vec![place(0), place(1)], Some(&resume)).unwrap();
        let told = scripts.each_ref().map(|script| lock(script).had_ended);
        assert_eq!(told, if ended == [true, true] { [false, false] } else { ended });
    }
}
