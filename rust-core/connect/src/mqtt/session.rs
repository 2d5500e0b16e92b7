//! The session at the broker, in a thread of its own, which answers the broker's pings also while nobody reads.

use std::{io, sync::Arc, thread};

use rumqttc::{Client, Connection, Event, MqttOptions, Packet, Publish, QoS, SubscribeFilter, SubscribeReasonCode};

use super::{
    MqttSpec,
    messages::Messages,
    options::{PAUSE, PAUSE_MAX, Who, options, refusal},
};
use crate::{ConnectError, MessageFormat, message::Inbox};

/// As many acknowledgements as there can be, and a subscription: whoever acknowledges never waits for the session.
const REQUESTS_MAX: usize = (1 << 16) + 8;
/// Messages that nobody acknowledges wait for room when so much is there.
const BYTES_MAX: usize = 16 << 20;

/// What a session is begun with.
pub struct Session {
    options: MqttOptions,
    topics: Vec<SubscribeFilter>,
    format: MessageFormat,
    topic_field: Option<String>,
    /// for people
    broker: String,
}

impl Session {
    /// Reads the files that the spec names.
    pub fn new(spec: &MqttSpec) -> Result<Session, ConnectError> {
        let spec_error = |option, value: &str, rule| ConnectError::Spec { option, value: value.to_owned(), rule };
        if spec.client_id.is_empty() {
            return Err(spec_error("client_id", "empty", "the broker keeps a session under it"));
        }
        if let Some(topic) = spec.topics.iter().find(|topic| !MqttSpec::is_topic(topic)) {
            return Err(spec_error("topics", topic, "`+` and `#` stand alone between slashes, and `#` at the end"));
        }
        let who = Who {
            client_id: &spec.client_id,
            user: spec.user.as_deref(),
            password_file: spec.password_file.as_deref(),
            root_certificates: spec.root_certificates.as_deref(),
        };
        let mut options = options(&spec.broker, &who)?;
        options.set_clean_session(false).set_manual_acks(true);
        let qos = if spec.is_acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        Ok(Session {
            options,
            topics: spec.topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), qos)).collect(),
            format: spec.format.clone(),
            topic_field: spec.topic_field.clone(),
            broker: spec.broker.to_string(),
        })
    }

    /// Connects, and goes on until the messages are dropped.
    pub fn start(self) -> io::Result<Messages> {
        let inbox = Arc::new(Inbox::new(BYTES_MAX));
        let (client, connection) = Client::new(self.options.clone(), REQUESTS_MAX);
        let messages = Messages::new(Arc::clone(&inbox), client.clone(), &self.format, self.topic_field.clone());
        thread::Builder::new().name("mqtt".to_owned()).spawn(move || self.run(connection, &client, &inbox))?;
        Ok(messages)
    }

    fn run(self, mut connection: Connection, client: &Client, inbox: &Inbox<Publish>) {
        let mut pause = PAUSE;
        let (mut is_connected, mut was_connected) = (false, false);
        while !inbox.is_over() {
            match connection.recv() {
                Ok(Ok(Event::Incoming(Packet::Publish(message)))) => {
                    // Of the others the broker sends only so many before it wants acknowledgements.
                    if message.qos == QoS::AtMostOnce {
                        inbox.wait_for_room();
                    }
                    let bytes = message.payload.len() + message.topic.len();
                    if !inbox.push(message, bytes) {
                        return;
                    }
                }
                Ok(Ok(Event::Incoming(Packet::ConnAck(answer)))) => {
                    tracing::info!("connected to MQTT broker {}", self.broker);
                    // A session that went on has its subscriptions; to subscribe again would repeat retained messages.
                    if !(was_connected && answer.session_present) {
                        let _ = client.try_subscribe_many(self.topics.clone());
                    }
                    (is_connected, was_connected, pause) = (true, true, PAUSE);
                }
                Ok(Ok(Event::Incoming(Packet::SubAck(answer)))) => {
                    let refused = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Failure);
                    if let Some(index) = answer.return_codes.iter().position(refused) {
                        let topic = self.topics.get(index).map_or("?", |topic| topic.path.as_str());
                        return inbox.fail(format!("MQTT broker {} refuses topic {topic:?}", self.broker));
                    }
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    if let Some(reason) = refusal(&error).filter(|_| !was_connected) {
                        return inbox.fail(format!("MQTT broker {}{reason}", self.broker));
                    }
                    if inbox.is_over() {
                        return;
                    }
                    if is_connected || pause == PAUSE {
                        tracing::warn!("MQTT broker {}: {error}; it is tried again", self.broker);
                    }
                    is_connected = false;
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(_) => return,
            }
        }
    }
}
