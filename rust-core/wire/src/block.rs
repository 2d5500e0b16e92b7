//! Rows as a stretch of bytes that a disk can keep: put at the end of a buffer, and read back into a batch.
//!
//! A block is a [`BlockHead`] and, for each column, the bytes of its values and its rows without a value (two `u32`), then
//! its validity if a value is missing, its offsets if it is of variable width, and its values. Numbers are little-endian;
//! nothing is aligned. Whoever reads has the schema from elsewhere ([`Schema::hash`](crate::Schema::hash) tells whether it
//! is the same one).
//!
//! Reading believes nothing: a block that was not made here is refused, as a worker's batch is.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::error::WireError;
use crate::heap_batch::HeapBatch;
use crate::lengths::ColumnLengths;
use crate::schema::Field;
use crate::template::{Capacity, ColumnLayout, Template};
use crate::untrusted::verify;
use crate::view::{BatchView, ColumnView};

/// What stands before the columns of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// Its rows.
    pub rows: u32,
    /// Bytes of its longest column of variable width.
    pub variable_bytes_max: u32,
    /// Bytes of its columns.
    pub bytes: u64,
}

impl BlockHead {
    /// Bytes of a head.
    pub const BYTES: usize = 16;

    /// As it stands in memory.
    #[must_use]
    pub fn read(bytes: [u8; Self::BYTES]) -> BlockHead {
        let word = u128::from_le_bytes(bytes);
        BlockHead { rows: word as u32, variable_bytes_max: (word >> 32) as u32, bytes: (word >> 64) as u64 }
    }

    fn write(&self) -> [u8; Self::BYTES] {
        let variable = u128::from(self.variable_bytes_max) << 32;
        (u128::from(self.rows) | variable | u128::from(self.bytes) << 64).to_le_bytes()
    }

    /// What a batch has to hold for the block.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity { rows_max: self.rows.max(1), variable_bytes_max: self.variable_bytes_max }
    }
}

impl BatchView<'_> {
    /// Appends these rows to `out` as one block.
    pub fn put_block(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; BlockHead::BYTES]);
        let mut variable_bytes_max = 0;
        for column in self.columns() {
            let values_bytes = put_column(&column, rows.clone(), out);
            if column.data_type().is_variable() {
                variable_bytes_max = variable_bytes_max.max(values_bytes);
            }
        }
        let bytes = (out.len() - start - BlockHead::BYTES) as u64;
        let head = BlockHead { rows: rows.len() as u32, variable_bytes_max, bytes };
        out[start..start + BlockHead::BYTES].copy_from_slice(&head.write());
    }
}

/// Returns the bytes of the values.
fn put_column(column: &ColumnView<'_>, rows: Range<usize>, out: &mut Vec<u8>) -> u32 {
    let width = column.data_type().item_width();
    let offsets = column.data_type().is_variable().then(|| &column.offsets()[rows.start..=rows.end]);
    let items = offsets.map_or(rows.clone(), |offsets| offsets[0] as usize..offsets[rows.len()] as usize);
    let values = &column.value_bytes()[items.start * width..items.end * width];
    let nulls = match column.validity() {
        Some(_) => rows.clone().filter(|&row| !column.is_valid(row)).count(),
        None => 0,
    };
    out.extend_from_slice(&(values.len() as u32).to_le_bytes());
    out.extend_from_slice(&(nulls as u32).to_le_bytes());
    if nulls > 0 {
        let bit = |first: usize, row: usize| u8::from(column.is_valid(row)) << (row - first);
        let eight = |first: usize| (first..rows.end.min(first + 8)).fold(0, |byte, row| byte | bit(first, row));
        out.extend(rows.clone().step_by(8).map(eight));
    }
    if let Some(offsets) = offsets {
        out.extend(offsets.iter().flat_map(|offset| (offset - offsets[0]).to_le_bytes()));
    }
    out.extend_from_slice(values);
    values.len() as u32
}

