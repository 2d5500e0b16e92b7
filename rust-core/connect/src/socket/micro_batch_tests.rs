//! Micro-batches as other programs send them, in pieces, and as nobody should; and what becomes of their rows.

use std::{io::Cursor, sync::Arc};

use proptest::prelude::*;

use super::{connections::Assembler, micro_batch::BatchStream};
use crate::{
    Fields, Partition, Poll, PollContext,
    parcel::{HEAD_BYTES, Kind, ParcelOptions, ParcelPartition, count_rows},
    schema_of,
    testing::{self, Letters, fields, micro_batch, micro_batch_of},
    text::Content,
};

const RECORD_BYTES_MAX: usize = 20_000;

fn declared() -> Fields {
    fields(&["x:int64"]).into()
}

/// A hundred numbers in four batches.
fn batches() -> Vec<u8> {
    [micro_batch_of(0..10), micro_batch_of([]), micro_batch_of(10..11), micro_batch_of(11..100)].concat()
}

/// What comes of bytes in pieces of so many: the parcels, and why the connection is ended.
fn sent(bytes: &[u8], piece: usize) -> (Vec<u8>, Result<(), String>) {
    let (mut stream, mut whole) = (BatchStream::new(&declared(), RECORD_BYTES_MAX), Vec::new());
    let outcome = bytes.chunks(piece).try_for_each(|piece| stream.take(piece, &mut whole));
    let outcome = outcome.and_then(|()| stream.end(&mut whole));
    (whole, outcome)
}

/// These parcels as a partition.
fn partition(parcels: Vec<u8>, fields: &Fields) -> ParcelPartition {
    let options = ParcelOptions {
        fields: fields.clone(),
        rate: None,
        record_bytes_max: RECORD_BYTES_MAX,
        parcel_bytes_max: BatchStream::parcel_bytes_max(RECORD_BYTES_MAX),
        #[cfg(feature = "mqtt")]
        messages: None,
    };
    let open = move || Ok(Box::new(Cursor::new(parcels)) as Content);
    ParcelPartition::open("test", options, open, &[], None, None).unwrap()
}

fn numbers(parcels: Vec<u8>) -> Vec<i64> {
    let (mut letters, mut numbers) = (Letters::default(), Vec::new());
    let schema = schema_of(&declared()).unwrap();
    testing::drain(&mut partition(parcels, &declared()), &schema, 7, &mut letters, |batch| {
        numbers.extend_from_slice(batch.view().column(0).values::<i64>());
    })
    .unwrap();
    assert!(letters.taken.is_empty(), "{letters:?}");
    numbers
}

#[test]
fn rows_of_batches_come_once_and_in_order_in_whatever_pieces_they_are_sent() {
    let bytes = batches();
    for piece in [1, 7, 64, 1_000, bytes.len()] {
        let (parcels, outcome) = sent(&bytes, piece);
        assert_eq!(outcome, Ok(()));
        assert!(numbers(parcels).into_iter().eq(0..100), "{piece}");
    }
}

#[test]
fn what_cannot_be_taken_ends_the_connection_with_its_reason_and_leaves_what_came_before() {
    let other = micro_batch(&mut testing::batch(&schema_of(&fields(&["x:int64?"])).unwrap(), 1, 0));
    let mut unnamed = micro_batch_of(0..2);
    unnamed[8..12].fill(b'x');
    let cases: [(Vec<u8>, &str); 7] = [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "a micro-batch has 542393675 bytes, and record_size_max is 20000"),
        (vec![0xFF; 30], "a micro-batch has 4294967299 bytes, and record_size_max is 20000"),
        (vec![0; 4], "its file identifier is"),
        (unnamed, "its file identifier is \"xxxx\", the rule is \"RMB1\""),
        (other, "which is the hash (FNV-1a, 64 bits) of \"ringmill.wire.schema/1\\n1:x int64\\n\""),
        (micro_batch_of(0..9)[..100].to_vec(), "it broke off within a micro-batch"),
        (vec![9], "it broke off within a micro-batch"),
    ];
    for (bytes, reason) in cases {
        let bytes = [batches(), bytes].concat();
        for piece in [13, bytes.len()] {
            let (parcels, outcome) = sent(&bytes, piece);
            let said = outcome.unwrap_err();
            assert!(said.contains(reason), "{said:?} for {reason:?}");
            assert!(numbers(parcels).into_iter().eq(0..100), "{reason}");
        }
    }
}

