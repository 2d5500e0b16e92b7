//! The writer against a naive model: random schemas, capacities and sequences of calls, over dirty memory, checked
//! through the view, the stock FlatBuffers verifier and reader, and the untrusted copy.
#![allow(unsafe_code)]

mod region;

use std::sync::Arc;

use proptest::prelude::*;
use region::Region;
use ringmill_wire::{
    ALIGNMENT, BatchView, BatchWriter, Capacity, ColumnView, DataType, Field, Full, HeapBatch, Lengths, Schema,
    Template,
};

/// A value in the model: missing, or its little-endian bytes.
type Value = Option<Vec<u8>>;

/// One call, or a few that belong together. The seeds make the values.
#[derive(Clone, Debug)]
enum Step {
    Row(u64),
    HalfRow { seed: u64, columns: usize },
    Bulk { seed: u64, rows: u32, finished: u32 },
    CopyRows { start: usize, rows: usize },
    CopySelected(Vec<u32>),
    CopyRow(usize),
    Reopen,
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<u64>().prop_map(Step::Row),
        2 => (any::<u64>(), 0..6usize).prop_map(|(seed, columns)| Step::HalfRow { seed, columns }),
        2 => (any::<u64>(), 0..6u32, 0..6u32).prop_map(|(seed, rows, finished)| Step::Bulk { seed, rows, finished }),
        2 => (0..8usize, 0..8usize).prop_map(|(start, rows)| Step::CopyRows { start, rows }),
        1 => prop::collection::vec(0..8u32, 0..8).prop_map(Step::CopySelected),
        1 => (0..8usize).prop_map(Step::CopyRow),
        1 => Just(Step::Reopen),
    ]
}

fn a_template() -> impl Strategy<Value = Arc<Template>> {
    let field = (prop::sample::select(DataType::all()), any::<bool>());
    (prop::collection::vec(field, 0..6), 1..24u32, 0..96u32).prop_map(|(fields, rows_max, variable_bytes_max)| {
        let field = |(index, (data_type, nullable))| Field { name: format!("c{index}"), data_type, nullable };
        let schema = Schema::new(fields.into_iter().enumerate().map(field).collect()).unwrap();
        Arc::new(Template::new(Arc::new(schema), Capacity { rows_max, variable_bytes_max }).unwrap())
    })
}

