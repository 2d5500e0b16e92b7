//! Subscriptions of core NATS as a stream of lines, read by a thread of their own.

use std::{
    io,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_nats::Subscriber;
use futures_util::{
    StreamExt,
    future::select,
    stream::{SelectAll, select_all},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    time::timeout,
};

use super::{
    NatsCoreSpec,
    lines::Lines,
    options::{ANSWER_TIMEOUT, connect, refuse, said},
    queue::Message,
};
use crate::{ConnectError, MessageFormat, message::Inbox, text::Stream};

/// Further messages are dropped when so much waits: NATS cannot be made to wait.
const BYTES_MAX: usize = 64 << 20;
/// What a message takes besides its own bytes, about.
const MESSAGE_BYTES: usize = 256;
/// It is said at most so often that messages are dropped.
const SAID_EVERY: Duration = Duration::from_secs(5);

/// What is subscribed to, and the runtime that drives the connection.
pub struct Subscription {
    runtime: Runtime,
    messages: SelectAll<Subscriber>,
    lines: Lines,
    /// for people
    servers: String,
}

impl Subscription {
    /// Connects, and comes back when the servers know what is wanted.
    pub fn open(spec: &NatsCoreSpec) -> Result<Subscription, ConnectError> {
        let lines = Lines::new(&spec.message_fields, &spec.fields, &MessageFormat::Json)?;
        let refused = |reason| refuse(&spec.servers, reason);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| refused(error.to_string()))?;
        let messages = runtime.block_on(async {
            let client = connect(&spec.servers).await?;
            let mut subscribers = Vec::new();
            for subject in spec.subjects.iter().cloned() {
                let subscribed = match &spec.queue_group {
                    Some(group) => client.queue_subscribe(subject, group.clone()).await,
                    None => client.subscribe(subject).await,
                };
                subscribers.push(subscribed.map_err(|error| refused(said(&error)))?);
            }
            let flushed = timeout(ANSWER_TIMEOUT, client.flush()).await;
            let flushed = flushed.map_err(|_| refused("it does not answer".to_owned()))?;
            flushed.map_err(|error| refused(said(&error)))?;
            Ok(select_all(subscribers))
        })?;
        tracing::info!("NATS at {}: subscribed to {}", spec.servers, spec.subjects.join(", "));
        Ok(Subscription { runtime, messages, lines, servers: spec.servers.to_string() })
    }

    /// Reads until the stream is dropped.
    pub fn start(self) -> io::Result<Subscribed> {
        let Subscription { runtime, mut messages, lines, servers } = self;
        let (inbox, ended) = (Arc::new(Inbox::new(BYTES_MAX)), Arc::new(Notify::new()));
        let subscribed = Subscribed { inbox: Arc::clone(&inbox), ended: Arc::clone(&ended), lines, taken: Vec::new() };
        let read = move || {
            let read = async {
                let mut dropped = Dropped { servers, ..Dropped::default() };
                while let Some(message) = messages.next().await {
                    if inbox.has_room() {
                        let async_nats::Message { subject, payload, headers, length: bytes, .. } = message;
                        let subject = subject.into_string();
                        let message = Message { sequence: 0, subject, payload, headers, bytes, taken_ns: 0 };
                        inbox.push(message, MESSAGE_BYTES + bytes);
                    } else {
                        dropped.count();
                    }
                }
                inbox.fail("the connection ended".to_owned());
            };
            runtime.block_on(select(pin!(ended.notified()), pin!(read)));
            runtime.shutdown_background();
        };
        thread::Builder::new().name("nats-core".to_owned()).spawn(read)?;
        Ok(subscribed)
    }
}

/// Messages that came faster than they were taken.
#[derive(Default)]
struct Dropped {
    servers: String,
    messages: u64,
    said: Option<(Instant, u64)>,
}

impl Dropped {
    /// One more.
    fn count(&mut self) {
        self.messages += 1;
        if self.said.is_none_or(|(at, _)| at.elapsed() >= SAID_EVERY) {
            self.say();
        }
    }

    fn say(&mut self) {
        let Dropped { servers, messages, .. } = self;
        tracing::warn!("NATS at {servers}: messages come faster than they are taken, {messages} were dropped so far");
        self.said = Some((Instant::now(), self.messages));
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if self.said.is_some_and(|(_, messages)| messages < self.messages) {
            self.say();
        }
    }
}

/// The stream. It never ends.
pub struct Subscribed {
    inbox: Arc<Inbox<Message>>,
    ended: Arc<Notify>,
    lines: Lines,
    taken: Vec<Message>,
}

impl Stream for Subscribed {
    /// Waits for at least one message.
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, bytes_max: usize) -> io::Result<usize> {
        bytes.truncate(at);
        while bytes.len() == at {
            self.taken.clear();
            self.inbox.take(bytes_max, &mut self.taken).map_err(io::Error::other)?;
            for message in &self.taken {
                // An empty one is nothing, as an empty line is.
                let Some(record) = self.lines.of(message) else { continue };
                bytes.extend_from_slice(record.content.trim_ascii_end());
                bytes.push(b'\n');
            }
        }
        Ok(bytes.len() - at)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.inbox.end();
        self.ended.notify_one();
    }
}
