//! Streams of Arrow as other programs send them, in pieces, and as nobody should.

use std::sync::Arc;

use arrow_array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray, cast::AsArray, types::Int32Type};
use arrow_ipc::{
    CompressionType, FieldBuilder, MessageBuilder, MessageHeader, MetadataVersion, SchemaBuilder, Struct_Builder, Type,
    writer::{DictionaryHandling, FileWriter, IpcWriteOptions, StreamWriter},
};
use flatbuffers::{FlatBufferBuilder, WIPOffset};
use proptest::prelude::*;

use super::{
    arrow::ArrowStream,
    connections::{Assembler, WHOLE_BYTES_MAX},
};
use crate::{
    Fields,
    parcel::{HEAD_BYTES, Kind, count_rows},
    testing::{fields, rows::batches},
};

const RECORD_BYTES_MAX: usize = 20_000;

/// Rows with their numbers and texts of a dictionary.
fn batch(numbers: &[i64], words: &[&str]) -> RecordBatch {
    let keys = (0..numbers.len()).map(|row| (row % words.len()) as i32).collect::<Vec<_>>();
    let words: ArrayRef = Arc::new(StringArray::from(words.to_vec()));
    let words = DictionaryArray::<Int32Type>::new(keys.into(), words);
    let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    RecordBatch::try_from_iter([("number", numbers), ("word", Arc::new(words) as ArrayRef)]).unwrap()
}

fn stream_with(batches: &[RecordBatch], options: IpcWriteOptions) -> Vec<u8> {
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    stream_with(batches, IpcWriteOptions::default())
}

/// Three streams, one after the other: dictionaries that are replaced, that grow, and numbers in compressed batches.
fn streams() -> Vec<u8> {
    let replaced =
        [batch(&[0, 1, 2], &["a", "b"]), batch(&[3], &["c"]), batch(&[], &["c"]), batch(&[4, 5], &["c", "a"])];
    let grown = [batch(&[6, 7], &["x"]), batch(&[8, 9, 10], &["x", "y"])];
    let delta = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let packed = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
    let many: Vec<i64> = (11..500).collect();
    [stream(&replaced), stream_with(&grown, delta), stream_with(&[batch(&many, &["z"])], packed)].concat()
}

fn declared() -> Fields {
    fields(&["number:int64", "word:utf8"]).into()
}

/// What comes of bytes in pieces of so many: the parcels, and why the connection is ended.
fn sent(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, Result<(), String>) {
    let (mut stream, mut whole) = (ArrowStream::new(&declared(), RECORD_BYTES_MAX), Vec::new());
    let mut outcome = bytes.chunks(piece).try_for_each(|piece| {
        stream.take(piece, &mut whole)?;
        while stream.is_behind() {
            stream.take(&[], &mut whole)?;
        }
        Ok(())
    });
    if outcome.is_ok() {
        outcome = stream.end(&mut whole);
    }
    (parted(&whole), outcome)
}

/// The contents of these parcels.
fn parted(whole: &[u8]) -> Vec<Vec<u8>> {
    let (mut parcels, mut rest) = (Vec::new(), whole);
    while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
        assert_eq!(head[0], Kind::Arrow as u8);
        let (content, behind) = behind.split_at(u32::from_le_bytes(head[1..].try_into().unwrap()) as usize);
        parcels.push(content.to_vec());
        rest = behind;
    }
    parcels
}

