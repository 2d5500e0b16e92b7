//! The way of messages to a topic: what a sink with transactions and one without have in common.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ThreadedProducer},
};

use super::{
    KafkaSink,
    client::{ANSWER_TIMEOUT, Reports, Reserved, configuration, refuse, said, set_defaults},
};
use crate::{ConnectError, Fault, message::Message};

pub const RESERVED: Reserved = &[
    ("message.timeout.ms", "the sink: no row is given up"),
    ("delivery.timeout.ms", "the sink: no row is given up"),
    ("enable.idempotence", "the sink: rows come in their order and once"),
    ("acks", "the sink: all replicas have a row before it counts"),
    ("request.required.acks", "the sink: all replicas have a row before it counts"),
    ("transactional.id", "`transactional_id`"),
];

/// A call waits so long for brokers that take nothing, and then says so.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Between looks at whether there is room.
const LOOK: Duration = Duration::from_millis(1);
/// What librdkafka holds at most for the brokers, unless an option says otherwise (KiB).
const QUEUE_KIB: &str = "65536";
/// Brokers that make topics as they are asked for take a while.
const NEW_TOPIC: Duration = Duration::from_secs(3);
/// librdkafka's own limit of a message, unless an option says otherwise.
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// At most so many bytes of a message, and of each header, are neither key nor value nor name.
const MESSAGE_HEAD_BYTES: usize = 64;
const HEADER_HEAD_BYTES: usize = 20;

/// Hands messages to librdkafka, which brings them to the brokers in their order and once, as long as this process lives.
pub struct KafkaProducer {
    pub client: ThreadedProducer<Reports>,
    topic: String,
    /// names of the headers
    headers: Vec<String>,
    message_bytes_max: usize,
}

/// What the producers of a sink have in common.
pub fn producer_config(sink: &KafkaSink) -> Result<ClientConfig, ConnectError> {
    let brokers = sink.brokers.join(",");
    let mut config = configuration(&brokers, &sink.options, sink.options_file.as_deref(), RESERVED)?;
    let defaults = [
        ("queue.buffering.max.kbytes", QUEUE_KIB),
        // Nobody asks for others.
        ("delivery.report.only.error", "true"),
        // What Java's clients choose, so that theirs and ours bring a key to the same partition.
        ("partitioner", "murmur2_random"),
    ];
    set_defaults(&mut config, &defaults);
    config.set("enable.idempotence", "true");
    Ok(config)
}

impl KafkaProducer {
    /// Connects to nobody yet.
    pub fn new(sink: &KafkaSink, config: &ClientConfig, reports: Reports) -> Result<KafkaProducer, ConnectError> {
        let client = ThreadedProducer::from_config_and_context(config, reports);
        let client = client.map_err(|error| refuse(&sink.brokers.join(","), error.to_string()))?;
        let message_bytes_max = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        Ok(KafkaProducer {
            client,
            topic: sink.topic.clone(),
            headers: sink.headers.iter().map(|header| header.name.clone()).collect(),
            message_bytes_max: message_bytes_max.unwrap_or(MESSAGE_BYTES_MAX),
        })
    }

    /// Asks the brokers for the topic; fails if none answers.
    pub fn check_topic(&self) -> Result<(), ConnectError> {
        let deadline = Instant::now() + NEW_TOPIC;
        loop {
            let metadata = self.client.client().fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT);
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

    /// How many headers a message may have.
    pub fn header_count(&self) -> usize {
        self.headers.len()
    }

    /// Refuses a message that librdkafka would not take.
    pub fn check_size(&self, message: &Message<'_>) -> Result<(), ConnectError> {
        let names = self.headers.iter().map(|name| name.len() + HEADER_HEAD_BYTES).sum::<usize>();
        if size(message) + names + MESSAGE_HEAD_BYTES > self.message_bytes_max {
            return Err(self.too_large(message));
        }
        Ok(())
    }

    fn too_large(&self, message: &Message<'_>) -> ConnectError {
        self.refuse(format!("a row is a message of {} bytes, and message.max.bytes allows less", size(message)))
    }

    /// Hands over a message with its time stamp (milliseconds since 1970; `None`: when it is sent).
    pub fn send(&self, timestamp: Option<i64>, message: &Message<'_>) -> Result<(), ConnectError> {
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
            let Err((error, back)) = self.client.send(record) else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if Instant::now() < deadline => std::thread::sleep(LOOK),
                Some(RDKafkaErrorCode::QueueFull) => return Err(self.missing()),
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => return Err(self.too_large(message)),
                _ => return Err(self.refuse(self.reports().why(&error))),
            }
            record = back;
        }
    }

    /// The brokers do not take what they are sent.
    fn missing(&self) -> ConnectError {
        let waiting = format!("{} messages wait to be taken", self.client.in_flight_count());
        let reason = match self.reports().take_trouble() {
            Some(trouble) => format!("{waiting}: {trouble}"),
            None => waiting,
        };
        self.failed(reason, Fault::Transient)
    }

    /// Why nothing can go on, if there is a reason.
    pub fn check(&self) -> Result<(), ConnectError> {
        self.reports().fault().map_or(Ok(()), Err)
    }

    /// Waits until the brokers have everything, as long as it gets less.
    pub fn flush(&self) -> Result<(), ConnectError> {
        let (mut left, mut deadline) = (i32::MAX, Instant::now() + PATIENCE);
        loop {
            let flushed = self.client.flush(Duration::ZERO);
            // A message that was refused is on its way no more.
            self.check()?;
            if flushed.is_ok() {
                return Ok(());
            }
            let waiting = self.client.in_flight_count();
            if waiting < left {
                (left, deadline) = (waiting, Instant::now() + PATIENCE);
            } else if Instant::now() > deadline {
                return Err(self.missing());
            }
            std::thread::sleep(LOOK);
        }
    }

    pub fn failed(&self, reason: impl Into<String>, fault: Fault) -> ConnectError {
        ConnectError::Kafka { brokers: self.reports().brokers.clone(), reason: reason.into(), fault }
    }

    pub fn refuse(&self, reason: impl Into<String>) -> ConnectError {
        self.failed(reason, Fault::Permanent)
    }

    pub fn reports(&self) -> &Reports {
        self.client.context()
    }
}

/// Bytes of what a row says.
fn size(message: &Message<'_>) -> usize {
    let beside = message.headers.iter().chain([&message.key]).flatten().map(|part| part.len()).sum::<usize>();
    message.value.len() + beside
}
