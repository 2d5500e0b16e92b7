//! Rows on their way into the store: one after the other in a sink's staging log, read in blocks.

use std::io::{self, Read};

use super::RetainedRow;

/// Lengths of key and row, then start and end of the window.
const HEAD_BYTES: usize = 4 + 4 + 8 + 8;

impl RetainedRow<'_> {
    /// Appends a row to `out`: what `write_row` appends, under the key that `write_key` appends.
    #[inline]
    pub fn write_frame(
        (start_ns, end_ns): (i64, i64),
        out: &mut Vec<u8>,
        write_key: impl FnOnce(&mut Vec<u8>),
        write_row: impl FnOnce(&mut Vec<u8>),
    ) {
        let head = out.len();
        out.resize(head + HEAD_BYTES, 0);
        write_key(out);
        let key_bytes = out.len() - head - HEAD_BYTES;
        write_row(out);
        let row_bytes = out.len() - head - HEAD_BYTES - key_bytes;
        // A micro-batch is smaller than 4 GiB, and so is each of its rows.
        out[head..head + 4].copy_from_slice(&(key_bytes as u32).to_le_bytes());
        out[head + 4..head + 8].copy_from_slice(&(row_bytes as u32).to_le_bytes());
        out[head + 8..head + 16].copy_from_slice(&start_ns.to_le_bytes());
        out[head + 16..head + 24].copy_from_slice(&end_ns.to_le_bytes());
    }
}

/// The frames of an epoch, a block of whole ones at a time.
pub(super) struct Blocks<R> {
    input: R,
    /// The first bytes are the block that was given out last.
    buffer: Vec<u8>,
    given: usize,
    is_end: bool,
    block_bytes: usize,
}

impl<R: Read> Blocks<R> {
    /// Blocks of at most so many bytes, or of one row that is longer.
    pub fn new(input: R, block_bytes: usize) -> Blocks<R> {
        Blocks { input, buffer: Vec::new(), given: 0, is_end: false, block_bytes }
    }

    /// Reads the next block.
    pub fn advance(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.given);
        loop {
            self.given = whole(&self.buffer);
            let wanted = if self.given == 0 { self.block_bytes.max(2 * self.buffer.len()) } else { self.block_bytes };
            let Some(room) = wanted.checked_sub(self.buffer.len()).filter(|room| *room > 0 && !self.is_end) else {
                return Ok(());
            };
            self.is_end = (&mut self.input).take(room as u64).read_to_end(&mut self.buffer)? < room;
        }
    }

    /// The block; empty if there was nothing more, or nothing that is a row.
    pub fn block(&self) -> &[u8] {
        &self.buffer[..self.given]
    }

    /// Whether there is no further block.
    pub fn is_last(&self) -> bool {
        self.is_end && self.given == self.buffer.len()
    }
}

/// Bytes of the whole rows at the beginning.
fn whole(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let mut end = 0;
    while next(&mut rest).is_some() {
        end = bytes.len() - rest.len();
    }
    end
}

/// The rows of `bytes`; `None` where something in it is no row.
pub(super) fn rows(mut bytes: &[u8]) -> impl Iterator<Item = Option<RetainedRow<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let row = next(&mut bytes);
        if row.is_none() {
            bytes = &[];
        }
        Some(row)
    })
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<RetainedRow<'a>> {
    let mut take = |count: usize| {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    };
    let length = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize);
    let time = |bytes: &[u8]| Some(i64::from_le_bytes(bytes.try_into().ok()?));
    let (key_bytes, row_bytes) = (length(take(4)?)?, length(take(4)?)?);
    let (start_ns, end_ns) = (time(take(8)?)?, time(take(8)?)?);
    Some(RetainedRow { start_ns, end_ns, key: take(key_bytes)?, row: take(row_bytes)? })
}
