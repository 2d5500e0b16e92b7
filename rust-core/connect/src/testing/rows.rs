//! Rows of one column `x`, as a sink's writer gets them and as a reader finds them. Tests in and outside of the crate use it.

use std::sync::Arc;

use ringmill_wire::{Capacity, HeapBatch, Schema, Template};

use super::{OutputFormat, encoder};

/// What the format's encoder makes of these rows.
pub fn encoded(format: OutputFormat, schema: &Arc<Schema>, rows: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !rows.is_empty() {
        let capacity = Capacity { rows_max: rows.len() as u32, variable_bytes_max: 64 };
        let mut batch = HeapBatch::new(Arc::new(Template::new(Arc::clone(schema), capacity).unwrap()));
        for row in rows {
            batch.writer().push(0, *row);
            batch.writer().finish_row();
        }
        encoder(format, schema).unwrap().encode(&batch.view(), 0..rows.len(), &mut bytes);
    }
    bytes
}

/// The rows of a file as its reader finds them.
pub fn numbers(format: OutputFormat, bytes: &[u8]) -> Vec<i64> {
    match format {
        OutputFormat::Json | OutputFormat::Csv | OutputFormat::Raw => {
            let text = std::str::from_utf8(bytes).unwrap();
            let header = if format == OutputFormat::Csv { "x\n" } else { "" };
            let number = |line: &str| line.trim_start_matches("{\"x\":").trim_end_matches('}').parse().unwrap();
            text.strip_prefix(header).expect("a header").lines().map(number).collect()
        }
        #[cfg(feature = "arrow")]
        OutputFormat::Arrow | OutputFormat::Parquet(_) => {
            let numbers = |batch: arrow_array::RecordBatch| {
                use arrow_array::{cast::AsArray, types::Int64Type};
                batch.column(0).as_primitive::<Int64Type>().values().to_vec()
            };
            batches(bytes).into_iter().flat_map(numbers).collect()
        }
        #[cfg(not(feature = "arrow"))]
        OutputFormat::Arrow | OutputFormat::Parquet(_) => panic!("there is none without the feature"),
    }
}

/// What is in an Arrow file, an Arrow stream or a Parquet file.
#[cfg(feature = "arrow")]
pub fn batches(bytes: &[u8]) -> Vec<arrow_array::RecordBatch> {
    use arrow_ipc::reader::{FileReader, StreamReader};
    if bytes.starts_with(b"PAR1") {
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes, 1_024).unwrap();
        return reader.map(Result::unwrap).collect();
    }
    let cursor = std::io::Cursor::new(bytes);
    match bytes.starts_with(b"ARROW1") {
        true => FileReader::try_new(cursor, None).unwrap().map(Result::unwrap).collect(),
        false => StreamReader::try_new(cursor, None).unwrap().map(Result::unwrap).collect(),
    }
}
