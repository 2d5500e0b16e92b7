//! MQTT 5.

use std::{collections::VecDeque, fmt, sync::Arc};

use rumqttc::{
    Outgoing as Sent,
    v5::{
        Client as Library5, Connection as Connection5, ConnectionError, Event as Event5, MqttOptions, RecvTimeoutError,
        Request, StateError,
        mqttbytes::{
            Error as CodecError, QoS,
            v5::{
                ConnAck, ConnectProperties, ConnectReturnCode, Filter, Packet, PubAckReason, PubCompReason,
                PubRecReason, Publish, PublishProperties, SubAck, SubscribeReasonCode,
            },
        },
    },
};

use super::{Breakage, Client, Connection, Event, Library, Ordered, Outgoing, Received, SILENCE, STALLED};
use crate::mqtt::{
    MqttQuality,
    options::{KEEP_ALIVE, Options, PACKET_BYTES_MAX},
};

/// Messages that the broker sends before it wants acknowledgements.
const RECEIVE_MAX: u16 = 1_000;

pub fn open(options: &Options) -> (Arc<dyn Client>, Box<dyn Connection>) {
    let Options { broker, client_id, .. } = options;
    let mut own = MqttOptions::new(client_id, &broker.host, broker.port);
    own.set_keep_alive(KEEP_ALIVE).set_connection_timeout(STALLED.as_secs());
    own.set_connect_properties(ConnectProperties {
        session_expiry_interval: options.keeps_session.then_some(options.session_expiry_s),
        receive_maximum: Some(RECEIVE_MAX),
        max_packet_size: Some(PACKET_BYTES_MAX),
        ..ConnectProperties::new()
    });
    own.set_clean_start(!options.keeps_session).set_manual_acks(true);
    own.set_outgoing_inflight_upper_limit(options.inflight).set_transport(options.transport.clone());
    if let Some((user, password)) = &options.credentials {
        own.set_credentials(user, password);
    }
    let (client, connection) = Library5::new(own, options.requests_max);
    (Arc::new(client), Box::new(Ordered::new(Counted { connection, is_miscounted: false })))
}

impl Client for Library5 {
    fn publish(&self, message: &Outgoing, quality: MqttQuality) {
        let Outgoing { topic, payload, is_retained, properties, content_type, expiry_s } = message;
        let properties = PublishProperties {
            user_properties: properties.clone(),
            content_type: content_type.as_deref().map(str::to_owned),
            message_expiry_interval: *expiry_s,
            ..PublishProperties::default()
        };
        let payload = payload.clone();
        let _ = self.try_publish_with_properties(topic, quality.into(), *is_retained, payload, properties);
    }

    fn subscribe(&self, topics: &[String], quality: MqttQuality) {
        let _ = self.try_subscribe_many(topics.iter().map(|topic| Filter::new(topic, quality.into())));
    }

    fn acknowledge(&self, number: u16) {
        let message = Publish { pkid: number, qos: QoS::AtLeastOnce, ..Publish::default() };
        let _ = self.try_ack(&message);
    }

    fn disconnect(&self) {
        let _ = self.try_disconnect();
    }
}

impl From<MqttQuality> for QoS {
    fn from(quality: MqttQuality) -> QoS {
        match quality {
            MqttQuality::AtMostOnce => QoS::AtMostOnce,
            MqttQuality::AtLeastOnce => QoS::AtLeastOnce,
            MqttQuality::ExactlyOnce => QoS::ExactlyOnce,
        }
    }
}

/// The library's connection, which counts a message for ever as under way if the broker says at its end that it does not
/// know it (any more). A new connection counts anew.
struct Counted {
    connection: Connection5,
    is_miscounted: bool,
}

impl Counted {
    fn take_note(&mut self, received: &Result<Event5, ConnectionError>) {
        match received {
            Ok(Event5::Incoming(Packet::PubComp(answer))) => {
                self.is_miscounted = answer.reason != PubCompReason::Success;
            }
            Ok(Event5::Incoming(Packet::ConnAck(_))) => {
                // It does not ask for pings; the library would send one after the other.
                let options = &mut self.connection.eventloop.options;
                if options.keep_alive().is_zero() {
                    options.set_keep_alive(KEEP_ALIVE);
                }
            }
            _ => {}
        }
    }
}

/// Against the protocol; the library would wait without end.
fn takes_nothing(answer: &ConnAck) -> bool {
    answer.properties.as_ref().is_some_and(|properties| properties.receive_max == Some(0))
}

impl Library for Counted {
    type Event = Event5;
    type Request = Request;

