//! Batches that other programs build with a stock FlatBuffers library: taken however they are laid out, refused by the name
//! of the rule that they break, and never more than an error whatever is done to them.

mod honest;

use std::sync::Arc;

use flatbuffers::{FlatBufferBuilder, WIPOffset};
use honest::{ROWS, broken_rule, honest_batch, template};
use proptest::prelude::*;
use ringmill_wire::flatbuffer::{
    Column, ColumnArgs, MicroBatch, MicroBatchArgs, finish_size_prefixed_micro_batch_buffer,
};
use ringmill_wire::{ForeignBatch, HeapBatch, Schema, WireError};

/// What a builder is told of a column.
#[derive(Clone, Default)]
struct Told {
    values: Option<Vec<u8>>,
    offsets: Option<Vec<i32>>,
    validity: Option<Vec<u8>>,
    null_count: u32,
}

/// What a builder is told of a batch.
#[derive(Clone)]
struct Script {
    rows: u32,
    schema_hash: u64,
    columns: Vec<Told>,
}

fn schema() -> Arc<Schema> {
    Arc::clone(template().schema())
}

/// Of the honest batch.
fn script() -> Script {
    let batch = honest_batch(&template());
    let column = |(column, field): (ringmill_wire::ColumnView<'_>, &ringmill_wire::Field)| Told {
        values: Some(column.value_bytes().to_vec()),
        offsets: field.data_type.is_variable().then(|| column.offsets().to_vec()),
        validity: field.nullable.then(|| column.validity().map_or_else(|| vec![0xFF; 1], <[u8]>::to_vec)),
        null_count: column.null_count() as u32,
    };
    let columns = batch.view().columns().zip(&batch.template().schema().fields).map(column).collect();
    Script { rows: ROWS, schema_hash: schema().hash(), columns }
}

fn column<'b>(builder: &mut FlatBufferBuilder<'b>, told: &Told) -> WIPOffset<Column<'b>> {
    let arguments = ColumnArgs {
        values: told.values.as_ref().map(|values| builder.create_vector(values)),
        offsets: told.offsets.as_ref().map(|offsets| builder.create_vector(offsets)),
        validity: told.validity.as_ref().map(|validity| builder.create_vector(validity)),
        null_count: told.null_count,
    };
    Column::create(builder, &arguments)
}

fn built(script: &Script) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let columns: Vec<_> = script.columns.iter().map(|told| column(&mut builder, told)).collect();
    finish(builder, &columns, script)
}

fn finish<'b>(mut builder: FlatBufferBuilder<'b>, columns: &[WIPOffset<Column<'b>>], script: &Script) -> Vec<u8> {
    let columns = Some(builder.create_vector(columns));
    let Script { rows, schema_hash, .. } = *script;
    let batch = MicroBatch::create(&mut builder, &MicroBatchArgs { rows, columns, schema_hash });
    finish_size_prefixed_micro_batch_buffer(&mut builder, batch);
    builder.finished_data().to_vec()
}

/// A buffer behind its length.
fn prefixed(buffer: &[u8]) -> Vec<u8> {
    [&(buffer.len() as u32).to_le_bytes()[..], buffer].concat()
}

fn refused(bytes: &[u8]) -> String {
    ForeignBatch::read(bytes, &schema()).expect_err("it breaks a rule").to_string()
}

/// The script after a change.
fn with(change: impl FnOnce(&mut Script)) -> Script {
    let mut script = script();
    change(&mut script);
    script
}

#[test]
fn a_batch_comes_over_as_it_was_wherever_it_lies_and_however_it_is_laid_out() {
    let mut honest = honest_batch(&template());
    let expected = honest.flatbuffer().to_vec();
    let by_builder = built(&script());
    for bytes in [by_builder.clone(), prefixed(&by_builder[4..]), prefixed(&expected)] {
        assert_eq!(ForeignBatch::bytes(&bytes), Some(bytes.len() as u64));
        for shift in 0..9 {
            let memory = [&vec![0; shift], &bytes[..]].concat();
            let foreign = ForeignBatch::read(&memory[shift..], &schema()).unwrap();
            assert_eq!(broken_rule(&foreign.view()), None);
            let mut copy = HeapBatch::new(template());
            assert_eq!(copy.writer().copy_rows(&foreign.view(), 0..ROWS as usize), ROWS as usize);
            assert!(copy.flatbuffer() == expected);
        }
    }
}

#[test]
fn rows_there_may_be_none() {
    let empty = |column: &Told| Told {
        values: None,
        offsets: column.offsets.as_ref().map(|_| vec![0]),
        validity: None,
        null_count: 0,
    };
    let script = with(|script| {
        script.rows = 0;
        script.columns = script.columns.iter().map(empty).collect();
    });
    assert_eq!(ForeignBatch::read(&built(&script), &schema()).unwrap().view().rows(), 0);
}

