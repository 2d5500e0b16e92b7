//! A program of a stranger's sends whatever it likes as a micro-batch.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use ringmill_wire::{DataType, Field, ForeignBatch, ListItem, Schema};

/// A column of every sort.
fn schema() -> &'static Arc<Schema> {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let fields = vec![
            Field::new("a", DataType::Int64),
            Field::nullable("b", DataType::Bool),
            Field::nullable("c", DataType::Utf8),
            Field::new("d", DataType::List(ListItem::Float32)),
        ];
        Arc::new(Schema::new(fields).unwrap())
    })
}

fuzz_target!(|input: &[u8]| {
    let Ok(batch) = ForeignBatch::read(input, schema()) else { return };
    // What was accepted must be readable in full.
    let view = batch.view();
    for column in view.columns() {
        for row in 0..view.rows() {
            std::hint::black_box(column.is_valid(row));
            if column.data_type().is_variable() {
                std::hint::black_box(column.bytes(row));
            }
            if column.data_type() == DataType::Utf8 {
                assert!(column.str(row).is_some(), "text is UTF-8");
            }
        }
    }
});
