use std::sync::{Arc, Mutex};

use ringmill_wire::{BatchView, Capacity, DataType, Field, HeapBatch, Schema, Template};

use super::{Outlet, OutletSink, Rejection};
use crate::{
    ConnectError, Fault, LetterStore, Promise, TakenLetters, Transactions, Writer, disk::faults, for_each_letter,
    lock::lock,
};

/// What was handed over: identity and number of each row, in order.
type Taken = Arc<Mutex<Vec<(String, u64, i64)>>>;

/// Takes rows; fails at the batches whose numbers it was given, before it has looked at them, and rejects some numbers.
struct Taker {
    taken: Taken,
    batches: u64,
    failing: Vec<u64>,
    rejecting: Vec<i64>,
}

impl Outlet for Taker {
    fn deliver(&mut self, id: &str, first: u64, rows: &BatchView<'_>) -> Result<Option<Rejection>, ConnectError> {
        self.batches += 1;
        if self.failing.contains(&self.batches) {
            let (name, reason) = ("numbers:Taker".to_owned(), "it is away".to_owned());
            return Err(ConnectError::Database { name, reason, fault: Fault::Transient });
        }
        let is_rejected = |number: &i64| self.rejecting.contains(number);
        let numbers = rows.column(0).values::<i64>();
        let rejected: Vec<u32> =
            (0..).zip(numbers).filter(|(_, number)| is_rejected(number)).map(|(row, _)| row).collect();
        let taken = (first..).zip(numbers).filter(|(_, number)| !is_rejected(number));
        lock(&self.taken).extend(taken.map(|(row, number)| (id.to_owned(), row, *number)));
        Ok((!rejected.is_empty()).then(|| Rejection { rows: rejected, reason: "it has none of these".to_owned() }))
    }
}

fn sink(rows_max: u32, variable_bytes_max: u32) -> OutletSink {
    OutletSink {
        origin: "numbers:Taker".to_owned(),
        rows_max,
        variable_bytes_max,
        is_idempotent: false,
        keeps_rejected: true,
    }
}

fn schema() -> Arc<Schema> {
    let fields = vec![Field::new("number", DataType::Int64), Field::new("text", DataType::Utf8)];
    Arc::new(Schema::new(fields).unwrap())
}

/// Blocks of the numbers from `first` on, so many at a time.
fn encoded(sink: &OutletSink, mut first: i64, counts: &[i64]) -> Vec<u8> {
    let (mut encoder, mut bytes) = (sink.encoder(), Vec::new());
    let capacity = Capacity { rows_max: 1000, variable_bytes_max: 10_000 };
    let mut batch = HeapBatch::new(Arc::new(Template::new(schema(), capacity).unwrap()));
    for count in counts {
        batch.clear();
        for number in first..first + count {
            batch.writer().push(0, number);
            batch.writer().push_str(1, &number.to_string()).unwrap();
            batch.writer().finish_row();
        }
        first += count;
        let view = batch.view();
        for row in (0..view.rows()).step_by(encoder.rows_at_once()) {
            encoder.encode(&view, row..view.rows().min(row + encoder.rows_at_once()), &mut bytes);
        }
    }
    bytes
}

fn open(sink: &OutletSink, failing: &[u64], transactions: Option<&Transactions<'_>>) -> (Box<dyn Writer>, Taken) {
    let taken = Taken::default();
    let taker = Taker { taken: taken.clone(), batches: 0, failing: failing.to_vec(), rejecting: Vec::new() };
    (sink.open(&schema(), Box::new(taker), transactions, None).unwrap(), taken)
}

