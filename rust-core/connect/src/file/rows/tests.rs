//! Files that Arrow's own writers have written, read from any row, and files that nobody should write.

use std::{fs, path::PathBuf, sync::Arc};

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    FixedSizeListArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, LargeBinaryArray,
    LargeListArray, LargeStringArray, ListArray, NullArray, RecordBatch, StringArray, StringViewArray, StructArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampSecondArray, UInt8Array, UInt32Array, UInt64Array,
    types::{Float32Type, Int32Type, Int64Type},
};
use arrow_buffer::NullBuffer;
use arrow_ipc::{
    CompressionType,
    writer::{FileWriter, IpcWriteOptions, StreamWriter},
};
use arrow_schema::{DataType as ArrowType, Field, Fields};
use parquet::{
    arrow::ArrowWriter,
    basic::Compression,
    data_type::{self, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int96, Int96Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use proptest::prelude::*;

use super::{columns::Batches, parquet::ParquetFile};
use crate::{
    ConnectError, FieldSpec, FileFormat, FileSpec, Format, Order, OutputFormat, Partition, Position, RECORD_BYTES_MAX,
    encoder,
    formats::columns::Columns,
    schema_of,
    testing::{self, Letter, Letters, RandomRow, all_kinds, batch_of, fields, random_row, rows::batches},
};

/// The forms in which the same columns are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Parquet,
    Feather,
    Stream,
    /// Feather, each buffer compressed
    Lz4,
    Zstd,
}

const FORMS: [Form; 5] = [Form::Parquet, Form::Feather, Form::Stream, Form::Lz4, Form::Zstd];

impl Form {
    fn format(self) -> FileFormat {
        if self == Form::Parquet { FileFormat::Parquet } else { FileFormat::Arrow }
    }

    fn write(self, batch: &RecordBatch) -> Vec<u8> {
        let (mut bytes, schema) = (Vec::new(), batch.schema());
        let options = |compression| IpcWriteOptions::default().try_with_compression(compression).unwrap();
        // Several row groups and record batches, of rows that are not a multiple of those of a chunk.
        let parts: Vec<RecordBatch> =
            (0..batch.num_rows()).step_by(7).map(|row| batch.slice(row, 7.min(batch.num_rows() - row))).collect();
        let compression = match self {
            Form::Parquet => {
                let properties = WriterProperties::builder().set_max_row_group_row_count(Some(7));
                let properties = properties.set_compression(Compression::SNAPPY).build();
                let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties)).unwrap();
                parts.iter().for_each(|part| writer.write(part).unwrap());
                writer.close().unwrap();
                return bytes;
            }
            Form::Stream => {
                let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
                parts.iter().for_each(|part| writer.write(part).unwrap());
                writer.finish().unwrap();
                return bytes;
            }
            Form::Feather => None,
            Form::Lz4 => Some(CompressionType::LZ4_FRAME),
            Form::Zstd => Some(CompressionType::ZSTD),
        };
        let mut writer = FileWriter::try_new_with_options(&mut bytes, &schema, options(compression)).unwrap();
        parts.iter().for_each(|part| writer.write(part).unwrap());
        writer.finish().unwrap();
        drop(writer);
        bytes
    }
}

/// A file in a folder of its own.
struct Written {
    _folder: tempfile::TempDir,
    path: PathBuf,
    format: FileFormat,
}

fn written(form: Form, bytes: &[u8]) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    fs::write(&path, bytes).unwrap();
    Written { _folder: folder, path, format: form.format() }
}

impl Written {
    fn spec(&self, columns: &[&str]) -> FileSpec {
        FileSpec {
            path: self.path.to_str().unwrap().to_owned(),
            format: self.format.clone(),
            fields: fields(columns).into(),
            rate: None,
            order: Order::Parallel,
            record_bytes_max: RECORD_BYTES_MAX,
            decode_threads: 0,
        }
    }

