//! Taking a batch over from a process that is not trusted: copy first, then judge the copy.
//!
//! The region's tables and vtables are never followed: the template says where everything stands. Of the region are read,
//! once each: its lengths (bounded at once), then the bytes within these lengths. Everything after that looks at private
//! memory only, so a writer that goes on scribbling changes nothing.
#![allow(unsafe_code)]

use crate::data_type::DataType;
use crate::error::WireError;
use crate::heap_batch::HeapBatch;
use crate::lengths::Lengths;
use crate::schema::Field;
use crate::template::Template;
use crate::view::{BatchView, ColumnView};

impl Template {
    /// Copies a batch of `expected_rows` rows out of a region that its writer may still be writing, into `out`, and
    /// verifies the copy: lengths and row count against every column, null counts against bitmaps, offsets in order and
    /// in range, text valid, bools 0 or 1. What `out` held before is gone; after an error it is empty.
    ///
    /// `out` keeps its room for lengths, so nothing is allocated.
    ///
    /// # Errors
    /// Whatever is wrong with the region, as a [`WireError`] that names the column and the rule;
    /// [`WireError::OtherTemplate`] if `out` was made with another template.
    ///
    /// # Safety
    /// As for [`Template::read_lengths`].
    pub unsafe fn copy_untrusted(
        &self,
        memory: *const u8,
        expected_rows: u32,
        out: &mut HeapBatch,
    ) -> Result<(), WireError> {
        if out.template().hash() != self.hash() {
            return Err(WireError::OtherTemplate { expected: self.hash(), found: out.template().hash() });
        }
        out.clear();
        let mut lengths = std::mem::take(&mut out.lengths);
        // SAFETY: passed on to the caller.
        let result = unsafe { self.read_lengths(memory, &mut lengths) }.and_then(|rows| {
            if rows != expected_rows {
                return Err(WireError::WrongRows { expected: expected_rows, found: rows });
            }
            // SAFETY: the lengths were just read from this region.
            unsafe { self.copy_buffers(memory, &lengths, out) };
            verify(&out.view())
        });
        if result.is_err() {
            out.clear();
        }
        out.lengths = lengths;
        result
    }

    /// # Safety
    /// As for [`Template::read_lengths`], which must have accepted `lengths`.
    unsafe fn copy_buffers(&self, memory: *const u8, lengths: &Lengths, out: &mut HeapBatch) {
        let rows = lengths.rows() as usize;
        let writer = out.writer();
        for ((layout, length), column) in self.columns().iter().zip(lengths.columns()).zip(&mut *writer.columns) {
            // SAFETY: `lengths` bounds every copy by the layout, which is the same on both sides (equal hashes); `out`
            // is private memory, so source and target do not overlap. That another process may write the source during
            // the copy can only change the bytes copied: they are of types that take every pattern, and judged later.
            unsafe {
                let values = memory.add(layout.values_offset);
                column.values.copy_from_nonoverlapping(values, length.values_bytes as usize);
                if let Some(offset) = layout.offsets_offset {
                    column.offsets.copy_from_nonoverlapping(memory.add(offset).cast(), rows + 1);
                }
                if let Some(offset) = layout.validity_offset.filter(|_| length.null_count > 0) {
                    column.validity.copy_from_nonoverlapping(memory.add(offset), rows.div_ceil(8));
                }
            }
            column.next = lengths.rows();
            column.null_count = length.null_count;
            column.used = if layout.offsets_offset.is_some() { length.values_bytes } else { 0 };
        }
        writer.rows = lengths.rows();
    }
}

/// Judges what the buffers of private memory say; their lengths fit the rows.
pub(crate) fn verify(view: &BatchView<'_>) -> Result<(), WireError> {
    for (field, column) in view.schema().fields.iter().zip(view.columns()) {
        if column.validity().is_some() {
            verify_validity(field, &column)?;
        }
        if field.data_type.is_variable() {
            verify_offsets(field, &column)?;
        }
        match field.data_type {
            DataType::Bool => verify_bools(field, &column)?,
            DataType::Utf8 => verify_text(field, &column)?,
            _ => {}
        }
    }
    Ok(())
}

fn verify_validity(field: &Field, column: &ColumnView<'_>) -> Result<(), WireError> {
    let rows = column.rows();
    let bits = column.validity().unwrap_or(&[]);
    let mut valid: usize = bits.iter().map(|byte| byte.count_ones() as usize).sum();
    if !rows.is_multiple_of(8) {
        let beyond = bits[rows / 8] >> (rows % 8);
        valid -= beyond.count_ones() as usize;
    }
    if rows - valid == column.null_count() {
        return Ok(());
    }
    Err(WireError::WrongNullCount {
        column: field.name.clone(),
        found: column.null_count() as u32,
        rule: format!("{}, the zero bits of the validity bitmap", rows - valid),
    })
}

fn verify_offsets(field: &Field, column: &ColumnView<'_>) -> Result<(), WireError> {
    let offsets = column.offsets();
    let items = (column.value_bytes().len() / field.data_type.item_width()) as i32;
    let wrong =
        |index: usize, rule| WireError::WrongOffset { column: field.name.clone(), index, found: offsets[index], rule };
    if offsets[0] != 0 {
        return Err(wrong(0, "the first is 0".to_owned()));
    }
    // One pass without exits, so that it is vectorised; the place is looked for only when there is one.
    if !offsets.windows(2).fold(true, |rising, pair| rising & (pair[0] <= pair[1])) {
        let index = offsets.windows(2).position(|pair| pair[0] > pair[1]).unwrap_or(0) + 1;
        return Err(wrong(index, format!("at least the one before, {}", offsets[index - 1])));
    }
    let last = offsets.len() - 1;
    if offsets[last] != items {
        return Err(wrong(last, format!("the last is {items}, the end of the values")));
    }
    Ok(())
}

fn verify_bools(field: &Field, column: &ColumnView<'_>) -> Result<(), WireError> {
    let values = column.values::<u8>();
    if values.iter().fold(0, |seen, value| seen | value) <= 1 {
        return Ok(());
    }
    let row = values.iter().position(|&value| value > 1).unwrap_or(0);
    Err(WireError::WrongBool { column: field.name.clone(), row, found: values[row] })
}

/// The offsets are verified. Valid as a whole and cut between characters means valid in every row.
fn verify_text(field: &Field, column: &ColumnView<'_>) -> Result<(), WireError> {
    let offsets = column.offsets();
    let row_of = |byte: usize| offsets.partition_point(|&offset| offset as usize <= byte) - 1;
    let wrong = |row| WireError::WrongUtf8 { column: field.name.clone(), row };
    let bytes = column.value_bytes();
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(row_of(error.valid_up_to())))?;
    if text.is_ascii() {
        return Ok(());
    }
    match offsets.iter().position(|&offset| !text.is_char_boundary(offset as usize)) {
        None => Ok(()),
        Some(index) => Err(wrong(index - 1)),
    }
}
