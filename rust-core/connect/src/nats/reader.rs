//! Reading the stream from a number on, whatever becomes of the connection.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{Context, consumer::DeliverPolicy};
use tokio::time::sleep;

use super::{
    NatsSpec,
    delivery::Delivery,
    durable::Coverage,
    extent::{Extent, has_more},
    queue::{Item, Message, Queue},
};

/// Between attempts: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

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
    /// since the last trouble something came
    has_read: bool,
}

impl Reader {
    pub fn new(context: Context, spec: NatsSpec, mark: Mark, coverage: Arc<Coverage>) -> Reader {
        Reader { context, spec, mark, coverage, has_read: true }
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
                    if self.has_read {
                        let Mark { next, .. } = self.mark;
                        tracing::warn!("NATS at {}: {reason}; reading goes on at message {next}", self.spec.servers);
                        pause = PAUSE;
                    }
                    self.has_read = false;
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
        let covered = self.coverage.begin();
        let start_sequence = if self.spec.durable.is_some() { covered.min(self.mark.next) } else { self.mark.next };
        let policy = DeliverPolicy::ByStartSequence { start_sequence };
        let mut delivery = Delivery::start(&self.context, &self.spec, policy).await?;
        if start_sequence == self.mark.next {
            queue.note_pending(delivery.pending);
        }
        let mut is_last = true;
        while !(is_last && self.spec.stops_at_end) || self.has_more().await? {
            let Some(mut chunk) = delivery.chunk().await else {
                self.reach_out(queue).await?;
                is_last = true;
                continue;
            };
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

    /// Nothing came for a while: what others have written is behind us, too, and the stream may forget it.
    async fn reach_out(&mut self, queue: &Queue) -> Result<(), Trouble> {
        let extent = Extent::look(&self.context, &self.spec.stream).await?;
        self.check(&extent, self.mark.next)?;
        if extent.end > self.mark.next && !self.has_more().await? {
            self.mark = Mark { next: extent.end, is_beginning: false, ..self.mark };
            queue.push([Item::Reached(extent.end)], Some(0)).await;
        }
        Ok(())
    }

    async fn has_more(&self) -> Result<bool, Trouble> {
        let NatsSpec { stream, subjects, .. } = &self.spec;
        has_more(&self.context, stream, subjects, self.mark.next).await
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