impl HeapBatch {
    /// Reads the block of this head in the place of what the batch held. After an error it is empty.
    ///
    /// # Errors
    /// What is wrong with the block, as for [`Template::copy_untrusted`](crate::Template::copy_untrusted), or that the
    /// batch does not hold so much ([`BlockHead::capacity`]).
    pub fn read_block(&mut self, head: &BlockHead, columns: &[u8]) -> Result<(), WireError> {
        self.clear();
        let template = self.template().clone();
        let rows_max = template.capacity().rows_max;
        if head.rows > rows_max {
            return Err(WireError::TooManyRows { rows: head.rows, rows_max });
        }
        let mut lengths = std::mem::take(&mut self.lengths);
        lengths.rows = head.rows;
        lengths.columns.clear();
        let mut rest = columns;
        let fields = template.schema().fields.iter().zip(template.columns());
        let result = fields.enumerate().try_for_each(|(index, (field, layout))| {
            let length = self.read_column(index, head.rows, (field, layout), &mut rest)?;
            lengths.columns.push(length);
            Ok(())
        });
        let result = result.and_then(|()| {
            check_end(&template, rest)?;
            self.writer().rows = head.rows;
            verify(&self.view())
        });
        self.lengths = lengths;
        if result.is_err() {
            self.clear();
        }
        result
    }

    fn read_column(
        &mut self,
        index: usize,
        rows: u32,
        (field, layout): (&Field, &ColumnLayout),
        rest: &mut &[u8],
    ) -> Result<ColumnLengths, WireError> {
        let mut part = |part: &'static str, bytes: usize| {
            let found = rest.len().min(u32::MAX as usize) as u32;
            let wrong = || WireError::WrongLength {
                column: field.name.clone(),
                part,
                found,
                rule: format!("{bytes} bytes at least"),
            };
            let (taken, others) = rest.split_at_checked(bytes).ok_or_else(wrong)?;
            *rest = others;
            Ok::<_, WireError>(taken)
        };
        let head = part("values", 8)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = ColumnLengths { values_bytes: number(0), null_count: number(4) };
        check_length(length, rows, field, layout)?;
        let validity = part("validity", if length.null_count > 0 { rows.div_ceil(8) as usize } else { 0 })?;
        let has_offsets = layout.offsets_offset.is_some();
        let offsets = part("offsets", if has_offsets { 4 * (rows as usize + 1) } else { 0 })?;
        let values = part("values", length.values_bytes as usize)?;
        let column = &mut self.writer().columns[index];
        // SAFETY: the column has room for so many values (checked above), and for the offsets and validity of the rows
        // (no more than its batch holds); the block is other memory. Bytes are copied, so that nothing need be aligned.
        unsafe {
            column.values.copy_from_nonoverlapping(values.as_ptr(), values.len());
            if has_offsets {
                column.offsets.cast::<u8>().copy_from_nonoverlapping(offsets.as_ptr(), offsets.len());
            }
            if !validity.is_empty() {
                column.validity.copy_from_nonoverlapping(validity.as_ptr(), validity.len());
            }
        }
        column.next = rows;
        column.null_count = length.null_count;
        column.used = if has_offsets { length.values_bytes } else { 0 };
        Ok(length)
    }
}

/// Bytes behind the last column are no block's: whoever claims them would swallow the blocks that follow.
fn check_end(template: &Template, rest: &[u8]) -> Result<(), WireError> {
    let Some(last) = template.schema().fields.last().filter(|_| !rest.is_empty()) else { return Ok(()) };
    let found = rest.len().min(u32::MAX as usize) as u32;
    Err(WireError::WrongLength {
        column: last.name.clone(),
        part: "rest",
        found,
        rule: "nothing behind the column".to_owned(),
    })
}

