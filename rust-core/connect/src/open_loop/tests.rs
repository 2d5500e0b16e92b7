use std::sync::Arc;

use ringmill_wire::HeapBatch;

use super::*;
use crate::testing::{self, Letters};
use crate::{ConnectError, FileSpec, Format, GeneratorSpec, Order, Partition, Poll, PollContext};

const SECOND: u64 = 1_000_000_000;

fn spec(rate: f64, driver: Driver, event_times: EventTimes) -> LoadSpec {
    LoadSpec {
        phases: vec![Phase { length_ns: SECOND, rate }],
        length_ns: SECOND,
        measured_ns: (SECOND / 2, SECOND),
        group: 1,
        driver,
        event_times,
    }
}

fn generator() -> GeneratorSpec {
    GeneratorSpec { keys: 10, ..GeneratorSpec::default() }
}

/// The load, and the one partition of a generator under it.
fn paced(spec: LoadSpec) -> (Arc<OpenLoop>, Box<dyn Partition>, HeapBatch) {
    let load = Arc::new(OpenLoop::new(spec, vec![(0, 1.0)]));
    let schema = generator().schema().unwrap();
    let mut partitions = load.pace(0, generator().open(1, &[], None).unwrap(), &[]);
    (load, partitions.remove(0).1, testing::batch(&schema, 4096, 1 << 20))
}

fn poll_at(
    partition: &mut dyn Partition,
    batch: &mut HeapBatch,
    now_ns: u64,
    event_time: Option<usize>,
) -> Result<Poll, ConnectError> {
    let mut dead = Letters::default();
    let mut context = PollContext { now_ns, event_time, event_time_max_ns: i64::MAX, dead: &mut dead, rows_max: 4096 };
    partition.poll(batch.writer(), &mut context)
}

#[test]
fn rows_come_when_they_are_due_and_say_when_that_was() {
    let (load, mut partition, mut batch) = paced(spec(1000.0, Driver::Shard, EventTimes::Stream));
    let first_ns = 7 * SECOND;
    assert_eq!(poll_at(&mut *partition, &mut batch, first_ns, None).unwrap(), Poll::Until(first_ns + HEAD_START_NS));
    let start_ns = load.start_ns().unwrap();
    assert_eq!(start_ns, first_ns + HEAD_START_NS);
    assert_eq!(poll_at(&mut *partition, &mut batch, start_ns, None).unwrap(), Poll::Rows);
    assert_eq!((batch.rows(), partition.due_ns()), (1, Some(start_ns)));
    assert_eq!(poll_at(&mut *partition, &mut batch, start_ns, None).unwrap(), Poll::Until(start_ns + 1_000_000));
}

#[test]
fn a_reader_that_was_held_up_finds_its_rows_late_not_missing() {
    let (load, mut partition, mut batch) = paced(spec(1000.0, Driver::Shard, EventTimes::Stream));
    poll_at(&mut *partition, &mut batch, SECOND, None).unwrap();
    let start_ns = load.start_ns().unwrap();
    // It looks for the first time when 0.7 s of the load are over.
    assert_eq!(poll_at(&mut *partition, &mut batch, start_ns + 700_000_000, None).unwrap(), Poll::Rows);
    assert_eq!((batch.rows(), partition.due_ns()), (701, Some(start_ns)), "the oldest row is 0.7 s late");
    assert_eq!(poll_at(&mut *partition, &mut batch, start_ns + 2 * SECOND, None).unwrap(), Poll::Rows);
    assert_eq!(poll_at(&mut *partition, &mut batch, start_ns + 2 * SECOND, None).unwrap(), Poll::End);
    let figures = load.figures();
    assert_eq!((figures.rows, figures.taken), (1000, 1000));
    assert_eq!(figures.finished_ns, Some(2 * SECOND), "the load was 1 s long, and that it took longer is seen");
    assert_eq!(figures.waits.len(), 299, "of the rows due in the second half, as one wait each poll");
    assert!(figures.waits.min() >= 1_298_000_000);
}

#[test]
fn a_load_flat_out_gives_rows_whenever_asked_until_its_time_is_over() {
    let flat_out = LoadSpec { phases: Vec::new(), ..spec(1.0, Driver::Thread, EventTimes::Stream) };
    let (load, mut partition, mut batch) = paced(flat_out);
    assert_eq!(poll_at(&mut *partition, &mut batch, SECOND, None).unwrap(), Poll::Rows);
    assert_eq!((batch.rows(), partition.due_ns()), (4096, None));
    let end_ns = load.start_ns().unwrap() + SECOND;
    assert_eq!(poll_at(&mut *partition, &mut batch, end_ns, None).unwrap(), Poll::End);
}

