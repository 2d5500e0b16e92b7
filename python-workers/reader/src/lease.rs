//! The right to look into a slot, and how it is given back.
//!
//! A [`Lease`] is the Python object that every array over a slot has as its base, so a slot is unseen exactly when its
//! lease object has no reference but the worker's. What Rust or foreign code holds without a Python reference (Arrow
//! consumers, which may let go without the GIL) holds the [`Hold`] inside. When the last of both is gone after the slot
//! was answered as leased, [`Returned`] hears of it, and the worker tells the core.
//!
//! The lease offers no buffer and no methods: there is no way to the memory but through arrays, which are counted.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use ringmill_ring::MappingGuard;
use ringmill_wire::HeapBatch;

/// Keeps what it is over from being unmapped, freed or written again.
#[pyclass(frozen, module = "ringmill._reader")]
pub(crate) struct Lease {
    hold: Arc<Hold>,
}

/// The memory that a lease is over.
enum Memory {
    /// A slot of a channel; the mapping outlives the worker object if a view does.
    Slot { _mapping: MappingGuard, slot: u32, batch: AtomicU64, is_leased: AtomicBool, returned: Arc<Returned> },
    /// Memory of this process: a batch, and room for a response.
    Heap { _batch: Box<HeapBatch>, _response: Option<ResponseRoom> },
}

/// 64 bytes, aligned as a region is.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; 64],
}

/// Memory for a response that is not in a slot.
pub(crate) struct ResponseRoom {
    start: NonNull<Line>,
    lines: usize,
}

// SAFETY: the value owns its memory, like the `Box<[Line]>` that it was made from.
unsafe impl Send for ResponseRoom {}
// SAFETY: as above; only the arrays that are made over it read or write it.
unsafe impl Sync for ResponseRoom {}

impl ResponseRoom {
    /// Zeroed room for `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> ResponseRoom {
        let lines = Box::leak(vec![Line { _bytes: [0; 64] }; bytes.div_ceil(64)].into_boxed_slice());
        ResponseRoom { lines: lines.len(), start: NonNull::from(lines).cast() }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start.cast()
    }
}

impl Drop for ResponseRoom {
    fn drop(&mut self) {
        let lines = NonNull::slice_from_raw_parts(self.start, self.lines);
        // SAFETY: this is the box that `new` leaked.
        drop(unsafe { Box::from_raw(lines.as_ptr()) });
    }
}

/// The part of a lease that needs no GIL.
pub(crate) struct Hold {
    memory: Memory,
}

/// Slots whose last view is gone: written by whichever thread let it go, read by the worker.
#[derive(Default)]
pub(crate) struct Returned {
    /// Set after an entry was added; lets the worker look without taking the lock.
    any: AtomicBool,
    slots: Mutex<Vec<(u32, u64)>>,
}

impl Returned {
    /// Takes what has come back since the last call: slot and batch.
    pub(crate) fn take(&self) -> Vec<(u32, u64)> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut *slots)
    }

    fn add(&self, slot: u32, batch: u64) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.push((slot, batch));
        self.any.store(true, Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Memory::Slot { slot, batch, is_leased, returned, .. } = &self.memory
            && is_leased.load(Ordering::Relaxed)
        {
            returned.add(*slot, batch.load(Ordering::Relaxed));
        }
    }
}

impl Lease {
    /// A lease over slot `slot` of a channel.
    pub(crate) fn over_slot(mapping: MappingGuard, slot: u32, returned: Arc<Returned>) -> Lease {
        let memory = Memory::Slot {
            _mapping: mapping,
            slot,
            batch: AtomicU64::new(0),
            is_leased: AtomicBool::new(false),
            returned,
        };
        Lease { hold: Arc::new(Hold { memory }) }
    }

    /// A lease that owns the memory it is over.
    pub(crate) fn over_heap(batch: Box<HeapBatch>, response: Option<ResponseRoom>) -> Lease {
        Lease { hold: Arc::new(Hold { memory: Memory::Heap { _batch: batch, _response: response } }) }
    }

    /// For a holder without a Python reference.
    pub(crate) fn hold(&self) -> Arc<Hold> {
        Arc::clone(&self.hold)
    }

    /// Whether nobody holds the lease but this object.
    pub(crate) fn is_unheld(&self) -> bool {
        let unheld = Arc::strong_count(&self.hold) == 1;
        if unheld {
            // SYNC: pairs with the Release decrement of the thread that let go last, so that its reads of the slot
            // cannot move behind the writes of whoever uses the slot next.
            fence(Ordering::Acquire);
        }
        unheld
    }

    /// Says that the slot's answer to `batch` is published as leased: the last to let go reports it.
    pub(crate) fn lend(&self, leased_batch: u64) {
        if let Memory::Slot { batch, is_leased, .. } = &self.hold.memory {
            batch.store(leased_batch, Ordering::Relaxed);
            is_leased.store(true, Ordering::Relaxed);
        }
    }
}
