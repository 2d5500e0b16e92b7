//! Misuse of the writer panics with the reason, and never writes outside its column.
#![allow(unsafe_code)]

mod region;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use region::Region;
use ringmill_wire::{BatchWriter, Capacity, DataType, Field, Full, HeapBatch, ListItem, Schema, Template};

fn template() -> Arc<Template> {
    let schema = Schema::new(vec![
        Field::new("number", DataType::Int64),
        Field::nullable("text", DataType::Utf8),
        Field::new("list", DataType::List(ListItem::Int32)),
    ])
    .unwrap();
    Arc::new(Template::new(Arc::new(schema), Capacity { rows_max: 2, variable_bytes_max: 8 }).unwrap())
}

fn push_row(writer: &mut BatchWriter) {
    writer.push(0, 1i64);
    writer.push_null(1);
    writer.push_list(2, &[]).unwrap();
    writer.finish_row();
}

fn check(misuse: impl FnOnce(&mut BatchWriter), expected: &str) {
    let template = template();
    let mut region = Region::stamped(&template, 0xAA);
    let mut writer = BatchWriter::new(template.clone());
    // SAFETY: the region is stamped, and written through this writer alone.
    unsafe { writer.open(region.start()) };
    let outcome = catch_unwind(AssertUnwindSafe(|| misuse(&mut writer)));
    let panic = outcome.expect_err(expected);
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    assert!(message.unwrap().contains(expected), "{message:?} lacks {expected:?}");
    let untouched = Region::stamped(&template, 0xAA);
    let buffers = region::buffers(&template);
    // Lengths and counts may have been patched by `close`; padding may not.
    let is_padding = |at: &usize| {
        *at >= buffers[0].start && buffers.iter().all(|buffer| !(buffer.start - 4..buffer.end).contains(at))
    };
    for at in (0..template.bytes()).filter(is_padding) {
        assert_eq!(region.bytes()[at], untouched.bytes()[at], "byte {at} lies in no buffer");
    }
}

#[test]
fn misuse_panics_and_says_why() {
    check(|writer| writer.push(0, 1.0f64), "a Float64 value was pushed into a Int64 column");
    check(|writer| writer.push(1, 1i64), "a Int64 value was pushed into a Bytes column");
    check(|writer| _ = writer.push_str(0, "a"), "a Bytes value was pushed into a Int64 column");
    check(|writer| _ = writer.fixed_tail::<u64>(0, 1), "a UInt64 value was pushed into a Int64 column");
    check(|writer| _ = writer.fixed_tail::<i64>(0, 3), "3 rows do not fit: 2 are free");
    check(|writer| writer.finish_rows(1), "column 0 has 0 values, not 1");
    check(|writer| writer.push_null(0), "column 0 is not nullable");
    check(|writer| writer.set_null(1, 0), "row 0 is not written");
    check(|writer| _ = writer.push_list(2, &[1, 2, 3]), "a list is a whole number of items");
    check(|writer| (0..3).for_each(|_| push_row(writer)), "row 2 is beyond the batch's capacity");
    check(|writer| (0..3).for_each(|_| writer.push_null(1)), "row 2 is beyond the batch's capacity");
    check(|writer| (0..3).for_each(|_| writer.push_str(1, "").unwrap()), "row 2 is beyond the batch's capacity");
}

#[test]
fn a_row_that_lacks_a_column_is_noticed_when_the_batch_is_seen_or_closed() {
    let forgotten = |writer: &mut BatchWriter| {
        writer.push(0, 1i64);
        writer.push_null(1);
        writer.finish_row();
    };
    check(
        |writer| {
            forgotten(writer);
            writer.close();
        },
        "a column has 0 values, not 1",
    );
    check(
        |writer| {
            forgotten(writer);
            _ = writer.view().column(2);
        },
        "column 2 has 0 values, not 1",
    );
}

#[test]
fn a_closed_writer_takes_nothing() {
    let closed = |misuse: fn(&mut BatchWriter)| {
        move |writer: &mut BatchWriter| {
            writer.close();
            assert_eq!((writer.is_open(), writer.rows_free()), (false, 0));
            misuse(writer);
        }
    };
    check(closed(|writer| writer.push(0, 1i64)), "or the batch is closed");
    check(closed(|writer| _ = writer.push_str(1, "")), "or the batch is closed");
    check(closed(|writer| writer.push_null(1)), "or it is closed");
    check(closed(|writer| _ = writer.close()), "the batch is closed already");
    check(closed(|writer| _ = writer.view()), "the batch is closed: its region may be another's");
}

#[test]
fn only_rows_of_the_same_types_are_copied() {
    let schema = |fields| Arc::new(Schema::new(fields).unwrap());
    let source = |fields| {
        let capacity = Capacity { rows_max: 2, variable_bytes_max: 8 };
        HeapBatch::new(Arc::new(Template::new(schema(fields), capacity).unwrap()))
    };
    let mut nullable = source(vec![Field::nullable("number", DataType::Int64)]);
    nullable.writer().push_null(0);
    nullable.writer().finish_row();
    let other = source(vec![Field::new("number", DataType::UInt64)]);
    let column = nullable.view().column(0);
    check(|writer| _ = writer.copy_value(0, &column, 0), "column 0 is not nullable");
    check(|writer| _ = writer.copy_value(0, &other.view().column(0), 0), "column 0");
    check(|writer| _ = writer.copy_rows(&other.view(), 0..1), "rows 0..1 of 0");
}

#[test]
fn a_value_that_does_not_fit_is_full_and_leaves_the_row_as_it_was() {
    let mut batch = HeapBatch::new(template());
    let writer = batch.writer();
    assert_eq!(writer.bytes_free(1), 8);
    assert_eq!(writer.push_str(1, "123456789"), Err(Full));
    assert_eq!(writer.push_list(2, &[0; 12]), Err(Full));
    assert_eq!(writer.bytes_free(1), 8);
    writer.push_str(1, "12345678").unwrap();
    assert_eq!(writer.bytes_free(1), 0);
    writer.discard_row();
    assert_eq!(writer.bytes_free(1), 8);
}