#[test]
fn rows_that_do_not_fit_are_dead_letters_as_they_would_stand_in_json_and_no_other_is() {
    let specs = fields(&["at:timestamp[ms]?@/meta/at", "name:utf8", "on:bool", "samples:list[float64]?@/meta/samples"]);
    let (fields, schema) = (Fields::from(specs.clone()), schema_of(&specs).unwrap());
    let mut batch = testing::batch(&schema, 20, 1_000);
    for row in 0..20_i64 {
        let writer = batch.writer();
        match row {
            3 => writer.push_null(0),
            9 => writer.push_timestamp(0, 10_001),
            _ => writer.push_timestamp(0, row),
        }
        let name = if row == 12 { "long".repeat(30) } else { format!("é{row}") };
        writer.push_str(1, &name).unwrap();
        writer.push_bool(2, row % 2 == 0);
        match row % 3 {
            0 => writer.push_null(3),
            items => writer.push_list(3, &vec![0; 8 * items as usize]).unwrap(),
        }
        writer.finish_row();
    }
    let content = micro_batch(&mut batch);
    let parcel = [&Kind::MicroBatch.head(content.len())[..], &content].concat();
    let mut partition = partition(parcel, &fields);
    let (mut letters, mut rows) = (Letters::default(), Vec::new());
    loop {
        // A long name fits into no batch.
        let mut batch = testing::batch(&schema, 4, 100);
        let mut context = PollContext {
            now_ns: 0,
            event_time: Some(0),
            event_time_max_ns: 10_000_000_000,
            dead: &mut letters,
            rows_max: 100,
        };
        let poll = partition.poll(batch.writer(), &mut context).unwrap();
        let view = batch.view();
        for row in 0..view.rows() {
            let items = view.column(3).is_valid(row).then(|| view.column(3).list::<f64>(row).len());
            let on = view.column(2).values::<u8>()[row] == 1;
            rows.push((view.column(0).values::<i64>()[row], view.column(1).str(row).unwrap().to_owned(), on, items));
        }
        if poll == Poll::End {
            break;
        }
    }
    let expected = (0..20_i64).filter(|row| ![3, 9, 12].contains(row));
    let expected =
        expected.map(|row| (row, format!("é{row}"), row % 2 == 0, (row % 3 > 0).then_some(row as usize % 3)));
    assert_eq!(rows, expected.collect::<Vec<_>>());
    let found = letters.taken.iter().map(|letter| (letter.offset, str::from_utf8(&letter.record).unwrap()));
    let [first, second, third] = &found.collect::<Vec<_>>()[..] else { panic!("{letters:?}") };
    assert_eq!(*first, (3, r#"{"meta":{"at":null,"samples":null},"name":"é3","on":false}"#));
    assert_eq!(*second, (9, r#"{"meta":{"at":"1970-01-01T00:00:10.001Z","samples":null},"name":"é9","on":false}"#));
    assert!(third.0 == 12 && third.1.contains("longlong"), "{third:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever is changed, nothing is handed out that cannot be read.
    #[test]
    fn changed_batches_hand_out_nothing_that_cannot_be_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        piece in 1..3_000_usize,
    ) {
        let mut bytes = batches();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let (parcels, _) = sent(&bytes, piece);
        let mut rest = &parcels[..];
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let (content, behind) = behind.split_at(u32::from_le_bytes(head[1..].try_into().unwrap()) as usize);
            let rows = count_rows(Kind::MicroBatch, &Arc::new(content.to_vec()), &declared(), RECORD_BYTES_MAX as u64);
            prop_assert!(rows.is_ok_and(|rows| rows > 0));
            rest = behind;
        }
    }
}
