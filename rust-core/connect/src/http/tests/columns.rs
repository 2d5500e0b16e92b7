//! Bodies of Arrow, of Avro and of micro-batches: whole ones, damaged ones, and ones of which a checkpoint had a part.

use std::{io::Write, sync::Arc};

use apache_avro::{Codec, DeflateSettings, Writer, types::Value};
use arrow_array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray, StringViewArray, types::Int16Type};
use arrow_ipc::{
    CompressionType,
    writer::{FileWriter, IpcWriteOptions, StreamWriter},
};

use super::requests::{LINES, accepted, open, post, serve, spec};
use crate::{
    EventType, EventTypes, HttpSpec, Partition, Poll, Position, TypePlace, schema_of,
    testing::{self, Letters, fields, micro_batch, micro_batch_of},
};

const ARROW: &str = "content-type: application/vnd.apache.arrow.stream\r\n";
const AVRO: &str = "content-type: application/avro\r\n";
const BATCHES: &str = "content-type: application/vnd.ringmill.micro-batch\r\n";

const SCHEMA: &str =
    r#"{"type":"record","name":"Row","fields":[{"name":"x","type":["null","long"]},{"name":"more","type":"string"}]}"#;

fn batch(name: &str, values: &[Option<i64>]) -> RecordBatch {
    RecordBatch::try_from_iter([(name, Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).unwrap()
}

/// A stream of two batches.
fn arrow(name: &str, values: &[Option<i64>], compression: Option<CompressionType>) -> Vec<u8> {
    let (first, second) = values.split_at(values.len() / 2);
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let schema = batch(name, values).schema();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
    [first, second].iter().for_each(|part| writer.write(&batch(name, part)).unwrap());
    writer.into_inner().unwrap()
}

/// A container of two blocks.
fn avro(values: &[Option<i64>], codec: Codec) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
    let mut writer = Writer::builder().schema(&schema).writer(Vec::new()).codec(codec).build().unwrap();
    for (row, value) in values.iter().enumerate() {
        if row == values.len() / 2 {
            writer.flush().unwrap();
        }
        let value = match value {
            None => Value::Union(0, Box::new(Value::Null)),
            Some(value) => Value::Union(1, Box::new(Value::Long(*value))),
        };
        let row = [("x", value), ("more", Value::String("y".to_owned()))];
        writer.append_value(Value::Record(row.map(|(name, value)| (name.to_owned(), value)).into())).unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn what_comes_in_columns_becomes_rows_and_dead_letters() {
    for is_journaled in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let mut partition = open(&spec(), is_journaled.then(|| place.path()), &Position::default());
        let address = partition.address().unwrap();
        let mut letters = Letters::default();
        let (rows, ()) = serve(&mut partition, 21, &mut letters, || {
            assert_eq!(post(address, ARROW, &arrow("x", &[Some(1), None, Some(2)], None)), accepted(3));
            assert_eq!(post(address, LINES, b"{\"x\":3}\n"), accepted(1));
            assert_eq!(post(address, AVRO, &avro(&[Some(4), None, Some(5)], Codec::Null)), accepted(3));
            let packed = arrow("x", &[Some(6)], Some(CompressionType::ZSTD));
            assert_eq!(post(address, &ARROW.to_ascii_uppercase(), &packed), accepted(1));
            let packed = avro(&[Some(7)], Codec::Deflate(DeflateSettings::default()));
            assert_eq!(post(address, "content-type: avro/binary; charset=x\r\n", &packed), accepted(1));
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&arrow("x", &[Some(8), Some(9)], None)).unwrap();
            let packed = gzip.finish().unwrap();
            assert_eq!(post(address, &format!("{ARROW}content-encoding: gzip\r\n"), &packed), accepted(2));
            let mut file = FileWriter::try_new(Vec::new(), &batch("x", &[]).schema()).unwrap();
            file.write(&batch("x", &[Some(10)])).unwrap();
            let headers = "content-type: application/vnd.apache.arrow.file\r\n";
            assert_eq!(post(address, headers, &file.into_inner().unwrap()), accepted(1));
            assert_eq!(post(address, ARROW, &arrow("x", &[], None)), accepted(0));
            assert_eq!(post(address, AVRO, &avro(&[], Codec::Null)), accepted(0));
            let batches = [micro_batch_of([11]), micro_batch_of([]), micro_batch_of(12..20)].concat();
            assert_eq!(post(address, BATCHES, &batches), accepted(9));
            assert_eq!(post(address, BATCHES, &micro_batch_of([])), accepted(0));
        });
        assert_eq!(rows, (1..20).collect::<Vec<_>>());
        let [first, second] = &letters.taken[..] else { panic!("{letters:?}") };
        assert_eq!(
            (first.offset, &first.record[..]),
            (1, &br#"{"x":null}"#[..]),
            "the row's number, for the first body"
        );
        assert_eq!((&second.record[..], second.header.as_deref()), (&b"\x00\x02y"[..], Some(SCHEMA)));
        assert!(second.reason.contains("x"), "{second:?}");
    }
}

#[test]
fn a_body_that_is_damaged_is_refused_and_nothing_of_it_is_taken() {
    let mut partition = open(&spec(), None, &Position::default());
    let address = partition.address().unwrap();
    let values: Vec<Option<i64>> = (0..6).map(Some).collect();
    let bodies = [
        (ARROW, arrow("x", &values, None)),
        (ARROW, arrow("x", &values, Some(CompressionType::LZ4_FRAME))),
        (AVRO, avro(&values, Codec::Null)),
        (AVRO, avro(&values, Codec::Deflate(DeflateSettings::default()))),
        (BATCHES, [micro_batch_of(0..3), micro_batch_of(3..6)].concat()),
    ];
    let mut letters = Letters::default();
    let (rows, taken) = serve(&mut partition, 0, &mut letters, || {
        let mut taken = 0;
        let mut send = |headers, body: &[u8]| {
            let (status, answer) = post(address, headers, body);
            let count = answer.strip_prefix("{\"accepted\":").and_then(|rest| rest.strip_suffix('}'));
            assert!(if status == 202 { count.is_some() } else { [400, 413].contains(&status) }, "{status} {answer}");
            taken += count.map_or(0, |count| count.parse::<usize>().unwrap());
            status
        };
        for (headers, body) in bodies {
            // A stream and a container may end behind each of their blocks.
            let whole = (0..body.len()).step_by(7).filter(|length| send(headers, &body[..*length]) == 202).count();
            assert!(whole <= 3, "{whole}");
            for at in (0..body.len()).step_by(31) {
                let mut body = body.clone();
                body[at] ^= 0x55;
                send(headers, &body);
            }
        }
        taken
    });
    assert_eq!(rows.len() + letters.taken.len(), taken, "what is accepted comes, and nothing else does");
}

#[test]
fn columns_that_no_row_can_be_made_of_and_bodies_that_unpack_to_too_much_are_refused() {
    let mut partition = open(&spec(), None, &Position::default());
    let address = partition.address().unwrap();
    let many = vec![Some(0); 10_000];
    let deflate = Codec::Deflate(DeflateSettings::default());
    let second = format!("the micro-batch at byte {}: its length is not whole", micro_batch_of([1]).len());
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        (
            ARROW,
            arrow("y", &[Some(1)], None),
            400,
            "the body does not fit: field \\\"x\\\": there is no column \\\"x\\\" among y",
        ),
        (AVRO, b"Obj\x01".to_vec(), 400, "it ends within its header"),
        (
            BATCHES,
            [micro_batch_of([1]), micro_batch(&mut testing::batch(&schema_of(&fields(&["y:int64"])).unwrap(), 1, 0))]
                .concat(),
            400,
            r#"which is the hash (FNV-1a, 64 bits) of \"ringmill.wire.schema/1\\n1:x int64\\n\""#,
        ),
        (
            BATCHES,
            b"{\"x\":1}\n".to_vec(),
            400,
            "the body cannot be read: it has 578298495 bytes with its length, and 8",
        ),
        (BATCHES, [micro_batch_of([1]), vec![1, 0]].concat(), 400, &second),
        (AVRO, b"{\"x\":1}".to_vec(), 400, "it is not an Avro file"),
        (ARROW, b"{\"x\":1}\n{\"x\":2}\n".to_vec(), 400, "the body cannot be read: "),
        (ARROW, Vec::new(), 400, "not even a schema"),
        (ARROW, arrow("x", &many, Some(CompressionType::ZSTD)), 413, "longer than 10000 bytes (request_size_max)"),
        (AVRO, avro(&many, deflate), 413, "longer than 10000 bytes (request_size_max)"),
    ];
    let (rows, ()) = serve(&mut partition, 0, &mut Letters::default(), || {
        for (headers, body, status, reason) in cases {
            assert!(body.len() < 10_000, "it is short while it is packed");
            let (found, answer) = post(address, headers, &body);
            assert!(found == status && answer.contains(reason), "{found} {answer}");
        }
    });
    assert!(rows.is_empty());
}

/// A stream with a column of text `t`, in batches of so many rows.
fn texts(column: ArrayRef, batch_rows: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter([("t", column)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    (0..batch.num_rows()).step_by(batch_rows).for_each(|from| {
        writer.write(&batch.slice(from, batch_rows.min(batch.num_rows() - from))).unwrap();
    });
    writer.into_inner().unwrap()
}

/// The first of these values for so many rows.
fn keyed(values: &[&str], rows: usize) -> ArrayRef {
    let values = StringArray::from(values.to_vec());
    Arc::new(DictionaryArray::<Int16Type>::new(vec![0_i16; rows].into(), Arc::new(values)))
}

#[test]
fn what_stands_once_for_many_rows_counts_for_each_of_them() {
    let spec = HttpSpec { fields: fields(&["t:utf8"]).into(), request_bytes_max: 1 << 20, ..spec() };
    let mut partition = open(&spec, None, &Position::default());
    let address = partition.address().unwrap();
    let value = "y".repeat(1_000);
    let viewed = |rows: usize| -> ArrayRef {
        let block = StringViewArray::from(vec![value.as_str()]);
        Arc::new(StringViewArray::new(vec![block.views()[0]; rows].into(), block.data_buffers().to_vec(), None))
    };
    let schema = spec.schema().unwrap();
    let mut batch = testing::batch(&schema, 1_000, 1 << 20);
    assert_eq!(testing::poll(&mut partition, &mut batch, &mut Letters::default(), 1).unwrap(), Poll::Idle);
    for body in [texts(keyed(&[&value], 2_000), 2_000), texts(viewed(2_000), 2_000)] {
        assert!(body.len() < 1 << 20, "{}", body.len());
        let (status, answer) = post(address, ARROW, &body);
        assert!(status == 413 && answer.contains("longer than 1048576 bytes"), "{status} {answer}");
    }
    let mut letters = Letters::default();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for body in [texts(keyed(&[&value], 100), 100), texts(viewed(100), 100), texts(keyed(&[&value], 100), 1)] {
                assert_eq!(post(address, ARROW, &body), accepted(100));
            }
        });
        // Without a journal each one is answered behind its last row.
        while !sender.is_finished() {
            batch.clear();
            testing::poll(&mut partition, &mut batch, &mut letters, 100).unwrap();
            std::thread::yield_now();
        }
        sender.join().unwrap();
    });
    assert!(letters.taken.is_empty(), "{letters:?}");
}

