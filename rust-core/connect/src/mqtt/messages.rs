//! The messages as a stream, of lines or of parcels.

use std::{io, sync::Arc};

use rumqttc::{Client, Publish};

use crate::{
    MessageFormat,
    message::{Inbox, Member, Record, Recorder, write_line},
    parcel::Kind,
    text::Stream,
};

/// The stream. It never ends; it fails if the broker refuses us.
pub struct Messages {
    inbox: Arc<Inbox<Publish>>,
    client: Client,
    topic_field: Option<String>,
    /// of messages that are no text
    recorder: Option<Recorder>,
    /// handed out, and not known to be durable
    unacknowledged: Vec<Publish>,
}

impl Messages {
    pub fn new(
        inbox: Arc<Inbox<Publish>>,
        client: Client,
        format: &MessageFormat,
        topic_field: Option<String>,
    ) -> Messages {
        let is_binary = matches!(format, MessageFormat::Binary(_));
        let recorder = is_binary.then(|| Recorder::new(format, topic_field.is_some()));
        Messages { inbox, client, topic_field, recorder, unacknowledged: Vec::new() }
    }
}

impl Stream for Messages {
    /// Waits for at least one message. Without a journal, who asks for more has taken over what there was.
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, bytes_max: usize) -> io::Result<usize> {
        bytes.truncate(at);
        while bytes.len() == at {
            self.settle();
            self.inbox.take(bytes_max, &mut self.unacknowledged).map_err(io::Error::other)?;
            for message in &self.unacknowledged {
                let topic = self.topic_field.as_deref().map(|field| (field, Member::Text(message.topic.as_bytes())));
                match &mut self.recorder {
                    Some(recorder) => write_parcel(recorder, &message.payload, topic, bytes),
                    // An empty one is how a retained message is deleted.
                    None if message.payload.is_empty() => {}
                    None => write_line(&message.payload, topic, bytes),
                }
            }
        }
        Ok(bytes.len() - at)
    }

    fn settle(&mut self) {
        for message in self.unacknowledged.drain(..) {
            // The other end of the channel ends with us alone.
            let _ = self.client.ack(&message);
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.inbox.end();
        // Wakes the session's thread, if it is not about to connect.
        let _ = self.client.try_disconnect();
    }
}

/// Appends a message as a parcel, unless there is nothing in it.
fn write_parcel(recorder: &mut Recorder, payload: &[u8], topic: Option<(&str, Member<'_>)>, out: &mut Vec<u8>) {
    let Some(Record { header, content }) = recorder.record(payload, topic) else { return };
    out.extend_from_slice(&Kind::Message.head(LENGTH_BYTES + header.len() + content.len()));
    out.extend_from_slice(&(header.len() as u32).to_le_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(content);
}

/// Of the header's length.
const LENGTH_BYTES: usize = 4;