/// A value that the field can hold, made from a seed.
fn value(field: &Field, seed: u64) -> Value {
    let seed = (seed ^ field.name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    if field.nullable && seed.is_multiple_of(3) {
        return None;
    }
    let bytes = (seed | 1).to_le_bytes();
    Some(match field.data_type {
        DataType::Bool => vec![bytes[0] & 1],
        DataType::Utf8 => {
            "aé€𝄞".chars().cycle().skip(seed as usize % 4).take(seed as usize / 7 % 9).collect::<String>().into()
        }
        DataType::Binary => bytes.repeat(5)[..seed as usize / 7 % 40].to_vec(),
        DataType::List(_) => bytes.repeat(4)[..seed as usize / 7 % 4 * field.data_type.item_width()].to_vec(),
        other => bytes[..other.item_width()].to_vec(),
    })
}

fn push(writer: &mut BatchWriter, column: usize, data_type: DataType, value: &Value) -> Result<(), Full> {
    let Some(bytes) = value else {
        writer.push_null(column);
        return Ok(());
    };
    macro_rules! push {
        ($type:ty) => {
            writer.push(column, <$type>::from_le_bytes(bytes[..].try_into().unwrap()))
        };
    }
    match data_type {
        DataType::Bool => writer.push_bool(column, bytes[0] == 1),
        DataType::Int8 => push!(i8),
        DataType::Int16 => push!(i16),
        DataType::Int32 => push!(i32),
        DataType::Int64 => push!(i64),
        DataType::UInt8 => push!(u8),
        DataType::UInt16 => push!(u16),
        DataType::UInt32 => push!(u32),
        DataType::UInt64 => push!(u64),
        DataType::Float32 => push!(f32),
        DataType::Float64 => push!(f64),
        DataType::Timestamp(_) => writer.push_timestamp(column, i64::from_le_bytes(bytes[..].try_into().unwrap())),
        DataType::Utf8 => return writer.push_str(column, std::str::from_utf8(bytes).unwrap()),
        DataType::Binary => return writer.push_bytes(column, bytes),
        DataType::List(_) => return writer.push_list(column, bytes),
    }
    Ok(())
}

/// What a batch should hold: rows of values, and how many bytes of each variable column they take.
struct Model {
    template: Arc<Template>,
    rows: Vec<Vec<Value>>,
}

impl Model {
    fn fits(&self, rows: &[Vec<Value>]) -> bool {
        let Capacity { rows_max, variable_bytes_max } = self.template.capacity();
        let schema = self.template.schema();
        self.rows.len() + rows.len() <= rows_max as usize
            && (0..schema.len()).filter(|&column| schema.field(column).data_type.is_variable()).all(|column| {
                let bytes = |row: &Vec<Value>| row[column].as_ref().map_or(0, Vec::len);
                self.rows.iter().chain(rows).map(bytes).sum::<usize>() <= variable_bytes_max as usize
            })
    }

    /// The longest start of `rows` that fits.
    fn that_fit<'a>(&self, rows: &'a [Vec<Value>]) -> &'a [Vec<Value>] {
        let count = (0..=rows.len()).rev().find(|&count| self.fits(&rows[..count])).unwrap();
        &rows[..count]
    }

    fn assert_seen(&self, view: &BatchView<'_>) {
        assert_eq!(view.rows(), self.rows.len());
        for (index, column) in view.columns().enumerate() {
            let expected: Vec<&Value> = self.rows.iter().map(|row| &row[index]).collect();
            assert_eq!(column.null_count(), expected.iter().filter(|value| value.is_none()).count());
            for (row, expected) in expected.into_iter().enumerate() {
                assert_eq!(&seen(&column, row), expected, "column {index}, row {row}");
            }
        }
    }

    fn assert_region(&self, region: &Region) {
        let batch = ringmill_wire::flatbuffer::root_as_micro_batch(region.bytes()).expect("the verifier accepts it");
        assert_eq!(batch.rows() as usize, self.rows.len());
        let mut lengths = Lengths::default();
        // SAFETY: the region is of this template and nobody writes it.
        unsafe { self.template.read_lengths(region.bytes().as_ptr(), &mut lengths) }.unwrap();
        let mut parts = Vec::new();
        // SAFETY: as above.
        unsafe { self.template.parts(region.bytes().as_ptr(), &lengths, &mut parts) };
        // SAFETY: the writer of this very process has closed the region.
        self.assert_seen(&unsafe { BatchView::from_parts(self.template.schema(), self.rows.len(), &parts) });
        let mut copy = HeapBatch::new(self.template.clone());
        // SAFETY: as above.
        unsafe { self.template.copy_untrusted(region.bytes().as_ptr(), self.rows.len() as u32, &mut copy) }.unwrap();
        self.assert_seen(&copy.view());
        for (column, seen) in batch.columns().unwrap().iter().zip(copy.view().columns()) {
            let parts = seen.parts();
            for start in [parts.values.addr(), parts.offsets.addr(), parts.validity.addr()] {
                assert!(start.is_multiple_of(ALIGNMENT), "a {} buffer starts at {start:#x}", seen.data_type());
            }
            assert_eq!(column.values().unwrap().bytes(), seen.value_bytes());
            assert_eq!(column.null_count() as usize, seen.null_count());
            assert_eq!(column.offsets().is_some(), seen.data_type().is_variable());
            assert!(column.offsets().is_none_or(|offsets| offsets.iter().eq(seen.offsets().iter().copied())));
            if let Some(bits) = seen.validity() {
                assert_eq!(column.validity().unwrap().bytes(), bits);
            }
        }
    }
}

