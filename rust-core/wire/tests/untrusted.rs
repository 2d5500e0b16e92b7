//! Regions from a hostile process: each rule broken alone is refused by name, and no mutation whatever leads to a view
//! that breaks a rule.
//!
//! The fuzzing is deterministic: `RINGMILL_FUZZ_SEED` (printed on failure) picks the run, `RINGMILL_FUZZ_ITERATIONS` its
//! length. The corpus in `tests/corpus` holds one region for every rule; `RINGMILL_BLESS=1` writes it anew.
#![allow(unsafe_code)]

mod honest;
mod region;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use honest::{ROWS, broken_rule, honest_batch, template};
use region::Region;
use ringmill_wire::{BatchView, Capacity, HeapBatch, Lengths, Template, WireError};

const ITERATIONS: u64 = 200_000;

/// Copies a region of these bytes as if it came from another process.
fn copy(template: &Arc<Template>, region: &Region, expected_rows: u32) -> Result<HeapBatch, WireError> {
    let mut out = HeapBatch::new(template.clone());
    // SAFETY: the region is aligned, of the template's size, and nobody writes it.
    unsafe { template.copy_untrusted(region.bytes().as_ptr(), expected_rows, &mut out) }.map(|()| out)
}

/// What a hostile writer stores in one place: `(name, offset, bytes, what the refusal says)`.
fn hostile_stores(template: &Template) -> Vec<(&'static str, usize, Vec<u8>, &'static str)> {
    let column = |index| template.column_layout(index);
    let u32s = |value: u32| value.to_le_bytes().to_vec();
    let offset = |index: usize, row: usize| column(index).offsets_offset.unwrap() + 4 * row;
    let validity = |index: usize| column(index).validity_offset.unwrap();
    vec![
        ("schema", 80, vec![0; 8], "of schema 0000000000000000: expected schema"),
        ("rows-beyond-capacity", 76, u32s(10), "of 10 rows: its region holds at most 9"),
        ("rows-huge", 76, u32s(u32::MAX), "rows: its region holds at most 9"),
        ("rows-other", 76, u32s(4), "has length 40, the rule is 32 for 4 rows"),
        ("values-short", column(0).values_offset - 4, u32s(39), "`time`: its values vector has length 39"),
        ("values-huge", column(3).values_offset - 4, u32s(u32::MAX), "`name`: its values vector has length 4294967295"),
        ("values-uneven", column(6).values_offset - 4, u32s(7), "the rule is a multiple of 4, at most 48"),
        ("offsets-short", offset(3, 0) - 4, u32s(5), "`name`: its offsets vector has length 5, the rule is 6 for 5"),
        ("validity-long", validity(1) - 4, u32s(2), "`score`: its validity vector has length 2, the rule is 1 for"),
        ("nulls-where-none", column(0).null_count_offset, u32s(1), "`time`: null count 1, the rule is at most 0"),
        ("nulls-too-many", column(1).null_count_offset, u32s(6), "`score`: null count 6, the rule is at most 5"),
        ("nulls-miscounted", column(1).null_count_offset, u32s(2), "null count 2, the rule is 1, the zero bits"),
        ("nulls-beyond-rows", validity(1), vec![0xFF], "null count 1, the rule is 0, the zero bits"),
        ("offset-first", offset(3, 0), u32s(1), "`name`: offset 0 is 1, the rule is the first is 0"),
        ("offset-falls", offset(5, 3), u32s(0), "`blob`: offset 3 is 0, the rule is at least the one before, 1"),
        ("offset-negative", offset(5, 2), u32s(0x8000_0000), "`blob`: offset 2 is -2147483648, the rule is at least"),
        ("offset-last", offset(5, 5), u32s(11), "`blob`: offset 5 is 11, the rule is the last is 10"),
        ("bool", column(2).values_offset + 3, vec![2], "`on`: row 3 is 2, a bool is 0 or 1"),
        ("utf8", column(3).values_offset + 2, vec![b'x'], "`name`: row 2 is not valid UTF-8"),
        ("utf8-cut", offset(3, 3), u32s(2), "`name`: row 2 is not valid UTF-8"),
    ]
}

