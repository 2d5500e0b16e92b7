//! Where rows come from: one source of each kind. Rows are numbers from 0 on.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, Command, Stdio};

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::chaos::{Chance, newest_checkpoint};
use ringmill_system_tests::http::Client;
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::mosquitto::{Mosquitto, Sender};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::{Job, free_address, journaled_bytes, python, until};

use super::{Promise, shown};

const FIELDS: &str = "fields = { number = \"int64\" }";
/// A source that has everything from the start gives so much of it each second …
const RATE: u64 = 2_000;
/// … and has so much for each kill.
const ROWS_A_KILL: u64 = 1_500;

pub trait Source {
    /// Its table in the pipeline, without the head.
    fn table(&self) -> String;

    fn promise(&self) -> Promise {
        Promise::Once
    }

    /// Before the first run; it is killed so often.
    fn begin(&mut self, _job: &Job, _kills: u64) {}

    fn start(&mut self, job: &Job) -> Child {
        job.start(&[])
    }

    /// Sends some more. What was sent when this returns is not lost with the core.
    fn feed(&mut self, _job: &Job, _child: &mut Child, _chance: &mut Chance) {}

    /// A run that is not killed; what was sent by all runs.
    fn finish(&mut self, job: &Job) -> Vec<u64>;
}

/// The next few numbers.
fn more(next: &mut u64, chance: &mut Chance) -> std::ops::Range<u64> {
    let from = *next;
    *next += 1 + chance.below(1_000);
    from..*next
}

fn text(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{{\"number\":{number}}}\n")).collect()
}

/// Waits until a run goes on and has shown every number up to this one, and ends it.
fn end_behind(job: &Job, next: u64) -> Vec<u64> {
    let before = newest_checkpoint(&job.path("state"));
    let mut child = job.start(&[]);
    until(&mut child, || newest_checkpoint(&job.path("state")) > before);
    until(&mut child, || shown(job).into_iter().collect::<BTreeSet<u64>>().len() as u64 >= next);
    assert_eq!(job.end(child).code, Some(0));
    (0..next).collect()
}

/// The rest at once.
const FAST: &str = "sources.rows.rate=1e9";

#[derive(Default)]
pub struct File(u64);

impl Source for File {
    fn table(&self) -> String {
        format!("kind = \"file\"\npath = \"in.ndjson\"\nrate = {RATE}\n{FIELDS}")
    }

    fn begin(&mut self, job: &Job, kills: u64) {
        self.0 = kills * ROWS_A_KILL;
        job.write("in.ndjson", text(0..self.0));
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        job.run(&[FAST]).report();
        (0..self.0).collect()
    }
}

#[derive(Default)]
pub struct Python(u64);

pub const NUMBERS: &str = "
import pathlib

class Numbers(rm.Source):
    def __init__(self):
        self.next, self.most = 0, int(pathlib.Path('most').read_text())

    def poll(self, partition, rows_max):
        rows = np.arange(self.next, min(self.next + rows_max, self.most))
        self.next += len(rows)
        return {'number': rows} if len(rows) else rm.End

    def position(self, partition):
        return {'next': self.next}

    def seek(self, partition, position):
        self.next = position['next']
";

impl Source for Python {
    fn table(&self) -> String {
        format!("kind = \"python\"\nclass = \"functions:Numbers\"\nrate = {RATE}\nbatch_rows = 64\n{FIELDS}")
    }

    fn begin(&mut self, job: &Job, kills: u64) {
        self.0 = kills * ROWS_A_KILL;
        job.write("most", self.0.to_string());
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        job.run(&[FAST]).report();
        (0..self.0).collect()
    }
}

/// Sends numbers from where it is told to on, until the file `most` says that it is enough.
const SEND: &str = "
import pathlib
import numpy as np, ringmill as rm

def most():
    file = pathlib.Path('most')
    return int(file.read_text()) if file.exists() else 1 << 60

