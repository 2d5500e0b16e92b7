//! The session at the broker, in a thread of its own, which answers the broker's pings also while nobody reads.

use std::{fs, io, sync::Arc, thread, time::Duration};

use rumqttc::{
    Client, ConnectReturnCode, Connection, ConnectionError, Event, MqttOptions, Packet, QoS, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use rustls::{ClientConfig, crypto::ring};

use super::{MqttSpec, messages::Messages, queue::Queue};
use crate::{ConnectError, tls};

/// The longest message of the protocol; what is longer than a record becomes a dead letter and is not refused.
const PACKET_BYTES_MAX: usize = 268_435_455 + 5;
/// As many acknowledgements as there can be, and a subscription: whoever acknowledges never waits for the session.
const REQUESTS_MAX: usize = (1 << 16) + 8;
/// Between attempts to connect: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A connection on which nothing came for so long is tried out.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What a session is begun with.
pub struct Session {
    options: MqttOptions,
    topics: Vec<SubscribeFilter>,
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
        let broker = &spec.broker;
        let mut options = MqttOptions::new(&spec.client_id, &broker.host, broker.port);
        options
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(user) = &spec.user {
            let password = spec.password_file.as_ref().map(|path| {
                fs::read_to_string(path).map_err(|source| ConnectError::Open { path: path.clone(), source })
            });
            let password = password.transpose()?.unwrap_or_default();
            options.set_credentials(user, password.trim_end_matches(['\n', '\r']));
        }
        if broker.is_encrypted {
            options.set_transport(encrypted(spec)?);
        }
        let qos = if spec.is_acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        Ok(Session {
            options,
            topics: spec.topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), qos)).collect(),
            topic_field: spec.topic_field.clone(),
            broker: format!("{}:{}", broker.host, broker.port),
        })
    }

    /// Connects, and goes on until the messages are dropped.
    pub fn start(self) -> io::Result<Messages> {
        let queue = Arc::new(Queue::default());
        let (client, connection) = Client::new(self.options.clone(), REQUESTS_MAX);
        let messages = Messages::new(Arc::clone(&queue), client.clone(), self.topic_field.clone());
        thread::Builder::new().name("mqtt".to_owned()).spawn(move || self.run(connection, &client, &queue))?;
        Ok(messages)
    }

    fn run(self, mut connection: Connection, client: &Client, queue: &Queue) {
        let mut pause = PAUSE;
        let (mut is_connected, mut was_connected) = (false, false);
        while !queue.is_over() {
            match connection.recv() {
                Ok(Ok(Event::Incoming(Packet::Publish(message)))) => {
                    if !queue.push(message) {
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
                        return queue.fail(format!("MQTT broker {} refuses topic {topic:?}", self.broker));
                    }
                }
                Ok(Ok(_)) => {}
                Ok(Err(ConnectionError::ConnectionRefused(code))) if !was_connected && is_final(code) => {
                    return queue.fail(format!("MQTT broker {} refuses the connection: {}", self.broker, said(code)));
                }
                Ok(Err(ConnectionError::Tls(error))) if !was_connected => {
                    return queue.fail(format!("MQTT broker {}: no encrypted connection: {error}", self.broker));
                }
                Ok(Err(error)) => {
                    if queue.is_over() {
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

/// Whether the same attempt would be refused for ever.
fn is_final(code: ConnectReturnCode) -> bool {
    !matches!(code, ConnectReturnCode::Success | ConnectReturnCode::ServiceUnavailable)
}

fn said(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "it accepts it",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1",
        ConnectReturnCode::BadClientId => "it does not like the `client_id`",
        ConnectReturnCode::ServiceUnavailable => "it is not available",
        ConnectReturnCode::BadUserNamePassword => "look at `user` and `password_file`",
        ConnectReturnCode::NotAuthorized => "it does not know the `user`, or the password is wrong",
    }
}

fn encrypted(spec: &MqttSpec) -> Result<Transport, ConnectError> {
    let wrong = |reason: String| ConnectError::Certificates { reason };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| wrong(error.to_string()))?;
    let roots = tls::roots(spec.root_certificates.as_deref()).map_err(wrong)?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
}
