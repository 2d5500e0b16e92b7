//! What a template promises: the same in every process, aligned, without overlaps, within bounds.

mod region;

use std::sync::Arc;

use region::Region;
use ringmill_wire::{ALIGNMENT, Capacity, DataType, Field, Schema, Template, WireError};

fn template(fields: Vec<Field>, rows_max: u32, variable_bytes_max: u32) -> Result<Template, WireError> {
    Template::new(Arc::new(Schema::new(fields).unwrap()), Capacity { rows_max, variable_bytes_max })
}

/// Every type, plain and nullable.
fn every_type() -> Vec<Field> {
    let field =
        |nullable| move |data_type: DataType| Field { name: format!("{data_type}{nullable}"), data_type, nullable };
    DataType::all().into_iter().map(field(false)).chain(DataType::all().into_iter().map(field(true))).collect()
}

#[test]
fn every_buffer_of_every_type_is_aligned_and_apart_from_the_others() {
    for (rows_max, variable_bytes_max) in
        [(1, 0), (1, 1), (7, 63), (8, 64), (64, 65), (1_000, 12_345), (65_536, 1 << 20)]
    {
        let template = template(every_type(), rows_max, variable_bytes_max).unwrap();
        assert!(template.bytes().is_multiple_of(ALIGNMENT));
        let mut end = 96 + 24 * template.schema().len();
        for buffer in region::buffers(&template) {
            assert!(buffer.start.is_multiple_of(ALIGNMENT), "{buffer:?}");
            assert!(end <= buffer.start - 4, "the length before {buffer:?} has its own bytes");
            end = buffer.end;
        }
        assert!(end <= template.bytes() && template.bytes() - end < ALIGNMENT);
    }
}

#[test]
fn two_templates_of_one_schema_and_capacity_stamp_the_same_bytes() {
    let make = || template(every_type(), 100, 1_000).unwrap();
    let (one, other) = (make(), make());
    assert_eq!(one.hash(), other.hash());
    assert_eq!(Region::stamped(&one, 0).bytes(), Region::stamped(&other, 0).bytes());
}

#[test]
fn the_hash_of_a_template_never_changes_unless_the_layout_does() {
    let fields = || vec![Field::new("a", DataType::Float64), Field::nullable("b", DataType::Utf8)];
    let hash = |rows, bytes| template(fields(), rows, bytes).unwrap().hash();
    assert_eq!(hash(100, 1_000), 3_438_829_214_042_604_801);
    assert_ne!(hash(100, 1_000), hash(101, 1_000));
    assert_ne!(hash(100, 1_000), hash(100, 1_001));
    assert_ne!(hash(100, 1_000), template(vec![], 100, 1_000).unwrap().hash());
}

#[test]
fn a_freshly_stamped_region_is_an_empty_batch_whatever_lay_there() {
    let template = template(every_type(), 10, 100).unwrap();
    let region = Region::stamped(&template, 0xAA);
    let batch = ringmill_wire::flatbuffer::root_as_micro_batch(region.bytes()).unwrap();
    assert_eq!((batch.rows(), batch.schema_hash()), (0, template.schema_hash()));
    for (index, column) in batch.columns().unwrap().iter().enumerate() {
        let field = template.schema().field(index);
        assert_eq!(column.values().unwrap().len(), 0);
        assert_eq!(
            column.offsets().map(|offsets| offsets.iter().collect()),
            field.data_type.is_variable().then(|| vec![0])
        );
        assert_eq!(column.validity().map(|bits| bits.len()), field.nullable.then_some(0));
        assert_eq!(column.null_count(), 0);
    }
}

#[test]
fn a_batch_without_columns_is_a_batch() {
    let template = template(vec![], 1, 0).unwrap();
    assert_eq!(template.bytes(), 128);
    let region = Region::stamped(&template, 0xAA);
    assert_eq!(ringmill_wire::flatbuffer::root_as_micro_batch(region.bytes()).unwrap().columns().unwrap().len(), 0);
}

#[test]
fn capacities_that_make_no_flatbuffer_are_refused() {
    let text = || vec![Field::new("text", DataType::Utf8)];
    assert_eq!(template(text(), 0, 10).unwrap_err(), WireError::NoRows);
    let error = template(text(), u32::MAX, u32::MAX).unwrap_err();
    assert!(matches!(error, WireError::RegionTooLarge { rows_max: u32::MAX, .. }), "{error}");
    assert!(matches!(template(text(), 1, i32::MAX as u32).unwrap_err(), WireError::RegionTooLarge { .. }));
    assert!(template(text(), 1, i32::MAX as u32 - 1_000).is_ok());
}
