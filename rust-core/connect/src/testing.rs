//! What the tests of this crate share: polling a partition to its end.

#[cfg(feature = "http")]
pub(crate) mod http_sink;
pub(crate) mod messages;
pub(crate) mod rows;
#[cfg(feature = "http")]
pub(crate) mod server;

use std::sync::Arc;

use proptest::prelude::*;
use ringmill_wire::{BatchView, Capacity, DataType, HeapBatch, Schema, Template};

use crate::{
    Checksum, ConnectError, DeadLetter, DeadLetters, EventTypes, FieldSpec, Fields, Format, GeneratorSpec,
    OutputFormat, Partition, Poll, PollContext, encoder,
    formats::{Decoder, Records, Scratch, Stop},
    schema_of,
};
#[cfg(feature = "http")]
use crate::{HttpBody, HttpMethod, HttpSink, OnRefused, Secret};

/// A dead letter, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub partition: String,
    pub offset: u64,
    pub reason: String,
    pub record: Vec<u8>,
    pub header: Option<String>,
}

/// Takes `room` letters.
#[derive(Debug)]
pub(crate) struct Letters {
    pub taken: Vec<Letter>,
    pub room: usize,
}

impl Default for Letters {
    fn default() -> Letters {
        Letters { taken: Vec::new(), room: usize::MAX }
    }
}

impl DeadLetters for Letters {
    fn has_room(&self) -> bool {
        self.taken.len() < self.room
    }

    fn push(&mut self, letter: &DeadLetter<'_>) {
        assert!(self.has_room(), "pushed without room");
        self.taken.push(Letter {
            partition: letter.partition.to_owned(),
            offset: letter.offset,
            reason: letter.reason.to_owned(),
            record: letter.record.to_vec(),
            header: letter.header.map(str::to_owned),
        });
    }
}

pub(crate) fn batch(schema: &Arc<Schema>, rows_max: u32, variable_bytes_max: u32) -> HeapBatch {
    let capacity = Capacity { rows_max, variable_bytes_max };
    HeapBatch::new(Arc::new(Template::new(Arc::clone(schema), capacity).unwrap()))
}

/// A batch as another program sends it, behind its length.
pub(crate) fn micro_batch(batch: &mut HeapBatch) -> Vec<u8> {
    let buffer = batch.flatbuffer();
    [&(buffer.len() as u32).to_le_bytes()[..], buffer].concat()
}

/// The same of rows of the column `x`.
pub(crate) fn micro_batch_of(numbers: impl IntoIterator<Item = i64>) -> Vec<u8> {
    let mut batch = batch(&schema_of(&fields(&["x:int64"])).unwrap(), 100, 0);
    for number in numbers {
        batch.writer().push(0, number);
        batch.writer().finish_row();
    }
    micro_batch(&mut batch)
}

/// One poll into `batch`.
pub(crate) fn poll(
    partition: &mut dyn Partition,
    batch: &mut HeapBatch,
    letters: &mut Letters,
    rows_max: u32,
) -> Result<Poll, ConnectError> {
    let mut context = PollContext { now_ns: 0, event_time: None, event_time_max_ns: i64::MAX, dead: letters, rows_max };
    partition.poll(batch.writer(), &mut context)
}

/// Polls until the end; every batch goes to `each`.
pub(crate) fn drain(
    partition: &mut dyn Partition,
    schema: &Arc<Schema>,
    rows_max: u32,
    letters: &mut Letters,
    each: impl FnMut(&HeapBatch),
) -> Result<(), ConnectError> {
    drain_by(partition, (batch(schema, rows_max, 1 << 16), rows_max), letters, each)
}

/// The same with a batch of this many rows.
pub(crate) fn drain_by(
    partition: &mut dyn Partition,
    (mut batch, rows_max): (HeapBatch, u32),
    letters: &mut Letters,
    mut each: impl FnMut(&HeapBatch),
) -> Result<(), ConnectError> {
    loop {
        let poll = poll(partition, &mut batch, letters, rows_max)?;
        if poll != Poll::Rows {
            each(&batch);
            batch.clear();
        }
        match poll {
            Poll::End => return Ok(()),
            Poll::Until(_) => panic!("not due"),
            Poll::Idle => std::thread::yield_now(),
            Poll::Rows | Poll::Full => {}
        }
    }
}

