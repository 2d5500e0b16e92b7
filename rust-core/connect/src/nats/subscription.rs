//! Subscriptions of core NATS as a stream of lines, read by a thread of their own.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{Either, select},
    stream::{SelectAll, select_all},
};
use tokio::{
    runtime::Builder,
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    NatsCoreSpec,
    lines::Lines,
    options::{ANSWER_TIMEOUT, connect_noting, refuse, said},
    queue::Message,
    reader::Trouble,
};
use crate::{ConnectError, MessageFormat, message::Inbox, text::Stream};

/// Further messages are dropped when so much waits: NATS cannot be made to wait.
const BYTES_MAX: usize = 64 << 20;
/// What a message takes besides its own bytes, and each of its headers, about.
const MESSAGE_BYTES: usize = 256;
/// It is said at most so often that messages are dropped.
const SAID_EVERY: Duration = Duration::from_secs(5);
/// Between attempts to subscribe anew: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Connects, and comes back when the servers know what is wanted, and have not refused it.
async fn subscribe(spec: &NatsCoreSpec) -> Result<SelectAll<Subscriber>, ConnectError> {
    let refused = |reason| refuse(&spec.servers, reason);
    let (said_by_server, mut errors) = unbounded_channel();
    let client = connect_noting(&spec.servers, move |error| drop(said_by_server.send(error.to_string()))).await?;
    let mut subscribers = Vec::new();
    for subject in spec.subjects.iter().cloned() {
        let subscribed = match &spec.queue_group {
            Some(group) => client.queue_subscribe(subject, group.clone()).await,
            None => client.subscribe(subject).await,
        };
        subscribers.push(subscribed.map_err(|error| refused(said(&error)))?);
    }
    settle(&client, &mut errors).await.map_err(|trouble| match trouble {
        Trouble::Passing(reason) | Trouble::Lasting(reason) => refused(reason),
    })?;
    tracing::info!("NATS at {}: subscribed to {}", spec.servers, spec.subjects.join(", "));
    Ok(select_all(subscribers))
}

/// Comes back when the servers have answered something that was asked behind what was sent before, or with what they refuse.
pub async fn settle(client: &Client, errors: &mut UnboundedReceiver<String>) -> Result<(), Trouble> {
    // That nobody is there is an answer; and so is that we may not ask.
    let inbox = client.new_inbox();
    let asked = pin!(timeout(ANSWER_TIMEOUT, client.request(inbox, Bytes::new())));
    match select(pin!(errors.recv()), asked).await {
        Either::Left((Some(error), _)) if error.contains("_INBOX.") => return Ok(()),
        Either::Left((Some(error), _)) => return Err(Trouble::Lasting(error)),
        Either::Left((None, _)) | Either::Right((Err(_), _)) => {
            return Err(Trouble::Passing("it does not answer".to_owned()));
        }
        Either::Right((Ok(Err(error)), _)) if error.kind() != RequestErrorKind::NoResponders => {
            return Err(Trouble::Passing(said(&error)));
        }
        Either::Right(_) => {}
    }
    // What they have said before is on its way through the client.
    yield_now().await;
    errors.try_recv().map_or(Ok(()), |error| Err(Trouble::Lasting(error)))
}

/// Brings what comes into the inbox, and never comes back.
async fn read(spec: &NatsCoreSpec, mut stream: SelectAll<Subscriber>, inbox: &Inbox<Message>, messages: &AtomicU64) {
    let wants_headers = !spec.message_fields.headers.is_empty();
    let mut dropped = Dropped { servers: spec.servers.to_string(), messages, said: None };
    loop {
        while let Some(message) = stream.next().await {
            if inbox.has_room() {
                let async_nats::Message { subject, payload, headers, length, .. } = message;
                let headers = headers.filter(|_| wants_headers);
                let bytes = length + MESSAGE_BYTES * (1 + headers.as_ref().map_or(0, HeaderMap::len));
                let (subject, headers) = (subject.into_string(), headers.into());
                inbox.push(Message { sequence: 0, subject, payload, headers, bytes, taken_ns: 0 }, bytes);
            } else {
                dropped.count();
            }
        }
        // The client does not outlive some of what it cannot read.
        tracing::warn!("NATS at {}: the connection ended; it is made anew", spec.servers);
        stream = subscribe_anew(spec).await;
    }
}

async fn subscribe_anew(spec: &NatsCoreSpec) -> SelectAll<Subscriber> {
    let mut pause = PAUSE;
    loop {
        sleep(pause).await;
        match subscribe(spec).await {
            Ok(messages) => return messages,
            Err(error) => tracing::warn!("{error}; it is tried again"),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Messages that came faster than they were taken.
struct Dropped<'a> {
    servers: String,
    messages: &'a AtomicU64,
    said: Option<(Instant, u64)>,
}

impl Dropped<'_> {
    /// One more.
    fn count(&mut self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if self.said.is_none_or(|(at, _)| at.elapsed() >= SAID_EVERY) {
            self.say();
        }
    }

    fn say(&mut self) {
        let (servers, messages) = (&self.servers, self.messages.load(Ordering::Relaxed));
        tracing::warn!("NATS at {servers}: messages come faster than they are taken, {messages} were dropped so far");
        self.said = Some((Instant::now(), messages));
    }
}

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if self.said.is_some_and(|(_, messages)| messages < self.messages.load(Ordering::Relaxed)) {
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
    dropped: Arc<AtomicU64>,
}

impl Subscribed {
    /// Subscribes, and reads until it is dropped; fails if no server answers, or one refuses.
    pub fn open(spec: &NatsCoreSpec) -> Result<Subscribed, ConnectError> {
        let lines = Lines::new(&spec.message_fields, &spec.fields, &MessageFormat::Json)?;
        let refused = |error: io::Error| refuse(&spec.servers, error.to_string());
        let runtime = Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let messages = runtime.block_on(subscribe(spec))?;
        let (inbox, ended) = (Arc::new(Inbox::new(BYTES_MAX)), Arc::new(Notify::new()));
        let dropped = Arc::new(AtomicU64::new(0));
        let subscribed = Subscribed {
            inbox: Arc::clone(&inbox),
            ended: Arc::clone(&ended),
            lines,
            taken: Vec::new(),
            dropped: Arc::clone(&dropped),
        };
        let spec = spec.clone();
        let run = move || {
            runtime.block_on(select(pin!(ended.notified()), pin!(read(&spec, messages, &inbox, &dropped))));
            runtime.shutdown_background();
        };
        thread::Builder::new().name("nats-core".to_owned()).spawn(run).map_err(refused)?;
        Ok(subscribed)
    }

    /// Counts messages that came when too much waited, and are lost.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
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
