//! A batch's columns by name and type, and the hash by which two processes know that they mean the same.

use serde::{Deserialize, Serialize};

use crate::data_type::DataType;
use crate::error::WireError;
use crate::fingerprint::fingerprint;

/// One column: its name, its type, and whether values may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Unique within the schema.
    pub name: String,
    /// The type of the column's values.
    #[serde(alias = "type")]
    pub data_type: DataType,
    /// Whether the column has a validity bitmap.
    #[serde(default)]
    pub nullable: bool,
}

impl Field {
    /// A column whose every value is there.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Field {
        Field { name: name.into(), data_type, nullable: false }
    }

    /// A column whose values may be missing.
    pub fn nullable(name: impl Into<String>, data_type: DataType) -> Field {
        Field { name: name.into(), data_type, nullable: true }
    }
}

/// The columns of a batch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawSchema")]
pub struct Schema {
    /// The columns; names are unique ([`Schema::new`] checks).
    pub fields: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSchema {
    fields: Vec<Field>,
}

impl TryFrom<RawSchema> for Schema {
    type Error = WireError;

    fn try_from(raw: RawSchema) -> Result<Schema, WireError> {
        Schema::new(raw.fields)
    }
}

impl Schema {
    /// A schema of these columns.
    ///
    /// # Errors
    /// [`WireError::DuplicateColumn`] when two columns have one name.
    pub fn new(fields: Vec<Field>) -> Result<Schema, WireError> {
        for (index, field) in fields.iter().enumerate() {
            if fields[..index].iter().any(|earlier| earlier.name == field.name) {
                return Err(WireError::DuplicateColumn { name: field.name.clone() });
            }
        }
        Ok(Schema { fields })
    }

    /// The position of the column of this name.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    /// The column at `index`; panics when there is none.
    #[must_use]
    pub fn field(&self, index: usize) -> &Field {
        &self.fields[index]
    }

    /// How many columns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no column.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// A hash that is the same in every process, build and language: FNV-1a (64 bits) of [`Schema::canonical_text`].
    #[must_use]
    pub fn hash(&self) -> u64 {
        fingerprint(self.canonical_text().as_bytes())
    }

    /// The text that is hashed: a line that names the form, then a line per column,
    /// `NAME_BYTES:NAME TYPE` and `?` if nullable. The length makes it unambiguous for any name.
    #[must_use]
    pub fn canonical_text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::from("ringmill.wire.schema/1\n");
        for Field { name, data_type, nullable } in &self.fields {
            let mark = if *nullable { "?" } else { "" };
            writeln!(text, "{}:{name} {data_type}{mark}", name.len()).expect("a string takes every write");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, Schema};
    use crate::data_type::{DataType, ListItem, TimeUnit};
    use crate::error::WireError;

    #[test]
    fn the_hash_of_a_schema_never_changes() {
        let schema = Schema::new(vec![
            Field::new("device_id", DataType::Utf8),
            Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond)),
            Field::nullable("samples", DataType::List(ListItem::Float64)),
        ])
        .unwrap();
        assert_eq!(
            schema.canonical_text(),
            "ringmill.wire.schema/1\n9:device_id utf8\n9:timestamp timestamp[ms]\n7:samples list[float64]?\n"
        );
        assert_eq!(schema.hash(), 0x49f6_211f_0678_f6c5);
    }

    #[test]
    fn schemas_that_differ_in_anything_have_different_hashes() {
        let hash = |fields: Vec<Field>| Schema::new(fields).unwrap().hash();
        let hashes = [
            hash(vec![]),
            hash(vec![Field::new("a", DataType::Int8)]),
            hash(vec![Field::nullable("a", DataType::Int8)]),
            hash(vec![Field::new("b", DataType::Int8)]),
            hash(vec![Field::new("a", DataType::UInt8)]),
            hash(vec![Field::new("a", DataType::Int8), Field::new("b", DataType::Int8)]),
            hash(vec![Field::new("b", DataType::Int8), Field::new("a", DataType::Int8)]),
            hash(vec![Field::new("a int8\n1:b", DataType::Int8)]),
        ];
        for (index, one) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(one));
        }
    }

    #[test]
    fn two_columns_of_one_name_are_refused() {
        let fields = vec![Field::new("a", DataType::Int8), Field::new("a", DataType::Utf8)];
        assert_eq!(Schema::new(fields), Err(WireError::DuplicateColumn { name: "a".into() }));
    }
}
