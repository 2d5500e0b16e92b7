//! Stamping: writing a complete, empty FlatBuffer into a region.
//!
//! Done once per region. Afterwards a writer changes only the values, the lengths before them, the row count and the
//! null counts; the vtables and tables stay as they are here. Every byte that is not part of a buffer's capacity is
//! written, so no byte that lay there before can be mistaken for part of a batch.
#![allow(unsafe_code)]

use crate::template::{
    ALIGNMENT, COLUMN_TABLE_BYTES, COLUMNS_VECTOR, ColumnLayout, ROOT_TABLE, SCHEMA_HASH, Template, column_table,
};

const FILE_IDENTIFIER: [u8; 4] = *b"RMB1";
const BATCH_VTABLE: usize = 8;
const COLUMN_VTABLES: usize = 20;
const COLUMN_VTABLE_BYTES: usize = 12;
const _: () = assert!(COLUMN_VTABLES + 4 * COLUMN_VTABLE_BYTES <= ROOT_TABLE && SCHEMA_HASH.is_multiple_of(8));

impl Template {
    /// Writes the complete FlatBuffer of an empty batch. The bytes of the buffers themselves are left as they are.
    ///
    /// # Safety
    /// `memory` must start at a multiple of [`ALIGNMENT`], be valid for writes of [`Template::bytes`] bytes, and be
    /// written by nobody else meanwhile.
    pub unsafe fn stamp(&self, memory: *mut u8) {
        assert_eq!(memory as usize % ALIGNMENT, 0, "a region starts at a multiple of {ALIGNMENT}");
        // SAFETY: the caller vouches for the memory; every offset below is within `bytes()` by construction.
        let region = Region { memory };
        region.zero(0, self.first_buffer());
        region.u32(0, ROOT_TABLE);
        region.bytes(4, &FILE_IDENTIFIER);
        self.stamp_vtables(&region);

        region.i32(ROOT_TABLE, (ROOT_TABLE - BATCH_VTABLE) as i32);
        region.bytes(SCHEMA_HASH, &self.schema_hash().to_le_bytes());
        region.reference(ROOT_TABLE + 16, COLUMNS_VECTOR);
        region.u32(COLUMNS_VECTOR, self.columns().len());
        let mut end = self.first_buffer();
        for (index, column) in self.columns().iter().enumerate() {
            let table = column_table(self.columns().len(), index);
            region.reference(COLUMNS_VECTOR + 4 + 4 * index, table);
            region.i32(table, (table - vtable_of(column)) as i32);
            for (field, buffer) in
                [(4, Some(column.values_offset)), (8, column.offsets_offset), (12, column.validity_offset)]
            {
                if let Some(buffer) = buffer {
                    region.reference(table + field, buffer - 4);
                }
            }
            for (start, bytes) in buffers(self, column) {
                region.zero(end, start - end);
                end = start + bytes;
            }
            if let Some(offsets) = column.offsets_offset {
                region.u32(offsets - 4, 1);
                region.u32(offsets, 0);
            }
        }
        region.zero(end, self.bytes() - end);
    }

    /// Where the first buffer's length stands, which is where the tables have ended.
    fn first_buffer(&self) -> usize {
        column_table(self.columns().len(), self.columns().len())
    }

    fn stamp_vtables(&self, region: &Region) {
        // MicroBatch: rows at 4, columns at 16, schema_hash at 8 (a multiple of 8 in the region) of a 20-byte table.
        for (index, entry) in [10u16, 20, 4, 16, 8].into_iter().enumerate() {
            region.bytes(BATCH_VTABLE + 2 * index, &entry.to_le_bytes());
        }
        for variant in 0..4 {
            let offsets = if variant & 1 != 0 { 8 } else { 0 };
            let validity = if variant & 2 != 0 { 12 } else { 0 };
            let vtable = [COLUMN_VTABLE_BYTES as u16, COLUMN_TABLE_BYTES as u16, 4, offsets, validity, 16];
            for (index, entry) in vtable.into_iter().enumerate() {
                region.bytes(COLUMN_VTABLES + COLUMN_VTABLE_BYTES * variant + 2 * index, &entry.to_le_bytes());
            }
        }
    }
}

fn vtable_of(column: &ColumnLayout) -> usize {
    let variant = usize::from(column.offsets_offset.is_some()) + 2 * usize::from(column.validity_offset.is_some());
    COLUMN_VTABLES + COLUMN_VTABLE_BYTES * variant
}

/// A column's buffers in the order in which they lie: start and capacity in bytes.
fn buffers(template: &Template, column: &ColumnLayout) -> impl Iterator<Item = (usize, usize)> {
    let offsets_bytes = 4 * (template.capacity().rows_max as usize + 1);
    [
        column.validity_offset.map(|start| (start, column.validity_capacity)),
        column.offsets_offset.map(|start| (start, offsets_bytes)),
        Some((column.values_offset, column.values_capacity)),
    ]
    .into_iter()
    .flatten()
}

/// The memory that is being stamped.
struct Region {
    memory: *mut u8,
}

impl Region {
    fn zero(&self, at: usize, bytes: usize) {
        // SAFETY: `stamp`'s caller vouches for the region; all callers here stay within it.
        unsafe { self.memory.add(at).write_bytes(0, bytes) }
    }

    fn bytes(&self, at: usize, bytes: &[u8]) {
        // SAFETY: as for `zero`; the source is a slice of ours, so the two cannot overlap.
        unsafe { self.memory.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    fn u32(&self, at: usize, value: usize) {
        self.bytes(at, &(value as u32).to_le_bytes());
    }

    fn i32(&self, at: usize, value: i32) {
        self.bytes(at, &value.to_le_bytes());
    }

    /// A FlatBuffers offset at `at` to what stands at `target`, which is further on.
    fn reference(&self, at: usize, target: usize) {
        self.u32(at, target - at);
    }
}
