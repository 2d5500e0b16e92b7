//! Content, cut into blocks of whole records.

use std::io::{self, Read};

use super::block::Block;
use crate::{
    Format, Within,
    formats::{is_given_up, last_record_end},
    text::{BYTE_ORDER_MARK, Content},
};

/// From where content is read.
pub(in crate::text) struct Start {
    /// in the content
    pub offset: u64,
    /// read from there already
    pub bytes: Vec<u8>,
    /// a byte-order mark may come
    pub at_start: bool,
    /// the rest of a record comes first that is too long
    pub within: Option<Within>,
}

/// The content of a file from some place on.
pub(super) struct Cutter {
    content: Content,
    format: Format,
    block_bytes: usize,
    record_bytes_max: usize,
    /// what was not cut yet
    next: Start,
    /// of the next block
    number: u64,
    /// where the content cannot be read on, and why
    fault: Option<(u64, io::Error)>,
    ended: bool,
}

impl Cutter {
    pub fn new(content: Content, format: Format, start: Start, block_bytes: usize, record_bytes_max: usize) -> Cutter {
        Cutter { content, format, block_bytes, record_bytes_max, next: start, number: 0, fault: None, ended: false }
    }

    /// Reads the next block; `false` if there is none.
    ///
    /// A block ends with a record, with the content, or within a record that is too long.
    pub fn cut(&mut self, block: &mut Block) -> bool {
        if self.ended {
            return false;
        }
        block.bytes.clear();
        block.bytes.append(&mut self.next.bytes);
        block.begins_within = self.next.within;
        if self.fault.is_none() {
            self.read(&mut block.bytes);
        }
        if block.bytes.is_empty() {
            block.fault = self.fault.take();
            self.ended |= block.fault.is_some();
        }
        block.number = self.number;
        block.offset = self.next.offset;
        block.is_last = self.ended;
        self.number += 1;
        self.next.offset += block.bytes.len() as u64;
        true
    }

    /// Reads on behind `bytes` until they end a block, and keeps what is behind that. What comes before a fault is a block
    /// still, as far as it is whole.
    fn read(&mut self, bytes: &mut Vec<u8>) {
        let mut wanted = self.block_bytes.max(BYTE_ORDER_MARK.len());
        loop {
            let missing = wanted.saturating_sub(bytes.len());
            let read = self.content.by_ref().take(missing as u64).read_to_end(bytes);
            if std::mem::take(&mut self.next.at_start) && bytes.starts_with(BYTE_ORDER_MARK) {
                bytes.drain(..BYTE_ORDER_MARK.len());
                self.next.offset += BYTE_ORDER_MARK.len() as u64;
            }
            match read {
                Ok(read) if read < missing => {
                    self.ended = true;
                    return;
                }
                Ok(_) => {}
                Err(error) => {
                    self.fault = Some((self.next.offset + bytes.len() as u64, error));
                    let end = self.end_of_block(bytes);
                    bytes.truncate(end.unwrap_or(0));
                    return;
                }
            }
            if let Some(end) = self.end_of_block(bytes) {
                self.next.bytes.extend_from_slice(&bytes[end..]);
                bytes.truncate(end);
                return;
            }
            wanted = self.block_bytes.max(bytes.len() * 2);
        }
    }

    /// Where a block ends that begins with `bytes`, and within what; `None`: not in them.
    fn end_of_block(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut rest = self.next.within;
        let Some(from) = rest.as_mut().map_or(Some(0), |within| within.pass(bytes)) else {
            self.next.within = rest;
            return Some(bytes.len());
        };
        if let Some(end) = last_record_end(self.format, bytes, from).or((from > 0).then_some(from)) {
            self.next.within = None;
            return Some(end);
        }
        if !is_given_up(self.format, bytes, self.record_bytes_max) {
            return None;
        }
        let mut within = Within::start(self.format);
        within.pass(bytes);
        self.next.within = Some(within);
        Some(bytes.len())
    }
}
