//! Where every byte of a batch region stands, for one schema and one capacity.
//!
//! The same schema and capacity give the same template in every process and build, so the two sides of a channel need
//! to agree on those alone ([`Template::hash`] proves that they do). Nothing here touches memory; `stamp.rs` does.
//!
//! A region, from its start (all numbers little-endian, as FlatBuffers has them):
//!
//! | bytes | what |
//! |---|---|
//! | 0 | offset of the root table |
//! | 4 | `RMB1` |
//! | 8 | vtable of `MicroBatch`, then the four vtables of `Column` (with and without offsets, validity) |
//! | 72 | the `MicroBatch` table: vtable, rows, schema hash, columns |
//! | 92 | the vector of columns: its length, then one offset each |
//! | 96 + 4n | n `Column` tables of 20 bytes: vtable, values, offsets, validity, null count |
//! | … | per column: validity, offsets, values, each at a multiple of 64 with its length in the 4 bytes before |

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::data_type::DataType;
use crate::error::WireError;
use crate::fingerprint::fingerprint;
use crate::fixed::Physical;
use crate::schema::Schema;

/// Every buffer of a batch, and every region, starts at a multiple of this (Arrow's recommendation: a cache line, and
/// the widest SIMD register).
pub const ALIGNMENT: usize = 64;

/// FlatBuffers offsets are signed 32-bit numbers.
const REGION_BYTES_MAX: u64 = i32::MAX as u64;

pub(crate) const ROOT_TABLE: usize = 72;
pub(crate) const ROWS: usize = ROOT_TABLE + 4;
pub(crate) const SCHEMA_HASH: usize = ROOT_TABLE + 8;
pub(crate) const COLUMNS_VECTOR: usize = 92;
pub(crate) const COLUMN_TABLE_BYTES: usize = 20;

/// The rows and variable bytes a batch region can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Rows, at least 1.
    pub rows_max: u32,
    /// Value bytes of each variable column (utf8, binary, list). A single longer value fits no batch.
    pub variable_bytes_max: u32,
}

/// Where one column's buffers stand in a region, as byte offsets from its start (each a multiple of [`ALIGNMENT`]), and
/// how long they can get. The length of each buffer's vector is the `u32` in the 4 bytes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnLayout {
    /// The column's type.
    pub data_type: DataType,
    /// Whether the column has a validity bitmap.
    pub nullable: bool,
    /// Start of the values.
    pub values_offset: usize,
    /// Bytes the values can take.
    pub values_capacity: usize,
    /// Start of the `rows_max + 1` offsets; `None` for fixed-width columns.
    pub offsets_offset: Option<usize>,
    /// Start of the validity bitmap; `None` for columns that are not nullable.
    pub validity_offset: Option<usize>,
    /// Bytes the validity bitmap can take; 0 if there is none.
    pub validity_capacity: usize,
    /// Where the column's null count (`u32`) stands.
    pub null_count_offset: usize,
    pub(crate) physical: Physical,
}

/// Where every byte of a micro-batch region stands.
#[derive(Debug)]
pub struct Template {
    schema: Arc<Schema>,
    capacity: Capacity,
    columns: Box<[ColumnLayout]>,
    bytes: usize,
    schema_hash: u64,
    hash: u64,
}

impl Template {
    /// Lays a region out.
    ///
    /// # Errors
    /// [`WireError::NoRows`], [`WireError::RegionTooLarge`], or [`WireError::DuplicateColumn`].
    pub fn new(schema: Arc<Schema>, capacity: Capacity) -> Result<Template, WireError> {
        Schema::new(schema.fields.clone())?;
        if capacity.rows_max == 0 {
            return Err(WireError::NoRows);
        }
        let rows_max = u64::from(capacity.rows_max);
        let mut end = (COLUMNS_VECTOR + 4 + (4 + COLUMN_TABLE_BYTES) * schema.len()) as u64;
        let mut buffer = |bytes: u64| {
            let start = (end + 4).next_multiple_of(ALIGNMENT as u64);
            end = start + bytes;
            start as usize
        };
        let mut columns = Vec::with_capacity(schema.len());
        for (index, field) in schema.fields.iter().enumerate() {
            let validity_bytes = if field.nullable { rows_max.div_ceil(8) } else { 0 };
            let validity_offset = field.nullable.then(|| buffer(validity_bytes));
            let offsets_offset = field.data_type.is_variable().then(|| buffer(4 * (rows_max + 1)));
            let values_bytes = match field.data_type.width() {
                Some(width) => rows_max * width as u64,
                None => u64::from(capacity.variable_bytes_max),
            };
            columns.push(ColumnLayout {
                data_type: field.data_type,
                nullable: field.nullable,
                values_offset: buffer(values_bytes),
                values_capacity: values_bytes as usize,
                offsets_offset,
                validity_offset,
                validity_capacity: validity_bytes as usize,
                null_count_offset: column_table(schema.len(), index) + 16,
                physical: Physical::of(field.data_type),
            });
        }
        let bytes = end.next_multiple_of(ALIGNMENT as u64);
        if bytes > REGION_BYTES_MAX {
            return Err(WireError::RegionTooLarge {
                bytes,
                limit: REGION_BYTES_MAX,
                rows_max: capacity.rows_max,
                variable_bytes_max: capacity.variable_bytes_max,
            });
        }
        let schema_hash = schema.hash();
        let hash = fingerprint(canonical_text(schema_hash, capacity, &columns, bytes).as_bytes());
        Ok(Template { schema, capacity, columns: columns.into(), bytes: bytes as usize, schema_hash, hash })
    }

    /// The columns.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// What a region holds at most.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Bytes of a region: a multiple of [`ALIGNMENT`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A hash over the schema and every offset, the same in every process.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// [`Schema::hash`] of the schema, computed once.
    #[must_use]
    pub fn schema_hash(&self) -> u64 {
        self.schema_hash
    }

    /// Where the buffers of column `index` stand; panics when there is no such column.
    #[must_use]
    pub fn column_layout(&self, index: usize) -> ColumnLayout {
        self.columns[index]
    }

    pub(crate) fn columns(&self) -> &[ColumnLayout] {
        &self.columns
    }
}

/// Where the table of column `index` stands in a region of `count` columns.
pub(crate) const fn column_table(count: usize, index: usize) -> usize {
    COLUMNS_VECTOR + 4 + 4 * count + COLUMN_TABLE_BYTES * index
}

fn canonical_text(schema_hash: u64, capacity: Capacity, columns: &[ColumnLayout], bytes: u64) -> String {
    use std::fmt::Write;
    let Capacity { rows_max, variable_bytes_max } = capacity;
    let mut text = format!("ringmill.wire.template/1\n{schema_hash:016x} {rows_max} {variable_bytes_max} {bytes}\n");
    for column in columns {
        let none = |offset: Option<usize>| offset.unwrap_or(0);
        writeln!(text, "{} {} {}", none(column.validity_offset), none(column.offsets_offset), column.values_offset)
            .expect("a string takes every write");
    }
    text
}
