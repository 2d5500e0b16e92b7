//! A batch of which every rule holds, and what the rules are.

use std::sync::Arc;

use ringmill_wire::{BatchView, Capacity, DataType, Field, HeapBatch, ListItem, Schema, Template, TimeUnit};

/// Of the honest batch.
pub const ROWS: u32 = 5;

/// A column of every sort: fixed, fixed nullable, bool, text, nullable text, blob, list.
pub fn template() -> Arc<Template> {
    let schema = Schema::new(vec![
        Field::new("time", DataType::Timestamp(TimeUnit::Nanosecond)),
        Field::nullable("score", DataType::Float64),
        Field::new("on", DataType::Bool),
        Field::new("name", DataType::Utf8),
        Field::nullable("note", DataType::Utf8),
        Field::new("blob", DataType::Binary),
        Field::nullable("samples", DataType::List(ListItem::Float32)),
    ])
    .unwrap();
    Arc::new(Template::new(Arc::new(schema), Capacity { rows_max: 9, variable_bytes_max: 48 }).unwrap())
}

/// Rows of it, null and not, empty and not.
pub fn honest_batch(template: &Arc<Template>) -> HeapBatch {
    let mut batch = HeapBatch::new(template.clone());
    let writer = batch.writer();
    for row in 0..ROWS as usize {
        writer.push_timestamp(0, row as i64);
        if row == 1 {
            writer.push_null(1)
        } else {
            writer.push(1, row as f64)
        }
        writer.push_bool(2, row % 2 == 0);
        writer.push_str(3, ["", "a", "é", "€uro", "𝄞"][row]).unwrap();
        if row == 3 {
            writer.push_null(4)
        } else {
            writer.push_str(4, "note é").unwrap()
        }
        writer.push_bytes(5, &[0xFF, 0x80, 0x00, 0xC3][..row.min(4)]).unwrap();
        if row == 0 {
            writer.push_null(6)
        } else {
            writer.push_list(6, &[0; 8][..4 * (row % 3)]).unwrap()
        }
        writer.finish_row();
    }
    batch
}

/// Everything that a user of a view relies on; the rule that is broken, if one is.
pub fn broken_rule(view: &BatchView<'_>) -> Option<String> {
    for (column, field) in view.columns().zip(&view.schema().fields) {
        let broken = |rule: &str| Some(format!("column `{}`: {rule}", field.name));
        let nulls = (0..view.rows()).filter(|&row| !column.is_valid(row)).count();
        if nulls != column.null_count() || (nulls > 0 && !field.nullable) {
            return broken("null count and bitmap differ");
        }
        if field.data_type == DataType::Bool && column.values::<u8>().iter().any(|&value| value > 1) {
            return broken("a bool is neither 0 nor 1");
        }
        if !field.data_type.is_variable() {
            continue;
        }
        let (offsets, items) = (column.offsets(), column.value_bytes().len() / field.data_type.item_width());
        if offsets[0] != 0 {
            return broken("offsets do not start at 0");
        }
        if !offsets.is_sorted() || offsets[view.rows()] as usize != items {
            return broken("offsets are out of order or out of range");
        }
        if field.data_type == DataType::Utf8 && (0..view.rows()).any(|row| column.str(row).is_none()) {
            return broken("text is not UTF-8");
        }
        if let DataType::List(_) = field.data_type {
            (0..view.rows()).for_each(|row| assert!(column.list::<f32>(row).len() <= items));
        }
    }
    None
}
