//! The threads that decode beside the shards.

use std::{io, sync::Arc, thread};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Work;
use crate::text::READ_BYTES;

/// So many calls wait at most; a shard that is not heard decodes its block itself.
const CALLS_MAX: usize = 1024;

/// Threads that decode blocks for all partitions of a source. They end when the last partition lets go of them.
///
/// They are started where the source is opened, not by a shard: a shard's thread may be pinned, and its priority raised.
pub(crate) struct Decoders {
    threads: usize,
    calls: Sender<Arc<Work>>,
    pub(super) block_bytes: usize,
}

impl Decoders {
    /// So many of them.
    pub fn start(threads: usize) -> io::Result<Arc<Decoders>> {
        Decoders::of_blocks(threads, READ_BYTES)
    }

    /// The same, for blocks of about `block_bytes`.
    pub fn of_blocks(threads: usize, block_bytes: usize) -> io::Result<Arc<Decoders>> {
        let (calls, called) = bounded::<Arc<Work>>(CALLS_MAX);
        for _ in 0..threads {
            let called = called.clone();
            let name = "ringmill-decoder".to_owned();
            thread::Builder::new().name(name).spawn(move || serve(&called))?;
        }
        Ok(Arc::new(Decoders { threads, calls, block_bytes }))
    }

    /// Shorter files are decoded by their shard alone.
    pub fn file_bytes_min(&self) -> u64 {
        4 * self.block_bytes as u64
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// One of the threads shall decode a block of this.
    pub(super) fn call(&self, work: &Arc<Work>) {
        let _ = self.calls.try_send(Arc::clone(work));
    }
}

fn serve(calls: &Receiver<Arc<Work>>) {
    for work in calls {
        work.decode_one();
    }
}
