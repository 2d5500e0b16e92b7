//! Reading the stream from a number on, whatever becomes of the connection.

use std::{mem, sync::Arc, time::Duration};

use async_nats::jetstream::{self, Context, consumer::DeliverPolicy};
use tokio::time::sleep;

use super::{
    NatsSpec,
    delivery::Delivery,
    durable::Coverage,
    extent::Extent,
    options::connect,
    queue::{Item, Message, Queue},
    stored,
};

/// Between attempts: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A consumer has been silent so often although there is more: it is given up.
const SILENT_MAX: u32 = 5;
/// Messages that are asked for one by one when none comes otherwise, at most.
const SINGLE_MAX: usize = 100;

/// From where reading goes on.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// the number of the next message
    pub next: u64,
    /// when the stream was created whose number that is
    pub created_ns: i64,
    /// Nothing was read yet, and it begins with the oldest message that there is.
    pub is_beginning: bool,
}

/// Why nothing comes.
#[derive(Debug)]
pub enum Trouble {
    /// It may get better.
    Passing(String),
    /// It cannot.
    Lasting(String),
}

pub struct Reader {
    context: Context,
    spec: NatsSpec,
    mark: Mark,
    coverage: Arc<Coverage>,
    /// what is before this number was asked for by itself last, and is delivered by no consumer again
    passed: u64,
    /// since the last trouble something came
    has_read: bool,
}

impl Reader {
    pub fn new(context: Context, spec: NatsSpec, mark: Mark, coverage: Arc<Coverage>) -> Reader {
        Reader { context, spec, mark, coverage, passed: 0, has_read: true }
    }

