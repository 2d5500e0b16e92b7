//! Container files that `apache-avro` has written, and files that nobody should write.

use std::{fs, io::Write, ops::Range, path::Path};

use apache_avro::{Codec, DeflateSettings, Schema, Writer, types::Value, writer::datum::GenericDatumWriter};

use crate::{
    AvroSchema, ConnectError, FileFormat, FileSpec, Format, Order, Partition, Position, RECORD_BYTES_MAX,
    testing::{self, Letter, fields},
};

const SCHEMA: &str = r#"{"type": "record", "name": "Reading", "fields": [
    {"name": "n", "type": "long"}, {"name": "t", "type": ["null", "string"]},
    {"name": "meta", "type": {"type": "record", "name": "Meta", "fields": [{"name": "site", "type": "string"}]}},
    {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;

const COLUMNS: [&str; 3] = ["n:int64", "site:utf8@/meta/site", "t:utf8?"];

const SYNC: [u8; 16] = *b"0123456789abcdef";

fn row(n: i64) -> Value {
    let text = match n % 3 {
        0 => Value::Union(0, Box::new(Value::Null)),
        _ => Value::Union(1, Box::new(Value::String(format!("t{n}")))),
    };
    let meta = Value::Record(vec![("site".to_owned(), Value::String(format!("s{}", n % 7)))]);
    let tags = Value::Array(vec![Value::String("a".to_owned()); (n % 4) as usize]);
    let fields = [("n", Value::Long(n)), ("t", text), ("meta", meta), ("tags", tags)];
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// What [`COLUMNS`] have of these rows.
fn shown(rows: Range<i64>) -> String {
    let text = |n: i64| if n % 3 == 0 { "null".to_owned() } else { format!("\"t{n}\"") };
    rows.map(|n| format!("{{\"n\":{n},\"site\":\"s{}\",\"t\":{}}}\n", n % 7, text(n))).collect()
}

/// A file of so many rows, ten in a block.
fn written(codec: Codec, rows: i64) -> Vec<u8> {
    let schema = Schema::parse_str(SCHEMA).unwrap();
    let mut writer = Writer::builder().schema(&schema).writer(Vec::new()).codec(codec).build().unwrap();
    for n in 0..rows {
        writer.append_value(row(n)).unwrap();
        if n % 10 == 9 {
            writer.flush().unwrap();
        }
    }
    writer.into_inner().unwrap()
}

fn number(value: i64) -> Vec<u8> {
    let (mut value, mut bytes) = (((value << 1) ^ (value >> 63)) as u64, Vec::new());
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&number(bytes.len() as i64), bytes].concat()
}

/// A file of blocks, of which each says how many rows it has.
fn container(schema: &str, codec: &str, blocks: &[(i64, &[u8])]) -> Vec<u8> {
    let mut file = [b"Obj\x01", &number(2)[..]].concat();
    for text in ["avro.schema", schema, "avro.codec", codec] {
        file.extend(prefixed(text.as_bytes()));
    }
    file.push(0);
    file.extend(SYNC);
    for (rows, bytes) in blocks {
        file.extend([&number(*rows), &prefixed(bytes)[..], &SYNC].concat());
    }
    file
}

/// The same of 35 rows, ten in a block.
fn packed(codec: &str, pack: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let schema = Schema::parse_str(SCHEMA).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let datum = |n: i64| writer.write_value_to_vec(row(n)).unwrap();
    let rows: Vec<Range<i64>> = (0..35).step_by(10).map(|first| first..(first + 10).min(35)).collect();
    let blocks: Vec<(i64, Vec<u8>)> =
        rows.into_iter().map(|rows| (rows.end - rows.start, pack(rows.flat_map(datum).collect()))).collect();
    let blocks: Vec<(i64, &[u8])> = blocks.iter().map(|(rows, bytes)| (*rows, &bytes[..])).collect();
    container(SCHEMA, codec, &blocks)
}

fn snappy(bytes: Vec<u8>) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    [snap::raw::Encoder::new().compress_vec(&bytes).unwrap(), crc.sum().to_be_bytes().to_vec()].concat()
}

