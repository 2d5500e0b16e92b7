//! Rows in columns: what Arrow's own readers find in them.

use arrow_array::{Array, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::DataType as ArrowType;
use proptest::prelude::*;
use ringmill_wire::{BatchView, DataType, Schema};

use crate::{
    Compression, ConnectError, FileSink, Format, OutputFormat, encoder, schema_of,
    testing::{all_kinds, batch, batch_of, fields, random_row, rows::batches},
};

fn stream(format: OutputFormat, schema: &Schema, view: &BatchView<'_>, parts: &[usize]) -> Vec<u8> {
    let mut encoder = encoder(format, schema).unwrap();
    let mut bytes = Vec::new();
    encoder.begin(schema, &mut bytes);
    for ends in parts.windows(2) {
        encoder.check(view, ends[0]..ends[1]).unwrap();
        encoder.encode(view, ends[0]..ends[1], &mut bytes);
    }
    bytes
}

/// The bytes of a cell, as they lie in a column of ours; `None`: null.
fn cell(batch: &RecordBatch, column: usize, row: usize) -> Option<Vec<u8>> {
    let array = batch.column(column).slice(row, 1).to_data();
    if array.is_null(0) {
        return None;
    }
    let offset = array.offset();
    Some(match array.data_type() {
        ArrowType::Boolean => vec![u8::from(arrow_array::BooleanArray::from(array).value(0))],
        ArrowType::Utf8 => arrow_array::StringArray::from(array).value(0).as_bytes().to_vec(),
        ArrowType::Binary => arrow_array::BinaryArray::from(array).value(0).to_vec(),
        ArrowType::List(_) => {
            let items = arrow_array::ListArray::from(array).value(0).to_data();
            let width = items.data_type().primitive_width().unwrap();
            let start = items.offset() * width;
            items.buffers()[0].as_slice()[start..start + items.len() * width].to_vec()
        }
        fixed => {
            let width = fixed.primitive_width().unwrap();
            array.buffers()[0].as_slice()[offset * width..(offset + 1) * width].to_vec()
        }
    })
}

fn expected(view: &BatchView<'_>, column: usize, row: usize) -> Option<Vec<u8>> {
    let column = view.column(column);
    column.is_valid(row).then(|| match column.data_type().width() {
        None => column.bytes(row).to_vec(),
        Some(width) => column.value_bytes()[row * width..(row + 1) * width].to_vec(),
    })
}

/// That every cell is found as it was.
fn check_cells(format: OutputFormat, found: &[RecordBatch], view: &BatchView<'_>) -> Result<(), TestCaseError> {
    for column in 0..view.schema().len() {
        let name = &view.schema().field(column).name;
        let cells = found.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| cell(batch, column, row)));
        let is_milliseconds = format != OutputFormat::Arrow && name == "seconds";
        let expected = (0..view.rows()).map(|row| expected(view, column, row)).map(|cell| match cell {
            Some(bytes) if is_milliseconds => {
                let seconds = i64::from_le_bytes(bytes.try_into().unwrap());
                Some((seconds * 1_000).to_le_bytes().to_vec())
            }
            other => other,
        });
        prop_assert_eq!(cells.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{} of {}", name, format);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_value_and_every_null_is_found_by_arrow_s_reader(
        rows in prop::collection::vec(random_row(), 1..40),
        cut in 0_usize..40,
    ) {
        let schema = schema_of(&all_kinds(Format::Json)).unwrap();
        let batch = batch_of(&schema, &rows);
        let view = batch.view();
        let cut = cut.min(rows.len());
        let bytes = stream(OutputFormat::Arrow, &schema, &view, &[0, cut, rows.len()]);
        check_cells(OutputFormat::Arrow, &batches(&bytes), &view)?;
    }
}

