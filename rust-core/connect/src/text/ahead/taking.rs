//! A text partition whose file is decoded ahead.

use std::sync::Arc;

use ringmill_wire::BatchWriter;

use super::{Ahead, block::Reading, cutter::Start};
use crate::{
    ConnectError, Poll, PollContext,
    formats::Stop,
    text::{Feed, TextPartition},
};

/// A poll takes at most so many blocks.
const BLOCKS_PER_POLL: usize = 16;

impl TextPartition {
    /// Hands what is still to be read of a long file to those who decode ahead.
    pub(in crate::text) fn look_ahead(&mut self, out: &BatchWriter, context: &PollContext<'_>) {
        let (Some(decoders), Some(source)) = (&self.decoders, &self.source) else { return };
        let is_inline = matches!(self.feed, Some(Feed::Inline(_))) && !self.ended;
        if !is_inline || self.decoder.needs_header() || source.file_bytes() < decoders.file_bytes_min() {
            return;
        }
        let Some(Feed::Inline(content)) = self.feed.take() else { return };
        let start = Start {
            offset: self.offset,
            bytes: self.buffer[self.start..self.end].to_vec(),
            at_start: self.at_start,
            within: self.decoder.within(),
        };
        (self.start, self.end, self.at_start) = (0, 0, false);
        self.buffer = Vec::new();
        let reading = Reading {
            fields: self.fields.clone(),
            template: Arc::clone(out.template()),
            event_time: context.event_time,
            header: self.header.clone(),
            record_bytes_max: self.record_bytes_max,
        };
        self.ahead = Some(Ahead::new(content, start, reading, &self.decoder, decoders, self.waker.clone()));
    }

    /// Moves on what others have decoded.
    pub(in crate::text) fn take_ahead(
        &mut self,
        ahead: &mut Ahead,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        mut left: u32,
    ) -> Result<Poll, ConnectError> {
        let wanted = left;
        for _ in 0..BLOCKS_PER_POLL {
            let Some(block) = ahead.block() else {
                return Ok(if left < wanted { Poll::Rows } else { Poll::Idle });
            };
            // What was taken before it is given out first.
            if block.fault.is_some() && left < wanted {
                return Ok(Poll::Rows);
            }
            if let Some((offset, source)) = block.fault.take() {
                return Err(ConnectError::Read { name: self.current().to_owned(), offset, source });
            }
            // A block's rows are tagged by where they stand in it.
            let tag = self.tag(block.end()).wrapping_sub(self.offset.wrapping_sub(block.offset));
            let (consumed, stop) = block.take(out, context, self.current(), tag, left);
            left -= consumed;
            self.rows += u64::from(consumed);
            if consumed > 0 || stop == Stop::NeedMore {
                self.offset = block.next_offset();
                self.decoder.go_on_within(block.ends_within.filter(|_| stop == Stop::NeedMore));
            }
            match stop {
                Stop::Budget => return Ok(Poll::Rows),
                Stop::Full => return Ok(Poll::Full),
                Stop::NeedMore if block.is_last => {
                    self.ended = true;
                    return Ok(if self.next_part()? { Poll::Rows } else { Poll::End });
                }
                Stop::NeedMore => ahead.finish_block(),
            }
        }
        Ok(Poll::Rows)
    }
}
