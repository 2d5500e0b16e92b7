//! The messages as a stream of lines.

use std::{io, sync::Arc};

use rumqttc::{Client, Publish};

use super::queue::Queue;
use crate::{
    message::{Member, write_line},
    text::Stream,
};

/// The stream. It never ends; it fails if the broker refuses us.
pub struct Messages {
    queue: Arc<Queue>,
    client: Client,
    topic_field: Option<String>,
    /// handed out, and not known to be durable
    unacknowledged: Vec<Publish>,
}

impl Messages {
    pub fn new(queue: Arc<Queue>, client: Client, topic_field: Option<String>) -> Messages {
        Messages { queue, client, topic_field, unacknowledged: Vec::new() }
    }
}

impl Stream for Messages {
    /// Waits for at least one message. Without a journal, who asks for more has taken over what there was.
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, bytes_max: usize) -> io::Result<usize> {
        bytes.truncate(at);
        while bytes.len() == at {
            self.settle();
            self.queue.take(bytes_max, &mut self.unacknowledged).map_err(io::Error::other)?;
            // An empty one is how a retained message is deleted.
            for message in self.unacknowledged.iter().filter(|message| !message.payload.is_empty()) {
                let topic = self.topic_field.as_deref().map(|field| (field, Member::Text(message.topic.as_bytes())));
                write_line(&message.payload, topic, bytes);
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
        self.queue.end();
        // Wakes the session's thread, if it is not about to connect.
        let _ = self.client.try_disconnect();
    }
}
