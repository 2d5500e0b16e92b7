//! One consumer of the stream at work.
//!
//! The server keeps it in memory and forgets it when it was not asked for anything for a while, and nothing is acknowledged,
//! unless it is a durable one. Deliveries are counted, so none is lost on its way without being missed.

use std::time::Duration;

use async_nats::{
    Subject,
    jetstream::{
        Context, ErrorCode,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        message::Message as Delivered,
        stream::ConsumerErrorKind,
    },
};
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::{NatsSpec, durable, options::said, queue::Message, reader::Trouble};

/// Messages and bytes that the server is asked for at a time.
const MESSAGES_MAX: usize = 2_000;
const BYTES_MAX: usize = 4 << 20;
/// A server that has nothing for us says so that often; when it has not said so for twice as long, something is amiss.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Nothing came for so long.
const IDLE: Duration = Duration::from_secs(2);
/// The server forgets a consumer that was not asked for anything for so long.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// A consumer, and what it delivers.
pub struct Delivery {
    messages: pull::Stream,
    /// so many messages came
    count: u64,
    /// later ones have this number or a greater one
    next: u64,
    /// how many there were in the stream when it began
    pub pending: u64,
    /// where the last one is acknowledged
    acknowledgement: Option<Subject>,
}

/// What came together.
pub struct Chunk {
    pub messages: Vec<Message>,
    /// how many there are behind them; `None`: that is as it was
    pub pending: Option<u64>,
    /// where the last one is acknowledged, and all before it
    pub acknowledgement: Option<Subject>,
    /// why no more will come, behind these
    pub trouble: Option<Trouble>,
}

impl Delivery {
    /// Begins at that place.
    pub async fn start(context: &Context, spec: &NatsSpec, policy: DeliverPolicy) -> Result<Delivery, Trouble> {
        let config = config(spec, policy);
        let config = match &spec.durable {
            Some(name) => durable::configure(context, &spec.stream, name, config).await?,
            None => forgettable(config),
        };
        let consumer = consumer(context, spec, config).await?;
        let pending = consumer.cached_info().num_pending;
        // A message that is longer would never come.
        let bytes = BYTES_MAX.max(2 * context.client().max_payload());
        let request = consumer.stream().max_messages_per_batch(MESSAGES_MAX).max_bytes_per_batch(bytes);
        let messages = request.heartbeat(HEARTBEAT).messages().await;
        let messages = messages.map_err(|error| Trouble::Passing(said(&error)))?;
        Ok(Delivery { messages, count: 0, next: 0, pending, acknowledgement: None })
    }

    /// The number at which such a consumer begins.
    pub async fn first(context: &Context, spec: &NatsSpec, policy: DeliverPolicy) -> Result<u64, Trouble> {
        let consumer = consumer(context, spec, forgettable(config(spec, policy))).await?;
        let info = consumer.cached_info();
        // One that stays behind is forgotten later.
        let _ = context.delete_consumer_from_stream(&info.name, &spec.stream).await;
        Ok(info.delivered.stream_sequence + 1)
    }

    /// What is there, once something is; `None`: nothing for a while.
    pub async fn chunk(&mut self) -> Option<Chunk> {
        let mut chunk = Chunk { messages: Vec::new(), pending: None, acknowledgement: None, trouble: None };
        let mut came = Some(timeout(IDLE, self.messages.next()).await.ok()?);
        while let Some(message) = came {
            let message = message.ok_or_else(|| "the connection ended".to_owned());
            let taken = message.and_then(|message| message.map_err(|error| said(&error)));
            match taken.and_then(|message| self.take(message)) {
                Ok((message, pending)) => {
                    chunk.messages.push(message);
                    chunk.pending = Some(pending);
                }
                Err(reason) => {
                    chunk.trouble = Some(Trouble::Passing(reason));
                    break;
                }
            }
            came = if chunk.messages.len() < MESSAGES_MAX { self.messages.next().now_or_never() } else { None };
        }
        chunk.acknowledgement = self.acknowledgement.take();
        Some(chunk)
    }

    /// Counts a message; also how many there are behind it.
    fn take(&mut self, message: Delivered) -> Result<(Message, u64), String> {
        let info = message.info().map_err(|error| error.to_string())?;
        if info.consumer_sequence != self.count + 1 || info.stream_sequence < self.next {
            return Err("messages were lost on their way".to_owned());
        }
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let taken_ns = i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        (self.count, self.next) = (self.count + 1, sequence + 1);
        let async_nats::Message { subject, reply, payload, headers, length: bytes, .. } = message.message;
        self.acknowledgement = reply;
        let (subject, headers) = (subject.into_string(), headers.into());
        Ok((Message { sequence, subject, payload, headers, bytes, taken_ns }, pending))
    }
}

/// Of a consumer of the messages that are wanted.
fn config(spec: &NatsSpec, policy: DeliverPolicy) -> pull::Config {
    // Servers before 2.10 know of one subject only and would send everything: what is not wanted is left out later.
    let (filter_subject, filter_subjects) = match &*spec.subjects {
        [] => Default::default(),
        [subject] => (subject.clone(), Vec::new()),
        subjects => (String::new(), subjects.to_vec()),
    };
    pull::Config {
        deliver_policy: policy,
        ack_policy: AckPolicy::None,
        filter_subject,
        filter_subjects,
        ..pull::Config::default()
    }
}

/// The same of one that the server keeps in memory.
fn forgettable(config: pull::Config) -> pull::Config {
    pull::Config { inactive_threshold: FORGOTTEN, num_replicas: 1, memory_storage: true, ..config }
}

async fn consumer(context: &Context, spec: &NatsSpec, config: pull::Config) -> Result<PullConsumer, Trouble> {
    context.create_consumer_on_stream(config, &spec.stream).await.map_err(|error| match error.kind() {
        // Those of earlier attempts are forgotten soon.
        ConsumerErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::MAXIMUM_CONSUMERS_LIMIT => {
            Trouble::Passing(answer.to_string())
        }
        // What is asked for is wrong, and stays so.
        ConsumerErrorKind::JetStream(answer) if answer.code() == 400 => {
            Trouble::Lasting(format!("stream {:?} cannot be read: {answer}", spec.stream))
        }
        _ => Trouble::Passing(said(&error)),
    })
}
