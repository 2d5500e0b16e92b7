//! Heap memory that starts at a 64-byte boundary.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::template::ALIGNMENT;

/// An owned allocation, aligned and zeroed. A page of a large one takes memory when it is first written to.
#[derive(Debug)]
pub(crate) struct AlignedMemory {
    allocated: NonNull<u8>,
    /// With room for the boundary.
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
        // Memory that is aligned by the allocator is zeroed by hand, and all of it then taken at once.
        let layout = Layout::array::<u8>(bytes + ALIGNMENT - 1).expect("a region is below 2 GiB");
        // SAFETY: the layout is not of size zero (asserted above).
        let allocated = unsafe { alloc_zeroed(layout) };
        match NonNull::new(allocated) {
            Some(allocated) => AlignedMemory { allocated, layout },
            None => handle_alloc_error(layout),
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        let before = self.allocated.align_offset(ALIGNMENT);
        // SAFETY: a boundary is at most `ALIGNMENT - 1` bytes away, and so many more were allocated.
        unsafe { self.allocated.add(before) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.layout.size() - (ALIGNMENT - 1)
    }
}

impl Drop for AlignedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed once, here.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) }
    }
}