#[test]
fn each_rule_that_a_batch_breaks_is_named() {
    type Change = fn(&mut Script);
    let cases: [(Change, &str); 23] = [
        (|script| script.schema_hash ^= 1, ": expected schema "),
        (|script| script.rows = 4, "`time`: its values vector has length 40, the rule is 32 for 4 rows"),
        (|script| script.rows = u32::MAX, "read a batch of 4294967295 rows: its region holds at most"),
        (|script| drop(script.columns.pop()), "read a batch of 6 columns: its schema has 7"),
        (|script| script.columns.push(Told::default()), "read a batch of 8 columns: its schema has 7"),
        (|script| script.columns.clear(), "read a batch of 0 columns: its schema has 7"),
        (|script| script.columns = vec![Told::default(); 900], "read a batch of 900 columns"),
        (|script| script.columns[0].values = None, "`time`: its values vector has length 0, the rule is 40"),
        (
            |script| script.columns[0].offsets = Some(vec![0; 6]),
            "`time`: its offsets vector has length 6, the rule is 0",
        ),
        (
            |script| script.columns[0].validity = Some(vec![0xFF]),
            "`time`: its validity vector has length 1, the rule is 0",
        ),
        (|script| script.columns[0].null_count = 1, "`time`: null count 1, the rule is at most 0"),
        (|script| script.columns[1].validity = None, "`score`: its validity vector has length 0, the rule is 1"),
        (|script| script.columns[1].null_count = 0, "`score`: null count 0, the rule is 1, the zero bits"),
        (|script| script.columns[1].null_count = 6, "`score`: null count 6, the rule is at most 5"),
        (|script| script.columns[2].values.as_mut().unwrap()[3] = 2, "`on`: row 3 is 2, a bool is 0 or 1"),
        (|script| script.columns[3].offsets = None, "`name`: its offsets vector has length 0, the rule is 6"),
        (
            |script| script.columns[3].offsets.as_mut().unwrap()[0] = 1,
            "`name`: offset 0 is 1, the rule is the first is 0",
        ),
        (|script| script.columns[3].offsets.as_mut().unwrap()[3] = 2, "`name`: row 2 is not valid UTF-8"),
        (|script| script.columns[3].values.as_mut().unwrap()[2] = b'x', "`name`: row 2 is not valid UTF-8"),
        (|script| script.columns[5].offsets.as_mut().unwrap()[2] = -1, "`blob`: offset 2 is -1, the rule is at least"),
        (
            |script| script.columns[5].offsets.as_mut().unwrap()[5] = 11,
            "`blob`: offset 5 is 11, the rule is the last is 10",
        ),
        (|script| script.columns[5].values.as_mut().unwrap().push(0), "offset 5 is 10, the rule is the last is 11"),
        (|script| script.columns[6].values.as_mut().unwrap().push(0), "`samples`: its values vector has length"),
    ];
    for (change, expected) in cases {
        let error = refused(&built(&with(change)));
        assert!(error.contains(expected), "{error} for {expected}");
    }
}

#[test]
fn what_is_no_micro_batch_is_refused() {
    let whole = built(&script());
    let identifier = "its file identifier is";
    for bytes in [&b""[..], b"\0\0\0\0", b"{\"x\":1}\n{\"x\":2}\n", b"GET / HTTP/1.1\r\n\r\n"] {
        assert!(refused(bytes).contains(identifier), "{}", refused(bytes));
    }
    let mut other = whole.clone();
    other[11] = b'2';
    assert!(refused(&other).contains("\"RMB2\", the rule is \"RMB1\""), "{}", refused(&other));
    let mut beyond = whole;
    beyond[4..8].copy_from_slice(&[0, 0xFF, 0, 0]);
    assert!(refused(&beyond).contains("out of bounds"), "{}", refused(&beyond));
}

#[test]
fn a_few_bytes_do_not_become_many_columns() {
    // One vector for every column, as a builder may store equal ones.
    let script = script();
    let mut builder = FlatBufferBuilder::new();
    let long = Told { values: Some(vec![0; 4_000]), ..Told::default() };
    let one = column(&mut builder, &long);
    let fields = (0..500).map(|index| ringmill_wire::Field::new(format!("c{index}"), ringmill_wire::DataType::Int8));
    let schema = Arc::new(Schema::new(fields.collect()).unwrap());
    let shared = Script { rows: 4_000, schema_hash: schema.hash(), ..script };
    let bytes = finish(builder, &[one; 500], &shared);
    let error = ForeignBatch::read(&bytes, &schema).unwrap_err();
    assert_eq!(error, WireError::SharedBytes { found: bytes.len(), bytes: 2_000_000 });
    // Nor does a batch without columns have rows for nothing.
    let none = Arc::new(Schema::default());
    let shared = Script { rows: 1_000_000, schema_hash: none.hash(), ..shared };
    let bytes = finish(FlatBufferBuilder::new(), &[], &shared);
    assert!(matches!(ForeignBatch::read(&bytes, &none), Err(WireError::TooManyRows { .. })));
}

/// Reads what may be anything; whether it was taken.
fn reads(bytes: &[u8]) -> bool {
    let read = ForeignBatch::read(bytes, &schema());
    if let Ok(batch) = &read {
        assert_eq!(broken_rule(&batch.view()), None);
    }
    read.is_ok()
}

#[test]
fn a_batch_that_is_cut_or_changed_anywhere_is_refused_or_keeps_every_rule() {
    let whole = built(&script());
    for length in 0..whole.len() {
        assert!(
            !reads(&whole[..length]) || length + 8 > whole.len(),
            "nothing but what fills it up may be missing: {length}"
        );
    }
    let (mut taken, mut changed) = (0, whole.clone());
    for at in 4..whole.len() {
        for mask in [1, 2, 4, 8, 16, 32, 64, 128, 0xFF] {
            changed[at] ^= mask;
            taken += usize::from(reads(&changed));
            changed[at] ^= mask;
        }
    }
    let count = 9 * (whole.len() - 4);
    assert!(taken > count / 20 && taken < count / 2, "{taken} of {count} changed batches were taken");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn a_batch_with_several_changes_is_refused_or_keeps_every_rule(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..5)), 1..5),
    ) {
        let mut bytes = built(&script());
        for (index, with) in changes {
            let at = index.index(bytes.len() - with.len());
            bytes[at..at + with.len()].copy_from_slice(&with);
        }
        reads(&bytes);
    }
}
