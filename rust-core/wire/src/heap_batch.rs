//! A batch in memory of our own.
#![allow(unsafe_code)]

use std::sync::Arc;

use crate::lengths::Lengths;
use crate::memory::AlignedMemory;
use crate::template::Template;
use crate::view::BatchView;
use crate::writer::BatchWriter;

/// An owned batch: 64-byte aligned, stamped once, open for writing from the start, and used again after
/// [`HeapBatch::clear`] without allocating.
#[derive(Debug)]
pub struct HeapBatch {
    writer: BatchWriter,
    /// Room for `Template::copy_untrusted`, kept from one batch to the next.
    pub(crate) lengths: Lengths,
}

impl HeapBatch {
    /// An empty batch.
    #[must_use]
    pub fn new(template: Arc<Template>) -> HeapBatch {
        let memory = AlignedMemory::new(template.bytes());
        // SAFETY: the allocation is aligned, as long as the template says, and nobody else knows it yet.
        unsafe { template.stamp(memory.start().as_ptr()) };
        let columns = Vec::with_capacity(template.schema().len());
        let lengths = Lengths { rows: 0, columns };
        let mut writer = BatchWriter::new(template);
        writer.owned = Some(memory);
        let mut batch = HeapBatch { writer, lengths };
        batch.clear();
        batch
    }

    /// The same batch, whose rows carry tags ([`BatchWriter::carry_tags`]) if `are_tagged`.
    #[must_use]
    pub fn tagged(mut self, are_tagged: bool) -> HeapBatch {
        if are_tagged {
            self.writer.carry_tags();
        }
        self
    }

    /// The batch's template.
    #[must_use]
    pub fn template(&self) -> &Arc<Template> {
        self.writer.template()
    }

    /// The cursor that fills the batch.
    pub fn writer(&mut self) -> &mut BatchWriter {
        &mut self.writer
    }

    /// The finished rows, also before the batch is closed.
    #[must_use]
    pub fn view(&self) -> BatchView<'_> {
        assert!(self.writer.owned.is_some(), "the batch's own writer was swapped for one without memory");
        BatchView::of_writer(&self.writer)
    }

    /// How many rows are finished.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.writer.rows()
    }

    /// Forgets all rows and opens the batch anew.
    pub fn clear(&mut self) {
        let memory = self.writer.owned.as_ref().expect("the batch's own writer has its memory").start();
        // SAFETY: the memory belongs to this very writer and was stamped with its template; the borrow is exclusive.
        unsafe { self.writer.open(memory) };
    }

    /// The whole region as a FlatBuffer of the finished rows; an unfinished row is discarded.
    pub fn flatbuffer(&mut self) -> &[u8] {
        if self.writer.is_open() {
            self.writer.discard_row();
            self.writer.patch();
        }
        let memory = self.writer.owned.as_ref().expect("the batch's own writer has its memory");
        // SAFETY: the allocation is initialised (zeroed), and borrowed from `self` for as long as the slice.
        unsafe { std::slice::from_raw_parts(memory.start().as_ptr(), memory.bytes()) }
    }
}
