use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use crossbeam::channel::unbounded;

use super::*;

/// What a writer was asked for, and how it is to fail.
#[derive(Default)]
struct Script {
    calls: Vec<String>,
    /// System errors for the next calls.
    errors: VecDeque<i32>,
}

struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn call(&self, call: String) -> Result<(), ConnectError> {
        let mut script = self.0.lock().unwrap();
        match script.errors.pop_front() {
            Some(code) => {
                script.calls.push(format!("{call}!"));
                Err(ConnectError::Write { name: "target".into(), source: io::Error::from_raw_os_error(code) })
            }
            None => {
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
        let writer = Box::new(Scripted(script.clone()));
        let (thread, lanes) = start_writer("out", writer, Some(link), None, &signals, &control).unwrap();
        Self { script, thread, lanes, commands, reports, control }
    }

    fn put(&mut self, lane: usize, epoch: u64, text: &str) {
        let chunk = self.lanes[lane].chunk().unwrap();
        chunk.epoch = epoch;
        chunk.bytes.extend_from_slice(text.as_bytes());
        chunk.rows += 1;
        assert!(self.lanes[lane].send());
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
    let (thread, mut lanes) = start_writer("out", Box::new(Scripted(script)), None, None, &signals, &control).unwrap();
    for number in 0..3 * CHUNKS {
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
    assert_eq!(left, format!("the output is incomplete: {} rows were not written", 2 * 3 * CHUNKS));
    assert!(!control.is_aborted(), "the other sinks get their rows");
}
