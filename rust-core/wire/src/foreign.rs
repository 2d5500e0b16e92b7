//! A batch that another program has built: any FlatBuffer that `schemas/micro_batch.fbs` describes.
//!
//! A region's places are known from its template; such a buffer's own tables say where its columns stand, so they are
//! followed, once the stock verifier has seen that all of them stay within it. The columns are then copied, each buffer to
//! a multiple of [`ALIGNMENT`], and the copy is judged as that of a worker's answer is. So the buffer may lie anywhere in
//! memory, and its columns anywhere in it.
#![allow(unsafe_code)]

use std::sync::Arc;

use flatbuffers::VerifierOptions;

use crate::error::WireError;
use crate::generated::ringmill::wire::{
    Column, MicroBatch, root_as_micro_batch_with_opts, size_prefixed_root_as_micro_batch_with_opts,
};
use crate::memory::AlignedMemory;
use crate::schema::{Field, Schema};
use crate::template::ALIGNMENT;
use crate::untrusted::verify;
use crate::view::{BatchView, ColumnParts};

const IDENTIFIER: &[u8; 4] = b"RMB1";
/// A root table, a vector and a column within each other.
const DEPTH_MAX: usize = 8;
/// Columns beyond those of the schema that are looked at, so that their number can be told.
const COLUMNS_TOO_MANY: usize = 1_000;

/// A private copy of a batch that another program has built, of which every rule of `schemas/README.md` holds.
#[derive(Debug)]
pub struct ForeignBatch {
    schema: Arc<Schema>,
    rows: u32,
    /// into `memory`
    parts: Vec<ColumnParts>,
    #[expect(dead_code, reason = "the parts point into it")]
    memory: AlignedMemory,
}

/// The buffers of a column as they stand in the foreign batch; empty where there is none.
struct Buffers<'a> {
    values: &'a [u8],
    offsets: &'a [u8],
    validity: &'a [u8],
    null_count: u32,
}

impl ForeignBatch {
    /// Bytes of the length that stands before a batch.
    pub const PREFIX_BYTES: usize = 4;

    /// Bytes of the batch at the beginning of `bytes` with its prefix, which says how many follow it; `None` if the prefix
    /// is not whole.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Option<u64> {
        let prefix = bytes.first_chunk()?;
        Some(Self::PREFIX_BYTES as u64 + u64::from(u32::from_le_bytes(*prefix)))
    }

    /// Copies a batch of this schema. `prefixed` is all of it: the length of what follows (`u32`, little-endian) and the
    /// FlatBuffer. Alignments within it may count from the prefix, as builders do it, or from behind it.
    ///
    /// It takes no more memory than `prefixed`, but for what aligns it.
    ///
    /// # Errors
    /// What is wrong with it: [`WireError::NoBatch`], [`WireError::OtherSchema`], [`WireError::WrongColumns`],
    /// [`WireError::TooManyRows`], [`WireError::SharedBytes`], and as for [`Template::copy_untrusted`](crate::Template::copy_untrusted).
    pub fn read(prefixed: &[u8], schema: &Arc<Schema>) -> Result<ForeignBatch, WireError> {
        let batch = root(prefixed, schema.len())?;
        let (expected, found) = (schema.hash(), batch.schema_hash());
        if found != expected {
            return Err(WireError::OtherSchema { expected, found });
        }
        let rows = batch.rows();
        // A row takes at least a byte.
        if rows as usize > prefixed.len() {
            return Err(WireError::TooManyRows { rows, rows_max: prefixed.len() as u32 });
        }
        let columns = batch.columns().unwrap_or_default();
        if columns.len() != schema.len() {
            return Err(WireError::WrongColumns { expected: schema.len(), found: columns.len() });
        }
        let buffers = schema.fields.iter().zip(columns);
        let buffers =
            buffers.map(|(field, column)| Buffers::of(&column, field, rows)).collect::<Result<Vec<_>, _>>()?;
        let bytes: usize = buffers.iter().map(Buffers::bytes).sum();
        if bytes > prefixed.len() {
            return Err(WireError::SharedBytes { found: prefixed.len(), bytes });
        }
        let copy = ForeignBatch::copy(schema, rows, &buffers);
        verify(&copy.view())?;
        Ok(copy)
    }

    /// The lengths of these buffers fit the rows.
    fn copy(schema: &Arc<Schema>, rows: u32, buffers: &[Buffers<'_>]) -> ForeignBatch {
        let room: usize =
            buffers.iter().flat_map(Buffers::each).map(|bytes| bytes.len().next_multiple_of(ALIGNMENT)).sum();
        let memory = AlignedMemory::new(room.max(1));
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            assert!(at + bytes.len() <= memory.bytes(), "the room is the sum of all buffers");
            // SAFETY: the buffer fits (asserted) into memory that was just allocated, and so is no other's.
            let start = unsafe {
                let start = memory.start().as_ptr().add(at);
                start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                start.cast_const()
            };
            at += bytes.len().next_multiple_of(ALIGNMENT);
            start
        };
        let part = |(field, own): (&Field, &Buffers<'_>)| ColumnParts {
            data_type: field.data_type,
            rows,
            values: put(own.values),
            values_bytes: own.values.len() as u32,
            offsets: if field.data_type.is_variable() { put(own.offsets).cast() } else { std::ptr::null() },
            validity: if field.nullable { put(own.validity) } else { std::ptr::null() },
            null_count: own.null_count,
        };
        let parts = schema.fields.iter().zip(buffers).map(part).collect();
        ForeignBatch { schema: Arc::clone(schema), rows, parts, memory }
    }

    /// Its rows.
    #[must_use]
    pub fn view(&self) -> BatchView<'_> {
        // SAFETY: the parts are of the schema's types and point into memory that lives as long as they do and is not
        // written any more; `Buffers::of` has seen that values, offsets and validity are as long as the rows ask for, and
        // each starts at a multiple of 64.
        unsafe { BatchView::from_parts(&self.schema, self.rows as usize, &self.parts) }
    }
}

