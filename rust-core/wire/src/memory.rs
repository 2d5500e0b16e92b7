//! Heap memory that starts at a 64-byte boundary.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::template::ALIGNMENT;

/// Room for the boundary.
const SPARE: usize = ALIGNMENT - 1;

/// An owned allocation, aligned and zeroed. A page of a large one takes memory when it is first written to.
#[derive(Debug)]
pub(crate) struct AlignedMemory {
    /// A box's, with `SPARE` bytes more than are used.
    allocated: NonNull<[u8]>,
}

// SAFETY: the allocation is owned and reached through this value alone, like a Box<[u8]>.
unsafe impl Send for AlignedMemory {}
// SAFETY: a shared reference gives out the address only.
unsafe impl Sync for AlignedMemory {}

impl AlignedMemory {
    /// `bytes` (at least 1) zeroed bytes. Aborts, like every allocation, when there is no memory.
    pub(crate) fn new(bytes: usize) -> AlignedMemory {
        assert!(bytes > 0, "an empty region has no address");
        // Memory that is aligned by the allocator is zeroed by hand, and all of it then taken at once.
        let allocated = vec![0; bytes + SPARE].into_boxed_slice();
        AlignedMemory { allocated: NonNull::from(Box::leak(allocated)) }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        let allocated = self.allocated.cast::<u8>();
        // SAFETY: a boundary is at most `SPARE` bytes away, and so many more were allocated.
        unsafe { allocated.add(allocated.align_offset(ALIGNMENT)) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.allocated.len() - SPARE
    }
}

impl Drop for AlignedMemory {
    fn drop(&mut self) {
        // SAFETY: leaked in `new`, and taken back once, here.
        drop(unsafe { Box::from_raw(self.allocated.as_ptr()) });
    }
}
