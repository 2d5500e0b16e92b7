//! Heap memory that starts at a 64-byte boundary.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::template::ALIGNMENT;

/// An owned allocation, aligned and zeroed.
#[derive(Debug)]
pub(crate) struct AlignedMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation is owned and reached through this value alone, like a Box<[u8]>.
unsafe impl Send for AlignedMemory {}
// SAFETY: a shared reference gives out the address only.
unsafe impl Sync for AlignedMemory {}

impl AlignedMemory {
    /// `bytes` (at least 1) zeroed bytes. Aborts, like every allocation, when there is no memory.
    pub(crate) fn new(bytes: usize) -> AlignedMemory {
        assert!(bytes > 0, "an empty region has no address");
        let layout = Layout::from_size_align(bytes, ALIGNMENT).expect("a region is below 2 GiB");
        // SAFETY: the layout is not of size zero (asserted above).
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => AlignedMemory { start, layout },
            None => handle_alloc_error(layout),
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for AlignedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed once, here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
