//! A producer's batches, as a shard takes them.
//!
//! Requests to fill a slot lie in the producer's ring, as many as it has slots; they are its credit, and that is all that
//! holds it back. It answers each when it has rows, with a micro-batch and, behind it, where it then stands. An answer is
//! copied out and verified as a worker's is.
//!
//! When a producer goes, all that it had published is taken first; then its channel is thrown away, and the next producer
//! of the name gets a new one and is told where the last batch that was taken ended.

use std::sync::Arc;

use ringmill_connect::{ConnectError, Fed, Feed, POSITION_BYTES_MAX};
use ringmill_ring::{Completion, CompletionKind, CoreEnd, Submission, SubmissionKind, monotonic_ns};
use ringmill_wire::{HeapBatch, Template};
use serde::Deserialize;

use super::seat::{Arrival, News, Seat};
use crate::runtime::worker_feed::copy_answer;

/// What a feed is made of.
pub struct FeedParts {
    /// Where it hears of producers.
    pub seat: Arc<Seat>,
    /// `source/producer`, for logs.
    pub name: String,
    /// Layout of its batches.
    pub template: Arc<Template>,
    /// Producers go on from positions.
    pub is_replayable: bool,
    /// A producer that closes was the last.
    pub is_ended_by_closing: bool,
}

/// See the module.
pub struct ProducerFeed {
    parts: FeedParts,
    attached: Option<Attached>,
    /// Let in, and attached when the one before has nothing more.
    arriving: Option<Arrival>,
    /// Where the producer stood behind the last batch that was taken.
    at: Option<String>,
    /// Where it stood at the newest checkpoint.
    acknowledged: Option<String>,
    /// Its last producer closed in an earlier run.
    has_ended: bool,
    is_drained: bool,
    bytes: Vec<u8>,
}

struct Attached {
    connection: u64,
    pid: i32,
    channel: CoreEnd,
    /// Number of the last request.
    number: u64,
    /// It has said that nothing follows.
    has_closed: bool,
    /// What it has published is all.
    is_gone: bool,
}

/// What stands behind the micro-batch of an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    /// Where the producer stands behind the batch.
    after: Option<String>,
    /// It closes.
    #[serde(default)]
    is_last: bool,
}

impl ProducerFeed {
    /// A feed to which nobody has come yet.
    pub fn new(parts: FeedParts) -> ProducerFeed {
        ProducerFeed {
            parts,
            attached: None,
            arriving: None,
            at: None,
            acknowledged: None,
            has_ended: false,
            is_drained: false,
            bytes: Vec::new(),
        }
    }

    fn hear_news(&mut self) {
        if !self.parts.seat.has_news() {
            return;
        }
        let News { arrival, departed } = self.parts.seat.news();
        let is_gone = |connection: u64| departed.is_some_and(|departed| departed >= connection);
        self.arriving = arrival.or(self.arriving.take()).filter(|arrival| !is_gone(arrival.connection));
        if let Some(attached) = &mut self.attached {
            // Whoever comes next was let in because the last one had gone.
            attached.is_gone |= is_gone(attached.connection) || self.arriving.is_some();
        }
    }

    /// Attaches who has come, if anybody has.
    fn attach(&mut self) {
        let Some(Arrival { connection, pid, channel }) = self.arriving.take().filter(|_| !self.is_drained) else {
            return;
        };
        tracing::info!(producer = %self.parts.name, pid, "a producer has connected");
        self.attached = Some(Attached { connection, pid, channel, number: 0, has_closed: false, is_gone: false });
        self.ask();
        self.parts.seat.welcome(connection, self.at.clone(), self.acknowledged.clone());
    }

    /// Asks for as much as there is room for.
    fn ask(&mut self) {
        let Some(attached) = self.attached.as_mut().filter(|_| !self.is_drained) else { return };
        let row_count = self.parts.template.capacity().rows_max;
        while let Some(slot) = attached.channel.acquire() {
            attached.number += 1;
            let (batch, now_ns) = (attached.number, monotonic_ns());
            let fill = Submission { slot, row_count, batch, ..Submission::new(SubmissionKind::Fill) };
            attached.channel.publish(&Submission { ingest_ns: now_ns, publish_ns: now_ns, ..fill });
        }
    }

    /// The producer is gone, and everything that it had said is heard.
    fn detach(&mut self) {
        let Some(Attached { pid, has_closed, .. }) = self.attached.take() else { return };
        let how = if has_closed { "has closed" } else { "is gone without having closed" };
        tracing::info!(producer = %self.parts.name, pid, "the producer {how}");
    }

