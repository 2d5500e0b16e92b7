//! What is written into a region is what its views and any FlatBuffers reader find there.

use std::sync::Arc;

use ringmill_wire::{BatchView, Capacity, DataType, Field, Full, HeapBatch, ListItem, Schema, Template, TimeUnit};

fn every_kind() -> Arc<Template> {
    let schema = Schema::new(vec![
        Field::new("device_id", DataType::Utf8),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond)),
        Field::nullable("temperature", DataType::Float64),
        Field::new("on", DataType::Bool),
        Field::nullable("samples", DataType::List(ListItem::Float32)),
    ])
    .unwrap();
    Arc::new(Template::new(Arc::new(schema), Capacity { rows_max: 10, variable_bytes_max: 36 }).unwrap())
}

fn push_row(batch: &mut HeapBatch, row: u8) -> Result<(), Full> {
    let writer = batch.writer();
    writer.push_str(0, &"abcdefghij"[..usize::from(row)])?;
    writer.push_timestamp(1, 1_000 + i64::from(row));
    match row % 3 {
        0 => writer.push_null(2),
        _ => writer.push(2, f64::from(row) / 2.0),
    }
    writer.push_bool(3, row % 2 == 1);
    match row {
        1 => writer.push_null(4),
        _ => writer.push_list(4, &[f32::from(row).to_le_bytes(), 1f32.to_le_bytes()].concat())?,
    }
    writer.finish_row();
    Ok(())
}

fn assert_rows(view: &BatchView<'_>) {
    assert_eq!(view.rows(), 5);
    let names: Vec<_> = (0..5).map(|row| view.column(0).str(row).unwrap()).collect();
    assert_eq!(names, ["", "a", "ab", "abc", "abcd"]);
    assert_eq!(view.column(1).values::<i64>(), [1_000, 1_001, 1_002, 1_003, 1_004]);
    assert_eq!(view.column(2).values::<f64>(), [0.0, 0.5, 1.0, 0.0, 2.0]);
    assert_eq!((0..5).map(|row| view.column(2).is_valid(row)).collect::<Vec<_>>(), [false, true, true, false, true]);
    assert_eq!(view.column(2).null_count(), 2);
    assert_eq!(view.column(3).values::<u8>(), [0, 1, 0, 1, 0]);
    assert_eq!(view.column(4).list::<f32>(0), [0.0, 1.0]);
    assert_eq!(view.column(4).list::<f32>(1), []);
    assert_eq!(view.column(4).list::<f32>(4), [4.0, 1.0]);
    assert_eq!(view.column(4).offsets(), [0, 2, 2, 4, 6, 8]);
    assert_eq!(view.column(4).null_count(), 1);
}

#[test]
fn rows_are_seen_as_they_were_pushed_before_and_after_close() {
    let mut batch = HeapBatch::new(every_kind());
    for _ in 0..2 {
        (0..5).for_each(|row| push_row(&mut batch, row).unwrap());
        assert_rows(&batch.view());
        assert_eq!(push_row(&mut batch, 9), Err(Full), "a fifth list of 8 bytes exceeds 36");
        batch.writer().discard_row();
        assert_rows(&batch.view());
        let closed = batch.writer().close();
        assert_eq!((closed.rows, closed.bytes as usize), (5, batch.template().bytes()));
        assert_rows(&batch.view());
        batch.clear();
        assert_eq!(batch.rows(), 0);
    }
}

#[test]
fn the_generated_flatbuffers_code_verifies_the_region_and_finds_the_values() {
    let mut batch = HeapBatch::new(every_kind());
    (0..5).for_each(|row| push_row(&mut batch, row).unwrap());
    let bytes = batch.flatbuffer().to_vec();
    let found = ringmill_wire::flatbuffer::root_as_micro_batch(&bytes).unwrap();
    assert!(ringmill_wire::flatbuffer::micro_batch_buffer_has_identifier(&bytes));
    assert_eq!(found.rows(), 5);
    assert_eq!(found.schema_hash(), batch.template().schema_hash());
    let columns = found.columns().unwrap();
    assert_eq!(columns.len(), 5);
    let view = batch.view();
    for (column, seen) in columns.iter().zip(view.columns()) {
        assert_eq!(column.values().unwrap().bytes(), seen.value_bytes());
        assert_eq!(column.null_count() as usize, seen.null_count());
        assert_eq!(column.offsets().is_some(), seen.data_type().is_variable());
        if let Some(offsets) = column.offsets() {
            assert_eq!(offsets.iter().collect::<Vec<_>>(), seen.offsets());
        }
        assert_eq!(column.validity().map(|bits| bits.bytes()), seen.validity());
    }
}

#[test]
fn an_untrusted_copy_holds_the_same_rows() {
    let mut batch = HeapBatch::new(every_kind());
    (0..5).for_each(|row| push_row(&mut batch, row).unwrap());
    batch.writer().close();
    let mut copy = HeapBatch::new(every_kind());
    #[allow(unsafe_code)]
    // SAFETY: the region is a whole batch of this template, aligned as heap batches are.
    unsafe {
        batch.template().clone().copy_untrusted(batch.flatbuffer().as_ptr(), 5, &mut copy).unwrap();
    }
    assert_rows(&copy.view());
}
