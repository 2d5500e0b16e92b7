//! Where rows go: one sink of each kind that this machine has a server for, besides the file.

use std::process::Command;

use async_nats::jetstream::stream::Config;
use ringmill_system_tests::kafka::Kafka;
use ringmill_system_tests::kafka_broker::Broker;
use ringmill_system_tests::mosquitto::{Mosquitto, Receiver};
use ringmill_system_tests::nats::Nats;
use ringmill_system_tests::postgres::Postgres;
use ringmill_system_tests::{Job, python};

use super::endpoint::Endpoint;
use super::{Promise, number};

pub trait Sink {
    fn name(&self) -> &'static str;

    /// The keys of its table in the pipeline.
    fn keys(&self) -> String;

    /// What it promises of rows that come to it.
    fn promise(&self) -> Promise {
        Promise::Once
    }

    /// What it shows, when the last run has ended.
    fn numbers(&self, job: &Job) -> Vec<u64>;

    fn table(&self) -> String {
        format!("\n[sinks.{}]\ninputs = [\"rows\"]\n{}\n", self.name(), self.keys())
    }
}

pub fn all() -> Vec<Box<dyn Sink>> {
    let mut sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(Parquet),
        Box::new(Sqlite),
        Box::new(Http(Endpoint::start())),
        Box::new(Python),
        Box::new(Topic(Kafka::with_topic("out", 2))),
        Box::new(Transactions(Broker::with_topics(&[("out", 2)]))),
    ];
    if let Some(mut server) = Postgres::start() {
        server.go_on();
        sinks.push(Box::new(Table(server)));
    }
    if let Some(server) = Nats::start() {
        server.create("OUT", &["out.>"], Config::default());
        sinks.push(Box::new(Stream(server)));
    }
    if let Some(broker) = Mosquitto::start() {
        let receiver = broker.receiver("out");
        sinks.push(Box::new(Messages { broker, receiver }));
    }
    sinks
}

struct Parquet;

impl Sink for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn keys(&self) -> String {
        "kind = \"file\"\npath = \"out.parquet/\"".to_owned()
    }

    fn numbers(&self, job: &Job) -> Vec<u64> {
        const READER: &str = "
import glob, pyarrow.parquet as pq
for path in glob.glob('out.parquet/*.parquet'):
    print(*pq.read_table(path)['number'].to_pylist(), sep='\\n')
";
        let output = Command::new(python()).args(["-c", READER]).current_dir(job.folder()).output().expect("Python");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lines(&String::from_utf8(output.stdout).expect("text"))
    }
}

struct Sqlite;

impl Sink for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn keys(&self) -> String {
        "kind = \"sqlite\"\npath = \"out.db\"\ntable = \"rows\"".to_owned()
    }

    fn numbers(&self, job: &Job) -> Vec<u64> {
        selected(job, "out.db")
    }
}

/// The rows of a table `rows` of a database.
fn selected(job: &Job, database: &str) -> Vec<u64> {
    let database = rusqlite::Connection::open(job.path(database)).expect("it is there");
    let mut query = database.prepare("SELECT number FROM rows").expect("the table is there");
    let rows = query.query_map([], |row| row.get::<_, i64>(0)).expect("rows");
    rows.map(|number| number.expect("a number") as u64).collect()
}

struct Http(Endpoint);

impl Sink for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn keys(&self) -> String {
        format!("kind = \"http\"\nurl = \"http://{}/rows\"\nrows_max = 300\nidempotent = true", self.0.address)
    }

    fn numbers(&self, _job: &Job) -> Vec<u64> {
        self.0.numbers()
    }
}

struct Python;

/// A table with an upsert by identity.
pub const TABLE: &str = "
import sqlite3

class Table(rm.Sink):
    def setup(self):
        self.database = sqlite3.connect('python.db')
        self.database.execute('PRAGMA synchronous = OFF')
        columns = 'number INTEGER, id TEXT, row INTEGER, PRIMARY KEY (id, row)'
        self.database.execute(f'CREATE TABLE IF NOT EXISTS rows ({columns})')

    def write(self, batch):
        rows = [
            (number, batch.id, row)
            for number, row in zip(batch['number'].tolist(), batch.row_numbers.tolist(), strict=True)
        ]
        with self.database:
            self.database.executemany('INSERT OR IGNORE INTO rows VALUES (?, ?, ?)', rows)
";

impl Sink for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn keys(&self) -> String {
        "kind = \"python\"\nclass = \"functions:Table\"\nidempotent = true".to_owned()
    }

    fn numbers(&self, job: &Job) -> Vec<u64> {
        selected(job, "python.db")
    }
}

struct Topic(Kafka);

impl Sink for Topic {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn keys(&self) -> String {
        format!("kind = \"kafka\"\nbrokers = {}\ntopic = \"out\"", self.0.brokers())
    }

    fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }

    fn numbers(&self, _job: &Job) -> Vec<u64> {
        self.0.read("out").iter().map(|(_, _, value)| number(value)).collect()
    }
}

struct Transactions(Broker);

impl Sink for Transactions {
    fn name(&self) -> &'static str {
        "transactions"
    }

    fn keys(&self) -> String {
        format!("kind = \"kafka\"\nbrokers = {}\ntopic = \"out\"\ntransactional_id = \"pairs\"", self.0.brokers())
    }

    fn numbers(&self, _job: &Job) -> Vec<u64> {
        self.0.committed("out").iter().map(|value| number(value)).collect()
    }
}

struct Table(Postgres);

impl Sink for Table {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn keys(&self) -> String {
        format!("kind = \"postgres\"\nurl = \"{}\"\ntable = \"rows\"\ncreate = true", self.0.url())
    }

    fn numbers(&self, _job: &Job) -> Vec<u64> {
        lines(&self.0.sql("SELECT number FROM rows"))
    }
}

struct Stream(Nats);

impl Sink for Stream {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn keys(&self) -> String {
        format!("kind = \"nats\"\nurl = \"{}\"\nstream = \"OUT\"\nsubject = \"out.all\"", self.0.url())
    }

    fn numbers(&self, _job: &Job) -> Vec<u64> {
        self.0.read("OUT").iter().map(|message| number(&message.payload)).collect()
    }
}

struct Messages {
    broker: Mosquitto,
    receiver: Receiver,
}

impl Sink for Messages {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn keys(&self) -> String {
        format!("kind = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"\ntopic = \"out\"", self.broker.port())
    }

    fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }

    fn numbers(&self, _job: &Job) -> Vec<u64> {
        let mut received = self.receiver.catch_up(&self.broker, "out");
        received.pop();
        received.iter().map(|(_, payload)| number(payload)).collect()
    }
}

fn lines(text: &str) -> Vec<u64> {
    text.lines().map(|line| line.parse().expect("a number")).collect()
}
