//! Messages to a broker.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    thread,
    time::Duration,
};

use rumqttc::{Client, Event, MqttOptions, Outgoing as Sent, Packet};
use serde_json::Value;

use super::{
    MqttSink,
    options::{PAUSE, PAUSE_MAX, Who, options, refusal},
    outbox::{MESSAGES_MAX, Outbox, Outgoing, Stuck},
};
use crate::{
    ConnectError, Fault, Writer,
    message::{Message, messages},
};

/// A call waits so long for a broker that takes nothing, and then says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// Messages that wait for their acknowledgement at a time.
const INFLIGHT: u16 = 1_000;
/// A connection that takes nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(30);
/// Room for everything that waits, and a little more.
const REQUESTS_MAX: usize = MESSAGES_MAX + 8;

/// Hands messages to the thread of the connection, which brings them to the broker.
pub struct MqttWriter {
    outbox: Arc<Outbox>,
    broker: String,
    topic: Option<String>,
    is_retained: bool,
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
        let mut options = options(&sink.broker, &who)?;
        options.set_clean_session(true).set_inflight(INFLIGHT);
        let (outbox, broker) = (Arc::new(Outbox::default()), sink.broker.to_string());
        let link = Link { options, broker: broker.clone(), outbox: Arc::clone(&outbox) };
        let spawned = thread::Builder::new().name("mqtt-out".to_owned()).spawn(move || link.run());
        spawned.map_err(|source| ConnectError::Write { name: "the thread of an mqtt sink".to_owned(), source })?;
        Ok(MqttWriter { outbox, broker, topic: sink.topic.clone(), is_retained: sink.is_retained, taken: 0 })
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
        for message in messages(bytes, 0).skip(self.taken) {
            let Message { key, value: payload, .. } =
                message.ok_or_else(|| self.refuse("these bytes are no messages"))?;
            let topic = key.and_then(|key| std::str::from_utf8(key).ok()).or(self.topic.as_deref());
            let topic = topic.ok_or_else(|| self.refuse("a row has no topic; `topic` is for such rows"))?;
            if !MqttSink::is_topic(topic) {
                return Err(self.refuse(&format!("a row's topic is {topic:?}, and no message can have it")));
            }
            let message =
                Outgoing { topic: topic.to_owned(), payload: payload.to_vec(), is_retained: self.is_retained };
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

/// Says so when the thread ends, however that comes.
struct Ending(Arc<Outbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.fail("its connection's thread has ended".to_owned());
    }
}

/// One connection after the other.
struct Link {
    options: MqttOptions,
    broker: String,
    outbox: Arc<Outbox>,
}

impl Link {
    fn run(self) {
        let _ending = Ending(Arc::clone(&self.outbox));
        let (mut pause, mut was_connected) = (PAUSE, false);
        while !self.outbox.is_over() {
            let (client, mut connection) = Client::new(self.options.clone(), REQUESTS_MAX);
            connection.eventloop.network_options.set_connection_timeout(STALLED.as_secs());
            let error = loop {
                match connection.recv() {
                    Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {
                        tracing::info!("connected to MQTT broker {}", self.broker);
                        self.outbox.connected(client.clone());
                        was_connected = true;
                    }
                    Ok(Ok(Event::Incoming(Packet::PubAck(answer)))) => {
                        self.outbox.acknowledged(answer.pkid);
                        // Not before: a broker may end each connection because of what it is sent.
                        pause = PAUSE;
                    }
                    Ok(Ok(Event::Outgoing(Sent::Publish(number)))) => self.outbox.sent(number),
                    Ok(Ok(Event::Outgoing(Sent::Disconnect))) | Err(_) => return,
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => break error,
                }
            };
            if let Some(reason) = refusal(&error).filter(|_| !was_connected) {
                return self.outbox.fail(format!("it{reason}"));
            }
            self.outbox.lost(error.to_string());
            if !self.outbox.is_over() {
                thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}
