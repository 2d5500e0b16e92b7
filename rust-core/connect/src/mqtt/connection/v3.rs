//! MQTT 3.1.1.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use rumqttc::{
    Client as Library3, ConnectReturnCode, Connection as Connection3, ConnectionError, Event as Event3, MqttOptions,
    Outgoing as Sent, Packet, Publish, QoS, RecvTimeoutError, Request, SubscribeFilter, SubscribeReasonCode,
};

use super::{Breakage, Client, Connection, Event, Library, Ordered, Outgoing, Received, SILENCE, STALLED};
use crate::mqtt::{
    MqttQuality,
    options::{KEEP_ALIVE, Options, PACKET_BYTES_MAX},
};

pub fn open(options: &Options) -> (Arc<dyn Client>, Box<dyn Connection>) {
    let Options { broker, client_id, .. } = options;
    let mut own = MqttOptions::new(client_id, &broker.host, broker.port);
    own.set_keep_alive(KEEP_ALIVE).set_max_packet_size(PACKET_BYTES_MAX as usize, PACKET_BYTES_MAX as usize);
    own.set_clean_session(!options.keeps_session).set_manual_acks(true).set_inflight(options.inflight);
    own.set_transport(options.transport.clone());
    if let Some((user, password)) = &options.credentials {
        own.set_credentials(user, password);
    }
    let (client, mut connection) = Library3::new(own, options.requests_max);
    connection.eventloop.network_options.set_connection_timeout(STALLED.as_secs());
    (Arc::new(client), Box::new(Ordered::new(connection)))
}

impl Client for Library3 {
    fn publish(&self, message: &Outgoing, quality: MqttQuality) {
        let Outgoing { topic, payload, is_retained, .. } = message;
        let _ = self.try_publish(topic, quality.into(), *is_retained, payload.as_slice());
    }

    fn subscribe(&self, topics: &[String], quality: MqttQuality) {
        let _ = self.try_subscribe_many(topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), quality.into())));
    }

    fn acknowledge(&self, number: u16) {
        let mut message = Publish::new("", QoS::AtLeastOnce, Vec::new());
        message.pkid = number;
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

impl Library for Connection3 {
    type Event = Event3;
    type Request = Request;

    fn receive(&mut self) -> Option<Result<Event3, Breakage>> {
        match self.recv_timeout(SILENCE) {
            Ok(received) => Some(received.map_err(|error| breakage(&error))),
            Err(RecvTimeoutError::Timeout) => {
                self.eventloop.clean();
                Some(Err(Breakage::silent()))
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn rest(&mut self) -> Vec<Event3> {
        self.eventloop.state.events.drain(..).collect()
    }

    fn translate(event: Event3) -> Option<Event> {
        Some(match event {
            Event3::Incoming(Packet::ConnAck(answer)) => Event::Connected { has_session: answer.session_present },
            Event3::Incoming(Packet::Publish(Publish { qos, topic, pkid, payload, .. })) => {
                let number = (qos != QoS::AtMostOnce).then_some(pkid);
                Event::Message(Received { topic: Bytes::from(topic), payload, properties: Vec::new(), number })
            }
            Event3::Incoming(Packet::SubAck(answer)) => {
                let is_failure = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Failure);
                let refused = answer.return_codes.iter().position(is_failure);
                Event::Subscribed { refused: refused.map(|index| (index, None)) }
            }
            Event3::Incoming(Packet::PubAck(answer)) => Event::Taken(answer.pkid),
            Event3::Incoming(Packet::PubComp(answer)) => Event::Taken(answer.pkid),
            Event3::Outgoing(Sent::Publish(number)) => Event::Sent(number),
            Event3::Outgoing(Sent::Disconnect) => Event::Over,
            _ => return None,
        })
    }

    fn pending(&mut self) -> &mut VecDeque<Request> {
        self.eventloop.clean();
        // It was not sent: another one had its number still.
        self.eventloop.state.collision = None;
        &mut self.eventloop.pending
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

fn breakage(error: &ConnectionError) -> Breakage {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::Success | ConnectReturnCode::ServiceUnavailable) => {
            Breakage::passing(error)
        }
        ConnectionError::ConnectionRefused(code) => Breakage::refused(error, said(*code)),
        ConnectionError::Tls(error) => Breakage::tls(error),
        _ => Breakage::passing(error),
    }
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
