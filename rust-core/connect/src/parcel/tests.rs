//! Streams that no source has written, and contents that say more than there is.

use std::{io, sync::Arc};

use super::{Kind, ParcelOptions, ParcelPartition, count_rows};
use crate::{
    Partition, Poll,
    file::rows::Trouble,
    schema_of,
    testing::{self, Letters, fields},
    text::Stream,
};

/// Hands its bytes over a few at a time.
struct Bytes(Vec<u8>, usize);

impl Stream for Bytes {
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, _bytes_max: usize) -> io::Result<usize> {
        let count = self.1.min(self.0.len());
        bytes.truncate(at);
        bytes.extend(self.0.drain(..count));
        Ok(count)
    }
}

fn open(bytes: Vec<u8>, at_once: usize) -> ParcelPartition {
    let options = ParcelOptions {
        fields: fields(&["x:int64"]).into(),
        rate: None,
        record_bytes_max: 1_000,
        parcel_bytes_max: 1_000,
        #[cfg(feature = "mqtt")]
        messages: None,
    };
    ParcelPartition::open("test", options, move || Ok(Bytes(bytes, at_once)), &[], None, None).unwrap()
}

fn lines(content: &str) -> Vec<u8> {
    [&Kind::Lines.head(content.len())[..], content.as_bytes()].concat()
}

#[test]
fn parcels_come_whole_however_the_stream_is_cut() {
    let stream =
        [lines("{\"x\":1}\n\n{\"x\":2}\n"), lines("\n"), lines(""), lines("{\"x\":}\n"), lines("{\"x\":3}\n")].concat();
    for at_once in [1, 2, 7, 1_000] {
        for rows_max in [1, 2, 100] {
            let mut partition = open(stream.clone(), at_once);
            let schema = schema_of(&fields(&["x:int64"])).unwrap();
            let (mut letters, mut rows) = (Letters::default(), Vec::new());
            testing::drain(&mut partition, &schema, rows_max, &mut letters, |batch| {
                rows.extend_from_slice(batch.view().column(0).values::<i64>());
            })
            .unwrap();
            assert_eq!(rows, [1, 2, 3]);
            let [letter] = &letters.taken[..] else { panic!("{letters:?}") };
            // Behind 17 bytes of lines, a line end, and four heads.
            assert_eq!((letter.offset, &letter.record[..]), (38, &b"{\"x\":}"[..]));
            assert_eq!((partition.position().offset, partition.position().rows), (stream.len() as u64, 4));
        }
    }
}

#[test]
fn what_is_no_parcel_ends_the_run_with_the_place() {
    let whole = lines("{\"x\":1}\n");
    let cases = [
        (b"{\"x\":1}\n".to_vec(), "beyond byte 5 ", "its journal is that of another version, or of another format"),
        ([&whole[..], b"\x00\x00\x00\x00\x00"].concat(), "beyond byte 18 ", "of another version"),
        ([&whole[..], &whole[..9]].concat(), "beyond byte 22 ", "its last parcel breaks off"),
        (whole[..3].to_vec(), "beyond byte 3 ", "its last parcel breaks off"),
        ([&Kind::Avro.head(4)[..], b"junk"].concat(), "the rows at byte 0 of its journal", "not an Avro file"),
    ];
    for (bytes, place, reason) in cases {
        let mut partition = open(bytes, 1_000);
        let mut batch = testing::batch(&schema_of(&fields(&["x:int64"])).unwrap(), 10, 100);
        let error = loop {
            match testing::poll(&mut partition, &mut batch, &mut Letters::default(), 10) {
                Ok(poll) => assert_ne!(poll, Poll::End),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains(place) && error.contains(reason), "{error}");
    }
}

/// A container whose only block has so many rows and no bytes.
fn empty_rows(count: u8) -> Vec<u8> {
    let schema = br#"{"type":"record","name":"R","fields":[{"name":"x","type":"null"}]}"#;
    let header = [b"Obj\x01\x02\x16avro.schema", &[(schema.len() * 2) as u8, 1][..], schema, b"\x00", &[7; 16]];
    [&header.concat()[..], &[count * 2, 0], &[7; 16]].concat()
}

#[test]
fn a_row_without_a_byte_counts_as_one() {
    let fields = fields(&["x:int64?"]);
    let count = |unpacked_max| count_rows(Kind::Avro, &Arc::new(empty_rows(60)), &fields, unpacked_max);
    assert_eq!(count(60).unwrap(), 60);
    assert!(matches!(count(59), Err(Trouble::TooLong(59))));
}
