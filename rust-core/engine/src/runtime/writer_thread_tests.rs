use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

use crossbeam::channel::unbounded;
use ringmill_wire::{BatchView, Capacity, DataType, Field, Schema};

use super::*;

/// What a writer was asked for, and how it is to fail.
#[derive(Default)]
struct Script {
    calls: Vec<String>,
    /// System errors for the next calls; 0: that one works.
    errors: VecDeque<i32>,
}

struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn call(&self, call: String) -> Result<(), ConnectError> {
        let mut script = self.0.lock().unwrap();
        match script.errors.pop_front() {
            Some(code) if code != 0 => {
                script.calls.push(format!("{call}!"));
                Err(ConnectError::Write { name: "target".into(), source: io::Error::from_raw_os_error(code) })
            }
            _ => {
                script.calls.push(call);
                Ok(())
            }
        }
    }
}

impl Writer for Scripted {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.call(format!("write {epoch} {}", String::from_utf8_lossy(bytes)))
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<serde_json::Value, ConnectError> {
        self.call(format!("pre_commit {epoch}")).map(|()| format!("staged {epoch}").into())
    }

    fn input_ends(&mut self) {
        self.0.lock().unwrap().calls.push("input ends".into());
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        self.call(format!("commit {epoch}"))
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.call("finish".into())
    }
}

/// A number and a space for each row; it cannot write -666.
struct Numbers;

impl Encoder for Numbers {
    fn begin(&mut self, _: &Schema, _: &mut Vec<u8>) {}

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        match view.column(0).values::<i64>()[rows].contains(&-666) {
            true => Err(ConnectError::Write { name: "target".into(), source: io::Error::other("-666") }),
            false => Ok(()),
        }
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for number in &view.column(0).values::<i64>()[rows] {
            out.extend_from_slice(format!("{number} ").as_bytes());
        }
    }
}

fn template(rows_max: u32) -> Arc<Template> {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64)]).unwrap());
    Arc::new(Template::new(schema, Capacity { rows_max, variable_bytes_max: 0 }).unwrap())
}

/// For as few chunks as there are, of so many rows.
fn room(rows_max: u32) -> Room {
    Room { template: template(rows_max), bytes: 0 }
}

fn numbers(range: Range<i64>) -> HeapBatch {
    let mut batch = HeapBatch::new(template(100_000));
    for number in range {
        batch.writer().push(0, number);
        batch.writer().finish_row();
    }
    batch
}

fn hand_over(lane: &mut WriterLane, batch: &HeapBatch, first: usize) -> usize {
    lane.hand_over(5, 0, &Delivery { view: batch.view(), first, ingest_ns: 7 })
}

struct Bench {
    script: Arc<Mutex<Script>>,
    thread: WriterThread,
    lanes: Vec<WriterLane>,
    commands: Sender<SinkCommand>,
    reports: Receiver<Message>,
    control: Arc<Control>,
}

impl Bench {
    /// A writer with two lanes, behind epoch 4.
    fn new(errors: &[i32]) -> Self {
        let script = Arc::new(Mutex::new(Script { calls: Vec::new(), errors: errors.iter().copied().collect() }));
        let signals: Vec<_> = (0..2).map(|_| Arc::new(ShardSignal::new().unwrap())).collect();
        let (commands, receiver) = bounded(2);
        let (sender, reports) = unbounded();
        let link = CommitLink { sink: 3, recovered_epoch: 4, commands: receiver, reports: sender };
        let control = Arc::new(Control::default());
        let target = (Box::new(Numbers) as _, Box::new(Scripted(script.clone())) as _);
        let (thread, lanes) = start_writer("out", target, room(1_024), Some(link), None, &signals, &control).unwrap();
        Self { script, thread, lanes, commands, reports, control }
    }

    fn put(&mut self, lane: usize, epoch: u64, text: &str) {
        let chunk = self.lanes[lane].chunk().unwrap();
        chunk.epoch = epoch;
        chunk.bytes.extend_from_slice(text.as_bytes());
        chunk.rows += 1;
        assert!(self.lanes[lane].send());
    }