/// The only part of a folder that is written without checkpoints.
fn part(format: OutputFormat, schema: &Schema, writes: &[Vec<u8>]) -> Vec<RecordBatch> {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(format!("{}/", folder.path().display()), format);
    let mut writer = sink.open(schema, None).unwrap();
    writes.iter().for_each(|bytes| writer.write(1, bytes).unwrap());
    writer.finish().unwrap();
    batches(&std::fs::read(folder.path().join(format!("part-0000000001.{format}"))).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_complete_file_has_every_value_of_all_its_batches(
        rows in prop::collection::vec(random_row(), 1..40),
        cut in 0_usize..40,
    ) {
        let schema = schema_of(&all_kinds(Format::Json)).unwrap();
        let batch = batch_of(&schema, &rows);
        let view = batch.view();
        let cut = cut.min(rows.len());
        let compressions = [Compression::None, Compression::Snappy, Compression::Zstd].map(OutputFormat::Parquet);
        for format in [OutputFormat::Arrow].into_iter().chain(compressions) {
            let mut encoder = encoder(format, &schema).unwrap();
            let mut encoded = |rows: std::ops::Range<usize>| {
                let mut bytes = Vec::new();
                if !rows.is_empty() {
                    encoder.encode(&view, rows, &mut bytes);
                }
                bytes
            };
            let found = part(format, &schema, &[encoded(0..cut), encoded(cut..rows.len())]);
            check_cells(format, &found, &view)?;
        }
    }
}

#[test]
fn columns_keep_their_types_and_say_what_may_be_missing() {
    for data_type in DataType::all() {
        for nullable in ["", "?"] {
            let schema = schema_of(&fields(&[&format!("x:{data_type}{nullable}")])).unwrap();
            let empty = batch(&schema, 4, 64);
            let bytes = stream(OutputFormat::Arrow, &schema, &empty.view(), &[0, 0]);
            let found = batches(&bytes).remove(0);
            let field = found.schema().field(0).clone();
            assert_eq!((field.name().as_str(), field.is_nullable()), ("x", nullable == "?"));
            let name = field.data_type().to_string().to_lowercase();
            match data_type {
                DataType::Bool => assert_eq!(name, "boolean"),
                DataType::Timestamp(_) => assert!(name.starts_with("timestamp(") && name.contains("utc"), "{name}"),
                DataType::List(item) => {
                    let ArrowType::List(found) = field.data_type() else { panic!("{name}") };
                    assert!(!found.is_nullable());
                    assert_eq!(found.data_type().primitive_width(), item.data_type().width());
                }
                _ => assert_eq!(name, data_type.to_string()),
            }
        }
    }
}

#[test]
fn seconds_are_milliseconds_in_parquet_and_refused_where_they_do_not_fit() {
    let schema = schema_of(&fields(&["at:timestamp[s]?"])).unwrap();
    let mut batch = batch(&schema, 4, 64);
    batch.writer().push_timestamp(0, 1_700_000_000);
    batch.writer().finish_row();
    batch.writer().push_null(0);
    batch.writer().finish_row();
    batch.writer().push_timestamp(0, i64::MAX / 999);
    batch.writer().finish_row();
    let view = batch.view();
    let parquet = OutputFormat::Parquet(Compression::None);
    let found = batches(&stream(parquet, &schema, &view, &[0, 2])).remove(0);
    assert_eq!(cell(&found, 0, 0), Some(1_700_000_000_000_i64.to_le_bytes().to_vec()));
    assert_eq!(cell(&found, 0, 1), None);
    let refused = encoder(parquet, &schema).unwrap().check(&view, 0..3).unwrap_err();
    assert!(matches!(&refused, ConnectError::Value { column, .. } if column == "at"), "{refused}");
    encoder(OutputFormat::Arrow, &schema).unwrap().check(&view, 0..3).unwrap();
    let list = schema_of(&fields(&["at:list[timestamp[s]]"])).unwrap();
    let refused = encoder(parquet, &list).err().expect("a refusal");
    assert_eq!(refused.to_string(), "column \"at\" is list[timestamp[s]], which parquet cannot carry");
}

#[test]
fn a_stream_may_go_on_for_ever_and_is_whole_at_every_batch() {
    let schema = schema_of(&fields(&["x:int64"])).unwrap();
    let mut batch = batch(&schema, 3, 64);
    for x in 0..3_i64 {
        batch.writer().push(0, x);
        batch.writer().finish_row();
    }
    let ours = stream(OutputFormat::Arrow, &schema, &batch.view(), &[0, 1, 3]);
    let found = batches(&ours);
    assert_eq!(found.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1, 2]);
    // Only the mark of an end is missing, which a stream need not have.
    let mut theirs = StreamWriter::try_new(Vec::new(), &found[0].schema()).unwrap();
    found.iter().for_each(|batch| theirs.write(batch).unwrap());
    theirs.finish().unwrap();
    let theirs = theirs.into_inner().unwrap();
    assert!(theirs.starts_with(&ours) && theirs.len() == ours.len() + 8);
}
