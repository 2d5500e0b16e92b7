//! The micro-batches in `schemas/vectors`: each a captured region (`NAME.bin`) and what it holds (`NAME.json`).
//!
//! They are the format, written down: readers of other languages are tested against them
//! (`schemas/tests/test_stock_flatbuffers.py`), and here the writer must still make them byte for byte.
//! `RINGMILL_BLESS=1 cargo test -p ringmill-wire --test golden` writes them anew, after a change that was meant.
#![allow(unsafe_code)]

mod region;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use region::Region;
use ringmill_wire::{Capacity, ColumnView, DataType, Field, HeapBatch, Schema, Template};
use serde_json::{Value, json};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/vectors")
}

/// Every type, plain and nullable, with `rows` rows of made-up values.
fn every_type(rows: u32, capacity: Capacity) -> HeapBatch {
    let field = |nullable| {
        move |data_type: DataType| Field {
            name: format!("{data_type}{}", if nullable { " nullable" } else { "" }),
            data_type,
            nullable,
        }
    };
    let types = DataType::all();
    let fields = types.iter().copied().map(field(false)).chain(types.iter().copied().map(field(true)));
    let schema = Schema::new(fields.collect()).unwrap();
    let mut batch = HeapBatch::new(Arc::new(Template::new(Arc::new(schema), capacity).unwrap()));
    for row in 0..rows {
        push_row(&mut batch, row);
    }
    batch
}

fn push_row(batch: &mut HeapBatch, row: u32) {
    let schema = batch.template().schema().clone();
    let writer = batch.writer();
    for (column, field) in schema.fields.iter().enumerate() {
        // Least, greatest, then small values; lists and text of lengths 0 to 3.
        let bits = [1 << 63, i64::MAX as u64, 0, 1, u64::MAX, 300][row as usize % 6];
        let items = row as usize % 4;
        match field.data_type {
            _ if field.nullable && (row + column as u32).is_multiple_of(3) => writer.push_null(column),
            DataType::Bool => writer.push(column, row % 2 == 1),
            DataType::Int8 => writer.push(column, (bits as i64 >> if row < 2 { 56 } else { 0 }) as i8),
            DataType::Int16 => writer.push(column, (bits as i64 >> if row < 2 { 48 } else { 0 }) as i16),
            DataType::Int32 => writer.push(column, (bits as i64 >> if row < 2 { 32 } else { 0 }) as i32),
            DataType::Int64 => writer.push(column, bits as i64),
            DataType::UInt8 => writer.push(column, bits as u8),
            DataType::UInt16 => writer.push(column, bits as u16),
            DataType::UInt32 => writer.push(column, bits as u32),
            DataType::UInt64 => writer.push(column, bits),
            DataType::Float32 => {
                writer.push(column, [0.5, -0.0, f32::INFINITY, f32::NAN, 3e38, 1e-40][row as usize % 6])
            }
            DataType::Float64 => {
                writer.push(column, [0.1, -0.0, f64::INFINITY, f64::NAN, 1e308, 5e-324][row as usize % 6])
            }
            DataType::Timestamp(_) => writer.push_timestamp(column, 1_700_000_000 + i64::from(row)),
            DataType::Utf8 => writer.push_str(column, ["", "a", "é€", "𝄞 clef"][items]).unwrap(),
            DataType::Binary => writer.push_bytes(column, &[0xFF, 0x00, 0x80][..items]).unwrap(),
            DataType::List(item) => {
                let width = item.data_type().item_width();
                let item = |index: usize| match item.data_type() {
                    DataType::Float32 => (index as f32 + 0.5).to_le_bytes().to_vec(),
                    DataType::Float64 => (index as f64 + 0.5).to_le_bytes().to_vec(),
                    _ => (index as u64 + 1).to_le_bytes()[..width].to_vec(),
                };
                writer.push_list(column, &(0..items).flat_map(item).collect::<Vec<_>>()).unwrap();
            }
        }
    }
    writer.finish_row();
}

/// Floats as texts where JSON has no number for them, and always where the sign of zero counts.
fn float(value: f64) -> Value {
    if value.is_finite() && value != 0.0 { json!(value) } else { json!(value.to_string()) }
}

