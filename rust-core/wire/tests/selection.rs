//! Rows and columns that are picked out of a batch.

use std::sync::Arc;

use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template};

fn batch(fields: Vec<Field>) -> HeapBatch {
    let capacity = Capacity { rows_max: 8, variable_bytes_max: 16 };
    HeapBatch::new(Arc::new(Template::new(Arc::new(Schema::new(fields).unwrap()), capacity).unwrap()))
}

#[test]
fn columns_are_taken_by_their_places_and_what_is_empty_is_not_missing() {
    let fields =
        vec![Field::new("a", DataType::UInt16), Field::new("b", DataType::Utf8), Field::nullable("c", DataType::Int64)];
    let mut from = batch(fields);
    for row in 0..3_u16 {
        let writer = from.writer();
        writer.push(0, row);
        if row == 1 {
            writer.push_empty(1);
            writer.push_null(2);
        } else {
            writer.push_str(1, "text").unwrap();
            writer.push(2, i64::from(row));
        }
        writer.finish_row();
    }
    let view = from.view();
    assert_eq!((view.column(1).bytes(1), view.column(1).null_count()), (&b""[..], 0));
    let mut to = batch(vec![Field::new("c", DataType::Int64), Field::new("b", DataType::Utf8)]);
    assert_eq!(to.writer().copy_selected_columns(&view, &[2, 1], &[2, 0]), 2);
    let view = to.view();
    assert_eq!(view.column(0).values::<i64>(), [2, 0], "a value that is missing in another row is not in the way");
    assert_eq!([view.column(1).bytes(0), view.column(1).bytes(1)], [b"text", b"text"]);
}

#[test]
#[should_panic(expected = "column 0 is not nullable")]
fn a_missing_value_is_not_copied_into_a_column_that_is_not_nullable() {
    let mut from = batch(vec![Field::nullable("c", DataType::Int64)]);
    from.writer().push_null(0);
    from.writer().finish_row();
    batch(vec![Field::new("c", DataType::Int64)]).writer().copy_selected_columns(&from.view(), &[0], &[0]);
}