fn zstandard(bytes: Vec<u8>) -> Vec<u8> {
    zstd::encode_all(&bytes[..], 3).unwrap()
}

fn spec(path: &Path, reader: Option<&str>, columns: &[&str]) -> FileSpec {
    FileSpec {
        path: path.to_str().unwrap().to_owned(),
        format: FileFormat::Avro(reader.map(|text| AvroSchema::parse(text).unwrap())),
        fields: fields(columns).into(),
        rate: None,
        order: Order::Sequential,
        record_bytes_max: RECORD_BYTES_MAX,
        decode_threads: 0,
    }
}

type Opened = (tempfile::TempDir, Box<dyn Partition>);

fn open(bytes: &[u8], reader: Option<&str>, columns: &[&str]) -> Result<Opened, ConnectError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.avro");
    fs::write(&path, bytes).unwrap();
    let partition = spec(&path, reader, columns).open(1, &[], None)?.remove(0).1;
    Ok((folder, partition))
}

fn drain(partition: &mut dyn Partition, columns: &[&str]) -> Result<(String, Vec<Letter>), ConnectError> {
    testing::read_all(partition, &crate::schema_of(&fields(columns)).unwrap(), Format::Json, 4)
}

fn read(bytes: &[u8], reader: Option<&str>, columns: &[&str]) -> Result<(String, Vec<Letter>), ConnectError> {
    let (_folder, mut partition) = open(bytes, reader, columns)?;
    drain(&mut *partition, columns)
}

/// Why such a file ends the run.
fn said(bytes: &[u8]) -> String {
    read(bytes, None, &COLUMNS).unwrap_err().to_string()
}

fn at_row(row: u64) -> Position {
    Position { offset: row, rows: row, ..Position::default() }
}

#[test]
fn rows_of_every_codec_are_read_from_any_row_on() {
    let files = [
        written(Codec::Null, 35),
        written(Codec::Deflate(DeflateSettings::default()), 35),
        packed("snappy", snappy),
        packed("zstandard", zstandard),
    ];
    for bytes in files {
        assert_eq!(read(&bytes, None, &COLUMNS).unwrap(), (shown(0..35), Vec::new()));
        for first in 0..=35 {
            let (_folder, mut partition) = open(&bytes, None, &COLUMNS).unwrap();
            partition.seek(&at_row(first)).unwrap();
            assert_eq!(drain(&mut *partition, &COLUMNS).unwrap().0, shown(first as i64..35), "from {first} on");
            assert_eq!((partition.position().offset, partition.position().rows), (35, 35));
        }
        let (_folder, mut partition) = open(&bytes, None, &COLUMNS).unwrap();
        partition.seek(&at_row(36)).unwrap();
        let error = drain(&mut *partition, &COLUMNS).unwrap_err().to_string();
        assert!(error.ends_with("it has only 35 rows, and 36 were read before"), "{error}");
    }
}

#[test]
fn each_file_is_read_by_its_own_schema() {
    let folder = tempfile::tempdir().unwrap();
    let other = r#"{"type": "record", "name": "Other", "fields": [
        {"name": "t", "type": "string"}, {"name": "n", "type": "int"}]}"#;
    fs::write(folder.path().join("0.avro"), written(Codec::Null, 2)).unwrap();
    fs::write(folder.path().join("1.avro"), container(other, "null", &[(1, b"\x02x\x0e"), (0, b""), (1, b"\x00\x10")]))
        .unwrap();
    let columns = ["n:int64", "t:utf8?"];
    let spec = spec(&folder.path().join("*.avro"), None, &columns);
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let rows = "{\"n\":0,\"t\":null}\n{\"n\":1,\"t\":\"t1\"}\n{\"n\":7,\"t\":\"x\"}\n{\"n\":8,\"t\":\"\"}\n";
    assert_eq!(drain(&mut *partition, &columns).unwrap(), (rows.to_owned(), Vec::new()));
}

