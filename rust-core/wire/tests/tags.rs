//! Tags travel with rows that are copied, and never enter the region.

use std::sync::Arc;

use ringmill_wire::{BatchView, Capacity, DataType, Field, HeapBatch, Schema, Template};

fn batch(are_tagged: bool) -> HeapBatch {
    let fields = vec![Field::new("x", DataType::Int64), Field::new("name", DataType::Utf8)];
    let capacity = Capacity { rows_max: 8, variable_bytes_max: 16 };
    let template = Template::new(Arc::new(Schema::new(fields).unwrap()), capacity).unwrap();
    HeapBatch::new(Arc::new(template)).tagged(are_tagged)
}

fn push(batch: &mut HeapBatch, x: i64, tag: Option<u64>) {
    let writer = batch.writer();
    writer.push(0, x);
    writer.push_str(1, "ab").unwrap();
    match tag {
        Some(tag) => writer.finish_tagged_row(tag),
        None => writer.finish_row(),
    }
}

fn tags(view: &BatchView<'_>) -> Vec<u64> {
    (0..view.rows()).map(|row| view.tag(row)).collect()
}

#[test]
fn copied_rows_bring_their_tags_and_rows_without_one_have_none() {
    let mut from = batch(true);
    [Some(7), None, Some(9), None].into_iter().enumerate().for_each(|(x, tag)| push(&mut from, x as i64, tag));
    assert_eq!(tags(&from.view()), [7, 0, 9, 0]);
    let mut to = batch(true);
    assert_eq!(to.writer().copy_rows(&from.view(), 1..3), 2);
    assert_eq!(to.writer().copy_selected(&from.view(), &[2, 0]), 2);
    to.writer().copy_row(&from.view(), 3).unwrap();
    to.writer().copy_row(&from.view(), 0).unwrap();
    assert_eq!(tags(&to.view()), [0, 9, 9, 7, 0, 7]);
    let mut plain = batch(false);
    plain.writer().copy_rows(&from.view(), 0..4);
    assert_eq!(tags(&plain.view()), [0; 4]);
}

#[test]
fn a_row_that_is_taken_back_leaves_no_tag_to_the_next() {
    let mut batch = batch(true);
    push(&mut batch, 0, Some(3));
    batch.writer().tag_rows([4, 5].into_iter());
    batch.writer().discard_row();
    push(&mut batch, 1, None);
    assert_eq!(tags(&batch.view()), [3, 0]);
    batch.clear();
    push(&mut batch, 2, None);
    assert_eq!(tags(&batch.view()), [0]);
}

#[test]
fn a_region_is_the_same_with_and_without_tags() {
    let (mut with, mut without) = (batch(true), batch(false));
    for x in 0..5 {
        push(&mut with, x, Some(u64::MAX));
        push(&mut without, x, Some(1));
    }
    assert_eq!(with.flatbuffer(), without.flatbuffer());
}

#[test]
fn tags_of_a_closed_batch_are_swapped_for_room() {
    let mut batch = batch(true);
    push(&mut batch, 0, Some(3));
    let mut room = vec![1; 8];
    batch.writer().swap_tags(&mut room);
    assert_eq!(room, [3]);
    assert_eq!(tags(&batch.view().with_tags(&room)), [3]);
    assert_eq!(tags(&batch.view()), [0]);
}