fn with_store(template: &Arc<Template>, at: usize, bytes: &[u8]) -> Region {
    let mut region = Region::of(template, honest_batch(template).flatbuffer());
    region.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    region
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

#[test]
fn each_rule_that_a_hostile_writer_breaks_is_named() {
    let template = template();
    for (name, at, bytes, expected) in hostile_stores(&template) {
        let error = copy(&template, &with_store(&template, at, &bytes), ROWS).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let honest = Region::of(&template, honest_batch(&template).flatbuffer());
    let error = copy(&template, &honest, ROWS + 1).unwrap_err();
    assert_eq!(error, WireError::WrongRows { expected: 6, found: 5 });
    assert_eq!(broken_rule(&copy(&template, &honest, ROWS).unwrap().view()), None);
}

#[test]
fn a_batch_of_another_template_is_not_copied_into() {
    let (template, schema) = (template(), template().schema().clone());
    let other = Arc::new(Template::new(schema, Capacity { rows_max: 8, variable_bytes_max: 48 }).unwrap());
    let region = Region::stamped(&template, 0);
    let mut out = HeapBatch::new(other.clone());
    // SAFETY: as for `copy`.
    let error = unsafe { template.copy_untrusted(region.bytes().as_ptr(), 0, &mut out) }.unwrap_err();
    assert_eq!(error, WireError::OtherTemplate { expected: template.hash(), found: other.hash() });
}

#[test]
fn after_a_refusal_the_batch_is_empty_and_can_be_used_again() {
    let template = template();
    let mut out = honest_batch(&template);
    let bad = with_store(&template, template.column_layout(2).values_offset, &[7]);
    let good = Region::of(&template, honest_batch(&template).flatbuffer());
    // SAFETY: as for `copy`.
    unsafe {
        template.copy_untrusted(bad.bytes().as_ptr(), ROWS, &mut out).unwrap_err();
        assert_eq!((out.rows(), out.view().rows()), (0, 0));
        template.copy_untrusted(good.bytes().as_ptr(), ROWS, &mut out).unwrap();
    }
    assert_eq!(out.flatbuffer(), good.bytes(), "the copy is the same batch, to the byte");
}

#[test]
fn the_tables_and_padding_of_a_foreign_region_are_never_followed() {
    let template = template();
    let honest = honest_batch(&template).flatbuffer().to_vec();
    let mut region = Region::of(&template, &honest);
    let read: Vec<usize> = (0..7)
        .map(|index| template.column_layout(index).null_count_offset)
        .chain([76, 80, 84])
        .flat_map(|at| at..at + 4)
        .collect();
    let first_buffer = region::buffers(&template)[0].start;
    for at in (0..first_buffer - 4).filter(|at| !read.contains(at)) {
        region.bytes_mut()[at] = !honest[at];
    }
    let mut expected = copy(&template, &Region::of(&template, &honest), ROWS).unwrap();
    assert_eq!(copy(&template, &region, ROWS).unwrap().flatbuffer(), expected.flatbuffer());
}

#[test]
fn a_writer_that_scribbles_during_the_copy_changes_nothing_that_was_verified() {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
    let template = template();
    let mut region = Region::of(&template, honest_batch(&template).flatbuffer());
    let memory = region.start();
    let place = |at: usize| {
        // SAFETY: `at` lies within the region, which outlives the threads, and is a multiple of 4.
        unsafe { AtomicU32::from_ptr(memory.as_ptr().add(at).cast()) }
    };
    let places: Vec<(&AtomicU32, u32)> = hostile_stores(&template)
        .into_iter()
        .filter(|(_, at, bytes, _)| at.is_multiple_of(4) && bytes.len() == 4)
        .map(|(_, at, bytes, _)| (place(at), u32::from_le_bytes(bytes.try_into().unwrap())))
        .collect();
    let (mut out, mut copies, mut accepted) = (HeapBatch::new(template.clone()), 0, 0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                for (place, hostile) in &places {
                    let honest = place.swap(*hostile, Relaxed);
                    place.store(honest, Relaxed);
                }
            }
        });
        // Some copies must fall between the stores, however long the writer is kept from its processor.
        while copies < 20_000 || accepted == 0 {
            // SAFETY: the region is valid for reads throughout; that it is being written is the point.
            let result = unsafe { template.copy_untrusted(memory.as_ptr(), ROWS, &mut out) };
            copies += 1;
            accepted += u32::from(result.is_ok());
            assert_eq!(broken_rule(&out.view()), None);
        }
        done.store(true, Relaxed);
    });
}

