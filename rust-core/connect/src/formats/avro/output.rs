//! What a sink's messages of Avro are: the schema, and what stands before a datum.

use std::{fmt::Write, ops::Range};

use ringmill_wire::{BatchView, DataType, ListItem, Schema, TimeUnit};

use super::{AvroSchema, AvroSpec, encoder::AvroEncoder, reader::MARKER};
use crate::{
    ConnectError, Encoder,
    formats::{FieldMisfit, schema_number::SchemaNumber},
};

/// How a sink's rows become messages of Avro, each one datum.
#[derive(Debug, Clone, PartialEq)]
pub struct AvroOutput {
    /// what they are, and by which schema they are written; without one, by one that is made of the rows' columns
    pub spec: AvroSpec,
    /// under which the schema stands in a registry
    pub subject: String,
    number: SchemaNumber,
}

impl AvroOutput {
    /// For this subject, if there is a registry.
    pub fn new(spec: AvroSpec, subject: String) -> AvroOutput {
        AvroOutput { spec, subject, number: SchemaNumber::default() }
    }

    /// The schema of the messages.
    fn schema(&self, rows: &Schema) -> Result<AvroSchema, ConnectError> {
        match &self.spec {
            AvroSpec::Datum(schema) | AvroSpec::SingleObject(schema) | AvroSpec::Registry(_, Some(schema)) => {
                Ok(schema.clone())
            }
            AvroSpec::Registry(_, None) => {
                let misfit = |reason| ConnectError::Misfit { misfits: vec![FieldMisfit::of_schema(reason)] };
                AvroSchema::parse(&schema_of_rows(rows)?).map_err(misfit)
            }
        }
    }

    /// What makes messages of rows; refused if they do not fit the schema. With a registry it is used behind
    /// [`register`](Self::register).
    pub(crate) fn encoder(&self, rows: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        let schema = self.schema(rows)?;
        let datums = AvroEncoder::new(&schema, rows).map_err(|misfits| ConnectError::Misfit { misfits })?;
        let prefix = match &self.spec {
            AvroSpec::Datum(_) => Prefix::Bytes(Vec::new()),
            AvroSpec::SingleObject(schema) => Prefix::Bytes([&MARKER[..], &schema.fingerprint()].concat()),
            AvroSpec::Registry(..) => Prefix::Number(self.number.clone()),
        };
        Ok(Box::new(MessageDatums { datums, prefix }))
    }

    /// Tells the registry the schema, if there is one, and learns its number.
    pub(crate) fn register(&self, rows: &Schema) -> Result<(), ConnectError> {
        let AvroSpec::Registry(registry, _) = &self.spec else { return Ok(()) };
        self.number.register(registry, "AVRO", &self.subject, self.schema(rows)?.text())
    }
}

/// What stands before a datum.
enum Prefix {
    Bytes(Vec<u8>),
    /// the number of its schema
    Number(SchemaNumber),
}

struct MessageDatums {
    datums: AvroEncoder,
    prefix: Prefix,
}

impl Encoder for MessageDatums {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        self.datums.check(view, rows)
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            match &self.prefix {
                Prefix::Bytes(bytes) => out.extend_from_slice(bytes),
                Prefix::Number(number) => number.write(out),
            }
            self.datums.write(view, row, out);
        }
    }
}

/// A schema that has these columns as they are.
pub(super) fn schema_of_rows(rows: &Schema) -> Result<String, ConnectError> {
    let mut text = r#"{"type":"record","name":"Row","fields":["#.to_owned();
    for (index, field) in rows.fields.iter().enumerate() {
        let name = &field.name;
        let is_name =
            |(at, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || at > 0 && byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().enumerate().all(is_name) {
            let reason = "no field of Avro can have this name: letters, digits and _ are allowed".to_owned();
            return Err(ConnectError::Misfit { misfits: vec![FieldMisfit::new(name, reason)] });
        }
        let comma = if index > 0 { "," } else { "" };
        let own = type_of(field.data_type);
        let _ = match field.nullable {
            true => write!(text, r#"{comma}{{"name":"{name}","type":["null",{own}],"default":null}}"#),
            false => write!(text, r#"{comma}{{"name":"{name}","type":{own}}}"#),
        };
    }
    text.push_str("]}");
    Ok(text)
}

fn type_of(data_type: DataType) -> String {
    use DataType as T;
    let name = match data_type {
        T::Bool => "boolean",
        T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16 => "int",
        T::Int64 | T::UInt32 | T::UInt64 => "long",
        T::Float32 => "float",
        T::Float64 => "double",
        T::Utf8 => "string",
        T::Binary => "bytes",
        T::Timestamp(unit) => {
            let logical = match unit {
                TimeUnit::Second | TimeUnit::Millisecond => "millis",
                TimeUnit::Microsecond => "micros",
                TimeUnit::Nanosecond => "nanos",
            };
            return format!(r#"{{"type":"long","logicalType":"timestamp-{logical}"}}"#);
        }
        T::List(item) => return format!(r#"{{"type":"array","items":{}}}"#, item_type(item)),
    };
    format!("\"{name}\"")
}

fn item_type(item: ListItem) -> String {
    type_of(item.data_type())
}
