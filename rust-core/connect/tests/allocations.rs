//! In a steady state, polling, encoding and summing up allocate nothing.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use ringmill_connect::{
    Checksum, DeadLetter, DeadLetters, FieldSpec, FileSpec, Format, GeneratorSpec, Order, Partition, Poll, PollContext,
    RECORD_BYTES_MAX, Shape, encoder,
};
use ringmill_wire::{Capacity, DataType, HeapBatch, ListItem, Schema, Template, TimeUnit};

/// Counts what this thread asks the system for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came; the counter neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

struct NoLetters;

impl DeadLetters for NoLetters {
    fn has_room(&self) -> bool {
        true
    }

    fn push(&mut self, letter: &DeadLetter<'_>) {
        panic!("{letter:?}");
    }
}

/// Polls, encodes and sums up until the end; the allocations behind the first `warm_up` batches.
fn allocations(partition: &mut dyn Partition, schema: &Arc<Schema>, formats: &[Format], warm_up: u32) -> u64 {
    let capacity = Capacity { rows_max: 256, variable_bytes_max: 1 << 14 };
    let mut batch = HeapBatch::new(Arc::new(Template::new(Arc::clone(schema), capacity).unwrap()));
    let mut encoders: Vec<_> = formats.iter().map(|format| encoder(*format, schema).unwrap()).collect();
    let mut sum = Checksum::new();
    let mut out = Vec::with_capacity(1 << 20);
    let mut before = None;
    for batches in 0.. {
        if batches == warm_up {
            before = Some(ALLOCATIONS.get());
        }
        let mut poll = Poll::Rows;
        while poll == Poll::Rows {
            let mut context = PollContext {
                now_ns: 0,
                event_time: Some(1),
                event_time_max_ns: i64::MAX,
                dead: &mut NoLetters,
                rows_max: 100,
            };
            poll = partition.poll(batch.writer(), &mut context).unwrap();
        }
        let view = batch.view();
        for encoder in &mut encoders {
            out.clear();
            encoder.encode(&view, 0..view.rows(), &mut out);
        }
        sum.update(&view, 0..view.rows());
        batch.clear();
        if poll == Poll::End {
            assert!(batches > warm_up + 10, "only {batches} batches");
            break;
        }
    }
    assert!(sum.rows() > 0);
    ALLOCATIONS.get() - before.unwrap()
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn generating_encoding_and_summing_up_allocate_nothing() {
    for shape in [Shape::Sensors, Shape::Ticks] {
        let spec = GeneratorSpec { shape, keys: 100, rows: Some(50_000), ..GeneratorSpec::default() };
        let schema = spec.schema().unwrap();
        let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
        assert_eq!(allocations(&mut *partition, &schema, &[Format::Json, Format::Csv], 2), 0);
    }
}

#[test]
fn reading_files_allocates_nothing_also_with_escapes_lists_and_binary() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = String::new();
    let mut csv = String::from("name,at,value,bytes\n");
    for row in 0..50_000 {
        let second = row % 60;
        json += &format!(
            "{{\"name\":\"caf\\u00e9 \\n {row}\",\"at\":\"2026-01-01T00:00:{second:02}.5Z\",\"value\":{row}.5,\"bytes\":\"AAEC\",\"skipped\":{{\"a\":[1,\"\\t\"]}},\"list\":[1,2,{row}]}}\n"
        );
        csv += &format!("\"caf\u{e9} \n {row}\",2026-01-01T00:00:{second:02}Z,{row}.5,AAEC\n");
    }
    let field = |name: &str, data_type| FieldSpec { name: name.to_owned(), data_type, nullable: true, path: None };
    let fields = [
        field("name", DataType::Utf8),
        field("at", DataType::Timestamp(TimeUnit::Millisecond)),
        field("value", DataType::Float64),
        field("bytes", DataType::Binary),
        field("list", DataType::List(ListItem::Float64)),
    ];
    for (format, text, fields, formats) in [
        (Format::Json, &json, &fields[..], &[Format::Json][..]),
        (Format::Csv, &csv, &fields[..4], &[Format::Json, Format::Csv][..]),
    ] {
        let path = folder.path().join(format.name());
        std::fs::write(&path, text).unwrap();
        let spec = FileSpec {
            path: path.to_str().unwrap().to_owned(),
            format: format.into(),
            fields: fields.to_vec().into(),
            rate: None,
            order: Order::Parallel,
            record_bytes_max: RECORD_BYTES_MAX,
            decode_threads: 0,
        };
        let schema = spec.schema().unwrap();
        let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
        assert_eq!(allocations(&mut *partition, &schema, formats, 5), 0, "{format:?}");
    }
}