/// Until it works; how often it failed.
fn persist<T>(mut attempt: impl FnMut() -> Result<T, ConnectError>) -> (T, u32) {
    let mut failures = 0;
    loop {
        match attempt() {
            Ok(value) => return (value, failures),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        failures += 1;
    }
}

fn numbers(taken: &Taken) -> Vec<i64> {
    lock(taken).iter().map(|(_, _, number)| *number).collect()
}

#[test]
fn rows_are_handed_over_in_order_in_full_batches_and_go_on_where_one_failed() {
    let sink = sink(10, 10_000);
    let (mut writer, taken) = open(&sink, &[2, 5], None);
    let bytes = encoded(&sink, 0, &[3, 1, 33]);
    let ((), failures) = persist(|| writer.write(1, &bytes));
    assert!(failures >= 2, "{failures}");
    assert_eq!(numbers(&taken), (0..37).collect::<Vec<_>>());
    let taken = lock(&taken);
    assert!(taken.iter().all(|(id, row, number)| *id == taken[0].0 && *row as i64 == *number), "{taken:?}");
}

#[test]
fn chunks_of_a_run_without_checkpoints_have_identities_of_their_own() {
    let sink = sink(100, 10_000);
    let (mut writer, taken) = open(&sink, &[], None);
    writer.write(1, &encoded(&sink, 0, &[5])).unwrap();
    writer.write(1, &encoded(&sink, 5, &[4])).unwrap();
    let taken = lock(&taken);
    let identities: std::collections::BTreeSet<_> = taken.iter().map(|(id, row, _)| (id, row)).collect();
    assert_eq!(identities.len(), 9);
}

#[test]
fn an_epoch_is_handed_over_when_it_is_committed_and_again_with_the_same_identities() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), sink(10, 10_000));
    let begin = Transactions { staging: folder.path(), recovered: None };
    let (mut writer, taken) = open(&sink, &[3], Some(&begin));
    writer.write(1, &encoded(&sink, 0, &[25])).unwrap();
    assert!(numbers(&taken).is_empty(), "not before the commit");
    let staged = writer.pre_commit(1).unwrap();
    // It dies with two batches of the epoch handed over.
    assert!(writer.commit(1).is_err());
    let before = lock(&taken).clone();
    assert_eq!(before.len(), 20);
    drop(writer);

    let recovered = Transactions { staging: folder.path(), recovered: Some((1, &staged)) };
    let (mut writer, taken) = open(&sink, &[], Some(&recovered));
    let again = lock(&taken).clone();
    assert_eq!((again.len(), &again[..20]), (25, &before[..]), "the same rows have the same identities");
    writer.write(2, &encoded(&sink, 25, &[5])).unwrap();
    let staged = writer.pre_commit(2).unwrap();
    writer.commit(2).unwrap();
    assert_eq!(numbers(&taken), (0..30).collect::<Vec<_>>());
    drop(writer);

    let recovered = Transactions { staging: folder.path(), recovered: Some((2, &staged)) };
    let (_writer, taken) = open(&sink, &[], Some(&recovered));
    assert!(numbers(&taken).is_empty(), "what was handed over is not handed over again");
}

#[test]
fn rejected_rows_are_letters_when_their_epoch_is_handed_over_and_all_others_are_taken() {
    let (staging, store, sink) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), sink(10, 10_000));
    let open = |sink: &OutletSink, failing: &[u64], recovered| {
        let taken = Taken::default();
        let rejecting = vec![3, 7, 12, 24];
        let taker = Taker { taken: taken.clone(), batches: 0, failing: failing.to_vec(), rejecting };
        let transactions = Transactions { staging: staging.path(), recovered };
        let (folder, origin) = (store.path().to_owned(), "out".to_owned());
        let letters = LetterStore { folder, origin, count: Default::default() };
        (sink.open(&schema(), Box::new(taker), Some(&transactions), Some(letters)), taken)
    };
    let stored = || {
        let mut rows = Vec::new();
        let kept = for_each_letter(store.path(), &TakenLetters::default(), |id, letter, _| {
            assert_eq!(letter.reason, "it has none of these");
            rows.push(format!("{id} {}", letter.record.unwrap()));
            Ok::<(), ConnectError>(())
        });
        kept.map(|()| rows).unwrap()
    };
    let (writer, _) = open(&sink, &[2], None);
    let mut writer = writer.unwrap();
    writer.write(1, &encoded(&sink, 0, &[25])).unwrap();
    let staged = writer.pre_commit(1).unwrap();
    // It dies when the first batch was handed over.
    assert!(writer.commit(1).unwrap_err().is_transient());
    drop(writer);
    assert_eq!(stored(), [] as [&str; 0]);
    let stopping = OutletSink { keeps_rejected: false, ..sink.clone() };
    let refusal = open(&stopping, &[], Some((1, &staged))).0.err().unwrap();
    let words = "it rejected 2 rows: it has none of these (on_refused = \"dead_letter\" keeps those)";
    assert!(refusal.to_string().contains(words), "{refusal}");
    let (writer, taken) = open(&sink, &[], Some((1, &staged)));
    drop(writer.unwrap());
    let letter = |place: usize, number: i64| format!("1-{place} {{\"number\":{number},\"text\":\"{number}\"}}");
    assert_eq!(stored(), [letter(1, 3), letter(2, 7), letter(3, 12), letter(4, 24)]);
    assert_eq!(numbers(&taken), (0..25).filter(|number| ![3, 7, 12, 24].contains(number)).collect::<Vec<_>>());
}

