//! The IPC streams of Arrow that a connection sends, as parcels.
//!
//! A stream may go on for ever, so its rows are handed out as they come: a parcel is a stream of its own, the schema and the
//! dictionaries that are known by then and the messages that came since, all as they were sent. It is read once
//! before it is handed out, so that nothing lies in a journal that cannot be read. What cannot be, what is too long and what
//! breaks off ends its connection; the record batches before it are taken.

use std::{mem, sync::Arc};

use arrow_ipc::{Message, MessageHeader};

use super::connections::{Assembler, TURN_BYTES, WHOLE_BYTES_MAX};
use crate::{
    Fields,
    file::rows::{message_of, message_prefix},
    parcel::{HEAD_BYTES, Kind, count_rows},
};

/// How a file begins (ARROW1), which is no stream.
const FILE_MAGIC: &[u8] = b"ARRO";

/// What one connection sends.
pub struct ArrowStream {
    fields: Fields,
    record_bytes_max: usize,
    /// the beginning of a message
    rest: Vec<u8>,
    /// before so much of it has come there is no use in looking at it again
    wanted: usize,
    /// what has come of the stream
    known: Known,
    /// … behind which the next parcel goes on
    handed: Known,
    /// what came since, as far as it is together
    come: Vec<Part>,
    /// what is handed out next is last: what came together, or less, where that cannot be read together
    groups: Vec<Vec<Part>>,
    /// why the connection is ended behind that
    fault: Option<String>,
}

/// A message behind the schema, as it came.
#[derive(Clone)]
struct Part {
    bytes: Arc<[u8]>,
    dictionary: Option<Dictionary>,
}

#[derive(Clone, Copy)]
struct Dictionary {
    id: i64,
    is_delta: bool,
}

/// What the record batches of a stream need.
#[derive(Clone, Default)]
struct Known {
    /// as it came; empty: a stream is still to begin
    schema: Arc<[u8]>,
    /// as they came, each with its number
    dictionaries: Vec<(i64, Arc<[u8]>)>,
}

impl Known {
    fn note(&mut self, part: &Part) {
        let Some(Dictionary { id, is_delta }) = part.dictionary else { return };
        if !is_delta {
            self.dictionaries.retain(|(other, _)| *other != id);
        }
        self.dictionaries.push((id, Arc::clone(&part.bytes)));
    }

    fn parts(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        [&self.schema].into_iter().chain(self.dictionaries.iter().map(|(_, bytes)| bytes))
    }

    fn bytes(&self) -> usize {
        self.parts().map(|bytes| bytes.len()).sum()
    }
}

impl ArrowStream {
    /// No record batch is longer than `record_bytes_max`, nor are the schema and the dictionaries together, and neither is what
    /// they become.
    pub fn new(fields: &Fields, record_bytes_max: usize) -> ArrowStream {
        ArrowStream {
            fields: fields.clone(),
            record_bytes_max,
            rest: Vec::new(),
            wanted: 0,
            known: Known::default(),
            handed: Known::default(),
            come: Vec::new(),
            groups: Vec::new(),
            fault: None,
        }
    }

    /// Of the longest parcel: messages that come together, behind what is known.
    pub fn parcel_bytes_max(record_bytes_max: usize) -> usize {
        HEAD_BYTES + 2 * record_bytes_max + TURN_BYTES
    }

    /// Takes the message that `bytes` begins with; its length, or `None` if it is not whole, or has to wait.
    fn message(&mut self, bytes: &[u8], whole: &mut Vec<u8>, whole_max: usize) -> Result<Option<usize>, String> {
        if self.known.schema.is_empty() && bytes.starts_with(FILE_MAGIC) {
            return Err("this is an Arrow file, and streams are taken".to_owned());
        }
        let Some((prefix, length)) = message_prefix(bytes) else { return Ok(None) };
        if length == 0 {
            self.gather();
            self.hand_out(whole, whole_max)?;
            if self.is_behind() {
                return Ok(None);
            }
            (self.known, self.handed) = Default::default();
            return Ok(Some(prefix));
        }
        self.check_length(length as u64)?;
        self.wanted = prefix + length;
        let Some(metadata) = bytes.get(prefix..self.wanted) else { return Ok(None) };
        let message = message_of(metadata).map_err(|error| format!("this is no message of Arrow: {error}"))?;
        let body = u64::try_from(message.bodyLength()).map_err(|_| "a message has fewer than 0 bytes".to_owned())?;
        let total = (prefix + length) as u64;
        self.check_length(total.saturating_add(body))?;
        self.wanted = (total + body) as usize;
        match bytes.get(..self.wanted) {
            Some(own) => self.take_message(&message, own, whole).map(|()| Some(own.len())),
            None => Ok(None),
        }
    }