/// The batch's root table; everything that is reached from it lies within the buffer.
fn root(prefixed: &[u8], columns: usize) -> Result<MicroBatch<'_>, WireError> {
    let no_batch = |reason: String| WireError::NoBatch { reason };
    let identifier = prefixed.get(8..12).unwrap_or_default();
    if identifier != IDENTIFIER {
        let found = identifier.escape_ascii();
        return Err(no_batch(format!(
            "its file identifier is \"{found}\", the rule is \"RMB1\" at byte 8, prefix included"
        )));
    }
    let options = VerifierOptions {
        max_depth: DEPTH_MAX,
        max_tables: 1 + columns + COLUMNS_TOO_MANY,
        ..VerifierOptions::default()
    };
    let buffer = &prefixed[ForeignBatch::PREFIX_BYTES..];
    let found = size_prefixed_root_as_micro_batch_with_opts(&options, prefixed)
        .or_else(|error| root_as_micro_batch_with_opts(&options, buffer).map_err(|_| error));
    found.map_err(|error| {
        let said = error.to_string();
        no_batch(said.lines().next().unwrap_or_default().trim_end_matches('.').to_lowercase())
    })
}

impl<'a> Buffers<'a> {
    /// Those of a column whose lengths are right for so many rows.
    fn of(column: &Column<'a>, field: &Field, rows: u32) -> Result<Buffers<'a>, WireError> {
        let own = Buffers {
            values: column.values().unwrap_or_default().bytes(),
            offsets: column.offsets().unwrap_or_default().bytes(),
            validity: column.validity().unwrap_or_default().bytes(),
            null_count: column.null_count(),
        };
        let wrong = |part, found: usize, rule| {
            Err(WireError::WrongLength { column: field.name.clone(), part, found: found as u32, rule })
        };
        let (count, values) = (rows as usize, own.values.len());
        match field.data_type.width() {
            Some(width) if values != count * width => {
                return wrong("values", values, format!("{} for {rows} rows", count * width));
            }
            None if !values.is_multiple_of(field.data_type.item_width()) => {
                return wrong("values", values, format!("a multiple of {}", field.data_type.item_width()));
            }
            _ => {}
        }
        let offsets = if field.data_type.is_variable() { count + 1 } else { 0 };
        if own.offsets.len() != offsets * size_of::<i32>() {
            return wrong("offsets", own.offsets.len() / size_of::<i32>(), format!("{offsets} for {rows} rows"));
        }
        let validity = if field.nullable { count.div_ceil(8) } else { 0 };
        if own.validity.len() != validity {
            return wrong("validity", own.validity.len(), format!("{validity} for {rows} rows"));
        }
        let null_count_max = if field.nullable { rows } else { 0 };
        if own.null_count > null_count_max {
            let rule = format!("at most {null_count_max}");
            return Err(WireError::WrongNullCount { column: field.name.clone(), found: own.null_count, rule });
        }
        Ok(own)
    }

    fn each(&self) -> [&'a [u8]; 3] {
        [self.values, self.offsets, self.validity]
    }

    fn bytes(&self) -> usize {
        self.each().iter().map(|bytes| bytes.len()).sum()
    }
}