    fn open(&self, columns: &[&str]) -> Result<Box<dyn Partition>, ConnectError> {
        Ok(self.spec(columns).open(1, &[], None)?.remove(0).1)
    }

    /// Rows as NDJSON, and dead letters.
    fn read(&self, columns: &[&str]) -> Result<(String, Vec<Letter>), ConnectError> {
        let schema = self.spec(columns).schema().unwrap();
        testing::read_all(&mut *self.open(columns)?, &schema, Format::Json, 4)
    }
}

fn columns(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn list(offsets: &[i32], items: ArrayRef) -> ArrayRef {
    let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
    let offsets = arrow_buffer::OffsetBuffer::new(offsets.to_vec().into());
    Arc::new(ListArray::new(field, offsets, items, None))
}

/// The values of a column of two rows, as JSON.
fn values(form: Form, array: &ArrayRef, column: &str) -> (String, String) {
    let file = written(form, &form.write(&columns(vec![("a", Arc::clone(array))])));
    let (rows, letters) = file.read(&[&format!("a:{column}")]).unwrap_or_else(|error| panic!("{form:?}: {error}"));
    assert_eq!(letters, [], "{form:?} {column}");
    let mut lines = rows.lines().map(|line| line.trim_start_matches("{\"a\":").trim_end_matches('}').to_owned());
    (lines.next().unwrap(), lines.next().unwrap())
}

#[test]
fn a_value_comes_into_every_column_that_can_hold_it() {
    let dictionary: DictionaryArray<Int32Type> = [Some("ab"), None].into_iter().collect();
    let numbers = DictionaryArray::new(Int8Array::from(vec![1, 0]), Arc::new(Int64Array::from(vec![5, 6])) as ArrayRef);
    let sized = FixedSizeBinaryArray::try_from_iter([[1_u8, 2], [3, 4]].iter()).unwrap();
    let large = LargeListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), Some(vec![])]);
    let wide = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        [Some(vec![Some(0.5), Some(1.5)]), Some(vec![Some(2.5), Some(3.5)])],
        2,
    );
    let price = Decimal128Array::from(vec![-1234, 5]).with_precision_and_scale(9, 2).unwrap();
    let cases: Vec<(ArrayRef, &str, &str, &str)> = vec![
        (Arc::new(BooleanArray::from(vec![true, false])), "bool", "true", "false"),
        (Arc::new(Int8Array::from(vec![-128, 7])), "int8", "-128", "7"),
        (Arc::new(Int16Array::from(vec![-300, 7])), "int64", "-300", "7"),
        (Arc::new(Int32Array::from(vec![i32::MIN, 7])), "int64", "-2147483648", "7"),
        (Arc::new(Int32Array::from(vec![-3, 7])), "float64", "-3.0", "7.0"),
        (Arc::new(UInt8Array::from(vec![255, 7])), "int16", "255", "7"),
        (Arc::new(UInt32Array::from(vec![u32::MAX, 7])), "uint64", "4294967295", "7"),
        (Arc::new(UInt64Array::from(vec![1 << 62, 7])), "int64", "4611686018427387904", "7"),
        (Arc::new(Float32Array::from(vec![0.5, -0.25])), "float64", "0.5", "-0.25"),
        (Arc::new(StringArray::from(vec!["é", ""])), "utf8", "\"é\"", "\"\""),
        (Arc::new(LargeStringArray::from(vec!["é", ""])), "utf8", "\"é\"", "\"\""),
        (Arc::new(StringViewArray::from(vec!["é", "longer than twelve"])), "utf8", "\"é\"", "\"longer than twelve\""),
        (Arc::new(dictionary), "utf8?", "\"ab\"", "null"),
        (Arc::new(numbers), "int64", "6", "5"),
        (Arc::new(BinaryArray::from(vec![&b"\0\xff"[..], b"a"])), "binary", "\"AP8=\"", "\"YQ==\""),
        (Arc::new(LargeBinaryArray::from(vec![&b"\0\xff"[..], b"a"])), "binary", "\"AP8=\"", "\"YQ==\""),
        (Arc::new(BinaryArray::from(vec![&b"ab"[..], b"a"])), "utf8", "\"ab\"", "\"a\""),
        (Arc::new(sized), "binary", "\"AQI=\"", "\"AwQ=\""),
        (
            Arc::new(TimestampMillisecondArray::from(vec![1_500, -1])),
            "timestamp[us]",
            "\"1970-01-01T00:00:01.500000Z\"",
            "\"1969-12-31T23:59:59.999000Z\"",
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![1_500, 0]).with_timezone("Europe/Berlin")),
            "timestamp[ns]",
            "\"1970-01-01T00:00:00.001500000Z\"",
            "\"1970-01-01T00:00:00.000000000Z\"",
        ),
        (
            Arc::new(Date32Array::from(vec![1, 0])),
            "timestamp[s]",
            "\"1970-01-02T00:00:00Z\"",
            "\"1970-01-01T00:00:00Z\"",
        ),
        (
            Arc::new(Int64Array::from(vec![60, 0])),
            "timestamp[s]",
            "\"1970-01-01T00:01:00Z\"",
            "\"1970-01-01T00:00:00Z\"",
        ),
        (Arc::new(TimestampMillisecondArray::from(vec![1_500, 0])), "int64", "1500", "0"),
        (Arc::new(price.clone()), "utf8", "\"-12.34\"", "\"0.05\""),
        (Arc::new(price), "float64", "-12.34", "0.05"),
        (list(&[0, 2, 2], Arc::new(Int32Array::from(vec![1, 2]))), "list[int64]", "[1,2]", "[]"),
        (Arc::new(large), "list[float64]", "[1.0]", "[]"),
        (Arc::new(wide), "list[float32]", "[0.5,1.5]", "[2.5,3.5]"),
        (Arc::new(Float64Array::from(vec![None, Some(0.5)])), "float64?", "null", "0.5"),
    ];
    for (array, column, first, second) in cases {
        for form in FORMS {
            let expected = (first.to_owned(), second.to_owned());
            assert_eq!(values(form, &array, column), expected, "{form:?}: {} to {column}", array.data_type());
        }
    }
    // Parquet has neither.
    for form in [Form::Feather, Form::Stream] {
        let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1, 0]));
        let expected = "\"1970-01-01T00:00:01.000Z\"".to_owned();
        assert_eq!(values(form, &seconds, "timestamp[ms]").0, expected);
        let nothing: ArrayRef = Arc::new(NullArray::new(2));
        assert_eq!(values(form, &nothing, "utf8?"), ("null".to_owned(), "null".to_owned()));
    }
}