fn seen(column: &ColumnView<'_>, row: usize) -> Value {
    column.is_valid(row).then(|| match column.data_type().width() {
        None => column.bytes(row).to_vec(),
        Some(width) => column.value_bytes()[row * width..][..width].to_vec(),
    })
}

/// Eight rows to copy from.
fn source(template: &Template) -> (HeapBatch, Vec<Vec<Value>>) {
    let schema = template.schema().clone();
    let capacity = Capacity { rows_max: 8, variable_bytes_max: 8 * 64 };
    let mut batch = HeapBatch::new(Arc::new(Template::new(schema.clone(), capacity).unwrap()));
    let rows: Vec<Vec<Value>> =
        (0..8).map(|row| schema.fields.iter().map(|field| value(field, row * 977)).collect()).collect();
    for row in &rows {
        for (index, value) in row.iter().enumerate() {
            push(batch.writer(), index, schema.field(index).data_type, value).unwrap();
        }
        batch.writer().finish_row();
    }
    (batch, rows)
}

fn row_of(schema: &Schema, seed: u64) -> Vec<Value> {
    schema.fields.iter().enumerate().map(|(index, field)| value(field, seed.wrapping_add(index as u64 * 31))).collect()
}

/// Fixed columns through `fixed_tail`, variable ones value by value; more than is finished, where there is room.
fn bulk(writer: &mut BatchWriter, model: &mut Model, seed: u64, rows: u32, finished: u32) {
    let schema = model.template.schema().clone();
    let all: Vec<_> = (0..rows).map(|row| row_of(&schema, seed ^ u64::from(row) << 40)).collect();
    let count = model.that_fit(&all).len();
    for (index, field) in schema.fields.iter().enumerate() {
        let values = all[..count].iter().map(|row| row[index].clone());
        let Some(width) = field.data_type.width().filter(|_| count > 0) else {
            values.for_each(|value| push(writer, index, field.data_type, &value).unwrap());
            continue;
        };
        let values: Vec<Value> = values.collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.clone().unwrap_or_else(|| vec![0; width])).collect();
        macro_rules! fill {
            ($type:ty) => {
                for (target, bytes) in writer.fixed_tail::<$type>(index, count).iter_mut().zip(bytes.chunks(width)) {
                    *target = <$type>::from_le_bytes(bytes.try_into().unwrap());
                }
            };
        }
        match field.data_type {
            DataType::Bool | DataType::UInt8 => fill!(u8),
            DataType::Int8 => fill!(i8),
            DataType::Int16 => fill!(i16),
            DataType::UInt16 => fill!(u16),
            DataType::Int32 => fill!(i32),
            DataType::UInt32 => fill!(u32),
            DataType::Float32 => fill!(f32),
            DataType::UInt64 => fill!(u64),
            DataType::Float64 => fill!(f64),
            _ => fill!(i64),
        }
        let first = model.rows.len();
        values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_none())
            .for_each(|(row, _)| writer.set_null(index, first + row));
    }
    let finished = (finished as usize).min(count);
    writer.finish_rows(finished as u32);
    model.rows.extend_from_slice(&all[..finished]);
}