#[test]
fn many_messages_that_each_go_through_a_large_dictionary_are_refused() {
    // Their columns alone would be short enough.
    let body = texts(keyed(&["y", &"y".repeat(60_000)], 1_300), 1);
    let spec = HttpSpec { fields: fields(&["t:utf8"]).into(), request_bytes_max: body.len() + 10_000, ..spec() };
    let mut partition = open(&spec, None, &Position::default());
    let address = partition.address().unwrap();
    let mut batch = testing::batch(&spec.schema().unwrap(), 1_000, 1 << 20);
    assert_eq!(testing::poll(&mut partition, &mut batch, &mut Letters::default(), 1).unwrap(), Poll::Idle);
    let (status, answer) = post(address, ARROW, &body);
    assert!(status == 413 && answer.contains("(request_size_max)"), "{status} {answer}");
}

#[test]
fn a_schema_that_would_take_more_memory_than_there_is_is_refused() {
    let spec = HttpSpec { request_bytes_max: 4 << 20, ..spec() };
    let mut partition = open(&spec, None, &Position::default());
    let address = partition.address().unwrap();
    let long = "y".repeat(2 << 20);
    let schema = format!(r#"{{"type":"record","name":"R","doc":"{long}","fields":[{{"name":"x","type":"long"}}]}}"#);
    let parsed = apache_avro::Schema::parse_str(&schema).unwrap();
    let mut writer = Writer::builder().schema(&parsed).writer(Vec::new()).build().unwrap();
    writer.append_value(Value::Record(vec![("x".to_owned(), Value::Long(1))])).unwrap();
    let container = writer.into_inner().unwrap();
    serve(&mut partition, 0, &mut Letters::default(), || {
        for (headers, body) in [(AVRO, container), (ARROW, arrow(&long, &[Some(1)], None))] {
            let (status, answer) = post(address, headers, &body);
            assert!(status == 400 && answer.contains("bytes; at most 1 MiB is read"), "{status} {answer:.300}");
        }
    });
}

#[test]
fn a_body_with_something_behind_its_end_is_refused() {
    let mut partition = open(&spec(), None, &Position::default());
    let address = partition.address().unwrap();
    let stream = arrow("x", &[Some(1), Some(2)], None);
    let (rows, ()) = serve(&mut partition, 2, &mut Letters::default(), || {
        let (status, answer) = post(address, ARROW, &[&stream[..], &stream[..]].concat());
        assert!(status == 400 && answer.contains("something follows"), "{status} {answer}");
        assert_eq!(post(address, ARROW, &[&stream[..], &[0; 56][..]].concat()), accepted(2));
    });
    assert_eq!(rows, [1, 2]);
}

#[test]
fn rows_of_several_types_are_not_taken_in_columns() {
    let of = |name: &str| EventType {
        name: name.to_owned(),
        values: vec![name.to_owned()],
        fields: fields(&["x:int64"]),
        event_time: None,
    };
    let types = EventTypes::new(TypePlace::Field("kind".to_owned()), vec![of("a"), of("b")]).unwrap();
    let spec = HttpSpec { fields: types.into(), ..spec() };
    let mut partition = open(&spec, None, &Position::default());
    let address = partition.address().unwrap();
    let schema = spec.schema().unwrap();
    let mut batch = testing::batch(&schema, 10, 100);
    assert_eq!(testing::poll(&mut partition, &mut batch, &mut Letters::default(), 1).unwrap(), Poll::Idle);
    for (headers, body) in [(ARROW, arrow("x", &[Some(1)], None)), (BATCHES, micro_batch_of([1]))] {
        let (status, answer) = post(address, headers, &body);
        assert!(status == 415 && answer.contains("sent as JSON"), "{answer}");
    }
}

#[test]
fn a_run_goes_on_behind_the_row_of_a_request_that_a_checkpoint_has() {
    let values: Vec<Option<i64>> = (0..6).map(Some).collect();
    let lines: String = (0..6).map(|x| format!("{{\"x\":{x}}}\n")).collect();
    for (headers, body) in [
        (ARROW, arrow("x", &values, None)),
        (AVRO, avro(&values, Codec::Null)),
        (BATCHES, [micro_batch_of(0..2), micro_batch_of([]), micro_batch_of(2..6)].concat()),
        (LINES, lines.into_bytes()),
    ] {
        for stopped in 1..=6 {
            let place = tempfile::tempdir().unwrap();
            let mut first = open(&spec(), Some(place.path()), &Position::default());
            let address = first.address().unwrap();
            let mut letters = Letters::default();
            let mut batch = testing::batch(&schema_of(&fields(&["x:int64"])).unwrap(), 100, 100);
            let mut poll =
                |partition: &mut dyn Partition| testing::poll(partition, &mut batch, &mut letters, 1).unwrap();
            std::thread::scope(|scope| {
                let sender = scope.spawn(|| post(address, headers, &body));
                while first.position().rows < stopped {
                    poll(&mut first);
                    std::thread::yield_now();
                }
                assert_eq!(sender.join().unwrap(), accepted(6));
            });
            let position = first.position();
            assert!(position.rows == stopped && (position.taken > 0 || stopped == 6), "{position:?}");
            drop(first);
            let mut second = open(&spec(), Some(place.path()), &position);
            let (rows, ()) = serve(&mut second, 6, &mut letters, || ());
            assert_eq!(rows, (stopped as i64..6).collect::<Vec<_>>());
            assert!(letters.taken.is_empty(), "{letters:?}");
        }
    }
}
