//! Messages into a topic, as they come.

use serde_json::Value;

use super::{
    KafkaSink,
    client::Reports,
    encode::messages,
    producer::{KafkaProducer, producer_config},
};
use crate::{ConnectError, Writer};

/// Rows are shown as the brokers take them.
pub struct KafkaWriter {
    producer: KafkaProducer,
    /// messages of the bytes being written that librdkafka has already, after a call that failed
    taken: usize,
}

impl KafkaWriter {
    pub fn open(sink: &KafkaSink) -> Result<KafkaWriter, ConnectError> {
        let mut config = producer_config(sink)?;
        config.set("message.timeout.ms", "0");
        let producer = KafkaProducer::new(sink, &config, Reports::new(&sink.brokers.join(",")))?;
        producer.check_topic()?;
        Ok(KafkaWriter { producer, taken: 0 })
    }
}

impl Writer for KafkaWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.producer.check()?;
        for message in messages(bytes, self.producer.header_count()).skip(self.taken) {
            let (timestamp, message) = message.ok_or_else(|| self.producer.refuse("these bytes are no messages"))?;
            self.producer.send(timestamp, &message)?;
            self.taken += 1;
        }
        self.taken = 0;
        Ok(())
    }

    /// The rows are shown already; the checkpoint is complete when the brokers have them.
    fn pre_commit(&mut self, _epoch: u64) -> Result<Value, ConnectError> {
        self.producer.flush().map(|()| Value::Null)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.producer.flush()
    }
}
