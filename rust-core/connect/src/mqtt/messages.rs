//! The messages as a stream, of lines or of parcels.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    MqttSpec,
    connection::{Client, Received},
};
use crate::{
    HeaderField, MessageFormat,
    message::{Inbox, Member, Record, Recorder, write_line},
    parcel::Kind,
    text::Stream,
};

/// What the session's thread hands over.
pub struct Incoming {
    pub message: Received,
    /// how many connections had broken before it came
    pub connection: u32,
}

/// The stream. It never ends; it fails if the broker refuses us.
pub struct Messages {
    inbox: Arc<Inbox<Incoming>>,
    client: Arc<dyn Client>,
    /// how many connections have broken; written by the session's thread
    connection: Arc<AtomicU32>,
    beside: Beside,
    /// of messages that are no text
    recorder: Option<Recorder>,
    /// handed out, and not known to be durable
    unacknowledged: Vec<Incoming>,
}

impl Messages {
    pub fn new(
        spec: &MqttSpec,
        inbox: Arc<Inbox<Incoming>>,
        client: Arc<dyn Client>,
        connection: Arc<AtomicU32>,
    ) -> Messages {
        let is_binary = matches!(spec.format, MessageFormat::Binary(_));
        let recorder = is_binary.then(|| Recorder::new(&spec.format, !spec.members().is_empty()));
        let headers = spec.header_fields.iter().map(|header| (header.clone(), spec.fields.is_binary(&header.field)));
        let beside = Beside { topic: spec.topic_field.clone(), headers: headers.collect() };
        Messages { inbox, client, connection, beside, recorder, unacknowledged: Vec::new() }
    }
}

impl Stream for Messages {
    /// Waits for at least one message. Without a journal, who asks for more has taken over what there was.
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, bytes_max: usize) -> io::Result<usize> {
        bytes.truncate(at);
        while bytes.len() == at {
            self.settle();
            self.inbox.take(bytes_max, &mut self.unacknowledged).map_err(io::Error::other)?;
            for Incoming { message, .. } in &self.unacknowledged {
                let members = self.beside.of(message);
                match &mut self.recorder {
                    Some(recorder) => write_parcel(recorder, &message.payload, members, bytes),
                    // An empty one is how a retained message is deleted.
                    None if message.payload.is_empty() => {}
                    None => write_line(&message.payload, members, bytes),
                }
            }
        }
        Ok(bytes.len() - at)
    }

    /// What came over a connection that broke comes again over the next one, perhaps under another number.
    fn settle(&mut self) {
        let current = self.connection.load(Ordering::Relaxed);
        for Incoming { message, connection } in self.unacknowledged.drain(..) {
            if let Some(number) = message.number.filter(|_| connection == current) {
                self.client.acknowledge(number);
            }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.inbox.end();
        // Wakes the session's thread, if it is not about to connect.
        self.client.disconnect();
    }
}

/// What fields take of a message besides its payload.
struct Beside {
    topic: Option<String>,
    /// and whether their columns are binary
    headers: Vec<(HeaderField, bool)>,
}

impl Beside {
    fn of<'a>(&'a self, message: &'a Received) -> impl Iterator<Item = (&'a str, Member<'a>)> {
        let topic = self.topic.as_deref().map(|field| (field, Member::Text(&message.topic)));
        let headers = self.headers.iter().map(|(HeaderField { field, header }, is_binary)| {
            let last = message.properties.iter().rev().find(|(name, _)| name == header);
            (field.as_str(), Member::of(last.map(|(_, value)| value.as_bytes()), *is_binary))
        });
        topic.into_iter().chain(headers)
    }
}

/// Appends a message as a parcel, unless there is nothing in it.
fn write_parcel<'a>(
    recorder: &mut Recorder,
    payload: &[u8],
    members: impl IntoIterator<Item = (&'a str, Member<'a>)>,
    out: &mut Vec<u8>,
) {
    let Some(Record { header, content }) = recorder.record(payload, members) else { return };
    out.extend_from_slice(&Kind::Message.head(LENGTH_BYTES + header.len() + content.len()));
    out.extend_from_slice(&(header.len() as u32).to_le_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(content);
}

/// Of the header's length.
const LENGTH_BYTES: usize = 4;