#[test]
fn a_thread_releases_every_row_whatever_the_reader_does() {
    let (load, mut partition, mut batch) = paced(spec(20_000.0, Driver::Thread, EventTimes::Stream));
    assert_eq!(poll_at(&mut *partition, &mut batch, monotonic_ns(), None).unwrap(), Poll::Idle);
    // Nobody polls while the thread is at work.
    load.drive();
    let figures = load.figures();
    assert_eq!((figures.released, figures.taken), (20_000, 0));
    assert!(figures.released_ns >= 999_000_000, "{figures:?}");
    assert_eq!(figures.lag.len(), 10_000);
    let mut rows = 0;
    while poll_at(&mut *partition, &mut batch, monotonic_ns(), None).unwrap() != Poll::End {
        rows += batch.rows();
        batch.clear();
    }
    assert_eq!(rows, 20_000);
    assert!(load.figures().finished_ns.unwrap() >= SECOND);
}

#[test]
fn live_event_times_are_those_at_which_rows_are_due() {
    let (load, mut partition, mut batch) = paced(spec(1000.0, Driver::Shard, EventTimes::Live));
    poll_at(&mut *partition, &mut batch, SECOND, Some(1)).unwrap();
    let start_ns = load.start_ns().unwrap();
    poll_at(&mut *partition, &mut batch, start_ns + 10_000_000, Some(1)).unwrap();
    let view = batch.view();
    let times = view.column(1).values::<i64>();
    let start_ms = load.wall_clock_ns(0) / 1_000_000;
    assert_eq!(times, (0..11).map(|row| start_ms + row).collect::<Vec<_>>());
}

fn file(folder: &std::path::Path, content: &str) -> (FileSpec, Held) {
    let path = folder.join("rows.csv");
    std::fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let fields = testing::fields(&["t:timestamp[s]", "x:int64"]);
    let spec = FileSpec {
        path,
        format: Format::Csv.into(),
        fields: fields.into(),
        rate: Some(3.0),
        order: Order::Parallel,
        record_bytes_max: 1000,
        decode_threads: 0,
    };
    let links = folder.join("links");
    std::fs::create_dir(&links).unwrap();
    let held = hold_file(&spec, &links).unwrap();
    std::fs::remove_file(spec.path).unwrap();
    held
}

#[test]
fn a_file_is_read_from_memory_again_and_again_with_event_times_that_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (spec_held, held) = file(folder.path(), "t,x\n100,1\n110,2\n105,three\n120,3");
    assert_eq!(held.bytes, 31);
    let load = Arc::new(OpenLoop::new(spec(100.0, Driver::Shard, EventTimes::Stream), vec![(4, 1.0)]));
    let mut partitions = load.pace(4, spec_held.open(1, &[], None).unwrap(), &[]);
    let partition = &mut partitions[0].1;
    let mut batch = testing::batch(&spec_held.schema().unwrap(), 64, 1 << 10);
    let _ = poll_at(&mut **partition, &mut batch, SECOND, Some(0)).unwrap();
    let end_ns = load.start_ns().unwrap() + 80_000_000;
    for _ in 0..20 {
        let _ = poll_at(&mut **partition, &mut batch, end_ns, Some(0)).unwrap();
    }
    // Nine records are due, of which every third is a dead letter; laps are 20 s long and a mean distance (10 s) apart.
    let view = batch.view();
    assert_eq!(view.column(1).values::<i64>(), [1, 2, 3, 1, 2, 3, 1]);
    assert_eq!(view.column(0).values::<i64>(), [100, 110, 120, 130, 140, 150, 160]);
    assert_eq!(load.figures().taken, 9);
}

#[test]
fn an_input_without_records_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (spec_held, _held) = file(folder.path(), "t,x\n");
    let load = Arc::new(OpenLoop::new(spec(100.0, Driver::Shard, EventTimes::Stream), vec![(0, 1.0)]));
    let mut partitions = load.pace(0, spec_held.open(1, &[], None).unwrap(), &[]);
    let partition = &mut partitions[0].1;
    let mut batch = testing::batch(&spec_held.schema().unwrap(), 64, 1 << 10);
    poll_at(&mut **partition, &mut batch, SECOND, None).unwrap();
    let later_ns = load.start_ns().unwrap() + SECOND / 2;
    let polls = (0..3).map(|_| poll_at(&mut **partition, &mut batch, later_ns, None));
    let error = polls.filter_map(Result::err).next().expect("an empty file cannot be read again and again");
    assert!(matches!(error, ConnectError::EmptyLap { .. }), "{error}");
}
