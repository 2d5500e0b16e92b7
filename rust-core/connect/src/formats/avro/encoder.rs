//! Rows to datums: each column to the field of its name.
//!
//! What fits is found out once. Every column needs a field, and every field a column or to be nullable; numbers may become
//! wider, and instants finer. What a value alone can break, a number beyond its type, is asked before it is written.

use std::ops::Range;

use apache_avro::schema::Schema as Avro;
use ringmill_wire::{BatchView, ColumnView, DataType, ListItem, Schema, TimeUnit};

use super::{AvroSchema, schema::name_of};
use crate::{
    ConnectError,
    formats::{
        FieldMisfit,
        binary::{write_varint, zigzag},
        numeric::Numeric,
    },
};

/// Writes datums, each behind the same bytes.
pub(in crate::formats) struct AvroEncoder {
    fields: Vec<FieldWriter>,
}

/// A field of the record.
#[derive(Debug)]
struct FieldWriter {
    /// `None`: the rows have none, and it is always null
    column: Option<usize>,
    /// the branches of null and of values, where there are any
    branches: Option<(i64, i64)>,
    form: Form,
}

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Boolean,
    /// an int or a long: the value so many times
    Integer(i64),
    Float,
    Double,
    /// a string or bytes
    Bytes,
    /// an array of numbers
    Items(ListItem, Item),
}

/// How the items of a list are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Integer(i64),
    Float,
    Double,
}

impl AvroEncoder {
    /// For rows of this schema; or what does not fit.
    pub fn new(schema: &AvroSchema, rows: &Schema) -> Result<AvroEncoder, Vec<FieldMisfit>> {
        let Avro::Record(record) = schema.parsed() else {
            let reason = format!("it is {}, and rows are records", name_of(schema.parsed()));
            return Err(vec![FieldMisfit::of_schema(reason)]);
        };
        let (mut fields, mut misfits) = (Vec::new(), Vec::new());
        for field in &record.fields {
            match FieldWriter::new(&field.schema, rows, rows.index_of(&field.name)) {
                Ok(writer) => fields.push(writer),
                Err(reason) => misfits.push(FieldMisfit::new(&field.name, reason)),
            }
        }
        for column in &rows.fields {
            if !record.fields.iter().any(|field| field.name == column.name) {
                let reason = "the schema has no such field".to_owned();
                misfits.push(FieldMisfit::new(&column.name, reason));
            }
        }
        if misfits.is_empty() { Ok(AvroEncoder { fields }) } else { Err(misfits) }
    }

    /// Appends a row.
    pub fn write(&self, view: &BatchView<'_>, row: usize, out: &mut Vec<u8>) {
        for field in &self.fields {
            let column = field.column.map(|column| view.column(column)).filter(|column| column.is_valid(row));
            if let Some((null, value)) = field.branches {
                write_long(if column.is_some() { value } else { null }, out);
            }
            if let Some(column) = column {
                field.form.write(&column, row, out);
            }
        }
    }

    /// Whether all values of these rows can be written.
    pub fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        for (field, index) in self.fields.iter().filter_map(|field| Some((field, field.column?))) {
            let column = view.column(index);
            let name = || view.schema().field(index).name.clone();
            for row in rows.clone().filter(|_| field.form.may_overflow(column.data_type())) {
                if !column.is_valid(row) {
                    continue;
                }
                if let Some(value) = field.form.overflow(&column, row) {
                    let reason = "it does not fit into 64 bits with a sign, as Avro writes it";
                    return Err(ConnectError::Value { column: name(), value, reason });
                }
            }
        }
        Ok(())
    }
}

impl FieldWriter {
    fn new(field: &Avro, rows: &Schema, column: Option<usize>) -> Result<FieldWriter, String> {
        let variants = match field {
            Avro::Union(union) => union.variants(),
            other => std::slice::from_ref(other),
        };
        let null = variants.iter().position(|variant| matches!(variant, Avro::Null));
        let is_union = matches!(field, Avro::Union(_));
        let Some(index) = column else {
            let null = null.ok_or("the rows have no such column, and it cannot be null")?;
            let branches = is_union.then_some((null as i64, null as i64));
            return Ok(FieldWriter { column: None, branches, form: Form::Boolean });
        };
        let own = rows.field(index);
        let find = |(branch, variant): (usize, &Avro)| Some((branch, Form::of(own.data_type, variant)?));
        let found = variants.iter().enumerate().find_map(find);
        let (value, form) = found.ok_or_else(|| format!("{} does not become {}", own.data_type, shown(variants)))?;
        if own.nullable && null.is_none() {
            return Err(format!("the column may be null, and {} cannot", shown(variants)));
        }
        let branches = is_union.then_some((null.unwrap_or(value) as i64, value as i64));
        Ok(FieldWriter { column, branches, form })
    }
}

fn shown(variants: &[Avro]) -> String {
    let names: Vec<String> = variants.iter().filter(|variant| !matches!(variant, Avro::Null)).map(name_of).collect();
    names.join(" or ")
}