fn nested() -> RecordBatch {
    let site: ArrayRef = Arc::new(StringArray::from(vec!["north", "south", "gone"]));
    let inner = StructArray::new(
        Fields::from(vec![Field::new("site", ArrowType::Utf8, true)]),
        vec![site],
        Some(NullBuffer::from(vec![true, true, false])),
    );
    columns(vec![("n", Arc::new(Int64Array::from(vec![1, 2, 3]))), ("meta", Arc::new(inner))])
}

#[test]
fn a_path_leads_through_structs_and_what_is_missing_is_null_if_it_may_be() {
    for form in FORMS {
        let file = written(form, &form.write(&nested()));
        let (rows, letters) = file.read(&["site:utf8?@/meta/site", "n:int64", "more:utf8?"]).unwrap();
        let row = |site: &str, n: u64| format!("{{\"site\":{site},\"n\":{n},\"more\":null}}\n");
        assert_eq!(rows, row("\"north\"", 1) + &row("\"south\"", 2) + &row("null", 3));
        assert_eq!(letters, []);
        let (rows, letters) = file.read(&["site:utf8@/meta/site"]).unwrap();
        assert_eq!(rows.lines().count(), 2);
        assert_eq!((letters[0].offset, letters[0].reason.as_str()), (2, "field \"site\" is null"));
        assert_eq!(letters[0].record, br#"{"meta":{"site":null}}"#);
    }
}

#[test]
fn columns_that_do_not_fit_are_refused_with_what_is_there() {
    let cases = [
        ("x:int64", "field \"x\": there is no column \"x\" among n, meta"),
        ("n:int32", "field \"n\": Int64 does not become int32"),
        ("n:utf8", "field \"n\": Int64 does not become utf8"),
        ("n:uint64", "field \"n\": Int64 does not become uint64"),
        ("n:list[int64]", "field \"n\": Int64 does not become list[int64]"),
        ("a:utf8@/n/a", "field \"a\": its path leads into Int64, which has no fields"),
        ("a:utf8@/meta/b", "field \"a\": there is no column \"b\" among site"),
    ];
    for form in FORMS {
        let file = written(form, &form.write(&nested()));
        for (column, reason) in cases {
            let error = file.open(&[column]).err().unwrap();
            assert!(matches!(error, ConnectError::Columns { .. }) && error.is_configuration(), "{error:?}");
            let expected = format!("{} does not fit the fields: {reason}", file.path.display());
            assert_eq!(error.to_string(), expected, "{form:?}");
        }
    }
}

#[test]
fn a_row_that_does_not_fit_is_a_letter_with_its_number_that_the_decoder_of_json_reads_back() {
    let batch = columns(vec![
        ("n", Arc::new(UInt64Array::from(vec![Some(1), Some(u64::MAX), None, Some(4), Some(5), Some(6)]))),
        ("t", Arc::new(BinaryArray::from(vec![&b"a"[..], b"b", b"c", b"\xff", b"e", b"f"]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![0, 1, 2, 3, i64::MAX, 1_500]))),
        ("l", {
            let items = Int32Array::from(vec![Some(1), None, Some(3)]);
            list(&[0, 1, 1, 1, 1, 1, 3], Arc::new(items))
        }),
    ]);
    let declared = ["n:int64", "t:utf8", "at:timestamp[us]", "l:list[int64]"];
    let expected = [
        (1, "field \"n\": expected int64, got 18446744073709551615 (out of range)"),
        (2, "field \"n\" is null"),
        (3, "field \"t\": expected utf8, got \u{fffd} (not valid UTF-8)"),
        (4, "field \"at\": expected timestamp[us], got +292278994-08-17T07:12:55.807Z (out of range)"),
        (5, "field \"l\": expected list[int64], got [null,3] (with a null in it)"),
    ];
    for form in FORMS {
        let (rows, letters) = written(form, &form.write(&batch)).read(&declared).unwrap();
        assert_eq!(rows, "{\"n\":1,\"t\":\"a\",\"at\":\"1970-01-01T00:00:00.000000Z\",\"l\":[1]}\n");
        let found: Vec<(u64, &str)> = letters.iter().map(|letter| (letter.offset, letter.reason.as_str())).collect();
        assert_eq!(found, expected, "{form:?}");
        let last = r#"{"at":"1970-01-01T00:00:01.500Z","l":[null,3],"n":6,"t":"f"}"#;
        assert_eq!(String::from_utf8_lossy(&letters[4].record), last);
        // With a column that takes it, the record of a letter is the row.
        let again = [&letters[4].record[..], b"\n"].concat();
        let narrow = fields(&["n:int64", "at:timestamp[us]"]);
        let (rows, refused) = testing::decode(Format::Json, &narrow, &again, 1_000, 10, 1_000);
        assert_eq!((rows.as_str(), refused.len()), ("{\"n\":6,\"at\":\"1970-01-01T00:00:01.500000Z\"}\n", 0));
    }
}

/// A Parquet file with one column, without what Arrow makes of it.
fn parquet_of<T: data_type::DataType>(column: &str, values: &[T::T]) -> Vec<u8> {
    let schema = parse_message_type(&format!("message rows {{ required {column}; }}")).unwrap();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn text_that_is_none_costs_its_row_and_not_the_file() {
    let values = [&b"a"[..], b"\xff\xfe", b"c"].map(|bytes| bytes.to_vec().into());
    for column in ["binary t (UTF8)", "binary t (STRING)", "binary t (JSON)", "binary t"] {
        let file = written(Form::Parquet, &parquet_of::<ByteArrayType>(column, &values));
        let (rows, letters) = file.read(&["t:utf8"]).unwrap();
        assert_eq!(rows, "{\"t\":\"a\"}\n{\"t\":\"c\"}\n", "{column}");
        assert_eq!(letters[0].offset, 1);
        assert!(letters[0].reason.ends_with("(not valid UTF-8)"), "{}", letters[0].reason);
    }
    let texts: DictionaryArray<Int32Type> = ["a", "<~!~>", "c"].into_iter().collect();
    let plain: ArrayRef = Arc::new(StringArray::from(vec!["a", "<~!~>", "c"]));
    let views: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "<~!~>", "c"]));
    for array in [plain, views, Arc::new(texts)] {
        for form in [Form::Feather, Form::Stream] {
            let mut bytes = form.write(&columns(vec![("t", Arc::clone(&array))]));
            let at = bytes.windows(5).position(|bytes| bytes == b"<~!~>").unwrap();
            bytes[at + 2] = 0xff;
            let (rows, letters) = written(form, &bytes).read(&["t:utf8"]).unwrap();
            assert_eq!(rows, "{\"t\":\"a\"}\n{\"t\":\"c\"}\n", "{form:?} {}", array.data_type());
            assert_eq!(letters[0].offset, 1);
        }
    }
}