    /// Ends epoch 5 in both lanes, and waits until its rows are durable.
    fn end_epoch(&mut self) {
        assert!(self.lanes.iter_mut().all(|lane| lane.barrier(5, false)));
        assert_eq!(self.report(), staged(5));
    }

    fn report(&self) -> CheckpointEvent {
        match self.reports.recv().unwrap() {
            Message::Event(event) => event,
            Message::Look => panic!("a sink has nothing to look at"),
        }
    }

    /// Ends the lanes; the calls, when the thread has ended.
    fn end(self) -> Vec<String> {
        let Self { thread, lanes, script, commands, .. } = self;
        drop((lanes, commands));
        thread.join().unwrap();
        script.lock().unwrap().calls.clone()
    }
}

fn staged(epoch: u64) -> CheckpointEvent {
    Event::SinkStaged { sink: 3, epoch, staged: format!("staged {epoch}").into() }
}

#[test]
fn an_epoch_is_made_durable_with_the_last_barrier_and_shown_on_command_only() {
    let mut bench = Bench::new(&[]);
    bench.put(0, 5, "a");
    assert!(bench.lanes[0].barrier(5, false));
    // The quick shard is an epoch ahead.
    bench.put(0, 6, "b");
    bench.put(1, 5, "c");
    assert!(bench.lanes[1].barrier(5, false));
    assert_eq!(bench.report(), staged(5));
    bench.put(1, 6, "d");
    bench.commands.send(SinkCommand::Commit(5)).unwrap();
    assert_eq!(bench.report(), Event::SinkCommitted { sink: 3, epoch: 5 });
    assert!(bench.lanes.iter_mut().all(|lane| lane.barrier(6, true)));
    assert_eq!(bench.report(), staged(6));
    bench.commands.send(SinkCommand::Commit(6)).unwrap();
    bench.commands.send(SinkCommand::Finish).unwrap();
    let mut calls = bench.end();
    // Rows and the commit before them may come in any order.
    let commit = calls.iter().position(|call| call == "commit 5").unwrap();
    calls.remove(commit);
    let rows: Vec<&str> = calls.iter().map(String::as_str).collect();
    let expected = [
        "write 5 a",
        "write 6 b",
        "write 5 c",
        "pre_commit 5",
        "write 6 d",
        "input ends",
        "pre_commit 6",
        "commit 6",
        "finish",
    ];
    assert_eq!(rows, expected);
    assert!(commit > 3, "{commit}");
}

#[test]
fn an_output_is_not_finished_when_the_checkpoint_thread_has_gone() {
    let mut bench = Bench::new(&[]);
    bench.put(0, 5, "a");
    assert!(bench.lanes.iter_mut().all(|lane| lane.barrier(5, false)));
    assert_eq!(bench.report(), staged(5));
    assert_eq!(bench.end(), ["write 5 a", "pre_commit 5"]);
}

#[test]
fn lack_of_space_is_waited_out_at_every_step_and_shown() {
    let full = libc::ENOSPC;
    let mut bench = Bench::new(&[full, full]);
    let reason = "paused: no space for sink out".to_owned();
    let paused = || Event::Paused { part: Part::Sink(3), reason: reason.clone() };
    let resumed = Event::Resumed { part: Part::Sink(3) };
    bench.put(0, 5, "a");
    assert_eq!((bench.report(), bench.report()), (paused(), resumed.clone()));
    assert_eq!(bench.control.snapshot().paused, [""; 0]);
    bench.script.lock().unwrap().errors.push_back(libc::EDQUOT);
    assert!(bench.lanes.iter_mut().all(|lane| lane.barrier(5, false)));
    assert_eq!((bench.report(), bench.report(), bench.report()), (paused(), resumed.clone(), staged(5)));
    bench.script.lock().unwrap().errors.push_back(full);
    bench.commands.send(SinkCommand::Commit(5)).unwrap();
    let committed = Event::SinkCommitted { sink: 3, epoch: 5 };
    assert_eq!((bench.report(), bench.report(), bench.report()), (paused(), resumed, committed));
    bench.commands.send(SinkCommand::Finish).unwrap();
    let expected =
        ["write 5 a!", "write 5 a!", "write 5 a", "pre_commit 5!", "pre_commit 5", "commit 5!", "commit 5", "finish"];
    assert_eq!(bench.end(), expected);
}

