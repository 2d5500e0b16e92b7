//! A message as a record, and the record as a row.

use std::time::Duration;

use super::{Member, write_line};
use crate::{
    ConnectError, Fields, MessageFormat, Poll,
    formats::{BinaryDecoder, JsonDecoder, Records, Taken},
};

/// A message that cannot be read yet is tried again so much later.
pub(crate) const LATER: Duration = Duration::from_millis(20);

/// What a poll comes to that ends with such a message.
pub(crate) fn wait(records: &Records<'_, '_>, now_ns: u64) -> Poll {
    match records.consumed {
        0 => Poll::Until(now_ns + LATER.as_nanos() as u64),
        _ => Poll::Rows,
    }
}

/// What rows are made of: JSON without line ends, in which the broker's members stand already, or a binary message and a JSON
/// object with its members.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// of JSON the header that tells the type; empty where there is none, or no field takes anything of it
    pub header: &'a [u8],
    pub content: &'a [u8],
}

/// Makes records of messages.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    is_text: bool,
    /// a message without bytes is one
    may_be_empty: bool,
    takes_members: bool,
    /// a line, or a header
    buffer: Vec<u8>,
}

impl Recorder {
    pub fn new(format: &MessageFormat, takes_members: bool) -> Recorder {
        let (is_text, may_be_empty) = match format {
            MessageFormat::Json => (true, false),
            MessageFormat::Binary(format) => (false, format.may_be_empty()),
        };
        Recorder { is_text, may_be_empty, takes_members, buffer: Vec::new() }
    }

    /// The record of a message; `None`: there is nothing in it. The payload itself where nothing is to be done to it.
    pub fn record<'a, 'm>(
        &'a mut self,
        payload: &'a [u8],
        members: impl IntoIterator<Item = (&'m str, Member<'m>)>,
    ) -> Option<Record<'a>> {
        let content = if self.is_text { payload.trim_ascii() } else { payload };
        if content.is_empty() && !self.may_be_empty {
            return None;
        }
        self.buffer.clear();
        if !self.is_text {
            if self.takes_members {
                write_line(b"{}", members, &mut self.buffer);
                self.buffer.pop();
            }
            return Some(Record { header: &self.buffer, content });
        }
        if !self.takes_members && memchr::memchr(b'\n', content).is_none() {
            return Some(Record { header: b"", content });
        }
        write_line(content, members, &mut self.buffer);
        self.buffer.pop();
        Some(Record { header: b"", content: &self.buffer })
    }
}

/// Makes rows and dead letters of records.
#[derive(Debug, Clone)]
pub(crate) enum MessageDecoder {
    Json(JsonDecoder, usize),
    Binary(BinaryDecoder),
}

impl MessageDecoder {
    /// `members`: the fields that take what stands beside a message.
    pub fn new(
        format: &MessageFormat,
        fields: &Fields,
        members: &[&str],
        record_bytes_max: usize,
    ) -> Result<MessageDecoder, ConnectError> {
        Ok(match format {
            MessageFormat::Json => MessageDecoder::Json(JsonDecoder::new(fields, record_bytes_max)?, record_bytes_max),
            MessageFormat::Binary(format) => {
                MessageDecoder::Binary(BinaryDecoder::new(format, fields, members, record_bytes_max)?)
            }
        })
    }

    /// Makes a row or a dead letter of a message, for which there is room; `None`: there is nothing in it.
    pub fn take(&mut self, record: Option<Record<'_>>, records: &mut Records<'_, '_>) -> Result<Taken, ConnectError> {
        match (self, record) {
            (_, None) => records.refuse("the message is empty", b"", None),
            (MessageDecoder::Json(_, max), Some(Record { content, .. })) if content.len() > *max => {
                records.too_long(0, content, *max);
            }
            (MessageDecoder::Json(decoder, _), Some(Record { header, content })) => {
                decoder.set_type(header);
                if decoder.decode_one(content, records).is_err() {
                    return Ok(Taken::Full);
                }
            }
            (MessageDecoder::Binary(decoder), Some(record)) => {
                return decoder.decode(record.header, record.content, records);
            }
        }
        Ok(Taken::Whole)
    }
}
