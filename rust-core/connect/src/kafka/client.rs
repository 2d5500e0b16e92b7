//! What a consumer and a producer have in common: their configuration, and what librdkafka says.

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::ProducerContext,
    types::{RDKafkaConfRes, RDKafkaRespErr},
};

use crate::{ConnectError, Fault, Secret, lock::lock};

/// The brokers are waited for so long when something is opened.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What went wrong longer ago explains nothing.
const TROUBLE_AGE: Duration = Duration::from_secs(60);

/// Properties that other keys decide, and which: what is written in `options` for them would be lost.
pub type Reserved = &'static [(&'static str, &'static str)];

const BROKERS: Reserved = &[("bootstrap.servers", "`brokers`"), ("metadata.broker.list", "`brokers`")];

/// Refuses a property that librdkafka does not know, a value that it does not take, and what other keys decide. The reason
/// does not repeat the value.
pub fn check_option(name: &str, value: &Secret, reserved: Reserved) -> Result<(), String> {
    if let Some((_, by)) = BROKERS.iter().chain(reserved).find(|(reserved, _)| *reserved == name) {
        return Err(format!("{name:?} follows from {by}"));
    }
    match ClientConfig::new().set(name, value.reveal()).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(format!("librdkafka has no property {name:?}"))
        }
        Err(_) => Err(format!("librdkafka takes no such value for {name:?}")),
    }
}

/// A configuration with these properties, and those of the file.
pub fn configuration(
    brokers: &str,
    options: &[(String, Secret)],
    file: Option<&Path>,
    reserved: Reserved,
) -> Result<ClientConfig, ConnectError> {
    let mut config = ClientConfig::new();
    config.set("client.id", "ringmill");
    for (name, value) in options {
        check_option(name, value, reserved).map_err(|reason| refuse(brokers, format!("`options`: {reason}")))?;
        config.set(name, value.reveal());
    }
    for (name, value) in file.map(|path| read_options(path, reserved)).transpose()?.unwrap_or_default() {
        config.set(name, value.reveal());
    }
    config.set("bootstrap.servers", brokers);
    // OpenSSL is compiled in and does not know by itself where this system keeps its certificates.
    set_defaults(&mut config, &[("ssl.ca.location", "probe")]);
    Ok(config)
}

/// Sets what the user did not.
pub fn set_defaults(config: &mut ClientConfig, defaults: &[(&str, &str)]) {
    for (name, value) in defaults {
        if config.get(name).is_none() {
            config.set(*name, *value);
        }
    }
}

/// `name=value` a line; empty lines and those with `#` in front are nothing.
fn read_options(path: &Path, reserved: Reserved) -> Result<Vec<(String, Secret)>, ConnectError> {
    let text = fs::read_to_string(path).map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
    let mut options = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refuse = |reason: String| {
            let name = format!("{}, line {}", path.display(), index + 1);
            ConnectError::Target { name, reason }
        };
        let (name, value) =
            line.split_once('=').ok_or_else(|| refuse("it is not of the form name=value".to_owned()))?;
        let (name, value) = (name.trim().to_owned(), Secret::new(value.trim()));
        check_option(&name, &value, reserved).map_err(refuse)?;
        options.push((name, value));
    }
    Ok(options)
}

pub fn refuse(brokers: &str, reason: impl Into<String>) -> ConnectError {
    ConnectError::Kafka { brokers: brokers.to_owned(), reason: reason.into(), fault: Fault::Permanent }
}

/// Logs what librdkafka says, and keeps what matters.
pub struct Reports {
    pub brokers: String,
    /// the last reason for which something did not work, and when
    trouble: Mutex<Option<(Instant, String)>>,
    /// why nothing can go on
    fault: OnceLock<String>,
    /// what the group has dealt, and was not answered yet
    dealt: Mutex<VecDeque<Dealt>>,
    /// nobody answers any more, so it is done at once
    has_left: AtomicBool,
    /// what was not taken is sent again in another transaction
    is_transactional: bool,
}

/// What a group gives to a member or takes from it.
pub enum Dealt {
    Given(TopicPartitionList),
    Taken(TopicPartitionList),
}

impl Reports {
    pub fn new(brokers: &str) -> Reports {
        Reports {
            brokers: brokers.to_owned(),
            trouble: Mutex::default(),
            fault: OnceLock::new(),
            dealt: Mutex::default(),
            has_left: AtomicBool::new(false),
            is_transactional: false,
        }
    }