fn check_length(length: ColumnLengths, rows: u32, field: &Field, layout: &ColumnLayout) -> Result<(), WireError> {
    let ColumnLengths { values_bytes: found, null_count } = length;
    let rule = match layout.data_type.width() {
        Some(width) if found as usize != rows as usize * width => format!("{} for {rows} rows", rows as usize * width),
        None if found as usize > layout.values_capacity
            || !(found as usize).is_multiple_of(layout.data_type.item_width()) =>
        {
            format!("a multiple of {}, at most {}", layout.data_type.item_width(), layout.values_capacity)
        }
        _ => String::new(),
    };
    if !rule.is_empty() {
        return Err(WireError::WrongLength { column: field.name.clone(), part: "values", found, rule });
    }
    let null_count_max = if layout.nullable { rows } else { 0 };
    if null_count > null_count_max {
        let rule = format!("at most {null_count_max}");
        return Err(WireError::WrongNullCount { column: field.name.clone(), found: null_count, rule });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{DataType, ListItem, Schema};

    fn template(capacity: Capacity) -> Arc<Template> {
        let fields = vec![
            Field::new("key", DataType::Utf8),
            Field { nullable: true, ..Field::new("flag", DataType::Bool) },
            Field { nullable: true, ..Field::new("value", DataType::Float64) },
            Field::new("count", DataType::Int32),
            Field { nullable: true, ..Field::new("items", DataType::List(ListItem::Float64)) },
            Field { nullable: true, ..Field::new("blob", DataType::Binary) },
        ];
        Arc::new(Template::new(Arc::new(Schema::new(fields).unwrap()), capacity).unwrap())
    }

    fn batch(rows: u32) -> HeapBatch {
        let mut batch = HeapBatch::new(template(Capacity { rows_max: 200, variable_bytes_max: 8192 }));
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
            let items: Vec<u8> = (0..row % 4).flat_map(|item| f64::from(item + row).to_le_bytes()).collect();
            if row % 7 == 2 {
                writer.push_null(4)
            } else {
                writer.push_list(4, &items).unwrap()
            }
            if row % 2 == 0 {
                writer.push_null(5)
            } else {
                writer.push_bytes(5, &row.to_le_bytes()).unwrap()
            }
            writer.finish_row();
        }
        batch
    }

    fn block(view: &BatchView<'_>, rows: Range<usize>) -> (BlockHead, Vec<u8>) {
        let mut bytes = b"before".to_vec();
        view.put_block(rows, &mut bytes);
        let (head, columns) = bytes[6..].split_first_chunk().unwrap();
        let head = BlockHead::read(*head);
        assert_eq!(head.bytes, columns.len() as u64);
        (head, columns.to_vec())
    }

    #[test]
    fn rows_of_every_type_come_back_as_they_were_whichever_are_taken() {
        for (rows, range) in [(0, 0..0), (1, 0..1), (9, 0..9), (65, 1..65), (200, 0..200), (200, 13..14), (200, 3..171)]
        {
            let original = batch(rows);
            let (head, columns) = block(&original.view(), range.clone());
            let capacity = head.capacity();
            let mut read = HeapBatch::new(template(capacity));
            read.read_block(&head, &columns).unwrap();
            let mut expected = HeapBatch::new(template(capacity));
            assert_eq!(expected.writer().copy_rows(&original.view(), range.clone()), range.len());
            assert!(read.flatbuffer() == expected.flatbuffer(), "{range:?} of {rows} rows");
        }
    }

    #[test]
    fn a_block_that_is_damaged_anywhere_is_refused_or_read_as_valid_rows() {
        let original = batch(40);
        let (head, columns) = block(&original.view(), 0..40);
        let mut read = HeapBatch::new(template(head.capacity()));
        for length in 0..columns.len() {
            let error = read.read_block(&head, &columns[..length]).unwrap_err();
            assert!(matches!(error, WireError::WrongLength { .. }), "{length}: {error}");
            assert_eq!(read.rows(), 0);
        }
        let mut refused = 0;
        for at in 0..columns.len() {
            let mut damaged = columns.clone();
            damaged[at] ^= 0x95;
            refused += usize::from(read.read_block(&head, &damaged).is_err());
            let view = read.view();
            for column in view.columns().filter(|column| column.data_type() == DataType::Utf8) {
                assert!((0..view.rows()).all(|row| column.str(row).is_some()), "byte {at}");
            }
        }
        assert!(refused > 100, "{refused} of {}", columns.len());
        let longer = [&columns[..], &[0]].concat();
        let error = read.read_block(&BlockHead { bytes: head.bytes + 1, ..head }, &longer).unwrap_err();
        assert!(matches!(error, WireError::WrongLength { part: "rest", found: 1, .. }), "{error}");
        let larger = BlockHead { rows: 41, ..head };
        assert!(matches!(read.read_block(&larger, &columns), Err(WireError::TooManyRows { .. })));
    }
}
