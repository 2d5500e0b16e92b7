//! Rows in a stretch of words without the gaps of a region: to be kept for a while and copied into a region again.
//!
//! Never leaves the process. Each column takes a word (bytes of its values, rows without a value), then its validity if a
//! value is missing, its offsets if it is of variable width, and its values, each from a word's start on.
#![allow(unsafe_code)]

use crate::schema::Schema;
use crate::view::ColumnParts;

const WORD: usize = size_of::<u64>();

/// Words that [`pack`] needs for these columns. Never more than a region of theirs has.
#[must_use]
pub fn packed_words(parts: &[ColumnParts]) -> usize {
    let words = |part: &ColumnParts| {
        let buffers = Buffers::of(part.rows, part.values_bytes, part.null_count, !part.offsets.is_null());
        1 + buffers.validity + buffers.offsets + buffers.values
    };
    parts.iter().map(words).sum()
}

/// Copies columns into `out`.
///
/// Panics if `out` is not [`packed_words`] long.
///
/// # Safety
/// As for [`BatchView::from_parts`](crate::BatchView::from_parts), with all rows of the parts.
pub unsafe fn pack(parts: &[ColumnParts], out: &mut [u64]) {
    assert_eq!(out.len(), packed_words(parts), "rows are packed into as many words as they need");
    let mut rest = out;
    for part in parts {
        let buffers = Buffers::of(part.rows, part.values_bytes, part.null_count, !part.offsets.is_null());
        let (head, others) = rest.split_at_mut(1);
        head[0] = u64::from(part.values_bytes) << 32 | u64::from(part.null_count);
        let (validity, others) = others.split_at_mut(buffers.validity);
        let (offsets, others) = others.split_at_mut(buffers.offsets);
        let (values, others) = others.split_at_mut(buffers.values);
        rest = others;
        let rows = part.rows as usize;
        // SAFETY: the caller vouches for what is read; each target has room for as many bytes, rounded up to words.
        unsafe {
            if !validity.is_empty() {
                copy(part.validity, rows.div_ceil(8), validity);
            }
            if !offsets.is_empty() {
                copy(part.offsets.cast(), 4 * (rows + 1), offsets);
            }
            copy(part.values, part.values_bytes as usize, values);
        }
    }
}

/// The parts of `rows` packed rows of `schema`; replaces what `parts` held. They are good as long as `packed` is.
///
/// Panics if the words are not what [`pack`] made of such rows.
pub fn unpack(schema: &Schema, rows: u32, packed: &[u64], parts: &mut Vec<ColumnParts>) {
    parts.clear();
    let mut rest = packed;
    for field in &schema.fields {
        let (head, others) = rest.split_at(1);
        let (values_bytes, null_count) = ((head[0] >> 32) as u32, head[0] as u32);
        let buffers = Buffers::of(rows, values_bytes, null_count, field.data_type.is_variable());
        let (validity, others) = others.split_at(buffers.validity);
        let (offsets, others) = others.split_at(buffers.offsets);
        let (values, others) = others.split_at(buffers.values);
        rest = others;
        let start = |buffer: &[u64]| if buffer.is_empty() { std::ptr::null() } else { buffer.as_ptr() };
        parts.push(ColumnParts {
            data_type: field.data_type,
            rows,
            values: values.as_ptr().cast(),
            values_bytes,
            offsets: start(offsets).cast(),
            validity: start(validity).cast(),
            null_count,
        });
    }
    assert!(rest.is_empty(), "{} words too many for {rows} rows", rest.len());
}

/// Words of each buffer of a column.
struct Buffers {
    validity: usize,
    offsets: usize,
    values: usize,
}

impl Buffers {
    fn of(rows: u32, values_bytes: u32, null_count: u32, has_offsets: bool) -> Buffers {
        let rows = rows as usize;
        Buffers {
            validity: if null_count == 0 { 0 } else { rows.div_ceil(8).div_ceil(WORD) },
            offsets: if has_offsets { (4 * (rows + 1)).div_ceil(WORD) } else { 0 },
            values: (values_bytes as usize).div_ceil(WORD),
        }
    }
}

/// # Safety
/// `from` is readable for `bytes` bytes, which are no more than `out` has, and does not overlap it.
unsafe fn copy(from: *const u8, bytes: usize, out: &mut [u64]) {
    debug_assert!(bytes <= size_of_val(out));
    // SAFETY: passed on from the caller.
    unsafe { out.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(from, bytes) };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{BatchView, Capacity, DataType, Field, HeapBatch, Template};

    fn batch(rows: u32) -> HeapBatch {
        let fields = vec![
            Field::new("key", DataType::Utf8),
            Field { nullable: true, ..Field::new("flag", DataType::Bool) },
            Field { nullable: true, ..Field::new("value", DataType::Float64) },
            Field::new("count", DataType::Int32),
        ];
        let schema = Arc::new(Schema::new(fields).unwrap());
        let capacity = Capacity { rows_max: 200, variable_bytes_max: 4096 };
        let mut batch = HeapBatch::new(Arc::new(Template::new(schema, capacity).unwrap()));
        let writer = batch.writer();
        for row in 0..rows {
            writer.push_str(0, &"é".repeat(row as usize % 5)).unwrap();
            if row % 3 == 1 {
                writer.push_null(1)
            } else {
                writer.push_bool(1, row % 2 == 0)
            }
            writer.push(2, f64::from(row) / 7.0);
            writer.push(3, row as i32);
            writer.finish_row();
        }
        batch
    }

    #[test]
    fn packed_rows_come_back_as_they_were_and_take_no_more_room_than_a_region() {
        for rows in [0, 1, 2, 7, 8, 9, 64, 65, 200] {
            let (original, mut parts) = (batch(rows), Vec::new());
            original.view().parts(&mut parts);
            let mut packed = vec![u64::MAX; packed_words(&parts)];
            assert!(packed.len() * WORD <= original.template().bytes(), "{rows} rows");
            // SAFETY: the parts are those of a live view.
            unsafe { pack(&parts, &mut packed) };
            unpack(original.template().schema(), rows, &packed, &mut parts);
            // SAFETY: the parts lie in `packed`, which lives as long as the view.
            let view = unsafe { BatchView::from_parts(original.template().schema(), rows as usize, &parts) };
            let mut copy = HeapBatch::new(original.template().clone());
            assert_eq!(copy.writer().copy_rows(&view, 0..rows as usize), rows as usize);
            let mut original = original;
            assert!(copy.flatbuffer() == original.flatbuffer(), "{rows} rows");
        }
    }
}
