//! Rows as messages of a topic.

use std::path::PathBuf;

use ringmill_wire::Schema;

use crate::{ConnectError, Encoder, HeaderColumn, MessageOutput, Promise, Secret, Transactions, Writer};

/// A topic of Apache Kafka as a sink: each row is a message, its value the row as JSON or Avro.
///
/// Rows are sent as they come; or, with a `transactional_id`, those of an epoch when it is committed, in a transaction of the
/// brokers, so that those who read only what is committed see each row once.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaSink {
    /// where brokers are asked for all the others: `host:port`
    pub brokers: Vec<String>,
    /// its name
    pub topic: String,
    /// the column that is also the message's key, by which its partition is chosen
    pub key: Option<String>,
    /// the column that is also the message's time stamp; when it is sent if absent
    pub timestamp: Option<String>,
    /// columns that are also headers
    pub headers: Vec<HeaderColumn>,
    /// the name under which it has transactions, which no other sink may have at the same time; it has none if absent
    pub transactional_id: Option<String>,
    /// properties of librdkafka
    pub options: Vec<(String, Secret)>,
    /// a file with further ones, `name=value` a line, read when the sink is opened
    pub options_file: Option<PathBuf>,
    /// what a message is
    pub format: MessageOutput,
}

impl KafkaSink {
    /// With transactions every row is committed once. Without, it has come to the brokers when the checkpoint of its epoch is
    /// complete; after a crash those of the interrupted epoch are there again.
    pub fn promise(&self) -> Promise {
        if self.transactional_id.is_some() { Promise::ExactlyOnce } else { Promise::AtLeastOnce }
    }

    /// See [`KafkaSpec::check_option`](super::KafkaSpec::check_option).
    #[cfg(feature = "kafka")]
    pub fn check_option(name: &str, value: &Secret) -> Result<(), String> {
        super::client::check_option(name, value, super::producer::RESERVED)
    }

    /// What makes messages of rows of this schema; refused if it has no such key, or what JSON cannot carry.
    #[cfg(feature = "kafka")]
    pub fn encoder(&self, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        use ringmill_wire::DataType;

        use super::encode::KafkaEncoder;
        use crate::message::{MessageEncoder, column_of, is_key};
        let types: (fn(_) -> _, _) = (is_key, "a key is of type utf8, binary or an integer");
        let key = self.key.as_ref().map(|key| column_of(("key", key), types, schema)).transpose()?;
        let types: (fn(_) -> _, _) =
            (|column| matches!(column, DataType::Timestamp(_)), "a time stamp is of type timestamp");
        let timestamp =
            self.timestamp.as_ref().map(|name| column_of(("timestamp", name), types, schema)).transpose()?;
        let types: (fn(_) -> _, _) = (is_key, "a header is of type utf8, binary or an integer");
        let header = |header: &HeaderColumn| {
            super::check_header("headers", &header.name)?;
            column_of(("headers", &header.column), types, schema)
        };
        let headers = self.headers.iter().map(header).collect::<Result<_, _>>()?;
        let messages = MessageEncoder::beside(key, headers, timestamp, &self.format, schema)?;
        Ok(Box::new(KafkaEncoder::new(messages, timestamp, schema)))
    }

    /// Asks the brokers for the topic, fails if none answers, and commits what a checkpoint has left to be committed.
    /// Transactions of the brokers need ours.
    #[cfg(feature = "kafka")]
    pub fn open(
        &self,
        schema: &Schema,
        transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        use super::{transactor::Transactor, writer::KafkaWriter};
        use crate::courier::EpochWriter;
        self.format.prepare(schema)?;
        let Some(id) = &self.transactional_id else { return Ok(Box::new(KafkaWriter::open(self)?)) };
        let rule = "transactions of a run without checkpoints would commit nothing exactly once";
        let refuse = || ConnectError::Spec { option: "transactional_id", value: id.clone(), rule };
        let transactions = transactions.ok_or_else(refuse)?;
        Ok(Box::new(EpochWriter::open(Transactor::open(self, id)?, transactions, None)?))
    }

    /// This program was built without Kafka.
    #[cfg(not(feature = "kafka"))]
    pub fn check_option(_name: &str, _value: &Secret) -> Result<(), String> {
        Ok(())
    }

    /// This program was built without Kafka.
    #[cfg(not(feature = "kafka"))]
    pub fn encoder(&self, _schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        Err(ConnectError::Feature("kafka"))
    }

    /// This program was built without Kafka.
    #[cfg(not(feature = "kafka"))]
    pub fn open(
        &self,
        _schema: &Schema,
        _transactions: Option<&Transactions<'_>>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        Err(ConnectError::Feature("kafka"))
    }
}