/// The numbers and words in these parcels.
fn rows(parcels: &[Vec<u8>]) -> Vec<(i64, String)> {
    let of_batch = |batch: RecordBatch| {
        let numbers = batch["number"].as_primitive::<arrow_array::types::Int64Type>().values().to_vec();
        let words = batch["word"].as_dictionary::<Int32Type>();
        let words = words.downcast_dict::<StringArray>().unwrap().into_iter().map(|word| word.unwrap().to_owned());
        numbers.into_iter().zip(words.collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    parcels.iter().flat_map(|parcel| batches(parcel)).flat_map(of_batch).collect()
}

fn numbers(parcels: &[Vec<u8>]) -> Vec<i64> {
    rows(parcels).into_iter().map(|(number, _)| number).collect()
}

#[test]
fn rows_of_streams_come_once_and_in_order_in_whatever_pieces_they_are_sent() {
    let bytes = streams();
    for piece in [1, 7, 64, 1_000, bytes.len()] {
        let (parcels, outcome) = sent(&bytes, piece);
        assert_eq!(outcome, Ok(()));
        let rows = rows(&parcels);
        assert!(rows.iter().map(|(number, _)| *number).eq(0..500), "{piece}");
        let words: String = rows[..11].iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, "abaccaxxxyx", "by the dictionary of their time");
    }
}

#[test]
fn what_cannot_be_taken_ends_the_connection_with_its_reason_and_leaves_what_came_before() {
    let good = stream(&[batch(&[0, 1], &["a"]), batch(&[2], &["a"])]);
    let without_end = &good[..good.len() - 8];
    let other = RecordBatch::try_from_iter([("word", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &other.schema()).unwrap();
    file.write(&other).unwrap();
    let schema_bytes = {
        let (_, length) = crate::file::rows::message_prefix(&good).unwrap();
        8 + length
    };
    let long = vec![7; RECORD_BYTES_MAX];
    let words: Vec<String> = (0..3_000).map(|word| format!("word {word}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let bomb = stream_with(
        &[batch(&[9; 50_000], &["a"])],
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap(),
    );
    let cases: [(Vec<u8>, usize, &str); 13] = [
        (without_end.to_vec(), 3, ""),
        (without_end[..without_end.len() - 9].to_vec(), 2, "it broke off within a message"),
        ([without_end, &[0xff, 0xff, 0xff]].concat(), 3, "it broke off within a message"),
        ([without_end, &good].concat(), 3, "a stream has a second schema"),
        ([&good[..], &good[schema_bytes..]].concat(), 3, "a stream does not begin with its schema"),
        (
            [&good[..], &stream(&[other])].concat(),
            3,
            "it does not fit the fields: field \"number\": there is no column",
        ),
        (file.into_inner().unwrap(), 0, "this is an Arrow file, and streams are taken"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 0, "a message has 542393671 bytes, and record_size_max is 20000"),
        ([without_end, b"\xff\xff\xff\xff\xff\xff\xff\xff"].concat(), 3, "a message has 4294967295 bytes"),
        ([without_end, b"\xff\xff\xff\xff\x10\x00\x00\x00", &[9; 16]].concat(), 3, "this is no message of Arrow"),
        ([without_end, &stream(&[batch(&long, &["a"])])[schema_bytes..]].concat(), 3, "and record_size_max is 20000"),
        (stream(&[batch(&[0], &words)]), 0, "and record_size_max is 20000"),
        (bomb, 0, "unpacked it has more than 40000 bytes"),
    ];
    for (bytes, count, reason) in cases {
        for piece in [13, bytes.len()] {
            let (parcels, outcome) = sent(&bytes, piece);
            assert_eq!(numbers(&parcels).len(), count, "{reason}");
            let said = outcome.err().unwrap_or_default();
            assert!(said.contains(reason) && said.is_empty() == reason.is_empty(), "{said:?} for {reason:?}");
        }
    }
}

#[test]
fn messages_that_come_together_are_one_parcel_whatever_dictionaries_are_among_them() {
    let bytes = stream(&[batch(&[0], &["a"]), batch(&[1], &["b"]), batch(&[2], &["c"])]);
    let (parcels, outcome) = sent(&bytes, bytes.len());
    assert_eq!((parcels.len(), outcome), (1, Ok(())));
    assert_eq!(rows(&parcels).iter().map(|(_, word)| word.as_str()).collect::<String>(), "abc");
}

#[test]
fn what_becomes_much_more_than_came_is_handed_out_bit_by_bit() {
    // Each batch fits into a parcel behind the long word, which none of its rows has, and no two of them do.
    let mut random = 7_u32;
    let letters = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b' ' + (random >> 24) as u8 % 90)
    });
    let word: String = letters.take(8_000).collect();
    let words: ArrayRef = Arc::new(StringArray::from(vec!["a", &word]));
    let batch = |number: i64| {
        let words = DictionaryArray::<Int32Type>::new(vec![0; 1_500].into(), Arc::clone(&words));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![number; 1_500]));
        RecordBatch::try_from_iter([("number", numbers), ("word", Arc::new(words) as ArrayRef)]).unwrap()
    };
    let batches: Vec<_> = (0..200).map(batch).collect();
    let packed = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
    let bytes = stream_with(&batches, packed);
    assert!(bytes.len() < 200_000, "they are short: {}", bytes.len());
    let (mut stream, mut all, mut turns) = (ArrowStream::new(&declared(), RECORD_BYTES_MAX), Vec::new(), 0);
    let mut rest = &bytes[..];
    while turns == 0 || stream.is_behind() {
        let mut whole = Vec::new();
        stream.take(std::mem::take(&mut rest), &mut whole).unwrap();
        assert!(whole.len() <= WHOLE_BYTES_MAX + ArrowStream::parcel_bytes_max(RECORD_BYTES_MAX));
        all.extend(whole);
        turns += 1;
    }
    assert!(all.len() > WHOLE_BYTES_MAX && turns > 1, "{} in {turns} turns", all.len());
    assert!(numbers(&parted(&all)).into_iter().eq((0..200).flat_map(|number| [number; 1_500])));
}

