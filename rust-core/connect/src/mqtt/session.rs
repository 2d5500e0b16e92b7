//! The session at the broker, in a thread of its own, which answers the broker's pings also while nobody reads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use super::{
    MqttQuality, MqttSpec,
    connection::{self, Client, Connection, Event},
    messages::{Incoming, Messages},
    options::{Options, PAUSE, PAUSE_MAX, Who},
};
use crate::{ConnectError, message::Inbox};

/// As many acknowledgements as there can be, and a subscription: whoever acknowledges never waits for the session.
const REQUESTS_MAX: usize = (1 << 16) + 8;
/// Messages that nobody acknowledges wait for room when so much is there.
const BYTES_MAX: usize = 16 << 20;

/// What a session is begun with.
pub struct Session {
    options: Options,
    spec: MqttSpec,
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
        let options = Options {
            keeps_session: true,
            session_expiry_s: spec.session_expiry_s.unwrap_or(u32::MAX),
            ..Options::new(spec.version, &spec.broker, &who, REQUESTS_MAX)?
        };
        Ok(Session { options, spec: spec.clone() })
    }

    /// Connects, and goes on until the messages are dropped.
    pub fn start(self) -> io::Result<Messages> {
        let inbox = Arc::new(Inbox::new(BYTES_MAX));
        let broken = Arc::new(AtomicU32::new(0));
        let (client, connection) = connection::open(&self.options);
        let messages = Messages::new(&self.spec, Arc::clone(&inbox), Arc::clone(&client), Arc::clone(&broken));
        let run = move || self.run(connection, &*client, &inbox, &broken);
        thread::Builder::new().name("mqtt".to_owned()).spawn(run)?;
        Ok(messages)
    }

    fn run(
        self,
        mut connection: Box<dyn Connection>,
        client: &dyn Client,
        inbox: &Inbox<Incoming>,
        broken: &AtomicU32,
    ) {
        let Session { spec: MqttSpec { broker, topics, is_acknowledged, .. }, .. } = &self;
        let quality = if *is_acknowledged { MqttQuality::AtLeastOnce } else { MqttQuality::AtMostOnce };
        let mut pause = PAUSE;
        let (mut is_connected, mut was_connected) = (false, false);
        while !inbox.is_over() {
            match connection.next() {
                Event::Message(message) => {
                    // Of the others the broker sends only so many before it wants acknowledgements.
                    if message.number.is_none() {
                        inbox.wait_for_room();
                    }
                    let bytes = message.bytes();
                    if !inbox.push(Incoming { message, connection: broken.load(Ordering::Relaxed) }, bytes) {
                        return;
                    }
                }
                Event::Connected { has_session } => {
                    tracing::info!("connected to MQTT broker {broker}");
                    // A session that went on has its subscriptions; to subscribe again would repeat retained messages.
                    if !(was_connected && has_session) {
                        client.subscribe(topics, quality);
                    }
                    if was_connected && !has_session && *is_acknowledged {
                        tracing::warn!(
                            "MQTT broker {broker} has not kept the session, and what came meanwhile is lost"
                        );
                    }
                    (is_connected, was_connected, pause) = (true, true, PAUSE);
                }
                Event::Subscribed { refused: Some((index, reason)) } => {
                    let topic = topics.get(index).map_or("?", String::as_str);
                    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                    return inbox.fail(format!("MQTT broker {broker} refuses topic {topic:?}{reason}"));
                }
                Event::Broken(breakage) => {
                    broken.fetch_add(1, Ordering::Relaxed);
                    if let Some(reason) = breakage.refusal.filter(|_| !was_connected) {
                        return inbox.fail(format!("MQTT broker {broker}{reason}"));
                    }
                    if inbox.is_over() {
                        return;
                    }
                    if is_connected || pause == PAUSE {
                        tracing::warn!("MQTT broker {broker}: {}; it is tried again", breakage.error);
                    }
                    is_connected = false;
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Event::Over => return,
                Event::Subscribed { refused: None } | Event::Sent(_) | Event::Taken(_) | Event::Refused { .. } => {}
            }
        }
    }
}