impl Form {
    /// How values of a column become those of a schema, if they do.
    fn of(column: DataType, schema: &Avro) -> Option<Form> {
        use {Avro as A, DataType as T};
        let item = Item::of(column, schema);
        Some(match (column, schema) {
            (T::Bool, A::Boolean) => Form::Boolean,
            (T::Utf8, A::String) | (T::Utf8 | T::Binary, A::Bytes) => Form::Bytes,
            (T::List(own), A::Array(array)) => Form::Items(own, Item::of(own.data_type(), &array.items)?),
            _ => match item? {
                Item::Integer(factor) => Form::Integer(factor),
                Item::Float => Form::Float,
                Item::Double => Form::Double,
            },
        })
    }

    fn may_overflow(self, column: DataType) -> bool {
        let is_large = |data_type| matches!(data_type, DataType::UInt64);
        match self {
            Form::Integer(factor) => factor > 1 || is_large(column),
            Form::Items(own, Item::Integer(factor)) => factor > 1 || is_large(own.data_type()),
            _ => false,
        }
    }

    /// The value of this row that is too large, for people.
    fn overflow(self, column: &ColumnView<'_>, row: usize) -> Option<String> {
        let is_too_large = |number: Numeric, factor: i64| match number {
            Numeric::Signed(value) => value.checked_mul(factor).is_none(),
            Numeric::Unsigned(value) => i64::try_from(value).is_err(),
            Numeric::Single(_) | Numeric::Double(_) => false,
        };
        match self {
            Form::Integer(factor) => {
                Numeric::of(column, row).filter(|number| is_too_large(*number, factor)).map(|number| number.to_string())
            }
            Form::Items(own, Item::Integer(factor)) => {
                let mut items = Numeric::items(own, column.bytes(row));
                items.find(|number| is_too_large(*number, factor)).map(|number| number.to_string())
            }
            _ => None,
        }
    }

    fn write(self, column: &ColumnView<'_>, row: usize, out: &mut Vec<u8>) {
        let item = match self {
            Form::Boolean => return out.push(u8::from(column.values::<u8>()[row] != 0)),
            Form::Bytes => {
                let bytes = column.bytes(row);
                write_long(bytes.len() as i64, out);
                return out.extend_from_slice(bytes);
            }
            Form::Items(own, item) => {
                let bytes = column.bytes(row);
                let count = bytes.len() / own.data_type().width().unwrap_or(1);
                if count > 0 {
                    write_long(count as i64, out);
                    Numeric::items(own, bytes).for_each(|number| item.write(number, out));
                }
                return write_long(0, out);
            }
            Form::Integer(factor) => Item::Integer(factor),
            Form::Float => Item::Float,
            Form::Double => Item::Double,
        };
        if let Some(number) = Numeric::of(column, row) {
            item.write(number, out);
        }
    }
}

impl Item {
    fn of(column: DataType, schema: &Avro) -> Option<Item> {
        use {Avro as A, DataType as T};
        let instant = |unit: TimeUnit, own_ns: i64| {
            let factor = unit.nanoseconds() / own_ns;
            (factor >= 1).then_some(Item::Integer(factor))
        };
        match (column, schema) {
            (T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16, A::Int | A::Long) => Some(Item::Integer(1)),
            (T::Int64 | T::UInt32 | T::UInt64, A::Long) => Some(Item::Integer(1)),
            (T::Timestamp(unit), A::TimestampMillis | A::LocalTimestampMillis) => instant(unit, 1_000_000),
            (T::Timestamp(unit), A::TimestampMicros | A::LocalTimestampMicros) => instant(unit, 1_000),
            (T::Timestamp(unit), A::TimestampNanos | A::LocalTimestampNanos) => instant(unit, 1),
            (T::Float32, A::Float) => Some(Item::Float),
            (T::Float32 | T::Float64, A::Double) => Some(Item::Double),
            _ => None,
        }
    }

    /// A number that is not too large.
    #[inline]
    fn write(self, number: Numeric, out: &mut Vec<u8>) {
        match (self, number) {
            (Item::Integer(factor), Numeric::Signed(value)) => write_long(value.wrapping_mul(factor), out),
            (Item::Integer(_), Numeric::Unsigned(value)) => write_long(value as i64, out),
            (Item::Double, Numeric::Single(value)) => out.extend_from_slice(&f64::from(value).to_le_bytes()),
            (Item::Double, Numeric::Double(value)) => out.extend_from_slice(&value.to_le_bytes()),
            (Item::Float, Numeric::Single(value)) => out.extend_from_slice(&value.to_le_bytes()),
            // No form was made for these.
            (Item::Float | Item::Double, _) | (Item::Integer(_), _) => {}
        }
    }
}

/// `int` and `long`.
#[inline]
fn write_long(value: i64, out: &mut Vec<u8>) {
    write_varint(zigzag(value), out);
}
