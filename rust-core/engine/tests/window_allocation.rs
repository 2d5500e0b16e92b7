//! Once the tables have grown, windows come, are written out and go without touching the allocator.
#![allow(unsafe_code)]

mod window_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use ringmill_engine::window::{RowTime, TimeColumn, WindowKind, WindowOperator, output_schema};
use ringmill_state::Delta;
use ringmill_wire::TimeUnit;
use window_support::{Random, TIME, Value, batch, input_schema, push_row, random_row, spec, statistics_of};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MS: i64 = 1_000_000;
/// Every sixteenth window all keys forget a chunk of results for good, which has to happen before all is warm.
const ROUNDS: i64 = 80;

/// Allocations in the second half of a run over windows of 100 ms with 20,000 rows and 400 keys each.
fn allocations(window: WindowKind, tracked: bool) -> u64 {
    let mut spec = spec(&["name", "number"], window, &["count()", "mean(x)", "stddev(y)", "last(text)", "collect(u)"]);
    spec.allowed_lateness_ns = 50 * MS;
    spec.statistics = Some(statistics_of("a1", Some(1000 * MS)));
    let schema = input_schema();
    let time = TimeColumn::Event { index: TIME, unit: TimeUnit::Millisecond };
    let mut operator = WindowOperator::new(&spec, schema.clone(), time, 1 << 30).unwrap();
    if tracked {
        operator.track_changes();
    }
    let mut delta = Delta::default();
    let mut random = Random(5);
    let batches: Vec<_> = (0..20)
        .map(|_| {
            let mut made = batch(schema.clone(), 1000);
            for _ in 0..1000 {
                let mut row = random_row(&mut random, 0, 400);
                row[TIME] = Value::Int(0);
                push_row(made.writer(), &row);
            }
            made
        })
        .collect();
    let output = Arc::new(output_schema(&spec, &schema, Some(TimeUnit::Millisecond)).unwrap());
    let (mut late, mut out) = (batch(schema, 8), batch(output, 256));
    let mut before = 0;
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            before = ALLOCATIONS.with(Cell::get);
        }
        for (at, made) in batches.iter().enumerate() {
            let now = RowTime::Fixed((round * 100 + at as i64 * 5 - (at as i64 % 3) * 20) * MS);
            let taken = operator.push(&made.view(), 0..1000, now, 0, late.writer()).unwrap();
            assert_eq!(taken, 1000);
            operator.advance((round * 100 + at as i64 * 5 - 40) * MS, 0);
            while operator.has_output() {
                out.clear();
                assert!(operator.emit(out.writer()).rows > 0);
            }
        }
        delta.clear();
        operator.snapshot(&mut delta.node(0));
    }
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn a_warm_operator_does_not_allocate_for_rows() {
    for tracked in [false, true] {
        assert_eq!(allocations(WindowKind::Tumbling { size_ns: 100 * MS }, tracked), 0);
        assert_eq!(allocations(WindowKind::Sliding { size_ns: 100 * MS, every_ns: 50 * MS }, tracked), 0);
        // Sessions keep their timers in a B-tree, whose nodes come and go: a few for each of the 800,000 rows' 800 steps.
        let few = allocations(WindowKind::Session { gap_ns: 10 * MS }, tracked);
        assert!(few < 4_000, "{few} allocations for 800,000 rows");
    }
}
