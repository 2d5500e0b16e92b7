//! Rows as bodies of requests, in every form that a source takes.

use std::fmt::Write as _;
use std::sync::Arc;

use apache_avro::types::Value;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template};

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON, a row a line.
    Lines,
    /// A JSON array.
    Array,
    /// An IPC stream, its buffers compressed.
    Arrow,
    /// A container, its blocks compressed.
    Avro,
    /// Several of Ringmill's own, as they lie in a slot.
    MicroBatches,
}

const SCHEMA: &str = r#"{"type": "record", "name": "Row", "fields": [
    {"name": "sender", "type": "long"}, {"name": "request", "type": "long"}, {"name": "row", "type": "long"}]}"#;

impl Form {
    /// All of them.
    pub const ALL: [Form; 5] = [Form::Lines, Form::Array, Form::Arrow, Form::Avro, Form::MicroBatches];

    /// The line of a request's head that says so.
    pub fn header(self) -> &'static str {
        match self {
            Form::Lines => "",
            Form::Array => "content-type: application/json\r\n",
            Form::Arrow => "content-type: application/vnd.apache.arrow.stream\r\n",
            Form::Avro => "content-type: application/avro\r\n",
            Form::MicroBatches => "content-type: application/vnd.ringmill.micro-batch\r\n",
        }
    }

    /// So many rows with the columns `sender`, `request` and `row`, which counts from 0.
    pub fn body(self, sender: u64, request: u64, rows: u64) -> Vec<u8> {
        match self {
            Form::Lines => objects(sender, request, rows, ["", "\n", "\n"]),
            Form::Array => objects(sender, request, rows, ["[", ",\n", "]"]),
            Form::Arrow => arrow(sender, request, rows),
            Form::Avro => avro(sender, request, rows),
            Form::MicroBatches => micro_batches(sender, request, rows),
        }
    }
}

fn objects(sender: u64, request: u64, rows: u64, [before, between, behind]: [&str; 3]) -> Vec<u8> {
    let mut text = before.to_owned();
    for row in 0..rows {
        let end = if row + 1 < rows { between } else { behind };
        write!(text, "{{\"sender\":{sender},\"request\":{request},\"row\":{row}}}{end}").expect("text grows");
    }
    text.into_bytes()
}

fn arrow(sender: u64, request: u64, rows: u64) -> Vec<u8> {
    let column = |value: &dyn Fn(u64) -> u64| -> ArrayRef {
        Arc::new((0..rows).map(|row| value(row) as i64).collect::<Int64Array>())
    };
    let columns = [("sender", column(&|_| sender)), ("request", column(&|_| request)), ("row", column(&|row| row))];
    let batch = RecordBatch::try_from_iter(columns).expect("the columns are equally long");
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD));
    let writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options.expect("it is one"));
    let mut writer = writer.expect("memory");
    // Several batches.
    for from in (0..batch.num_rows()).step_by(1_000) {
        writer.write(&batch.slice(from, 1_000.min(batch.num_rows() - from))).expect("memory");
    }
    writer.into_inner().expect("memory")
}

fn avro(sender: u64, request: u64, rows: u64) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(SCHEMA).expect("it is one");
    let codec = apache_avro::Codec::Deflate(apache_avro::DeflateSettings::default());
    let writer = apache_avro::Writer::builder().schema(&schema).writer(Vec::new()).codec(codec).build();
    let mut writer = writer.expect("memory");
    for row in 0..rows {
        let fields = [("sender", sender), ("request", request), ("row", row)];
        let fields = fields.map(|(name, value)| (name.to_owned(), Value::Long(value as i64)));
        writer.append_value(Value::Record(fields.into())).expect("it is of the schema");
    }
    writer.into_inner().expect("memory")
}

fn micro_batches(sender: u64, request: u64, rows: u64) -> Vec<u8> {
    let schema = Schema::new(["sender", "request", "row"].map(|name| Field::new(name, DataType::Int64)).to_vec());
    let capacity = Capacity { rows_max: 1_000, variable_bytes_max: 0 };
    let template = Template::new(Arc::new(schema.expect("three names")), capacity).expect("it is small");
    let (mut batch, mut body) = (HeapBatch::new(Arc::new(template)), Vec::new());
    for from in (0..rows).step_by(1_000) {
        batch.clear();
        for row in from..rows.min(from + 1_000) {
            [sender, request, row]
                .iter()
                .enumerate()
                .for_each(|(column, value)| batch.writer().push(column, *value as i64));
            batch.writer().finish_row();
        }
        let buffer = batch.flatbuffer();
        body.extend_from_slice(&(buffer.len() as u32).to_le_bytes());
        body.extend_from_slice(buffer);
    }
    body
}
