//! The messages as a stream of lines.

use std::{
    io::{self, Read},
    sync::Arc,
};

use rumqttc::{Client, Publish};

use super::{line, queue::Queue};

/// So much is handed out before it is acknowledged, unless one message is longer.
const TURN_BYTES: usize = 1 << 20;

/// The stream. It never ends; it fails if the broker refuses us.
pub struct Messages {
    queue: Arc<Queue>,
    client: Client,
    topic_field: Option<String>,
    /// in `ready`
    unacknowledged: Vec<Publish>,
    /// whole lines; `ready[taken..]` are not handed out yet
    ready: Vec<u8>,
    taken: usize,
}

impl Messages {
    pub fn new(queue: Arc<Queue>, client: Client, topic_field: Option<String>) -> Messages {
        Messages { queue, client, topic_field, unacknowledged: Vec::new(), ready: Vec::new(), taken: 0 }
    }

    /// What was handed out is in the hands of others: whoever reads on has made it durable.
    fn acknowledge(&mut self) {
        for message in self.unacknowledged.drain(..) {
            // The other side of the channel ends with us alone.
            let _ = self.client.ack(&message);
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.queue.take(TURN_BYTES, &mut self.unacknowledged).map_err(io::Error::other)?;
        self.ready.clear();
        self.taken = 0;
        for message in &self.unacknowledged {
            // How a retained message is deleted.
            if !message.payload.is_empty() {
                let topic = self.topic_field.as_deref().map(|field| (field, message.topic.as_str()));
                line::write(&message.payload, topic, &mut self.ready);
            }
        }
        Ok(())
    }
}

impl Read for Messages {
    /// Waits for at least one message.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.ready.len() {
            self.acknowledge();
            self.refill()?;
        }
        let count = buffer.len().min(self.ready.len() - self.taken);
        buffer[..count].copy_from_slice(&self.ready[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.queue.end();
        // Wakes the session's thread, if it is not about to connect.
        let _ = self.client.try_disconnect();
    }
}