#[test]
fn a_row_that_does_not_fit_is_a_letter_of_its_bytes_with_its_number_and_its_schema() {
    let file = written(Codec::Deflate(DeflateSettings::default()), 13);
    let (rows, letters) = read(&file, None, &["n:int64", "t:utf8"]).unwrap();
    assert_eq!(rows.lines().count(), 8);
    let offsets: Vec<u64> = letters.iter().map(|letter| letter.offset).collect();
    assert_eq!(offsets, [0, 3, 6, 9, 12]);
    assert_eq!(
        (letters[4].reason.as_str(), &letters[4].record[..]),
        ("field \"t\" is null", &b"\x18\x00\x04s5\x00"[..])
    );
    let header = AvroSchema::parse(letters[4].header.as_ref().unwrap()).unwrap();
    let datum = container(SCHEMA, "null", &[(1, &letters[4].record)]);
    assert_eq!(read(&datum, None, &COLUMNS).unwrap().0, shown(12..13));
    assert!(format!("{header:?}").contains("Reading"));
}

#[test]
fn a_readers_schema_says_defaults_and_former_names() {
    let reader = r#"{"type": "record", "name": "Reading", "fields": [
        {"name": "unit", "type": "string", "default": "C"}, {"name": "id", "type": "long", "aliases": ["n"]}]}"#;
    let (rows, letters) = read(&written(Codec::Null, 2), Some(reader), &["unit:utf8", "id:int64"]).unwrap();
    assert_eq!((rows.as_str(), letters.len()), ("{\"unit\":\"C\",\"id\":0}\n{\"unit\":\"C\",\"id\":1}\n", 0));
    let error = read(&written(Codec::Null, 2), None, &["unit:utf8", "n:int32"]).unwrap_err();
    assert!(matches!(error, ConnectError::Columns { .. }), "{error}");
    assert!(error.to_string().contains("the schema has no field \"unit\""), "{error}");
}

#[test]
fn a_file_that_was_cut_gives_out_whole_blocks_and_says_where_it_was() {
    let whole = written(Codec::Null, 35);
    for length in 0..whole.len() {
        let (_folder, opened) = match open(&whole[..length], None, &COLUMNS) {
            Ok((folder, partition)) => (Some(folder), Ok(partition)),
            Err(error) => (None, Err(error)),
        };
        match opened.and_then(|mut partition| drain(&mut *partition, &COLUMNS)) {
            // Between two blocks a file may end.
            Ok((rows, letters)) => {
                assert!(rows.lines().count().is_multiple_of(10) && shown(0..35).starts_with(&rows), "{length}");
                assert_eq!(letters, []);
            }
            Err(error) => {
                let cut = error.to_string().ends_with("; the file was cut, or is being written");
                assert!(cut || length < 4, "{length}: {error}");
            }
        }
    }
}