#[test]
fn rows_are_not_handed_over_again_while_there_is_no_space_for_what_was_rejected_of_them() {
    let (staging, store, sink) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), sink(10, 10_000));
    let taken = Taken::default();
    let taker = Taker { taken: taken.clone(), batches: 0, failing: Vec::new(), rejecting: vec![3, 12] };
    let transactions = Transactions { staging: staging.path(), recovered: None };
    let letters = LetterStore { folder: store.path().to_owned(), origin: "out".to_owned(), count: Default::default() };
    let mut writer = sink.open(&schema(), Box::new(taker), Some(&transactions), Some(letters)).unwrap();
    writer.write(1, &encoded(&sink, 0, &[25])).unwrap();
    writer.pre_commit(1).unwrap();
    faults::order(1, 3, libc::ENOSPC);
    let ((), failures) = persist(|| writer.commit(1));
    assert!(faults::are_spent() && failures == 4, "{failures}");
    assert_eq!(numbers(&taken), (0..25).filter(|number| ![3, 12].contains(number)).collect::<Vec<_>>());
    let part = std::fs::read_to_string(store.path().join("part-0000000001.json")).unwrap();
    assert_eq!(part.lines().count(), 2);
}

#[test]
fn of_a_long_reason_its_beginning_is_kept() {
    struct Wordy;
    impl Outlet for Wordy {
        fn deliver(&mut self, _: &str, _: u64, _: &BatchView<'_>) -> Result<Option<Rejection>, ConnectError> {
            Ok(Some(Rejection { rows: vec![0, 1], reason: "é".repeat(100_000) }))
        }
    }
    let (staging, store, sink) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), sink(10, 10_000));
    let transactions = Transactions { staging: staging.path(), recovered: None };
    let letters = LetterStore { folder: store.path().to_owned(), origin: "out".to_owned(), count: Default::default() };
    let mut writer = sink.open(&schema(), Box::new(Wordy), Some(&transactions), Some(letters)).unwrap();
    writer.write(1, &encoded(&sink, 0, &[2])).unwrap();
    writer.pre_commit(1).unwrap();
    writer.commit(1).unwrap();
    let mut reasons = Vec::new();
    for_each_letter(store.path(), &TakenLetters::default(), |_, letter, _| {
        reasons.push(letter.reason);
        Ok::<(), ConnectError>(())
    })
    .unwrap();
    assert_eq!(reasons, ["é".repeat(512), "é".repeat(512)]);
}

#[test]
fn staged_rows_of_other_columns_are_refused_and_smaller_batches_take_them() {
    let folder = tempfile::tempdir().unwrap();
    let begin = Transactions { staging: folder.path(), recovered: None };
    let large = sink(100, 10_000);
    let (mut writer, _) = open(&large, &[1], Some(&begin));
    writer.write(1, &encoded(&large, 0, &[90])).unwrap();
    let staged = writer.pre_commit(1).unwrap();
    assert!(writer.commit(1).is_err());

    let recovered = Transactions { staging: folder.path(), recovered: Some((1, &staged)) };
    let other = Arc::new(Schema::new(vec![Field::new("number", DataType::Float64)]).unwrap());
    let taker = || Box::new(Taker { taken: Taken::default(), batches: 0, failing: Vec::new(), rejecting: Vec::new() });
    let refused = large.open(&other, taker(), Some(&recovered), None).err().unwrap();
    assert!(refused.to_string().contains("rows for it with other columns"), "{refused}");
    let refused = sink(7, 1).open(&schema(), taker(), Some(&recovered), None).err().unwrap();
    assert!(refused.to_string().contains("a row is larger than a batch"), "{refused}");
    let (_writer, taken) = open(&sink(7, 100), &[], Some(&recovered));
    assert_eq!(numbers(&taken), (0..90).collect::<Vec<_>>());
}

#[test]
fn rows_that_fit_no_batch_are_refused_before_they_are_staged() {
    let sink = sink(10, 2);
    let mut batch =
        HeapBatch::new(Arc::new(Template::new(schema(), Capacity { rows_max: 10, variable_bytes_max: 100 }).unwrap()));
    for text in ["ab", "abc"] {
        batch.writer().push(0, 1_i64);
        batch.writer().push_str(1, text).unwrap();
        batch.writer().finish_row();
    }
    let encoder = sink.encoder();
    encoder.check(&batch.view(), 0..1).unwrap();
    let refused = encoder.check(&batch.view(), 0..2).unwrap_err().to_string();
    assert!(refused.contains("column \"text\" has 3 bytes") && refused.contains("batch_bytes"), "{refused}");
}

#[test]
fn it_is_exactly_once_if_whoever_takes_the_rows_is_idempotent() {
    assert_eq!(sink(1, 1).promise(), Promise::AtLeastOnce);
    assert_eq!(OutletSink { is_idempotent: true, ..sink(1, 1) }.promise(), Promise::ExactlyOnce);
}
