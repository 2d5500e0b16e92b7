//! A Kafka broker of a test's own that ends transactions: the program in `kafka-broker`, a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::kafka::messages;

/// Longest wait for the broker.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The broker. It ends with the test.
pub struct Broker {
    child: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// `host:port`
    address: String,
}

/// `scripts/ci/rust-tests` builds it.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.parent().and_then(Path::parent).expect("tests lie in target/release/deps");
    target.join("ringmill-kafka-broker")
}

impl Broker {
    /// With these topics, each with so many partitions.
    pub fn with_topics(topics: &[(&str, i32)]) -> Broker {
        let mut command = Command::new(program());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka-broker/Cargo.toml");
        let mut child = child.unwrap_or_else(|error| {
            panic!("{error}: build it with cargo build --release --locked --manifest-path {}", manifest.display())
        });
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut stdout = BufReader::new(stdout);
        let mut address = String::new();
        stdout.read_line(&mut address).expect("it says where it is");
        let address = address.trim_end().to_owned();
        let broker = Broker { child, talk: Mutex::new((stdin, stdout)), address };
        for (topic, partitions) in topics {
            broker.tell(&format!("topic {topic} {partitions}"));
        }
        broker
    }

    fn ask(&self, line: &str) -> String {
        let mut talk = self.talk.lock().expect("no other thread has failed");
        writeln!(talk.0, "{line}").expect("it listens");
        let mut answer = String::new();
        talk.1.read_line(&mut answer).expect("it answers");
        answer.trim_end().to_owned()
    }

    fn tell(&self, line: &str) {
        assert_eq!(self.ask(line), "done", "{line}");
    }

    /// Its `host:port`, as a list in TOML.
    pub fn brokers(&self) -> String {
        format!("[{:?}]", self.address)
    }

    /// The next requests of a kind, so many, are `lost`; or obeyed and answered with a broken connection (`unheard`), or not
    /// at all (`silent`).
    pub fn answer(&self, kind: &str, how: &str, times: u32) {
        self.tell(&format!("answer {kind} {how} {times}"));
    }

    /// Requests are answered as usual again.
    pub fn answer_as_usual(&self) {
        self.tell("usual");
    }

    /// How many requests were answered otherwise than usual.
    pub fn otherwise(&self) -> u64 {
        self.ask("otherwise").parse().expect("a number")
    }

    /// What a group has committed for the first partition of a topic.
    pub fn offset(&self, group: &str, topic: &str) -> Option<u64> {
        self.ask(&format!("offset {group} {topic} 0")).parse().ok()
    }

    /// It keeps neither the name of transactions nor a group's offsets any longer, as if nothing had come for a week.
    pub fn forget(&self, transactional_id: &str, group: &str) {
        self.tell(&format!("forget {transactional_id} {group}"));
    }

    /// It ends an open transaction for its age; whether there was one.
    pub fn expire(&self, transactional_id: &str) -> bool {
        self.ask(&format!("expire {transactional_id}")) == "true"
    }

    /// It does not answer any more, and all connections break.
    pub fn go_away(&self) {
        self.tell("away");
    }

    /// It answers again.
    pub fn come_back(&self) {
        self.tell("back");
    }

    /// Writes messages to a topic's first partition, and waits until it has them.
    pub fn send(&self, topic: &str, values: &[&str]) {
        let mut config = ClientConfig::new();
        let producer: BaseProducer = config.set("bootstrap.servers", &self.address).create().expect("a producer");
        for value in values {
            let record = BaseRecord::<(), str>::to(topic).partition(0).payload(*value);
            producer.send(record).map_err(|(error, _)| error).expect("there is room");
        }
        producer.flush(TIMEOUT).expect("it takes them");
    }

    /// The values in a topic that are committed, each partition's in their order.
    pub fn committed(&self, topic: &str) -> Vec<String> {
        self.values(topic, "read_committed")
    }

    /// The same of those that are there, be they committed, aborted or undecided.
    pub fn written(&self, topic: &str) -> Vec<String> {
        self.values(topic, "read_uncommitted")
    }

    fn values(&self, topic: &str, isolation: &str) -> Vec<String> {
        let values = messages(&self.address, topic, isolation).into_iter();
        values.map(|(.., value)| String::from_utf8(value).expect("text")).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
