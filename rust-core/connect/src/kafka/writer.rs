//! Messages into a topic.

use std::time::{Duration, Instant};

use rdkafka::{
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ThreadedProducer},
};
use serde_json::Value;

use super::{
    KafkaSink,
    client::{ANSWER_TIMEOUT, Reports, Reserved, configuration, refuse, said, set_defaults},
    encode::messages,
};
use crate::{ConnectError, Fault, Writer, message::Message};

pub const RESERVED: Reserved = &[
    ("message.timeout.ms", "the sink: no row is given up"),
    ("delivery.timeout.ms", "the sink: no row is given up"),
    ("enable.idempotence", "the sink: rows come in their order and once"),
    ("acks", "the sink: all replicas have a row before it counts"),
    ("request.required.acks", "the sink: all replicas have a row before it counts"),
    ("transactional.id", "the sink: it has no transactions"),
];

/// A call waits so long for brokers that take nothing, and then says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between looks at whether there is room.
const LOOK: Duration = Duration::from_millis(1);
/// What librdkafka holds at most for the brokers, unless an option says otherwise (KiB).
const QUEUE_KIB: &str = "65536";
/// Brokers that make topics as they are asked for take a while.
const NEW_TOPIC: Duration = Duration::from_secs(3);

/// Hands messages to librdkafka, which brings them to the brokers in their order and once, as long as this process lives.
pub struct KafkaWriter {
    producer: ThreadedProducer<Reports>,
    topic: String,
    /// names of the headers
    headers: Vec<String>,
    /// messages of the bytes being written that librdkafka has already, after a call that failed
    taken: usize,
}

impl KafkaWriter {
    pub fn open(sink: &KafkaSink) -> Result<KafkaWriter, ConnectError> {
        let brokers = sink.brokers.join(",");
        let mut config = configuration(&brokers, &sink.options, sink.options_file.as_deref(), RESERVED)?;
        let defaults = [
            ("queue.buffering.max.kbytes", QUEUE_KIB),
            // What Java's clients choose, so that theirs and ours bring a key to the same partition.
            ("partitioner", "murmur2_random"),
        ];
        set_defaults(&mut config, &defaults);
        config.set("enable.idempotence", "true").set("message.timeout.ms", "0");
        let producer = ThreadedProducer::from_config_and_context(&config, Reports::new(&brokers));
        let producer = producer.map_err(|error| refuse(&brokers, error.to_string()))?;
        let headers = sink.headers.iter().map(|header| header.name.clone()).collect();
        let writer = KafkaWriter { producer, topic: sink.topic.clone(), headers, taken: 0 };
        writer.check_topic()?;
        Ok(writer)
    }

    fn check_topic(&self) -> Result<(), ConnectError> {
        let deadline = Instant::now() + NEW_TOPIC;
        loop {
            let metadata = self.producer.client().fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT);
            let metadata = metadata.map_err(|error| self.refuse(self.reports().why(&error)))?;
            let Some(error) = metadata.topics().iter().find_map(|topic| topic.error()) else { return Ok(()) };
            let error = KafkaError::MetadataFetch(error.into());
            let is_new = matches!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::LeaderNotAvailable)
            );
            if !is_new || Instant::now() > deadline {
                return Err(self.refuse(format!("topic {:?}: {}", self.topic, said(&error))));
            }
            std::thread::sleep(PATIENCE / 10);
        }
    }

    fn send(&self, timestamp: Option<i64>, message: &Message<'_>) -> Result<(), ConnectError> {
        let Message { key, value, headers } = message;
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).payload(value);
        (record.key, record.timestamp) = (*key, timestamp);
        let values = self.headers.iter().zip(headers).filter_map(|(name, value)| Some((name, (*value)?)));
        record.headers = values.fold(None, |headers, (key, value)| {
            let headers = headers.unwrap_or_else(OwnedHeaders::new);
            Some(headers.insert(Header { key, value: Some(value) }))
        });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Err((error, back)) = self.producer.send(record) else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if Instant::now() < deadline => std::thread::sleep(LOOK),
                Some(RDKafkaErrorCode::QueueFull) => return Err(self.missing()),
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    let beside = headers.iter().chain([key]).flatten().map(|part| part.len()).sum::<usize>();
                    let bytes = value.len() + beside;
                    let reason = format!("a row is a message of {bytes} bytes, and message.max.bytes allows less");
                    return Err(self.refuse(reason));
                }
                _ => return Err(self.refuse(self.reports().why(&error))),
            }
            record = back;
        }
    }

    /// The brokers do not take what they are sent.
    fn missing(&self) -> ConnectError {
        let waiting = format!("{} messages wait to be taken", self.producer.in_flight_count());
        let reason = match self.reports().take_trouble() {
            Some(trouble) => format!("{waiting}: {trouble}"),
            None => waiting,
        };
        ConnectError::Kafka { brokers: self.reports().brokers.clone(), reason, fault: Fault::Transient }
    }

    fn check(&self) -> Result<(), ConnectError> {
        self.reports().fault().map_or(Ok(()), Err)
    }

    fn refuse(&self, reason: impl Into<String>) -> ConnectError {
        refuse(&self.reports().brokers, reason)
    }

    fn reports(&self) -> &Reports {
        self.producer.context()
    }

    fn flush(&self) -> Result<(), ConnectError> {
        let (mut left, mut deadline) = (i32::MAX, Instant::now() + PATIENCE);
        loop {
            let flushed = self.producer.flush(Duration::ZERO);
            // A message that was refused is on its way no more.
            self.check()?;
            if flushed.is_ok() {
                return Ok(());
            }
            let waiting = self.producer.in_flight_count();
            if waiting < left {
                (left, deadline) = (waiting, Instant::now() + PATIENCE);
            } else if Instant::now() > deadline {
                return Err(self.missing());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Writer for KafkaWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.check()?;
        for message in messages(bytes, self.headers.len()).skip(self.taken) {
            let (timestamp, message) = message.ok_or_else(|| self.refuse("these bytes are no messages"))?;
            self.send(timestamp, &message)?;
            self.taken += 1;
        }
        self.taken = 0;
        Ok(())
    }

    /// The rows are shown already; the checkpoint is complete when the brokers have them.
    fn pre_commit(&mut self, _epoch: u64) -> Result<Value, ConnectError> {
        self.flush().map(|()| Value::Null)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.flush()
    }
}