#[test]
fn no_byte_of_a_file_makes_it_panic_or_lose_a_row_unnoticed() {
    for whole in [written(Codec::Null, 35), packed("snappy", snappy), packed("zstandard", zstandard)] {
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= [0x01, 0x80, 0xff][at % 3];
            match read(&bytes, None, &COLUMNS) {
                Ok((rows, letters)) => assert_eq!(rows.lines().count() + letters.len(), 35, "{at}"),
                Err(ConnectError::Damaged { .. } | ConnectError::Columns { .. }) => {}
                Err(error) => panic!("{at}: {error}"),
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_block_is_said_with_its_place() {
    let good = packed("null", |bytes| bytes);
    let header = container(SCHEMA, "null", &[]).len();
    let second = header + good[header..].windows(16).position(|bytes| bytes == SYNC).unwrap() + 16;
    let check = |bytes: &[u8], place: usize, row: u64, reason: &str| {
        let expected = format!("in.avro beyond row {row}: the block at byte {place}: {reason}");
        assert!(said(bytes).ends_with(&expected), "{}\n{expected}", said(bytes));
    };
    let mut other_sync = good.clone();
    other_sync[second - 1] ^= 1;
    check(&other_sync, header, 0, "what follows it is not the file's sync marker");
    for (rows, reason) in [
        (11, "row 10 of it: it ends within a value"),
        (9, "17 bytes follow its rows"),
        (0, "130 bytes follow its rows"),
        (-1, "it says that it has -1 rows in 130 bytes"),
        (1 << 40, "it says that it has 1099511627776 rows; at most 32 Mi are read at a time"),
    ] {
        let changed = [&good[..second], &number(rows), &good[second + 1..]].concat();
        check(&changed, second, 10, reason);
    }
    let cut = "it has more bytes than are there; the file was cut, or is being written";
    for length in [1 << 20, i64::MAX] {
        let changed = [&good[..second + 1], &number(length), &good[second + 3..]].concat();
        check(&changed, second, 10, cut);
    }
    check(&[&good[..second], &[0xff; 40]].concat(), second, 10, "a number has more bits than its type");
    let mut changed = packed("snappy", snappy);
    let end = changed.len() - 17;
    changed[end] ^= 1;
    assert!(said(&changed).ends_with("its checksum is another"), "{}", said(&changed));
}

#[test]
fn what_is_wrong_with_a_header_is_said() {
    for (bytes, reason) in [
        (b"{\"n\":1}\n".to_vec(), "it is not an Avro file, which begins with Obj and 1"),
        (b"".to_vec(), "it is not an Avro file, which begins with Obj and 1"),
        (
            container(SCHEMA, "lz\x1b4", &[]),
            "it is compressed with lz\\x1b4; null, deflate, snappy and zstandard are read",
        ),
        ([b"Obj\x01\x00", &SYNC[..]].concat(), "its header has no schema"),
        (
            [b"Obj\x01", &number(i64::MAX)[..]].concat(),
            "it ends within its header; the file was cut, or is being written",
        ),
        ([b"Obj\x01\x02\x01", &SYNC[..]].concat(), "its header: a length is negative"),
    ] {
        assert!(said(&bytes).ends_with(reason), "{}\n{reason}", said(&bytes));
    }
    assert!(said(&container("{\"type\": ", "null", &[])).contains("the schema in its header: "));
    let long = [b"Obj\x01\x02\x02a", &number(20 << 20)[..], &vec![b'x'; 20 << 20]].concat();
    assert!(said(&long).ends_with("its header has more than 16 MiB"), "{}", said(&long));
}

#[test]
fn a_block_that_becomes_too_large_is_not_unpacked() {
    let zeros = vec![0; 1 << 20];
    let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zstandard = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..300 {
        deflated.write_all(&zeros).unwrap();
        zstandard.write_all(&zeros).unwrap();
    }
    let snappy = [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0; 8]].concat();
    let bombs =
        [("deflate", deflated.finish().unwrap()), ("zstandard", zstandard.finish().unwrap()), ("snappy", snappy)];
    for (codec, block) in bombs {
        let said = said(&container(SCHEMA, codec, &[(1, &block)]));
        let expected = "it becomes too large when it is decompressed; at most 256 MiB are read at a time";
        assert!(said.ends_with(expected), "{codec}: {said}");
    }
}

#[test]
fn rows_without_a_byte_are_rows() {
    let schema = r#"{"type": "record", "name": "Nothing", "fields": [{"name": "a", "type": "null"}]}"#;
    let (rows, _) = read(&container(schema, "null", &[(3, b"")]), None, &["a:utf8?"]).unwrap();
    assert_eq!(rows, "{\"a\":null}\n".repeat(3));
}

#[test]
fn a_file_that_has_grown_is_read_on() {
    let whole = written(Codec::Null, 30);
    let sync = &whole[whole.len() - 16..];
    let second = whole.windows(16).position(|bytes| bytes == sync).unwrap() + 16;
    let second = second + whole[second..].windows(16).position(|bytes| bytes == sync).unwrap() + 16;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.avro");
    fs::write(&path, &whole[..second]).unwrap();
    let spec = spec(&path, None, &COLUMNS);
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let first = drain(&mut *partition, &COLUMNS).unwrap().0;
    let position = serde_json::to_value(partition.position()).unwrap();
    let name = partition.name().to_owned();
    fs::write(&path, &whole).unwrap();
    let resume = crate::Resume { name: &name, position: &position, ended: true };
    let mut partition = spec.open(1, &[], Some(&[resume])).unwrap().remove(0).1;
    assert_eq!(first + &drain(&mut *partition, &COLUMNS).unwrap().0, shown(0..30));
}