    fn receive(&mut self) -> Option<Result<Event5, Breakage>> {
        if std::mem::take(&mut self.is_miscounted) {
            self.connection.eventloop.clean();
            return Some(Err(Breakage::passing("it does not know what was under way")));
        }
        // A broker may say how often it wants to hear of us.
        let silence = SILENCE.max(self.connection.eventloop.options.keep_alive() * 2);
        match self.connection.recv_timeout(silence) {
            Ok(Ok(Event5::Incoming(Packet::ConnAck(answer)))) if takes_nothing(&answer) => {
                self.connection.eventloop.clean();
                Some(Err(Breakage::senseless("takes no message at all: its receive maximum is 0")))
            }
            Ok(received) => {
                self.take_note(&received);
                Some(received.map_err(|error| breakage(&error)))
            }
            Err(RecvTimeoutError::Timeout) => {
                self.connection.eventloop.clean();
                Some(Err(Breakage::silent()))
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn rest(&mut self) -> Vec<Event5> {
        self.connection.eventloop.state.events.drain(..).collect()
    }

    fn translate(event: Event5) -> Option<Event> {
        Some(match event {
            Event5::Incoming(Packet::ConnAck(answer)) => Event::Connected { has_session: answer.session_present },
            Event5::Incoming(Packet::Publish(Publish { qos, topic, pkid, payload, properties, .. })) => {
                let properties = properties.map(|properties| properties.user_properties).unwrap_or_default();
                let number = (qos != QoS::AtMostOnce).then_some(pkid);
                Event::Message(Received { topic, payload, properties, number })
            }
            Event5::Incoming(Packet::SubAck(answer)) => Event::Subscribed { refused: refused_topic(answer) },
            Event5::Incoming(Packet::PubAck(answer)) => match answer.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Event::Taken(answer.pkid),
                reason => refused(answer.pkid, &reason, answer.properties.and_then(|more| more.reason_string)),
            },
            Event5::Incoming(Packet::PubRec(answer)) => match answer.reason {
                PubRecReason::Success | PubRecReason::NoMatchingSubscribers => return None,
                reason => refused(answer.pkid, &reason, answer.properties.and_then(|more| more.reason_string)),
            },
            Event5::Incoming(Packet::PubComp(answer)) => Event::Taken(answer.pkid),
            Event5::Outgoing(Sent::Publish(number)) => Event::Sent(number),
            Event5::Outgoing(Sent::Disconnect) => Event::Over,
            _ => return None,
        })
    }

    fn pending(&mut self) -> &mut VecDeque<Request> {
        let event_loop = &mut self.connection.eventloop;
        event_loop.clean();
        // It was not sent: another one had its number still.
        event_loop.state.collision = None;
        &mut event_loop.pending
    }

    fn number(request: &Request) -> u16 {
        match request {
            Request::Publish(publish) => publish.pkid,
            Request::PubRel(release) => release.pkid,
            _ => 0,
        }
    }

    fn mark(request: &mut Request) {
        if let Request::Publish(publish) = request {
            publish.dup = true;
        }
    }
}

fn refused_topic(answer: SubAck) -> Option<(usize, Option<String>)> {
    let is_refusal = |code: &SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
    let index = answer.return_codes.iter().position(is_refusal)?;
    let more = answer.properties.and_then(|more| more.reason_string);
    Some((index, Some(with(words(&answer.return_codes[index]), more))))
}

/// What a quota does not take now it may take later; and so of reasons that are not said.
fn refused(number: u16, reason: &impl fmt::Debug, more: Option<String>) -> Event {
    let reason = words(reason);
    let may_pass = matches!(
        reason.as_str(),
        "quota exceeded" | "unspecified error" | "implementation specific error" | "packet identifier in use"
    );
    Event::Refused { number, reason: with(reason, more), may_pass }
}

fn breakage(error: &ConnectionError) -> Breakage {
    use ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(
            Code::ServiceUnavailable | Code::ServerUnavailable | Code::ServerBusy | Code::ConnectionRateExceeded,
        ) => Breakage::passing(error),
        ConnectionError::ConnectionRefused(code) => {
            let reason = words(code);
            let hint = match code {
                Code::BadUserNamePassword | Code::NotAuthorized => "; look at `user` and `password_file`",
                Code::BadClientId | Code::ClientIdentifierNotValid => "; look at `client_id`",
                Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => "; try protocol = \"3.1.1\"",
                _ => "",
            };
            Breakage::refused(error, &format!("{reason}{hint}"))
        }
        ConnectionError::Tls(error) => Breakage::tls(error),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let reason = with(words(reason_code), reason_string.clone());
            Breakage::passing(format!("it ended the connection: {reason}"))
        }
        ConnectionError::MqttState(
            StateError::OutgoingPacketTooLarge { pkt_size, max }
            | StateError::Deserialization(CodecError::OutgoingPacketTooLarge { pkt_size, max }),
        ) => {
            let error = format!("a message has {pkt_size} bytes, and it takes no more than {max}");
            Breakage { error, is_lasting: true, ..Breakage::default() }
        }
        _ => Breakage::passing(error),
    }
}