fn take(step: &Step, writer: &mut BatchWriter, model: &mut Model, source: &(HeapBatch, Vec<Vec<Value>>)) {
    let schema = model.template.schema().clone();
    let (batch, rows) = (source.0.view(), &source.1);
    match step {
        Step::Row(seed) | Step::HalfRow { seed, .. } if writer.rows_free() > 0 => {
            let row = row_of(&schema, *seed);
            let columns = match step {
                Step::HalfRow { columns, .. } => *columns,
                _ => schema.len(),
            };
            let whole = matches!(step, Step::Row(_));
            // Any order of columns will do: every other row goes backwards.
            let mut order: Vec<usize> = (0..schema.len().min(columns)).collect();
            if seed % 2 == 0 {
                order.reverse();
            }
            let fits = model.fits(std::slice::from_ref(&row));
            let pushed =
                order.iter().try_for_each(|&index| push(writer, index, schema.field(index).data_type, &row[index]));
            if whole {
                assert_eq!(pushed.is_ok(), fits);
            }
            if whole && fits {
                writer.finish_row();
                model.rows.push(row);
            } else {
                model.assert_seen(&writer.view());
                writer.discard_row();
            }
        }
        Step::Row(_) | Step::HalfRow { .. } => {}
        Step::Bulk { seed, rows, finished } => bulk(writer, model, *seed, *rows, *finished),
        Step::CopyRows { start, rows: count } => {
            let range = *start..(*start + *count).min(8);
            let fit = model.that_fit(&rows[range.clone()]).to_vec();
            assert_eq!(writer.copy_rows(&batch, range), fit.len());
            model.rows.extend(fit);
        }
        Step::CopySelected(selection) => {
            let selected: Vec<_> = selection.iter().map(|&row| rows[row as usize].clone()).collect();
            let fit = model.that_fit(&selected).to_vec();
            assert_eq!(writer.copy_selected(&batch, selection), fit.len());
            model.rows.extend(fit);
        }
        Step::CopyRow(row) => {
            let fits = model.fits(&rows[*row..=*row]);
            assert_eq!(writer.copy_row(&batch, *row).is_ok(), fits);
            model.rows.extend(fits.then(|| rows[*row].clone()));
        }
        Step::Reopen => unreachable!("the loop takes it"),
    }
    model.assert_seen(&writer.view());
}

proptest! {
    #[test]
    fn any_sequence_of_calls_leaves_what_the_model_holds(
        template in a_template(),
        steps in prop::collection::vec(a_step(), 0..40),
        dirt in any::<u8>(),
    ) {
        let mut region = Region::stamped(&template, dirt);
        let source = source(&template);
        let mut writer = BatchWriter::new(template.clone());
        let mut model = Model { template: template.clone(), rows: Vec::new() };
        // SAFETY: the region is stamped, and written through this writer alone.
        unsafe { writer.open(region.start()) };
        for step in steps.iter().chain([&Step::Reopen]) {
            if let Step::Reopen = step {
                let closed = writer.close();
                prop_assert_eq!((closed.rows as usize, closed.bytes as usize), (model.rows.len(), template.bytes()));
                model.assert_region(&region);
                model.rows.clear();
                // SAFETY: as above.
                unsafe { writer.open(region.start()) };
            } else {
                take(step, &mut writer, &mut model, &source);
            }
        }
    }

    #[test]
    fn no_byte_of_what_lay_there_before_is_left_outside_unused_room(
        template in a_template(),
        steps in prop::collection::vec(a_step().prop_filter("one batch", |step| !matches!(step, Step::Reopen)), 0..40),
    ) {
        let source = source(&template);
        let closed_over = |dirt: u8| {
            let mut region = Region::stamped(&template, dirt);
            let mut writer = BatchWriter::new(template.clone());
            let mut model = Model { template: template.clone(), rows: Vec::new() };
            // SAFETY: the region is stamped, and written through this writer alone.
            unsafe { writer.open(region.start()) };
            steps.iter().for_each(|step| take(step, &mut writer, &mut model, &source));
            writer.close();
            region
        };
        let (one, other) = (closed_over(0xAA), closed_over(0x55));
        let mut unused = vec![false; template.bytes()];
        for buffer in region::buffers(&template) {
            let length = u32::from_le_bytes(one.bytes()[buffer.start - 4..buffer.start].try_into().unwrap()) as usize;
            let is_offsets = (0..template.schema().len())
                .any(|index| template.column_layout(index).offsets_offset == Some(buffer.start));
            let used = length * if is_offsets { 4 } else { 1 };
            unused[buffer.start + used..buffer.end].fill(true);
        }
        for (at, unused) in unused.into_iter().enumerate() {
            prop_assert!(unused || one.bytes()[at] == other.bytes()[at], "byte {} keeps what lay there", at);
        }
    }
}