    /// The producer breaks the rules: nothing more of it is heard.
    fn dismiss(&mut self, reason: String) {
        let Some(Attached { connection, pid, .. }) = self.attached.take() else { return };
        tracing::warn!(producer = %self.parts.name, pid, "the producer is sent away: {reason}");
        self.parts.seat.refuse(connection, reason);
    }

    /// The next batch that was published, if there is one and it is in order.
    fn next(&mut self, into: &mut HeapBatch) -> Result<Option<Fed>, String> {
        while let Some(attached) = &mut self.attached {
            match attached.channel.poll().map_err(|violation| violation.to_string())? {
                None if attached.is_gone => self.detach(),
                None => return Ok(None),
                Some(completion) => match completion.kind {
                    CompletionKind::Ready | CompletionKind::LeaseReleased => {}
                    CompletionKind::Failed => return Err("it answered with a failure".to_owned()),
                    CompletionKind::Result => {
                        let trailer = self.read(&completion, into)?;
                        return self.accept(&completion, trailer).map(Some);
                    }
                },
            }
        }
        Ok(None)
    }

    /// Copies an answer.
    fn read(&mut self, completion: &Completion, into: &mut HeapBatch) -> Result<Trailer, String> {
        let Some(Attached { channel, .. }) = &self.attached else { return Err("it is not attached".to_owned()) };
        let template = &self.parts.template;
        let batch_bytes = template.bytes() as u32;
        let trailer_bytes = completion
            .byte_length
            .checked_sub(batch_bytes)
            .ok_or_else(|| format!("an answer of {} bytes, less than a batch has", completion.byte_length))?;
        channel.copy_response_from(completion.slot, batch_bytes, trailer_bytes, &mut self.bytes);
        let trailer: Trailer = serde_json::from_slice(&self.bytes)
            .map_err(|error| format!("what follows a batch is not understood: {error}"))?;
        if trailer.after.as_ref().is_some_and(|after| after.len() >= POSITION_BYTES_MAX) {
            return Err(format!("a position is not shorter than {POSITION_BYTES_MAX} bytes"));
        }
        if trailer.after.is_none() && self.parts.is_replayable {
            return Err("a batch came without a position".to_owned());
        }
        copy_answer(channel, template, completion, into)
            .map_err(|error| format!("a batch that is not valid: {error}"))?;
        Ok(trailer)
    }

    /// Takes a batch that was copied, and asks for another.
    fn accept(&mut self, completion: &Completion, Trailer { after, is_last }: Trailer) -> Result<Fed, String> {
        if let Some(attached) = &mut self.attached {
            attached.has_closed |= is_last;
            attached.channel.release(completion.slot);
        }
        self.ask();
        let after = after.filter(|_| self.parts.is_replayable);
        self.at.clone_from(&after);
        Ok(Fed::Batch { before: None, after, is_last: is_last && self.parts.is_ended_by_closing })
    }
}

impl Feed for ProducerFeed {
    fn is_ready(&mut self) -> Result<bool, ConnectError> {
        Ok(true)
    }

    fn seek(&mut self, position: String) {
        self.acknowledged = Some(position.clone());
        self.at = Some(position);
    }

    fn resume_ended(&mut self) {
        self.has_ended = self.parts.is_ended_by_closing;
    }

    fn take(&mut self, into: &mut HeapBatch, _: u64) -> Result<Fed, ConnectError> {
        if self.has_ended {
            into.clear();
            return Ok(Fed::Batch { before: None, after: self.at.clone(), is_last: true });
        }
        // Before the ring is looked at: who is known to be gone by now has published everything.
        self.hear_news();
        match self.next(into) {
            Ok(Some(fed)) => return Ok(fed),
            Ok(None) => {}
            Err(reason) => self.dismiss(reason),
        }
        if self.attached.is_none() {
            self.attach();
        }
        Ok(Fed::Idle)
    }

    fn arm_sleep(&mut self) -> bool {
        !self.parts.seat.has_news() && self.attached.as_mut().is_none_or(|attached| attached.channel.arm_sleep())
    }

    fn disarm_sleep(&mut self) {
        if let Some(attached) = &mut self.attached {
            attached.channel.disarm_sleep();
        }
    }

    fn drain(&mut self) {
        if std::mem::replace(&mut self.is_drained, true) {
            return;
        }
        if let Some(attached) = &mut self.attached {
            attached.channel.publish(&Submission::new(SubmissionKind::Drain));
        }
        self.parts.seat.close();
    }

    fn covered(&mut self, position: &str) {
        self.acknowledged = Some(position.to_owned());
        if self.attached.is_some() {
            self.parts.seat.acknowledge(position.to_owned());
        }
    }
}