/// `NotAuthorized` as `not authorized`.
fn words(code: &impl fmt::Debug) -> String {
    let mut words = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// With what the broker says besides.
fn with(reason: String, more: Option<String>) -> String {
    match more {
        Some(more) => format!("{reason} ({more})"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread::spawn,
    };

    use bytes::Bytes;
    use rumqttc::v5::mqttbytes::v5::PubRel;

    use super::*;

    /// A connection to a broker that takes it with this property, and says nothing more.
    fn taken_with(property: [u8; 3]) -> Ordered<Counted> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let port = listener.local_addr().expect("it is bound").port();
        spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut bytes = [0; 256];
            let _ = stream.read(&mut bytes).expect("it says who it is");
            let answer = [&[0x20, 6, 0, 0, 3][..], &property].concat();
            stream.write_all(&answer).expect("it reads");
            while stream.read(&mut bytes).is_ok_and(|length| length > 0) {}
        });
        let (_, connection) = Library5::new(MqttOptions::new("c", "127.0.0.1", port), 1);
        Ordered::new(Counted { connection, is_miscounted: false })
    }

    #[test]
    fn a_broker_that_takes_no_message_at_all_is_refused() {
        let Event::Broken(breakage) = taken_with([0x21, 0, 0]).next() else { panic!("it is of no use") };
        assert_eq!(breakage.refusal.as_deref(), Some(" takes no message at all: its receive maximum is 0"));
    }

    #[test]
    fn a_broker_that_asks_for_no_pings_is_tried_out_now_and_then() {
        let mut connection = taken_with([0x13, 0, 0]);
        assert_eq!(connection.next(), Event::Connected { has_session: false });
        assert_eq!(connection.library.connection.eventloop.options.keep_alive(), KEEP_ALIVE);
    }

    #[test]
    fn what_is_refused_is_said_in_words_with_the_brokers_own_and_only_a_quota_may_pass() {
        let said = |reason: PubAckReason, more: Option<&str>| refused(7, &reason, more.map(str::to_owned));
        let event = |reason: &str, may_pass| Event::Refused { number: 7, reason: reason.to_owned(), may_pass };
        assert_eq!(said(PubAckReason::NotAuthorized, None), event("not authorized", false));
        assert_eq!(said(PubAckReason::TopicNameInvalid, Some("no")), event("topic name invalid (no)", false));
        assert_eq!(said(PubAckReason::QuotaExceeded, Some("100 MB")), event("quota exceeded (100 MB)", true));
    }

    #[test]
    fn what_was_under_way_is_sent_again_in_its_first_order_and_nothing_else() {
        let publish = |pkid, topic: &str| {
            Request::Publish(Publish { pkid, ..Publish::new(topic, QoS::ExactlyOnce, Bytes::new(), None) })
        };
        let release = |pkid| Request::PubRel(PubRel::new(pkid, None));
        let (_client, connection) = Library5::new(MqttOptions::new("c", "localhost", 1), 1);
        let mut ordered = Ordered::new(Counted { connection, is_miscounted: false });
        let pending = ordered.library.pending();
        // As the library leaves them: by number.
        pending.extend([publish(1, "d"), publish(19, "c"), release(17), release(18), publish(0, "e"), publish(0, "f")]);
        assert!(ordered.resume(&[17, 18, 19, 1]));
        let found: Vec<_> =
            ordered.library.pending().iter().map(|request| (Counted::number(request), request)).collect();
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [17, 18, 19, 1]);
        let marked = found.iter().map(|(_, request)| matches!(request, Request::Publish(publish) if publish.dup));
        assert_eq!(marked.collect::<Vec<_>>(), [false, false, true, true]);
        assert!(!ordered.resume(&[17, 18, 19, 1, 2]), "it has forgotten one");
        assert!(ordered.resume(&[17, 18]));
        assert_eq!(ordered.library.pending().len(), 2, "what nobody waits for any more is not sent");
    }
}