/// A schema in which a struct has twice the struct below it as its columns, and so on.
fn doubled(depth: usize) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let name = builder.create_string("x");
    let mut field: Option<WIPOffset<arrow_ipc::Field<'_>>> = None;
    for _ in 0..depth {
        let below: Vec<_> = field.into_iter().chain(field).collect();
        let below = builder.create_vector(&below);
        let kind = Struct_Builder::new(&mut builder).finish();
        let mut own = FieldBuilder::new(&mut builder);
        own.add_name(name);
        own.add_type_type(Type::Struct_);
        own.add_type_(kind.as_union_value());
        own.add_children(below);
        field = Some(own.finish());
    }
    let fields = builder.create_vector(&field.into_iter().collect::<Vec<_>>());
    let mut schema = SchemaBuilder::new(&mut builder);
    schema.add_fields(fields);
    let schema = schema.finish();
    let mut message = MessageBuilder::new(&mut builder);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::Schema);
    message.add_header(schema.as_union_value());
    let message = message.finish();
    builder.finish(message, None);
    let mut metadata = builder.finished_data().to_vec();
    metadata.resize(metadata.len().next_multiple_of(8), 0);
    [&[0xff; 4], &(metadata.len() as u32).to_le_bytes()[..], &metadata].concat()
}

#[test]
fn a_short_schema_does_not_become_a_million_columns() {
    let reason = |depth| sent(&doubled(depth), usize::MAX).1.unwrap_err();
    assert!(reason(5).starts_with("it does not fit the fields"), "{}", reason(5));
    for depth in [17, 19, 40] {
        assert!(doubled(depth).len() < 4_000);
        assert!(reason(depth).starts_with("this is no message of Arrow"), "{}", reason(depth));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever is changed, nothing is handed out that cannot be read.
    #[test]
    fn a_changed_stream_hands_out_nothing_that_cannot_be_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        piece in 1..3_000_usize,
    ) {
        let mut bytes = streams();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let (parcels, _) = sent(&bytes, piece);
        for parcel in parcels {
            let count = count_rows(Kind::Arrow, &Arc::new(parcel), &declared(), 2 * RECORD_BYTES_MAX as u64);
            prop_assert!(count.is_ok_and(|count| count > 0));
        }
    }
}
