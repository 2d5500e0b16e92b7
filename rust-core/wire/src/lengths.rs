//! How much of a region counts: the few numbers of a batch that its writer patches, read from outside.
//!
//! The writer may be hostile and at work: each number is read exactly once, then only the copy is judged and used.
#![allow(unsafe_code)]

use crate::error::WireError;
use crate::schema::Field;
use crate::template::{ColumnLayout, ROWS, SCHEMA_HASH, Template};
use crate::view::ColumnParts;

/// The lengths of a batch, bounded by its template. Reusable: it allocates once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    pub(crate) rows: u32,
    pub(crate) columns: Vec<ColumnLengths>,
}

/// The lengths of one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnLengths {
    /// Bytes of the values of all rows.
    pub values_bytes: u32,
    /// Rows without a value.
    pub null_count: u32,
}

impl Lengths {
    /// The batch's rows.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// One entry a column.
    #[must_use]
    pub fn columns(&self) -> &[ColumnLengths] {
        &self.columns
    }
}

impl Template {
    /// Reads the lengths of a stamped region that another process wrote, each once, and checks them against the
    /// capacity and the row count. Returns the row count. What the lengths speak of (offsets, text) is not looked at.
    ///
    /// # Errors
    /// [`WireError::OtherSchema`], [`WireError::TooManyRows`], [`WireError::WrongLength`],
    /// [`WireError::WrongNullCount`]; `lengths` then is of no use.
    ///
    /// # Safety
    /// `memory` must start at a multiple of [`crate::ALIGNMENT`] and be valid for reads of [`Template::bytes`] bytes.
    /// Another process may be writing them.
    pub unsafe fn read_lengths(&self, memory: *const u8, lengths: &mut Lengths) -> Result<u32, WireError> {
        lengths.columns.clear();
        // SAFETY: the region reaches that far and its start is aligned to 64; volatile, since another may write it.
        let found = u64::from_le(unsafe { memory.add(SCHEMA_HASH).cast::<u64>().read_volatile() });
        if found != self.schema_hash() {
            return Err(WireError::OtherSchema { expected: self.schema_hash(), found });
        }
        // SAFETY: the caller vouches for the region.
        let region = unsafe { Foreign::new(memory) };
        let rows = region.u32(ROWS);
        let rows_max = self.capacity().rows_max;
        if rows > rows_max {
            return Err(WireError::TooManyRows { rows, rows_max });
        }
        lengths.rows = rows;
        for (field, layout) in self.schema().fields.iter().zip(self.columns()) {
            lengths.columns.push(read_column(&region, rows, field, layout)?);
        }
        Ok(rows)
    }

    /// The parts of a region whose lengths are known; replaces what `parts` held.
    ///
    /// # Safety
    /// `memory` must be the region that `lengths` was read from, with this template. (Before the parts are made a view,
    /// its contents must be trusted too: [`crate::BatchView::from_parts`].)
    pub unsafe fn parts(&self, memory: *const u8, lengths: &Lengths, parts: &mut Vec<ColumnParts>) {
        assert_eq!(lengths.columns.len(), self.columns().len(), "lengths of another template");
        parts.clear();
        for (layout, length) in self.columns().iter().zip(&lengths.columns) {
            // SAFETY: every offset of the layout lies within the region.
            let at = |offset: usize| unsafe { memory.add(offset) };
            let validity = layout.validity_offset.filter(|_| length.null_count > 0);
            parts.push(ColumnParts {
                data_type: layout.data_type,
                rows: lengths.rows,
                values: at(layout.values_offset),
                values_bytes: length.values_bytes,
                offsets: layout.offsets_offset.map_or(std::ptr::null(), |offset| at(offset).cast()),
                validity: validity.map_or(std::ptr::null(), at),
                null_count: length.null_count,
            });
        }
    }
}

fn read_column(region: &Foreign, rows: u32, field: &Field, layout: &ColumnLayout) -> Result<ColumnLengths, WireError> {
    let wrong = |part, found, rule: String| WireError::WrongLength { column: field.name.clone(), part, found, rule };
    let exactly = |part, found: u32, expected: u32| {
        if found == expected { Ok(()) } else { Err(wrong(part, found, format!("{expected} for {rows} rows"))) }
    };
    let values_bytes = region.u32(layout.values_offset - 4);
    match layout.data_type.width() {
        Some(width) => exactly("values", values_bytes, rows * width as u32)?,
        None => {
            let width = layout.data_type.item_width();
            if values_bytes as usize > layout.values_capacity || !(values_bytes as usize).is_multiple_of(width) {
                let rule = format!("a multiple of {width}, at most {}", layout.values_capacity);
                return Err(wrong("values", values_bytes, rule));
            }
        }
    }
    if let Some(offsets) = layout.offsets_offset {
        exactly("offsets", region.u32(offsets - 4), rows + 1)?;
    }
    if let Some(validity) = layout.validity_offset {
        exactly("validity", region.u32(validity - 4), rows.div_ceil(8))?;
    }
    let null_count = region.u32(layout.null_count_offset);
    let null_count_max = if layout.nullable { rows } else { 0 };
    if null_count > null_count_max {
        let rule = format!("at most {null_count_max}");
        return Err(WireError::WrongNullCount { column: field.name.clone(), found: null_count, rule });
    }
    Ok(ColumnLengths { values_bytes, null_count })
}

/// Memory that another process may be writing.
struct Foreign {
    memory: *const u8,
}

impl Foreign {
    /// # Safety
    /// As for [`Template::read_lengths`]; only offsets of the template may be read.
    unsafe fn new(memory: *const u8) -> Foreign {
        Foreign { memory }
    }

    /// One read, never repeated by the compiler.
    fn u32(&self, at: usize) -> u32 {
        // SAFETY: the template's offsets lie within the region and are multiples of 4.
        u32::from_le(unsafe { self.memory.add(at).cast::<u32>().read_volatile() })
    }
}