#[test]
fn the_corpus_has_a_region_for_every_rule() {
    let template = template();
    if std::env::var_os("RINGMILL_BLESS").is_some() {
        std::fs::create_dir_all(corpus()).unwrap();
        std::fs::write(corpus().join("honest.bin"), honest_batch(&template).flatbuffer()).unwrap();
        for (name, at, bytes, _) in hostile_stores(&template) {
            std::fs::write(corpus().join(format!("{name}.bin")), with_store(&template, at, &bytes).bytes()).unwrap();
        }
    }
    assert_eq!(std::fs::read(corpus().join("honest.bin")).unwrap(), honest_batch(&template).flatbuffer());
    for (name, at, bytes, _) in hostile_stores(&template) {
        let committed = std::fs::read(corpus().join(format!("{name}.bin"))).expect(name);
        assert!(committed == with_store(&template, at, &bytes).bytes(), "{name}.bin is stale");
    }
}

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn regions_of_the_corpus() -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20, "the corpus is committed");
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Changes a few places: mostly those that lengths, offsets and bitmaps stand in, with values that are near the truth.
fn mutate(template: &Template, region: &mut Region, random: &mut Random) {
    let buffers = region::buffers(template);
    for _ in 0..=random.below(4) {
        let buffer = buffers[random.below(buffers.len())].clone();
        let at = match random.below(8) {
            0 => 76,
            1 => template.column_layout(random.below(template.schema().len())).null_count_offset,
            2 => buffer.start - 4,
            3 => random.below(template.bytes() / 4) * 4,
            _ => buffer.start + random.below(buffer.len().min(48).div_ceil(4)) * 4,
        };
        let place = &mut region.bytes_mut()[at..at + 4];
        let old = u32::from_le_bytes((&*place).try_into().unwrap());
        let new = match random.below(6) {
            0 => random.below(12) as u32,
            1 => old.wrapping_add(1),
            2 => old.wrapping_sub(1),
            3 => old ^ 1 << random.below(32),
            4 => [u32::MAX, i32::MAX as u32, 1 << 31, 48, 49][random.below(5)],
            _ => random.next() as u32,
        };
        place.copy_from_slice(&new.to_le_bytes());
    }
}

/// Runs the fuzzer and hands every mutated region to `check`, which may end the run.
fn fuzz(iterations: u64, mut check: impl FnMut(&Arc<Template>, &Region, u64) -> bool) {
    let (template, corpus) = (template(), regions_of_the_corpus());
    let seed = variable("RINGMILL_FUZZ_SEED", 0x5eed);
    for iteration in 0..iterations {
        let mut random = Random(seed ^ iteration.wrapping_mul(0xd134_2543_de82_ef95));
        let mut region = Region::of(&template, &corpus[random.below(corpus.len())]);
        mutate(&template, &mut region, &mut random);
        if check(&template, &region, iteration) {
            return;
        }
    }
}

#[test]
fn no_mutated_region_leads_to_a_view_that_breaks_a_rule() {
    let seed = variable("RINGMILL_FUZZ_SEED", 0x5eed);
    let mut accepted = 0;
    let mut out = HeapBatch::new(template());
    let iterations = variable("RINGMILL_FUZZ_ITERATIONS", ITERATIONS);
    fuzz(iterations, |template, region, iteration| {
        // SAFETY: as for `copy`.
        let result = unsafe { template.copy_untrusted(region.bytes().as_ptr(), ROWS, &mut out) };
        accepted += u64::from(result.is_ok());
        assert_eq!(out.rows(), if result.is_ok() { ROWS } else { 0 });
        if let Some(rule) = broken_rule(&out.view()) {
            panic!("RINGMILL_FUZZ_SEED={seed}, iteration {iteration}: accepted, but {rule}");
        }
        false
    });
    assert!(accepted > iterations / 100, "{accepted} of {iterations} were accepted: the fuzzer tests refusals only");
}

#[test]
fn the_fuzzer_finds_the_broken_rules_of_a_reader_that_checks_lengths_alone() {
    let mut found = std::collections::BTreeSet::new();
    fuzz(20_000, |template, region, _| {
        let (mut lengths, mut parts) = (Lengths::default(), Vec::new());
        // SAFETY: as for `copy`; lengths are checked, so all accesses of the view stay within the region.
        unsafe {
            let Ok(rows) = template.read_lengths(region.bytes().as_ptr(), &mut lengths) else { return false };
            template.parts(region.bytes().as_ptr(), &lengths, &mut parts);
            found.extend(broken_rule(&BatchView::from_parts(template.schema(), rows as usize, &parts)));
        }
        false
    });
    for rule in ["null count", "bool", "start at 0", "out of order", "UTF-8"] {
        assert!(found.iter().any(|broken| broken.contains(rule)), "never found: {rule}");
    }
}