#[test]
fn a_commit_does_not_wait_for_rows_that_lack_space() {
    let mut bench = Bench::new(&[]);
    assert!(bench.lanes.iter_mut().all(|lane| lane.barrier(5, false)));
    assert_eq!(bench.report(), staged(5));
    bench.script.lock().unwrap().errors = VecDeque::from([libc::ENOSPC]);
    bench.put(0, 6, "a");
    assert!(matches!(bench.report(), Event::Paused { .. }));
    bench.commands.send(SinkCommand::Commit(5)).unwrap();
    let both = [bench.report(), bench.report()];
    assert!(both.contains(&Event::SinkCommitted { sink: 3, epoch: 5 }), "{both:?}");
    bench.commands.send(SinkCommand::Finish).unwrap();
    let calls = bench.end();
    assert!(calls.contains(&"commit 5".to_owned()) && calls.contains(&"write 6 a".to_owned()), "{calls:?}");
}

#[test]
fn a_device_that_fails_ends_the_run_without_a_second_try() {
    let mut bench = Bench::new(&[libc::EIO]);
    bench.put(0, 5, "a");
    assert_eq!(bench.report(), Event::Failed { part: Part::Sink(3) });
    let control = bench.control.clone();
    assert_eq!(bench.end(), ["write 5 a!"]);
    let failure = control.take_failure().unwrap();
    assert!(matches!(failure, EngineError::Connect { .. }) && control.is_aborted(), "{failure}");
}

#[test]
fn an_aborted_run_does_not_wait_for_space() {
    let mut bench = Bench::new(&[libc::ENOSPC; 1_000]);
    bench.put(0, 5, "a");
    assert!(matches!(bench.report(), Event::Paused { .. }));
    let Bench { control, thread, lanes, commands, .. } = bench;
    control.request_abort();
    thread.join().unwrap();
    drop((lanes, commands));
    assert!(control.take_failure().is_none());
}

#[test]
fn a_drain_that_finds_no_space_ends_the_run_and_shows_nothing() {
    let mut bench = Bench::new(&[libc::ENOSPC; 100]);
    let control = bench.control.clone();
    bench.put(0, 5, "a");
    assert!(matches!(bench.report(), Event::Paused { .. }));
    control.request_drain();
    assert_eq!(bench.report(), Event::Failed { part: Part::Sink(3) });
    assert!(bench.end().iter().all(|call| call == "write 5 a!"));
    assert!(matches!(control.take_failure(), Some(EngineError::Unfinished { .. })));
    assert!(control.is_aborted());
}

#[test]
fn without_checkpoints_the_rows_that_a_full_disk_costs_are_taken_and_counted() {
    let script = Arc::new(Mutex::new(Script { errors: [libc::ENOSPC; 100].into(), ..Script::default() }));
    let (signals, control) = ([Arc::new(ShardSignal::new().unwrap())], Arc::new(Control::default()));
    control.request_drain();
    let target = (Box::new(Numbers) as _, Box::new(Scripted(script)) as _);
    let (thread, mut lanes) = start_writer("out", target, room(1_024), None, None, &signals, &control).unwrap();
    for number in 0..3 * CHUNKS_MIN {
        let chunk = loop {
            // Chunks come back, though nothing can be written.
            if let Some(chunk) = lanes[0].chunk() {
                break chunk;
            }
            std::thread::yield_now();
        };
        chunk.bytes.extend_from_slice(number.to_string().as_bytes());
        chunk.rows = 2;
        assert!(lanes[0].send());
    }
    drop(lanes);
    thread.join().unwrap();
    let Some(EngineError::Unfinished { left, .. }) = control.take_failure() else { panic!("the run has not failed") };
    assert_eq!(left, format!("the output is incomplete: {} rows were not written", 2 * 3 * CHUNKS_MIN));
    assert!(!control.is_aborted(), "the other sinks get their rows");
}

