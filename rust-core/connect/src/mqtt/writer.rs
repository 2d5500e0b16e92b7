//! Messages to a broker.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    MqttQuality, MqttSink, MqttVersion,
    connection::Outgoing,
    link::Link,
    options::{Options, Who},
    outbox::{MESSAGES_MAX, Outbox, Stuck},
};
use crate::{
    ConnectError, Fault, Writer,
    message::{Message, messages},
};

/// A call waits so long for a broker that takes nothing, and then says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// Messages that wait for their acknowledgement at a time.
const INFLIGHT: u16 = 1_000;
/// The same in MQTT 3.1.1 with quality of service 2: Mosquitto stops to answer, or ends the connection, when more are under
/// way than it is configured for, by default so many. In MQTT 5 a broker says how many it takes.
const INFLIGHT_EXACT: u16 = 20;
/// For so long a broker of MQTT 5 keeps a session whose connection has broken.
const SESSION_EXPIRY_S: u32 = 3_600;
/// Room for everything that waits, and a little more.
const REQUESTS_MAX: usize = MESSAGES_MAX + 8;

/// Hands messages to the thread of the connection, which brings them to the broker.
pub struct MqttWriter {
    outbox: Arc<Outbox>,
    broker: String,
    topic: Option<String>,
    is_retained: bool,
    /// names of properties, whose values rows have
    headers: Vec<String>,
    content_type: Option<Arc<str>>,
    expiry_s: Option<u32>,
    /// messages of the bytes being written that were handed over already, before a call that failed
    taken: usize,
}

impl MqttWriter {
    pub fn open(sink: &MqttSink) -> Result<MqttWriter, ConnectError> {
        // Brokers need not take more than 23 characters.
        let made_up = format!("ringmill-{:014x}", RandomState::new().hash_one(0) >> 8);
        let who = Who {
            client_id: sink.client_id.as_deref().unwrap_or(&made_up),
            user: sink.user.as_deref(),
            password_file: sink.password_file.as_deref(),
            root_certificates: sink.root_certificates.as_deref(),
        };
        let is_exact = sink.quality == MqttQuality::ExactlyOnce;
        let options = Options {
            keeps_session: is_exact,
            session_expiry_s: SESSION_EXPIRY_S,
            inflight: if is_exact && sink.version == MqttVersion::V3 { INFLIGHT_EXACT } else { INFLIGHT },
            ..Options::new(sink.version, &sink.broker, &who, REQUESTS_MAX)?
        };
        let (outbox, broker) = (Arc::new(Outbox::new(sink.quality)), sink.broker.to_string());
        let link = Link::new(options, Arc::clone(&outbox));
        let spawned = thread::Builder::new().name("mqtt-out".to_owned()).spawn(move || link.run());
        spawned.map_err(|source| ConnectError::Write { name: "the thread of an mqtt sink".to_owned(), source })?;
        Ok(MqttWriter {
            outbox,
            broker,
            topic: sink.topic.clone(),
            is_retained: sink.is_retained,
            headers: sink.headers.iter().map(|header| header.name.clone()).collect(),
            content_type: sink.content_type.as_deref().map(Arc::from),
            expiry_s: sink.message_expiry_s,
            taken: 0,
        })
    }

    fn outgoing(&self, message: Message<'_>) -> Result<Outgoing, ConnectError> {
        let Message { key, value: payload, headers } = message;
        let topic = key.and_then(|key| std::str::from_utf8(key).ok()).or(self.topic.as_deref());
        let topic = topic.ok_or_else(|| self.refuse("a row has no topic; `topic` is for such rows"))?;
        if !MqttSink::is_topic(topic) {
            return Err(self.refuse(&format!("a row's topic is {topic:?}, and no message can have it")));
        }
        let mut properties = Vec::new();
        for (name, value) in self.headers.iter().zip(headers) {
            let Some(value) = value else { continue };
            let value = String::from_utf8_lossy(value).into_owned();
            if !MqttSink::is_text(&value) {
                let length = value.len();
                let reason = format!("header {name:?} of a row has {length} bytes, or a null character among them");
                return Err(self.refuse(&format!("{reason}; 65,535 bytes without such are possible")));
            }
            properties.push((name.clone(), value));
        }
        Ok(Outgoing {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            is_retained: self.is_retained,
            properties,
            content_type: self.content_type.clone(),
            expiry_s: self.expiry_s,
        })
    }

    fn refuse(&self, reason: &str) -> ConnectError {
        ConnectError::Target { name: format!("MQTT broker {}", self.broker), reason: reason.to_owned() }
    }

    fn stuck(&self, stuck: Stuck) -> ConnectError {
        let (reason, fault) = match stuck {
            Stuck::Waiting(count, None) => (format!("{count} messages wait to be taken"), Fault::Transient),
            Stuck::Waiting(count, Some(trouble)) => {
                (format!("{count} messages wait to be taken: {trouble}"), Fault::Transient)
            }
            Stuck::Broken(reason) => (reason, Fault::Permanent),
        };
        ConnectError::Database { name: format!("to MQTT broker {}", self.broker), reason, fault }
    }
}

impl Writer for MqttWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        for message in messages(bytes, self.headers.len()).skip(self.taken) {
            let message = message.ok_or_else(|| self.refuse("these bytes are no messages"))?;
            let message = self.outgoing(message)?;
            self.outbox.push(message, PATIENCE).map_err(|stuck| self.stuck(stuck))?;
            self.taken += 1;
        }
        self.taken = 0;
        Ok(())
    }

    /// The rows are shown already; the checkpoint is complete when the broker has them.
    fn pre_commit(&mut self, _epoch: u64) -> Result<Value, ConnectError> {
        self.outbox.flush(PATIENCE).map_err(|stuck| self.stuck(stuck))?;
        Ok(Value::Null)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.outbox.flush(PATIENCE).map_err(|stuck| self.stuck(stuck))
    }
}

impl Drop for MqttWriter {
    fn drop(&mut self) {
        self.outbox.end();
    }
}
