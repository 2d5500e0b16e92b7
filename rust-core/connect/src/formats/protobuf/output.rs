//! What a sink's messages of Protobuf are: their type, and what stands before each.

use std::{collections::BTreeMap, fmt::Write, ops::Range};

use ringmill_wire::{BatchView, DataType, Schema};

#[cfg(feature = "http")]
use super::source::Indexes;
use super::{ProtobufSchema, ProtobufTypes, encoder::ProtobufEncoder};
use crate::{
    ConnectError, Encoder,
    formats::{FieldMisfit, RegistrySpec, schema_number::SchemaNumber},
};

/// How a sink's rows become messages of Protobuf.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtobufOutput {
    /// their type, and what stands before them
    pub target: ProtobufTarget,
    /// where columns are written that are not fields of their own name: JSON pointers through messages within messages, by
    /// the columns' names
    pub paths: BTreeMap<String, String>,
    number: SchemaNumber,
}

/// What messages are.
#[derive(Debug, Clone, PartialEq)]
pub enum ProtobufTarget {
    /// a message of this type and nothing else
    Plain(ProtobufSchema),
    /// in the wire format of Confluent's schema registry: 00, the schema's number there, which of its types it is, a message
    Registry {
        /// where it is
        registry: RegistrySpec,
        /// under which the schema stands there
        subject: String,
        /// the type, of a `.proto` file that was read as text; one that is made of the rows' columns if absent
        schema: Option<ProtobufSchema>,
    },
}

impl ProtobufOutput {
    /// With the columns at these paths.
    pub fn new(target: ProtobufTarget, paths: BTreeMap<String, String>) -> ProtobufOutput {
        ProtobufOutput { target, paths, number: SchemaNumber::default() }
    }

    /// The type of the messages.
    fn schema(&self, rows: &Schema) -> Result<ProtobufSchema, ConnectError> {
        match &self.target {
            ProtobufTarget::Plain(schema) | ProtobufTarget::Registry { schema: Some(schema), .. } => Ok(schema.clone()),
            ProtobufTarget::Registry { schema: None, .. } => {
                let misfit = |reason| ConnectError::Misfit { misfits: vec![FieldMisfit::of_schema(reason)] };
                let types = ProtobufTypes::parse_text(&text_of_rows(rows)?).map_err(misfit)?;
                types.message(ROW).ok_or_else(|| misfit(format!("it has no message {ROW}")))
            }
        }
    }

    /// What makes messages of rows; refused if they do not fit the type. With a registry it is used behind
    /// [`register`](Self::register).
    pub(crate) fn encoder(&self, rows: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        let schema = self.schema(rows)?;
        let prefix = match &self.target {
            ProtobufTarget::Plain(_) => None,
            #[cfg(feature = "http")]
            ProtobufTarget::Registry { .. } => Some((self.number.clone(), Indexes::of(schema.message()).bytes())),
            #[cfg(not(feature = "http"))]
            ProtobufTarget::Registry { .. } => return Err(ConnectError::Feature("http")),
        };
        let messages = ProtobufEncoder::new(schema.message(), rows, &self.paths)?;
        Ok(Box::new(Messages { messages, prefix }))
    }

    /// Tells the registry the schema, if there is one, and learns its number.
    pub(crate) fn register(&self, rows: &Schema) -> Result<(), ConnectError> {
        let ProtobufTarget::Registry { registry, subject, .. } = &self.target else { return Ok(()) };
        self.number.register(registry, "PROTOBUF", subject, &self.schema(rows)?.text())
    }
}

struct Messages {
    messages: ProtobufEncoder,
    /// the number of the schema, and where in it the type stands
    prefix: Option<(SchemaNumber, Vec<u8>)>,
}

impl Encoder for Messages {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        self.messages.check(view, rows)
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            if let Some((number, indexes)) = &self.prefix {
                number.write(out);
                out.extend_from_slice(indexes);
            }
            self.messages.write(view, row, out);
        }
    }
}

/// The message of [`text_of_rows`].
const ROW: &str = "Row";

/// The text of a file with a message that has these columns as they are, numbered from 1 on.
pub(super) fn text_of_rows(rows: &Schema) -> Result<String, ConnectError> {
    let mut text = "syntax = \"proto3\";\n".to_owned();
    if rows.fields.iter().any(|field| matches!(field.data_type, DataType::Timestamp(_))) {
        text.push_str("import \"google/protobuf/timestamp.proto\";\n");
    }
    let _ = writeln!(text, "message {ROW} {{");
    for (index, field) in rows.fields.iter().enumerate() {
        let name = &field.name;
        let is_letter = |byte: u8| byte == b'_' || byte.is_ascii_alphabetic();
        let is_name = |(at, byte): (usize, u8)| is_letter(byte) || at > 0 && byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().enumerate().all(is_name) {
            let reason = "no field of Protobuf can have this name: letters, digits and _ are allowed".to_owned();
            return Err(ConnectError::Misfit { misfits: vec![FieldMisfit::new(name, reason)] });
        }
        let kind = match field.data_type {
            DataType::List(item) => format!("repeated {}", type_of(item.data_type(), "int64")),
            own if field.nullable => format!("optional {}", type_of(own, TIMESTAMP)),
            own => type_of(own, TIMESTAMP).to_owned(),
        };
        let _ = writeln!(text, "  {kind} {name} = {};", index + 1);
    }
    text.push_str("}\n");
    Ok(text)
}

const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// The type of a field for such a column, of which instants become `instant`.
fn type_of(data_type: DataType, instant: &'static str) -> &'static str {
    use DataType as T;
    match data_type {
        T::Bool => "bool",
        T::Int8 | T::Int16 | T::Int32 => "int32",
        T::Int64 => "int64",
        T::UInt8 | T::UInt16 | T::UInt32 => "uint32",
        T::UInt64 => "uint64",
        T::Float32 => "float",
        T::Float64 => "double",
        T::Utf8 => "string",
        // Lists lie in no lists.
        T::Binary | T::List(_) => "bytes",
        T::Timestamp(_) => instant,
    }
}