#[test]
fn a_time_of_96_bits_is_one_in_microseconds_and_none_is_wrapped() {
    let times = [(0, 2_440_588), (1_500_000, 2_440_588), (0, 5_373_484)].map(|(nanoseconds, day)| {
        let mut time = Int96::new();
        time.set_data(nanoseconds, 0, day);
        time
    });
    let file = written(Form::Parquet, &parquet_of::<Int96Type>("int96 t", &times));
    let (rows, letters) = file.read(&["t:timestamp[us]"]).unwrap();
    let row = |text: &str| format!("{{\"t\":\"{text}Z\"}}\n");
    let first = row("1970-01-01T00:00:00.000000") + &row("1970-01-01T00:00:00.001500");
    assert_eq!((rows, letters.len()), (first + &row("9999-12-31T00:00:00.000000"), 0));
    let (rows, letters) = file.read(&["t:timestamp[ns]"]).unwrap();
    assert_eq!((rows.lines().count(), letters[0].offset), (2, 2));
    assert!(letters[0].reason.ends_with("(out of range)"), "{}", letters[0].reason);
}

/// How many rows are decoded at first.
fn decoded_at_first(file: &Written, column: &str) -> usize {
    let mut parquet = ParquetFile::open(fs::File::open(&file.path).unwrap()).unwrap();
    let columns = Columns::bind(&fields(&[column]), parquet.schema().fields()).unwrap();
    parquet.choose(&columns).unwrap();
    parquet.next().unwrap().unwrap().num_rows()
}

