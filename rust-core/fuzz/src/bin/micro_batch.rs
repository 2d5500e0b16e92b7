//! A worker answers with a micro-batch of every column type that it then scribbled on.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use ringmill_fuzz::scribble;
use ringmill_wire::{BatchWriter, Capacity, DataType, Field, HeapBatch, Schema, Template};

const ROWS: u32 = 7;

#[repr(align(64))]
#[derive(Clone)]
#[allow(dead_code, reason = "seen as bytes only")]
struct Line([u8; 64]);

/// Two columns, nullable and not, of every type, and a region that holds a valid batch of them.
fn pristine() -> &'static (Arc<Template>, Vec<Line>) {
    static BATCH: OnceLock<(Arc<Template>, Vec<Line>)> = OnceLock::new();
    BATCH.get_or_init(|| {
        let field = |(index, data_type): (usize, DataType)| {
            [Field::new(format!("a{index}"), data_type), Field::nullable(format!("b{index}"), data_type)]
        };
        let fields: Vec<Field> = DataType::all().into_iter().enumerate().flat_map(field).collect();
        let schema = Arc::new(Schema::new(fields).unwrap());
        let template = Arc::new(Template::new(schema, Capacity { rows_max: 16, variable_bytes_max: 128 }).unwrap());
        let mut memory = vec![Line([0; 64]); template.bytes() / 64];
        let start = std::ptr::NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
        let mut writer = BatchWriter::new(template.clone());
        // SAFETY: the lines are aligned to 64, as many as the template says, and ours alone.
        unsafe {
            template.stamp(start.as_ptr());
            writer.open(start);
        }
        for row in 0..ROWS {
            for column in 0..template.schema().len() {
                write_value(&mut writer, &template, column, row);
            }
            writer.finish_row();
        }
        writer.close();
        (template, memory)
    })
}

fn write_value(writer: &mut BatchWriter, template: &Template, column: usize, row: u32) {
    let field = template.schema().field(column);
    if field.nullable && row % 3 == 0 {
        return writer.push_null(column);
    }
    match field.data_type {
        DataType::Bool => writer.push(column, true),
        DataType::Int8 => writer.push(column, 1_i8),
        DataType::Int16 => writer.push(column, 1_i16),
        DataType::Int32 => writer.push(column, 1_i32),
        DataType::Int64 | DataType::Timestamp(_) => writer.push(column, 1_i64),
        DataType::UInt8 => writer.push(column, 1_u8),
        DataType::UInt16 => writer.push(column, 1_u16),
        DataType::UInt32 => writer.push(column, 1_u32),
        DataType::UInt64 => writer.push(column, 1_u64),
        DataType::Float32 => writer.push(column, 1_f32),
        DataType::Float64 => writer.push(column, 1_f64),
        DataType::Utf8 | DataType::Binary => writer.push_bytes(column, "größe".as_bytes()).unwrap(),
        DataType::List(_) => writer.push_list(column, &[0; 8]).unwrap(),
    }
}

fuzz_target!(|input: &[u8]| {
    let (template, pristine) = pristine();
    let mut memory = pristine.clone();
    // SAFETY: lines are plain bytes, so their memory can be seen as such.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), memory.len() * 64) };
    scribble(bytes, input);
    let mut copy = HeapBatch::new(template.clone());
    // SAFETY: the memory is aligned and as long as the template says.
    if unsafe { template.copy_untrusted(memory.as_ptr().cast(), ROWS, &mut copy) }.is_err() {
        return;
    }
    // What was accepted must be readable in full, also for the stock verifier.
    let view = copy.view();
    for column in view.columns() {
        for row in 0..view.rows() {
            if column.data_type().is_variable() {
                std::hint::black_box(column.bytes(row));
            }
            if column.data_type() == DataType::Utf8 && column.is_valid(row) {
                assert!(column.str(row).is_some(), "text is UTF-8");
            }
        }
    }
    ringmill_wire::flatbuffer::root_as_micro_batch(copy.flatbuffer()).expect("an accepted batch is a valid FlatBuffer");
});