while True:
    try:
        with rm.connect('pairs', producer='sender', connect_timeout=120) as producer:
            at = producer.position or 0
            while at < most():
                numbers = np.arange(at, min(at + 100, most()))
                at += len(numbers)
                producer.send({'number': numbers})
        break
    except rm.Disconnected:
        pass
";

#[derive(Default)]
pub struct Producer(Option<Child>);

impl Source for Producer {
    fn table(&self) -> String {
        let keys = "producers = [\"sender\"]\nreplayable = true\nend = \"closed\"\nbatch_rows = 64";
        format!("kind = \"producer\"\nrate = {RATE}\n{keys}\n{FIELDS}")
    }

    fn begin(&mut self, job: &Job, _kills: u64) {
        let mut command = Command::new(python());
        command.args(["-c", SEND]).current_dir(job.folder()).env("XDG_RUNTIME_DIR", job.folder());
        self.0 = Some(command.stdin(Stdio::null()).spawn().expect("Python is there"));
    }

    fn feed(&mut self, job: &Job, child: &mut Child, _chance: &mut Chance) {
        let before = shown(job).len();
        until(child, || shown(job).len() > before);
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        // More than it can have sent ahead of what is shown.
        let most = shown(job).len() as u64 + 10_000;
        job.write("most.new", most.to_string());
        std::fs::rename(job.path("most.new"), job.path("most")).expect("it is there");
        job.run(&[FAST]).report();
        let mut sender = self.0.take().expect("it was started");
        assert!(sender.wait().expect("a child").success());
        (0..most).collect()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(mut sender) = self.0.take() {
            sender.kill().expect("it is a child");
            sender.wait().expect("a child");
        }
    }
}

#[derive(Default)]
pub struct Stdin {
    next: u64,
    bytes: u64,
    input: Option<ChildStdin>,
}

impl Source for Stdin {
    fn table(&self) -> String {
        format!("kind = \"stdin\"\n{FIELDS}")
    }

    fn start(&mut self, job: &Job) -> Child {
        let mut child = job.command(&[]).stdin(Stdio::piped()).spawn().expect("it is built");
        self.input = child.stdin.take();
        child
    }

    fn feed(&mut self, job: &Job, child: &mut Child, chance: &mut Chance) {
        let lines = text(more(&mut self.next, chance));
        self.input.as_mut().expect("a pipe").write_all(lines.as_bytes()).expect("the run reads");
        self.bytes += lines.len() as u64;
        until(child, || journaled_bytes(job) == self.bytes);
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        let child = self.start(job);
        self.input = None;
        job.wait(child).report();
        (0..self.next).collect()
    }
}

#[derive(Default)]
pub struct Socket {
    next: u64,
    bytes: u64,
}

impl Source for Socket {
    fn table(&self) -> String {
        format!("kind = \"socket\"\npath = \"in.sock\"\n{FIELDS}")
    }

    fn feed(&mut self, job: &Job, child: &mut Child, chance: &mut Chance) {
        let mut client = None;
        until(child, || {
            client = UnixStream::connect(job.path("in.sock")).ok();
            client.is_some()
        });
        let lines = text(more(&mut self.next, chance));
        client.expect("it was waited for").write_all(lines.as_bytes()).expect("the run reads");
        self.bytes += lines.len() as u64;
        until(child, || journaled_bytes(job) == self.bytes);
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        end_behind(job, self.next)
    }
}

pub struct Http {
    address: SocketAddr,
    next: u64,
}

impl Http {
    pub fn new() -> Http {
        Http { address: free_address(), next: 0 }
    }
}

impl Source for Http {
    fn table(&self) -> String {
        format!("kind = \"http\"\nlisten = \"{}\"\n{FIELDS}", self.address)
    }

    fn feed(&mut self, _job: &Job, child: &mut Child, chance: &mut Chance) {
        let mut client = Client::new(self.address);
        let body = text(more(&mut self.next, chance));
        until(child, || client.post("", body.as_bytes()).is_ok_and(|answer| answer.status == 202));
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        end_behind(job, self.next)
    }
}

pub struct Topic {
    kafka: Kafka,
    next: u64,
}

