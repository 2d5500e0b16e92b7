//! Rows as an Arrow IPC stream: a schema, then a record batch for each call.
//!
//! Timestamps are instants in UTC and say so. Bools are packed. Everything else has the layout of a micro-batch already.

use std::{ops::Range, sync::Arc};

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer};
use arrow_data::{ArrayData, ArrayDataBuilder};
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::{ArrowError, DataType as ArrowType, Field as ArrowField, SchemaRef, TimeUnit as ArrowUnit};
use ringmill_wire::{BatchView, ColumnView, DataType, Schema, TimeUnit};

use super::Encoder;
use crate::ConnectError;

/// What describes a record batch takes less than a byte a row when it has so many.
const BATCH_ROWS: usize = 1_024;
/// Milliseconds in a second.
const MILLISECONDS: i64 = 1_000;

/// Writes a record batch for the rows of each call.
pub(crate) struct ArrowEncoder {
    schema: SchemaRef,
    writer: StreamWriter<Vec<u8>>,
    /// the stream's beginning
    header: Vec<u8>,
    /// columns whose seconds are written as milliseconds
    seconds: Vec<usize>,
}

impl ArrowEncoder {
    pub fn new(schema: &Schema) -> Result<ArrowEncoder, ConnectError> {
        ArrowEncoder::with(schema, Vec::new())
    }

    /// For rows that become a Parquet file, which knows no seconds: they are written as milliseconds.
    pub fn for_parquet(schema: &Schema) -> Result<ArrowEncoder, ConnectError> {
        let is_seconds = |data_type: DataType| data_type == DataType::Timestamp(TimeUnit::Second);
        for field in &schema.fields {
            if let DataType::List(item) = field.data_type
                && is_seconds(item.data_type())
            {
                let (column, data_type) = (field.name.clone(), field.data_type);
                return Err(ConnectError::Unsupported { column, data_type, format: "parquet" });
            }
        }
        let seconds = schema.fields.iter().enumerate().filter(|(_, field)| is_seconds(field.data_type));
        ArrowEncoder::with(schema, seconds.map(|(index, _)| index).collect())
    }

    fn with(schema: &Schema, seconds: Vec<usize>) -> Result<ArrowEncoder, ConnectError> {
        let field = |(index, field): (usize, &ringmill_wire::Field)| {
            let data_type = match seconds.contains(&index) {
                true => DataType::Timestamp(TimeUnit::Millisecond),
                false => field.data_type,
            };
            ArrowField::new(&field.name, arrow_type(data_type), field.nullable)
        };
        let fields: Vec<ArrowField> = schema.fields.iter().enumerate().map(field).collect();
        let schema = Arc::new(arrow_schema::Schema::new(fields));
        let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(refused)?;
        let header = std::mem::take(writer.get_mut());
        Ok(ArrowEncoder { schema, writer, header, seconds })
    }

    fn batch(&self, view: &BatchView<'_>, rows: &Range<usize>) -> Result<RecordBatch, ArrowError> {
        let column = |(index, column): (usize, ColumnView<'_>)| match self.seconds.contains(&index) {
            true => milliseconds(&column, rows),
            false => array(&column, rows),
        };
        let columns = view.columns().enumerate().map(column).collect::<Result<Vec<ArrayRef>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

impl Encoder for ArrowEncoder {
    fn rows_at_once(&self) -> usize {
        BATCH_ROWS
    }

    fn begin(&mut self, _schema: &Schema, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header);
    }

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        for &index in &self.seconds {
            let column = view.column(index);
            let seconds = column.values::<i64>().get(rows.clone()).unwrap_or_default();
            if let Some(value) = seconds.iter().find(|seconds| seconds.checked_mul(MILLISECONDS).is_none()) {
                return Err(ConnectError::Value {
                    column: view.schema().field(index).name.clone(),
                    value: value.to_string(),
                    reason: "Parquet has no seconds, and as milliseconds this time does not fit",
                });
            }
        }
        Ok(())
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        let batch = self.batch(view, &rows).expect("rows of a checked batch are of its schema");
        self.writer.write(&batch).expect("memory takes every write");
        out.append(self.writer.get_mut());
    }
}

/// The columns of a stream that begins so; `None` if it is none.
pub(crate) fn columns_of(beginning: &[u8]) -> Option<SchemaRef> {
    StreamReader::try_new(beginning, None).ok().map(|reader| reader.schema())
}

/// Why a schema or rows are refused.
pub(crate) fn refused(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::Schema(error.to_string())
}