    /// Reads, and goes on after every trouble that may pass; comes back after one that does not, or at the end if there is to
    /// be one.
    pub async fn run(&mut self, queue: &Queue) {
        let mut pause = PAUSE;
        loop {
            match self.follow(queue).await {
                Ok(()) => return queue.push([Item::End], Some(0)).await,
                Err(Trouble::Lasting(reason)) => return queue.fail(reason),
                Err(Trouble::Passing(reason)) => {
                    if mem::take(&mut self.has_read) {
                        let Mark { next, .. } = self.mark;
                        tracing::warn!("NATS at {}: {reason}; reading goes on at message {next}", self.spec.servers);
                        pause = PAUSE;
                    } else if let Err(Trouble::Lasting(reason)) = self.read_singly(queue).await {
                        return queue.fail(reason);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Reads with one consumer until something is amiss, or to the end if there is to be one.
    async fn follow(&mut self, queue: &Queue) -> Result<(), Trouble> {
        let extent = Extent::look(&self.context, &self.spec.stream).await?;
        if self.mark.is_beginning {
            self.mark.next = self.mark.next.max(extent.first);
        }
        self.check(&extent, self.mark.next)?;
        let covered = self.coverage.begin(self.context.client());
        let next = self.mark.next;
        let start_sequence = if self.spec.durable.is_some() { covered.max(self.passed).min(next) } else { next };
        let policy = DeliverPolicy::ByStartSequence { start_sequence };
        let mut delivery = Delivery::start(&self.context, &self.spec, policy).await?;
        if start_sequence == self.mark.next {
            queue.note_pending(delivery.pending);
        }
        let (mut is_last, mut silent) = (true, 0);
        while !(is_last && self.spec.stops_at_end) || self.has_more().await? {
            let Some(mut chunk) = delivery.chunk().await else {
                silent = if self.reach_out(queue).await? { silent + 1 } else { 0 };
                if silent == SILENT_MAX {
                    return Err(Trouble::Passing("there are messages, and none comes".to_owned()));
                }
                is_last = true;
                continue;
            };
            silent = 0;
            let acknowledgement = chunk.acknowledgement.filter(|_| self.spec.durable.is_some());
            if let (Some(last), Some(acknowledgement)) = (chunk.messages.last(), acknowledgement) {
                self.coverage.deliver(last.sequence, acknowledgement);
            }
            // A server that lags behind the others of its cluster may begin too early, and a durable consumer does.
            let next = self.mark.next;
            chunk.messages.retain(|message| message.sequence >= next);
            if let (true, Some(first)) = (self.mark.is_beginning, chunk.messages.first()) {
                self.mark = Mark { next: first.sequence, is_beginning: false, ..self.mark };
            }
            if let Some(gap) = first_gap(self.mark.next, &chunk.messages) {
                // What comes no more went before now, and then the stream begins behind it.
                let extent = Extent::look(&self.context, &self.spec.stream).await?;
                self.check(&extent, gap)?;
            }
            if let Some(last) = chunk.messages.last() {
                (self.mark.next, self.has_read) = (last.sequence + 1, true);
            }
            chunk.messages.retain(|message| self.spec.takes(&message.subject));
            let reached = Item::Reached(self.mark.next);
            queue.push(chunk.messages.into_iter().map(Item::Message).chain([reached]), chunk.pending).await;
            if let Some(trouble) = chunk.trouble {
                return Err(trouble);
            }
            is_last = chunk.pending == Some(0);
        }
        Ok(())
    }

    /// Reads some messages one by one. What stands beside one of them may be such that the client breaks each connection on
    /// which it comes.
    async fn read_singly(&mut self, queue: &Queue) -> Result<(), Trouble> {
        // The client itself may have died of it.
        let client = connect(&self.spec.servers).await.map_err(|error| Trouble::Passing(error.to_string()))?;
        self.context = jetstream::new(client);
        for _ in 0..SINGLE_MAX {
            let NatsSpec { stream, subjects, servers, .. } = &self.spec;
            let Some(message) = stored::first(&self.context, stream, subjects, self.mark.next).await? else { break };
            // As it is behind the answer, for what is missing went before.
            let extent = Extent::look(&self.context, stream).await?;
            let Mark { next, is_beginning, .. } = self.mark;
            let is_whole = is_beginning || message.sequence == next;
            self.check(&extent, if is_whole { extent.first.max(message.sequence) } else { next })?;
            if !mem::replace(&mut self.has_read, true) {
                tracing::warn!("NATS at {servers}: message {} did not come, and was asked for", message.sequence);
            }
            self.passed = message.sequence + 1;
            self.mark = Mark { next: self.passed, is_beginning: false, ..self.mark };
            queue.push([Item::Message(message), Item::Reached(self.mark.next)], None).await;
        }
        Ok(())
    }

    /// Nothing came for a while: what others have written is behind us, too, and the stream may forget it. Or there is
    /// something for us: then it is `true`.
    async fn reach_out(&mut self, queue: &Queue) -> Result<bool, Trouble> {
        let extent = Extent::look(&self.context, &self.spec.stream).await?;
        self.check(&extent, self.mark.next)?;
        if extent.end > self.mark.next {
            if self.has_more().await? {
                return Ok(true);
            }
            self.mark = Mark { next: extent.end, is_beginning: false, ..self.mark };
            queue.push([Item::Reached(extent.end)], Some(0)).await;
        }
        Ok(false)
    }

    async fn has_more(&self) -> Result<bool, Trouble> {
        let NatsSpec { stream, subjects, .. } = &self.spec;
        stored::has_more(&self.context, stream, subjects, self.mark.next).await
    }

    fn check(&self, extent: &Extent, next: u64) -> Result<(), Trouble> {
        extent.check(next, self.mark.created_ns).map_err(Trouble::Lasting)
    }
}

/// The first number from `next` on that none of the messages has, of those before the last one.
pub fn first_gap(mut next: u64, messages: &[Message]) -> Option<u64> {
    for message in messages {
        if message.sequence > next {
            return Some(next);
        }
        next = message.sequence + 1;
    }
    None
}
