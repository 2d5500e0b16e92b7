//! The rows of a file of columns.

use std::{ops::Range, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::{DataType as ArrowType, Field, Fields, SchemaRef};

use super::{RowFile, Trouble};
use crate::{
    FieldSpec,
    formats::{
        Records, Stop,
        columns::{Chunk, Columns},
    },
};

/// Rows that are decoded at a time, at most: some megabytes of them at most, and so many that a call costs nothing.
pub(super) const CHUNK_ROWS: usize = if cfg!(test) { 5 } else { 8_192 };

/// A file in columns.
pub(super) trait Batches: Send {
    /// The columns that it has.
    fn schema(&self) -> SchemaRef;

    /// Only these columns are read; called once, before anything else.
    fn choose(&mut self, columns: &Columns) -> Result<(), Trouble>;

    /// The next row is this one; only before the first call of `next`.
    fn seek(&mut self, row: u64) -> Result<(), Trouble>;

    /// Rows will take so many bytes that stand in the file fewer times.
    fn repeat(&mut self, _bytes: impl FnOnce() -> u64) -> Result<(), Trouble> {
        Ok(())
    }

    /// The next rows, at most [`CHUNK_ROWS`]; `None`: there are none.
    fn next(&mut self) -> Result<Option<RecordBatch>, Trouble>;
}

/// The next rows of a batch of which so many were handed out, at most [`CHUNK_ROWS`].
pub(super) fn given_next(left: &mut Option<(RecordBatch, usize)>) -> Option<RecordBatch> {
    let (batch, given) = left.take()?;
    let count = (batch.num_rows() - given).min(CHUNK_ROWS);
    let rows = batch.slice(given, count);
    *left = (given + count < batch.num_rows()).then_some((batch, given + count));
    Some(rows)
}

/// The same fields with bytes in place of text, which lie alike: whether they are text is seen row by row, so that one that
/// is none costs its row and not the file.
pub(super) fn as_bytes(fields: &Fields) -> Fields {
    fn bytes(of: &ArrowType) -> ArrowType {
        match of {
            ArrowType::Utf8 => ArrowType::Binary,
            ArrowType::LargeUtf8 => ArrowType::LargeBinary,
            ArrowType::Utf8View => ArrowType::BinaryView,
            ArrowType::Dictionary(key, value) => ArrowType::Dictionary(key.clone(), Box::new(bytes(value))),
            ArrowType::Struct(fields) => ArrowType::Struct(as_bytes(fields)),
            other => other.clone(),
        }
    }
    let each = |field: &Arc<Field>| field.as_ref().clone().with_data_type(bytes(field.data_type()));
    fields.iter().map(each).collect()
}

/// Rows as they come from such a file.
pub(super) struct ColumnRows<B> {
    columns: Columns,
    batches: B,
    chunk: Option<Chunk>,
    loaded: Range<u64>,
}

impl<B: Batches + 'static> ColumnRows<B> {
    pub fn open(mut batches: B, fields: &[FieldSpec]) -> Result<Box<dyn RowFile>, Trouble> {
        let columns = Columns::bind(fields, batches.schema().fields()).map_err(Trouble::Misfits)?;
        batches.choose(&columns)?;
        Ok(Box::new(ColumnRows { columns, batches, chunk: None, loaded: 0..0 }))
    }
}

impl<B: Batches> RowFile for ColumnRows<B> {
    fn seek(&mut self, row: u64) -> Result<(), Trouble> {
        self.batches.seek(row)?;
        self.loaded = row..row;
        Ok(())
    }

    fn load(&mut self) -> Result<bool, Trouble> {
        let Some(batch) = self.batches.next()? else { return Ok(false) };
        let first = self.loaded.end;
        self.loaded = first..first + batch.num_rows() as u64;
        self.batches.repeat(|| self.columns.shared_bytes(&batch))?;
        let chunk = Chunk::load(&self.columns, batch);
        self.chunk = Some(chunk.ok_or_else(|| Trouble::broken("its columns are others than it said"))?);
        Ok(true)
    }

    fn loaded(&self) -> Range<u64> {
        self.loaded.clone()
    }

    fn row(&self) -> u64 {
        self.loaded.start + self.chunk.as_ref().map_or(0, |chunk| chunk.next() as u64)
    }

    fn give(&mut self, records: &mut Records<'_, '_>) -> Result<(), Stop> {
        self.chunk.as_mut().map_or(Ok(()), |chunk| chunk.give(&self.columns, records))
    }
}