pub(super) fn arrow_type(data_type: DataType) -> ArrowType {
    match data_type {
        DataType::Bool => ArrowType::Boolean,
        DataType::Int8 => ArrowType::Int8,
        DataType::Int16 => ArrowType::Int16,
        DataType::Int32 => ArrowType::Int32,
        DataType::Int64 => ArrowType::Int64,
        DataType::UInt8 => ArrowType::UInt8,
        DataType::UInt16 => ArrowType::UInt16,
        DataType::UInt32 => ArrowType::UInt32,
        DataType::UInt64 => ArrowType::UInt64,
        DataType::Float32 => ArrowType::Float32,
        DataType::Float64 => ArrowType::Float64,
        DataType::Utf8 => ArrowType::Utf8,
        DataType::Binary => ArrowType::Binary,
        DataType::Timestamp(unit) => ArrowType::Timestamp(arrow_unit(unit), Some("UTC".into())),
        DataType::List(item) => {
            ArrowType::List(Arc::new(ArrowField::new_list_field(arrow_type(item.data_type()), false)))
        }
    }
}

fn arrow_unit(unit: TimeUnit) -> ArrowUnit {
    match unit {
        TimeUnit::Second => ArrowUnit::Second,
        TimeUnit::Millisecond => ArrowUnit::Millisecond,
        TimeUnit::Microsecond => ArrowUnit::Microsecond,
        TimeUnit::Nanosecond => ArrowUnit::Nanosecond,
    }
}

fn nulls(column: &ColumnView<'_>, rows: &Range<usize>) -> Option<NullBuffer> {
    let bits = Buffer::from(&column.validity()?[rows.start / 8..rows.end.div_ceil(8)]);
    Some(NullBuffer::new(BooleanBuffer::new(bits, rows.start % 8, rows.len())))
}

fn milliseconds(column: &ColumnView<'_>, rows: &Range<usize>) -> Result<ArrayRef, ArrowError> {
    let seconds = &column.values::<i64>()[rows.clone()];
    let values: Buffer = seconds.iter().map(|seconds| seconds.wrapping_mul(MILLISECONDS)).collect();
    let builder = ArrayData::builder(arrow_type(DataType::Timestamp(TimeUnit::Millisecond))).add_buffer(values);
    finish(builder, column, rows)
}

/// A copy of these rows.
pub(super) fn array(column: &ColumnView<'_>, rows: &Range<usize>) -> Result<ArrayRef, ArrowError> {
    let data_type = column.data_type();
    let builder = ArrayData::builder(arrow_type(data_type));
    if data_type == DataType::Bool {
        let values = &column.values::<u8>()[rows.clone()];
        let bits = BooleanBuffer::collect_bool(values.len(), |row| values[row] != 0);
        return finish(builder.add_buffer(bits.into_inner()), column, rows);
    }
    let width = data_type.item_width();
    if !data_type.is_variable() {
        let values = &column.value_bytes()[rows.start * width..rows.end * width];
        return finish(builder.add_buffer(values.into()), column, rows);
    }
    let offsets = &column.offsets()[rows.start..=rows.end];
    let first = offsets[0];
    let items = first.as_usize()..offsets[rows.len()].as_usize();
    let values = &column.value_bytes()[items.start * width..items.end * width];
    let rebased: Buffer = offsets.iter().map(|offset| offset - first).collect();
    match data_type {
        DataType::List(item) => {
            let items = ArrayData::builder(arrow_type(item.data_type())).len(items.len()).add_buffer(values.into());
            finish(builder.add_buffer(rebased).add_child_data(items.build()?), column, rows)
        }
        DataType::Utf8 if !is_text(values, offsets, first) => Ok(repaired(column, rows)),
        _ => finish(builder.add_buffer(rebased).add_buffer(values.into()), column, rows),
    }
}

fn finish(builder: ArrayDataBuilder, column: &ColumnView<'_>, rows: &Range<usize>) -> Result<ArrayRef, ArrowError> {
    Ok(make_array(builder.len(rows.len()).nulls(nulls(column, rows)).build()?))
}

/// Whether these bytes are UTF-8, and each text as well.
fn is_text(values: &[u8], offsets: &[i32], first: i32) -> bool {
    let is_boundary = |text: &str| offsets.iter().all(|offset| text.is_char_boundary((offset - first).as_usize()));
    std::str::from_utf8(values).is_ok_and(is_boundary)
}

/// Texts of which one is no UTF-8, which only a writer that broke its word can cause.
fn repaired(column: &ColumnView<'_>, rows: &Range<usize>) -> ArrayRef {
    let text = |row| column.is_valid(row).then(|| String::from_utf8_lossy(column.bytes(row)).into_owned());
    Arc::new(rows.clone().map(text).collect::<arrow_array::StringArray>())
}