#[test]
fn rows_that_the_writer_encodes_stand_between_those_that_the_shard_did() {
    let mut bench = Bench::new(&[]);
    let rows = numbers(0..1_000);
    let chunk = bench.lanes[0].chunk().unwrap();
    chunk.bytes.extend_from_slice(b"before ");
    chunk.note(5, 0, 0, 1);
    assert_eq!(hand_over(&mut bench.lanes[0], &rows, 1), 999);
    bench.put(0, 5, "after");
    bench.end_epoch();
    let texts: Vec<String> = (1..1_000).map(|number| format!("{number} ")).collect();
    let expected = ["write 5 before ", &format!("write 5 {}", texts.concat()), "write 5 after", "pre_commit 5"];
    assert_eq!(bench.end(), expected);
}

#[test]
fn rows_are_handed_over_until_a_chunk_is_full() {
    let mut bench = Bench::new(&[]);
    let (rows, few, lane) = (numbers(0..1_500), numbers(0..255), &mut bench.lanes[0]);
    assert_eq!(hand_over(lane, &few, 0), 0);
    assert_eq!(hand_over(lane, &rows, 1_000), 500);
    assert!(lane.has_rows(), "there is room for more");
    assert_eq!(hand_over(lane, &rows, 900), 524);
    assert!(!lane.has_rows(), "it was sent");
    while !lane.is_writer_idle() {}
    assert_eq!([hand_over(lane, &rows, 1_499), hand_over(lane, &few, 0)], [1, 255], "few go with others");
    assert!(lane.has_rows(), "the barrier finds it open");
    bench.end_epoch();
    assert_eq!(bench.end().len(), 3);
}

#[test]
fn a_writer_that_is_behind_is_given_nothing_to_encode() {
    let mut bench = Bench::new(&[]);
    let rows = numbers(0..1_024);
    let script = bench.script.clone();
    let held = script.lock().unwrap();
    let lane = &mut bench.lanes[0];
    let handed_over: Vec<usize> = (0..CHUNKS_MIN).map(|_| hand_over(lane, &rows, 0)).collect();
    assert_eq!(handed_over, [1_024, 1_024, 1_024, 0], "half of the chunks, and the one that the writer is at");
    assert!(lane.chunk().is_some(), "there is room for what the shard encodes");
    drop(held);
    while hand_over(lane, &rows, 0) == 0 {}
    bench.end_epoch();
    assert_eq!(bench.end().len(), 5);
}

#[test]
fn a_lane_has_as_many_chunks_as_its_memory_holds_and_makes_them_when_they_are_needed() {
    let schema = template(1).schema().clone();
    let least = Room::new(&schema, 0).unwrap();
    assert_eq!(least.chunks_max(), CHUNKS_MIN);
    let room = Room::new(&schema, 10 * least.memory_bytes()).unwrap();
    assert_eq!(room.chunks_max(), 10 * CHUNKS_MIN);
    let (signals, control) = ([Arc::new(ShardSignal::new().unwrap())], Arc::new(Control::default()));
    let script = Arc::new(Mutex::new(Script::default()));
    let target = (Box::new(Numbers) as _, Box::new(Scripted(script.clone())) as _);
    let (thread, mut lanes) = start_writer("out", target, room, None, None, &signals, &control).unwrap();
    let held = script.lock().unwrap();
    let lane = &mut lanes[0];
    for made in 1..=10 * CHUNKS_MIN {
        let chunk = lane.chunk().unwrap();
        chunk.bytes.push(b'x');
        chunk.rows = 1;
        assert!(lane.send());
        assert_eq!(lane.made, made.max(CHUNKS_MIN));
    }
    assert!(lane.chunk().is_none());
    drop((held, lanes));
    thread.join().unwrap();
    assert_eq!(script.lock().unwrap().calls.len(), 10 * CHUNKS_MIN + 1);
}