impl Topic {
    const PARTITIONS: i32 = 3;

    pub fn new() -> Topic {
        Topic { kafka: Kafka::with_topic("numbers", Topic::PARTITIONS), next: 0 }
    }
}

impl Source for Topic {
    fn table(&self) -> String {
        format!("kind = \"kafka\"\nbrokers = {}\ntopics = [\"numbers\"]\n{FIELDS}", self.kafka.brokers())
    }

    fn feed(&mut self, _job: &Job, _child: &mut Child, chance: &mut Chance) {
        let partition = chance.below(Topic::PARTITIONS as u64) as i32;
        self.kafka.send_numbers("numbers", partition, more(&mut self.next, chance));
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        end_behind(job, self.next)
    }
}

pub struct Stream {
    server: Nats,
    next: u64,
}

impl Stream {
    pub fn new() -> Option<Stream> {
        let server = Nats::start()?;
        server.create("EVENTS", &["plant.>"], Config::default());
        Some(Stream { server, next: 0 })
    }
}

impl Source for Stream {
    fn table(&self) -> String {
        format!("kind = \"nats\"\nurl = \"{}\"\nstream = \"EVENTS\"\n{FIELDS}", self.server.url())
    }

    fn feed(&mut self, _job: &Job, _child: &mut Child, chance: &mut Chance) {
        self.server.send_numbers("plant.7.count", more(&mut self.next, chance));
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        end_behind(job, self.next)
    }
}

pub struct Subject {
    server: Nats,
    next: u64,
}

impl Subject {
    pub fn new() -> Option<Subject> {
        let mut server = Nats::stopped()?;
        server.go_on_without_streams("");
        Some(Subject { server, next: 0 })
    }

    /// Sends until something of it has come.
    fn send_until_shown(&mut self, job: &Job, child: &mut Child) {
        let before = shown(job).len();
        until(child, || {
            self.server.tell_numbers("plant.7.count", self.next..self.next + 10);
            self.next += 10;
            shown(job).len() > before
        });
    }
}

impl Source for Subject {
    fn table(&self) -> String {
        format!("kind = \"nats_core\"\nurl = \"{}\"\nsubjects = [\"plant.>\"]\n{FIELDS}", self.server.url())
    }

    fn promise(&self) -> Promise {
        Promise::AtMostOnce
    }

    fn feed(&mut self, job: &Job, child: &mut Child, chance: &mut Chance) {
        self.send_until_shown(job, child);
        self.server.tell_numbers("plant.7.count", more(&mut self.next, chance));
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        let mut child = job.start(&[]);
        self.send_until_shown(job, &mut child);
        assert_eq!(job.end(child).code, Some(0));
        (0..self.next).collect()
    }
}

pub struct Mqtt {
    broker: Mosquitto,
    sender: Sender,
    next: u64,
}

impl Mqtt {
    pub fn new() -> Option<Mqtt> {
        let broker = Mosquitto::start()?;
        let sender = broker.sender("plant/7/count");
        Some(Mqtt { broker, sender, next: 0 })
    }
}

impl Source for Mqtt {
    fn table(&self) -> String {
        let url = format!("mqtt://127.0.0.1:{}", self.broker.port());
        format!("kind = \"mqtt\"\nurl = \"{url}\"\ntopics = [\"plant/+/count\"]\nclient_id = \"mill\"\n{FIELDS}")
    }

    fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }

    /// The broker keeps what is for a client that it knows.
    fn start(&mut self, job: &Job) -> Child {
        let subscriptions = || self.broker.log().matches("Sending SUBACK to mill").count();
        let before = subscriptions();
        let mut child = job.start(&[]);
        until(&mut child, || subscriptions() > before);
        child
    }

    fn feed(&mut self, _job: &Job, _child: &mut Child, chance: &mut Chance) {
        self.sender.send(&text(more(&mut self.next, chance)));
    }

    fn finish(&mut self, job: &Job) -> Vec<u64> {
        end_behind(job, self.next)
    }
}
