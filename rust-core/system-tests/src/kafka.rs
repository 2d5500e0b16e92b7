//! Kafka brokers of a test's own. They are those that librdkafka is tested with: they speak the protocol over real
//! connections and keep up to 5 MiB of each partition in memory, and they are not Apache Kafka.

use std::ops::Range;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::{CHECKPOINT, sinks_of};

/// Longest wait for the brokers.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Brokers, and somebody who writes to them. They end with the test.
pub struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Kafka {
    /// Two brokers and a topic.
    pub fn with_topic(topic: &str, partitions: i32) -> Kafka {
        let cluster = MockCluster::new(2).expect("librdkafka has brokers");
        cluster.create_topic(topic, partitions, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("linger.ms", "1");
        Kafka { cluster, producer: config.create().expect("a producer") }
    }

    /// `host:port` of each broker, as a list in TOML.
    pub fn brokers(&self) -> String {
        let brokers = self.cluster.bootstrap_servers();
        format!("[{}]", brokers.split(',').map(|broker| format!("{broker:?}")).collect::<Vec<_>>().join(", "))
    }

    /// A pipeline that keeps what [`Kafka::send_numbers`] writes, and in which partition it was, with further keys of its
    /// source.
    pub fn numbers_pipeline(&self, keys: &str) -> String {
        format!(
            r#"
[pipeline]
shards = 2

{CHECKPOINT}
[sources.messages]
kind = "kafka"
brokers = {}
topics = ["num*"]
partition_field = "partition"
fields = {{ number = "uint64", partition = "int32" }}
{keys}
{}"#,
            self.brokers(),
            sinks_of("messages")
        )
    }

    /// Writes `{"number": N}` to a partition, and waits until the brokers have them.
    pub fn send_numbers(&self, topic: &str, partition: i32, numbers: Range<u64>) {
        for number in numbers {
            self.write(topic, partition, format!("{{\"number\":{number}}}").as_bytes());
        }
        self.flush();
    }

    /// Writes a message, without waiting.
    pub fn write(&self, topic: &str, partition: i32, value: &[u8]) {
        self.write_with(topic, partition, None, value);
    }

    /// The same with a header, if one is given.
    pub fn write_with(&self, topic: &str, partition: i32, header: Option<(&str, &[u8])>, value: &[u8]) {
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(value);
        if let Some((key, value)) = header {
            record = record.headers(OwnedHeaders::new().insert(Header { key, value: Some(value) }));
        }
        while let Err((_, back)) = self.producer.send(record) {
            record = back;
            self.producer.poll(Duration::from_millis(1));
        }
    }

    /// Waits until the brokers have everything.
    pub fn flush(&self) {
        self.producer.flush(TIMEOUT).expect("the brokers take it");
    }

    /// No broker answers any more, and all connections break.
    pub fn go_away(&self) {
        self.cluster.broker_down(-1).expect("it can be done");
    }

    /// They answer again.
    pub fn come_back(&self) {
        self.cluster.broker_up(-1).expect("it can be done");
    }

    /// What was committed for a partition of a topic under this group.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", group);
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = consumer.committed_offsets(list, TIMEOUT).expect("the brokers answer");
        committed.elements().first().and_then(|element| element.offset().to_raw()).filter(|offset| *offset >= 0)
    }

    /// All messages of a topic, which are text: partition, key and value, each partition's in their order.
    pub fn read(&self, topic: &str) -> Vec<(i32, Option<String>, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let messages = self.messages(topic).into_iter();
        messages.map(|(partition, key, value)| (partition, key.map(text), text(value))).collect()
    }

    /// The same of whatever is in them.
    pub fn messages(&self, topic: &str) -> Vec<(i32, Option<Vec<u8>>, Vec<u8>)> {
        messages(&self.cluster.bootstrap_servers(), topic, "read_committed")
    }
}

/// What is in a topic: partition, key and value of all that this isolation level shows, each partition's in their order.
pub fn messages(brokers: &str, topic: &str, isolation: &str) -> Vec<(i32, Option<Vec<u8>>, Vec<u8>)> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "reader")
        .set("enable.partition.eof", "true")
        // The end is told at once.
        .set("fetch.wait.max.ms", "10")
        .set("isolation.level", isolation);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).expect("the brokers answer");
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("it can be read");
    let (mut messages, mut ended) = (Vec::new(), 0);
    while ended < list.count() {
        match consumer.poll(TIMEOUT).expect("the brokers answer") {
            Ok(message) => {
                let value = message.payload().expect("a value").to_vec();
                messages.push((message.partition(), message.key().map(<[u8]>::to_vec), value));
            }
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    messages
}