    fn check_length(&self, length: u64) -> Result<(), String> {
        match length > self.record_bytes_max as u64 {
            true => Err(format!("a message has {length} bytes, and record_size_max is {}", self.record_bytes_max)),
            false => Ok(()),
        }
    }

    fn take_message(&mut self, message: &Message<'_>, own: &[u8], whole: &mut Vec<u8>) -> Result<(), String> {
        let dictionary = match message.header_type() {
            MessageHeader::Schema if self.known.schema.is_empty() => {
                self.known.schema = own.into();
                self.handed = self.known.clone();
                // What does not fit the fields is known before there is a row.
                return self.put_parcel(&[], whole);
            }
            MessageHeader::Schema => return Err("a stream has a second schema".to_owned()),
            _ if self.known.schema.is_empty() => return Err("a stream does not begin with its schema".to_owned()),
            MessageHeader::RecordBatch => None,
            MessageHeader::DictionaryBatch => message
                .header_as_dictionary_batch()
                .map(|dictionary| Dictionary { id: dictionary.id(), is_delta: dictionary.isDelta() }),
            other => return Err(format!("a stream has a message of the kind {other:?}")),
        };
        let part = Part { bytes: own.into(), dictionary };
        self.known.note(&part);
        self.come.push(part);
        let (known, max) = (dictionary.map_or(0, |_| self.known.bytes()), self.record_bytes_max);
        match known > max {
            true => Err(format!("a stream's schema and dictionaries have {known} bytes, and record_size_max is {max}")),
            false => Ok(()),
        }
    }

    /// What has come is handed out next.
    fn gather(&mut self) {
        if !self.come.is_empty() {
            self.groups.push(mem::take(&mut self.come));
        }
    }

    /// Hands out what has come, until there is so much.
    fn hand_out(&mut self, whole: &mut Vec<u8>, whole_max: usize) -> Result<(), String> {
        while whole.len() < whole_max {
            let Some(mut parts) = self.groups.pop() else { break };
            match self.put_parcel(&parts, whole) {
                Ok(()) => parts.iter().for_each(|part| self.handed.note(part)),
                // One of them is to blame, and not those before it; or they are too much together.
                Err(_) if parts.len() > 1 => {
                    let behind = parts.split_off(parts.len() / 2);
                    self.groups.extend([behind, parts]);
                }
                Err(reason) => {
                    self.groups.clear();
                    return Err(reason);
                }
            }
        }
        Ok(())
    }

    /// Appends these messages as a parcel, if there are rows in them and all can be read.
    fn put_parcel(&self, parts: &[Part], whole: &mut Vec<u8>) -> Result<(), String> {
        let parts = || self.handed.parts().chain(parts.iter().map(|part| &part.bytes));
        let mut content = Vec::with_capacity(parts().map(|bytes| bytes.len()).sum());
        parts().for_each(|bytes| content.extend_from_slice(bytes));
        let content = Arc::new(content);
        let unpacked_max = 2 * self.record_bytes_max as u64;
        let rows = count_rows(Kind::Arrow, &content, &self.fields, unpacked_max).map_err(|trouble| trouble.reason())?;
        if rows > 0 {
            whole.extend_from_slice(&Kind::Arrow.head(content.len()));
            whole.extend_from_slice(&content);
        }
        Ok(())
    }
}

impl Assembler for ArrowStream {
    fn take(&mut self, bytes: &[u8], whole: &mut Vec<u8>) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        let whole_max = whole.len() + WHOLE_BYTES_MAX;
        self.hand_out(whole, whole_max)?;
        if !self.is_behind() && self.fault.is_none() && self.rest.len() >= self.wanted {
            let mut rest = mem::take(&mut self.rest);
            let mut at = 0;
            self.fault = loop {
                self.wanted = 0;
                match self.message(&rest[at..], whole, whole_max) {
                    Ok(Some(length)) => at += length,
                    Ok(None) => break None,
                    Err(reason) => break Some(reason),
                }
            };
            rest.drain(..at);
            self.rest = rest;
            self.gather();
            self.hand_out(whole, whole_max)?;
        }
        match self.is_behind() {
            true => Ok(()),
            false => self.fault.take().map_or(Ok(()), Err),
        }
    }

    fn is_behind(&self) -> bool {
        !self.groups.is_empty()
    }

    fn end(&mut self, _whole: &mut Vec<u8>) -> Result<(), String> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err("it broke off within a message".to_owned()),
        }
    }
}
