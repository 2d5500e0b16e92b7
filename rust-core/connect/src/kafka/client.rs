//! What a consumer and a producer have in common: their configuration, and what librdkafka says.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::ProducerContext,
    types::RDKafkaConfRes,
};

use super::Reserved;
use crate::{ConnectError, Fault, Secret};

/// The brokers are waited for so long when something is opened.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Refuses a property that librdkafka does not know, a value that it does not take, and what other keys decide. The reason
/// does not repeat the value.
pub fn check_option(name: &str, value: &Secret, reserved: Reserved) -> Result<(), String> {
    if let Some((_, by)) = reserved.iter().find(|(reserved, _)| *reserved == name) {
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
    let from_file = file.map(read_options).transpose()?.unwrap_or_default();
    for (name, value) in options.iter().chain(&from_file) {
        check_option(name, value, reserved).map_err(|reason| refuse(brokers, reason))?;
        config.set(name, value.reveal());
    }
    config.set("bootstrap.servers", brokers);
    Ok(config)
}

/// `name=value` a line; empty lines and those with `#` in front are nothing.
fn read_options(path: &Path) -> Result<Vec<(String, Secret)>, ConnectError> {
    let text = fs::read_to_string(path).map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let option = |(index, line): (usize, &str)| match line.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_owned(), Secret::new(value.trim()))),
        None => Err(ConnectError::Target {
            name: path.display().to_string(),
            reason: format!("line {} is not of the form name=value", index + 1),
        }),
    };
    lines.map(option).collect()
}

pub fn refuse(brokers: &str, reason: impl Into<String>) -> ConnectError {
    ConnectError::Kafka { brokers: brokers.to_owned(), reason: reason.into(), fault: Fault::Permanent }
}

/// Logs what librdkafka says, and keeps what matters.
pub struct Reports {
    pub brokers: String,
    /// the last reason for which something did not work
    trouble: Mutex<Option<String>>,
    /// why nothing can go on
    fault: Mutex<Option<String>>,
    is_faulty: AtomicBool,
}

impl Reports {
    pub fn new(brokers: &str) -> Reports {
        Reports {
            brokers: brokers.to_owned(),
            trouble: Mutex::default(),
            fault: Mutex::default(),
            is_faulty: AtomicBool::new(false),
        }
    }

    /// Nothing can go on. The first reason counts.
    pub fn fail(&self, reason: String) {
        lock(&self.fault).get_or_insert(reason);
        self.is_faulty.store(true, Ordering::Release);
    }

    /// Why nothing can go on.
    pub fn fault(&self) -> Option<ConnectError> {
        let is_faulty = self.is_faulty.load(Ordering::Acquire);
        is_faulty.then(|| refuse(&self.brokers, lock(&self.fault).clone().unwrap_or_default()))
    }

    /// What went wrong last, once.
    pub fn take_trouble(&self) -> Option<String> {
        lock(&self.trouble).take()
    }

    pub fn not_committed(&self, error: &KafkaError) {
        tracing::warn!("Kafka at {}: progress was not committed: {}", self.brokers, said(error));
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
            // Each of them has given its reason.
            Some(RDKafkaErrorCode::AllBrokersDown) => {}
            _ => *lock(&self.trouble) = Some(reason.to_owned()),
        }
        tracing::warn!("Kafka at {}: {reason}", self.brokers);
    }
}

impl ConsumerContext for Reports {
    fn commit_callback(&self, committed: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = committed {
            self.not_committed(&error);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = delivered {
            self.fail(format!("a message was not taken: {}", said(error)));
        }
    }
}

/// Whether librdkafka does not get over it by itself.
pub fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return true;
    }
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AutoOffsetReset
                | Code::Fatal
                | Code::OffsetOutOfRange
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
        )
    )
}

/// librdkafka's words.
pub fn said(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            "messages that were not read yet are gone: the topic keeps them for too short a time, or was created anew; \
             --fresh begins anew"
                .to_owned()
        }
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
