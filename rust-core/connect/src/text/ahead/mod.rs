//! Blocks of a file, decoded ahead by several threads and taken in their order.
//!
//! A block is cut (under a lock, so one after the other) and decoded by whoever has time: a thread of the source's
//! [`Decoders`], or the shard itself when the block that it needs is not there and nobody else has begun the next one.
//! So shards decode as much as without threads, and those only add to it. Rows are copied from a block's batches into
//! the shard's, which costs a twentieth of what parsing them does. Rows, dead letters and positions are those that
//! the shard alone would have made.

mod block;
mod cutter;
mod letters;
mod pool;
mod taking;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam::queue::ArrayQueue;

use super::{Content, READ_BYTES};
use crate::{Waker, formats::Decoder, lock::lock};
use block::Block;
use cutter::{Cutter, Start};

use block::Reading;
pub(crate) use pool::Decoders;

/// Blocks of a partition besides one for each thread: one that is taken from, one that the shard decodes, and one that
/// is ready.
const SPARE_BLOCKS: usize = 3;

/// What a block takes at most with its rows, unless a record is longer than what is read at a time.
const BLOCK_MEMORY_BYTES: u64 = 4 * READ_BYTES as u64;

/// What the blocks of one file take that so many threads decode ahead.
pub(crate) fn memory_bytes(threads: usize, record_bytes_max: usize) -> u64 {
    if threads == 0 {
        return 0;
    }
    // Cutting stops when the blocks hold as much as they are made for: one may come to hold a record of any length, twice.
    (threads + SPARE_BLOCKS) as u64 * BLOCK_MEMORY_BYTES + 4 * record_bytes_max as u64
}

/// What the threads and the shard share.
pub(super) struct Work {
    cutter: Mutex<Cutter>,
    /// bytes of the blocks that are cut and not taken: added to by whoever cuts, under the lock, and taken from by the
    /// shard. Relaxed: what it limits is memory, and a little more does no harm.
    bytes: AtomicUsize,
    bytes_max: usize,
    /// blocks that may be filled
    free: ArrayQueue<Block>,
    /// blocks that are decoded, in any order
    decoded: ArrayQueue<Block>,
    waker: Waker,
}

impl Work {
    /// Decodes one more block; `false` if there is none, or none may be filled.
    fn decode_one(&self) -> bool {
        if self.bytes.load(Ordering::Relaxed) >= self.bytes_max {
            return false;
        }
        let Some(block) = self.free.pop() else { return false };
        let mut hand = Hand { work: self, block: Some(block) };
        let Some(block) = &mut hand.block else { return false };
        {
            let mut cutter = lock(&self.cutter);
            if !cutter.cut(block) {
                hand.block = None;
                return false;
            }
            self.bytes.fetch_add(block.bytes.len(), Ordering::Relaxed);
        }
        if block.fault.is_none() {
            // Believed only if decoding panics.
            block.fault = Some((block.offset, io::Error::other("a thread that decodes died")));
            block.decode();
            block.fault = None;
        }
        true
    }
}

/// A block that is being decoded. Whatever comes, the shard gets it.
struct Hand<'a> {
    work: &'a Work,
    block: Option<Block>,
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            // There is room for all blocks.
            let _ = self.work.decoded.push(block);
            (self.work.waker)();
        }
    }
}

/// The shard's side: a file's blocks, one after the other.
pub(super) struct Ahead {
    work: Arc<Work>,
    decoders: Arc<Decoders>,
    /// decoded, and not their turn yet
    early: Vec<Block>,
    /// number of the next block
    next: u64,
    /// the one that is taken from
    block: Option<Block>,
}

impl Ahead {
    /// Begins to decode `content`, which stands behind what `start` has read of it.
    pub fn new(
        content: Content,
        start: Start,
        reading: Reading,
        decoder: &Decoder,
        decoders: &Arc<Decoders>,
        waker: Waker,
    ) -> Ahead {
        let blocks = decoders.threads() + SPARE_BLOCKS;
        let (free, record_bytes_max) = (ArrayQueue::new(blocks), reading.record_bytes_max);
        let reading = Arc::new(reading);
        for _ in 0..blocks {
            let _ = free.push(Block::new(Arc::clone(&reading), decoder.clone()));
        }
        let cutter = Cutter::new(content, decoder.format(), start, decoders.block_bytes, record_bytes_max);
        let work = Arc::new(Work {
            cutter: Mutex::new(cutter),
            bytes: AtomicUsize::new(0),
            bytes_max: blocks * decoders.block_bytes,
            free,
            decoded: ArrayQueue::new(blocks),
            waker,
        });
        (0..blocks).for_each(|_| decoders.call(&work));
        Ahead { work, decoders: Arc::clone(decoders), early: Vec::with_capacity(blocks), next: 0, block: None }
    }

    /// The block whose records come next. `None`: others decode it, and the waker will be called.
    pub fn block(&mut self) -> Option<&mut Block> {
        if self.block.is_none() {
            self.block = self.receive();
        }
        self.block.as_mut()
    }

    fn receive(&mut self) -> Option<Block> {
        loop {
            while let Some(block) = self.work.decoded.pop() {
                self.early.push(block);
            }
            if let Some(index) = self.early.iter().position(|block| block.number == self.next) {
                self.next += 1;
                return Some(self.early.swap_remove(index));
            }
            if !self.work.decode_one() {
                return None;
            }
        }
    }

    /// The block is taken: its memory serves for another.
    pub fn finish_block(&mut self) {
        if let Some(mut block) = self.block.take() {
            self.work.bytes.fetch_sub(block.bytes.len(), Ordering::Relaxed);
            block.shrink(4 * self.decoders.block_bytes);
            let _ = self.work.free.push(block);
            self.decoders.call(&self.work);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Nobody need decode any more.
        while self.work.free.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests;