#[test]
fn the_longer_rows_are_the_fewer_are_decoded_at_a_time() {
    let value = FixedLenByteArray::from(vec![b'x'; 400_000]);
    let bytes = parquet_of::<FixedLenByteArrayType>("fixed_len_byte_array(400000) b", &vec![value; 20]);
    let file = written(Form::Parquet, &bytes);
    assert_eq!(decoded_at_first(&file, "b:binary"), 2, "they are two in a dictionary of one value");
    let list = list(&[0, 40, 80, 120], Arc::new(Int32Array::from(vec![7; 120])));
    let file = written(Form::Parquet, &Form::Parquet.write(&columns(vec![("l", list)])));
    assert_eq!(decoded_at_first(&file, "l:list[int32]"), 2);
    assert_eq!(file.read(&["l:list[int32]"]).unwrap().0.lines().count(), 3);
}

#[test]
fn floats_that_no_number_of_json_stands_for_are_kept_in_a_letter() {
    let samples = Float32Array::from(vec![f32::NEG_INFINITY, 0.5]);
    let batch = columns(vec![
        ("n", Arc::new(Int64Array::from(vec![None, Some(1)]))),
        ("x", Arc::new(Float64Array::from(vec![f64::NAN, 1.0]))),
        ("l", list(&[0, 2, 2], Arc::new(samples))),
    ]);
    for form in FORMS {
        let (_, letters) =
            written(form, &form.write(&batch)).read(&["n:int64", "x:float64?", "l:list[float32]"]).unwrap();
        assert_eq!(String::from_utf8_lossy(&letters[0].record), r#"{"l":["-inf",0.5],"n":null,"x":"NaN"}"#);
    }
}

#[test]
fn dictionaries_do_not_grow_without_an_end() {
    let word = |length: usize| -> ArrayRef {
        let words: DictionaryArray<Int32Type> = ["x".repeat(length).as_str()].into_iter().collect();
        Arc::new(words)
    };
    let file =
        |length| written(Form::Stream, &Form::Stream.write(&columns(vec![("a", word(length)), ("b", word(length))])));
    assert_eq!(file(30_000).read(&["a:binary"]).unwrap().1, []);
    let error = file(40_000).read(&["a:binary"]).unwrap_err().to_string();
    assert!(error.contains("the dictionaries have more than"), "{error}");
}

#[test]
fn a_fifo_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let file = written(Form::Stream, &Form::Stream.write(&sample()));
    let mut partition = file.open(&SAMPLE).unwrap();
    let schema = file.spec(&SAMPLE).schema().unwrap();
    testing::read_all(&mut *partition, &schema, Format::Json, 4).unwrap();
    let position = serde_json::to_value(partition.position()).unwrap();
    fs::remove_file(&file.path).unwrap();
    nix::unistd::mkfifo(&file.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let resume = crate::Resume { name: file.path.to_str().unwrap(), position: &position, ended: false };
    let error = file.spec(&SAMPLE).open(1, &[], Some(&[resume])).err().unwrap().to_string();
    assert!(error.contains("it must be a regular file"), "{error}");
}

#[test]
fn a_row_larger_than_a_batch_is_a_letter_and_the_next_one_is_read() {
    let long = "x".repeat(100_000);
    let texts = StringArray::from(vec!["a", &long, "b"]);
    for form in FORMS {
        let file = written(form, &form.write(&columns(vec![("t", Arc::new(texts.clone()))])));
        let (rows, letters) = file.read(&["t:utf8"]).unwrap();
        assert_eq!(rows, "{\"t\":\"a\"}\n{\"t\":\"b\"}\n");
        assert_eq!(letters[0].offset, 1);
        assert!(letters[0].reason.contains("exceed the room of a whole batch"), "{}", letters[0].reason);
    }
}

/// A column of every kind. Parquet has no seconds.
fn all_columns() -> Vec<FieldSpec> {
    let mut all = all_kinds(Format::Json);
    let seconds = all.iter_mut().find(|field| field.name == "seconds").unwrap();
    seconds.data_type = "timestamp[ms]".parse().unwrap();
    all
}

/// What our own sinks write: an Arrow stream, and what becomes of it.
fn of_rows(rows: &[RandomRow]) -> RecordBatch {
    let schema = schema_of(&all_columns()).unwrap();
    let mut encoder = encoder(OutputFormat::Parquet(crate::Compression::None), &schema).unwrap();
    let mut bytes = Vec::new();
    encoder.begin(&schema, &mut bytes);
    encoder.encode(&batch_of(&schema, rows).view(), 0..rows.len(), &mut bytes);
    batches(&bytes).remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_file_goes_on_behind_any_row_with_the_rows_that_were_written(
        rows in prop::collection::vec(random_row(), 1..40),
        form in prop::sample::select(FORMS.to_vec()),
        polls in 0_usize..30,
        rows_max in 1_u32..9,
    ) {
        let fields = all_columns();
        let schema = schema_of(&fields).unwrap();
        let mut expected = Vec::new();
        let text = OutputFormat::from(Format::Json);
        encoder(text, &schema).unwrap().encode(&batch_of(&schema, &rows).view(), 0..rows.len(), &mut expected);
        let file = written(form, &form.write(&of_rows(&rows)));
        let spec = FileSpec { fields: fields.clone().into(), ..file.spec(&["x:int64"]) };
        let open = || spec.open(1, &[], None).unwrap().remove(0).1;
        let (mut first, mut letters) = (open(), Letters::default());
        let mut batch = testing::batch(&schema, 7, 100);
        let mut found = Vec::new();
        for _ in 0..polls {
            testing::poll(&mut *first, &mut batch, &mut letters, rows_max).unwrap();
            encoder(text, &schema).unwrap().encode(&batch.view(), 0..batch.rows() as usize, &mut found);
            batch.clear();
        }
        let position: Position = first.position();
        prop_assert_eq!(position.rows, position.offset);
        prop_assert_eq!(position.rows as usize, found.iter().filter(|byte| **byte == b'\n').count() + letters.taken.len());
        let mut second = open();
        second.seek(&position).unwrap();
        let mut rest = Vec::new();
        testing::drain(&mut *second, &schema, rows_max, &mut letters, |batch| {
            encoder(text, &schema).unwrap().encode(&batch.view(), 0..batch.rows() as usize, &mut rest);
        }).unwrap();
        found.extend(rest);
        if letters.taken.is_empty() {
            prop_assert_eq!(String::from_utf8(found).unwrap(), String::from_utf8(expected).unwrap());
        }
        prop_assert_eq!(second.position().offset, rows.len() as u64);
    }
}

fn sample() -> RecordBatch {
    let words: DictionaryArray<Int32Type> =
        (0..20).map(|row| Some(if row % 2 == 0 { "even" } else { "odd" })).collect();
    columns(vec![
        ("n", Arc::new(Int64Array::from_iter((0..20).map(|row| (row % 5 != 0).then_some(row))))),
        ("t", Arc::new(StringArray::from_iter_values((0..20).map(|row| format!("text {row}"))))),
        ("d", Arc::new(words)),
        ("l", list(&(0..=20).collect::<Vec<i32>>(), Arc::new(Float64Array::from(vec![0.5; 20])))),
    ])
}

const SAMPLE: [&str; 4] = ["n:int64?", "t:utf8", "d:utf8", "l:list[float64]"];

#[test]
fn a_file_that_was_cut_anywhere_says_so_and_gives_no_row_that_was_not_written() {
    for form in FORMS {
        let whole = form.write(&sample());
        let (rows, _) = written(form, &whole).read(&SAMPLE).unwrap();
        assert_eq!(rows.lines().count(), 20);
        let file = written(form, &whole);
        for length in 0..whole.len() {
            fs::write(&file.path, &whole[..length]).unwrap();
            match file.read(&SAMPLE) {
                Ok((found, letters)) => {
                    // A stream may end behind any of its messages.
                    assert!(
                        form == Form::Stream && rows.starts_with(&found) && letters.is_empty(),
                        "{form:?} {length}"
                    );
                }
                Err(error) => assert!(matches!(error, ConnectError::Damaged { .. }), "{form:?} {length}: {error}"),
            }
        }
    }
}

#[test]
fn whatever_byte_is_another_the_file_is_read_or_refused() {
    // Some decoders panic, which is caught; what they say of it is of no use here.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut wrong = Vec::new();
    for form in FORMS {
        let whole = form.write(&sample());
        let file = written(form, &whole);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= [0x01, 0x80, 0xff][at % 3];
            fs::write(&file.path, bytes).unwrap();
            match file.read(&SAMPLE) {
                Ok((rows, letters)) if rows.lines().count() + letters.len() <= 64 => {}
                Err(ConnectError::Damaged { .. } | ConnectError::Columns { .. }) => {}
                other => wrong.push((form, at, other.map(drop))),
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn lengths_that_nobody_has_are_not_believed() {
    let read = |form, bytes: &[u8]| written(form, bytes).read(&SAMPLE).unwrap_err().to_string();
    let stream = Form::Stream.write(&sample());
    let huge = [&stream[..4], &[0xff, 0xff, 0xff, 0x7f], &stream[8..]].concat();
    assert!(read(Form::Stream, &huge).contains("2147483647 bytes describe it, which are not there"));
    let parquet = Form::Parquet.write(&sample());
    let end = parquet.len() - 8;
    let huge = [&parquet[..end], &[0xff, 0xff, 0xff, 0x0f], b"PAR1"].concat();
    assert!(read(Form::Parquet, &huge).contains("its metadata has 268435455 bytes, which are not there"));
    assert!(read(Form::Parquet, b"PK\x03\x04 something else").contains("it is not a Parquet file"));
    assert!(read(Form::Stream, b"{\"n\":1}\n{\"n\":2}\n").contains("message at byte 0"));
    assert!(read(Form::Stream, b"").contains("it has nothing in it"));
    // The first compressed buffer says that it becomes 4 EiB.
    let lz4 = Form::Lz4.write(&sample());
    let frame = lz4.windows(4).position(|bytes| bytes == [0x04, 0x22, 0x4d, 0x18]).unwrap();
    let mut bomb = lz4.clone();
    bomb[frame - 8..frame].copy_from_slice(&(1_i64 << 62).to_le_bytes());
    assert!(read(Form::Lz4, &bomb).contains("at most 1 GiB is read at a time"), "{}", read(Form::Lz4, &bomb));
}

#[test]
fn a_stream_that_has_grown_is_read_on() {
    let whole = Form::Stream.write(&sample());
    // Without the end that says that nothing follows.
    let open_end = &whole[..whole.len() - 8];
    let (rows, _) = written(Form::Stream, open_end).read(&SAMPLE).unwrap();
    assert_eq!(rows.lines().count(), 20);
    let file = written(Form::Stream, open_end);
    let spec = file.spec(&SAMPLE);
    let schema = spec.schema().unwrap();
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    testing::read_all(&mut *partition, &schema, Format::Json, 4).unwrap();
    let position = serde_json::to_value(partition.position()).unwrap();
    let last = batches(&whole).pop().unwrap();
    let mut more = Vec::new();
    let mut writer = StreamWriter::try_new(&mut more, &last.schema()).unwrap();
    let header = writer.get_ref().len();
    writer.write(&last).unwrap();
    let appended = writer.get_ref()[header..].to_vec();
    drop(writer);
    // The dictionary comes first, as it does in what is there.
    fs::write(&file.path, [open_end, &appended].concat()).unwrap();
    let name = file.path.to_str().unwrap();
    let resume = crate::Resume { name, position: &position, ended: true };
    let mut partition = spec.open(1, &[], Some(&[resume])).unwrap().remove(0).1;
    let (rows, _) = testing::read_all(&mut *partition, &schema, Format::Json, 4).unwrap();
    assert_eq!(rows.lines().count(), last.num_rows());
    fs::write(&file.path, Form::Stream.write(&nested())).unwrap();
    let error = spec.open(1, &[], Some(&[resume])).err().unwrap().to_string();
    assert!(error.contains("cannot continue from the checkpoint"), "{error}");
}