/// Everything a partition has, as text, and its dead letters.
pub(crate) fn read_all(
    partition: &mut dyn Partition,
    schema: &Arc<Schema>,
    format: Format,
    rows_max: u32,
) -> Result<(String, Vec<Letter>), ConnectError> {
    let mut letters = Letters::default();
    let mut encoder = encoder(format, schema)?;
    let mut out = Vec::new();
    drain(partition, schema, rows_max, &mut letters, |batch| {
        encoder.encode(&batch.view(), 0..batch.rows() as usize, &mut out);
    })?;
    Ok((String::from_utf8(out).unwrap(), letters.taken))
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn checksum(spec: &GeneratorSpec, shards: usize, rows_max: u32) -> Checksum {
    let schema = spec.schema().unwrap();
    let mut sum = Checksum::new();
    for (_, mut partition) in spec.open(shards, &[], None).unwrap() {
        let mut own = Checksum::new();
        drain(&mut *partition, &schema, rows_max, &mut Letters::default(), |batch| {
            own.update(&batch.view(), 0..batch.rows() as usize);
        })
        .unwrap();
        sum.merge(&own);
    }
    sum
}

/// Decodes `bytes`, shown to the decoder `chunk` bytes at a time, into batches of `rows_max` rows: the rows as NDJSON,
/// and the dead letters.
pub(crate) fn decode(
    format: Format,
    fields: &[FieldSpec],
    bytes: &[u8],
    chunk: usize,
    rows_max: u32,
    record_bytes_max: usize,
) -> (String, Vec<Letter>) {
    let decoder = Decoder::new(format, &fields.to_vec().into(), record_bytes_max).unwrap();
    decode_by(decoder, fields, bytes, chunk, rows_max)
}

/// The same by a decoder that is made.
pub(crate) fn decode_by(
    decoder: Decoder,
    fields: &[FieldSpec],
    bytes: &[u8],
    chunk: usize,
    rows_max: u32,
) -> (String, Vec<Letter>) {
    let mut encoder = encoder(Format::Json, &schema_of(fields).unwrap()).unwrap();
    let mut out = Vec::new();
    let letters = decode_each(decoder, fields, bytes, chunk, rows_max, |view| {
        encoder.encode(view, 0..view.rows(), &mut out);
    });
    (String::from_utf8(out).unwrap(), letters)
}

/// Decodes events of several types, told by the header if not by themselves: the rows of each type as NDJSON, and the
/// dead letters.
pub(crate) fn decode_typed(
    fields: &Fields,
    header: &str,
    bytes: &[u8],
    chunk: usize,
    record_bytes_max: usize,
) -> (Vec<String>, Vec<Letter>) {
    let types = fields.types().unwrap();
    let mut decoder = Decoder::new(Format::Json, fields, record_bytes_max).unwrap();
    decoder.set_type(header.as_bytes());
    let mut rows = vec![Vec::new(); types.types().len()];
    let letters = decode_each(decoder, fields, bytes, chunk, 64, |view| {
        for (number, event_type) in types.types().iter().enumerate() {
            let numbers = view.column(EventTypes::NUMBER).values::<u16>();
            let own: Vec<u32> =
                (0..view.rows() as u32).filter(|row| usize::from(numbers[*row as usize]) == number).collect();
            let schema = schema_of(&event_type.fields).unwrap();
            let mut batch = batch(&schema, 64, 1 << 12);
            assert_eq!(batch.writer().copy_selected_columns(view, types.columns(number), &own), own.len());
            let mut encoder = encoder(Format::Json, &schema).unwrap();
            encoder.encode(&batch.view(), 0..own.len(), &mut rows[number]);
        }
    });
    (rows.into_iter().map(|rows| String::from_utf8(rows).unwrap()).collect(), letters)
}

/// Why no decoder can be made for these types.
pub(crate) fn typed_refusal(fields: &Fields) -> String {
    Decoder::new(Format::Json, fields, 100).unwrap_err().to_string()
}

/// Shows bytes to a decoder, with the batches for `each`.
fn decode_each(
    mut decoder: Decoder,
    fields: &[FieldSpec],
    bytes: &[u8],
    chunk: usize,
    rows_max: u32,
    mut each: impl FnMut(&BatchView<'_>),
) -> Vec<Letter> {
    let schema = schema_of(fields).unwrap();
    let mut batch = batch(&schema, rows_max, 1 << 12);
    let mut letters = Letters::default();
    let mut scratch = Scratch::default();
    let (mut start, mut end) = (0, 0);
    loop {
        let at_end = end == bytes.len();
        if decoder.needs_header() {
            match decoder.take_header(&bytes[..end], at_end, "test").unwrap() {
                Some(length) => start = length,
                None => {
                    end = end.saturating_add(chunk).min(bytes.len());
                    continue;
                }
            }
        }
        let mut context = PollContext {
            now_ns: 0,
            event_time: None,
            event_time_max_ns: i64::MAX,
            dead: &mut letters,
            rows_max: 1000,
        };
        let out_of = batch.writer();
        let mut records = Records::new(out_of, &mut context, "test", fields, &mut scratch, 1000);
        records.offset = start as u64;
        let progress = decoder.decode(&bytes[start..end], at_end, &mut records);
        start += progress.consumed;
        if progress.stop == Stop::NeedMore && !at_end {
            end = end.saturating_add(chunk).min(bytes.len());
            continue;
        }
        each(&batch.view());
        batch.clear();
        if progress.stop == Stop::NeedMore {
            assert_eq!(start, end, "something was left over");
            return letters.taken;
        }
    }
}

/// `name:type`, `name:type?` for a nullable one, `name:type@/path`.
pub(crate) fn fields(specs: &[&str]) -> Vec<FieldSpec> {
    let field = |spec: &&str| {
        let (spec, path) = match spec.split_once('@') {
            Some((spec, path)) => (spec, Some(path.to_owned())),
            None => (*spec, None),
        };
        let (name, data_type) = spec.split_once(':').unwrap();
        FieldSpec {
            name: name.to_owned(),
            data_type: data_type.trim_end_matches('?').parse::<DataType>().unwrap(),
            nullable: data_type.ends_with('?'),
            path,
        }
    };
    specs.iter().map(field).collect()
}

/// A column of every kind, nullable, the list last.
pub(crate) fn all_kinds(format: Format) -> Vec<FieldSpec> {
    let all = fields(&[
        "bool:bool?",
        "int8:int8?",
        "int16:int16?",
        "int32:int32?",
        "int64:int64?",
        "uint8:uint8?",
        "uint16:uint16?",
        "uint32:uint32?",
        "uint64:uint64?",
        "float32:float32?",
        "float64:float64?",
        "text \"quoted\":utf8?",
        "binary:binary?",
        "seconds:timestamp[s]?",
        "nanoseconds:timestamp[ns]?",
        "list:list[float32]?",
    ]);
    let count = if format == Format::Csv { 15 } else { 16 };
    all.into_iter().take(count).collect()
}

/// What the columns of a row are made of, and which are null.
#[derive(Debug, Clone)]
pub(crate) struct RandomRow {
    bits: u64,
    text: String,
    binary: Vec<u8>,
    list: Vec<f32>,
    nulls: u16,
}

pub(crate) fn random_row() -> impl Strategy<Value = RandomRow> {
    let text = prop_oneof![any::<String>(), "[ -~\r\n\t\"]{0,20}"];
    let list = proptest::collection::vec(-1e30_f32..1e30, 0..5);
    let binary = proptest::collection::vec(any::<u8>(), 0..20);
    let nulls = prop_oneof![Just(0), any::<u16>()];
    (any::<u64>(), text, binary, list, nulls).prop_map(|(bits, text, binary, list, nulls)| RandomRow {
        bits,
        text,
        binary,
        list,
        nulls,
    })
}

/// These rows as a batch of the columns of [`all_kinds`]. Floats are finite; empty text and bytes are null.
pub(crate) fn batch_of(schema: &Arc<Schema>, rows: &[RandomRow]) -> HeapBatch {
    let mut batch = batch(schema, rows.len() as u32, 1 << 14);
    let out = batch.writer();
    for row in rows {
        let bits = row.bits;
        let double = f64::from_bits(bits);
        let single = f32::from_bits(bits as u32);
        for column in 0..schema.len() {
            let empty = (column == 11 && row.text.is_empty()) || (column == 12 && row.binary.is_empty());
            if row.nulls >> column & 1 == 1 || empty {
                out.push_null(column);
                continue;
            }
            match column {
                0 => out.push(column, bits & 1 == 1),
                1 => out.push(column, bits as i8),
                2 => out.push(column, bits as i16),
                3 => out.push(column, bits as i32),
                4 => out.push(column, bits as i64),
                5 => out.push(column, bits as u8),
                6 => out.push(column, bits as u16),
                7 => out.push(column, bits as u32),
                8 => out.push(column, bits),
                9 => out.push(column, if single.is_finite() { single } else { 0.1 }),
                10 => out.push(column, if double.is_finite() { double } else { -0.1 }),
                11 => out.push_bytes(column, row.text.as_bytes()).unwrap(),
                12 => out.push_bytes(column, &row.binary).unwrap(),
                13 => out.push_timestamp(column, (bits >> 32) as i64 - (1 << 31)),
                14 => out.push_timestamp(column, bits as i64),
                _ => {
                    let items: Vec<u8> = row.list.iter().flat_map(|item| item.to_le_bytes()).collect();
                    out.push_list(column, &items).unwrap();
                }
            }
        }
        out.finish_row();
    }
    batch
}

/// Encodes these rows and reads them back: nothing may be lost. Returns the text.
pub(crate) fn round_trip(format: Format, rows: &[RandomRow]) -> String {
    let fields = all_kinds(format);
    let schema = schema_of(&fields).unwrap();
    let batch = batch_of(&schema, rows);
    let mut text = Vec::new();
    let mut encoder = encoder(format, &schema).unwrap();
    encoder.begin(&schema, &mut text);
    encoder.encode(&batch.view(), 0..rows.len(), &mut text);
    let mut before = Checksum::new();
    before.update(&batch.view(), 0..rows.len());
    let mut after = Checksum::new();
    let decoder = Decoder::new(format, &fields.clone().into(), 1 << 20).unwrap();
    let letters = decode_each(decoder, &fields, &text, 100, 7, |view| {
        after.update(view, 0..view.rows());
    });
    assert_eq!(letters, []);
    assert_eq!(after, before, "{}", String::from_utf8_lossy(&text));
    String::from_utf8(text).unwrap()
}
