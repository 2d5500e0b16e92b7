//! The hot path allocates nothing: counted, not believed.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use ringmill_wire::{BatchView, Capacity, DataType, Field, HeapBatch, ListItem, Schema, Template, TimeUnit};

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

struct Counting;

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn template() -> Arc<Template> {
    let schema = Schema::new(vec![
        Field::new("device_id", DataType::Utf8),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Nanosecond)),
        Field::nullable("temperature", DataType::Float64),
        Field::nullable("samples", DataType::List(ListItem::Float64)),
        Field::new("on", DataType::Bool),
    ])
    .unwrap();
    Arc::new(Template::new(Arc::new(schema), Capacity { rows_max: 100, variable_bytes_max: 4_000 }).unwrap())
}

fn fill(batch: &mut HeapBatch) {
    batch.clear();
    let writer = batch.writer();
    for row in 0..100u32 {
        writer.push_str(0, "device-é").unwrap();
        writer.push_timestamp(1, i64::from(row));
        if row % 7 == 0 {
            writer.push_null(2)
        } else {
            writer.push(2, f64::from(row))
        }
        writer.push_list(3, &f64::from(row).to_le_bytes()).unwrap();
        writer.push_bool(4, row % 2 == 0);
        if row % 10 == 9 { writer.discard_row() } else { writer.finish_row() }
    }
    writer.close();
}

#[test]
fn writing_copying_checking_and_viewing_batches_allocates_nothing() {
    let template = template();
    let (mut one, mut other) = (HeapBatch::new(template.clone()), HeapBatch::new(template.clone()));
    let mut parts = Vec::with_capacity(template.schema().len());
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1, "the counter counts");
    let mut sum = 0.0;
    let allocated = allocations(|| {
        for _ in 0..3 {
            fill(&mut one);
            other.clear();
            other.writer().copy_rows(&one.view(), 10..50);
            other.writer().copy_selected(&one.view(), &[3, 1, 2]);
            other.writer().copy_row(&one.view(), 7).unwrap();
            let rows = other.rows();
            other.writer().close();
            let region = other.flatbuffer().as_ptr();
            // SAFETY: a closed batch of this template that nobody writes.
            unsafe { template.copy_untrusted(region, rows, &mut one).unwrap() };
            one.writer().parts(&mut parts);
            // SAFETY: the parts are those of `one`, which stays as it is.
            let view = unsafe { BatchView::from_parts(template.schema(), rows as usize, &parts) };
            sum += view.column(2).values::<f64>().iter().sum::<f64>() + view.column(3).list::<f64>(3)[0];
        }
    });
    assert!(sum > 0.0);
    assert_eq!(allocated, 0);
}