    /// Of a producer with transactions.
    pub fn of_transactions(brokers: &str) -> Reports {
        Reports { is_transactional: true, ..Reports::new(brokers) }
    }

    /// Nothing can go on. The first reason counts.
    pub fn fail(&self, reason: String) {
        let _ = self.fault.set(reason);
    }

    /// Why nothing can go on.
    pub fn fault(&self) -> Option<ConnectError> {
        self.fault.get().map(|reason| refuse(&self.brokers, reason))
    }

    /// Why something did not work: what went wrong a moment ago, or else this error.
    pub fn why(&self, error: &KafkaError) -> String {
        self.take_trouble().unwrap_or_else(|| said(error))
    }

    /// What the group has dealt, the oldest first. librdkafka goes on with the group when it is answered.
    pub fn next_dealt(&self) -> Option<Dealt> {
        lock(&self.dealt).pop_front()
    }

    /// Whatever the group deals from now on is answered at once, with nothing.
    pub fn leave(&self) {
        self.has_left.store(true, Ordering::Release);
    }

    /// What went wrong a moment ago, once.
    pub fn take_trouble(&self) -> Option<String> {
        let (when, reason) = lock(&self.trouble).take()?;
        (when.elapsed() < TROUBLE_AGE).then_some(reason)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Warning => tracing::warn!("Kafka at {}: {text}", self.brokers),
            // Worse ones are reported as errors as well.
            _ => tracing::debug!("Kafka at {}: {text}", self.brokers),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::PartitionEOF) => return,
            // Mostly each of them has given a reason before, but not always.
            Some(RDKafkaErrorCode::AllBrokersDown) => {}
            _ => *lock(&self.trouble) = Some((Instant::now(), reason.to_owned())),
        }
        tracing::warn!("Kafka at {}: {reason}", self.brokers);
    }
}

impl ConsumerContext for Reports {
    fn rebalance(&self, consumer: &BaseConsumer<Reports>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.has_left.load(Ordering::Acquire) {
            if let Err(error) = give_back(consumer, partitions) {
                tracing::debug!("Kafka at {}: {}", self.brokers, said(&error));
            }
            return;
        }
        let dealt = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Dealt::Given(partitions.clone()),
            _ => Dealt::Taken(partitions.clone()),
        };
        lock(&self.dealt).push_back(dealt);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        match delivered {
            Err((error, _)) if !self.is_transactional || is_refusal(error) => {
                self.fail(format!("a message was not taken: {}", said(error)));
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Answers the group, which takes these partitions, with those of them that there are.
pub fn give_back(consumer: &BaseConsumer<Reports>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    let RebalanceProtocol::Cooperative = consumer.rebalance_protocol() else { return consumer.unassign() };
    let assigned = consumer.assignment()?;
    let mut given_back = TopicPartitionList::new();
    for element in partitions.elements() {
        if assigned.find_partition(element.topic(), element.partition()).is_some() {
            given_back.add_partition(element.topic(), element.partition());
        }
    }
    consumer.incremental_unassign(&given_back)
}

/// Whether the run ends with it: nothing is left out without a word, and the next run goes on where this one was. From
/// some of them librdkafka might recover.
pub fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let is_final = matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AutoOffsetReset
                | Code::BadCompression
                | Code::BadMessage
                | Code::ClusterAuthorizationFailed
                | Code::Fatal
                | Code::MessageSizeTooLarge
                | Code::NotImplemented
                | Code::OffsetOutOfRange
                | Code::TopicAuthorizationFailed
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
        )
    );
    is_final || is_fatal(error)
}

/// Whether the brokers will not have it, now or later.
pub fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::ClusterAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::InvalidMessage
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidTransactionTimeout
                | Code::MessageSizeTooLarge
                | Code::PolicyViolation
                | Code::TopicAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnsupportedFeature
                | Code::UnsupportedVersion
        )
    )
}

/// Whether librdkafka can do nothing any more; it has said why.
pub fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
}

/// librdkafka's words.
pub fn said(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            "messages that were not read yet are gone: the topic keeps them for too short a time, or was created anew; \
             --fresh begins anew, with a group that deals where its offset was moved to"
                .to_owned()
        }
        Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression) => {
            "messages came damaged; the next run asks for them again".to_owned()
        }
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}
