//! Schemas.

use std::{fmt, path::Path, sync::Arc};

use apache_avro::{
    rabin::Rabin,
    schema::{Schema, UuidSchema},
};

/// A schema of Avro, by which messages were written.
#[derive(Clone)]
pub struct AvroSchema {
    text: String,
    parsed: Arc<Schema>,
    /// from which it takes names
    others: Arc<[Schema]>,
}

impl AvroSchema {
    /// Reads the JSON of an `.avsc` file; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<AvroSchema, String> {
        let parsed = Schema::parse_str(text).map_err(|error| error.to_string())?;
        Ok(AvroSchema { text: text.to_owned(), parsed: Arc::new(parsed), others: Arc::default() })
    }

    /// Reads a schema that takes names from others, each of which stands behind those that it needs.
    #[cfg(feature = "http")]
    pub(super) fn parse_with(text: &str, others: &[String]) -> Result<AvroSchema, String> {
        let (parsed, others) = Schema::parse_str_with_list(text, others).map_err(|error| error.to_string())?;
        Ok(AvroSchema { text: text.to_owned(), parsed: Arc::new(parsed), others: others.into() })
    }

    /// Reads such a file.
    pub fn read(path: &Path) -> Result<AvroSchema, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        AvroSchema::parse(&text)
    }

    /// As it was written down.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn parsed(&self) -> &Schema {
        &self.parsed
    }

    /// With those from which it takes names before it.
    pub(super) fn all(&self) -> Vec<&Schema> {
        self.others.iter().chain([&*self.parsed]).collect()
    }

    /// Its name with its namespace; what people call it, if it has none.
    #[cfg(feature = "http")]
    pub(super) fn full_name(&self) -> String {
        self.parsed.name().map_or_else(|| name_of(&self.parsed), ToString::to_string)
    }

    /// By what the single-object encoding knows it: CRC-64-AVRO of its canonical form, little-endian.
    pub(super) fn fingerprint(&self) -> [u8; 8] {
        let bytes = self.parsed.fingerprint::<Rabin>().bytes;
        bytes.try_into().unwrap_or_default()
    }
}

impl PartialEq for AvroSchema {
    fn eq(&self, other: &AvroSchema) -> bool {
        self.text == other.text && self.others == other.others
    }
}

impl fmt::Debug for AvroSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AvroSchema").field(&self.text).finish()
    }
}

/// What people call a schema.
pub(super) fn name_of(schema: &Schema) -> String {
    let name = match schema {
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int => "int",
        Schema::Long => "long",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::Bytes => "bytes",
        Schema::String => "string",
        Schema::Array(array) => return format!("an array of {}", name_of(&array.items)),
        Schema::Map(map) => return format!("a map of {}", name_of(&map.types)),
        Schema::Union(_) => "a union",
        Schema::Record(record) => return format!("the record {}", record.name.name()),
        Schema::Enum(symbols) => return format!("the enum {}", symbols.name.name()),
        Schema::Fixed(fixed) => return format!("fixed({})", fixed.size),
        Schema::Decimal(decimal) => return format!("decimal({}, {})", decimal.precision, decimal.scale),
        Schema::BigDecimal => "big-decimal",
        Schema::Uuid(UuidSchema::String) => "uuid (string)",
        Schema::Uuid(_) => "uuid (fixed)",
        Schema::Date => "date",
        Schema::TimeMillis => "time-millis",
        Schema::TimeMicros => "time-micros",
        Schema::TimestampMillis => "timestamp-millis",
        Schema::TimestampMicros => "timestamp-micros",
        Schema::TimestampNanos => "timestamp-nanos",
        Schema::LocalTimestampMillis => "local-timestamp-millis",
        Schema::LocalTimestampMicros => "local-timestamp-micros",
        Schema::LocalTimestampNanos => "local-timestamp-nanos",
        Schema::Duration(_) => "duration",
        Schema::Ref { name } => return name.name().to_owned(),
    };
    name.to_owned()
}