#[test]
fn long_rows_take_no_more_memory_than_short_ones() {
    const ROOM_BYTES: usize = 32 << 20;
    const ROW_BYTES: usize = 4 << 20;
    let (signals, control) = ([Arc::new(ShardSignal::new().unwrap())], Arc::new(Control::default()));
    let script = Arc::new(Mutex::new(Script::default()));
    let target = (Box::new(Numbers) as _, Box::new(Scripted(script.clone())) as _);
    let room = Room { template: template(1_024), bytes: ROOM_BYTES };
    let (thread, mut lanes) = start_writer("out", target, room, None, None, &signals, &control).unwrap();
    let lane = &mut lanes[0];
    let fill = |lane: &mut WriterLane, bytes: usize| {
        let mut sent = 0;
        while let Some(chunk) = lane.chunk() {
            chunk.bytes.resize(bytes, b'x');
            chunk.rows = 1;
            assert!(lane.send());
            sent += 1;
        }
        sent
    };
    let held = script.lock().unwrap();
    assert_eq!(fill(lane, 1), lane.room.chunks_max());
    drop(held);
    while !lane.is_writer_idle() {}
    let held = script.lock().unwrap();
    let sent = fill(lane, ROW_BYTES);
    assert!((CHUNKS_MIN..=ROOM_BYTES / ROW_BYTES).contains(&sent), "{sent}");
    assert!(lane.memory_bytes() < ROOM_BYTES + 2 * ROW_BYTES, "{}", lane.memory_bytes());
    drop(held);
    while !lane.is_writer_idle() {}
    assert!(lane.chunk().is_some());
    drop(lanes);
    thread.join().unwrap();
}

#[test]
fn a_value_that_fits_into_no_chunk_is_left_to_the_shard() {
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8)]).unwrap());
    let room = Room::new(&schema, 0).unwrap();
    let wide = Capacity { rows_max: 300, variable_bytes_max: 1 << 20 };
    let mut batch = HeapBatch::new(Arc::new(Template::new(schema, wide).unwrap()));
    for bytes in [CHUNK_BYTES + 1].into_iter().chain([1; 299]) {
        batch.writer().push_bytes(0, &vec![b'x'; bytes]).unwrap();
        batch.writer().finish_row();
    }
    let (signals, control) = ([Arc::new(ShardSignal::new().unwrap())], Arc::new(Control::default()));
    let target = (Box::new(Numbers) as _, Box::new(Scripted(Arc::default())) as _);
    let (thread, mut lanes) = start_writer("out", target, room, None, None, &signals, &control).unwrap();
    let lane = &mut lanes[0];
    assert_eq!(hand_over(lane, &batch, 0), 0);
    assert!(lane.chunk().is_some_and(|chunk| !chunk.is_raw()));
    drop(lanes);
    thread.join().unwrap();
}

#[test]
fn rows_that_the_writer_cannot_encode_end_the_run() {
    let mut bench = Bench::new(&[]);
    assert_eq!(hand_over(&mut bench.lanes[0], &numbers(-700..-400), 0), 300);
    assert!(bench.lanes[0].send());
    assert_eq!(bench.report(), Event::Failed { part: Part::Sink(3) });
    let control = bench.control.clone();
    assert!(bench.end().is_empty());
    let failure = control.take_failure().unwrap();
    assert!(failure.to_string().contains("-666") && control.is_aborted(), "{failure}");
}

#[test]
fn many_bytes_are_written_in_pieces_and_those_that_a_full_disk_costs_are_counted() {
    let errors = [0].into_iter().chain([libc::ENOSPC; 100]).collect();
    let script = Arc::new(Mutex::new(Script { errors, ..Script::default() }));
    let (signals, control) = ([Arc::new(ShardSignal::new().unwrap())], Arc::new(Control::default()));
    control.request_drain();
    let target = (Box::new(Numbers) as _, Box::new(Scripted(script.clone())) as _);
    let (thread, mut lanes) = start_writer("out", target, room(100_000), None, None, &signals, &control).unwrap();
    assert_eq!(hand_over(&mut lanes[0], &numbers(0..100_000), 0), 100_000);
    drop(lanes);
    thread.join().unwrap();
    let written = script.lock().unwrap().calls[0].clone();
    let written = written.strip_prefix("write 5 0 1 2 ").unwrap().split_terminator(' ').count() + 3;
    let Some(EngineError::Unfinished { left, .. }) = control.take_failure() else { panic!("the run has not failed") };
    assert_eq!(left, format!("the output is incomplete: {} rows were not written", 100_000 - written));
}