fn fixed(data_type: DataType, bytes: &[u8]) -> Value {
    macro_rules! number {
        ($type:ty) => {
            <$type>::from_le_bytes(bytes.try_into().unwrap())
        };
    }
    match data_type {
        DataType::Bool => json!(bytes[0] == 1),
        DataType::Int8 => json!(number!(i8)),
        DataType::Int16 => json!(number!(i16)),
        DataType::Int32 => json!(number!(i32)),
        DataType::UInt8 => json!(number!(u8)),
        DataType::UInt16 => json!(number!(u16)),
        DataType::UInt32 => json!(number!(u32)),
        DataType::UInt64 => json!(number!(u64)),
        DataType::Float32 => float(f64::from(number!(f32))),
        DataType::Float64 => float(number!(f64)),
        _ => json!(number!(i64)),
    }
}

fn value(column: &ColumnView<'_>, row: usize) -> Value {
    if !column.is_valid(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Utf8 => json!(column.str(row).unwrap()),
        DataType::Binary => json!(column.bytes(row).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })),
        DataType::List(item) => column
            .bytes(row)
            .chunks(item.data_type().item_width())
            .map(|item_bytes| fixed(item.data_type(), item_bytes))
            .collect(),
        other => fixed(other, &column.value_bytes()[row * other.item_width()..][..other.item_width()]),
    }
}

/// What a batch holds, as JSON: one line a column.
fn described(batch: &HeapBatch) -> String {
    let (template, view) = (batch.template(), batch.view());
    let mut text = String::from("{\n");
    let mut line = |name: &str, value: Value| writeln!(text, "  \"{name}\": {value},").unwrap();
    line("capacity", json!(template.capacity()));
    line("schema_canonical_text", json!(template.schema().canonical_text()));
    line("schema_hash", json!(format!("{:016x}", template.schema_hash())));
    line("template_hash", json!(format!("{:016x}", template.hash())));
    line("rows", json!(view.rows()));
    let columns: Vec<String> = view
        .columns()
        .zip(&template.schema().fields)
        .map(|(column, field)| {
            let values: Vec<Value> = (0..view.rows()).map(|row| value(&column, row)).collect();
            let field = json!({ "name": field.name, "data_type": field.data_type, "nullable": field.nullable, "values": values });
            format!("\n    {field}")
        })
        .collect();
    text + &format!("  \"columns\": [{}\n  ]\n}}\n", columns.join(","))
}

fn check(name: &str, mut batch: HeapBatch) {
    let template = batch.template().clone();
    let bytes = batch.flatbuffer().to_vec();
    let description = described(&batch);
    let (bin, json) = (vectors().join(format!("{name}.bin")), vectors().join(format!("{name}.json")));
    if std::env::var_os("RINGMILL_BLESS").is_some() {
        std::fs::write(&bin, &bytes).unwrap();
        std::fs::write(&json, &description).unwrap();
    }
    let committed = std::fs::read(&bin).unwrap();
    assert!(committed == bytes, "{name}.bin is not what the writer makes; see RINGMILL_BLESS in this test");
    assert_eq!(std::fs::read_to_string(&json).unwrap(), description, "{name}.json");

    let region = Region::of(&template, &committed);
    let mut copy = HeapBatch::new(template.clone());
    // SAFETY: the region is of the template's size and nobody writes it.
    unsafe { template.copy_untrusted(region.bytes().as_ptr(), batch.rows(), &mut copy) }.unwrap();
    assert_eq!(described(&copy), description);
}

#[test]
fn the_committed_vectors_are_what_the_writer_makes() {
    let capacity = |rows_max| Capacity { rows_max, variable_bytes_max: 96 };
    check("every-type", every_type(7, capacity(12)));
    check("every-type-full", every_type(6, capacity(6)));
    check("every-type-empty", every_type(0, capacity(3)));
    let schema = Arc::new(Schema::default());
    check("no-columns", HeapBatch::new(Arc::new(Template::new(schema, capacity(1)).unwrap())));
}
